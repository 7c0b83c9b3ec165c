"""What is compiled: the layers of each stack, their order, and that it stays so."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbio import Backend, FrozenError, Middleware
from bbio.requests import METHODS
from tests.properties.naive import layers
from tests.properties.programs import Assembled, Program, programs
from tests.properties.strategies import ClassSpec, build, hierarchies
from tests.support.stacks import Served


@given(programs)
def test_a_stack_holds_the_layers_that_apply_in_order(program: Program) -> None:
    """Middleware, the class's before, use and handlers; after and on_error apart; and nothing else."""
    assembled = Assembled(program)
    for method, stack in assembled.served.runtime.stacks.items():
        down, after, on_error = assembled.plan(method)
        compiled = [(layer.kind, layer.name) for layer in stack.layers]
        for kinds, expected in (
            (("before", "use", "handler"), down),
            (("once",), assembled.of(method, "once")),
            (("after",), after),
            (("on_error",), on_error),
        ):
            assert [each for each in compiled if each[0] in kinds] == [(la.kind, la.label) for la in expected]
        assert all(method in layer.methods for layer in stack.layers)


@given(hierarchies(), hierarchies(max_classes=2), st.lists(st.sampled_from(METHODS), unique=True, max_size=3))
def test_a_frozen_class_takes_no_more_middleware(
    hierarchy: tuple[ClassSpec, ...], later: tuple[ClassSpec, ...], methods: list[str]
) -> None:
    """After the start `use` raises and every stack is what it was at the start."""

    async def started() -> None:
        assembled = Assembled(Program(hierarchy))
        runtime = assembled.served.runtime
        assembled.built.cls.use(*methods, build(later, Middleware, [], "M").cls())
        await runtime.start()
        frozen = {method: stack.layers for method, stack in runtime.stacks.items()}
        with pytest.raises(FrozenError):
            assembled.built.cls.use(*methods, lambda next: next())
        assert {method: stack.layers for method, stack in runtime.stacks.items()} == frozen
        await runtime.stop()

    asyncio.run(started())


@given(hierarchies())
def test_compiling_changes_no_class(hierarchy: tuple[ClassSpec, ...]) -> None:
    """Two instances of a class have equal stacks, and its marks are what they were."""
    built = build(hierarchy, Backend, [])
    marks = built.cls.__bbio_layers__
    one, two = (Served(built.cls).runtime for _ in range(2))
    for method in METHODS:
        names = [[(la.kind, la.name, la.where) for la in b.stacks[method].layers] for b in (one, two)]
        assert names[0] == names[1]
        assert len(names[0]) == sum(
            len(layers(built, one.backend, kind, method))
            for kind in ("before", "use", "handler", "once", "after", "on_error")
        )
    assert built.cls.__bbio_layers__ is marks
