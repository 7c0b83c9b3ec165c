"""A budget of time for a connection whose frames a library handles, in tasks of its own."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from bbio.server.budget import FIRST_PIECE_BYTES, SHARE_SECONDS, Budget, next_piece


def put_before(transport: asyncio.Transport, budget: Budget) -> Budget:
    """Put a turnstile before the protocol of a connection, unless an earlier request has; return the budget of it."""
    turnstile = transport.get_protocol()
    if not isinstance(turnstile, Turnstile):
        turnstile = Turnstile(transport, budget)
        transport.set_protocol(turnstile)
    return turnstile.budget


class Turnstile(asyncio.Protocol):
    """Stands between a transport and the protocol behind it: what arrives goes on in pieces, within a budget.

    A piece costs what the protocol takes to handle it, and what the tasks take that it has woken, in their first turn.

    Parameters:
        transport: the connection.
        budget: the connection's.
    """

    def __init__(self, transport: asyncio.Transport, budget: Budget) -> None:
        self._transport = transport
        self.budget = budget
        self._loop = asyncio.get_running_loop()
        behind = cast(Any, transport.get_protocol())
        self._pass_on = behind.data_received
        self._connection_lost = behind.connection_lost
        for name in ("eof_received", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(behind, name))
        # What has arrived and must wait.
        self._rest = b""
        # Whether a piece is being handled.
        self._is_busy = False
        # Whether the protocol behind it wanted no more after the last piece.
        self._is_full = False
        self._begun = self._worked = 0.0
        # How many bytes are passed on at once, and what passing on the last ones has taken.
        self._piece = FIRST_PIECE_BYTES
        self._used = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Pass on a piece; what is over it, or over the budget, waits."""
        self._rest += data
        if self._is_busy or self._timer is not None:
            self._pause()
        elif self.budget.is_spent(self.budget.clock()):
            self._begin_rest(0.0)
        else:
            self._take()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended: nobody waits for what rests."""
        self._rest = b""
        if self._timer is not None:
            self._timer.cancel()
            self._end_rest()
        self._connection_lost(exc)

    def _take(self) -> None:
        """Pass on one piece, while the transport is read."""
        piece, self._rest = self._rest[: self._piece], self._rest[self._piece :]
        self._is_busy = True
        # One before and one behind the tasks that wait for what is passed on.
        self._loop.call_soon(self._begin)
        begun, worked = self.budget.clock(), self.budget.processor()
        self._pass_on(piece)
        ended = self.budget.clock()
        self.budget.charge_work(begun, ended, self.budget.processor() - worked)
        self._used = ended - begun
        self._is_full = not self._transport.is_reading()
        self._loop.call_soon(self._end)
        if self._rest:
            self._pause()

    def _begin(self) -> None:
        self._begun, self._worked = self.budget.clock(), self.budget.processor()

    def _end(self) -> None:
        budget = self.budget
        ended = budget.clock()
        budget.charge_work(self._begun, ended, budget.processor() - self._worked)
        self._piece = next_piece(self._piece, self._used + ended - self._begun)
        self._is_busy = False
        if not self._rest:
            return
        if budget.is_spent(ended):
            self._begin_rest(0.0)
        else:
            self._go_on()

    def _pause(self) -> None:
        if self._transport.is_reading():
            self._is_full = False  # or it has begun to read again
            self._transport.pause_reading()

    def _begin_rest(self, longer: float) -> None:
        self._pause()
        self._timer = self._loop.call_later(self.budget.begin_rest() + longer, self._rested)

    def _end_rest(self) -> None:
        self._timer = None
        self.budget.end_rest()

    def _rested(self) -> None:
        self._end_rest()
        self._go_on()

    def _go_on(self) -> None:
        transport = self._transport
        if self._is_full and not transport.is_reading():
            self._begin_rest(SHARE_SECONDS)  # it has enough to do
        elif not transport.is_closing():
            transport.resume_reading()
            self._take()
