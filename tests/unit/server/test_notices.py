"""Notices: what is revoked is revoked in all processes, once, whatever else goes wrong."""

import msgspec
import pytest

from bbio import Backend, Forbidden, Unavailable, before, channel
from bbio.builtin import MemoryStore
from bbio.cluster.control import Control, Notice
from bbio.server.notices import Notices
from tests.support.listeners import Server, listening, settled


class Wire(Control):
    """Carries what is told nowhere; a test says what comes of it."""

    seconds = 60.0

    def __init__(self):
        super().__init__()
        self.written = []
        self.failure = None

    async def write(self, text):
        if self.failure is not None:
            raise self.failure
        self.written.append(text)

    async def read(self, position):
        return position, []


class Rooms(Backend):
    """Who is in `closed` may not be in any room."""

    store = MemoryStore()

    def __init__(self):
        self.closed = set()

    @before
    def identify(self, req):
        req.identify(req.socket.headers.get("name"))
        if req.user in self.closed:
            raise Forbidden("closed")

    @channel("{room}")
    def rule(self, req, room):
        return room == "lobby"


@pytest.fixture
async def rooms():
    """A gateway with a backend whose log has a control."""
    server = Server(Rooms)
    server.runtime.log.control = server.wire = Wire()
    server.notices = Notices(server.gateway)
    server.notices.open()
    yield server
    await server.notices.close()
    assert not server.wire._listeners
    await server.wire.stop()
    await server.close()


async def test_what_is_told_is_done_here_and_written_once(rooms):
    """It counts the sockets; coming back by another store, it is not done again."""
    client = await listening(rooms, channel="lobby")
    assert await rooms.notices.tell("revoke", channel="lobby") == 1
    assert client.resyncs == ["c:lobby"]
    client.listen("lobby")
    await settled()
    (text,) = rooms.wire.written
    rooms.notices.hear(msgspec.json.decode(text, type=Notice))
    await settled()
    assert client.resyncs == ["c:lobby"]


@pytest.mark.parametrize("backend", [None, "rooms"])
async def test_what_others_tell_is_done_once(rooms, backend):
    """Of the channel alone that it is about, and of the backend."""
    lobby, other = await listening(rooms, channel="lobby"), rooms.client()
    await other.socket.join("other")
    other.listen("other")
    await settled()
    for _ in range(2):
        rooms.notices.hear(Notice("a", "revoke", channel="lobby", backend=backend))
        await settled()
    assert (lobby.resyncs, other.resyncs) == (["c:lobby"], [])
    rooms.notices.hear(Notice("b", "revoke", channel="other", backend="another"))
    await settled()
    assert other.resyncs == []


async def test_an_unreachable_store_is_told_and_here_it_is_done(rooms):
    """Whoever revokes knows that others may not have heard."""
    client = await listening(rooms, channel="lobby")
    rooms.wire.failure = Unavailable("the database cannot be used at the moment")
    with pytest.raises(Unavailable):
        await rooms.notices.tell("revoke", channel="lobby")
    assert client.resyncs == ["c:lobby"]


async def test_what_was_missed_has_everybody_asked_again(rooms, caplog):
    """Whoever may not any more is let go of."""
    ann, bob = [rooms.client(name=name) for name in ("ann", "bob")]
    for client in (ann, bob):
        client.listen("lobby")
    await settled()
    rooms.backend.closed.add("ann")
    rooms.notices.hear(None)
    await settled()
    assert (ann.resyncs, bob.resyncs) == (["c:lobby"], [])
    assert "notices of other processes were missed" in caplog.text


async def test_a_user_is_let_in_and_out(rooms):
    """All connections of the user to that backend, and nobody else's; a layer that refuses one is told."""
    clients = [rooms.client(name=name) for name in ("ann", "ann", "bob")]
    for client in clients:
        client.listen("lobby")
    await settled()
    assert await rooms.notices.tell("join", channel="staff", user="ann", backend="rooms") == 2
    assert await rooms.notices.tell("join", channel="staff", user="ann", backend="another") == 0
    assert [client.resyncs for client in clients] == [["c:staff"], ["c:staff"], []]
    for client in clients[:2]:
        client.listen("staff")
    await settled()
    assert await rooms.notices.tell("leave", channel="staff", user="ann", backend="rooms") == 2
    assert clients[0].received[-1] == ("resync", ["c:staff", {"left": True}])
    rooms.backend.closed.add("ann")
    with pytest.raises(Forbidden, match="closed"):
        await rooms.notices.tell("join", channel="staff", user="ann", backend="rooms")
    assert not rooms.gateway.memberships._members


async def test_a_user_is_revoked(rooms):
    """Whoever tells it."""
    clients = [rooms.client(name=name) for name in ("ann", "bob", "eve")]
    for client in clients:
        client.listen("lobby")
    await settled()
    assert await rooms.notices.tell("revoke", user="ann") == 1
    rooms.notices.hear(Notice("a", "revoke", user="bob"))
    await settled()
    assert [client.socket.is_suspended for client in clients] == [True, True, False]


async def test_what_cannot_be_done_of_what_others_tell_is_logged(rooms, caplog):
    """The next notice is done all the same."""
    client, ann = await listening(rooms, channel="lobby"), rooms.client(name="ann")
    ann.listen("lobby")
    await settled()
    rooms.backend.closed.add("ann")
    rooms.notices.hear(Notice("a", "join", user="ann", channel="staff", backend="rooms"))
    rooms.notices.hear(Notice("b", "revoke", channel="lobby"))
    await settled()
    assert "could not be done: join" in caplog.text
    assert client.resyncs == ["c:lobby"]
