"""Fixtures of the integration tests: real servers, reached by clients that know the protocol alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bbio import App, Backend
from bbio.builtin import MemoryStore
from tests.support.servers import ServerProcess
from tests.support.services import free_port
from tests.support.wire import LegacyClient, Wire

Serve = Callable[..., Awaitable[App]]
Join = Callable[..., Awaitable[LegacyClient]]


@pytest.fixture(params=["fast", "plain"])
def engine(request: pytest.FixtureRequest) -> str:
    """Both engines: what is tested with one is tested with the other."""
    return request.param


@pytest.fixture
async def serve(engine: str) -> AsyncIterator[Serve]:
    """`await serve(Todos, event="sync")`: a started application on a free port, stopped after the test."""
    async with AsyncExitStack() as stack:

        async def serve(*backends: Any, named: dict[str, Any] | None = None, **options: Any) -> App:
            app = App(engine=engine, **options)
            app.serve(*backends, **(named or {}))
            await app.start(host="127.0.0.1", port=0)
            stack.push_async_callback(app.stop)
            return app

        yield serve


@pytest.fixture
async def join() -> AsyncIterator[Join]:
    """`await join(app, "todos", "work")`: a client that has listened to a channel, closed after the test.

    Channel `...` means: connected, but not listening.
    """
    async with AsyncExitStack() as stack:

        async def join(app: App | str, backend: str, channel: Any = None, **options: Any) -> LegacyClient:
            url = app if isinstance(app, str) else app.url
            client = await LegacyClient.open(url, backend, **options)
            stack.push_async_callback(client.close)
            if channel is not ...:
                await client.listen(channel)
            return client

        yield join


@pytest.fixture
async def dial() -> AsyncIterator[Callable[..., Awaitable[Wire]]]:
    """`await dial(app)`: a bare session without a namespace, closed after the test."""
    async with AsyncExitStack() as stack:

        async def dial(app: App | str, **options: Any) -> Wire:
            wire = await Wire.open(app if isinstance(app, str) else app.url, **options)
            stack.push_async_callback(wire.close)
            return wire

        yield dial


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[ServerProcess]]]:
    """`await spawn(source)`: `bbio run` of a module with that source, in a process killed after the test.

    The module must define `app`. Calling it again with `port=` of a server that has ended is a restart. The process is
    a fork, if it is not to be `fresh`.
    """
    async with AsyncExitStack() as stack:

        async def spawn(source: str, port: int | None = None, fresh: bool = False, **env: str) -> ServerProcess:
            (tmp_path / "served.py").write_text(source)
            port = port or free_port()
            command = ("run", "served:app", "--port", str(port))
            server = ServerProcess(*command, cwd=tmp_path, port=port, env=env, forked=not fresh)
            stack.push_async_callback(server.stop)
            return await server.start()

        yield spawn


@pytest.fixture
async def psql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of another program to the database."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def todos() -> type[Backend]:
    """A fresh backend `todos` over a memory store of its own."""

    class Todos(Backend):
        store = MemoryStore()

    return Todos
