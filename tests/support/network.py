"""A network that does to websocket traffic what networks do: cuts, lost answers, repeated and held-back packets."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator

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
    """One connection through the network: what the client sends, and what comes back."""

    def __init__(self, network: Network, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.network = network
        self.client = client
        self.server = server
        self.flowing = asyncio.Event()
        self.flowing.set()
        # From now on what comes back is lost; a connection that has lost something can only be cut.
        self.losing = False
        # So many of the next events and answers pass twice.
        self.twice_up = 0
        self.twice_down = 0

    def cut(self) -> None:
        """End it without a word, on both sides."""
        for writer in (self.client, self.server):
            writer.transport.abort()
        self.flowing.set()

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
                self.client.write(raw)
                if event and self.twice_down:
                    self.twice_down -= 1
                    self.client.write(raw)
            await self.client.drain()


class Network:
    """A proxy for websocket connections to one server, whose port may change when it is restarted.

    Example: `async with Network(app.port) as network:` and clients connect to `network.url`.
    """

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.paths: list[Path] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._listening is not None
        return f"http://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Network:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._listening is not None
        self._listening.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Cut all that is open."""
        for path in self.paths:
            path.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            writer.transport.abort()
            return
        path = Path(self, writer, server)
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
