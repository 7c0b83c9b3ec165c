"""Sessions with an open connection in this process: they are ended when they are revoked, or expire unused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

# Seconds between two comparisons of the sessions with a connection with those that exist: for what nobody has told.
COMPARE_SECONDS = 30.0
# Seconds until the next comparison when the store could not be asked, and the least between any two.
COMPARE_AGAIN_SECONDS = 1.0
LEAST_COMPARE_SECONDS = 0.25

Compare = Callable[[Collection[str]], Awaitable[Mapping[str, float | None]]]


class LiveSessions:
    """The sessions with an open connection in this process.

    Parameters:
        compare: awaited with ids of sessions to return when those of them that exist expire; None for never.
        seconds: seconds between two comparisons.
    """

    _task: asyncio.Task[None]

    def __init__(self, compare: Compare, seconds: float = COMPARE_SECONDS) -> None:
        self._compare = compare
        self._seconds = seconds
        self._backends: list[Any] = []
        self._sooner = asyncio.Event()
        self._due = 0.0

    def open(self) -> None:
        """Begin to compare."""
        self._backends.clear()
        self._sooner = asyncio.Event()
        self._due = time.time() + self._seconds
        self._task = asyncio.get_running_loop().create_task(self._run())

    def add(self, backend: Any) -> None:
        """Look after the connections to a backend, too."""
        self._backends.append(backend)

    async def close(self) -> None:
        """Compare no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def ids(self) -> set[str]:
        """Return the ids of the sessions that connections were opened with."""
        return set().union(*(backend.__bbio_served__("sessions").live_sessions() for backend in self._backends))

    def end(self, ids: Collection[str]) -> None:
        """End what the connections of these sessions may do."""
        for backend in self._backends:
            backend.__bbio_served__("sessions").end_sessions(ids)

    def expect(self, expires: float | None) -> None:
        """Look when a session expires whether it was used meanwhile.

        Parameters:
            expires: when it expires, in seconds since 1970; None for never.
        """
        if expires is not None and expires < self._due:
            self._due = expires
            self._sooner.set()

    def compare_soon(self) -> None:
        """Compare now: something may have been missed."""
        self.expect(0.0)

    async def _run(self) -> None:
        while True:
            self._sooner.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(LEAST_COMPARE_SECONDS, self._due - time.time())):
                    await self._sooner.wait()
                    continue
            self._due = time.time() + self._seconds
            await self._compare_now()

    async def _compare_now(self) -> None:
        ids = self.ids()
        if not ids:
            return
        try:
            living = await self._compare(ids)
        except Exception:
            # The log was told; connections stay, and their requests are refused once what is remembered is old.
            self.expect(time.time() + COMPARE_AGAIN_SECONDS)
            return
        now = time.time()
        for expires in living.values():
            if expires is not None and expires > now:
                self.expect(expires)
        gone = {each for each in ids if each not in living or (living[each] or now + 1) <= now}
        if gone:
            self.end(gone)
