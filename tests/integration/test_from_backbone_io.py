"""What servers written for backbone.io did: `on`, `use("all")`, `req.cookies`, and `emit` before the start."""

import asyncio
import threading

import pytest

from bbio import App, Backend, Unauthorized, after, before
from bbio.builtin import MemoryStore, SQLiteStore
from bbio.client import connect
from tests.support.servers import eventually

FAST = {"jitter": 0.01, "reconnect": (0.01, 0.05)}


# backend.on("created", fn)


async def test_a_listener_may_emit_to_another_backend(serve, join, todos):
    """A board that counts what a job tells of; in order, and a listener that fails costs it nothing."""

    class Counts(Backend): ...

    app = await serve(todos, Counts)
    alice = await join(app, "counts")
    seen = []

    async def count(model):
        seen.append(model["id"])
        app.backends["counts"].emit("updated", {"id": "todos", "n": len(seen)})

    def broken(model):
        raise ZeroDivisionError

    app.backends["todos"].on("created", broken).on("created", count)
    for n in range(3):
        app.backends["todos"].emit("created", {"id": n})
    assert [await alice.synced() for _ in range(3)] == [("update", {"id": "todos", "n": n}) for n in (1, 2, 3)]
    assert seen == [0, 1, 2]


async def test_a_listener_hears_threads_and_layers_but_no_clients(serve, join):
    """What it does to the model is not told to anybody."""

    class Todos(Backend):
        store = MemoryStore()

        @after("create")
        def audit(self, req, res):
            self.emit("updated", {"id": "audit", "of": req.model["title"]})

    app = await serve(Todos)
    alice, bob = await join(app, "todos"), await join(app, "todos")
    seen = []

    def spoil(model):
        seen.append(dict(model))
        model["spoilt"] = True

    app.backends["todos"].on("created", spoil).on("updated", spoil)
    await alice.sync("create", {"title": "milk"})
    worker = threading.Thread(target=app.backends["todos"].emit, args=("created", {"id": "thread"}))
    worker.start()
    worker.join()
    told = {model["id"]: model for _, model in await _some(bob, 3)}
    assert seen == [{"id": "audit", "of": "milk"}, {"id": "thread"}]
    assert (told["audit"], told["thread"]) == ({"id": "audit", "of": "milk"}, {"id": "thread"})


async def _some(client, count):
    return [await client.synced() for _ in range(count)]


# backend.use("all", fn)


async def test_all_guards_every_sync(serve):
    """Who has no cookie is turned away from each; who has one is served. (`before` layers guard listening.)"""

    class Todos(Backend):
        store = MemoryStore()

    def members(req, next):
        if not req.cookies.get("member"):
            raise Unauthorized("members only")
        return next()

    Todos.use("all", members)
    app = await serve(Todos)
    async with connect(app.url, **FAST) as stranger, connect(app.url, headers={"Cookie": "member=1"}, **FAST) as member:
        handle, theirs = member.backend("todos"), stranger.backend("todos")
        made = await handle.create({"title": "milk"})
        assert await handle.collection() == {made["id"]: made}
        for attempt in (theirs.read(), theirs.create({}), theirs.delete(made)):
            with pytest.raises(Unauthorized):
                await attempt


async def test_all_stands_in_its_place_among_the_others(serve, join):
    """In the order of `use`, for each method once, and may answer by itself."""
    ran = []

    class Todos(Backend):
        store = MemoryStore()

    Todos.use("create", lambda req, next: (ran.append("create"), next())[1])
    Todos.use("all", lambda req, next: (ran.append("all"), next())[1])
    Todos.use("all", lambda req, res, next: res.end([]) if req.method == "read" else next())
    alice = await join(await serve(Todos), "todos", ...)
    made = await alice.sync("create", {"title": "milk"})
    assert (made["title"], ran) == ("milk", ["create", "all"])
    assert await alice.sync("read", {}) == []
    assert ran == ["create", "all", "all"]


# req.cookies


async def test_cookies_are_those_of_the_clients_own_handshake(serve, join):
    """In every layer, for two clients at once; what a layer does to them is its own affair."""

    class Todos(Backend):
        store = MemoryStore()

        @before("create")
        async def sign(self, req):
            await asyncio.sleep(0)
            req.model["by"] = req.cookies.get("who")

    app = await serve(Todos)
    clients = [await join(app, "todos", ..., headers={"Cookie": f"theme=dark; who={who}"}) for who in ("ann", "bob")]
    made = await asyncio.gather(*(client.sync("create", {}) for client in clients for _ in range(5)))
    assert [model["by"] for model in made] == ["ann"] * 5 + ["bob"] * 5


async def test_a_request_of_the_server_has_no_cookies(serve, join):
    """A layer may ask for one all the same, over polling too; odd ones of other programs do no harm."""
    seen = []

    class Todos(Backend):
        store = MemoryStore()

        @before
        def note(self, req):
            seen.append(req.cookies.get("who"))

    app = await serve(Todos)
    alice = await join(app, "todos", ..., transport="polling", headers={"Cookie": 'a,b={"x": 1}; who="ann"; ;=;'})
    await alice.sync("read", {})
    await app.backends["todos"].recheck()
    assert seen == ["ann"]


# backend.emit before the server listens


async def test_what_is_emitted_before_the_start_is_followed_like_anything_else(engine, tmp_path):
    """In order, also by a store on disk: what is emitted later comes after it."""

    class Todos(Backend):
        store = SQLiteStore(tmp_path / "todos.db")

    app = App(engine=engine).serve(Todos)
    heard_of = []

    async def later(model):
        heard_of.append(("later", model["n"]))

    app.backends["todos"].on("created", lambda model: heard_of.append(model["n"])).on("created", later)
    for n in range(3):
        app.backends["todos"].emit("created", {"id": str(n), "n": n})
    assert heard_of == [0, 1, 2]
    await app.start()
    try:
        await eventually(lambda: asyncio.sleep(0, len(heard_of) == 6))
        assert sorted(n for _, n in heard_of[3:]) == [0, 1, 2]
        async with connect(app.url, **FAST) as io:
            handle = io.backend("todos")
            await handle.ready()
            events = handle.events()
            app.backends["todos"].emit("created", {"id": "3", "n": 3})
            numbers = [(await anext(events)).model["n"]]
            while numbers[-1] != 3:  # what waited may be told now
                numbers.append((await anext(events)).model["n"])
            assert numbers == list(range(numbers[0], 4))
    finally:
        await app.stop()


async def test_what_threads_emit_while_the_application_starts_arrives_once(engine, join, todos):
    """Before, during and after: each thread's in its order, none twice."""
    app = App(engine=engine).serve(todos)
    app.backends["todos"].emit("created", {"id": "early"})
    stop = threading.Event()

    def tick():
        n = 0
        while not stop.wait(0.001):
            app.backends["todos"].emit("updated", {"id": "clock", "n": n})
            n += 1

    worker = threading.Thread(target=tick)
    worker.start()
    try:
        await app.start()
        alice = await join(app, "todos")
        numbers = [model["n"] for _, model in await _some(alice, 20)]
    finally:
        stop.set()
        await asyncio.to_thread(worker.join)
        await app.stop()
    assert numbers == list(range(numbers[0], numbers[0] + 20))
