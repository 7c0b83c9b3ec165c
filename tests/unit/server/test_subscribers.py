"""Subscribers: every event reaches those who follow its stream once and in order, whatever order it is published in."""

import asyncio
import logging

import pytest

from bbio import Backend, Unavailable
from bbio.requests import Request
from bbio.server import subscribers as module
from bbio.server.exchange import SyncExchange
from bbio.streams import EVENT_BYTES, Event, HistoryLimits, Position
from tests.support.listeners import Carrier, Server, SharedStore, Todos, listening, publish, settled, until


async def test_the_next_event_is_told_at_once_without_asking_the_store(server):
    """In the usual case nothing is read."""
    ann = await listening(server)
    server.store.asked.clear()
    for _ in range(3):
        publish(server, server.store.written_by_others())
    await settled()
    assert ann.offsets == [1, 2, 3]
    assert server.store.asked == []


async def test_who_follows_without_positions_is_told_nothing_of_a_new_epoch(server):
    """A legacy client knows no epochs; there is nobody to be told to resync."""
    bob = await listening(server, version=0)
    server.gateway.delivery.send([], "/todos", b"[]")
    await settled()
    assert bob.events == []


async def test_an_event_published_twice_is_told_once(server):
    """What was told is not told again, however late it comes."""
    ann = await listening(server)
    first, second = server.store.written_by_others(), server.store.written_by_others()
    for event in (first, second, first, second):
        publish(server, event)
    await settled()
    assert ann.offsets == [1, 2]


async def test_an_event_that_comes_too_early_has_the_log_read(server):
    """What was not published is found in the log and told at its place."""
    ann = await listening(server)
    server.store.written_by_others()
    publish(server, server.store.written_by_others())
    await settled()
    assert ann.offsets == [1, 2]
    assert ann.resyncs == []


async def test_events_in_any_order_are_told_in_theirs(server):
    """Each event that is early waits for those before it."""
    ann, bob = await listening(server), await listening(server, version=0)
    events = [server.store.written_by_others() for _ in range(5)]
    for n in (2, 4, 0, 3, 1):
        publish(server, events[n])
    await settled()
    assert ann.offsets == [1, 2, 3, 4, 5]
    assert len(bob.events) == 5


async def test_the_writer_of_an_early_event_is_not_told_of_it(server):
    """That the log had to be read changes nothing for a legacy client: it never hears of its own writes."""
    ann, bob = await listening(server, version=0), await listening(server, version=0)
    server.store.written_by_others()
    publish(server, server.store.written_by_others(), ann.socket)
    await settled()
    assert (len(ann.events), len(bob.events)) == (1, 2)


async def test_a_write_that_is_committed_but_not_published_yet_is_not_told_to_its_writer(server, monkeypatch):
    """A look at the log waits for own writes that may be in it."""
    monkeypatch.setattr(module, "OWN_WRITES_SECONDS", 30.0)
    ann, bob = await listening(server, version=0), await listening(server, version=0)
    req = Request("update", {"id": 1}, backend=server.backend, socket=ann.socket)
    exchange = SyncExchange(server.gateway.exchanges, ann.socket, 1, req)
    server.gateway.exchanges.running.add(exchange)
    event = server.store.written_by_others()
    server.subscribers.doubt()
    await settled()
    assert (ann.events, bob.events) == ([], [])
    publish(server, event, ann.socket)
    server.gateway.exchanges.running.remove(exchange)
    await until(lambda: bob.events)
    await asyncio.sleep(2 * module.OWN_WRITES_LOOK_SECONDS)
    assert (len(ann.events), len(bob.events)) == (0, 1)


async def test_others_do_not_wait_for_an_own_write_for_ever(server, monkeypatch):
    """After a while what others wrote is told, whatever becomes of the own write."""
    monkeypatch.setattr(module, "OWN_WRITES_SECONDS", 0.05)
    ann = await listening(server, version=0)
    req = Request("update", {"id": 1}, backend=server.backend, socket=ann.socket)
    server.gateway.exchanges.running.add(SyncExchange(server.gateway.exchanges, ann.socket, 1, req))
    server.store.written_by_others()
    server.subscribers.doubt()
    await until(lambda: ann.events)
    server.gateway.exchanges.running.clear()


