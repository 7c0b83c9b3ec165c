"""Queries as SQL, for tables that keep models as JSON documents.

A value is compared by its key, as `bbio.query.ordering.key_of` has it: the rank of its type, then what that is ordered
by. Here a key is some SQL expressions, compared one after the other, none of them ever NULL. An index on a field is one
on these expressions and the id. What a client sends is always a parameter, the names of fields too; the text of a
statement holds only what the application itself declared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import attrs

from bbio.errors import ConfigurationError
from bbio.protocol import encode
from bbio.query.ordering import (
    FALSE,
    MAX_TEXT,
    MISSING,
    NULL,
    NUMBER,
    OTHER,
    TEXT,
    TRUE,
    Key,
    Path,
    key_of,
    parts,
)
from bbio.query.query import FIELD_NAME, Comparison, Condition, Either, Order, Query

Bind = Callable[[Any], str]
Parameters = list[Any] | dict[str, Any]

# Whole numbers below are compared as they are, even where JSON writes them with a point. Numbers beyond the others have
# no double, or are none but 0.
MAX_EXACT = 9e18
MAX_DOUBLE = "1.7976931348623158e308"
MIN_DOUBLE = "2.5e-324"
# A double as a number of any length.
DOUBLE = "float8::text::numeric"

# From how many texts or whole numbers on those of `$in` are one parameter: SQLite looks for each of its parameters
# among all the others, and both databases take only so many. Clients may ask for fewer by default; scopes do not.
MANY_VALUES = 201

# What SQLite calls the types of JSON.
_JSON_TYPES = {NULL: "'null'", FALSE: "'false'", TRUE: "'true'", NUMBER: "'integer', 'real'", TEXT: "'text'"}
_JSON_CONSTANTS = {NULL: "null", FALSE: "false", TRUE: "true"}

_COMPARED_IN_SQL = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


class Dialect:
    """The expressions that databases write differently.

    Parameters:
        id_attribute: the name of the id in a model.
    """

    # Whether an index on expressions finds the rows beyond one by a comparison of rows.
    compares_rows = False
    # Expressions that are the same in every row, of which an index has no use.
    constants: Collection[str] = ()

    def __init__(self, id_attribute: str = "id") -> None:
        self.id_path: Path = (id_attribute,)

    def place(self, number: int, value: Any) -> str:
        """The placeholder of a parameter."""
        raise NotImplementedError

    def given(self, values: list[Any]) -> Parameters:
        """The values of all parameters, as the database's driver takes them."""
        return values

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
        """Return the values that the expressions of a field have for this key."""
        raise NotImplementedError

    def significant(self, rank: int) -> int:
        """Return the number of expressions that tell values of a type apart; the rest are the same for all values."""
        raise NotImplementedError

    def id_key(self) -> list[str]:
        """The expressions of the id's key."""
        raise NotImplementedError

    def id_order(self, tie: bool) -> list[str]:
        """Return the expressions to sort by id; any order will do for a `tie`, best that of an index."""
        return self.id_key()

    def id_place(self, key: Key, tie: bool, bind: Bind) -> list[str]:
        """Return the values that the expressions of `id_order` have for an id."""
        return self.operands(key, bind)

    def like(self, path: Path, pattern: list[str], bind: Bind) -> str:
        """Return the SQL that says whether a field, which is a string, matches a pattern."""
        raise NotImplementedError

    def contains(self, path: Path, key: Key, bind: Bind) -> str:
        """Return the SQL that says whether a field is a list that holds a value of this key."""
        raise NotImplementedError

    def many(self, values: list[Any]) -> Any:
        """Many texts, or many whole numbers, as one parameter."""
        raise NotImplementedError

    def among(self, number: int, values: list[Any]) -> str:
        """Return the SQL that says, behind an expression, that it is one of `many`.

        Parameters:
            number: that of the parameter.
            values: the values.
        """
        raise NotImplementedError


