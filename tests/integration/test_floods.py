"""One connection that sends as much as it can: it is closed, and what it costs is bounded, on real sockets."""

import asyncio
import contextlib
import time
from collections import Counter

import pytest

from bbio import Backend, Limits, before, read
from bbio.builtin import MemoryStore
from bbio.server.budget import FLOOD, JOIN_SECONDS, PACKET_SECONDS, SHARE_SECONDS, Budget
from bbio.server.payload import PART_PACKETS
from tests.support.floods import FLOODS
from tests.support.servers import DEADLINE, eventually, heard
from tests.support.websocket import PING, PONG, TEXT, frame
from tests.support.wire import LegacyClient, SyncFailed, encode

# Packets of a second: so few that a busy machine works on many times as many within one.
RATE = 10
LIMITS = Limits(requests_per_second=RATE)
# Seconds, for a busy machine; a connection that merely answers no ping ends after 45.
WELL_BEFORE_HEARTBEAT = 20.0


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
@pytest.mark.parametrize("flood", FLOODS)
async def test_who_goes_on_is_closed(serve, join, todos, flood):
    """Many times the packets of a second end the connection, of whatever kind they are; another goes on."""
    app = await serve(todos, limits=LIMITS)
    alice, mallory = await join(app, "todos"), await join(app, "todos")
    with contextlib.suppress(ConnectionError):
        await mallory.wire.socket.write(FLOODS[flood] * RATE * 100)
    await mallory.wire.ended(WELL_BEFORE_HEARTBEAT)
    assert await alice.sync("read") == []


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
@pytest.mark.parametrize("flood", ["requests", "bad requests", "unreadable requests", "listens"])
async def test_who_goes_on_is_disconnected_by_the_plain_engine(serve, join, todos, flood):
    """It has left the backend, and another goes on."""
    app = await serve(todos, limits=LIMITS)
    alice, mallory = await join(app, "todos"), await join(app, "todos")
    await mallory.wire.socket.write(FLOODS[flood] * RATE * 100)

    async def gone():
        return mallory.namespace.sid not in {sid for sid, _ in app.sio.manager.get_participants("/todos", None)}

    await eventually(gone, WELL_BEFORE_HEARTBEAT)
    assert await alice.sync("read") == []


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
async def test_a_pong_that_nobody_has_asked_for_sets_no_timer(serve, join, todos):
    """One heartbeat is due, however many are answered."""
    app = await serve(todos)
    alice = await join(app, "todos")
    (socket,) = app.sio.eio.sockets.values()
    timer = socket._timer
    await alice.wire.socket.write(frame(TEXT, b"3") * 100)
    assert await alice.sync("read") == []
    assert socket._timer is timer


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
async def test_pings_are_answered_where_they_arrive(serve, join, todos):
    """Each with what it brought, and none waits in the library's queue."""
    app = await serve(todos)
    alice = await join(app, "todos")
    await alice.wire.socket.write(frame(PING, b"hello"))
    assert await alice.sync("read") == []
    assert alice.wire.socket.pongs == [b"hello"]


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
async def test_pongs_of_the_websocket_are_answered_by_nothing(serve, join, todos):
    """They are heartbeats that nobody has asked for."""
    app = await serve(todos)
    alice = await join(app, "todos")
    await alice.wire.socket.write(frame(PONG, b"hello"))
    assert await alice.sync("read") == []
    assert alice.wire.socket.pongs == []


@pytest.mark.parametrize("acked", [False, True])
async def test_an_unlisten_of_nothing(serve, join, todos, acked):
    """It asks whether the server is there; who wants no answer gets none."""
    app = await serve(todos)
    alice = await join(app, "todos")
    if acked:
        assert await alice.namespace.call("unlisten", []) == [None]
    else:
        await alice.namespace.emit("unlisten", [])
        assert await alice.sync("read") == []


async def test_an_unlisten_comes_after_the_listen_before_it(serve, join):
    """However long that takes: in the end the channel is left."""
    go = asyncio.Event()

    class Slow(Backend):
        store = MemoryStore()

        @before("read")
        async def wait(self):
            await go.wait()

    alice = await join(await serve(Slow), "slow", ...)
    asked = [await alice.namespace.start("listen", "x"), await alice.namespace.start("unlisten", ["x"])]
    await alice.namespace.call("unlisten", [])  # It waits for nothing: what was sent before it is there.
    go.set()
    assert [await alice.namespace.reply(id) for id in asked] == [[{"event": "backend"}], [None]]
    with pytest.raises(SyncFailed) as refused:
        await alice.sync("create", {}, channel="x")
    assert refused.value.name == "Forbidden"


async def test_an_unlisten_of_a_client_that_waits_for_nothing(serve, join, todos):
    """It is answered at once, and the channel is left."""
    alice = await join(await serve(todos), "todos", "x")
    assert await alice.namespace.call("unlisten", ["x"]) == [None]
    with pytest.raises(SyncFailed) as refused:
        await alice.sync("create", {}, channel="x")
    assert refused.value.name == "Forbidden"


