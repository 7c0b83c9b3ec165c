"""The Socket.IO server of the fast engine: frames are handled where they arrive and written where they are made.

python-socketio keeps the handshake, polling, upgrade, namespaces, rooms and custom events. What is replaced are the
costs per message: a task and a queue per frame, a parse per layer of packet, a task per recipient. The private names
relied on are listed in internals.py and checked when an application is made; `App(engine="plain")` uses none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import socketio

from bbio import protocol
from bbio.errors import BadRequest, InternalError
from bbio.server.connection import ClientSocket
from bbio.server.fast.engine import FastEngine
from bbio.server.fast.frames import LARGE_BYTES, frame
from bbio.server.fast.internals import check_internals
from bbio.server.fast.packets import (
    BINARY_PACKETS,
    EVENT_PREFIX,
    BadPacket,
    Message,
    decoding,
    is_event_name,
    placeholders,
)
from bbio.server.fast.session import FastSession
from bbio.server.http.admission import REMOTE
from bbio.server.payload import ATTACHED_CHARACTERS
from bbio.server.shared import SharedServer

OWN_EVENT_PREFIXES = tuple(f'["{event}"' for event in protocol.EVENTS)


class FastServer(SharedServer):
    """The Socket.IO server of the fast engine."""

    library_options = {"monitor_clients": False}
    eio: FastEngine

    def _engineio_server_class(self) -> Callable[..., FastEngine]:
        check_internals()
        # One log, so that a refused backend and a bad packet count together.
        return partial(FastEngine, self, self._limits, self._addresses, self.quiet)

    # Going out

    def deliver(self, peers: Iterable[FastSession], skip: FastSession | None, namespace: str, text: bytes) -> None:
        payload = b"%b%b,%b" % (EVENT_PREFIX, namespace.encode(), text)
        data = frame(payload)
        add = self.eio.batch.add
        small = len(data) <= LARGE_BYTES
        packet: Message | None = None
        for peer in peers:
            if peer is skip:
                continue
            if small and peer.transport is not None:
                frames = peer.frames
                if not frames:
                    add(peer)
                frames.append(data)
            elif peer.transport is not None:
                peer.write_frame(data)
            else:
                # One for all that poll: what many of them leave unread is kept once.
                packet = packet or Message(payload)
                peer.enqueue(packet)

    def peer_of(self, sid: str, namespace: str) -> FastSession:
        """The peer of a socket that joins a namespace."""
        return cast(FastSession, self.eio.sockets[self.manager.eio_sid_from_sid(sid, namespace)])

    # Guards around what the library handles

    def has_joined(self, eio_sid: str) -> bool:
        """Return whether a session has joined any namespace, that of a backend or of the application."""
        return any(
            self.manager.sid_from_eio_sid(eio_sid, namespace) is not None for namespace in self.manager.get_namespaces()
        )

    def bad_packet(self, socket: FastSession, err: Exception) -> None:
        """End a session that has sent what is no protocol."""
        self.quiet.info("bad packet from %s: %.80s", socket.sid, err)
        socket.drop("bad packet")

    def report(self, err: BaseException, work: str, eio_sid: str) -> InternalError:
        """Log a fault of the server's while it worked on what a session has sent; return what the client is told."""
        environ = self.environ.get(eio_sid)
        remote = "a client that is gone" if environ is None else environ["aiohttp.request"][REMOTE]
        return self.gateway.registry.report(err, work, remote)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        socket = self.eio.sockets.get(eio_sid)
        if socket is None:
            return
        try:
            if socket.attachments is not None or type(data) is bytes:
                packet = socket.attach(data)
                if packet is not None:
                    binary_event = packet.packet_type == socketio.packet.BINARY_EVENT
                    handle = self._handle_event if binary_event else self._handle_ack
                    await handle(eio_sid, packet.namespace, packet.id, packet.data)
            elif data[:1] in BINARY_PACKETS:
                socket.expect(self._binary_packet_of(eio_sid, data))
            elif not (data.startswith("2/") and self._receive_at_cost(socket, "4" + data)):
                await self._handle_packet(eio_sid, data)
        except BadPacket as err:
            self.bad_packet(socket, err)
        except Exception as err:
            self.report(err, "a packet", eio_sid)

    def _receive_at_cost(self, socket: FastSession, text: str) -> bool:
        budget = socket.budget
        begun, worked = budget.clock(), budget.processor()
        is_handled = self.receive_event(socket, text)
        if is_handled:
            budget.charge_work(begun, budget.clock(), budget.processor() - worked)
        return is_handled

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
            protocol.check(packet.data, self._depth)
        count = packet.attachment_count
        if (
            not 0 < count <= self._limits.attachments
            or list(placeholders(packet.data)) != list(range(count))
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
            reply = {"message": self.refuse_namespace(namespace)}
            packet = self.packet_class(socketio.packet.CONNECT_ERROR, data=reply, namespace=namespace)
            await self._send_packet(eio_sid, packet)
        else:
            try:
                await super()._handle_connect(eio_sid, namespace, data)
            except Exception as err:
                await self._refuse_connect(eio_sid, namespace, self.report(err, f"joining {namespace!r}", eio_sid))
        if self.manager.sid_from_eio_sid(eio_sid, namespace) is None:
            self._count_refusal(socket)

    async def _refuse_connect(self, eio_sid: str, namespace: str, error: InternalError) -> None:
        reply = {"message": error.message, "data": error.to_json()}
        packet = self.packet_class(socketio.packet.CONNECT_ERROR, data=reply, namespace=namespace)
        await self._send_packet(eio_sid, packet)
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace)
        await self.manager.disconnect(sid, namespace, ignore_queue=True)

    def _count_refusal(self, socket: FastSession) -> None:
        socket.refusals += 1
        if socket.refusals > self._limits.bad_namespaces:
            raise BadPacket("too many namespaces that it may not join")

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        if type(data) is not list or not data or not is_event_name(data[0]):
            raise BadPacket("no event name")
        engine_socket = self.eio.sockets[eio_sid]
        socket = engine_socket.clients.get(namespace or "/")
        if socket is not None and self._is_backends(socket, data[0]):
            self.gateway.reject(socket, id, BadRequest("binary data is not a model"))
        elif self.manager.sid_from_eio_sid(eio_sid, namespace or "/") is None:
            self._count_refusal(engine_socket)  # it may have been sent before the client heard that it must leave
        else:
            await super()._handle_event(eio_sid, namespace, id, data)

    def _is_backends(self, socket: ClientSocket, event: Any) -> bool:
        """Return whether the gateway answers an event: the backend's own, and those that nobody else would."""
        return event in socket.runtime.client_events or (
            event in protocol.EPHEMERAL and not self.is_handled(socket.runtime.namespace, event)
        )

    async def _handle_ack(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        # Ids of the server's own calls begin at 1; 0 would hit the library's counter.
        if type(id) is int and id > 0 and type(data) is list:
            sid = self.manager.sid_from_eio_sid(eio_sid, namespace or "/")
            if id in self.manager.callbacks.get(sid, {}):
                await super()._handle_ack(eio_sid, namespace, id, data)

    # Events, where they arrive

    def receive_event(self, engine_socket: FastSession, text: str) -> bool:
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
                name = packet[2 : packet.find('"', 2)]
                if not packet.startswith('["') or not self._is_backends(socket, name):
                    raise BadPacket(err.message) from None
                self.gateway.refuse(socket, ack_id, err)
                return True
            event = arguments.pop(0) if type(arguments) is list and arguments else None
            if type(event) is str and self._is_backends(socket, event):
                self.gateway.receive(socket, event, ack_id, arguments)
                return True
            if not is_event_name(event):
                raise BadPacket("no event name")
        except BadPacket as err:
            self.bad_packet(engine_socket, err)
            return True
        except Exception as err:
            self.report(err, "a packet", engine_socket.sid)
            return True
        return False
