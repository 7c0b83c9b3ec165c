"""Queries: what `fetch({data: ...})` may ask of a collection, read once and answered alike by every store.

docs/queries.md describes the language. A `Query` answers for models in memory; `bbio.builtin.sql` makes SQL of it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import heapq
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Generic, Self

import attrs
import msgspec

from bbio.errors import BadRequest, ConfigurationError
from bbio.generic import M
from bbio.query.ordering import (
    COMPARED,
    COMPARISONS,
    MAX_TEXT,
    MISSING,
    NUMBER,
    OTHER,
    TEXT,
    Contains,
    Key,
    Like,
    Path,
    comparison,
    is_double,
    key_of,
    lookup,
    travels,
)
from bbio.query.steps import Steps, run

WORDS = ("sort", "limit", "offset", "cursor", "count")
MAX_PATH_NAMES = 8
MAX_CURSOR = 32_768
# Models that are sorted in one step.
RUN = 500

FIELD_NAME = re.compile(r'[^"\\\x00-\x1f$-][^"\\\x00-\x1f]*')

_encode = msgspec.json.Encoder(order="sorted").encode
_decode_places = msgspec.json.Decoder(list[tuple[int, int | float | str]]).decode


def _positive(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if value <= 0:
        raise ConfigurationError(f"QueryLimits({attribute.name}={value!r}): it must be greater than 0")


@attrs.frozen(kw_only=True)
class QueryLimits:
    """Limits of one query; stores take `queries=QueryLimits(limit=100)`.

    Parameters:
        models: the models that a read without a `limit` may find; for more, clients must ask page by page.
        limit: the highest `limit`.
        offset: the highest `offset`.
        conditions: the comparisons in one query.
        values: the values to compare with; those of `$in` count one by one.
        depth: the levels to which `$or` may be nested.
        sort: the fields to sort by.
        seconds: the seconds that a database, or a search in memory, may work on it.

    Raises:
        ConfigurationError: a limit is not greater than 0.

    Example:
        >>> from bbio.builtin import MemoryStore
        >>> MemoryStore(queries=QueryLimits(limit=100)).queries.limit
        100
    """

    models: int = attrs.field(default=10_000, validator=_positive)
    limit: int = attrs.field(default=1_000, validator=_positive)
    offset: int = attrs.field(default=100_000, validator=_positive)
    conditions: int = attrs.field(default=32, validator=_positive)
    values: int = attrs.field(default=200, validator=_positive)
    depth: int = attrs.field(default=3, validator=_positive)
    sort: int = attrs.field(default=4, validator=_positive)
    seconds: float = attrs.field(default=2.0, validator=_positive)


@attrs.frozen
class Comparison:
    """One field compared.

    Parameters:
        path: the field.
        operator: `$eq`, `$ne`, `$gt`, `$gte`, `$lt`, `$lte`, `$in`, `$contains` or `$like`.
        value: what it is compared with; of `$in` a list.
        holds: the comparison itself, of the field's value or `ABSENT`.
    """

    path: Path
    operator: str
    value: Any
    holds: Callable[[Any], bool] = attrs.field(eq=False, repr=False)


@attrs.frozen
class Either:
    """`$or`: one of the branches holds, each a list of conditions that all hold."""

    branches: tuple[tuple[Condition, ...], ...]


Condition = Comparison | Either


@attrs.frozen
class Order:
    """One field to sort by; with `tie` the id, where the client has named nothing that tells all models apart."""

    path: Path
    descending: bool
    tie: bool = False


@attrs.frozen
class Page(Generic[M]):
    """The result of a query.

    Parameters:
        models: the models, in order.
        next: the cursor of the page after this one, None when this is the last.
        total: how many models the query matches in all, None unless it was asked for.
    """

    models: list[M]
    next: str | None = None
    total: int | None = None


@attrs.frozen
class Query:
    """A query that was checked; made by `Query.read`, or by `Store.query`.

    Parameters:
        where: conditions that all hold.
        order: what to sort by; ends with the id, or is empty for the store's own order.
        limit: models to return at most, None for all.
        offset: models to leave out first.
        after: the place in the order to go on from, a key for each field.
        count: whether to count all that match.
        limits: the limits it was checked by.
        identity: what a cursor of it is known by.

    Example:
        >>> query = Query.read({"done": False, "sort": "-rank", "limit": 1})
        >>> query.page([{"id": 1, "done": False, "rank": 2}, {"id": 2, "done": True, "rank": 9}]).models
        [{'id': 1, 'done': False, 'rank': 2}]
    """

    where: tuple[Condition, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int | None = None
    offset: int = 0
    after: tuple[Key, ...] | None = None
    count: bool = False
    limits: QueryLimits = QueryLimits()
    identity: bytes = b""
    id_path: Path = ("id",)

    @classmethod
    def read(
        cls,
        data: Any,
        *,
        id_attribute: str = "id",
        limits: QueryLimits | None = None,
        fields: Collection[str] | None = None,
        stored: Callable[[Path, Any], Any] | None = None,
    ) -> Self:
        """Read `options.data` of a client.

        Parameters:
            data: what the client sent.
            id_attribute: the name of the id in a model.
            limits: how much it may ask for.
            fields: the fields it may name, None when any will do.
            stored: gives a value the form that it has in the store.

        Raises:
            BadRequest: it is not a query; the message says what would be.
        """
        if type(data) is not dict:
            raise BadRequest("options.data must be an object: what the models to read are like")
        reader = _Reader(id_attribute, limits or QueryLimits(), fields, stored)
        return cls(**reader.read(data), limits=reader.limits, id_path=reader.id_path)

    def within(self, conditions: Iterable[Condition]) -> Self:
        """Return the same query of what also fulfils these conditions; its cursors are the same.

        Parameters:
            conditions: conditions that nobody has to have asked for.
        """
        return attrs.evolve(self, where=(*conditions, *self.where))

    @property
    def is_paged(self) -> bool:
        """Return whether it asks for only a part of what it finds."""
        return self.limit is not None or self.offset > 0 or self.after is not None

    @property
    def wanted(self) -> int:
        """Return the number of models to look for: one more than to return, which shows whether there are more."""
        return (self.limits.models if self.limit is None else self.limit) + 1

    def matches(self, model: dict[str, Any]) -> bool:
        """Return whether a model fulfils all conditions.

        Parameters:
            model: the model, as JSON has it.

        Example:
            >>> Query.read({"rank": {"$gt": 1}}).matches({"id": 7, "rank": 2})
            True
        """
        return run(_all_hold(self.where, model))

    def page(self, models: Iterable[dict[str, Any]]) -> Page:
        """Return the page that the query asks for.

        Parameters:
            models: all models there are.

        Raises:
            BadRequest: the query finds more models than a read without a limit may return.
        """
        return run(self.steps(models))

    def steps(self, models: Iterable[dict[str, Any]]) -> Steps[Page]:
        """Find in steps, for models that are many or large."""
        return self.places((model, model) for model in models)

    def places(self, models: Iterable[tuple[Any, dict[str, Any]]]) -> Steps[Page]:
        """Find in models that are not kept while others are looked at: the page has what stands for each.

        Parameters:
            models: what stands for each model, and the model.
        """
        # What stands for each model, and behind it what it is sorted by.
        found: list[tuple[Any, ...]] = []
        for place, model in models:
            if (yield from _all_hold(self.where, model)):
                found.append((place, *self._keys(model)))
            yield
        total = len(found) if self.count else None
        for number, order in reversed(list(enumerate(self.order, start=1))):
            found = yield from _sorted(found, itemgetter(number), order.descending)
        if self.after is not None:
            left, found = found, []
            for one in left:
                if self._is_after(one[1:]):
                    found.append(one)
                yield
        found = found[self.offset : self.offset + self.wanted]
        return self._cut([one[0] for one in found], lambda last: found[last][1:], total)

    def cut(self, found: list[Any], total: int | None = None, decode: Callable[[Any], Any] | None = None) -> Page:
        """The page of what was found when `wanted` models were looked for.

        Parameters:
            found: the models.
            total: how many there are in all.
            decode: makes one a model, where they are something else.

        Raises:
            BadRequest: they are more than a read without a limit may return.
        """
        return self._cut(found, lambda last: self._keys(found[last] if decode is None else decode(found[last])), total)

    def _cut(self, found: list[Any], keys: Callable[[int], Sequence[Key]], total: int | None) -> Page:
        if len(found) < self.wanted:
            return Page(found, None, total)
        if self.limit is None:
            raise too_many(self.limits)
        page = found[: self.limit]
        return Page(page, self._cursor(keys(len(page) - 1)) if page else None, total)

    def key(self, model: dict[str, Any], path: Path) -> Key:
        """Return the key that a model is sorted by."""
        value = lookup(model, path)
        return (TEXT, value) if type(value) is str and path == self.id_path else key_of(value)

    def _keys(self, model: dict[str, Any]) -> list[Key]:
        return [self.key(model, order.path) for order in self.order]

    def _is_after(self, keys: Sequence[Key]) -> bool:
        for order, key, place in zip(self.order, keys, self.after or (), strict=True):
            if key != place:
                return key < place if order.descending else key > place
        return False

    def _cursor(self, keys: Sequence[Key]) -> str:
        places = _encode(keys)
        return _as_text(_digest(self.identity, places) + places)


def too_many(limits: QueryLimits) -> BadRequest:
    """Return the error for a client that asked for too many models at once."""
    return BadRequest(
        f"more than {limits.models} models: read them page by page, as with {{limit: 100}} and the cursor of each page",
        page_limit=limits.limit,
    )


def _all_hold(conditions: Iterable[Condition], model: dict[str, Any]) -> Steps[bool]:
    for condition in conditions:
        if isinstance(condition, Either):
            for branch in condition.branches:
                if (yield from _all_hold(branch, model)):
                    break
            else:
                return False
            continue
        holds, value = condition.holds, lookup(model, condition.path)
        if isinstance(holds, Like | Contains) and type(value) is holds.judges:
            held = yield from holds.steps(value)
        else:
            held = holds(value)
        if not held:
            return False
    return True


def _sorted(models: list[Any], key: Callable[[Any], Key], descending: bool) -> Steps[list[Any]]:
    """Models in order, those that are equal in the order in which they came."""
    runs = []
    for begin in range(0, len(models), RUN):
        runs.append(sorted(models[begin : begin + RUN], key=key, reverse=descending))
        yield
    if len(runs) == 1:
        return runs[0]
    merged = []
    for model in heapq.merge(*runs, key=key, reverse=descending):
        merged.append(model)
        yield
    return merged


def _digest(identity: bytes, places: bytes) -> bytes:
    return hashlib.blake2b(places, key=hashlib.blake2b(identity, digest_size=32).digest(), digest_size=9).digest()


def _as_text(cursor: bytes) -> str:
    return base64.urlsafe_b64encode(cursor).decode().rstrip("=")


def split(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the conditions of a query, and the rest of it: what is said of order and pages, by the word.

    Parameters:
        data: the query, unchecked.

    Raises:
        BadRequest: a word is there twice.

    Example:
        >>> split({"done": False, "$sort": "name", "limit": {"$gt": 5}})
        ({'done': False, 'limit': {'$gt': 5}}, {'sort': 'name'})
    """
    said: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in data.items():
        word = name.removeprefix("$")
        if word not in WORDS or (word == name and type(value) is dict):
            rest[name] = value
        elif word in said:
            raise BadRequest(f"{word} and ${word} mean the same; say one of them")
        elif value is not None:
            said[word] = value
    return rest, said


