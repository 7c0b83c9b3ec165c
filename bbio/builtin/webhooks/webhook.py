"""Webhook: posts each event to another server, signed as Standard Webhooks says."""

from __future__ import annotations

import inspect
import ssl
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from typing import Any

from yarl import URL

from bbio import ConfigurationError, Unavailable
from bbio.builtin.webhooks.hosts import AddressRefused, Hosts, read_url
from bbio.builtin.webhooks.posting import Answer, Poster
from bbio.builtin.webhooks.signing import make_secret, read_secrets, sign
from bbio.consumers import GiveUp
from bbio.events import Event
from bbio.protocol import encode

# Seconds that a receiver may ask to be left alone for.
MAX_RETRY_AFTER_SECONDS = 3_600.0
# Statuses below 500 that may be another one a moment later: a timeout, too early, too many.
RETRIED_STATUSES = (408, 425, 429)
GONE = 410

Secrets = str | Iterable[str]
UrlOf = Callable[[Event[Any]], str | URL | Awaitable[str | URL | None] | None]
SecretOf = Callable[[Event[Any]], Secrets | Awaitable[Secrets]]


class WebhookRefused(GiveUp):
    """Raised by a `Webhook` where another attempt would be of no use: its event becomes a dead letter.

    Parameters:
        reason: the reason, without secrets.
        status: the HTTP status with which the receiver has answered; None where it was not asked.

    Example:
        >>> WebhookRefused("https://crm.example.com answered with status 410", 410).status
        410
    """

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class Webhook:
    """A consumer's function that posts each event to another server, signed as Standard Webhooks says.

    It returns once the receiver has answered with a status of 2xx. See docs/webhooks.md for what is sent, and for how
    a receiver verifies it.

    Parameters:
        url: the https address of the receiver; or a function of the event, async or not, that returns it, or None to
            send nothing. Each address is checked when it is used.
        secret: the secret that messages are signed with, as `Webhook.make_secret()` makes it; several, so that one can
            be replaced; or a function of the event, async or not, that returns them.
        hosts: the hosts that may be posted to: `"crm.example.com"`, `"*.example.com"` for all below it, `"*"` for any
            host of the public internet; with a port, `"crm.example.com:8443"`, if it is not that of https. By default
            the host of `url`.
        internal_hosts: hosts in your own network that may be posted to, also over http: `"crm.internal:8080"`.
        data: a function of the event, async or not, that returns what the receiver gets as `data`, or None to send
            nothing. By default the channel, the model and its revision.
        timeout: seconds that the receiver may take to answer.
        ssl_context: the certificates that are trusted; those of the system by default.

    Raises:
        ConfigurationError: an argument is not valid, or the host of `url` is not allowed.

    Example:
        >>> Webhook("https://crm.example.com/hook?key=7", secret=Webhook.make_secret())
        <Webhook https://crm.example.com>
    """

    def __init__(
        self,
        url: str | URL | UrlOf,
        *,
        secret: Secrets | SecretOf,
        hosts: Iterable[str] | None = None,
        internal_hosts: Iterable[str] = (),
        data: Callable[[Event[Any]], Any] | None = None,
        timeout: float = 15.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if not 0 < timeout < float("inf"):
            raise ConfigurationError(f"Webhook(timeout={timeout!r}): give seconds, more than 0")
        if callable(url):
            if hosts is None:
                raise ConfigurationError(
                    "Webhook(hosts=...): list the hosts that the function may name, or ['*'] for any of the internet"
                )
            self._url: URL | UrlOf = url
            self._hosts = Hosts(hosts, internal_hosts)
        else:
            self._url = constant = _constant(url)
            self._hosts = Hosts([f"{constant.host_port_subcomponent}"] if hosts is None else hosts, internal_hosts)
            problem = self._hosts.problem_of(constant)
            if problem is not None:
                raise ConfigurationError(f"Webhook({str(constant.origin())!r}): {problem}")
        self._secret = secret if callable(secret) else read_secrets(secret)
        self._data = _whole if data is None else data
        self._poster = Poster(timeout, ssl_context)
        self._clock = time.time

    make_secret = staticmethod(make_secret)

    def __repr__(self) -> str:
        return f"<Webhook {self._url.origin() if isinstance(self._url, URL) else 'of a function'}>"

    async def __call__(self, event: Event[Any]) -> None:
        """Post an event.

        Parameters:
            event: the event, from `Runtime.events` or of a consumer.

        Raises:
            Unavailable: the receiver cannot be reached, or asks to be tried again, after `retry_after` seconds if it
                says so.
            WebhookRefused: the receiver has refused it, or its address is not allowed: another attempt is of no use.
        """
        given = await _value(self._url, event)
        data = None if given is None else await _value(self._data, event)
        if data is None:
            return
        url = self._allowed(given)
        secrets = self._secret
        keys = secrets if isinstance(secrets, list) else read_secrets(await _value(secrets, event))
        body = encode({"type": f"{event.backend}.{event.method}", "data": data})
        message_id, now = id_of(event), int(self._clock())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "bbio",
            "Accept-Encoding": "identity",
            "webhook-id": message_id,
            "webhook-timestamp": str(now),
            "webhook-signature": sign(keys, message_id, now, body),
        }
        try:
            answer = await self._poster.post(url, self._hosts.is_internal(url), headers, body)
        except AddressRefused:
            raise WebhookRefused(f"{url.origin()} is at an address that nothing may be posted to") from None
        self._judge(url, answer)

    def _allowed(self, given: Any) -> URL:
        if isinstance(self._url, URL):
            return self._url  # it was looked at when it was given
        try:
            url = read_url(given)
        except ValueError as err:
            raise WebhookRefused(f"the address of the webhook: {err}") from None
        problem = self._hosts.problem_of(url)
        if problem is not None:
            raise WebhookRefused(f"{url.origin()}: {problem}")
        return url

    def _judge(self, url: URL, answer: Answer) -> None:
        """Raise what an answer means, other than that all is well."""
        status = answer.status
        if 200 <= status < 300:
            return
        text = f"{url.origin()} answered with status {status}"
        if status >= 500 or status in RETRIED_STATUSES:
            raise Unavailable(text, retry_after=seconds_of(answer.retry_after, self._clock()))
        if status == GONE:
            text += ": it wants no more events; remove the webhook"
        elif 300 <= status < 400:
            text += ": redirects are not followed; give the address that it leads to"
        raise WebhookRefused(text, status)

    async def aclose(self) -> None:
        """Close the connections that wait for the next event. It may be called again, and the webhook used again."""
        await self._poster.close()


