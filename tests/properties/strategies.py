"""Random backends: hierarchies of classes whose layers follow small scripts.

A `Definition` is data: what a class body says under one name. `build` turns data into real classes whose
functions have real signatures, and a script is carried out by the function itself, so that whatever runs the
function, the compiled stack or the naive interpreter, sees the same behaviour.
"""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from typing import Any

import attrs
from hypothesis import strategies as st

import bbio
from bbio import SyncError
from bbio.requests import METHODS

DECORATORS: dict[str, Any] = {name: getattr(bbio, name) for name in ("before", "use", "after", "on_error", *METHODS)}
DECORATORS["once"] = partial(bbio.after, once=True)

# What the names that decorators are given mean.
GROUPS = {method: (method,) for method in METHODS} | {"write": ("create", "update", "patch", "delete")}

# What a name may be in all classes of a hierarchy: an override must fit the marks it inherits.
FAMILIES = {
    "around": (("use", *METHODS), ("req", "res", "next")),
    "beside": (("before", "after"), ("req", "res")),
    "shaping": (("after",), ("req", "res")),
    "effect": (("once",), ("req", "record")),
    "failure": (("on_error",), ("err", "req", "res")),
    "any": (("before", "use", "after", "on_error", *METHODS), ("req", "res")),
}

ASKED = ("err", "req", "res", "next", "record")

VALUES = (0, "", False, [], {}, "text", {"id": 1})


class Boom(SyncError):
    """Boom."""


def stands_for(decorator: str, given: tuple[str, ...] | None) -> tuple[str, ...]:
    """The sync methods that a decorator stands for with what it is given."""
    if decorator in METHODS:
        return (decorator,)
    every = GROUPS["write"] if decorator == "once" else METHODS
    return tuple(method for name in given for method in GROUPS[name]) if given else every


@attrs.frozen
class Definition:
    """One name in one class body.

    `marks` pairs decorators with the names of sync methods they are given (None: written bare); empty for an
    undecorated function. `parameters` is the source text after `self`.
    """

    name: str
    marks: tuple[tuple[str, tuple[str, ...] | None], ...]
    parameters: tuple[str, ...]
    script: tuple[tuple[Any, ...], ...]
    is_async: bool

    def applies(self, kind: str, method: str) -> bool:
        """Whether the marks make this a layer of `kind` (`handler` for the sync methods' own decorators)."""
        if kind == "handler":
            return any(decorator == method for decorator, _ in self.marks)
        return any(decorator == kind and method in stands_for(decorator, given) for decorator, given in self.marks)


@attrs.frozen
class ClassSpec:
    """One class: which of the earlier classes are its bases, and its body."""

    bases: tuple[int, ...]
    body: tuple[Definition, ...]


@attrs.frozen
class Built:
    """A class built from a hierarchy, with what its functions were made from and what they report."""

    cls: type
    specs: dict[type, ClassSpec]


def describe(error: BaseException) -> str:
    """An error as both ways of running a stack can be expected to produce it."""
    return f"{type(error).__name__}: {error}" if isinstance(error, Boom) else type(error).__name__


async def act(
    script: Any,
    label: str,
    trace: list[Any],
    err: Any = None,
    req: Any = None,
    res: Any = None,
    next: Any = None,
    record: Any = None,
) -> Any:
    """Carry out a script, and write down what it sees."""
    trace.append((label, err and describe(err), req and req.model, record))
    value = None
    for step, *given in script:
        if step == "end":
            res.end(*given)
        elif step == "error":
            res.error(Boom(*given))
        elif step == "shape":
            res.result = [label, res.result]
        elif step == "change":
            req.model = given[0]
        elif step == "raise":
            raise Boom(*given)
        elif step == "pause":
            await asyncio.sleep(0)
        elif step == "next":
            value = await next()
            trace.append((label, "got", value))
        elif step == "try next":
            try:
                value = await next()
            except Exception as error:
                trace.append((label, "caught", describe(error)))
        elif step == "return":
            return given[0]
        elif step == "return it":
            return value
        elif step == "wrap it":
            return [label, value]
        elif step == "return next":
            return next()
    return None


def finish(coroutine: Any) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a sync script waited")


def make_function(definition: Definition, label: str, trace: list[Any], method: bool = True) -> Any:
    """A real function with the definition's signature, decorated as it says; methods have a `self`."""
    wanted = [name for p in definition.parameters if (name := p.split("=")[0]) in ASKED]
    call = f"act(script, label, trace, {', '.join(f'{name}={name}' for name in wanted)})"
    parameters = ("self", *definition.parameters) if method else definition.parameters
    head = f"def {definition.name}({', '.join(parameters)}):"
    source = f"async {head} return await {call}" if definition.is_async else f"{head} return finish({call})"
    scope = {"act": act, "finish": finish, "script": definition.script, "label": label, "trace": trace}
    exec(source, scope)
    function = scope[definition.name]
    function.__qualname__ = label
    for decorator, methods in definition.marks:
        mark = DECORATORS[decorator]
        function = mark(function) if methods is None else mark(*methods)(function)
    return function


def build(
    hierarchy: tuple[ClassSpec, ...], root: type, trace: list[Any], prefix: str = "C", **attributes: Any
) -> Built:
    """The last class of a hierarchy under `root`; its mixins are plain classes."""
    classes: list[type] = []
    for number, spec in enumerate(hierarchy):
        last = number == len(hierarchy) - 1
        bases = tuple(classes[i] for i in spec.bases) + ((root,) if last else ())
        name = f"{prefix}{number}"
        body = {d.name: make_function(d, f"{name}.{d.name}", trace) for d in spec.body}
        classes.append(type(name, bases, body | (attributes if last else {})))
    return Built(classes[-1], dict(zip(classes, hierarchy, strict=True)))


