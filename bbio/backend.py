"""Backend: a class whose decorated methods are the middleware stacks of one namespace."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import is_dataclass
from difflib import SequenceMatcher
from functools import partial
from inspect import getattr_static, iscoroutinefunction
from typing import Any, ClassVar, Protocol, Self
from weakref import WeakValueDictionary

import attrs
import msgspec

from bbio.attempts import Attempts
from bbio.counts import has_counts, uncounted
from bbio.decorators import Marked, check_hidden, check_methods, check_undecorated, collect, own_classes
from bbio.errors import BadRequest, ConfigurationError, DefinitionError, EncodingError, FrozenError
from bbio.protocol import MAX_NAME
from bbio.ratelimit import RateLimitedLog
from bbio.requests import METHODS, NOTIFIED_AS, WRITES, Request
from bbio.schema import Schema
from bbio.stack import Answer, Layer, Middleware, Stack, Write, bottom, layers_of, make_layer, middleware_layers
from bbio.store import Publisher, Store
from bbio.streams import BACKEND_WIDE, Commit, Event, channel_stream
from bbio.threads import Threads
from bbio.typed import as_record, enter, narrowed, plain, show
from bbio.values import place_of

EMITTED_AS = {"created": "create", "updated": "update", "deleted": "delete"}
RESERVED = (
    "attempts",
    "compile",
    "emit",
    "layers",
    "log",
    "namespace",
    "on",
    "open",
    "publisher",
    "recheck",
    "since",
    "stacks",
    "start",
    "stop",
    "use",
)
logger = logging.getLogger("bbio")
listener_failures = RateLimitedLog(logger)

NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")

# What a backend has its server do: a function without parameters that is called and awaited.
Work = Callable[[], Coroutine[Any, Any, Any]]
Spawn = Callable[[Work], None]


class Outlet(Publisher, Protocol):
    """The server's side of a backend: what its store publishes to, and those who listen."""

    async def recheck(self, channel: str | None = None) -> None:
        """Ask again whether those who listen may."""


def default_name(cls: type) -> str:
    """`Todos` is served as `todos`, `TodoItems` as `todo_items`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def check_name(name: Any) -> str:
    """A backend's name: it becomes a Socket.IO namespace.

    Raises:
        DefinitionError: it could not be one.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) >= MAX_NAME:
        raise DefinitionError(
            f"{name!r} is no backend name; use letters, digits, '_', '-', '.' and '/', fewer than {MAX_NAME} of them"
        )
    return name


def _is_middleware(value: Any) -> bool:
    entries = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(entry, Middleware) for entry in entries)


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and (attrs.has(value) or is_dataclass(value) or value.__name__ == "Model")


# A value of these kinds under a name that resembles is meant for the attribute: either alone may be anything, such as
# `mode = "fast"` or `archive = MemoryStore()`.
MEANT: dict[str, Callable[[Any], bool]] = {
    "middleware": _is_middleware,
    "store": lambda value: isinstance(value, Store),
    "model": _is_model,
    "unknown": lambda value: isinstance(value, str) and value in ("reject", "drop"),
    "recheck_interval": lambda value: isinstance(value, (int, float)),
}
RESEMBLANCE = 0.75


def _resembles(name: str, known: str) -> bool:
    written, meant = name.lower().replace("_", ""), known.replace("_", "")
    return written[:1] == meant[:1] and SequenceMatcher(None, written, meant).ratio() >= RESEMBLANCE


def _check_resembling(cls: type) -> None:
    """Refuse `stor = MemoryStore()` and the like: it would declare nothing.

    Raises:
        DefinitionError: there is such an attribute.
    """
    for owner in own_classes(cls, Backend):
        for name, value in vars(owner).items():
            for known, is_meant in MEANT.items():
                if known not in vars(owner) and name[0] != "_" and _resembles(name, known) and is_meant(value):
                    raise DefinitionError(
                        f"{owner.__qualname__}.{name} is not looked at; did you mean {known!r}? Write {known} = ..., "
                        f"or give it a name that does not resemble {known!r}"
                    )


