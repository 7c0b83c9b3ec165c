"""Connections come and go: what a client finds when it is back, and what it leaves behind."""

import asyncio

import pytest

from bbio import App, Backend, update
from bbio.builtin import MemoryStore
from tests.support.servers import heard
from tests.support.wire import Closed, LegacyClient

SERVED = """
from bbio import App, Backend, update
from bbio.builtin import MemoryStore

class Todos(Backend):
    store = MemoryStore()

app = App(engine="{engine}")
app.serve(Todos)
"""


async def test_a_client_that_comes_back_listens_again_and_is_told_again(serve, join, todos):
    """After an abrupt end, a new connection that listens gets every later event, once."""
    app = await serve(todos)
    alice, bob = await join(app, "todos", "home"), await join(app, "todos", "home")
    bob.wire.abort()
    bob = await join(app, "todos", "home")
    milk = await alice.sync("create", {"title": "milk"})
    assert await heard(app.backends["todos"], bob) == [[("create", milk)]]


async def test_a_dead_connection_is_forgotten(serve, join, todos):
    """Whether closed, aborted or left by a polling client, nothing of it stays in the rooms."""
    app = await serve(todos)
    alice = await join(app, "todos", "home")
    for transport in ("websocket", "polling"):
        gone = await join(app, "todos", "home", transport=transport)
        await gone.wire.send("1")
        await gone.close()
    aborted = await join(app, "todos", "home")
    aborted.wire.abort()
    await alice.sync("create", {"title": "milk"})

    def participants():
        return [sid for sid, _ in app.sio.manager.get_participants("/todos", None)]

    await alice.wire.until(lambda: participants() == [alice.namespace.sid], "the others to be forgotten")


async def test_a_new_connection_inherits_nothing(serve, join, todos):
    """Channels belong to a connection: the next one of the same client has joined none."""
    app = await serve(todos)
    await (await join(app, "todos", "home")).close()
    bob = await join(app, "todos", ...)
    alice = await join(app, "todos", "home")
    await alice.sync("create", {"title": "milk"})
    assert (await bob.namespace.call("listen", None))[0] == {"event": "backend"}
    assert await heard(app.backends["todos"], bob) == [[]]


# The library as it is keeps such a connection open.
@pytest.mark.parametrize("engine", ["fast"], indirect=True)
async def test_a_session_id_is_of_no_use_to_another_connection(serve, join, todos):
    """An ended session cannot be continued over polling."""
    app = await serve(todos)
    first = await join(app, "todos", transport="polling")
    await first.wire.send("1")
    with pytest.raises(Closed):
        await first.wire.until(lambda: False, "the end")
    status, _ = await first.wire.transport.post('42/todos,["sync",{}]')
    assert status == 400


async def test_namespaces_can_be_left_and_joined_again_on_one_connection(serve, join, todos):
    """CONNECT after DISCONNECT gives a fresh membership with a fresh id."""
    app = await serve(todos)
    alice = await join(app, "todos", "home")
    before = alice.namespace.sid
    await alice.namespace.disconnect()
    alice.namespace = await alice.wire.connect("/todos")
    assert alice.namespace.sid != before
    bob = await join(app, "todos", "home")
    await bob.sync("create", {"title": "unheard"})
    await alice.listen("home")
    milk = await bob.sync("create", {"title": "milk"})
    assert await heard(app.backends["todos"], alice) == [[("create", milk)]]


async def test_requests_keep_their_order_after_a_namespace_was_joined_again(serve, join):
    """Leaving the only namespace and joining it again does not leave requests waiting for ever."""
    release = asyncio.Event()

    class Todos(Backend):
        @update
        async def wait(self, req):
            await release.wait()
            return req.model

    alice = await join(await serve(Todos), "todos")
    await alice.namespace.disconnect()
    alice.namespace = await alice.wire.connect("/todos")
    ids = [await alice.start("update", {"id": 1, "n": n}) for n in range(3)]
    await alice.sync("read")
    release.set()
    assert [(await alice.finish(id))["n"] for id in ids] == [0, 1, 2]


async def test_an_application_that_stops_lets_its_clients_know(serve, join, todos):
    """`stop` closes every connection, over either transport, and the port is free again."""
    app = await serve(todos)
    alice, bob = await join(app, "todos"), await join(app, "todos", transport="polling")
    await app.stop()
    assert await alice.wire.ended() == 1001
    await bob.wire.ended()
    with pytest.raises(ConnectionRefusedError):
        await LegacyClient.open(app.url, "todos")


async def test_a_server_that_restarts_finds_its_clients_again(spawn, join, engine):
    """After a kill and a restart on the same port, clients connect, listen and are told as before."""
    server = await spawn(SERVED.format(engine=engine))
    alice, bob = await join(server.url, "todos"), await join(server.url, "todos")
    milk = await alice.sync("create", {"title": "milk"})
    assert await bob.synced() == ("create", milk)
    await server.stop()
    for client in (alice, bob):
        await client.wire.ended()
    server = await spawn(SERVED.format(engine=engine), port=server.port)
    alice, bob = await join(server.url, "todos"), await join(server.url, "todos")
    bread = await bob.sync("create", {"title": "bread"})
    assert await alice.synced() == ("create", bread)
    assert await alice.sync("read") == [bread]


async def test_restarting_an_application_in_one_process(engine, join):
    """An application object can be started again after it was stopped, with its store as declared."""

    class Todos(Backend):
        store = MemoryStore()

    app = App(engine=engine)
    app.serve(Todos)
    for _ in range(2):
        async with app.running() as url:
            alice = await LegacyClient.open(url, "todos")
            await alice.listen()
            assert (await alice.sync("create", {"title": "milk"}))["title"] == "milk"
            await alice.close()
