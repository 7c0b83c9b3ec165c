"""Queries as SQL, for tables that keep models as JSON documents.

A value is compared by its key, as `bbio.query.key_of` has it: the rank of its type, then what its type is ordered by.
Here a key is some SQL expressions, compared one after the other, none of them ever NULL. An index on a field is one on
these expressions and the id. What a client sends is always a parameter, the names of fields too; the text of a
statement holds only what the application itself declared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import attrs

from bbio.errors import ConfigurationError
from bbio.query import (
    FALSE,
    MAX_TEXT,
    MISSING,
    NAME,
    NULL,
    NUMBER,
    OTHER,
    TEXT,
    TRUE,
    Comparison,
    Condition,
    Either,
    Key,
    Order,
    Path,
    Query,
    key_of,
    parts,
)

Bind = Callable[[Any], str]

_COMPARED = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


class Dialect:
    """What databases say differently.

    Parameters:
        id_attribute: the name of the id in a model.
    """

    def __init__(self, id_attribute: str = "id") -> None:
        self.id_path: Path = (id_attribute,)

    def place(self, number: int, value: Any) -> str:
        """The placeholder of a parameter."""
        raise NotImplementedError

    def number(self, value: float) -> Any:
        """A number as a parameter."""
        raise NotImplementedError

    def literal(self, value: Any) -> str:
        """A text of the application's own, as part of a statement."""
        return "'" + str(value).replace("'", "''") + "'"

    def key(self, path: Path, bind: Bind) -> list[str]:
        """The expressions of a field's key."""
        raise NotImplementedError

    def operands(self, key: Key, bind: Bind) -> list[str]:
        """A key's values for as many expressions as tell it from others."""
        raise NotImplementedError

    def padded(self, key: Key, bind: Bind) -> list[str]:
        """A key's values for all expressions."""
        raise NotImplementedError

    def id_key(self) -> list[str]:
        """The expressions of the id's key."""
        raise NotImplementedError

    def id_order(self) -> list[str]:
        """What to sort by the id with."""
        raise NotImplementedError

    def id_place(self, key: Key, bind: Bind) -> list[str]:
        """An id's values for `id_order`."""
        raise NotImplementedError

    def like(self, path: Path, pattern: list[str], bind: Bind) -> str:
        """Whether a field, known to be a text, is like a pattern."""
        raise NotImplementedError


class SQLite(Dialect):
    """Models as JSON text in the column `body`, ids of any type in the column `id`."""

    def place(self, number: int, value: Any) -> str:
        return f"?{number}"

    def number(self, value: float) -> Any:
        return value if type(value) is float or -(2**63) <= value < 2**63 else float(value)

    def key(self, path: Path, bind: Bind) -> list[str]:
        at = bind(self._at(path))
        kind, value = f"json_type(body, {at})", f"json_extract(body, {at})"
        return [
            f"CASE {kind} WHEN 'null' THEN {NULL} WHEN 'false' THEN {FALSE} WHEN 'true' THEN {TRUE}"
            f" WHEN 'integer' THEN {NUMBER} WHEN 'real' THEN {NUMBER} WHEN 'text' THEN {TEXT}"
            f" WHEN 'object' THEN {OTHER} WHEN 'array' THEN {OTHER} ELSE {MISSING} END",
            f"CASE {kind} WHEN 'integer' THEN {value} WHEN 'real' THEN {value}"
            f" WHEN 'text' THEN substr({value}, 1, {MAX_TEXT + 1}) ELSE 0 END",
        ]

    def operands(self, key: Key, bind: Bind) -> list[str]:
        rank, value = key
        return [str(rank), bind(value)] if rank in (NUMBER, TEXT) else [str(rank)]

    def padded(self, key: Key, bind: Bind) -> list[str]:
        return [str(key[0]), bind(key[1])]

    def id_key(self) -> list[str]:
        return [f"CASE typeof(id) WHEN 'text' THEN {TEXT} ELSE {NUMBER} END", "id"]

    def id_order(self) -> list[str]:
        # SQLite itself has numbers before texts.
        return ["id"]

    def id_place(self, key: Key, bind: Bind) -> list[str]:
        return [bind(key[1])]

    def like(self, path: Path, pattern: list[str], bind: Bind) -> str:
        # GLOB, for LIKE takes upper for lower case.
        glob = "".join({"%": "*", "_": "?"}.get(part) or _globbed(part[1]) for part in pattern)
        return f"json_extract(body, {bind(self._at(path))}) GLOB {bind(glob)}"

    def _at(self, path: Path) -> str:
        return "$" + "".join(f'."{name}"' for name in path)


