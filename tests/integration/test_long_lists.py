"""Long lists over the wire: what many at once make the server's process hold, and that honest ones are answered."""

import functools
from pathlib import Path

import pytest

from bbio import Backend, Limits, after
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from tests.support.wire import SyncFailed

pytestmark = pytest.mark.once  # the server is a process of its own, and what is looked at is what it holds

STORES = {
    "memory": "MemoryStore(",
    "SQLite": "SQLiteStore('lists.db', 'lists', ",
    "PostgreSQL": "PostgresStore(os.environ['DATABASE'], 'lists', timeout=60.0, ",
}
# 48 MB that are never given out whole, and lists that a layer works on for a while, of which each holds 50 MB.
SOURCE = """
import asyncio, os
from bbio import App, Backend, after
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore

class Large(Backend):
    store = {large}models=[{{"id": n, "text": "x" * 800_000}} for n in range(60)])

class Dense(Backend):
    store = {dense}models=[{{"id": n, "a": [[]] * 60_000}} for n in range(10)])

    @after("read")
    async def work(self, req, res):
        await asyncio.sleep(0.1)

app = App(engine=os.environ["ENGINE"]).serve(Large, Dense)
"""


@pytest.fixture(params=STORES)
def settings(request, engine):
    """The source of an application with each of the three stores, and its environment."""
    large, env = STORES[request.param], {"ENGINE": engine}
    if request.param == "PostgreSQL":
        env["DATABASE"] = request.getfixturevalue("database_url")
    return SOURCE.format(large=large, dense=large.replace("'lists'", "'dense'")), env


@pytest.fixture
async def server(settings, spawn):
    """A process that serves the lists."""
    source, env = settings
    return await spawn(source, **env)


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
    asked = [(client, await client.start("read")) for client in clients]
    for client, id in asked:
        assert len(await client.finish(id, 60)) == 10
    assert peak(server) - before < 250


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
    assert len(await alice.sync("read", options={"data": {"limit": 20}})) == 20
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
