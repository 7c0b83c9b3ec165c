"""Backend: a class whose decorated methods are the middleware stacks of one namespace. A `Runtime` runs it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import SequenceMatcher
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, ClassVar, ForwardRef, Generic, Literal, Protocol, get_args, get_origin
from weakref import WeakSet

import attrs

from bbio.decorators import (
    Marked,
    check_ephemeral,
    check_hidden,
    check_methods,
    check_undecorated,
    collect,
    own_classes,
)
from bbio.errors import ConfigurationError, DefinitionError, FrozenError
from bbio.generic import M
from bbio.model.schema import Schema
from bbio.protocol import MAX_NAME
from bbio.query import QueryLimits
from bbio.stack.stack import Middleware, middleware_layers
from bbio.store import Store
from bbio.streams import HistoryLimits

# The names that a backend declares itself with, or calls: no layer can have them. All others are the application's.
INTERFACE = (
    *("name", "middleware", "store", "model", "unknown", "schema", "emit", "use", "notifies", "recheck_interval"),
    *("follows", "live_queries", "deltas", "presence"),
)
CALLED = ("emit", "use")
# What `emit` may tell of.
Emitted = Literal["created", "updated", "deleted"]

# What a backend says whose reads are narrowed, and whose notifications are not to be.
UNFILTERED = "unfiltered"

# What its users found in a backend before its runtime had it.
MOVED_TO_RUNTIME = ("layers", "log", "namespace", "on", "since", "stacks")

NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


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
            f"{name!r} is not a backend name; use letters, digits, '_', '-', '.' and '/', fewer than {MAX_NAME} of them"
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
    "deltas": lambda value: isinstance(value, bool),
    "unknown": lambda value: isinstance(value, str) and value in ("reject", "drop"),
    "notifies": lambda value: value == UNFILTERED,
    "recheck_interval": lambda value: isinstance(value, (int, float)),
    "live_queries": lambda value: isinstance(value, bool),
    "presence": lambda value: isinstance(value, bool),
    "follows": lambda value: isinstance(value, dict) and {type(each) for each in (*value, *value.values())} == {str},
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


def _check_options(cls: type[Backend]) -> None:
    """Refuse `id_attribute = "_id"` and other options of a store: in a backend they would change nothing.

    Raises:
        DefinitionError: there is such an attribute.
    """
    store = cls.store
    kind = "MemoryStore" if store is None else type(store).__name__
    for owner in own_classes(cls, Backend):
        for name, value in vars(owner).items():
            if (name == "id_attribute" and value != getattr(store, name, None)) or (
                isinstance(value, (HistoryLimits, QueryLimits)) and hasattr(Store, name)
            ):
                raise DefinitionError(
                    f"{owner.__qualname__}.{name} is not looked at, as it is the store that has it; "
                    f"write store = {kind}({name}={value!r})"
                )


def _named_model(cls: type[Backend]) -> type | None:
    """Return `Todo` of a class that is derived from `Backend[Todo]`, None of others.

    Raises:
        DefinitionError: the class says `model = ...` as well, and it is another.
    """
    for base in vars(cls).get("__orig_bases__", ()):
        origin = get_origin(base)
        if not (isinstance(origin, type) and issubclass(origin, Backend)):
            continue
        named: Any = get_args(base)[0]
        if isinstance(named, ForwardRef):
            text = named.__forward_arg__
            raise DefinitionError(
                f"{cls.__qualname__}: nothing is known yet of {text!r}; write class {text} above, and "
                f"{origin.__name__}[{text}] without quotes"
            )
        if named is Any or not isinstance(named, type):
            continue
        if vars(cls).get("model", named) is not named:
            raise DefinitionError(
                f"{cls.__qualname__} is a {origin.__name__}[{named.__name__}], and its model is another class; drop one"
            )
        model: type = named
        return model
    return None


def schema_of(cls: type[Backend], id_attribute: str) -> Schema | None:
    """Return the schema of the models of a backend, None when it has no model.

    Parameters:
        cls: the class of the backend.
        id_attribute: the name of the id.

    Raises:
        DefinitionError: the model cannot be one.
    """
    if cls.model is None:
        return None
    try:
        return Schema(cls.model, id_attribute=id_attribute, unknown=cls.unknown)
    except DefinitionError as err:
        raise DefinitionError(f"{cls.__qualname__}.model: {err}") from None


class Running(Protocol):
    """A backend's runtime, as the backend itself knows it."""

    backend: Backend

    def emit(self, event: Emitted, model: Any, channel: str | None = None, *, before: Any = None) -> None:
        """Tell clients of a change that no client made."""

    async def recheck(self, channel: str | None = None) -> None:
        """Ask again whether those who listen may."""

    def live_sessions(self) -> set[str]:
        """Return the ids of the sessions that clients of this process have."""

    def end_sessions(self, ids: Collection[str]) -> None:
        """Let go of the listeners of this process whose sessions have ended."""


