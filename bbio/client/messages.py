"""Messages of other clients, to be read one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Self

import attrs

from bbio.errors import SyncError


@attrs.frozen
class Message:
    """A message that another client has sent to the channel.

    Parameters:
        name: its name, one that the backend declares.
        data: what is told.
        key: the key of who sent it, as in `handle.presence`.
        card: what the application says of who sent it, see `@presence`.

    Example:
        >>> Message("typing", {"in": "title"}, "x8Fq", {"name": "Ann"}).data
        {'in': 'title'}
    """

    name: str
    data: Any
    key: str
    card: dict[str, Any] = attrs.field(factory=dict)


class Messages:
    """An endless asynchronous iterator of `Message`, made by `handle.messages()`; it ends with the connection.

    If it is read more slowly than others send, the oldest are left out.

    Parameters:
        names: the names of the messages to read; none for all.
        limit: the messages that may wait.
        closed: a function to call when it is closed.

    Example:
        >>> messages = Messages((), limit=1)
        >>> for n in range(2):
        ...     messages.put(Message("typing", n, "x8Fq"))
        >>> asyncio.run(anext(messages)).data
        1
    """

    def __init__(self, names: tuple[str, ...], limit: int, closed: Callable[[Messages], None] | None = None) -> None:
        self._names = frozenset(names)
        self._closed = closed
        self._waiting: deque[Message] = deque(maxlen=limit)
        self._error: SyncError | None = None
        self._ended = False
        self._news = asyncio.Event()

    def put(self, message: Message) -> None:
        """Take a message."""
        if not self._ended and (not self._names or message.name in self._names):
            self._waiting.append(message)
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

    async def __anext__(self) -> Message:
        """The next message.

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
