"""The gateway: `listen` and `sync` from a client socket, down through the registry and back up as one ack."""

from __future__ import annotations

import asyncio
from typing import Any

from bbio import protocol
from bbio.backend import Backend
from bbio.errors import BadRequest, Forbidden, SyncError, Timeout, Unavailable
from bbio.registry import Registry
from bbio.requests import Request, Response
from bbio.server.connection import ClientSocket, Connection, Key
from bbio.server.delivery import Delivery, Lane, Link, Publisher
from bbio.server.limits import Limits
from bbio.server.stepping import Stepper
from bbio.streams import BACKEND_WIDE, Commit, channel_stream


class Gateway:
    """Takes what clients send, gives back acks, and keeps who listens to what.

    Parameters:
        registry: the served backends.
        limits: what a client may ask for.
        lane: the engine's way to send.
        event: the event prefix told to clients in the reply to a `listen`.
    """

    def __init__(self, registry: Registry, limits: Limits, lane: Lane, event: str) -> None:
        self.registry = registry
        self.limits = limits
        self.stepper = Stepper()
        self.delivery = Delivery(lane, self.stepper)
        self.publishers: dict[str, Publisher] = {}
        self.public_options = {"event": event}
        self.listened = protocol.encode([self.public_options])
        self.exchanges: set[Exchange] = set()

    def publisher(self, name: str) -> Publisher:
        """The way of a backend's events to their listeners."""
        publisher = self.publishers[name] = Publisher(self.delivery, "/" + name)
        return publisher

    def joined(self, sid: str, backend: Backend, connection: Connection, link: Link) -> ClientSocket:
        """A client has joined a backend's namespace."""
        socket = ClientSocket(sid, backend, connection, link)
        connection.sockets[backend.namespace] = socket
        connection.closed = False  # it is not, when its only namespace was left and joined again
        return socket

    def left(self, socket: ClientSocket) -> None:
        """A client has left a backend's namespace, or its connection has ended."""
        connection = socket.connection
        if connection.sockets.get(socket.backend.namespace) is socket:
            del connection.sockets[socket.backend.namespace]
        streams = [channel_stream(channel) for channel in socket.channels]
        self.publishers[socket.backend.name].unfollow(socket, [*streams, BACKEND_WIDE])
        socket.channels.clear()
        if not connection.sockets:
            connection.close()

    def receive(self, socket: ClientSocket, event: str, ack_id: Any, arguments: Any) -> None:
        """Take a `sync` or `listen` with its arguments, already decoded; one ack follows if one is asked for."""
        connection = socket.connection
        try:
            connection.count_request()
            exchange = (self._sync if event == "sync" else self._listen)(socket, ack_id, arguments)
            if connection.running == 0:
                if exchange.start():
                    connection.begun(exchange.key)
            elif connection.submit(exchange.key, exchange.start):
                exchange.expire_later()
        except SyncError as err:
            self.reject(socket, ack_id, err)

    def _sync(self, socket: ClientSocket, ack_id: Any, arguments: Any) -> Exchange:
        fields = protocol.read_sync(arguments)
        channel = fields.channel
        if channel is protocol.UNSAID:
            channel = socket.last_channel
        elif channel is not None and channel not in socket.channels:
            raise Forbidden("listen to a channel before a sync names it")
        backend, model = socket.backend, fields.model
        req = Request(
            fields.method,
            model,
            fields.options,
            backend=backend,
            channel=channel,
            socket=socket,
            op=fields.op,
            digest=fields.digest,
            rev=fields.rev,
        )
        key: Key = None
        if model is not None:
            model_id = model.get(backend.id_attribute)
            if isinstance(model_id, (str, int)):
                key = (backend.name, model_id)
        return SyncExchange(self, socket, ack_id, req, key)

    def _listen(self, socket: ClientSocket, ack_id: Any, arguments: Any) -> Exchange:
        fields = protocol.read_listen(arguments)
        if fields.channel not in socket.channels and len(socket.channels) >= self.limits.channels:
            raise BadRequest(f"a socket may listen to {self.limits.channels} channels")
        req = Request("read", None, {}, backend=socket.backend, channel=fields.channel, socket=socket, event="listen")
        return ListenExchange(self, socket, ack_id, req, ("listen", socket.sid), fields)

    def reject(self, socket: ClientSocket, ack_id: Any, err: SyncError) -> None:
        """Answer with an error."""
        if ack_id is not None:
            socket.link.ack(socket, ack_id, protocol.error_reply(err))

    async def drain(self, seconds: float) -> None:
        """Let what runs finish, for a time; what does not is answered `Unavailable`."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self.exchanges and (left := deadline - asyncio.get_running_loop().time()) > 0:
            tasks = [exchange.task for exchange in self.exchanges if exchange.task is not None]
            done = [asyncio.ensure_future(exchange.ended()) for exchange in self.exchanges]
            if not tasks:
                break
            await asyncio.wait(done, timeout=left)
            for waiter in done:
                waiter.cancel()
        for exchange in list(self.exchanges):
            exchange.give_up(Unavailable("the server is stopping", retry_after=1.0))


class Exchange:
    """One request on its way and its ack.

    Parameters:
        gateway: the gateway.
        socket: who asked.
        ack_id: what the engine needs to answer, None when no answer is wanted.
        req: the request.
        key: what must be worked on in order, see `Connection.submit`.
    """

    __slots__ = ("_ended", "ack_id", "gateway", "key", "replied", "req", "socket", "task", "timer")

    def __init__(self, gateway: Gateway, socket: ClientSocket, ack_id: Any, req: Request, key: Key) -> None:
        self.gateway = gateway
        self.socket = socket
        self.ack_id = ack_id
        self.req = req
        self.key = key
        self.replied = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[None] | None = None

    def start(self) -> bool:
        """Begin; True when it goes on after this step."""
        if self.replied:
            return False  # its deadline passed while it waited
        self.task = self.gateway.stepper.start(self._run())
        if self.task is None:
            if self.timer is not None:
                self.timer.cancel()
            return False
        if self.timer is None:
            self.expire_later()
        self._ended = self.task.get_loop().create_future()
        self.gateway.exchanges.add(self)
        return True

    def expire_later(self) -> None:
        """Set the deadline: it counts from when the request arrived."""
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(self.gateway.limits.deadline, self.give_up, Timeout())

    async def ended(self) -> None:
        """Wait until the request has ended."""
        if self._ended is not None:
            await asyncio.shield(self._ended)

    def give_up(self, err: SyncError) -> None:
        """Answer with an error now, and cancel what runs."""
        self.reply(protocol.error_reply(err))
        if self.task is not None:
            self.task.cancel()

    def reply(self, arguments: bytes) -> None:
        """Send the ack, once."""
        if self.replied:
            return
        self.replied = True
        if self.ack_id is not None:
            self.socket.link.ack(self.socket, self.ack_id, arguments)

    async def _run(self) -> None:
        try:
            await self.work()
        except asyncio.CancelledError:
            self.reply(protocol.error_reply(Unavailable("the request was cancelled")))
        except Exception as err:
            self.reply(protocol.error_reply(self.gateway.registry.internal_error(err, self.req)))
        if self._ended is not None:
            self._finish(self._ended)

    def _finish(self, ended: asyncio.Future[None]) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.task = None
        self.gateway.exchanges.discard(self)
        if not ended.done():
            ended.set_result(None)
        self.socket.connection.finished(self.key)

    async def work(self) -> None:
        """Do what was asked and reply."""
        raise NotImplementedError


class SyncExchange(Exchange):
    """A `sync`: through the stack, then the ack at its place among the events it caused."""

    __slots__ = ()

    async def work(self) -> None:
        req = self.req
        if req.op is None:
            self._answer(await self.gateway.registry.dispatch(req))
            return
        # A concurrent duplicate waits for the first to end, and then finds its reply.
        running = req.backend.running_operations
        while (waiting := running.get(req.op)) is not None:
            turn = asyncio.get_running_loop().create_future()
            waiting.append(turn)
            await turn
        running[req.op] = []
        try:
            self._answer(await self.gateway.registry.dispatch(req))
        finally:
            for turn in running.pop(req.op):
                if not turn.done():
                    turn.set_result(None)

    def _answer(self, res: Response) -> None:
        if res.failure is not None:
            assert isinstance(res.failure, SyncError)
            self.reply(protocol.error_reply(res.failure))
            return
        req, commit = self.req, self.req.committed
        try:
            body = self._body(res, commit)
        except Exception as err:
            self.reply(protocol.error_reply(self.gateway.registry.internal_error(err, req)))
            return
        if req.op is None and not self.socket.channels.get(req.channel):
            arguments = protocol.reply(body)
        elif commit is not None:
            arguments = protocol.reply_v1(body, protocol.position_json(commit.event))
        else:
            arguments = protocol.reply_v1(
                body, protocol.revisions(res.result, req.backend.id_attribute, req.revs or {})
            )
        delivery = self.gateway.delivery
        in_order = (
            self.socket.link.in_order
            and not self.replied
            and self.ack_id is not None
            and commit is not None
            and not commit.duplicate
            and delivery.flush_before(commit.event)
        )
        self.reply(arguments)
        if in_order:
            delivery.flush_replied()

    def _body(self, res: Response, commit: Commit | None) -> bytes:
        if commit is not None and res.result is commit.record and self.req.backend.stacks[self.req.method].bare:
            return commit.body
        return protocol.encode(res.result)


class ListenExchange(Exchange):
    """A `listen`: admission, then the rooms of the channel's streams."""

    __slots__ = ("fields",)

    def __init__(
        self, gateway: Gateway, socket: ClientSocket, ack_id: Any, req: Request, key: Key, fields: protocol.Listen
    ) -> None:
        super().__init__(gateway, socket, ack_id, req, key)
        self.fields = fields

    async def work(self) -> None:
        failure = await self.gateway.registry.admit(self.req)
        if failure is not None:
            self.reply(protocol.error_reply(failure))
            return
        if self.fields.version:
            await self._join_version_1()
        else:
            self._join_legacy()

    def _join_legacy(self) -> None:
        socket, publisher = self.socket, self.publisher
        self.gateway.delivery.flush()
        publisher.follow(socket, channel_stream(self.fields.channel), 0)
        if not publisher.follows(socket, BACKEND_WIDE):
            publisher.follow(socket, BACKEND_WIDE, 0)
        self._listening(0)
        self.reply(self.gateway.listened)

    async def _join_version_1(self) -> None:
        socket, log = self.socket, self.req.backend.log
        self.gateway.delivery.flush()
        streams = {}
        for stream in protocol.followed(self.fields.channel):
            events = await log.since(stream, *protocol.read_position(self.fields.since, stream))
            position = (await log.positions([stream]))[stream]
            streams[stream] = protocol.stream_reply(position, events)
            self.publisher.follow(socket, stream, protocol.VERSION)
        self._listening(protocol.VERSION)
        self.reply(protocol.encode([{**self.gateway.public_options, "v": protocol.VERSION, "streams": streams}]))

    @property
    def publisher(self) -> Publisher:
        return self.gateway.publishers[self.req.backend.name]

    def _listening(self, version: int) -> None:
        self.socket.channels[self.fields.channel] = version
        self.socket.last_channel = self.fields.channel