def _constant(url: Any) -> URL:
    try:
        return read_url(url)
    except ValueError as err:
        raise ConfigurationError(f"Webhook(url): {err}") from None


async def _value(given: Any, event: Event[Any]) -> Any:
    """Return an argument as it is for an event: it may be a function, async or not."""
    value = given(event) if callable(given) else given
    return await value if inspect.isawaitable(value) else value


def _whole(event: Event[Any]) -> dict[str, Any]:
    return {"channel": event.channel, "model": event.model, "rev": event.rev}


def id_of(event: Event[Any]) -> str:
    """Return the id of an event: the same however often it is read from the log, and another one for any other event.

    Raises:
        ConfigurationError: it is none of a log.
    """
    if event.id is not None:
        place: list[Any] = [event.backend, event.id]
    elif event.method == "reset":
        place = [event.backend, "reset", event.position]
    else:
        raise ConfigurationError("Webhook: give it events of runtime.events(), or of a consumer; others have no id")
    digest = blake2b(encode(place), digest_size=18, person=b"bbio webhook").digest()
    return f"evt_{urlsafe_b64encode(digest).decode()}"


def seconds_of(retry_after: str | None, now: float) -> float | None:
    """Return the seconds in a header `Retry-After`, at most an hour; None where it says none.

    Parameters:
        retry_after: the header, seconds or a date.
        now: the time, in seconds since 1970.

    Example:
        >>> seconds_of("120", 0.0), seconds_of("Thu, 01 Jan 1970 00:00:10 GMT", 4.0), seconds_of("soon", 0.0)
        (120.0, 6.0, None)
    """
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        seconds = float(retry_after)
    else:
        try:
            at = parsedate_to_datetime(retry_after)
        except (ValueError, OverflowError):
            return None
        seconds = at.replace(tzinfo=at.tzinfo or UTC).timestamp() - now
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
