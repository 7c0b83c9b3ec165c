"""Schemas: what a class of models says, and what is refused when the class is defined."""

from __future__ import annotations

import datetime
import enum
import typing
import uuid
from decimal import Decimal
from typing import Any, Literal

import attrs
import pytest
from typing_extensions import TypeAliasType

from bbio import Backend, DefinitionError, EncodingError, Schema, field
from bbio.builtin import MemoryStore
from bbio.model.scalars import Wrong
from bbio.requests import Request
from bbio.typed import invalid, plain
from tests.support.stacks import Served


class Color(enum.Enum):
    """Values of one kind."""

    RED = "red"
    BLUE = "blue"


class Odd(enum.Enum):
    """A value that JSON does not have."""

    TUPLE = (1, 2)


@attrs.define
class Shadow:
    """Fields that are called like types."""

    list: list[int]
    float: float | None = None


@attrs.define
class Address:
    """A class within a class."""

    city: str
    zip: str = ""


@attrs.define
class Node:
    """A class within itself."""

    name: str
    children: list[Node] = attrs.field(factory=list)


Named = typing.NewType("Named", str)
Aliased = TypeAliasType("Aliased", str)


@attrs.define
class Everything:
    """A field of every type."""

    text: str
    count: int = 0
    ratio: float = 0.5
    flag: bool = False
    price: Decimal = Decimal("1.50")
    at: datetime.datetime | None = None
    day: datetime.date | None = None
    key: uuid.UUID | None = None
    color: Color = Color.RED
    size: Literal["s", "m", 1] = "s"
    tags: list[str] = attrs.field(factory=list)
    pair: tuple[int, ...] = ()
    numbers: dict[str, float] = attrs.field(factory=dict)
    address: Address | None = None
    addresses: list[Address] = attrs.field(factory=list)
    either: str | int | None = None
    mixed: Address | list[int] | float | None = None
    anything: Any = None
    things: list = attrs.field(factory=list)
    named: Named = Named("")
    aliased: Aliased = ""
    noted: typing.Annotated[int, "a note"] = 1
    tree: Node | None = None


FULL = {
    "text": "a",
    "count": 3,
    "ratio": 1.25,
    "flag": True,
    "price": "12.50",
    "at": "2026-01-31T09:30:00.000000Z",
    "day": "2026-01-31",
    "key": "12345678-1234-5678-1234-567812345678",
    "color": "blue",
    "size": 1,
    "tags": ["x", "y"],
    "pair": [1, 2],
    "numbers": {"a": 1.5},
    "address": {"city": "Rome", "zip": "00100"},
    "addresses": [{"city": "Oslo", "zip": ""}],
    "either": 7,
    "mixed": {"city": "Bern", "zip": ""},
    "anything": {"deep": [1, None, {"x": 1.5}]},
    "things": [1, "two", None],
    "named": "n",
    "aliased": "x",
    "noted": 2,
    "tree": {"name": "a", "children": [{"name": "b", "children": []}]},
}


def test_fields_tell_their_name_type_kind_and_default():
    """A schema lists the fields of its class with what stores and documents need to know."""
    fields = Schema(Everything).fields
    assert list(fields) == list(FULL)
    assert fields["text"].required
    assert not fields["count"].required
    assert {name: each.kind for name, each in fields.items() if each.kind != "string"} == {
        "count": "integer",
        "ratio": "number",
        "flag": "boolean",
        "size": "any",
        "tags": "array",
        "pair": "array",
        "numbers": "object",
        "address": "object",
        "addresses": "array",
        "either": "any",
        "mixed": "any",
        "anything": "any",
        "things": "array",
        "noted": "integer",
        "tree": "object",
    }
    assert fields["at"].shape.format == "date-time"
    assert fields["at"].shape.nullable
    assert fields["at"].type is datetime.datetime
    assert fields["count"].default == 0
    assert repr(Schema(Everything)) == "<Schema Everything>"


