"""A PostgresStore whose backend has a model keeps each field in a column of its own."""

from __future__ import annotations

import asyncio
import datetime
import enum
import json
import uuid
from decimal import Decimal
from typing import Any, Literal

import attrs
import pytest

import bbio
from bbio.conformance.cases import refused
from bbio.errors import ConfigurationError
from bbio.protocol import decode
from tests.support.postgres import install_triggers, log, opened

pytestmark = pytest.mark.once  # what is asked is what PostgreSQL does, not a Python


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.define
class Address:
    city: str
    floor: float = 0.0


@attrs.define
class Person:
    """A field of every kind."""

    name: str
    born: datetime.date
    seen: datetime.datetime
    token: uuid.UUID
    balance: Decimal
    height: float
    visits: int
    member: bool
    color: Color
    size: Literal[1, 2]
    mixed: Literal["a", 1] | None
    address: Address
    tags: list[str]
    extra: Any
    nothing: str | None = None
    secret: str = bbio.field(private=True, default="s")


PERSON = {
    "name": "Ann 'O\" \\ \u00e9\U0001f600",
    "born": "0099-02-01",
    "seen": "2026-01-31T09:30:00.000001Z",
    "token": "0123abcd-0123-4567-89ab-0123456789ab",
    "balance": "12.50",
    "height": 1e300,
    "visits": 9_007_199_254_740_993,
    "member": True,
    "color": "red",
    "size": 2,
    "mixed": 1,
    "address": {"city": "Ulm", "floor": 1e16},
    "tags": ["a", "b"],
    "extra": {"deep": [None, 1.5, {}]},
    "nothing": None,
    "secret": "hidden",
}


@attrs.define
class Todo:
    title: str = ""
    done: bool = False
    rank: int | None = None


@attrs.define
class TodoLater:
    title: str = ""
    done: bool = False
    rank: int | None = None
    price: float = 0.5
    due: datetime.date | None = None
    labels: list[str] = attrs.field(factory=list)
    plan: dict[str, int] = attrs.Factory(lambda: {"a": 1})
    color: Color = Color.BLUE
    note: str = "it's\\new"
    limit: Decimal = Decimal("1.20")


@attrs.define
class TodoWithSecret:
    title: str = ""
    secret: str = bbio.field(private=True, default="")


async def test_every_kind_of_value_comes_back_as_it_was(database_url, psql):
    """By id, in lists and in patched records; the columns are of fitting types."""
    async with opened(database_url, Person) as models:
        ann = await models.create(PERSON)
        assert await models.read(ann["id"]) == ann == {**PERSON, "id": ann["id"]}
        assert await models.all() == [ann]
        found = await models.read(ann["id"])
        assert [type(found["height"]), type(found["address"]["floor"])] == [float, float]
        patched = (await models.write("patch", {"id": ann["id"], "visits": 1, "mixed": None})).record
        assert patched == await models.read(ann["id"]) == {**ann, "visits": 1, "mixed": None}
        assert (await models.write("delete", ann)).record == patched
        rows = await psql.fetch(
            "SELECT attname, format_type(atttypid, -1) FROM pg_attribute"
            " WHERE attrelid = 'models'::regclass AND attnum > 0"
        )
        assert dict(rows) == {
            "id": "text",
            "rev": "bigint",
            "name": "text",
            "born": "date",
            "seen": "timestamp with time zone",
            "token": "uuid",
            "balance": "numeric",
            "height": "double precision",
            "visits": "bigint",
            "member": "boolean",
            "color": "text",
            "size": "bigint",
            "mixed": "jsonb",
            "address": "jsonb",
            "tags": "jsonb",
            "extra": "jsonb",
            "nothing": "text",
            "secret": "text",
        }


async def test_numbers_of_documents_come_back_as_they_were(database_url):
    """A double stays one where it is whole, however large, and a whole number stays that."""
    numbers = [0.0, 2.0, 1e15, 1e16, -123456789012345680.0, 1e19, 1e22, 1e300, 5e-324, 10**16, -(2**63), 2**64 - 1]
    async with opened(database_url) as models:
        made = await models.create({"n": numbers})
        for told in (made["n"], (await models.read(made["id"]))["n"]):
            assert [(type(each), each) for each in told] == [(type(each), each) for each in numbers]


