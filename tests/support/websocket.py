"""A WebSocket client by hand (RFC 6455), for tests that send what no library would send."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import socket
import struct
from urllib.parse import urlsplit

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Refused(Exception):
    """The server answered the handshake with something other than 101."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}: {body[:200]!r}")
        self.status = status
        self.body = body


def mask(payload: bytes, key: bytes) -> bytes:
    """XOR a payload with its four-byte masking key, many bytes at a time."""
    length = len(payload)
    stream = int.from_bytes((key * (length // 4 + 1))[:length], "big")
    return (int.from_bytes(payload, "big") ^ stream).to_bytes(length, "big")


def frame(opcode: int, payload: bytes, *, fin: bool = True, announced: int | None = None) -> bytes:
    """One masked client frame; `announced` lets the header promise another length than it brings."""
    length = len(payload) if announced is None else announced
    head = bytes([(0x80 if fin else 0) | opcode])
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 1 << 16:
        head += bytes([0x80 | 126]) + struct.pack("!H", length)
    else:
        head += bytes([0x80 | 127]) + struct.pack("!Q", length)
    key = os.urandom(4)
    return head + key + mask(payload, key)


class WebSocket:
    """An open WebSocket: frames in, frames out, and the TCP connection in reach of the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.transport: asyncio.Transport = writer.transport  # type: ignore[assignment]
        self.close_code: int | None = None
        self.bytes_read = 0
        self.pongs: list[bytes] = []

    @classmethod
    async def open(
        cls, url: str, *, headers: dict[str, str] | None = None, receive_buffer: int | None = None
    ) -> WebSocket:
        """Connect to an `http://` or `ws://` URL; `receive_buffer` (bytes) makes TCP itself narrow."""
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 80
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except OSError:
            sock.close()
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 1 << 16)
        fields = {
            "Host": f"{host}:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **(headers or {}),
        }
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer.split(b" ", 2)[1])
            if status != 101:
                length = re.search(rb"(?i)content-length: *(\d+)", answer)
                raise Refused(status, await reader.readexactly(int(length[1]) if length else 0))
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer)

    async def send(self, data: str | bytes) -> None:
        """Send one text (str) or binary (bytes) message."""
        text = isinstance(data, str)
        payload = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        await self.write(frame(TEXT if text else BINARY, payload))

    async def write(self, raw: bytes) -> None:
        """Put bytes on the TCP connection as they are."""
        self._writer.write(raw)
        await self._writer.drain()

    async def receive(self) -> str | bytes | None:
        """The next message, or None once the connection is closed (then see `close_code`)."""
        message, kind = b"", TEXT
        try:
            while True:
                opcode, fin, payload = await self._frame()
                if opcode == CLOSE:
                    self.close_code = struct.unpack("!H", payload[:2])[0] if payload else 1005
                    self._writer.write(frame(CLOSE, payload[:2]))
                    return None
                if opcode == PING:
                    self._writer.write(frame(PONG, payload))
                if opcode == PONG:
                    self.pongs.append(payload)
                if opcode in (PING, PONG):
                    continue
                kind = opcode or kind
                message += payload
                if fin:
                    return message.decode() if kind == TEXT else message
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def _frame(self) -> tuple[int, bool, bytes]:
        first, second = await self._reader.readexactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", await self._reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
        payload = await self._reader.readexactly(length)
        self.bytes_read += length + 2
        return first & 0x0F, bool(first & 0x80), payload

    def pause(self) -> None:
        """Stop taking bytes off the socket: the server sees a client that does not read."""
        self.transport.pause_reading()

    def resume(self) -> None:
        self.transport.resume_reading()

    def abort(self) -> None:
        """Reset the TCP connection, without a closing handshake and without a FIN."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def close(self) -> None:
        """Close the TCP connection; nothing is raised when it is closed already."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
