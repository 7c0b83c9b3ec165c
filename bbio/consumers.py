"""Consumers: functions that do background work for what is written to a backend, each event at least once, in order.

`App.consumer` declares one, and `bbio.server.consuming` runs it. How far it is, its lease and its dead letters are kept
by the log of its backend, see `bbio.log.consumers`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, Literal, TypeVar

import attrs

from bbio.errors import ConfigurationError
from bbio.events import Event

# What does the work: an async function of an event, or an object whose `__call__` is one.
Consume = Callable[[Event[Any]], Awaitable[Any]]
C = TypeVar("C", bound=Callable[[Event[Any]], Awaitable[Any]])
Since = Literal["now", "start"]

ATTEMPTS = 5
TIMEOUT_SECONDS = 30.0
LEASE_SECONDS = 10.0
MAX_DEAD_LETTERS = 1_000
MAX_NAME = 100
# Seconds before the second attempt; each pause is twice as long as the one before it, up to the longest.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 300.0


class GiveUp(Exception):
    """Raised by a consumer's function where another attempt would be of no use: the event becomes a dead letter.

    Parameters:
        reason: a text for whoever looks at the dead letters; no secrets.

    Example:
        `raise GiveUp("the address does not exist")`
    """


@attrs.frozen(kw_only=True)
class Consumer:
    """A declared consumer.

    Parameters:
        name: its name, the same in all processes and over restarts.
        backend: the name of the backend whose events it gets.
        function: an async function of an `Event`, or an object that can be called and awaited so; if that has a method
            `aclose`, it is called as the application stops.
        channel: the channel whose events it gets, "" for the default channel; None for all.
        since: where it begins when it is new: `"now"`, or `"start"` for all that the history holds.
        attempts: how often an event is tried before it becomes a dead letter.
        timeout: seconds that one attempt may take.
        concurrency: events that are handled at once; those of one model follow each other all the same.
        pause: seconds before the second attempt; each pause is twice as long as the last, up to five minutes.
        lease: seconds after which another process takes over from one that was killed or stands still.
        dead_letters: how many there may be; then it stays at an event that fails, and tries it again and again.
        on_lost: an async function of the event `reset`, called where the history no longer had what the consumer
            needed. Without it the gap is logged and counted.
        is_durable: whether it must be kept together with the events, so that a crash loses nothing.

    Raises:
        ConfigurationError: an option is not valid.
    """

    name: str
    backend: str
    function: Consume
    channel: str | None = None
    since: Since = "now"
    attempts: int = ATTEMPTS
    timeout: float = TIMEOUT_SECONDS
    concurrency: int = 1
    pause: float = FIRST_PAUSE_SECONDS
    lease: float = LEASE_SECONDS
    dead_letters: int = MAX_DEAD_LETTERS
    on_lost: Consume | None = None
    is_durable: bool = False

    def __attrs_post_init__(self) -> None:
        shown = f"consumer({self.name!r})"
        if not isinstance(self.name, str) or not 0 < len(self.name) <= MAX_NAME or not self.name.isprintable():
            raise ConfigurationError(
                f"{shown}: the name of a consumer has 1 to {MAX_NAME} characters, such as 'mailer'"
            )
        if self.since not in ("now", "start"):
            raise ConfigurationError(
                f"{shown}: since={self.since!r}; it begins 'now', or at the 'start' of the history"
            )
        for option in ("attempts", "timeout", "concurrency", "pause", "lease", "dead_letters"):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(f"{shown}: {option}={value!r}; it must be a number greater than 0")
        for option, function in (("the function", self.function), ("on_lost", self.on_lost)):
            if function is not None and not is_async(function):
                raise ConfigurationError(
                    f"{shown}: {option} must be async: async def work(event); what blocks belongs into a thread: "
                    "await asyncio.to_thread(...)"
                )

    def pause_after(self, attempt: int) -> float:
        """Return the seconds to wait after an attempt has failed, counted from 1."""
        return min(self.pause * 2.0 ** min(attempt - 1, 64), max(LONGEST_PAUSE_SECONDS, self.pause))


def is_async(function: Any) -> bool:
    """Return whether a function, or an object that can be called, is async."""
    return iscoroutinefunction(function) or (callable(function) and iscoroutinefunction(type(function).__call__))
