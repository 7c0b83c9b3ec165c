"""What a hostile or broken client can do to the fast engine: nothing to the server, and nothing to others."""

import asyncio

import aiohttp
import pytest

from bbio import Backend, Limits, update
from tests.support.servers import eventually, heard
from tests.support.websocket import CLOSE, Refused, WebSocket, frame
from tests.support.wire import Wire, encode

pytestmark = pytest.mark.parametrize("engine", ["fast"], indirect=True)


async def status_of(app, **headers):
    """The status of a polling handshake, and of a websocket handshake (101 when it opens)."""
    url = f"{app.url}/socket.io/?EIO=4&transport=polling"
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
        polling = answer.status
    try:
        await (await Wire.open(app.url, headers=headers)).close()
    except Refused as refused:
        return polling, refused.status
    return polling, 101


async def test_a_post_that_announces_too_much_is_refused_at_once(serve, todos):
    """50 MB announced and not one byte sent: 413 within a second."""
    app = await serve(todos)
    async with await Wire.open(app.url, transport="polling") as wire:
        target = f"/socket.io/?EIO=4&transport=polling&sid={wire.sid}"
        head = f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1:{app.port}\r\nContent-Length: 50000000\r\n\r\n"
        writers = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
            writers.append(writer)
            writer.write(head.encode())
            async with asyncio.timeout(1):
                assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        for writer in writers:
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1", "x"])
async def test_a_foreign_origin_is_refused(serve, todos, origin):
    """Whatever the transport, and whatever a forwarded header says that no trusted proxy sent."""
    app = await serve(todos)
    assert await status_of(app, Origin=origin) == (403, 403)
    forged = {"Origin": origin, "X-Forwarded-Host": origin.removeprefix("http://")}
    assert await status_of(app, **forged) == (403, 403)


