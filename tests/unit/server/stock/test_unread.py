"""What clients of the plain engine have not read: how it is counted and taken, and who is dropped for it."""

import asyncio
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from engineio.packet import MESSAGE, Packet

from bbio import Limits
from bbio.server.lag import LAGGING_BYTES, relieve
from bbio.server.memory import Addresses
from bbio.server.stock.unread import PORTION_BYTES, Packets, PlainSession


class Transport:
    """A connection whose client reads nothing."""

    def __init__(self):
        self.waiting = 0
        self.aborted = False

    def get_extra_info(self, name):
        return Mock()

    def get_write_buffer_size(self):
        return self.waiting

    def abort(self):
        self.aborted = True


class Sessions:
    """Sessions of one server, with what a client may leave unread."""

    def __init__(self, **limits):
        self.limits = Limits(**limits)
        self.addresses = Addresses(self.limits)
        self.made = []
        self.ended = []

    def make(self, *, live=True, address="a", connection=None):
        engine = SimpleNamespace(sid=f"s{len(self.made)}", upgraded=live, queue=Packets(), receive=None)
        session = PlainSession(engine, self.addresses.of(address), self.limits, None, self._end, self._relieve)
        session.connection = connection
        session.transport = Transport()
        session.comes_over(session.transport, live)
        self.made.append(session)
        return session

    def _end(self, session, reason):
        self.ended.append((session.sid, reason))

    def _relieve(self, address):
        relieve(self.made, address)

    def close(self):
        for session in self.made:
            session.ended()


@pytest.fixture
async def sessions():
    """`sessions(send_buffer=...)`: sessions that are ended after the test."""
    made = []

    def make(**limits):
        made.append(Sessions(**limits))
        return made[-1]

    yield make
    for each in made:
        each.close()


def event(size, kind="2"):
    return Packet(MESSAGE, kind + "x" * size)


def answer(size):
    return event(size, "3")


async def take_all(queue):
    """As the library does: one, and then what there is."""
    taken = [await queue.get()]
    while True:
        try:
            taken.append(queue.get_nowait())
        except asyncio.QueueEmpty:
            return taken


async def test_packets_for_a_websocket_are_taken_in_portions(sessions):
    """What was taken is written before more is: so it shows who takes nothing."""
    session = sessions().make()
    queue = session.engine.queue
    sent = [event(1_000) for _ in range(20)]
    for packet in sent:
        queue.put_nowait(packet)
    taken = []
    while len(taken) < 20:
        portion = await take_all(queue)
        assert len(portion) <= PORTION_BYTES / 1_000 + 1
        taken += portion
    assert taken == sent
    assert (queue.size, queue.answers) == (0, 0)


