"""DjangoSessions: the log-in of a Django site."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import sqlite3
import time
import zlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from bbio import ConfigurationError
from bbio.builtin.sessions.cookies import FORTNIGHT, SessionCookie
from bbio.builtin.sessions.found import FoundSession
from bbio.builtin.sessions.identified import CACHE_SECONDS, STORE_SECONDS, CookieSessions
from bbio.builtin.sessions.live import LiveSessions
from bbio.builtin.sessions.postgres import driver
from bbio.builtin.sessions.signed import secrets_of

COOKIE_SALT = "django.contrib.sessions.backends.signed_cookies"
DATABASE_SALT = "django.contrib.sessions.SessionStore"
AUTH_SALT = "django.contrib.auth.models.AbstractBaseUser.get_session_auth_hash"
USER_ID, USER_HASH = "_auth_user_id", "_auth_user_hash"

# How Django's ids of sessions look.
KEY = re.compile(r"[a-z0-9]{8,40}", re.ASCII)
DATABASE_ALIAS = re.compile(r"\w{1,63}", re.ASCII)
BASE_62_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Bytes that a session may come to when it is decompressed.
MAX_INFLATED_BYTES = 1 << 20
# Seconds between two looks whether the sessions with a connection still exist: Django tells nobody of a log-out.
COMPARE_SECONDS = 1.0
# Sessions whose users are looked at with each such look.
CHECKED_AT_ONCE = 20

SessionRow = tuple[str, Any]
"""The columns `session_data` and `expire_date` of a row of `django_session`."""

FindSession = Callable[[str], Awaitable[SessionRow | None]]
FindPassword = Callable[[str], Awaitable[str | None]]


def salted_hmac(salt: str, value: str, secret: bytes) -> bytes:
    """Return the HMAC that Django signs with."""
    key = hashlib.sha256(salt.encode() + secret).digest()
    return hmac.new(key, value.encode(), hashlib.sha256).digest()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def unsign(text: str, salt: str, secrets: Iterable[bytes]) -> tuple[Any, float] | None:
    """Return what Django's `signing.dumps` has signed and when; None if the signature is not valid.

    Parameters:
        text: the signed text.
        salt: the salt that it was signed with.
        secrets: the secrets that it may have been signed with.
    """
    content, _, signature = text.rpartition(":")
    for secret in secrets:
        made = base64.urlsafe_b64encode(salted_hmac(salt + "signer", content, secret)).strip(b"=")
        if hmac.compare_digest(made, signature.encode()):
            break
    else:
        return None
    data, _, stamp = content.rpartition(":")
    signed_at = 0
    for digit in stamp:
        signed_at = signed_at * 62 + BASE_62_DIGITS.index(digit)
    if data.startswith("."):
        # JSON that is cut off there cannot be read.
        content_bytes = zlib.decompressobj().decompress(_decoded(data[1:]), MAX_INFLATED_BYTES)
    else:
        content_bytes = _decoded(data)
    return json.loads(content_bytes), float(signed_at)


class DjangoDatabase(Protocol):
    """The place from which the sessions and users of a Django site are read."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def session(self, key: str) -> SessionRow | None:
        """Return a row of `django_session`; None if there is none."""

    async def living(self, keys: list[str]) -> Mapping[str, Any] | None:
        """Return the `expire_date` of each of these sessions that exists; None if it cannot look up many at once."""

    async def password(self, user: str) -> str | None:
        """Return the password hash of an active user; None if there is none."""


class SQLiteDjango:
    """The SQLite file of a Django site.

    Parameters:
        path: the file.
        users: the table of users.
    """

    def __init__(self, path: str, users: str) -> None:
        self._path = path
        self._users = users

    async def open(self) -> None:
        if not os.path.isfile(self._path):  # noqa: ASYNC240 - once, before anybody waits
            raise ConfigurationError(f"DjangoSessions: there is no file {self._path!r}")

    async def close(self) -> None: ...

    async def session(self, key: str) -> SessionRow | None:
        rows = await self._rows("SELECT session_data, expire_date FROM django_session WHERE session_key = ?", key)
        return rows[0] if rows else None

    async def living(self, keys: list[str]) -> Mapping[str, Any]:
        marks = ", ".join("?" * len(keys))
        statement = f"SELECT session_key, expire_date FROM django_session WHERE session_key IN ({marks})"
        return dict(await self._rows(statement, *keys))

    async def password(self, user: str) -> str | None:
        # Django writes a UUID without its dashes.
        statement = f'SELECT password FROM "{self._users}" WHERE id IN (?, ?) AND is_active'
        rows = await self._rows(statement, user, user.replace("-", ""))
        return rows[0][0] if rows else None

    async def _rows(self, statement: str, *values: Any) -> list[Any]:
        def work() -> list[Any]:
            connection = sqlite3.connect(Path(self._path).absolute().as_uri() + "?mode=ro", uri=True, timeout=1.0)
            try:
                return connection.execute(statement, values).fetchall()
            finally:
                connection.close()

        return await asyncio.to_thread(work)


