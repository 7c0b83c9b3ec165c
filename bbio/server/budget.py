"""The time of the event loop that a connection may use before the others' turn, and the packets that it may send.

Every connection has a `Budget` of time. What it sends is handled in pieces; once its share is used, the rest waits,
nothing more is read from it, and it rests for a multiple of what it has used: longer, the more connections rest. So
all that are over their share together get a part of the loop, in turns, and who sends little never waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bbio.server.batch import WriteBatch

# Seconds of the loop that a connection may use in one go.
SHARE_SECONDS = 0.002
# Seconds that it rests for each that it has used.
REST = 4
SPENT_SECONDS = REST * SHARE_SECONDS
# What takes longer counts as so many seconds: another program, or a blocking layer, is no fault of the client's.
LONGEST_SECONDS = 0.025
# A piece of work that cannot be interrupted, and keeps the processor busy for longer than this, is paid for by a rest
# that grows with the square of it: what waits behind such pieces must be few of all that others send.
LONG_SECONDS = 0.01
# What is worked for longer counts as so many seconds.
LONGEST_WORK_SECONDS = 0.1
# So many bytes are parsed before a connection's time is looked at: about 600 of the smallest frames.
PIECE_BYTES = 4_096
# As few, once they have taken long; as many for a new connection, which may begin with requests that take long.
SMALLEST_PIECE_BYTES = 64
FIRST_PIECE_BYTES = 256
# The price, in seconds, of a packet that the library handles in tasks, whose time cannot be told from waiting.
PACKET_SECONDS = 0.000_05
# The price of joining or leaving a namespace.
JOIN_SECONDS = 0.000_2
# Times the packets of a second after which a connection is closed: until then they are refused, or wait their turn.
FLOOD = 3

Clock = Callable[[], float]


class Flooded(Exception):
    """A connection has gone on sending after its packets were refused."""


class Rate:
    """Counts the packets of a connection by the second.

    Parameters:
        most: packets in a second.
        clock: seconds, never going back.
    """

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._second = clock()
        self._counted = 0

    def count(self) -> float:
        """Count one packet; the seconds until more are welcome come back, 0 while they are.

        Raises:
            Flooded: there were `FLOOD` times as many within this second.
        """
        self._counted += 1
        return self._over() if self._counted > self._most else 0.0

    def _over(self) -> float:
        now = self._clock()
        left = 1.0 - (now - self._second)
        if left <= 0:
            self._second = now
            self._counted = 1
            return 0.0
        if self._counted > FLOOD * self._most:
            raise Flooded(f"more than {FLOOD} times {self._most} packets in a second")
        return left


class Resting:
    """The number of resting connections of a server. The more connections rest, the longer each rests."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Budget:
    """The time that one connection may take.

    Parameters:
        resting: what it shares with the other connections of its server.
        clock: seconds, never going back.
        processor: seconds that the processor has worked for this thread.
    """

    __slots__ = ("_resting", "begun", "clock", "is_fresh", "paid", "processor")

    def __init__(self, resting: Resting, clock: Clock = time.perf_counter, processor: Clock = time.thread_time) -> None:
        self._resting = resting
        self.clock = clock
        self.processor = processor
        # When all that it has used is paid for by rest.
        self.paid = self.begun = clock()
        # Nothing of the piece of its input that was begun last has been handled yet.
        self.is_fresh = True

    def begin(self, now: float) -> None:
        """Begin a piece of its input."""
        self.begun = now
        self.is_fresh = True

    def is_used(self) -> bool:
        """Return whether the piece that is being handled has taken the share."""
        return self.clock() - self.begun > SHARE_SECONDS

    def is_spent(self, now: float) -> bool:
        """Return whether the connection must rest."""
        return self.paid - now > SPENT_SECONDS

    def charge(self, begun: float, ended: float) -> None:
        """Charge it for work of its own, by the clock."""
        used, paid = ended - begun, self.paid
        self.paid = (paid if paid > ended else ended) + REST * min(used, LONGEST_SECONDS)

    def charge_work(self, begun: float, ended: float, worked: float) -> None:
        """Charge it for work that may have been long.

        Parameters:
            begun: when it began, by the clock.
            ended: when it ended.
            worked: seconds that the processor worked for it: no other program's are among them.
        """
        self.charge(begun, ended)
        if worked > LONG_SECONDS:
            worked = min(worked, LONGEST_WORK_SECONDS)
            self.paid += REST * worked * (worked / LONG_SECONDS - 1)

    def spend(self, seconds: float) -> None:
        """Charge it a price."""
        now = self.clock()
        self.charge(now - seconds, now)

    def begin_rest(self) -> float:
        """Begin a rest and return its seconds; `end_rest` must follow."""
        self._resting.count += 1
        return max(0.0, self.paid - self.clock()) * self._resting.count

    def end_rest(self) -> None:
        """End the rest."""
        self._resting.count -= 1

    async def take_turn(self) -> None:
        """Wait until it may go on; at once while its share is not used."""
        if self.is_spent(self.clock()):
            try:
                await asyncio.sleep(self.begin_rest())
            finally:
                self.end_rest()


