"""The runtime: one served backend running.

A `Backend` declares; what becomes of it when it is served is here. `app.backends["todos"]` is a `Runtime`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Protocol, Self

import attrs
import msgspec

from bbio.backend import RUNNING, UNFILTERED, Backend, Emitted, check_name, schema_of
from bbio.bulk import BulkCaller, Bulks, NoBulkCaller
from bbio.consumers import Consume, Consumer
from bbio.declared import Declared, Publisher
from bbio.decorators import EPHEMERAL_KINDS
from bbio.errors import (
    BadRequest,
    ConfigurationError,
    DefinitionError,
    EncodingError,
    SyncError,
)
from bbio.events import Event as ServerEvent
from bbio.events import Events, Feed, Source
from bbio.generic import M
from bbio.log import Log, MemoryLog
from bbio.model.operators import first_of, has_operators, sets_of
from bbio.model.scalars import place_of
from bbio.model.schema import Schema
from bbio.protocol import EVENTS, decode, encode
from bbio.ratelimit import RateLimitedLog
from bbio.requests import METHODS, NOTIFIED_AS, WRITES, Request, Response
from bbio.stack.channels import ChannelRules
from bbio.stack.ephemeral import Ephemeral
from bbio.stack.narrowing import is_refused, narrows_reads
from bbio.stack.once import Attempts
from bbio.stack.scopes import Scopes, read_within_scope
from bbio.stack.stack import (
    Answer,
    Committing,
    Layer,
    Middleware,
    Stack,
    Write,
    bottom,
    layers_of,
    make_layer,
    middleware_layers,
)
from bbio.stack.threads import Threads
from bbio.store import NO_PROMISES, Promises, Store
from bbio.streams import BACKEND_WIDE, Commit, Event, channel_stream
from bbio.typed import as_json, as_record, enter, plain
from bbio.view import View, public_body
from bbio.was import was_of

# Kinds of layers that are in no stack of a sync method.
BESIDE = ("visible", "channel", "on_connect", "consumer", *EPHEMERAL_KINDS)
EMITTED_AS: dict[Emitted, str] = {"created": "create", "updated": "update", "deleted": "delete"}

# What to do where processes share nothing.
SHARING = (
    "give it an SQLiteStore or a PostgresStore, which processes share, or ask the server over a connection: bbio.client"
)

logger = logging.getLogger("bbio")
listener_failures = RateLimitedLog(logger)
unheard = RateLimitedLog(logger)

# What a backend has its server do: a function without parameters that is called and awaited.
Work = Callable[[], Coroutine[Any, Any, Any]]
Spawn = Callable[[Work], None]


class BackendPublisher(Publisher, Source, Protocol):
    """The server's side of a backend: what its store publishes to, and those who listen."""

    async def recheck(self, channel: str | None = None) -> None:
        """Ask again whether those who listen may."""

    def live_sessions(self) -> set[str]:
        """Return the ids of the sessions that listeners have."""

    def end_sessions(self, ids: Collection[str]) -> None:
        """Let go of those whose sessions have ended."""