class PostgreSQL(Dialect):
    """Models as `jsonb` in the column `body`. Parameters are typed where they stand, as asyncpg needs it."""

    def place(self, number: int, value: Any) -> str:
        return f"${number}::{'text' if type(value) is str else 'numeric'}"

    def number(self, value: float) -> Any:
        return Decimal(repr(value))

    def key(self, path: Path, bind: Bind) -> list[str]:
        return self._key(self._at(path, bind), f"left({{}}, {MAX_TEXT + 1})")

    def operands(self, key: Key, bind: Bind) -> list[str]:
        values = self.padded(key, bind)
        return values if key[0] == TEXT else values[: 2 if key[0] == NUMBER else 1]

    def padded(self, key: Key, bind: Bind) -> list[str]:
        rank, value = key
        return [str(rank), bind(value) if rank == NUMBER else "0", bind(value) if rank == TEXT else "''"]

    def id_key(self) -> list[str]:
        return self._key(self._at(self.id_path, self.literal), "{}")

    def id_order(self) -> list[str]:
        return self.id_key()

    def id_place(self, key: Key, bind: Bind) -> list[str]:
        return self.padded(key, bind)

    def like(self, path: Path, pattern: list[str], bind: Bind) -> str:
        return f"""({self._at(path, bind)} #>> '{{}}') COLLATE "C" LIKE {bind("".join(pattern))}"""

    def _at(self, path: Path, bind: Bind) -> str:
        # Not #>, which takes a number in a path for a place in an array.
        return f"(body{''.join(f' -> {bind(name)}' for name in path)})"

    def _key(self, value: str, beginning: str) -> list[str]:
        kind = f"jsonb_typeof({value})"
        text = beginning.format(f"{value} #>> '{{}}'")
        return [
            f"(CASE {kind} WHEN 'null' THEN {NULL} WHEN 'boolean' THEN"
            f" CASE WHEN {value} = 'true'::jsonb THEN {TRUE} ELSE {FALSE} END"
            f" WHEN 'number' THEN {NUMBER} WHEN 'string' THEN {TEXT}"
            f" WHEN 'object' THEN {OTHER} WHEN 'array' THEN {OTHER} ELSE {MISSING} END)",
            f"(CASE {kind} WHEN 'number' THEN {value}::numeric ELSE 0 END)",
            f"""((CASE {kind} WHEN 'string' THEN {text} ELSE '' END) COLLATE "C")""",
        ]


def _globbed(character: str) -> str:
    return f"[{character}]" if character in "*?[" else character


@attrs.frozen
class Table:
    """Makes the statements that answer queries from one table of models.

    Parameters:
        dialect: the database's.
        name: the table, quoted.
        columns: what is selected.
        scope: columns that the statements need a value for each, such as `channel`.
        indexes: the fields of each index, as `read_indexes` gives them.
    """

    dialect: Dialect
    name: str
    columns: str
    scope: tuple[str, ...] = ()
    indexes: Sequence[tuple[Path, ...]] = ()

    def select(self, query: Query, scope: Sequence[Any] = (), default_order: str = "") -> tuple[str, list[Any]]:
        """The statement that finds `query.wanted` models, and its parameters.

        Parameters:
            query: the query.
            scope: the values of the scope's columns.
            default_order: what to sort by when the query does not say.
        """
        statement = Statement(self)
        text = f"SELECT {self.columns} FROM {self.name}" + statement.where(query, scope, query.after)
        order = ", ".join(
            f"{expression}{' DESC' if order.descending else ''}"
            for order in query.order
            for expression in statement.order(order)
        )
        if order or default_order:
            text += f" ORDER BY {order or default_order}"
        text += f" LIMIT {query.wanted:d}" + (f" OFFSET {query.offset:d}" if query.offset else "")
        return text, statement.parameters

    def count(self, query: Query, scope: Sequence[Any] = ()) -> tuple[str, list[Any]]:
        """The statement that counts all that match, and its parameters."""
        statement = Statement(self)
        text = f"SELECT count(*) FROM {self.name}" + statement.where(query, scope, None)
        return text, statement.parameters

    def index_expressions(self) -> dict[str, str]:
        """What each index is on, by a name for it."""
        statement = Statement(self)
        id_columns = self.dialect.id_order()
        return {
            "_".join(".".join(path) for path in paths): ", ".join(
                [*self.scope, *(key for path in paths for key in statement.key(path)), *id_columns]
            )
            for paths in self.indexes
        }


def read_indexes(given: Iterable[str | tuple[str, ...]]) -> list[tuple[Path, ...]]:
    """The fields of indexes that an application declares as `index=["done", ("list", "created")]`.

    Raises:
        ConfigurationError: one is no index.
    """
    indexes: list[tuple[Path, ...]] = []
    for fields in given:
        paths: list[Path] = [tuple(name.split(".")) for name in ([fields] if isinstance(fields, str) else fields)]
        if not paths or not all(NAME.fullmatch(name) for path in paths for name in path):
            raise ConfigurationError(
                f"index={list(given)!r}: {fields!r} is no field; name fields, or tuples of fields that are asked for "
                f'together: index=["done", ("list", "created")]'
            )
        indexes.append(tuple(paths))
    return indexes