async def test_a_number_that_no_column_can_hold_is_refused(database_url):
    """Whole numbers have 64 bits; the others of the batch pass."""
    async with opened(database_url, Todo) as models:
        await refused(models.write("create", {"rank": 2**63}), "BadRequest")
        await models.create({"rank": 2**63 - 1})
        assert [model["rank"] for model in await models.all()] == [2**63 - 1]


async def test_what_others_write_is_told_without_private_fields(database_url, psql):
    """A trigger makes the event of the columns; settings of the writer's session make no difference."""
    async with opened(database_url, Person) as models:
        await models.create(PERSON)
        await install_triggers(database_url, Person)
        await psql.execute("SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'German'; SET extra_float_digits = 0")
        await psql.execute("UPDATE models SET secret = 'x', member = false")
        (event,) = await log(models, "*")
        expected = {**PERSON, "member": False, "id": (await models.all())[0]["id"]}
        del expected["secret"]
        assert decode(event.body) == expected
        await psql.execute("UPDATE models SET secret = 'y'")
        assert len(await log(models, "*")) == 2, "a private field is part of what a write may be in conflict with"


async def test_a_field_that_is_new_gets_a_column(database_url, psql):
    """What is there has the field's default; nothing is lost, and a field that is gone leaves its column."""
    async with opened(database_url, Todo) as models:
        milk = await models.create({"title": "milk", "done": False, "rank": 1})
        await install_triggers(database_url, Todo)
    async with opened(database_url, TodoLater) as models:
        assert await models.read(milk["id"]) == {
            **milk,
            "price": 0.5,
            "due": None,
            "labels": [],
            "plan": {"a": 1},
            "color": "blue",
            "note": "it's\\new",
            "limit": "1.20",
        }
        await psql.execute("UPDATE models SET due = '2026-01-31'")
        (event,) = await log(models, "*")
        assert decode(event.body)["due"] == "2026-01-31", "the trigger knows the new columns"
    async with opened(database_url, Todo) as models:
        assert await models.read(milk["id"]) == milk
        await models.write("patch", {**milk, "title": "oat milk"})
    async with opened(database_url, TodoLater) as models:
        assert (await models.read(milk["id"]))["due"] == "2026-01-31"


async def test_a_field_without_default_is_no_column_of_models_that_are_there(database_url):
    """An empty table takes it; else the text says what to do."""
    cls = attrs.make_class("Todo", {"title": attrs.field(type=str), "owner": attrs.field(type=str)})
    async with opened(database_url, attrs.make_class("Todo", {"title": attrs.field(type=str)})):
        pass
    async with opened(database_url, cls) as models:
        await models.create({"title": "a", "owner": "b"})
    later = attrs.make_class("Todo", {"title": attrs.field(type=str), "size": attrs.field(type=int)})
    with pytest.raises(ConfigurationError, match="holds models without size: give what is new a default"):
        async with opened(database_url, later):
            pass


async def test_a_table_that_is_there_is_used(database_url, psql):
    """It may have columns of its own and narrower types; a revision is added."""
    await psql.execute(
        "CREATE TABLE models (id varchar(64) PRIMARY KEY, title varchar(20), done boolean, rank integer,"
        " made timestamptz DEFAULT now()); INSERT INTO models (id, title, done) VALUES ('a', 'milk', false)"
    )
    async with opened(database_url, Todo) as models:
        assert await models.all() == [{"id": "a", "title": "milk", "done": False, "rank": None}]
        await models.write("patch", {"id": "a", "rank": 1})
        await refused(models.write("patch", {"id": "a", "rank": 2**40}), "BadRequest")
        await refused(models.write("create", {"title": "x" * 21}), "BadRequest")
        assert await psql.fetchval("SELECT made IS NOT NULL AND rev > 0 FROM models")