def test_models_come_from_json_and_go_back():
    """Every type has one form in JSON, which reads back as the same value."""
    schema = Schema(Everything)
    model = schema.structure(FULL)
    assert model.at == datetime.datetime(2026, 1, 31, 9, 30, tzinfo=datetime.UTC)
    assert model.price == Decimal("12.50")
    assert model.color is Color.BLUE
    assert model.pair == (1, 2)
    assert model.address == Address("Rome", "00100")
    assert model.mixed == Address("Bern")
    assert model.tree.children == [Node("b")]
    assert schema.unstructure(model) == FULL


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": 1}, "must be a string"),
        ({"count": True}, "must be a whole number"),
        ({"count": 1.0}, "must be a whole number"),
        ({"count": "1"}, "must be a whole number"),
        ({"ratio": "1"}, "must be a number"),
        ({"ratio": True}, "must be a number"),
        ({"flag": 1}, "must be true or false"),
        ({"flag": None}, "must be true or false"),
        ({"price": "1e5"}, "must be a decimal number, such as 12.50"),
        ({"price": "\u0661"}, "must be a decimal number, such as 12.50"),
        ({"price": True}, "must be a decimal number, such as 12.50"),
        ({"price": "1" * 101}, "must be a decimal number, such as 12.50"),
        ({"at": "2026-01-31T09:30:00"}, "must be a date and time with its zone, such as 2026-01-31T09:30:00Z"),
        ({"at": "2026-02-31T09:30:00Z"}, "must be a date and time with its zone, such as 2026-01-31T09:30:00Z"),
        ({"at": "0001-01-01T00:00:00+12:00"}, "must be a date and time with its zone, such as 2026-01-31T09:30:00Z"),
        ({"at": 1}, "must be a date and time with its zone, such as 2026-01-31T09:30:00Z"),
        ({"day": "20260131"}, "must be a date, such as 2026-01-31"),
        ({"key": "x"}, "must be a UUID"),
        ({"color": "green"}, "must be one of red, blue"),
        ({"color": ["red"]}, "must be one of red, blue"),
        ({"size": True}, "must be one of s, m, 1"),
        ({"tags": "abc"}, "must be a list"),
        ({"numbers": []}, "must be an object"),
        ({"address": "Rome"}, "must be an object"),
        ({"either": []}, "must be a string or a whole number"),
        ({"mixed": "x"}, "must be an object or a list or a number"),
    ],
)
def test_a_wrong_value_is_told_in_words(given, message):
    """Values are taken strictly, and messages are for those who fill in forms."""
    with pytest.raises(Wrong) as caught:
        Schema(Everything).structure({"text": "", **given})
    assert caught.value.fields == {next(iter(given)): message}
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"ratio": 1}, 1.0),
        ({"price": 1.1}, Decimal("1.1")),
        ({"price": 3}, Decimal(3)),
        ({"at": "2026-01-31T10:30+01:00"}, datetime.datetime(2026, 1, 31, 9, 30, tzinfo=datetime.UTC)),
        ({"mixed": 1}, 1.0),
        ({"either": "x"}, "x"),
        ({"key": "12345678-1234-5678-1234-56781234567A"}, uuid.UUID("12345678-1234-5678-1234-56781234567a")),
    ],
)
def test_other_forms_of_a_value_are_understood(given, value):
    """What means the same is taken."""
    assert getattr(Schema(Everything).structure({"text": "", **given}), next(iter(given))) == value


@attrs.define
class Order:
    """Rules of all sorts."""

    name: str = attrs.field(validator=[attrs.validators.min_len(2), attrs.validators.max_len(4)])
    count: int = attrs.field(default=1, validator=attrs.validators.and_(attrs.validators.ge(1), attrs.validators.lt(9)))
    kind: str = attrs.field(default="a", validator=attrs.validators.in_(["a", "b"]))
    code: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.matches_re("[A-Z]"))
    )
    tags: list[str] = attrs.field(factory=list, validator=attrs.validators.max_len(1))
    low: int = 0
    high: int = attrs.field(default=9)
    address: Address | None = None
    addresses: list[Address] = attrs.field(factory=list)
    by_name: dict[str, Address] = attrs.field(factory=dict)

    @high.validator
    def above(self, attribute, value):
        if value <= self.low:
            raise ValueError("must be above low")


