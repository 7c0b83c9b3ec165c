"""PostgresSessions: sessions in a PostgreSQL database."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from bbio import ConfigurationError
from bbio.builtin.sessions.sessions import BACKOFF_SECONDS, PULSE_SECONDS, Sessions
from bbio.ratelimit import RateLimitedLog
from bbio.sessions import OnEnded, SessionStore, StoredSession
from bbio.settings import Settings

logger = RateLimitedLog(logging.getLogger("bbio"))

CONNECTIONS = 4
NOTIFY_CHANNEL = "bbio_sessions"
# Seconds that a connection may take to say that it is there.
PULSE_ANSWER_SECONDS = 5.0
SET_UP_LOCK = 7_236_141_155

# The trigger tells of what any program deletes; 100 keys have room in a notification. What has expired has ended
# everywhere by itself.
TABLES = """
SELECT pg_advisory_xact_lock({lock});
CREATE TABLE IF NOT EXISTS bbio_sessions (key text PRIMARY KEY, subject text, data text NOT NULL,
  created float8 NOT NULL, expires float8 NOT NULL, ends float8 NOT NULL, number bigint GENERATED ALWAYS AS IDENTITY);
CREATE INDEX IF NOT EXISTS bbio_sessions_subject ON bbio_sessions (subject) WHERE subject IS NOT NULL;
CREATE INDEX IF NOT EXISTS bbio_sessions_expires ON bbio_sessions (expires);
CREATE OR REPLACE FUNCTION bbio_session_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  PERFORM pg_notify('{channel}', string_agg(key, ' ')) FROM (
    SELECT key, (row_number() OVER () - 1) / 100 AS part FROM gone
    WHERE expires > extract(epoch FROM clock_timestamp())) AS each GROUP BY part;
  RETURN NULL; END $$;
CREATE OR REPLACE FUNCTION bbio_sessions_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  PERFORM pg_notify('{channel}', '*'); RETURN NULL; END $$;
DROP TRIGGER IF EXISTS bbio_session_end ON bbio_sessions;
CREATE TRIGGER bbio_session_end AFTER DELETE ON bbio_sessions REFERENCING OLD TABLE AS gone
  FOR EACH STATEMENT EXECUTE FUNCTION bbio_session_end();
DROP TRIGGER IF EXISTS bbio_sessions_end ON bbio_sessions;
CREATE TRIGGER bbio_sessions_end AFTER TRUNCATE ON bbio_sessions
  FOR EACH STATEMENT EXECUTE FUNCTION bbio_sessions_end();
"""
ARE_THERE = """
SELECT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'bbio_sessions_end' AND tgrelid = to_regclass('bbio_sessions'))
"""
ADD = """
INSERT INTO bbio_sessions (key, subject, data, created, expires, ends) VALUES ($1, $2, $3, $4, $5, $6)
"""
REMOVE = "DELETE FROM bbio_sessions WHERE key = $1 RETURNING key"
REMOVE_USER = "DELETE FROM bbio_sessions WHERE subject = $1 RETURNING key"
REMOVE_OLDEST = """
DELETE FROM bbio_sessions WHERE key IN (SELECT key FROM bbio_sessions WHERE subject = $1
  ORDER BY created DESC, number DESC OFFSET $2) RETURNING key