async def test_ids_may_be_numbers_or_uuids(database_url, psql):
    """Of a table that is there: new models get theirs from its sequence, or UUIDs; what can be none is not found."""
    await psql.execute(
        "CREATE TABLE models (id serial PRIMARY KEY, title text); INSERT INTO models (title) VALUES ('a')"
    )
    await install_triggers(database_url, Title)
    async with opened(database_url, Title) as models:
        made = await asyncio.gather(*(models.create({"title": f"t{n}"}) for n in range(150)))
        assert len({model["id"] for model in made}) == 150
        assert all(type(model["id"]) is int for model in made)
        patched = await models.write("patch", {"id": 1, "title": "b"})
        assert patched.record == await models.read(1) == {"id": 1, "title": "b"}
        # A route of a page has ids as texts.
        assert await models.read("1") == patched.record
        for method in ("patch", "update"):
            again = await models.write(method, {"id": "1", "title": "b"})
            assert again.record == {"id": 1, "title": "b"}
            assert decode(again.body) == {"id": 1, "title": "b"}
        for id in ("01", "1.0", " 1", str(2**31), "9" * 19, 2**31, -1, "x"):
            await refused(models.read(id), "NotFound")
        await psql.execute("DELETE FROM models WHERE id = 1")
        (event,) = await log(models, "*")
        assert decode(event.body) == {"id": 1, "title": "b"}
        req = models.request("read", {}, options={"data": {"sort": "-id", "limit": 2, "id": {"$lt": 4}}})
        assert [model["id"] for model in (await models.found(req)).models] == [3, 2]
    await psql.execute("CREATE TABLE others (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text)")
    async with opened(database_url, Title, table="others") as models:
        milk = await models.create({"title": "milk"})
        assert str(uuid.UUID(milk["id"])) == milk["id"]
        assert await models.read(milk["id"]) == milk
        for id in (milk["id"].replace("-", ""), 1, "x"):
            await refused(models.write("delete", {"id": id}), "NotFound")
        assert await models.read(milk["id"].upper()) == milk
        assert (await models.write("patch", {"id": milk["id"].upper(), "title": "milk"})).record == milk
        req = models.request("read", {}, options={"data": {"id": {"$like": milk["id"][:9] + "%"}, "sort": "id"}})
        assert (await models.found(req)).models == [milk]
        await models.write("delete", milk)
    await psql.execute("CREATE TABLE unnumbered (id integer PRIMARY KEY, title text)")
    with pytest.raises(ConfigurationError, match="GENERATED BY DEFAULT AS IDENTITY"):
        async with opened(database_url, Title, table="unnumbered"):
            pass


async def test_a_column_that_does_not_fit_is_told(database_url, psql):
    """The text says what would."""
    await psql.execute("CREATE TABLE models (id text PRIMARY KEY, title text, done integer, rank bigint)")
    with pytest.raises(ConfigurationError, match=r"'done' .* is integer.*declare it as int"):
        async with opened(database_url, Todo):
            pass
    for name in ("rev", "x" * 64):
        with pytest.raises(ConfigurationError, match="rename the field"):
            async with opened(database_url, attrs.make_class("Todo", {name: attrs.field(type=str)})):
                pass


async def test_a_table_of_documents_stays_one(database_url, psql):
    """A backend that gets a model later finds what it kept without one; private fields are not told."""
    async with opened(database_url) as models:
        milk = await models.create({"title": "milk", "secret": "x"})
    async with opened(database_url, TodoWithSecret) as models:
        assert await models.read(milk["id"]) == milk
        await install_triggers(database_url, TodoWithSecret)
        await psql.execute("""UPDATE models SET body = body || '{"title": "oat milk"}'""")
        (event,) = await log(models, "*")
        assert decode(event.body) == {"id": milk["id"], "title": "oat milk"}


@attrs.define
class Title:
    title: str = ""


async def plan(psql, models, data):
    """The indexes that PostgreSQL uses for a query, and what it finds."""
    req = models.request("read", {}, options={"data": data})
    statement, values = models.store._queries.select(models.store.query(req), (), "id")
    await psql.execute("SET enable_seqscan = off")  # as in a larger table
    rows = await psql.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *values)
    return json.dumps(json.loads(rows)), (await models.found(req)).models


