"""Order and time: what waits for what, and for how long."""

import asyncio
import threading
import time

import pytest

from bbio import Backend, Limits, create, read, update, use
from tests.support.servers import heard
from tests.support.wire import SyncFailed


class Gate:
    """Handlers wait at it until the test opens it; it notes who came, in order."""

    def __init__(self):
        self.came = []
        self.gone = []
        self._changed = asyncio.Event()
        self._open = set()

    async def pass_through(self, name):
        self.came.append(name)
        self._change()
        await self._until(lambda: name in self._open)
        self.gone.append(name)

    def open(self, *names):
        self._open.update(names)
        self._change()

    async def arrived(self, *names):
        await self._until(lambda: set(names) <= set(self.came))

    def _change(self):
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                await self._changed.wait()


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def gated(gate):
    """A backend whose updates wait at the gate under `req.model["step"]`."""

    class Todos(Backend):
        @update
        async def wait(self, req):
            await gate.pass_through(req.model["step"])
            return req.model

    return Todos


async def test_requests_for_one_model_take_effect_in_the_order_sent(serve, join, gate, gated):
    """The second update of a model begins when the first is done, although it could be faster."""
    app = await serve(gated)
    alice, bob = await join(app, "todos"), await join(app, "todos")
    ids = [await alice.start("update", {"id": 1, "step": step}) for step in ("first", "second", "third")]
    await gate.arrived("first")
    gate.open("third", "second")
    await alice.sync("read", {"id": 2})
    assert gate.came == ["first"]
    gate.open("first")
    assert [(await alice.finish(id))["step"] for id in ids] == ["first", "second", "third"]
    assert gate.gone == ["first", "second", "third"]
    assert [model["step"] for _, model in (await heard(app.backends["todos"], bob))[0]] == gate.gone


async def test_requests_for_different_models_run_at_the_same_time(serve, join, gate, gated):
    """A slow request holds up no request for another model of the same socket."""
    alice = await join(await serve(gated), "todos")
    slow = await alice.start("update", {"id": 1, "step": "slow"})
    quick = await alice.start("update", {"id": 2, "step": "quick"})
    await gate.arrived("slow", "quick")
    gate.open("quick")
    assert await alice.finish(quick) == {"id": 2, "step": "quick"}
    assert alice.namespace.acks(slow) == []
    gate.open("slow")
    assert await alice.finish(slow) == {"id": 1, "step": "slow"}


async def test_creates_run_at_the_same_time(serve, join, gate):
    """Models without an id are different models."""

    class Todos(Backend):
        @create
        async def wait(self, req):
            await gate.pass_through(req.model["step"])
            return req.model

    alice = await join(await serve(Todos), "todos")
    ids = [await alice.start("create", {"step": step}) for step in ("a", "b")]
    await gate.arrived("a", "b")
    gate.open("a", "b")
    assert [await alice.finish(id) for id in ids] == [{"step": "a"}, {"step": "b"}]


async def test_the_same_model_from_two_sockets_runs_at_the_same_time(serve, join, gate, gated):
    """The order is one socket's own: nobody waits for a stranger's slow request."""
    app = await serve(gated)
    alice, bob = await join(app, "todos"), await join(app, "todos")
    slow = await alice.start("update", {"id": 1, "step": "slow"})
    quick = await bob.start("update", {"id": 1, "step": "quick"})
    await gate.arrived("slow", "quick")
    gate.open("quick")
    await bob.finish(quick)
    gate.open("slow")
    await alice.finish(slow)


async def test_a_failed_request_lets_the_next_one_for_the_model_run(serve, join, gate):
    """An error in the first does not keep the second from being answered."""

    class Todos(Backend):
        @update
        async def first_fails(self, req):
            await gate.pass_through(req.model["step"])
            if req.model["step"] == "first":
                raise RuntimeError
            return req.model

    alice = await join(await serve(Todos), "todos")
    first = await alice.start("update", {"id": 1, "step": "first"})
    second = await alice.start("update", {"id": 1, "step": "second"})
    gate.open("first", "second")
    with pytest.raises(SyncFailed, match="InternalError"):
        await alice.finish(first)
    assert await alice.finish(second) == {"id": 1, "step": "second"}


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_heartbeats_never_wait_for_a_handler(serve, join, gate, gated, transport):
    """Pings come and pongs are taken while handlers hang: a session of slow requests stays alive."""
    app = await serve(gated, ping_interval=0.2, ping_timeout=0.4)
    alice = await join(app, "todos", transport=transport)
    hanging = [await alice.start("update", {"id": 1, "step": "slow"}) for _ in range(3)]
    await gate.arrived("slow")
    await alice.wire.until(lambda: alice.wire.pings >= 5, "five pings")
    gate.open("slow")
    for id in hanging:
        assert await alice.finish(id) == {"id": 1, "step": "slow"}


