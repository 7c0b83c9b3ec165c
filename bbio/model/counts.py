"""Counting: the fields that a patch adds to, whatever they hold by then.

A patch may have, beside the fields that it sets, `$inc`: numbers by the names of fields. Whoever makes the record adds
them to what is stored, where nobody can write in between: a store does so in the write's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from typing import Any

from bbio.errors import BadRequest
from bbio.model.scalars import MAX_DIGITS, Wrong
from bbio.model.types import WANTED

COUNTS = "$inc"
PATCHES_ALONE = "counts in a patch alone; give the field its value here"
# From here on a double, which is what JavaScript has, does not tell every whole number.
TOO_LARGE = 2**53

# What two numbers of so many digits come to is exact.
_decimals = Context(prec=2 * MAX_DIGITS + 2)


def counts_in(model: Mapping[str, Any], id_attribute: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a patch adds, by field, and what is wrong with that whatever is stored.

    Parameters:
        model: the patch, which has `$inc`.
        id_attribute: the name of the id, which is never counted.
    """
    counts = model[COUNTS]
    if type(counts) is not dict:
        return {}, {COUNTS: WANTED["object"]}
    wrong = {name: "is set and counted at once" for name in counts if name in model}
    if id_attribute in counts:
        wrong[id_attribute] = "cannot be counted"
    return {name: number for name, number in counts.items() if name not in wrong}, wrong


def total(held: Any, number: Any) -> Any:
    """Add to the value of a field, None for no value; return the sum.

    Raises:
        Wrong: these are not numbers, or their sum cannot be exact.
    """
    if type(number) not in (int, float):
        raise Wrong({"": WANTED["number"]})
    if held is None:
        held = 0
    if type(held) not in (int, float):
        raise Wrong({"": "does not hold a number"})
    if abs(held) < TOO_LARGE and abs(number) < TOO_LARGE:
        result = held + number
        if abs(result) < TOO_LARGE:
            return result
    raise Wrong({"": f"would pass {TOO_LARGE - 1}, the largest whole number that every client tells exactly"})


def decimal_total(held: Decimal | None, number: Decimal) -> str:
    """Add decimal numbers, which are strings."""
    return format(_decimals.add(held or Decimal(0), number), "f")


def counted(model: Mapping[str, Any], stored: Mapping[str, Any], id_attribute: str) -> dict[str, Any]:
    """Return the changes that a patch with `$inc` makes to a record, where no schema describes its fields.

    Parameters:
        model: the patch.
        stored: the record as it is.
        id_attribute: the name of the id.

    Raises:
        BadRequest: it cannot be counted.

    Example:
        >>> counted({"id": 7, "title": "milk", "$inc": {"n": 2}}, {"id": 7, "n": 1}, "id")
        {'id': 7, 'title': 'milk', 'n': 3}
    """
    changes = uncounted(model)
    counts, wrong = counts_in(model, id_attribute)
    for name, number in counts.items():
        try:
            changes[name] = total(stored.get(name), number)
        except Wrong as err:
            wrong[name] = str(err)
    for name, message in wrong.items():
        raise BadRequest(f"{name!r:.64} {message}")
    return changes


def uncounted(model: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a patch sets, and the id."""
    return {name: value for name, value in model.items() if name != COUNTS}


def has_counts(model: Any) -> bool:
    """Return whether a model, or whatever else was sent in its place, has `$inc`."""
    return isinstance(model, dict) and COUNTS in model


def refused_counts() -> BadRequest:
    """Return the error of what is not a patch, and counts."""
    return BadRequest(f"{COUNTS!r} {PATCHES_ALONE}")
