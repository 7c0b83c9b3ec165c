"""Requests and responses: what a middleware stack works on."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, Self

import msgspec

from bbio.errors import SyncError
from bbio.generic import M
from bbio.identity import WARN_SECONDS, Identity, principal
from bbio.streams import Op, Operation, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

Next = Callable[[], Awaitable[Any]]
"""The type of `next` in a layer of `@use`: `await next()` runs what is below and returns its result."""

Method = Literal["create", "read", "update", "patch", "delete"]


class Rules(NamedTuple):
    """The rules of a sync method.

    Parameters:
        writes: whether it changes a model.
        notified_as: the method of the event that others are told; empty where they are told nothing.
        needs_id: whether it is about a model that there is, so that it must name one.
    """

    writes: bool
    notified_as: str = ""
    needs_id: bool = False


Origin = Literal["socket", "server"]
"""Where a request comes from, `req.origin`."""

RULES: dict[Method, Rules] = {
    "create": Rules(writes=True, notified_as="create"),
    "read": Rules(writes=False),
    "update": Rules(writes=True, notified_as="update", needs_id=True),
    # A patch travels as an update with the whole model.
    "patch": Rules(writes=True, notified_as="update", needs_id=True),
    "delete": Rules(writes=True, notified_as="delete", needs_id=True),
}
METHODS: tuple[Method, ...] = tuple(RULES)
WRITES: frozenset[Method] = frozenset(method for method, rules in RULES.items() if rules.writes)
NOTIFIED_AS: dict[str, str] = {method: rules.notified_as for method, rules in RULES.items() if rules.notified_as}


class Socket(Protocol):
    """The client connection behind a request, as layers see it (`req.socket`).

    Example:
        `await req.socket.join("game-7")`
    """

    identity: Identity | None
    # What layers keep of this connection until its client says again who it is, each under a key of its own.
    memo: dict[Any, Any]

    @property
    def state(self) -> dict[str, Any]:
        """A dict in which layers keep what they know of this connection, for as long as it lasts; empty at first."""

    async def join(self, channel: str | None) -> None:
        """Let the client into a channel, whatever its rule says, until the connection ends or `leave`.

        A client of version 1 is told, and then listens to it; one of the original library gets the channel's
        notifications from now on. A connection that has not listened to anything yet is told when it does.

        Parameters:
            channel: the channel; None for the default one.

        Raises:
            SyncError: a `before` layer of `read` refuses the client in that channel.
            ValueError: this cannot be a channel, or the connection was let into too many.
        """

    def leave(self, channel: str | None) -> None:
        """Take back what `join` gave, and end listening to a channel. The client may ask to listen again.

        Parameters:
            channel: the channel; None for the default one.
        """

    @property
    def revocations(self) -> int:
        """The number of revocations so far: layers ask again for what they have found out before the last one."""

    def now(self) -> float:
        """Return the time, in seconds since 1970, by which identities end: that of a test is its own."""

    @property
    def sid(self) -> str:
        """The id of this connection within the backend."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The HTTP headers of the handshake."""

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies of the handshake."""

    @property
    def auth(self) -> dict[str, Any] | None:
        """A copy of what the client sent when it joined the backend, Socket.IO's `auth`: untrusted; None if nothing."""

    @property
    def remote(self) -> str:
        """The client's address, from trusted proxies' headers when it came through one."""


class Room(Protocol):
    """The room that there is for lists which are made for one connection."""

    def most(self, req: Request) -> ListSize:
        """Return the largest size that a list may have."""

    def passes_on(self, req: Request) -> bool:
        """Return whether what is read for a request goes to the client as it is: no layer looks at it."""

    async def hold(self, req: Request, size: ListSize) -> None:
        """Hold a list for a request, and no other for it; wait while others hold too many."""


class ListSize(NamedTuple):
    """The bytes of a list: as JSON, and of what Python holds for it where it is decoded."""

    json: float
    decoded: float = 0

    @classmethod
    def of(cls, json: float) -> ListSize:
        """The size of a decoded list of which no more is known than its JSON."""
        return cls(json, json * DECODED_BYTES)

    def has_room_for(self, other: ListSize) -> bool:
        """Return whether another list takes no more than this, in either way."""
        return other.json <= self.json and other.decoded <= self.decoded


