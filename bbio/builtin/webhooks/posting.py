"""Posts webhooks: to addresses that were looked at, without redirects, proxies, cookies and long answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping

import aiohttp
import attrs
from yarl import URL

from bbio import Unavailable
from bbio.builtin.webhooks.hosts import AddressRefused, is_own, is_public, open_only

# Connections that are open at once, and seconds that one waits for the next event: fewer than servers usually wait.
CONNECTIONS = 16
KEEPALIVE_SECONDS = 4.0
# Bytes and seconds of an answer's body, which nobody reads; after that its connection is closed.
MAX_ANSWER_BYTES = 65_536
ANSWER_SECONDS = 1.0


@attrs.frozen
class Answer:
    """The answer of a receiver.

    Parameters:
        status: the HTTP status.
        retry_after: the header `Retry-After`; None without one.
    """

    status: int
    retry_after: str | None


class Poster:
    """Posts to receivers, and keeps connections to them for a few seconds.

    Parameters:
        timeout: seconds that one post may take, from the look-up of the name to the head of the answer.
        ssl_context: the certificates that are trusted; those of the system when None.
    """

    def __init__(self, timeout: float, ssl_context: ssl.SSLContext | None) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._ssl = True if ssl_context is None else ssl_context
        self._loop: asyncio.AbstractEventLoop | None = None
        # Connections to hosts of one's own network are apart: a host of the internet never gets one of them.
        self._connectors: dict[bool, aiohttp.TCPConnector] = {}

    async def post(self, url: URL, is_internal: bool, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post to a receiver and return its answer, whatever that is.

        Parameters:
            url: the address.
            is_internal: whether it is to be in a network of one's own, or else in the public internet.
            headers: the headers.
            body: the body.

        Raises:
            AddressRefused: the host leads to none but addresses that are not allowed.
            Unavailable: there is no answer. The text quotes nothing of the address but its host.
        """
        # A session of its own, so that no cookie is sent back.
        session = aiohttp.ClientSession(
            connector=self._connector(is_internal),
            connector_owner=False,
            timeout=self._timeout,
            # A short body can be packed so that it fills the memory.
            auto_decompress=False,
            trust_env=False,
        )
        try:
            # A redirect could lead anywhere.
            async with session, session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                await _discard(response)
                return Answer(response.status, response.headers.get("Retry-After"))
        except aiohttp.InvalidURL:  # an IPv4 address in one of its old spellings, such as 127.1
            raise AddressRefused("its address is not valid") from None
        except aiohttp.ClientConnectorError as err:
            if isinstance(err.os_error, AddressRefused):
                raise err.os_error from None
            raise Unavailable(f"{url.origin()} cannot be reached ({type(err.os_error).__name__})") from None
        except TimeoutError:
            raise Unavailable(f"{url.origin()} did not answer within {self._timeout.total:g} s") from None
        except (aiohttp.ClientError, OSError) as err:
            # Their texts may quote the address, which may hold a secret.
            raise Unavailable(f"{url.origin()} gave no answer ({type(err).__name__})") from None

    def _connector(self, is_internal: bool) -> aiohttp.TCPConnector:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._connectors = loop, {}
        connector = self._connectors.get(is_internal)
        if connector is None:
            connector = self._connectors[is_internal] = aiohttp.TCPConnector(
                limit=CONNECTIONS,
                keepalive_timeout=KEEPALIVE_SECONDS,
                resolver=aiohttp.ThreadedResolver(),
                use_dns_cache=False,
                ssl=self._ssl,
                socket_factory=open_only(is_own if is_internal else is_public),
            )
        return connector

    async def close(self) -> None:
        """Close all connections."""
        connectors, self._connectors = self._connectors, {}
        for connector in connectors.values():
            await connector.close()


async def _discard(response: aiohttp.ClientResponse) -> None:
    """Read a short answer, so that its connection serves again. That of one that was not read to its end is closed."""
    size = 0
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            async for part in response.content.iter_any():
                size += len(part)
                if size > MAX_ANSWER_BYTES:
                    return
    except (aiohttp.ClientError, OSError):  # a TimeoutError is one too
        return
