"""Queries: what is read of `options.data`, its limits and cursors, and the plans of the SQL that is made of it."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import time

import asyncpg
import attrs
import pytest

import bbio
from bbio import Backend, BadRequest, ConfigurationError, Request
from bbio.builtin import MemoryStore
from bbio.builtin.sql import Dialect, PostgreSQL, QueryTable, SQLite, read_indexes
from bbio.query.ordering import Like, parts
from bbio.query.query import Query, QueryLimits, _digest


@attrs.define
class Place:
    city: str = ""


@attrs.define
class User:
    id: str | None = None
    name: str = ""
    at: Place = attrs.field(factory=Place)
    password: str = bbio.field(private=True, default="")
    notes: str = bbio.field(roles=("support",), default="")


SMALL = QueryLimits(models=3, limit=2, offset=5, conditions=3, values=4, depth=1, sort=1)


def found(data, models, **options):
    return [model["id"] for model in Query.read(data, **options).page(models).models]


@pytest.mark.parametrize("data", [None, 1, "a", [], [{}], True])
def test_a_query_is_an_object(data):
    """Anything else is refused."""
    with pytest.raises(BadRequest, match=r"options\.data must be an object"):
        Query.read(data)


def test_words_are_reserved_unless_they_are_compared():
    """`limit` is a word and `{limit: {$eq: 5}}` a comparison; `$limit` is always a word; null says nothing."""
    models = [{"id": 1, "limit": 5, "sort": "a"}, {"id": 2, "limit": 6, "sort": "b"}]
    assert found({"limit": 1}, models) == [1]
    assert found({"limit": {"$eq": 6}}, models) == [2]
    assert found({"limit": {"$gt": 1}, "sort": {"$like": "%"}, "$limit": 1, "$sort": "-sort"}, models) == [2]
    assert found({"limit": None, "sort": None, "offset": None, "cursor": None, "count": None}, models) == [1, 2]
    assert found({"$or": [{"limit": 5}]}, models) == [1]
    for data in ({"limit": 1, "$limit": 1}, {"$limit": {"$eq": 5}}, {"$sort": {}}, {"$where": 1}):
        with pytest.raises(BadRequest):
            Query.read(data)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"limit": 3}, "limit is a whole number up to 2"),
        ({"offset": 6}, "offset is a whole number up to 5"),
        ({"sort": ["a", "b"]}, "a list of up to 1"),
        ({"a": 1, "b": 1, "c": {"$gt": 1, "$lt": 2}}, "3 conditions"),
        ({"$or": [{"a": 1}, {"a": 2}]}, "3 conditions"),
        ({"a": {"$in": [1, 2, 3, 4, 5]}}, "4 values"),
        ({"$or": [{"$or": [{}]}]}, "more than 1 deep"),
        ({"a": {"$like": "\\"}}, "cannot end with a single backslash"),
        ({"a": 10**400}, "compared with"),
        ({"a": float("nan")}, "compared with"),
        ({"a": "\ud800"}, "at most 255"),
        ({"a": "\0"}, "at most 255"),
        ({"a": {"b": 1}}, r"say a\.name"),
        ({"a" + ".b" * 8: 1}, "not the name of a field"),
        ({"$x" * 200: 1}, "not part of a query"),
    ],
)
def test_limits(data, text):
    """Everything that a query can be made large by has a limit, which the text names."""
    with pytest.raises(BadRequest, match=text) as caught:
        Query.read(data, limits=SMALL)
    assert len(caught.value.message) < 300


def test_what_asks_for_a_part_is_paged():
    """That is, by a limit, an offset or a cursor; sorted by the id also where the client does not say so."""
    cursor = Query.read({"limit": 1}).page([{"id": 1}, {"id": 2}]).next
    for data, paged in (({}, False), ({"a": 1, "sort": "a"}, False), ({"limit": 0}, True), ({"offset": 1}, True)):
        assert Query.read(data).is_paged is paged
    assert Query.read({"cursor": cursor}).is_paged
    assert found({"offset": 1}, [{"id": 2}, {"id": 1}]) == [2]
    assert found({"sort": ["-a", "a"]}, [{"id": 1, "a": 1}, {"id": 2, "a": 2}, {"id": 3, "a": 2}]) == [3, 2, 1]
    assert found({"sort": ["id", "a"]}, [{"id": 2, "a": 1}, {"id": 1, "a": 2}]) == [1, 2]


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(QueryLimits)])
def test_a_limit_is_greater_than_0(name):
    """Nothing can be forbidden by accident."""
    with pytest.raises(ConfigurationError, match=name):
        QueryLimits(**{name: 0})


def test_only_fields_that_are_seen_can_be_named():
    """With a model its public fields, for the client's roles; the text names these and no others."""

    class Users(Backend):
        model = User
        store = MemoryStore()

    backend = Users()
    store = MemoryStore().open(backend, type("Nobody", (), {"event": None, "doubt": None})())

    def read(data, user=None):
        return store.query(Request("read", {}, {"data": data}, backend, user=user))

    for data in ({"name": "a"}, {"at.city": "a"}, {"id": 1}, {"sort": ["-name", "id"]}, {"$or": [{"name": 1}]}):
        assert read(data) is not None
    assert read({"notes": "a"}, {"roles": ["support"]}) is not None
    assert read(None) is None
    for name in ("password", "notes", "nothing", "password.x", "naMe"):
        for data in ({name: "a"}, {"sort": "-" + name}, {"$or": [{name: {"$gt": "a"}}]}):
            with pytest.raises(BadRequest, match=r"there is no field .*; there are at, id, name$"):
                read(data)


