"""Several processes on one file, and one that is killed: every client ends up with what is stored, in time."""

import asyncio
import time

import pytest

from bbio.client import connect
from bbio.streams import Op
from tests.support.wire import Closed

pytestmark = pytest.mark.once  # what is asked is what servers do, not a Python

# How long it may take until a client has heard of a write that nobody told its process of.
IN_TIME = 6.0

SERVED = """
import os, signal
from bbio import App, Backend
from bbio.builtin import SQLiteStore

class Mortal(SQLiteStore):
    def tell(self, change):
        if not change.result.duplicate and change.result.record.get("title") == "last words":
            os.kill(os.getpid(), signal.SIGKILL)  # committed, and told to nobody
        super().tell(change)

class Todos(Backend):
    store = Mortal("todos.db")

app = App(engine="{engine}")
app.serve(Todos)
"""


@pytest.fixture
async def mirrors():
    """`await mirrors(url)`: a live collection of the todos there."""
    connections = []

    async def mirror(url):
        connections.append(connect(url, jitter=0.01, reconnect=(0.01, 0.05)))
        return await connections[-1].backend("todos").collection().open()

    yield mirror
    for connection in connections:
        await connection.close()


async def flood(join, url, id, clients, writes):
    """Writes to one model, from several connections at once, all that they have at the same time."""
    writers = [await join(url, "todos", ...) for _ in range(clients)]
    asked = [
        (writer, await writer.start("patch", {"id": id, f"by{n}": k}))
        for k in range(writes)
        for n, writer in enumerate(writers)
    ]
    return [await writer.finish(request, 60.0) for writer, request in asked]


async def test_two_processes_write_to_one_model_and_all_clients_agree(spawn, join, mirrors):
    """2 x 500 concurrent writes: live collections are what is stored, and legacy clients heard each write, in order."""
    source = SERVED.format(engine="fast")
    servers = [await spawn(source), await spawn(source)]
    collections = [await mirrors(server.url) for server in servers for _ in range(2)]
    listeners = [await join(server.url, "todos") for server in servers]
    first = await join(servers[0].url, "todos", ...)
    todo = await first.sync("create", {"title": "milk"})
    await asyncio.gather(*(flood(join, server.url, todo["id"], 5, 100) for server in servers))
    ended = time.monotonic()
    stored = await first.sync("read", {"id": todo["id"]})
    for collection in collections:
        await collection.until(lambda todos: todos.rev(todo["id"]) == 1_001, IN_TIME)
        assert dict(collection) == {todo["id"]: stored}
    for listener in listeners:
        told = [await listener.synced(IN_TIME) for _ in range(1_001)]
        assert [method for method, _ in told] == ["create"] + ["update"] * 1_000
        assert told[-1][1] == stored
    assert time.monotonic() - ended <= IN_TIME


async def test_a_write_of_another_process_is_heard_in_time(spawn, join, mirrors):
    """Although nobody writes in the process that the listeners are connected to."""
    source = SERVED.format(engine="fast")
    here, there = await spawn(source), await spawn(source)
    collection, legacy = await mirrors(here.url), await join(here.url, "todos")
    writer = await join(there.url, "todos", ...)
    todo = await writer.sync("create", {"title": "milk"})
    began = time.monotonic()
    assert await legacy.synced(IN_TIME) == ("create", todo)
    await collection.until(lambda todos: todos.get(todo["id"]) == todo, IN_TIME)
    assert time.monotonic() - began <= IN_TIME


async def test_an_event_that_a_killed_process_told_nobody_of(spawn, join, engine):
    """It is told after the restart to those who come back, and the retry of its write is answered, not run."""
    source = SERVED.format(engine=engine)
    server = await spawn(source)
    listener, writer = await join(server.url, "todos", ...), await join(server.url, "todos", ...)
    (listened,) = await listener.namespace.call("listen", None, {"v": 1})
    since = {name: [place["epoch"], place["offset"]] for name, place in listened["streams"].items()}
    sync = {"method": "create", "model": {"title": "last words"}, "options": {}, "op": {"c": "writer", "n": 1}}
    with pytest.raises(Closed):
        await writer.namespace.call("sync", sync)
    await server.ended()
    assert not listener.namespace.events

    server = await spawn(source, port=server.port)
    began = time.monotonic()
    listener, writer = await join(server.url, "todos", ...), await join(server.url, "todos", ...)
    (listened,) = await listener.namespace.call("listen", None, {"v": 1, "since": since})
    told = listened["streams"]["c:"]
    assert told["recovered"] is True
    [(method, model, place)] = told["events"]
    public = Op("writer", 1).public
    assert (method, model["title"], place["o"], place.pop("op")) == ("create", "last words", 1, public)
    assert time.monotonic() - began <= IN_TIME
    again = await writer.namespace.call("sync", sync)
    assert again == [None, model, place]
    assert await writer.sync("read") == [model]
    assert not listener.namespace.events
