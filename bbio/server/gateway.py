"""The gateway: `listen` and `sync` from a client socket, down through the registry and back up as one ack."""

from __future__ import annotations

import asyncio
from typing import Any

from bbio import protocol
from bbio.errors import BadRequest, Forbidden, SyncError, Timeout
from bbio.registry import Registry
from bbio.requests import Request
from bbio.runtime import Runtime
from bbio.server.authenticating import AuthExchange
from bbio.server.budget import Flooded
from bbio.server.calls import ServerCalls
from bbio.server.connection import ClientSocket, Connection, Peer
from bbio.server.delivery import Delivery, Transport
from bbio.server.ephemeral import (
    MessageExchange,
    PresenceExchange,
    check_message,
    ephemeral_request,
    present,
    undeclared,
)
from bbio.server.exchange import Exchange, Exchanges, SyncExchange, ended
from bbio.server.identities import Identities
from bbio.server.limits import Limits
from bbio.server.listening import ListenExchange, UnlistenExchange
from bbio.server.memberships import Memberships
from bbio.server.memory import Addresses
from bbio.server.presence.messages import Messages
from bbio.server.presence.pace import Clock, LoopClock, PerSecond
from bbio.server.presence.rooms import Rooms
from bbio.server.subscribers import Subscribers
from bbio.server.turns import Turns
from bbio.store import Store
from bbio.streams import BACKEND_WIDE, Kept, channel_stream

# Seconds between two looks for what is too old to be kept.
EXPIRY_SECONDS = 30.0
# Socket.IO's words for the ends of connections after which nobody comes back in a moment.
FINAL_REASONS = ("client disconnect", "ping timeout")


