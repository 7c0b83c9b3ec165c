"""The writes of other clients, to be read one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, Self

import attrs

from bbio.errors import SyncError


@attrs.frozen
class Event:
    """A change that somebody else made.

    Parameters:
        method: `create`, `update` or `delete`; `reset` says that events are missing here: read everything again.
        model: the whole model; of a delete its id alone; None of a reset.
        rev: the model's revision; None if no store keeps one.
        position: the position of who has seen all up to this event, as JSON, for `events(since=...)`; None of servers
            that know no positions.

    Example:
        >>> event = Event("update", {"id": 7, "done": True}, rev=19)
        >>> event.method, event.model["done"]
        ('update', True)
    """

    method: Literal["create", "update", "delete", "reset"]
    model: Any = None
    rev: int | None = None
    position: dict[str, Any] | None = attrs.field(default=None, repr=False, eq=False)


class Events:
    """An endless asynchronous iterator of `Event`, made by `handle.events()`; it ends when the connection is closed.

    If it is read more slowly than others write, events wait; once `limit` of them wait, one `reset` replaces them all.

    Parameters:
        limit: the events that may wait.
        closed: a function to call when it is closed.

    Example:
        >>> events = Events(limit=2)
        >>> for n in range(3):
        ...     events.put(Event("create", {"id": n}))
        >>> asyncio.run(anext(events)).method
        'reset'
    """

    def __init__(self, limit: int, closed: Callable[[Events], None] | None = None) -> None:
        self._limit = limit
        self._closed = closed
        self._waiting: deque[Event] = deque()
        self._error: SyncError | None = None
        self._ended = False
        self._news = asyncio.Event()

    def put(self, event: Event) -> None:
        """Take an event."""
        if self._ended:
            return
        if event.method == "reset" or len(self._waiting) >= self._limit:
            self._waiting.clear()
            event = Event("reset", position=event.position)
        self._waiting.append(event)
        self._news.set()

    def fail(self, error: SyncError) -> None:
        """The server does not let this client listen."""
        self._error = error
        self._news.set()

    def close(self) -> None:
        """End, after what waits has been read; who closes the last that follows a channel leaves it."""
        self._ended = True
        self._news.set()
        if self._closed is not None:
            self._closed(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            SyncError: the server does not, or no longer, let this client listen.
        """
        while not self._waiting:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
