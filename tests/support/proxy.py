"""A TCP proxy between clients and a server, to cut and to hold what passes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self


class Proxy:
    """Forwards to the server at `port`; `url` is where clients connect.

    Parameters:
        port: the server's TCP port; it may be changed when the server is another.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = ""
        self._open = asyncio.Event()
        self._open.set()
        self._answers = asyncio.Event()
        self._answers.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End all connections, abruptly."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def refuse(self) -> None:
        """Cut, and let nobody connect until `admit`."""
        self._open.clear()
        self.cut()

    def admit(self) -> None:
        self._open.set()

    def hold_answers(self) -> None:
        """Let nothing more through to the clients until `release_answers`; what a cut finds is lost."""
        self._answers.clear()

    def release_answers(self) -> None:
        self._answers.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if self._open.is_set():
                with suppress(OSError):
                    answers, requests = await asyncio.open_connection("127.0.0.1", self.port)
                    self._writers.add(requests)
                    always = asyncio.Event()
                    always.set()
                    await asyncio.gather(
                        self._forward(reader, requests, always), self._forward(answers, writer, self._answers)
                    )
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_: asyncio.Event) -> None:
        with suppress(OSError):
            while chunk := await reader.read(1 << 16):
                await open_.wait()
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()
