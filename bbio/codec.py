"""Codec: from JSON to instances of attrs classes and back.

cattrs makes the functions for whole classes. What a single value may be is decided here, strictly, and what is wrong
with it is told in words for whoever fills in a form.
"""

from __future__ import annotations

import datetime
import re
import typing
import uuid
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Any

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from bbio.errors import DefinitionError
from bbio.shapes import KINDS, WANTED, Shape, attributes_of, kinds_of, models_in, shape_of

Convert = Callable[[Any], Any]

MAX_DIGITS = 100

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)")
_DECIMAL = re.compile(rf"-?\d{{1,{MAX_DIGITS}}}(\.\d{{1,{MAX_DIGITS}}})?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Wrong(ValueError):
    """What is wrong with a value: messages by the path of the field (`address.city`), `""` for the value itself."""

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


def _listed(shape: Shape, item: Convert) -> Convert:
    wanted = {"": shape.wanted}
    whole = tuple if typing.get_origin(shape.type) is tuple else list

    def convert(value: Any) -> Any:
        if type(value) is not list:
            raise Wrong(wanted)
        return whole(_each(enumerate(value), item).values())

    return convert


def _mapped(shape: Shape, item: Convert) -> Convert:
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
    if wrong:
        raise Wrong(wrong)
    return found


# To JSON


def _date_time_text(value: datetime.datetime) -> str:
    """Always in UTC and of the same length, so that texts sort as the times do."""
    if value.tzinfo is None:
        raise ValueError(f"{value!r} has no zone; make it with datetime.now(UTC)")
    return value.astimezone(datetime.UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _decimal_text(value: Decimal) -> str:
    whole, fraction = value.adjusted() + 1, -value.as_tuple().exponent if value.is_finite() else 0  # type: ignore[operator]
    if not value.is_finite() or max(whole, fraction) > MAX_DIGITS:
        raise ValueError(f"{value!r} has no plain form of at most {MAX_DIGITS} digits on either side of the point")
    return format(value, "f")


def _as_json(value: Any) -> Any:
    """The JSON of a value whose type says nothing."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    convert = _TEXTS.get(type(value))
    return convert(value) if convert else value


_TEXTS: dict[Any, Convert] = {
    datetime.datetime: _date_time_text,
    datetime.date: datetime.date.isoformat,
    Decimal: _decimal_text,
    uuid.UUID: str,
}


class Codec:
    """Reads and writes attrs classes.

    Parameters:
        reject_unknown: whether fields that a class does not declare are wrong; they are dropped otherwise.
    """

    def __init__(self, reject_unknown: bool) -> None:
        self.reject_unknown = reject_unknown
        self.shapes: dict[type, dict[str, Shape]] = {}
        self._converter = Converter(detailed_validation=False)
        self._readers: dict[type, Convert] = {}
        self._field_readers: dict[type, dict[str, Convert]] = {}
        self._writers: dict[type, Convert] = {}

    def add(self, cls: type) -> None:
        """Learn a class, and those that its fields hold.

        Raises:
            DefinitionError: a field can not travel.
        """
        if cls in self.shapes:
            return
        shapes = self.shapes[cls] = {}
        for attribute in attributes_of(cls):
            where = f"{cls.__name__}.{attribute.name}"
            if attribute.name.startswith("_") or not attribute.init:
                raise DefinitionError(
                    f"{where} is no field that could be given by its name; rename it without '_', with init=True, "
                    f"or make it a property"
                )
            if attribute.type is None:
                raise DefinitionError(f"{where} has no type; write {attribute.name}: str")
            shape = shapes[attribute.name] = shape_of(attribute.type, where)
            for model in models_in(shape):
                self.add(model)
        readers = self._field_readers[cls] = {name: self.reader(shape) for name, shape in shapes.items()}
        hooks: dict[str, Any] = {name: override(struct_hook=_hook(reader)) for name, reader in readers.items()}
        structure: Callable[[Any, Any], Any] = make_dict_structure_fn(
            cls,
            self._converter,
            _cattrs_forbid_extra_keys=self.reject_unknown,
            _cattrs_detailed_validation=False,
            **hooks,
        )
        hooks = {name: override(unstruct_hook=self.writer(shape)) for name, shape in shapes.items()}
        self._readers[cls] = self._class_reader(cls, structure)
        self._writers[cls] = make_dict_unstructure_fn(cls, self._converter, **hooks)

    def read(self, cls: type, value: Any) -> Any:
        """An instance from JSON.

        Raises:
            Wrong: it is no valid model; everything that is wrong with it.
        """
        return self._readers[cls](value)

    def write(self, cls: type, instance: Any) -> dict[str, Any]:
        """The JSON of an instance."""
        return self._writers[cls](instance)  # type: ignore[no-any-return]

    def _class_reader(self, cls: type, structure: Callable[[Any, Any], Any]) -> Convert:
        def convert(value: Any) -> Any:
            if type(value) is not dict:
                raise Wrong({"": WANTED["object"]})
            try:
                return structure(value, cls)
            except Exception as err:
                # Rare, so the way to all that is wrong may be a long one.
                _, wrong = self.examine(cls, value)
                if wrong:
                    raise Wrong(wrong) from None
                if isinstance(err, ValueError):
                    # A rule of the model as a whole, from `__attrs_post_init__`.
                    raise Wrong({"": str(err)}) from None
                raise

        return convert

    def examine(self, cls: type, value: dict[str, Any], whole: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
        """The values of the fields of a model, and all that is wrong with them.

        Parameters:
            cls: the class.
            value: the model as JSON.
            whole: whether fields that are not there have their defaults, or are required.
        """
        values: dict[str, Any] = {}
        wrong: dict[str, str] = {}
        readers = self._field_readers[cls]
        # What validators look at; made without __init__, which would stop at the first of them.
        draft: Any = object.__new__(cls)
        for attribute in attrs.fields(cls):
            name = attribute.name
            if name in value:
                try:
                    values[name] = readers[name](value[name])
                except Wrong as err:
                    wrong.update({under(name, path): message for path, message in err.fields.items()})
                    continue
            elif not whole:
                continue
            elif attribute.default is attrs.NOTHING:
                wrong[name] = "is required"
                continue
            try:
                held = _converted(attribute, values[name] if name in values else _default(attribute, draft), draft)
            except (ValueError, TypeError):
                wrong[name] = "has not the right form"
            else:
                object.__setattr__(draft, name, held)
        if self.reject_unknown:
            wrong.update({name: "is not a known field" for name in value if name not in readers})
        for attribute in attrs.fields(cls):
            if attribute.validator is not None and hasattr(draft, attribute.name) and attribute.name not in wrong:
                message = _judge(attribute.validator, draft, attribute, getattr(draft, attribute.name))
                if message:
                    wrong[attribute.name] = message
        return values, wrong

    def reader(self, shape: Shape) -> Convert:
        """From JSON to a value of that shape; raises Wrong."""
        convert = self._reader(shape)
        if not shape.nullable:
            return convert
        return lambda value: None if value is None else convert(value)

    def _reader(self, shape: Shape) -> Convert:
        if shape.choices:
            return _chosen(shape)
        if shape.options:
            return self._option_reader(shape)
        if shape.model is not None:
            model = shape.model
            return lambda value: self._readers[model](value)
        if shape.items is not None:
            made = _listed if shape.kind == "array" else _mapped
            return made(shape, self.reader(shape.items))
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

    def _option_reader(self, shape: Shape) -> Convert:
        readers = {kind: self.reader(option) for option in shape.options for kind in kinds_of(option)}
        readers.setdefault("integer", readers.get("number", _refuse(shape)))
        refuse = _refuse(shape)
        return lambda value: readers.get(KINDS.get(type(value), ""), refuse)(value)

    def writer(self, shape: Shape) -> Convert:
        """From a value of that shape to JSON."""
        if shape.model is not None:
            model = shape.model
            convert: Convert = lambda value: self._writers[model](value)  # noqa: E731
        elif shape.items is not None and shape.items.kind != "any":
            item = self.writer(shape.items)
            if shape.kind == "array":
                convert = lambda value: [item(each) for each in value]  # noqa: E731
            else:
                convert = lambda value: {key: item(each) for key, each in value.items()}  # noqa: E731
        elif shape.options:
            convert = self._option_writer(shape)
        else:
            return _as_json
        return lambda value: None if value is None else convert(value)

    def _option_writer(self, shape: Shape) -> Convert:
        def convert(value: Any) -> Any:
            written = self._writers.get(type(value))
            return written(value) if written else _as_json(value)

        return convert


def _refuse(shape: Shape) -> Convert:
    def refuse(value: Any) -> Any:
        raise Wrong({"": f"{' or '.join([shape.options[0].wanted, *(o.wanted[8:] for o in shape.options[1:])])}"})

    return refuse


def _hook(convert: Convert) -> Callable[[Any, Any], Any]:
    return lambda value, _: convert(value)


# attrs


def _default(attribute: Any, draft: Any) -> Any:
    default = attribute.default
    if not isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return default
    return default.factory(draft) if default.takes_self else default.factory()


def _converted(attribute: Any, value: Any, draft: Any) -> Any:
    converter: Any = attribute.converter
    if converter is None:
        return value
    if not isinstance(converter, attrs.Converter):
        return converter(value)
    full: Any = converter
    return full.converter(value, *([draft] if full.takes_self else []), *([attribute] if full.takes_field else []))


def _judge(validator: Any, draft: Any, attribute: Any, value: Any) -> str:
    """What a validator has against a value, in words for a client; nothing if it has nothing."""
    name = type(validator).__name__
    if not type(validator).__module__.startswith("attr."):
        try:
            validator(draft, attribute, value)
        except ValueError as err:
            return str(err)
        except AttributeError as err:
            if err.obj is not draft:
                raise
            # It looks at another field, which is wrong itself or was not given.
        return ""
    if name == "_AndValidator":
        return next(filter(None, (_judge(each, draft, attribute, value) for each in validator._validators)), "")
    if name == "_OptionalValidator":
        return "" if value is None else _judge(validator.validator, draft, attribute, value)
    try:
        validator(draft, attribute, value)
    except (ValueError, TypeError):
        return rule_of(validator, value)
    return ""


_COMPARED = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def rule_of(validator: Any, value: Any = "") -> str:
    """What one of the validators of attrs asks for."""
    unit = "character" if isinstance(value, str) else "item"
    match type(validator).__name__:
        case "_MaxLengthValidator":
            return f"must have at most {_counted(validator.max_length, unit)}"
        case "_MinLengthValidator":
            return f"must have at least {_counted(validator.min_length, unit)}"
        case "_NumberValidator":
            return f"must be {_COMPARED[validator.compare_op]} {_as_json(validator.bound)}"
        case "_InValidator":
            return f"must be one of {', '.join(str(_as_json(option)) for option in validator.options)}"
    return "has not the right form"


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
