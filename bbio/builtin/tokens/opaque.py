"""Opaque tokens, which only a function of the application can check; its answers are remembered for a while."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from bbio import ConfigurationError, SyncError, Unauthorized, Unavailable
from bbio.builtin.tokens.signed import BAD_TOKEN
from bbio.identity import is_seconds
from bbio.ratelimit import RateLimitedLog

logger = logging.getLogger("bbio")

# Answers that are remembered.
MAX_ANSWERS = 10_000
# Seconds that the function may take.
VERIFY_SECONDS = 10.0

# How often identities had been revoked, and the hash of the token.
Asked = tuple[int, bytes]
Answer = tuple[Any, float | None] | None
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
        self._answers: dict[Asked, tuple[Answer, float]] = {}
        self._asking: dict[Asked, asyncio.Task[Answer]] = {}
        self._log = RateLimitedLog(logger)

    async def check(self, token: str, now: float, revocations: int = 0) -> tuple[Any, float | None, float]:
        """Return the user of a token, when it ends, and until when that is to be believed.

        Parameters:
            token: the token.
            now: seconds since 1970.
            revocations: how often identities were revoked: answers of before the last time are not used any more.

        Raises:
            Unauthorized: it is not valid.
            Unavailable: the function cannot say it at the moment.
        """
        key = revocations, hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._answers.get(key)
        if known is None or known[1] <= now:
            answer = await self._ask(key, token)
            known = self._remember(key, answer, now + self._cache_seconds)
        answer, fresh_until = known
        if answer is None:
            raise Unauthorized(BAD_TOKEN)
        user, end = answer
        if end is not None and end <= now:
            raise Unauthorized("the token has expired", expired=True)
        return user, end, fresh_until

    def _remember(self, key: Asked, answer: Answer, until: float) -> tuple[Answer, float]:
        self._answers.pop(key, None)
        known = self._answers[key] = (answer, until)
        if len(self._answers) > MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]
        return known

    async def _ask(self, key: Asked, token: str) -> Answer:
        """Ask the function, once for all who ask for the same token meanwhile."""
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.get_running_loop().create_task(self._ask_now(token))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _ask_now(self, token: str) -> Answer:
        try:
            async with asyncio.timeout(VERIFY_SECONDS):
                # A plain function may wait for its issuer, which is not to hold up everybody.
                is_async = inspect.iscoroutinefunction(self._verify)
                answer = self._verify(token) if is_async else await asyncio.to_thread(self._verify, token)
                answer = await answer if inspect.isawaitable(answer) else answer
        except (SyncError, ConfigurationError):
            raise
        except Exception as err:
            self._log.error(err, "the function that checks tokens failed")
            raise Unavailable("tokens cannot be checked at the moment", retry_after=1.0) from None
        if answer is not None and not (isinstance(answer, tuple) and len(answer) == 2 and answer[0] is not None):
            raise ConfigurationError("the function of Token(verify=...) returns (user, end), or None for a bad token")
        if answer is not None and answer[1] is not None and not is_seconds(answer[1]):
            raise ConfigurationError(
                f"the function of Token(verify=...) returns the end {answer[1]!r}: give seconds since 1970, or None"
            )
        return answer

    async def close(self) -> None:
        """Ask no more, and forget all answers."""
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        self._answers.clear()
