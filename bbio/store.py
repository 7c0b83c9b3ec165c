"""The store interface: the layer that answers when nothing above did, and the commit point of a write.

A store object in a class body is a declaration; every backend that is served opens its own copy of it.
"""

from __future__ import annotations

import copy
import inspect
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

from msgspec import UNSET

from bbio.counts import COUNTS, counted
from bbio.decorators import check_hidden
from bbio.errors import BadRequest, ConfigurationError, DefinitionError
from bbio.protocol import decode
from bbio.query import Query, QueryLimits
from bbio.requests import NOTIFIED_AS, Request, Socket
from bbio.schema import Schema
from bbio.streams import Commit, Event, HistoryLimits, Kept, Log, Operation, Position, channel_stream
from bbio.typed import merged, whole_json
from bbio.values import is_same
from bbio.view import View, public_body


class Publisher(Protocol):
    """Receiver of the events that a store has committed, and of its news about other processes.

    Its methods are called on the event loop, and return at once.

    Example:
        `self.publisher.check(["c:home"])`, in a store that hears of a write by another process in the channel `home`.
    """

    def publish(self, event: Event, origin: Socket | None) -> None:
        """Send a committed event to the clients.

        Events of one stream should come in the order of their offsets. An event that was sent before is dropped; for an
        event that comes too early, `since` is asked for the ones before it.

        Parameters:
            event: the event, which `since` finds by now.
            origin: the writer's socket, None when there is none.
        """

    def check(self, streams: Iterable[str] | None = None) -> None:
        """Look at the log: another process or program may have written something.

        `positions` and `since` are asked a moment later, and clients get what they lack. A stream without listeners
        costs nothing.

        Parameters:
            streams: the names of the streams written to; None when that is not known.
        """

    def recheck_soon(self, channel: str | None = None) -> None:
        """Ask again who may listen: another process that serves the backend was told to.

        Parameters:
            channel: only the listeners of this channel ("" is the default channel); all when None.
        """


def is_overtaken(req: Request, stored: dict[str, Any], base: bytes | None, id_attribute: str) -> bool:
    """Whether a write builds on what was changed since the revision that it names.

    A patch builds on the fields that it sets: it is overtaken when one of them was changed, to another value than it
    sets. A field that it counts may be anything by then. Any other write builds on the whole model.

    Parameters:
        req: the request, whose `rev` is older than the model's.
        stored: the model as it is.
        base: the model as it was at that revision, as JSON; None where that is not known.
        id_attribute: the name of the id.
    """
    if req.method != "patch":
        return True
    if COUNTS in req.model and req.model.keys() <= {COUNTS, id_attribute}:
        return False
    if base is None:
        return True
    before = decode(base)
    return any(
        not is_same(stored.get(name, UNSET), before.get(name, UNSET)) and not is_same(stored.get(name, UNSET), value)
        for name, value in req.model.items()
        if name != id_attribute
    )


class Scratch:
    """Room for the data of one test's stores; all of it is gone after the test.

    `name` is a name that no other test has, such as for a database of its own.

    Example:
        See `Store.scratch`.
    """

    def __init__(self) -> None:
        self.name = f"bbio_test_{secrets.token_hex(8)}"
        self._ending = AsyncExitStack()
        self._entered: dict[Any, Any] = {}

    @cached_property
    def folder(self) -> Path:
        """A folder of the test's own."""
        return Path(self._ending.enter_context(tempfile.TemporaryDirectory(prefix="bbio-test-")))

    async def share(self, key: Any, make: Callable[[], AbstractAsyncContextManager[Any]]) -> Any:
        """Enter a context once for all stores that ask for the same key; it is left after the test.

        Parameters:
            key: what is the same for stores that share a database.
            make: returns the context.

        Returns: what the context gave.
        """
        if key not in self._entered:
            self._entered[key] = await self._ending.enter_async_context(make())
        return self._entered[key]

    async def close(self) -> None:
        """Clear everything away."""
        await self._ending.aclose()


# What a store of one's own must not take for something else.
OWN = {"backend", "log", "merged", "publisher", "record", "schema"}


