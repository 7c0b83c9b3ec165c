"""Decorators leave a mark on a function and return it unchanged; `collect` gathers the marks of a class.

The rules are docs/backends.md, "Rules": base classes first (method resolution order), then in definition
order; an override keeps the slot of what it overrides, and its marks unless it is decorated again.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any, Literal, TypeVar, overload

import attrs

from bbio.errors import DefinitionError
from bbio.patterns import ChannelPattern
from bbio.requests import METHODS, WRITES, Method

F = TypeVar("F", bound=Callable[..., Any])

MARKS = "__bbio_marks__"

# One name for several sync methods, so that a guard of writes forgets none.
WRITE = "write"
WRITE_METHODS = tuple(method for method in METHODS if method in WRITES)
MethodName = Method | Literal["write", "all"]
NAMED = f"use any of {', '.join(METHODS)}, or {WRITE!r} for {', '.join(WRITE_METHODS)}"

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

# The parameters each kind of layer may ask for.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "before": ("req", "res"),
    "use": ("req", "res", "next"),
    "handler": ("req", "res", "next"),
    "once": ("req", "record"),
    "consumer": ("event",),
    "after": ("req", "res"),
    "on_error": ("err", "req", "res"),
    "visible": ("req",),
    "presence": ("req",),
    "message": ("req", "data"),
    # And the parts of its pattern.
    "channel": ("req",),
    "on_connect": ("req",),
}
# The kinds that run before a record is stored, and say so where they may for many at once.
BULK_KINDS = ("before", "use", "handler")
# Options that some decorators take.
OF_OTHERS = {
    "once": "only @after takes once=True",
    "bulk": "layers that run when a record is stored, or refused, run for each one anyway: leave it out",
}
# The kinds that belong to no sync method.
EPHEMERAL_KINDS = ("presence", "message")
# The longest name of a message.
MAX_MESSAGE_NAME = 64


@attrs.frozen
class Mark:
    """The note that a decorator leaves.

    Parameters:
        kind: the kind of layer.
        methods: the sync methods it applies to; of a `message` the names of messages.
        thread: whether it runs in a thread.
        may_leave: whether a change may leave a record that it says is not to be seen.
        pattern: the channels that it decides on.
        bulk: whether it may run for many records before any of them is stored.
    """

    kind: str
    methods: tuple[str, ...]
    thread: bool = False
    may_leave: bool = False
    pattern: ChannelPattern | None = None
    bulk: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts of the channels' names, which it may ask for."""
        return () if self.pattern is None else self.pattern.names


@attrs.frozen
class Marked:
    """A marked function of a class: its name, the class that defines it, its marks in the order applied."""

    name: str
    owner: type
    function: Callable[..., Any]
    marks: tuple[Mark, ...]