def test_all_that_is_wrong_is_told_at_once():
    """Errors of every field, nested ones by their path, validators' included."""
    with pytest.raises(Wrong) as caught:
        Schema(Order).structure(
            {
                "name": "x",
                "count": 9,
                "kind": "c",
                "code": "1",
                "tags": ["a", "b"],
                "low": 9,
                "address": {"zip": 1, "street": "x"},
                "addresses": [{"city": "Rome"}, {"city": None}],
                "by_name": {"home": {}},
                "extra": 1,
            }
        )
    assert caught.value.fields == {
        "name": "must have at least 2 characters",
        "count": "must be less than 9",
        "kind": "must be one of a, b",
        "code": "is not valid",
        "tags": "must have at most 1 item",
        "high": "must be above low",
        "address.city": "is required",
        "address.zip": "must be a string",
        "address.street": "is not a known field",
        "addresses.1.city": "must be a string",
        "by_name.home.city": "is required",
        "extra": "is not a known field",
    }


def test_a_rule_about_a_field_that_is_wrong_itself_is_left_out():
    """Only `low` is reported; `high` cannot be judged without it."""
    with pytest.raises(Wrong) as caught:
        Schema(Order).structure({"name": "abc", "low": "x"})
    assert caught.value.fields == {"low": "must be a whole number"}


def test_a_model_is_an_object():
    """A list is no model."""
    with pytest.raises(Wrong) as caught:
        Schema(Order).structure([])
    assert caught.value.fields == {"": "must be an object"}


def test_unknown_fields_are_dropped_when_so_set():
    """At every level."""
    schema = Schema(Order, unknown="drop")
    model = schema.structure({"name": "abc", "extra": 1, "address": {"city": "Rome", "extra": 1}})
    assert model == Order(name="abc", address=Address("Rome"))
    with pytest.raises(Wrong) as caught:
        schema.structure({"name": 1, "extra": 1})
    assert caught.value.fields == {"name": "must be a string"}


def test_a_rule_of_the_model_as_a_whole_is_told_under_no_field():
    """What `__attrs_post_init__` refuses belongs to no field."""

    @attrs.define
    class Span:
        low: int
        high: int

        def __attrs_post_init__(self):
            if self.low > self.high:
                raise ValueError("low is above high")

    with pytest.raises(Wrong) as caught:
        Schema(Span).structure({"low": 2, "high": 1})
    assert caught.value.fields == {"": "low is above high"}


def test_a_mistake_in_a_validator_is_no_mistake_of_the_client():
    """What is not about the value goes up as it is."""

    @attrs.define
    class Broken:
        name: str = attrs.field()
        other: str = ""

        @name.validator
        def check(self, attribute, value):
            raise value.missing

        def __attrs_post_init__(self):
            raise RuntimeError("never reached")

    with pytest.raises(AttributeError, match="missing"):
        Schema(Broken).structure({"name": "x"})


def test_a_mistake_after_the_fields_goes_up():
    """Only a ValueError is a message for the client."""

    @attrs.define
    class Broken:
        name: str

        def __attrs_post_init__(self):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Schema(Broken).structure({"name": "x"})


