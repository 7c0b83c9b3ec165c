"""The fast engine: what it relies on of the libraries below it, and how it tells when that is missing."""

import ast
import asyncio
import inspect
import subprocess
import sys
from unittest.mock import Mock

import pytest
from engineio import exceptions

from bbio import App, ConfigurationError, Limits
from bbio.server import engine
from bbio.server.engine import FastSocket


def private_names(tree):
    """Every private attribute read, set or overridden, without what the module's own classes add."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods, own = set(), set()
    for definition in classes:
        bases = inspect.getmro(getattr(engine, definition.name))[1:]
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
    touched = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | methods
    return {name for name in touched - own if name.startswith("_") and not name.startswith("__")}


def test_the_list_of_internals_is_the_list_of_what_is_used():
    """Every private name of a library that the engine touches is checked at the start, and no other."""
    used = private_names(ast.parse(inspect.getsource(engine)))
    assert used == {name for _, name in engine.INTERNALS if name.startswith("_")}


def test_private_modules_are_imported_by_the_engine_alone():
    """`bbio.server.engine` is the one place that may fail with another version of a library."""
    for name, module in list(sys.modules.items()):
        if name.startswith("bbio.") and name not in ("bbio.server.engine", "bbio.server.stepping"):
            for node in ast.walk(ast.parse(inspect.getsource(module))):
                if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("bbio"):
                    assert not any(part.startswith("_") for part in (node.module or "").split(".") if part[:2] != "__")


@pytest.mark.parametrize("number", range(len(engine.INTERNALS)))
def test_a_missing_internal_is_told_when_an_application_is_made(monkeypatch, number):
    """The message names it, the versions installed, and what to do; the plain engine does without."""
    owner, name = engine.INTERNALS[number]
    gone = type(owner.__name__, (), {"__module__": owner.__module__})
    internals = [(gone if n == number else one, of) for n, (one, of) in enumerate(engine.INTERNALS)]
    monkeypatch.setattr(engine, "INTERNALS", internals)
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


@pytest.mark.parametrize(("waiting", "dropped"), [(900, False), (1900, False), (1950, True)])
async def test_twice_the_buffer_is_the_bound(socket, waiting, dropped):
    """Less is kept until the overflow time has passed."""
    transport = socket.transport
    transport.waiting = waiting
    socket.write(b"x" * 80)
    socket.flush()
    assert transport.aborted is dropped


@pytest.mark.parametrize(("waiting", "dropped"), [(1000, False), (1001, True)])
async def test_the_buffer_is_the_bound_after_the_overflow_time(socket, waiting, dropped, monkeypatch):
    """Who has read enough by then stays; two overflows at once are one."""
    monkeypatch.setattr(engine, "OVERFLOW_TIME", 0)
    transport = socket.transport
    transport.waiting = 1500
    for _ in range(2):
        socket.write(b"x" * 80)
        socket.flush()
    transport.waiting = waiting
    await asyncio.sleep(0.001)
    assert transport.aborted is dropped


async def test_a_session_that_ended_meanwhile_is_not_checked(socket, monkeypatch):
    """Its buffer is gone."""
    socket.transport = None
    socket._check_overflow()
    assert not socket._ended


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
    socket.enqueue(engine.engine_packet.Packet(engine.engine_packet.NOOP))
    assert (socket.closed, socket.queue.qsize(), socket.server.closing_tasks) == (True, size, set())


async def test_what_waits_for_a_poll_has_a_bound(socket):
    """One packet may be larger, as no poll could be answered otherwise."""
    socket.transport = None
    packet = engine.engine_packet.Packet(engine.engine_packet.MESSAGE, "x" * 1500)
    socket.enqueue(packet)
    assert not socket._ended
    socket.enqueue(packet)
    assert socket._ended


async def test_a_poll_whose_connection_is_gone_ends_the_session(socket):
    """It would be answered to nobody."""
    environ = {"aiohttp.request": Mock(transport=None)}
    assert (await socket.handle_get_request(environ))["status"].startswith("400")
    assert socket._ended


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
    old, new = (Mock(backend=Mock(namespace="/todos")) for _ in range(2))
    socket.joined(old)
    socket.joined(new)
    socket.left(old)
    assert socket.clients == {"/todos": new}
    socket.left(new)
    assert socket.clients == {}


async def test_messages_of_a_session_that_ended_are_let_go():
    """They may still be on their way through the library."""
    await App().sio._handle_eio_message("nobody", "2/todos,[]")
