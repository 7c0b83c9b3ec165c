"""A proxy between clients and a server, that does what networks do: cuts, lost answers, packets twice or held back."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

from tests.support.websocket import TEXT, mask

EVENTS = (b"42", b"43")


def split(buffer: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Take whole frames off a buffer: each as it came, with the payload of a text frame (empty for others)."""
    while len(buffer) >= 2:
        length, at = buffer[1] & 0x7F, 2
        if length == 126:
            if len(buffer) < 4:
                return
            (length,), at = struct.unpack("!H", buffer[2:4]), 4
        elif length == 127:
            if len(buffer) < 10:
                return
            (length,), at = struct.unpack("!Q", buffer[2:10]), 10
        masked = bool(buffer[1] & 0x80)
        end = at + (4 if masked else 0) + length
        if len(buffer) < end:
            return
        raw = bytes(buffer[:end])
        del buffer[:end]
        payload = b""
        if raw[0] & 0x0F == TEXT:
            payload = mask(raw[at + 4 :], raw[at : at + 4]) if masked else raw[at:]
        yield raw, payload


class Path:
    """One connection through the proxy: what the client sends, and what comes back."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        # Whether anything comes back.
        self.flowing = asyncio.Event()
        # From now on what comes back is lost; a connection that has lost something can only be cut.
        self.losing = False
        # So many of the next notifications are left out, as a server would that has lost count.
        self.leave_out = 0
        # So many of the next events and answers pass twice.
        self.twice_up = 0
        self.twice_down = 0

    def cut(self) -> None:
        """End it without a word, on both sides."""
        for writer in (self.client, self.server):
            writer.transport.abort()

    async def up(self, reader: asyncio.StreamReader) -> None:
        """Carry what the client sends."""
        self.server.write(await reader.readuntil(b"\r\n\r\n"))
        buffer = bytearray()
        while data := await reader.read(1 << 16):
            buffer += data
            for raw, payload in split(buffer):
                self.server.write(raw)
                if self.twice_up and payload.startswith(EVENTS):
                    self.twice_up -= 1
                    self.server.write(raw)
            await self.server.drain()

    async def down(self, reader: asyncio.StreamReader) -> None:
        """Carry what the server sends."""
        self.client.write(await reader.readuntil(b"\r\n\r\n"))
        buffer = bytearray()
        while data := await reader.read(1 << 16):
            await self.flowing.wait()
            buffer += data
            for raw, payload in split(buffer):
                event = payload.startswith(EVENTS)
                if event and self.losing:
                    continue
                if self.leave_out and b'["synced"' in payload:
                    self.leave_out -= 1
                    continue
                self.client.write(raw)
                if event and self.twice_down:
                    self.twice_down -= 1
                    self.client.write(raw)
            await self.client.drain()


class Proxy:
    """Forwards websocket connections to the server at `port`; `url` is where clients connect.

    Parameters:
        port: the server's TCP port; it may be changed when the server is another.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = ""
        self.paths: list[Path] = []
        self._admitting = True
        self._answering = True
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await asyncio.sleep(0)  # who has just been accepted begins
        while self._tasks:
            self.cut()
            await asyncio.wait(self._tasks, timeout=0.1)

    def cut(self) -> None:
        """End all connections, abruptly."""
        for path in self.paths:
            path.cut()

    def refuse(self, *, cut: bool = True) -> None:
        """Let nobody connect until `admit`; cut what is there, unless told otherwise."""
        self._admitting = False
        if cut:
            self.cut()

    def admit(self) -> None:
        self._admitting = True

    def hold_answers(self) -> None:
        """Let nothing more through to the clients until `release_answers`; what a cut finds is lost."""
        self._answering = False
        for path in self.paths:
            path.flowing.clear()

    def release_answers(self) -> None:
        self._answering = True
        for path in self.paths:
            path.flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if not self._admitting:
                raise ConnectionRefusedError
            answers, server = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        path = Path(writer, server)
        if self._answering:
            path.flowing.set()
        self.paths.append(path)
        directions = [asyncio.ensure_future(path.up(reader)), asyncio.ensure_future(path.down(answers))]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.paths.remove(path)
            path.cut()
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            for end in (writer, server):
                with suppress(OSError):
                    await end.wait_closed()