def test_converters_of_attrs_run():
    """Their complaints are about the field they convert."""

    @attrs.define
    class Converted:
        trimmed: str = attrs.field(converter=str.strip, validator=attrs.validators.min_len(1))
        number: str = attrs.field(default="1", converter=lambda value: str(int(value)))
        full: str = attrs.field(
            default="", converter=attrs.Converter(lambda value, self, field: value, takes_self=True, takes_field=True)
        )
        made: str = attrs.field(default=attrs.Factory(lambda self: self.trimmed, takes_self=True))

    schema = Schema(Converted)
    assert schema.structure({"trimmed": " a "}) == Converted("a")
    with pytest.raises(Wrong) as caught:
        schema.structure({"trimmed": "  ", "number": "x"})
    assert caught.value.fields == {"trimmed": "must have at least 1 character", "number": "is not valid"}


def test_what_cannot_be_written_is_an_error_of_the_server():
    """A time without a zone, and a decimal beyond any plain form."""
    schema = Schema(Everything)
    for wrong in ({"at": datetime.datetime(2026, 1, 1)}, {"price": Decimal("1e500")}, {"price": Decimal("NaN")}):
        (name,) = wrong
        with pytest.raises(EncodingError, match=f"^Everything.{name} is a .* without a"):
            schema.unstructure(Everything(text="", **wrong))


def test_values_without_a_type_are_written_by_what_they_are():
    """`Any` holds whatever has a form in JSON."""
    at = datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC)
    value = {"at": at, "list": [Decimal("1.5"), (uuid.UUID(int=1), Color.RED)], "day": at.date(), "none": None}
    assert Schema(Everything).unstructure(Everything("", anything=value))["anything"] == {
        "at": "2026-01-31T00:00:00.000000Z",
        "list": ["1.5", ["00000000-0000-0000-0000-000000000001", "red"]],
        "day": "2026-01-31",
        "none": None,
    }


class Plain:
    """No attrs class."""

    name: str


def define(**fields: Any) -> type:
    """An attrs class with fields of these types."""
    return attrs.make_class("Todo", {name: attrs.field(type=type_) for name, type_ in fields.items()})


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (Plain, r"put @attrs.define above Plain"),
        ("Todo", r"'Todo' is not an attrs class; put @attrs.define above class Todo"),
        (define(data=bytes), r"Todo.data is bytes, .*base64"),
        (define(at=datetime.time), r"Todo.at is time, .*use str, int"),
        (define(plain=Plain), r"make Plain an attrs class: put @attrs.define above it"),
        (define(table=dict[int, str]), r"the keys of JSON are strings: make it dict\[str, ...\]"),
        (define(table=set[int]), r"Todo.table is set\[int\], .*use str, int"),
        (define(both=str | Decimal), r"cannot be told apart in JSON"),
        (define(both=Address | Node), r"cannot be told apart in JSON"),
        (define(both=str | Any), r"cannot be told apart|cannot be the type"),
        (define(odd=Odd), r"Todo.odd is Odd, whose values are not all JSON"),
        (define(odd=Literal[b"x"]), r"whose values are not all JSON"),
        (define(_hidden=str), r"Todo._hidden cannot be given by its name; rename it without '_'"),
        (define(untyped=None), r"Todo.untyped has no type; write untyped: str"),
        (Shadow, r"the types of Shadow cannot be read \(.*\): list and float hide what they are called after"),
        (define(odd="[] | None"), r"the types of Todo cannot be read \(.*\): write them plainly"),
        (define(named="Missing"), r"a type of Todo cannot be found: name 'Missing' .*at the top of the module"),
        (define(id=str), r"Todo.id needs a default, .*id: str \| None = None"),
        (
            attrs.make_class("Todo", {"id": field(type=str, default=None, private=True)}),
            r"Todo.id is the id, which everybody sees",
        ),
        (
            attrs.make_class("Todo", {"hash": field(type=str, private=True)}),
            r"Todo.hash needs a default, for clients who cannot give it; write bbio.field\(..., default=None\)",
        ),
        (
            define(inner=attrs.make_class("Inner", {"hash": field(type=str, default="", private=True)})),
            r"Inner.hash is marked by bbio.field\(...\), which is for the fields of Todo alone",
        ),
    ],
)
def test_a_wrong_class_is_told_when_the_backend_is_defined(cls, text):
    """The text says how to mend it."""
    with pytest.raises(DefinitionError, match=text) as caught:
        type("Todos", (Backend,), {"model": cls})
    assert str(caught.value).startswith("Todos.model: ")