class _Reader:
    """Reads one query, counting what it asks for.

    Parameters:
        id_attribute: the name of the id in a model.
        limits: how much it may ask for.
        fields: the fields it may name, None when any will do.
        stored: gives a value the form that it has in the store.
    """

    def __init__(
        self,
        id_attribute: str,
        limits: QueryLimits,
        fields: Collection[str] | None,
        stored: Callable[[Path, Any], Any] | None,
    ) -> None:
        self.id_path: Path = (id_attribute,)
        self.limits = limits
        self._fields = fields
        self._stored = stored
        self._conditions = 0
        self._values = 0

    def read(self, data: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a `Query`."""
        rest, said = split(data)
        limit = None if "limit" not in said else self._number("limit", said["limit"], self.limits.limit)
        offset = self._number("offset", said.get("offset", 0), self.limits.offset)
        count, cursor = said.get("count", False), said.get("cursor")
        if type(count) is not bool:
            raise BadRequest("count is true or false")
        if offset and cursor is not None:
            raise BadRequest("a cursor says where to go on; leave out the offset")
        where = self._all(rest, self.limits.depth)
        order = self._order(said.get("sort", []), limit is not None or offset or cursor is not None)
        identity = _encode([rest, [[order.path, order.descending] for order in order]])
        after = None if cursor is None else self._places(cursor, identity, len(order))
        return {
            "where": where,
            "order": order,
            "limit": limit,
            "offset": offset,
            "after": after,
            "count": count,
            "identity": identity,
        }

    def _number(self, word: str, value: Any, highest: int) -> int:
        if type(value) is not int or not 0 <= value <= highest:
            raise BadRequest(f"{word} is a whole number up to {highest}")
        return value

    def _path(self, name: str) -> Path:
        path = tuple(name.split("."))
        if len(name) > MAX_TEXT or len(path) > MAX_PATH_NAMES or not all(map(FIELD_NAME.fullmatch, path)):
            raise BadRequest(f"{name!r:.80} is not the name of a field, or of a field in it such as address.city")
        if self._fields is None or path == self.id_path:
            return path
        if not any(".".join(path[:depth]) in self._fields for depth in range(1, len(path) + 1)):
            raise BadRequest(f"there is no field {name!r:.80}; there are {', '.join(sorted(self._fields))}")
        return path

    def _order(self, sort: Any, paged: Any) -> tuple[Order, ...]:
        names = sort if type(sort) is list else [sort]
        if len(names) > self.limits.sort or not all(type(name) is str for name in names):
            raise BadRequest(
                f'sort is the name of a field, "-name" for the highest first, or a list of up to {self.limits.sort}'
            )
        order: list[Order] = []
        for name in names:
            path = self._path(name.removeprefix("-"))
            if path not in [known.path for known in order]:
                order.append(Order(path, name.startswith("-")))
        if (order or paged) and self.id_path not in [known.path for known in order]:
            order.append(Order(self.id_path, bool(order) and order[-1].descending, tie=True))
        return tuple(order)

    def _all(self, data: dict[str, Any], depth: int) -> tuple[Condition, ...]:
        conditions: list[Condition] = []
        for name, value in data.items():
            if name == "$or":
                conditions.append(self._either(value, depth))
            elif name.startswith("$"):
                raise BadRequest(f"{name!r:.80} is not part of a query; there are $or and, for a field, {_OPERATORS}")
            elif type(value) is dict:
                conditions += self._comparisons(self._path(name), value)
            else:
                conditions.append(self._compared(self._path(name), "$eq", value))
        return tuple(conditions)

    def _either(self, branches: Any, depth: int) -> Either:
        if depth == 0:
            raise BadRequest(f"$or is nested more than {self.limits.depth} deep")
        if type(branches) is not list or not branches or not all(type(branch) is dict for branch in branches):
            raise BadRequest("$or takes a list of objects, one of which a model must be like")
        self._count(len(branches))
        return Either(tuple(self._all(branch, depth - 1) for branch in branches))

    def _comparisons(self, path: Path, said: dict[str, Any]) -> list[Condition]:
        if not said or not all(operator in COMPARISONS for operator in said):
            raise BadRequest(
                f"{'.'.join(path)!r:.80} is compared with a value, or by {_OPERATORS}; "
                f"for a field in it say {'.'.join(path)[:80]}.name"
            )
        return [self._compared(path, operator, value) for operator, value in said.items()]

    def _compared(self, path: Path, operator: str, value: Any) -> Comparison:
        self._count(1)
        if operator == "$in" and type(value) is not list:
            raise BadRequest("$in takes a list of values")
        values = value if operator == "$in" else [value]
        self._values += len(values)
        if self._values > self.limits.values:
            raise BadRequest(f"a query may compare with {self.limits.values} values")
        for one in values:
            kind = self._kind(one)
            if operator == "$like" and kind != TEXT:
                raise BadRequest("$like takes a string, with % for any characters and _ for one")
            if operator in COMPARED and kind not in (NUMBER, TEXT):
                raise BadRequest(f"{operator} takes a number or a string")
        if self._stored is not None and operator != "$like":
            values = [self._stored(path, one) for one in values]
            value = values if operator == "$in" else values[0]
        return Comparison(path, operator, value, comparison(operator, value))

    def _count(self, conditions: int) -> None:
        self._conditions += conditions
        if self._conditions > self.limits.conditions:
            raise BadRequest(f"a query may have {self.limits.conditions} conditions")

    def _kind(self, value: Any) -> int:
        kind, _ = key_of(value)
        if kind in (MISSING, OTHER) or (kind == NUMBER and not is_double(value)):
            raise BadRequest("a field is compared with a string, a number, true, false or null")
        if kind == TEXT and (len(value) > MAX_TEXT or not travels(value)):
            raise BadRequest(f"a string to compare with has at most {MAX_TEXT} characters")
        return kind

    def _places(self, cursor: Any, identity: bytes, fields: int) -> tuple[Key, ...]:
        try:
            if type(cursor) is not str or len(cursor) > MAX_CURSOR or not cursor.isascii():
                raise ValueError("no cursor")
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
            places = raw[9:]
            if raw[:9] != _digest(identity, places) or _as_text(raw) != cursor:
                raise ValueError("another query's")
            keys = tuple(_decode_places(places))
            if len(keys) != fields or not all(map(_is_key, keys)):
                raise ValueError("no place")
        except (ValueError, binascii.Error, msgspec.DecodeError):
            raise BadRequest("the cursor is not one of this query; begin without it") from None
        return keys


_OPERATORS = ", ".join(COMPARISONS)


def _is_key(key: Key) -> bool:
    """Return whether `Query.key` could have made a key: a client may have made it."""
    rank, value = key
    if rank == TEXT:
        return type(value) is str and travels(value)
    if rank == NUMBER:
        return type(value) is not str and is_double(value)
    return MISSING <= rank <= OTHER and value == 0 and type(value) is int