class PostgresDjango:
    """The PostgreSQL database of a Django site.

    Parameters:
        dsn: where it is.
        users: the table of users.
        timeout: seconds that a statement may take.
    """

    def __init__(self, dsn: str, users: str, timeout: float) -> None:
        self._dsn = dsn
        self._users = users
        self._seconds = timeout
        self._pool: Any = None
        driver()

    async def open(self) -> None:
        self._pool = await driver().create_pool(self._dsn, min_size=0, max_size=4, command_timeout=self._seconds)

    async def close(self) -> None:
        self._pool.terminate()

    async def session(self, key: str) -> SessionRow | None:
        row = await self._pool.fetchrow(
            "SELECT session_data, expire_date FROM django_session WHERE session_key = $1", key
        )
        return None if row is None else (row["session_data"], row["expire_date"])

    async def living(self, keys: list[str]) -> Mapping[str, Any]:
        statement = "SELECT session_key, expire_date FROM django_session WHERE session_key = ANY($1)"
        return dict(await self._pool.fetch(statement, keys))

    async def password(self, user: str) -> str | None:
        # The id may be a number or a UUID.
        password: str | None = await self._pool.fetchval(
            f'SELECT password FROM "{self._users}" WHERE id::text = $1 AND is_active', user
        )
        return password


class CallableDjango:
    """Functions of the application that read a Django site's sessions and users.

    Parameters:
        session: returns the row of a session.
        password: returns the password hash of a user; None where that cannot be known.
    """

    def __init__(self, session: FindSession | None, password: FindPassword | None) -> None:
        self._session = session
        self._password = password

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def session(self, key: str) -> SessionRow | None:
        assert self._session is not None
        return await self._session(key)

    async def living(self, keys: list[str]) -> Mapping[str, Any] | None:
        return None  # a function looks up one at a time

    async def password(self, user: str) -> str | None:
        assert self._password is not None
        return await self._password(user)


