"""The interfaces of what a session stands on: a connection that carries its packets, and a clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

# Seconds after which what has no answer is sent again: a write, a listen, a question about who is present.
PATIENCE_SECONDS = 8.0


class Timer(Protocol):
    """A call to come."""

    def cancel(self) -> None:
        """Do not make it."""


class Clock(Protocol):
    """A clock that calls later: an event loop, or one that a test turns."""

    def time(self) -> float:
        """Return the seconds since some moment."""

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer:
        """Call `callback(*args)` after `delay` seconds."""


class Transport(Protocol):
    """A connection to the backend's namespace."""

    @property
    def max_payload(self) -> int | None:
        """Bytes of the largest message that the server takes, if it has said so."""

    def emit(self, event: str, arguments: tuple[Any, ...], answer: Callable[..., None]) -> None:
        """Send an event, in order; `answer` is called with the arguments of its ack, if one comes.

        A request is encoded already, as `msgspec.Raw`: what encodes the packet around it copies it.
        """

    def drop(self) -> None:
        """Close the connection, which is dead; another will be opened."""
