"""Long lists over the wire: what many at once make the server's process hold, and that honest ones are answered."""

import asyncio
import functools
import gc
from pathlib import Path

import pytest

from bbio import Backend, Limits, after
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from tests.support.wire import SyncFailed

pytestmark = pytest.mark.once  # the server is a process of its own, and what is looked at is what it holds

STORES = {
    "memory": "MemoryStore(",
    "SQLite": "SQLiteStore('lists.db', ",
    "PostgreSQL": "PostgresStore(os.environ['DATABASE'], timeout=60.0, ",
}
# 48 MB that are never given out whole, and lists that a layer works on for a while, of which each holds 50 MB.
SOURCE = """
import asyncio, os
from bbio import App, Backend, Limits, after
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore

class Large(Backend):
    store = STORE(models=[{"id": n, "text": "x" * 800_000} for n in range(60)])

class Dense(Backend):
    store = STORE(models=[{"id": n, "a": [[]] * 60_000} for n in range(10)])

    @after("read")
    async def work(self, req, res):
        await asyncio.sleep(0.1)

# The clients share a process that decodes millions of values, and reads nothing meanwhile.
app = App(engine=os.environ["ENGINE"], limits=Limits(stall_time=60)).serve(Large, Dense)
"""


@pytest.fixture(params=STORES)
def start(request, engine, spawn):
    """Starts a process that serves an application over each of the three stores, given its source."""
    store, env = STORES[request.param], {"ENGINE": engine}
    if request.param == "PostgreSQL":
        env["DATABASE"] = request.getfixturevalue("database_url")
    gc.disable()  # of what clients read into millions of values, most of the time goes to looking for circles in it
    yield lambda source: spawn(source.replace("STORE(", store), **env)
    gc.enable()


@pytest.fixture
async def server(start):
    """A process that serves the lists."""
    return await start(SOURCE)


def peak(server):
    """The most that the process has held so far, in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def test_lists_that_are_refused_are_not_made(server, join):
    """Ten clients that ask for all of it, and some in an order."""
    clients = [await join(server.url, "large") for _ in range(10)]
    before = peak(server)
    asked = [(client, await client.start("read")) for client in clients]
    for client, id in asked:
        with pytest.raises(SyncFailed, match="BadRequest: the answer has more than 16777216 bytes"):
            await client.finish(id, 60)
    asked = [(client, await client.start("read", options={"data": {"sort": "-text"}})) for client in clients[:3]]
    for client, id in asked:
        with pytest.raises(SyncFailed, match=r"BadRequest|Timeout"):  # where the machine is busy
            await client.finish(id, 60)
    assert peak(server) - before < 100


async def test_long_lists_are_made_one_after_another(server, join):
    """All are answered, in their turn."""
    clients = [await join(server.url, "dense") for _ in range(10)]
    before = peak(server)

    async def count(client, id):
        models = await client.finish(id, 60)
        client.namespace.packets.clear()  # as the server, the test does not hold all of them at once
        return len(models)

    asked = [(client, await client.start("read")) for client in clients]
    assert await asyncio.gather(*(count(client, id) for client, id in asked)) == [10] * 10
    assert peak(server) - before < 250


# 5 MB of which Python would hold 160 MB.
PACKED = """
import os
from bbio import App, Backend, Limits, QueryLimits, after
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore

class Packed(Backend):
    store = STORE(queries=QueryLimits(seconds=30), models=[{"id": n, "a": [{}] * 90_000} for n in range(20)])

class Seen(Packed):
    @after("read")
    def see(self, req, res):
        pass

