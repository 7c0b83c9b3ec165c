"""Batches: what is written while input is being handled leaves together.

A system call and a woken-up reader cost more than most requests do. So frames wait until what has arrived is handled,
at most until the end of the event loop's round, and each connection then gets all of its frames in one write.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Waiting(Protocol):
    """A writer with something to write."""

    def flush(self) -> None:
        """Write it."""


class WriteBatch:
    """The writers that wait for the next flush. Each calls `add` when it has something new."""

    __slots__ = ("_loop", "_scheduled", "holding", "waiting")

    def __init__(self) -> None:
        self.holding = False
        self.waiting: list[Waiting] = []
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, waiting: Waiting) -> None:
        """Write this when the input at hand is handled."""
        self.waiting.append(waiting)
        if not self.holding:
            self._schedule()

    def release(self) -> None:
        """The input at hand is handled: write now, or after what else has arrived."""
        self.holding = False
        if self.waiting:
            # Where the loop does not show what it is about to run, there may be more.
            if getattr(self._loop, "_ready", True):
                self._schedule()
            else:
                self.flush()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write all that waits."""
        self._scheduled = False
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one.flush()
