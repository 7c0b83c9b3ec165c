"""Memberships: who was let into a channel by the server, for how long, and what is left of it."""

import asyncio

import pytest

from bbio import Backend, Forbidden, before, channel
from bbio.builtin import MemoryStore
from tests.support.listeners import Server, SharedStore, listening, settled


class Rooms(Backend):
    """Nobody may be in a room but the lobby, unless the server lets them in."""

    store = MemoryStore()

    def __init__(self):
        self.gate = asyncio.Event()
        self.gate.set()
        self.came = 0
        self.refuses = False

    @before("read")
    async def wait(self, req):
        self.came += 1
        await self.gate.wait()
        if self.refuses:
            raise Forbidden("closed")

    @channel("{room}")
    def rule(self, room):
        return room == "lobby"


@pytest.fixture
async def rooms():
    server = Server(Rooms)
    yield server
    assert not server.gateway.memberships._members or server.clients
    await server.close()


def is_forgotten(server):
    return not server.gateway.memberships._members


async def test_it_ends_with_the_connection(rooms):
    """Nothing of it is kept, also if it ends while layers are asked; and whoever is gone is let in nowhere."""
    client = await listening(rooms, channel="lobby")
    await client.socket.join("staff")
    assert not is_forgotten(rooms)
    rooms.backend.gate.clear()
    joining = asyncio.create_task(client.socket.join("more"))
    await settled()
    client.leave()
    rooms.backend.gate.set()
    await joining
    assert is_forgotten(rooms)
    await client.socket.join("staff")
    assert is_forgotten(rooms)
    assert client.resyncs == ["c:staff"]


async def test_whoever_is_let_in_twice_is_asked_about_once_and_told_until_it_listens(rooms):
    """To let in is to say so again, where its client does not follow the channel."""
    client = await listening(rooms, channel="lobby")
    came = rooms.backend.came
    await client.socket.join("staff")
    await client.socket.join("staff")
    assert (client.resyncs, rooms.backend.came) == (["c:staff"] * 2, came + 1)
    client.listen("staff")
    await settled()
    await client.socket.join("staff")
    assert len(client.resyncs) == 2


async def test_a_layer_that_lets_in_while_it_is_asked_is_asked_once(rooms):
    """It would be asked without end."""
    socket = rooms.client().socket
    asked = []

    async def admit(runtime, req):
        asked.append(req.channel)
        await socket.join("staff")
        return None, None

    rooms.registry.admit = admit
    await socket.join("staff")
    assert asked == ["staff"]


@pytest.mark.parametrize("version", [0, 1])
async def test_who_is_refused_by_a_layer_is_not_in(rooms, version):
    """Whether that comes out at once, or with the first listen."""
    client = await listening(rooms, channel="lobby", version=version)
    rooms.backend.refuses = True
    with pytest.raises(Forbidden, match="closed"):
        await client.socket.join("staff")
    assert is_forgotten(rooms)
    rooms.backend.refuses = False
    late = rooms.client()
    await late.socket.join("staff")
    rooms.backend.refuses = True
    late.listen("lobby", version=version)
    await settled()
    if version:
        late.listen("staff")
        await settled()
    assert "staff" not in late.socket.channels
    assert late.reply["error"]["message"] == "closed"


async def test_to_leave_what_one_is_not_in_changes_nothing(rooms):
    """Neither for a client that listens elsewhere, nor for one that listens to nothing."""
    client = await listening(rooms, channel="lobby")
    client.socket.leave("staff")
    rooms.client().socket.leave("lobby")
    with pytest.raises(ValueError, match="at most 255"):
        client.socket.leave("x" * 256)
    assert (client.resyncs, list(client.socket.channels)) == ([], ["lobby"])


async def test_a_refusal_of_before_counts_no_more(rooms):
    """A sync in a channel that the client was let into is answered, though its listen was refused."""
    client = await listening(rooms, channel="staff")
    client.sync("read", channel="staff")
    assert client.reply["error"]["name"] == "Forbidden"
    await client.socket.join("staff")
    client.sync("read", channel="staff")
    await settled()
    assert client.acks[-1] == [None, []]


async def test_the_end_of_a_channel_ends_what_was_given_in_it(rooms):
    """Also for those that do not listen to it, and for those whose identity has ended."""
    listener, other = await listening(rooms, channel="lobby"), await listening(rooms, channel="lobby")
    for client in (listener, other):
        await client.socket.join("staff")
    listener.listen("staff")
    await settled()
    rooms.gateway.suspend(other.socket)
    assert rooms.gateway.revoke_channel("staff") == 1
    assert is_forgotten(rooms)
    assert listener.resyncs[-1] == "c:staff"
    listener.listen("staff")
    await settled()
    assert listener.reply["error"]["name"] == "Forbidden"


async def test_a_suspended_client_is_told_of_nothing_and_its_channels_are_asked_about(rooms):
    """What it listened to before counts for a sync only once it has listened again."""
    client = await listening(rooms, channel="lobby")
    rooms.gateway.suspend(client.socket)
    told = len(client.resyncs)
    await client.socket.join("staff")
    client.socket.leave("lobby")
    assert len(client.resyncs) == told
    assert client.socket.to_listen == {"lobby"}
    client.socket.is_suspended = False
    client.listen("lobby")
    await settled()
    assert client.socket.to_listen == frozenset()


async def test_a_tried_socket_stands_for_the_one_that_it_is_tried_for(rooms):
    """What a layer lets in while it is asked who a client would be, is let in; they share their state."""
    client = await listening(rooms, channel="lobby")
    tried = client.socket.try_auth(b"{}")
    tried.state["seen"] = True
    await tried.join("staff")
    assert (client.socket.granted, client.socket.state) == ({"staff"}, {"seen": True})
    tried.leave("staff")
    assert client.socket.granted == frozenset()


async def test_a_client_of_the_original_library_is_in_with_its_first_listen(rooms):
    """In the default channel too; as many channels as it may listen to, and no more."""
    client = rooms.client()
    await client.socket.join(None)
    client.listen("lobby", version=0)
    await settled()
    assert list(client.socket.channels) == ["lobby", None]
    assert client.received == [("ack", [{"event": "backend"}])]
    for n in range(62):
        await client.socket.join(f"room-{n}")
    with pytest.raises(ValueError, match="may listen to 64 channels"):
        await client.socket.join("one more")


async def test_a_listen_under_way_is_asked_about_again_when_its_channel_ends():
    """Whoever was let in just before is not in."""

    class Club(Backend):
        store = SharedStore()
        closed = False

        @channel("staff")
        def rule(self):
            return not self.closed

    server = Server(Club)
    server.store.gate.clear()
    client = await listening(server, channel="staff")
    assert client.received == []
    server.backend.closed = True
    assert server.gateway.revoke_channel("staff") == 0
    server.store.gate.set()
    await settled()
    assert client.reply["error"]["name"] == "Forbidden"
    assert not client.socket.channels
    await server.close()


async def test_a_socket_without_memberships_is_let_in_nowhere(rooms):
    """As one that is made for a test."""
    client = rooms.client()
    client.socket.membership = None
    await client.socket.join("staff")
    client.socket.leave("staff")
    assert client.socket.granted == frozenset()
