"""Long work in memory, done in steps between which others have their turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from bbio.errors import Timeout

# How long one step may take, in seconds.
STEP_SECONDS = 0.002
# How long the first one may take while other work takes turns: many may begin in one turn of the loop.
FIRST_SECONDS = 0.000_2

A = TypeVar("A")
T = TypeVar("T")
# Work that yields wherever it may be interrupted, and returns what has come of it.
Steps = Generator[None, None, T]


class Turns:
    """The turns of long work: one step at a time, and after each as long for everybody else.

    Attributes:
        count: how much long work goes on at the moment.
    """

    count = 0
    _next = 0.0

    @classmethod
    def begin(cls) -> None:
        """Long work begins to take turns; `end` must follow."""
        cls.count += 1

    @classmethod
    def end(cls) -> None:
        """Long work takes no more turns."""
        cls.count -= 1
        if not cls.count:
            cls._next = 0.0

    @classmethod
    def pause(cls, now: float) -> float:
        """Take the next turn that is free, and return the seconds until then: never two at the same time."""
        turn = max(now + STEP_SECONDS, cls._next)
        cls._next = turn + 2 * STEP_SECONDS
        return turn - now


def run(steps: Steps[T]) -> T:
    """Do work to its end at once."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result


def call_each(function: Callable[[A], T], items: Iterable[A]) -> Steps[list[T]]:
    """Call a function with each of some items, one in a step, and return what came of them."""
    results = []
    for item in items:
        results.append(function(item))
        yield
    return results


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
    until = begun + (FIRST_SECONDS if Turns.count else STEP_SECONDS)
    waited = False
    try:
        while True:
            next(steps)
            now = clock()
            if now > until:
                if now - begun > seconds:
                    raise Timeout(f"the query took longer than {seconds:g} seconds; ask for less at once")
                if not waited:
                    waited = True
                    Turns.begin()
                await asyncio.sleep(Turns.pause(now))
                until = clock() + STEP_SECONDS
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()
        if waited:
            Turns.end()