async def test_an_unlisten_leaves_the_other_channels(serve, join, todos):
    """What was named is left, and only that; writes that name no channel go to the last one as before."""
    app = await serve(todos)
    alice, bob = await join(app, "todos", "x"), await join(app, "todos", "y")
    await alice.namespace.call("listen", "y")
    assert await alice.namespace.call("unlisten", ["x"]) == [None]
    mine, his = await alice.sync("create", {"a": 1}), await bob.sync("create", {"b": 1})
    assert await heard(app.backends["todos"], alice, bob) == [[("create", his)], [("create", mine)]]


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
async def test_what_has_waited_keeps_its_order(serve, join, todos):
    """A burst of more than a share, of kinds that go different ways, is answered in the order in which it was sent."""
    app = await serve(todos)
    alice = await join(app, "todos")
    (socket,) = app.sio.eio.sockets.values()
    create = [
        frame(TEXT, f"42/todos,{n}{encode(['sync', {'method': 'create', 'model': {'n': n}}])}".encode())
        for n in range(1000, 2500)
    ]
    unknown = frame(TEXT, b'42/todos,["x"]')
    socket.budget.spend(1.0)
    await alice.wire.socket.write(b"".join(one + unknown for one in create))
    for n in range(1000, 2500):
        error, model = await alice.namespace.reply(n, DEADLINE)  # the server's rest is long after what takes long
        assert (error, model["n"]) == (None, n)
    assert [model["n"] for model in await alice.sync("read")] == list(range(1000, 2500))


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
async def test_who_sends_without_a_pause_rests(serve, join, todos):
    """Pings, too, which the library of the plain engine answers itself: each gets its pong all the same, in the end."""
    app = await serve(todos)
    alice, mallory = await join(app, "todos"), await join(app, "todos")
    await mallory.wire.socket.write(frame(PING, b"hello") * 20_000)

    async def rests():
        return app.sio._resting.count == 1

    await eventually(rests)
    assert await alice.sync("read") == []

    async def answered():
        return len(mallory.wire.socket.pongs) == 20_000

    await eventually(answered)
    assert app.sio._resting.count == 0


async def test_what_has_waited_is_paid_for_as_what_arrives(engine, serve, join, todos):
    """By one budget of the connection, whichever of the two takes long."""
    app = await serve(todos)
    alice = await join(app, "todos")
    (session,) = (app.sio.eio.sockets if engine == "fast" else app.sio._sessions).values()
    connection = session.clients["/todos"].connection if engine == "fast" else session.connection
    connection.hold()
    asked = [await alice.namespace.start("sync", {"method": "read"}) for _ in range(3)]
    await alice.namespace.call("unlisten", [])  # what was sent before it is there
    session.budget.spend(1.0)
    paid = session.budget.paid
    connection.go_on()
    assert connection._queued == 2
    assert session.budget.paid > paid
    if engine == "plain":
        (protocol,) = (transport.get_protocol() for transport in session._transports.values())
        assert protocol.budget is session.budget
    assert [await alice.namespace.reply(id) for id in asked] == [[None, []]] * 3


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_long_requests_that_arrive_together_are_handled_in_turns(serve, transport):
    """However small they are, others have theirs between: not more than two are handled in one."""
    turns, turn = [], 0

    class Busy(Backend):
        @read
        def work(self):
            turns.append(turn)
            time.sleep(1.5 * SHARE_SECONDS)

    def next_turn():
        nonlocal turn, ticking
        turn += 1
        ticking = asyncio.get_running_loop().call_soon(next_turn)

    alice = await LegacyClient.open((await serve(Busy)).url, "busy", transport=transport)
    ticking = asyncio.get_running_loop().call_soon(next_turn)
    packets = [f'42/busy,{n}["sync",{{"method":"read"}}]' for n in range(100, 105)]
    if transport == "polling":
        await alice.wire.transport.post("\x1e".join(packets))
    else:
        await alice.wire.socket.write(b"".join(frame(TEXT, packet.encode()) for packet in packets))
    assert [await alice.namespace.reply(n) for n in range(100, 105)] == [[None, None]] * 5
    ticking.cancel()
    assert max(Counter(turns).values()) <= 2
    await alice.close()


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
async def test_a_post_of_very_many_packets(serve, join, todos):
    """Others have their turn meanwhile."""
    app = await serve(todos)
    alice, mallory = await join(app, "todos"), await LegacyClient.open(app.url, "todos", transport="polling")
    post = asyncio.create_task(mallory.wire.transport.post("\x1e".join(["3"] * 2_000)))

    async def rests():
        return app.sio._resting.count == 1

    await eventually(rests)
    assert await alice.sync("read") == []
    assert not post.done()
    assert (await post)[0] == 200
    await mallory.close()


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
@pytest.mark.parametrize(
    ("packet", "price"), [('42/todos,["x"]', PACKET_SECONDS), ("40/none,", JOIN_SECONDS), ("41/none,", JOIN_SECONDS)]
)
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_what_the_library_handles_has_a_price(serve, todos, monkeypatch, transport, packet, price):
    """It is paid for each packet, and before each the connection waits its turn."""
    app = await serve(todos)
    alice = await LegacyClient.open(app.url, "todos", transport=transport)
    paid, turns = [], []

    async def take_turn(self):
        turns.append(self)

    monkeypatch.setattr(Budget, "take_turn", take_turn)
    monkeypatch.setattr(Budget, "spend", lambda self, seconds: paid.append(seconds))
    for _ in range(5):
        await alice.wire.transport.send(packet)

    async def handled():
        return len(paid) == 5

    await eventually(handled)
    assert paid == [price] * 5
    assert len(turns) >= 5
    await alice.close()


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
async def test_nothing_is_read_of_a_post_once_its_session_has_ended(serve, todos):
    """Who sends far too many packets is closed; the others of the same POST are let go."""
    app = await serve(todos, limits=LIMITS)
    mallory = await LegacyClient.open(app.url, "todos", transport="polling")
    (socket,) = app.sio.eio.sockets.values()
    await mallory.wire.transport.post("\x1e".join(["3"] * RATE * 100))
    assert socket.has_ended
    assert socket.rate._counted <= FLOOD * RATE + 2 * PART_PACKETS
    await mallory.close()