def test_a_cursor_that_a_client_made_finds_no_more_than_its_query():
    """Who knows how a cursor is made can go on from any place, but only from what is one."""
    query = Query.read({"sort": "a", "limit": 1})

    def forged(places):
        text = json.dumps(places).encode()
        return base64.urlsafe_b64encode(_digest(query.identity, text) + text).decode().rstrip("=")

    models = [{"id": 1, "a": 1}, {"id": 2, "a": 2}, {"id": 3, "a": "x"}]
    query = Query.read({"id": 1, "limit": 1})
    beyond = Query.read({"id": 1, "limit": 1, "cursor": forged([[4, 0]])})
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE models (id, body)")
        connection.execute("INSERT INTO models VALUES (1, '{}')")
        table = QueryTable(SQLite(), "models", "id")
        assert connection.execute(*table.select(query)).fetchall() == [(1,)]
        assert connection.execute(*table.select(beyond)).fetchall() == []
        # What is the same in all rows may look different in the place: 1.0 is 1.
        connection.execute("""INSERT INTO models VALUES (2, '{"a": 1.0}'), (3, '{"a": 1}')""")
        query = Query.read({"a": 1, "sort": "a", "limit": 1})
        for place, expected in (([4, 1.0], [(3,)]), ([4, 9.5], [(3,)]), ([5, "x"], [(3,)])):
            beyond = Query.read({"a": 1, "sort": "a", "limit": 1, "cursor": forged([place, [4, 2]])})
            assert connection.execute(*table.select(beyond)).fetchall() == expected
    query = Query.read({"sort": "a", "limit": 1})
    assert found({"sort": "a", "cursor": forged([[4, 1], [4, 1]]), "limit": 1}, models) == [2]
    assert found({"sort": "a", "cursor": forged([[5, "a"], [4, 1]]), "limit": 1}, models) == [3]
    assert found({"sort": "a", "cursor": forged([[0, 0], [4, 1]]), "limit": 1}, models) == [1]
    for places in (
        [],
        [[4, 1]],
        [[4, 1], [4, 1], [4, 1]],
        [[4, "1"], [4, 1]],
        [[5, 1], [4, 1]],
        [[5, "\0"], [4, 1]],
        [[7, 0], [4, 1]],
        [[-1, 0], [4, 1]],
        [[0, 1], [4, 1]],
        [[0, 0.0], [4, 1]],
        [[4, 10**400], [4, 1]],
        [[4, True], [4, 1]],
        [[4, None], [4, 1]],
        {},
        "x",
    ):
        with pytest.raises(BadRequest, match="cursor"):
            Query.read({"sort": "a", "cursor": forged(places), "limit": 1})


def test_like():
    """`%` is for any characters, `_` for one, also for a line's end; a backslash takes what follows as it is."""
    assert parts("a%\\%\\a_\\\\") == ["\\a", "%", "\\%", "\\a", "_", "\\\\"]
    for pattern, text, expected in [
        ("", "", True),
        ("", "a", False),
        ("a_c", "a\nc", True),
        ("a%c", "a\n\nc", True),
        ("a%c", "ac\n", False),
        ("%b%b%", "abab", True),
        ("%b%b%", "ab", False),
        ("a%a", "a", False),
        ("%a_", "aab", True),
        ("_", "\U0001f600", True),
        (".*", "ab", False),
        ("a", 1, False),
    ]:
        assert Like(pattern)(text) is expected, (pattern, text)


def test_no_pattern_takes_long():
    """A pattern full of wildcards costs no more than its length times that of the text."""
    begun = time.perf_counter()
    assert not Like("%a" * 100 + "b")("a" * 20_000)
    assert not Like("%_a" * 80 + "b")("a" * 20_000)
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize("index", [[""], ["a..b"], ["$a"], ['a"b'], [()], [("a", "")], ["a\\b"]])
def test_an_index_is_on_fields(index):
    """What is no field is refused when the store is declared."""
    with pytest.raises(ConfigurationError, match="name fields"):
        read_indexes(index)


