"""RedisSessions: sessions in Redis or Valkey."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from bbio import ConfigurationError
from bbio.builtin.sessions.sessions import BACKOFF_SECONDS, NAMES_AT_ONCE, PULSE_SECONDS, Sessions
from bbio.ratelimit import RateLimitedLog
from bbio.sessions import OnEnded, SessionStore, StoredSession

logger = RateLimitedLog(logging.getLogger("bbio"))

# A session is a hash that Redis itself deletes when it expires; a sorted set names those of a user, oldest first.
# KEYS: the session, what it replaces, the set of the user. ARGV: data, subject, created, expires, ends, its key, how
# many a user may have, the prefix, the channel.
ADD = """
local function drop(key)
  local name = ARGV[8] .. key
  local subject = redis.call('HGET', name, 'subject')
  if redis.call('DEL', name) == 0 then return false end
  if subject and subject ~= '' then redis.call('ZREM', ARGV[8] .. 'user:' .. string.sub(subject, 2), key) end
  return true
end
local ended = {}
if ARGV[10] ~= '' and drop(ARGV[10]) then table.insert(ended, ARGV[10]) end
redis.call('HSET', KEYS[1], 'data', ARGV[1], 'subject', ARGV[2],
  'created', ARGV[3], 'expires', ARGV[4], 'ends', ARGV[5])
redis.call('PEXPIREAT', KEYS[1], math.ceil(tonumber(ARGV[4]) * 1000))
if ARGV[2] ~= '' then
  for _, key in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if redis.call('EXISTS', ARGV[8] .. key) == 0 then redis.call('ZREM', KEYS[2], key) end
  end
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[6])
  local over = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[7])
  if over > 0 then
    for _, key in ipairs(redis.call('ZRANGE', KEYS[2], 0, over - 1)) do
      if drop(key) then table.insert(ended, key) end
    end
  end
  local lasts = math.ceil((tonumber(ARGV[5]) - tonumber(ARGV[3])) * 1000)
  if redis.call('PTTL', KEYS[2]) < lasts then redis.call('PEXPIRE', KEYS[2], lasts) end
end
if #ended > 0 then redis.call('PUBLISH', ARGV[9], table.concat(ended, ' ')) end
return ended
"""
TOUCH = """
local expires = redis.call('HGET', KEYS[1], 'expires')
if expires and tonumber(expires) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'expires', ARGV[1])
  redis.call('PEXPIREAT', KEYS[1], math.ceil(tonumber(ARGV[1]) * 1000))
end
"""
# KEYS: the set of a user, or the session. ARGV: the prefix, the channel, the key of the session or ''.
REMOVE = """
local keys = {ARGV[3]}
if ARGV[3] == '' then keys = redis.call('ZRANGE', KEYS[1], 0, -1) end
local ended = {}
for _, key in ipairs(keys) do
  local name = ARGV[1] .. key
  local subject = redis.call('HGET', name, 'subject')
  if subject and subject ~= '' then redis.call('ZREM', ARGV[1] .. 'user:' .. string.sub(subject, 2), key) end
  if redis.call('DEL', name) == 1 then table.insert(ended, key) end
