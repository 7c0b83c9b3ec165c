"""Memberships: the channels that the server lets sockets into by itself, and how their clients learn of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bbio import protocol
from bbio.errors import BadRequest, SyncError
from bbio.requests import Request
from bbio.server.connection import ClientSocket
from bbio.server.exchange import Exchanges
from bbio.server.listening import JoinExchange
from bbio.server.subscribers import Subscribers
from bbio.streams import channel_stream


def read_channel(channel: str | None) -> str | None:
    """Return a channel as the server's own code names it; None for the default one.

    Raises:
        ValueError: it cannot be one.
    """
    try:
        return protocol.check_channel(channel)
    except BadRequest as err:
        raise ValueError(f"{channel!r:.80}: {err.message}") from None


class Memberships:
    """The channels that sockets were let into, of all backends.

    Parameters:
        exchanges: the requests that are being worked on.
        subscribers: those of each backend.
    """

    def __init__(self, exchanges: Exchanges, subscribers: Mapping[str, Subscribers]) -> None:
        self._exchanges = exchanges
        self._subscribers = subscribers
        # The sockets that were let into each channel, by backend and channel.
        self._members: dict[tuple[str, str | None], dict[ClientSocket, None]] = {}

    async def let_in(self, socket: ClientSocket, channel: str | None) -> None:
        """Let a client into a channel, see `Socket.join`.

        Raises:
            SyncError: a `before` layer of `read` refuses it there.
            ValueError: this cannot be a channel, or it is one too many.
        """
        channel = read_channel(channel)
        if socket.left:
            return
        if channel not in socket.granted:
            most = self._exchanges.limits.channels
            if len(socket.granted | socket.channels.keys() | {channel}) > most:
                raise ValueError(f"a socket may listen to {most} channels")
            # Before anything waits: a layer that is asked may let it in once more.
            self._grant(socket, channel)
            failure = await (self._follow(socket, channel) if socket.version == 0 else self._ask(socket, channel))
            if failure is not None and not socket.left:
                self._take_back(socket, channel)
                raise failure
        if channel not in socket.channels and channel in socket.granted:
            self._tell_of(socket, channel)

    def let_go(self, socket: ClientSocket, channel: str | None) -> None:
        """End that a client listens to a channel, see `Socket.leave`.

        Raises:
            ValueError: this cannot be a channel.
        """
        channel = read_channel(channel)
        self._take_back(socket, channel)
        self._subscribers[socket.runtime.name].permissions.dismiss(socket, channel, "left")

    def end(self, backend: str, channel: str | None) -> int:
        """End that anybody is in a channel of a backend; return how many clients listened to it."""
        for socket in list(self._members.get((backend, channel), ())):
            self._take_back(socket, channel)
        return self._subscribers[backend].permissions.end(channel)

    def greet(self, socket: ClientSocket, listen: protocol.ListenFields) -> None:
        """Note the version of a client, which its first listen says, and have it in the channels it was let into.

        Parameters:
            socket: the socket.
            listen: the listen.
        """
        socket.version = listen.version
        for channel in socket.granted - {listen.channel}:
            if listen.version:
                self._tell_of(socket, channel)
            else:
                self._exchanges.stepper.start(self._follow_later(socket, channel))

    async def _follow_later(self, socket: ClientSocket, channel: str | None) -> None:
        async with asyncio.timeout(self._exchanges.limits.deadline):
            if await self._follow(socket, channel) is not None:
                self._take_back(socket, channel)

    def forget(self, socket: ClientSocket) -> None:
        """Forget a socket whose client is gone."""
        for channel in socket.granted:
            self._take_back(socket, channel)

    def _grant(self, socket: ClientSocket, channel: str | None) -> None:
        socket.granted |= {channel}
        if channel:
            socket.refusals.pop(channel, None)
        self._members.setdefault((socket.runtime.name, channel), {})[socket] = None

    def _take_back(self, socket: ClientSocket, channel: str | None) -> None:
        place = (socket.runtime.name, channel)
        members = self._members.get(place)
        socket.granted -= {channel}
        if members is not None:
            members.pop(socket, None)
            if not members:
                del self._members[place]

    async def _ask(self, socket: ClientSocket, channel: str | None) -> SyncError | None:
        """Return why `before` layers refuse a client in a channel; None if they do not."""
        req = Request("read", None, {}, socket.backend, channel, socket, event="listen")
        admission = self._exchanges.registry.admit(socket.runtime, req)
        # In a task, so that what layers set in their context stays there.
        failure, _ = await asyncio.get_running_loop().create_task(admission)
        return failure

    async def _follow(self, socket: ClientSocket, channel: str | None) -> SyncError | None:
        """Have a client of the original library told of a channel from now on; return why it may not be."""
        exchange = self._joining(socket, channel)
        await asyncio.get_running_loop().create_task(exchange.work())
        return exchange.failure

    def _joining(self, socket: ClientSocket, channel: str | None) -> JoinExchange:
        return JoinExchange(
            self._exchanges,
            socket,
            None,
            Request("read", None, {}, socket.backend, channel, socket, event="listen"),
            fields=protocol.ListenFields(channel, 0, {}),
            subscribers=self._subscribers[socket.runtime.name],
        )

    def _tell_of(self, socket: ClientSocket, channel: str | None) -> None:
        """Tell a client that knows it that it was let into a channel."""
        if socket.version and not socket.is_suspended:
            text = protocol.resync(channel_stream(channel), "joined")
            self._exchanges.delivery.send([socket.peer], socket.runtime.namespace, text)
