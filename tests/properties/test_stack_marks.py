"""Marks: how they are left, collected and inherited, and how bad ones are refused."""

from __future__ import annotations

import asyncio
import keyword
from typing import Any

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bbio import Backend, DefinitionError
from bbio.decorators import MARKS, collect
from bbio.requests import METHODS
from tests.properties.naive import slots
from tests.properties.strategies import (
    ASKED,
    DECORATORS,
    FAMILIES,
    GROUPS,
    ClassSpec,
    Definition,
    build,
    definitions,
    hierarchies,
    make_function,
    stands_for,
)
from tests.support.stacks import Served

PHASES = ("before", "use", "after", "on_error")
KINDS = (*PHASES, "once")
ALLOWED = {
    "before": ("req", "res"),
    "use": ("req", "res", "next"),
    "handler": ("req", "res", "next"),
    "once": ("req", "record"),
    "after": ("req", "res"),
    "on_error": ("err", "req", "res"),
}
KIND = {name: name if name in KINDS else "handler" for name in DECORATORS}

names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))


def expected_marks(definition: Definition) -> set[tuple[str, str]]:
    """Every (kind, method) the decorators of a definition stand for."""
    return {
        (KIND[decorator], method) for decorator, given in definition.marks for method in stands_for(decorator, given)
    }


def found_marks(marks: Any) -> set[tuple[str, str]]:
    return {(mark.kind, method) for mark in marks for method in mark.methods}


@given(definitions("layer", "any", always_marked=True))
def test_decorators_leave_marks_and_nothing_else(definition: Definition) -> None:
    """The decorated function is the function itself, with what it was told written on it."""
    plain = make_function(attrs.evolve(definition, marks=()), "f", [])
    before = dict(vars(plain)), plain.__code__, plain.__defaults__
    decorated = plain
    for decorator, methods in definition.marks:
        mark = DECORATORS[decorator]
        decorated = mark(decorated) if methods is None else mark(*methods)(decorated)
    assert decorated is plain
    rest = {name: value for name, value in vars(plain).items() if name != MARKS}
    assert (rest, plain.__code__, plain.__defaults__) == before
    assert found_marks(getattr(plain, MARKS)) == expected_marks(definition)


@given(hierarchies())
def test_marks_are_collected_as_the_rules_say(hierarchy: tuple[ClassSpec, ...]) -> None:
    """Slot of the most basic decorated definition, marks of the least basic, the function Python finds."""
    built = build(hierarchy, Backend, [])
    collected = collect(built.cls)
    expected = slots(built)
    assert [entry.name for entry in collected] == [name for name, _, _ in expected]
    for entry, (name, marks, _) in zip(collected, expected, strict=True):
        assert entry.function is getattr(built.cls, name)
        assert found_marks(entry.marks) == expected_marks(marks)


@given(hierarchies())
def test_overriding_without_decorators_loses_no_layer(hierarchy: tuple[ClassSpec, ...]) -> None:
    """A subclass that overrides everything and decorates nothing has the same layers in the same order."""
    built = build(hierarchy, Backend, [])
    overrides = {name: make_function(attrs.evolve(function, marks=()), name, []) for name, _, function in slots(built)}
    child = type("Child", (built.cls,), dict(reversed(overrides.items())))
    layers = [[(e.name, found_marks(e.marks)) for e in collect(cls)] for cls in (built.cls, child)]
    assert layers[0] == layers[1]
    assert all(entry.function is overrides[entry.name] for entry in collect(child))


@given(hierarchies(), st.data())
def test_decorating_again_replaces_the_marks_in_place(hierarchy: tuple[ClassSpec, ...], data: st.DataObject) -> None:
    """One layer gets new marks where it stands; all others stay as they were."""
    built = build(hierarchy, Backend, [])
    assume(slots(built))
    name = data.draw(st.sampled_from([name for name, _, _ in slots(built)]))
    again = data.draw(definitions(name, "any", always_marked=True))
    child = type("Child", (built.cls,), {name: make_function(again, name, [])})
    expected = [(e.name, expected_marks(again) if e.name == name else found_marks(e.marks)) for e in collect(built.cls)]
    assert [(e.name, found_marks(e.marks)) for e in collect(child)] == expected


@given(hierarchies(), st.data())
def test_a_layer_replaced_by_a_value_is_refused(hierarchy: tuple[ClassSpec, ...], data: st.DataObject) -> None:
    """No layer disappears because a subclass has something else under its name."""
    built = build(hierarchy, Backend, [])
    assume(slots(built))
    name = data.draw(st.sampled_from([name for name, _, _ in slots(built)]))
    values = st.sampled_from([None, 1, "x", int, staticmethod(len), property(len), classmethod(len), [].append])
    with pytest.raises(DefinitionError) as refused:
        type("Child", (built.cls,), {name: data.draw(values)})
    assert f"Child.{name} replaces a marked method" in str(refused.value)
    assert f"override it with `def {name}(self, ...)`" in str(refused.value)


