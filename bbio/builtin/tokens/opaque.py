"""Opaque tokens, which only a function of the application can check; its answers are remembered for a while."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

from bbio import ConfigurationError, SyncError, Unauthorized, Unavailable
from bbio.builtin.tokens.signed import BAD_TOKEN
from bbio.identity import is_time
from bbio.ratelimit import RateLimitedLog
from bbio.requests import Socket

logger = logging.getLogger("bbio")

# Answers that are remembered.
MAX_ANSWERS = 10_000
# How often it is asked for one request, where users are revoked meanwhile.
MOST_ATTEMPTS = 3
# Seconds that the function may take.
VERIFY_SECONDS = 10.0

Answer = tuple[Any, float | None] | None
# An answer, until when it is believed, and when it was asked for.
Remembered = tuple[Answer, float, float]
Verify = Callable[[str], Answer | Awaitable[Answer]]


class OpaqueTokens:
    """Checks tokens with a function of the application.

    Parameters:
        verify: returns the user and the end, in seconds since 1970 or None for never; None for a token that is not
            valid. It may be async.
        cache_seconds: seconds for which an answer is remembered.
    """

    def __init__(self, verify: Verify, cache_seconds: float) -> None:
        self._verify = verify
        self._cache_seconds = cache_seconds
        # By the hash of the token: what is no more needed is no token that somebody could find in memory.
        self._answers: dict[bytes, Remembered] = {}
        self._asking: dict[bytes, asyncio.Task[Answer]] = {}
        self._log = RateLimitedLog(logger)

    async def check(self, token: str, socket: Socket) -> tuple[Any, float | None, float]:
        """Return the user of a token, when it ends, and until when that is to be believed.

        Parameters:
            token: the token.
            socket: who shows it. An answer that was asked for before a revocation is asked for again.

        Raises:
            Unauthorized: it is not valid.
            Unavailable: the function cannot say it at the moment.
        """
        key = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._answers.get(key)
        for _ in range(MOST_ATTEMPTS):
            now = socket.now()
            if known is not None and known[1] > now and known[2] > socket.revoked_at:
                break
            answer = await self._ask(key, token)
            known = self._remember(key, answer, now)
            if now > socket.revoked_at:
                break
        else:
            raise Unavailable("tokens cannot be checked at the moment", retry_after=1.0)
        answer, fresh_until, _ = known
        if answer is None:
            raise Unauthorized(BAD_TOKEN)
        user, end = answer
        if end is not None and end <= now:
            raise Unauthorized("the token has expired", expired=True)
        return user, end, fresh_until

    def _remember(self, key: bytes, answer: Answer, now: float) -> Remembered:
        self._answers.pop(key, None)
        known = self._answers[key] = (answer, now + self._cache_seconds, now)
        if len(self._answers) > MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]
        return known

    async def _ask(self, key: bytes, token: str) -> Answer:
        """Ask the function, once for all who ask for the same token meanwhile."""
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.get_running_loop().create_task(self._ask_now(token))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _ask_now(self, token: str) -> Answer:
        verify: Callable[[str], Any] = self._verify
        try:
            async with asyncio.timeout(VERIFY_SECONDS):
                if inspect.iscoroutinefunction(verify):
                    answer = await verify(token)
                else:  # it may block, and it may be an object that returns a coroutine
                    answer = await asyncio.to_thread(verify, token)
                    answer = await answer if inspect.isawaitable(answer) else answer
        except (SyncError, ConfigurationError):
            raise
        except Exception as err:
            self._log.error(err, "the function that checks tokens failed")
            raise Unavailable("tokens cannot be checked at the moment", retry_after=1.0) from None
        if answer is not None and not _is_answer(answer):
            raise ConfigurationError("the function of Token(verify=...) returns (user, end), or None for a bad token")
        return cast("Answer", answer)

    async def close(self) -> None:
        """Ask no more, and forget all answers."""
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        self._answers.clear()


def _is_answer(answer: Any) -> bool:
    if not isinstance(answer, tuple) or len(answer) != 2:
        return False
    user, end = answer
    return user is not None and (end is None or is_time(end))