async def test_own_and_allowed_origins_are_accepted(serve, todos):
    """The server's own origin, none at all, those of `cors`, and what a trusted proxy forwards."""
    app = await serve(todos, cors=["https://friend.example"])
    for headers in ({}, {"Origin": app.url}, {"Origin": "https://friend.example"}):
        assert await status_of(app, **headers) == (200, 101)
    assert await status_of(app, Origin="https://friend.example.evil.example") == (403, 403)
    forwarded = {"Origin": "https://shop.example", "X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "https"}
    assert await status_of(app, **forwarded) == (403, 403)
    behind = await serve(todos, proxies=["127.0.0.1"])
    assert await status_of(behind, **forwarded) == (200, 101)


async def test_another_host_name_is_refused(serve, todos):
    """A name that an attacker points to the server is none of `hosts`, with its own origin or without."""
    app = await serve(todos, hosts=["127.0.0.1"])
    assert await status_of(app) == (200, 101)
    for headers in ({"Host": "evil.example"}, {"Host": "evil.example", "Origin": "http://evil.example"}):
        assert await status_of(app, **headers) == (403, 403)
    assert await status_of(app, Host="evil.example", **{"X-Forwarded-Host": "127.0.0.1"}) == (403, 403)


async def test_a_listener_that_never_reads_is_dropped(serve, join, todos):
    """It is gone from the server, memory with it; another one is told everything in order."""
    app = await serve(todos, limits=Limits(send_buffer=200_000))
    stopped = await join(app, "todos", receive_buffer=4096)
    alice = await join(app, "todos")
    stopped.wire.pause()
    text = "x" * 10_000
    for n in range(1500):
        app.backends["todos"].emit("created", {"id": n, "text": text})
        await asyncio.sleep(0)
        if n % 20 == 19:
            for expected in range(n - 19, n + 1):
                assert (await alice.synced())[1]["id"] == expected

    async def gone():
        return set(app.sio.eio.sockets) == {alice.wire.sid}

    await eventually(gone, 20)
    assert await alice.sync("read") == []


@pytest.mark.parametrize("name", ["connect", "disconnect", "connect_error", "*", "", 1, None, [], {"a": 1}])
async def test_a_reserved_event_name_ends_the_connection(serve, join, todos, name):
    """No handler runs, in a backend's namespace as in another, and others are not disturbed."""
    app = await serve(todos)
    ran = []

    async def connect(sid, *args):
        if args and not isinstance(args[0], dict):
            ran.append(args)

    async def anything(*args):
        ran.append(args)

    app.sio.on("connect", connect, namespace="/plain")
    app.sio.on("*", anything, namespace="/plain")
    app.sio.on("disconnect", lambda sid, reason: ran.append("forged") if reason == "forged" else None, "/plain")
    alice = await join(app, "todos")
    for backend in ("todos", "plain"):
        mallory = await join(app, backend, ...)
        await mallory.namespace.raw(encode([name, "forged"]))
        await mallory.wire.ended(1)
    assert await alice.sync("read") == []
    assert ran == []


@pytest.mark.parametrize(
    "packets",
    [
        ['451000000-/todos,["x"]'],
        ['4517-/todos,["x"]'],
        ['450-/todos,["x"]'],
        ['45/todos,["x"]'],
        ['45-1-/todos,["x"]'],
        ['451-/todos,["x",{"_placeholder":true,"num":9}]', b"a"],
        ['451-/todos,["x",{"_placeholder":true,"num":"0"}]', b"a"],
        ['451-/todos,["x",{"_placeholder":true,"num":0}]', '451-/todos,["x",{"_placeholder":true,"num":0}]'],
        [b"an attachment of nothing"],
    ],
    ids=lambda packets: str(packets[0])[:40],
)
async def test_attachments_that_do_not_fit_end_the_connection(serve, join, todos, packets):
    """Too many, none, placeholders without an attachment: the sender is gone, nothing of it is kept."""
    app = await serve(todos)
    alice, mallory = await join(app, "todos"), await join(app, "todos")
    await mallory.wire.send(*packets)
    await mallory.wire.ended(1)
    assert app.sio._binary_packet == {}
    assert await alice.sync("read") == []


async def test_acks_nobody_asked_for_change_nothing(serve, join, todos):
    """Before and after a real one: the server's own calls get the client's answer and no other."""
    app = await serve(todos)
    alice = await join(app, "todos")
    for n in range(2):
        call = asyncio.create_task(app.sio.call("ask", to=alice.namespace.sid, namespace="/todos", timeout=5))
        assert await alice.namespace.event() == ["ask"]
        asked = alice.namespace.packets[-1].id
        for id in (0, asked + 1, asked + 7, 10**14):
            await alice.wire.send(f'43/todos,{id}["forged"]')
        await alice.wire.send('43/todos,["forged"]')
        await alice.wire.send(f'43/todos,{asked}["answer {n}"]', f'43/todos,{asked}["forged"]')
        assert await call == f"answer {n}"
    assert await alice.sync("read") == []


async def test_every_request_is_acked_under_its_own_id(serve, join, todos):
    """0 is an id, the same id twice is two requests, and one of 100 digits ends the connection."""
    alice = await join(await serve(todos), "todos")
    request = encode(["sync", {"method": "read", "model": {}, "options": {}}])
    for id in (0, 4, 4):
        await alice.namespace.raw(request, id)
    await alice.wire.until(lambda: len(alice.namespace.acks(4)) == 2, "two acks")
    assert len(alice.namespace.acks(0)) == 1
    await alice.namespace.raw(request, "1" * 100)
    await alice.wire.ended(1)


async def test_requests_beyond_what_may_run_and_wait_are_busy(serve, join):
    """2 run, 3 wait, the rest is answered Busy; what waits is dropped with the connection."""
    ran, gate = [], asyncio.Event()

    class Slow(Backend):
        @update
        async def hang(self, req):
            ran.append(req.model["id"])
            await gate.wait()
            return req.model

    app = await serve(Slow, limits=Limits(running=2, queued=3))
    alice, bob = await join(app, "slow"), await join(app, "slow")
    ids = [await alice.start("update", {"id": n}) for n in range(10)]
    for id in ids[5:]:
        (ack,) = await alice.namespace.reply(id)
        assert ack["error"]["name"] == "Busy"
    assert ran == [0, 1]
    bobs = await bob.start("update", {"id": "bob"})
    alice.wire.abort()

    async def gone():
        return alice.wire.sid not in app.sio.eio.sockets

    await eventually(gone, 20)
    gate.set()
    assert await bob.finish(bobs) == {"id": "bob"}
    assert await bob.sync("update", {"id": "last"}) == {"id": "last"}
    assert ran == [0, 1, "bob", "last"]


async def test_a_socket_listens_to_so_many_channels(serve, join, todos):
    """One more is refused and not heard; those listened to go on."""
    app = await serve(todos, limits=Limits(channels=2))
    alice = await join(app, "todos", "a")
    await alice.listen("b")
    (refused,) = await alice.namespace.call("listen", "c")
    assert refused["error"]["name"] == "BadRequest"
    await alice.listen("a")
    todos = app.backends["todos"]
    for channel in "abc":
        todos.emit("created", {"id": channel}, channel=channel)
    assert [model["id"] for _, model in (await heard(todos, alice))[0]] == ["a", "b"]


async def test_a_connection_joins_so_many_namespaces(serve, dial, todos):
    """One backend too many, too many unknown ones, or a name too long: the connection ends, the name unsaid."""
    app = await serve(todos, named={"more": todos}, limits=Limits(namespaces=1, bad_namespaces=3))
    greedy, guessing, long = await dial(app), await dial(app), await dial(app)
    await greedy.connect("/todos")
    await greedy.send("40/more,")
    await greedy.ended(1)
    await guessing.send(*(f"40/guess{n}," for n in range(4)))
    await guessing.ended(1)
    await long.send(f"40/{'long' * 100_000},")
    await long.ended(1)
    assert not any("long" in str(frame) for frame in long.frames)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_session_that_joins_nothing_ends(serve, dial, join, todos, transport):
    """After `connect_time`, over either transport; one that has joined stays."""
    app = await serve(todos, limits=Limits(connect_time=0.3))
    alice = await join(app, "todos")
    idle = [await dial(app, transport=transport) for _ in range(10)]
    for wire in idle:
        await wire.ended(2)

    async def alone():
        return set(app.sio.eio.sockets) == {alice.wire.sid}

    await eventually(alone, 2)
    assert await alice.sync("read") == []


async def test_reset_connections_leave_nothing_behind(serve, join, todos):
    """During a broadcast: rooms, environ and sessions are back to base, and who stayed was told all."""
    app = await serve(todos)
    alice = await join(app, "todos", "room")
    others = [await join(app, "todos", "room") for _ in range(20)]
    todos = app.backends["todos"]
    for n, client in enumerate(others):
        todos.emit("created", {"id": n}, channel="room")
        client.wire.abort()
        todos.emit("updated", {"id": n}, channel="room")
    told = [(method, n) for n in range(20) for method in ("create", "update")]
    assert [(method, model["id"]) for method, model in (await heard(todos, alice))[0]] == told

    async def back_to_base():
        rooms = app.sio.manager.rooms["/todos"].values()
        sids = {sid for room in rooms for sid in room}
        return sids == {alice.namespace.sid} and len(app.sio.environ) == 1 and len(app.sio.eio.sockets) == 1

    await eventually(back_to_base, 20)
    assert await alice.sync("read") == []


async def test_an_upgrade_that_is_none_leaves_the_session_polling(serve, join, todos):
    """A wrong word, no word, binary data, its end, or a second WebSocket meanwhile: it ends, and polling goes on."""
    app = await serve(todos, limits=Limits(body_time=0.3))
    alice = await join(app, "todos", transport="polling")
    url = f"{app.url}/socket.io/?EIO=4&transport=websocket&sid={alice.wire.sid}"
    for words in (["2nope"], [b"2probe"], [], ["2probe", "4x"], None):
        socket = await WebSocket.open(url)
        if words is None:
            await socket.write(frame(CLOSE, b""))
        else:
            with pytest.raises(Refused):
                await WebSocket.open(url)
        for word in words or ():
            await socket.send(word)
        while await socket.receive() is not None:
            pass
        await socket.close()
        assert await alice.sync("read") == []
    await alice.wire.upgrade()
    assert await alice.sync("read") == []


async def test_a_websocket_that_is_none_leaves_no_session(serve, todos):
    """A handshake of another version is refused, as is one that a handler of the engine refuses."""
    app = await serve(todos)
    with pytest.raises(Refused):
        await Wire.open(app.url, headers={"Sec-WebSocket-Version": "12"})
    app.sio.eio.on("connect", lambda sid, environ: False)
    assert await status_of(app) == (401, 401)

    async def none():
        return app.sio.eio.sockets == {}

    await eventually(none, 20)


@pytest.mark.parametrize("body", ["x", "4x", b"\xff", "b!!!", "\x1e" * 20, "2", "42/todos,[1"])
async def test_a_post_that_is_no_protocol_ends_the_session(serve, join, todos, body):
    """As a message over a WebSocket does."""
    app = await serve(todos)
    mallory = await join(app, "todos", transport="polling")
    assert (await mallory.wire.transport.post(body))[0] in (200, 400)
    await mallory.wire.ended(2)
    assert await (await join(app, "todos")).sync("read") == []


async def test_polls_over_one_connection(serve, dial, todos):
    """Each answer is read when the next request comes; then the connection may break."""
    app = await serve(todos)
    wire = await dial(app, transport="polling")
    wire._reader.cancel()
    url = f"{app.url}/socket.io/?EIO=4&transport=polling&sid={wire.sid}"
    async with aiohttp.ClientSession() as http:
        for n in range(3):
            await wire.send("40/todos," if n == 0 else f'42/todos,{n}["listen",null]')
            async with http.get(url) as answer:
                assert answer.status == 200
        async with http.get(f"{app.url}/healthz") as answer:
            assert answer.status == 200
    assert wire.sid in app.sio.eio.sockets
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)

    def ask(path):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{app.port}\r\n\r\n".encode())

    async def waits():
        return app.sio.eio.sockets[wire.sid].polling

    ask(url.removeprefix(app.url))
    await eventually(waits)
    ask("/healthz")  # while the poll waits
    await wire.send('42/todos,7["listen",null]')
    async with asyncio.timeout(2):
        await reader.readuntil(b"43/todos,7[")
        await reader.readuntil(b'"ok"}')
    writer.close()
    await writer.wait_closed()
    assert wire.sid in app.sio.eio.sockets


async def test_events_where_nobody_joined_are_let_go(serve, join, todos):
    """They may have been sent before a client heard that it was made to leave; too many of them end the connection."""
    alice = await join(await serve(todos, limits=Limits(bad_namespaces=3)), "todos")
    await alice.wire.send(*['42/left,["x"]'] * 3)
    assert await alice.sync("read") == []
    await alice.wire.send('42/left,["x"]')
    await alice.wire.ended(1)


async def test_an_event_with_two_attachments(serve, dial, todos):
    """It is handled when both are there, and so is an ack."""
    app = await serve(todos)

    @app.sio.on("join")
    async def join(sid, one, two):
        return one + two

    wire = await dial(app)
    root = await wire.connect("/")
    await wire.send('452-7["join",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', b"ab", b"cd")
    await root.reply(7)
    assert root.packets[-1].attachments == [b"abcd"]
    call = asyncio.create_task(app.sio.call("ask", to=root.sid, timeout=5))
    assert await root.event() == ["ask"]
    asked = root.packets[-1].id
    await wire.send(f'462-{asked}[[{{"_placeholder":true,"num":0}},{{"_placeholder":true,"num":1}}]]', b"ab", b"cd")
    assert await call == [b"ab", b"cd"]