async def test_what_waits_behind_a_hanging_request_is_answered_too(serve, join, gate):
    """Both get their Timeout in time: deadlines count from the arrival, and what is late already never begins."""

    class Todos(Backend):
        @update
        async def hang(self, req):
            gate.came.append(req.model["step"])
            try:
                await asyncio.Event().wait()
            finally:
                # For longer than that.
                time.sleep(0.6)  # noqa: ASYNC251

    app = await serve(Todos, limits=Limits(deadline=0.3))
    alice = await join(app, "todos")
    first = await alice.start("update", {"id": 1, "step": "first"})
    await asyncio.sleep(0.1)  # The second has that much longer.
    second = await alice.start("update", {"id": 1, "step": "second"})
    for id in (first, second):
        with pytest.raises(SyncFailed, match="Timeout"):
            await alice.finish(id)
    assert await alice.sync("create", {"a": 1}) == {"a": 1}
    assert gate.came == ["first"]


async def test_a_handler_that_ignores_its_cancellation_still_times_out(serve, join):
    """The client is answered in time whatever the handler does, once."""
    release = asyncio.Event()

    class Todos(Backend):
        @update
        async def stubborn(self, req):
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return req.model

    alice = await join(await serve(Todos, limits=Limits(deadline=0.2)), "todos")
    id = await alice.start("update", {"id": 1})
    with pytest.raises(SyncFailed, match="Timeout"):
        await alice.finish(id)
    release.set()
    assert await alice.sync("create", {"a": 1}) == {"a": 1}
    assert len(alice.namespace.acks(id)) == 1


async def test_what_a_disconnected_client_started_is_finished(serve, join, gate, gated):
    """A write that had begun goes on when its client goes away, and the others are told."""
    app = await serve(gated)
    alice, bob = await join(app, "todos"), await join(app, "todos")
    await alice.start("update", {"id": 1, "step": "half way"})
    await gate.arrived("half way")
    alice.wire.abort()
    gate.open("half way")
    assert await bob.synced() == ("update", {"id": 1, "step": "half way"})


async def test_a_layer_that_waits_keeps_the_order_too(serve, join, gate):
    """The order holds from the outermost layer on, not from the handler."""

    class Todos(Backend):
        @use("update")
        async def wait(self, req, next):
            await gate.pass_through(req.model["step"])
            return await next()

    alice = await join(await serve(Todos), "todos")
    ids = [await alice.start("update", {"id": "x", "step": step}) for step in ("first", "second")]
    await gate.arrived("first")
    gate.open("second")
    await alice.sync("create", {})
    assert gate.came == ["first"]
    gate.open("first")
    assert [(await alice.finish(id))["step"] for id in ids] == ["first", "second"]


async def test_a_read_after_a_write_of_the_same_model_sees_it(serve, join, todos):
    """Sent back to back without waiting, each read sees the write before it."""
    alice = await join(await serve(todos), "todos")
    milk = await alice.sync("create", {"n": 0})
    pairs = []
    for n in range(1, 31):
        await alice.start("update", {"id": milk["id"], "n": n})
        pairs.append((n, await alice.start("read", {"id": milk["id"]})))
    assert [(n, (await alice.finish(id))["n"]) for n, id in pairs] == [(n, n) for n, _ in pairs]


async def test_many_writers_of_one_model_agree_on_the_last_word(serve, join, todos):
    """Whatever the interleaving, every listener's last event for a model is what the store holds."""
    app = await serve(todos)
    listener = await join(app, "todos")
    writers = [await join(app, "todos") for _ in range(4)]
    milk = await writers[0].sync("create", {"by": None})
    ids = [
        (writer, await writer.start("update", {"id": milk["id"], "by": [index, n]}))
        for n in range(10)
        for index, writer in enumerate(writers)
    ]
    for writer, id in ids:
        await writer.finish(id)
    (events,) = await heard(app.backends["todos"], listener)
    assert len(events) == 41
    assert events[-1][1] == await listener.sync("read", {"id": milk["id"]})


async def test_a_sync_handler_does_not_need_a_thread(serve, join):
    """Plain functions run on the event loop, in the thread the application was started in."""

    class Todos(Backend):
        @read
        def where(self, req):
            return {"thread": threading.get_ident()}

    alice = await join(await serve(Todos), "todos")
    assert await alice.sync("read") == {"thread": threading.get_ident()}