app = App(engine=os.environ["ENGINE"], limits=Limits(stall_time=60)).serve(Packed, Seen)
"""


@pytest.mark.parametrize("start", ["memory", "SQLite"], indirect=True)  # PostgreSQL would take a minute to begin with
async def test_a_list_of_very_many_values_is_not_made(start, join):
    """It is decoded for a layer that looks at it alone, and then its values count."""
    server = await start(PACKED)
    packed, seen = await join(server.url, "packed"), await join(server.url, "seen")
    before = peak(server)
    for _ in range(2):
        assert len(await packed.finish(await packed.start("read"), 60)) == 20
        with pytest.raises(SyncFailed, match="BadRequest: the answer has so many values that they take more than"):
            await seen.finish(await seen.start("read"), 60)
    assert peak(server) - before < 100


MODELS = [{"id": n, "text": "é" * 500} for n in range(200)]


@pytest.fixture(params=["memory", "SQLite", "PostgreSQL"])
def make_store(request, tmp_path):
    """Each of the three stores."""
    if request.param == "memory":
        return MemoryStore
    if request.param == "SQLite":
        return functools.partial(SQLiteStore, tmp_path / "lists.db")
    return functools.partial(PostgresStore, request.getfixturevalue("database_url"))


async def test_lists_up_to_the_limit_are_answered(serve, join, make_store):
    """For the first time and again, whole and page by page; nothing is held for them in the end."""

    class Todos(Backend):
        store = make_store(models=MODELS)

    app = await serve(Todos, limits=Limits(reply=300_000))
    alice = await join(app, "todos")
    whole, page = {}, {"data": {"sort": "id", "limit": 150, "count": True}}
    for options, count in ((whole, 200), (whole, 200), (page, 150), (page, 150)):
        found = await alice.sync("read", options=options)
        assert len({model["id"] for model in found}) == count
    for n in range(200, 300):
        await alice.sync("create", {"n": n, "text": "é" * 500})
    for options in (whole, whole, {"data": {"sort": "id"}}):
        with pytest.raises(SyncFailed, match="more than 300000 bytes; ask for less, such as with a limit"):
            await alice.sync("read", options=options)
    assert len(await alice.sync("read", options={"data": {"limit": 10}})) == 10
    assert app.gateway.addresses.lists.whole.held == 0


async def test_a_list_that_a_layer_shortens_may_be_longer(serve, join, make_store):
    """What is answered counts, where that is not what the store has read; until it is too much to be held."""

    class Todos(Backend):
        store = make_store(models=MODELS)

        @after("read")
        def count(self, req, res):
            res.result = len(res.result)

    for memory, told in ((2_000_000, None), (400_000, "more than 100000 bytes")):
        app = await serve(Todos, limits=Limits(reply=10_000, memory=memory))
        alice = await join(app, "todos")
        if told is None:
            assert await alice.sync("read") == 200
        else:
            with pytest.raises(SyncFailed, match=told):
                await alice.sync("read")
        await app.stop()


async def test_the_values_of_a_list_count_where_it_is_decoded(serve, join, make_store):
    """For a layer that looks at it; else it goes to the client as it is."""

    class Todos(Backend):
        store = make_store(models=[{"id": n, "a": [{}] * 1_000} for n in range(60)])

    class Seen(Todos):
        @after("read")
        def see(self, req, res):
            assert len(res.result[0]["a"]) == 1_000

    app = await serve(Todos, Seen, limits=Limits(memory=4_000_000))
    todos, seen = await join(app, "todos"), await join(app, "seen")
    assert [len(model["a"]) for model in await todos.sync("read")] == [1_000] * 60
    with pytest.raises(SyncFailed, match="so many values that they take more than 4000000 bytes"):
        await seen.sync("read")
    page = {"data": {"sort": "id", "limit": 10}}
    assert await seen.sync("read", options=page) == await todos.sync("read", options=page)
    assert app.gateway.addresses.lists.whole.held == 0


async def test_a_large_model_counts_like_a_list_while_a_layer_holds_it(serve, join, make_store):
    """The next waits for it, where there is no more room; who is answered makes room."""
    go_on, begun, reading = asyncio.Event(), asyncio.Event(), []

    class Todos(Backend):
        store = make_store(models=[{"id": n, "text": "x" * 200_000} for n in range(3)])

        @after("read")
        async def wait(self, req, res):
            reading.append(req.id)
            begun.set()
            await go_on.wait()

    app = await serve(Todos, limits=Limits(memory=2_000_000))
    alice = await join(app, "todos")
    asked = [await alice.start("read", {"id": n}) for n in range(3)]
    await begun.wait()
    held = app.gateway.addresses.lists.whole
    assert len(reading) == 1
    assert 1_000_000 < held.held < 1_001_000
    go_on.set()
    assert [(await alice.finish(id))["id"] for id in asked] == [0, 1, 2]
    assert (sorted(reading), held.held) == ([0, 1, 2], 0)