class SQLite(Dialect):
    """Models as JSON text in the column `body`, ids of any type in the column `id`."""

    def place(self, number: int, value: Any) -> str:
        return f":{number}"

    def given(self, values: list[Any]) -> Parameters:
        # The module sqlite3 takes a sequence for plain question marks only.
        return {str(number): value for number, value in enumerate(values, 1)}

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
        return [str(rank), bind(value) if rank in (NUMBER, TEXT) else "0"]

    def significant(self, rank: int) -> int:
        return 2 if rank in (NUMBER, TEXT) else 1

    def id_key(self) -> list[str]:
        return [f"CASE typeof(id) WHEN 'text' THEN {TEXT} ELSE {NUMBER} END", "id"]

    def id_order(self, tie: bool) -> list[str]:
        # SQLite itself has numbers before texts.
        return ["id"]

    def id_place(self, key: Key, tie: bool, bind: Bind) -> list[str]:
        return [bind(key[1])]

    def like(self, path: Path, pattern: list[str], bind: Bind) -> str:
        # GLOB, for LIKE takes upper for lower case.
        glob = "".join({"%": "*", "_": "?"}.get(part) or _globbed(part[1]) for part in pattern)
        return f"json_extract(body, {bind(self._at(path))}) GLOB {bind(glob)}"

    def contains(self, path: Path, key: Key, bind: Bind) -> str:
        at = bind(self._at(path))
        rank, value = key
        same = f"type IN ({_JSON_TYPES[rank]})"
        if rank in (NUMBER, TEXT):
            same += f" AND value = {bind(value)}"
        return f"(json_type(body, {at}) = 'array' AND EXISTS (SELECT 1 FROM json_each(body, {at}) WHERE {same}))"

    def many(self, values: list[Any]) -> Any:
        return encode(values).decode()

    def among(self, number: int, values: list[Any]) -> str:
        return f"IN (SELECT value FROM json_each(:{number}))"

    def _at(self, path: Path) -> str:
        return "$" + "".join(f'."{name}"' for name in path)


class PostgreSQL(Dialect):
    """Models as `jsonb` in the column `body`. Parameters are typed where they stand, as asyncpg needs it."""

    compares_rows = True

    def place(self, number: int, value: Any) -> str:
        # PostgreSQL spells a double as it does those that it is compared with: 1e23 as 9.999999999999999e+22.
        return f"${number}::{'text' if type(value) is str else DOUBLE if type(value) is float else 'numeric'}"

    def number(self, value: float) -> Any:
        is_whole = type(value) is int or (abs(value) < MAX_EXACT and value == int(value))
        return Decimal(int(value)) if is_whole else value

    def key(self, path: Path, bind: Bind) -> list[str]:
        return self._key(self._at(path, bind), f"left({{}}, {MAX_TEXT + 1})")

    def significant(self, rank: int) -> int:
        return {NUMBER: 2, TEXT: 3}.get(rank, 1)

    def operands(self, key: Key, bind: Bind) -> list[str]:
        rank, value = key
        return [str(rank), bind(value) if rank == NUMBER else "0", bind(value) if rank == TEXT else "''"]

    def id_key(self) -> list[str]:
        return self._key(self._at(self.id_path, self.literal), "{}")

    def like(self, path: Path, pattern: list[str], bind: Bind) -> str:
        return f"""({self._at(path, bind)} #>> '{{}}') COLLATE "C" LIKE {bind("".join(pattern))}"""

    def contains(self, path: Path, key: Key, bind: Bind) -> str:
        field = self._at(path, bind)
        rank, value = key
        if rank != NUMBER:
            wanted = f"jsonb_build_array({bind(value)})" if rank == TEXT else f"'[{_JSON_CONSTANTS[rank]}]'::jsonb"
            return f"({field} @> {wanted})"
        same = map("{} = {}".format, self._key("one", "{}"), self.operands(key, bind))
        return (
            f"(jsonb_typeof({field}) = 'array' AND EXISTS (SELECT 1 FROM jsonb_array_elements("
            f"CASE jsonb_typeof({field}) WHEN 'array' THEN {field} END) AS one WHERE {' AND '.join(same)}))"
        )

    def many(self, values: list[Any]) -> Any:
        return values

    def among(self, number: int, values: list[Any]) -> str:
        return f"= ANY(${number}::{'text' if type(values[0]) is str else 'numeric'}[])"

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
            f"(CASE {kind} WHEN 'number' THEN {_told(f'{value}::numeric')} ELSE 0 END)",
            f"""((CASE {kind} WHEN 'string' THEN {text} ELSE '' END) COLLATE "C")""",
        ]