"""
FIND = "SELECT key, subject, data, created, expires, ends FROM bbio_sessions WHERE key = $1"
TOUCH = "UPDATE bbio_sessions SET expires = $2 WHERE key = $1 AND expires < $2"
LIVING = "SELECT key, expires FROM bbio_sessions WHERE key = ANY($1)"
TIDY = """
DELETE FROM bbio_sessions WHERE key IN
  (SELECT key FROM bbio_sessions WHERE expires <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING key
"""


class PostgresSessionStore(SessionStore):
    """Keeps sessions in a database.

    Parameters:
        dsn: where it is.
        timeout: seconds that a statement may take.
    """

    def __init__(self, dsn: str, timeout: float) -> None:
        self._dsn = dsn
        self._statement_seconds = timeout
        self._pool: Any = None
        self._listening: asyncio.Task[None] | None = None
        self._pid = 0

    async def start(self, on_ended: OnEnded) -> None:
        asyncpg = driver()
        self._on_ended = on_ended
        # It connects when it is first used.
        self._pool = await asyncpg.create_pool(
            self._dsn, min_size=0, max_size=CONNECTIONS, command_timeout=self._statement_seconds
        )
        try:
            async with self._pool.acquire(timeout=self._statement_seconds) as connection:
                # Whoever may not make tables uses those that somebody else has made.
                if not await connection.fetchval(ARE_THERE):
                    async with connection.transaction():
                        await connection.execute(TABLES.format(lock=SET_UP_LOCK, channel=NOTIFY_CHANNEL))
            listening = asyncio.get_running_loop().create_future()
            self._listening = asyncio.get_running_loop().create_task(self._listen(listening))
            await listening
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as err:
            await self.stop()
            raise ConfigurationError(f"PostgresSessions cannot use its database: {type(err).__name__}: {err}") from None

    async def stop(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            self._listening = None
        self._pool.terminate()

    async def add(self, session: StoredSession, replaces: str | None = None, per_user: int = 100) -> list[str]:
        ended: list[Any] = []
        async with self._pool.acquire() as connection, connection.transaction():
            if replaces is not None:
                ended += await connection.fetch(REMOVE, replaces)
            await connection.execute(
                ADD, session.key, session.subject, session.data, session.created, session.expires, session.ends
            )
            ended += await connection.fetch(REMOVE_OLDEST, session.subject, per_user)
        return [key for (key,) in ended]

    async def find(self, key: str) -> StoredSession | None:
        row = await self._pool.fetchrow(FIND, key)
        return None if row is None else StoredSession(**row)

    async def touch(self, key: str, expires: float) -> None:
        await self._pool.execute(TOUCH, key, expires)

    async def remove(self, key: str) -> bool:
        return bool(await self._pool.fetch(REMOVE, key))

    async def remove_user(self, subject: str) -> list[str]:
        return [key for (key,) in await self._pool.fetch(REMOVE_USER, subject)]

    async def living(self, keys: Collection[str]) -> Mapping[str, float]:
        return dict(await self._pool.fetch(LIVING, list(keys)))

    async def tidy(self, now: float, most: int) -> int:
        return len(await self._pool.fetch(TIDY, now, most))

    # What other processes have ended

    async def _listen(self, listening: asyncio.Future[None]) -> None:
        """Hold a connection that hears which sessions have ended; after its loss all that live here are compared."""
        delay = BACKOFF_SECONDS[0]
        while True:
            connection = None
            try:
                connection = await driver().connect(self._dsn, timeout=PULSE_ANSWER_SECONDS)
                lost = asyncio.Event()
                connection.add_termination_listener(lambda _, lost=lost: lost.set())
                await connection.add_listener(NOTIFY_CHANNEL, self._hear)
                if listening.done():
                    self._on_ended(None)  # what was said meanwhile
                else:
                    listening.set_result(None)
                delay = BACKOFF_SECONDS[0]
                await self._watch(connection, lost)
            except Exception as err:
                if not listening.done():
                    listening.set_exception(err)
                    return
                logger.error(err, "PostgresSessions: it cannot be heard which sessions have ended")
            finally:
                if connection is not None:
                    with suppress(Exception):
                        connection.terminate()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, BACKOFF_SECONDS[1])

    async def _watch(self, connection: Any, lost: asyncio.Event) -> None:
        losing = asyncio.ensure_future(lost.wait())
        try:
            while not losing.done():
                await connection.execute("SELECT 1", timeout=PULSE_ANSWER_SECONDS)
                await asyncio.wait({losing}, timeout=PULSE_SECONDS)
        finally:
            losing.cancel()

    def _hear(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        self._on_ended(None if payload == "*" else payload.split())


def driver() -> Any:
    """Return the module asyncpg.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import asyncpg
    except ImportError:
        raise ConfigurationError("PostgreSQL needs asyncpg: pip install bbio[postgres]") from None
    return asyncpg


class PostgresSessions(Sessions):
    """Keeps sessions in a PostgreSQL database (extra `postgres`). See `Sessions`.

    It makes its table, `bbio_sessions`, unless that is there; the database may be that of a `PostgresStore`. Other
    processes hear at once of what has ended, by whatever program.

    Parameters:
        dsn: the URL of the database; `$BBIO_DATABASE_URL` by default.
        options: those of `Sessions` but its `store`.

    Raises:
        ConfigurationError: there is no URL, or asyncpg is not installed.

    Example:
        `sessions = PostgresSessions("postgresql://app@db.example.org/app")`
    """

    def __init__(self, dsn: str | None = None, **options: Any) -> None:
        dsn = dsn or Settings.from_env().database_url
        if not dsn:
            raise ConfigurationError("PostgresSessions needs a database: PostgresSessions(dsn) or $BBIO_DATABASE_URL")
        driver()
        super().__init__(PostgresSessionStore(dsn, options.get("timeout", 5.0)), **options)
