"""Bounds in bytes, over the wire: what one client may make the server hold, and what an honest one may ask for."""

import asyncio
import functools
import socket
from contextlib import suppress

import aiohttp
import pytest

from bbio import Backend, Limits, before, create
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.streams import HistoryLimits
from tests.support.servers import eventually
from tests.support.wire import LegacyClient, Namespace, SyncFailed, encode, post_in_parts


class Lists(Backend):
    """A list of a megabyte, in models of 10 KB."""

    store = MemoryStore(models=[{"id": n, "text": "x" * 10_000} for n in range(100)])


class Slow(Backend):
    """Creates that wait until the gate is opened."""

    def __init__(self):
        self.gate = asyncio.Event()

    @create
    async def wait(self, req):
        await self.gate.wait()
        return {}


async def test_a_post_may_have_as_many_packets_as_fit(serve, join, todos):
    """A page with many collections joins and reads with all of them at once."""
    app = await serve(todos)
    alice = await join(app, "todos", transport="polling")
    packets = [f"42/todos,{n}{encode(['sync', {'method': 'create', 'model': {'n': n}}])}" for n in range(100, 140)]
    assert (await alice.wire.transport.post("\x1e".join(packets)))[0] == 200
    for n in range(100, 140):
        assert (await alice.finish(n))["n"] == n


async def test_a_post_may_arrive_in_parts(serve, join, todos):
    """As any does that is longer than a segment: nothing is taken for the whole before it is."""
    app = await serve(todos)
    alice = await join(app, "todos", transport="polling")
    body = f"42/todos,100{encode(['sync', {'method': 'create', 'model': {'title': 'x' * 5_000}}])}"
    assert (await post_in_parts(alice, app.port, body, 60)).startswith(b"HTTP/1.1 200")
    assert (await alice.finish(100))["title"] == "x" * 5_000


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_connections_are_limited(serve, join, dial, todos, transport, caplog):
    """One too many is turned away, with a line in the log that says what to change; who left makes room."""
    app = await serve(todos, limits=Limits(connections=2))
    first, _ = [await join(app, "todos", transport=transport) for _ in range(2)]
    with pytest.raises(Exception, match=r"503|no OPEN packet"):
        await dial(app, transport=transport)
    assert "Limits(connections=...)" in caplog.text
    if transport == "polling":
        return  # to leave takes its time there
    await first.close()

    async def joined():
        try:
            return await join(app, "todos", transport=transport)
        except Exception:
            return None

    await eventually(joined)


async def test_the_connections_of_one_address_are_limited(serve, join, dial, todos, caplog):
    """Others have theirs, and whoever leaves makes room."""
    app = await serve(todos, limits=Limits(connections_per_address=1), proxies=["127.0.0.1"])
    first = await join(app, "todos", headers={"X-Forwarded-For": "192.0.2.1"})
    await join(app, "todos", headers={"X-Forwarded-For": "192.0.2.2"})
    for transport in ("websocket", "polling"):
        with pytest.raises(Exception, match=r"503|no OPEN packet"):
            await dial(app, transport=transport, headers={"X-Forwarded-For": "192.0.2.1"})
    assert "a connection from 192.0.2.1: too many" in caplog.text
    await first.close()

    async def joined():
        try:
            return await join(app, "todos", headers={"X-Forwarded-For": "192.0.2.1"})
        except Exception:
            return None

    await eventually(joined)


async def test_who_polls_no_more_makes_room(serve, join, todos):
    """Its session ends when it answers no ping."""
    app = await serve(todos, limits=Limits(connections_per_address=1), ping_interval=0.5, ping_timeout=0.5)
    await (await join(app, "todos", transport="polling")).close()

    async def joined():
        try:
            return await join(app, "todos", transport="polling")
        except Exception:
            return None

    await eventually(joined)


async def test_two_polls_at_once_end_the_session(serve, join, todos):
    """Each would hold a connection, and packets could go to one that nobody reads any more."""
    app = await serve(todos)
    mallory = await join(app, "todos", transport="polling")
    url = f"{app.url}/socket.io/?EIO=4&transport=polling&sid={mallory.wire.sid}"
    async with aiohttp.ClientSession() as http:

        async def refused():
            async with http.get(url) as answer:
                return (answer.status, (await answer.text()).strip('"')) == (400, "overlapping polls")

        await eventually(refused)
    await mallory.wire.ended(2)
    assert await (await join(app, "todos")).sync("read") == []


