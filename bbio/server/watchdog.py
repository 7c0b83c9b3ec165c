"""Watchdog: names the layer that holds up the event loop, and with it every client.

A thread of its own asks the loop for a sign of life, some times a second. Where none comes it looks at what the loop's
thread is doing. Requests know nothing of it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from types import CodeType

from bbio.ratelimit import RateLimitedLog

HELD_SECONDS = 0.2
HELD_SECONDS_DEBUG = 0.05
# Where the loop's thread is when nothing holds it up: another program has the processor.
IDLE = ("/asyncio/", "selectors.py")

logger = logging.getLogger("bbio.watchdog")


class Watchdog:
    """Watches the running event loop until it is stopped.

    Parameters:
        seconds: how long the loop may be held up.
        layers: names of layers by where they stand (`file:line`).
    """

    def __init__(self, seconds: float, layers: Mapping[str, str]) -> None:
        # What is held for that long is always noticed: the sign is asked for so often, and waited for so long.
        self._interval = seconds / 4
        self._patience = seconds - self._interval
        self._layers = layers
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._log = RateLimitedLog(logger)
        self._idle: CodeType | None = None
        self._alive = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bbio-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. Called on the event loop."""
        self._stopped.set()
        self._alive.set()
        self._thread.join()

    def _sign(self) -> None:
        # Whatever calls this is what runs the loop; with uvloop that is the frame that is on top while it waits.
        self._idle = sys._getframe(1).f_code
        self._alive.set()

    def _watch(self) -> None:
        while True:
            asleep = time.monotonic()
            self._alive.clear()  # before the look at the stop, which sets it last
            if self._stopped.wait(self._interval):
                return
            asked = time.monotonic()
            culprit = None
            if asked - asleep - self._interval >= self._patience:
                # This thread too was held up: by code that keeps the interpreter to itself, such as a long match.
                asked, culprit = asleep + self._interval, self._culprit()
            with suppress(RuntimeError):  # that the loop is closed
                self._loop.call_soon_threadsafe(self._sign)
            if not self._alive.wait(self._patience):
                culprit = culprit or self._culprit()
                while not self._alive.wait(self._patience):
                    if self._loop.is_closed():
                        return
            if culprit is not None:
                self._tell(culprit, time.monotonic() - asked)

    def _tell(self, culprit: str, seconds: float) -> None:
        self._log.warning(
            "%s held up the event loop, and every client, for %.2f s: await what it waits for, or, in a plain layer, "
            "say thread=True (docs/backends.md)",
            culprit,
            seconds,
        )

    def _culprit(self) -> str | None:
        """The layer that runs, else the code; None when it is neither's fault."""
        top = frame = sys._current_frames()[self._watched]
        while frame is not None:
            code = frame.f_code
            name = self._layers.get(f"{code.co_filename}:{code.co_firstlineno}")
            if name is not None:
                return f"{name} ({code.co_filename}:{frame.f_lineno})"
            frame = frame.f_back  # type: ignore[assignment]
        code = top.f_code
        if code is self._idle or any(part in code.co_filename for part in IDLE):
            return None
        return f"{code.co_qualname} ({code.co_filename}:{top.f_lineno})"