def check_methods(decorator: str, names: tuple[Any, ...], every: tuple[str, ...] = METHODS) -> tuple[str, ...]:
    """The sync methods named by a decorator; `every` one when none is, or `"all"`; `"write"` is all but `read`.

    Raises:
        DefinitionError: a name is not a sync method, or is there twice.
    """
    if names == ("all",):
        return every
    methods: list[str] = []
    for name in names:
        if name != WRITE and name not in METHODS:
            close = difflib.get_close_matches(str(name).lower(), (*METHODS, WRITE), n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise DefinitionError(f"{decorator}({name!r}): there is no sync method {name!r}; {hint}{NAMED}")
        methods += WRITE_METHODS if name == WRITE else (name,)
    for method in methods:
        if methods.count(method) > 1:
            group = f"; {WRITE!r} is {', '.join(WRITE_METHODS)}" if WRITE in names else ""
            raise DefinitionError(f"{decorator}: {method!r} is named twice; name each sync method once{group}")
    return tuple(methods) or every


def leave_mark(target: Any, mark: Mark, decorator: str) -> Any:
    """Append `mark` to the marks of the function `target` and return it."""
    if isinstance(target, (staticmethod, classmethod, property)):
        raise DefinitionError(
            f"{decorator} is on a {type(target).__name__}; decorate a plain method: "
            f"{decorator} above `def name(self, ...)`, without @{type(target).__name__}"
        )
    if not inspect.isfunction(target):
        raise DefinitionError(
            f"{decorator} is on {target!r}, which is not a function; put it above `def name(self, ...)`"
        )
    marks: tuple[Mark, ...] = getattr(target, MARKS, ())
    taken = {(m.kind, m.pattern, name) for m in marks for name in m.methods}
    twice = [name for name in mark.methods if (mark.kind, mark.pattern, name) in taken]
    if twice:
        name = twice[0] if mark.pattern is None else mark.pattern.text
        raise DefinitionError(f"{decorator}: {name!r} is already marked so on this method; name it once")
    setattr(target, MARKS, (*marks, mark))
    return target


_HANDLER_DOC = """Mark a method as a handler of `{method}`: its return value is the result.

Parameters:
    thread: whether the method, a plain `def`, runs in a thread, because it blocks.
    bulk: whether it may run for all records of a batch before any of them is stored (docs/import-export.md).

Raises (at class definition):
    DefinitionError: the method asks for something else than `req`, `res` and `next`, or the decorator names methods.

Example:
    >>> from bbio import Backend
    >>> class Todos(Backend):
    ...     @{method}
    ...     def answer(self, req):
    ...         return {{"id": 1, "title": "milk"}}
"""

_PHASE_DOC = """{first}

Parameters:
    methods: the sync methods it applies to; `"write"` stands for all but `read`. Without names it applies to all.{more}
    thread: whether the method, a plain `def`, runs in a thread, because it blocks.

Raises (at class definition):
    DefinitionError: a name is not a sync method, or the method asks for something else than {parameters}.

Example:
    >>> from bbio import Backend, Forbidden
    >>> class Todos(Backend):{example}
"""
_ONCE = """
    once: whether it is for an effect, such as an email, which a retry of a write must not cause again."""
_BULK = """
    bulk: whether it may run for all records of a batch before any of them is stored (docs/import-export.md)."""


def _phase_doc(first: str, parameters: str, example: str, more: str = "") -> str:
    lines = "".join(f"\n    ...     {line}".rstrip(" ") for line in example.splitlines())
    return _PHASE_DOC.format(first=first, parameters=parameters, example=lines, more=more)


class _Phase:
    """A decorator that may be used bare (`@use`) or with sync methods (`@use("read")`, `@use("write")`)."""

    def __init__(self, kind: str, doc: str) -> None:
        self._kind = kind
        self.__doc__ = doc
        self.__name__ = kind

    @overload
    def __call__(self, target: F, /) -> F: ...
    @overload
    def __call__(self, *methods: MethodName, thread: bool = False) -> Callable[[F], F]: ...
    def __call__(self, *args: Any, thread: bool = False, **options: Any) -> Any:
        self._refuse(options)
        return self._mark(self._kind, f"@{self._kind}", args, METHODS, thread)

    def _refuse(self, options: Iterable[str]) -> None:
        for option in options:
            only = OF_OTHERS.get(option, "name sync methods, or say thread=True")
            raise DefinitionError(f"@{self._kind} takes no {option!r}; {only}")

    def _mark(
        self,
        kind: str,
        decorator: str,
        args: tuple[Any, ...],
        every: tuple[str, ...],
        thread: bool,
        bulk: bool = False,
    ) -> Any:
        if args and isinstance(args[0], (list, tuple, set)):
            raise DefinitionError(f"{decorator}: name the sync methods one by one: {decorator}('create', 'update')")
        if len(args) == 1 and not isinstance(args[0], str):
            return leave_mark(args[0], Mark(kind, every, thread), decorator)
        mark = Mark(kind, check_methods(decorator, args, every), thread, bulk=bulk)
        return lambda target: leave_mark(target, mark, decorator)

    def __repr__(self) -> str:
        return f"<decorator @{self._kind}>"


class _BulkPhase(_Phase):
    """A decorator of layers that run before a record is stored, which may say that they run for many at once."""

    @overload
    def __call__(self, target: F, /) -> F: ...
    @overload
    def __call__(self, *methods: MethodName, thread: bool = False, bulk: bool = False) -> Callable[[F], F]: ...
    def __call__(self, *args: Any, thread: bool = False, bulk: bool = False, **options: Any) -> Any:
        self._refuse(options)
        return self._mark(self._kind, f"@{self._kind}", args, METHODS, thread, bulk)


class _After(_Phase):
    """`@after`, and `@after(..., once=True)`: a layer for effects, which a retry of a write does not run again."""

    @overload
    def __call__(self, target: F, /) -> F: ...
    @overload
    def __call__(self, *methods: MethodName, once: bool = False, thread: bool = False) -> Callable[[F], F]: ...
    def __call__(self, *args: Any, once: bool = False, thread: bool = False, **options: Any) -> Any:
        if options or not once:
            return super().__call__(*args, thread=thread, **options)
        if "read" in args:
            raise DefinitionError("@after('read', once=True): a read changes nothing; once=True is for writes")
        if args and isinstance(args[0], (list, tuple, set)):
            raise DefinitionError("@after: name the sync methods one by one: @after('create', 'update', once=True)")
        if len(args) == 1 and not isinstance(args[0], str):
            return _leave_once(args[0], WRITE_METHODS, thread)
        methods = check_methods("@after", args, WRITE_METHODS)
        return lambda target: _leave_once(target, methods, thread)


def _leave_once(target: Any, methods: tuple[str, ...], thread: bool) -> Any:
    """Mark a layer of `once=True`: with an `event`, it is a consumer."""
    is_consumer = inspect.isfunction(target) and "event" in inspect.signature(target).parameters
    if is_consumer and ("update" in methods) != ("patch" in methods):
        raise DefinitionError(
            f"@after(once=True) on {target.__qualname__}, which takes an event: an event does not say whether it was "
            "an update or a patch; name both, or neither"
        )
    return leave_mark(target, Mark("consumer" if is_consumer else "once", methods, thread), "@after")


class _Handler:
    """A decorator for one sync method, bare (`@create`) or called (`@create()`)."""

    def __init__(self, method: str) -> None:
        self._method = method
        self.__name__ = method
        self.__doc__ = _HANDLER_DOC.format(method=method)

    @overload
    def __call__(self, target: F, /) -> F: ...
    @overload
    def __call__(self, *, thread: bool = False, bulk: bool = False) -> Callable[[F], F]: ...
    def __call__(self, *args: Any, thread: bool = False, bulk: bool = False) -> Any:
        decorator = f"@{self._method}"
        mark = Mark("handler", (self._method,), thread, bulk=bulk)
        if not args:
            return lambda target: leave_mark(target, mark, decorator)
        if len(args) > 1 or isinstance(args[0], str):
            raise DefinitionError(
                f"{decorator} takes no arguments: it already names its sync method; write {decorator} above the method"
            )
        return leave_mark(args[0], mark, decorator)

    def __repr__(self) -> str:
        return f"<decorator @{self._method}>"


class _Visible:
    """Mark a method to say which records a viewer may have: a query, True for all of them, False for none.

    It runs after the `before` layers of `read`, once for each client and channel when that listens, and again whenever
    permissions are looked at again. Reads, pages and totals, writes, notifications and what is told after a lost
    connection follow it. Where there are several, such as of mixins, a record must be in all of them.

    A `SyncError` that it raises, such as `Unauthorized`, is the answer to the client. After any other error the client
    sees nothing until it answers again.

    Parameters:
        may_leave: whether a client may change a record so that it is no longer to be seen by it. A new one must be
            in its scope all the same.
        thread: whether the method, a plain `def`, runs in a thread, because it blocks.

    Raises (at class definition):
        DefinitionError: the method asks for something else than `req`, or the decorator names methods.

    Example:
        >>> from bbio import Backend
        >>> from bbio.builtin import MemoryStore
        >>> class Notes(Backend):
        ...     store = MemoryStore()
        ...
        ...     @visible
        ...     def own(self, req):
        ...         return {"owner": req.user["id"]}
    """

    __name__ = "visible"

    @overload
    def __call__(self, target: F, /) -> F: ...
    @overload
    def __call__(self, *, may_leave: bool = False, thread: bool = False) -> Callable[[F], F]: ...
    def __call__(self, *args: Any, may_leave: bool = False, thread: bool = False) -> Any:
        mark = Mark("visible", METHODS, thread, may_leave)
        if not args:
            return lambda target: leave_mark(target, mark, "@visible")
        if len(args) > 1 or isinstance(args[0], str):
            raise DefinitionError("@visible names no sync methods: what it says holds for all of them; write @visible")
        return leave_mark(args[0], mark, "@visible")

    def __repr__(self) -> str:
        return "<decorator @visible>"


class _Channel:
    """Mark a method as the rule for some channels: it may refuse a client, by an error or by returning False.

    A backend with such rules has no other channels: a client that names one is answered `Forbidden`. The default
    channel is `@channel("")`. The rule runs after the `before` layers of `read`, when a client listens to a channel,
    whenever permissions are looked at again, and for a request that names a channel which its client does not listen
    to.

    A part in braces stands for at least one character, and ends where the text that follows it stands first; the last
    one takes the rest. `{number:int}` is a whole number without a sign or leading zeros, `{id:uuid}` a UUID in lower
    case, anything else a text in the form NFC without control characters.

    Parameters:
        pattern: the names of the channels, such as `project-{project}`.
        thread: whether the method, a plain `def`, runs in a thread, because it blocks.

    Raises (at class definition):
        DefinitionError: the pattern cannot be one, the method asks for something else than `req` and the parts of the
            pattern, or two rules could be asked about one channel.

    Example:
        >>> from bbio import Backend, Forbidden
        >>> class Tasks(Backend):
        ...     @channel("project-{project}")
        ...     def members(self, req, project):
        ...         if req.user is None or project not in req.user["projects"]:
        ...             raise Forbidden("members only")
    """

    __name__ = "channel"

    def __call__(self, pattern: str, /, *, thread: bool = False) -> Callable[[F], F]:
        if inspect.isfunction(pattern):
            raise DefinitionError(
                "@channel names the channels that the method decides on: @channel('project-{project}'), or "
                "@channel('') for the default channel"
            )
        mark = Mark("channel", METHODS, thread, pattern=ChannelPattern.parse(pattern))
        return lambda target: leave_mark(target, mark, f"@channel({pattern!r})")

    def __repr__(self) -> str:
        return "<decorator @channel>"


class _OnConnect:
    """Mark a method to run once for each client that connects to the backend; its requests wait for it.

    The `before` layers of reusable middleware run before it, so that `req.user` is there. What it leaves in
    `req.socket.state` stays for as long as the client is connected. By an error it refuses the client: a `SyncError` is
    told to it as Socket.IO's `connect_error`. It may take as long as a request, `Limits.deadline`.

    Parameters:
        thread: whether the method, a plain `def`, runs in a thread, because it blocks.

    Raises (at class definition):
        DefinitionError: the method asks for something else than `req`, or the decorator names methods.

    Example:
        >>> from bbio import Backend, Unauthorized
        >>> class Tasks(Backend):
        ...     @on_connect
        ...     async def load_projects(self, req):
        ...         if req.user is None:
        ...             raise Unauthorized("log in first")
        ...         req.socket.state["projects"] = set(req.user["projects"])
    """

    __name__ = "on_connect"

    @overload
    def __call__(self, target: F, /) -> F: ...
    @overload
    def __call__(self, *, thread: bool = False) -> Callable[[F], F]: ...
    def __call__(self, *args: Any, thread: bool = False) -> Any:
        mark = Mark("on_connect", ("read",), thread)
        if not args:
            return lambda target: leave_mark(target, mark, "@on_connect")
        if len(args) > 1 or isinstance(args[0], str):
            raise DefinitionError("@on_connect names nothing: it runs once for each client; write @on_connect")
        return leave_mark(args[0], mark, "@on_connect")

    def __repr__(self) -> str:
        return "<decorator @on_connect>"


class _Presence:
    """Mark a method to say who a client is in the presence of a channel: it returns the card that others see.

    A backend that has such a method has presence; `presence = True` gives it presence without cards. The method runs
    after the `before` layers of `read`, when a client joins, and again whenever permissions are looked at again. It may
    raise, to keep the client out. Its `req.event` is `presence`, or `message` where a message is told of somebody who
    is not present.

    Parameters:
        thread: whether the method, a plain `def`, runs in a thread, because it blocks.

    Raises (at class definition):
        DefinitionError: the method asks for something else than `req`, or the decorator gets a name.

    Example:
        >>> from bbio import Backend
        >>> class Rooms(Backend):
        ...     @presence
        ...     def card(self, req):
        ...         return {"name": req.user["name"]}
    """

    __name__ = "presence"

    @overload
    def __call__(self, target: F, /) -> F: ...
    @overload
    def __call__(self, *, thread: bool = False) -> Callable[[F], F]: ...
    def __call__(self, *args: Any, thread: bool = False) -> Any:
        mark = Mark("presence", ("presence",), thread)
        if not args:
            return lambda target: leave_mark(target, mark, "@presence")
        if len(args) > 1 or isinstance(args[0], str):
            raise DefinitionError("@presence takes no names: a backend has one presence; write @presence")
        return leave_mark(args[0], mark, "@presence")

    def __repr__(self) -> str:
        return "<decorator @presence>"


class _Message:
    """Mark a method to decide about messages of this name, which clients tell each other and nobody keeps.

    It runs after the `before` layers of `read`. What it returns is told in place of what was sent; with None, what was
    sent. It may raise, and then nobody is told.

    Parameters:
        names: the names of the messages.
        thread: whether the method, a plain `def`, runs in a thread, because it blocks.

    Raises (at class definition):
        DefinitionError: there is no name, or it is not valid, or the method asks for something else than `req` and
            `data`.

    Example:
        >>> from bbio import Backend
        >>> class Rooms(Backend):
        ...     @message("typing")
        ...     def typing(self, req, data):
        ...         return {"in": str(data.get("in", ""))[:20]}
    """

    __name__ = "message"

    def __call__(self, *names: str, thread: bool = False) -> Callable[[F], F]:
        if not names or not all(isinstance(name, str) for name in names):
            raise DefinitionError('@message needs the name of the message: write @message("typing") above the method')
        for name in names:
            if not 0 < len(name) <= MAX_MESSAGE_NAME:
                raise DefinitionError(
                    f"@message({name!r}): a message's name has 1 to {MAX_MESSAGE_NAME} characters; choose another"
                )
            if names.count(name) > 1:
                raise DefinitionError(f"@message: {name!r} is named twice; name each message once")
        mark = Mark("message", names, thread)
        return lambda target: leave_mark(target, mark, "@message")

    def __repr__(self) -> str:
        return "<decorator @message>"


before = _BulkPhase(
    "before",
    _phase_doc(
        "Mark a method to run before the handlers; it may change `req` or raise.",
        "`req` and `res`",
        """@before("write")
def require_user(self, req):
    if req.user is None:
        raise Forbidden("log in first")""",
        _BULK,
    ),
)
use = _BulkPhase(
    "use",
    _phase_doc(
        "Mark a method to wrap everything below it; `await next()` runs what is below.",
        "`req`, `res` and `next`",
        """@use("write")
async def report(self, req, next):
    result = await next()
    print(req.method, result["id"])
    return result""",
        _BULK,
    ),
)
after = _After(
    "after",
    _phase_doc(
        """Mark a method to run once a result exists; it may shape the reply through `res.result`.

With `once=True` it runs for each write that is applied, but not for a retry of it. Its parameters are then `req` and
`record`, the record that was written. If it takes `event` in their place, it is a consumer (docs/background-work.md),
and runs at least once, also if the server was killed after the commit.""",
        "`req` and `res`",
        """@after("create", once=True)
def announce(self, req, record):
    print("added", record["title"])""",
        _ONCE,
    ),
)
on_error = _Phase(
    "on_error",
    _phase_doc(
        "Mark a method to run when the stack failed; it may raise another error or recover with `res.end`.",
        "`err`, `req` and `res`",
        """@on_error
def report(self, err, req):
    print(req.method, "failed:", err)""",
    ),
)
create = _Handler("create")
read = _Handler("read")
update = _Handler("update")
patch = _Handler("patch")
delete = _Handler("delete")
visible = _Visible()
channel = _Channel()
on_connect = _OnConnect()
presence = _Presence()
message = _Message()


def check_parameters(
    function: Callable[..., Any], kind: str, where: str, *, bound: bool, parts: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The names a layer asks for, in the order of its signature.

    Parameters:
        function: the layer.
        kind: `before`, `use`, `handler`, `once`, `after`, `on_error`, `visible`, `channel` or `on_connect`.
        where: how to name the layer in a message.
        bound: whether a leading `self` is already bound.
        parts: the names of the parts of a channel's name, which it may ask for too.

    Raises:
        DefinitionError: a parameter is unknown or does not fit the kind.
    """
    allowed = PARAMETERS[kind] + parts
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(f"{where} is a generator; use `return`, not `yield`")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        raise DefinitionError(
            f"{where} does not show its parameters; wrap it: def layer({', '.join(allowed)})"
        ) from None
    if not bound:
        if not parameters or parameters[0].name in allowed or parameters[0].kind not in _POSITIONAL:
            raise DefinitionError(f"{where} has no `self`; write def {function.__name__}(self, {', '.join(allowed)})")
        parameters = parameters[1:]
    names = []
    for parameter in parameters:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise DefinitionError(f"{where}: {parameter} cannot be matched; name what you need: {', '.join(allowed)}")
        if parameter.name in allowed:
            if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                raise DefinitionError(f"{where}: `{parameter.name}` is matched by name; drop the `/` after it")
            names.append(parameter.name)
        elif parameter.default is inspect.Parameter.empty:
            raise DefinitionError(_unknown_parameter(parameter.name, kind, where, allowed))
    return tuple(names)


def _unknown_parameter(name: str, kind: str, where: str, allowed: tuple[str, ...]) -> str:
    if name == "next":
        return f"{where}: {kind} layers have no `next`; drop it, or mark the method with @use"
    if name == "err":
        return f"{where}: `err` is only for @on_error; drop it, or mark the method with @on_error"
    if name == "record":
        return f"{where}: `record` is only for @after(..., once=True); drop it, or take what is in `req` or `res`"
    if name == "res" and kind == "once":
        return (
            f"{where}: a layer of once=True has no `res`, as a retry must get the same reply without it; "
            f"take `record`, or shape the reply in another @after"
        )
    if kind == "consumer":
        return (
            f"{where}: a layer of once=True that takes `event` runs apart from the request, and maybe after a restart: "
            f"drop `{name}`, or take `req` and `record`, and have it run at most once"
        )
    close = [known for known in allowed if name.startswith(known)] or difflib.get_close_matches(name, allowed, 1, 0.4)
    hint = f"did you mean `{close[0]}`? " if close else ""
    taken = f"{kind} layers may take {', '.join(allowed)}, matched by name"
    return f"{where}: unknown parameter `{name}`; {hint}{taken}"


def check_hidden(cls: type, base: type, names: Iterable[str]) -> None:
    """Refuse names of `cls` that would take the place of what `base` itself uses.

    Raises:
        DefinitionError: one does.
    """
    for name in names:
        if hasattr(base, name) or name in base.__annotations__:
            raise DefinitionError(f"{cls.__qualname__}.{name} hides {base.__name__}.{name}; give it another name")


def own_classes(cls: type, base: type) -> list[type]:
    """Return the classes that `cls` consists of besides `base` and its bases: itself, its bases and mixins."""
    return [owner for owner in cls.__mro__ if not issubclass(base, owner)]


def check_undecorated(cls: type, base: type, layers: Iterable[str]) -> None:
    """Refuse `def create(self, req)` without its decorator: nothing would call it.

    Parameters:
        cls: a class of layers.
        base: what it is derived from.
        layers: the names of its layers.

    Raises:
        DefinitionError: there is such a method.
    """
    names = {*METHODS, "before", "use", "after", "on_error", "on_connect", "visible", "message"}.difference(layers)
    for owner in own_classes(cls, base):
        for name in names & vars(owner).keys():
            function = vars(owner)[name]
            if inspect.isfunction(function):
                wanted = list(inspect.signature(function).parameters)[1:]
                if wanted and {"err", "req", "res", "next", "data"}.issuperset(wanted):
                    decorator = '@message("...")' if name == "message" else f"@{name}"
                    raise DefinitionError(
                        f"{owner.__qualname__}.{name} has no decorator, so nothing calls it; "
                        f"write {decorator} above it, or give it another name"
                    )


def check_ephemeral(cls: type, marked: Iterable[Marked], presence: Any) -> None:
    """Refuse what a class says of presence and messages if it contradicts itself.

    Parameters:
        cls: the class of a backend.
        marked: its marked methods.
        presence: what it says as `presence`.

    Raises:
        DefinitionError: two methods say the same, or `presence` is neither True nor False.
    """
    if not isinstance(presence, bool):
        raise DefinitionError(
            f"{cls.__qualname__}.presence is {presence!r}; write presence = True, or @presence above a method of "
            "another name"
        )
    owners: dict[tuple[str, str], str] = {}
    for entry in marked:
        for mark in entry.marks:
            for name in mark.methods if mark.kind in EPHEMERAL_KINDS else ():
                other = owners.setdefault((mark.kind, name), entry.name)
                if other != entry.name:
                    decorator = "@presence" if mark.kind == "presence" else f"@message({name!r})"
                    raise DefinitionError(
                        f"{cls.__qualname__}.{entry.name} and {cls.__qualname__}.{other} are both {decorator}; keep one"
                    )


def refuse_ephemeral(cls: type, marked: Iterable[Marked]) -> None:
    """Refuse `@presence` and `@message` in middleware: they are a backend's own.

    Raises:
        DefinitionError: there is one.
    """
    for entry in marked:
        for mark in entry.marks:
            if mark.kind in EPHEMERAL_KINDS:
                raise DefinitionError(
                    f"{cls.__qualname__}.{entry.name} is @{mark.kind}, which middleware cannot have; put it into the "
                    "class of the backend, or into a mixin of it"
                )


def _check_thread(function: Callable[..., Any], names: tuple[str, ...], where: str) -> None:
    if inspect.iscoroutinefunction(function):
        raise DefinitionError(
            f"{where} is async and says thread=True; drop thread=True, or make it a plain `def`: a thread is for what "
            f"cannot be awaited"
        )
    if "next" in names:
        raise DefinitionError(
            f"{where} says thread=True and takes `next`, which runs on the event loop alone; drop `next`, or make it "
            f"async and `await asyncio.to_thread(...)` what blocks"
        )


def _hides_marks(value: Any) -> bool:
    """Return whether `value` wraps a marked function in something else, as @staticmethod above @before does."""
    inner = [getattr(value, attribute, None) for attribute in ("__func__", "fget", "func")]
    return any(isinstance(getattr(function, MARKS, None), tuple) for function in inner)


def collect(cls: type) -> tuple[Marked, ...]:
    """The marked functions of `cls` in stack order, each checked.

    Raises:
        DefinitionError: a marked name is overridden by something that is not a function, or parameters do not fit.
    """
    slots: dict[str, Marked] = {}
    for owner in reversed(cls.__mro__):
        for name, value in vars(owner).items():
            if _hides_marks(value):
                raise DefinitionError(
                    f"{owner.__qualname__}.{name} is a {type(value).__name__} over a marked function; "
                    f"a layer is a plain method: write `def {name}(self, ...)` under its decorators alone"
                )
            marks = getattr(value, MARKS, None) if inspect.isfunction(value) else None
            inherited = slots.get(name)
            if marks is None and inherited is None:
                continue
            if not inspect.isfunction(value):
                raise DefinitionError(
                    f"{owner.__qualname__}.{name} replaces a marked method with {value!r}; "
                    f"a layer cannot be dropped silently: override it with `def {name}(self, ...)`"
                )
            kept = marks if marks is not None else inherited.marks if inherited is not None else ()
            slots[name] = Marked(name, owner, value, kept)
    for marked in slots.values():
        for mark in marked.marks:
            where = f"{marked.owner.__qualname__}.{marked.name}"
            names = check_parameters(marked.function, mark.kind, where, bound=False, parts=mark.parts)
            if mark.thread:
                _check_thread(marked.function, names, where)
    check_overlaps(
        (mark.pattern, f"{marked.owner.__qualname__}.{marked.name}")
        for marked in slots.values()
        for mark in marked.marks
        if mark.pattern is not None
    )
    return tuple(slots.values())


def check_overlaps(rules: Iterable[tuple[ChannelPattern, str]]) -> None:
    """Refuse rules of which two could be asked about one channel.

    Parameters:
        rules: the pattern of each rule, and how to name the rule in a message.

    Raises:
        DefinitionError: there are two such rules.
    """
    for (pattern, where), (other, elsewhere) in combinations(rules, 2):
        if pattern.overlaps(other):
            raise DefinitionError(
                f"{elsewhere}: @channel({other.text!r}) could be asked about a channel of @channel({pattern.text!r}), "
                f"{where}; begin the names differently, or decide on both in one method"
            )
