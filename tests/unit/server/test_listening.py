"""Listening: from which place a client is told, what it missed, and that nothing falls between the two."""

import asyncio
from contextlib import suppress

import pytest

from bbio import Backend, Limits, Unavailable, before
from bbio.server import stream as module
from tests.support.listeners import Server, Todos, listening, publish, settled, until


async def test_what_is_written_while_the_log_is_read_is_told_exactly_once(server):
    """The race of joining: before the log is read, while it is read, and after it was answered."""
    await listening(server)  # so that the place is known
    store = server.store
    events = [store.written_by_others() for _ in range(3)]
    for event in events:
        publish(server, event)
    await settled()
    server.forget()
    bob = server.client()
    store.gate.clear()
    bob.listen(since={"c:": [events[0].epoch, 1], "*": [store.streams.stream("*").epoch, 0]})
    await settled()  # the log was read up to 3, and the answer is on its way
    publish(server, store.written_by_others())
    await settled()
    assert bob.received == []
    store.gate.set()
    await settled()
    publish(server, store.written_by_others())
    await settled()
    told = bob.reply["streams"]["c:"]
    assert told["recovered"] is True
    assert told["offset"] == 4
    assert [event[2]["o"] for event in told["events"]] + bob.offsets == [2, 3, 4, 5]


async def test_what_is_written_while_the_first_place_is_learnt_is_told(server):
    """The first subscriber of a stream learns its place from the store; an event in between tells it as well."""
    store = server.store
    store.gate.clear()
    ann = server.client()
    ann.listen()
    await settled()
    publish(server, store.written_by_others())
    store.gate.set()
    await settled()
    publish(server, store.written_by_others())
    await settled()
    assert ann.reply["streams"]["c:"]["offset"] == 1
    assert ann.offsets == [2]


async def test_a_log_that_is_ahead_of_what_was_published_is_told_up_to_its_top(server):
    """What is published later and was in the log already is the client's to ignore, by its offset."""
    await listening(server)
    store = server.store
    events = [store.written_by_others() for _ in range(2)]
    publish(server, events[0])
    server.forget()
    bob = await listening(server, since={"c:": [events[0].epoch, 0]})
    told = bob.reply["streams"]["c:"]
    assert (told["recovered"], told["offset"]) == (True, 2)
    assert [event[2]["o"] for event in told["events"]] == [1, 2]
    publish(server, events[1])
    publish(server, store.written_by_others())
    await settled()
    assert bob.offsets == [2, 3]


async def test_more_than_is_kept_while_the_log_is_read_recovers_nothing(server, monkeypatch):
    """Any doubt means: read everything. What comes after the answer is told."""
    monkeypatch.setattr(module, "RECENT_EVENTS", 2)
    await listening(server)
    store = server.store
    event = store.written_by_others()
    publish(server, event)
    server.forget()
    store.gate.clear()
    bob = server.client()
    bob.listen(since={"c:": [event.epoch, 0]})
    await settled()
    for _ in range(3):
        publish(server, store.written_by_others())
    store.gate.set()
    await settled()
    told = bob.reply["streams"]["c:"]
    assert (told["recovered"], told["offset"], told["events"]) == (False, 4, [])
    publish(server, store.written_by_others())
    await settled()
    assert bob.offsets == [5]


async def test_an_epoch_that_ends_while_the_log_is_read_recovers_nothing(server):
    """The answer of the old epoch is not taken for the new one's."""
    await listening(server)
    store = server.store
    event = store.written_by_others()
    publish(server, event)
    server.forget()
    store.gate.clear()
    bob = server.client()
    bob.listen(since={"c:": [event.epoch, 0]})
    await settled()
    store.streams.forget("c:")
    # The log of the new epoch is read at once, the answer to bob is still on its way.
    anew = store.written_by_others()
    server.subscribers._streams["c:"].place(store.streams.stream("c:").position)
    store.gate.set()
    await settled()
    told = bob.reply["streams"]["c:"]
    assert (told["recovered"], told["epoch"], told["offset"]) == (False, anew.epoch, 1)


