"""What bbio relies on of asyncio and libraries beside what they document: a version that changes it fails here first.

What the fast engine alone relies on is in `bbio.server.fast.internals.INTERNALS`, and in test_engine.py.
"""

import ast
import asyncio
import inspect
import sys
import threading
import types
from asyncio.tasks import _enter_task, _leave_task
from pathlib import Path

import aiohttp
import attrs
import engineio
import pytest
import socketio
import uvloop

import bbio
from bbio.server.batch import WriteBatch

FOLDER = Path(bbio.__file__).parent

# Private names outside the engine, and the test of what is relied on.
TESTED = {
    "_current_frames": "test_where_a_thread_is",
    "_enter_task": "test_a_task_can_be_entered_by_hand",
    "_getframe": "test_where_a_thread_is",
    "_leave_task": "test_a_task_can_be_entered_by_hand",
    "_ready": "test_what_a_loop_is_about_to_run",
    "_send_packet": "test_the_client_of_socketio",
    "_validators": "test_validators_of_attrs_in_a_row",
}


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine on either kind of loop."""

    def run(work):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(work)

    return run


def own_names(trees):
    """Every name that the package gives to something of its own."""
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def foreign_names(trees):
    """Private names that are imported, read as attributes or asked for with `getattr`."""
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("bbio"):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            yield from (one.value for one in node.args if isinstance(one, ast.Constant) and type(one.value) is str)


def test_nothing_private_is_relied_on_without_a_test():
    """The names above are those that the package uses and does not define itself."""
    trees = [ast.parse(path.read_text()) for path in FOLDER.rglob("*.py") if path.parent.name != "fast"]
    own = set(own_names(trees)) - set(TESTED)
    used = {name for name in foreign_names(trees) if name.startswith("_") and not name.startswith("__")}
    assert used - own == set(TESTED)
    assert all(callable(globals()[test]) for test in TESTED.values())


def test_where_a_thread_is():
    """What calls a function, and where each thread is at the moment."""

    def caller():
        return sys._getframe(1).f_code

    here = test_where_a_thread_is.__code__
    assert caller() is here
    assert sys._current_frames()[threading.get_ident()].f_code is here


def test_a_task_can_be_entered_by_hand(run):
    """`current_task` tells of it, so timeouts and task groups find it; only one at a time; it is left as it was."""

    async def main():
        loop, mine = asyncio.get_running_loop(), asyncio.current_task()
        other = loop.create_task(asyncio.sleep(0))
        with pytest.raises(RuntimeError):
            _enter_task(loop, other)
        _leave_task(loop, mine)
        assert asyncio.current_task() is None
        _enter_task(loop, other)
        assert asyncio.current_task() is asyncio.current_task(loop) is other
        coroutine = in_time()
        assert coroutine.send(None) is None
        with pytest.raises(StopIteration):
            coroutine.send(None)
        with pytest.raises(RuntimeError):
            _leave_task(loop, mine)
        _leave_task(loop, other)
        _enter_task(loop, mine)
        assert asyncio.current_task() is mine
        await asyncio.sleep(0)
        assert asyncio.current_task() is mine

    async def in_time():
        async with asyncio.timeout(5):
            await asyncio.sleep(0)

    run(main())


def test_a_task_takes_over_what_a_coroutine_waits_for(run):
    """Its first step made by hand, a coroutine yields the future it waits for, None or what a library makes of it.

    A task accepts that from another coroutine, sends or throws what comes of it, and the coroutine goes on with it.
    """

    @types.coroutine
    def carry_on(coroutine, yielded):
        while True:
            try:
                sent = yield yielded
            except BaseException as err:
                step, value = coroutine.throw, err
            else:
                step, value = coroutine.send, sent
            try:
                yielded = step(value)
            except StopIteration as ended:
                return ended.value

    async def native(coroutine, yielded):
        return await carry_on(coroutine, yielded)

    async def main():
        loop = asyncio.get_running_loop()
        for make, result in (
            (lambda: asyncio.sleep(0, "slept"), "slept"),
            (lambda: asyncio.sleep(0.001, "slept"), "slept"),
            (lambda: asyncio.wait_for(asyncio.sleep(0.001, "waited"), 5), "waited"),
            (lambda: asyncio.to_thread(lambda: "ran"), "ran"),
        ):
            coroutine = make()
            assert await loop.create_task(native(coroutine, coroutine.send(None))) == result
        refused = loop.create_future()
        coroutine = waits(refused)
        yielded = coroutine.send(None)
        assert yielded is refused
        task = loop.create_task(native(coroutine, yielded))
        refused.set_exception(LookupError("no"))
        with pytest.raises(LookupError):
            await task
        coroutine = waits(loop.create_future())
        task = loop.create_task(native(coroutine, coroutine.send(None)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def waits(future):
        return await future

    run(main())


def test_what_a_loop_is_about_to_run(run):
    """asyncio's own has `_ready`, empty while the last callback runs; uvloop does not show it, and then writes wait."""

    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        looked = loop.create_future()

        def look():
            seen.append(bool(getattr(loop, "_ready", True)))

        loop.call_soon(look)
        loop.call_soon(look)
        loop.call_later(0.001, looked.set_result, None)
        await looked
        shows = isinstance(loop, asyncio.BaseEventLoop)
        assert hasattr(loop, "_ready") == shows
        assert seen == [True, not shows]
        batch, written, done = WriteBatch(), [], loop.create_future()

        def write():
            batch.holding = True
            batch.add(types.SimpleNamespace(flush=lambda: written.append("flushed")))
            batch.release()
            written.append("released")
            loop.call_soon(done.set_result, None)

        batch.add(types.SimpleNamespace(flush=lambda: loop.call_later(0.001, write)))
        await done
        assert written == (["flushed", "released"] if shows else ["released", "flushed"])

    run(main())


async def test_the_client_of_socketio():
    """The connection's tasks and HTTP session, and how one more namespace is joined."""
    assert list(inspect.signature(socketio.AsyncClient._send_packet).parameters) == ["self", "pkt"]
    assert inspect.iscoroutinefunction(socketio.AsyncClient._send_packet)
    client = engineio.AsyncClient()
    assert (client.read_loop_task, client.write_loop_task, client.http) == (None, None, None)
    async with aiohttp.ClientSession() as http:
        assert engineio.AsyncClient(http_session=http).http is http


def test_the_server_of_socketio():
    """How sockets are found, and the task that looks for dead ones, which the fast engine does without."""
    server = socketio.AsyncServer(async_mode="aiohttp")
    for name in ("sid_from_eio_sid", "eio_sid_from_sid", "get_namespaces", "callbacks"):
        assert hasattr(server.manager, name), f"socketio's manager has no {name}"
    assert server.eio.service_task_handle is None


def test_the_connections_of_aiohttp():
    """What the fast engine calls of the object behind a request, and stands in for."""
    for name in ("set_parser", "keep_alive", "force_close", "data_received", "eof_received", "connection_lost"):
        assert callable(getattr(aiohttp.web.RequestHandler, name)), f"aiohttp's RequestHandler has no {name}"
    for name in ("pause_writing", "resume_writing"):
        assert callable(getattr(aiohttp.web.RequestHandler, name)), f"aiohttp's RequestHandler has no {name}"


def test_validators_of_attrs_in_a_row():
    """`and_` and a list keep them in `_validators`."""
    one, two = attrs.validators.instance_of(int), attrs.validators.gt(0)

    @attrs.define
    class Both:
        n: int = attrs.field(validator=[one, two])

    assert attrs.fields(Both).n.validator._validators == attrs.validators.and_(one, two)._validators == (one, two)
