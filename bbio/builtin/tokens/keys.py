"""The keys with which signed tokens are checked: those that the application names, or those of a JWKS address."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import attrs
import msgspec

from bbio import ConfigurationError, Unavailable
from bbio.handshake import names_loopback
from bbio.ratelimit import RateLimitedLog

logger = logging.getLogger("bbio")

# Bytes of a key set, and keys in it: issuers have a handful.
MAX_JWKS_BYTES = 262_144
MAX_JWKS_KEYS = 100
# Keys that are tried for a token that names none.
MAX_TRIED_KEYS = 8
# Seconds that a fetch may take, after which a set is fetched again, and the least between two fetches.
FETCH_SECONDS = 5.0
REFRESH_SECONDS = 3_600.0
LEAST_REFRESH_SECONDS = 10.0
UNCHECKED = "tokens cannot be checked at the moment"


@attrs.frozen
class Key:
    """A key to check signatures with.

    Parameters:
        key: the key, as PyJWT takes it.
        kid: its name; None without one.
        algorithm: the only algorithm that it is for; None for each that fits.
    """

    key: Any = attrs.field(repr=False)
    kid: str | None = None
    algorithm: str | None = None


class Keys(Protocol):
    """The keys that there are."""

    async def find(self, kid: str | None, algorithm: str) -> list[Key]:
        """Return the keys that a token may be signed with.

        Parameters:
            kid: the name of the key, as the token says; None if it says none.
            algorithm: the algorithm, which is one of those allowed.

        Raises:
            Unavailable: that is not known at the moment.
        """

    async def renew(self) -> bool:
        """Ask for the keys anew, unless that was just before; return whether it was done."""


def fitting(keys: Iterable[Key], kid: str | None, algorithm: str) -> list[Key]:
    """Return the keys that a token may be signed with; a token that names one is checked with no other."""
    found = [
        key for key in keys if key.algorithm in (None, algorithm) and (kid is None or key.kid is None or key.kid == kid)
    ]
    return found[:MAX_TRIED_KEYS]


class NamedKeys:
    """The keys that the application names.

    Parameters:
        keys: the keys.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = list(keys)

    async def find(self, kid: str | None, algorithm: str) -> list[Key]:
        """Return the keys that a token may be signed with."""
        return fitting(self._keys, kid, algorithm)

    async def renew(self) -> bool:
        """Return False: there are no others."""
        return False


class FetchedKeys:
    """The keys of a JWKS address, fetched when they are needed, and kept while its server is down.

    Parameters:
        url: the address.
        read: makes a key of an entry of the set; None for an entry that is no key for signatures.
        clock: seconds, never going back.

    Raises:
        ConfigurationError: it is not an `https` address; over `http` only this machine is asked.
    """

    def __init__(
        self,
        url: str,
        read: Callable[[Mapping[str, Any]], Key | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and names_loopback(parts.netloc)):
            raise ConfigurationError(
                f"Token(jwks={url!r}): whoever can change the keys on their way can log in as anybody; "
                "give an https address"
            )
        self._url = url
        self._read = read
        self._clock = clock
        self._keys: list[Key] = []
        # When keys were last had, and when they were last asked for, whether they were had or not.
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._has_failed = False
        # The name for which the set was fetched, and which it does not have: others may have come after it.
        self._unknown: str | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._log = RateLimitedLog(logger)

    async def find(self, kid: str | None, algorithm: str) -> list[Key]:
        """Return the keys that a token may be signed with; those of an unknown name may be new, and are asked for.

        Raises:
            Unavailable: the keys could not be fetched; or a name may be new, and they were asked for just before.
        """
        found = fitting(self._keys, kid, algorithm)
        if found and self._fetched_at is not None:
            if self._clock() - self._fetched_at > REFRESH_SECONDS:
                self._fetch()  # meanwhile what is known serves
            return found
        # A fetch that is under way may have been answered before a key was there.
        is_late = self._fetching is None
        fetching = self._fetch()
        if fetching is not None:
            await asyncio.shield(fetching)
            found = fitting(self._keys, kid, algorithm)
        if found:
            return found
        if self._has_failed or self._fetched_at is None:
            raise Unavailable(UNCHECKED, retry_after=LEAST_REFRESH_SECONDS)
        if kid is not None and kid != self._unknown:
            if fetching is None or not is_late:
                # Anybody can have the keys asked for by a name that there is not: that shuts nobody out.
                raise Unavailable(UNCHECKED, retry_after=self._wait_seconds())
            self._unknown = kid
        return []

    def _wait_seconds(self) -> float:
        """Return the seconds until the keys may be asked for again."""
        asked_at = self._clock() if self._asked_at is None else self._asked_at
        return round(max(0.0, asked_at + LEAST_REFRESH_SECONDS - self._clock()), 3)

    async def renew(self) -> bool:
        """Fetch the keys anew, unless that was just before; return whether it was done."""
        fetching = self._fetch()
        if fetching is None:
            return False
        await asyncio.shield(fetching)
        return not self._has_failed

    def _fetch(self) -> asyncio.Task[None] | None:
        """Return the fetch that is under way, or begin one; None when the last was just before."""
        if self._fetching is None:
            now = self._clock()
            if self._asked_at is not None and now - self._asked_at < LEAST_REFRESH_SECONDS:
                return None
            self._asked_at = now
            self._fetching = asyncio.get_running_loop().create_task(self._fetch_now())
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch_now(self) -> None:
        try:
            self._keys = self._read_set(await self._get())
            self._fetched_at, self._has_failed = self._clock(), False
            self._unknown = None
        except Exception as err:
            self._has_failed = True
            self._log.error(err, "the keys of tokens could not be fetched; those of before serve on")

    async def _get(self) -> bytes:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        # A redirect could lead anywhere, also where anybody can read what is asked.
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self._url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"the answer has status {response.status}")
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > MAX_JWKS_BYTES:
                    raise ValueError(f"the answer has more than {MAX_JWKS_BYTES} bytes")
            return bytes(body)

    def _read_set(self, body: bytes) -> list[Key]:
        found = msgspec.json.decode(body)
        entries = found.get("keys") if isinstance(found, dict) else None
        if not isinstance(entries, list) or len(entries) > MAX_JWKS_KEYS:
            raise ValueError(f"the answer is no JSON Web Key Set of at most {MAX_JWKS_KEYS} keys")
        keys = [key for entry in entries if isinstance(entry, dict) and (key := self._read(entry)) is not None]
        if not keys:
            raise ValueError("the answer has no key for the algorithms that are allowed")
        return keys

    async def close(self) -> None:
        """Fetch no more."""
        if self._fetching is not None:
            self._asked_at = None  # who starts again may ask again
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
