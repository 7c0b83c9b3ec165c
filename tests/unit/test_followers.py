"""Followers: every event reaches those who follow its stream once and in order, whatever order it is published in."""

import asyncio
import logging

import pytest

from bbio import Backend, Unavailable
from bbio.requests import Request
from bbio.server import followers as module
from bbio.server.exchanges import SyncExchange
from tests.support.listeners import Server, SharedStore, Todos, listening, publish, settled, until


@pytest.fixture
async def server():
    """A gateway with a store that others write to as well."""
    server = Server(Todos)
    yield server
    await server.close()


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
    monkeypatch.setattr(module, "OWN_WRITES", 30.0)
    ann, bob = await listening(server, version=0), await listening(server, version=0)
    req = Request("update", {"id": 1}, backend=server.backend, socket=ann.socket)
    exchange = SyncExchange(server.gateway, ann.socket, 1, req)
    server.gateway.exchanges.add(exchange)
    event = server.store.written_by_others()
    server.followers.check()
    await settled()
    assert (ann.events, bob.events) == ([], [])
    publish(server, event, ann.socket)
    server.gateway.exchanges.remove(exchange)
    await until(lambda: bob.events)
    await asyncio.sleep(2 * module.RETRY)
    assert (len(ann.events), len(bob.events)) == (0, 1)


async def test_others_do_not_wait_for_an_own_write_for_ever(server, monkeypatch):
    """After a while what others wrote is told, whatever becomes of the own write."""
    monkeypatch.setattr(module, "OWN_WRITES", 0.05)
    ann = await listening(server, version=0)
    req = Request("update", {"id": 1}, backend=server.backend, socket=ann.socket)
    server.gateway.exchanges.add(SyncExchange(server.gateway, ann.socket, 1, req))
    server.store.written_by_others()
    server.followers.check()
    await until(lambda: ann.events)
    server.gateway.exchanges.clear()


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
    assert ann.offsets == [1]
    server.store.gate.set()
    await settled()
    assert ann.offsets == [1, 2]


async def test_more_early_events_than_are_kept_are_told_all_the_same(server, monkeypatch):
    """They are in the log."""
    monkeypatch.setattr(module, "WAITING", 2)
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
    server.store.log.forget("c:")
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
    stream = server.store.log.stream("c:")
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


async def test_a_new_epoch_is_told_as_such(server):
    """An event of a new epoch means that history was lost; the event itself is told."""
    ann, bob = await listening(server), await listening(server, version=0)
    publish(server, server.store.written_by_others())
    server.store.log.forget("c:")
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
    stream = server.store.log.stream("c:")
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
    server.followers.check()
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
    server.followers.check(["c:a", "c:nobody"])
    await settled()
    assert ann.offsets == [1]
    assert server.store.asked == [("positions", "c:a"), ("since", "c:a", 0)]


async def test_an_event_that_nobody_follows_is_dropped(server):
    """There is nobody to tell, and nothing to remember."""
    publish(server, server.store.written_by_others("c:nobody"))
    await settled()
    assert server.followers._streams == {}


async def test_a_writer_alone_costs_no_delivery(server):
    """Its reply is all that a legacy client gets."""
    ann = await listening(server, version=0)
    publish(server, server.store.written_by_others(), ann.socket)
    assert not server.gateway.delivery._pending
    await settled()
    assert ann.events == []


async def test_check_of_what_nobody_follows_asks_nothing(server):
    """Streams without followers cost nothing."""
    server.followers.check()
    server.followers.check(["c:a"])
    await settled()
    assert server.store.asked == []


async def test_checks_that_come_together_are_one(server):
    """While the store is asked, further checks wait for one more question."""
    ann = await listening(server)
    server.store.asked.clear()
    server.store.gate.clear()
    server.followers.check()
    await settled()
    for _ in range(10):
        server.store.written_by_others()
        server.followers.check()
    server.store.gate.set()
    await settled()
    assert ann.offsets == list(range(1, 11))
    assert [what for what, *_ in server.store.asked].count("positions") == 2


async def test_a_stream_whose_last_follower_leaves_during_a_check_is_left_alone(server):
    """Nobody is told, and nothing stays behind."""
    ann = await listening(server)
    server.store.gate.clear()
    server.store.written_by_others()
    server.followers.check()
    await settled()
    ann.leave()
    server.store.asked.clear()
    server.store.gate.set()
    await settled()
    assert server.store.asked == []
    assert server.followers._streams == {}


@pytest.mark.parametrize("failure", [Unavailable(), OSError("disk")])
async def test_a_log_that_cannot_be_read_is_asked_again(server, monkeypatch, caplog, failure):
    """It is logged once, nothing is lost, and everything is told as soon as it can be read."""
    monkeypatch.setattr(module, "AGAIN", 0.01)
    ann = await listening(server)
    server.store.failure = failure
    server.store.written_by_others()
    with caplog.at_level(logging.WARNING):
        publish(server, server.store.written_by_others())
        server.followers.check()
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
    server.followers.check()
    await settled()
    assert server.store.asked == []


async def test_the_end_takes_what_is_being_read_along(server):
    """A store that never answers holds up no stop."""
    await listening(server)
    server.store.gate.clear()
    server.followers.check()
    await settled()
    async with asyncio.timeout(5):
        await server.close()
