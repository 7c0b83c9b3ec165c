"""The lobby: connections without a whole request are bounded, and so are heads and bodies on their way."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from bbio import Limits
from bbio.server.http.lobby import HEAD_BYTES, Lobby
from bbio.server.memory import Addresses
from tests.support.servers import eventually
from tests.support.wire import encode, post_in_parts

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
BEGUN = {
    "nothing": b"",
    "half a head": b"GET /healthz HTTP/1.1\r\nHost: loc",
    "an answered request": HEAD + b"\r\n",
    "half a body": b"POST /socket.io/?EIO=4 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx",
}


@pytest.fixture
async def call():
    """Open connections that send something and then wait; closed after the test."""
    writers = []

    async def call(app, sent=b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writers.append(writer)
        writer.write(sent)
        if sent.startswith(HEAD):
            await answer(reader)
        return reader, writer

    yield call
    for writer in writers:
        writer.close()


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """As many may wait as there may be clients, however few."""
    monkeypatch.setattr("bbio.server.http.lobby.LEAST_WAITING", 1)


async def answer(reader):
    """Read the answer to a request for health."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(len(b'{"status": "ok"}'))


async def ended(reader):
    """Whether the server has ended a connection."""
    async with asyncio.timeout(30):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


async def is_open(caller):
    """Whether a connection is still served."""
    reader, writer = caller
    writer.write(HEAD + b"\r\n")
    return (await answer(reader)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize(
    ("limits", "named"),
    [({"connections_per_address": 3}, "this address"), ({"connections": 3}, "in all")],
    ids=["of one address", "in all"],
)
async def test_who_waits_longest_without_a_whole_request_makes_room(serve, todos, call, caplog, begun, limits, named):
    """In all, and of one address; the log says so, and what to change."""
    app = await serve(todos, limits=Limits(**limits))
    callers = []
    for _ in range(3):
        callers.append(await call(app, BEGUN[begun]))
        await asyncio.sleep(0)
    assert await is_open(await call(app))
    assert await ended(callers[0][0])
    if not BEGUN[begun]:
        assert [await is_open(caller) for caller in callers[1:]] == [True, True]
    assert "closed a connection from 127.0.0.1 that had sent no whole request" in caplog.text
    assert named in caplog.text


async def test_a_proxy_may_have_as_many_as_all(serve, todos, call):
    """It calls for others, whose addresses nobody knows before their requests."""
    app = await serve(todos, limits=Limits(connections_per_address=1, connections=3), proxies=["127.0.0.1"])
    callers = [await call(app) for _ in range(4)]
    assert await ended(callers[0][0])
    assert [await is_open(caller) for caller in callers[1:]] == [True] * 3


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_clients_take_no_place(serve, join, todos, call, transport):
    """Whose polls and websockets are under way."""
    app = await serve(todos, limits=Limits(connections_per_address=2))
    clients = [await join(app, "todos", transport=transport) for _ in range(2)]
    for _ in range(5):
        assert await is_open(await call(app))
    assert await clients[1].sync("create", {"title": "milk"})
    assert (await clients[0].synced())[1]["title"] == "milk"


async def test_who_is_gone_takes_no_place(serve, todos, call):
    """Also when it leaves in the middle of a request."""
    app = await serve(todos)
    lobby = app._runner.server.lobby
    for sent in BEGUN.values():
        _, writer = await call(app, sent)
        writer.close()

    async def is_empty():
        return not lobby._callers and not lobby._waiting

    await eventually(is_empty)


async def test_a_request_of_a_connection_that_is_gone_is_handled():
    """It had been read before the connection broke."""

    async def handle(request):
        return web.Response(text=request.path)

    lobby = Lobby(Limits(), Addresses(Limits()), lambda transport: False)
    assert (await lobby.around(handle)(make_mocked_request("GET", "/healthz"))).text == "/healthz"


@pytest.mark.parametrize("parts", [1, 40])
async def test_a_head_has_a_limit(serve, todos, call, parts):
    """Whether it comes whole or never ends."""
    app = await serve(todos)
    for too_long in (True, False):
        reader, writer = await call(app)
        fields = [b"X-%d: %b\r\n" % (n, b"x" * 790) for n in range(42 if too_long else 38)]
        head = HEAD + b"".join(fields) + (b"" if too_long and parts > 1 else b"\r\n")
        assert (len(head) > HEAD_BYTES) is too_long
        size = len(head) // parts + 1
        for begin in range(0, len(head), size):
            writer.write(head[begin : begin + size])
            await writer.drain()
            await asyncio.sleep(0)
        status = await reader.readuntil(b"\r\n")
        assert status.startswith(b"HTTP/1.1 431" if too_long else b"HTTP/1.1 200")


async def test_each_head_of_a_connection_has_the_limit(serve, todos, call):
    """Not its first alone, and it counts anew for each."""
    reader, writer = await call(await serve(todos))
    fields = b"".join(b"X-%d: %b\r\n" % (n, b"x" * 790) for n in range(25))
    for count, status in ((1, b"200"), (1, b"200"), (2, b"431")):
        writer.write(HEAD + fields * count + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))


async def test_bodies_are_no_heads(serve, join, todos):
    """However long they are, and wherever the head before them is split."""
    app = await serve(todos)
    alice = await join(app, "todos", transport="polling")
    body = f"42/todos,100{encode(['sync', {'method': 'create', 'model': {'title': 'x' * 200_000}}])}"
    assert (await post_in_parts(alice, app.port, body, -1)).startswith(b"HTTP/1.1 200")
    assert len((await alice.finish(100))["title"]) == 200_000


async def test_the_messages_of_a_websocket_take_no_detour(serve, join, todos, call):
    """Heads are measured until it is open, and again if it is not to be."""
    app = await serve(todos)
    await join(app, "todos")
    (caller,) = app._runner.server.lobby._callers.values()
    assert caller.transport.get_protocol() is not caller
    reader, writer = await call(app, HEAD + b"Upgrade: websocket\r\n\r\n")
    caller = list(app._runner.server.lobby._callers.values())[-1]
    assert caller.transport.get_protocol() is caller
    assert await is_open((reader, writer))


async def test_bodies_on_their_way_are_bounded_in_bytes(serve, join, todos, call):
    """More is refused while they arrive; small ones are not, and all is let go of with their connections."""
    app = await serve(todos, limits=Limits(memory=2_000_000))
    alice = await join(app, "todos", transport="polling")
    address = app.gateway.addresses.of("127.0.0.1")
    head = (
        f"POST /socket.io/?EIO=4&transport=polling&sid={alice.wire.sid} HTTP/1.1\r\nHost: 127.0.0.1:{app.port}\r\n"
        "Content-Length: 400000\r\n\r\n"
    ).encode()
    callers = [await call(app, head + b"x" * 300_000) for _ in range(3)]
    statuses = [asyncio.create_task(reader.readline()) for reader, _ in callers]
    refused, waiting = await asyncio.wait(statuses, return_when=asyncio.FIRST_COMPLETED)
    assert {task.result()[:12] for task in refused} == {b"HTTP/1.1 503"}
    for task in waiting:
        task.cancel()
    assert 0 < address.held <= 500_000
    assert await alice.sync("create", {"title": "milk"})
    for _, writer in callers:
        writer.transport.abort()

    async def free():
        return address.held == 0

    await eventually(free)
