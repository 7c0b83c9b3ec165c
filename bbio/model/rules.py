"""The rules of the fields of attrs classes: defaults, converters and validators, the latter in words for a client."""

from __future__ import annotations

from typing import Any

import attrs

from bbio.model.scalars import as_json


def default_of(attribute: Any, draft: Any) -> Any:
    default = attribute.default
    if not isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return default
    return default.factory(draft) if default.takes_self else default.factory()


def converted(attribute: Any, value: Any, draft: Any) -> Any:
    converter: Any = attribute.converter
    if converter is None:
        return value
    if not isinstance(converter, attrs.Converter):
        return converter(value)
    full: Any = converter
    return full.converter(value, *([draft] if full.takes_self else []), *([attribute] if full.takes_field else []))


def judge(validator: Any, draft: Any, attribute: Any, value: Any) -> str:
    """Judge a value by a validator; return the messages for a client, none if the value is valid."""
    name = type(validator).__name__
    if not type(validator).__module__.startswith("attr."):
        try:
            validator(draft, attribute, value)
        except (ValueError, AssertionError) as err:
            return str(err) or "is not valid"
        except AttributeError as err:
            if err.obj is not draft:
                raise
            # It looks at another field, which is wrong itself or was not given.
        return ""
    if name == "_AndValidator":
        return next(filter(None, (judge(each, draft, attribute, value) for each in validator._validators)), "")
    if name == "_OptionalValidator":
        return "" if value is None else judge(validator.validator, draft, attribute, value)
    try:
        validator(draft, attribute, value)
    except (ValueError, TypeError):
        return rule_of(validator, value)
    return ""


_COMPARED_IN_WORDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def rule_of(validator: Any, value: Any = "") -> str:
    """Return the rule of one of the validators of attrs."""
    unit = "character" if isinstance(value, str) else "item"
    match type(validator).__name__:
        case "_MaxLengthValidator":
            return f"must have at most {_counted(validator.max_length, unit)}"
        case "_MinLengthValidator":
            return f"must have at least {_counted(validator.min_length, unit)}"
        case "_NumberValidator":
            return f"must be {_COMPARED_IN_WORDS[validator.compare_op]} {as_json(validator.bound)}"
        case "_InValidator":
            return f"must be one of {', '.join(str(as_json(option)) for option in validator.options)}"
    return "is not valid"


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
