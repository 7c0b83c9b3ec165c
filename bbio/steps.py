"""Long work in memory, done in steps between which others have their turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any, TypeVar

from bbio.errors import Timeout

# How long one step may take, in seconds.
STEP_SECONDS = 0.002

T = TypeVar("T")
# Work that yields wherever it may be interrupted, and returns what has come of it.
Steps = Generator[None, None, T]


class _AtWork:
    """How much work is being done in steps at the moment."""

    count = 0


def run(steps: Steps[T]) -> T:
    """Do work to its end at once."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result


async def run_in_turns(steps: Steps[T], seconds: float, clock: Any = time.perf_counter) -> T:
    """Do work in steps: short work at once, long work with pauses, so that all of it takes half of the time.

    Parameters:
        steps: the work.
        seconds: how long it may take, pauses counted.
        clock: seconds, never going back.

    Raises:
        Timeout: it took longer.
    """
    begun = clock()
    until = begun + STEP_SECONDS
    waited = 0
    try:
        while True:
            next(steps)
            now = clock()
            if now > until:
                if now - begun > seconds:
                    raise Timeout(f"the query took longer than {seconds:g} seconds; ask for less at once")
                if not waited:
                    _AtWork.count += 1
                waited += 1
                await asyncio.sleep(STEP_SECONDS * (2 * _AtWork.count - 1))
                until = clock() + STEP_SECONDS
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()
        if waited:
            _AtWork.count -= 1