def test_a_dialect_says_everything():
    """What a dialect leaves out is an error, not an answer."""
    dialect = Dialect()
    for call in (
        lambda: dialect.place(1, 1),
        lambda: dialect.number(1),
        lambda: dialect.key(("a",), str),
        lambda: dialect.operands((1, 0), str),
        lambda: dialect.significant(1),
        lambda: dialect.id_order(True),
        lambda: dialect.like(("a",), [], str),
        lambda: dialect.contains(("a",), (1, 0), str),
        lambda: dialect.many([1, 2]),
        lambda: dialect.among(1, [1, 2]),
    ):
        with pytest.raises(NotImplementedError):
            call()


INDEXES = read_indexes(["rank", ("done", "created"), "title", "it's"])
ROWS = 50_000
PAGE = {"limit": 20}

# Queries, each with what its plan must use; the cursor is that of the first page.
PLANNED = [
    ({"rank": 5}, "rank"),
    ({"rank": {"$gte": 990, "$lt": 995}}, "rank"),
    ({"rank": {"$in": [1, 2, "x"]}}, "rank"),
    ({"sort": "rank"}, "rank"),
    ({"sort": "-rank"}, "rank"),
    ({"done": True, "sort": "-created"}, "done_created"),
    ({"done": True, "created": {"$gt": 10}, "sort": "created"}, "done_created"),
    ({"title": {"$like": "title 77%"}}, "title"),
    ({"it's": 1}, "it's"),
]


def models():
    for n in range(ROWS):
        yield {
            "id": f"m{n:06}",
            "title": f"title {n}",
            "done": n % 10 == 0,
            "created": n * 7919 % ROWS,
            "rank": n % 1000,
        }


@pytest.fixture(scope="module")
def sqlite():
    """A table of 50,000 models."""
    table = QueryTable(SQLite(), "models", "body", (), INDEXES)
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE models (id NOT NULL, body TEXT NOT NULL, PRIMARY KEY (id))")
    connection.executemany("INSERT INTO models VALUES (?, ?)", [(model["id"], json.dumps(model)) for model in models()])
    for name, expressions in table.index_expressions().items():
        connection.execute(f'CREATE INDEX "{name}" ON models ({expressions})')
    yield table, connection
    connection.close()


@pytest.mark.parametrize(("data", "index"), PLANNED)
def test_sqlite_follows_the_index(sqlite, data, index):
    """Pages, the first and those by cursor, and counts take few steps, whatever the size of the table."""
    table, connection = sqlite

    def run(statement, parameters):
        plan = "\n".join(row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, parameters))
        assert f"INDEX {index} " in plan + " " or f"INDEX {index}\n" in plan + "\n", plan
        assert "SCAN models\n" not in plan + "\n", plan
        steps = 0

        def count():
            nonlocal steps
            steps += 1

        connection.set_progress_handler(count, 1_000)
        rows = connection.execute(statement, parameters).fetchall()
        connection.set_progress_handler(None, 0)
        return rows, steps

    query = Query.read({**data, **PAGE})
    rows, steps = run(*table.select(query))
    assert steps < 100
    page = query.cut([json.loads(body) for (body,) in rows])
    if page.next is not None and "sort" in data:
        rows, steps = run(*table.select(Query.read({**data, **PAGE, "cursor": page.next})))
        assert len(rows) == 21
        assert steps < 10
    if set(data) != {"sort"}:
        _, steps = run(*table.count(query))
        assert steps < 200


async def test_postgresql_follows_the_index(database_url):
    """The same in PostgreSQL, where parameters become constants before a plan is made."""
    table = QueryTable(PostgreSQL(), "models", "body", (), INDEXES)
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE models (body jsonb)")
    await connection.copy_records_to_table("models", records=[(json.dumps(model),) for model in models()])
    for name, expressions in table.index_expressions().items():
        await connection.execute(f'CREATE INDEX "{name}" ON models ({expressions})')
    await connection.execute("ANALYZE models")
    for data, index in PLANNED:
        query = Query.read({**data, **PAGE})
        statement, parameters = table.select(query)
        plans = [await connection.fetch("EXPLAIN " + statement, *parameters)]
        # Many times, as a plan for all parameters would be tried then.
        for _ in range(7):
            rows = await connection.fetch(statement, *parameters)
        page = query.cut([json.loads(body) for (body,) in rows])
        if page.next is not None and "sort" in data:
            statement, parameters = table.select(Query.read({**data, **PAGE, "cursor": page.next}))
            plans.append(await connection.fetch("EXPLAIN " + statement, *parameters))
        for plan in plans:
            text = "\n".join(row[0] for row in plan)
            assert f"on {index}" in text.replace("using ", "on ").replace('"', ""), text
            assert "Seq Scan" not in text, text
    await connection.close()
