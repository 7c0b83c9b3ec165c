"""Decorators leave a mark on a function and return it unchanged; `collect` gathers the marks of a class.

The rules are docs/backends.md, "Rules": base classes first (method resolution order), then in definition
order; an override keeps the slot of what it overrides, and its marks unless it is decorated again.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

import attrs

from bbio.errors import DefinitionError
from bbio.requests import METHODS

F = TypeVar("F", bound=Callable[..., Any])

MARKS = "__bbio_marks__"

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

# The parameters each kind of layer may ask for.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "before": ("req", "res"),
    "use": ("req", "res", "next"),
    "handler": ("req", "res", "next"),
    "after": ("req", "res"),
    "on_error": ("err", "req", "res"),
}


@attrs.frozen
class Mark:
    """What a decorator leaves: the kind of layer and the sync methods it applies to."""

    kind: str
    methods: tuple[str, ...]


@attrs.frozen
class Marked:
    """A marked function of a class: its name, the class that defines it, its marks in the order applied."""

    name: str
    owner: type
    function: Callable[..., Any]
    marks: tuple[Mark, ...]


def check_methods(decorator: str, methods: tuple[Any, ...]) -> tuple[str, ...]:
    """The sync methods named by a decorator; all of them when none is named.

    Raises:
        DefinitionError: a name is no sync method, or is there twice.
    """
    for method in methods:
        if method not in METHODS:
            close = difflib.get_close_matches(str(method).lower(), METHODS, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise DefinitionError(
                f"{decorator}({method!r}): there is no sync method {method!r}; {hint}use any of {', '.join(METHODS)}"
            )
        if methods.count(method) > 1:
            raise DefinitionError(f"{decorator}: {method!r} is named twice; name each sync method once")
    return methods or METHODS


def leave_mark(target: Any, mark: Mark, decorator: str) -> Any:
    """Append `mark` to the marks of the function `target` and return it."""
    if isinstance(target, (staticmethod, classmethod, property)):
        raise DefinitionError(
            f"{decorator} is on a {type(target).__name__}; decorate a plain method: "
            f"{decorator} above `def name(self, ...)`, without @{type(target).__name__}"
        )
    if not inspect.isfunction(target):
        raise DefinitionError(f"{decorator} is on {target!r}, which is no function; put it above `def name(self, ...)`")
    marks: tuple[Mark, ...] = getattr(target, MARKS, ())
    taken = {(m.kind, name) for m in marks for name in m.methods}
    twice = [name for name in mark.methods if (mark.kind, name) in taken]
    if twice:
        raise DefinitionError(f"{decorator}: {twice[0]!r} is already marked so on this method; name it once")
    setattr(target, MARKS, (*marks, mark))
    return target


class _Phase:
    """A decorator that may be used bare (`@use`) or with sync methods (`@use("read")`)."""

    def __init__(self, kind: str, doc: str) -> None:
        self._kind = kind
        self.__doc__ = doc
        self.__name__ = kind

    @overload
    def __call__(self, target: F, /) -> F: ...
    @overload
    def __call__(self, *methods: str) -> Callable[[F], F]: ...
    def __call__(self, *args: Any) -> Any:
        decorator = f"@{self._kind}"
        if args and isinstance(args[0], (list, tuple, set)):
            raise DefinitionError(f"{decorator}: name the sync methods one by one: {decorator}('create', 'update')")
        if len(args) == 1 and not isinstance(args[0], str):
            return leave_mark(args[0], Mark(self._kind, METHODS), decorator)
        mark = Mark(self._kind, check_methods(decorator, args))
        return lambda target: leave_mark(target, mark, decorator)

    def __repr__(self) -> str:
        return f"<decorator @{self._kind}>"


class _Handler:
    """A decorator for one sync method, bare (`@create`) or called (`@create()`)."""

    def __init__(self, method: str) -> None:
        self._method = method
        self.__name__ = method
        self.__doc__ = f"Mark a method as a handler of `{method}`: its return value is the result."

    @overload
    def __call__(self, target: F, /) -> F: ...
    @overload
    def __call__(self) -> Callable[[F], F]: ...
    def __call__(self, *args: Any) -> Any:
        decorator = f"@{self._method}"
        mark = Mark("handler", (self._method,))
        if not args:
            return lambda target: leave_mark(target, mark, decorator)
        if len(args) > 1 or isinstance(args[0], str):
            raise DefinitionError(
                f"{decorator} takes no arguments: it already names its sync method; write {decorator} above the method"
            )
        return leave_mark(args[0], mark, decorator)

    def __repr__(self) -> str:
        return f"<decorator @{self._method}>"


before = _Phase("before", "Mark a method to run before the handlers; it may change `req` or raise.")
use = _Phase("use", "Mark a method to wrap everything below it; `await next()` runs what is below.")
after = _Phase("after", "Mark a method to run once a result exists; it may shape the reply through `res.result`.")
on_error = _Phase("on_error", "Mark a method to run when the stack failed; it may raise another error or `res.end`.")
create = _Handler("create")
read = _Handler("read")
update = _Handler("update")
patch = _Handler("patch")
delete = _Handler("delete")


def check_parameters(function: Callable[..., Any], kind: str, where: str, *, bound: bool) -> tuple[str, ...]:
    """The names a layer asks for, in the order of its signature.

    Parameters:
        function: the layer.
        kind: `before`, `use`, `handler`, `after` or `on_error`.
        where: how to name the layer in a message.
        bound: whether a leading `self` is already bound.

    Raises:
        DefinitionError: a parameter is unknown or does not fit the kind.
    """
    allowed = PARAMETERS[kind]
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


def _hides_marks(value: Any) -> bool:
    """Whether `value` wraps a marked function in something else, as @staticmethod above @before does."""
    inner = [getattr(value, attribute, None) for attribute in ("__func__", "fget", "func")]
    return any(isinstance(getattr(function, MARKS, None), tuple) for function in inner)


def collect(cls: type) -> tuple[Marked, ...]:
    """The marked functions of `cls` in stack order, each checked.

    Raises:
        DefinitionError: a marked name is overridden by what is no function, or parameters do not fit.
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
            check_parameters(marked.function, mark.kind, where, bound=False)
    return tuple(slots.values())
