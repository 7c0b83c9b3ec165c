"""The lag of consumers: told in the log, and warned of before the history drops what they still need."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from bbio.log import ConsumerState
from bbio.ratelimit import RateLimitedLog
from bbio.runtime import Runtime
from bbio.streams import HistoryLimits, Position

logger = logging.getLogger("bbio")
failures = RateLimitedLog(logger)

# Seconds between two looks.
LOOK_SECONDS = 60.0
# Events, and seconds, from which on it is told that a consumer is behind.
BEHIND_EVENTS = 100
BEHIND_SECONDS = 60.0
# The part of what is kept for consumers from which on it is a warning.
WARNING_PART = 0.5


class Lag:
    """Tells how far consumers are behind, now and then, also while no process works for them.

    Parameters:
        runtimes: the backends that have consumers.
    """

    def __init__(self, runtimes: Iterable[Runtime]) -> None:
        self._runtimes = list(runtimes)

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for runtime in self._runtimes:
                try:
                    await self.look(runtime)
                except Exception as err:
                    failures.error(err, "how far the consumers of %s are behind is not known", runtime.name)

    async def look(self, runtime: Runtime) -> None:
        """Look at the consumers of a backend once."""
        assert runtime.log.consumers is not None, "it has consumers"
        tops = await runtime.log.tops()
        for state in await runtime.log.consumers.states():
            behind = state.behind(tops)
            if not behind:
                continue
            if is_warned_of(state, tops, runtime.log.history.for_consumers()):
                logger.warning(
                    "consumer %s of %s: %d events are not handled, %d s since all were; the history will drop them "
                    "soon: %s, or raise the limits of HistoryLimits(consumer_events=, consumer_age=)",
                    state.name,
                    runtime.name,
                    behind,
                    state.idle,
                    "see why it is slow" if state.is_active else "no process works for it",
                )
            elif behind >= BEHIND_EVENTS or state.idle >= BEHIND_SECONDS:
                logger.info(
                    "consumer %s of %s: %d events behind, %d s since all were handled",
                    state.name,
                    runtime.name,
                    behind,
                    state.idle,
                )


def is_warned_of(state: ConsumerState, tops: Mapping[str, Position], limits: HistoryLimits) -> bool:
    """Return whether a consumer is so far behind that the history may soon drop what it needs.

    Parameters:
        state: the consumer, which is behind.
        tops: the top of each stream.
        limits: what is kept for consumers.
    """
    most = max(state.behind_in(stream, top) for stream, top in tops.items())
    return most > limits.events * WARNING_PART or state.idle > limits.age * WARNING_PART
