"""Servers that start at once: forks of a process that has imported bbio already.

A server that a test needs for a second would spend most of its time on imports. What is forked has run nothing but
them. The command itself is tested by servers that Python starts afresh.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

from coverage import process_startup

# What makes a Python that starts measure its coverage.
MEASURED = "COVERAGE_PROCESS_CONFIG"


class Fork:
    """`python -m bbio` in a fork, with what tests use of an `asyncio.subprocess.Process`."""

    def __init__(self, process: multiprocessing.process.BaseProcess, stdout: asyncio.StreamReader) -> None:
        self.stdout = stdout
        self._process = process
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(process.sentinel, self._on_end)

    @classmethod
    async def start(cls, arguments: Sequence[str], cwd: Path, env: dict[str, str]) -> Fork:
        """Begin to run the command with these arguments, and with no other environment variables than these."""
        output, written = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("forkserver").Process(target=_run, args=(arguments, cwd, env, written))
        await asyncio.to_thread(_start, process)  # the first one waits for the imports
        written.close()
        stdout = asyncio.StreamReader()
        pipe = os.fdopen(os.dup(output.fileno()), "rb", buffering=0)
        output.close()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdout), pipe)
        return cls(process, stdout)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._ended.set()

    async def wait(self) -> int:
        """Wait for the end; the exit status comes back, the negative number of the signal that ended it."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _start(process: multiprocessing.process.BaseProcess) -> None:
    forkserver.set_forkserver_preload([__name__, "bbio.cli"])
    measured = os.environ.pop(MEASURED, None)  # the forks are, the process that is forked is not
    try:
        forkserver.ensure_running()
    finally:
        if measured is not None:
            os.environ[MEASURED] = measured
    process.start()


def _run(arguments: Sequence[str], cwd: Path, env: dict[str, str], output: Connection) -> None:
    """Do in the fork what `python -m bbio` does."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output.fileno(), stream.fileno())
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    output.close()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path.insert(0, str(cwd))
    sys.argv = ["bbio", *arguments]
    coverage = process_startup()
    try:
        runpy.run_module("bbio", run_name="__main__", alter_sys=True)
    finally:
        if coverage is not None:
            coverage.stop()
            coverage.save()  # a fork ends without what is to be done at the exit of Python
