"""A server under attack: what must hold in every such test, whatever the attack is.

The process lives, a witness's p99 stays under 50 ms, no traceback is logged or reaches a client, and the log grows by
at most 300 bytes for each bad packet.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.support.servers import ROOT, ServerProcess
from tests.support.wire import LegacyClient, Wire

P99 = 50.0
LOG_BYTES = 300
MIB = 1024  # in KiB
MODULE = "from tests.support.attacked import app\n"

Spawn = Callable[..., Awaitable[ServerProcess]]


class Attacked:
    """The server, its probe, and the attackers, who are let go at the end."""

    def __init__(self, server: ServerProcess, probe: LegacyClient, stack: AsyncExitStack) -> None:
        self.server = server
        self.bad_packets = 0
        self.raised = 0  # by handlers, which are logged whole
        self.wires: list[Wire] = []
        self.held: dict[str, int] = {}
        self.memory = 0
        self._probe = probe
        self._stack = stack

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def port(self) -> int:
        assert self.server.port is not None
        return self.server.port

    async def join(self, backend: str = "todos", channel: Any = None, **options: Any) -> LegacyClient:
        """A client that has listened to a channel; `...` for one that has only connected."""
        client = await LegacyClient.open(self.url, backend, **options)
        self._stack.push_async_callback(client.close)
        self.wires.append(client.wire)
        if channel is not ...:
            await client.listen(channel)
        return client

    async def dial(self, **options: Any) -> Wire:
        """A bare session."""
        wire = await Wire.open(self.url, **options)
        self._stack.push_async_callback(wire.close)
        self.wires.append(wire)
        return wire

    async def connect(
        self, data: bytes, receive_buffer: int | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TCP connection on which these bytes have been sent; with a receive buffer (bytes), it is not read."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=sock)
        if receive_buffer is not None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        self._stack.callback(writer.close)
        writer.write(data)
        await writer.drain()
        return reader, writer

    # What the process holds

    async def look(self) -> dict[str, int]:
        """Tasks, sessions, environ, sockets in rooms, running requests."""
        return await self._probe.sync("read")

    async def note_base(self) -> None:
        """What is held now is the base from here on."""
        self.held, self.memory = await self.look(), self.server.rss()

    def grown(self) -> int:
        """KiB of memory above the base."""
        return self.server.rss() - self.memory

    async def back_to_base(self, seconds: float, *names: str, memory: int | None = None) -> None:
        """Wait until no more is held than at the base, and not more memory (KiB) above it."""
        names = names or ("tasks", "sessions", "environ", "rooms", "listeners", "requests")
        began = time.monotonic()
        while True:
            held = await self.look()
            above = {name: held[name] - self.held[name] for name in names if held[name] > self.held[name]}
            if not above and (memory is None or self.grown() <= memory):
                return
            taken = time.monotonic() - began
            assert taken < seconds, f"above the base after {taken:.1f} s: {above}, {self.grown()} KiB"
            await asyncio.sleep(0.05)

    async def emit(self, count: int, size: int, **options: int) -> None:
        """Have the server emit so many events of so many characters to all of `todos`."""
        await self._probe.sync("update", {"count": count, "size": size, **options}, deadline=30)

    async def open_gate(self) -> None:
        """Let the requests that wait go on."""
        await self._probe.sync("create")


@asynccontextmanager
async def witnessed(port: int, pid: int) -> AsyncIterator[dict[str, float]]:
    """A witness works during the block; afterwards the result says how long its requests took (ms)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.witness",
        str(port),
        str(pid),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    result: dict[str, float] = {}
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield result
        async with asyncio.timeout(15):
            out, err = await process.communicate(b"")
        assert process.returncode == 0, err.decode()
        result.update(json.loads(out))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def attacked(spawn: Spawn, engine: str = "fast", **limits: float) -> AsyncIterator[Attacked]:
    """A served application (`tests/support/attacked.py`) that the block may attack."""
    server = await spawn(MODULE, BBIO_TEST_ENGINE=engine, BBIO_TEST_LIMITS=json.dumps(limits))
    async with AsyncExitStack() as stack:
        probe = await LegacyClient.open(server.url, "probe")
        stack.push_async_callback(probe.close)
        await server.said("Ctrl-C")
        said = len(server.output)
        async with witnessed(server.port or 0, server.process.pid) as witness:
            target = Attacked(server, probe, stack)
            await target.note_base()
            yield target
            await target.look()
        assert server.process.returncode is None, server.output
        # Where two processes take long to wake up, a server with work to do takes a few times as long.
        print(f"witness: {witness}", flush=True)
        assert witness["p99"] <= P99 + 4 * witness["control"], witness
        logged = server.output[said:]
        if "COVERAGE_PROCESS_CONFIG" in os.environ:  # what the server ran is counted when it ends by itself
            server.signal()
            await server.ended()
        assert logged.count("Traceback") == target.raised, logged[:3_000]
        if not target.raised:
            assert len(logged) <= LOG_BYTES * max(1, target.bad_packets), logged[:5_000]
        for wire in target.wires:
            assert not any("Traceback" in str(frame) for frame in wire.frames)
