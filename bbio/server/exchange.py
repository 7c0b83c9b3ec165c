"""One request on its way and its ack; a `sync` through the stack."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from contextvars import Context, copy_context
from typing import Any, ClassVar

import msgspec

from bbio import protocol
from bbio.errors import BadRequest, EncodingError, SyncError, Timeout, Unauthorized, Unavailable, UnknownOutcome
from bbio.protocol import decode, encode
from bbio.registry import Registry
from bbio.requests import Found, Request
from bbio.server.connection import ClientSocket, Key
from bbio.server.delivery import Delivery
from bbio.server.limits import Limits
from bbio.server.presence.rooms import Rooms
from bbio.stack.once import refused
from bbio.stack.stack import Run
from bbio.streams import Commit
from bbio.typed import as_json
from bbio.weight import weigh

# Of a read that no store has answered.
UNANSWERED = Found(None)


def ended() -> Unauthorized:
    """Return the error of a client whose identity has ended."""
    return Unauthorized("this identity has ended: send a new token, or connect again", expired=True)


class Exchanges:
    """The requests that are being worked on, and what they all need.

    Parameters:
        registry: the served backends.
        limits: what a client may ask for.
        delivery: where the events go that they cause.
        rooms: who is present.
    """

    def __init__(self, registry: Registry, limits: Limits, delivery: Delivery, rooms: Rooms) -> None:
        self.registry = registry
        self.limits = limits
        self.delivery = delivery
        self.rooms = rooms
        self.stepper = delivery.stepper
        # Those that have waited for something, or wait for it now.
        self.running: set[Exchange] = set()
        self._one_ended: asyncio.Future[None] | None = None

    def ended(self, exchange: Exchange) -> None:
        """A request that had gone on has ended."""
        self.running.discard(exchange)
        if self._one_ended is not None and not self._one_ended.done():
            self._one_ended.set_result(None)

    async def drain(self, seconds: float) -> None:
        """Let what runs finish, for a time; what does not is answered `Unavailable`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.running and (left := deadline - loop.time()) > 0:
            self._one_ended = loop.create_future()
            await asyncio.wait([self._one_ended], timeout=left)
        for exchange in list(self.running):
            exchange.give_up(Unavailable("the server is stopping", retry_after=1.0))


class Exchange(msgspec.Struct, eq=False):
    """One request on its way and its ack.

    Parameters:
        exchanges: what all requests share.
        socket: who asked.
        ack_id: what the engine needs to answer, None when no answer is wanted.
        req: the request.
        model_id: the id of the model it is about, as it arrived.
        replied: whether the ack is out.
        task: what carries on with it, once it has waited.
        timer: its deadline, once it has waited.
        context: the context that it arrived in, where it waits for others: it must not begin in one of theirs.
        text: the JSON that it arrived in, until it has been weighed.
        size: the bytes that it holds, once it has been weighed.
        res: what a sync has come to so far, once it has begun.
    """

    # Whether code of the application runs even where the stack has no layers.
    runs_layers: ClassVar[bool] = False

    exchanges: Exchanges
    socket: ClientSocket
    ack_id: Any
    req: Request
    model_id: Any = None
    replied: bool = False
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    context: Context | None = None
    text: str | None = ""
    size: int = 0
    res: Run | None = None

    @property
    @abstractmethod
    def key(self) -> Key:
        """Return the key of requests that run in order: backend name and model id; None when there is no order."""

    @property
    def has_committed(self) -> bool:
        """Return whether the request has committed a write."""
        return self.res is not None and self.res.commit is not None

    def weigh(self) -> int:
        """Return the bytes that it holds; 0 for few."""
        if self.text is not None:
            self.size = weigh(self.text or protocol.encode(self.req.model))
            self.text = None
        return self.size

    def let_go(self) -> None:
        """Hold nothing any more: who asked has left, and it will not be started."""
        self.replied = True
        assert self.timer is not None, "what waits has a deadline"
        self.timer.cancel()

    def start(self) -> bool:
        """Begin; True when it goes on after this step, and will call `finished` of its connection."""
        if self.replied:
            return False  # its deadline passed while it waited
        if self.timer is not None and asyncio.get_running_loop().time() >= self.timer.when():
            # The event loop was busy for so long that the deadline has not been told yet.
            self.timer.cancel()
            self.refuse(Timeout())
            return False
        stepper = self.exchanges.stepper
        is_bare = self.socket.runtime.stacks[self.req.method].is_bare and not self.runs_layers
        task = stepper.start_bare(self.work()) if is_bare else stepper.start(self.work(), self.context)
        if task is None:
            if self.timer is not None:
                self.timer.cancel()
            return False
        self.task = task
        if self.timer is None:
            self.expire_later()
        self.exchanges.running.add(self)
        return True

    def queue(self) -> None:
        """Wait for others, in the context that it arrived in."""
        self.context = copy_context()
        self.expire_later()

    def expire_later(self) -> None:
        """Set the deadline: it counts from when the request arrived."""
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(self.exchanges.limits.deadline, self._expire)

    def _expire(self) -> None:
        # The error is made now: hardly any request needs it, and it costs more than the timer.
        self.give_up(Timeout())

    def give_up(self, err: SyncError) -> None:
        """Answer with an error now, and cancel what runs."""
        self.refuse(err)
        if self.task is not None:
            self.task.cancel()

    def reply(self, arguments: bytes) -> None:
        """Send the ack, once."""
        if self.replied:
            return
        self.replied = True
        if self.ack_id is not None:
            self.socket.peer.ack(self.socket, self.ack_id, arguments)

    def refuse(self, err: SyncError) -> None:
        """Answer with an error, which holds no frames afterwards."""
        self.reply_refusal(protocol.error_reply(err))
        _forget_frames(err)

    def reply_refusal(self, arguments: bytes) -> None:
        """Send the ack of a refusal, once."""
        self.reply(arguments)

    @abstractmethod
    async def work(self) -> None:
        """Do what was asked and reply; `fail` on any error, `finish` at the end."""

    def fail(self, err: BaseException) -> None:
        """Answer with an error that nothing above has handled."""
        if isinstance(err, Exception):
            self.refuse(self.exchanges.registry.internal_error(err, self.req))
        else:
            self.refuse(Unavailable("the request was cancelled"))

    def finish(self) -> None:
        """The work is done: of what has waited, let go of what waits for it."""
        if self.task is not None:
            self.task = None
            assert self.timer is not None
            self.timer.cancel()
            self.exchanges.ended(self)
            self.socket.connection.finished(self)


