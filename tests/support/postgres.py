"""Postgres stores opened as a backend opens them, and a way to PostgreSQL that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from bbio import Backend
from bbio.builtin import PostgresStore
from bbio.conformance.cases import Opened, Published
from bbio.runtime import Runtime
from bbio.streams import Event


class Told(Published):
    """What a store has published, and which streams it wanted to have looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.checks: list[list[str] | None] = []
        self.rechecks: asyncio.Queue[str | None] = asyncio.Queue()
        self._changed = asyncio.Event()

    def doubt(self, streams: Any = None) -> None:
        self.checks.append(streams)
        self._changed.set()

    def recheck_soon(self, channel: str | None = None) -> None:
        self.rechecks.put_nowait(channel)

    async def checked(self) -> list[list[str] | None]:
        """Wait until something is to be looked at; all such calls since the last time come back."""
        async with asyncio.timeout(15):
            while not self.checks:
                self._changed.clear()
                await self._changed.wait()
        checks, self.checks = self.checks, []
        return checks


@asynccontextmanager
async def opened(dsn: str, model: type | None = None, **options: Any) -> AsyncIterator[Opened]:
    """A store of the backend `models`, started; stopped at the end. `published` of it is a `Told`."""
    told = Told()
    models = _backend(told, dsn, model, **options)
    await models.start()
    try:
        yield Opened(models.store, told)
    finally:
        await models.stop()


async def install_triggers(dsn: str, model: type | None = None, **options: Any) -> None:
    """Install the triggers of the store that `opened` opens."""
    await _backend(Told(), dsn, model, **options).store.install_triggers()


async def remove_triggers(dsn: str, model: type | None = None, **options: Any) -> None:
    """Remove the triggers of the store that `opened` opens."""
    await _backend(Told(), dsn, model, **options).store.remove_triggers()


def _backend(told: Told, dsn: str, model: type | None, keeps_was: bool = False, **options: Any) -> Any:
    backend = type("Models", (Backend,), {"store": PostgresStore(dsn, **options), "model": model})()
    models = Runtime(backend, "models", lambda work: None)
    models.open(told)
    if keeps_was:
        models.keep_was()
    return models


@asynccontextmanager
async def processes(dsn: str, count: int, **options: Any) -> AsyncIterator[list[Opened]]:
    """Several stores of the same table that know nothing of each other, as those of several processes."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(opened(f"{dsn}?application_name=process{n}", **options))
            for n in range(count)
        ]


async def log(store: Opened, stream: str = "c:") -> list[Event]:
    """All events of a stream."""
    position = (await store.store.positions([stream]))[stream]
    events = await store.store.since(stream, position.epoch, 0)
    assert events is not None
    return events


class Relay:
    """A way to a server, on a port of its own, that tests can watch and cut.

    `on_send` is asked of everything that a client sends; when it answers "cut", that still arrives, and no answer comes
    back; when it answers "drop", it does not arrive; when it answers "leave", it does not arrive either, and the server
    does not learn that the client is gone. `on_answer` says whether what the server sends arrives. While `is_open` is
    not set, nobody gets through.
    """

    def __init__(self, dsn: str) -> None:
        self._target = urlsplit(dsn)
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.on_send: Callable[[bytes], str] = lambda data: ""
        self.on_answer: Callable[[bytes], bool] = lambda data: True
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        place = self._target._replace(netloc=f"{self._target.username or ''}@127.0.0.1:{port}")
        self.dsn = urlunsplit(place)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        self.is_open.set()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError), closing(writer):
            await self.is_open.wait()
            up_reader, up_writer = await asyncio.open_connection(self._target.hostname, self._target.port or 5432)
            both = {writer, up_writer}
            self._writers |= both
            muted = asyncio.Event()
            with closing(up_writer):
                await asyncio.gather(
                    self._pump(reader, up_writer, writer, muted), self._answer(up_reader, writer, muted)
                )
            self._writers -= both

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, back: asyncio.StreamWriter, muted: Any
    ) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                verdict = self.on_send(data)
                if verdict:
                    muted.set()
                else:
                    await self.is_open.wait()
                if verdict not in ("drop", "leave"):
                    target.write(data)
                    await target.drain()
                if verdict:
                    back.transport.abort()
                if verdict == "leave":
                    return
        target.close()

    async def _answer(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, muted: Any) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if not muted.is_set() and self.on_answer(data):
                    target.write(data)
                    await target.drain()
        target.close()