def test_a_setting_that_does_not_exist_is_told():
    """`unknown` is one of two words, and a field is private or for a role."""
    with pytest.raises(DefinitionError, match="'reject'ed or 'drop'ped"):
        type("Todos", (Backend,), {"model": Address, "unknown": "ignore"})
    with pytest.raises(DefinitionError, match="drop either private=True or roles"):
        field(private=True, roles=("admin",))


def test_a_backend_has_the_schema_of_its_model():
    """With the name of the id that its store has, also of a store that an instance chooses."""

    class Plain(Backend):
        pass

    class Places(Backend):
        model = Address
        store = MemoryStore(id_attribute="key")

    class Chosen(Places):
        store = None

        def __init__(self):
            self.store = MemoryStore(id_attribute="code")

    assert Plain.schema is None
    assert Places.schema.cls is Address
    assert Places.schema.id_attribute == "key"
    assert Chosen.schema.id_attribute == "id"
    chosen = Served(Chosen).backend
    assert chosen.schema.id_attribute == "code"


def test_fields_are_visible_by_role():
    """Private fields to nobody, fields for a role to who has it, the id to everybody."""

    @attrs.define
    class User:
        name: str
        hash: str = field(private=True, default="")
        notes: str = field(roles="support", default="", metadata={"mine": 1})
        score: int = field(roles=("support", "admin"), read_only=True, default=0)

    schema = Schema(User)
    assert schema.visible() == {"id", "name"}
    assert schema.visible(["admin", "other"]) == {"id", "name", "score"}
    assert schema.visible(("support",)) == {"id", "name", "notes", "score"}
    assert schema.fields["score"].read_only
    assert schema.fields["hash"].private
    assert schema.fields["notes"].roles == ("support",)
    assert Schema(Address).visible() == {"id", "city", "zip"}


def test_an_id_may_be_declared():
    """It is a field like others, but for a default that it must have."""

    @attrs.define
    class Todo:
        id: str | None = field(read_only=True, default=None)

    assert Schema(Todo).visible() == {"id"}


@attrs.define
class Stop:
    """Times within a model."""

    at: datetime.datetime
    key: uuid.UUID | None = None


@attrs.define
class Trip:
    """A time, and further ones in a stop."""

    at: datetime.datetime
    note: str
    stop: Stop


judged: list[str] = []


@attrs.define
class Link:
    """A chain of models, which counts how often it is looked at."""

    name: str = attrs.field(validator=lambda self, attribute, value: judged.append(value))
    next: Link | None = None


def test_the_work_on_a_wrong_model_does_not_double_with_its_depth():
    """A mistake 30 levels down is found by looking at each level a few times."""
    chain: Any = {"name": 1}
    for level in range(30):
        chain = {"name": str(level), "next": chain}
    judged.clear()
    with pytest.raises(Wrong) as caught:
        Schema(Link).structure(chain)
    assert caught.value.fields == {"next." * 30 + "name": "must be a string"}
    assert len(judged) <= 3 * 31


def test_not_more_is_told_than_anybody_would_read():
    """Of very many mistakes, the first hundred; and no name that is longer than names are."""
    schema = Schema(Everything)
    with pytest.raises(Wrong) as caught:
        schema.structure({"text": "", "tags": [1] * 5_000})
    assert len(caught.value.fields) == 100
    with pytest.raises(Wrong) as caught:
        schema.structure({"text": "", **{f"x{number}": 1 for number in range(5_000)}})
    assert len(caught.value.fields) == 100
    assert invalid({"x" * 1_000: "is wrong"}).fields == {"x" * 255: "is wrong"}


