"""Budgets: what a connection sends is handled in turns, in order, and who sends far too much is closed."""

import pytest

from bbio.server import budget as budgets
from bbio.server.batch import WriteBatch
from bbio.server.budget import (
    FIRST_PIECE_BYTES,
    FLOOD,
    LONG_SECONDS,
    LONGEST_SECONDS,
    LONGEST_WORK_SECONDS,
    PIECE_BYTES,
    REST,
    SHARE_SECONDS,
    SMALLEST_PIECE_BYTES,
    Budget,
    BudgetedParser,
    Flooded,
    Rate,
    Resting,
)
from tests.support.clock import Clock
from tests.support.servers import eventually


class Transport:
    """Notes whether it is read."""

    def __init__(self):
        self.is_read = True
        self.closing = False

    def pause_reading(self):
        self.is_read = False

    def resume_reading(self):
        self.is_read = True

    def is_closing(self):
        return self.closing


class Connection:
    """A protocol of aiohttp's, and the parser of what comes over it: each piece takes some time."""

    def __init__(self, seconds=0.0):
        self.clock, self.transport = Clock(), Transport()
        self.processor = Clock()
        self.budget = Budget(Resting(), self.clock, self.processor)
        self.seconds, self.taken, self.full, self.closed, self.failed = seconds, [], False, False, False
        self.parser = BudgetedParser(self, WriteBatch(), self.budget, self, lambda: self.full)

    def feed_data(self, data):
        self.taken.append(data)
        self.clock.now += self.seconds
        return (True, data) if self.failed else (False, b"")

    def feed_eof(self):
        return "ended"

    def close(self):
        self.closed = True

    def rest(self):
        """Let the time pass that it has to rest, and have it go on."""
        timer = self.parser._timer
        timer.cancel()
        self.clock.now = max(self.clock.now, self.budget.paid)
        self.parser._go_on()


def numbered(pieces):
    """Data of so many pieces, each unlike the others."""
    return b"".join(bytes([n]) * PIECE_BYTES for n in range(pieces))


async def test_what_is_over_the_share_waits_and_nothing_more_is_read():
    """A large chunk is handled in pieces: so many as the share allows in each turn, in order, and then it is read."""
    connection = Connection(SHARE_SECONDS / 2)
    connection.parser._piece = PIECE_BYTES
    data = numbered(8)
    connection.parser.feed_data(data)
    turns = [len(connection.taken)]
    assert not connection.transport.is_read
    while connection.parser._timer is not None:
        connection.rest()
        turns.append(len(connection.taken))
    assert turns == [3, 6, 8]
    assert b"".join(connection.taken) == data
    assert connection.transport.is_read
    assert connection.budget._resting.count == 0


async def test_small_chunks_are_counted_together():
    """Many of them in a round are no way around the budget; what comes while the connection rests keeps its order."""
    connection = Connection(SHARE_SECONDS)
    for n in range(10):
        connection.parser.feed_data(b"%d" % n)
    assert (connection.taken, connection.transport.is_read) == ([b"0", b"1"], False)
    connection.transport.is_read = True  # as when aiohttp has begun to read again
    connection.parser.feed_data(b"more")
    assert not connection.transport.is_read
    connection.rest()
    assert b"".join(connection.taken) == b"0123456789more"


async def test_the_longer_a_piece_takes_the_fewer_bytes_are_handled_at_once():
    """Fewer after one that took more than the share, and more again after short ones, between two bounds."""
    connection = Connection(1.1 * SHARE_SECONDS)
    parser = connection.parser
    assert parser._piece == FIRST_PIECE_BYTES
    parser.feed_data(b"x")
    assert parser._piece == FIRST_PIECE_BYTES // 4
    parser.feed_data(b"y" * FIRST_PIECE_BYTES)
    connection.rest()
    assert parser._piece == SMALLEST_PIECE_BYTES
    connection.seconds = 0.0
    parser._rest += bytes(3 * PIECE_BYTES)
    connection.rest()
    assert (parser._piece, parser._rest, connection.transport.is_read) == (PIECE_BYTES, b"", True)


def test_a_new_connection_begins_with_few_requests():
    """What it sends at once is not looked at one by one, and may be the longest lists that there are."""
    head = 6
    assert FIRST_PIECE_BYTES // (head + len('42/todos,1["sync",{"method":"read"}]')) <= 6


async def test_who_sends_little_never_waits():
    """A chunk that leaves time enough between it and the next is handled where it arrives."""
    connection = Connection(SHARE_SECONDS / 10)
    for _ in range(100):
        connection.parser.feed_data(b"x")
        assert connection.parser._timer is None
        connection.clock.now += REST * SHARE_SECONDS / 10
    assert len(connection.taken) == 100


async def test_one_that_was_held_up_by_others_does_not_pay_for_all_of_it():
    """Another program may have had the processor: so much counts at most, in one chunk and in many."""
    for data in (b"x", numbered(2)):
        connection = Connection(10.0)
        connection.parser.feed_data(data)
        assert connection.budget.paid - connection.clock.now == pytest.approx(REST * LONGEST_SECONDS)
        connection.parser.feed_eof()