# The runtimes that have started.
RUNNING: WeakSet[Running] = WeakSet()


class Backend(Generic[M]):
    """Base class of backends: subclass it, decorate methods, and serve it with `app.serve(...)`.

    Class attributes:
        name: the backend's name and namespace; from the class name when not given.
        middleware: reusable layers, outermost first.
        store: the store, which answers every request that no handler has answered; or None.
        model: an attrs class, the schema of the models; None for any JSON object. `class Todos(Backend[Todo])`
            declares it too, and tells type checkers.
        unknown: `"reject"` or `"drop"`, for fields that the model does not declare.
        notifies: `"unfiltered"` where layers narrow what a read finds and clients are to be told of every write all the
            same, so that the log does not warn of it; see docs/visibility.md.
        recheck_interval: seconds between two rounds in which all listeners are asked for their permission again, see
            `recheck`; None for no rounds.
        follows: other backends whose records decide what `@visible` says, each with the field of theirs that has the
            id of a user: `{"memberships": "user"}`. A change of such a record has this user's permission asked again.
        live_queries: whether clients may ask to be told of some models alone; where `@visible` is used, they may.
        deltas: whether clients that can be are told what a write changed, in place of the whole record.
        presence: whether those who listen to a channel can be present in it, and see who else is; so they can too
            where a method is marked with `@presence`, which says what others see of each.

    `schema` is the `Schema` of `model`.

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
    notifies: ClassVar[Literal["unfiltered"] | None] = None
    recheck_interval: ClassVar[float | None] = None
    follows: ClassVar[Mapping[str, str]] = {}
    live_queries: ClassVar[bool] = False
    deltas: ClassVar[bool] = False
    presence: ClassVar[bool] = False

    schema: Schema | None = None

    __bbio_layers__: ClassVar[tuple[Marked, ...]] = ()
    __bbio_used__: ClassVar[tuple[tuple[Any, tuple[str, ...]], ...]] = ()

    __bbio_runtime__: ClassVar[Running | None] = None  # of an instance that is served

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__bbio_layers__ = collect(cls)
        layers = [entry.name for entry in cls.__bbio_layers__]
        check_hidden(cls, Backend, [name for name in layers if name in INTERFACE])
        check_hidden(cls, Backend, [n for n in CALLED if getattr_static(cls, n) != getattr_static(Backend, n)])
        check_hidden(cls, Backend, {"schema"} & vars(cls).keys())
        check_undecorated(cls, Backend, layers)
        check_ephemeral(cls, cls.__bbio_layers__, cls.presence)
        _check_resembling(cls)
        _check_options(cls)
        cls.model = _named_model(cls) or cls.model
        cls.name = check_name(vars(cls).get("name") or default_name(cls))
        if isinstance(cls.middleware, (str, bytes)) or not isinstance(cls.middleware, Sequence):
            raise DefinitionError(f"{cls.__qualname__}.middleware is not a list; write middleware = [Logger(), ...]")
        for item in cls.middleware:
            middleware_layers(item)
        if isinstance(cls.store, type) or not isinstance(cls.store, (Store, type(None))):
            raise DefinitionError(
                f"{cls.__qualname__}.store is {cls.store!r}; it must be an instance of a Store, such as MemoryStore()"
            )
        if cls.notifies not in (None, UNFILTERED):
            raise DefinitionError(
                f"{cls.__qualname__}.notifies is {cls.notifies!r}; write notifies = {UNFILTERED!r}, or leave it out"
            )
        if not isinstance(cls.follows, Mapping):
            raise DefinitionError(
                f"{cls.__qualname__}.follows is {cls.follows!r}; name backends, each with the field that has the id of "
                'a user: follows = {"memberships": "user"}'
            )
        cls.schema = schema_of(cls, "id" if cls.store is None else cls.store.id_attribute)

    @classmethod
    def use(cls, *args: Any) -> None:
        """Add middleware after those of the class body, as `backend.use(...)` did in backbone.io.

        Parameters:
            args: sync methods (`"all"`, or none, for all of them; `"write"` for all but `read`), then a Middleware
                instance or a function of `req, res, next`.

        Raises:
            DefinitionError: it is not middleware, or a sync method is unknown.
            FrozenError: an application that serves this class, or one derived from it, is running.

        Example:
            >>> class Notes(Backend): pass
            >>> Notes.use("create", lambda req, next: next())
        """
        if any(isinstance(runtime.backend, cls) for runtime in list(RUNNING)):
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

    def emit(
        self,
        event: Emitted,
        model: M | Mapping[str, Any],
        channel: str | None = None,
        *,
        before: M | Mapping[str, Any] | None = None,
    ) -> None:
        """Notify the clients of this backend of a change that no client made; see `Runtime.emit`.

        Parameters:
            event: `created`, `updated` or `deleted`.
            model: the whole model.
            channel: the channel whose listeners are notified ("" is the default channel); None for all clients.
            before: the whole model as it was before an update, for views of some records, such as by `@visible`.

        Raises:
            ConfigurationError: the backend is not served.
            ValueError, EncodingError: see `Runtime.emit`.

        Example:
            `self.emit("updated", {"id": "x", "percent": 50})`
        """
        self.__bbio_served__("emit").emit(event, model, channel, before=before)

    async def recheck(self, channel: str | None = None) -> None:
        """Check the permission of all listeners again; see `Runtime.recheck`.

        Parameters:
            channel: the channel whose listeners are checked ("" is the default channel); None for all listeners.

        Raises:
            ConfigurationError: the backend is not served.
            SyncError: see `Runtime.recheck`.

        Example:
            `await self.recheck("staff")`
        """
        await self.__bbio_served__("recheck").recheck(channel)

    def __bbio_served__(self, call: str) -> Running:
        runtime = self.__bbio_runtime__
        if runtime is None:
            cls = type(self).__name__
            raise ConfigurationError(f"{cls}.{call} needs a served backend; call app.serve({cls}) first")
        return runtime

    if not TYPE_CHECKING:  # pragma: no branch - for checkers there is no such attribute

        def __getattr__(self, name: str) -> Any:
            """Return what has moved to the runtime, for one version more."""
            cls = type(self).__name__
            if name not in MOVED_TO_RUNTIME:
                raise AttributeError(f"{cls!r} object has no attribute {name!r}", name=name, obj=self)
            place = f"app.backends[{self.name!r}].{name}"
            if self.__bbio_runtime__ is None:
                raise AttributeError(f"{cls}.{name} has moved: serve the backend, and write {place}")
            warnings.warn(f"{cls}.{name} has moved: write {place}", DeprecationWarning, stacklevel=2)
            return getattr(self.__bbio_runtime__, name)
