"""Requests about presence, and messages: who may, what others see of who asks, and the ack."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from bbio import protocol
from bbio.errors import BadRequest, Busy, Forbidden, SyncError
from bbio.requests import Request
from bbio.server.connection import ClientSocket, Key
from bbio.server.exchange import Exchange, ended
from bbio.server.permissions import Permissions
from bbio.server.presence.keys import member_key, subject_of
from bbio.server.presence.messages import Messages
from bbio.server.presence.pace import PerSecond
from bbio.server.presence.rooms import Rooms, topic_of
from bbio.stack.ephemeral import NO_CARD


class AnsweredExchange(Exchange):
    """A request whose `answer` is its ack, or raises."""

    runs_layers: ClassVar[bool] = True

    async def work(self) -> None:
        try:
            self.reply(await self.answer())
        except SyncError as err:
            self.refuse(err)
        except BaseException as err:
            self.fail(err)
        self.finish()

    @abstractmethod
    async def answer(self) -> bytes:
        """Do what was asked; return the arguments of the ack."""

    def check_listening(self, before: str) -> None:
        """Raise what keeps the socket from a channel that it does not listen to.

        Parameters:
            before: what it wants to do in the channel, as it follows "before".

        Raises:
            Unauthorized: its identity has ended.
            Forbidden: it does not listen.
        """
        socket, channel = self.socket, self.req.channel
        if socket.is_suspended:
            raise ended()
        if socket.left or channel not in socket.channels:
            raise Forbidden(f"listen to a channel before {before}")

    async def check_permission(self, before: str) -> None:
        """Ask the `before` layers of `read`, which say who asks and may refuse.

        Parameters:
            before: as of `check_listening`.

        Raises:
            SyncError: the client may not.
        """
        self.check_listening(before)
        failure = await self.exchanges.registry.permit(self.socket.runtime, self.req)
        if failure is not None:
            raise failure


class PresenceExchange(AnsweredExchange, kw_only=True):
    """A client joins the presence of a channel, changes what it says of itself, or leaves.

    Parameters:
        fields: what the client has said.
        rooms: the rooms.
        permissions: those of the backend.
    """

    fields: protocol.PresenceFields
    rooms: Rooms
    permissions: Permissions

    @property
    def key(self) -> Key:
        # After the `listen` that was sent before it.
        return ("listen", self.socket.sid)

    async def answer(self) -> bytes:
        at_once = present(self.rooms, self.socket, self.fields)
        return await self._join() if at_once is None else at_once

    async def _join(self) -> bytes:
        socket, rooms, permissions = self.socket, self.rooms, self.permissions
        self.check_listening("you are present in it")
        rooms.check_join(socket)
        while True:
            rechecks = permissions.rechecks
            await self.check_permission("you are present in it")
            card = await socket.runtime.ephemeral.show(self.req)
            self.check_listening("you are present in it")
            if rechecks == permissions.rechecks:
                return await rooms.join(self.req, card, self.fields.state)
            # Permissions were looked at meanwhile, and this client was not among those who are present.
            self.req = ephemeral_request("presence", socket, self.fields.channel)


class MessageExchange(AnsweredExchange, kw_only=True):
    """A client tells a message to the other listeners of a channel.

    Parameters:
        fields: what the client has said.
        rooms: the rooms.
        messages: those of the backend.
    """

    fields: protocol.MessageFields
    rooms: Rooms
    messages: Messages

    @property
    def key(self) -> Key:
        # One after the other: of several that wait the latest is told.
        return ("message", self.socket.sid)

    async def answer(self) -> bytes:
        socket, req, name, channel = self.socket, self.req, self.fields.name, self.fields.channel
        ephemeral = socket.runtime.ephemeral
        await self.check_permission("you send a message to it")
        data = await ephemeral.decide(name, req, self.fields.data)
        if len(data) > self.exchanges.limits.message:
            raise _too_large(self.exchanges.limits.message)
        attendance = self.rooms.attendance(socket, channel)
        if attendance is not None:
            key, card = attendance.entry.key, attendance.entry.card
        else:
            card = await self._card()
            key = member_key(self.rooms.presence.secret, topic_of(socket, channel), subject_of(req, socket))
        self.check_listening("you send a message to it")
        self.messages.tell(channel, name, key, protocol.message(name, data, channel, key, card), socket.peer)
        return protocol.DONE

    async def _card(self) -> bytes:
        """Return the card of who is not present; an empty one of who is kept out of the presence."""
        try:
            return await self.socket.runtime.ephemeral.show(self.req)
        except SyncError:
            return NO_CARD


def ephemeral_request(event: str, socket: ClientSocket, channel: str | None) -> Request:
    """Return the request that layers get."""
    return Request("read", None, {}, socket.backend, channel, socket, event=event)


def present(rooms: Rooms, socket: ClientSocket, fields: protocol.PresenceFields) -> bytes | None:
    """Do what a `presence` asks of a socket that is present, or that leaves; return the arguments of its ack.

    Returns: None of one that is to join.
    """
    if fields.leaves:
        rooms.leave(socket, fields.channel)
        return protocol.DONE
    attendance = rooms.attendance(socket, fields.channel)
    if attendance is None:
        return None
    if fields.state is not None:
        attendance.change(fields.state)
    return attendance.room.reply(attendance.entry.key, asks=fields.asks)


def check_message(socket: ClientSocket, fields: protocol.MessageFields, max_bytes: int) -> None:
    """Refuse a message that nobody is to be told.

    Parameters:
        socket: the socket that it came from.
        fields: what the client has said.
        max_bytes: the bytes that its data may have, as JSON.

    Raises:
        BadRequest: the backend does not declare it, or it is too large.
        Busy: the socket sends too many.
    """
    messages: PerSecond = socket.messages
    if left := messages.count():
        raise Busy("too many messages", retry_after=round(left, 3))
    if fields.name not in socket.runtime.ephemeral.messages:
        raise BadRequest(f"{socket.runtime.name!r} has no message of this name")
    if len(protocol.encode(fields.data)) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> BadRequest:
    return BadRequest(f"the data of a message may have {max_bytes} bytes as JSON")


def undeclared(socket: ClientSocket, event: str) -> BadRequest:
    """Return the answer to an event of presence or messages that a backend does not declare."""
    declared: Any = "messages" if event == "message" else event
    return BadRequest(f"{socket.runtime.name!r} has no {declared}")
