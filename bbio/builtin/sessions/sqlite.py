"""SQLiteSessions: sessions in an SQLite file, which several processes of a machine may share."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from bbio import ConfigurationError
from bbio.builtin.sessions.sessions import NAMES_AT_ONCE, Sessions
from bbio.builtin.sqlite.control import POLL_SECONDS
from bbio.ratelimit import RateLimitedLog
from bbio.sessions import OnEnded, SessionStore, StoredSession

T = TypeVar("T")
logger = RateLimitedLog(logging.getLogger("bbio"))

# Seconds for which it is known which sessions have ended; whoever has not looked for longer compares all of its own.
ENDS_SECONDS = 600.0

# The trigger tells of what any program deletes. What has expired has ended everywhere by itself.
TABLES = (
    "CREATE TABLE IF NOT EXISTS bbio_sessions (key TEXT PRIMARY KEY, subject TEXT, data TEXT NOT NULL,"
    " created REAL NOT NULL, expires REAL NOT NULL, ends REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS bbio_sessions_subject ON bbio_sessions (subject) WHERE subject IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS bbio_sessions_expires ON bbio_sessions (expires)",
    "CREATE TABLE IF NOT EXISTS bbio_session_ends (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL,"
    " at REAL NOT NULL)",
    "CREATE TRIGGER IF NOT EXISTS bbio_session_end AFTER DELETE ON bbio_sessions BEGIN"
    " INSERT INTO bbio_session_ends (key, at) VALUES (old.key, (julianday('now') - 2440587.5) * 86400.0); END",
)
FIELDS = "key, subject, data, created, expires, ends"


class SQLiteSessionStore(SessionStore):
    """Keeps sessions in a file.

    Parameters:
        path: the file.
        timeout: seconds to wait for another program that has locked it.
    """

    _polling: asyncio.Task[None]

    def __init__(self, path: str | os.PathLike[str], timeout: float) -> None:
        self.path = path
        self._lock_seconds = timeout
        self._last_end = 0
        self._version = -1
        self._seen = 0.0

    async def start(self, on_ended: OnEnded) -> None:
        self._on_ended = on_ended
        # One thread for each connection, so that a look-up waits for no write.
        self._writing = ThreadPoolExecutor(1, "bbio-sessions")
        self._reading = ThreadPoolExecutor(1, "bbio-sessions")
        try:
            self._writer = await self._run(self._writing, self._open)
            self._reader = await self._run(self._reading, self._connect)
            self._last_end = await self._run(self._reading, self._newest_end)
        except (sqlite3.Error, OSError) as err:
            self._writing.shutdown(wait=False)
            self._reading.shutdown(wait=False)
            raise ConfigurationError(f"SQLiteSessions({os.fspath(self.path)!r}) cannot be used: {err}") from None
        self._seen = time.monotonic()
        self._polling = asyncio.get_running_loop().create_task(self._poll())

    async def stop(self) -> None:
        self._polling.cancel()
        await asyncio.gather(self._polling, return_exceptions=True)
        for executor, connection in ((self._reading, self._reader), (self._writing, self._writer)):
            await self._run(executor, connection.close)
            executor.shutdown(wait=False)

    async def _run(self, executor: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=self._lock_seconds, isolation_level=None, check_same_thread=False)

    def _open(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # A session that was ended must not be back after a power cut.
            connection.execute("PRAGMA synchronous = FULL")
            with _transaction(connection):
                for statement in TABLES:
                    connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    async def add(self, session: StoredSession, replaces: str | None = None, per_user: int = 100) -> list[str]:
        def work() -> list[str]:
            execute, ended = self._writer.execute, []
            with _transaction(self._writer):
                if replaces is not None:
                    ended += execute("DELETE FROM bbio_sessions WHERE key = ? RETURNING key", (replaces,)).fetchall()
                execute(
                    f"INSERT INTO bbio_sessions ({FIELDS}) VALUES (?, ?, ?, ?, ?, ?)",
                    (session.key, session.subject, session.data, session.created, session.expires, session.ends),
                )
                if session.subject is not None:
                    ended += execute(
                        "DELETE FROM bbio_sessions WHERE key IN (SELECT key FROM bbio_sessions WHERE subject = ?"
                        " ORDER BY created DESC, rowid DESC LIMIT -1 OFFSET ?) RETURNING key",
                        (session.subject, per_user),
                    ).fetchall()
            return [key for (key,) in ended]

        return await self._run(self._writing, work)

    async def find(self, key: str) -> StoredSession | None:
        def work() -> Any:
            return self._reader.execute(f"SELECT {FIELDS} FROM bbio_sessions WHERE key = ?", (key,)).fetchone()

        row = await self._run(self._reading, work)
        if row is None:
            return None
        key, subject, data, created, expires, ends = row
        return StoredSession(key=key, subject=subject, data=data, created=created, expires=expires, ends=ends)

    async def touch(self, key: str, expires: float) -> None:
        await self._delete("UPDATE bbio_sessions SET expires = ? WHERE key = ? AND expires < ?", expires, key, expires)

    async def remove(self, key: str) -> bool:
        return bool(await self._delete("DELETE FROM bbio_sessions WHERE key = ? RETURNING key", key))

    async def remove_user(self, subject: str) -> list[str]:
        return await self._delete("DELETE FROM bbio_sessions WHERE subject = ? RETURNING key", subject)

    async def living(self, keys: Collection[str]) -> Mapping[str, float]:
        wanted = list(keys)

        def work() -> dict[str, float]:
            living: dict[str, float] = {}
            for start in range(0, len(wanted), NAMES_AT_ONCE):
                some = wanted[start : start + NAMES_AT_ONCE]
                marks = ", ".join("?" * len(some))
                living |= dict(
                    self._reader.execute(f"SELECT key, expires FROM bbio_sessions WHERE key IN ({marks})", some)
                )
            return living

        return await self._run(self._reading, work)

    async def tidy(self, now: float, most: int) -> int:
        expired = await self._delete(
            "DELETE FROM bbio_sessions WHERE key IN (SELECT key FROM bbio_sessions WHERE expires <= ? LIMIT ?)"
            " RETURNING key",
            now,
            most,
        )
        await self._delete(
            "DELETE FROM bbio_session_ends WHERE id IN (SELECT id FROM bbio_session_ends WHERE at < ? LIMIT ?)",
            time.time() - ENDS_SECONDS,
            most,
        )
        return len(expired)

    async def _delete(self, statement: str, *values: Any) -> list[str]:
        """Write, and return the keys that the statement returns."""

        def work() -> list[str]:
            with _transaction(self._writer):
                return [key for (key,) in self._writer.execute(statement, values).fetchall()]

        return await self._run(self._writing, work)

    # What other processes have ended

    def _newest_end(self) -> int:
        """Return the number of the last end that there has been, also where it has been tidied away."""
        row = self._reader.execute("SELECT seq FROM sqlite_sequence WHERE name = 'bbio_session_ends'").fetchone()
        return 0 if row is None else int(row[0])

    async def _poll(self) -> None:
        """Look again and again which sessions have ended; after a long pause all that live here are compared."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                ended = await self._run(self._reading, self._ended_since)
            except sqlite3.Error as err:
                logger.error(err, "SQLiteSessions(%r): it cannot be seen which sessions have ended", str(self.path))
                self._version = -1
                continue
            if time.monotonic() - self._seen > ENDS_SECONDS / 2:
                self._on_ended(None)
            elif ended:
                self._on_ended(ended)
            self._seen = time.monotonic()

    def _ended_since(self) -> list[str]:
        (version,) = self._reader.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return []
        rows = self._reader.execute(
            "SELECT id, key FROM bbio_session_ends WHERE id > ? ORDER BY id", (self._last_end,)
        ).fetchall()
        self._version = version
        if rows:
            self._last_end = rows[-1][0]
        return [key for _, key in rows]


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Begin a transaction, which is committed at its end, and undone by an exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


class SQLiteSessions(Sessions):
    """Keeps sessions in an SQLite file, which all processes of a machine may share. See `Sessions`.

    It makes its tables, `bbio_sessions` and `bbio_session_ends`; the file may be that of a `SQLiteStore`. Other
    processes learn within half a second of what has ended, by whatever program.

    Parameters:
        path: the file.
        options: those of `Sessions` but its `store`.

    Example:
        >>> sessions = SQLiteSessions("sessions.db", idle=3600)
    """

    def __init__(self, path: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(SQLiteSessionStore(path, options.get("timeout", 5.0)), **options)