async def test_the_next_poll_takes_all(sessions):
    """The end among it; while its long answer may be on its way it is looked after, until there is another poll."""
    session = sessions().make(live=False)
    queue = session.engine.queue
    sent = [answer(LAGGING_BYTES // 2), event(LAGGING_BYTES // 2), answer(LAGGING_BYTES), None]
    for packet in sent:
        queue.put_nowait(packet)
    assert session.unread == session.address.held > 2 * LAGGING_BYTES
    assert await take_all(queue) == sent
    assert (session.polling, session.unread) == (True, 0)
    session.transport.waiting = 2 * LAGGING_BYTES
    session.count_unread(0)
    assert session.address.held == 2 * LAGGING_BYTES
    next_poll = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    assert (session.polling, session.lag, session.address.held) == (False, None, 0)
    queue.put_nowait(event(10))
    await next_poll
    assert session.lag is None


@pytest.mark.parametrize(("size", "ended"), [(1_900, False), (2_100, True)])
async def test_twice_the_buffer_is_the_bound(sessions, size, ended):
    """In one event and in many, whatever the client has asked for."""
    made = sessions(send_buffer=LAGGING_BYTES)
    for sizes in ([size * LAGGING_BYTES // 1_000], [size * LAGGING_BYTES // 20_000] * 20):
        session = made.make()
        for each in sizes:
            session.engine.queue.put_nowait(answer(each))
        for each in sizes:
            session.engine.queue.put_nowait(event(each))
        assert session.transport.aborted is ended
        assert (session.sid, "slow consumer") in made.ended or not ended
        assert not ended or (session.lag, session.address.held) == (None, 0)
        session.ended()


async def test_too_much_at_once_is_no_answer_of_a_client_that_is_behind(sessions):
    """One event, larger than all that may wait, ends it before it is looked after."""
    made = sessions(send_buffer=LAGGING_BYTES)
    session = made.make()
    session.engine.queue.put_nowait(event(3 * LAGGING_BYTES))
    assert (made.ended, session.lag, session.address.held) == ([(session.sid, "slow consumer")], None, 0)


async def test_what_waits_for_a_poll_has_a_bound(sessions):
    """That of events; answers have others, and one event may be as long as it is."""
    made = sessions(send_buffer=1_000)
    session = made.make(live=False)
    queue = session.engine.queue
    queue.put_nowait(event(2_000))
    await take_all(queue)
    for packet in (answer(2_000), answer(2_000), event(500)):
        queue.put_nowait(packet)
    assert made.ended == []
    queue.put_nowait(event(500))
    assert (made.ended, session.address.held) == ([(session.sid, "slow consumer")], 0)
    assert not session.transport.aborted  # there is nothing of it
    session.drop("again")
    queue.put_nowait(event(500))
    assert (len(made.ended), session.address.held) == (1, 0)


async def test_what_has_waited_for_an_upgrade_is_looked_after(sessions):
    """Once the websocket is there, which begins to take it."""
    session = sessions().make(live=False)
    session.engine.queue.put_nowait(answer(LAGGING_BYTES))
    session.engine.queue.put_nowait(answer(LAGGING_BYTES))
    session.engine.upgraded = True
    assert session.lag is None
    await take_all(session.engine.queue)
    assert session.lag is not None
    assert session.lag.answers == session.engine.queue.answers == session.address.held > LAGGING_BYTES


async def test_nothing_is_begun_for_who_has_long_answers_to_read(sessions):
    """Before they are taken. Who has joined no backend has nothing that could be begun."""
    made = sessions(reply=1_000)
    connection = Mock()
    for session in (made.make(live=False, connection=connection), made.make(live=False)):
        session.engine.queue.put_nowait(answer(1_000))
        session.engine.queue.put_nowait(answer(1_000))
        connection.hold.assert_called_once_with()
        await take_all(session.engine.queue)
        connection.go_on.assert_called_once_with()


async def test_who_has_the_most_unread_is_dropped_for_its_address(sessions):
    """When that holds too much; others stay."""
    made = sessions(memory=40_000)
    first, second, other = made.make(live=False), made.make(live=False), made.make(live=False, address="b")
    for session, size in ((other, 8_000), (first, 7_000), (second, 4_000)):
        session.engine.queue.put_nowait(answer(size))
    assert made.ended == [(first.sid, "slow consumer")]


async def test_a_connection_that_is_gone_holds_nothing(sessions):
    """The library hears of it by itself."""
    session = sessions().make(live=False)
    session.comes_over(None, is_websocket=True)
    session.engine.upgraded = True
    session.engine.queue.put_nowait(event(10))
    assert session.get_write_buffer_size() > 0
    session.drop("test")
    assert session.address.held == 0


@pytest.mark.parametrize("waiting", [0, 1])
async def test_what_is_not_read_is_not_kept_for_ever(sessions, waiting):
    """Though the library has ended the session: its last answer has some time left to be read."""
    session = sessions(body_time=0.01).make(live=False)
    session.engine.queue.put_nowait(answer(2 * LAGGING_BYTES))
    await take_all(session.engine.queue)
    session.transport.waiting = waiting
    session.ended()
    assert not session.transport.aborted
    await asyncio.sleep(0.02)
    assert session.transport.aborted is bool(waiting)