class Runtime(Bulks[M]):
    """One backend as it is served: its stacks, its store and log, the operations under way.

    Its calls, such as `create` and `query`, are for the server's own code (docs/server-writes.md). `Runtime[Todo]`
    tells type checkers what its models are.

    Parameters:
        backend: the backend.
        name: the name that it is served under.
        spawn: a function that has the server do some work, from any thread.
        threads: the threads in which layers run that block.

    Attributes:
        backend: the instance of the application's class.
        name: the name that it is served under.
        namespace: the Socket.IO namespace of that name.
        schema: the schema of its models; None if they may be any JSON object.
        declared: the store as it was declared; None without one.
        store: the store as it was opened; None without one.
        log: the log of events and operations: the store's, or one in memory without a store.
        stacks: the compiled stack of each sync method, by its name.
        connecting: the stack that a client passes when it connects; None without `@on_connect`.
        rules: the rules of its channels; none if it has whatever channels its clients name.
        is_scoped: whether layers of `@visible` decide who may have which records.
        has_live_queries: whether clients may ask to be told of some records alone.
        has_views: whether each who listens to a channel has a view of its own; else all are told the same.
        ephemeral: what it declares of presence and messages.
        client_events: the events of clients that it answers.

    Raises:
        ConfigurationError: the backend is served already.

    Example:
        >>> from bbio import App, Backend
        >>> class Todos(Backend): pass
        >>> todos = App().serve(tasks=Todos).backends["tasks"]
        >>> todos.name, type(todos.backend).__name__, sorted(todos.stacks)
        ('tasks', 'Todos', ['create', 'delete', 'patch', 'read', 'update'])
    """

    attempts: Attempts
    log: Log
    publisher: BackendPublisher
    stacks: dict[str, Stack]
    connecting: Stack | None
    rules: ChannelRules
    _is_outside = False
    has_live_queries: bool
    has_views: bool

    def __init__(self, backend: Backend, name: str, spawn: Spawn, threads: Threads | None = None) -> None:
        bound, cls = backend.__bbio_runtime__, type(backend).__name__
        if bound is not None and bound.backend is backend:  # else it is a copy of one that is served
            raise ConfigurationError(
                f"this {cls} is served already, as {backend.name!r}; serve another instance: app.serve({name}={cls}())"
            )
        self.backend = backend
        self.name = check_name(name)
        self.namespace = "/" + name
        self.schema: Schema | None = backend.schema
        self.declared: Store | None = backend.store
        self.store: Store | None = None
        self._spawn = spawn
        self._threads = threads or Threads()
        self._scopes = Scopes()
        self._caller: BulkCaller = NoBulkCaller()
        self.rules = ChannelRules()
        self.connecting = None
        self.is_scoped = False
        self.ephemeral = Ephemeral.of(layers_of(backend, backend.__bbio_layers__), presence=backend.presence)
        self.client_events = (*EVENTS, *self.ephemeral.events)
        self._listeners: dict[Emitted, list[Callable[[Any], Any]]] = {event: [] for event in EMITTED_AS}
        self._stopping = AsyncExitStack()
        self._tell_backend(__bbio_runtime__=self, name=name)

    def _tell_backend(self, **known: Any) -> None:
        """Have the backend itself know what it is served as."""
        for name, value in known.items():
            object.__setattr__(self.backend, name, value)  # it may be frozen

    def prepare(self, *, outside: bool, migrate: bool) -> None:
        """Say where it is about to start. Called between `open` and `start`.

        Parameters:
            outside: whether the clients are those of other processes.
            migrate: whether its store may make and change tables.
        """
        self._is_outside = outside
        if self.store is not None:
            self.store.migrates = migrate

    @property
    def is_shared(self) -> bool:
        """Return whether other processes may serve it too, from one database, and hear what this one writes."""
        return self.log.check_interval is not None

    def check_reach(self, method: str) -> None:
        """Raise where a call would answer for a server that it does not reach, or write what no client is told.

        Parameters:
            method: the sync method.

        Raises:
            ConfigurationError: the clients are those of other processes, with which this backend shares nothing.
        """
        if not self._is_outside or self.is_shared:
            return
        if isinstance(self.store, MemoryLog):
            why = f"{self.name!r} keeps its models in memory, and those of the server are in the server's process"
        elif method != "read":
            why = f"no store shares the events of {self.name!r}, so the clients of the server would not be told"
        else:
            return  # its handlers, or a store without a log, find it anywhere
        raise ConfigurationError(f"{why}; {SHARING}")

    def __repr__(self) -> str:
        return f"<Runtime {self.name} of {type(self.backend).__name__}>"

    @property
    def id_attribute(self) -> str:
        """The name of the id in a model: the store's, `id` by default."""
        return self.backend.id_attribute

    def _visible_layers(self) -> list[Layer]:
        """The layers of `@visible`, of reusable middleware too."""
        return self._layers_of_kind("visible")

    def _layers_of_kind(self, kind: str) -> list[Layer]:
        """The layers of a kind that is in no stack of a sync method, of reusable middleware too."""
        reusable = [layer for item, _ in self._entries() for layer in middleware_layers(item)]
        return [layer for layer in (*reusable, *self._own_layers()) if layer.kind == kind]

    def _entries(self) -> list[tuple[Any, tuple[str, ...]]]:
        """The reusable middleware, each with the sync methods that it is for."""
        return [*((item, METHODS) for item in self.backend.middleware), *self.backend.__bbio_used__]

    def _own_layers(self) -> list[Layer]:
        return layers_of(self.backend, self.backend.__bbio_layers__)

    @property
    def layers(self) -> list[Layer]:
        """All layers of the backend in stack order."""
        reusable = [_by_kind(middleware_layers(item, methods)) for item, methods in self._entries()]
        own = self._own_layers()
        if self.schema is not None:
            own.insert(0, _entry(self.schema))
        # The last of the `before` layers, when it is known who asks.
        if self.rules:
            where = self.rules.layers[0].where
            own.append(make_layer("before", "channel", METHODS, self.rules.enter, where=where, bulk=True))
        if self.is_scoped:
            where = self._scopes.layers[0].where
            own.append(make_layer("before", "visible", METHODS, self._scopes.enter, where=where, bulk=True))
        return [layer for group in (*reusable, _by_kind(own)) for layer in group if layer.kind not in BESIDE]

    @property
    def consumers(self) -> list[Consumer]:
        """The layers of `@after(once=True)` that take an event, as consumers of this backend."""
        return [
            Consumer(
                name=f"{self.name}.{layer.name.rpartition('.')[2]}",
                backend=self.name,
                function=_for_methods(layer, {NOTIFIED_AS[method] for method in layer.methods}),
                is_durable=True,
            )
            for layer in map(self._bound, self._layers_of_kind("consumer"))
        ]

    @property
    def narrowing(self) -> list[Layer]:
        """The layers that leave something out of reads, of which others are told all the same; see `narrows_reads`."""
        if self.is_scoped or self.backend.notifies == UNFILTERED:
            return []
        found = list(filter(narrows_reads, self.stacks["read"].layers))
        return [] if all(is_refused(self.stacks[method]) for method in WRITES) else found

    @property
    def common_view(self) -> View:
        """The view of who has none of its own."""
        return View.whole() if self.schema is None else View.public(self.schema)

    def open(self, publisher: BackendPublisher, store: Store | None = None, caller: BulkCaller | None = None) -> None:
        """Open the store and compile the stacks. Called when the backend is served, and again to begin anew.

        Parameters:
            publisher: what the store tells of what it has committed.
            store: a store in place of the declared one.
            caller: what runs the calls of the server's own code; without it there can be none.
        """
        self.publisher = publisher
        self._caller = caller or NoBulkCaller()
        self.attempts = Attempts(self._plain)
        self._unanswered: set[str] = set()  # sync methods that nothing answers, as the log has said
        opening = store or self.declared
        id_attribute = "id" if opening is None else opening.id_attribute
        if self.schema is not None and self.schema.id_attribute != id_attribute:
            self.schema = schema_of(type(self.backend), id_attribute)  # the store was chosen by __init__, or by a test
            self._tell_backend(schema=self.schema)
        if opening is None:
            self.log = MemoryLog().open(self.backend, publisher)
        else:
            self.store = opening.open(self.backend, publisher)
            self.log = self.store.log
            self._tell_backend(store=self.store)
        if scopes := self._visible_layers():
            self._keep_to_scopes(scopes[0])
        elif self.backend.live_queries or self.backend.deltas:
            self.keep_was()
        self.compile()

    def _keep_to_scopes(self, layer: Layer) -> None:
        store, backend = self.store, self.backend
        if backend.notifies == UNFILTERED:
            cls = type(backend).__qualname__
            raise DefinitionError(
                f"{layer.name} is @visible, which filters notifications, and {cls}.notifies is {UNFILTERED!r}; drop one"
            )
        if store is None or not all(store.promises(method).scoped for method in METHODS):
            given = "it has none" if store is None else f"{type(store).__qualname__} does not"
            raise DefinitionError(
                f"{layer.name} is @visible, which needs a store that keeps to scopes, and {given}; give it a "
                "MemoryStore, SQLiteStore or PostgresStore, or a store of your own that promises `scoped` and `was`"
            )
        self.keep_was()

    def keep_was(self) -> None:
        """Have the log keep, with each event, how its record was (`Event.was`). Called between `open` and `start`.

        Raises:
            DefinitionError: the store cannot say how records were.
        """
        store = self.store
        if store is None or not all(store.promises(method).was for method in WRITES):
            given = "it has no store" if store is None else f"{type(store).__qualname__} does not"
            asks = "live_queries needs events that" if self.backend.live_queries else "its events must"
            raise DefinitionError(
                f"{self.name!r}: {asks} say how records were, and {given}; give it a MemoryStore, "
                "SQLiteStore or PostgresStore, or a store of your own that promises `was`"
            )
        self.log.keeps_was = True

    def check_followed(self, served: Mapping[str, Runtime]) -> None:
        """Have the backends which this one follows say how their records were. Called before the start.

        Parameters:
            served: all backends by name.

        Raises:
            ConfigurationError: one is not served.
            DefinitionError: nothing depends on them here, or one cannot say how its records were.
        """
        cls = type(self.backend).__qualname__
        for name in self.backend.follows:
            if not self._visible_layers():
                raise DefinitionError(f"{cls}.follows is for what @visible says, and {cls} has no @visible")
            if name not in served:
                raise ConfigurationError(
                    f"{cls}.follows names {name!r}, which is not served; served: {', '.join(served)}"
                )
            served[name].keep_was()

    def compile(self) -> None:
        """Build the stack of every sync method from the layers as they are now."""
        own = layers_of(self.backend, self.backend.__bbio_layers__)
        self.ephemeral = Ephemeral.of(map(self._bound, own), presence=self.backend.presence)
        scopes = [self._bound(layer) for layer in self._visible_layers()]
        self._scopes = Scopes(scopes, self.schema, self.id_attribute, names_viewers=bool(self.backend.follows))
        self.is_scoped = bool(scopes)
        self.rules = ChannelRules([self._bound(layer) for layer in self._layers_of_kind("channel")])
        self.connecting = self._connecting_stack()
        self.has_live_queries = self.is_scoped or self.backend.live_queries
        self.has_views = self.has_live_queries or View.differs(self.schema)
        layers, schema, store = [self._bound(layer) for layer in self.layers], self.schema, self.store
        read: Answer = self._answer_unanswered
        write: Write | None = None
        promises = dict.fromkeys(METHODS, NO_PROMISES)
        if store is not None:
            read, write = store.read, store.write
            promises = {method: store.promises(method) for method in METHODS}
        shown = None if schema is None else partial(_show, schema)
        judge = self._scopes.judge if self.is_scoped else None
        if judge is not None:
            read = partial(read_within_scope, read)
        self.stacks = {"read": Stack("read", layers, read, promises=promises["read"], show=shown, judge=judge)}
        for method in WRITES:
            options: dict[str, Any] = {"commit": self._commit, "find": self.log.find, "promises": promises[method]}
            self.stacks[method] = self._write_stack(method, layers, write, **options)

    def _write_stack(
        self, method: str, layers: list[Layer], write: Write | None, *, is_shown: bool = True, **options: Any
    ) -> Stack:
        guards = [layer for layer in layers if layer.kind == "before" and "read" in layer.methods]
        # Whoever makes a model knows it; else a write may be allowed to those who may not read.
        guarded = method != "create" and any(method not in layer.methods for layer in guards)
        schema = self.schema
        if schema is not None and write is not None:
            write = _plain_write(schema, write)
        return Stack(
            method,
            layers,
            self._answer_unanswered,
            attempts=self.attempts,
            write=write,
            show=partial(_show, schema) if schema is not None and is_shown else None,
            may_read=self._may_read if guarded else None,
            judge=self._scopes.judge if self.is_scoped and is_shown else None,
            **options,
        )

    def bulk_stack(self, method: str, write: Write, commit: Committing, *, is_shown: bool) -> Stack:
        """Return the stack of a sync method over another write than the store's; it answers with what that commits.

        Parameters:
            method: `create`, `update` or `patch`.
            write: the write.
            commit: awaited with what a layer has answered in place of the store.
            is_shown: whether errors leave only what the user of the request may see.
        """
        layers = [self._bound(layer) for layer in self.layers]
        return self._write_stack(
            method, layers, write, is_shown=is_shown, commit=commit, promises=Promises(atomic=True)
        )

    def _connecting_stack(self) -> Stack | None:
        """The layers of `@on_connect`, and before them those of reusable middleware that say who a client is."""
        layers = self._layers_of_kind("on_connect")
        if not layers:
            return None
        reusable = [layer for entry in self._entries() for layer in middleware_layers(*entry)]
        identify = [layer for layer in reusable if layer.kind == "before"]
        observe = [layer for layer in (*reusable, *self._own_layers()) if layer.kind == "on_error"]
        layers = [*identify, *(attrs.evolve(layer, kind="before") for layer in layers), *observe]
        return Stack("read", [self._bound(layer) for layer in layers])

    async def _may_read(self, req: Request) -> bool:
        """Return whether the client of a write may read the model, as the `before` layers of `read` say."""
        if req.channel in getattr(req.socket, "channels", ()):
            return True  # it is told of the write anyway
        asked = req.asking("read", {self.id_attribute: req.id})
        return (await self.stacks["read"].admit(asked)).failure is None

    def _bound(self, layer: Layer) -> Layer:
        """A layer whose call can be awaited, where it runs in a thread."""
        if not layer.in_thread:
            return layer
        return attrs.evolve(layer, call=self._threads.wrap(layer.call, layer.name), is_async=True)

    async def _answer_unanswered(self, req: Request) -> Any:
        """The bottom, where nothing above has answered."""
        if not self.stacks[req.method].has_handler:
            self._warn_unanswered([req.method])
        is_made = req.method in ("create", "update", "patch") and isinstance(req.model, dict)
        operator = first_of(req.model) if is_made else None
        if operator is not None:
            raise BadRequest(f"{self.name!r} keeps nothing that could be {operator.done}; give the fields their values")
        return await bottom(req) if self.schema is None else plain(self.schema, req)

    def _warn_unanswered(self, methods: list[str]) -> None:
        """Say once for each of these sync methods that nothing answers it."""
        methods = [method for method in methods if method not in self._unanswered]
        self._unanswered.update(methods)
        if methods:
            logger.warning(
                "%s (%s): nothing answers %s: the client gets back the model that it sent, and other clients "
                "are notified; give the backend a store, or write @%s above a method that answers, or that refuses",
                self.name,
                type(self.backend).__name__,
                ", ".join(methods),
                methods[0],
            )

    async def start(self) -> None:
        """Freeze the stacks, start the store and the middleware. Called once, before the first request."""
        self.compile()
        if narrowing := self.narrowing:
            logger.warning(
                "%s (%s): a read leaves something out in %s, and others are told of each write all the same; say with "
                "@visible which records a client may have, or write notifies = %r if that is meant "
                "(docs/visibility.md)",
                self.name,
                type(self.backend).__name__,
                ", ".join(f"{layer.name} ({layer.where})" for layer in narrowing),
                UNFILTERED,
            )
        if self.store is None:
            self._warn_unanswered([method for method in METHODS if not self.stacks[method].may_answer])
        async with AsyncExitStack() as stopping:
            RUNNING.add(self)
            stopping.callback(RUNNING.discard, self)
            for part in self._parts():
                await part.start()
                stopping.push_async_callback(part.stop)
            await self.log.broker.start(self.publisher)
            stopping.push_async_callback(self.log.broker.stop)
            for item in self._middleware_instances():
                await item.start(self.backend)
                stopping.push_async_callback(item.stop)
            self._stopping = stopping.pop_all()

    async def stop(self) -> None:
        """Stop the middleware and the store. Called once, after the last request."""
        await self._stopping.aclose()

    def _parts(self) -> list[Declared]:
        """The log and the store, which may be one."""
        store: Declared | None = self.store
        return [self.log] if store is None or store is self.log else [self.log, store]

    def _middleware_instances(self) -> list[Middleware]:
        items = [*self.backend.middleware, *(item for item, _ in self.backend.__bbio_used__)]
        return [item for item in items if isinstance(item, Middleware)]

    def _plain(self, req: Request, result: Any) -> Any:
        return result if self.schema is None else as_record(self.schema, result, req)

    async def _commit(self, req: Request, result: Any) -> Commit:
        """Log and publish a write that no store has committed."""
        record = req.model if result is None else result
        if self.schema is not None:
            record = plain(self.schema, req) if result is None else self._plain(req, result)
        if result is None and has_operators(record):
            record = sets_of(record)
        stream, method = channel_stream(req.channel), NOTIFIED_AS[req.method]
        # How a record was that a handler changes, or deletes, is not known.
        was = self._was(method, None, record) if method == "create" else None
        return await self._append(stream, method, record, req, was)

    async def _append(
        self, stream: str, method: str, model: Any, req: Request | None = None, was: bytes | None = None
    ) -> Commit:
        # A log that is not to keep how records were need not know that there is such a thing.
        if was is None:
            return await self.log.append(stream, method, model, req)
        return await self.log.append(stream, method, model, req, was)

    def _was(self, method: str, before: Any, model: Any) -> bytes | None:
        """Return what a log keeps of the record before an event that no store has made; None if nobody knows it."""
        if not self.log.keeps_was:
            return None
        old, new = (decode(encode(as_json(self.schema, each))) for each in (before, model))
        if not isinstance(new, dict) or not isinstance(old, dict | None):
            return None
        if old is None and (method == "update" or (method == "delete" and not new.keys() - {self.id_attribute})):
            return None
        body = public_body(self.schema, model)
        return was_of(old or new, None, body) if method == "delete" else was_of(old, new, body)

    async def since(self, stream: str, epoch: Any, offset: Any, stamp: int = 0) -> list[Event] | None:
        """The events of the log after a position, None when they are no longer all there, or it is of another history.

        What other programs wrote, or an earlier version of the model, may hold what nobody may see: it is left out. A
        view of some records must know it to judge them, and leaves it out itself.
        """
        log = self.log
        events = await log.since(stream, epoch, offset, stamp)
        if events and 0 < events[0].when < log.event_clock() - log.history.age:
            return None  # nobody has written since, so that nothing was dropped
        if self.schema is None or self.is_scoped or not events:
            return events
        view = View.public(self.schema)
        return [view.narrow(event) for event in events]

    def events(self, channel: str | None = None, *, since: Any = None) -> Events[M]:
        """Return an endless iterator over what is written to this backend, in order and without a gap.

        It needs no socket, and nothing is hidden from it but private fields. Where events are missing, as the history
        no longer has them, there is one event `reset`: read everything again. It is for the application's event loop.

        Parameters:
            channel: the channel, and what is told to all clients; "" for the default channel, None for all channels.
            since: the position to begin after: the `position` of an event, or of the iterator, as it was or from JSON;
                None to begin now, which is when the iterator is entered or first asked.

        Raises:
            ConfigurationError: `since` is no position, or of one channel where all are followed. When it begins: the
                application does not run, or its log cannot list the streams of all channels.

        Example:
            `async for event in app.backends["todos"].events(since=position):`
        """
        narrow = _as_it_is if self.schema is None else View.public(self.schema).narrow
        check = self._caller.check_loop
        return Events(Feed(self.name, self.log, self.publisher, self.id_attribute, narrow, check), channel, since)

    def emit(self, event: Emitted, model: Any, channel: str | None = None, *, before: Any = None) -> None:
        """Notify the clients of this backend of a change that no client made. May be called from any thread.

        It stores nothing: first store the change where a read finds it. Before the application has started, the event
        waits for the start.

        Parameters:
            event: `created`, `updated` or `deleted`.
            model: the whole model.
            channel: the channel whose listeners are notified ("" is the default channel); None for all clients.
            before: the whole model as it was before. Without it listeners under views of their own, as by `@visible`,
                read everything again; of what was created or deleted the whole model will do.

        Raises:
            ValueError: there is no such event.
            EncodingError: the model cannot be written as JSON.
            ConfigurationError: the application has stopped, or too many events wait for its start.

        Example:
            `app.backends["jobs"].emit("updated", {"id": "x", "percent": 50})`
        """
        method = _emitted_as("emit", event)
        stream = BACKEND_WIDE if channel is None else channel_stream(channel)
        # Encoded at once: what the caller does with the model afterwards must not show.
        try:
            body = msgspec.Raw(public_body(self.schema, model))
        except EncodingError as err:
            err.locate(place_of(err.value, model, "model") or "model")
            raise
        try:
            was = self._was(method, before, model)
        except EncodingError as err:
            err.locate(place_of(err.value, before, "before") or "before")
            raise
        if self._is_outside and not self.is_shared:
            unheard.warning("%s: an emit from outside the server's process reaches nobody; %s", self.name, SHARING)
        self._spawn(lambda: self._append(stream, method, body, None, was))
        for listener in self._listeners[event]:
            if iscoroutinefunction(listener):
                self._spawn(partial(listener, model))
                continue
            try:
                listener(model)
            except Exception as err:
                listener_failures.error(err, "a listener to %r of %s failed", event, self.name)

    def on(self, event: Emitted, listener: Callable[[Any], Any]) -> Self:
        """Call a function whenever this backend emits, as in backbone.io. For writes of clients, use `@after` layers.

        Parameters:
            event: `created`, `updated` or `deleted`.
            listener: a function of the model. A plain one is called within `emit`, an async one runs in the
                application. Its exceptions are logged.

        Raises:
            ValueError: there is no such event.
            TypeError: the listener is not a function.

        Example:
            `app.backends["notes"].on("created", print)`
        """
        _emitted_as("on", event)
        if not callable(listener):
            raise TypeError(f"on({event!r}, {listener!r}): that is not a function of the model")
        self._listeners[event].append(listener)
        return self

    async def recheck(self, channel: str | None = None) -> None:
        """Ask the `before` layers of `read` about all listeners again; the refused ones get no more events.

        Call it after you have taken a permission away. An error of the server, a timeout or `Busy` refuses nobody.
        Other processes that serve the backend from the same database follow: with PostgreSQL a moment later, with
        SQLite within five seconds.

        Parameters:
            channel: the channel whose listeners are checked ("" is the default channel); None for all listeners.

        Raises:
            SyncError: other processes could not be reached; the listeners of this one were checked all the same.

        Example:
            `await app.backends["messages"].recheck("staff")`
        """
        try:
            await self.log.tell_recheck(channel)
        finally:
            await self.publisher.recheck(channel)

    def live_sessions(self) -> set[str]:
        """Return the ids of the sessions that clients of this process have."""
        return self.publisher.live_sessions()

    def end_sessions(self, ids: Collection[str]) -> None:
        """Let go of the listeners of this process whose sessions have ended."""
        self.publisher.end_sessions(ids)

    if not TYPE_CHECKING:  # pragma: no branch - for checkers there is no such attribute

        def __getattr__(self, name: str) -> Any:
            """Return an attribute of the backend, which `app.backends[...]` was before it was a runtime."""
            if name[:2] == "__" or not hasattr(self.__dict__.get("backend"), name):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            place = f"app.backends[{self.name!r}].backend.{name}"
            warnings.warn(f"it is the backend that has {name}: write {place}", DeprecationWarning, stacklevel=2)
            return getattr(self.backend, name)


