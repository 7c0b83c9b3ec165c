"""One client connection: who it is, what it may still ask for, and the order of what it asked."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from bbio import protocol
from bbio.errors import Busy
from bbio.handshake import read_cookies
from bbio.identity import Identity
from bbio.server.budget import Budget, Rate, Resting
from bbio.server.memory import Address, Addresses, ListRoom
from bbio.streams import BACKEND_WIDE
from bbio.view import Scope, View

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from bbio.runtime import Runtime
    from bbio.server.limits import Limits

Key = tuple[str, Any] | None


class Asked(Protocol):
    """A request as its connection sees it."""

    @property
    def key(self) -> Key:
        """Return the key of requests that run in order: backend name and id; None when there is no order."""

    def weigh(self) -> int:
        """Return the bytes that it holds; 0 for few."""

    def start(self) -> bool:
        """Begin; True when it goes on and will call `finished`."""

    def let_go(self) -> None:
        """Hold nothing any more: it will not be started."""


class Peer(Protocol):
    """The writer to one client: the part that differs between the two engines."""

    # Whether an ack leaves at once, so that it keeps its place among the events of its socket.
    in_order: bool

    @property
    def is_behind(self) -> bool:
        """Return whether the client has much to read yet, so that it is not told what is only of interest now."""

    def ack(self, socket: ClientSocket, ack_id: Any, arguments: bytes) -> None:
        """Answer an event with arguments given as JSON."""

    def drop(self, reason: str) -> None:
        """End it at once."""


class IdentityIndex(Protocol):
    """The identities of all sockets, as one socket sees them."""

    clock: Callable[[], float]
    # How often identities were revoked.
    revocations: int

    def change(self, socket: ClientSocket, before: Identity | None, identity: Identity | None) -> None:
        """Note that a socket has another identity, or none any more."""


class Membership(Protocol):
    """Gate of the channels of a backend: it lets sockets in and out."""

    async def let_in(self, socket: ClientSocket, channel: str | None) -> None:
        """Let a client into a channel, see `Socket.join`."""

    def let_go(self, socket: ClientSocket, channel: str | None) -> None:
        """End that a client listens to a channel, see `Socket.leave`."""


class Connection(Rate):
    """One Engine.IO session: what its sockets (one per namespace) share.

    Parameters:
        headers: the HTTP headers of the handshake.
        remote: the client's address.
        limits: the application's limits.
        clock: seconds, never going back.
        waiting: what its address holds, the bytes of requests among it; by default an address of its own.
        budget: the time that it may take of the event loop; by default one of its own, by its clock.
    """

    def __init__(
        self,
        headers: CIMultiDictProxy[str],
        remote: str,
        limits: Limits,
        clock: Callable[[], float],
        waiting: Address | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.headers = headers
        self.remote = remote
        self.waiting = Addresses(limits).of(remote) if waiting is None else waiting
        self.room = ListRoom(limits, self.waiting)
        self.sockets: dict[str, ClientSocket] = {}
        self.closed = False
        self.running = 0
        self._limits = limits
        super().__init__(limits.requests_per_second, clock)
        # Requests for a model that is being worked on wait in its own queue; the rest wait for a free place.
        self._busy: dict[Key, deque[Asked]] = {}
        self._waiting: deque[Asked] = deque()
        self._queued = 0
        self._budget = Budget(Resting(), clock, clock) if budget is None else budget
        # Whether what was answered has not been taken yet, and the rest after requests that have taken long: one of
        # them is enough for nothing to be started.
        self._is_held = False
        self._resting: asyncio.TimerHandle | None = None
        self._is_paused = False

    @cached_property
    def cookies(self) -> Mapping[str, str]:
        """The cookies of the handshake."""
        return read_cookies(self.headers)

    @property
    def address(self) -> object:
        """Return the object that all connections of its address share."""
        return self.waiting

    def count_request(self) -> None:
        """Count one request.

        Raises:
            Busy: there were too many within this second.
            Flooded: there were many times too many.
        """
        self._counted += 1
        if self._counted > self._most and (left := self._over()):
            raise Busy("too many requests", retry_after=round(left, 3))

    def submit(self, asked: Asked) -> bool:
        """Start a request, or queue it behind those it must not overtake; whether it was queued.

        Raises:
            Busy: too many requests wait, or those that do hold too much.
        """
        key = asked.key
        behind = None if key is None else self._busy.get(key)
        if behind is None and self.running < self._limits.running and not self._waiting and not self._is_paused:
            self.check_room(asked)
            if asked.start():
                self.begun(asked)
            return False
        if self._queued >= self._limits.queued:
            raise Busy("too many requests are waiting", retry_after=1.0)
        self.check_room(asked)
        self.waiting.add(asked.weigh())
        self._queued += 1
        if behind is not None:
            behind.append(asked)
        else:
            self._waiting.append(asked)
        return True

    def has_begun(self, key: Key) -> bool:
        """Return whether requests of a key run or wait, so that others of it come after them."""
        return key in self._busy

    def check_room(self, asked: Asked) -> None:
        """Raise `Busy` when what waits or runs holds too much for another request."""
        size = asked.weigh()
        if size and not self.waiting.has_room(size):
            raise Busy("the requests that are waiting are too large", retry_after=1.0)

    def begun(self, asked: Asked) -> None:
        """Count a request that goes on, and was not queued."""
        self.waiting.add(asked.weigh())
        self._runs(asked.key)

    def _runs(self, key: Key) -> None:
        self.running += 1
        if key is not None:
            self._busy.setdefault(key, deque())

    def finished(self, asked: Asked) -> None:
        """A request that had gone on has ended: start what waited for it."""
        self.running -= 1
        self.waiting.add(-asked.weigh())
        key = asked.key
        if key is not None:
            behind = self._busy[key]
            while behind and not self._is_paused and not self.closed:
                if self._start(behind.popleft()):
                    self.running += 1
                    return
            self._waiting.extendleft(reversed(behind))
            del self._busy[key]
        self._start_waiting()

    def _start(self, asked: Asked) -> bool:
        """Start a request that has waited, at the expense of its connection, which may have to rest then."""
        budget = self._budget
        begun, worked = budget.clock(), budget.processor()
        self._queued -= 1
        goes_on = asked.start()
        if not goes_on:
            self.waiting.add(-asked.weigh())
        ended = budget.clock()
        budget.charge_work(begun, ended, budget.processor() - worked)
        if self._queued and budget.is_spent(ended):
            self._resting = asyncio.get_running_loop().call_later(budget.begin_rest(), self._rested)
            self._is_paused = True
        return goes_on

    def _rested(self) -> None:
        self._end_rest()
        self._start_waiting()

    def _end_rest(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
            self._is_paused = self._is_held
            self._budget.end_rest()

    def _start_waiting(self) -> None:
        while self._waiting and self.running < self._limits.running and not self._is_paused and not self.closed:
            asked = self._waiting.popleft()
            behind = None if asked.key is None else self._busy.get(asked.key)
            if behind is not None:
                behind.append(asked)
            elif self._start(asked):
                self._runs(asked.key)

    def hold(self) -> None:
        """Start nothing more until `go_on`: the client has not taken what it was answered."""
        self._is_held = self._is_paused = True

    def go_on(self) -> None:
        """Start what has waited for the client to read."""
        self._is_held = False
        self._is_paused = self._resting is not None
        self._start_waiting()

    @property
    def is_idle(self) -> bool:
        """Return whether a request may start at once: nothing runs, waits or is held back."""
        return not self.running and not self._is_paused

    def close(self) -> None:
        """Drop what is queued: nobody waits for it any more. What runs is finished."""
        self.closed = True
        self._end_rest()
        for queue in (self._waiting, *self._busy.values()):
            while queue:
                asked = queue.popleft()
                self.waiting.add(-asked.weigh())
                asked.let_go()
        self._queued = 0


class ClientSocket:
    """A connection within one namespace; layers see it as `req.socket`.

    Parameters:
        sid: the id of this socket.
        runtime: the backend whose namespace it is.
        connection: the connection it belongs to.
        peer: the engine's handle to write to; None where the library does the writing.
        auth: the JSON of what the client sent when it joined; None when it sent nothing.
        identities: the identities of all sockets; None where nothing is to know of this one's.
        membership: lets it into channels; None where nothing does.

    Attributes:
        granted: the channels that the server has let it into, whatever their rules say.
        to_listen: the channels of which it is told nothing until its client has listened to them again.
        version: the version of the protocol that its client speaks; None before its first listen.
        memo: what layers keep of it until its client says again who it is, each under a key of its own.
        is_suspended: whether its identity has ended: it is told nothing, and may ask nothing but `auth`.
        is_revoked: whether the application has ended it: what its client said before counts no more.
    """

    __slots__ = (
        "_auth",
        "_identity",
        "attendances",
        "backend",
        "channels",
        "client",
        "connection",
        "granted",
        "has_read_auth",
        "id_attribute",
        "identities",
        "is_revoked",
        "is_suspended",
        "is_tried",
        "last_channel",
        "left",
        "membership",
        "memo",
        "messages",
        "namespace",
        "owner",
        "peer",
        "public_client",
        "refusals",
        "runtime",
        "scopes",
        "sid",
        "state",
        "to_listen",
        "told_under",
        "version",
        "views",
    )

    def __init__(
        self,
        sid: str,
        runtime: Runtime,
        connection: Connection,
        peer: Any = None,
        auth: bytes | None = None,
        identities: IdentityIndex | None = None,
        membership: Membership | None = None,
    ) -> None:
        self.sid = sid
        self.runtime = runtime
        self.backend = runtime.backend
        self.namespace = runtime.namespace.encode()
        self.id_attribute = runtime.id_attribute
        self.connection = connection
        self.peer = peer
        # As JSON, whose size has a limit; what it decodes to may take twenty times as much.
        self._auth = auth
        # Its views by stream, where not all who follow that see the same: as they were when it was last asked who it
        # is. Of what all channels share it sees what it may see in each of its own.
        self.views: dict[str, View] = {}
        # Which records it may have in each channel it listens to, as it was when that was last asked; where it is.
        self.scopes: dict[str | None, Scope] = {}
        # The views of some records that it is told of events under, by stream; none of one whose view has changed.
        self.told_under: dict[str, View] = {}
        # Channels listened to, each with the protocol version of its listen.
        self.channels: dict[str | None, int] = {}
        self.last_channel: str | None = None
        # The own id of a client that knows not its public part, as its operations say it; None of one that does.
        self.client: str | None = ""
        # The public part of a client's own id, once it has said one.
        self.public_client = ""
        # Where it is present, and the count of its messages (bbio.server.presence); None as long as there are none.
        self.attendances: Any = None
        self.messages: Any = None
        # The answers to listens that were refused, by channel, as JSON.
        self.refusals: dict[str, bytes] = {}
        self.left = False
        self.identities = identities
        self.memo: dict[Any, Any] = {}
        self.is_suspended = False
        self.is_revoked = False
        # Whether it is there only to find out who a client would be.
        self.is_tried = False
        # Whether a layer has looked at what the client said when it joined, or in its last `auth`.
        self.has_read_auth = False
        self._identity: Identity | None = None
        self.membership = membership
        self.granted: frozenset[str | None] = frozenset()
        self.to_listen: frozenset[str | None] = frozenset()
        self.version: int | None = None
        self.state: dict[str, Any] = {}
        # The socket that it is tried for.
        self.owner: ClientSocket | None = None

    async def join(self, channel: str | None) -> None:
        if self.membership is not None:
            await self.membership.let_in(self.owner or self, channel)

    def leave(self, channel: str | None) -> None:
        if self.membership is not None:
            self.membership.let_go(self.owner or self, channel)

    @property
    def identity(self) -> Identity | None:
        """The identity of the client, as a layer has said when it was last asked."""
        return self._identity

    @identity.setter
    def identity(self, identity: Identity | None) -> None:
        before = self._identity
        if identity is not before:
            self._identity = identity
            if self.identities is not None and not self.is_tried:
                self.identities.change(self, before, identity)

    def now(self) -> float:
        return time.time() if self.identities is None else self.identities.clock()

    @property
    def revocations(self) -> int:
        return 0 if self.identities is None else self.identities.revocations

    @property
    def is_told_of_end(self) -> bool:
        """Return whether its client knows the event that tells of the end of an identity: older ones do not."""
        return self._auth is not None or any(self.channels.values())

    def try_auth(self, auth: bytes | None) -> ClientSocket:
        """Return a socket of the same client with another `auth`, to ask layers who that would be."""
        tried = ClientSocket(self.sid, self.runtime, self.connection, self.peer, auth, self.identities, self.membership)
        tried.is_tried = True
        tried.owner, tried.state, tried.granted = self, self.state, self.granted
        return tried

    def take_auth(self, tried: ClientSocket) -> None:
        """Take the `auth` and the identity of a socket of `try_auth`."""
        self._auth, self.memo = tried._auth, tried.memo
        self.is_suspended = self.is_revoked = False
        before, self._identity = self._identity, tried.identity
        if self.identities is not None:
            # Also when it is the same as before: what was to come after its end is not to come any more.
            self.identities.change(self, before, tried.identity)

    def has_same_auth(self, tried: ClientSocket) -> bool:
        """Return whether a socket of `try_auth` says what this one has said before."""
        return self._auth == tried._auth

    def see(self, stream: str, view: View | None) -> bool:
        """From now on it has this view of the stream of a channel, None when it follows that no more.

        Returns: whether it had another.
        """
        views = self.views
        views.pop(BACKEND_WIDE, None)
        before = views.pop(stream, None)
        if held := (0 if view is None else view.asked_size) - (0 if before is None else before.asked_size):
            self.connection.waiting.add(held)
        if view is not None:
            views[stream] = view
        if views:
            views[BACKEND_WIDE] = View.common(views.values())
        return before is not None and before != view

    def forget_views(self) -> None:
        """It sees nothing any more."""
        for stream in self.views.keys() - {BACKEND_WIDE}:
            self.see(stream, None)

    @property
    def headers(self) -> Mapping[str, str]:
        return self.connection.headers

    @property
    def cookies(self) -> Mapping[str, str]:
        return self.connection.cookies

    @property
    def auth(self) -> Any:
        self.has_read_auth = True
        return None if self._auth is None else protocol.decode(self._auth)

    @property
    def remote(self) -> str:
        return self.connection.remote