@given(st.sampled_from(PHASES), st.lists(st.sampled_from(sorted(GROUPS)) | st.text(max_size=8), min_size=1, max_size=5))
def test_methods_must_exist_and_come_once(phase: str, methods: list[str]) -> None:
    """A list of names is taken if it has only sync methods, each once, and refused with the fix if not."""
    meant = [method for name in methods for method in GROUPS.get(name, ())]
    if set(methods) <= GROUPS.keys() and len(set(meant)) == len(meant):
        function = DECORATORS[phase](*methods)(lambda self: None)
        assert found_marks(getattr(function, MARKS)) == {(phase, method) for method in meant}
        return
    with pytest.raises(DefinitionError) as refused:
        DECORATORS[phase](*methods)
    text = str(refused.value)
    assert text.startswith(f"@{phase}")
    assert "name each sync method once" in text or f"use any of {', '.join(METHODS)}" in text


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(DECORATORS)), st.sets(st.sampled_from(GROUPS["write"]))),
        min_size=1,
        max_size=4,
    )
)
def test_one_function_takes_each_mark_once(decorations: list[tuple[str, set[str]]]) -> None:
    """Decorators of one kind may share a function as long as their methods differ."""
    given = [(KIND[name], method) for name, methods in decorations for method in stands_for(name, tuple(methods))]

    def decorate() -> Any:
        def layer(self: Any) -> None: ...

        for name, methods in decorations:
            DECORATORS[name](*(() if name in METHODS else sorted(methods)))(layer)
        return layer

    if len(set(given)) == len(given):
        assert found_marks(getattr(decorate(), MARKS)) == set(given)
    else:
        with pytest.raises(DefinitionError, match="is already marked so on this method; name it once"):
            decorate()


@given(st.sampled_from(sorted(DECORATORS)), st.lists(names, unique=True, max_size=4), st.data())
def test_parameters_are_matched_by_name(decorator: str, unknown: list[str], data: st.DataObject) -> None:
    """Known names are taken in any order; an unknown one without a default is refused with the fix."""
    allowed = ALLOWED[KIND[decorator]]
    known = data.draw(st.lists(st.sampled_from(ASKED), unique=True))
    parameters = data.draw(st.permutations([*known, *(name for name in unknown if name not in known)]))
    assume("self" not in parameters)
    source = f"def layer(self, {', '.join(parameters)}): pass"
    scope: dict[str, Any] = {}
    exec(source, scope)
    body = {"layer": DECORATORS[decorator](scope["layer"])}
    wrong = [name for name in parameters if name not in allowed]
    if not wrong:
        assert [entry.name for entry in collect(type("Fine", (Backend,), body))] == ["layer"]
        return
    with pytest.raises(DefinitionError) as refused:
        type("Wrong", (Backend,), body)
    text = str(refused.value)
    assert text.startswith("Wrong.layer: ")
    assert f"`{wrong[0]}`" in text
    fixes = ("drop it, or ", "has no `res`, as a retry", f"may take {', '.join(allowed)}, matched by name")
    assert any(fix in text for fix in fixes)


@st.composite
def asking(draw: st.DrawFn) -> Definition:
    """A layer of any kind that asks for something and passes on."""
    family = draw(st.sampled_from(sorted(FAMILIES)))
    return draw(definitions("layer", family, always_marked=True))


@given(asking())
def test_each_parameter_gets_what_it_names(definition: Definition) -> None:
    """Whatever the order and the way parameters are declared in, `req` is the request and so on."""
    wanted = [p.split("=")[0] for p in definition.parameters]
    seen: list[dict[str, Any]] = []
    scope: dict[str, Any] = {"seen": seen}
    exec(f"def layer({', '.join(('self', *definition.parameters))}): seen.append(dict(locals()))", scope)
    function = scope["layer"]
    for decorator, methods in definition.marks:
        function = DECORATORS[decorator](*(methods or ()))(function)

    class Layered(Backend):
        layer = function

    served = Served(Layered)
    for method in METHODS:
        seen.clear()
        req = served.request(method)
        res = asyncio.run(served.runtime.stacks[method].run(req))
        for named in seen:
            assert named.pop("self") is served.backend
            assert named.keys() == {name for name in wanted if name != "*"}
            assert named.get("req", req) is req
            assert named.get("res", res) is res
            assert named.get("record", res.result) == res.result
            assert named.get("limit", 10) == 10
            assert callable(named.get("next", callable))
            assert isinstance(named.get("err", Exception()), Exception)
        kinds = [kind for kind in ("before", "use", "handler", "once", "after") if definition.applies(kind, method)]
        assert bool(seen) == bool(kinds)
