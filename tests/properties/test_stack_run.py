"""Requests through compiled stacks come to what the naive interpreter says (design rules 4, 5 and 6)."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
from hypothesis import event, example, given
from hypothesis import strategies as st

from bbio import Backend, Middleware, Request, Store
from bbio.requests import METHODS, NOTIFIED_AS
from tests.properties.naive import NaiveLayer, interpret, layers
from tests.properties.strategies import (
    VALUES,
    Boom,
    Built,
    ClassSpec,
    Definition,
    act,
    build,
    definitions,
    describe,
    hierarchies,
    make_function,
)
from tests.support.stacks import Served

MODEL = {"title": "sent"}


@attrs.frozen
class Program:
    """A whole backend as data.

    `middleware` are the entries of the list and `used` those registered with `.use(...)`: a hierarchy of classes or one
    plain function; `used` entries come with the methods they are registered for. `store` is what the store does:
    nothing (there is none), answer with a value, or fail.
    """

    hierarchy: tuple[ClassSpec, ...]
    middleware: tuple[Any, ...] = ()
    used: tuple[tuple[Any, tuple[str, ...]], ...] = ()
    store: tuple[Any, ...] = ()


plain_functions = definitions("plain", "around", always_marked=True).map(lambda d: attrs.evolve(d, marks=()))
entries = plain_functions | hierarchies(max_classes=2)
programs = st.builds(
    Program,
    hierarchies(),
    st.lists(entries, max_size=2).map(tuple),
    st.lists(st.tuples(entries, st.lists(st.sampled_from(METHODS), unique=True, max_size=3).map(tuple)), max_size=2).map(tuple),
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

        def of(*kinds: str) -> list[NaiveLayer]:
            found = []
            for (item, meaning), methods in self.reusable:
                if method in methods and isinstance(meaning, Built):
                    found += [layer for kind in kinds for layer in layers(meaning, item, kind, method)]
                elif method in methods and "use" in kinds:
                    found.append(meaning)
            return found + [la for kind in kinds for la in layers(self.built, self.served.backend, kind, method)]

        return of("before", "use", "handler"), of("after"), of("on_error")


async def compiled_run(assembled: Assembled, method: str) -> Any:
    """What a request comes to in the compiled stack: outcome, reply, trace, model, published events."""
    assembled.trace.clear()
    assembled.served.events.clear()
    req = assembled.served.request(method, dict(MODEL))
    res = await assembled.served.backend.stacks[method].run(req)
    reply = describe(res.failure) if res.failure else res.result
    return repr((res.failure is None, reply, assembled.trace, req.model, assembled.served.published))


async def naive_run(assembled: Assembled, method: str) -> Any:
    """The same, in the interpreter."""
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
    return repr((ok, reply if ok else describe(reply), assembled.trace, req.model, published))


def function(name: str, mark: str, *script: Any, parameters: str = "req res next", methods: Any = None) -> Definition:
    """An async definition for an example; bare unless methods are given."""
    return Definition(name, ((mark, methods),) if mark else (), tuple(parameters.split()), script, True)


def one_class(*body: Definition, **rest: Any) -> Program:
    """A program of a single class."""
    return Program((ClassSpec((), body),), **rest)


@given(programs)
@example(one_class(function("a", "use", ("next",), ("next",))))
@example(one_class(function("a", "use", ("try next",)), function("b", "create", ("raise", "x"))))
@example(one_class(function("a", "use", ("try next",), ("return", 0)), function("b", "create", ("error", "x"))))
@example(one_class(function("a", "on_error", ("end", None), parameters="res"), function("b", "read", ("raise", "x"))))
def test_a_request_comes_to_what_the_rules_say(program: Program) -> None:
    """Reply or error, what every layer saw, in which order, and what was published: all as the interpreter has it."""

    async def all_methods() -> None:
        assembled = Assembled(program)
        for method in METHODS:
            expected = await naive_run(assembled, method)
            assert await compiled_run(assembled, method) == expected
            event(f"{min(len(assembled.plan(method)[0]), 4)} layers down")
            event(f"{method} {'answered' if expected.startswith('(True') else 'failed'}")

    asyncio.run(all_methods())