async def test_an_epoch_that_ends_while_another_stream_is_read_recovers_nothing(server):
    """Not even who had missed nothing when it was looked at."""
    ann = await listening(server)
    epochs = {name: place["epoch"] for name, place in ann.reply["streams"].items()}
    event = server.store.written_by_others("*")
    publish(server, event)
    server.forget()
    server.store.gate.clear()
    bob = server.client()
    bob.listen(since={"c:": [epochs["c:"], 0], "*": [epochs["*"], 0]})
    await settled()
    server.store.streams.forget("c:")
    server.subscribers._streams["c:"].place(server.store.streams.stream("c:").position)
    server.store.gate.set()
    await settled()
    assert bob.reply["streams"]["c:"]["recovered"] is False
    assert bob.reply["streams"]["*"]["recovered"] is True


async def test_history_that_is_lost_while_others_join(server):
    """Those who listen are to resync, those who join read everything, and both are told what comes then."""
    ann = await listening(server)
    epochs = {name: place["epoch"] for name, place in ann.reply["streams"].items()}
    for stream in ("c:", "*"):
        publish(server, server.store.written_by_others(stream))
    server.forget()
    server.store.gate.clear()
    server.store.slow = "*"
    joining = [server.client() for _ in range(2)]
    for client in joining:
        client.listen(since={"c:": [epochs["c:"], 0], "*": [epochs["*"], 0]})
    await settled()
    server.store.streams.forget("c:")
    publish(server, server.store.written_by_others())
    await settled()
    assert ann.resyncs == ["c:"]
    server.store.gate.set()
    await settled()
    publish(server, server.store.written_by_others())
    await settled()
    for client in joining:
        told = client.reply["streams"]
        assert (told["c:"]["recovered"], told["c:"]["offset"], client.offsets) == (False, 1, [2])
        assert told["*"]["recovered"] is True


async def test_who_never_listened_leaves_nothing(server):
    """There is nothing to unfollow."""
    server.client().leave()
    assert server.subscribers._streams == {}


async def test_who_missed_nothing_is_answered_without_asking_the_store(server):
    """A reconnect after a quiet time costs no query."""
    ann = await listening(server)
    streams = ann.reply["streams"]
    since = {name: [place["epoch"], place["offset"]] for name, place in streams.items()}
    server.store.asked.clear()
    bob = await listening(server, since=since)
    assert all(place["recovered"] for place in bob.reply["streams"].values())
    assert server.store.asked == []


@pytest.mark.parametrize(
    "since",
    [
        {"c:": ["other", 0]},
        {"c:": [None, 0]},
        {"c:": 7},
        {"c:": []},
        {"c:": [{}, []]},
        {"c:": ["EPOCH", -1]},
        {"c:": ["EPOCH", 2**63]},
        {"c:": ["EPOCH", 10**100]},
        {"c:": ["EPOCH", "1"]},
        {"c:": ["EPOCH", 1.0]},
        {"c:": ["EPOCH", True]},
        {"c:": ["EPOCH", None]},
        {f"c:{n}": ["EPOCH", 0] for n in range(10_000)},
        "c:",
        [],
    ],
)
async def test_a_since_without_sense_recovers_nothing_and_asks_nothing(server, since):
    """Hostile positions cost a comparison each, and no question to the store."""
    await listening(server)
    event = server.store.written_by_others()
    publish(server, event)
    server.store.asked.clear()
    if isinstance(since, dict):
        since = {
            name: [event.epoch if part == "EPOCH" else part for part in place] if isinstance(place, list) else place
            for name, place in since.items()
        }
    bob = await listening(server, since=since)
    told = bob.reply["streams"]["c:"]
    assert (told["recovered"], told["offset"], told["events"]) == (False, 1, [])
    assert server.store.asked == []


async def test_a_since_ahead_of_the_top_recovers_nothing(server):
    """It is one question to the store, which knows no such place."""
    ann = await listening(server)
    server.store.asked.clear()
    bob = await listening(server, since={"c:": [ann.reply["streams"]["c:"]["epoch"], 2**63 - 1]})
    assert bob.reply["streams"]["c:"]["recovered"] is False
    assert server.store.asked == [("since", "c:", 2**63 - 1)]