def _for_methods(layer: Layer, methods: Collection[str]) -> Consume:
    """Return an async function that calls a layer for events of these methods."""

    async def consume(event: ServerEvent[Any]) -> None:
        if event.method in methods:
            outcome = layer.call(event)
            if layer.is_async:
                await outcome

    return consume


def _as_it_is(event: Event) -> Event:
    return event


def _emitted_as(call: str, event: Emitted) -> str:
    method = EMITTED_AS.get(event)
    if method is None:
        raise ValueError(f"{call}({event!r}): the event is one of {', '.join(EMITTED_AS)}")
    return method


def _by_kind(layers: list[Layer]) -> list[Layer]:
    order = ("before", "use", "handler", "once", "after", "on_error", *BESIDE)
    return sorted(layers, key=lambda layer: order.index(layer.kind))


def _entry(schema: Schema) -> Layer:
    """The layer that makes incoming models typed objects."""

    def typed(req: Request) -> None:
        enter(schema, req)

    cls = schema.cls
    where = f"{cls.__module__}.{cls.__qualname__}"
    return make_layer("before", f"model {cls.__name__}", ("create", "update", "patch"), typed, where=where, bulk=True)


def _show(schema: Schema, req: Request, res: Response) -> None:
    """Leave in a response what its client sees."""
    view = View.of_request(schema, req)
    if res.failure is None:
        res.body = None
        res.result = view.result(as_record(schema, res.result, req))
    elif isinstance(res.failure, SyncError):
        view.narrow_error(res.failure)


def _plain_write(schema: Schema, write: Write) -> Write:
    """A store's `write`, to which models are JSON."""

    async def written(req: Request) -> Commit:
        typed = req.model
        req.model = plain(schema, req)
        try:
            return await write(req)
        finally:
            req.model = typed

    return written