class SyncExchange(Exchange):
    """A `sync`: through the stack, then the ack at its place among the events it caused."""

    @property
    def key(self) -> Key:
        model_id = self.model_id
        return (self.socket.runtime.name, model_id) if isinstance(model_id, (str, int)) else None

    async def work(self) -> None:
        req = self.req
        try:
            res = self.res = Run()
            await self.exchanges.registry.dispatch(self.socket.runtime, req, res)
            if self.socket.is_suspended:
                self.refuse(self._after_end(res))
            elif res.failure is not None:
                assert isinstance(res.failure, SyncError)
                self.refuse(res.failure)
            else:
                body = res.body or protocol.encode(res.result)
                if res.commit is not None:
                    self._reply_to_write(body, res.commit)
                elif len(body) > self.exchanges.limits.reply:
                    self.refuse(BadRequest(f"the answer has {len(body)} bytes; ask for less, such as with a limit"))
                elif req.op is None and not self.socket.channels.get(req.channel):
                    res.result = None  # it may be large, and so are the copies of the answer on its way
                    self.reply(protocol.reply(body))
                else:
                    attribute, found = self.socket.id_attribute, res.found or UNANSWERED
                    reply = protocol.read_reply_v1(body, res.result, attribute, found.revs or {}, found.page)
                    res.result = None
                    self.reply(reply)
        except BaseException as err:
            if isinstance(err, EncodingError):
                self.socket.runtime.stacks[req.method].explain(err, req, res.result)
            self.fail(err)
        if req.held:
            self.socket.connection.room.leave(req)
        self.finish()

    def _after_end(self, res: Run) -> SyncError:
        """Return the answer to a client whose identity has ended meanwhile: it is nobody's any more.

        Clients repeat what is refused so, which must do nothing twice.
        """
        failure, req = res.failure, self.req
        if isinstance(failure, SyncError) and not refused(failure):
            return failure
        is_done = failure is None and req.method != "read"
        # A committed operation is known again.
        if is_done and (res.commit is None or req.op is None):
            return UnknownOutcome("this identity ended before the answer; what was asked for may have been done")
        return ended()

    def _reply_to_write(self, body: bytes, commit: Commit) -> None:
        if self.req.scope is not None or (self.socket.told_under and self._is_told_in_part(commit)):
            self._reply_in_view(body, commit)
        elif self.req.op is None and not self.socket.channels.get(self.req.channel):
            self.reply(protocol.reply(body))
        else:
            self._reply_in_order(body, commit)

    def _is_told_in_part(self, commit: Commit) -> bool:
        view = self.socket.told_under.get(commit.event.stream)
        return view is not None and not view.is_whole

    def _reply_in_view(self, body: bytes, commit: Commit) -> None:
        """Say what the record is to the view that the writer is told of events under; show what it may have.

        The event is told besides: only the stream says where in it the write is.
        """
        socket, event = self.socket, commit.event
        view = socket.told_under.get(event.stream)
        # What it may have now: permissions may have changed since the write began.
        scope = socket.scopes.get(self.req.channel, self.req.scope)
        # Layers may have answered with an instance, or with what is no record.
        record = decode(encode(as_json(socket.runtime.schema, commit.record)))
        after = record if isinstance(record, dict) and event.method != "delete" else None
        is_in = None if view is None else after is not None and view.filter.matches(after)
        if scope is not None and (after is None or not scope.sees(after)):
            key, told = socket.id_attribute, decode(event.body)
            body = encode({key: told[key]} if isinstance(told, dict) and key in told else None)
        if self.req.op is None and not socket.channels.get(self.req.channel):
            self.reply(protocol.reply(body))
            return
        seen = socket.views.get(event.stream)
        place = event if seen is None else seen.place(event)
        self.reply(protocol.reply_v1(body, place, self.req.method, is_in))

    def _reply_in_order(self, body: bytes, commit: Commit) -> None:
        """Reply to a write, at the place of its event if that has not been sent yet."""
        socket, delivery, event = self.socket, self.exchanges.delivery, commit.event
        followed = None
        if not commit.duplicate and not self.replied and self.ack_id is not None and socket.peer.in_order:
            followed = delivery.take(event)
        view = socket.views.get(event.stream)
        place = event if view is None else view.place(event)
        self.reply(protocol.reply_v1(body, place, self.req.method))
        if followed is not None and (
            followed.legacy or len(followed.version_1) > 1 or socket not in followed.version_1
        ):
            delivery.fan_out(followed, event, socket, replied=True)


def _forget_frames(err: BaseException | None) -> None:
    """Have an error that was answered hold no frames any more.

    They hold the request and the response, which holds the error: all of them would stay until Python looks for
    garbage, which takes long where there are many large ones.
    """
    while err is not None and err.__traceback__ is not None:
        err.__traceback__ = None
        err = err.__context__
