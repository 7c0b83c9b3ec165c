"""Whole backends as data, and assembled: classes, middleware lists, `use` and a store."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import strategies as st

from bbio import Backend, Middleware, Request, Store
from bbio.requests import METHODS, NOTIFIED_AS
from tests.properties.naive import NaiveLayer, interpret, layers, outcome
from tests.properties.strategies import (
    GROUPS,
    Boom,
    Built,
    ClassSpec,
    Definition,
    build,
    definitions,
    describe,
    hierarchies,
    make_function,
)
from tests.support.stacks import Served

# What requests hold.
MODEL = {"title": "sent"}


@attrs.frozen
class Program:
    """A whole backend as data.

    `middleware` are the entries of the list and `used` those of `.use(...)`, with the methods they are
    registered for; an entry is a hierarchy of classes or one plain function. `store` is what the store does:
    nothing (there is none), answer with a value, or fail.
    """

    hierarchy: tuple[ClassSpec, ...]
    middleware: tuple[Any, ...] = ()
    used: tuple[tuple[Any, tuple[str, ...]], ...] = ()
    store: tuple[Any, ...] = ()

    def all_async(self) -> Program:
        """The same program with async functions only."""

        def changed(value: Any) -> Any:
            if isinstance(value, Definition):
                return attrs.evolve(value, is_async=True)
            if isinstance(value, ClassSpec):
                return attrs.evolve(value, body=changed(value.body))
            return tuple(map(changed, value)) if isinstance(value, tuple) else value

        return attrs.evolve(
            self,
            hierarchy=changed(self.hierarchy),
            middleware=changed(self.middleware),
            used=changed(self.used),
        )


plain_functions = definitions("plain", "around", always_marked=True).map(lambda d: attrs.evolve(d, marks=()))
entries = plain_functions | hierarchies(max_classes=2)
names = st.lists(st.sampled_from(METHODS), unique=True, max_size=3).map(tuple) | st.just(("write",))
programs = st.builds(
    Program,
    hierarchies(),
    st.lists(entries, max_size=2).map(tuple),
    st.lists(st.tuples(entries, names), max_size=2).map(tuple),
    st.sampled_from([(), (), ("return", {"id": 7}), ("return", None), ("raise", "full")]),
)


class ScriptedStore(Store):
    """A store that does one thing."""

    def __init__(self, step: str, given: Any) -> None:
        self.step, self.given = step, given

    async def read(self, req: Request) -> Any:
        if self.step == "raise":
            raise Boom(self.given)
        return self.given

    create = update = patch = delete = read


class Assembled:
    """A program as real classes, with a trace that all of them write."""

    def __init__(self, program: Program) -> None:
        self.trace: list[Any] = []
        self.program = program
        self.groups: list[tuple[Any, tuple[str, ...]]] = []
        listed = [(self._entry(e, f"M{i}x"), METHODS) for i, e in enumerate(program.middleware)]
        used = [(self._entry(e, f"U{i}x"), methods) for i, (e, methods) in enumerate(program.used)]
        attributes: dict[str, Any] = {"middleware": [item for (item, _), _ in listed]}
        if program.store:
            attributes["store"] = ScriptedStore(*program.store)
        self.built = build(program.hierarchy, Backend, self.trace, **attributes)
        for (item, _), methods in used:
            self.built.cls.use(*methods, item)
        self.reusable = [*listed, *((entry, methods or METHODS) for entry, methods in used)]
        self.served = Served(self.built.cls)

    def _entry(self, entry: Any, prefix: str) -> tuple[Any, Any]:
        if isinstance(entry, Definition):
            function = make_function(entry, prefix, self.trace, method=False)
            return function, NaiveLayer("use", prefix, entry, function)
        built = build(entry, Middleware, self.trace, prefix)
        return built.cls(), built

    def plan(self, method: str) -> tuple[list[NaiveLayer], list[NaiveLayer], list[NaiveLayer]]:
        """The layers on the way down, those after, those for errors."""
        return self.of(method, "before", "use", "handler"), self.of(method, "after"), self.of(method, "on_error")

    def of(self, method: str, *kinds: str) -> list[NaiveLayer]:
        """The layers of some kinds, in order."""
        found = []
        for (item, meaning), names in self.reusable:
            is_meant = any(method in GROUPS[name] for name in names)
            if is_meant and isinstance(meaning, Built):
                found += [layer for kind in kinds for layer in layers(meaning, item, kind, method)]
            elif is_meant and "use" in kinds:
                found.append(meaning)
        return found + [la for kind in kinds for la in layers(self.built, self.served.backend, kind, method)]


def function(name: str, mark: str, *script: Any, parameters: str = "req res next", methods: Any = None) -> Definition:
    """An async definition for an example; bare unless methods are given."""
    return Definition(name, ((mark, methods),) if mark else (), tuple(parameters.split()), script, True)


def one_class(*body: Definition, **rest: Any) -> Program:
    """A program of a single class."""
    return Program((ClassSpec((), body),), **rest)


async def naive_run(assembled: Assembled, method: str) -> Any:
    """What a request comes to in the interpreter: outcome, reply, trace, model, published events."""
    assembled.trace.clear()
    req = Request(method, dict(MODEL))
    published = []

    def publish(record: Any) -> None:
        if method != "read" and not published:
            published.append((NOTIFIED_AS[method], record))

    def lowest(req: Request) -> Any:
        if not assembled.program.store:
            return req.model
        step, given = assembled.program.store
        if step == "raise":
            raise Boom(given)
        publish(given)
        return given

    ok, reply = await interpret(*assembled.plan(method), req, lowest, publish)
    for layer in assembled.of(method, "once") if published else []:
        await outcome(layer(req=req, record=published[0][1]))
    return repr((ok, reply if ok else describe(reply), assembled.trace, req.model, published))
