"""The gateway: `listen` and `sync` from a client socket, down through the registry and back up as one ack."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from bbio import protocol
from bbio.backend import Backend
from bbio.errors import BadRequest, Forbidden, SyncError, Timeout, Unavailable
from bbio.registry import Registry
from bbio.requests import Request, Response
from bbio.server.connection import ClientSocket, Connection, Key
from bbio.server.delivery import Delivery, Lane, Link, Publisher
from bbio.server.limits import Limits
from bbio.server.stepping import Stepper
from bbio.streams import BACKEND_WIDE, channel_stream


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
        self._one_ended: asyncio.Future[None] | None = None

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
        try:
            if event == "sync":
                self.receive_sync(socket, ack_id, protocol.read_sync(arguments))
            else:
                socket.connection.count_request()
                self._begin(self._listen(socket, ack_id, protocol.read_listen(arguments)))
        except SyncError as err:
            self.reject(socket, ack_id, err)

    def receive_sync(self, socket: ClientSocket, ack_id: Any, fields: protocol.Sync) -> None:
        """Take a `sync` whose fields are read already."""
        try:
            socket.connection.count_request()
            channel = fields.channel
            if channel is protocol.UNSAID:
                channel = socket.last_channel
            elif channel and channel not in socket.channels:
                raise Forbidden("listen to a channel before a sync names it")
            model, op = fields.model, fields.op
            req = Request(fields.method, model, fields.options or {}, socket.backend, channel or None, socket)
            if op is not None:
                req.op = fields.operation
                req.digest = fields.digest
            req.rev = fields.rev
            self._begin(SyncExchange(self, socket, ack_id, req, model.get(socket.id_attribute)))
        except SyncError as err:
            self.reject(socket, ack_id, err)

    def _begin(self, exchange: Exchange) -> None:
        connection = exchange.socket.connection
        if connection.running == 0:
            if exchange.start():
                connection.begun(exchange.key)
        elif connection.submit(exchange.key, exchange.start):
            exchange.expire_later()

    def _listen(self, socket: ClientSocket, ack_id: Any, fields: protocol.Listen) -> Exchange:
        if fields.channel not in socket.channels and len(socket.channels) >= self.limits.channels:
            raise BadRequest(f"a socket may listen to {self.limits.channels} channels")
        req = Request("read", None, {}, socket.backend, fields.channel, socket, event="listen")
        return ListenExchange(self, socket, ack_id, req, fields=fields)

    def reject(self, socket: ClientSocket, ack_id: Any, err: SyncError) -> None:
        """Answer with an error."""
        if ack_id is not None:
            socket.link.ack(socket, ack_id, protocol.error_reply(err))

    async def drain(self, seconds: float) -> None:
        """Let what runs finish, for a time; what does not is answered `Unavailable`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.exchanges and (left := deadline - loop.time()) > 0:
            self._one_ended = loop.create_future()
            await asyncio.wait([self._one_ended], timeout=left)
        for exchange in list(self.exchanges):
            exchange.give_up(Unavailable("the server is stopping", retry_after=1.0))

    def ended(self, exchange: Exchange) -> None:
        """A request that had gone on has ended."""
        self.exchanges.discard(exchange)
        if self._one_ended is not None and not self._one_ended.done():
            self._one_ended.set_result(None)