class Statement:
    """A statement in the making, with its parameters.

    Parameters:
        table: the table it is about.
    """

    def __init__(self, table: Table) -> None:
        self.parameters: list[Any] = []
        self._table = table
        self._dialect = table.dialect
        self._declared = {path for paths in table.indexes for path in paths}
        self._places: dict[tuple[type, Any], str] = {}

    def bind(self, value: Any) -> str:
        """The placeholder of a value, one for all its uses."""
        known = (type(value), value)
        place = self._places.get(known)
        if place is None:
            self.parameters.append(value if isinstance(value, str) else self._dialect.number(value))
            place = self._places[known] = self._dialect.place(len(self.parameters), value)
        return place

    def key(self, path: Path) -> list[str]:
        """The expressions of a field's key. Those of an index must be literally the same to use it."""
        if path == self._dialect.id_path:
            return self._dialect.id_key()
        return self._dialect.key(path, self._dialect.literal if path in self._declared else self.bind)

    def order(self, order: Order) -> list[str]:
        """What to sort by a field with."""
        return self._dialect.id_order() if order.path == self._dialect.id_path else self.key(order.path)

    def where(self, query: Query, scope: Sequence[Any], after: Sequence[Key] | None) -> str:
        """The conditions of a query, those of the scope, and that of the place to go on from."""
        terms = [f"{column} = {self.bind(value)}" for column, value in zip(self._table.scope, scope, strict=True)]
        terms += map(self._term, query.where)
        if after is not None:
            terms.append(self._after(query.order, after))
        return f" WHERE {' AND '.join(terms)}" if terms else ""

    def _term(self, condition: Condition) -> str:
        if isinstance(condition, Either):
            return _any(_all(map(self._term, branch)) for branch in condition.branches)
        operator, value = condition.operator, condition.value
        if operator == "$in":
            return self._among(condition)
        if operator == "$like":
            return self._like(condition)
        key = self.key(condition.path)
        operands = self._dialect.operands(key_of(value), self.bind)
        if operator == "$eq":
            return _all(map("{} = {}".format, key, operands))
        if operator == "$ne":
            return f"NOT {_all(map('{} = {}'.format, key, operands))}"
        *same, last = zip(key, operands, strict=False)
        return _all([*(f"{one} = {other}" for one, other in same), f"{last[0]} {_COMPARED[operator]} {last[1]}"])

    def _among(self, condition: Comparison) -> str:
        key = self.key(condition.path)
        groups: dict[tuple[str, ...], list[str]] = {}
        for value in condition.value:
            *same, last = self._dialect.operands(key_of(value), self.bind)
            groups.setdefault(tuple(same), []).append(last)
        return _any(
            _all([*map("{} = {}".format, key, same), f"{key[len(same)]} IN ({', '.join(values)})"])
            for same, values in groups.items()
        )

    def _like(self, condition: Comparison) -> str:
        pattern = parts(condition.value)
        key = self.key(condition.path)
        prefix = ""
        for part in pattern:
            if part in ("%", "_"):
                break
            prefix += part[1]
        *same, text = self._dialect.operands((TEXT, prefix), self.bind if prefix else self._dialect.literal)
        terms = [*map("{} = {}".format, key, same)]
        if prefix:
            # For the index.
            terms.append(f"{key[len(same)]} >= {text}")
            if prefix[-1] < "\ud7ff":
                terms.append(f"{key[len(same)]} < {self.bind(prefix[:-1] + chr(ord(prefix[-1]) + 1))}")
        terms.append(self._dialect.like(condition.path, pattern, self.bind))
        return _all(terms)

    def _after(self, order: Sequence[Order], after: Sequence[Key]) -> str:
        fields: list[tuple[list[str], list[str], bool]] = []
        for one, key in zip(order, after, strict=True):
            bound = self._dialect.id_place if one.path == self._dialect.id_path else self._dialect.padded
            fields.append((self.order(one), bound(key, self.bind), one.descending))
        if len({descending for _, _, descending in fields}) == 1:
            return _beyond(fields)
        # Row comparisons go one way; the first of the terms is for the index.
        terms = [
            _all([*(f"{_row(key)} = {_row(place)}" for key, place, _ in fields[:at]), _beyond([fields[at]])])
            for at in range(len(fields))
        ]
        first, start, descending = fields[0]
        return _all([f"{_row(first)} {'<=' if descending else '>='} {_row(start)}", _any(terms)])


def _beyond(fields: Sequence[tuple[list[str], list[str], bool]]) -> str:
    keys = [expression for key, _, _ in fields for expression in key]
    places = [operand for _, place, _ in fields for operand in place]
    return f"{_row(keys)} {'<' if fields[0][2] else '>'} {_row(places)}"


def _row(expressions: Sequence[str]) -> str:
    return f"({', '.join(expressions)})"


def _all(terms: Iterable[str]) -> str:
    return f"({' AND '.join(terms) or '1 = 1'})"


def _any(terms: Iterable[str]) -> str:
    return f"({' OR '.join(terms) or '1 = 0'})"