# What Python holds for a byte of a list's JSON, such as of short texts.
DECODED_BYTES = 10
# Bytes of a list's JSON up to which it does not count.
SHORT_LIST = 65_536
# What a list may come to that the server reads for itself.
ENDLESS = ListSize(float("inf"), float("inf"))


class Found(msgspec.Struct, eq=False, gc=False):
    """The result of a store's `read`.

    Parameters:
        models: the model with the id that was asked for, or the list of models.
        revs: the revision of each model, by its id; None if the store keeps no revisions.
        next: the cursor of the next page, None at the end; left out if the client has not asked for pages.
        total: the number of all models that the query matches; None unless the client has asked for it.

    Example:
        >>> Found([{"id": 1}], {1: 5}, next=None).page
        {'next': None}
    """

    models: Any
    revs: dict[Any, int] | None = None
    next: str | msgspec.UnsetType | None = msgspec.UNSET
    total: int | None = None

    @property
    def page(self) -> dict[str, Any] | None:
        """Return the fields of a page that are sent besides the models; None where there was no query."""
        if self.next is msgspec.UNSET:
            return None
        return {"next": self.next} if self.total is None else {"next": self.next, "total": self.total}


class Request(msgspec.Struct, Generic[M], eq=False):
    """One sync on its way through the middleware stack. `Request[Todo]` tells type checkers what its model is.

    `session`, `user` and `state` are set by middleware; nothing a client sends can set them. `origin` says where the
    request comes from; nothing can set it.

    Parameters:
        method: `create`, `read`, `update`, `patch` or `delete`.
        model: the model as the client sent it, or a typed object if the backend has a model; layers may replace or
            change it.
        options: the client's untrusted extras.
        backend: the backend instance that answers.
        channel: the channel the request belongs to, None for the default channel; from server-side state.
        socket: the client connection, None for a request of the server.
        op: the operation id, None when the client sent none (docs/protocol.md, "Operation ids, channels, revisions").
        payload: the `sync` as the client sent it, as JSON: it tells this operation from another under the same id.
        rev: the revision the client based its write on, None when it sent none.
        event: `sync`, or `listen` while a client is being admitted to a channel, or `connect` for `@on_connect`.
        user: the user who asks, an object with an `id` or a `sub`; None when nobody has logged in.
        scope: which records the client may have, as `@visible` says; None for requests of the server itself, and where
            all are visible.

    Example:
        >>> req = Request("patch", {"id": 7, "done": True}, channel="home", user={"id": "ann"})
        >>> req.method, req.model["done"], req.user["id"], req.event
        ('patch', True, 'ann', 'sync')
    """

    method: Method
    model: M = None  # type: ignore[assignment]
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    backend: Any = None
    channel: str | None = None
    socket: Socket | None = None
    op: Op | None = None
    payload: str = ""
    rev: int | None = None
    event: str = "sync"
    user: Any = None
    scope: Any = None
    # What a typed model was made of (bbio.typed).
    entry: Any = None
    # Where what it reads for a list counts, None of a request that nobody waits for; and how many bytes it holds there.
    room: Room | None = None
    held: float = 0
    # Most requests need neither of the two dicts.
    _session: dict[str, Any] | None = None
    _state: dict[str, Any] | None = None
    # What a store of an earlier version has left here of what it found.
    _left: dict[str, Any] | None = None
    # Who asks, as a layer has found out.
    identity: Identity | None = None

    @property
    def origin(self) -> Origin:
        """Return `"socket"` for a request of a client, `"server"` for a call of the server's own code."""
        return "socket"

    @property
    def is_trusted(self) -> bool:
        """Return whether the server asks on its own behalf, for no user: nothing is hidden from it."""
        return False

    @property
    def is_for_client(self) -> bool:
        """Return whether the rules of who may see what hold: a client asks, or the server does for a user."""
        return self.socket is not None

    @property
    def is_upsert(self) -> bool:
        """Return whether an update creates the model where there is none, whatever the store says."""
        return False

    def asking(self, method: Method, model: Any) -> Request:
        """Return another request of the same client, or of the same caller for the same user."""
        return Request(method, model, {}, self.backend, self.channel, self.socket)

    @property
    def session(self) -> dict[str, Any]:
        """The client's session, a dict that middleware fills; empty at first."""
        if self._session is None:
            self._session = {}
        return self._session

    @session.setter
    def session(self, session: dict[str, Any]) -> None:
        self._session = session

    @property
    def state(self) -> dict[str, Any]:
        """A dict in which layers pass values to each other during this request."""
        if self._state is None:
            self._state = {}
        return self._state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._state = state

    def identify(
        self, user: Any, session: str | None = None, expires: float | None = None, warn: float = WARN_SECONDS
    ) -> None:
        """Say who asks, for layers that find it out. What a layer above has said stays: `user`, and the identity.

        Parameters:
            user: the user.
            session: the id of a session on the server, by which it can be ended.
            expires: when this ends, in seconds since 1970; None for never.
            warn: seconds before the end at which the client is told.

        Example:
            >>> req = Request("read")
            >>> req.identify({"id": "ann"})
            >>> req.user["id"]
            'ann'
        """
        self.take(Identity(user, session, expires, warn), user)

    def take(self, identity: Identity, user: Any) -> None:
        """Take an identity that a layer has kept from an earlier request, with a user that is this request's own."""
        if self.user is None:
            self.user = user
        if self.identity is None:
            self.identity = identity
            if self.socket is not None:
                self.socket.identity = identity

    @property
    def session_id(self) -> str | None:
        """The id of the server-side session, by which it can be revoked; None without one. It is not the cookie."""
        return None if self.identity is None else self.identity.session

    @property
    def id(self) -> Any:
        """The id of the model, as the client sent it; None for a create and for a read of the collection."""
        if self.entry is not None:
            return self.entry.id
        return self.model.get(self.backend.id_attribute) if isinstance(self.model, dict) else None

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies of the client's handshake; an empty mapping for a request that the server makes itself."""
        return {} if self.socket is None else self.socket.cookies

    @property
    def digest(self) -> int:
        """The payload in 64 bits, signed, for stores on disk."""
        return int.from_bytes(blake2b(canonical(self.payload), digest_size=8).digest(), "big", signed=True)

    @property
    def operation(self) -> Operation | None:
        """The key under which the operation is remembered: the client with its user, and the number; None without one.

        Raises:
            StackError: `user` has no id that is the same each time.
        """
        op = self.op
        if op is None:
            return None
        user = self.user
        return op.c if user is None else owned(user, op.c), op.n

    @property
    def has_left(self) -> bool:
        """Return whether a store of an earlier version has left something here of what it found."""
        return self._left is not None

    def found(self, result: Any) -> Found:
        """Return what a store's `read` has returned as `Found`, which it need not be."""
        return result if isinstance(result, Found) else Found(result, **(self._left or {}))

    def _leave(self, written: str, **left: Any) -> None:
        warnings.warn(f"write `{written}` in the store's read", DeprecationWarning, stacklevel=3)
        self._left = {**(self._left or {}), **left}

    def _leave_revs(self, revs: dict[Any, int]) -> None:
        self._leave("return Found(models, revs)", revs=revs)

    def _leave_page(self, page: dict[str, Any]) -> None:
        self._leave("return Found(page.models, next=page.next, total=page.total)", **page)

    # Until the next version.
    revs = property(None, _leave_revs)
    page = property(None, _leave_page)

    async def make_room(self, size: float, decoded: float | None = None) -> None:
        """Hold a list of so many bytes until this request is answered; wait while others hold too many.

        A store calls it before it makes a list of what it has found, or again when it knows better.

        Parameters:
            size: the bytes of the models as JSON.
            decoded: the bytes that Python holds for them, where that is known; ten times `size` by default.

        Raises:
            BadRequest: the answer would be too long, or hold too many values.

        Example:
            `await req.make_room(sum(map(len, bodies)))`
        """
        if self.room is not None:
            await self.room.hold(self, ListSize.of(size) if decoded is None else ListSize(size, decoded))

    @property
    def most(self) -> ListSize:
        """Return the largest size that a list may have."""
        return ENDLESS if self.room is None else self.room.most(self)

    @property
    def passes_on(self) -> bool:
        """Return whether a list goes to the client as it is read, so that its models may stay `msgspec.Raw`."""
        return self.room is not None and self.room.passes_on(self)

    def __repr__(self) -> str:
        return f"<Request {self.method} {getattr(self.backend, 'name', '?')} channel={self.channel!r}>"


