"""Shapes: what the types that a model may have are in JSON."""

from __future__ import annotations

import datetime
import re
import types
import typing
import uuid
from decimal import Decimal
from enum import Enum
from typing import Any

import attrs

from bbio.errors import DefinitionError

_WORD = re.compile(r"\w+")

_SCALARS: dict[Any, tuple[str, str]] = {
    str: ("string", ""),
    bool: ("boolean", ""),
    int: ("integer", ""),
    float: ("number", ""),
    Decimal: ("string", "decimal"),
    datetime.datetime: ("string", "date-time"),
    datetime.date: ("string", "date"),
    uuid.UUID: ("string", "uuid"),
}
WANTED = {
    "string": "must be a string",
    "boolean": "must be true or false",
    "integer": "must be a whole number",
    "number": "must be a number",
    "array": "must be a list",
    "object": "must be an object",
    "decimal": "must be a decimal number, such as 12.50",
    "date-time": "must be a date and time with its zone, such as 2026-01-31T09:30:00Z",
    "date": "must be a date, such as 2026-01-31",
    "uuid": "must be a UUID",
}
JSON_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


@attrs.frozen
class Shape:
    """The JSON form of a type.

    Parameters:
        type: the Python type, without `None`.
        kind: `string`, `integer`, `number`, `boolean`, `array`, `object`, or `any` (also of a union of several kinds).
        format: what a string holds: `date-time`, `date`, `uuid`, `decimal`, or nothing in particular.
        nullable: whether it may be null.
        choices: the only values there are, of an enum or a `Literal`.
        items: what an array or a `dict` holds.
        model: the attrs class of an object.
        options: the members of a union of several kinds.
    """

    type: Any
    kind: str
    format: str = ""
    nullable: bool = False
    choices: tuple[Any, ...] = ()
    items: Shape | None = None
    model: type | None = None
    options: tuple[Shape, ...] = ()

    @property
    def never_null(self) -> bool:
        """Return whether null is not a value of it."""
        return not self.nullable and (self.kind != "any" or bool(self.options or self.choices))

    @property
    def wanted(self) -> str:
        """Return the message for a value that is something else."""
        if self.choices:
            return f"must be one of {', '.join(map(str, self.choices))}"
        return WANTED.get(self.format or self.kind, "is not valid")


def shape_of(annotation: Any, where: str) -> Shape:
    """The JSON form of a type.

    Parameters:
        annotation: the type.
        where: the field it is the type of, for a message.

    Raises:
        DefinitionError: it cannot travel as JSON; the text shows what can.
    """
    annotation = _unwrapped(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (Any, object):
        return Shape(annotation, "any")
    if origin in (typing.Union, types.UnionType):
        return _union(annotation, arguments, where)
    if origin is typing.Literal:
        return _choices(annotation, arguments, where)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _choices(annotation, tuple(member.value for member in annotation), where)
    if annotation in _SCALARS:
        return Shape(annotation, *_SCALARS[annotation])
    if annotation is list or origin is list:
        return Shape(annotation, "array", items=shape_of(arguments[0] if arguments else Any, where))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return Shape(annotation, "array", items=shape_of(arguments[0], where))
    if annotation is dict or (origin is dict and arguments[0] is str):
        return Shape(annotation, "object", items=shape_of(arguments[1] if arguments else Any, where))
    if isinstance(annotation, type) and attrs.has(annotation):
        return Shape(annotation, "object", model=annotation)
    raise DefinitionError(
        f"{where} is {_named(annotation)}, which cannot be the type of a field; {_advice(annotation)}"
    )


def _unwrapped(annotation: Any) -> Any:
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation


def _named(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _advice(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, (bytes, bytearray, memoryview)):
        return "JSON has no bytes: make it a str that holds base64, or keep the file elsewhere and its address here"
    if isinstance(annotation, type) and (hasattr(annotation, "__annotations__") or hasattr(annotation, "_fields")):
        return f"make {annotation.__name__} an attrs class: put @attrs.define above it"
    if typing.get_origin(annotation) is dict:
        return "the keys of JSON are strings: make it dict[str, ...]"
    return (
        "use str, int, float, bool, Decimal, datetime, date, UUID, an Enum, a Literal, list[...], tuple[..., ...], "
        "dict[str, ...], an attrs class, or one of them `| None`"
    )


def _union(annotation: Any, arguments: tuple[Any, ...], where: str) -> Shape:
    members = [shape_of(argument, where) for argument in arguments if argument is not type(None)]
    nullable = len(members) < len(arguments) or any(member.nullable for member in members)
    if len(members) == 1:
        return attrs.evolve(members[0], nullable=nullable)
    kinds = [kind for member in members for kind in kinds_of(member)]
    if len(set(kinds)) < len(kinds) or "any" in kinds:
        raise DefinitionError(
            f"{where} is {annotation}, whose members cannot be told apart in JSON; "
            f"use members of different kinds, such as str | int | None, or one attrs class"
        )
    return Shape(annotation, "any", nullable=nullable, options=tuple(members))


def kinds_of(shape: Shape) -> list[str]:
    """The kinds of JSON that a shape has."""
    return sorted({JSON_KINDS[type(choice)] for choice in shape.choices}) if shape.choices else [shape.kind]


def _choices(annotation: Any, values: tuple[Any, ...], where: str) -> Shape:
    choices = tuple(value for value in values if value is not None)
    if not choices or any(type(value) not in (str, int, bool) for value in choices):
        raise DefinitionError(
            f"{where} is {_named(annotation)}, whose values are not all JSON; use values of type str or int"
        )
    kinds = {JSON_KINDS[type(value)] for value in choices}
    kind = kinds.pop() if len(kinds) == 1 else "any"
    return Shape(annotation, kind, nullable=None in values, choices=choices)


def models_in(shape: Shape) -> list[type]:
    """The attrs classes that a shape holds."""
    if shape.model is not None:
        return [shape.model]
    inner = [*shape.options, *([shape.items] if shape.items is not None else [])]
    return [model for each in inner for model in models_in(each)]


def attributes_of(cls: type) -> tuple[Any, ...]:
    """The attributes of an attrs class, their types known.

    Raises:
        DefinitionError: a type is a name that cannot be found.
    """
    try:
        attrs.resolve_types(cls)
    except NameError as err:
        raise DefinitionError(
            f"a type of {cls.__name__} cannot be found: {err}; define it at the top of the module, above the backend"
        ) from None
    except Exception as err:
        texts = [attribute.type for attribute in attrs.fields(cls) if isinstance(attribute.type, str)]
        names = [each.name for each in attrs.fields(cls) if any(each.name in _WORD.findall(text) for text in texts)]
        hidden = (
            f"{' and '.join(names)} hide what they are called after; rename them" if names else "write them plainly"
        )
        raise DefinitionError(f"the types of {cls.__name__} cannot be read ({err}): {hidden}") from None
    return tuple(attrs.fields(cls))
