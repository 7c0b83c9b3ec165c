"""The fast lane: websocket frames are handled where they arrive and written where they are made.

python-socketio keeps the handshake, polling, upgrade, namespaces, rooms and custom events. What is replaced are the
costs per message: a task and a queue per frame, a parse per layer of packet, a task per recipient. The private names
relied on are listed in `INTERNALS` and checked when an application is made; `App(engine="plain")` uses none of them.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import engineio
import socketio
from aiohttp import WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from engineio import async_socket, exceptions
from engineio import packet as engine_packet

from bbio import protocol
from bbio.errors import BadRequest, ConfigurationError
from bbio.server.connection import ClientSocket
from bbio.server.limits import Limits
from bbio.server.sockets import Gateway

INTERNALS: tuple[tuple[Any, str], ...] = (
    (socketio.AsyncServer, "_engineio_server_class"),
    (socketio.AsyncServer, "_handle_eio_message"),
    (socketio.AsyncServer, "_handle_connect"),
    (socketio.AsyncServer, "_handle_event"),
    (socketio.AsyncServer, "_handle_ack"),
    (engineio.AsyncServer, "_handle_connect"),
    (engineio.AsyncServer, "_trigger_event"),
    (engineio.AsyncServer, "_upgrades"),
    (engineio.AsyncServer, "_ok"),
    (engineio.AsyncServer, "_unauthorized"),
    (engineio.AsyncServer, "_bad_request"),
    (async_socket.AsyncSocket, "_websocket_handler"),
    (async_socket.AsyncSocket, "_upgrade_websocket"),
    (async_socket.AsyncSocket, "schedule_ping"),
    (WebSocketDataQueue, "feed_data"),
    (web.WebSocketResponse, "_reader"),
    (web.WebSocketResponse, "_parser"),
)

RESERVED_EVENTS = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener", "*", "")
)
TEXT = WSMsgType.TEXT
BINARY = WSMsgType.BINARY
PONG = str(engine_packet.PONG)
EVENT = f"{engine_packet.MESSAGE}{socketio.packet.EVENT}"
EVENT_BYTES = EVENT.encode()
ACK_BYTES = f"{engine_packet.MESSAGE}{socketio.packet.ACK}".encode()


def check_internals() -> None:
    """Raise `ConfigurationError` when a library no longer has what the fast lane relies on."""
    missing = [
        f"{owner.__module__}.{owner.__qualname__}.{name}" for owner, name in INTERNALS if not hasattr(owner, name)
    ]
    if missing:
        raise ConfigurationError(
            f"the fast engine relies on {', '.join(missing)}, which the installed versions do not have "
            f"(python-socketio {socketio.__dict__.get('__version__', '?')}); install the versions bbio names, "
            f'or use App(engine="plain")'
        )


def frame(payload: bytes) -> bytes:
    """A whole, unmasked websocket text message (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


class DirectQueue(WebSocketDataQueue):
    """Handles text frames as they are parsed; what must wait its turn goes through the queue."""

    engine_socket: FastSocket

    def feed_data(self, data: Any, size: int) -> None:
        socket = self.engine_socket
        if data.type is not TEXT or socket.backlog or not socket.handle_now(data.data):
            if data.type is TEXT or data.type is BINARY:  # the library answers control frames itself
                socket.backlog += 1
            super().feed_data(data, size)


class FastSocket(async_socket.AsyncSocket):
    """One Engine.IO session. Also the link its client sockets write acks to."""

    in_order = True
    server: FastEngine

    def __init__(self, server: FastEngine, sid: str) -> None:
        super().__init__(server, sid)
        self.connected: bool
        self.last_ping: float | None
        self.clients: dict[str, ClientSocket] = {}
        # Frames that wait for those before them.
        self.backlog = 0
        self.refusals = 0
        self.transport: asyncio.Transport | None = None
        self.protocol: Any = None
        self._overflow: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._queued_bytes = 0
        self._polling: web.BaseRequest | None = None
        self._connect_timer = asyncio.get_running_loop().call_later(server.limits.connect_time, self._check_joined)

    def joined(self, socket: ClientSocket) -> None:
        """The client has joined a backend's namespace."""
        self.clients[socket.backend.namespace] = socket

    def left(self, socket: ClientSocket) -> None:
        """The client has left a backend's namespace."""
        if self.clients.get(socket.backend.namespace) is socket:
            del self.clients[socket.backend.namespace]

    # Going out

    def ack(self, socket: ClientSocket, ack_id: Any, arguments: bytes) -> None:
        self.write(b"%b%b,%d%b" % (ACK_BYTES, socket.backend.namespace.encode(), ack_id, arguments))

    def write(self, payload: bytes) -> None:
        """Send one text message."""
        if self.transport is not None:
            self.write_frame(frame(payload))
        else:
            self._enqueue(engine_packet.Packet(encoded_packet=payload.decode()))

    def write_frame(self, data: bytes) -> None:
        """Write a prebuilt websocket frame; only while `live`."""
        transport = self.transport
        if transport is None:
            return
        if self.protocol._paused:
            self._overflowing(transport, len(data))
        transport.write(data)

    def _overflowing(self, transport: asyncio.Transport, size: int) -> None:
        limit = self.server.limits.send_buffer
        waiting = transport.get_write_buffer_size()
        if waiting + size > 2 * limit:
            self.drop("slow consumer")
        elif self._overflow is None:
            self._overflow = asyncio.get_running_loop().call_later(0.9, self._check_overflow)

    def _check_overflow(self) -> None:
        self._overflow = None
        transport = self.transport
        if transport is not None and transport.get_write_buffer_size() > self.server.limits.send_buffer:
            self.drop("slow consumer")

    def _enqueue(self, pkt: engine_packet.Packet) -> None:
        if self.closed:
            return
        self._queued_bytes += len(pkt.data) if isinstance(pkt.data, (str, bytes)) else 64
        if self._queued_bytes > self.server.limits.send_buffer and self.queue.qsize() > 0:
            self.drop("slow consumer")
            return
        self.queue.put_nowait(pkt)

    async def send(self, pkt: engine_packet.Packet) -> None:
        if self.transport is None:
            self._enqueue(pkt)
            return
        encoded = pkt.encode()
        if isinstance(encoded, str):
            self.write_frame(frame(encoded.encode()))
        else:
            head = bytearray(frame(bytes(encoded)))
            head[0] = 0x82  # a binary message
            self.write_frame(bytes(head))

    # Coming in

    def handle_now(self, text: str) -> bool:
        """Handle a text frame if it can be handled without waiting."""
        if text.startswith(EVENT):
            return self.server.receive_event(self, text)
        if text == PONG:
            self.schedule_ping()
            return True
        return False

    async def poll(self) -> list[engine_packet.Packet]:
        packets = cast(list[engine_packet.Packet], await super().poll())
        self._queued_bytes = 0
        return packets

    async def handle_get_request(self, environ: dict[str, Any]) -> Any:
        request = environ["aiohttp.request"]
        if "websocket" in environ.get("HTTP_UPGRADE", "").lower():
            return await super().handle_get_request(environ)
        if self._polling is not None and not (self.upgrading or self.upgraded):
            # Two polls at once: packets could go to one that nobody reads any more.
            self.drop("overlapping polls")
            return self.server._bad_request("overlapping polls")
        self._polling = request
        try:
            return await super().handle_get_request(environ)
        finally:
            self._polling = None

    async def _upgrade_websocket(self, environ: dict[str, Any]) -> Any:
        if self.upgraded or self.upgrading:
            return self.server._bad_request("already upgraded")
        # permessage-deflate would cost some 100 KB per connection.
        response = web.WebSocketResponse(max_msg_size=self.server.limits.frame, compress=False)
        request = environ["aiohttp.request"]
        await response.prepare(request)
        try:
            await self._websocket_handler(_Opened(response, request))
        finally:
            self._release()
        return response

    async def _websocket_handler(self, ws: _Opened) -> None:
        response = ws.response
        if self.connected:
            if not await self._probe(response):
                return
        else:
            self.connected = self.upgraded = True
        self._go_live(ws)
        try:
            async for message in response:
                self.backlog -= 1
                if message.type is TEXT and self.handle_now(message.data):
                    continue
                await self.receive(engine_packet.Packet(encoded_packet=message.data))
        except (exceptions.EngineIOError, ValueError, TypeError, LookupError, RecursionError) as err:
            # Whatever is no protocol ends the connection.
            self.server.bad_packet(self, err)
        self._release()
        await self.close(wait=False, abort=True, reason=self.server.reason.TRANSPORT_CLOSE)

    async def _probe(self, response: web.WebSocketResponse) -> bool:
        """The upgrade of a polling session: probe, answer, end the poll, wait for the word."""
        self.upgrading = True
        try:
            async with asyncio.timeout(self.server.limits.body_time):
                if await _text(response) != "2probe":
                    return False
                await response.send_str("3probe")
                self.queue.put_nowait(engine_packet.Packet(engine_packet.NOOP))
                if await _text(response) != "5":
                    return False
        except TimeoutError:
            return False
        finally:
            self.upgrading = False
        self.upgraded = True
        return True

    def _go_live(self, ws: _Opened) -> None:
        request, response = ws.request, ws.response
        protocol_ = request.protocol
        transport = request.transport
        if transport is None or transport.is_closing():
            return
        queue = DirectQueue(protocol_, 2**16, loop=asyncio.get_running_loop())
        queue.engine_socket = self
        parser = WebSocketReader(queue, self.server.limits.frame, compress=False, decode_text=True)
        # What arrived while the library's own parser was in charge comes first.
        for message, size in list(cast(Any, response)._reader._buffer if hasattr(response._reader, "_buffer") else ()):
            queue.feed_data(message, size)
        response._reader = queue
        response._parser = parser
        protocol_._payload_parser = None
        transport.set_write_buffer_limits(high=self.server.limits.send_buffer)
        self.protocol = protocol_
        self.transport = transport
        while not self.queue.empty():
            pkt = self.queue.get_nowait()
            self.queue.task_done()
            if pkt is not None and pkt.packet_type != engine_packet.NOOP:
                encoded = pkt.encode()
                self.write_frame(frame(encoded.encode() if isinstance(encoded, str) else bytes(encoded)))
        self._queued_bytes = 0
        protocol_.set_parser(parser)

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
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()
        if self._polling is not None and self._polling.transport is not None:
            self._polling.transport.abort()
        self.server.dropped(self, reason)

    def _release(self) -> None:
        self.transport = None
        for handle in (self._overflow, self._timer, self._connect_timer):
            self._cancel(handle)

    async def close(self, wait: bool = True, abort: bool = False, reason: str | None = None) -> None:
        if self.closed or self.closing:
            return
        transport = self.transport
        if not abort and transport is not None:
            self.write(b"1")
        await super().close(wait=False, abort=True, reason=reason)
        self._release()
        if transport is not None:
            transport.close()
        self.queue.put_nowait(None)
        self.server.sockets.pop(self.sid, None)


class _Opened:
    """A prepared websocket and the request it came from."""

    __slots__ = ("request", "response")

    def __init__(self, response: web.WebSocketResponse, request: web.BaseRequest) -> None:
        self.response = response
        self.request = request


async def _text(response: web.WebSocketResponse) -> Any:
    message = await response.receive()
    return message.data if message.type is TEXT else None


class FastEngine(engineio.AsyncServer):
    """The Engine.IO server that makes fast sockets."""

    limits: Limits
    receive_event: Callable[[FastSocket, str], bool]
    joined_elsewhere: Callable[[str], bool]
    bad_packet: Callable[[FastSocket, Exception], None]

    async def _handle_connect(self, environ: dict[str, Any], transport: str, jsonp_index: int | None = None) -> Any:
        sid = self.generate_id()
        socket = self.sockets[sid] = FastSocket(self, sid)
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

    def dropped(self, socket: FastSocket, reason: str) -> None:
        """A session was ended by the server: tell the layers above, outside the call that found out."""
        if not socket.closed and not socket.closing:
            task = asyncio.get_running_loop().create_task(socket.close(wait=False, abort=True, reason=reason))
            self.closing_tasks.add(task)
            task.add_done_callback(self.closing_tasks.discard)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.closing_tasks: set[asyncio.Task[None]] = set()


class FastServer(socketio.AsyncServer):
    """The Socket.IO server of the fast lane.

    Parameters:
        limits: what a client may ask for.
        options: passed on to `socketio.AsyncServer`.
    """

    eio: FastEngine
    gateway: Gateway

    def __init__(self, limits: Limits, **options: Any) -> None:
        check_internals()
        super().__init__(monitor_clients=False, **options)
        self._limits = limits
        self.eio.limits = limits
        self.eio.receive_event = self._receive_event
        self.eio.joined_elsewhere = self._joined_anywhere
        self.eio.bad_packet = self._bad_packet

    def _engineio_server_class(self) -> type[FastEngine]:
        return FastEngine

    # Lane

    def deliver(self, links: Iterable[FastSocket], skip: FastSocket | None, namespace: str, text: bytes) -> None:
        payload = b"%b%b,%b" % (EVENT_BYTES, namespace.encode(), text)
        data = frame(payload)
        for link in links:
            if link is skip:
                continue
            transport = link.transport
            if transport is None:
                link.write(payload)
            elif link.protocol._paused:
                link.write_frame(data)
            else:
                transport.write(data)

    def link_of(self, sid: str, namespace: str) -> FastSocket:
        """The link of a socket that joins a namespace."""
        return cast(FastSocket, self.eio.sockets[self.manager.eio_sid_from_sid(sid, namespace)])

    # Guards around what the library handles

    def _joined_anywhere(self, eio_sid: str) -> bool:
        return any(
            self.manager.sid_from_eio_sid(eio_sid, namespace) is not None for namespace in self.manager.get_namespaces()
        )

    def _bad_packet(self, socket: FastSocket, err: Exception) -> None:
        self.logger.info("closing %s after a bad packet: %.200s", socket.sid, err)
        socket.drop("bad packet")

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        socket = self.eio.sockets.get(eio_sid)
        if socket is None:
            return
        try:
            pending = self._binary_packet.get(eio_sid)
            if (
                pending is None
                and type(data) is str
                and data.startswith("2/")
                and self._receive_event(socket, "4" + data)
            ):
                return
            if (type(data) is bytes) != (pending is not None):
                raise ValueError("attachments do not fit")
            await super()._handle_eio_message(eio_sid, data)
            pending = self._binary_packet.get(eio_sid)
            if pending is not None and not 0 < pending.attachment_count <= self._limits.attachments:
                raise ValueError("attachments do not fit")
        except Exception as err:
            self._binary_packet.pop(eio_sid, None)
            self._bad_packet(socket, err)

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        socket = self.eio.sockets[eio_sid]
        namespace = namespace or "/"
        known = namespace in self.handlers or namespace in self.namespace_handlers or namespace in self.namespaces
        if not known:
            socket.refusals += 1
        if len(namespace) > protocol.MAX_NAME or socket.refusals > self._limits.bad_namespaces:
            raise ValueError("too many or too long namespaces")
        if namespace not in socket.clients and len(socket.clients) >= self._limits.namespaces:
            raise ValueError("too many namespaces")
        await super()._handle_connect(eio_sid, namespace, data)

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        if type(data) is not list or not data or type(data[0]) is not str or data[0] in RESERVED_EVENTS:
            raise ValueError("no event name")
        socket = self.eio.sockets[eio_sid].clients.get(namespace or "/")
        if socket is not None and data[0] in ("sync", "listen"):
            self.gateway.reject(socket, id, BadRequest("binary data is no model"))
            return
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
                raise ValueError("no event packet")
            ack_id = int(digits) if digits else None
            try:
                arguments = protocol.parse(text[bracket:], self._limits.depth + 2)
            except BadRequest as err:
                if not text.startswith(('["sync"', '["listen"'), bracket):
                    raise
                self.gateway.reject(socket, ack_id, err)
                return True
            event = arguments.pop(0) if type(arguments) is list and arguments else None
            if event == "sync" or event == "listen":
                self.gateway.receive(socket, event, ack_id, arguments)
                return True
            if type(event) is not str or event in RESERVED_EVENTS:
                raise ValueError("no event name")
        except (ValueError, TypeError) as err:
            self._bad_packet(engine_socket, err)
            return True
        return False
