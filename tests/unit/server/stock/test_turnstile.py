"""The turnstile: what a library handles in tasks of its own goes on in pieces, in order, within a budget."""

import asyncio

import pytest

from bbio.server.budget import (
    FIRST_PIECE_BYTES,
    LONG_SECONDS,
    LONGEST_SECONDS,
    PIECE_BYTES,
    REST,
    SHARE_SECONDS,
    SMALLEST_PIECE_BYTES,
    Budget,
    Resting,
)
from bbio.server.stock.turnstile import put_before
from tests.support.clock import Clock


class Loop:
    """The running loop, whose timers are left to the test."""

    def __init__(self):
        self.call_soon = asyncio.get_running_loop().call_soon

    def call_later(self, seconds, go_on):
        return asyncio.get_running_loop().call_later(3600, go_on)


class Transport:
    """A connection that notes whether it is read."""

    def __init__(self, protocol):
        self.protocol, self.reading, self.closing = protocol, True, False

    def get_protocol(self):
        return self.protocol

    def set_protocol(self, protocol):
        self.protocol = protocol

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def is_reading(self):
        return self.reading and not self.closing

    def is_closing(self):
        return self.closing


class Library:
    """A protocol whose task is woken by what arrives: both take some time."""

    def __init__(self, arriving=0.0, woken=0.0, works=False):
        self.clock = Clock()
        self.processor = self.clock if works else Clock()
        self.budget = Budget(Resting(), self.clock, self.processor)
        self.arriving, self.woken, self.taken, self.lost, self.full = arriving, woken, [], False, False
        self.transport = Transport(self)
        put_before(self.transport, self.budget)
        self.turnstile = self.transport.protocol
        self.turnstile._loop = Loop()

    def data_received(self, data):
        self.taken.append(data)
        self.clock.now += self.arriving
        asyncio.get_running_loop().call_soon(self.work)
        if self.full:
            self.transport.pause_reading()

    def work(self):
        self.clock.now += self.woken

    def connection_lost(self, exc):
        self.lost = True

    def eof_received(self):
        return None

    def pause_writing(self):
        pass

    resume_writing = pause_writing

    async def settle(self):
        """Have the loop run what is due."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def rest(self):
        """Let the time pass that it has to rest, and have it go on."""
        self.turnstile._timer.cancel()
        self.clock.now = max(self.clock.now, self.budget.paid)
        self.turnstile._rested()
        await self.settle()


def numbered(pieces):
    """Data of so many pieces, each unlike the others."""
    return b"".join(bytes([n]) * PIECE_BYTES for n in range(pieces))


@pytest.fixture
def alike(monkeypatch):
    """Pieces that are all of one size."""
    monkeypatch.setattr("bbio.server.stock.turnstile.FIRST_PIECE_BYTES", PIECE_BYTES)
    monkeypatch.setattr("bbio.server.stock.turnstile.next_piece", lambda size, used: size)


@pytest.mark.parametrize("took", ["arriving", "woken"])
async def test_the_longer_a_piece_takes_the_fewer_bytes_are_passed_on_at_once(took):
    """Whether it is the library that has taken long, or a task that it has woken."""
    library = Library(**{took: SHARE_SECONDS * 2})
    library.turnstile.data_received(numbered(1))
    await library.settle()
    await library.rest()
    setattr(library, took, 0.0)
    while library.turnstile._timer is not None:
        await library.rest()
    sizes = [len(piece) for piece in library.taken]
    assert sizes[:4] == [FIRST_PIECE_BYTES, FIRST_PIECE_BYTES // 4, SMALLEST_PIECE_BYTES, 2 * SMALLEST_PIECE_BYTES]
    assert b"".join(library.taken) == numbered(1)


@pytest.mark.parametrize("where", ["arriving", "woken"])
async def test_what_is_over_the_share_waits_and_nothing_more_is_read(alike, where):
    """Where the library's time goes is the same: where the data arrives, or in the task that it wakes."""
    library = Library(**{where: SHARE_SECONDS / 2})
    data = numbered(8)
    library.transport.protocol.data_received(data)
    assert (len(library.taken), library.transport.reading) == (1, False)
    await library.settle()
    turns = [len(library.taken)]
    assert library.budget._resting.count == 1
    while library.turnstile._timer is not None:
        await library.rest()
        turns.append(len(library.taken))
    assert turns == [3, 6, 8]
    assert b"".join(library.taken) == data
    assert (library.transport.reading, library.budget._resting.count) == (True, 0)