async def test_what_is_published_while_the_log_is_read_is_told_once(server):
    """It goes on to everybody in its turn, and what the log has of it is left out."""
    ann = await listening(server)
    server.store.gate.clear()
    server.store.written_by_others()
    publish(server, server.store.written_by_others())
    await settled()
    publish(server, server.store.written_by_others())
    server.store.gate.set()
    await settled()
    assert ann.offsets == [1, 2, 3]


async def test_an_event_that_closes_its_own_gap_is_told_at_once(server):
    """The one that was missing may come while the log is read."""
    ann = await listening(server)
    server.store.gate.clear()
    late, early = server.store.written_by_others(), server.store.written_by_others()
    publish(server, early)
    await settled()
    publish(server, late)
    await settled()
    assert ann.offsets == [1, 2]
    server.store.gate.set()
    await settled()
    assert ann.offsets == [1, 2]


async def test_more_early_events_than_are_kept_are_told_all_the_same(server, monkeypatch):
    """They are in the log."""
    monkeypatch.setattr(module, "EARLY_EVENTS", 2)
    ann = await listening(server)
    server.store.gate.clear()
    server.store.written_by_others()
    for _ in range(5):
        publish(server, server.store.written_by_others())
    server.store.gate.set()
    await settled()
    assert ann.offsets == [1, 2, 3, 4, 5, 6]


async def test_an_early_event_that_the_log_does_not_know_is_dropped(server):
    """Such as a late one of an epoch that is over."""
    ann = await listening(server)
    event = server.store.written_by_others()
    publish(server, event)
    server.store.streams.forget("c:")
    publish(server, server.store.written_by_others())
    await settled()
    ann.received.clear()
    event.offset = 7
    publish(server, event)
    await settled()
    publish(server, server.store.written_by_others())
    await settled()
    assert ann.offsets == [2]
    assert ann.resyncs == []


async def test_history_that_is_gone_is_told_as_such(server):
    """Version-1 clients are to resync; legacy clients are told what is known, and no more."""
    ann, bob = await listening(server), await listening(server, version=0)
    publish(server, server.store.written_by_others())
    for _ in range(5):
        server.store.written_by_others()
    stream = server.store.streams.stream("c:")
    for _ in range(4):
        stream.events.popleft()
    publish(server, server.store.written_by_others(), bob.socket)
    await settled()
    assert ann.offsets == [1, 7]
    assert ann.resyncs == ["c:"]
    assert [name for name, _ in bob.received] == ["ack", "synced"]
    publish(server, server.store.written_by_others())
    await settled()
    assert ann.offsets == [1, 7, 8]
    assert len(bob.events) == 2


async def test_what_was_published_before_the_newest_is_told_where_history_is_gone(server):
    """It is told for those who cannot resync; the position is the newest one's all the same."""
    ann = await listening(server)
    events = [server.store.written_by_others() for _ in range(6)]
    stream = server.store.streams.stream("c:")
    stream.before = stream.events.popleft().stamp
    publish(server, events[2])
    await settled()
    assert (ann.offsets, ann.resyncs) == ([3], ["c:"])
    publish(server, server.store.written_by_others())
    await settled()
    assert ann.offsets == [3, 7]


async def test_losses_in_a_row_are_told_one_by_one(server, monkeypatch):
    """While many records are written elsewhere, clients read everything at most so often, and at the end once more."""
    monkeypatch.setattr(module, "RESYNC_SECONDS", 0.3)
    ann, now = await listening(server), asyncio.get_running_loop().time
    told = []
    for count in (1, 2):
        newest = [server.store.written_by_others() for _ in range(3)][-1]
        stream = server.store.streams.stream("c:")
        stream.before = stream.events.pop().stamp
        stream.events.clear()
        publish(server, newest)
        while len(ann.resyncs) < count:  # noqa: ASYNC110 - nobody is woken
            await asyncio.sleep(0.01)
        told.append(now())
    assert told[1] - told[0] > 0.2