@pytest.mark.parametrize("model", [None, Todo])
async def test_queries_use_the_indexes_that_are_declared(database_url, psql, model):
    """Of documents and of columns; pages by the id use the one that is always there. Others are dropped."""
    count = "SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'bbio_%' AND tablename = 'models'"
    async with opened(database_url, model, index=["done", ("title", "rank")]) as models:
        await asyncio.gather(
            *(models.create({"title": f"t{n % 100}", "done": n % 50 == 0, "rank": n}) for n in range(1000))
        )
        await psql.execute("ANALYZE models")
        assert await psql.fetchval(count) == 3
        for data, found in (
            ({"done": True}, 20),
            ({"title": "t1", "rank": {"$gte": 500}}, 5),
            ({"title": {"$like": "t1%"}}, 110),
            ({"sort": "id", "limit": 5}, 5),
            ({"sort": ["title", "rank"], "limit": 2}, 2),
        ):
            explained, answered = await plan(psql, models, data)
            assert len(answered) == found
            assert "bbio_" in explained, data
    async with opened(database_url, model, index=["done"]):
        assert await psql.fetchval(count) == 2


@attrs.define
class Thing:
    text: str | None = None
    flag: bool | None = None
    number: float | None = None
    count: int | None = None
    price: Decimal | None = None
    day: datetime.date | None = None
    time: datetime.datetime | None = None
    token: uuid.UUID | None = None
    inner: dict[str, Any] | None = None
    tags: list[Any] | None = None


VALUES: dict[str, list[Any]] = {
    "text": ["", "a", "ab", "b%_", "\u00e9", "x" * 300],
    "flag": [True, False],
    "number": [0.0, -1.5, 0.1, 1e300, 3.0],
    "count": [0, 3, -7, 2**53 + 1],
    "price": ["1.50", "12.00", "2"],
    "day": ["2026-01-31", "0099-12-01"],
    "time": ["2026-01-31T09:30:00.000001Z", "2025-12-31T23:59:59.000000Z"],
    "token": ["0123abcd-0123-4567-89ab-0123456789ab", "ffffffff-0123-4567-89ab-0123456789ab"],
    "inner": [{}, {"x": 1}, {"x": None}, {"x": "a", "y": [1]}],
    "tags": [[], ["a", 0.1], [3, True, None], ["1.50", 1e300, -1.5], [["a"]]],
}
PATHS = [*VALUES, "inner.x", "inner.y", "text.x", "id"]
OPERANDS = ["a", "ab", 0, 3, 0.1, -1.5, 1e300, True, False, None, "1.50", "2026-01-31", "x" * 255, VALUES["token"][0]]


async def test_queries_of_columns_find_what_the_same_query_finds_in_memory(database_url):
    """Every operator with every kind of column and value, sorted by each, page by page."""
    async with opened(database_url, Thing, upsert=True) as models:
        await asyncio.gather(
            models.write("update", {"id": 5, **dict.fromkeys(VALUES)}),
            models.write("update", {"id": "5", **dict.fromkeys(VALUES)}),
            *(
                models.write("update", {"id": f"{name}{n}", **dict.fromkeys(VALUES), name: value})
                for name, values in VALUES.items()
                for n, value in enumerate(values)
            ),
        )
        everything = await models.all()

        async def same(data):
            req = models.request("read", {}, options={"data": data})
            answer, expected = await models.found(req), models.store.query(req).page(everything)
            found = answer.models
            if "sort" not in data:
                found, expected = (
                    sorted(found, key=str),
                    attrs.evolve(expected, models=sorted(expected.models, key=str)),
                )
            assert found == expected.models, data
            assert answer.page["next"] == expected.next, data
            assert answer.revs.keys() == {model["id"] for model in found}
            return expected.next

        operators = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]
        conditions = [{path: {"$in": OPERANDS}} for path in PATHS]
        conditions += [{path: {"$contains": value}} for path in PATHS for value in OPERANDS]
        conditions += [{path: {"$like": pattern}} for path in PATHS for pattern in ("a%", "%b\\%_", "%", "_", "2026%")]
        for path in PATHS:
            conditions += [
                {path: {operator: value}}
                for operator in operators
                for value in OPERANDS
                if operator in ("$eq", "$ne") or type(value) not in (bool, type(None))
            ]
        for n, condition in enumerate(conditions):
            # Each alone would be slow; of all together each must hold in its turn.
            if n % 7 == 0:
                await same({**condition, "count": True})
            else:
                await same(condition)
        for path in PATHS:
            for sort in (path, f"-{path}"):
                cursor = None
                while True:
                    cursor = await same({"sort": sort, "limit": 7, **({"cursor": cursor} if cursor else {})})
                    if cursor is None:
                        break
