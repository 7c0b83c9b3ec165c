"""Servers that share a PostgreSQL, programs that write to it, and clients who end up with what is stored."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress

import asyncpg
import pytest

from bbio import App, Backend, SyncError
from bbio.builtin import PostgresStore
from bbio.client import connect
from bbio.errors import ConfigurationError
from tests.support.servers import eventually
from tests.support.services import PostgresServer

# How long it may take until a client has heard of a write that nobody told its process of.
IN_TIME = 6.0


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


@pytest.fixture
async def start():
    """`await start(dsn)`: an application whose todos are in that database, as one of several processes."""
    async with AsyncExitStack() as stack:
        apps = []

        async def start(dsn, **options):
            todos = type(
                "Todos", (Backend,), {"store": PostgresStore(f"{dsn}?application_name=p{len(apps)}", **options)}
            )
            apps.append(App().serve(todos))
            await stack.enter_async_context(apps[-1].running())
            return apps[-1]

        yield start


def _another(dsn):
    """The store of the todos, as a command opens it."""
    todos = type("Todos", (Backend,), {"store": PostgresStore(dsn)})()
    App().serve(todos)
    return todos.store


async def test_clients_of_two_servers_and_another_program_agree(database_url, start, mirrors, join):
    """Each server tells its clients of what the other and the program wrote, at once and each event once."""
    one, two = await start(database_url), await start(database_url)
    await PostgresStore.install_triggers(_another(database_url))
    here, there = await mirrors(one.url), await mirrors(two.url)
    legacy = await join(two, "todos")
    milk = await (await join(one, "todos")).sync("create", {"title": "milk"})
    assert await legacy.synced() == ("create", milk)
    began = time.monotonic()
    program = await asyncpg.connect(database_url)
    await program.execute("UPDATE todos SET body = body || '{\"done\": true}'")
    assert await legacy.synced() == ("update", {**milk, "done": True})
    assert time.monotonic() - began < IN_TIME / 2, "the check of every 5 seconds was not waited for"
    writers = [await join(app, "todos", ...) for app in (one, two) for _ in range(5)]
    requests = [
        (writer, await writer.start("patch", {"id": milk["id"], f"by{n}": k}))
        for k in range(20)
        for n, writer in enumerate(writers)
    ]
    for n in range(20):
        await program.execute("INSERT INTO todos (id, body) VALUES ($1, '{}')", f"program{n}")
    await program.execute("DELETE FROM todos WHERE id LIKE 'program1%'")
    for writer, request in requests:
        await writer.finish(request, 60.0)
    stored = {model["id"]: model for model in await (await join(one, "todos", ...)).sync("read")}
    for mirror in (here, there):
        await mirror.until(lambda todos: dict(todos) == stored, IN_TIME)
    assert {n: stored[milk["id"]].get(f"by{n}") for n in range(10)} == dict.fromkeys(range(10), 19)
    await program.close()


async def test_clients_survive_a_restart_of_the_database(start, mirrors, join):
    """Under load: requests are answered, live collections converge, nothing is applied twice."""
    server = PostgresServer()
    await asyncio.to_thread(server.start)
    try:
        app = await start(server.url, timeout=1.0)
        mirror = await mirrors(app.url)
        connections = [connect(app.url, jitter=0.01, reconnect=(0.01, 0.05)) for _ in range(5)]
        writers = [connection.backend("todos") for connection in connections]
        running = asyncio.Event()
        running.set()
        acked = []

        async def write(writer):
            while running.is_set():
                with suppress(SyncError):
                    acked.append((await writer.create({"n": len(acked)}))["id"])

        tasks = [asyncio.ensure_future(write(writer)) for writer in writers]

        async def more():
            enough = len(acked) + 20

            async def reached():
                return len(acked) >= enough

            await eventually(reached)

        await more()
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        await more()
        running.clear()
        await asyncio.gather(*tasks)
        stored = {model["id"]: model for model in await writers[0].read()}
        assert set(acked) <= stored.keys()
        assert len(acked) == len(set(acked))
        await mirror.until(lambda todos: dict(todos) == stored, IN_TIME)
        for connection in connections:
            await connection.close()
    finally:
        await asyncio.to_thread(server.remove)


async def test_a_server_without_its_database_does_not_start(database_url, start):
    """The reason is one line."""
    with pytest.raises(ConfigurationError, match="createdb"):
        await start(database_url + "_no")