async def test_a_new_epoch_is_told_as_such(server):
    """An event of a new epoch means that history was lost; the event itself is told."""
    ann, bob = await listening(server), await listening(server, version=0)
    publish(server, server.store.written_by_others())
    server.store.streams.forget("c:")
    publish(server, server.store.written_by_others())
    await settled()
    assert ann.resyncs == ["c:"]
    assert len(bob.events) == 2
    publish(server, server.store.written_by_others())
    await settled()
    assert ann.offsets[-1] == 2
    assert len(bob.events) == 3


async def test_a_lost_history_that_comes_by_itself_is_no_loss(server):
    """What is published while the server looks for it need not be resynced."""
    ann = await listening(server)
    events = [server.store.written_by_others() for _ in range(3)]
    stream = server.store.streams.stream("c:")
    stream.before = stream.events.popleft().stamp
    server.store.gate.clear()
    publish(server, events[2])
    await settled()
    publish(server, events[0])
    server.store.gate.set()
    await settled()
    assert ann.offsets == [1, 2, 3]
    assert ann.resyncs == []


async def test_check_tells_what_others_wrote(server):
    """One question for the positions of all streams, then the log of those that are behind."""
    ann, bob = await listening(server, channel="a"), await listening(server, channel="b")
    server.store.asked.clear()
    server.store.written_by_others("c:a")
    server.subscribers.doubt()
    await settled()
    assert (ann.offsets, bob.offsets) == ([1], [])
    asked = server.store.asked
    assert sorted(asked[0][1:]) == ["*", "c:a", "c:b"]
    assert asked[1:] == [("since", "c:a", 0)]


async def test_check_of_named_streams_looks_at_those(server):
    """A store that knows where something was written says so."""
    ann = await listening(server, channel="a")
    server.store.asked.clear()
    server.store.written_by_others("c:a")
    server.store.written_by_others("c:nobody")
    server.subscribers.doubt(["c:a", "c:nobody"])
    await settled()
    assert ann.offsets == [1]
    assert server.store.asked == [("since", "c:a", 0)]


async def test_an_event_that_nobody_follows_is_dropped(server):
    """There is nobody to tell, and nothing to remember."""
    publish(server, server.store.written_by_others("c:nobody"))
    await settled()
    assert server.subscribers._streams == {}


async def test_a_writer_alone_costs_no_delivery(server):
    """Its reply is all that a legacy client gets."""
    ann = await listening(server, version=0)
    publish(server, server.store.written_by_others(), ann.socket)
    assert not server.gateway.delivery._pending
    await settled()
    assert ann.events == []


async def test_check_of_what_nobody_follows_asks_nothing(server):
    """Streams without subscribers cost nothing."""
    server.subscribers.doubt()
    server.subscribers.doubt(["c:a"])
    await settled()
    assert server.store.asked == []


async def test_checks_that_come_together_are_one(server):
    """While the store is asked, further checks wait for one more question."""
    ann = await listening(server)
    server.store.asked.clear()
    server.store.gate.clear()
    server.subscribers.doubt()
    await settled()
    for _ in range(10):
        server.store.written_by_others()
        server.subscribers.doubt()
    server.store.gate.set()
    await settled()
    assert ann.offsets == list(range(1, 11))
    assert [what for what, *_ in server.store.asked].count("positions") == 2


async def test_a_stream_whose_last_follower_leaves_during_a_check_is_left_alone(server):
    """Nobody is told, and nothing stays behind."""
    ann = await listening(server)
    server.store.gate.clear()
    server.store.written_by_others()
    server.subscribers.doubt()
    await settled()
    ann.leave()
    server.store.asked.clear()
    server.store.gate.set()
    await settled()
    assert server.store.asked == []
    assert server.subscribers._streams == {}