async def test_a_session_is_upgraded_once_at_a_time(serve, join, todos):
    """A second websocket of it is refused while there is one; when that is gone, another may come."""
    app = await serve(todos)
    alice = await join(app, "todos", transport="polling")
    url = f"{app.url}/socket.io/?EIO=4&transport=websocket&sid={alice.wire.sid}"
    async with aiohttp.ClientSession() as http:

        async def probed():
            websocket = await http.ws_connect(url)
            await websocket.send_str("2probe")
            assert await websocket.receive_str() == "3probe"
            return websocket

        first = await probed()
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(url)
        assert refused.value.status == 400
        await first.close()

        async def upgraded():
            with suppress(aiohttp.WSServerHandshakeError):
                return await (await probed()).close()
            return False

        await eventually(upgraded)
    assert await (await join(app, "todos")).sync("read") == []


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
async def test_a_session_that_has_ended_leaves_no_heartbeat(serve, join, todos):
    """Else tens of thousands wait for their time, and a search for garbage among them holds up everybody."""
    app = await serve(todos, ping_interval=3_600.0)

    def heartbeats():
        return [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "_send_ping"]

    clients = [await join(app, "todos", transport=transport) for transport in ("websocket", "polling")]
    assert len(heartbeats()) == 2
    await clients[0].close()
    await clients[1].wire.transport.post("1")

    async def ended():
        return not heartbeats()

    await eventually(ended)


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
async def test_who_joins_a_backend_again_and_again_is_closed(serve, join, todos, caplog):
    """Each join is refused; what it has joined stays, up to a limit."""
    caplog.set_level("INFO", logger="bbio")
    app = await serve(todos, limits=Limits(bad_namespaces=3))
    mallory = await join(app, "todos")
    await mallory.wire.send(*["40/todos,"] * 3)
    assert await mallory.sync("read") == []
    await mallory.wire.send("40/todos,")
    await mallory.wire.ended(2)
    assert "too many namespaces that it may not join" in caplog.text
    assert await (await join(app, "todos")).sync("read") == []


async def test_who_was_never_let_in_leaves_nothing_behind(serve, join, todos):
    """The library may say of a client that it is gone before it was there."""
    app = await serve(todos)
    alice = await join(app, "todos")
    await app.sio._backends["/todos"]["disconnect"]("nobody", "transport close")
    assert await alice.sync("read") == []


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
@pytest.mark.parametrize(
    ("packets", "why"),
    [
        (["40/todos,"], "joined twice"),
        ([f'451-/todos,["x",{{"_placeholder":true,"num":0}}{",0" * 17_000}]'], "too long an event with attachments"),
    ],
    ids=["a CONNECT twice", "a long event with an attachment"],
)
async def test_what_is_no_protocol_is_logged_with_its_reason(serve, join, todos, caplog, packets, why):
    """The connection ends, and what it has sent is no part of the line."""
    caplog.set_level("INFO", logger="bbio")
    app = await serve(todos)
    mallory = await join(app, "todos")
    await mallory.wire.send(*packets)
    await mallory.wire.ended(5)
    assert why in caplog.text
    assert "_placeholder" not in caplog.text
    assert await (await join(app, "todos")).sync("read") == []


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_the_buffers_of_the_system_are_limited(serve, join, todos, transport, engine):
    """Else it would hold megabytes for each client that does not read."""
    app = await serve(todos)
    alice = await join(app, "todos", transport=transport)
    await alice.sync("read")
    session = app.sio.eio.sockets[alice.wire.sid]

    async def transport_of():
        if engine == "plain":
            counted = app.sio._sessions[alice.wire.sid]
            return (counted.is_live or counted.open) and counted._transports[counted.is_live]
        return session.transport or (session.polling and session.polls._watch.transport)

    await eventually(transport_of)
    connection = (await transport_of()).get_extra_info("socket")
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        assert connection.getsockopt(socket.SOL_SOCKET, option) == 131_072


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_who_reads_a_long_list_slowly_is_kept(serve, join, transport):
    """With events that come meanwhile, though list and events together are more than a buffer for events holds."""
    app = await serve(Lists, limits=Limits(send_buffer=50_000, reply=2_000_000))
    options = {"receive_buffer": 16_384} if transport == "websocket" else {}
    bob = await join(app, "lists", transport=transport, **options)
    if transport == "websocket":
        bob.wire.throttle(2_000_000)
    ids = [await bob.start("read") for _ in range(3)]
    for n in range(5):
        app.backends["lists"].emit("updated", {"id": n})
    for id in ids:
        assert len(await bob.finish(id, 20)) == 100
    for n in range(5):
        assert (await bob.synced())[1]["id"] == n


