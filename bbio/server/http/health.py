"""The answers to probes: whether the server lives, and whether it is ready for clients."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from aiohttp import web

from bbio.log import Log
from bbio.runtime import Runtime
from bbio.server.http.admission import Admission
from bbio.streams import BACKEND_WIDE

# Seconds between two looks at a store, seconds that one may take, and the age at which the last that succeeded is too
# old: a store that answers, however slowly, is never called away.
STORE_LOOK_SECONDS = 3.0
LOOK_TIMEOUT_SECONDS = 5.0
STALE_SECONDS = 10.0


class Readiness:
    """The readiness of this server for clients.

    Stores that other processes use too may be out of reach. They are looked at now and then, and probes are answered
    from the last look: a probe costs no query.

    Parameters:
        backends: the served backends.
        admission: knows whether the server is stopping.
    """

    def __init__(self, backends: Mapping[str, Runtime], admission: Admission) -> None:
        self._backends = backends
        self._admission = admission
        self._started = False
        self._reached: dict[str, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin to look at the stores, which have just started."""
        self._started = True
        loop = asyncio.get_running_loop()
        for name, runtime in self._backends.items():
            if runtime.log.check_interval is not None:
                self._reached[name] = loop.time()
                self._tasks.append(loop.create_task(self._watch(name, runtime.log)))

    async def close(self) -> None:
        """Look at no store any more."""
        self._started = False
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reached.clear()

    async def _watch(self, name: str, log: Log) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(STORE_LOOK_SECONDS * random.uniform(0.8, 1.0))
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_SECONDS):
                    await log.positions([BACKEND_WIDE])
            except Exception:
                continue  # the store's log says what is wrong
            self._reached[name] = clock()

    @property
    def problems(self) -> list[str]:
        """Say why no client should be sent here; nothing when all is well."""
        if not self._started:
            return ["the application is not started"]
        now = asyncio.get_running_loop().time()
        problems = ["the server is stopping"] if self._admission.stopping else []
        for name, reached in self._reached.items():
            if now - reached > STALE_SECONDS:
                problems.append(f"the store of {name!r} was last reached {now - reached:.0f} s ago")
        return problems

    async def answer(self, request: web.Request) -> web.Response:
        """Answer `/readyz`: 200 while clients may be sent here, else 503 with the reasons."""
        problems = self.problems
        body = {"status": "unavailable", "problems": problems} if problems else {"status": "ok"}
        return web.json_response(body, status=503 if problems else 200, headers={"Cache-Control": "no-store"})


async def health(request: web.Request) -> web.Response:
    """Answer `/healthz` while the server runs."""
    return web.json_response({"status": "ok"})