@pytest.mark.parametrize("failure", [Unavailable(), OSError("disk")])
async def test_a_log_that_cannot_be_read_is_asked_again(server, monkeypatch, caplog, failure):
    """It is logged once, nothing is lost, and everything is told as soon as it can be read."""
    monkeypatch.setattr(module, "LOG_RETRY_SECONDS", 0.01)
    ann = await listening(server)
    server.store.failure = failure
    server.store.written_by_others()
    with caplog.at_level(logging.WARNING):
        publish(server, server.store.written_by_others())
        server.subscribers.doubt()
        await until(lambda: len(server.store.asked) >= 8)
        assert ann.offsets == []
        server.store.failure = None
        await until(lambda: ann.offsets == [1, 2])
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "the log of todos cannot be read; trying again",
        "the log of todos can be read again",
    ]


class Shared(Backend):
    """A backend over a store that is looked at often."""

    name = "shared"

    class Often(SharedStore):
        check_interval = 0.01

    store = Often()


async def test_a_shared_store_is_looked_at_periodically():
    """What nobody publishes is found all the same; nobody looks when nobody follows, nor after the end."""
    server = Server(Shared)
    await settled()
    assert server.store.asked == []
    ann = await listening(server)
    server.store.written_by_others()
    await until(lambda: ann.offsets == [1])
    ann.leave()
    await asyncio.sleep(0.03)
    server.store.asked.clear()
    await asyncio.sleep(0.05)
    assert server.store.asked == []
    bob = await listening(server)
    server.store.written_by_others()
    await until(lambda: bob.offsets == [2])
    await server.close()
    server.store.asked.clear()
    await asyncio.sleep(0.03)
    assert server.store.asked == []


async def test_after_a_stop_comes_a_start():
    """An application that starts again looks again."""
    server = Server(Shared)
    await server.close()
    server.gateway.open()
    ann = await listening(server)
    server.store.written_by_others()
    await until(lambda: ann.offsets == [1])
    await server.close()


async def test_nothing_is_read_after_the_end(server):
    """The store may be closed by then."""
    await listening(server)
    await server.close()
    server.store.asked.clear()
    server.store.written_by_others()
    publish(server, server.store.written_by_others())
    server.subscribers.doubt()
    await settled()
    assert server.store.asked == []


async def test_the_end_takes_what_is_being_read_along(server):
    """A store that never answers holds up no stop."""
    await listening(server)
    server.store.gate.clear()
    server.subscribers.doubt()
    await settled()
    async with asyncio.timeout(5):
        await server.close()


# Histories that fall back


def restored(server, offset):
    """The log as it was at an offset: what came later is gone, and the next event has the next offset."""
    stream = server.store.streams.stream("c:")
    while stream.top > offset:
        stream.size -= len(stream.events.pop().body)
        stream.top -= 1


async def told(server, count):
    """Write so many events, and publish them."""
    events = [server.store.written_by_others() for _ in range(count)]
    for event in events:
        publish(server, event)
    await settled()
    return events


def place(event):
    """The position of an event, as a client tells it."""
    return [event.epoch, event.offset, event.stamp]


async def came_back(server, event):
    """Whether a client that comes back with the position of an event is told what it missed."""
    ann = await listening(server, since={"c:": place(event)})
    return ann.reply["streams"]["c:"]["recovered"]


async def test_an_event_at_a_place_that_was_told_shows_another_history(server):
    """It is told, at its place; those who know what is gone are to resync, and so find out."""
    ann, bob = await listening(server), await listening(server, version=0)
    early, *_, late = await told(server, 5)
    restored(server, 3)
    server.store.asked.clear()
    (again,) = await told(server, 1)
    assert (ann.offsets, ann.resyncs, len(bob.events)) == ([1, 2, 3, 4, 5, 4], ["c:"], 6)
    assert server.store.asked == []
    assert [await came_back(server, event) for event in (early, again, late)] == [True, True, False]
    await told(server, 2)
    assert ann.offsets[-2:] == [5, 6]
    assert await came_back(server, late) is False