end
if #ended > 0 then redis.call('PUBLISH', ARGV[2], table.concat(ended, ' ')) end
return ended
"""


class RedisSessionStore(SessionStore):
    """Keeps sessions in Redis.

    Parameters:
        url: where it is.
        timeout: seconds that a command may take.
        prefix: the beginning of all its keys.
    """

    def __init__(self, url: str, timeout: float, prefix: str) -> None:
        self._url = url
        self._command_seconds = timeout
        self._prefix = prefix
        self._channel = prefix + "ended"
        self._redis: Any = None
        self._listener: Any = None
        self._listening: asyncio.Task[None] | None = None

    async def start(self, on_ended: OnEnded) -> None:
        redis = driver()
        self._on_ended = on_ended
        try:
            options = {"decode_responses": True, "socket_connect_timeout": self._command_seconds}
            self._redis = redis.asyncio.Redis.from_url(self._url, socket_timeout=self._command_seconds, **options)
            # Over this one it waits for what is said, however long that takes.
            self._listener = redis.asyncio.Redis.from_url(self._url, socket_timeout=None, **options)
            self._add = self._redis.register_script(ADD)
            self._remove = self._redis.register_script(REMOVE)
            self._touch = self._redis.register_script(TOUCH)
            listening = asyncio.get_running_loop().create_future()
            self._listening = asyncio.get_running_loop().create_task(self._listen(listening))
            await listening
        except (redis.RedisError, OSError, ValueError) as err:
            await self.stop()
            raise ConfigurationError(f"RedisSessions cannot use its Redis: {type(err).__name__}: {err}") from None

    async def stop(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            self._listening = None
        clients, self._redis, self._listener = (self._redis, self._listener), None, None
        for client in clients:
            with suppress(Exception):
                await client.aclose()

    def _name(self, key: str) -> str:
        return self._prefix + key

    def _user(self, subject: str) -> str:
        return f"{self._prefix}user:{subject}"

    async def add(self, session: StoredSession, replaces: str | None = None, per_user: int = 100) -> list[str]:
        subject = session.subject
        ended: list[str] = await self._add(
            keys=[self._name(session.key), self._user(subject or "")],
            args=[
                session.data,
                # A subject may be empty; none is not.
                "" if subject is None else f"={subject}",
                *map(repr, (session.created, session.expires, session.ends)),
                *(session.key, per_user, self._prefix, self._channel, replaces or ""),
            ],
        )
        return ended

    async def find(self, key: str) -> StoredSession | None:
        fields = await self._redis.hgetall(self._name(key))
        if not fields:
            return None
        return StoredSession(
            key=key,
            subject=fields["subject"][1:] if fields["subject"] else None,
            data=fields["data"],
            created=float(fields["created"]),
            expires=float(fields["expires"]),
            ends=float(fields["ends"]),
        )

    async def touch(self, key: str, expires: float) -> None:
        await self._touch(keys=[self._name(key)], args=[repr(expires)])

    async def remove(self, key: str) -> bool:
        return bool(await self._remove(keys=[self._name(key)], args=[self._prefix, self._channel, key]))

    async def remove_user(self, subject: str) -> list[str]:
        ended: list[str] = await self._remove(keys=[self._user(subject)], args=[self._prefix, self._channel, ""])
        return ended

    async def living(self, keys: Collection[str]) -> Mapping[str, float]:
        wanted: list[str] = list(keys)
        living: dict[str, float] = {}
        for start in range(0, len(wanted), NAMES_AT_ONCE):
            some = wanted[start : start + NAMES_AT_ONCE]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key in some:
                    pipeline.hget(self._name(key), "expires")
                found = await pipeline.execute()
            living |= {key: float(expires) for key, expires in zip(some, found, strict=True) if expires is not None}
        return living

    async def tidy(self, now: float, most: int) -> int:
        return 0  # Redis deletes what has expired by itself

    # What other processes have ended

    async def _listen(self, listening: asyncio.Future[None]) -> None:
        """Hold a connection that hears which sessions have ended; after its loss all that live here are compared."""
        delay = BACKOFF_SECONDS[0]
        while True:
            pubsub = self._listener.pubsub()
            try:
                async with asyncio.timeout(self._command_seconds):
                    await pubsub.subscribe(self._channel)
                    await pubsub.get_message(timeout=None)  # that it has subscribed
                if listening.done():
                    self._on_ended(None)  # what was said meanwhile
                else:
                    listening.set_result(None)
                delay = BACKOFF_SECONDS[0]
                await self._hear(pubsub)
            except Exception as err:
                if not listening.done():
                    listening.set_exception(err)
                    return
                logger.error(err, "RedisSessions: it cannot be heard which sessions have ended")
            finally:
                with suppress(Exception):
                    await pubsub.aclose()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, BACKOFF_SECONDS[1])

    async def _hear(self, pubsub: Any) -> None:
        is_answered = True
        reading = asyncio.ensure_future(pubsub.get_message(timeout=None))
        try:
            while True:
                await asyncio.wait({reading}, timeout=PULSE_SECONDS)
                if reading.done():
                    message, is_answered = reading.result(), True
                    reading = asyncio.ensure_future(pubsub.get_message(timeout=None))
                    # Others are answers to pings.
                    if message is not None and message["type"] == "message":
                        self._on_ended(message["data"].split())
                elif is_answered:
                    is_answered = False
                    await pubsub.ping()
                else:
                    raise ConnectionError("Redis does not answer any more")
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def driver() -> Any:
    """Return the module redis.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import redis
        import redis.asyncio
    except ImportError:
        raise ConfigurationError("RedisSessions needs redis: pip install bbio[redis]") from None
    return redis


class RedisSessions(Sessions):
    """Keeps sessions in Redis or Valkey (extra `redis`). See `Sessions`.

    Other processes hear at once of what has ended. Whoever may write there may log in as anybody, so it must be within
    reach of the application alone. A session lasts as long as Redis keeps its data.

    Parameters:
        url: the URL of Redis, such as `redis://127.0.0.1:6379/0`.
        prefix: the beginning of all its keys.
        options: those of `Sessions` but its `store`.

    Raises:
        ConfigurationError: the package redis is not installed.

    Example:
        `sessions = RedisSessions("redis://127.0.0.1:6379/0")`
    """

    def __init__(self, url: str, *, prefix: str = "bbio:sessions:", **options: Any) -> None:
        driver()
        super().__init__(RedisSessionStore(url, options.get("timeout", 5.0), prefix), **options)
