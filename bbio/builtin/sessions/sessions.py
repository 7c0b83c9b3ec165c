"""Sessions: who a client is, kept on the server; the cookie only names the session."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Self

import attrs
import msgspec

from bbio import ConfigurationError
from bbio.builtin.sessions.cookies import AnyRequest, HasHeaders, SessionCookie
from bbio.builtin.sessions.found import FoundSession
from bbio.builtin.sessions.identified import CACHE_SECONDS, STORE_SECONDS, CookieSessions
from bbio.identity import principal
from bbio.sessions import SessionStore, StoredSession

if TYPE_CHECKING:
    from aiohttp import web

IDLE_SECONDS = 14 * 86_400.0
LIFETIME_SECONDS = 90 * 86_400.0
# Seconds between two times that a session in use is written.
TOUCH_SECONDS = 60.0
# A random id of 32 bytes, and how it looks.
SESSION_ID_BYTES = 32
ID = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
# Characters of a session as JSON, and of the id of a user.
MAX_SESSION = 65_536
MAX_SUBJECT = 512
# Sessions that a user may have.
PER_USER = 100
# Expired sessions that are deleted at once, and seconds between two rounds of that.
TIDY_AT_ONCE = 500
TIDY_SECONDS = 60.0
# Of sessions elsewhere: seconds after which a silent connection is asked whether it is there, seconds until it is tried
# again to connect, at first and at most, and sessions that one command names.
PULSE_SECONDS = 15.0
BACKOFF_SECONDS = (0.1, 1.0)
NAMES_AT_ONCE = 500


def key_of(value: str) -> str:
    """Return the key under which a session is stored whose cookie has this value."""
    return hashlib.sha256(value.encode()).hexdigest()


class Sessions(CookieSessions):
    """Sets `req.session` and `req.user` from a session that the server keeps; the cookie only names it.

    A session can be ended at any time, by `revoke`: within a second no connection of any process gets anything for it.
    `SQLiteSessions`, `PostgresSessions`, `RedisSessions` and `MemorySessions` have their stores with them.

    HTTP handlers begin a session by `login` and end it by `logout`; for other frameworks than aiohttp, `begin` and
    `finish` return the header. Each log-in makes a new id, so that nobody can prepare one. A process that serves no
    backend uses `async with sessions:`.

    Parameters:
        store: where sessions are kept, a `SessionStore`.
        cookie: the cookie's name; `__Host-` is put before it if browsers send it over HTTPS only.
        idle: seconds without a request after which a session ends; a connection that only listens does not use it.
        lifetime: seconds after which it ends in any case.
        secure: whether browsers send the cookie over HTTPS only; by default unless the site is on this machine itself,
            such as `http://localhost:3000`.
        cache_seconds: seconds for which a session is remembered: so long are requests answered while the store cannot
            be reached, later ones are answered `Unavailable`.
        timeout: seconds that the store may take.
        per_user: the number of sessions that a user may have; with one more, the oldest one ends.

    Raises:
        ConfigurationError: an option is not valid.

    Example:
        >>> from bbio import Backend, Unauthorized, before
        >>> from bbio.builtin import MemorySessions
        >>> sessions = MemorySessions(idle=3600)
        >>> class Todos(Backend):
        ...     middleware = [sessions]
        ...
        ...     @before("write")
        ...     def require_user(self, req):
        ...         if req.user is None:
        ...             raise Unauthorized("log in first")
    """

    def __init__(
        self,
        store: SessionStore,
        *,
        cookie: str = "bbio_session",
        idle: float = IDLE_SECONDS,
        lifetime: float = LIFETIME_SECONDS,
        secure: bool | None = None,
        cache_seconds: float = CACHE_SECONDS,
        timeout: float = STORE_SECONDS,
        per_user: int = PER_USER,
    ) -> None:
        kind = type(self).__name__
        if not isinstance(store, SessionStore):
            raise ConfigurationError(
                f"{kind}({store!r}): that is no SessionStore; write SQLiteSessions('sessions.db'), or subclass "
                "bbio.SessionStore"
            )
        for name, value in (
            *(("idle", idle), ("lifetime", lifetime), ("cache_seconds", cache_seconds)),
            *(("timeout", timeout), ("per_user", per_user)),
        ):
            if value <= 0:
                raise ConfigurationError(f"{kind}({name}={value!r}): it must be greater than 0")
        super().__init__(SessionCookie(cookie, secure), cache_seconds=cache_seconds, timeout=timeout)
        self.store = store
        self._idle = idle
        self._lifetime = lifetime
        self._per_user = per_user
        self._touched: set[str] = set()

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._end()

    # Log-in and log-out

    async def login(self, response: web.StreamResponse, session: Mapping[str, Any], request: AnyRequest = None) -> None:
        """Begin a session and set its cookie on an aiohttp response; the session of the request ends.

        A connection keeps the cookie it was opened with: afterwards a page connects again, with
        `Backbone.io.connect()`.

        Parameters:
            response: the response.
            session: the later `req.session`, a dict that can be written as JSON. Its `user` is the later `req.user`.
            request: the request that is answered; without it the cookie is for HTTPS only, unless `secure=False`.

        Raises:
            ValueError: the session is too large.
            StackError: the user has no `id`.
            Unavailable: the store cannot be reached.

        Example:
            `await sessions.login(response, {"user": {"id": "ann"}}, request)`
        """
        value = await self._begin_session(session, request)
        self._cookie.set_on(response, request, value, int(self._lifetime))

    async def begin(self, session: Mapping[str, Any], request: AnyRequest = None) -> str:
        """Begin a session; return the value of the `Set-Cookie` header for the response of any framework.

        Parameters:
            session: see `login`.
            request: the request that is answered, of any framework whose requests have `headers`.

        Raises:
            ValueError, StackError, Unavailable: see `login`.

        Example:
            `response.headers.append("Set-Cookie", await sessions.begin({"user": {"id": "ann"}}, request))`
        """
        return self._cookie.header(request, await self._begin_session(session, request), int(self._lifetime))

    async def logout(self, response: web.StreamResponse, request: HasHeaders) -> None:
        """End the session of a request, and remove its cookie with an aiohttp response.

        Parameters:
            response: the response.
            request: the request.

        Raises:
            Unavailable: the store cannot be reached; the session goes on.

        Example:
            `await sessions.logout(response, request)`
        """
        await self._finish_session(request)
        self._cookie.clear_on(response)

    async def finish(self, request: HasHeaders) -> str:
        """End the session of a request; return the value of the `Set-Cookie` header that removes the cookie.

        Parameters:
            request: the request, of any framework whose requests have `headers`.

        Raises:
            Unavailable: the store cannot be reached; the session goes on.

        Example:
            `response.headers.append("Set-Cookie", await sessions.finish(request))`
        """
        await self._finish_session(request)
        return self._cookie.header(request, "", 0)

    async def rotate(self, request: HasHeaders) -> str | None:
        """Give the session of a request a new id, such as when its user may do more from now on.

        The old id ends with all its connections; a page connects again.

        Parameters:
            request: the request.

        Returns: the value of the `Set-Cookie` header; None if the request has no valid session.

        Raises:
            Unavailable: the store cannot be reached.
        """
        value = self._value_in(request)
        stored = None if value is None else await self._ask(self._find_stored(value))
        if stored is None:
            return None
        made = secrets.token_urlsafe(SESSION_ID_BYTES)
        await self._add(attrs.evolve(stored, key=key_of(made)), stored.key)
        return self._cookie.header(request, made, max(1, int(stored.ends - time.time())))

    async def revoke(self, *, user: Any = None, id: str | None = None) -> int:
        """End all sessions of a user, or the one with an id; within a second in all processes.

        Parameters:
            user: the user, as `req.user` is, or the user's id alone.
            id: the id of a session, as `req.session_id` is. It is not the value of the cookie.

        Returns: the number of sessions that were ended.

        Raises:
            TypeError: neither of the two is given, or both are.
            StackError: the user has no `id`.
            Unavailable: the store cannot be reached; nothing was ended, or it is not known whether.

        Example:
            `await sessions.revoke(user="ann")`
        """
        if (user is None) == (id is None):
            raise TypeError("revoke(user=...) or revoke(id=...): give one of them")
        self._check_open("revoke")
        if id is not None:
            ended = [id] if await self._ask(self.store.remove(id)) else []
        else:
            ended = await self._ask(self.store.remove_user(principal(user)))
        self._on_ended(ended)
        return len(ended)

    async def _begin_session(self, session: Mapping[str, Any], request: AnyRequest) -> str:
        data = msgspec.json.encode({**session}).decode()
        if len(data) > MAX_SESSION:
            raise ValueError(
                f"a session of {len(data)} characters is too large, {MAX_SESSION} are the most; keep an id in it, and "
                "the rest elsewhere"
            )
        user = session.get("user")
        subject = None if user is None else principal(user)
        if subject is not None and len(subject) > MAX_SUBJECT:
            raise ValueError(f"the id of a user has {len(subject)} characters, {MAX_SUBJECT} are the most")
        made, now = secrets.token_urlsafe(SESSION_ID_BYTES), time.time()
        ends = now + self._lifetime
        stored = StoredSession(
            key=key_of(made),
            subject=subject,
            data=data,
            created=now,
            expires=min(now + self._idle, ends),
            ends=ends,
        )
        value = None if request is None else self._value_in(request)
        await self._add(stored, None if value is None else key_of(value))
        return made

    async def _add(self, stored: StoredSession, replaces: str | None) -> None:
        self._check_open("login")
        self._on_ended(await self._ask(self.store.add(stored, replaces, self._per_user)))

    async def _finish_session(self, request: HasHeaders) -> None:
        value = self._value_in(request)
        if value is not None:
            await self.revoke(id=key_of(value))

    def _value_in(self, request: HasHeaders) -> str | None:
        value = self._cookie.find_in(request)
        return value if value is not None and self._may_be(value) else None

    # Looking up

    def _may_be(self, value: str) -> bool:
        return ID.fullmatch(value) is not None

    def _id_of(self, value: str) -> str:
        return key_of(value)

    async def _find_stored(self, value: str) -> StoredSession | None:
        self._check_open("load")
        stored = await self.store.find(key_of(value))
        now = time.time()
        return stored if stored is not None and stored.expires > now and stored.ends > now else None

    async def _find(self, value: str) -> FoundSession | None:
        stored = await self._find_stored(value)
        if stored is None:
            return None
        session = msgspec.json.decode(stored.data)
        return FoundSession(
            session,
            stored.data.encode(),
            "user",
            is_key=True,
            id=stored.key,
            expires=stored.expires,
            ends=stored.ends,
            size=len(stored.data),
            # When it was last written is known from when it expires.
            touch_at=stored.expires - self._idle + TOUCH_SECONDS if stored.expires < stored.ends else None,
        )

    async def load(self, request: HasHeaders) -> dict[str, Any]:
        """Return the session of an HTTP request, and keep it from expiring; `{}` when it has no valid one.

        Parameters:
            request: the request, of aiohttp or another framework.

        Raises:
            Unavailable: the store cannot be reached.

        Example:
            `user = (await sessions.load(request)).get("user")`
        """
        found = await self._found_in(request)
        if found is None:
            return {}
        if found.touch_at is not None and found.touch_at <= time.time():
            self._touch(found)
        return found.session

    def _touch(self, found: FoundSession) -> None:
        assert found.id is not None
        found.touch_at = time.time() + TOUCH_SECONDS
        if found.id not in self._touched:
            self._touched.add(found.id)
            self._spawn(self._touch_stored(found, found.id))

    async def _touch_stored(self, found: FoundSession, key: str) -> None:
        try:
            assert found.ends is not None
            expires = min(time.time() + self._idle, found.ends)
            async with asyncio.timeout(self._timeout):
                await self.store.touch(key, expires)
            found.expires = expires
        except Exception as err:
            self._log.error(err, "a session in use could not be kept from expiring")
        finally:
            self._touched.discard(key)

    async def _still_living(self, ids: Collection[str]) -> Mapping[str, float | None]:
        return {**await self.store.living(ids)}

    # Beginning and end

    def _check_open(self, call: str) -> None:
        if not self._starts:
            kind = type(self).__name__
            raise ConfigurationError(
                f"{kind}.{call} came before the start: list the sessions in the middleware of a backend that is "
                f"served, or write `async with sessions:` around it"
            )

    async def _open(self) -> None:
        await self.store.start(self._on_ended)
        self._spawn(self._tidy())

    async def _close(self) -> None:
        await self.store.stop()

    async def _tidy(self) -> None:
        """Delete expired sessions, again and again."""
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    deleted = TIDY_AT_ONCE
                    while deleted >= TIDY_AT_ONCE:
                        deleted = await self.store.tidy(time.time(), TIDY_AT_ONCE)
            except Exception as err:
                self._log.error(err, "expired sessions could not be deleted")
            await asyncio.sleep(TIDY_SECONDS)
