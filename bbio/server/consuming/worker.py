"""A worker: works for one consumer in this process, whenever no other process does."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
from contextlib import suppress

from bbio.consumers import Consumer
from bbio.errors import SyncError
from bbio.log import Ledger
from bbio.ratelimit import RateLimitedLog
from bbio.runtime import Runtime
from bbio.server.consuming.turn import RENEWALS, RETRY_SECONDS, Overtaken, Turn

logger = logging.getLogger("bbio")
failures = RateLimitedLog(logger)


def name_of_process() -> str:
    """Return a name of this process that people can find it by, and no other process has."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Worker:
    """Works for one consumer in this process.

    Parameters:
        consumer: the consumer, which its ledger knows.
        runtime: its backend.
        ledger: the ledger of the backend.
        process: the name of this process.
    """

    def __init__(self, consumer: Consumer, runtime: Runtime, ledger: Ledger, process: str) -> None:
        self._consumer = consumer
        self._runtime = runtime
        self._ledger = ledger
        self._process = process
        self._turn: Turn | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    @property
    def is_busy(self) -> bool:
        """Return whether this process works on an event at this moment."""
        return self._turn is not None and self._turn.is_busy

    async def start(self) -> None:
        """Begin to work, at once where no other process does."""
        fence, until = await self._claim()
        self._task = asyncio.ensure_future(self._run(fence, until))

    async def close(self, seconds: float) -> None:
        """Finish what was begun, for a time, and give the lease back.

        Parameters:
            seconds: the time.
        """
        self._ending.set()
        if self._turn is not None:
            await self._turn.end()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=seconds)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, fence: int | None, until: float) -> None:
        while not self._ending.is_set():
            if fence is None:
                await self._wait(self._consumer.lease / RENEWALS * random.uniform(0.7, 1.0))
            else:
                await self._work(fence, until)
            if not self._ending.is_set():
                fence, until = await self._claim()

    async def _claim(self) -> tuple[int | None, float]:
        """Take the lease if it is free; return its number, and until when it holds."""
        until = asyncio.get_running_loop().time() + self._consumer.lease
        try:
            return await self._ledger.claim(self._consumer.name, self._process, self._consumer.lease), until
        except SyncError as err:
            failures.error(err, "consumer %s: its lease cannot be asked for; trying again", self._consumer.name)
            return None, until

    async def _work(self, fence: int, until: float) -> None:
        name = self._consumer.name
        logger.info("consumer %s: this process works for it", name)
        turn = self._turn = Turn(self._consumer, self._runtime, self._ledger, fence, until)
        try:
            await turn.run()
        except Overtaken:
            logger.warning("consumer %s: another process has taken over, as this one stood still for too long", name)
        except SyncError as err:
            failures.error(err, "consumer %s: it cannot go on; trying again", name)
            await self._wait(RETRY_SECONDS)
        except Exception:
            logger.exception("consumer %s: a fault of the server itself; trying again", name)
            await self._wait(self._consumer.lease)
        finally:
            self._turn = None
            with suppress(SyncError):
                await self._ledger.release(name, fence)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()
