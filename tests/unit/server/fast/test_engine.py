"""The fast engine: what it relies on of the libraries below it, and how it tells when that is missing."""

import ast
import asyncio
import importlib
import inspect
import pkgutil
import subprocess
import sys
from sys import getsizeof
from unittest.mock import Mock

import attrs
import pytest
from engineio import exceptions
from engineio import packet as engine_packet

from bbio import App, ConfigurationError, Limits
from bbio.server import fast, lag, shared
from bbio.server.fast import internals
from bbio.server.fast.frames import frame
from bbio.server.fast.socket import FastSocket
from bbio.server.memory import Addresses
from tests.support.servers import eventually

MODULES = [importlib.import_module(f"{fast.__name__}.{found.name}") for found in pkgutil.iter_modules(fast.__path__)]


def private_names(modules):
    """Every private attribute read, set or overridden, without what classes of the modules and of `shared` add."""
    trees = [(module, ast.parse(inspect.getsource(module))) for module in modules]
    known = [*trees, (shared, ast.parse(inspect.getsource(shared)))]
    classes = [(module, node) for module, tree in known for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods, own = set(), set()
    for module, definition in classes:
        bases = inspect.getmro(getattr(module, definition.name))[1:]
        for node in definition.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inherited = any(hasattr(base, node.name) for base in bases)
                (methods if inherited else own).add(node.name)
        stored = {
            node.attr
            for node in ast.walk(definition)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        }
        own |= {name for name in stored if not any(hasattr(base, name) for base in bases)}
    nodes = [node for _, tree in trees for node in ast.walk(tree)]
    touched = {node.attr for node in nodes if isinstance(node, ast.Attribute)} | methods
    return {name for name in touched - own if name.startswith("_") and not name.startswith("__")}


def test_the_list_of_internals_is_the_list_of_what_is_used():
    """Every private name of a library that the engine touches is checked at the start, and no other."""
    used = private_names(MODULES)
    assert used == {name for _, name in internals.INTERNALS if name.startswith("_")}


def test_private_modules_are_imported_by_the_engine_alone():
    """`bbio.server.fast` is the one place that may fail with another version of a library."""
    for name, module in list(sys.modules.items()):
        if name.startswith("bbio.") and not name.startswith(("bbio.server.fast.", "bbio.server.eager")):
            for node in ast.walk(ast.parse(inspect.getsource(module))):
                if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("bbio"):
                    assert not any(part.startswith("_") for part in (node.module or "").split(".") if part[:2] != "__")


@pytest.mark.parametrize("number", range(len(internals.INTERNALS)))
def test_a_missing_internal_is_told_when_an_application_is_made(monkeypatch, number):
    """The message names it, the versions installed, and what to do; the plain engine does without."""
    owner, name = internals.INTERNALS[number]
    gone = type(owner.__name__, (), {"__module__": owner.__module__})
    others = [(gone if n == number else one, of) for n, (one, of) in enumerate(internals.INTERNALS)]
    monkeypatch.setattr(internals, "INTERNALS", others)
    with pytest.raises(ConfigurationError) as told:
        App()
    for word in (f"{owner.__name__}.{name},", "python-socketio", "aiohttp", "install", 'engine="plain"'):
        assert word in str(told.value)
    App(engine="plain")


def test_a_missing_module_is_told_when_an_application_is_made():
    """The same when a module that the engine imports has gone."""
    program = """
import sys, aiohttp.web
sys.modules["aiohttp._websocket.reader"] = None
from bbio import App, ConfigurationError
App(engine="plain")
try:
    App()
except ConfigurationError as err:
    print(err)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "aiohttp._websocket.reader" in answer.stdout
    assert 'engine="plain"' in answer.stdout


class Transport:
    """A connection that takes nothing, or breaks."""

    def __init__(self):
        self.waiting = 0
        self.aborted = False
        self.broken = False
        self.written = []

    def write(self, data):
        if self.broken:
            raise RuntimeError("the handler is closed")
        self.written.append(data)

    def get_write_buffer_size(self):
        return self.waiting

    def is_closing(self):
        return self.aborted

    def abort(self):
        self.aborted = True

    close = abort


@pytest.fixture
async def socket():
    """A live session whose client does not read, of an application with a buffer of 1,000 bytes."""
    server = App(limits=Limits(send_buffer=1000)).sio.eio
    made = server.sockets["s1"] = FastSocket(server, "s1")
    made.transport = Transport()
    made.protocol = Mock(_paused=True)
    yield made
    await asyncio.gather(*server.closing_tasks)
    await made.close(abort=True)


async def test_sessions_share_the_names_of_their_attributes(socket):
    """Python keeps up to 30 names once for all of a class; with more, a dictionary for each, larger and slower."""
    assert len(vars(socket)) <= 30


@pytest.mark.parametrize(("waiting", "dropped"), [(900, False), (2000, False), (2001, True)])
async def test_twice_the_buffer_is_the_bound(socket, waiting, dropped):
    """Less is kept for a time."""
    transport = socket.transport
    transport.waiting = waiting
    for _ in range(2):
        socket.write(b"4" + b"x" * 80)
        socket.flush()
    assert transport.aborted is dropped


@pytest.mark.parametrize(("texts", "dropped"), [(["x" * 600] * 2, False), (["\U0001f600" * 150] * 2, True)])
async def test_what_waits_for_a_poll_is_counted_as_python_holds_it(socket, texts, dropped):
    """Wide characters take four bytes each, in events and in answers alike: answers do not count."""
    socket.transport = None
    client = Mock(namespace=b"/todos")
    for text in texts * 3:
        socket.ack(client, 7, text.encode())
    assert not socket.has_ended
    assert socket._queued_bytes == socket._queued_answers
    for text in (texts[0][: 600 if dropped else 500], texts[1][: 600 if dropped else 300]):
        socket.write(b"4" + text.encode())
    assert socket.has_ended is dropped


async def test_what_a_client_asked_for_does_not_count_like_a_broadcast(socket):
    """Neither the answer that it has begun to read, nor those that follow."""
    transport, client = socket.transport, Mock(namespace=b"/todos")
    socket.protocol._paused = False

    def write(data):
        transport.waiting += len(data)
        socket.protocol._paused = True

    transport.write = write
    socket.ack(client, 1, b"x" * 20_000)
    socket.ack(client, 2, b"x" * 100)
    socket.write(b"x" * 1_900)
    socket.flush()
    assert not transport.aborted
    socket.write(b"x" * 100)
    socket.flush()
    assert transport.aborted


@pytest.mark.parametrize(
    ("taken", "waiting", "dropped"),
    [(True, 1_500, False), (False, 1_500, True), (False, 999, False), (True, 999, False)],
)
async def test_slow_is_who_takes_nothing(socket, monkeypatch, taken, waiting, dropped):
    """Soon when more events wait than the buffer should hold, later when fewer do."""
    monkeypatch.setattr(lag, "LAG_LOOK_SECONDS", 0)
    monkeypatch.setattr(lag, "OVERFLOW_SECONDS", 0.1)
    monkeypatch.setattr(lag, "LAGGING_BYTES", 200)
    transport = socket.transport
    transport.waiting = 1_900
    socket.write(b"x" * 80)
    socket.flush()
    transport.waiting = waiting
    began, loop = asyncio.get_running_loop().time(), asyncio.get_running_loop()
    while not transport.aborted and loop.time() < began + 0.3:
        await asyncio.sleep(0)
        transport.waiting -= taken * 0.001
    assert transport.aborted is dropped


async def test_who_takes_nothing_for_long_is_slow_whatever_waits(socket, monkeypatch):
    """A list that it asked for is none the better for it; who has read it is looked after no more."""
    monkeypatch.setattr(lag, "LAG_LOOK_SECONDS", 0)
    monkeypatch.setattr(lag, "LAGGING_BYTES", 200)
    transport = socket.transport
    socket.server.limits = attrs.evolve(socket.server.limits, stall_time=0.05)
    transport.waiting = 500
    for left in (99, 500):
        socket.write(b"x" * 80)
        socket.flush()
        assert (socket.lag is not None, socket.address.held) == (True, 500)
        transport.waiting = left
        await asyncio.sleep(0.001)
        if left == 99:
            await eventually(lambda: returned(socket.lag is None))
            assert socket.address.held == 0
            transport.waiting = 500
    await eventually(lambda: returned(transport.aborted))
    assert socket.address.held == 0


async def returned(value):
    """A coroutine for `eventually`."""
    return value


async def test_nothing_is_begun_for_who_has_long_answers_to_read(socket):
    """Requests wait until it has read them; what waits for one that is dropped is not begun."""
    socket.server.limits = attrs.evolve(socket.server.limits, reply=1_000)
    client = Mock()
    socket.clients["todos"] = client
    socket.count_unread(1_001)
    socket.count_unread(1_002)
    client.connection.hold.assert_called_once_with()
    socket.count_unread(1_000)
    client.connection.go_on.assert_called_once_with()
    socket.count_unread(1_001)
    socket.drop("test")
    client.connection.go_on.assert_called_once_with()


async def test_who_has_the_most_unread_is_dropped_for_all(socket):
    """Of one address when that holds too much; of all when all together do."""
    engine_server = socket.server
    engine_server.addresses = addresses = Addresses(Limits(memory=4_000))
    sessions = [FastSocket(engine_server, f"a{n}", addresses.of(name)) for n, name in enumerate("aabbc")]
    for session in sessions:
        engine_server.sockets[session.sid] = session
    ended = lambda: [session.sid for session in sessions if session.has_ended]  # noqa: E731
    sessions[0].count_unread(700)
    sessions[1].count_unread(301)
    assert ended() == ["a0"]
    sessions[2].count_unread(500)
    sessions[3].count_unread(400)
    sessions[4].count_unread(799)
    assert ended() == ["a0"]
    sessions[4].count_unread(801)
    assert ended() == ["a0", "a2"]
    for session in sessions:
        await session.close(abort=True)
    assert addresses.waiting.held == 0


async def test_a_connection_that_is_gone_is_written_to_no_more(socket):
    """Other loops say nothing of it, uvloop raises."""
    socket.transport.broken = True
    socket.write(b"x")
    socket.flush()
    assert (socket.transport, socket.frames) == (None, [])


async def test_a_session_is_ended_once(socket):
    """However many find out, and nothing is kept for it any more."""
    socket.drop("one reason")
    socket.drop("another")
    await asyncio.gather(*socket.server.closing_tasks)
    socket.server.dropped(socket, "a third")
    socket._ping()
    size = socket.queue.qsize()
    socket.enqueue(engine_packet.Packet(engine_packet.NOOP))
    assert (socket.closed, socket.queue.qsize(), socket.server.closing_tasks) == (True, size, set())


async def test_what_waits_for_a_poll_has_a_bound(socket):
    """One packet may be larger, as no poll could be answered otherwise."""
    socket.transport = None
    packet = engine_packet.Packet(engine_packet.MESSAGE, "x" * 1500)
    socket.ack(Mock(namespace=b"/todos"), 1, b"x" * 3_000)
    assert not socket.has_ended, "what it has asked for is none of that"
    await socket.poll()
    socket.enqueue(packet)
    assert (socket.has_ended, socket.address.held) == (False, getsizeof("x" * 1_500))
    socket.enqueue(packet)
    assert (socket.has_ended, socket.address.held) == (True, 0)


async def test_what_waits_for_a_poll_counts_as_the_bytes_that_are_written(socket):
    """In a text one wide character would make each take four; and so they are written, in polls and to a websocket."""
    transport, socket.transport = socket.transport, None
    event, answer = f'42/todos,["synced","{"x" * 300}🙂"]'.encode(), f'43/todos,1[null,"{"x" * 300}🙂"]'.encode()
    socket.write(event)
    socket.ack(Mock(namespace=b"/todos"), 1, answer.removeprefix(b"43/todos,1"))
    assert socket.address.held == getsizeof(event) + getsizeof(answer)
    await socket.send(engine_packet.Packet(engine_packet.PING))
    packets = await socket.poll()
    assert [packet.encode() for packet in packets] == [event.decode(), answer.decode(), "2"]
    assert socket.server._ok(packets)["response"] == b"\x1e".join((event, answer, b"2"))
    socket.transport = transport
    socket.write_packet(packets[0])
    assert socket.frames == [frame(event)]


async def test_a_poll_whose_connection_is_gone_ends_the_session(socket):
    """It would be answered to nobody."""
    environ = {"aiohttp.request": Mock(transport=None)}
    assert (await socket.handle_get_request(environ))["status"].startswith("400")
    assert socket.has_ended


async def test_a_poll_that_is_cancelled_ends_the_session(socket):
    """As when the server stops."""
    transport = Mock(is_closing=Mock(return_value=False))
    polling = asyncio.ensure_future(socket.handle_get_request({"aiohttp.request": Mock(transport=transport)}))
    await asyncio.sleep(0)
    assert socket.polling
    polling.cancel()
    with pytest.raises(exceptions.QueueEmpty):
        await polling
    assert (socket.polling, socket.closed) == (False, True)


async def test_a_websocket_that_is_gone_does_not_go_live(socket):
    """What waits for it waits on."""
    socket.transport = None
    socket._go_live(Mock(transport=None))
    assert (socket.transport, socket.backlog) == (None, 1)


async def test_another_socket_of_the_same_name_stays(socket):
    """A client that left and joined again is not taken for the one that left."""
    old, new = (Mock(runtime=Mock(namespace="/todos")) for _ in range(2))
    socket.joined(old)
    socket.joined(new)
    socket.left(old)
    assert socket.clients == {"/todos": new}
    socket.left(new)
    assert socket.clients == {}


async def test_messages_of_a_session_that_ended_are_let_go():
    """They may still be on their way through the library."""
    await App().sio._handle_eio_message("nobody", "2/todos,[]")
