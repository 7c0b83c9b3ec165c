"""What clients are told where `@visible` decides: of both versions of the protocol, in one channel and in several."""

import pytest

from bbio import Backend, visible
from bbio.builtin import MemoryStore
from bbio.server.delivery import AT_ONCE
from tests.support.listeners import Server, settled

ROOMS = {"x": {"room": "x"}, "y": {"room": "y"}}


class Notes(Backend):
    """Who listens in a channel sees the notes of that room alone; by default all of them."""

    store = MemoryStore(models=[{"id": 1, "room": "x"}])

    @visible(may_leave=True)
    def scope(self, req):
        return ROOMS.get(req.channel, True)


@pytest.fixture
async def server():
    """A gateway with that backend."""
    server = Server(Notes)
    yield server
    await server.close()


async def listening(server, *channels, version=1):
    client = server.client()
    for channel in channels:
        client.listen(channel, version=version)
        await settled()
    return client


async def test_a_writer_that_knows_no_public_names_is_told_of_its_write_by_its_own(server):
    """Others are told the public part of it; as everywhere, once each."""
    ann, bob = await listening(server, None), await listening(server, None)
    ann.sync("patch", {"id": 1, "n": 2}, op={"c": "secret", "n": 7})
    await settled()
    assert [event[2]["op"] for event in ann.events] == ["secret:7"]
    (told,) = bob.events
    assert told[:2] == ["update", {"id": 1, "room": "x", "n": 2}]
    assert "secret" not in str(told)


async def test_a_legacy_writer_gets_two_arguments(server):
    """Of a record that it gave away the id alone."""
    ann = await listening(server, "x", version=0)
    ann.sync("patch", {"id": 1, "n": 2}, channel="x")
    ann.sync("patch", {"id": 1, "room": "y"}, channel="x")
    await settled()
    assert ann.acks[1:] == [[None, {"id": 1, "room": "x", "n": 2}], [None, {"id": 1}]]
    assert ann.events == []


async def test_of_what_all_channels_share_is_told_what_is_visible_in_each(server):
    """Whoever leaves a channel is asked to listen again, and then told what is visible in those that are left."""
    ann = await listening(server, None, "x", "y")
    assert ann.resyncs == ["*", "*"]  # with each channel it sees less

    async def told(n):
        await server.store.append("*", "create", {"id": n, "room": "x"}, None, b"[null]")
        await settled()
        return [event[1]["id"] for event in ann.events]

    assert await told(1) == []
    server.gateway.receive(ann.socket, "unlisten", None, [["y"]])
    await settled()
    assert ann.resyncs == ["*", "*", "*"]
    assert await told(2) == []
    ann.listen("x")
    await settled()
    assert await told(3) == [3]
    server.gateway.receive(ann.socket, "unlisten", None, [[None, "x"]])
    await settled()
    assert (ann.socket.views, ann.socket.scopes, ann.socket.told_under) == ({}, {}, {})
    assert ann.resyncs == ["*", "*", "*"]


async def test_a_channel_without_positions_changes_nothing_for_those_with(server):
    """What all channels share is told with positions as long as one channel is."""
    ann = await listening(server, "x")
    ann.listen("home", version=0)
    await settled()
    for n, room in enumerate("xy", 1):
        await server.store.append("*", "create", {"id": n, "room": room}, None, b"[null]")
    await settled()
    assert [(event[1]["id"], len(event)) for event in ann.events] == [(1, 3)]
    assert ann.resyncs == []


async def test_places_are_told_to_some_in_each_turn_of_the_loop(server):
    """Each at what has happened until its turn; nobody who has left meanwhile."""
    made = [server.client() for _ in range(AT_ONCE + 10)]
    for client in made:
        client.listen("x")
    await settled()
    server.subscribers.expire()
    early = [client for client in made if client.events]
    late = [client for client in made if not client.events]
    assert (len(early), len(late)) == (AT_ONCE, 10)
    writer, gone = late[:2]
    gone.leave()
    assert server.gateway.busy
    writer.sync("patch", {"id": 1, "n": 2}, channel="x")
    await settled()
    assert not server.gateway.busy
    assert gone.events == []
    of_room = [
        [(kind, place["o"], place.get("n")) for kind, _, place in client.events if place["s"] == "c:x"]
        for client in (early[0], late[2])
    ]
    assert of_room == [[("at", 0, 0), ("update", 1, None)], [("update", 1, None), ("at", 1, 1)]]
