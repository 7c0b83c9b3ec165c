"""What the middleware stack means, in the plainest words: the compiled stack is held to this.

It works on the data classes were built from, never on marks or compiled layers, and walks lists recursively.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from bbio import StackError
from tests.properties.strategies import Built, Definition


@attrs.frozen
class NaiveLayer:
    """A function and the names it asks for."""

    kind: str
    label: str
    definition: Definition
    function: Callable[..., Any]

    async def __call__(self, **given: Any) -> Any:
        wanted = {p.split("=")[0] for p in self.definition.parameters} & given.keys()
        value = self.function(**{name: given[name] for name in wanted})
        while inspect.isawaitable(value):
            value = await value
        return value


def slots(built: Built) -> list[tuple[str, Definition, Definition]]:
    """Names that are layers, in order: (name, what gives the marks, what is called).

    The slot is the one of the most basic class that decorates the name, the marks are those of the least
    basic one, and the function is the one Python finds.
    """
    line = [cls for cls in built.cls.__mro__ if cls in built.specs]
    found = []
    for name in {d.name for cls in line for d in built.specs[cls].body}:
        everywhere = [(cls, d) for cls in line for d in built.specs[cls].body if d.name == name]
        decorated = [(cls, d) for cls, d in everywhere if d.marks]
        if decorated:
            cls, first = decorated[-1]
            place = (-line.index(cls), built.specs[cls].body.index(first))
            found.append((place, name, decorated[0][1], everywhere[0][1]))
    return [(name, marks, function) for _, name, marks, function in sorted(found, key=lambda entry: entry[0])]


def layers(built: Built, instance: Any, kind: str, method: str) -> list[NaiveLayer]:
    """The layers of one kind an instance has for one sync method, in order."""
    return [
        NaiveLayer(kind, f"{type(instance).__name__}.{name}", function, getattr(instance, name))
        for name, marks, function in slots(built)
        if marks.applies(kind, method)
    ]


class Answer:
    """A response that remembers every answer, of which the first counts."""

    def __init__(self) -> None:
        self.answers: list[tuple[bool, Any]] = []
        self.result: Any = None

    def end(self, result: Any = None) -> None:
        self.answers.append((True, result))

    def error(self, err: Exception) -> None:
        self.answers.append((False, err))


async def outcome(running: Awaitable[Any]) -> tuple[bool, Any]:
    """(True, what came of it) or (False, what it raised)."""
    try:
        return True, await running
    except Exception as error:
        return False, error


def unwrap(result: tuple[bool, Any]) -> Any:
    if result[0]:
        return result[1]
    raise result[1]


async def interpret(
    down: list[NaiveLayer],
    after: list[NaiveLayer],
    on_error: list[NaiveLayer],
    req: Any,
    bottom: Callable[[Any], Any],
    publish: Callable[[Any], None],
) -> tuple[bool, Any]:
    """Run a request through the layers: (True, the reply) or (False, the error)."""
    res = Answer()

    async def descend(remaining: list[NaiveLayer]) -> Any:
        if not remaining:
            return bottom(req)
        layer, *below = remaining
        runs: list[Any] = []

        async def next() -> Any:
            runs.append(None)
            if len(runs) > 1:
                raise StackError
            runs[0] = await outcome(descend(below))
            return unwrap(runs[0])

        value = await layer(req=req, res=res, next=next)
        if res.answers:
            return unwrap(res.answers[0])
        if layer.kind == "before":
            return await descend(below)
        if value is None and runs:
            return unwrap(runs[0])
        if value is None and layer.kind == "use":
            raise StackError
        return value

    async def shape(result: Any) -> Any:
        publish(req.model if result is None else result)
        res.result = result
        for layer in after:
            await layer(req=req, res=res)
        return res.result

    ok, x = await outcome(descend(down))
    if ok:
        ok, x = await outcome(shape(x))
    for layer in [] if ok else on_error:
        res.answers.clear()
        fine, another = await outcome(layer(err=x, req=req, res=res))
        answer = res.answers[0] if fine and res.answers else (False, x if fine else another)
        if answer[0]:
            return answer
        x = answer[1]
    return ok, x