async def test_a_top_with_another_stamp_shows_another_history(server):
    """Nobody published what was written: the look at the tops finds it, though epoch and offset are the same."""
    ann = await listening(server)
    *_, late = await told(server, 5)
    restored(server, 3)
    for _ in range(2):
        server.store.written_by_others()
    assert server.store.streams.stream("c:").position.offset == late.offset
    server.subscribers.doubt()
    await settled()
    assert ann.resyncs == ["c:"]
    assert await came_back(server, late) is False


async def test_an_old_event_that_nobody_remembers_has_the_log_looked_at(server):
    """It may be late, and nothing has happened; or history fell far back."""
    ann = await listening(server)
    first, *_, late = await told(server, 5)
    server.forget()
    server.store.asked.clear()
    publish(server, first)
    await settled()
    assert server.store.asked == [("since", "c:", 5)]
    assert ann.resyncs == []
    restored(server, 1)
    await told(server, 1)
    assert ann.resyncs == ["c:"]
    assert await came_back(server, late) is False


async def test_a_log_that_is_read_while_history_falls_back_is_read_again(server):
    """What it told was of the history before."""
    ann = await listening(server)
    await told(server, 4)
    server.store.gate.clear()
    server.store.written_by_others()
    publish(server, server.store.written_by_others())
    await settled()
    restored(server, 2)
    publish(server, server.store.written_by_others())
    await settled()
    server.store.gate.set()
    await settled()
    assert ann.offsets == [1, 2, 3, 4, 3]
    assert server.subscribers._streams["c:"].offset == 3


async def test_events_without_stamps_are_told_as_ever(server):
    """A store of one's own may know none."""
    ann = await listening(server)
    events = [server.store.written_by_others() for _ in range(3)]
    for event in events:
        event.stamp = 0
    for event in (*events, events[0]):
        publish(server, event)
    await settled()
    server.subscribers.doubt()
    await settled()
    assert (ann.offsets, ann.resyncs) == ([1, 2, 3], [])


# Rings


async def test_those_who_come_back_to_what_was_told_cost_no_look_at_the_log(server):
    """With a stamp and without, from any place that is at hand."""
    await listening(server)
    epoch = server.store.streams.stream("c:").epoch
    events = await told(server, 5)
    server.store.asked.clear()
    for since in ([epoch, 0], *map(place, events), [epoch, 3]):
        ann = await listening(server, since={"c:": since})
        at = ann.reply["streams"]["c:"]
        assert (at["recovered"], at["offset"], at["stamp"]) == (True, 5, events[-1].stamp)
        assert [event[2]["k"] for event in at["events"]] == [event.stamp for event in events[since[1] :]]
    assert not await came_back(server, Event("c:", epoch, 3, "update", b"", stamp=events[3].stamp))
    assert server.store.asked == []