class Exchange(msgspec.Struct, eq=False):
    """One request on its way and its ack.

    Parameters:
        gateway: the gateway.
        socket: who asked.
        ack_id: what the engine needs to answer, None when no answer is wanted.
        req: the request.
        model_id: the id of the model it is about, as it arrived.
        replied: whether the ack is out.
        task: what carries on with it, once it has waited.
        timer: its deadline, once it has waited.
    """

    gateway: Gateway
    socket: ClientSocket
    ack_id: Any
    req: Request
    model_id: Any = None
    replied: bool = False
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def key(self) -> Key:
        """What must be worked on in order: a backend's name and a model's id; None for what has no order."""
        raise NotImplementedError

    def start(self) -> bool:
        """Begin; True when it goes on after this step, and will call `finished` of its connection."""
        if self.replied:
            return False  # its deadline passed while it waited
        stepper = self.gateway.stepper
        bare = self.req.backend.stacks[self.req.method].bare
        task = stepper.start_bare(self.work()) if bare else stepper.start(self.work())
        if task is None:
            if self.timer is not None:
                self.timer.cancel()
            return False
        self.task = task
        if self.timer is None:
            self.expire_later()
        self.gateway.exchanges.add(self)
        return True

    def expire_later(self) -> None:
        """Set the deadline: it counts from when the request arrived."""
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(self.gateway.limits.deadline, self.give_up, Timeout())

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

    async def work(self) -> None:
        """Do what was asked and reply; `fail` on any error, `finish` at the end."""
        raise NotImplementedError

    def fail(self, err: BaseException) -> None:
        """Answer with an error that nothing above has handled."""
        if isinstance(err, Exception):
            self.reply(protocol.error_reply(self.gateway.registry.internal_error(err, self.req)))
        else:
            self.reply(protocol.error_reply(Unavailable("the request was cancelled")))

    def finish(self) -> None:
        """The work is done: of what has waited, let go of what waits for it."""
        if self.task is not None:
            self.task = None
            if self.timer is not None:
                self.timer.cancel()
            self.gateway.ended(self)
            self.socket.connection.finished(self.key)


class SyncExchange(Exchange):
    """A `sync`: through the stack, then the ack at its place among the events it caused."""

    @property
    def key(self) -> Key:
        model_id = self.model_id
        return (self.req.backend.name, model_id) if isinstance(model_id, (str, int)) else None

    async def work(self) -> None:
        req = self.req
        op = req.op
        running = req.backend.running_operations
        try:
            if op is not None:
                # A concurrent duplicate waits for the first to end, and then finds its reply.
                while op in running:
                    await self._turn(running, op)
                running[op] = None
            try:
                res = await self.gateway.registry.dispatch(req)
                if op is None and res.failure is None and not self.socket.channels.get(req.channel):
                    self.reply(protocol.reply(res.body or protocol.encode(res.result)))
                else:
                    self._answer(res)
            finally:
                if op is not None:
                    for turn in running.pop(op) or ():
                        if not turn.done():
                            turn.set_result(None)
        except BaseException as err:
            self.fail(err)
        self.finish()

    async def _turn(self, running: dict[str, list[asyncio.Future[None]] | None], op: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        waiting = running[op]
        if waiting is None:
            waiting = running[op] = []
        waiting.append(turn)
        await turn

    def _answer(self, res: Response) -> None:
        if res.failure is not None:
            assert isinstance(res.failure, SyncError)
            self.reply(protocol.error_reply(res.failure))
            return
        req = self.req
        commit = req.committed
        body = res.body or protocol.encode(res.result)
        if commit is None:
            revs = protocol.revisions(res.result, req.backend.id_attribute, req.revs or {})
            self.reply(protocol.reply_v1(body, revs))
            return
        delivery = self.gateway.delivery
        in_order = (
            self.socket.link.in_order
            and not self.replied
            and self.ack_id is not None
            and not commit.duplicate
            and delivery.flush_before(commit.event)
        )
        self.reply(protocol.reply_v1(body, protocol.position_json(commit.event)))
        if in_order:
            delivery.flush_replied()


class ListenExchange(Exchange, kw_only=True):
    """A `listen`: admission, then the followers of the channel's streams."""

    fields: protocol.Listen

    @property
    def key(self) -> Key:
        return ("listen", self.socket.sid)

    async def work(self) -> None:
        try:
            failure = await self.gateway.registry.admit(self.req)
            if failure is not None:
                self.reply(protocol.error_reply(failure))
            elif self.fields.version:
                await self._join_version_1()
            else:
                self._join_legacy()
        except BaseException as err:
            self.fail(err)
        self.finish()

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