class Store:
    """Subclass it and write `create`, `read`, `update`, `patch` and `delete`, each taking a `Request`.

    A write returns the record as it is now stored (of a delete: as it was); it is acknowledged, logged and published.
    Events and operation ids of such a store live in memory: they end with the process. A store that can keep them in
    the transaction of the write overrides `write`, `append`, `positions` and `since` too and sets `atomic`.

    Example:
        >>> class Settings(Store):
        ...     def __init__(self):
        ...         self.values = {}
        ...     async def read(self, req):
        ...         return self.values
        ...     async def update(self, req):
        ...         self.values.update(req.model)
        ...         return self.values
    """

    id_attribute = "id"
    atomic = False
    # Whether this very class neither waits in a write nor calls code of the application.
    immediate = False
    # Whether a read of this very class calls no code of the application, and asks for no task to run in.
    bare_reads = False
    # How much of each stream is kept for clients that come back.
    history = HistoryLimits()
    # How much a query of a client may ask for.
    queries = QueryLimits()
    # The clock of `Event.when`, which the age of what is told goes by.
    event_clock = staticmethod(time.monotonic)
    # Seconds between two looks at the positions of all streams that are followed, for what others wrote or what a
    # crash left untold; None when nobody else can write to the log.
    check_interval: float | None = None

    backend: Any
    schema: Schema | None = None
    log: Log
    publisher: Publisher
    _publish: Callable[[Event, Socket | None], None]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "since" in vars(cls):
            try:
                inspect.signature(vars(cls)["since"]).bind(*("self", "stream", "epoch", "offset", "stamp"))
            except TypeError:
                raise DefinitionError(
                    f"{cls.__qualname__}.since must take a stamp: async def since(self, stream, epoch, offset, stamp=0)"
                ) from None
        check_hidden(cls, Store, OWN & vars(cls).keys())

    def open(self, backend: Any, publisher: Publisher) -> Self:
        """A copy of this declaration for one backend.

        Parameters:
            backend: the backend instance; its `name` is the default of table names.
            publisher: to be told of every committed event, and of writes by others.
        """
        hidden = OWN & vars(self).keys()
        if hidden and not hasattr(self, "_publish"):  # as it is in a copy that is opened again
            own = f"{type(self).__qualname__}.{min(hidden)}"
            raise DefinitionError(
                f"{own} is set before the start, and then hidden by Store's own; give it another name"
            )
        opened = copy.copy(self)
        opened.backend = backend
        opened.schema = getattr(backend, "schema", None)
        opened.log = Log(self.history)
        opened.publisher = publisher
        opened._publish = publisher.publish
        return opened

    def share_memory(self, kept: Kept) -> None:
        """Have the history and operations that it keeps in memory count to what those of all backends may take."""
        self.log.share(kept)

    async def scratch(self, room: Scratch) -> Self:
        """Return a declaration like this one that keeps nothing where this one does, for one `app.test()`.

        Parameters:
            room: where it may keep it instead.

        Raises:
            ConfigurationError: there is no such declaration; the text says how to mend it.

        Example:
            >>> class FileStore(Store):
            ...     def __init__(self, path):
            ...         self.path = path
            ...     async def scratch(self, room):
            ...         return FileStore(room.folder / "models.json")
        """
        cls = type(self)
        raise ConfigurationError(
            f"app.test() never uses the data of an application, and does not know how {cls.__qualname__} keeps it; "
            f"give it `async def scratch(self, room)`, which returns a {cls.__qualname__} that keeps it below "
            "room.folder, or say which store a test uses: app.test(stores={'name': MemoryStore()})"
        )

    async def start(self) -> None:
        """Prepare for the first request: connect, create tables. Called once."""

    async def stop(self) -> None:
        """Finish the writes under way and let go of everything. Called once, after the last request."""

    async def read(self, req: Request) -> Any:
        """Answer a read: return the model named by its id in `req.model`, or the list of models.

        Parameters:
            req: the request.

        Raises:
            NotFound: there is no such model.
        """
        raise self._missing(req)

    def query(self, req: Request) -> Query | None:
        """Return the query in `options.data` of a read; None when the client asks for everything.

        Parameters:
            req: the request.

        Raises:
            BadRequest: it is not a query, asks for too much, or names a field that the client does not see.

        Example:
            >>> store, req = Store(), Request("read", {}, {"data": {"done": False, "limit": 20}})
            >>> store.query(req).limit
            20
        """
        data = req.options.get("data")
        if data is None:
            return None
        options: dict[str, Any] = {"id_attribute": self.id_attribute, "limits": self.queries}
        if self.schema is None:
            return Query.read(data, **options)
        return View.of(self.schema, req.user).query(data, **options)

    async def create(self, req: Request) -> Any:
        """Store a new model; return the record, with its id.

        Parameters:
            req: the request, whose `model` has no id yet.
        """
        raise self._missing(req)

    async def update(self, req: Request) -> Any:
        """Replace a model; return the record.

        Parameters:
            req: the request, whose `model` is the whole model with its id.

        Raises:
            NotFound: there is no such model.
        """
        raise self._missing(req)

    async def patch(self, req: Request) -> Any:
        """Change some fields of a model; return the whole record.

        Parameters:
            req: the request, whose `model` has the id and the fields to change; see `merged`.

        Raises:
            NotFound: there is no such model.
        """
        raise self._missing(req)

    async def delete(self, req: Request) -> Any:
        """Remove a model; return the record as it was.

        Parameters:
            req: the request, whose `model` has the id.

        Raises:
            NotFound: there is no such model.
        """
        raise self._missing(req)

    def _missing(self, req: Request) -> BadRequest:
        return BadRequest(f"the backend {getattr(req.backend, 'name', '?')!r} has no {req.method}")

    def merged(self, req: Request, current: dict[str, Any] | None) -> dict[str, Any]:
        """Return the record that an update or patch results in; with a model, it is valid as a whole.

        Parameters:
            req: the request.
            current: the stored record; None when there is none yet.

        Raises:
            Invalid: the record would not be valid, or the client may not change a field.
            BadRequest: a patch counts a field that does not hold a number.

        Example:
            >>> req = Request("patch", {"id": 7, "done": True, "$inc": {"likes": 1}})
            >>> Store().merged(req, {"id": 7, "title": "milk", "likes": 2})
            {'id': 7, 'title': 'milk', 'likes': 3, 'done': True}
        """
        if self.schema is not None:
            return merged(self.schema, req, current)
        model: dict[str, Any] = req.model
        if req.method != "patch":
            return model
        stored = current or {}
        return {**stored, **(counted(model, stored, self.id_attribute) if COUNTS in model else model)}

    async def find(self, req: Request) -> Commit | None:
        """What an operation already came to, None when it is new.

        Raises:
            Conflict: the operation id was used for another request.
        """
        operation = req.operation
        return None if operation is None else self.log.operations.find(operation, req.payload)

    async def write(self, req: Request) -> Commit:
        """Apply a write, number its event, publish it. A known operation is answered without being applied again."""
        earlier = await self.find(req)
        if earlier is not None:
            return earlier
        record = await getattr(self, req.method)(req)
        stream, method, body = channel_stream(req.channel), NOTIFIED_AS[req.method], public_body(self.schema, record)
        return self.record(stream, method, record, body, req, req.operation)

    async def append(self, stream: str, method: str, model: Any, req: Request | None = None) -> Commit:
        """Log and publish an event whose write happened elsewhere: in a handler, or by `backend.emit`."""
        if req is None:
            return self.record(stream, method, model, public_body(self.schema, model))
        earlier = await self.find(req)
        return earlier or self.record(stream, method, model, public_body(self.schema, model), req, req.operation)

    def record(
        self,
        stream: str,
        method: str,
        record: Any,
        body: bytes,
        req: Request | None = None,
        operation: Operation | None = None,
        rev: int | None = None,
    ) -> Commit:
        """Log and publish what was written, and remember its operation."""
        if req is None:
            event = self.log.append(stream, method, body)
            self._publish(event, None)
            return Commit(record, body, event)
        event = self.log.append(stream, method, body, rev, None if req.op is None else req.op.public)
        if operation is not None:
            whole = None if self.schema is None else whole_json(self.schema, record, body)
            self.log.keep(operation, req.payload, event, whole)
        self._publish(event, req.socket)
        return Commit(record, body, event)

    async def tell_recheck(self, channel: str | None) -> None:
        """Have the other processes that serve the backend ask again who may listen, by `publisher.recheck_soon` there.

        Nothing by default: a store that no other process shares has nobody to tell.

        Parameters:
            channel: only the listeners of this channel; all when None.
        """

    async def positions(self, streams: Iterable[str]) -> dict[str, Position]:
        """The top of each stream."""
        return self.log.positions(streams)

    async def since(self, stream: str, epoch: Any, offset: Any, stamp: int = 0) -> list[Event] | None:
        """The events after a position, None when they are no longer all there, or the position is not of this history.

        Parameters:
            stream: the stream's name.
            epoch: the epoch as a client claims it, which may be anything.
            offset: the offset likewise.
            stamp: what the event at that offset must have as its stamp; 0 when it is not to be checked. Where that
                event is no longer there, and it is not the top either, nothing can be told.
        """
        return self.log.since(stream, epoch, offset, stamp)
