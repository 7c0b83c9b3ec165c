"""The pace of what is told without being asked for: batches, and counts by the second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

# Seconds in which what is to be told becomes one batch.
BATCH_SECONDS = 0.05
# Bytes a second that one channel's batches may come to. Where they are more, batches come less often.
BATCH_BYTES_PER_SECOND = 64_000_000
# What one recipient of a batch costs, besides its bytes, as so many bytes.
RECIPIENT_BYTES = 2_000


class Timer(Protocol):
    """A call to come."""

    def cancel(self) -> None:
        """Do not make it."""


class Clock(Protocol):
    """A clock that calls later."""

    def time(self) -> float:
        """Return the seconds since some moment."""

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer:
        """Call `callback(*args)` after `delay` seconds."""


class LoopClock:
    """The clock of the running event loop."""

    def time(self) -> float:
        """Return the loop's seconds."""
        return asyncio.get_running_loop().time()

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer:
        """Call `callback(*args)` after `delay` seconds."""
        return asyncio.get_running_loop().call_later(delay, callback, *args)


def pause_after(recipients: int, size: int) -> float:
    """Return the seconds from one batch to the next.

    Parameters:
        recipients: how many were told.
        size: the bytes that each was told.

    Example:
        >>> pause_after(100, 1_000), pause_after(10_000, 1_000)
        (0.05, 0.46875)
    """
    return max(BATCH_SECONDS, recipients * (size + RECIPIENT_BYTES) / BATCH_BYTES_PER_SECOND)


class PerSecond:
    """A count that begins anew each second.

    Parameters:
        most: how many are welcome in a second.
        clock: the clock.
    """

    __slots__ = ("_clock", "_counted", "_most", "_second")

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._second = clock.time()
        self._counted = 0

    def count(self) -> float:
        """Count one more; return the seconds until it would be welcome, 0 if it is now."""
        now = self._clock.time()
        if now - self._second >= 1.0:
            self._second, self._counted = now, 0
        self._counted += 1
        return 0.0 if self._counted <= self._most else 1.0 - (now - self._second)