class DjangoSessions(CookieSessions):
    """Sets `req.session` and `req.user` from the session of a Django site; the user is a dict such as `{"id": "7"}`.

    The sessions are in the site's database, as is Django's default, or whole in signed cookies. Where users can be
    looked up too, a changed password or a user who is not active any more ends a session, as in Django. A log-out in
    Django ends what open connections may do within a second, where sessions are in the database.

    Parameters:
        secret_key: the site's `SECRET_KEY`, or several, such as with its `SECRET_KEY_FALLBACKS`.
        database: the site's database: the URL of a PostgreSQL database, or the path of an SQLite file.
        session: in place of `database`, an async function of the id of a session, which returns its `session_data` and
            `expire_date`, or None.
        password: with it, an async function of the id of a user, which returns the `password` of an active user, or
            None.
        signed_cookies: whether the site keeps sessions in cookies, by its `SESSION_ENGINE`; by default if neither
            `database` nor `session` is given.
        users: the table of users, with columns `id`, `password` and `is_active`; None for not looking users up.
        cookie: the site's `SESSION_COOKIE_NAME`.
        max_age: seconds of its `SESSION_COOKIE_AGE`, for signed cookies.
        cache_seconds: seconds for which a session is remembered.
        timeout: seconds that a look-up may take.

    Raises:
        ConfigurationError: an option is not valid.

    Example:
        >>> sessions = DjangoSessions("the site's SECRET_KEY", database="db.sqlite3")
    """

    def __init__(
        self,
        secret_key: str | bytes | Iterable[str | bytes],
        *,
        database: str | os.PathLike[str] | None = None,
        session: FindSession | None = None,
        password: FindPassword | None = None,
        signed_cookies: bool | None = None,
        users: str | None = "auth_user",
        cookie: str = "sessionid",
        max_age: float = FORTNIGHT,
        cache_seconds: float = CACHE_SECONDS,
        timeout: float = STORE_SECONDS,
    ) -> None:
        super().__init__(SessionCookie(cookie, secure=False), cache_seconds=cache_seconds, timeout=timeout)
        self._live = LiveSessions(self._compare, COMPARE_SECONDS)
        self._secrets = secrets_of("DjangoSessions", secret_key)
        if database is not None and (session is not None or password is not None):
            raise ConfigurationError("DjangoSessions(database=...) looks up by itself; drop session= and password=")
        if users is not None and not DATABASE_ALIAS.fullmatch(users):
            raise ConfigurationError(f"DjangoSessions(users={users!r}): that is not the name of a table")
        self._is_signed = signed_cookies if signed_cookies is not None else database is None and session is None
        if not self._is_signed and database is None and session is None:
            raise ConfigurationError("DjangoSessions(...) needs database=... or session=..., or signed_cookies=True")
        self._max_age = max_age
        self._last_checked = ""
        self._checks_users = password is not None if database is None else users is not None
        self._database: DjangoDatabase
        if database is None:
            self._database = CallableDjango(session, password)
        elif "://" in (place := os.fspath(database)):
            self._database = PostgresDjango(place, users or "", timeout)
        else:
            self._database = SQLiteDjango(place, users or "")

    async def _open(self) -> None:
        await self._database.open()

    async def _close(self) -> None:
        await self._database.close()

    def _may_be(self, value: str) -> bool:
        return self._is_signed or KEY.fullmatch(value) is not None

    def _id_of(self, value: str) -> str | None:
        return hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()

    async def _find(self, value: str) -> FoundSession | None:
        found = self._read_cookie(value) if self._is_signed else await self._read_row(value)
        if found is None:
            return None
        session, expires = found
        user_id, user = session.get(USER_ID), None
        if user_id is not None:
            if self._checks_users and not await self._is_current(str(user_id), session.get(USER_HASH)):
                return None
            user = {"id": str(user_id)}
        return FoundSession(session, user=user, id=self._id_of(value), expires=expires, ends=expires, size=len(value))

    def _read_cookie(self, value: str) -> tuple[dict[str, Any], float] | None:
        read = self._unsigned(value, COOKIE_SALT)
        if read is None or read[1] + self._max_age <= time.time():
            return None
        return read[0], read[1] + self._max_age

    async def _read_row(self, key: str) -> tuple[dict[str, Any], float] | None:
        row = await self._database.session(key)
        if row is None:
            return None
        data, expire_date = row
        expires = seconds_of(expire_date)
        read = self._unsigned(data, DATABASE_SALT)
        return None if read is None or expires <= time.time() else (read[0], expires)

    def _unsigned(self, text: str, salt: str) -> tuple[dict[str, Any], float] | None:
        try:
            read = unsign(text, salt, self._secrets)
        except (ValueError, zlib.error, RecursionError):
            return None
        return read if read is not None and isinstance(read[0], dict) else None

    async def _is_current(self, user_id: str, user_hash: Any) -> bool:
        """Return whether a user is active and has the password that the session was begun with."""
        password = await self._database.password(user_id)
        if password is None or not isinstance(user_hash, str):
            return False
        made = [salted_hmac(AUTH_SALT, password, secret).hex().encode() for secret in self._secrets]
        return any(hmac.compare_digest(each, user_hash.encode()) for each in made)

    async def _still_living(self, ids: Collection[str]) -> Mapping[str, float | None]:
        # One that is remembered no more is looked up with its next request.
        living: dict[str, float | None] = {each: None for each in ids if each not in self._values}
        values = {self._values[each]: each for each in ids if each in self._values}
        dates = None if self._is_signed else await self._database.living(list(values))
        if dates is None:
            living |= dict.fromkeys(values.values())
        else:
            living |= {values[key]: seconds_of(date) for key, date in dates.items()}
        # Whether their users may still log in, and what functions have to look up, is looked at of a few at a time.
        turn = sorted(values, key=lambda value: (value <= self._last_checked, value))
        for value in turn[:CHECKED_AT_ONCE]:
            self._last_checked = value
            if await self._find(value) is None:
                living.pop(values[value], None)
        return living


def seconds_of(moment: Any) -> float:
    """Return a date of Django's in seconds since 1970; without a time zone it is UTC.

    Parameters:
        moment: a datetime, its text as SQLite has it, or seconds.
    """
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment)
