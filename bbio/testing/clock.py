"""A clock that stands still until it is turned."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Timer:
    """A call to come."""

    __slots__ = ("args", "callback", "cancelled", "when")

    def __init__(self, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.when = when
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        """Do not make it."""
        self.cancelled = True


class Clock:
    """Calls functions later, as an event loop does, but in its own time.

    Parameters:
        wound: a function to call when there is one more call to come.

    Example:
        >>> clock = Clock()
        >>> timer = clock.call_later(5, print, "now")
        >>> clock.turn()
        now
        True
        >>> clock.time(), clock.turn()
        (5.0, False)
    """

    def __init__(self, wound: Callable[[], None] = lambda: None) -> None:
        self._wound = wound
        self._now = 0.0
        self._count = itertools.count()
        self._timers: list[tuple[float, int, Timer]] = []

    def time(self) -> float:
        """Seconds since it was made."""
        return self._now

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer:
        """Call `callback(*args)` after `delay` seconds of this clock.

        Returns: a timer, whose `cancel()` prevents the call.
        """
        timer = Timer(self._now + delay, callback, args)
        heapq.heappush(self._timers, (timer.when, next(self._count), timer))
        self._wound()
        return timer

    @property
    def next(self) -> float | None:
        """The time of the next call; None when there is none."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def turn(self) -> bool:
        """Go to the next call and make it; return False when there is none."""
        if self.next is None:
            return False
        self._now, _, timer = heapq.heappop(self._timers)
        timer.callback(*timer.args)
        return True
