"""Threads for layers that block: so many at most, and so many calls that wait for one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any

from bbio.errors import Busy
from bbio.ratelimit import RateLimitedLog

MAX_THREADS = 32
MAX_WAITING_CALLS = 1_000
# Of the threads, the part that there is besides for layers of calls within so many calls each.
NESTED_SHARE = 4

# The calls of the server's own code that the running code is within, outermost first.
OUTER_CALLS: ContextVar[tuple[Any, ...]] = ContextVar("bbio_calls", default=())

logger = logging.getLogger("bbio")
failures = RateLimitedLog(logger)


class Threads:
    """Runs functions that block.

    Parameters:
        count: how many threads there may be.
    """

    def __init__(self, count: int = MAX_THREADS) -> None:
        self._count = count
        # By how many calls the layer is within: its thread may wait for threads of calls further within alone.
        self._executors: dict[int, ThreadPoolExecutor] = {}
        # Threads take out what they have done, so nothing here may need a lock.
        self._calls: set[Future[Any]] = set()

    def wrap(self, call: Callable[..., Any], name: str) -> Callable[..., Awaitable[Any]]:
        """A coroutine function that calls a plain one in a thread, in a copy of the caller's context.

        Parameters:
            call: the function.
            name: what the log calls it.

        Raises (when it is called):
            Busy: too many calls wait for a thread.
        """

        async def threaded(*args: Any) -> Any:
            value = await self._run(call, name, args)
            return await value if hasattr(value, "__await__") else value

        return threaded

    async def _run(self, call: Callable[..., Any], name: str, args: tuple[Any, ...]) -> Any:
        if len(self._calls) >= self._count + MAX_WAITING_CALLS:
            raise Busy("too many requests wait for a thread", retry_after=1.0)
        depth = len(OUTER_CALLS.get())
        executor = self._executors.get(depth)
        if executor is None:
            count = self._count if not depth else max(1, self._count // NESTED_SHARE)
            executor = self._executors[depth] = ThreadPoolExecutor(count, thread_name_prefix="bbio-layer")
        given_up: list[bool] = []
        future = executor.submit(copy_context().run, _work, call, name, args, given_up)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            given_up.append(True)
            raise

    def close(self) -> None:
        """Begin nothing any more. What runs goes on: a thread cannot be ended from outside."""
        executors, self._executors = self._executors, {}
        if executors:
            for executor in executors.values():
                executor.shutdown(wait=False, cancel_futures=True)
            if self._calls:
                logger.warning("%d layers still run in threads; the process ends when they have", len(self._calls))


def _work(call: Callable[..., Any], name: str, args: tuple[Any, ...], given_up: list[bool]) -> Any:
    try:
        return call(*args)
    except Exception as err:
        if given_up:
            failures.error(err, "%s failed in its thread, after its request had been answered", name)
        if isinstance(err, StopIteration):
            raise RuntimeError(f"{name} raised StopIteration") from err  # which no future can hold
        raise
