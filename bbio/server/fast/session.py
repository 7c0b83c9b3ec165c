"""A session of Engine.IO: what comes in, what goes out and waits for it, its time and its end.

How it is carried, by polls or by a websocket, is in socket.py.
"""

from __future__ import annotations

import asyncio
import time
from sys import getsizeof
from typing import Any

import socketio
from aiohttp import WSMsgType
from engineio import async_socket, exceptions
from engineio import packet as engine_packet

from bbio.server.budget import JOIN_SECONDS, PACKET_SECONDS, Budget, Flooded, Rate
from bbio.server.connection import ClientSocket
from bbio.server.fast.frames import LARGE_BYTES, binary_frame, frame, pong_frame
from bbio.server.fast.interfaces import Engine
from bbio.server.fast.packets import EVENT, FROM_CLIENTS, JOINS, PONG, Attachments, BadPacket, Message
from bbio.server.fast.polling import Polls
from bbio.server.lag import BEHIND_BYTES, SLOW_CONSUMER, Lag
from bbio.server.memory import Address


class Recipient:
    """The attributes of a session that an event needs, for each of its recipients.

    Python keeps up to 30 other names of a session once for all; with more it keeps a dictionary for each session, which
    is larger and slower to read.
    """

    __slots__ = ("frames", "lag", "protocol", "transport")

    frames: list[bytes]
    lag: Lag | None
    protocol: Any
    transport: asyncio.Transport | None