@pytest.mark.parametrize("where", ["arriving", "woken"])
async def test_a_long_piece_of_work_is_paid_for_by_its_square(where):
    """Where the data arrives, and in the task that it wakes."""
    library = Library(**{where: 2 * LONG_SECONDS}, works=True)
    library.turnstile.data_received(b"x")
    await library.settle()
    assert library.budget.paid - library.clock.now == pytest.approx(4 * REST * LONG_SECONDS)


async def test_what_others_do_in_the_same_round_is_not_charged():
    """The tasks that are due before and behind those that were woken are of other connections."""
    woken = SHARE_SECONDS / 10
    library = Library(woken=woken)

    def others():
        library.clock.now += 1.0

    asyncio.get_running_loop().call_soon(others)
    library.turnstile.data_received(b"x")
    asyncio.get_running_loop().call_soon(others)
    await library.settle()
    assert library.budget.paid == pytest.approx(101.0 + (1 + REST) * woken)


async def test_small_chunks_are_counted_together():
    """Many of them are no way around the budget; what comes while the connection rests keeps its order."""
    library = Library(woken=2 * SHARE_SECONDS)
    for n in range(5):
        library.turnstile.data_received(b"%d" % n)
    await library.settle()
    assert (library.taken, library.transport.reading) == ([b"0"], False)
    await library.rest()
    library.turnstile.data_received(b"more")
    await library.rest()
    assert b"".join(library.taken) == b"01234more"


async def test_who_has_used_its_share_waits_before_the_next_chunk():
    """Even when nothing was left over."""
    library = Library(woken=10.0)
    library.turnstile.data_received(b"a")
    await library.settle()
    assert library.budget.paid - library.clock.now == pytest.approx(REST * LONGEST_SECONDS)
    library.turnstile.data_received(b"b")
    assert (library.taken, library.transport.reading) == ([b"a"], False)
    await library.rest()
    assert (library.taken, library.transport.reading) == ([b"a", b"b"], True)


async def test_nothing_goes_on_while_the_library_wants_no_more(alike):
    """It says when, by reading again: then it has all the rest, and is left to read or not."""
    library = Library()
    library.full = True
    library.turnstile.data_received(numbered(3))
    await library.settle()
    assert (len(library.taken), library.transport.reading) == (1, False)
    await library.rest()
    assert (len(library.taken), library.transport.reading) == (1, False)
    library.full = False
    library.transport.resume_reading()
    await library.rest()
    assert (len(library.taken), library.transport.reading) == (3, True)


async def test_the_library_may_read_again_before_the_rest_has_begun(alike):
    """That it was full is not remembered then: the connection would stand still for ever."""
    library = Library(woken=SHARE_SECONDS * 2)
    library.full = True
    asyncio.get_running_loop().call_soon(library.transport.resume_reading)
    library.turnstile.data_received(numbered(2))
    library.full = False
    await library.settle()
    await library.rest()
    assert (len(library.taken), library.transport.reading) == (2, True)


@pytest.mark.parametrize("woken", [0.0, 1.0])
async def test_a_connection_that_ends(woken):
    """Nobody waits for the rest of it, and it rests no more."""
    library = Library(woken=woken)
    library.turnstile.data_received(numbered(9))
    if woken:
        await library.settle()
        assert library.turnstile._timer is not None
    library.transport.closing = True
    library.turnstile.connection_lost(None)
    await library.settle()
    assert library.lost
    assert (len(library.taken), library.turnstile._timer, library.budget._resting.count) == (1, None, 0)
    assert library.turnstile._rest == b""


async def test_a_connection_has_one_turnstile():
    """However many requests on it ask for a websocket, and are refused."""
    library = Library()
    put_before(library.transport, library.budget)
    assert library.transport.protocol is library.turnstile


async def test_a_connection_that_is_closing_is_passed_nothing():
    """Before the loop has said that it is lost."""
    library = Library(woken=1.0)
    library.turnstile.data_received(numbered(9))
    await library.settle()
    library.transport.closing = True
    await library.rest()
    assert len(library.taken) == 1
