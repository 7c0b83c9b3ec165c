"""Operators of a patch: changes of fields by what they hold by then, whatever that is.

A patch may have, beside the fields that it sets, `$inc`, numbers by the names of fields, and `$append`, texts by the
names of fields. Whoever makes the record adds them to what is stored, where nobody can write in between: a store does
so in the write's transaction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from decimal import Context, Decimal
from typing import Any, ClassVar, NamedTuple

from bbio.errors import BadRequest
from bbio.model.scalars import MAX_DIGITS, Wrong
from bbio.model.schema import Field
from bbio.model.types import WANTED, kinds_of

# From here on a double, which is what JavaScript has, does not tell every whole number.
FIRST_INEXACT = 2**53
# Bytes of UTF-8 that a text may grow to: about as many as a client may send at once by default, to set it whole.
MAX_APPENDED_BYTES = 1_000_000

# What two numbers of so many digits come to is exact.
_decimals = Context(prec=2 * MAX_DIGITS + 2)


class Operator(ABC):
    """A way to change a field by what it holds.

    Class attributes:
        name: its key in a patch.
        verb: the word for what a patch does with it.
        done: the word for what is done to a field.
    """

    name: ClassVar[str]
    verb: ClassVar[str]
    done: ClassVar[str]

    @abstractmethod
    def combine(self, held: Any, operand: Any) -> Any:
        """Return what a field comes to that no schema describes.

        Parameters:
            held: its value, None for no value.
            operand: what the patch says of it.

        Raises:
            Wrong: one of these does not fit.
        """

    def combine_typed(self, field: Field, held: Any, operand: Any) -> Any:
        """Return what a declared field comes to; see `combine`."""
        return self.combine(held, operand)

    @abstractmethod
    def misfit(self, field: Field, operand: Any) -> str:
        """Return the error in an operand, whatever a declared field holds; an empty text where that is what counts."""

    @property
    def refusal(self) -> str:
        """Return the message where it is used in another write than a patch."""
        return f"{self.verb}s in a patch alone; give the field its value here"


class Inc(Operator):
    """Adds numbers."""

    name = "$inc"
    verb = "count"
    done = "counted"

    def combine(self, held: Any, operand: Any) -> Any:
        if type(operand) not in (int, float):
            raise Wrong({"": WANTED["number"]})
        if held is None:
            held = 0
        if type(held) not in (int, float):
            raise Wrong({"": "does not hold a number"})
        if abs(held) < FIRST_INEXACT and abs(operand) < FIRST_INEXACT:
            result = held + operand
            if abs(result) < FIRST_INEXACT:
                return result
        raise Wrong({"": f"would pass {FIRST_INEXACT - 1}, the largest whole number that every client tells exactly"})

    def combine_typed(self, field: Field, held: Any, operand: Any) -> Any:
        if field.shape.format != "decimal":
            return self.combine(held, operand)
        # Decimal numbers are strings.
        number = field.read(field.write(operand))
        return format(_decimals.add(Decimal(0) if held is None else field.read(held), number), "f")

    def misfit(self, field: Field, operand: Any) -> str:
        shape = field.shape
        if shape.format == "decimal":
            return "" if operand is not None and _is_readable(field, operand) else shape.wanted
        kinds = _kinds(field)
        if kinds.isdisjoint(("integer", "number", "any")):
            return "is not a number, and cannot be counted"
        wanted = float if kinds & {"number", "any"} else int
        return "" if type(operand) in (int, wanted) else WANTED["number" if wanted is float else "integer"]


class Append(Operator):
    """Adds to the end of texts."""

    name = "$append"
    verb = "append"
    done = "appended to"

    def combine(self, held: Any, operand: Any) -> Any:
        if type(operand) is not str:
            raise Wrong({"": WANTED["string"]})
        if held is None:
            held = ""
        if type(held) is not str:
            raise Wrong({"": "does not hold a text"})
        result = held + operand
        if len(result) > MAX_APPENDED_BYTES or len(result.encode()) > MAX_APPENDED_BYTES:
            raise Wrong({"": f"would pass {MAX_APPENDED_BYTES} bytes, the longest text that can be appended to"})
        return result

    def misfit(self, field: Field, operand: Any) -> str:
        if field.shape.format or _kinds(field).isdisjoint(("string", "any")):
            return "is not a text, and cannot be appended to"
        return "" if type(operand) is str else WANTED["string"]


def _kinds(field: Field) -> set[str]:
    """Return the kinds of JSON that a field may hold."""
    shape = field.shape
    return {kind for each in shape.options or (shape,) for kind in kinds_of(each)}


def _is_readable(field: Field, value: Any) -> bool:
    try:
        field.read(value)
    except Wrong:
        return False
    return True


OPERATORS: dict[str, Operator] = {each.name: each for each in (Inc(), Append())}
NAMES = frozenset(OPERATORS)


class Operation(NamedTuple):
    """One field that an operator changes.

    Parameters:
        operator: the operator.
        field: the name of the field.
        operand: what the patch says of it.
    """

    operator: Operator
    field: str
    operand: Any


def operations_in(model: Mapping[str, Any], id_attribute: str) -> tuple[list[Operation], dict[str, str]]:
    """Return what the operators of a patch change, and what is wrong with that whatever is stored.

    Parameters:
        model: the patch.
        id_attribute: the name of the id, which no operator changes.
    """
    found: dict[str, Operation] = {}
    wrong: dict[str, str] = {}
    for name, operator in OPERATORS.items():
        operands = model.get(name, {})
        if type(operands) is not dict:
            wrong[name] = WANTED["object"]
            continue
        for field, operand in operands.items():
            if field == id_attribute:
                wrong[field] = f"cannot be {operator.done}"
            elif field in model:
                wrong[field] = f"is set and {operator.done} at once"
            elif field in found:
                wrong[field] = f"is {found[field].operator.done} and {operator.done} at once"
            else:
                found[field] = Operation(operator, field, operand)
    return [operation for field, operation in found.items() if field not in wrong], wrong


def operated(model: Mapping[str, Any], stored: Mapping[str, Any], id_attribute: str) -> dict[str, Any]:
    """Return the changes that a patch with operators makes to a record, where no schema describes its fields.

    Parameters:
        model: the patch.
        stored: the record as it is.
        id_attribute: the name of the id.

    Raises:
        BadRequest: something in it cannot be done.

    Example:
        >>> patch = {"id": 7, "done": True, "$inc": {"n": 2}, "$append": {"title": " and bread"}}
        >>> operated(patch, {"id": 7, "n": 1, "title": "milk"}, "id")
        {'id': 7, 'done': True, 'n': 3, 'title': 'milk and bread'}
    """
    changes = sets_of(model)
    operations, wrong = operations_in(model, id_attribute)
    for operator, name, operand in operations:
        try:
            changes[name] = operator.combine(stored.get(name), operand)
        except Wrong as err:
            wrong[name] = str(err)
    for name, message in wrong.items():
        raise BadRequest(f"{name!r:.64} {message}")
    return changes


def sets_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a patch sets, and the id."""
    return {name: value for name, value in model.items() if name not in NAMES}


def changed_by(model: Mapping[str, Any]) -> list[str]:
    """Return the names of the fields that a patch, in which nothing is wrong, sets or changes with operators."""
    return [*model, *(field for name in OPERATORS for field in model.get(name, ()))]


def has_operators(model: Any) -> bool:
    """Return whether a model, or whatever else was sent in its place, has operators."""
    return isinstance(model, dict) and not NAMES.isdisjoint(model)


def first_of(names: Collection[str]) -> Operator | None:
    """Return the first operator that is among the names of the fields of a model; None where there is none."""
    return next((operator for name, operator in OPERATORS.items() if name in names), None)


def refused_operator(model: Mapping[str, Any]) -> BadRequest:
    """Return the error of what is not a patch, and has an operator."""
    operator = first_of(model)
    assert operator is not None, "it has none"
    return BadRequest(f"{operator.name!r} {operator.refusal}")