async def test_two_thousand_who_come_back_together_read_the_log_once():
    """Also when nobody was there meanwhile, and so nothing is at hand."""
    server = Server(Todos)
    store = server.store
    events = [store.written_by_others() for _ in range(6)]
    clients = [server.client() for _ in range(2_000)]
    for n, client in enumerate(clients):
        # Those who broke off first come first.
        client.listen(since={"c:": place(events[n // 500])})
    await settled()
    assert all(client.reply["streams"]["c:"]["recovered"] for client in clients)
    assert [len(client.reply["streams"]["c:"]["events"]) for client in clients[::500]] == [5, 4, 3, 2]
    assert [what for what, *_ in store.asked].count("since") == 1
    await server.close()


async def test_what_one_has_read_is_joined_to_what_was_told(server):
    """And only where the two are of one history."""
    await listening(server)
    events = await told(server, 6)
    followed = server.subscribers._streams["c:"]
    server.forget()
    await told(server, 1)
    assert await came_back(server, events[2])
    assert ([event.offset for event in followed.recent], followed.base) == ([4, 5, 6, 7], events[2].stamp)
    assert await came_back(server, events[0])
    assert [event.offset for event in followed.recent] == [2, 3, 4, 5, 6, 7]
    followed.forget()
    followed.stamp = followed.base = 5
    assert not await came_back(server, events[2])
    assert list(followed.recent) == []


class Small(Backend):
    """A backend that keeps little."""

    store = SharedStore(history=HistoryLimits(events=3, size=30, age=100.0))


@pytest.mark.parametrize(
    ("bodies", "kept"),
    [([b"1", b"2", b"3", b"4"], [2, 3, 4]), ([b"1" * 20, b"2" * 20], [2]), ([b"1" * 31], [])],
)
async def test_a_ring_keeps_no_more_than_the_history(bodies, kept):
    """In events and bytes; the stamp before it is known."""
    server = Server(Small)
    await listening(server)
    followed = server.subscribers._streams["c:"]
    for offset, body in enumerate(bodies, 1):
        publish(server, Event("c:", followed.epoch, offset, "update", body, stamp=100 + offset))
    assert [event.offset for event in followed.recent] == kept
    assert followed.size == sum(len(event.body) for event in followed.recent)
    assert followed.rings.bytes == followed.size + EVENT_BYTES * len(followed.recent)
    assert followed.base == 100 + len(bodies) - len(kept)
    assert followed.events_after(len(bodies) - len(kept) - 1) is None
    assert not followed.recall(Position(followed.epoch, 0, 7))[0]
    await server.close()


async def test_what_is_older_than_the_history_is_not_told_from_a_ring():
    """The log decides."""
    server = Server(Small)
    await listening(server)
    followed = server.subscribers._streams["c:"]
    now, age = 10_000.0, followed.rings.age
    followed.rings.clock = lambda: now
    for offset, old in enumerate((1.2 * age, 0.5 * age, 0.0), 1):
        publish(server, Event("c:", followed.epoch, offset, "update", b"1", when=now - old, stamp=100 + offset))
    known = lambda: [followed.recall(Position(followed.epoch, offset))[0] for offset in range(4)]  # noqa: E731
    assert known() == [False, True, True, True]
    now += 0.6 * age  # nobody has written since
    assert known() == [False, False, True, True]
    followed.joining += 1
    server.gateway._expire()
    assert len(followed.recent) == 3, "who is joining needs what was told meanwhile"
    followed.joining -= 1
    server.gateway._expire()
    assert [event.offset for event in followed.recent] == [3]
    assert (followed.base, followed.rings.bytes) == (102, 1 + EVENT_BYTES)
    followed.expire()
    server.gateway._expiry.cancel()
    await server.close()


async def test_all_rings_together_are_bounded(server):
    """Past the bound they are emptied, but for those that somebody joins just now."""
    for channel in ("a", "b"):
        await listening(server, channel=channel)
    streams = server.subscribers._streams
    rings = streams["c:a"].rings
    assert rings.most == server.gateway.exchanges.limits.memory / 8, "of which every backend has its part"
    rings.most = 25 * (EVENT_BYTES + 1) // 5
    server.subscribers.listeners.join(["c:b"])
    for _ in range(6):
        for name in ("c:a", "c:b"):
            publish(server, server.store.written_by_others(name))
    assert len(streams["c:b"].recent) == 6
    assert len(streams["c:a"].recent) < 6
    assert rings.bytes == sum(followed.size + EVENT_BYTES * len(followed.recent) for followed in streams.values())
    server.subscribers.listeners.joined([streams["c:b"]])
    publish(server, server.store.written_by_others("c:a"))
    assert streams["c:a"].rings.bytes == 0


# What other processes tell


class Carried(Backend):
    """A backend whose log has a broker: what is missing may be on its way."""

    name = "carried"

    class Told(SharedStore):
        def open(self, backend, publisher):
            opened = super().open(backend, publisher)
            opened.broker = Carrier()
            return opened

    store = Told()


@pytest.fixture
async def carried():
    """A gateway whose store has a broker."""
    server = Server(Carried)
    yield server
    await server.close()


async def test_a_hint_has_the_log_read_at_once_and_once(server):
    """Whoever knows the top of a stream spares the question for it; what was told costs nothing."""
    ann = await listening(server)
    server.store.asked.clear()
    event = server.store.written_by_others()
    top = event.position
    server.subscribers.doubt({"c:": top, "c:nobody": top})
    await settled()
    assert ann.offsets == [1]
    assert server.store.asked == [("since", "c:", 0)]
    await told(server, 1)
    server.store.asked.clear()
    for known in (top, Position(event.epoch, 1), Position(event.epoch, 2)):
        server.subscribers.doubt({"c:": known})
    await settled()
    assert server.store.asked == []
    for unlike in (Position("old", 1), Position(event.epoch, 2, event.stamp ^ 1), Position(event.epoch, 3)):
        server.subscribers.doubt({"c:": unlike})
        await settled()
    assert server.store.asked == [("since", "c:", 2)] * 3
    assert (ann.offsets, ann.resyncs) == ([1, 2], [])


async def test_a_doubt_while_the_place_is_looked_for_is_not_forgotten(server):
    """What is found may be older than what the doubt is about."""
    ann = server.client()
    server.store.gate.clear()
    ann.listen()
    await settled()
    assert not server.subscribers._streams["c:"].epoch
    server.store.written_by_others()
    server.subscribers.doubt(["c:"])
    server.store.gate.set()
    await settled()
    assert [what for what, *_ in server.store.asked] == ["positions", "since"]


async def test_what_comes_too_early_waits_for_what_is_on_its_way(carried):
    """No log is read where the missing ones come; who waited is told in order, to its writer as ever."""
    ann, bob = await listening(carried), await listening(carried, version=0)
    carried.store.asked.clear()
    events = [carried.store.written_by_others() for _ in range(6)]
    for n in (2, 5, 1, 0, 4, 3, 3):
        publish(carried, events[n], bob.socket if n == 5 else None)
    await settled()
    assert ann.offsets == [1, 2, 3, 4, 5, 6]
    assert len(bob.events) == 5
    assert carried.store.asked == []


async def test_what_does_not_come_is_read_a_moment_later(carried):
    """Each missing one is waited for as long, once."""
    ann = await listening(carried)
    carried.store.asked.clear()
    events = [carried.store.written_by_others() for _ in range(5)]
    publish(carried, events[1])
    publish(carried, events[0])
    publish(carried, events[3])
    await until(lambda: ann.offsets == [1, 2, 3, 4, 5])
    assert carried.store.asked == [("since", "c:", 2)]
    (followed,) = [each for name, each in carried.subscribers._streams.items() if name == "c:"]
    assert followed.missing is None


async def test_a_broker_is_told_which_streams_are_followed(carried):
    """From the first who listens to the last who leaves."""
    broker = carried.store.broker
    ann, bob = await listening(carried, channel="home"), await listening(carried, channel="home")
    assert broker.followed == {"*", "c:home"}
    ann.leave()
    assert broker.followed == {"*", "c:home"}
    bob.leave()
    assert broker.followed == set()


async def test_nobody_waits_for_what_nobody_follows_any_more(carried):
    """The last who listened has left, with an event waiting."""
    ann = await listening(carried)
    carried.store.written_by_others()
    publish(carried, carried.store.written_by_others())
    ann.leave()
    carried.store.asked.clear()
    await asyncio.sleep(2 * Carrier.patience)
    assert carried.store.asked == []


async def test_the_former_names_of_the_door_do_the_same(server):
    """For one version."""
    ann = await listening(server)
    with pytest.warns(DeprecationWarning, match=r"publisher\.event"):
        server.subscribers.publish(server.store.written_by_others(), None)
    server.store.written_by_others()
    with pytest.warns(DeprecationWarning, match=r"publisher\.doubt"):
        server.subscribers.check(["c:"])
    await settled()
    assert ann.offsets == [1, 2]
