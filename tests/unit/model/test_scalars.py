"""Values that layers put into models: what is written as its base type is, and what is told of the rest."""

import collections
import dataclasses
import datetime
import enum
import uuid
from decimal import Decimal

import attrs
import msgspec
import pytest

from bbio.errors import EncodingError
from bbio.model.scalars import as_json, base_value, place_of
from bbio.protocol import encode

UTC = datetime.UTC


def subclass(base):
    return type("Own" + base.__name__, (base,), {"__str__": lambda self: "something else"})


AT = (2026, 1, 31, 9, 30, 0, 5, datetime.timezone(datetime.timedelta(hours=2)))
SUBCLASSED = [
    (str, ("x",)),
    (int, (7,)),
    (float, (1.5,)),
    (datetime.datetime, AT),
    (datetime.date, (2026, 1, 31)),
    (Decimal, ("1.50",)),
]


@pytest.mark.parametrize(("base", "arguments"), SUBCLASSED)
def test_a_value_of_a_subclass_is_written_as_its_base_is(base, arguments):
    """With a model and without, whatever the subclass does to its text."""
    own, plain = subclass(base)(*arguments), base(*arguments)
    assert type(base_value(own)) is base
    assert base_value(own) == plain
    assert encode({"v": [own]}) == encode({"v": [plain]})
    assert as_json(own) == as_json(plain)
    assert type(as_json(own)) is type(as_json(plain))


def test_a_key_of_a_subclass_is_written_too():
    assert encode({subclass(str)("a"): 1, subclass(int)(7): 2}) == b'{"a":1,"7":2}'


def test_values_that_were_written_already_are_as_before():
    """Enums by their values, UUIDs of subclasses, collections."""
    hue = enum.StrEnum("hue", {"RED": "red"})
    own = subclass(uuid.UUID)("0123abcd-0123-4567-89ab-0123456789ab")
    values = {"hue": hue.RED, "id": own, "map": collections.defaultdict(int, a=1), "pair": (1, 2), "no": None}
    assert encode(values) == (
        b'{"hue":"red","id":"0123abcd-0123-4567-89ab-0123456789ab","map":{"a":1},"pair":[1,2],"no":null}'
    )
    assert as_json(own) == str(uuid.UUID("0123abcd-0123-4567-89ab-0123456789ab"))
    assert as_json(unknown := object()) is unknown


class Shape:
    """What JSON does not have."""

    def __repr__(self):
        return "a secret"


class Pydantic(Shape):
    def model_dump(self):
        """As Pydantic's models have it."""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Shape(), "a value is a tests.unit.model.test_scalars.Shape, which JSON does not have"),
        (range(3), "a value is a range, which JSON does not have"),
        (Pydantic(), 'a value is a Pydantic, a Pydantic model; make it JSON with .model_dump(mode="json")'),
    ],
)
def test_what_cannot_be_written_is_told_by_its_type(value, text):
    """Never by what it holds."""
    with pytest.raises(EncodingError) as caught:
        encode({"a": value})
    assert str(caught.value) == text
    assert caught.value.value is value


@attrs.define
class Box:
    inside: object


@dataclasses.dataclass
class Data:
    inside: object


class Struct(msgspec.Struct):
    inside: object


def test_the_place_of_a_value():
    """Through all that holds values, by the very value and not by an equal one."""
    value = Shape()
    assert place_of(value, {"a": [0, Box(Data(Struct((value,))))]}, "result") == "result.a.1.inside.inside.inside.0"
    assert place_of(value, value, "result") == "result"
    assert place_of(value, {"a": {value}}, "model") == "model.a.0"
    assert place_of((1, 2), {"a": (1, 2)}, "model") in (None, "model.a")
    assert place_of(value, {"b": {value: 1}}, "model") == "a key of model.b"
    assert place_of(value, {"a": Shape()}, "model") is None


def test_the_place_is_not_looked_for_without_end():
    """A list that holds itself."""
    loop = []
    loop.append(loop)
    assert place_of(object(), loop, "model") is None
