"""Calls as the server runs them: deadlines, the end, turns, threads, and calls within calls."""

from __future__ import annotations

import asyncio
import threading

import pytest

from bbio import (
    App,
    Backend,
    BadRequest,
    Busy,
    ConfigurationError,
    InternalError,
    Limits,
    StackError,
    Timeout,
    Unavailable,
    before,
    create,
    read,
    update,
    use,
)
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.server import calls as calls_module


class Todos(Backend):
    store = MemoryStore()


class Slow(Backend):
    """Its creates wait until they are let go."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.free = asyncio.Event()
        self.ended = []

    @create
    async def wait(self, req):
        self.begun.set()
        try:
            await self.free.wait()
        finally:
            self.ended.append(req.model)
        return req.model


async def within(seconds, awaitable):
    async with asyncio.timeout(seconds):
        return await awaitable


async def test_a_call_has_a_deadline():
    """Its own, or that of all; what it waits for is cancelled; a Timeout of a layer is the layer's."""

    class Impatient(Backend):
        @create
        async def give_up(self, req):
            raise Timeout("the printer is busy")

    slow = Slow()
    app = App(limits=Limits(deadline=0.05)).serve(Impatient, slow=slow)
    async with app.test():
        runtime = app.backends["slow"]
        for timeout in (None, 0.01):
            with pytest.raises(Timeout, match="took too long"):
                await within(20, runtime.create({}, timeout=timeout))
        assert slow.ended == [{}, {}]
        with pytest.raises(Timeout, match="the printer is busy"):
            await app.backends["impatient"].create({})
        async with asyncio.timeout(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await runtime.create({}, timeout=10)


async def test_a_caller_that_is_cancelled_cancels_its_call():
    """As any coroutine; nothing of it stays."""
    slow = Slow()
    app = App().serve(slow=slow)
    async with app.test():
        task = asyncio.create_task(app.backends["slow"].create({}))
        await slow.begun.wait()
        assert app.is_busy
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert slow.ended == [{}]
        assert not app.gateway.calls.running


async def test_the_stop_waits_for_calls_and_then_ends_them():
    """Within the drain time they finish; what is left is `Unavailable`, and so told to threads."""
    slow = Slow()
    app = App(limits=Limits(drain_time=0.05)).serve(Todos, slow=slow)
    await app.start()
    runtime = app.backends["slow"]
    call = asyncio.create_task(runtime.create({}))
    thread = asyncio.create_task(asyncio.to_thread(runtime.blocking.create, {}))
    while len(app.gateway.calls.running) < 2:  # noqa: ASYNC110 - nobody is woken by it
        await asyncio.sleep(0)
    await app.stop()
    for each in (call, thread):
        with pytest.raises(Unavailable, match="the application stops"):
            await within(20, each)
    with pytest.raises(ConfigurationError, match="the application does not run; make calls between"):
        await runtime.create({})
    with pytest.raises(ConfigurationError, match="the application does not run; make calls between"):
        runtime.blocking.create({})
    app = App().serve(quick=Slow())
    async with app.test():
        call = asyncio.create_task(app.backends["quick"].create({}))
        await app.backends["quick"].backend.begun.wait()
        await app.gateway.drain(0.01)
        with pytest.raises(Unavailable):
            await call
    app = App().serve(quick=Slow())
    await app.start()
    backend = app.backends["quick"].backend
    call = asyncio.create_task(app.backends["quick"].create({"n": 1}))
    await backend.begun.wait()
    asyncio.get_running_loop().call_later(0.02, backend.free.set)
    await app.stop()
    assert await call == {"n": 1}


async def test_calls_end_at_the_latest_with_the_application(monkeypatch):
    """`app.close` without a drain ends what runs; what does not end holds nothing up for long."""
    monkeypatch.setattr(calls_module, "END_SECONDS", 0.05)

    class Deaf(Slow):
        @create
        async def wait(self, req):
            self.begun.set()
            while not self.free.is_set():
                try:
                    await self.free.wait()
                except asyncio.CancelledError:
                    self.told.set()

    deaf = Deaf()
    deaf.told = asyncio.Event()
    app = App().serve(deaf=deaf)
    await app.open()
    call = asyncio.create_task(app.backends["deaf"].create({}))
    await deaf.begun.wait()
    await within(20, app.close())
    await within(20, deaf.told.wait())
    app.gateway.calls._give_up()
    deaf.free.set()
    await asyncio.wait([call])


async def test_only_so_many_run_at_once():
    """The others wait for their turn, within their deadlines; calls within calls wait for nobody."""

    class Outer(Backend):
        @create
        async def make(self, req):
            await asyncio.sleep(0)  # so that as many of them as may have begun
            return await app.backends["todos"].create(req.model)

    slow = Slow()
    app = App(limits=Limits(calls=2)).serve(Todos, Outer, slow=slow)
    async with app.test():
        running = [asyncio.create_task(app.backends["slow"].create({"n": n})) for n in range(2)]
        await slow.begun.wait()
        with pytest.raises(Timeout):
            await app.backends["todos"].create({}, timeout=0.02)
        waiting = asyncio.create_task(app.backends["todos"].create({"n": 3}))
        slow.free.set()
        await asyncio.gather(*running)
        assert (await within(20, waiting))["n"] == 3
        made = [app.backends["outer"].create({"n": n}) for n in range(50)]
        assert len(await within(20, asyncio.gather(*made))) == 50


async def test_a_layer_that_calls_itself_is_told():
    """Also over several backends, and through threads and tasks; a depth that is allowed is no error."""

    class Ping(Backend):
        @create
        async def call(self, req):
            return await app.backends["pong"].create(req.model)

    class Pong(Backend):
        @create
        async def call(self, req):
            return await asyncio.create_task(app.backends["ping"].create(req.model))

        @update
        async def count(self, req):
            n = req.model["n"]
            return req.model if n == 0 else await app.backends["pong"].update({"id": 1, "n": n - 1})

        @before("delete", thread=True)
        def again(self, req):
            app.backends["pong"].blocking.delete(req.model)

    app = App(limits=Limits(call_depth=6, threads=1)).serve(Ping, Pong)
    async with app.test() as t:
        assert await app.backends["pong"].update({"id": 1, "n": 5}) == {"id": 1, "n": 0}
        ann = await t.client(backend="ping")
        for call in (
            app.backends["pong"].update({"id": 1, "n": 6}),
            app.backends["ping"].create({}),
            app.backends["pong"].delete(1),
        ):
            with pytest.raises(InternalError) as err:
                await within(20, call)
            cause = err.value
            while cause.__cause__ is not None:
                cause = cause.__cause__
            assert isinstance(cause, StackError)
            assert "7 calls are within each other (... > " in str(cause)
            assert "a layer calls itself" in str(cause)
        with pytest.raises(InternalError):
            await ann.create({})


async def test_an_operation_within_itself_is_told():
    """It would wait for itself until the deadline."""

    class Again(Backend):
        store = MemoryStore()

        @use("create")
        async def again(self, req, next):
            if req.model.get("n"):
                return await app.backends["again"].create({"n": req.model["n"] - 1}, op=f"op {req.model['m']}")
            return await next()

    app = App().serve(Again)
    async with app.test():
        again = app.backends["again"]
        with pytest.raises(InternalError) as err:
            await again.create({"n": 1, "m": 1}, op="op 1")
        assert "has its operation id, and would wait for it for ever" in str(err.value.__cause__)
        await again.create({"n": 1, "m": 1}, op="op 2")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make_store(request):
    """A store of each kind, with as few connections as it can have."""
    if request.param == "postgres":
        server = request.getfixturevalue("postgres_server")
        return lambda: PostgresStore(server, connections=4)
    return MemoryStore if request.param == "memory" else lambda: SQLiteStore("todos.db")


async def test_handlers_call_their_own_backend(make_store):
    """Before and after the store, more at once than it has connections, for clients and the server: no deadlock."""

    class Trees(Backend):
        store = make_store()

        @use("create")
        async def grow(self, req, next):
            trees, depth = app.backends["trees"], req.model["depth"]
            if depth:
                await trees.create({"depth": depth - 1}, op=f"before {req.model.get('n')} {depth} {req.op}")
            made = await next()
            if depth:
                await trees.create({"depth": depth - 1})
                await trees.query({"limit": 1})
                await trees.patch({"id": made["id"], "grown": True})
            return made

    app = App().serve(Trees)
    async with app.test() as t:
        ann = await t.client()
        calls = [app.backends["trees"].create({"depth": 2, "n": n}) for n in range(20)]
        await within(60, asyncio.gather(*calls, *(ann.create({"depth": 2, "n": n}) for n in range(20))))
        await t.settle()  # a client takes its own event for the answer
        page = await app.backends["trees"].query({"depth": 2, "count": True, "limit": 1})
        assert page.total == 40
        page = await app.backends["trees"].query({"grown": True, "depth": 2, "count": True, "limit": 1})
        assert page.total == 40


async def test_layers_in_threads_call(make_store):
    """With one thread for all layers, which waits for a layer that needs a thread as well."""

    class Inner(Backend):
        store = make_store()

        @before("create", thread=True)
        def mark(self, req):
            req.model["thread"] = threading.current_thread().name

    class Outer(Backend):
        @create
        def answer(self, req):
            return req.model

        @before("create", thread=True)
        def call(self, req):
            req.model["inner"] = app.backends["inner"].blocking.create({"n": req.model["n"]}, timeout=20)

    app = App(limits=Limits(threads=1)).serve(Inner, Outer)
    async with app.test() as t:
        ann = await t.client(backend="outer")
        made = await within(60, asyncio.gather(*(ann.create({"n": n}) for n in range(8))))
        assert [each["inner"]["n"] for each in made] == list(range(8))
        assert {each["inner"]["thread"].rpartition("_")[0] for each in made} == {"bbio-layer"}


async def test_threads_and_other_event_loops_call():
    """Each gets its result and its errors; the server's own loop must not be blocked."""
    app = App().serve(Todos)
    async with app.test() as t:
        todos = app.backends["todos"]
        heard = (await t.client()).events()
        blocking = todos.blocking

        def work():
            milk = blocking.create({"title": "milk"}, channel=None)
            assert blocking.read(milk["id"]) == milk
            blocking.update({**milk, "n": 1})
            blocking.patch({"id": milk["id"], "n": 2})
            assert blocking.query({"n": 2}).models == [{**milk, "n": 2}]
            assert blocking.sync("read") == [{**milk, "n": 2}]
            with pytest.raises(BadRequest):
                blocking.create("milk")
            return blocking.delete(milk["id"])

        assert (await asyncio.to_thread(work))["n"] == 2
        assert [(await anext(heard)).method for _ in range(4)] == ["create", "update", "update", "delete"]

        async def elsewhere():
            with pytest.raises(BadRequest):
                await todos.create("milk")
            return await todos.create({"title": "tea"})

        assert (await asyncio.to_thread(asyncio.run, elsewhere()))["title"] == "tea"
        with pytest.raises(ConfigurationError, match="a blocking call would wait for the event loop that it holds up"):
            blocking.create({})
        assert blocking.create.__name__ == "create"


async def test_a_thread_waits_no_longer_than_it_must(monkeypatch):
    """Where the event loop answers no more, or is gone."""
    monkeypatch.setattr(calls_module, "ANSWER_SECONDS", 0.05)
    slow = Slow()
    app = App().serve(slow=slow)
    async with app.test():
        runtime = app.backends["slow"]
        for method in (
            lambda: runtime.blocking.create({}, timeout=0.01),
            lambda: asyncio.run(runtime.create({}, timeout=0.01)),
        ):
            with pytest.raises(Timeout, match="took too long"):
                await within(20, asyncio.to_thread(method))
        monkeypatch.setattr(app.gateway.calls, "_call", lambda *args: asyncio.sleep(60))
        for method in (
            lambda: runtime.blocking.create({}, timeout=0.01),
            lambda: asyncio.run(runtime.create({}, timeout=0.01)),
        ):
            with pytest.raises(Timeout, match="took too long"):
                await within(20, asyncio.to_thread(method))
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()

        async def end(*args):
            await cancelled

        monkeypatch.setattr(app.gateway.calls, "_call", end)
        with pytest.raises(Unavailable, match="has stopped"):
            await asyncio.to_thread(runtime.blocking.create, {})
        loop = asyncio.new_event_loop()
        loop.close()
        monkeypatch.setattr(app.gateway.calls, "_loop", loop)
        for method in (runtime.blocking.create, lambda model: asyncio.run(runtime.create(model))):
            with pytest.raises(ConfigurationError, match="does not run any more"):
                await asyncio.to_thread(method, {})
        monkeypatch.undo()


async def test_long_lists_of_calls_are_bounded():
    """What is too long is refused; calls within a call hold nothing up."""

    class Big(Backend):
        store = MemoryStore(models=[{"id": n, "text": "x" * 30_000} for n in range(40)])

        @use("read")
        async def again(self, req, next):
            found = await next()
            if req.options.get("again"):
                await app.backends["big"].query()
            return found

    app = App(limits=Limits(memory=16 << 20, reply=100_000)).serve(Big)
    async with app.test():
        big = app.backends["big"]
        lists = await within(60, asyncio.gather(*(big.query(options={"again": True}) for _ in range(4))))
        assert [len(page.models) for page in lists] == [40] * 4
        assert app.gateway.calls._address.lists.held == 0
        monkey = App(limits=Limits(memory=2 << 20, reply=100_000)).serve(big=Big())
    async with monkey.test():
        with pytest.raises(BadRequest, match="ask for less"):
            await monkey.backends["big"].query()
        assert len((await monkey.backends["big"].query({"limit": 5})).models) == 5


async def test_a_layer_that_reads_too_much_at_once_is_refused_within_a_call():
    """The limit holds there too."""

    class Big(Backend):
        store = MemoryStore(models=[{"id": n, "text": "x" * 30_000} for n in range(40)])

    class Outer(Backend):
        @read
        async def all(self, req):
            try:
                await app.backends["big"].query()
            except BadRequest as err:
                return str(err)

    app = App(limits=Limits(memory=2 << 20, reply=100_000)).serve(Big, Outer)
    async with app.test():
        assert "ask for less" in await app.backends["outer"].read(1)


async def test_too_many_calls_that_wait_for_a_thread_are_refused(monkeypatch):
    """They get `Busy`, as requests of clients do."""
    monkeypatch.setattr("bbio.stack.threads.MAX_WAITING_CALLS", 0)
    free = threading.Event()

    class Blocked(Backend):
        @before("create", thread=True)
        def wait(self, req):
            free.wait(20)

    app = App(limits=Limits(threads=1)).serve(Blocked)
    async with app.test():
        first = asyncio.create_task(app.backends["blocked"].create({}))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="wait for a thread"):
            await app.backends["blocked"].create({})
        free.set()
        await first


async def test_a_process_that_was_forked_is_told_that_nothing_runs_in_it(monkeypatch):
    """The application runs in the process that started it."""
    app = App().serve(Todos)
    async with app.test():
        calls = app.gateway.calls
        monkeypatch.setattr(calls, "_process", calls._process + 1)
        with pytest.raises(ConfigurationError, match="started before this process was forked"):
            await app.backends["todos"].query()
