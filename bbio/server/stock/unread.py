"""A session of the plain engine, and what its client has not read: counted in bytes, with the fast engine's bounds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from sys import getsizeof
from typing import Any

import socketio
from engineio import packet as engine_packet
from engineio.async_socket import AsyncSocket

from bbio.server.budget import Budget
from bbio.server.connection import Connection
from bbio.server.lag import LAGGING_BYTES, SLOW_CONSUMER, Lag, bound_buffers
from bbio.server.limits import Limits
from bbio.server.memory import Address

ACK = str(socketio.packet.ACK)
# Bytes that are taken at once for a websocket. They are written before more is: so it shows who takes nothing.
PORTION_BYTES = 8_192


class Packets(asyncio.Queue[Any]):
    """The packets that wait for one session: the library's queue, counted in bytes."""

    session: PlainSession | None = None

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        # How many of the bytes are answers.
        self.answers = 0
        # Of each packet: its bytes, and how many of them are an answer.
        self._sizes: deque[tuple[int, int]] = deque()
        # Bytes that were taken and may not have been written yet.
        self._taken = 0

    def put_nowait(self, item: engine_packet.Packet | None) -> None:
        super().put_nowait(item)
        size = 0 if item is None else getsizeof(item.data)  # a text with one wide character takes four bytes for each
        answer = size if item is not None and type(item.data) is str and item.data.startswith(ACK) else 0
        self._sizes.append((size, answer))
        self.size += size
        self.answers += answer
        if self.session is not None:
            self.session.put(size, answer)

    async def get(self) -> Any:
        """Wait for a packet; those that were taken before have been written."""
        assert self.session is not None, "the session has begun"
        self._taken = 0
        self.session.asked()
        return await super().get()

    def get_nowait(self) -> Any:
        assert self.session is not None, "the session has begun"
        if self.session.is_live and self._taken > PORTION_BYTES:
            raise asyncio.QueueEmpty
        item = super().get_nowait()
        size, answer = self._sizes.popleft()
        self.size -= size
        self.answers -= answer
        self._taken += size
        self.session.took(self._taken)
        return item


class PlainSession:
    """One session: what its clients share, and what waits for them.

    A client has the bounds that it has with the fast engine: what it leaves unread counts to its address, who takes too
    little of it is dropped, and no request is begun for who has too many answers to read.

    Parameters:
        engine: the library's session.
        address: the address that it counts for.
        limits: the application's limits.
        budget: the time that its client may take.
        end: ends it, and is told why.
        relieve: drops somebody where an address holds too much.
    """

    def __init__(
        self,
        engine: AsyncSocket,
        address: Address,
        limits: Limits,
        budget: Budget,
        end: Callable[[PlainSession, str], None],
        relieve: Callable[[Address], None],
    ) -> None:
        self.engine = engine
        self.sid: str = engine.sid
        self.address = address
        self.budget = budget
        # Polls, and websockets, that are being handled: one of each at a time.
        self.open: set[bool] = set()
        # What waits for the time of the next heartbeat.
        self.heartbeats: set[asyncio.Task[Any]] = set()
        self.connection: Connection | None = None
        self.lag: Lag | None = None
        # Whether the long answer to a poll may still be on its way.
        self.polling = False
        self.unread = 0
        self._limits = limits
        self._end = end
        self._relieve = relieve
        self._is_held = False
        self._has_ended = False
        # The transports of the last poll and of the last websocket.
        self._transports: dict[bool, asyncio.Transport] = {}
        self._heard_at = asyncio.get_running_loop().time()
        self._receive = engine.receive
        engine.receive = self._hear
        self._packets: Packets = engine.queue
        self._packets.session = self

    @property
    def is_live(self) -> bool:
        """Return whether packets are written to a websocket as they come."""
        return bool(self.engine.upgraded)

    async def _hear(self, pkt: engine_packet.Packet) -> None:
        """Take a packet of the client, and note when it came."""
        self._heard_at = asyncio.get_running_loop().time()
        await self._receive(pkt)

    def is_silent(self, seconds: float) -> bool:
        """Return whether nothing has come from the client for so long."""
        return asyncio.get_running_loop().time() - self._heard_at >= seconds

    def comes_over(self, transport: asyncio.Transport | None, is_websocket: bool) -> None:
        """A poll, or a websocket, has come over a connection."""
        if transport is not None:
            self._transports[is_websocket] = transport
            bound_buffers(transport)

    def _buffered(self) -> int:
        transport = self._transports.get(self.is_live)
        return 0 if transport is None else transport.get_write_buffer_size()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait for the client to read, and not for its next poll."""
        return self._buffered() + (self._packets.size if self.is_live else 0)

    def put(self, size: int, answer: int) -> None:
        """A packet of so many bytes waits; so many of them are an answer."""
        packets = self._packets
        if not self.is_live:
            if packets.size - packets.answers > self._limits.send_buffer and packets.qsize() > 1:
                self.drop(SLOW_CONSUMER)
        elif self.lag is not None:
            self.lag.answers += answer
            self.lag.written(size)
        elif self.get_write_buffer_size() > LAGGING_BYTES:
            self._look_after(packets.answers)
        self._count()

    def _look_after(self, answers: int) -> None:
        self.lag = Lag(self, self, self._limits, answers)
        if self._has_ended:
            self.lag.end()  # it was too much at once

    def asked(self) -> None:
        """More packets may be taken: of a client that polls, since it has the answer to its last poll."""
        if not self.is_live and self.lag is not None:
            self.lag.end()
        self.polling = False

    def took(self, size: int) -> None:
        """Note how many bytes were taken since the last call."""
        if self.is_live:
            if self.lag is None and self.get_write_buffer_size() > LAGGING_BYTES:
                self._look_after(self._packets.answers)  # it has waited for the upgrade
        elif self.lag is not None:
            self.lag.answers = size
        elif size > LAGGING_BYTES:
            self.polling = True
            self._look_after(size)
        self._count()

    def count_unread(self, size: int) -> None:
        """Note how many bytes wait for the client now."""
        self._count()

    def _count(self) -> None:
        if self._has_ended:
            return
        size = 0 if self.lag is None else self._buffered()
        if self.lag is not None or not self.is_live:  # what is about to be written does not count
            size += self._packets.size
        self.address.add(size - self.unread)
        self.unread = size
        is_held = size > self._limits.reply
        if is_held != self._is_held:
            self._is_held = is_held
            self._hold()
        if size and self.address.is_over:
            self._relieve(self.address)

    def _hold(self) -> None:
        connection = self.connection
        if connection is not None:
            if self._is_held:
                connection.hold()
            else:
                connection.go_on()

    def drop(self, reason: str) -> None:
        """End it at once, without waiting for the client to read."""
        if not self._has_ended:
            self._abort()
            self.ended()
            self._end(self, reason)

    def _abort(self) -> None:
        """End the connection over which something waits to be read, rather than wait for that."""
        transport = self._transports.get(self.is_live)
        if transport is not None and self.get_write_buffer_size():
            transport.abort()

    def ended(self) -> None:
        """Hold nothing for the client any more."""
        self._has_ended = True
        self.address.add(-self.unread)
        self.unread = 0
        if self.lag is not None:
            self.lag.end()
            # What it does not read is not kept for ever.
            asyncio.get_running_loop().call_later(self._limits.body_time, self._abort)