async def test_who_reads_nothing_of_a_list_is_dropped(serve, join):
    """What it asked for is held for a time alone, and counted to its address meanwhile."""
    app = await serve(Lists, limits=Limits(stall_time=0.3))
    mallory = await join(app, "lists", receive_buffer=4_096)
    address = app.gateway.addresses.of("127.0.0.1")
    mallory.wire.pause()
    await mallory.start("read")

    async def held():
        return address.held > 500_000

    async def dropped():
        return not app.sio.eio.sockets and address.held == 0

    await eventually(held)
    await eventually(dropped)


async def test_who_reads_nothing_of_the_answer_to_a_poll_is_dropped(serve, dial):
    """As over a WebSocket."""
    app = await serve(Lists, limits=Limits(stall_time=0.3))
    wire = await dial(app, transport="polling")
    session, address = app.sio.eio.sockets[wire.sid], app.gateway.addresses.of("127.0.0.1")
    wire._reader.cancel()
    packets = ["40/lists,", f"42/lists,1{encode(['sync', {'method': 'read'}])}"]
    for packet in packets:
        assert (await wire.transport.post(packet))[0] == 200

    async def answered():
        return address.held > 500_000

    await eventually(answered)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", app.port))
    query = f"/socket.io/?EIO=4&transport=polling&sid={wire.sid}"
    request = f"GET {query} HTTP/1.1\r\nHost: 127.0.0.1:{app.port}\r\n\r\n".encode()
    await asyncio.get_running_loop().sock_sendall(connection, request)

    async def dropped():
        return session.closed and address.held == 0

    await eventually(dropped)
    connection.close()


async def unread(dial, app, backend):
    """A client that has joined a backend by a POST, and polls not yet."""
    wire = await dial(app, transport="polling")
    wire._reader.cancel()
    assert (await wire.transport.post(f"40/{backend},"))[0] == 200
    wire.namespaces[f"/{backend}"] = Namespace(wire, f"/{backend}")
    return wire, LegacyClient(wire, wire.namespaces[f"/{backend}"])


async def test_who_polls_no_more_is_answered_no_more(serve, dial):
    """While a client has more answers to read than it may leave unread, none of its requests is begun; then all are."""
    begun = []

    class Counted(Lists):
        @before("read")
        def count(self, req):
            begun.append(req)

    app = await serve(Counted, limits=Limits(reply=2_500_000))
    wire, mallory = await unread(dial, app, "counted")
    address = app.gateway.addresses.of("127.0.0.1")
    ids = [await mallory.start("read") for _ in range(3)]

    async def is_held():
        return address.held > 2_500_000

    await eventually(is_held)
    ids.append(await mallory.start("read"))
    told = await mallory.namespace.start("unlisten")
    assert len(begun) == 3
    wire._reader = asyncio.create_task(wire._read())
    await mallory.namespace.reply(told, 20)
    for id in ids:
        assert len(await mallory.finish(id, 20)) == 100

    async def is_free():
        return address.held == 0

    await eventually(is_free)


