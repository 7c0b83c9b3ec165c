"""Identification of clients by a cookie: what all kinds of sessions share.

A cookie is looked up once and then remembered for some seconds, so that requests cost no query each. What has ended is
forgotten at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Collection, Coroutine, Mapping
from typing import Any, TypeVar

import attrs

from bbio import ConfigurationError, Middleware, Request, SyncError, Unauthorized, Unavailable, before
from bbio.builtin.sessions.cookies import HasHeaders, SessionCookie
from bbio.builtin.sessions.found import FoundSession
from bbio.builtin.sessions.live import LiveSessions
from bbio.ratelimit import RateLimitedLog

logger = logging.getLogger("bbio")

T = TypeVar("T")

# Seconds for which a session that was found is believed to exist, should nobody say that it has ended.
CACHE_SECONDS = 5.0
# Seconds that a store may take to answer.
STORE_SECONDS = 5.0
# Cookies that are remembered: of sessions, and such as name none.
MAX_CACHED = 50_000
MAX_CACHED_UNKNOWN = 10_000
# Characters of all sessions that are remembered.
MAX_CACHED_SIZE = 64 << 20
# Characters of a cookie that is looked at: browsers keep none that is longer.
MAX_COOKIE = 4_096
# Seconds after which a request may be tried again.
SESSION_RETRY_SECONDS = 1.0
NO_SESSIONS = "sessions cannot be read at the moment"


@attrs.define(eq=False)
class Lookup:
    """A cookie that is being looked up, for all requests that show it.

    Parameters:
        id: the id of the session that it may name, as far as that is known before it is found.
        is_doubtful: whether a session has ended meanwhile that may be this one.
    """

    id: str | None
    is_doubtful: bool = False
    task: asyncio.Task[FoundSession | None] = attrs.field(init=False)


class CookieSessions(Middleware):
    """Base class of middleware that identifies clients by a cookie; see `Sessions` and the readers of other frameworks.

    Parameters:
        cookie: the cookie.
        cache_seconds: seconds for which a session that was found is believed to exist.
        timeout: seconds that a look-up may take.
    """

    def __init__(self, cookie: SessionCookie, *, cache_seconds: float, timeout: float) -> None:
        self._cookie = cookie
        self._cache_seconds = cache_seconds
        self._timeout = timeout
        self._log = RateLimitedLog(logger)
        self._live = LiveSessions(self._compare)
        self._found: dict[str, FoundSession] = {}
        self._size = 0
        # The cookie of each of them, by the id of its session.
        self._values: dict[str, str] = {}
        # Cookies that name no session, and until when that is believed.
        self._unknown: dict[str, float] = {}
        self._lookups: dict[str, Lookup] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._starts = 0

    # What kinds of sessions differ in

    @abstractmethod
    async def _find(self, value: str) -> FoundSession | None:
        """Return the session that a cookie names; None if there is none."""

    def _id_of(self, value: str) -> str | None:
        """Return the id of the session that a cookie may name, if it can be known without looking it up."""
        return None

    def _may_be(self, value: str) -> bool:
        """Return whether a cookie has the form of one: what has not is not looked up."""
        return True

    @abstractmethod
    async def _still_living(self, ids: Collection[str]) -> Mapping[str, float | None]:
        """Return when sessions with a connection in this process expire, of those that exist; None for never."""

    def _touch(self, found: FoundSession) -> None:
        """Keep a session from expiring: it is used."""

    async def _open(self) -> None:
        """Prepare for the first look-up."""

    async def _close(self) -> None:
        """Let go of what `_open` has opened."""

    # The application

    async def start(self, backend: Any) -> None:
        """Prepare for the first request; the first backend opens what sessions are read from."""
        await self._begin()
        self._live.add(backend)

    async def stop(self) -> None:
        """Let go of what `start` has opened, with the last backend."""
        await self._end()

    async def _begin(self) -> None:
        if self._starts == 0:
            self._forget_all()
            await self._open()
            self._live.open()
        self._starts += 1

    async def _end(self) -> None:
        self._starts -= 1
        if self._starts == 0:
            await self._live.close()
            for task in (*self._tasks, *(each.task for each in self._lookups.values())):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._lookups.clear()
            await self._close()

    # Requests

    @before(bulk=True)
    def identify(self, req: Request) -> Any:
        """Set `req.session` and `req.user`."""
        socket = req.socket
        if socket is None:  # a call of the server, for a user or for itself
            req.session = {} if req.user is None else {"user": req.user}
            return None
        value = self._cookie.find(socket.cookies, socket.headers)
        if value is None or len(value) > MAX_COOKIE or not self._may_be(value):
            req.session = {}
            return None
        found, now = self._found.get(value), time.monotonic()
        if found is not None and found.fresh_until > now:
            return self._introduce(req, found)
        if self._unknown.get(value, 0.0) > now:
            return self._introduce(req, None)
        return self._identify_later(req, value)

    async def _identify_later(self, req: Request, value: str) -> None:
        found = await self._look_up(value)
        if found is not None and found.touch_at is not None and found.touch_at <= time.time():
            self._touch(found)
        self._introduce(req, found)

    def _introduce(self, req: Request, found: FoundSession | None) -> None:
        if found is None:
            req.session = {}
            identity = None if req.socket is None else req.socket.identity
            if identity is not None and identity.session is not None:
                raise Unauthorized("the session has ended: log in again", expired=True)
            return
        req.session = found.own_session()
        found.introduce(req, req.session)

    async def load(self, request: HasHeaders) -> dict[str, Any]:
        """Return the session of an HTTP request; `{}` when it has no valid one.

        Parameters:
            request: the request, of aiohttp or another framework.

        Raises:
            Unavailable: it is not known at the moment.
        """
        found = await self._found_in(request)
        return {} if found is None else found.session

    async def _found_in(self, request: HasHeaders) -> FoundSession | None:
        value = self._cookie.find_in(request)
        if value is None or len(value) > MAX_COOKIE or not self._may_be(value):
            return None
        return await self._ask(self._find(value))

    # Looking up

    async def _look_up(self, value: str) -> FoundSession | None:
        """Return the session that a cookie names, looked up now; requests that ask meanwhile share the look-up."""
        lookup = self._lookups.get(value)
        if lookup is None:
            lookup = self._lookups[value] = Lookup(self._id_of(value))
            lookup.task = asyncio.get_running_loop().create_task(self._finish(value, lookup))
        return await asyncio.shield(lookup.task)

    async def _finish(self, value: str, lookup: Lookup) -> FoundSession | None:
        try:
            found = await self._ask(self._find_surely(value, lookup))
            return self._remember(value, found)
        finally:
            self._lookups.pop(value, None)

    async def _find_surely(self, value: str, lookup: Lookup) -> FoundSession | None:
        """Find a session, again if one has ended meanwhile that may be this one: it may have been found just before."""
        while True:
            lookup.is_doubtful = False
            found = await self._find(value)
            if not lookup.is_doubtful:
                return found

    async def _ask(self, asking: Coroutine[Any, Any, T]) -> T:
        """Return what a store answers.

        Raises:
            Unavailable: it cannot be asked.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await asking
        except (SyncError, ConfigurationError):
            raise
        except Exception as err:
            self._log.error(err, "%s: the store of the sessions failed", type(self).__name__)
            raise Unavailable(NO_SESSIONS, retry_after=SESSION_RETRY_SECONDS) from None

    def _remember(self, value: str, found: FoundSession | None) -> FoundSession | None:
        earlier = self._forget(value)
        now = time.monotonic()
        left = None if found is None or found.expires is None else found.expires - time.time()
        if found is not None and found.touch_at is not None and left is not None and found.expires is not None:
            # A session in use is to be looked at when it is to be kept from expiring.
            left = min(left, max(found.touch_at - time.time(), 0.0) or left)
        if found is not None and (left is None or left > 0):
            found.fresh_until = now + (self._cache_seconds if left is None else min(self._cache_seconds, left))
            self._unknown.pop(value, None)
            self._found[value] = found
            self._size += found.size
            if found.id is not None:
                self._values[found.id] = value
            while self._size > MAX_CACHED_SIZE or len(self._found) > MAX_CACHED:
                self._forget(next(iter(self._found)))
            self._live.expect(found.expires)
            return found
        self._remember_unknown(value)
        if earlier is not None and earlier.id is not None:
            self._live.end([earlier.id])
        return None

    def _remember_unknown(self, value: str) -> None:
        self._unknown.pop(value, None)
        self._unknown[value] = time.monotonic() + self._cache_seconds
        if len(self._unknown) > MAX_CACHED_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]

    def _forget_ended(self, ids: Collection[str]) -> None:
        for each in ids:
            value = self._values.get(each)
            if value is not None:
                self._forget(value)
                # It has ended whether or not its store can be asked now.
                self._remember_unknown(value)

    def _forget(self, value: str) -> FoundSession | None:
        found = self._found.pop(value, None)
        if found is not None:
            self._size -= found.size
            self._values.pop(found.id or "", None)
        return found

    def _forget_all(self) -> None:
        self._found.clear()
        self._values.clear()
        self._unknown.clear()
        self._size = 0

    def _on_ended(self, ids: Collection[str] | None) -> None:
        """Forget sessions that have ended, and end what their connections may do; None: look at all of them again."""
        if ids is None:
            for found in self._found.values():
                found.fresh_until = 0.0
            self._live.compare_soon()
        for lookup in self._lookups.values():
            if ids is None or lookup.id in ids:
                lookup.is_doubtful = True
        if ids:
            self._forget_ended(ids)
            self._live.end(ids)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self, ids: Collection[str]) -> Mapping[str, float | None]:
        living = await self._ask(self._still_living(ids))
        self._forget_ended([each for each in ids if each not in living])
        return living
