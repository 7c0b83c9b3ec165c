"""The stack rules (docs/backends.md): order, `next`, early ends, errors at each place, recovery, effects.

What is expected comes from the naive interpreter of tests/properties, not from the compiler.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from bbio import Backend, Middleware, after, before, create, on_error, use
from bbio.requests import METHODS
from tests.properties.programs import MODEL, Assembled, function, naive_run, one_class
from tests.support.origins import Asker, Origin, logged
from tests.support.wire import SyncFailed

END, RAISE = ("end", "ended"), ("raise", "x")
ANSWER = function("answer", "create", ("return", {"id": 1}))
ROUND = tuple(function(name, "use", ("next",), ("wrap it",)) for name in ("outer", "inner"))
OBSERVE = function("e", "on_error", parameters="err")
RECOVER = function("recover", "on_error", ("end", {"id": 2}), parameters="res")

PROGRAMS = {
    "nothing but the bottom": one_class(),
    "every kind of layer": one_class(
        function("a", "before", parameters="req"),
        *ROUND,
        function("c", "create", ("next",), ("return it",)),
        function("d", "after", ("shape",), parameters="res"),
        OBSERVE,
        function("f", "once", parameters="req record"),
        store=("return", {"id": 7}),
    ),
    "use layers, outermost first": one_class(*ROUND),
    "before layers, in order": one_class(
        function("a", "before", ("change", {"id": 3}), parameters="req"),
        function("b", "before", ("change", {"id": 4}), parameters="req"),
    ),
    "after layers, in order": one_class(
        *(function(name, "after", ("shape",), parameters="req res") for name in "ab"), store=("return", {"id": 7})
    ),
    "a handler that hands over": one_class(function("a", "create", ("next",), ("return it",)), ANSWER),
    "a handler that does not": one_class(ANSWER, function("never", "create", RAISE)),
    "a handler that answers nothing": one_class(function("a", "create", ("pause",))),
    "a layer changes the model": one_class(function("a", "before", ("change", {"id": 3}), parameters="req")),
    "a before layer ends": one_class(function("a", "before", END, parameters="res"), *ROUND, ANSWER),
    "a use layer ends": one_class(function("a", "use", END), ANSWER),
    "a handler ends under use layers": one_class(*ROUND, function("c", "create", END, ("return", "no"))),
    "the first answer wins": one_class(function("a", "use", ("next",), END), function("b", "create", ("end", "first"))),
    "a use layer rejects": one_class(function("a", "use", ("error", "x")), ANSWER),
    "next, twice": one_class(function("a", "use", ("next",), ("next",)), ANSWER),
    "a use layer that does nothing": one_class(function("a", "use", ("pause",)), ANSWER),
    "next returned, and not waited for": one_class(function("a", "use", ("return next",)), ANSWER),
    "an error in before": one_class(function("a", "before", RAISE, parameters="req"), ANSWER, OBSERVE),
    "an error in use": one_class(function("a", "use", RAISE), ANSWER, OBSERVE),
    "an error after next": one_class(function("a", "use", ("next",), RAISE), ANSWER, OBSERVE),
    "an error in a handler": one_class(*ROUND, function("c", "create", RAISE), OBSERVE),
    "an error in the store": one_class(*ROUND, OBSERVE, store=("raise", "full")),
    "an error in after": one_class(
        *(function(name, "after", *steps, parameters="") for name, steps in {"a": [RAISE], "b": []}.items()),
        OBSERVE,
    ),
    "an error that a layer above catches": one_class(
        function("a", "use", ("try next",), ("return", {"id": 4})), function("b", "create", RAISE)
    ),
    "an error that a layer above only watches": one_class(
        function("a", "use", ("try next",)), function("b", "create", RAISE)
    ),
    "an error layer puts another one in place": one_class(
        function("a", "create", RAISE),
        function("b", "on_error", ("raise", "y"), parameters="err"),
        function("c", "on_error", ("error", "z"), parameters="err res"),
        function("d", "on_error", parameters="err"),
    ),
    "an error layer recovers": one_class(
        function("a", "create", RAISE), RECOVER, function("never", "on_error", ("raise", "y"), parameters="err")
    ),
    "an error layer recovers from what after raised": one_class(
        ANSWER, function("a", "after", RAISE, parameters="res"), RECOVER
    ),
    "an error layer recovers with nothing": one_class(
        function("a", "create", RAISE), function("b", "on_error", ("end", None), parameters="res")
    ),
    "effects of what was written, though its reply fails": one_class(
        function("a", "once", parameters="req record"),
        function("b", "after", RAISE, parameters="res"),
        store=("return", {"id": 7}),
    ),
    "no effects of what was not written": one_class(
        function("a", "once", parameters="req record"), function("b", "create", RAISE), RECOVER
    ),
    "middleware around all": one_class(
        ANSWER,
        middleware=(
            one_class(
                function("a", "before", parameters="req"), function("b", "use", ("next",), ("wrap it",))
            ).hierarchy,
            function("c", "", ("next",), ("wrap it",)),
        ),
        used=((function("d", "", ("next",), ("wrap it",)), ("write",)),),
    ),
}


def told(outcome: str) -> Any:
    """Return the outcome of the interpreter as the asker sees it: no name of an error that is not declared."""
    ok, reply, trace, _, published = eval(outcome)
    if not ok and not reply.startswith("Boom"):
        reply = "InternalError"
    return json.loads(json.dumps([ok, reply, trace, published]))


async def run(asker: Asker, assembled: Assembled, runtime: Any, method: str) -> Any:
    """Return what a request comes to: reply or error, what each layer saw, and the events in the log."""
    assembled.trace.clear()
    before = len(await logged(runtime))
    try:
        ok, reply = True, await asker.sync(method, dict(MODEL))
    except SyncFailed as err:
        ok, reply = False, str(err) if err.name == "Boom" else err.name
    return json.loads(json.dumps([ok, reply, assembled.trace, (await logged(runtime))[before:]]))


async def test_a_request_comes_to_what_the_rules_say(origin: Origin) -> None:
    """Reply or error, the order, what every layer saw, and what is told, of each program and sync method."""
    programs = {f"p{n}": (text, Assembled(program)) for n, (text, program) in enumerate(PROGRAMS.items())}
    app = await origin.serve(**{name: assembled.built.cls for name, (_, assembled) in programs.items()})
    for name, (text, assembled) in programs.items():
        asker = await origin.asker(app, name)
        for method in METHODS:
            expected = told(await naive_run(assembled, method))
            assert await run(asker, assembled, app.backends[name], method) == expected, f"{text}: {method}"


async def test_layers_are_given_the_same_request(origin: Origin) -> None:
    """All but where it comes from: kinds of layers in a literal order, in a thread too, over two levels of classes."""
    seen: list[Any] = []

    def note(name: str, req: Any) -> None:
        fields = (req.method, req.model, req.options, req.channel, req.rev, req.event, req.user, req.session)
        seen.append((name, *(json.loads(json.dumps(each)) for each in fields)))
        assert (req.origin, req.is_trusted) == ("socket" if origin.is_socket else "server", origin.is_trusted)
        assert (req.socket is None) == (not origin.is_socket)
        assert req.backend is app.backends["notes"].backend
        with pytest.raises(AttributeError):
            req.origin = "here"

    class Outer(Middleware):
        @before
        def check(self, req: Any) -> None:
            note("Outer.check", req)

        @use
        async def around(self, req: Any, next: Any) -> Any:
            note("Outer.around", req)
            return await next()

    class Base(Backend):
        @before("create", thread=True)
        def in_a_thread(self, req: Any) -> None:
            note("Base.in_a_thread", req)
            req.state["a"] = 1

        @on_error
        def never(self, err: Any) -> None:
            raise AssertionError

    class Notes(Base):
        middleware = [Outer()]

        @create
        async def make(self, req: Any) -> Any:
            note("Notes.make", req)
            return {"id": 1, "state": req.state}

        @after("create", once=True)
        def effect(self, req: Any, record: Any) -> None:
            note("Notes.effect", req)

        @after
        def shape(self, req: Any, res: Any) -> None:
            note("Notes.shape", req)
            res.result = {**res.result, "shaped": True}

    app = await origin.serve(notes=Notes)
    asker = await origin.asker(app, "notes")
    answer = await asker.sync("create", {"title": "milk"}, {"a": [1]}, channel="home", rev=3)
    assert answer == {"id": 1, "state": {"a": 1}, "shaped": True}
    request = ("create", {"title": "milk"}, {"a": [1]}, "home", 3, "sync", None, {})
    order = ("Outer.check", "Outer.around", "Base.in_a_thread", "Notes.make", "Notes.shape", "Notes.effect")
    listening = [each for each in seen if each[6] == "listen"]
    assert [each for each in seen if each not in listening] == [(name, *request) for name in order]