class FastSession(Recipient, async_socket.AsyncSocket):
    """One Engine.IO session. Also the peer that its client sockets write acks to.

    Parameters:
        server: the Engine.IO server.
        sid: the id of the session.
        address: the address of its client.
    """

    in_order = True
    server: Engine

    def __init__(self, server: Engine, sid: str, address: Address | None = None) -> None:
        super().__init__(server, sid)
        self.connected: bool
        self.closed: bool
        self.last_ping: float | None
        self.clients: dict[str, ClientSocket] = {}
        # Frames that wait for those before them. While it is not 0 nothing is handled where it arrives: so there is
        # one until the websocket is live, one while attachments are due, and one after the end.
        self.backlog = 1
        self.refusals = 0
        self.attachments: Attachments | None = None
        self.has_ended = False
        self.budget = Budget(server.resting)
        # What is no request: those are counted by the gateway.
        self.rate = Rate(server.limits.requests_per_second, time.monotonic)
        self.transport = None
        self.frames = []
        self.protocol = None
        self.address = address or server.addresses.of("")
        server.addresses.enter(self.address)
        self.lag = None
        # Bytes that wait for the client, as they are counted to its address, and of the answer that is being written.
        self.unread = 0
        self._written = 0
        self._answering = 0
        self._is_held = False
        self._timer: asyncio.TimerHandle | None = None
        # Bytes that wait for the next poll, and how many of them are answers.
        self._queued_bytes = 0
        self._queued_answers = 0
        self.polls = Polls(self, server.limits)
        self._connect_timer = asyncio.get_running_loop().call_later(server.limits.connect_time, self._check_joined)

    def joined(self, socket: ClientSocket) -> None:
        """The client has joined a backend's namespace."""
        self.clients[socket.runtime.namespace] = socket

    def left(self, socket: ClientSocket) -> None:
        """The client has left a backend's namespace."""
        if self.clients.get(socket.runtime.namespace) is socket:
            del self.clients[socket.runtime.namespace]

    @property
    def is_behind(self) -> bool:
        """Return whether the client has much to read yet."""
        return self.lag is not None or self._queued_bytes > BEHIND_BYTES

    @property
    def polling(self) -> bool:
        """Return whether a poll waits, or its answer is being written."""
        return self.polls.is_open

    # Going out

    def ack(self, socket: ClientSocket, ack_id: Any, arguments: bytes) -> None:
        payload = b"43%b,%d%b" % (socket.namespace, ack_id, arguments)
        if self.transport is None:
            packet = Message(payload)
            self._queued_answers += getsizeof(packet.data)
            self.enqueue(packet)
            return
        data = frame(payload)
        if self.lag is not None:
            self.lag.answers += len(data)
            self.write_frame(data)
        elif len(data) > LARGE_BYTES:
            self._answering = len(data)
            self.write_frame(data)
            self._answering = 0
        else:
            self.write_frame(data)

    def write(self, payload: bytes) -> None:
        """Send one text message."""
        if self.transport is not None:
            self.write_frame(frame(payload))
        else:
            self.enqueue(Message(payload))

    def write_frame(self, data: bytes) -> None:
        """Write a prebuilt websocket frame with the batch; only while `live`."""
        frames = self.frames
        if not frames:
            self.server.batch.add(self)
        frames.append(data)
        if len(data) > LARGE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand the batched frames to the transport."""
        frames, transport = self.frames, self.transport
        if transport is not None and frames:
            data = frames[0] if len(frames) == 1 else b"".join(frames)
            try:
                transport.write(data)
            except RuntimeError:
                # So uvloop says that the connection is gone; its reader is about to hear of it.
                self.transport = None
            else:
                if self.lag is not None:
                    self.lag.written(len(data))
                elif self.protocol._paused:
                    self.lag = Lag(self, transport, self.server.limits, self._answering)
        frames.clear()

    def count_unread(self, size: int) -> None:
        """Note how many written bytes wait for the client now."""
        self._written = size
        self._count_unread()

    def _count_unread(self) -> None:
        # None of its requests is begun while it has too many answers to read.
        size = self._written + self._queued_bytes
        self.address.add(size - self.unread)
        self.unread = size
        is_held = size > self.server.limits.reply
        if is_held != self._is_held:
            self._is_held = is_held
            for socket in list(self.clients.values()):
                if is_held:
                    socket.connection.hold()
                else:
                    socket.connection.go_on()
        if size and self.address.is_over:
            self.server.relieve(self.address)

    def enqueue(self, pkt: engine_packet.Packet) -> None:
        """Keep a packet for the next poll; only while not `live`."""
        if self.closed:
            return
        self._queued_bytes += getsizeof(pkt.data)
        events = self._queued_bytes - self._queued_answers
        if events > self.server.limits.send_buffer and self.queue.qsize() > 0:
            self.drop(SLOW_CONSUMER)
            return
        self.queue.put_nowait(pkt)
        self._count_unread()

    def taken(self) -> None:
        """Nothing waits for the next poll any more."""
        self._queued_bytes = self._queued_answers = 0
        self._count_unread()

    async def send(self, pkt: engine_packet.Packet) -> None:
        if self.transport is None:
            self.enqueue(pkt)
        else:
            self.write_packet(pkt)

    def write_packet(self, pkt: engine_packet.Packet) -> None:
        if type(pkt) is Message:
            self.write_frame(frame(pkt.data))
            return
        encoded = pkt.encode()
        if isinstance(encoded, str):
            self.write_frame(frame(encoded.encode()))
        else:
            self.write_frame(binary_frame(bytes(encoded)))

    # Coming in

    def end_turn(self) -> None:
        """Have what else arrives in this turn of the event loop wait for another, as the share of this one is used."""
        self.backlog += 1
        asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self.backlog -= 1

    def handle_now(self, text: str) -> bool:
        """Handle a text frame if it can be handled without waiting."""
        if text.startswith(EVENT):
            return self.server.receiver.receive_event(self, text)
        if text == PONG:
            self.pong()
            return True
        return False

    def pong(self) -> None:
        """The client has answered a heartbeat; an answer that nobody has asked for is a packet like any other."""
        if self.last_ping is None:
            self.count_packet()
        else:
            self.schedule_ping()

    def control(self, message: Any) -> bool:
        """Take a ping or a pong of the websocket itself; False leaves it to the library, as long as that does."""
        self.count_packet()
        if self.transport is None:
            return self.has_ended
        if message.type is WSMsgType.PING:
            self.write_frame(pong_frame(bytes(message.data)))
        return True

    def count_packet(self) -> None:
        """Count what is no request; who sends far too much is dropped."""
        try:
            self.rate.count()
        except Flooded as err:
            self.drop(str(err))

    async def take(self, packet: engine_packet.Packet) -> None:
        """Have the library handle a packet, at its price.

        Raises:
            UnknownPacketError: no client sends that.
        """
        self.count_packet()
        if not self.has_ended:
            data = packet.data
            joins = type(data) is str and data[:1] in JOINS
            self.budget.spend(JOIN_SECONDS if joins else PACKET_SECONDS)
            await self.receive(packet)

    def expect(self, packet: socketio.packet.Packet) -> None:
        """Accept nothing but the attachments of a packet from now on."""
        limits = self.server.limits
        self.backlog += 1
        self.attachments = Attachments(packet, limits.frame, limits.body_time, self._drop_late)

    def _drop_late(self) -> None:
        self.drop("attachments are missing")

    def attach(self, data: Any) -> socketio.packet.Packet | None:
        """Take an attachment; the packet when it was the last.

        Raises:
            BadPacket: none is expected, or it is none, or too large.
        """
        if self.attachments is None:
            raise BadPacket("attachments do not fit")
        packet = self.attachments.add(data)
        if packet is not None:
            self.attachments = None
            self.backlog -= 1
        return packet

    async def receive(self, pkt: engine_packet.Packet) -> None:
        if pkt.packet_type not in FROM_CLIENTS:
            raise exceptions.UnknownPacketError()
        if pkt.packet_type == engine_packet.PONG:
            self.pong()
        else:
            await super().receive(pkt)

    # Time

    def schedule_ping(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.last_ping = None
        self._timer = asyncio.get_running_loop().call_later(self.server.ping_interval, self._ping)

    def _ping(self) -> None:
        if self.closed or self.closing:
            return
        self.last_ping = time.time()
        self.write(b"2")
        self._timer = asyncio.get_running_loop().call_later(self.server.ping_timeout, self.drop, "ping timeout")

    def _check_joined(self) -> None:
        if not self.clients and not self.server.receiver.has_joined(self.sid):
            self.drop("no namespace joined in time")

    # The end

    def drop(self, reason: str) -> None:
        """End the session at once, without waiting for the client."""
        if self.has_ended:
            return
        self.has_ended = True
        self.backlog += 1
        if self.transport is not None:
            self.transport.abort()
        self.polls.end()
        self.transport = None
        self._let_go()
        self.server.dropped(self, reason)

    def _let_go(self) -> None:
        """Hold nothing for the client any more."""
        self._is_held = False  # what is still queued is not begun
        if self.lag is not None:
            self.lag.end()
        self._written = 0
        self.taken()

    async def close(self, wait: bool = True, abort: bool = False, reason: str | None = None) -> None:
        if self.closed or self.closing:
            return
        transport = self.transport
        if not abort:
            self.write(b"1")
        self.flush()
        try:
            await super().close(wait=False, abort=True, reason=reason)
        finally:
            self.closed = True
            self.transport = None
            self._let_go()
            self.server.addresses.leave(self.address)
            self._connect_timer.cancel()
            if self._timer is not None:
                self._timer.cancel()
            if self.attachments is not None:
                self.attachments.cancel()
            self.polls.forget()
            self.queue.put_nowait(None)
            self.server.sockets.pop(self.sid, None)
            if transport is not None:
                transport.close()
                # What the client does not read is not kept for ever.
                asyncio.get_running_loop().call_later(self.server.limits.body_time, transport.abort)