async def test_history_sent_to_one_client_is_limited():
    """Who missed more than fits is told to read everything."""
    server = Server(Todos, Limits(replay=20))
    ann = await listening(server)
    epoch = ann.reply["streams"]["c:"]["epoch"]
    for _ in range(3):
        publish(server, server.store.written_by_others())
    told = [
        (await listening(server, since={"c:": [epoch, offset]})).reply["streams"]["c:"]["recovered"]
        for offset in range(4)
    ]
    assert told == [False, True, True, True]
    await server.close()


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("failure", [Unavailable("later", retry_after=1.0), OSError("secret")])
async def test_a_log_that_cannot_be_read_refuses_a_listen_for_now(server, failure, version):
    """The client keeps its place and asks again; nothing of it stays behind."""
    server.store.failure = failure
    ann = await listening(server, version=version)
    assert ann.reply["error"]["name"] == "Unavailable"
    assert ann.reply["error"]["retry_after"] == 1.0
    assert "secret" not in str(ann.reply)
    assert server.subscribers._streams == {}
    server.store.failure = None
    ann.listen(version=version)
    await settled()
    assert "error" not in ann.reply


@pytest.mark.parametrize("version", [0, 1])
async def test_who_leaves_while_the_log_is_read_leaves_nothing_behind(server, version):
    """A socket that is gone follows no stream."""
    server.store.gate.clear()
    ann = server.client()
    ann.listen(version=version)
    await settled()
    ann.leave()
    server.store.gate.set()
    await settled()
    assert server.subscribers._streams == {}
    assert ann.socket.channels == {}


async def test_a_refusal_that_passes_is_told_as_such(server):
    """A sync in a channel whose listen could not be answered is told that, not that it may not; and is served later."""
    ann = server.client()
    server.store.failure = Unavailable("later", retry_after=1.0)
    ann.listen("home")
    await settled()
    ann.sync("read", channel="home")
    assert [answer[0]["error"]["name"] for answer in ann.acks] == ["Unavailable", "Unavailable"]
    server.store.failure = None
    ann.listen("home")
    await settled()
    ann.sync("read", channel="home")
    await settled()
    assert ann.acks[-1][:2] == [None, []]


async def test_a_listen_past_its_deadline_is_not_live(server):
    """Its client was told that it failed: it is not told of events."""
    server.gateway.exchanges.limits = Limits(deadline=0.02)
    server.store.gate.clear()
    ann = server.client()
    ann.listen()
    await until(lambda: ann.acks)
    await settled()
    assert ann.reply["error"]["name"] == "Timeout"
    assert server.subscribers._streams == {}


async def test_a_listen_that_goes_on_past_its_deadline_is_not_live():
    """A layer that will not be cancelled changes nothing of that."""

    class Stubborn(Backend):
        @before("read")
        async def wait(self, req):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    server = Server(Stubborn, Limits(deadline=0.02))
    ann = server.client()
    ann.listen()
    await until(lambda: ann.acks and not server.gateway.exchanges.running)
    assert [ack[0]["error"]["name"] for ack in ann.acks] == ["Timeout"]
    assert (ann.socket.channels, server.subscribers._streams) == ({}, {})
    await server.close()


async def test_a_client_that_listens_again_goes_on_being_told(server):
    """While its second listen is worked on, its first one holds."""
    ann = await listening(server)
    epoch = ann.reply["streams"]["c:"]["epoch"]
    publish(server, server.store.written_by_others())
    await settled()
    server.forget()
    server.store.gate.clear()
    ann.listen(since={"c:": [epoch, 0]})
    await settled()
    publish(server, server.store.written_by_others())
    await settled()
    assert ann.offsets == [1, 2]
    server.store.gate.set()
    await settled()
    assert [event[2]["o"] for event in ann.reply["streams"]["c:"]["events"]] == [1, 2]


async def test_two_versions_of_one_client(server):
    """A legacy channel beside a version-1 channel: what all channels share is told with positions, once."""
    ann = server.client()
    ann.listen("old", version=0)
    ann.listen("new")
    ann.listen("old", version=0)
    await settled()
    ann.received.clear()
    for stream in ("*", "c:old", "c:new"):
        publish(server, server.store.written_by_others(stream))
    await settled()
    assert sorted(len(arguments) for arguments in ann.events) == [2, 3, 3]
