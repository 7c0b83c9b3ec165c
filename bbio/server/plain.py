"""The plain lane: the same gateway on python-socketio as it is, through its public API alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import socketio

from bbio import protocol
from bbio.errors import BadRequest
from bbio.server.connection import ClientSocket
from bbio.server.shared import SharedServer

UNREADABLE = object()


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

    def __init__(self, sid: str) -> None:
        self.sid = sid
        self.unanswered: set[asyncio.Future[tuple[Any, ...] | None]] = set()

    def joined(self, socket: ClientSocket) -> None:
        """The client has joined a namespace."""

    def left(self, socket: ClientSocket) -> None:
        """The client has left a namespace: nobody waits for answers any more."""
        for answer in self.unanswered:
            if not answer.done():
                answer.set_result(None)

    def ack(self, socket: ClientSocket, ack_id: asyncio.Future[tuple[Any, ...] | None], arguments: bytes) -> None:
        if not ack_id.done():
            ack_id.set_result(tuple(protocol.decode(arguments)))


class PlainServer(SharedServer):
    """An unmodified Socket.IO server with the lane the gateway needs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(serializer=PlainPacket, **options)
        self._outgoing: asyncio.Queue[tuple[str, list[str], list[Any]]] = asyncio.Queue()
        self._sender: asyncio.Task[None] | None = None

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

    def link_of(self, sid: str, namespace: str) -> PlainLink:
        """The link of a socket that joins a namespace."""
        return PlainLink(sid)

    async def receive(self, socket: ClientSocket, event: str, arguments: list[Any]) -> Any:
        """Hand an event to the gateway and wait for its ack."""
        answer: asyncio.Future[tuple[Any, ...] | None] = asyncio.get_running_loop().create_future()
        socket.link.unanswered.add(answer)
        answer.add_done_callback(socket.link.unanswered.discard)
        try:
            protocol.check(arguments, self.gateway.limits.depth + 2)
        except BadRequest as err:
            self.gateway.reject(socket, answer, err)
        else:
            self.gateway.receive(socket, event, answer, arguments)
        arguments_of_ack = await answer
        return self.not_handled if arguments_of_ack is None else arguments_of_ack
