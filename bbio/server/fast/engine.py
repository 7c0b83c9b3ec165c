"""The fast lane: websocket frames are handled where they arrive and written where they are made.

python-socketio keeps the handshake, polling, upgrade, namespaces, rooms and custom events. What is replaced are the
costs per message: a task and a queue per frame, a parse per layer of packet, a task per recipient. The private names
relied on are listed in `INTERNALS` and checked when an application is made; `App(engine="plain")` uses none of them.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from sys import getsizeof
from typing import Any, cast

import engineio
import socketio
from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.base_protocol import BaseProtocol
from engineio import async_socket, exceptions
from engineio import packet as engine_packet
from engineio.payload import Payload

from bbio import protocol
from bbio.errors import BadRequest, ConfigurationError, InternalError
from bbio.ratelimit import RateLimitedLog
from bbio.server.batch import Batch
from bbio.server.budget import JOIN_SECONDS, PACKET_SECONDS, Budget, Flooded, Intake, Rate, Resting
from bbio.server.connection import ClientSocket
from bbio.server.http.admission import BODY, REMOTE
from bbio.server.lag import LAGGING, SLOW, Lag, bound_buffers, relieve
from bbio.server.limits import Limits
from bbio.server.memory import Address, Addresses
from bbio.server.payload import ATTACHED_CHARACTERS, parts
from bbio.server.shared import SharedServer

INTERNALS: tuple[tuple[Any, str], ...] = (
    (socketio.AsyncServer, "_engineio_server_class"),
    (socketio.AsyncServer, "_handle_eio_message"),
    (socketio.AsyncServer, "_handle_connect"),
    (socketio.AsyncServer, "_handle_event"),
    (socketio.AsyncServer, "_handle_ack"),
    (socketio.AsyncServer, "_handle_disconnect"),
    (socketio.AsyncServer, "_send_packet"),
    (engineio.AsyncServer, "_handle_connect"),
    (engineio.AsyncServer, "_trigger_event"),
    (engineio.AsyncServer, "_make_response"),
    (engineio.AsyncServer, "_upgrades"),
    (engineio.AsyncServer, "_ok"),
    (engineio.AsyncServer, "_unauthorized"),
    (engineio.AsyncServer, "_bad_request"),
    (async_socket.AsyncSocket, "_websocket_handler"),
    (async_socket.AsyncSocket, "_upgrade_websocket"),
    (async_socket.AsyncSocket, "schedule_ping"),
    (WebSocketDataQueue, "feed_data"),
    (web.WebSocketResponse, "_post_start"),
    (web.WebSocketResponse, "_ws_protocol"),
    (web.WebSocketResponse, "_writer"),
    (web.WebSocketResponse, "_reader"),
    (web.WebSocketResponse, "_parser"),
    (BaseProtocol, "_paused"),
    (BaseProtocol, "_reading_paused"),
)

RESERVED_EVENTS = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener", "*", "")
)
TEXT = WSMsgType.TEXT
BINARY = WSMsgType.BINARY
CONTROL = (WSMsgType.PING, WSMsgType.PONG)
PONG = str(engine_packet.PONG)
EVENT = f"{engine_packet.MESSAGE}{socketio.packet.EVENT}"
EVENT_BYTES = EVENT.encode()
JOINS = (str(socketio.packet.CONNECT), str(socketio.packet.DISCONNECT))
BINARY_PACKETS = (str(socketio.packet.BINARY_EVENT), str(socketio.packet.BINARY_ACK))
FROM_CLIENTS = (engine_packet.MESSAGE, engine_packet.PONG, engine_packet.CLOSE)
POLL = "bbio.poll"
# Frames of more bytes are not worth copying to save a system call.
LARGE = 8_192

logger = logging.getLogger("bbio")


class BadPacket(ValueError):
    """A client has sent what is no protocol. Nothing else may be told as its fault."""


@contextmanager
def decoding() -> Iterator[None]:
    """What fails within is a packet that cannot be read."""
    try:
        yield
    except (ValueError, TypeError, LookupError, RecursionError) as err:
        raise BadPacket(str(err)) from err


def check_internals() -> None:
    """Raise `ConfigurationError` when a library no longer has what the fast lane relies on."""
    missing = [
        f"{owner.__module__}.{owner.__qualname__}.{name}" for owner, name in INTERNALS if not hasattr(owner, name)
    ]
    if missing:
        installed = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "python-engineio", "python-socketio"))
        raise ConfigurationError(
            f"the fast engine relies on {', '.join(missing)}, which the installed versions do not have ({installed}); "
            f'install the versions that bbio names, or use App(engine="plain")'
        )


HEADS = tuple(bytes((0x81, size)) if size < 126 else struct.pack("!BBH", 0x81, 126, size) for size in range(1024))


def frame(payload: bytes) -> bytes:
    """A whole, unmasked websocket text message (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 1024:
        return HEADS[size] + payload
    if size < 65_536:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


def pong_frame(payload: bytes) -> bytes:
    """The answer to a websocket ping (RFC 6455, section 5.5.3), whose payload has 125 bytes at most."""
    return bytes((0x8A, len(payload))) + payload


class DirectQueue(WebSocketDataQueue):
    """Handles frames as they are parsed; what must wait its turn goes through the queue."""

    engine_socket: FastSocket

    def feed_data(self, data: Any, size: int) -> None:
        socket = self.engine_socket
        if data.type is TEXT and not socket.backlog:
            text = data.data
            if text.startswith(EVENT):
                if socket.server.receive_event(socket, text):
                    return
            elif socket.handle_now(text):
                return
        if data.type is TEXT or data.type is BINARY:
            socket.backlog += 1
        elif data.type in CONTROL and socket.control(data):
            return
        super().feed_data(data, size)


class FastSocket(async_socket.AsyncSocket):
    """One Engine.IO session. Also the link its client sockets write acks to."""

    in_order = True
    server: FastEngine

    def __init__(self, server: FastEngine, sid: str, address: Address | None = None) -> None:
        super().__init__(server, sid)
        self.connected: bool
        self.closed: bool
        self.last_ping: float | None
        self.clients: dict[str, ClientSocket] = {}
        # Frames that wait for those before them. While it is not 0 nothing is handled where it arrives: so there is
        # one until the websocket is live, one while attachments are due, and one after the end.
        self.backlog = 1
        self.refusals = 0
        self.pending: socketio.packet.Packet | None = None
        self._attached = 0
        self._attachments_timer: asyncio.TimerHandle | None = None
        self._ended = False
        self.budget = Budget(server.resting)
        # What is no request: those are counted by the gateway.
        self.rate = Rate(server.limits.requests_per_second, time.monotonic)
        self.transport: asyncio.Transport | None = None
        self.frames: list[bytes] = []
        self.protocol: Any = None
        self.address = address or server.addresses.of("")
        server.addresses.enter(self.address)
        self.lag: Lag | None = None
        # Bytes that wait for the client, as they are counted to its address, and of the answer that is being written.
        self.unread = 0
        self._written = 0
        self._answering = 0
        self._is_held = False
        self._timer: asyncio.TimerHandle | None = None
        # Bytes that wait for the next poll, and how many of them are answers.
        self._queued_bytes = 0
        self._queued_answers = 0
        # Whether a poll waits, or its answer is being written.
        self.polling = False
        self._poll_watch: PollWatch | None = None
        self._connect_timer = asyncio.get_running_loop().call_later(server.limits.connect_time, self._check_joined)

    def joined(self, socket: ClientSocket) -> None:
        """The client has joined a backend's namespace."""
        self.clients[socket.runtime.namespace] = socket

    def left(self, socket: ClientSocket) -> None:
        """The client has left a backend's namespace."""
        if self.clients.get(socket.runtime.namespace) is socket:
            del self.clients[socket.runtime.namespace]

    # Going out

    def ack(self, socket: ClientSocket, ack_id: Any, arguments: bytes) -> None:
        payload = b"43%b,%d%b" % (socket.namespace, ack_id, arguments)
        if self.transport is None:
            packet = engine_packet.Packet(encoded_packet=payload.decode())
            self._queued_answers += getsizeof(packet.data)
            self.enqueue(packet)
            return
        data = frame(payload)
        if self.lag is not None:
            self.lag.answers += len(data)
            self.write_frame(data)
        elif len(data) > LARGE:
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
            self.enqueue(engine_packet.Packet(encoded_packet=payload.decode()))

    def write_frame(self, data: bytes) -> None:
        """Write a prebuilt websocket frame with the batch; only while `live`."""
        frames = self.frames
        if not frames:
            self.server.batch.add(self)
        frames.append(data)
        if len(data) > LARGE:
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
        """So many bytes that were written wait for the client now."""
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
        self._queued_bytes += getsizeof(pkt.data)  # a text with one wide character takes four bytes for each
        events = self._queued_bytes - self._queued_answers
        if events > self.server.limits.send_buffer and self.queue.qsize() > 0:
            self.drop(SLOW)
            return
        self.queue.put_nowait(pkt)
        self._count_unread()

    def _taken(self) -> None:
        """Nothing waits for the next poll any more."""
        self._queued_bytes = self._queued_answers = 0
        self._count_unread()

    async def send(self, pkt: engine_packet.Packet) -> None:
        if self.transport is None:
            self.enqueue(pkt)
        else:
            self._write_packet(pkt)

    def _write_packet(self, pkt: engine_packet.Packet) -> None:
        encoded = pkt.encode()
        if isinstance(encoded, str):
            self.write_frame(frame(encoded.encode()))
        else:
            data = bytearray(frame(bytes(encoded)))
            data[0] = 0x82  # a binary message
            self.write_frame(bytes(data))

    # Coming in

    def handle_now(self, text: str) -> bool:
        """Handle a text frame if it can be handled without waiting."""
        if text.startswith(EVENT):
            return self.server.receive_event(self, text)
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
            return self._ended
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
        if not self._ended:
            data = packet.data
            joins = type(data) is str and data[:1] in JOINS
            self.budget.spend(JOIN_SECONDS if joins else PACKET_SECONDS)
            await self.receive(packet)

    def expect(self, packet: socketio.packet.Packet) -> None:
        """From now on nothing but the attachments of a packet may come."""
        self.pending = packet
        self._attached = 0
        self.backlog += 1
        self._attachments_timer = asyncio.get_running_loop().call_later(
            self.server.limits.body_time, self.drop, "attachments are missing"
        )

    def attach(self, data: Any) -> socketio.packet.Packet | None:
        """Take an attachment; the packet when it was the last.

        Raises:
            BadPacket: it is none, or too large.
        """
        packet = self.pending
        if type(data) is bytes:
            self._attached += len(data)
        if packet is None or type(data) is not bytes or self._attached > self.server.limits.frame:
            raise BadPacket("attachments do not fit")
        if not packet.add_attachment(data):
            return None
        self._cancel(self._attachments_timer)
        self.pending = None
        self.backlog -= 1
        return packet

    async def receive(self, pkt: engine_packet.Packet) -> None:
        if pkt.packet_type not in FROM_CLIENTS:
            raise exceptions.UnknownPacketError()
        if pkt.packet_type == engine_packet.PONG:
            self.pong()
        else:
            await super().receive(pkt)

    async def poll(self) -> list[engine_packet.Packet]:
        packets = cast(list[engine_packet.Packet], await super().poll())
        self._taken()
        return packets

    async def handle_get_request(self, environ: dict[str, Any]) -> Any:
        request = environ["aiohttp.request"]
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            return await self._upgrade_websocket(environ)
        if self.upgrading or self.upgraded:
            return [engine_packet.Packet(engine_packet.NOOP)]
        if self.polling:
            # Two polls at once: packets could go to one that nobody reads any more.
            self.drop("overlapping polls")
            return self.server._bad_request("overlapping polls")
        transport = request.transport
        if transport is None or transport.is_closing():
            self.drop("aborted poll")
            return self.server._bad_request("aborted poll")
        self.polling = True
        environ[POLL] = self
        transport.set_write_buffer_limits(high=0)
        bound_buffers(transport)
        self._watch(transport)
        try:
            return await super().handle_get_request(environ)
        except BaseException:
            self.polling = False
            raise

    def answered(self) -> None:
        """The answer to a poll was written, or could not be: then its connection is lost."""
        self.polling = False

    def _watch(self, transport: asyncio.Transport) -> None:
        """Hear of the connection that a poll came over, until the next request comes over it."""
        watch = transport.get_protocol()
        if not isinstance(watch, PollWatch):
            watch = PollWatch(transport, watch)
            transport.set_protocol(watch)
        self.forget_poll()
        self._poll_watch = watch
        watch.socket = self

    def look_after_poll(self, size: int) -> None:
        """The answer to a poll, of so many bytes, is about to be written."""
        watch = self._poll_watch
        if watch is not None and size > LAGGING:
            self.lag = Lag(self, watch.transport, self.server.limits, size)

    def forget_poll(self) -> None:
        """The last poll's answer has arrived, or nobody waits for it."""
        if self._poll_watch is not None:
            self._poll_watch.socket = None
            self._poll_watch = None

    def poll_lost(self, err: Exception | None) -> None:
        """The connection of the last poll has ended: if its answer may be lost with it, the session is over.

        Parameters:
            err: what broke it; None when it was closed in order, as is usual once an answer has been read.
        """
        if self.polling or err is not None:
            self.drop("aborted poll")

    async def handle_post_request(self, environ: dict[str, Any]) -> None:
        for part in parts(environ["aiohttp.request"][BODY]):
            try:
                with decoding():
                    packets = Payload(encoded_payload=part.decode()).packets
            except BadPacket as err:
                self.server.bad_packet(self, err)
                raise exceptions.ContentTooLongError() from None
            for packet in packets:
                await self.budget.take_turn()
                await self.take(packet)
            if self._ended:
                break

    async def _upgrade_websocket(self, environ: dict[str, Any]) -> Any:
        if self.upgraded or self.upgrading:
            return self.server._bad_request("already upgraded")
        response = FastResponse(self)
        try:
            await response.prepare(environ["aiohttp.request"])
            await self._websocket_handler(response)
        finally:
            if not self.connected:
                self.drop("no websocket")
        return response

    async def _websocket_handler(self, response: FastResponse) -> None:
        request = response.request
        if self.connected and not await self._probe(response):
            # A polling session goes on polling.
            request.protocol.force_close()
            return
        self.connected = self.upgraded = True
        reason = self.server.reason.TRANSPORT_CLOSE
        try:
            self._go_live(request)
            budget = self.budget
            async for message in response:
                await budget.take_turn()
                if self._ended or message.type is WSMsgType.ERROR:
                    break
                begun, worked = budget.clock(), budget.processor()
                if message.type is TEXT and self.pending is None and self.handle_now(message.data):
                    budget.charge_work(begun, budget.clock(), budget.processor() - worked)
                else:
                    with decoding():
                        packet = engine_packet.Packet(encoded_packet=message.data)
                    await self.take(packet)
                self.backlog -= 1
        except (exceptions.EngineIOError, BadPacket) as err:
            # Whatever is no protocol ends the connection.
            self.server.bad_packet(self, err)
        except Exception as err:
            self.server.report(err, "the connection", self.sid)
        finally:
            await self.close(wait=False, abort=True, reason=reason)

    async def _probe(self, response: FastResponse) -> bool:
        """The upgrade of a polling session: probe, answer, end the poll, wait for the word."""
        self.upgrading = True
        try:
            async with asyncio.timeout(self.server.limits.body_time):
                if await self._text(response) != "2probe":
                    return False
                await response.send_str("3probe")
                self.queue.put_nowait(engine_packet.Packet(engine_packet.NOOP))
                if await self._text(response) != "5":
                    return False
        except TimeoutError:
            return False
        finally:
            self.upgrading = False
        return not self._ended

    async def _text(self, response: FastResponse) -> Any:
        message = await response.receive()
        if message.type is TEXT or message.type is BINARY:
            self.backlog -= 1
        return message.data if message.type is TEXT else None

    def _go_live(self, request: web.BaseRequest) -> None:
        transport = request.transport
        if transport is None or transport.is_closing():
            return
        transport.set_write_buffer_limits(high=LAGGING)
        bound_buffers(transport)
        self.protocol = request.protocol
        self.transport = transport
        self.backlog -= 1
        self._answering = self._queued_answers
        self._taken()
        while not self.queue.empty():
            pkt = self.queue.get_nowait()
            self.queue.task_done()
            if pkt is not None and pkt.packet_type != engine_packet.NOOP:
                self._write_packet(pkt)

    # Time

    def schedule_ping(self) -> None:
        self._cancel(self._timer)
        self.last_ping = None
        self._timer = asyncio.get_running_loop().call_later(self.server.ping_interval, self._ping)

    def _ping(self) -> None:
        if self.closed or self.closing:
            return
        self.last_ping = time.time()
        self.write(b"2")
        self._timer = asyncio.get_running_loop().call_later(self.server.ping_timeout, self.drop, "ping timeout")

    def _check_joined(self) -> None:
        if not self.clients and not self.server.joined_elsewhere(self.sid):
            self.drop("no namespace joined in time")

    @staticmethod
    def _cancel(handle: asyncio.TimerHandle | None) -> None:
        if handle is not None:
            handle.cancel()

    # The end

    def drop(self, reason: str) -> None:
        """End the session at once, without waiting for the client."""
        if self._ended:
            return
        self._ended = True
        self.backlog += 1
        watch = self._poll_watch
        for transport in (self.transport, None if watch is None else watch.transport):
            if transport is not None:
                transport.abort()
        self.transport = None
        self._let_go()
        self.server.dropped(self, reason)

    def _let_go(self) -> None:
        """Hold nothing for the client any more."""
        self._is_held = False  # what is still queued is not begun
        if self.lag is not None:
            self.lag.end()
        self._written = 0
        self._taken()

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
            for handle in (self._timer, self._connect_timer, self._attachments_timer):
                self._cancel(handle)
            self.forget_poll()
            self.queue.put_nowait(None)
            self.server.sockets.pop(self.sid, None)
            if transport is not None:
                transport.close()
                # What the client does not read is not kept for ever.
                asyncio.get_running_loop().call_later(self.server.limits.body_time, transport.abort)


class FastResponse(web.WebSocketResponse):
    """A websocket whose frames go to a socket as they are parsed."""

    def __init__(self, socket: FastSocket) -> None:
        # permessage-deflate would cost some 100 KB per connection.
        super().__init__(max_msg_size=socket.server.limits.frame, compress=False)
        self._socket = socket

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        self._socket.flush()
        return await super().close(code=code, message=message, drain=drain)

    async def prepare(self, request: web.BaseRequest) -> Any:
        self.request = request
        return await super().prepare(request)

    def _post_start(self, request: web.BaseRequest, protocol: str | None, writer: Any) -> None:
        self._ws_protocol = protocol
        self._writer = writer
        queue = DirectQueue(request.protocol, 2**16, loop=asyncio.get_running_loop())
        queue.engine_socket = self._socket
        self._reader = queue
        self._parser = WebSocketReader(queue, self._socket.server.limits.frame, compress=False, decode_text=True)
        connection = request.protocol
        batch, budget = self._socket.server.batch, self._socket.budget
        intake = Intake(self._parser, batch, budget, connection, lambda: connection._reading_paused)
        connection.set_parser(cast(Any, intake))
        connection.keep_alive(False)


class PollWatch(asyncio.Protocol):
    """Stands between a transport and aiohttp, for the session that has polled over it.

    Parameters:
        transport: the connection.
        protocol: aiohttp's.
    """

    def __init__(self, transport: asyncio.Transport, protocol: Any) -> None:
        self.transport = transport
        self.socket: FastSocket | None = None
        for name in ("eof_received", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(protocol, name))
        self._data_received = protocol.data_received
        self._connection_lost = protocol.connection_lost

    def data_received(self, data: bytes) -> None:
        socket = self.socket
        if socket is not None and not socket.polling:
            socket.forget_poll()  # who sends another request has read the answer to the last
        self._data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection_lost(exc)
        if self.socket is not None:
            self.socket.poll_lost(exc)


class PollAnswer(web.Response):
    """The answer to a poll, that tells its session when it is written."""

    def __init__(self, response: web.Response, socket: FastSocket, transport: asyncio.Transport | None) -> None:
        super().__init__(body=response.body, status=response.status, headers=response.headers)
        self._socket = socket
        self._transport = transport

    async def write_eof(self, data: bytes = b"") -> None:
        socket = self._socket
        if socket._ended and self._transport is not None:
            self._transport.abort()  # dropped meanwhile: nobody looks after it any more
        socket.look_after_poll(len(cast(bytes, self.body)))
        try:
            await super().write_eof(data)
        finally:
            if socket.lag is not None:
                socket.lag.end()
            # The connection keeps its last response until the next request.
            self.body = None
            self._socket.answered()


class FastEngine(engineio.AsyncServer):
    """The Engine.IO server that makes fast sockets."""

    limits: Limits
    receive_event: Callable[[FastSocket, str], bool]
    joined_elsewhere: Callable[[str], bool]
    addresses: Addresses
    remote: Callable[[web.BaseRequest], str]
    bad_packet: Callable[[FastSocket, Exception], None]
    report: Callable[[BaseException, str, str], Any]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.quiet = RateLimitedLog(logger)
        self.batch = Batch()
        self.resting = Resting()
        self.closing_tasks: set[asyncio.Task[None]] = set()

    async def _handle_connect(self, environ: dict[str, Any], transport: str, jsonp_index: int | None = None) -> Any:
        request = environ["aiohttp.request"]
        address = self.addresses.of(self.remote(request))
        refusal = self.addresses.refusal(address)
        if refusal is not None:
            self.quiet.warning("refused a connection from %s: %s", address.name, refusal)
            return {"status": "503 SERVICE UNAVAILABLE", "headers": [], "response": b"too many connections"}
        sid = self.generate_id()
        socket = self.sockets[sid] = FastSocket(self, sid, address)
        opening = {
            "sid": sid,
            "upgrades": self._upgrades(sid, transport),
            "pingTimeout": int(self.ping_timeout * 1_000),
            "pingInterval": int(self.ping_interval * 1_000),
            "maxPayload": self.max_http_buffer_size,
        }
        await socket.send(engine_packet.Packet(engine_packet.OPEN, opening))
        accepted = await self._trigger_event("connect", sid, environ, run_async=False)
        if accepted not in (None, True):
            socket.drop("refused")
            return self._unauthorized(accepted or None)
        socket.schedule_ping()
        if transport == "websocket":
            return await socket.handle_get_request(environ)
        socket.connected = True
        return self._ok(await socket.poll(), jsonp_index=jsonp_index)

    def relieve(self, address: Address) -> None:
        """Drop who has the most unread, where an address holds too much, or all do."""
        relieve(self.sockets.values(), address)

    def dropped(self, socket: FastSocket, reason: str) -> None:
        """A session was ended by the server: tell the layers above, outside the call that found out."""
        if not socket.closed and not socket.closing:
            self.quiet.info("ending %s: %s", socket.sid, reason)
            task = asyncio.get_running_loop().create_task(socket.close(wait=False, abort=True, reason=reason))
            self.closing_tasks.add(task)
            task.add_done_callback(self.closing_tasks.discard)

    async def _make_response(self, response_dict: dict[str, Any], environ: dict[str, Any]) -> web.Response:
        response = cast(web.Response, await super()._make_response(response_dict, environ))
        if POLL in environ:
            response = PollAnswer(response, environ[POLL], environ["aiohttp.request"].transport)
        if response.status >= 400:
            # Who is refused, such as for a session that has ended, begins anew: its connection is not kept for it.
            response.force_close()
        return response


def _is_event_name(name: Any) -> bool:
    """Whether a client may send an event of that name: not what the libraries call their own handlers by."""
    return type(name) is str and name not in RESERVED_EVENTS and not name.startswith("_")


def _placeholders(data: Any) -> Iterator[Any]:
    """What stands in a binary packet's JSON for its attachments, in order; None for what makes no sense."""
    if type(data) is dict:
        if data.get("_placeholder"):
            num = data.get("num")
            yield num if type(num) is int else None
            return
        data = list(data.values())
    if type(data) is list:
        for item in data:
            yield from _placeholders(item)


class FastServer(SharedServer):
    """The Socket.IO server of the fast lane.

    Parameters:
        limits: what a client may ask for.
        options: passed on to `socketio.AsyncServer`.
    """

    eio: FastEngine

    def __init__(self, limits: Limits, **options: Any) -> None:
        check_internals()
        super().__init__(monitor_clients=False, **options)
        self._limits = limits
        self._depth = limits.depth + 2  # the packet's array and the sync's object
        # One log, so that a refused backend and a bad packet count together.
        self.eio.quiet = self.quiet
        self.eio.limits = limits
        self.eio.receive_event = self._receive_event
        self.eio.joined_elsewhere = self._joined_anywhere
        self.eio.bad_packet = self._bad_packet
        self.eio.report = self._report

    def _engineio_server_class(self) -> type[FastEngine]:
        return FastEngine

    # Lane

    def deliver(self, links: Iterable[FastSocket], skip: FastSocket | None, namespace: str, text: bytes) -> None:
        payload = b"%b%b,%b" % (EVENT_BYTES, namespace.encode(), text)
        data = frame(payload)
        add = self.eio.batch.add
        small = len(data) <= LARGE
        packet: engine_packet.Packet | None = None
        for link in links:
            if link is skip:
                continue
            if small and link.transport is not None:
                frames = link.frames
                if not frames:
                    add(link)
                frames.append(data)
            elif link.transport is not None:
                link.write_frame(data)
            else:
                # One for all that poll: what many of them leave unread is kept once.
                packet = packet or engine_packet.Packet(encoded_packet=payload.decode())
                link.enqueue(packet)

    def link_of(self, sid: str, namespace: str) -> FastSocket:
        """The link of a socket that joins a namespace."""
        return cast(FastSocket, self.eio.sockets[self.manager.eio_sid_from_sid(sid, namespace)])

    # Guards around what the library handles

    def _joined_anywhere(self, eio_sid: str) -> bool:
        return any(
            self.manager.sid_from_eio_sid(eio_sid, namespace) is not None for namespace in self.manager.get_namespaces()
        )

    def _bad_packet(self, socket: FastSocket, err: Exception) -> None:
        self.eio.quiet.info("bad packet from %s: %.80s", socket.sid, err)
        socket.drop("bad packet")

    def _report(self, err: BaseException, work: str, eio_sid: str) -> InternalError:
        environ = self.environ.get(eio_sid)
        remote = "a client that is gone" if environ is None else environ["aiohttp.request"][REMOTE]
        return self.gateway.registry.report(err, work, remote)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        socket = self.eio.sockets.get(eio_sid)
        if socket is None:
            return
        try:
            if socket.pending is not None or type(data) is bytes:
                packet = socket.attach(data)
                if packet is not None:
                    binary_event = packet.packet_type == socketio.packet.BINARY_EVENT
                    handle = self._handle_event if binary_event else self._handle_ack
                    await handle(eio_sid, packet.namespace, packet.id, packet.data)
            elif data[:1] in BINARY_PACKETS:
                socket.expect(self._binary_packet_of(eio_sid, data))
            elif not (data.startswith("2/") and self._receive_event(socket, "4" + data)):
                await self._handle_packet(eio_sid, data)
        except BadPacket as err:
            self._bad_packet(socket, err)
        except Exception as err:
            self._report(err, "a packet", eio_sid)

    async def _handle_packet(self, eio_sid: str, text: str) -> None:
        with decoding():
            packet = self.packet_class(encoded_packet=text)
        namespace, kind = packet.namespace, packet.packet_type
        if kind == socketio.packet.CONNECT:
            await self._handle_connect(eio_sid, namespace, packet.data)
        elif kind == socketio.packet.DISCONNECT:
            await self._handle_disconnect(eio_sid, namespace, self.reason.CLIENT_DISCONNECT)
        elif kind == socketio.packet.EVENT:
            await self._handle_event(eio_sid, namespace, packet.id, packet.data)
        elif kind == socketio.packet.ACK:
            await self._handle_ack(eio_sid, namespace, packet.id, packet.data)
        else:
            raise BadPacket("no packet of a client")

    def _binary_packet_of(self, eio_sid: str, text: str) -> socketio.packet.Packet:
        """The packet that announces attachments, if those it speaks of are those it announces."""
        if len(text) > ATTACHED_CHARACTERS:
            raise BadPacket("too long an event with attachments")
        with decoding():
            packet = self.packet_class(encoded_packet=text)
            protocol.check(packet.data, self._limits.depth + 2)
        count = packet.attachment_count
        if (
            not 0 < count <= self._limits.attachments
            or list(_placeholders(packet.data)) != list(range(count))
            or not self.manager.sid_from_eio_sid(eio_sid, packet.namespace or "/")
        ):
            raise BadPacket("attachments do not fit")
        return packet

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        socket = self.eio.sockets[eio_sid]
        namespace = namespace or "/"
        if len(namespace) > protocol.MAX_NAME:
            raise BadPacket("too long a namespace")
        if self.manager.sid_from_eio_sid(eio_sid, namespace) is not None:
            raise BadPacket("joined twice")
        if len(socket.clients) >= self._limits.namespaces:
            raise BadPacket("too many namespaces")
        if not self.has_namespace(namespace):
            told = {"message": self.refuse_namespace(namespace)}
            packet = self.packet_class(socketio.packet.CONNECT_ERROR, data=told, namespace=namespace)
            await self._send_packet(eio_sid, packet)
        else:
            try:
                await super()._handle_connect(eio_sid, namespace, data)
            except Exception as err:
                await self._refuse_connect(eio_sid, namespace, self._report(err, f"joining {namespace!r}", eio_sid))
        if self.manager.sid_from_eio_sid(eio_sid, namespace) is None:
            self._count_refusal(socket)

    async def _refuse_connect(self, eio_sid: str, namespace: str, error: InternalError) -> None:
        told = {"message": error.message, "data": error.to_json()}
        packet = self.packet_class(socketio.packet.CONNECT_ERROR, data=told, namespace=namespace)
        await self._send_packet(eio_sid, packet)
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace)
        await self.manager.disconnect(sid, namespace, ignore_queue=True)

    def _count_refusal(self, socket: FastSocket) -> None:
        socket.refusals += 1
        if socket.refusals > self._limits.bad_namespaces:
            raise BadPacket("too many namespaces that it may not join")

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        if type(data) is not list or not data or not _is_event_name(data[0]):
            raise BadPacket("no event name")
        engine_socket = self.eio.sockets[eio_sid]
        socket = engine_socket.clients.get(namespace or "/")
        if socket is not None and data[0] in protocol.EVENTS:
            self.gateway.reject(socket, id, BadRequest("binary data is not a model"))
        elif self.manager.sid_from_eio_sid(eio_sid, namespace or "/") is None:
            self._count_refusal(engine_socket)  # it may have been sent before the client heard that it must leave
        else:
            await super()._handle_event(eio_sid, namespace, id, data)

    async def _handle_ack(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        # Ids of the server's own calls begin at 1; 0 would hit the library's counter.
        if type(id) is int and id > 0 and type(data) is list:
            sid = self.manager.sid_from_eio_sid(eio_sid, namespace or "/")
            if id in self.manager.callbacks.get(sid, {}):
                await super()._handle_ack(eio_sid, namespace, id, data)

    # The fast lane

    def _receive_event(self, engine_socket: FastSocket, text: str) -> bool:
        """Handle an event frame of a backend's namespace; False leaves it to the library."""
        comma = text.find(",", 3, 4 + protocol.MAX_NAME)
        socket = engine_socket.clients.get(text[2:comma])
        if socket is None:
            return False
        bracket = text.find("[", comma)
        digits = text[comma + 1 : bracket]
        try:
            if bracket < 0 or len(digits) > 15 or (digits and not (digits.isascii() and digits.isdigit())):
                raise BadPacket("no event packet")
            ack_id = int(digits) if digits else None
            packet = text[bracket:]
            fields = protocol.decode_sync(packet, self._depth) if packet.startswith('["sync"') else None
            if fields is not None:
                self.gateway.receive_sync(socket, ack_id, fields, packet)
                return True
            try:
                arguments = protocol.parse(packet, self._depth)
            except BadRequest as err:
                if not packet.startswith(('["sync"', '["listen"', '["unlisten"')):
                    raise BadPacket(err.message) from None
                self.gateway.refuse(socket, ack_id, err)
                return True
            event = arguments.pop(0) if type(arguments) is list and arguments else None
            if event in protocol.EVENTS:
                self.gateway.receive(socket, event, ack_id, arguments)
                return True
            if not _is_event_name(event):
                raise BadPacket("no event name")
        except BadPacket as err:
            self._bad_packet(engine_socket, err)
            return True
        except Exception as err:
            self._report(err, "a packet", engine_socket.sid)
            return True
        return False
