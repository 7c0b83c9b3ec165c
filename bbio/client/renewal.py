"""One backend's part in the renewal of a connection's token: what waits for a new one, and goes on with it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from bbio.client.errors import error_of, is_end
from bbio.client.subscription import Subscription
from bbio.client.transport import Clock, Transport
from bbio.errors import SyncError, Timeout, Unauthorized

# Seconds in which the server answers an `auth`.
AUTH_ANSWER_SECONDS = 10.0

# The user that the server takes a client for that has not logged in.
NOBODY = "nobody"


@attrs.frozen
class Answer:
    """The answer to a token that was offered.

    Parameters:
        error: why the server does not take it; None if it does.
        seconds: the seconds until the identity ends, infinite for never.
        is_nobodys: whether the error may be that the backend knows no tokens.
    """

    error: SyncError | None = None
    seconds: float = math.inf
    is_nobodys: bool = False


class Renewing(Protocol):
    """The identity of a connection, as one backend sees it."""

    @property
    def is_renewable(self) -> bool:
        """Return whether a token that has ended can be replaced."""

    def told(self, renewal: Renewal, seconds: float) -> None:
        """Note when the identity of a namespace ends."""

    def ended(self, renewal: Renewal) -> None:
        """Get a new token: the identity of a namespace has ended."""


class NeverRenewed:
    """The identity of a connection without tokens."""

    is_renewable = False

    def told(self, renewal: Renewal, seconds: float) -> None:
        """Do nothing."""

    def ended(self, renewal: Renewal) -> None:
        """Do nothing."""


class Errands(Protocol):
    """The part of a session that the renewal calls."""

    clock: Clock

    def following(self) -> list[Subscription]:
        """Return the subscriptions that follow their channel."""

    def listen_again(self, subscription: Subscription) -> None:
        """Listen again."""

    def deny(self, subscription: Subscription, error: SyncError) -> None:
        """Note that the server does not let this client listen."""

    def go_on(self) -> None:
        """Send what waits."""


class Renewal:
    """The requests and subscriptions of one backend that wait for a new token.

    Parameters:
        identity: of the connection.
        session: does what is to be done.

    Attributes:
        token: the token that the present connection goes by.
        is_held: whether nothing is sent before there is a new one.
    """

    def __init__(self, identity: Renewing, session: Errands) -> None:
        self.token: str | None = None
        self.is_held = False
        self._identity = identity
        self._session = session
        self._transport: Transport | None = None
        # Those that may not listen, with this token.
        self._denied: set[Subscription] = set()
        self._waits: set[Callable[[Answer | None], None]] = set()

    @property
    def is_online(self) -> bool:
        """Return whether there is a connection."""
        return self._transport is not None

    def connected(self, transport: Transport, token: str | None) -> None:
        """Begin on a new connection that was joined with a token."""
        self._transport, self.token = transport, token

    def cut(self) -> None:
        """Note that the connection is gone: the next one begins with a token that holds."""
        self._transport = None
        self.is_held = False
        self._denied.clear()
        for settle in list(self._waits):
            settle(None)

    def told(self, news: Any) -> bool:
        """Take what the server says of the end of this client's identity; return whether it has ended."""
        seconds = news.get("expires_in") if isinstance(news, Mapping) else None
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
            return False
        self._identity.told(self, seconds)
        if seconds == 0:
            self._end()
        return seconds == 0

    def awaits(self, error: SyncError, token: str | None) -> bool:
        """Return whether a refusal is none yet: the identity has ended, and a new token will come.

        Parameters:
            error: the refusal.
            token: the token that was refused; it may have been replaced while the refusal was on its way.
        """
        return is_end(error) and (token != self.token or self._end())

    def _end(self) -> bool:
        was_held, self.is_held = self.is_held, True
        if not was_held:
            self._identity.ended(self)
        self.is_held = self._identity.is_renewable
        return self.is_held

    def deny(self, subscription: Subscription) -> None:
        """Have a subscription listen as soon as there is a new token."""
        self._denied.add(subscription)
        if not self.is_held:
            self._resume()

    def refused(self, subscription: Subscription) -> None:
        """Note a subscription that may not listen with this token; it may with another one."""
        self._denied.add(subscription)

    def offer(self, token: str) -> asyncio.Future[Answer | None]:
        """Tell the server of a token; return its answer, None if the connection went first."""
        assert self._transport is not None, "it is offered where there is a connection"
        users = [each.known_as for each in self._session.following()]
        is_known = self.is_held or bool(self._denied) or any(user not in (None, NOBODY) for user in users)
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()

        def settle(outcome: Answer | None) -> None:
            self._waits.discard(settle)
            timer.cancel()
            if not answer.done():
                answer.set_result(outcome)

        def take(reply: Any = None, *_: Any) -> None:
            if settle not in self._waits:
                return
            fields = reply if isinstance(reply, Mapping) else {}
            if fields.get("error"):
                error = error_of(fields["error"])
                is_nobodys = isinstance(error, Unauthorized) and not is_end(error) and not is_known
                settle(Answer(error, is_nobodys=is_nobodys))
                return
            self.token = token
            seconds = fields.get("expires_in")
            settle(Answer(seconds=seconds if isinstance(seconds, (int, float)) else math.inf))
            self._resume()

        late = Answer(Timeout("the server did not answer in time to a new token"))
        timer = self._session.clock.call_later(AUTH_ANSWER_SECONDS, settle, late)
        self._waits.add(settle)
        self._transport.emit("auth", ({"token": token},), take)
        return answer

    def _resume(self) -> None:
        """Go on with what has waited for a new token."""
        self.is_held = False
        denied = set(self._denied)
        self._denied.clear()
        for subscription in self._session.following():
            # The server has not said yet which user somebody is that was nobody.
            if subscription in denied or subscription.known_as == NOBODY:
                self._session.listen_again(subscription)
        self._session.go_on()

    def give_up(self, error: SyncError) -> None:
        """Refuse what waits: there will be no token, as far as one can see."""
        was_held, self.is_held = self.is_held, False
        if self.is_online and not was_held:
            return
        for subscription in self._session.following():
            if subscription in self._denied:
                self._session.deny(subscription, error)
            else:
                subscription.refused(error)
        self._session.go_on()
