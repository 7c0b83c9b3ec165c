"""In a table of another program, what is compared is what was told: of numbers of any precision, texts, times."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import asyncpg
import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bbio.builtin.postgres.beside import Beside
from bbio.builtin.postgres.existing import ExistingTable, adapted
from bbio.builtin.postgres.queries import queries_of
from bbio.builtin.postgres.tables import MIGRATIONS, Table
from bbio.model.schema import Schema
from bbio.protocol import decode
from bbio.query import Page, Query
from bbio.query.ordering import MAX_TEXT
from tests.properties.queries import Loop, texts
from tests.support.examples import examples

pytestmark = pytest.mark.once  # what is asked is what PostgreSQL finds, not a Python

# Each column, with its type and the field that it is read as.
COLUMNS: dict[str, tuple[str, Any]] = {
    "single": ("real", float),
    "double": ("double precision", float),
    "price": ("numeric(30, 10)", float),
    "exact": ("numeric", Decimal),
    "any": ("jsonb", dict[str, Any]),
    "text": ('text COLLATE "und-x-icu"', str),
    "fixed": ("char(6)", str),
    "at": ("timestamp(3)", datetime.datetime),
}
FIELDS = [*(name for name in COLUMNS if name != "any"), "any.x"]
singles = st.sampled_from([0.1, 10.1, 16777217.0, 3.4e38, 1e-44]) | st.floats(
    width=32, allow_nan=False, allow_infinity=False
)
doubles = st.sampled_from([1e23, 0.1, 5e-324, 1.7e308, 2.0**60]) | st.floats(allow_nan=False, allow_infinity=False)
# As JSON may have them: with more digits than a double, or with a point though they are whole.
SPELLED = """
    0.1000000000000000055 0.33333333333333333333 1e23 99999999999999991611392.0 1e-400 1.0 1 -0.0 1152921504606846977.0
    1152921504606846976 18446744073709551617 100000000000000000000001.5
