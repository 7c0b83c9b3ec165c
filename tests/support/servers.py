"""Servers for the tests: an application in a process of its own, and how to tell that nothing was sent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.forks import Fork
from tests.support.wire import LegacyClient

ROOT = Path(__file__).resolve().parents[2]
# Seconds; for what takes a moment on a machine that has nothing else to do.
DEADLINE = 60.0
_markers: list[tuple[str, Any]] = []


async def heard(backend: Any, *clients: LegacyClient) -> list[list[tuple[str, Any]]]:
    """What each client was notified of so far, in order.

    A marker goes the way every notification goes, to every client of the backend; all that was sent before it
    has arrived when it arrives. So an empty list proves that nothing was sent. Markers are left out.
    """
    marker = {"id": f"marker-{len(_markers)}"}
    earlier = list(_markers)
    _markers.append(("create", marker))
    backend.emit("created", marker)
    told = []
    for client in clients:
        events: list[tuple[str, Any]] = []
        while (event := await client.synced()) != ("create", marker):
            events.append(event)
        told.append([event for event in events if event not in earlier])
    return told


async def eventually(condition: Callable[[], Awaitable[bool]], deadline: float = DEADLINE) -> None:
    """Wait until a condition that nothing announces is true."""
    async with asyncio.timeout(deadline):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


class ServerProcess:
    """An application in a process of its own, for what needs one: signals, restarts, memory.

    Parameters:
        arguments: what follows `python -m bbio`.
        cwd: where it runs.
        port: the port it will listen on; `ready` waits for it.
        env: environment variables to add.
        forked: whether it is a fork of a process that has imported bbio, which starts at once.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        forked: bool = False,
    ) -> None:
        self.arguments = arguments
        self.cwd = cwd
        self.port = port
        self.env = dict(env or {})
        self.forked = forked
        self._process: asyncio.subprocess.Process | Fork | None = None
        self._drain: asyncio.Task[None] | None = None
        self.output = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> asyncio.subprocess.Process | Fork:
        assert self._process is not None, "the process was not started"
        return self._process

    async def start(self) -> ServerProcess:
        """Start the process; with a port, wait until it accepts connections."""
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **self.env}
        if self.forked:
            self._process = await Fork.start(self.arguments, self.cwd, env)
        else:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "bbio",
                *self.arguments,
                cwd=self.cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        self._drain = asyncio.create_task(self._collect())
        if self.port is not None:
            await self._ready()
        return self

    async def _collect(self) -> None:
        assert self.process.stdout is not None
        while chunk := await self.process.stdout.read(1 << 16):
            self.output += chunk.decode(errors="replace")

    async def _ready(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self.process.returncode is None, f"the server ended:\n{self.output}"
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    await writer.wait_closed()
                    return

    async def said(self, text: str, deadline: float = DEADLINE) -> str:
        """Wait until the process printed a text; all that it printed comes back."""
        async with asyncio.timeout(deadline):
            while text not in self.output:
                assert not self._drained(), f"{text!r} was never said:\n{self.output}"
                await asyncio.sleep(0.02)
        return self.output

    def _drained(self) -> bool:
        return self._drain is not None and self._drain.done()

    def rss(self) -> int:
        """Resident memory in KiB."""
        answer = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)], check=True, capture_output=True, text=True
        )
        return int(answer.stdout)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ended(self, deadline: float = DEADLINE) -> int:
        """Wait for the process to end by itself; its exit status comes back."""
        async with asyncio.timeout(deadline):
            status = await self.process.wait()
            assert self._drain is not None
            await self._drain
        return status

    async def stop(self) -> None:
        """Kill what is left of it."""
        if self._process is None:
            return
        if self.process.returncode is None:
            self.process.kill()
        await self.ended()


async def bbio(*arguments: str, cwd: Path, forked: bool = True) -> tuple[int, str]:
    """Run `python -m bbio` with arguments to its end; exit status and output come back."""
    process = await ServerProcess(*arguments, cwd=cwd, forked=forked).start()
    try:
        return await process.ended(4 * DEADLINE), process.output
    finally:
        await process.stop()