def _told(number: str) -> str:
    """A number of JSON as those who are told of it have it, in SQL: with a point or fraction, it is a double there."""
    double = f"({number})::float8"
    return (
        f"CASE WHEN scale({number}) = 0 OR abs({number}) > {MAX_DOUBLE} THEN {number}"
        f" WHEN abs({number}) < {MIN_DOUBLE} THEN 0"
        f" WHEN abs({number}) < {MAX_EXACT:.0f} AND {double} = trunc({double}) THEN {double}::bigint::numeric"
        f" ELSE ({number})::{DOUBLE} END"
    )


def _globbed(character: str) -> str:
    return f"[{character}]" if character in "*?[" else character


@attrs.frozen
class QueryTable:
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

    def select(self, query: Query, scope: Sequence[Any] = (), default_order: str = "") -> tuple[str, Parameters]:
        """The statement that finds `query.wanted` models, and its parameters.

        Parameters:
            query: the query.
            scope: the values of the scope's columns.
            default_order: what to sort by when the query does not say.
        """
        statement = Statement(self)
        terms = statement.terms(query, scope)
        order = statement.order(query.order)
        limit = f" LIMIT {query.wanted:d}"
        if query.after is None:
            text = self._sorted(terms, order, statement.pinned, default_order)
            return text + limit + (f" OFFSET {query.offset:d}" if query.offset else ""), statement.given
        places = statement.places(query.order, query.after)
        if self.dialect.compares_rows:
            terms.append(_beyond(order, [place() for place in places]))
            return self._sorted(terms, order, statement.pinned, default_order) + limit, statement.given
        # One part for each expression: the rows like the one to go on from, but for this expression. Each part is what
        # an index gives, in order, and no part is begun before it is needed.
        branches: list[str] = []
        if all(expression in statement.pinned for expression, _ in order):
            return self._sorted(terms, order, statement.pinned, default_order) + " LIMIT 0", statement.given
        pinned = set(statement.pinned)
        same: dict[str, str] = {}
        for (expression, descending), place in zip(order, places, strict=True):
            if expression in pinned:
                continue
            beyond = "<" if descending else ">"
            # The place is a closer bound than one of the query; SQLite must not take the other for the index.
            further = {(expression, beyond), *((one, sign) for one in same for sign in "<>")}
            rest = [statement.aside[term] if statement.bounds.get(term) in further else term for term in terms]
            part = [f"{expression} {beyond} {place()}", *same.values(), *rest]
            branches.insert(0, f"SELECT * FROM ({self._sorted(part, order, pinned, default_order)}{limit})")
            same[expression] = f"{expression} = {place()}"
            pinned.add(expression)
        return " UNION ALL ".join(branches) + limit, statement.given

    def _sorted(
        self, terms: Sequence[str], order: Sequence[tuple[str, bool]], pinned: Collection[str], default_order: str
    ) -> str:
        # What is the same in all rows is left out, as not all databases see that the index has the order without it.
        sorting = [f"{key}{' DESC' if descending else ''}" for key, descending in order if key not in pinned]
        text = f"SELECT {self.columns} FROM {self.name}{_where(terms)}"
        return f"{text} ORDER BY {', '.join(sorting) or default_order}" if sorting or default_order else text

    def count(self, query: Query, scope: Sequence[Any] = ()) -> tuple[str, Parameters]:
        """The statement that counts all that match, and its parameters."""
        statement = Statement(self)
        return f"SELECT count(*) FROM {self.name}{_where(statement.terms(query, scope))}", statement.given

    def index_expressions(self) -> dict[str, str]:
        """Return the expressions of each index, by its name."""
        statement = Statement(self)
        id_columns = self.dialect.id_order(tie=True)
        return {
            "_".join(".".join(path) for path in paths): ", ".join(
                key
                for key in dict.fromkeys(
                    [*self.scope, *(key for path in paths for key in statement.key(path)), *id_columns]
                )
                if key not in self.dialect.constants
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
        if not paths or not all(FIELD_NAME.fullmatch(name) for path in paths for name in path):
            raise ConfigurationError(
                f"index={list(given)!r}: {fields!r} is not a field; name fields, or tuples of fields asked for "
                f'together: index=["done", ("list", "created")]'
            )
        indexes.append(tuple(paths))
    return indexes


class Statement:
    """A statement in the making, with its parameters.

    Parameters:
        table: the table it is about.
    """

    def __init__(self, table: QueryTable) -> None:
        self.parameters: list[Any] = []
        # Expressions that are the same in all rows that match.
        self.pinned: set[str] = set()
        # Of terms that are bounds: the expression and the sign, and the same term in words that no index is used for.
        self.bounds: dict[str, tuple[str, str]] = {}
        self.aside: dict[str, str] = {}
        self._table = table
        self._dialect = table.dialect
        self._declared = {path for paths in table.indexes for path in paths}
        self._places: dict[tuple[type, Any], str] = {}

    def bind(self, value: Any) -> str:
        """The placeholder of a value, one for all its uses."""
        known = (type(value), value)
        place = self._places.get(known)
        if place is None:
            given = value if isinstance(value, str) else self._dialect.number(value)
            self.parameters.append(given)
            place = self._places[known] = self._dialect.place(len(self.parameters), given)
        return place

    def bind_many(self, values: list[Any]) -> str:
        """Return what says, behind an expression, that it is one of many texts or whole numbers."""
        self.parameters.append(self._dialect.many(values))
        return self._dialect.among(len(self.parameters), values)

    @property
    def given(self) -> Parameters:
        """The parameters, as the database's driver takes them."""
        return self._dialect.given(self.parameters)

    def key(self, path: Path) -> list[str]:
        """The expressions of a field's key. Those of an index must be literally the same to use it."""
        if path == self._dialect.id_path:
            return self._dialect.id_key()
        return self._dialect.key(path, self._dialect.literal if path in self._declared else self.bind)

    def terms(self, query: Query, scope: Sequence[Any]) -> list[str]:
        """The conditions of a query, and those of the scope."""
        terms = [f"{column} = {self.bind(value)}" for column, value in zip(self._table.scope, scope, strict=True)]
        for condition in query.where:
            terms.append(self._term(condition))
            if isinstance(condition, Comparison) and condition.operator == "$eq":
                self.pinned.update(self.key(condition.path))
            elif isinstance(condition, Comparison) and condition.operator in _COMPARED_IN_SQL:
                self.pinned.add(self.key(condition.path)[0])
        return terms

    def order(self, order: Iterable[Order]) -> list[tuple[str, bool]]:
        """The expressions to sort by, and whether each descends."""
        return [
            (expression, one.descending)
            for one in order
            for expression in (
                self._dialect.id_order(one.tie) if one.path == self._dialect.id_path else self.key(one.path)
            )
        ]

    def places(self, order: Iterable[Order], after: Iterable[Key]) -> list[Callable[[], str]]:
        """Return functions for the sort values of the row to go on from; each call binds one, so call them all."""
        dialect = self._dialect
        places: list[Callable[[], str]] = []
        for one, key in zip(order, after, strict=True):
            values: list[Any] = []

            def hold(value: Any, values: list[Any] = values) -> str:
                values.append(value)
                return ""

            is_id = one.path == dialect.id_path
            held = dialect.id_place(key, one.tie, hold) if is_id else dialect.operands(key, hold)
            for text in held:
                places.append(partial(str, text) if text else partial(self.bind, values.pop(0)))
        return places

    def _term(self, condition: Condition) -> str:
        if isinstance(condition, Either):
            return _any(_all(map(self._term, branch)) for branch in condition.branches)
        operator, value = condition.operator, condition.value
        if operator == "$in":
            return self._among(condition)
        if operator == "$like":
            return self._like(condition)
        if operator == "$contains":
            return self._dialect.contains(condition.path, key_of(value), self.bind)
        key = self.key(condition.path)
        rank, _ = wanted = key_of(value)
        operands = self._dialect.operands(wanted, self.bind)
        equal = list(map("{} = {}".format, key, operands))
        if operator == "$eq":
            return _all(equal)
        if operator == "$ne":
            return f"NOT {_all(equal)}"
        last = self._dialect.significant(rank) - 1
        compared = f"{key[last]} {_COMPARED_IN_SQL[operator]} {operands[last]}"
        term = _all([*equal[:last], compared])
        self.bounds[term] = (key[last], _COMPARED_IN_SQL[operator][0])
        self.aside[term] = _all([*equal[:last], "+" + compared])
        return term

    def _among(self, condition: Comparison) -> str:
        if not condition.value:
            return _any(())
        dialect, key = self._dialect, self.key(condition.path)
        # By type, and whether they go into one parameter.
        groups: dict[tuple[int, bool], list[Any]] = {}
        for value in condition.value:
            rank, wanted = key_of(value)
            given = dialect.number(wanted) if rank == NUMBER else wanted
            groups.setdefault((rank, rank in (NUMBER, TEXT) and type(given) is not float), []).append(wanted)
        terms = []
        for (rank, is_exact), values in groups.items():
            last = dialect.significant(rank) - 1
            same = dialect.operands((rank, values[0]), lambda value: "")[:last]
            if is_exact and len(values) >= MANY_VALUES:
                among = self.bind_many([value if rank == TEXT else dialect.number(value) for value in values])
            else:
                operands = [dialect.operands((rank, value), self.bind)[last] for value in values]
                among = f"IN ({', '.join(operands)})"
            terms.append(_all([*map("{} = {}".format, key, same), f"{key[last]} {among}"]))
        return _any(terms)

    def _like(self, condition: Comparison) -> str:
        pattern = parts(condition.value)
        key = self.key(condition.path)
        prefix = ""
        for part in pattern:
            if part in ("%", "_"):
                break
            prefix += part[1]
        last = self._dialect.significant(TEXT) - 1
        operands = self._dialect.operands((TEXT, prefix), self.bind if prefix else self._dialect.literal)
        same, text = operands[:last], operands[last]
        terms = [*map("{} = {}".format, key, same)]
        if prefix:
            # For the index.
            terms.append(f"{key[last]} >= {text}")
            if prefix[-1] < "\ud7ff":
                terms.append(f"{key[last]} < {self.bind(prefix[:-1] + chr(ord(prefix[-1]) + 1))}")
        terms.append(self._dialect.like(condition.path, pattern, self.bind))
        return _all(terms)


def _beyond(order: Sequence[tuple[str, bool]], places: Sequence[str]) -> str:
    """Return the SQL that says whether a row comes after a place in an order."""
    keys = [key for key, _ in order]
    if len({descending for _, descending in order}) == 1:
        return f"({', '.join(keys)}) {'<' if order[0][1] else '>'} ({', '.join(places)})"
    terms = [
        _all([*map("{} = {}".format, keys[:at], places), f"{key} {'<' if descending else '>'} {places[at]}"])
        for at, (key, descending) in enumerate(order)
    ]
    # The first of the two is for the index.
    return f"{keys[0]} {'<=' if order[0][1] else '>='} {places[0]} AND {_any(terms)}"


def _where(terms: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(terms)}" if terms else ""


def _all(terms: Iterable[str]) -> str:
    return f"({' AND '.join(terms) or '1 = 1'})"


def _any(terms: Iterable[str]) -> str:
    return f"({' OR '.join(terms) or '1 = 0'})"
