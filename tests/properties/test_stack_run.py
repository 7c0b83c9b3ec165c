"""Requests through compiled stacks come to what the naive interpreter says (the rules for running)."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from bbio import InternalError
from bbio.requests import METHODS, WRITES
from bbio.streams import Op
from tests.properties.naive import interpret
from tests.properties.programs import MODEL, Assembled, Program, function, naive_run, one_class, programs
from tests.properties.strategies import describe
from tests.support.examples import examples


async def compiled_run(assembled: Assembled, method: str) -> Any:
    """What a request comes to in the compiled stack: outcome, reply, trace, model, published events."""
    assembled.trace.clear()
    assembled.served.events.clear()
    req = assembled.served.request(method, dict(MODEL))
    res = await assembled.served.runtime.stacks[method].run(req)
    reply = describe(res.failure) if res.failure else res.result
    return repr((res.failure is None, reply, assembled.trace, req.model, assembled.served.published))


async def called_run(assembled: Assembled, method: str) -> Any:
    """The same of a call of the server's own code, which sees no more of the request than its result."""
    assembled.trace.clear()
    assembled.served.events.clear()
    try:
        ok, reply = True, await assembled.served.runtime.sync(method, dict(MODEL))
    except Exception as err:
        ok, reply = False, describe(err.__cause__ if isinstance(err, InternalError) and err.__cause__ else err)
    return repr((ok, reply, assembled.trace, assembled.served.published))


def seen_by_caller(run: str) -> str:
    """Leave out of a run what only who has the request sees: its model."""
    ok, reply, trace, _, published = eval(run)
    return repr((ok, reply, trace, published))


@settings(max_examples=examples(300))
@given(programs)
@example(one_class())
@example(one_class(function("a", "use", ("next",), ("next",))))
@example(one_class(*(function(name, "before", ("end", name), parameters="res") for name in "ab")))
@example(
    one_class(
        function("a", "read", ("raise", "x")),
        function("b", "on_error", ("raise", "y"), parameters=""),
        function("c", "on_error", parameters="err"),
    )
)
@example(one_class(function("a", "use", ("try next",)), function("b", "create", ("raise", "x"))))
@example(one_class(function("a", "use", ("try next",), ("return", 0)), function("b", "create", ("error", "x"))))
@example(one_class(function("a", "on_error", ("end", None), parameters="res"), function("b", "read", ("raise", "x"))))
def test_a_request_comes_to_what_the_rules_say(program: Program) -> None:
    """Reply or error, what every layer saw, the order, and what was published: as the interpreter has it."""

    async def all_methods() -> None:
        assembled = Assembled(program)
        assembled.served.calls.open()
        for method in METHODS:
            expected = await naive_run(assembled, method)
            assert await compiled_run(assembled, method) == expected
            assert await called_run(assembled, method) == seen_by_caller(expected)
            event(f"{min(len(assembled.plan(method)[0]), 4)} layers down")
            event(f"{method} {'answered' if expected.startswith('(True') else 'failed'}")

    asyncio.run(all_methods())


@settings(max_examples=examples(200))
@given(programs, st.sampled_from(sorted(WRITES)), st.integers(1, 3))
@example(one_class(function("a", "once", parameters="record"), function("b", "use", ("next",))), "create", 2)
@example(one_class(function("a", "once", parameters=""), store=("return", None)), "patch", 3)
def test_effects_happen_as_often_as_others_are_told(program: Program, method: str, attempts: int) -> None:
    """However often an operation is tried, layers of once run when its write is told, and not again."""

    async def tried() -> None:
        assembled = Assembled(program)
        for _ in range(attempts):
            req = assembled.served.request(method, dict(MODEL), op=Op("ann", 1))
            await assembled.served.runtime.stacks[method].run(req)
        told = len(assembled.served.events)
        assert told <= 1
        effects = [layer.function.__qualname__ for layer in assembled.of(method, "once")]
        happened = [label for label, *_ in assembled.trace if label in effects]
        assert happened == effects * told
        event(f"{len(effects)} effects, {told} told")

    asyncio.run(tried())


@given(programs)
@example(one_class(function("a", "before", ("end", 0), parameters="res")))
@example(
    one_class(
        function("a", "before", ("raise", "x"), parameters=""),
        function("b", "on_error", ("end", 1), parameters="res"),
    )
)
def test_who_may_listen(program: Program) -> None:
    """A client is admitted when no `before` layer of `read` raises, rejects or answers; recovering does not help."""

    async def both() -> None:
        assembled = Assembled(program)
        checks = [layer for layer in assembled.plan("read")[0] if layer.kind == "before"]
        req = assembled.served.request("read", dict(MODEL))
        passed: list[Any] = []
        await interpret(checks, [], [], req, passed.append, lambda record: None)
        error, _ = await assembled.served.registry.admit(
            assembled.served.runtime, assembled.served.request("read", dict(MODEL), event="listen")
        )
        assert (error is None) == bool(passed)
        event("admitted" if passed else "refused")

    asyncio.run(both())


@settings(max_examples=examples(50))
@given(programs)
def test_sync_functions_behave_as_async_ones(program: Program) -> None:
    """Making every function async that can be changes nothing at all."""

    async def both() -> None:
        for method in METHODS:
            one, other = Assembled(program), Assembled(program.all_async())
            assert await compiled_run(one, method) == await compiled_run(other, method)

    asyncio.run(both())


@settings(max_examples=examples(50))
@given(programs, st.sampled_from(METHODS))
def test_requests_do_not_touch_each_other(program: Program, method: str) -> None:
    """Requests that run through one stack at the same time come to what each comes to alone."""

    async def run(assembled: Assembled, number: int) -> str:
        req = assembled.served.request(method, {"number": number})
        res = await assembled.served.runtime.stacks[method].run(req)
        return repr((res.failure and describe(res.failure), res.result, req.model))

    async def all_at_once() -> None:
        alone = [await run(Assembled(program), number) for number in range(3)]
        shared = Assembled(program)
        assert await asyncio.gather(*(run(shared, number) for number in range(3))) == alone
        assert [await run(shared, number) for number in range(3)] == alone

    asyncio.run(all_at_once())