TEXT, VALUE = st.sampled_from("xyz"), st.sampled_from(VALUES)
STEPS = [
    st.tuples(st.just("end"), VALUE | st.none()),
    st.tuples(st.just("error"), TEXT),
    st.tuples(st.just("raise"), TEXT),
    st.tuples(st.just("change"), VALUE),
]
WAITS = [st.just(("pause",))] + [st.just(("next",))] * 3 + [st.just(("try next",))] * 2
LEAVES = [st.just(()), VALUE.map(lambda value: (("return", value),))]
PASSING = {
    True: st.sampled_from(
        [
            (*waiting, ("next",), *leave)
            for waiting in ((), (("pause",),))
            for leave in ((), (("return it",),), (("wrap it",),))
        ]
    ),
    False: st.just((("return next",),)),
}


def _script(steps: list[Any], size: int, leaves: list[Any]) -> st.SearchStrategy[tuple[tuple[Any, ...], ...]]:
    return st.builds(lambda body, leave: (*body, *leave), st.lists(st.one_of(steps), max_size=size), st.one_of(leaves))


def _scripts(family: str, is_async: bool) -> st.SearchStrategy[tuple[tuple[Any, ...], ...]]:
    """What a layer of a family does: a few steps, then how it leaves."""
    if family != "around":
        steps = {"shaping": [*STEPS, st.just(("shape",))], "effect": STEPS[2:]}.get(family, STEPS)
        return LEAVES[0] | _script(steps, 1, LEAVES)
    if is_async:
        ways = [st.just(((way,),)) for way in ("return it", "wrap it", "return next")]
        anything = _script([*STEPS, *WAITS], 3, [*LEAVES, *ways])
    else:
        anything = _script(STEPS, 1, [*LEAVES, PASSING[False]])
    # Half of them let others have their turn; otherwise almost every stack would end in its first layer.
    return PASSING[is_async] | anything


SCRIPTS = {(family, is_async): _scripts(family, is_async) for family in FAMILIES for is_async in (True, False)}

NEEDS = {"end": "res", "error": "res", "shape": "res", "change": "req"} | dict.fromkeys(
    ("next", "try next", "return next"), "next"
)


def fitting_parameters(allowed: tuple[str, ...]) -> dict[frozenset[str], st.SearchStrategy[tuple[str, ...]]]:
    """For each set of needed names, lists of parameters: these and more, in any order, some keyword-only."""
    lists: list[tuple[str, ...]] = []
    for count in range(len(allowed) + 1):
        for names in itertools.permutations(allowed, count):
            for extra in ((), ("limit=10",)):
                plain = (*names, *extra)
                lists += [plain, *((*plain[:star], "*", *plain[star:]) for star in range(len(plain)))]
    needs = [frozenset(some) for n in range(len(allowed) + 1) for some in itertools.combinations(allowed, n)]
    return {need: st.sampled_from([each for each in lists if need <= set(each)]) for need in needs}


PARAMETER_LISTS = {family: fitting_parameters(allowed) for family, (_, allowed) in FAMILIES.items()}
SOME_METHODS = st.lists(st.sampled_from(METHODS), max_size=4, unique=True).map(tuple)
GROUPED = st.sampled_from([("write",), ("read", "write"), ("write", "read")])
SOME_WRITES = st.lists(st.sampled_from(GROUPS["write"]), max_size=4, unique=True).map(tuple) | st.just(("write",))
DECORATOR = {
    name: st.tuples(
        st.just(name),
        st.none() | (st.just(()) if name in METHODS else SOME_WRITES if name == "once" else SOME_METHODS | GROUPED),
    )
    for name in DECORATORS
}
MARKS = {
    family: st.lists(
        st.one_of([DECORATOR[kind] for kind in kinds]),
        min_size=1,
        max_size=min(3, len(kinds)),
        unique_by=lambda mark: mark[0],
    ).map(tuple)
    for family, (kinds, _) in FAMILIES.items()
}


@st.composite
def definitions(draw: st.DrawFn, name: str, family: str, always_marked: bool = False) -> Definition:
    """A function for one name, decorated or not."""
    is_async = draw(st.booleans())
    script = draw(SCRIPTS[family, is_async])
    return Definition(
        name,
        draw(MARKS[family]) if always_marked or draw(st.integers(0, 3)) else (),
        draw(PARAMETER_LISTS[family][frozenset(NEEDS[step] for step, *_ in script if step in NEEDS)]),
        script,
        is_async,
    )


@st.composite
def hierarchies(
    draw: st.DrawFn, max_classes: int = 4, families: tuple[str, ...] = tuple(FAMILIES)
) -> tuple[ClassSpec, ...]:
    """Classes in the order they are defined; the last one is the backend."""
    names = {n: draw(st.sampled_from(families)) for n in "abcdefg"[: draw(st.integers(3, 7))]}
    specs: list[ClassSpec] = []
    shape: list[type] = []
    for number in range(draw(st.integers(1, max_classes))):
        bases = draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)) if number else []
        try:
            shape.append(type("T", tuple(shape[i] for i in bases), {}))
        except TypeError:  # no consistent order of these bases
            shape.append(type("T", (shape[bases[0]],), {}))
            bases = bases[:1]
        body = draw(
            st.lists(
                st.sampled_from(sorted(names)),
                min_size=draw(st.integers(0, len(names))),
                max_size=len(names),
                unique=True,
            )
        )
        specs.append(ClassSpec(tuple(bases), tuple(draw(definitions(n, names[n])) for n in body)))
    return tuple(specs)
