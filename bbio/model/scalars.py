"""Single values: from JSON to Python and back.

What a value may be is decided here, strictly, and what is wrong with it is told in words for whoever fills in a form.
"""

from __future__ import annotations

import datetime
import re
import typing
import uuid
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import Enum
from typing import Any

import attrs
import msgspec

from bbio.errors import EncodingError
from bbio.model.types import WANTED, Shape

Convert = Callable[[Any], Any]

_sorted = msgspec.json.Encoder(order="sorted").encode

MAX_DIGITS = 100
# Of more mistakes than these in one model nobody is told.
MAX_WRONG = 100
# How deep a value is looked for that cannot be written.
MAX_PLACE_DEPTH = 32

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)")
_DECIMAL = re.compile(rf"-?\d{{1,{MAX_DIGITS}}}(\.\d{{1,{MAX_DIGITS}}})?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Wrong(ValueError):
    """Errors of a value: messages by the path of the field (`address.city`), `""` for the value itself."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__("; ".join(fields.values()))
        self.fields = fields


def under(name: str, path: str) -> str:
    """The path of what lies in a field."""
    return f"{name}.{path}" if path else name


def _typed(shape: Shape, *accepted: type) -> Convert:
    wanted = {"": shape.wanted}

    def convert(value: Any) -> Any:
        if type(value) not in accepted:
            raise Wrong(wanted)
        return value

    return convert


def _number(value: Any) -> float:
    if type(value) is not float:
        if type(value) is not int:
            raise Wrong({"": WANTED["number"]})
        value = float(value)
    return value  # type: ignore[no-any-return]


def _matched(shape: Shape, pattern: re.Pattern[str], convert: Convert) -> Convert:
    wanted = {"": shape.wanted}

    def matched(value: Any) -> Any:
        if type(value) is str and pattern.fullmatch(value) and value.isascii():
            try:
                return convert(value)
            except (ValueError, OverflowError):
                pass
        raise Wrong(wanted)

    return matched


def _utc(value: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(value).astimezone(datetime.UTC)


def _decimal(shape: Shape) -> Convert:
    from_text = _matched(shape, _DECIMAL, Decimal)

    def convert(value: Any) -> Any:
        return from_text(str(value) if type(value) in (int, float) else value)

    return convert


def _chosen(shape: Shape) -> Convert:
    # By type too: to Python, True is 1.
    members = {(type(choice), choice): choice for choice in shape.choices}
    if isinstance(shape.type, type):
        members = {key: shape.type(choice) for key, choice in members.items()}
    wanted = {"": shape.wanted}

    def convert(value: Any) -> Any:
        try:
            return members[type(value), value]
        except (KeyError, TypeError):
            raise Wrong(wanted) from None

    return convert


def listed(shape: Shape, item: Convert) -> Convert:
    """Turn a JSON array into a list or tuple of what `item` makes."""
    wanted = {"": shape.wanted}
    whole = tuple if typing.get_origin(shape.type) is tuple else list

    def convert(value: Any) -> Any:
        if type(value) is not list:
            raise Wrong(wanted)
        return whole(_each(enumerate(value), item).values())

    return convert


def mapped(shape: Shape, item: Convert) -> Convert:
    """Turn a JSON object into a dict of what `item` makes."""
    wanted = {"": shape.wanted}

    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise Wrong(wanted)
        return _each(value.items(), item)

    return convert


def _each(items: Any, convert: Convert) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    wrong: dict[str, str] = {}
    for key, value in items:
        try:
            found[key] = convert(value)
        except Wrong as err:
            wrong.update({under(str(key), path): message for path, message in err.fields.items()})
            if len(wrong) >= MAX_WRONG:
                break
    if wrong:
        raise Wrong(wrong)
    return found


def scalar_reader(shape: Shape) -> Convert:
    """Turn JSON into a value of a shape that holds no other."""
    if shape.choices:
        return _chosen(shape)
    match shape.format or shape.kind:
        case "any":
            return lambda value: value
        case "number":
            return _number
        case "decimal":
            return _decimal(shape)
        case "date-time":
            return _matched(shape, _DATE_TIME, _utc)
        case "date":
            return _matched(shape, _DATE, datetime.date.fromisoformat)
        case "uuid":
            return _matched(shape, _UUID, uuid.UUID)
    return _typed(shape, shape.type)


def refusal(shape: Shape) -> Convert:
    """A reader of a union that is given what none of its members is."""

    def refuse(value: Any) -> Any:
        raise Wrong({"": f"{' or '.join([shape.options[0].wanted, *(o.wanted[8:] for o in shape.options[1:])])}"})

    return refuse


def is_same(value: Any, stored: Any) -> bool:
    """Return whether two values are the same in JSON, where 1, 1.0 and true differ and the order of keys is free."""
    if type(value) is not type(stored):
        return False
    return bool(value == stored) and (not isinstance(value, (dict, list)) or _sorted(value) == _sorted(stored))


# To JSON


def _date_time_text(value: datetime.datetime) -> str:
    """Always in UTC and of the same length, so that texts sort as the times do."""
    if value.tzinfo is None:
        raise EncodingError(value, "is a datetime without a zone; make it with datetime.now(UTC)")
    return value.astimezone(datetime.UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _decimal_text(value: Decimal) -> str:
    whole, fraction = value.adjusted() + 1, -value.as_tuple().exponent if value.is_finite() else 0  # type: ignore[operator]
    if not value.is_finite() or max(whole, fraction) > MAX_DIGITS:
        raise EncodingError(
            value, f"is a Decimal without a plain form of at most {MAX_DIGITS} digits on either side of the point"
        )
    return format(value, "f")


def as_json(value: Any) -> Any:
    """The JSON of a value whose type says nothing."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    convert = _TEXTS.get(type(value))
    if convert:
        return convert(value)
    if type(value) in _NATIVE:
        return value
    own = base_value(value)
    return value if own is value else as_json(own)


def base_value(value: Any) -> Any:
    """A value of a subclass as one of the type of models that it is derived from; any other value as it is."""
    for base, convert in _BASES:
        if isinstance(value, base):
            return convert(value)
    return value


def writable(value: Any) -> Any:
    """Something that the JSON library can write, for what it cannot write by itself: the base's of a subclass.

    Raises:
        EncodingError: there is no such thing.
    """
    own = base_value(value)
    if own is not value:
        return own
    name = type(value).__qualname__
    if hasattr(value, "model_dump"):
        raise EncodingError(value, f'is a {name}, a Pydantic model; make it JSON with .model_dump(mode="json")')
    module = type(value).__module__
    raise EncodingError(value, f"is a {name if module == 'builtins' else f'{module}.{name}'}, which JSON does not have")


def place_of(value: Any, root: Any, place: str, depth: int = MAX_PLACE_DEPTH) -> str | None:
    """Return the path of a very value within another, such as `result.items.0`; None if it is not there."""
    if value is root:
        return place
    if isinstance(root, dict):
        if any(key is value for key in root):
            return f"a key of {place}"
        parts: Iterable[tuple[Any, Any]] = root.items()
    elif isinstance(root, (list, tuple, set, frozenset)):
        parts = enumerate(root)
    else:
        parts = ((name, getattr(root, name, None)) for name in _fields_of(type(root)))
    found = (
        place_of(value, part, f"{place}.{key:.64}" if type(key) is str else f"{place}.{key}", depth - 1)
        for key, part in parts
        if depth
    )
    return next(filter(None, found), None)


def _fields_of(cls: Any) -> Iterable[str]:
    if attrs.has(cls):
        return [attribute.name for attribute in attrs.fields(cls)]
    return getattr(cls, "__dataclass_fields__", getattr(cls, "__struct_fields__", ()))


def _date_time(value: datetime.datetime, base: type[datetime.datetime] = datetime.datetime) -> datetime.datetime:
    return base.combine(value.date(), value.timetz())


def _date(value: datetime.date, base: type[datetime.date] = datetime.date) -> datetime.date:
    return base(value.year, value.month, value.day)


# The types whose subclasses are written as they are themselves, each with what makes one of them. They are looked at
# here and in defaults, not by their names: libraries for tests put others in the place of these.
_BASES: tuple[tuple[type, Convert], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (datetime.datetime, _date_time),
    (datetime.date, _date),
    (Decimal, Decimal),
    (uuid.UUID, uuid.UUID.__str__),
)
_NATIVE = frozenset((str, int, float, bool, type(None)))

_TEXTS: dict[Any, Convert] = {
    datetime.datetime: _date_time_text,
    datetime.date: datetime.date.isoformat,
    Decimal: _decimal_text,
    uuid.UUID: str,
}