class ServerRequest(Request[M], eq=False):
    """A request that the server's own code makes, such as by `app.backends["todos"].create(...)`.

    Its `origin` is `"server"`, and it has no socket. See `Request` for the other parameters.

    Example:
        >>> req = ServerRequest("create", {"title": "milk"})
        >>> req.origin, req.is_trusted, req.socket
        ('server', True, None)
    """

    # Whether it is for no user; and else the user, whatever layers make of `user`.
    _trusted: bool = True
    _acts_for: Any = None
    # Whether it may create what it updates.
    _upserts: bool = False

    @property
    def is_upsert(self) -> bool:
        return self._upserts

    @property
    def origin(self) -> Origin:
        return "server"

    @property
    def is_trusted(self) -> bool:
        return self._trusted

    @property
    def is_for_client(self) -> bool:
        return not self._trusted

    @classmethod
    def of_user(cls, user: Any, method: Method, model: Any, **fields: Any) -> Self:
        """Return a request that is a user's in every respect.

        Parameters:
            user: the user; None for a client without one.
            method: the sync method.
            model: the model.
            fields: other fields of a request.
        """
        return cls(method, model, user=user, _trusted=False, _acts_for=user, **fields)

    def asking(self, method: Method, model: Any) -> Request:
        user = self._acts_for
        place = {"backend": self.backend, "channel": self.channel}
        return ServerRequest(method, model, user=user, _trusted=self._trusted, _acts_for=user, **place)


