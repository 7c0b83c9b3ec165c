"""Random models and queries, and the databases that answer them by the SQL made for each."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import Any

import asyncpg
from hypothesis import strategies as st

from bbio.builtin.sql import PostgreSQL, QueryTable, SQLite, read_indexes
from bbio.query import Page, Query

FIELDS = ("a", "b", "a", "b", "n.x", "n.y z", "n", "a.a", "none", "a'b; --", "é", "0", "n.0", "_id")
INDEXED = (["a", ("b", "a"), ("n.x", "n.y z")], [])

# What databases take for something else: wildcards, quotes, escapes, letters that differ in case only, characters
# beyond the first plane (which UTF-16 has before the last of it), texts that differ after the part that is indexed.
HOSTILE = (
    *("", "a", "A", "aa", "ab", "á", "z", "\uffff", "\U0001f600", "%", "_", "\\", "*", "?", "[", "]", "[a]", "^", "-"),
    *("'", '"', "''", "' OR 1=1 --", '"; DROP TABLE models; --', "?1", "$1", "{}", "null", "true", "1", "\n", "\x7f"),
    *("$.a", "body", "\\u0061", "x" * 255, "x" * 256, "x" * 257, "x" * 256 + "y"),
)
texts = st.sampled_from(HOSTILE) | st.text(st.sampled_from("aAb%_\\*?[]'\"é\U0001f600"), max_size=4)
numbers = (
    st.sampled_from([0, -0.0, 1, 1.0, 0.1, -1, 2**53 + 1, 2**53, 2**63 - 1, -(2**63), 10**20, 1e300, 5e-324, 0.3])
    | st.integers(-3, 3)
    | st.floats(-10, 10)
)
scalars = st.none() | st.booleans() | numbers | texts
lists = st.lists(scalars | st.sampled_from([[], ["a"], {"a": 1}]), max_size=3)
values = scalars | lists | st.sampled_from([[], {}, ["a"], [1], {"a": 1}, {"x": "a"}])


@st.composite
def models(draw: st.DrawFn, id_attribute: str = "_id") -> list[dict[str, Any]]:
    """Models with different ids, numbers and texts mixed, and fields of all types."""
    ids = draw(
        st.lists(st.integers(-5, 20) | texts | st.just(2**63 - 1), max_size=12, unique_by=lambda id: (type(id), id))
    )
    return [
        {
            **draw(st.dictionaries(st.sampled_from(["a", "b", "a'b; --", "é", "0"]), values, max_size=4)),
            **draw(
                st.just({})
                | st.fixed_dictionaries({"n": values | st.dictionaries(st.sampled_from(["x", "y z", "0"]), values)})
            ),
            id_attribute: id,
        }
        for id in ids
    ]


operands = scalars.filter(lambda value: not isinstance(value, str) or len(value) <= 255)
compared = (numbers | texts).filter(lambda value: not isinstance(value, str) or len(value) <= 255)
patterns = st.lists(
    st.sampled_from(
        ["%", "_", "\\%", "\\_", "\\\\", "a", "A", "[", "*", "?", "x" * 100, "é", "\ud7ff", "\uffff", "\U0001f600"]
    )
).map(lambda parts: "".join(parts)[:200].rstrip("\\"))
fields = st.sampled_from(FIELDS)
operators = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["$eq", "$ne"]), operands),
        st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), compared),
        st.tuples(st.just("$in"), st.lists(operands, max_size=4)),
        st.tuples(st.just("$contains"), operands),
        st.tuples(st.just("$like"), patterns),
    ),
    min_size=1,
    max_size=2,
).map(dict)
conditions = st.dictionaries(fields, operators | operands, min_size=1, max_size=2)
wheres = st.one_of(
    conditions,
    st.builds(
        lambda all, any: {**all, "$or": any}, conditions | st.just({}), st.lists(conditions, min_size=1, max_size=3)
    ),
    st.builds(lambda one, two, three: {"$or": [one, {**two, "$or": [two, three]}]}, conditions, conditions, conditions),
    st.just({}),
)
sorts = st.lists(st.tuples(st.sampled_from(["", "-"]), fields).map("".join), max_size=3)


@st.composite
def questions(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    """Conditions and what to sort by, often the very fields of the conditions."""
    where, sort = draw(wheres), draw(sorts)
    if draw(st.booleans()):
        sort = [draw(st.sampled_from(["", "-"])) + name for name in where if name != "$or"] + sort
    return where, sort[:4]


async def walk(query: dict[str, Any], answer: Any) -> list[Page]:
    """All pages of a query, by the cursor of each."""
    pages = [await answer(query)]
    while pages[-1].next is not None:
        pages.append(await answer({**query, "cursor": pages[-1].next}))
    return pages


class SQLiteTable:
    """Models in an SQLite table of the shape that SQLiteStore has."""

    def __init__(self, indexes: list[Any]) -> None:
        self.table = QueryTable(SQLite("_id"), "models", "body", (), read_indexes(indexes))
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("CREATE TABLE models (id NOT NULL, body TEXT NOT NULL, PRIMARY KEY (id))")
        for number, expressions in enumerate(self.table.index_expressions().values()):
            self.connection.execute(f"CREATE INDEX i{number} ON models ({expressions})")

    async def keep(self, models: list[dict[str, Any]]) -> None:
        self.connection.execute("DELETE FROM models")
        rows = [(model["_id"], json.dumps(model, ensure_ascii=False)) for model in models]
        self.connection.executemany("INSERT INTO models VALUES (?, ?)", rows)

    async def answer(self, data: dict[str, Any]) -> Page:
        query = Query.read(data, id_attribute="_id")
        total = None
        if query.count:
            ((total,),) = self.connection.execute(*self.table.count(query)).fetchall()
        found = self.connection.execute(*self.table.select(query)).fetchall()
        return query.cut([json.loads(body) for (body,) in found], total)


class PostgresTable:
    """Models in a PostgreSQL table of `jsonb`."""

    def __init__(self, indexes: list[Any], connection: asyncpg.Connection) -> None:
        self.table = QueryTable(PostgreSQL("_id"), f"models_{len(indexes)}", "body", (), read_indexes(indexes))
        self.connection = connection

    async def make(self) -> None:
        await self.connection.execute(f"CREATE TABLE {self.table.name} (body jsonb)")
        for number, expressions in enumerate(self.table.index_expressions().values()):
            await self.connection.execute(f"CREATE INDEX i{number} ON {self.table.name} ({expressions})")

    async def keep(self, models: list[dict[str, Any]]) -> None:
        await self.connection.execute(f"DELETE FROM {self.table.name}")
        rows = [(json.dumps(model, ensure_ascii=False),) for model in models]
        await self.connection.executemany(f"INSERT INTO {self.table.name} VALUES ($1)", rows)

    async def answer(self, data: dict[str, Any]) -> Page:
        query = Query.read(data, id_attribute="_id")
        total = None
        if query.count:
            text, parameters = self.table.count(query)
            total = await self.connection.fetchval(text, *parameters)
        text, parameters = self.table.select(query)
        found = await self.connection.fetch(text, *parameters)
        return query.cut([json.loads(row["body"]) for row in found], total)


class Memory:
    """Models in a list."""

    async def keep(self, models: list[dict[str, Any]]) -> None:
        self.models = models

    async def answer(self, data: dict[str, Any]) -> Page:
        return Query.read(data, id_attribute="_id").page(self.models)


class Loop:
    """An event loop for tests that hypothesis calls again and again."""

    def __init__(self, postgres_url: str) -> None:
        self._runner = asyncio.Runner()
        self.run = self._runner.run
        self._connection = self.run(asyncpg.connect(postgres_url))
        self.run(self._connection.execute("SET search_path = pg_temp"))
        self.stores: list[Any] = [Memory(), *(SQLiteTable(indexes) for indexes in INDEXED)]
        for indexes in INDEXED:
            table = PostgresTable(indexes, self._connection)
            self.run(table.make())
            self.stores.append(table)

    def close(self) -> None:
        self.run(self._connection.close())
        for store in self.stores:
            if isinstance(store, SQLiteTable):
                store.connection.close()
        self._runner.close()
