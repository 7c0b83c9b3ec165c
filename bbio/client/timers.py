"""Calls to come that belong to one connection, and are forgotten together when it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bbio.client.transport import Clock


class Timers:
    """The calls to come of one connection.

    Parameters:
        clock: calls later.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending: set[Pending] = set()

    def later(self, pause: float, callback: Callable[..., None], *args: Any) -> Pending:
        """Call `callback(*args)` after `pause` seconds, unless the connection ends before."""
        return Pending(self._pending, self._clock, pause, callback, args)

    def forget(self) -> None:
        """Cancel all calls."""
        for pending in list(self._pending):
            pending.cancel()


class Pending:
    """A call to come."""

    __slots__ = ("_args", "_callback", "_others", "_timer")

    def __init__(
        self, others: set[Pending], clock: Clock, pause: float, callback: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        self._others = others
        self._callback = callback
        self._args = args
        others.add(self)
        self._timer = clock.call_later(pause, self._call)

    def _call(self) -> None:
        self._others.discard(self)
        self._callback(*self._args)

    def cancel(self) -> None:
        """Do not make the call."""
        self._others.discard(self)
        self._timer.cancel()