class Backend:
    """Subclass it, decorate methods, and serve it with `app.serve(...)`.

    Class attributes:
        name: the backend's name and namespace; from the class name when not given.
        middleware: reusable layers, outermost first.
        store: the layer that answers when nothing above did, or None.
        model: an attrs class, the schema of the models; anything that is JSON when None.
        unknown: with a model, what happens to fields it does not declare: `"reject"` or `"drop"`.
        recheck_interval: seconds between two rounds of asking whether those who listen still may, see `recheck`;
            no rounds when None.

    `schema` is what was made of `model`.

    Raises (at class definition):
        DefinitionError: a mark, a parameter or a name is wrong; the text shows the fix.

    Example:
        >>> from bbio import Backend, BadRequest, before
        >>> from bbio.builtin import MemoryStore
        >>> class Todos(Backend):
        ...     store = MemoryStore()
        ...
        ...     @before("create", "update", "patch")
        ...     def check(self, req):
        ...         if not req.model.get("title", req.method == "patch"):
        ...             raise BadRequest("a todo needs a title")
        >>> Todos.name
        'todos'
    """

    name: ClassVar[str] = ""
    middleware: ClassVar[Sequence[Any]] = ()
    store: Store | None = None
    model: ClassVar[type | None] = None
    unknown: ClassVar[str] = "reject"
    recheck_interval: ClassVar[float | None] = None

    schema: Schema | None = None

    __bbio_layers__: ClassVar[tuple[Marked, ...]] = ()
    __bbio_used__: ClassVar[tuple[tuple[Any, tuple[str, ...]], ...]] = ()

    attempts: Attempts
    log: Store
    namespace: str
    publisher: Outlet
    stacks: dict[str, Stack]
    _stopping: AsyncExitStack
    _spawn: Spawn | None = None
    _threads: Threads | None = None
    _unanswered: set[str]  # sync methods that nothing answers, as the log has said
    _emit_listeners: dict[str, list[Callable[[Any], Any]]] | None = None
    _declared: Store | None = None  # the store as it was before it was opened
    # By identity: a backend may be a dataclass, which cannot be in a set.
    _running: ClassVar[WeakValueDictionary[int, Backend]] = WeakValueDictionary()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__bbio_layers__ = collect(cls)
        layers = [entry.name for entry in cls.__bbio_layers__]
        check_hidden(cls, Backend, layers)
        check_hidden(cls, Backend, [n for n in RESERVED if getattr_static(cls, n, 0) != getattr_static(Backend, n, 0)])
        check_hidden(cls, Backend, {"schema"} & vars(cls).keys())
        check_undecorated(cls, Backend, layers)
        _check_resembling(cls)
        cls.name = check_name(vars(cls).get("name") or default_name(cls))
        if isinstance(cls.middleware, (str, bytes)) or not isinstance(cls.middleware, Sequence):
            raise DefinitionError(f"{cls.__qualname__}.middleware is no list; write middleware = [Logger(), ...]")
        for item in cls.middleware:
            middleware_layers(item)
        if isinstance(cls.store, type) or not isinstance(cls.store, (Store, type(None))):
            raise DefinitionError(
                f"{cls.__qualname__}.store is {cls.store!r}; it must be an instance of a Store, such as MemoryStore()"
            )
        cls.schema = None if cls.model is None else cls._schema("id" if cls.store is None else cls.store.id_attribute)

    @classmethod
    def _schema(cls, id_attribute: str) -> Schema:
        try:
            return Schema(cls.model, id_attribute=id_attribute, unknown=cls.unknown)
        except DefinitionError as err:
            raise DefinitionError(f"{cls.__qualname__}.model: {err}") from None

    @classmethod
    def use(cls, *args: Any) -> None:
        """Add middleware after those of the class body, as `backend.use(...)` did in backbone.io.

        Parameters:
            args: sync methods (`"all"`, or none, for all of them; `"write"` for all but `read`), then a Middleware
                instance or a function of `req, res, next`.

        Raises:
            DefinitionError: it is no middleware, or a sync method is unknown.
            FrozenError: an application that serves this class, or one derived from it, is running.

        Example:
            >>> class Notes(Backend): pass
            >>> Notes.use("create", lambda req, next: next())
        """
        if any(isinstance(backend, cls) for backend in list(Backend._running.values())):
            raise FrozenError(
                f"{cls.__name__}.use(...) came after the application had started; call it before app.run()"
            )
        if not args or isinstance(args[-1], str):
            raise DefinitionError(f"{cls.__name__}.use(...) needs a middleware last: {cls.__name__}.use('create', fn)")
        *methods, item = args
        chosen = check_methods(f"{cls.__name__}.use", tuple(methods))
        middleware_layers(item, chosen)
        cls.__bbio_used__ = (*cls.__bbio_used__, (item, chosen))

    @property
    def id_attribute(self) -> str:
        """The name of the id in a model: the store's, `id` by default."""
        return "id" if self.store is None else self.store.id_attribute

    @property
    def layers(self) -> list[Layer]:
        """All layers of this instance in stack order."""
        entries = [(item, METHODS) for item in self.middleware] + list(self.__bbio_used__)
        reusable = [_by_kind(middleware_layers(item, methods)) for item, methods in entries]
        own = layers_of(self, self.__bbio_layers__)
        if self.schema is not None:
            own.insert(0, _entry(self.schema))
        return [layer for group in (*reusable, _by_kind(own)) for layer in group]

    def open(self, name: str, publisher: Outlet, spawn: Spawn, threads: Threads | None = None) -> None:
        """Bind this instance to its name, open its store and compile its stacks. Called when it is served."""
        self._threads = threads or self._threads or Threads()
        self.name = check_name(name)  # type: ignore[misc]
        self.namespace = "/" + name
        self.attempts = Attempts(self._plain)
        self._unanswered = set()
        self._spawn = spawn
        self.publisher = publisher
        if self._declared is None:
            self._declared = self.store if self.store is not None else Store()
        self.log = self._declared.open(self, publisher)
        if self.store is not None:
            self.store = self.log
        if self.schema is not None and self.schema.id_attribute != self.id_attribute:
            self.schema = self._schema(self.id_attribute)  # the store was chosen by __init__
        self.compile()

    def compile(self) -> None:
        """Build the stack of every sync method from the layers as they are now."""
        layers, schema, log = [self._bound(layer) for layer in self.layers], self.schema, self.log
        answer = self._answer_unanswered
        read: Answer = answer
        write: Write | None = None
        shown = None
        if self.store is not None:
            read, write = log.read, log.write
        if schema is not None:
            shown = partial(show, schema)
            if write is not None:
                write = _plain_write(schema, write)
        own = vars(type(log))
        immediate = own.get("immediate", False)
        bare_reads = own.get("bare_reads", False) and schema is None
        self.stacks = {"read": Stack("read", layers, read, immediate=immediate or bare_reads, show=shown)}
        guards = [layer for layer in layers if layer.kind == "before" and "read" in layer.methods]
        for method in WRITES:
            # Whoever makes a model knows it; else a write may be allowed to those who may not read.
            guarded = method != "create" and any(method not in layer.methods for layer in guards)
            self.stacks[method] = Stack(
                method,
                layers,
                answer,
                commit=self._commit,
                find=log.find,
                attempts=self.attempts,
                write=write,
                atomic=write is not None and log.atomic,
                immediate=immediate,
                show=shown,
                may_read=self._may_read if guarded else None,
            )

    async def _may_read(self, req: Request) -> bool:
        """Whether the client of a write may read the model, as the `before` layers of `read` say."""
        if req.channel in getattr(req.socket, "channels", ()):
            return True  # it is told of the write anyway
        asked = Request("read", {self.id_attribute: req.id}, {}, self, req.channel, req.socket)
        return (await self.stacks["read"].admit(asked)).failure is None

    def _bound(self, layer: Layer) -> Layer:
        """A layer whose call can be awaited, where it runs in a thread."""
        if not layer.in_thread:
            return layer
        assert self._threads is not None
        return attrs.evolve(layer, call=self._threads.wrap(layer.call, layer.name), is_async=True)

    async def _answer_unanswered(self, req: Request) -> Any:
        """The bottom, where nothing above has answered."""
        if not self.stacks[req.method].has_handler:
            self._warn_unanswered([req.method])
        if req.method in ("create", "update", "patch") and has_counts(req.model):
            raise BadRequest(f"{self.name!r} keeps nothing that could be counted; give the fields their values")
        return await bottom(req) if self.schema is None else plain(self.schema, req)

    def _warn_unanswered(self, methods: list[str]) -> None:
        """Say once for each of these sync methods that nothing answers it."""
        methods = [method for method in methods if method not in self._unanswered]
        self._unanswered.update(methods)
        if methods:
            logger.warning(
                "%s (%s): nothing answers %s: the client gets back the model that it sent, and a write is told to "
                "others; give the backend a store, or write @%s above a method that answers, or that refuses",
                self.name,
                type(self).__name__,
                ", ".join(methods),
                methods[0],
            )

    async def start(self) -> None:
        """Freeze the stacks, start the store and the middleware. Called once, before the first request."""
        self.compile()
        if self.store is None:
            self._warn_unanswered([method for method in METHODS if not self.stacks[method].may_answer])
        async with AsyncExitStack() as stopping:
            Backend._running[id(self)] = self
            stopping.callback(Backend._running.pop, id(self), None)
            await self.log.start()
            stopping.push_async_callback(self.log.stop)
            for item in self._middleware_instances():
                await item.start(self)
                stopping.push_async_callback(item.stop)
            self._stopping = stopping.pop_all()

    async def stop(self) -> None:
        """Stop the middleware and the store. Called once, after the last request."""
        await self._stopping.aclose()

    def _middleware_instances(self) -> list[Middleware]:
        items = [*self.middleware, *(item for item, _ in self.__bbio_used__)]
        return [item for item in items if isinstance(item, Middleware)]

    def _plain(self, req: Request, result: Any) -> Any:
        return result if self.schema is None else as_record(self.schema, result, req)

    async def _commit(self, req: Request, result: Any) -> None:
        """Log and publish a write that no store has committed."""
        record = req.model if result is None else result
        if self.schema is not None:
            record = plain(self.schema, req) if result is None else self._plain(req, result)
        if result is None and has_counts(record):
            record = uncounted(record)
        req.committed = await self.log.append(channel_stream(req.channel), NOTIFIED_AS[req.method], record, req)

    async def since(self, stream: str, epoch: Any, offset: Any, stamp: int = 0) -> list[Event] | None:
        """The events of the log after a position, None when they are no longer all there, or it is of another history.

        What other programs wrote, or an earlier version of the model, may hold what nobody may see.
        """
        log = self.log
        events = await log.since(stream, epoch, offset, stamp)
        if events and 0 < events[0].when < log.event_clock() - log.history.age:
            return None  # nobody has written since, so that nothing was dropped
        if self.schema is None or not events:
            return events
        return [narrowed(event, self.schema.public) for event in events]

    def emit(self, event: str, model: Any, channel: str | None = None) -> None:
        """Tell the clients of this backend of a change that no client made. May be called from any thread.

        Nothing is stored: keep first what is told, where a read finds it. Before the application has started, the event
        waits for the start.

        Parameters:
            event: `created`, `updated` or `deleted`.
            model: the whole model.
            channel: only the listeners of this channel ("" is the default channel); every client when None.

        Raises:
            ValueError: the event is none of the three.
            EncodingError: the model holds what JSON does not have.
            ConfigurationError: the backend is not served, the application does not run any more, or too much waits
                for its start.

        Example:
            `app.backends["jobs"].emit("updated", {"id": "x", "percent": 50})`
        """
        method = _emitted_as("emit", event)
        if self._spawn is None:
            raise ConfigurationError(
                f"{type(self).__name__}.emit needs a served backend; call app.serve({type(self).__name__}) first"
            )
        stream = BACKEND_WIDE if channel is None else channel_stream(channel)
        # Encoded at once: what the caller does with the model afterwards must not show.
        try:
            body = msgspec.Raw(self.log.encode(model))
        except EncodingError as err:
            err.locate(place_of(err.value, model, "model") or "model")
            raise
        self._spawn(lambda: self.log.append(stream, method, body))
        for listener in (self._emit_listeners or {}).get(event, ()):
            if iscoroutinefunction(listener):
                self._spawn(partial(listener, model))
                continue
            try:
                listener(model)
            except Exception as err:
                listener_failures.error(err, "a listener to %r of %s failed", event, self.name)

    def on(self, event: str, listener: Callable[[Any], Any]) -> Self:
        """Call a function whenever this backend emits, as in backbone.io: clients' own writes are for `@after` layers.

        Parameters:
            event: `created`, `updated` or `deleted`.
            listener: a function of the model, called at once where `emit` was called; an async one runs in the
                application. What it raises is logged.

        Raises:
            ValueError: the event is none of the three.
            TypeError: the listener is no function.

        Example:
            >>> class Notes(Backend): pass
            >>> notes = Notes().on("created", print)
        """
        _emitted_as("on", event)
        if not callable(listener):
            raise TypeError(f"on({event!r}, {listener!r}): that is no function of the model")
        if self._emit_listeners is None:
            self._emit_listeners = {name: [] for name in EMITTED_AS}
        self._emit_listeners[event].append(listener)
        return self

    async def recheck(self, channel: str | None = None) -> None:
        """Ask the `before` layers of `read` again whether those who listen may; who may not any more hears no more.

        Call it when a permission has been taken away. An error of the server, a timeout or `Busy` drops nobody. Other
        processes that serve the backend from the same database do the same: with PostgreSQL a moment later, with
        SQLite within five seconds.

        Parameters:
            channel: only the listeners of this channel ("" is the default channel); all when None.

        Raises:
            SyncError: other processes could not be told; who listens here was asked all the same.

        Example:
            `await app.backends["messages"].recheck("staff")`
        """
        try:
            await self.log.tell_recheck(channel)
        finally:
            await self.publisher.recheck(channel)


def _emitted_as(call: str, event: str) -> str:
    method = EMITTED_AS.get(event)
    if method is None:
        raise ValueError(f"{call}({event!r}): the event is one of {', '.join(EMITTED_AS)}")
    return method


def _by_kind(layers: list[Layer]) -> list[Layer]:
    order = ("before", "use", "handler", "once", "after", "on_error")
    return sorted(layers, key=lambda layer: order.index(layer.kind))


def _entry(schema: Schema) -> Layer:
    """The layer that makes incoming models typed objects."""

    def typed(req: Request) -> None:
        enter(schema, req)

    cls = schema.cls
    where = f"{cls.__module__}.{cls.__qualname__}"
    return make_layer("before", f"model {cls.__name__}", ("create", "update", "patch"), typed, where=where)


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