class Gateway:
    """Takes what clients send, gives back acks, and keeps who listens to what.

    Parameters:
        registry: the served backends.
        limits: what a client may ask for.
        addresses: where clients come from.
        transport: the engine's way to send.
        public: what clients are told in the reply to a `listen`, `event` among it.
    """

    def __init__(
        self, registry: Registry, limits: Limits, addresses: Addresses, transport: Transport, public: dict[str, Any]
    ) -> None:
        self.registry = registry
        self.limits = limits
        self.addresses = addresses
        self.delivery = Delivery(transport)
        self.rooms = Rooms(self.delivery, limits)
        self.messages: dict[str, Messages] = {}
        self.exchanges = Exchanges(registry, limits, self.delivery, self.rooms)
        self.calls = ServerCalls(registry, limits)
        self.subscribers: dict[str, Subscribers] = {}
        self.memberships = Memberships(self.exchanges, self.subscribers)
        # What the histories and operations of all backends take in memory.
        self.kept = Kept(limits.memory / 4)
        self.identities = Identities(self._warn, self.suspend, self._close_ended, renewal_time=limits.renewal_time)
        self._connecting = Turns(limits.connecting)
        self._expiry: asyncio.TimerHandle | None = None
        self._public, self._listened = public, protocol.encode([public])

    def add(self, runtime: Runtime, store: Store | None = None) -> None:
        """Open a backend for clients, or open it anew, when it loses what it has in memory.

        Parameters:
            runtime: the backend.
            store: a store in place of the declared one.
        """
        if runtime.name in self.subscribers:
            runtime.log.share_memory(Kept())
        subscribers = self.subscribers[runtime.name] = Subscribers(
            self.exchanges, runtime, self.subscribers, self.suspend, self.identities.of_session
        )
        runtime.open(subscribers, store, self.calls)
        self.messages[runtime.name] = Messages(
            self.delivery, subscribers.listeners, runtime.namespace, self.rooms.clock
        )
        # What it keeps in memory shares what all may.
        runtime.log.share_memory(self.kept)

    def open(self) -> None:
        """The application starts, or starts again.

        Raises:
            ConfigurationError: a backend follows one that is not served.
            DefinitionError: a backend follows one without `@visible`, or one that does not say how its records were.
        """
        for runtime in self.registry.values():
            runtime.check_followed(self.registry)
        self._connecting = Turns(self.limits.connecting)  # of this event loop
        self.delivery.stepper.open()
        for subscribers in self.subscribers.values():
            subscribers.open()
        self._expire()

    def use_clock(self, clock: Clock | None) -> None:
        """Have what is told later be told by another clock; None for that of the event loop. Called before `add`."""
        self.rooms.clock = clock or LoopClock()

    async def follow(self) -> None:
        """Have backends hear of those that they follow, and take calls. Called once all have started."""
        for subscribers in self.subscribers.values():
            await subscribers.follow_others()
        await self.rooms.start()
        self.calls.open()

    async def drain(self, seconds: float) -> None:
        """Let requests and calls finish, for a time; what does not is `Unavailable`."""
        await asyncio.gather(self.exchanges.drain(seconds), self.calls.drain(seconds))

    def _expire(self) -> None:
        self.kept.expire()
        for subscribers in self.subscribers.values():
            subscribers.expire()
        self._expiry = asyncio.get_running_loop().call_later(EXPIRY_SECONDS, self._expire)

    async def close(self) -> None:
        """The application stops: take no calls, and look at no log any more."""
        await self.calls.close()
        self.identities.close()
        if self._expiry is not None:
            self._expiry.cancel()
        await self.rooms.stop()
        for messages in self.messages.values():
            messages.close()
        for subscribers in self.subscribers.values():
            await subscribers.close()

    @property
    def busy(self) -> bool:
        """Return whether a request, an event or a log is being worked on."""
        return (
            bool(self.exchanges.running or self.calls.running)
            or self.delivery.busy
            or any(each.busy for each in self.subscribers.values())
        )

    @property
    def is_telling(self) -> bool:
        """Return whether a batch of presence, or a message, waits for its moment."""
        return self.rooms.is_due or any(messages.is_due for messages in self.messages.values())

    def joined(self, sid: str, runtime: Runtime, connection: Connection, peer: Peer, auth: Any = None) -> ClientSocket:
        """A client has joined a backend's namespace.

        Parameters:
            auth: what it sent when it joined, unchecked.

        Raises:
            BadRequest: that cannot be accepted, so it has not joined.
        """
        credentials = protocol.check_auth(auth, self.limits.auth, self.limits.depth)
        socket = ClientSocket(sid, runtime, connection, peer, credentials, self.identities, self.memberships)
        connection.sockets[runtime.namespace] = socket
        connection.closed = False  # it is not, when its only namespace was left and joined again
        return socket

    def left(self, socket: ClientSocket, reason: str = "") -> None:
        """A client has left a backend's namespace, or its connection has ended.

        Parameters:
            reason: why, as Socket.IO says it.
        """
        connection = socket.connection
        if connection.sockets.get(socket.runtime.namespace) is socket:
            del connection.sockets[socket.runtime.namespace]
        socket.left = True
        socket.identity = None
        self.memberships.forget(socket)
        streams = [channel_stream(channel) for channel in socket.channels]
        self.subscribers[socket.runtime.name].listeners.unfollow(socket, [*streams, BACKEND_WIDE])
        socket.forget_views()
        # Who meant to leave does not come back in a moment, and who was silent for long has had its time.
        self.rooms.left(socket, lingers=reason not in FINAL_REASONS)
        socket.channels.clear()
        if not connection.sockets:
            connection.close()

    def receive(self, socket: ClientSocket, event: str, ack_id: Any, arguments: Any) -> None:
        """Take an event with its arguments, already decoded; one ack follows if one is asked for."""
        try:
            socket.connection.count_request()
            if event == "sync":
                fields = protocol.read_sync(arguments)
                text = "" if fields.op is None else protocol.encode(["sync", *arguments]).decode()
                self._sync(socket, ack_id, fields, text)
            elif event == "auth":
                self._authenticate(socket, ack_id, protocol.read_auth(arguments))
            elif event == "unlisten":
                self._unlisten(socket, ack_id, protocol.read_unlisten(arguments))
            elif event in protocol.EPHEMERAL and event not in socket.runtime.client_events:
                raise undeclared(socket, event)
            elif event == "presence":
                self._presence(socket, ack_id, protocol.read_presence(arguments, self.limits.state))
            elif event == "message":
                self._begin(self._message(socket, ack_id, protocol.read_message(arguments)))
            else:
                listen = protocol.read_listen(arguments)
                self._begin(self._listen(socket, ack_id, listen))
                if socket.version is None:
                    self.memberships.greet(socket, listen)
        except SyncError as err:
            self.reject(socket, ack_id, err)
        except Flooded as err:
            socket.peer.drop(str(err))
        except Exception as err:
            self.reject(socket, ack_id, self.registry.report(err, f"{socket.runtime.name} {event}", socket.remote))

    def receive_sync(self, socket: ClientSocket, ack_id: Any, fields: protocol.Sync, text: str) -> None:
        """Take a `sync` whose fields are read already, with the JSON they were read from."""
        try:
            socket.connection.count_request()
            self._sync(socket, ack_id, fields, text)
        except SyncError as err:
            self.reject(socket, ack_id, err)
        except Flooded as err:
            socket.peer.drop(str(err))
        except Exception as err:
            self.reject(socket, ack_id, self.registry.report(err, f"{socket.runtime.name} sync", socket.remote))

    def _sync(self, socket: ClientSocket, ack_id: Any, fields: protocol.Sync, text: str) -> None:
        if socket.is_suspended:
            raise ended()
        channel = fields.channel
        if channel is protocol.UNSAID:
            channel = socket.last_channel
        if channel and channel not in socket.channels:
            refusal = socket.refusals.get(channel)
            if refusal is not None:
                self._answer(socket, ack_id, refusal)
                return
            if not socket.runtime.rules:  # else the channel's rule is asked
                raise Forbidden("listen to a channel before a sync names it")
        model = fields.model
        req = Request(fields.method, model, fields.options or {}, socket.backend, channel or None, socket)
        if fields.op is not None:
            req.op = fields.op
            if socket.client is not None:
                socket.client = fields.op.c
            req.payload = text
        req.rev = fields.rev
        req.room = socket.connection.room
        self._begin(SyncExchange(self.exchanges, socket, ack_id, req, model.get(socket.id_attribute), text=text))

    def _begin(self, exchange: Exchange) -> None:
        connection = exchange.socket.connection
        try:
            if connection.is_idle:
                if exchange.start():
                    connection.begun(exchange)
            elif connection.submit(exchange):
                exchange.queue()
        except SyncError:
            raise
        except Exception as err:
            exchange.fail(err)  # unless it has been answered

    def _listen(self, socket: ClientSocket, ack_id: Any, fields: protocol.ListenFields) -> Exchange:
        if socket.is_suspended:
            raise ended()
        if fields.channel not in socket.channels and len(socket.channels) >= self.limits.channels:
            raise BadRequest(f"a socket may listen to {self.limits.channels} channels")
        req = Request("read", None, {}, socket.backend, fields.channel, socket, event="listen")
        subscribers = self.subscribers[socket.runtime.name]
        return ListenExchange(
            self.exchanges,
            socket,
            ack_id,
            req,
            fields=fields,
            subscribers=subscribers,
            public=self._public,
            listened=self._listened,
        )

    def _unlisten(self, socket: ClientSocket, ack_id: Any, channels: list[str | None]) -> None:
        if channels:
            req = Request("read", None, {}, socket.backend, None, socket, event="listen")
            subscribers = self.subscribers[socket.runtime.name]
            self._begin(
                UnlistenExchange(self.exchanges, socket, ack_id, req, channels=channels, subscribers=subscribers)
            )
        elif ack_id is not None:
            # Whoever asks wants to know whether the server is there, whatever it is busy with.
            socket.peer.ack(socket, ack_id, protocol.UNLISTENED)

    def _presence(self, socket: ClientSocket, ack_id: Any, fields: protocol.PresenceFields) -> None:
        if not socket.connection.has_begun(("listen", socket.sid)):
            answer = present(self.rooms, socket, fields)
            if answer is not None:
                self._answer(socket, ack_id, answer)
                return
        req = ephemeral_request("presence", socket, fields.channel)
        permissions = self.subscribers[socket.runtime.name].permissions
        self._begin(
            PresenceExchange(
                self.exchanges, socket, ack_id, req, fields=fields, rooms=self.rooms, permissions=permissions
            )
        )

    def _message(self, socket: ClientSocket, ack_id: Any, fields: protocol.MessageFields) -> Exchange:
        if socket.messages is None:
            socket.messages = PerSecond(self.limits.messages_per_second, self.rooms.clock)
        check_message(socket, fields, self.limits.message)
        req, messages = ephemeral_request("message", socket, fields.channel), self.messages[socket.runtime.name]
        return MessageExchange(self.exchanges, socket, ack_id, req, fields=fields, rooms=self.rooms, messages=messages)

    # Connections

    async def welcome(self, socket: ClientSocket) -> SyncError | None:
        """Run the layers of `@on_connect` for a client; return why it may not connect, None if it may."""
        connecting = socket.runtime.connecting
        assert connecting is not None, "else there is nothing to wait for"
        req = Request("read", None, {}, socket.backend, None, socket, event="connect")
        try:
            async with asyncio.timeout(self.limits.deadline), self._connecting.turn(socket.connection.address):
                # In a task, so that what layers set in their context stays there.
                admission = connecting.admit(req, self.registry.internal_error)
                failure = (await asyncio.get_running_loop().create_task(admission)).failure
        except TimeoutError:
            failure = Timeout()
        assert failure is None or isinstance(failure, SyncError)
        return failure

    # Identities

    def _authenticate(self, socket: ClientSocket, ack_id: Any, token: str) -> None:
        auth = protocol.check_auth({**(socket.auth or {}), "token": token}, self.limits.auth, self.limits.depth)
        assert auth is not None, "there is a token in it"
        req = Request("read", None, {}, socket.backend, None, socket, event="listen")
        subscribers = self.subscribers[socket.runtime.name]
        self._begin(AuthExchange(self.exchanges, socket, ack_id, req, auth=auth, subscribers=subscribers))

    def suspend(self, socket: ClientSocket) -> None:
        """End the identity of a socket: it is told nothing more, until its client says again who it is."""
        if socket.left or socket.is_suspended:
            return
        socket.is_suspended = True
        self.delivery.flush()  # what was committed before it still may have
        self._warn(socket, 0.0)
        self.subscribers[socket.runtime.name].permissions.pause(socket)
        self.rooms.left(socket, lingers=False)
        self.identities.close_later(socket)

    def revoke(self, *, subject: str | None = None, session: str | None = None) -> int:
        """End the identity of all sockets of a user or of a session; return of how many.

        Parameters:
            subject: the text by which the user is known.
            session: the id of a session on the server.
        """
        identities = self.identities
        identities.revocations += 1
        sockets = identities.of_user(subject) if subject is not None else identities.of_session(session or "")
        for socket in sockets:
            socket.is_revoked = True
            self.suspend(socket)
        for subscribers in self.subscribers.values():
            subscribers.permissions.rechecks += 1  # who is being admitted is asked again
        return len(sockets)

    def revoke_channel(self, channel: str | None, backend: str | None = None) -> int:
        """End that anybody listens to a channel; return how many clients did.

        Parameters:
            channel: the channel; None for the default one.
            backend: the name of its backend; None for the channel of that name in each backend.
        """
        names = [name for name in self.subscribers if backend in (None, name)]
        return sum(self.memberships.end(name, channel) for name in names)

    def _warn(self, socket: ClientSocket, seconds: float) -> None:
        if socket.is_told_of_end:
            self.delivery.send([socket.peer], socket.runtime.namespace, protocol.auth_end(seconds))

    def _close_ended(self, socket: ClientSocket) -> None:
        socket.peer.drop("its identity has ended")

    def refuse(self, socket: ClientSocket, ack_id: Any, err: SyncError) -> None:
        """Answer with an error to a request that cannot be read; it counts like any other."""
        try:
            socket.connection.count_request()
        except SyncError as busy:
            err = busy
        except Flooded as flooded:
            socket.peer.drop(str(flooded))
            return
        self.reject(socket, ack_id, err)

    def reject(self, socket: ClientSocket, ack_id: Any, err: SyncError) -> None:
        """Answer with an error."""
        self._answer(socket, ack_id, protocol.error_reply(err))

    def _answer(self, socket: ClientSocket, ack_id: Any, arguments: bytes) -> None:
        if ack_id is not None:
            socket.peer.ack(socket, ack_id, arguments)