def next_piece(size: int, used: float) -> int:
    """Return how many bytes to handle at once after a piece of so many bytes has taken so many seconds."""
    if used > SHARE_SECONDS:
        return max(SMALLEST_PIECE_BYTES, size // 4)
    return min(PIECE_BYTES, 2 * size)


class BudgetedParser:
    """A parser of incoming data, within a budget, around which writes are held back.

    Parameters:
        parser: aiohttp's parser of websocket frames.
        batch: what is written after what has arrived is handled.
        budget: the connection's.
        protocol: aiohttp's protocol of the connection.
        is_full: whether aiohttp wants no more to be read, since its queue is full.
    """

    __slots__ = (
        "_batch",
        "_budget",
        "_clock",
        "_feed",
        "_feed_eof",
        "_is_full",
        "_piece",
        "_protocol",
        "_quick",
        "_rest",
        "_timer",
    )

    def __init__(
        self, parser: Any, batch: WriteBatch, budget: Budget, protocol: Any, is_full: Callable[[], bool] = lambda: False
    ) -> None:
        self._feed = parser.feed_data
        self._feed_eof = parser.feed_eof
        self._batch = batch
        self._budget = budget
        self._clock = budget.clock
        self._protocol = protocol
        self._is_full = is_full
        # How many bytes are parsed before the time is looked at, and how many go without one at the processor:
        # none once such a chunk has taken long, as the end of a large frame may.
        self._piece = self._quick = FIRST_PIECE_BYTES
        # What has arrived and must wait; while there is some nothing is read.
        self._rest = b""
        self._timer: asyncio.TimerHandle | None = None

    def feed_data(self, data: bytes) -> Any:
        """Parse, and handle what is complete; what is over the budget waits."""
        # Written out, since each connection that sends little pays for every line of it.
        budget, clock, batch = self._budget, self._clock, self._batch
        begun = clock()
        if budget.paid - begun > SPENT_SECONDS or len(data) > self._quick or self._timer is not None:
            return self._take(data)
        budget.begun, budget.is_fresh = begun, True
        batch.holding = True
        try:
            return self._feed(data)
        finally:
            ended, paid = clock(), budget.paid
            used = ended - begun
            if used < SHARE_SECONDS:
                budget.paid = (paid if paid > ended else ended) + REST * used
            else:
                budget.charge(begun, ended)
                self._piece = next_piece(self._piece, used)
                self._quick = 0 if used > LONG_SECONDS else min(self._quick, self._piece)
            batch.release()

    def feed_eof(self) -> Any:
        """The connection has ended: nobody waits for what rests."""
        if self._timer is not None:
            self._timer.cancel()
            self._end_rest()
            self._rest = b""
        return self._feed_eof()

    def _take(self, data: bytes) -> Any:
        """Handle as many pieces as the budget allows, and keep the others."""
        self._rest += data
        if self._timer is not None:
            self._pause()  # aiohttp has begun to read again, as its queue is empty
            return False, b""
        result: Any = (False, b"")
        rest, at = self._rest, 0
        budget, batch = self._budget, self._batch
        batch.holding = True
        try:
            begun, worked = budget.clock(), budget.processor()
            while at < len(rest) and not result[0] and not budget.is_spent(begun):
                budget.begin(begun)
                result = self._feed(rest[at : at + self._piece])
                at += self._piece
                ended, working = budget.clock(), budget.processor()
                budget.charge_work(begun, ended, working - worked)
                self._piece = next_piece(self._piece, ended - begun)
                self._quick = self._quick and self._piece
                begun, worked = ended, working
        finally:
            batch.release()
        self._rest = b"" if result[0] else rest[at:]
        if self._rest:
            self._pause()
            self._timer = asyncio.get_running_loop().call_later(budget.begin_rest(), self._go_on)
        return result

    def _go_on(self) -> None:
        self._end_rest()
        ended, _ = self._take(b"")
        if ended:
            self._protocol.close()
        transport = self._protocol.transport
        if self._timer is None and transport is not None and not transport.is_closing() and not self._is_full():
            transport.resume_reading()

    def _end_rest(self) -> None:
        self._timer = None
        self._budget.end_rest()

    def _pause(self) -> None:
        transport = self._protocol.transport
        if transport is not None and not transport.is_closing():
            transport.pause_reading()