def owned(user: Any, client: str) -> str:
    """The name of a client while it speaks for a user: operations are remembered under it.

    Raises:
        StackError: see `principal`.
    """
    # No client's own id holds NUL.
    return f"{principal(user)}\0{client}"


class Response(msgspec.Struct, eq=False):
    """The answer in the making. `end` and `error` settle it; the first settlement wins.

    Parameters:
        result: the result; `after` layers may change it.
        failure: the error that rejects the request.
        settled: whether the request is answered or rejected.
        body: the result as JSON, if a store has just written it.

    Example:
        >>> from bbio import BadRequest
        >>> res = Response()
        >>> res.end({"id": 1})
        >>> res.error("too late")
        >>> res.settled, res.result
        (True, {'id': 1})
    """

    result: Any = None
    failure: Exception | None = None
    settled: bool = False
    # The result as JSON, where it is known to be what the store has just written.
    body: bytes | None = None

    def end(self, result: Any = None) -> None:
        """Answer the request.

        Parameters:
            result: anything that can be written as JSON.
        """
        if not self.settled:
            self.settled = True
            self.result = result

    def error(self, err: Exception | str) -> None:
        """Reject the request.

        Parameters:
            err: an exception, or a string, which becomes a `SyncError` with that message.

        Raises:
            TypeError: it is neither an exception nor a string, which would pass for no rejection at all.
        """
        if not isinstance(err, (Exception, str)):
            raise TypeError(f"res.error({err!r}) rejects nothing; give it an exception such as NotFound() or a string")
        if not self.settled:
            self.settled = True
            self.failure = SyncError(err) if isinstance(err, str) else err

    def reopen(self) -> None:
        """Forget a rejection, so that an `on_error` layer may recover with `end`."""
        self.settled = False
        self.failure = None
        self.result = None