def test_a_default_made_of_a_field_that_is_wrong_is_left_out():
    """Only the field itself is reported; a mistake of the default goes up."""

    @attrs.define
    class Named:
        name: str
        slug: str = attrs.field(
            default=attrs.Factory(lambda self: self.name.lower(), takes_self=True),
            validator=attrs.validators.min_len(1),
        )
        other: str = attrs.field(default=attrs.Factory(lambda self: (5).missing, takes_self=True))

    schema = Schema(Named)
    with pytest.raises(Wrong) as caught:
        schema.structure({"name": 1, "other": ""})
    assert caught.value.fields == {"name": "must be a string"}
    assert schema.structure({"name": "A", "other": ""}).slug == "a"
    with pytest.raises(AttributeError, match="missing"):
        schema.structure({"name": 1})


def test_an_alias_of_attrs_is_for_python_alone():
    """In JSON a field has its name."""

    @attrs.define
    class Aliased:
        name: str = attrs.field(alias="title", validator=attrs.validators.min_len(1))
        rest: str = ""

        def __attrs_post_init__(self):
            if self.rest == "no":
                raise ValueError("no rest")

    schema = Schema(Aliased)
    assert schema.unstructure(schema.structure({"name": "a"})) == {"name": "a", "rest": ""}
    with pytest.raises(Wrong, match="no rest"):
        schema.structure({"name": "a", "rest": "no"})


def test_a_value_to_compare_with_takes_the_form_that_is_stored():
    """In any zone or spelling, also of a field within another; what cannot be such a value stays."""

    stored = Schema(Trip).stored
    assert stored(("at",), "2026-01-31T10:30:00.000+01:00") == "2026-01-31T09:30:00.000000Z"
    assert stored(("stop", "at"), "2026-01-31T09:30Z") == "2026-01-31T09:30:00.000000Z"
    assert stored(("stop", "key"), "12345678-1234-5678-1234-56781234567A")[-1] == "a"
    for path in (("note",), ("at", "x"), ("stop", "x"), ("none",), ("none", "x"), ("stop",)):
        assert stored(path, "2026-01-31T09:30Z") == "2026-01-31T09:30Z"
    assert stored(("at",), "yesterday") == "yesterday"
    assert stored(("at",), None) is None


def test_a_record_is_completed_with_defaults():
    """Null too counts as missing where it can be no value: a column that was never filled."""
    schema = Schema(Order)
    nulls = {"count": None, "code": None, "tags": None, "old": 1}
    assert schema.complete({"name": "abc", **nulls}) == schema.unstructure(Order("abc"))
    with pytest.raises(Wrong, match="is required"):
        schema.complete({"name": None})
    assert Schema(Everything).complete({"text": "", "anything": None, "either": None, "size": None})["size"] == "s"


def test_a_rule_may_be_an_assertion():
    """Of a field and of the model as a whole, as many write them; one without a text has one."""

    @attrs.define
    class Strict:
        low: int = attrs.field(default=0)
        high: int = 9

        @low.validator
        def check(self, attribute, value):
            if value > 9:
                raise AssertionError("must be below ten")
            if value == 5:
                raise AssertionError

        def __attrs_post_init__(self):
            if self.low > self.high:
                raise AssertionError("low is above high")

    schema = Schema(Strict)
    for model, fields in (
        ({"low": 11}, {"low": "must be below ten"}),
        ({"low": 5}, {"low": "is not valid"}),
        ({"low": 4, "high": 3}, {"": "low is above high"}),
    ):
        with pytest.raises(Wrong) as caught:
            schema.structure(model)
        assert caught.value.fields == fields


def test_a_model_that_no_client_has_sent_gets_its_defaults():
    """Such as one of the server's own."""

    @attrs.define
    class Todo:
        title: str
        done: bool = False

    record = plain(Schema(Todo), Request("create", {"title": "milk"}))
    assert record == {"title": "milk", "done": False}