@pytest.mark.parametrize(
    ("seconds", "rest"),
    [
        (LONG_SECONDS, REST * LONG_SECONDS),
        (2 * LONG_SECONDS, 4 * REST * LONG_SECONDS),
        (10.0, REST * (LONGEST_SECONDS + LONGEST_WORK_SECONDS * (LONGEST_WORK_SECONDS / LONG_SECONDS - 1))),
    ],
)
async def test_a_long_piece_of_work_is_paid_for_by_its_square(seconds, rest):
    """Twice as long a piece, four times the rest; as far as the processor has worked for it, and up to a limit."""
    connection = Connection()

    def work(data):
        connection.clock.now += seconds
        connection.processor.now += seconds
        return False, b""

    connection.parser._feed = work
    connection.parser.feed_data(numbered(2))
    assert connection.budget.paid - connection.clock.now == pytest.approx(rest)
    connection.parser.feed_eof()


async def test_the_end_of_a_large_frame_is_no_way_around_it():
    """A small chunk that takes long is looked at more closely from then on, however few bytes it has."""
    connection = Connection(LONG_SECONDS * 2)
    connection.processor = connection.clock
    connection.budget.processor = connection.clock
    for rest in (2 * REST * LONG_SECONDS, 4 * REST * LONG_SECONDS, 4 * REST * LONG_SECONDS):
        connection.clock.now = connection.budget.paid
        connection.parser.feed_data(b"x")
        assert connection.budget.paid - connection.clock.now == pytest.approx(rest)
    connection.parser.feed_eof()


async def test_the_more_rest_the_longer_each_of_them_rests():
    """All that are over their share together have a part of the loop."""
    clock, resting = Clock(), Resting()
    rests = []
    for _ in range(3):
        budget = Budget(resting, clock)
        budget.charge(clock.now - 0.01, clock.now)
        rests.append(budget.begin_rest())
    assert rests == pytest.approx([0.01 * REST, 0.02 * REST, 0.03 * REST])


async def test_a_full_queue_is_not_read_to():
    """While aiohttp wants no more, it is aiohttp that begins to read again."""
    connection = Connection(SHARE_SECONDS)
    connection.parser.feed_data(numbered(3))
    connection.full = True
    while connection.parser._timer is not None:
        connection.rest()
    assert not connection.transport.is_read


async def test_a_connection_that_ends_while_it_rests():
    """Nobody waits for the rest of it, it rests no more, and a transport that is gone is left alone."""
    connection = Connection(SHARE_SECONDS)
    connection.parser.feed_data(numbered(9))
    assert connection.parser.feed_eof() == "ended"
    assert (connection.parser._timer, connection.budget._resting.count) == (None, 0)
    for closing in (True, False):
        connection = Connection(SHARE_SECONDS)
        connection.transport.closing = closing
        connection.transport = connection.transport if closing else None
        connection.parser.feed_data(numbered(3))
        connection.rest()
        assert closing is False or connection.transport.is_read


async def test_a_protocol_error_in_what_has_waited_closes_the_connection():
    """As it does where it arrives; what comes after it is let go."""
    connection = Connection(SHARE_SECONDS)
    connection.parser.feed_data(numbered(9))
    connection.failed = True
    connection.rest()
    assert (connection.closed, len(connection.taken), connection.parser._rest) == (True, 3, b"")


async def test_prices_are_paid_by_waiting(monkeypatch):
    """A turn comes at once while the share is not used, and when it is used after the rest."""
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(budgets.asyncio, "sleep", sleep)
    clock = Clock()
    budget = Budget(Resting(), clock)
    await budget.take_turn()
    for _ in range(3):
        budget.spend(SHARE_SECONDS)
    await budget.take_turn()
    assert slept == [pytest.approx(3 * REST * SHARE_SECONDS)]
    assert budget._resting.count == 0


def test_a_rate_counts_by_the_second():
    """Over it the time is told until more are welcome; many times over it the connection is flooded."""
    clock = Clock()
    rate = Rate(10, clock)
    assert [rate.count() for _ in range(10)] == [0.0] * 10
    clock.now += 0.25
    assert rate.count() == 0.75
    for _ in range(FLOOD * 10 - 11):
        assert rate.count()
    with pytest.raises(Flooded):
        rate.count()
    clock.now += 1
    assert rate.count() == 0.0


async def test_asyncio_is_left_free_between_turns():
    """With a real clock and a real timer: the rest is handled later, by itself."""
    connection = Connection()
    connection.budget = Budget(Resting())
    connection.parser = BudgetedParser(connection, WriteBatch(), connection.budget, connection)
    connection.budget.spend(2 * SHARE_SECONDS)
    connection.parser.feed_data(b"x")
    assert connection.taken == []

    async def taken():
        return connection.taken == [b"x"]

    await eventually(taken, 5)
    assert connection.transport.is_read
