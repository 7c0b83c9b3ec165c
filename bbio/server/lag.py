"""The watch over clients that are behind: the slow ones, and those that take nothing at all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import Any, Protocol

from bbio.server.limits import Limits
from bbio.server.memory import Address

# Bytes that wait for a client, or for its next poll, from which on it is behind.
BEHIND_BYTES = 16_384
# Bytes that wait for a client before it is looked after.
LAGGING_BYTES = 65_536
# Seconds between two looks at how much it has taken.
LAG_LOOK_SECONDS = 0.25
# Seconds that it may take nothing of more events than its buffer should hold.
OVERFLOW_SECONDS = 0.5
# Bytes of each buffer that the system has for a connection; Linux makes twice as many.
SYSTEM_BUFFER_BYTES = 65_536
SLOW_CONSUMER = "slow consumer"


class Consumer(Protocol):
    """A session as this module sees it."""

    lag: Lag | None
    # Whether the answer to a poll is being written.
    polling: bool
    # Bytes that wait for its client, as they are counted to its address.
    unread: int
    address: Address

    def count_unread(self, size: int) -> None:
        """Note how many bytes wait for the client now."""

    def drop(self, reason: str) -> None:
        """End the session at once."""


class Outgoing(Protocol):
    """A connection, as far as this module looks at it."""

    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait for the client."""


class Lag:
    """The bytes that wait for a client that is behind, from when they are more than a little until it has taken them.

    It may take its time, as long as it takes something: what it asked for counts up to `Limits.reply`, past which
    nothing more is begun for it, and the events that it is told of up to twice `Limits.send_buffer`.

    Parameters:
        session: the session.
        transport: its connection.
        limits: the application's limits.
        answers: how many of the bytes that wait are answers to its requests.
    """

    __slots__ = ("_limits", "_moved", "_session", "_timer", "_transport", "_unmoved", "answers")

    def __init__(self, session: Consumer, transport: Outgoing, limits: Limits, answers: int = 0) -> None:
        self.answers = answers
        self._session = session
        self._transport = transport
        self._limits = limits
        loop = asyncio.get_running_loop()
        # When the client last took something, and what would wait if it took nothing more.
        self._moved = loop.time()
        self._unmoved = 0
        self._timer = loop.call_later(LAG_LOOK_SECONDS, self._look)
        self.written(transport.get_write_buffer_size())

    def written(self, size: int) -> None:
        """Note how many bytes more were handed to the connection."""
        self._unmoved += size
        waiting = self._transport.get_write_buffer_size()
        self._session.count_unread(waiting)
        if waiting - self.answers > 2 * self._limits.send_buffer:
            self._session.drop(SLOW_CONSUMER)

    def _look(self) -> None:
        waiting = self._transport.get_write_buffer_size()
        # The answer to a poll may not be written yet.
        if waiting < LAGGING_BYTES // 2 and not self._session.polling:
            self.end()
            return
        loop = asyncio.get_running_loop()
        if waiting < self._unmoved or waiting < LAGGING_BYTES // 2:
            self._moved = loop.time()
        elif loop.time() - self._moved >= self._patience(waiting):
            self._session.drop(SLOW_CONSUMER)
            return
        self._unmoved = waiting
        self._session.count_unread(waiting)
        self._timer = loop.call_later(LAG_LOOK_SECONDS, self._look)

    def _patience(self, waiting: int) -> float:
        overflows = waiting - self.answers > self._limits.send_buffer
        return min(OVERFLOW_SECONDS, self._limits.stall_time) if overflows else self._limits.stall_time

    def end(self) -> None:
        """Look no more: nothing of note waits, or the connection is gone."""
        self._timer.cancel()
        self._session.lag = None
        self._session.count_unread(0)


def relieve(sessions: Iterable[Consumer], address: Address) -> None:
    """Drop who has the most unread, where an address holds too much, or all do.

    Parameters:
        sessions: those of all clients; one of them at least has something unread.
        address: the address of one that has.
    """
    alone = address.held > address.limit
    behind = [session for session in sessions if session.unread and (session.address is address or not alone)]
    max(behind, key=lambda session: (session.address.held, session.unread)).drop(SLOW_CONSUMER)


def bound_buffers(transport: asyncio.BaseTransport) -> None:
    """Keep the system from holding megabytes for a connection that is not read, or that the server does not read."""
    connection: Any = transport.get_extra_info("socket")
    for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.setsockopt(socket.SOL_SOCKET, buffer, SYSTEM_BUFFER_BYTES)