"""
spelled = st.sampled_from(SPELLED.split()) | doubles.map(repr)
# Told whole, and compared up to a length.
LONG = [256 * "x" + end for end in ("b", "a", "", "ab")]
short = texts.filter(lambda text: len(text) < 6 and "\0" not in text)
decimals = st.decimals(-(10**9), 10**9, allow_nan=False, allow_infinity=False, places=10).map(str)
rows = st.lists(
    st.tuples(
        st.none() | singles,
        st.none() | doubles,
        st.none() | decimals,
        st.none() | decimals,
        st.none() | spelled.map('{{"x": {}}}'.format),
        st.none() | short | st.sampled_from(LONG),
        st.none() | short,
        st.none() | st.datetimes(datetime.datetime(1, 2, 1), datetime.datetime(9999, 1, 1)),
    ),
    max_size=7,
)


class Existing:
    """The table.

    Parameters:
        connection: a connection, in whose schema it is made.
        kind: where its revisions are: in it or beside it.
    """

    def __init__(self, connection: asyncpg.Connection, kind: type[Table]) -> None:
        self.connection = connection
        self.kind = kind
        self.name = f"models_{kind.__name__.lower()}"

    async def make(self) -> None:
        columns = ", ".join(f'"{name}" {type}' for name, (type, _) in COLUMNS.items())
        await self.connection.execute(f"CREATE TABLE {self.name} (id serial PRIMARY KEY, {columns})")
        cls = attrs.make_class(
            "M", {name: attrs.field(type=type | None, default=None) for name, (_, type) in COLUMNS.items()}
        )
        self.schema = Schema(cls)
        table = self.kind.of(self.name, "id", False, self.schema)
        found = await ExistingTable.look(self.connection, table)
        assert found is not None
        table, statements = adapted(table, found, "Asia/Kolkata")
        for statement in statements:
            await self.connection.execute(statement)
        self.queries = queries_of(table, [(tuple(name.split(".")),) for name in FIELDS])
        for expressions in self.queries.index_expressions().values():
            await self.connection.execute(f"CREATE INDEX ON {self.name} ({expressions})")

    async def keep(self, rows: list[Any]) -> None:
        await self.connection.execute(f"TRUNCATE {self.name}, bbio_revs RESTART IDENTITY")
        places = ", ".join(
            f"${n}::{'float8' if type in ('real', 'double precision') else 'timestamp' if name == 'at' else 'text'}"
            + f"::{type.partition(' COLLATE')[0]}"
            for n, (name, (type, _)) in enumerate(COLUMNS.items(), 1)
        )
        names = ", ".join(f'"{name}"' for name in COLUMNS)
        await self.connection.executemany(f"INSERT INTO {self.name} ({names}) VALUES ({places})", rows)
        # Some have been written by bbio before.
        await self.connection.execute(
            f"INSERT INTO bbio_revs (backend, channel, id, rev) SELECT 0, '', id::text, 10 * id FROM {self.name}"
            " WHERE id % 2 = 0"
            if self.kind is Beside
            else f"UPDATE {self.name} SET rev = 10 * id WHERE id % 2 = 0"
        )

    async def answer(self, data: dict[str, Any]) -> Page:
        query = Query.read(data, fields=self.schema.fields, stored=self.schema.stored)
        text, parameters = self.queries.select(query)
        found = [(rev, decode(body)) for rev, body in await self.connection.fetch(text, *parameters)]
        assert all(rev == (0 if model["id"] % 2 else 10 * model["id"]) for rev, model in found)
        return query.cut([model for _, model in found])


@pytest.fixture(scope="module")
def loop(postgres_server: str) -> Iterator[Any]:
    loop = Loop(postgres_server)
    loop.run(loop._connection.execute("CREATE SCHEMA existing; SET search_path = existing"))
    for statement in MIGRATIONS:
        loop.run(loop._connection.execute(statement))
    yield loop
    loop.run(loop._connection.execute("DROP SCHEMA existing CASCADE"))
    loop.close()


@pytest.fixture(scope="module", params=[Table, Beside], ids=["column", "beside"])
def existing(request: pytest.FixtureRequest, loop: Any) -> Existing:
    existing = Existing(loop._connection, request.param)
    loop.run(existing.make())
    return existing


NOTHING = (None,) * len(COLUMNS)


@settings(deadline=None, max_examples=examples(30))
@given(
    rows, st.lists(st.tuples(st.sampled_from(["", "-"]), st.sampled_from(FIELDS)).map("".join), min_size=1, max_size=2)
)
@example([(10.1, 1e23, "0.1", "0.10", '{"x": 0.33333333333333333333}', "a", "b ", None)] * 3, ["-any.x", "single"])
@example(
    [
        (*NOTHING[:4], f'{{"x": {x}}}', *NOTHING[5:])
        for x in ("99999999999999991611392.0", "1152921504606846976", "1e23", "1152921504606846977.0")
    ],
    ["any.x"],
)
@example([(None, None, "123456789.1234567891", *NOTHING[3:])] * 2 + [NOTHING], ["price"])
@example([(*NOTHING[:5], text, *NOTHING[6:]) for text in (*LONG, "y")], ["-text"])
@example([(*NOTHING[:5], text, *NOTHING[6:]) for text in (*LONG, "y")], ["text", "-id"])
def test_what_is_found_is_what_was_told(loop, existing, rows, sort):
    """Equality and ranges by each value that was told, sorts, and pages, which end: as in memory with what was told."""

    async def compare() -> None:
        await existing.keep(rows)
        told = (await existing.answer({})).models
        assert len(told) == len(rows)

        def expected(data: dict[str, Any]) -> list[Any]:
            query = Query.read(data, fields=existing.schema.fields, stored=existing.schema.stored)
            return [model["id"] for model in query.page(told).models]

        for model in told[:2]:
            for field in FIELDS:
                value = (model["any"] or {}).get("x") if field == "any.x" else model[field]
                if type(value) is str and len(value) > MAX_TEXT:
                    continue  # nobody may ask for so much
                for operator in ("$eq", "$ne") if value is None else ("$eq", "$gt", "$lte", "$in"):
                    data = {field: {operator: [value] if operator == "$in" else value}, "sort": "id"}
                    found = [each["id"] for each in (await existing.answer(data)).models]
                    assert found == expected(data), (data, json.dumps(told))
        pages = []
        async for page in steps(existing, {"sort": sort, "limit": 2}):
            pages += [each["id"] for each in page.models]
            assert len(pages) <= len(rows), "a cursor that does not end"
        assert pages == expected({"sort": sort}), (sort, json.dumps(told))

    loop.run(compare())


async def steps(existing: Existing, data: dict[str, Any]) -> Any:
    page = await existing.answer(data)
    yield page
    while page.next is not None:
        page = await existing.answer({**data, "cursor": page.next})
        yield page
