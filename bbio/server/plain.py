"""The plain lane: the same gateway on python-socketio as it is, through its public API alone."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any

import socketio
from aiohttp import web
from engineio.payload import Payload

from bbio import protocol
from bbio.errors import BadRequest
from bbio.ratelimit import RateLimitedLog
from bbio.server.connection import ClientSocket
from bbio.server.shared import SharedServer

UNREADABLE = object()

logger = logging.getLogger("bbio")


class PlainJSON:
    """The JSON of this server alone: what cannot be read becomes an argument that the gateway refuses, or an error."""

    @staticmethod
    def loads(text: str) -> Any:
        try:
            return protocol.parse(text, protocol.MAX_DEPTH + 2)
        except BadRequest as err:
            if text.startswith("{"):  # what a client joins with
                return err
            for event in protocol.EVENTS:
                if text.startswith(f'["{event}"'):
                    return [event, UNREADABLE]
            raise

    @staticmethod
    def dumps(value: Any, **options: Any) -> str:
        return protocol.encode(value).decode()


class PlainPacket(socketio.packet.Packet):
    """A packet read and written with `PlainJSON`."""

    json = PlainJSON


class PlainLink:
    """One client of the plain lane; its acks go out as what the library's handlers return."""

    in_order = False

    def __init__(self, sid: str, disconnect: Callable[[], None]) -> None:
        self.sid = sid
        self._disconnect = disconnect
        self._dropped = False
        self.unanswered: set[asyncio.Future[tuple[Any, ...] | None]] = set()

    def joined(self, socket: ClientSocket) -> None:
        """The client has joined a namespace."""

    def left(self, socket: ClientSocket) -> None:
        """The client has left a namespace: nobody waits for answers any more."""
        for answer in self.unanswered:
            if not answer.done():
                answer.set_result(None)

    def drop(self, reason: str) -> None:
        """End it, without an answer to what it still sends."""
        if not self._dropped:
            self._dropped = True
            logger.info("ending %s: %s", self.sid, reason)
            self._disconnect()

    def ack(self, socket: ClientSocket, ack_id: asyncio.Future[tuple[Any, ...] | None], arguments: bytes) -> None:
        if not ack_id.done():
            ack_id.set_result(tuple(protocol.decode(arguments)))


class WholeRequest:
    """A request whose body has arrived.

    Parameters:
        request: the request.
        body: all of its body.
    """

    def __init__(self, request: web.Request, body: bytes) -> None:
        self._request = request
        self.content = self
        self._body = body

    async def read(self, size: int = -1) -> bytes:
        """Return the body."""
        return self._body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


class PlainServer(SharedServer):
    """An unmodified Socket.IO server with the lane the gateway needs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(serializer=PlainPacket, **options)
        # Of all of the process, as the library knows no other: as many as fit into a body, whose bytes are limited.
        Payload.max_decode_packets = sys.maxsize
        self._quiet = RateLimitedLog(logger)
        self._outgoing: asyncio.Queue[tuple[str, list[str], list[Any]]] = asyncio.Queue()
        self._sender: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def deliver(self, links: Iterable[PlainLink], skip: PlainLink | None, namespace: str, text: bytes) -> None:
        sids = [link.sid for link in links if link is not skip]
        self._outgoing.put_nowait((namespace, sids, protocol.decode(text)))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        while not self._outgoing.empty():
            namespace, sids, (name, *arguments) = self._outgoing.get_nowait()
            if sids:
                await self.emit(name, tuple(arguments), to=sids, namespace=namespace)

    async def handle_request(self, request: web.Request) -> Any:
        """Handle an HTTP request, with the whole of its body: the library takes what has arrived so far for that."""
        limit = self.gateway.limits.connections
        if "sid" not in request.query and len(self.eio.sockets) >= limit:
            self._quiet.warning("refused a connection: there are %d; Limits(connections=...) says how many", limit)
            return web.Response(status=503, text="too many connections")
        if request.method == "POST":
            body = await request.content.readexactly(request.content_length or 0)
            return await super().handle_request(WholeRequest(request, body))
        return await super().handle_request(request)

    def link_of(self, sid: str, namespace: str) -> PlainLink:
        """The link of a socket that joins a namespace."""
        return PlainLink(sid, lambda: self._end(sid, namespace))

    def _end(self, sid: str, namespace: str) -> None:
        task = asyncio.get_running_loop().create_task(self.disconnect(sid, namespace=namespace))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def receive(self, socket: ClientSocket, event: str, arguments: list[Any]) -> Any:
        """Hand an event to the gateway and wait for its ack."""
        answer: asyncio.Future[tuple[Any, ...] | None] = asyncio.get_running_loop().create_future()
        socket.link.unanswered.add(answer)
        answer.add_done_callback(socket.link.unanswered.discard)
        try:
            protocol.check(arguments, self.gateway.limits.depth + 2)
        except BadRequest as err:
            self.gateway.refuse(socket, answer, err)
        else:
            self.gateway.receive(socket, event, answer, arguments)
        arguments_of_ack = await answer
        return self.not_handled if arguments_of_ack is None else arguments_of_ack
