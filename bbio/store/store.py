"""The store interface: the layer that answers when nothing above did, and the commit point of a write.

A store object in a class body is a declaration; every backend that is served opens its own copy of it.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import attrs

from bbio.declared import Declared, Publisher
from bbio.errors import BadRequest, ConfigurationError, DefinitionError
from bbio.log import Log, MemoryLog
from bbio.query import Query, QueryLimits
from bbio.requests import METHODS, NOTIFIED_AS, Request
from bbio.store.bulk import Checkpoint, Step
from bbio.store.records import Records
from bbio.streams import Commit, HistoryLimits, channel_stream
from bbio.view import View


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


@attrs.frozen
class Promises:
    """Promises of a store for one sync method. A store is asked once, when the stacks are compiled.

    Parameters:
        atomic: whether a write keeps the model, its event and its operation together, or none of them.
        immediate: whether the method neither waits nor calls code of the application, so that it needs no task.
        passes_on: whether a read gives the models of a list as JSON, `msgspec.Raw`, where `Request.passes_on` says so.
        was: whether the event of a write says how the record was, where its log `keeps_was`.
        scoped: whether it keeps to `Request.scope`: a read finds what is in it alone, a write changes nothing else and
            calls `check_written` with the record before and after it, before anything is kept.
        bulk: whether `write_all` stores many records in one transaction, and checkpoints with them.

    Example:
        >>> Promises(atomic=True).immediate
        False
    """

    atomic: bool = False
    immediate: bool = False
    passes_on: bool = False
    was: bool = False
    scoped: bool = False
    bulk: bool = False


NO_PROMISES = Promises()

# The methods that decide what is read and written.
DECISIVE = (*METHODS, "write", "write_all", "query", "look_up", "select")


def is_as_in(cls: type[Store], store: Store) -> bool:
    """Return whether a store reads and writes just as this class does, even if its own class is derived from that.

    Parameters:
        cls: the class, such as that of a built-in store.
        store: the store.

    Example:
        >>> is_as_in(Store, Store()), is_as_in(Store, type("Own", (Store,), {"read": lambda self, req: []})())
        (True, False)
    """
    return all(getattr(type(store), name, None) is getattr(cls, name, None) for name in DECISIVE)


# What a log has, and a store had before there were logs.
OF_LOGS = ("append", "positions", "since", "tell_recheck", "check_interval", "event_clock", "broker")


class Store(Declared):
    """Keeps the models of a backend: subclass it and write `create`, `read`, `update`, `patch` and `delete`.

    Each takes a `Request`. A method that is not written is refused. A write returns the record as it is now stored (of
    a delete: as it was); it is acknowledged, logged and published.

    Events and operations are kept by a `Log`. A store is paired with a `MemoryLog`, which ends with the process; one
    that can keep them in the transaction of the write is a log as well, `class Ledger(Store, Log)`: it overrides
    `write` too, and sets `atomic`.

    Class attributes:
        id_attribute: the name of the id in a model.
        atomic: whether a write keeps the model, its event and its operation together, or nothing of them.
        history: how much of each stream its log keeps for clients that come back.
        queries: how much a query of a client may ask for.
        migrates: whether `start` may make and change tables. `bbio.open` sets it to False, as servers of another
            version may use them: then `start` raises `ConfigurationError` where they do not fit.

    Attributes:
        log: what keeps its events, once it is open: itself where it is a log.

    Raises (at class definition):
        DefinitionError: it has a name that the base needs, or what only a log has; the text shows the fix.

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
    history = HistoryLimits()
    queries = QueryLimits()
    migrates = True

    log: Log

    __bbio_own__ = frozenset({"backend", "encode", "log", "merged", "publisher", "schema"})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in OF_LOGS:
            if name in vars(cls) and not issubclass(cls, Log):
                raise DefinitionError(
                    f"{cls.__qualname__}.{name} is asked of logs alone: write class {cls.__name__}(Store, MemoryLog), "
                    "which keeps events in memory where nothing overrides it, or give it another name"
                )

    def open(self, backend: Any, publisher: Publisher) -> Self:
        """Return a copy of this declaration for one backend, with a log.

        Parameters:
            backend: the backend instance; its `name` is the default of table names.
            publisher: is to be told of every committed event, and of writes by others.
        """
        opened = super().open(backend, publisher)
        opened.log = opened if isinstance(opened, Log) else MemoryLog(self.history).open(backend, publisher)
        return opened

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

    def promises(self, method: str) -> Promises:
        """Return what a backend may rely on: `atomic` as it is declared.

        Parameters:
            method: the sync method.
        """
        return Promises(atomic=self.atomic)

    async def read(self, req: Request) -> Any:
        """Answer a read.

        Parameters:
            req: the request. Where its `model` has an id, that model is asked for, else all, or what `query` says.

        Returns: the model, or the list of models; or `Found`, which also says their revisions, and of a query the
            cursor of the next page and the total.

        Raises:
            NotFound: there is no model with that id.
        """
        raise self._missing(req)

    def query(self, req: Request) -> Query | None:
        """Return the query in `options.data` of a read; None when the client asks for everything, and may have it.

        Parameters:
            req: the request.

        Raises:
            BadRequest: it is not a query, asks for too much, or names a field that the client does not see.

        Example:
            >>> store, req = Store(), Request("read", {}, {"data": {"done": False, "limit": 20}})
            >>> store.query(req).limit
            20
        """
        query = self._asked(req)
        if req.scope is None:
            return query
        if query is None:
            query = Query(limits=self.queries, id_path=(self.id_attribute,))
        return query.within(req.scope.records.conditions)

    def _asked(self, req: Request) -> Query | None:
        data = req.options.get("data")
        if data is None:
            return None
        options: dict[str, Any] = {"id_attribute": self.id_attribute, "limits": self.queries}
        if self.schema is None:
            return Query.read(data, **options)
        return View.of_request(self.schema, req).query(data, **options)

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
            BadRequest: an operator of a patch cannot change what a field holds.

        Example:
            >>> req = Request("patch", {"id": 7, "done": True, "$inc": {"likes": 1}})
            >>> Store().merged(req, {"id": 7, "title": "milk", "likes": 2})
            {'id': 7, 'title': 'milk', 'likes': 3, 'done': True}
        """
        return Records(self.schema, self.id_attribute).merged(req, current)

    async def write(self, req: Request) -> Commit:
        """Apply a write and log it; return its commit. A known operation is answered and not applied again.

        Parameters:
            req: the request.
        """
        log = self.log
        earlier = await log.find(req)
        if earlier is not None:
            return earlier
        record = await getattr(self, req.method)(req)
        return await log.append(channel_stream(req.channel), NOTIFIED_AS[req.method], record, req)

    async def write_all(self, reqs: Sequence[Request], step: Step | None = None, *, tells: bool = True) -> list[Commit]:
        """Apply writes and log them in one transaction: all of them, or none. For stores that promise `bulk`.

        Parameters:
            reqs: the writes, in order; one at least.
            step: the checkpoint that is kept in the transaction; None where none is.
            tells: whether each event is published; else somebody says later that there was something.

        Returns: the commits of the writes, in order. Where they come to more than one transaction may hold, they are
            those of the first of them, and the others are to be given again.

        Raises:
            RowRefused: one of them cannot be applied.
            SyncError: the store cannot be used at the moment.
            Conflict: the bulk has gone on elsewhere.
        """
        raise self._missing(reqs[0])

    async def checkpoint(self, name: str) -> Checkpoint | None:
        """Return how far a bulk has come; None if nothing is known of it.

        Parameters:
            name: the name of the bulk.
        """
        raise NotImplementedError

    async def set_checkpoint(self, name: str, checkpoint: Checkpoint | None) -> None:
        """Keep how far a bulk has come, or forget it. Those that have been done for long are forgotten too.

        Parameters:
            name: the name of the bulk.
            checkpoint: the checkpoint; None to forget it.
        """
        raise NotImplementedError
