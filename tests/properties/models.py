"""Random attrs classes and their instances."""

from __future__ import annotations

import datetime
import enum
import itertools
import uuid
from decimal import Decimal
from typing import Any, Literal

import attrs
from hypothesis import strategies as st

_numbers = itertools.count(1)

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


class Level(enum.Enum):
    """An enum of two kinds of value."""

    LOW = 1
    HIGH = "high"


SCALARS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, text),
    (int, st.integers(-(2**63), 2**63)),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6)),
    (datetime.datetime, st.datetimes(timezones=st.just(datetime.UTC))),
    (datetime.date, st.dates()),
    (uuid.UUID, st.uuids()),
    (Level, st.sampled_from(Level)),
    (Literal["a", 2], st.sampled_from(["a", 2])),
    (Any, json_values),
]


@st.composite
def types(draw: st.DrawFn, depth: int = 2) -> tuple[Any, st.SearchStrategy[Any]]:
    """A type that a field may have, and a strategy for its values."""
    shape = draw(st.sampled_from(["scalar", "scalar", "list", "tuple", "dict", "optional", "union", "class"]))
    if shape == "scalar" or depth == 0:
        return draw(st.sampled_from(SCALARS))
    if shape == "union":
        return str | int | list[bool], text | st.integers(-9, 9) | st.lists(st.booleans(), max_size=2)
    if shape == "class":
        return draw(classes(depth - 1))
    inner, values = draw(types(depth - 1))
    match shape:
        case "list":
            return list[inner], st.lists(values, max_size=3)
        case "tuple":
            return tuple[inner, ...], st.lists(values, max_size=3).map(tuple)
        case "dict":
            return dict[str, inner], st.dictionaries(text, values, max_size=3)
        case _:
            return (inner, values) if inner is Any else (inner | None, st.none() | values)


@st.composite
def classes(draw: st.DrawFn, depth: int = 2) -> tuple[type, st.SearchStrategy[Any]]:
    """An attrs class of random fields, and a strategy for its instances."""
    fields = draw(st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), types(depth), min_size=1))
    optional = draw(st.sets(st.sampled_from(sorted(fields))))
    attributes = {}
    for name, (type_, values) in sorted(fields.items(), key=lambda item: item[0] in optional):
        default = draw(values) if name in optional else attrs.NOTHING
        attributes[name] = attrs.field(type=type_, default=default)
    cls = attrs.make_class(f"Model{next(_numbers)}", attributes, frozen=draw(st.booleans()), slots=draw(st.booleans()))
    return cls, st.builds(cls, **{name: values for name, (_, values) in fields.items()})