async def test_who_polls_no_more_is_dropped_for_events(serve, dial, caplog):
    """Past what may wait for a client, whatever else it has asked for."""
    caplog.set_level("INFO", logger="bbio")
    app = await serve(Lists, limits=Limits(send_buffer=100_000))
    wire, mallory = await unread(dial, app, "lists")
    await mallory.start("read")
    await mallory.namespace.start("listen", None)
    session, address = app.sio.eio.sockets[wire.sid], app.gateway.addresses.of("127.0.0.1")

    async def dropped():
        app.backends["lists"].emit("updated", {"id": 1, "text": "x" * 10_000})
        return session.closed and address.held == 0

    await eventually(dropped)
    assert f"ending {wire.sid}: slow consumer" in caplog.text


async def test_who_has_the_most_unread_is_dropped_for_its_address(serve, join, dial, caplog):
    """Once that holds too much; who reads stays."""
    caplog.set_level("INFO", logger="bbio")
    app = await serve(Lists, limits=Limits(memory=10_000_000))
    bob = await join(app, "lists", transport="polling")
    wire, mallory = await unread(dial, app, "lists")
    address = app.gateway.addresses.of("127.0.0.1")

    async def dropped():
        return wire.sid not in app.sio.eio.sockets and address.held == 0

    for _ in range(3):
        await mallory.start("read")
    await eventually(dropped)
    assert f"ending {wire.sid}: slow consumer" in caplog.text
    assert len(await bob.sync("read", deadline=20)) == 100


async def test_requests_that_wait_are_bounded_in_bytes(serve, join):
    """More is `Busy`; small ones go on, and so do those of others, and all is let go with the client."""
    app = await serve(Slow, Lists, limits=Limits(memory=4_000_000))
    mallory, bob = await join(app, "slow"), await join(app, "lists")
    large = {"id": "q", "a": [[]] * 20_000}
    ids = [await mallory.start("create", large) for _ in range(3)]
    for id in ids[1:]:
        with pytest.raises(SyncFailed, match="Busy"):
            await mallory.finish(id)
    small = await mallory.start("create", {})
    assert (await bob.sync("read", {"id": 1}))["id"] == 1
    address = app.gateway.addresses.of("127.0.0.1")
    assert 0 < address.held < 3_000_000
    app.backends["slow"].backend.gate.set()
    assert await mallory.finish(small) == {}

    async def free():
        return address.held == 0

    await eventually(free)


@pytest.fixture(params=["memory", "SQLite", "PostgreSQL"])
def make_store(request, tmp_path):
    """Each of the three stores."""
    if request.param == "memory":
        return MemoryStore
    if request.param == "SQLite":
        return functools.partial(SQLiteStore, tmp_path / "todos.db")
    return functools.partial(PostgresStore, request.getfixturevalue("database_url"))


@pytest.mark.parametrize("is_at_hand", [True, False], ids=["at hand", "from the log"])
async def test_history_is_not_given_past_its_age(serve, join, make_store, is_at_hand):
    """Also when nobody has written since: who comes back reads everything, whether somebody else listens or not."""
    declared = make_store(history=HistoryLimits(age=100.0))
    clock, later = declared.event_clock, 0.0
    declared.event_clock = lambda: clock() + later

    class Todos(Backend):
        store = declared

    app = await serve(Todos)
    alice = await join(app, "todos")
    (told,) = await alice.namespace.call("listen", None, {"v": 1})
    await alice.namespace.call("sync", {"method": "create", "model": {"title": "milk"}})
    place = told["streams"]["c:"]
    if not is_at_hand:
        await alice.close()
    for seconds, recovered in ((90.0, True), (110.0, False)):
        later = seconds
        bob = await join(app, "todos", ...)
        (told,) = await bob.namespace.call("listen", None, {"v": 1, "since": {"c:": [place["epoch"], place["offset"]]}})
        assert told["streams"]["c:"]["recovered"] is recovered
        assert len(told["streams"]["c:"]["events"]) == recovered
        await bob.close()


@pytest.mark.parametrize("answered", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"])
@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc"])
async def test_a_connection_without_a_whole_request_is_closed(serve, todos, monkeypatch, answered, begun):
    """Whether it has sent nothing or half a head, at first or after a request that was answered."""
    monkeypatch.setattr("bbio.app.KEEPALIVE_SECONDS", 0.3)
    app = await serve(todos)
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    if answered:
        writer.write(answered)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(len(b'{"status": "ok"}'))
    writer.write(begun)
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()
