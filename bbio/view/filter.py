"""Filters: which records a view is of, and what an event that changes one of them is to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any, Literal, Self

import attrs

from bbio.errors import BadRequest
from bbio.model.schema import Schema
from bbio.protocol import decode, encode
from bbio.query.ordering import key_of
from bbio.query.predicate import predicate
from bbio.query.query import Comparison, Condition, Either, Query, QueryLimits

Record = dict[str, Any]
Kind = Literal["create", "update", "delete"]

# How much the application's own code may ask for: the projects of somebody who is in all of them.
SCOPE_LIMITS = QueryLimits(conditions=1_000, values=10_000, depth=8)

# What a filter takes with the view it is of, and what each field and value of it takes, which have two commas each.
FILTER_BYTES = 2_000
PART_BYTES = 250


def transition(was: bool, is_now: bool) -> Kind | None:
    """Return what a change of a record is to a view; None where it is nothing to it.

    Parameters:
        was: whether the record was in the view before.
        is_now: whether it is in it after.

    Example:
        >>> transition(True, False), transition(False, False)
        ('delete', None)
    """
    if is_now:
        return "update" if was else "create"
    return "delete" if was else None


@attrs.frozen
class Filter:
    """Conditions that all hold for the records of a view. Filters that say the same in another order are equal.

    Parameters:
        identity: what the conditions are, as JSON; it tells filters apart.
        conditions: the conditions.
        matches: whether they hold for a record, as JSON has it.

    Example:
        >>> Filter.read({"$or": [{"author": 7}, {"project": {"$in": [3, 1]}}]}).matches({"author": 1, "project": 3})
        True
    """

    identity: bytes
    conditions: tuple[Condition, ...] = attrs.field(eq=False, repr=False)
    matches: Callable[[Record], bool] = attrs.field(eq=False, repr=False)

    @classmethod
    def of(cls, conditions: Iterable[Condition]) -> Self:
        """Return the filter of some conditions, such as those of a query."""
        all_of_them = tuple(conditions)
        return cls(encode(_canonical(all_of_them)), all_of_them, predicate(all_of_them))

    @classmethod
    def read(cls, said: Any, schema: Schema | None = None, id_attribute: str = "id") -> Self:
        """Return the filter that application code has named: a query without a sort or a page, True, or False.

        Parameters:
            said: the query; True for all records, False for none.
            schema: the schema of the backend, None when its models may be anything. All of its fields may be named.
            id_attribute: the name of the id in a model.

        Raises:
            BadRequest: it is none of these.
            EncodingError: it holds what JSON does not have.

        Example:
            >>> Filter.read({"owner": {"$in": {"ann"}}}).matches({"owner": "ann"}), Filter.read(False).matches({})
            (True, False)
        """
        if said is True or said is False:
            return cls.of(() if said else (Either(()),))
        if not isinstance(said, dict):
            raise BadRequest("it must be a query, such as {'owner': req.user.id}, or True for all, or False for none")
        fields = None if schema is None else schema.fields.keys() | {id_attribute}
        stored = None if schema is None else schema.stored
        # Sets, tuples, UUIDs and times become what they are in a record.
        data = decode(encode(said))
        query = Query.read(data, id_attribute=id_attribute, limits=SCOPE_LIMITS, fields=fields, stored=stored)
        if query.order or query.count or query.is_paged:
            raise BadRequest("it says which records, and nothing of their order, number or pages")
        return cls.of(query.where)

    @classmethod
    def all_of(cls, filters: Iterable[Filter]) -> Filter:
        """Return the filter of the records that are in all of some filters.

        Example:
            >>> Filter.all_of([Filter.read({"a": 1}), Filter.read({"b": 2})]) == Filter.read({"b": 2, "a": 1})
            True
        """
        different = list(dict.fromkeys(each for each in filters if each.conditions))
        if len(different) == 1:
            return different[0]
        return cls.of(condition for each in different for condition in each.conditions)

    def transition(self, before: Record | None, after: Record | None) -> Kind | None:
        """Return what a change of a record is to this view; None where it is nothing to it.

        Parameters:
            before: the record before the change, None where there was none.
            after: the record after it, None where there is none any more.

        Example:
            >>> Filter.read({"done": False}).transition({"id": 7, "done": True}, {"id": 7, "done": False})
            'create'
        """
        return transition(before is not None and self.matches(before), after is not None and self.matches(after))

    @property
    def size(self) -> int:
        """The bytes that it takes at most, its places in an index among them."""
        return FILTER_BYTES + PART_BYTES * self.identity.count(b",") + 3 * len(self.identity)

    @property
    def digest(self) -> str:
        """A short text that tells the filter from others, and nothing of what is in it."""
        return blake2b(self.identity, digest_size=9).hexdigest()


def _canonical(conditions: Iterable[Condition]) -> list[Any]:
    """Return conditions as JSON, in an order that is always the same, each once."""
    return _in_order(_canonical_one(condition) for condition in conditions)


def _canonical_one(condition: Condition) -> list[Any]:
    if isinstance(condition, Either):
        return ["$or", _in_order(map(_canonical, condition.branches))]
    assert isinstance(condition, Comparison)
    value: Any = condition.value
    if condition.operator == "$in":
        value = _in_order(map(key_of, value))
    return [condition.path, condition.operator, value]


def _in_order(values: Iterable[Any]) -> list[Any]:
    return [value for _, value in sorted({encode(value): value for value in values}.items())]


EVERYTHING = Filter.read(True)
NOTHING = Filter.read(False)
