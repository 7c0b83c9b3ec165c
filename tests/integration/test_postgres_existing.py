"""A PostgresStore over tables that other programs have made: their keys, types, names and sequences."""

from __future__ import annotations

import asyncio
import datetime
import re
import uuid
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import attrs
import pytest

import bbio
from bbio import App, Backend
from bbio.builtin import PostgresStore
from bbio.builtin.postgres import broker
from bbio.builtin.postgres import database as postgres_database
from bbio.builtin.postgres.tables import quote
from bbio.client import connect
from bbio.conformance.cases import refused
from bbio.errors import ConfigurationError
from bbio.protocol import decode
from bbio.query.query import WORDS
from tests.support.postgres import Relay, install_triggers, log, opened, processes, remove_triggers
from tests.support.servers import eventually

pytestmark = pytest.mark.once  # what is asked is what PostgreSQL does, not a Python

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "existing-database.md"

# Shapes that such applications have, in short.
SHOP = """
CREATE TYPE rating AS ENUM ('G', 'PG', 'R');
CREATE DOMAIN year AS integer CHECK (VALUE BETWEEN 1901 AND 2155);
CREATE SEQUENCE film_numbers;
CREATE TABLE film (film_id integer PRIMARY KEY DEFAULT nextval('film_numbers'), title varchar(255) NOT NULL,
    made year, rate numeric(4,2) NOT NULL DEFAULT 4.99, rating rating DEFAULT 'G', code char(4),
    changed timestamp NOT NULL DEFAULT now(), features text[], points integer[], words tsvector,
    twice integer GENERATED ALWAYS AS (film_id * 2) STORED);
INSERT INTO film (title, made, code, features) VALUES ('Anna', 1999, 'ab', '{b,a}');
"""


@attrs.define
class Film:
    title: str
    made: int | None = None
    rate: Decimal = Decimal("4.99")
    rating: str | None = "G"
    code: str | None = None
    changed: datetime.datetime | None = None
    features: list[str] | None = None
    points: list[int] | None = None


@attrs.define
class Title:
    title: str = ""


def model(**fields: Any) -> type:
    """A class with optional fields of these types."""
    return attrs.make_class("M", {name: attrs.field(type=type | None, default=None) for name, type in fields.items()})


async def found(models, **data):
    return [each["id" if "id" in each else "film_id"] for each in await ask(models, data)]


async def ask(models, data):
    return (await models.found(models.request("read", {}, options={"data": data}))).models


async def refusal(database_url, model, table="models", **options):
    """What the start says."""
    with pytest.raises(ConfigurationError) as told:
        async with opened(database_url, model, table=table, **options):
            pass
    return str(told.value)


async def test_a_pooler_that_keeps_no_session_is_refused(database_url, psql, monkeypatch):
    """As PgBouncer in transaction mode: what is said to a session that is idle is lost, or prepared ones meet."""
    monkeypatch.setattr(broker, "HEARING_SECONDS", 0.5)
    async with Relay(database_url) as relay:
        relay.on_answer = lambda data: data[:1] != b"A"
        assert "PgBouncer in transaction mode is between" in await refusal(relay.dsn, Title)
        relay.on_answer = lambda data: True
        async with opened(relay.dsn, Title):
            pass
    await psql.execute("PREPARE one AS SELECT 1")
    for statement in ("PREPARE one AS SELECT 1", "EXECUTE two"):
        with pytest.raises(asyncpg.PostgresError) as told:
            await psql.execute(statement)
        explained = postgres_database.Database(database_url, 1, 5.0).explain(told.value)
        assert "PgBouncer in transaction mode is between" in explained


async def test_an_old_postgresql_is_refused(database_url, monkeypatch):
    """With the version that it has, and the one that it needs."""
    monkeypatch.setattr(postgres_database, "OLDEST", 99)
    told = await refusal(database_url, Title)
    assert told.endswith("and bbio needs 99 or newer: update PostgreSQL")


async def test_a_table_of_films(database_url, psql):
    """A key of another name, a sequence that it does not own, an enum, a domain, arrays, a time without a zone."""
    await psql.execute(SHOP)
    options = {"table": "film", "id_attribute": "film_id", "zone": "UTC"}
    async with opened(database_url, Film, **options) as models:
        (anna,) = await models.all()
        assert anna["film_id"] == 1
        assert (anna["made"], anna["code"], anna["features"], anna["rating"]) == (1999, "ab", ["b", "a"], "G")
        made = await models.create(
            {
                "title": "Bo",
                "rate": "5.255",
                "rating": "R",
                "code": "x",
                "features": [],
                "points": [3, 1],
                "changed": "2026-01-31T09:30:00Z",
            }
        )
        assert made["film_id"] == 2
        assert await models.read(2) == await models.read("2") == made
        assert made["changed"] == "2026-01-31T09:30:00.000000Z"
        assert (made["rate"], made["features"], made["points"], made["made"]) == ("5.26", [], [3, 1], None)
        kept = await psql.fetchrow(
            "SELECT rating::text, code, changed, features, points, twice FROM film WHERE film_id = 2"
        )
        assert tuple(kept) == ("R", "x   ", datetime.datetime(2026, 1, 31, 9, 30), [], [3, 1], 4)
        patched = await models.write("patch", {"film_id": 2, "features": ["q"], "made": 2000})
        assert patched.record == await models.read(2) == {**made, "features": ["q"], "made": 2000}
        for wrong in ({"rating": "X"}, {"made": 1900}, {"code": "12345"}):
            with pytest.raises(bbio.SyncError):
                await models.write("patch", {"film_id": 2, **wrong})
        assert await found(models, code="x") == await found(models, rating="R") == [2]
        assert await found(models, changed="2026-01-31T09:30:00.000000Z") == [2]
        assert await found(models, code={"$like": "a%"}) == [1]
        assert await found(models, features=None) == []
        assert await found(models, sort="-film_id") == [2, 1]
        await install_triggers(database_url, Film, **options)
        await psql.execute(
            "SET TimeZone = 'Asia/Kolkata'; UPDATE film SET rating = 'PG', points = '{7}' WHERE film_id = 2"
        )
        (event,) = await log(models, "*")
        assert decode(event.body) == await models.read(2)
        assert (await models.write("delete", {"film_id": 2})).record["title"] == "Bo"
        assert await found(models, title={"$ne": ""}) == [1]


async def test_times_without_a_zone_are_of_the_declared_one(database_url, psql):
    """Whatever the zone of the session is: written, told, found, and written by others."""
    await psql.execute("CREATE TABLE models (id serial PRIMARY KEY, at timestamp)")
    await psql.execute(f"ALTER DATABASE {await psql.fetchval('SELECT current_database()')} SET TimeZone = 'Asia/Tokyo'")
    cls, options = model(at=datetime.datetime), {"zone": "Asia/Kolkata"}
    await install_triggers(database_url, cls, **options)
    async with opened(database_url, cls, **options) as models:
        made = await models.create({"at": "2026-01-31T09:30:00.000000Z"})
        assert made == await models.read(1) == {"id": 1, "at": "2026-01-31T09:30:00.000000Z"}
        assert await psql.fetchval("SELECT at::text FROM models") == "2026-01-31 15:00:00"
        assert await found(models, at=made["at"]) == [1]
        await psql.execute("UPDATE models SET at = '2026-01-31 16:00'")
        (event,) = await log(models, "*")
        assert decode(event.body)["at"] == "2026-01-31T10:30:00.000000Z"


async def test_a_table_in_another_schema(database_url, psql):
    """It is served, indexed and told of there; a new one is made there, unless there is no such schema."""
    await psql.execute(
        "CREATE SCHEMA sales; CREATE TABLE sales.orders (id serial PRIMARY KEY, title text);"
        "INSERT INTO sales.orders (title) VALUES ('Ann'); CREATE TABLE orders (id text)"
    )
    options = {"table": "sales.orders", "index": ["title"]}
    await install_triggers(database_url, Title, **options)
    async with opened(database_url, Title, **options) as models:
        assert await models.all() == [{"id": 1, "title": "Ann"}]
        assert await models.create({"title": "Bo"}) == {"id": 2, "title": "Bo"}
        await models.write("patch", {"id": 2, "title": "Bea"})
        assert await found(models, title="Bea", sort="id", limit=1) == [2]
        await psql.execute("UPDATE sales.orders SET title = 'Cy' WHERE id = 1")
        assert [decode(event.body) for event in await log(models, "*")] == [{"id": 1, "title": "Cy"}]
        await models.write("delete", {"id": 2})
    async with opened(database_url, Title, **{**options, "index": []}) as models:
        assert await psql.fetchval("SELECT count(*) FROM pg_indexes WHERE schemaname = 'sales'") == 2
    async with opened(database_url, Title, table="sales.bills") as models:
        bill = await models.create({"title": "x"})
        assert await psql.fetchval("SELECT id FROM sales.bills") == bill["id"]
    assert 'make it: CREATE SCHEMA "lost"' in await refusal(database_url, Title, "lost.orders")
    for name in ("pg_catalog.x", ".x", "x.", "bbio_log"):
        assert "cannot be the table of the models" in await refusal(database_url, Title, name)


async def test_tables_of_one_name_in_two_schemas(database_url, psql):
    """Each has its triggers, which tell of its rows, and its rules, which are told by the names of fields."""
    await psql.execute(
        "CREATE SCHEMA sales; CREATE TABLE sales.orders (id serial PRIMARY KEY, title text UNIQUE);"
        "CREATE TABLE orders (id serial PRIMARY KEY, number integer)"
    )
    sales, plain = {"model": Title, "table": "sales.orders"}, {"model": model(number=int), "table": "orders"}
    for options in (sales, plain):
        await install_triggers(database_url, **options)
    async with opened(database_url, **sales) as models, opened(database_url, **plain) as others:
        await psql.execute("INSERT INTO sales.orders (title) VALUES ('a'); INSERT INTO orders (number) VALUES (7)")
        assert [decode(event.body) for event in await log(models, "*")] == [{"id": 1, "title": "a"}]
        assert [decode(event.body) for event in await log(others, "*")] == [{"id": 1, "number": 7}]
        told = await refused(models.create({"title": "a"}), "Conflict")
        assert str(told) == "another model has the same 'title'"


async def test_a_table_in_parts(database_url, psql):
    """A partitioned table is served and told of like any, whichever part a row is in."""
    await psql.execute(
        "CREATE TABLE models (id text PRIMARY KEY, title text) PARTITION BY HASH (id);"
        "CREATE TABLE even PARTITION OF models FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE odd PARTITION OF models FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
    )
    await install_triggers(database_url, Title)
    async with opened(database_url, Title) as models:
        made = [await models.create({"title": title}) for title in "abcdefgh"]
        for table in ("even", "odd"):
            assert await psql.fetchval(f"SELECT count(*) FROM {table}") > 0
        await models.write("patch", {"id": made[0]["id"], "title": "x"})
        await psql.execute("UPDATE models SET title = 'y' WHERE title = 'x'")
        assert await found(models, title="y") == [made[0]["id"]]
        (event,) = await log(models, "*")
        assert decode(event.body) == await models.read(made[0]["id"])
        assert await models.revision(made[0]["id"]) == event.rev


async def test_what_cannot_be_a_table_of_models_is_refused(database_url, psql):
    """By name; what is advised can be run as it stands."""
    await psql.execute(
        "CREATE TABLE bare (id integer NOT NULL, title text); CREATE TABLE other (nr integer, title text);"
        "CREATE TABLE pair (a integer, b integer, title text, PRIMARY KEY (a, b));"
        "CREATE TABLE named (film_id serial PRIMARY KEY, id text, title text);"
        "CREATE TABLE odd (id money PRIMARY KEY, title text); CREATE VIEW seen AS SELECT * FROM bare;"
        "CREATE TABLE held (id serial PRIMARY KEY, title text, channel text);"
        "CREATE TABLE plans (id serial PRIMARY KEY, title text, rev text DEFAULT 'B-2');"
        "INSERT INTO plans VALUES (1, 'house'); CREATE TABLE drawings (id serial PRIMARY KEY, title text,"
        " rev bigint NOT NULL DEFAULT 7); CREATE TABLE unnumbered (id integer PRIMARY KEY, title text);"
        "INSERT INTO unnumbered VALUES (41, 'a')"
    )
    for table, text in (
        ("other", "has no primary key of id"),
        ("pair", "is made of a, b; the id of a model is one column"),
        ("named", "PostgresStore(..., id_attribute='film_id')"),
        ("odd", "the column 'id' of the table 'odd' is money; an id is a string"),
        ("seen", "'seen' is a view"),
        ("held", "name another: PostgresStore"),
        ("drawings", "a column 'rev' of its own, bigint"),
        ("plans", "once its owner has given that column another name"),
    ):
        assert text in await refusal(database_url, Title, table), table
    told = await refusal(database_url, model(id=int, title=str), "unnumbered", id_attribute="key")
    assert "the field 'id' cannot be a column of the table 'unnumbered', whose id it is" in told
    for table in ("bare", "unnumbered"):
        advice = (await refusal(database_url, Title, table)).rpartition(": ")[2]
        await psql.execute(advice)
    await psql.execute("ALTER TABLE plans RENAME rev TO revision")
    async with opened(database_url, Title, table="plans") as models:
        await models.write("patch", {"id": 1, "title": "villa"})
        assert tuple(await psql.fetchrow("SELECT title, revision FROM plans")) == ("villa", "B-2")
    async with opened(database_url, Title, table="unnumbered") as models:
        assert (await models.create({"title": "b"}))["id"] == 42
    assert "knows no time zone 'Mars'" in await refusal(database_url, Title, "plans", zone="Mars")


async def test_a_table_that_a_crash_empties_is_refused(database_url, psql):
    """Also where that is a part of it; what is advised can be run as it stands."""
    await psql.execute(
        "CREATE UNLOGGED TABLE models (id serial PRIMARY KEY, title text);"
        "CREATE TABLE parted (id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, title text)"
        " PARTITION BY RANGE (id);"
        "CREATE TABLE kept PARTITION OF parted FOR VALUES FROM (0) TO (9);"
        'CREATE UNLOGGED TABLE "Lost" PARTITION OF parted FOR VALUES FROM (9) TO (99)'
    )
    for table in ("models", "parted"):
        told = await refusal(database_url, Title, table)
        assert f"the table '{table}' is UNLOGGED" in told
        await psql.execute(told.rpartition(": ")[2])
        async with opened(database_url, Title, table=table) as models:
            await models.create({"title": "a"})


async def test_what_cannot_be_indexed_is_refused(database_url, psql):
    """By name, with what PostgreSQL says."""
    await psql.execute("CREATE TYPE hue AS ENUM ('red'); CREATE TABLE models (id text PRIMARY KEY, title hue)")
    told = await refusal(database_url, Title, index=["id", "title"])
    assert "cannot index the table 'models' by 'title': leave that out of PostgresStore(..., index=[...]) (" in told
    assert "IMMUTABLE" in told
    # As long as its own key can be.
    await psql.execute("INSERT INTO models VALUES ($1)", "".join(map(chr, range(0x4E00, 0x4E00 + 895))))
    told = await refusal(database_url, Title)
    assert "cannot index the table 'models' by 'id': name a table whose ids are short" in told


async def test_a_column_that_holds_something_else_is_refused(database_url, psql):
    """With what the field would have to be; nothing of the table is changed."""
    await psql.execute("CREATE TYPE hue AS ENUM ('red', 'blue')")
    for n, (kept, type, text) in enumerate(
        (
            (
                "timestamp(3)",
                datetime.datetime,
                "timestamp(3) without time zone, which does not say of which time zone",
            ),
            ("integer", bool, "declare it as int"),
            ("varchar(40)", uuid.UUID, "declare it as str"),
            ("hue", int, "declare it as str"),
            ("hue[]", list[int], "declare it as list[str]"),
            ("date[]", list[str], "leave it out of the model"),
            ("money", Decimal, "leave it out of the model"),
            ("text[]", str, "declare it as list[str]"),
            ("bigint", Decimal, "declare it as int"),
        )
    ):
        await psql.execute(f"CREATE TABLE t{n} (id serial PRIMARY KEY, v {kept})")
        told = await refusal(database_url, model(v=type), f"t{n}")
        assert f"the column 'v' of the table 't{n}' is" in told
        assert text in told
        assert (
            await psql.fetchval(f"SELECT count(*) FROM pg_attribute WHERE attrelid = 't{n}'::regclass AND attnum > 0")
            == 2
        )


async def test_types_of_other_programs_hold_fields(database_url, psql):
    """What is told of them is what is found by them, whatever its collation."""
    await psql.execute(
        "CREATE TYPE hue AS ENUM ('red', 'blue'); CREATE DOMAIN word AS varchar(9); CREATE DOMAIN longer AS word;"
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
        "CREATE TABLE models (id char(8) PRIMARY KEY, j json, hues hue[], uuids uuid[], flags boolean[],"
        " floats double precision[], w longer, price numeric(8, 2), size real, loose text COLLATE loose)"
    )
    cls = model(
        j=dict[str, Any],
        hues=list[str],
        uuids=list[uuid.UUID],
        flags=list[bool],
        floats=list[float],
        w=str,
        price=float,
        size=float,
        loose=str,
    )
    async with opened(database_url, cls, upsert=True) as models:
        given = {
            "j": {"b": 1, "a": [None]},
            "hues": ["blue", "red"],
            "uuids": ["0123abcd-0123-4567-89ab-0123456789ab"],
            "flags": [True, False],
            "floats": [1.5, 0.1],
            "w": "nine",
            "price": 12.35,
            "size": 10.1,
            "loose": "Ab",
        }
        one = (await models.write("update", {"id": "one", **given})).record
        assert one == await models.read("one") == await models.read("one  ") == {"id": "one", **given}
        nothing = (await models.write("update", {"id": "two"})).record
        assert nothing == await models.read("two") == {"id": "two", **dict.fromkeys(given)}
        for field in ("w", "price", "size", "loose"):
            for operator in ("$eq", "$gte", "$lte"):
                assert await found(models, **{field: {operator: given[field]}}) == ["one"], (field, operator)
            assert await found(models, **{field: {"$gt": given[field]}}) == []
        assert await found(models, loose="ab") == []
        assert await found(models, loose={"$like": "A%"}) == ["one"]
        assert await found(models, **{"j.b": 1}) == ["one"]
        assert await found(models, sort=["hues", "-id"]) == ["two", "one"]


async def test_prices_of_single_precision_are_found_page_by_page(database_url, psql):
    """A cursor ends, and equality with what was told finds it."""
    await psql.execute(
        "CREATE TABLE models (id smallserial PRIMARY KEY, price real);"
        "INSERT INTO models (price) VALUES (18), (19), (10.1), (22.35), (NULL), (6.2), (16777217), (0.1), (3.4e38)"
    )
    for index in ([], ["price"]):
        async with opened(database_url, model(price=float), index=index) as models:
            told = [each["price"] for each in await models.all()]
            for price in told:
                assert [each["price"] for each in await ask(models, {"price": price})] == [price]
            for sort in ("price", "-price"):
                pages, cursor = [], None
                for _ in range(6):
                    req = models.request(
                        "read",
                        {},
                        options={"data": {"sort": sort, "limit": 2} | ({"cursor": cursor} if cursor else {})},
                    )
                    found = await models.found(req)
                    pages += [each["price"] for each in found.models]
                    cursor = found.next
                    if cursor is None:
                        break
                expected = sorted(told, key=lambda price: (price is not None, price or 0), reverse=sort[0] == "-")
                assert pages == expected


async def test_ids_follow_the_order_of_creation(database_url, psql):
    """Whoever creates: as many numbers are drawn as there are new models, when they are written."""
    await psql.execute("CREATE TABLE models (id smallserial PRIMARY KEY, title text)")
    async with processes(database_url, 2, model=Title) as (one, two):
        made = [(await each.create({"title": "a"}))["id"] for each in (one, two, one, two)]
        made.append(await psql.fetchval("INSERT INTO models (title) VALUES ('sql') RETURNING id"))
        made += [model["id"] for model in await asyncio.gather(*(one.create({"title": "b"}) for _ in range(5)))]
        assert made == list(range(1, 11))
    assert await psql.fetchval("SELECT last_value FROM models_id_seq") == 10


async def test_what_no_model_can_have_is_told_at_the_start(database_url, psql, caplog):
    """A column that must have a value, and gets none from anybody."""
    await psql.execute(
        "CREATE TABLE models (id serial PRIMARY KEY, title text, made date NOT NULL, at date NOT NULL DEFAULT now())"
    )
    async with opened(database_url, Title):
        pass
    assert "nothing gives a value to made: give each a default" in caplog.text


@pytest.mark.parametrize("revisions", ["column", "beside"])
@pytest.mark.parametrize("name", ['x"; DROP TABLE kept; --', "x'; DROP TABLE kept; --", "{x}%s", "$bbio$$bbio_$"])
async def test_names_are_nothing_but_names(database_url, psql, name, revisions):
    """Of tables, of ids and of channels; also in what tells of other programs."""
    await psql.execute("CREATE TABLE kept (id text)")
    options = {"table": name, "id_attribute": name, "per_channel": True, "revisions": revisions}
    await install_triggers(database_url, Title, **options)
    async with opened(database_url, Title, **options) as models:
        made = await models.create({"title": name}, channel=name)
        assert await models.read(made[name], channel=name) == made
        await refused(models.read(made[name], channel="other"), "NotFound")
        assert await models.store.since(f"c:{name}", "x", 0) is None
        table = quote(name)
        await psql.execute(f"INSERT INTO {table} (channel, id, title) VALUES ($1, 'theirs', $1)", name)
        await psql.execute(f"UPDATE {table} SET title = 'x' WHERE id = 'theirs'")
        await psql.execute(f"DELETE FROM {table} WHERE id = 'theirs'")
        told = [(event.method, decode(event.body)[name]) for event in await log(models, f"c:{name}")]
        assert told == [("create", made[name]), ("create", "theirs"), ("update", "theirs"), ("delete", "theirs")]
        await remove_triggers(database_url, Title, **options)
        await psql.execute("SELECT 1 FROM kept")


@pytest.mark.parametrize("revisions", ["column", "beside"])
@pytest.mark.parametrize("name", ["\"';DROP TABLE k;--", "{x}%s$bbio$$bbio_$\\"])
async def test_names_of_others_are_nothing_but_names(database_url, psql, name, revisions):
    """Of schemas, types, sequences, rules, indexes and of columns: the key, one that must be given, one beside them."""
    q, type, missing = quote(name), quote(f"{name}?"), quote(f"{name} too")
    await psql.execute(
        f"CREATE TABLE k (id text); CREATE SCHEMA {q}; CREATE TYPE {q}.{type} AS ENUM ('a', 'b');"
        f"CREATE TABLE {q}.{q} ({q} serial PRIMARY KEY, kind {q}.{type}, kinds {q}.{type}[], title text,"
        f" {missing} text NOT NULL DEFAULT 'host', CONSTRAINT {quote(name + '!')} UNIQUE (title))"
    )
    cls = model(kind=str, kinds=list[str], title=str)
    options = {"table": f"{name}.{name}", "id_attribute": name, "revisions": revisions, "index": ["title"]}
    await install_triggers(database_url, cls, **options)
    async with opened(database_url, cls, **options) as models:
        made = await models.create({"kind": "a", "kinds": ["b", "a"], "title": name})
        assert made == await models.read(1) == {name: 1, "kind": "a", "kinds": ["b", "a"], "title": name}
        (twin,) = await asyncio.gather(models.create({"title": name}), return_exceptions=True)
        assert str(twin) == "another model has the same 'title'"
        # Of a row that differs in nothing but what is no part of the model nothing is told.
        await psql.execute(f"UPDATE {q}.{q} SET {missing} = 'x'; UPDATE {q}.{q} SET kind = 'b'")
        assert await ask(models, {"kind": "b", "sort": "title", "limit": 1}) == [{**made, "kind": "b"}]
        assert [decode(event.body) for event in await log(models, "*")] == [{**made, "kind": "b"}]
        await models.write("delete", {name: 1})
        await psql.execute(f"ALTER TABLE {q}.{q} ALTER {missing} DROP DEFAULT")
        await refused(models.create({"title": "x"}), "Conflict")
    await remove_triggers(database_url, cls, **options)
    await psql.execute("SELECT 1 FROM k")


NAMES = (
    "w t u s d row one user order group select body value name position offset limit sort cursor stream OLD NEW oid key"
    " bbio_r found locked fields default self_ cls number Name NAME größe 日本語 " + 31 * "é"
)
# What statements and triggers call rows, columns and variables of their own.
INNER = (
    "a b c e f g k l m n o p q r v x bbio_id bbio_new bbio_old bbio_place bbio_place_ bbio_revs events kept method"
    " stamp op was place is_fit is_keyed backend_id stream_name TG_OP tg_argv changed ready count size backend"
)


@pytest.mark.parametrize("revisions", ["column", "beside"])
async def test_fields_of_any_name(database_url, psql, revisions):
    """Names that SQL or bbio use for something else, also where others write; those of PostgreSQL are refused."""
    names = [*NAMES.split(), *INNER.split()]
    cls = attrs.make_class("M", {name: attrs.field(type=int, default=0) for name in names})
    options = {"revisions": revisions}
    await install_triggers(database_url, cls, **options)
    async with opened(database_url, cls, **options) as models:
        made = await models.create({name: n for n, name in enumerate(names)})
        assert await models.read(made["id"]) == made
        for name in NAMES.split():
            if name not in WORDS:
                assert await ask(models, {name: made[name], "sort": f"-{name}"}) == [made], name
        patched = await models.write("patch", {"id": made["id"], "w": 7, "t": 8})
        assert patched.record == await models.read(made["id"]) == {**made, "w": 7, "t": 8}
        await psql.execute(f"UPDATE models SET {', '.join(f'{quote(name)} = 9' for name in names)}")
        await psql.execute("DELETE FROM models")
        whole = {"id": made["id"], **dict.fromkeys(names, 9)}
        told = [(event.method, decode(event.body)) for event in await log(models, "*")]
        assert told == [("update", whole), ("delete", whole)]
    for name in ("ctid", "channel", *(["rev"] if revisions == "column" else []), 32 * "é"):
        assert f"M.{name} cannot be a column" in await refusal(database_url, model(**{name: int}), **options)


async def test_a_field_called_id_beside_another_id(database_url, psql):
    """A new table then has the id in a column of its own name."""
    async with opened(database_url, model(id=int, title=str), id_attribute="key") as models:
        made = await models.create({"id": 5, "title": "a"})
        assert await models.read(made["key"]) == made == {"key": made["key"], "id": 5, "title": "a"}
        assert await psql.fetchval("SELECT id FROM models WHERE key = $1", made["key"]) == 5


# What the owner of a table may do to it while it is served.
ADDING = (
    "ALTER TABLE models ADD COLUMN extra text DEFAULT 'x'",
    "REINDEX TABLE models; CREATE INDEX ON models (title)",
    "ALTER TABLE models DROP CONSTRAINT models_pkey, ADD PRIMARY KEY (id)",
    "VACUUM FULL models",
)
# After these, triggers that know the types of before have pages read anew, until they are made again.
RETYPING = (
    "ALTER TABLE models ALTER title TYPE text",
    "ALTER TABLE models ALTER n TYPE bigint",
    "ALTER TABLE models ALTER id TYPE bigint",
)
# What ends the service until it is taken back.
BREAKING = (
    ("ALTER TABLE models RENAME n TO m", "ALTER TABLE models RENAME m TO n"),
    ("ALTER TABLE models RENAME TO gone", "ALTER TABLE gone RENAME TO models"),
    ("ALTER TABLE models DROP rev", "ALTER TABLE models ADD rev bigint NOT NULL DEFAULT 0"),
)


async def test_a_table_is_migrated_while_it_is_served(database_url, psql, caplog):
    """Statements that were prepared before do with the table as it is; what no longer fits is an outage, told once."""
    await psql.execute("CREATE TABLE models (id serial PRIMARY KEY, title varchar(10), n integer)")
    cls = model(title=str, n=int)
    await install_triggers(database_url, cls)
    async with opened(database_url, cls, index=["n"]) as models:

        async def serves():
            made = await models.create({"title": "a", "n": 1})
            patched = (await models.write("patch", {"id": made["id"], "n": 2})).record
            assert await models.read(made["id"]) == patched == {"id": made["id"], "title": "a", "n": 2}
            assert await ask(models, {"n": {"$gte": 2}, "sort": "-n"}) == await models.all() == [patched]
            updated = (await models.write("update", {"id": made["id"], "title": "b", "n": 3})).record
            assert updated == {"id": made["id"], "title": "b", "n": 3}
            await models.write("delete", {"id": made["id"]})

        async def told():
            """What clients are told of another program's row; None has them read anew."""
            top = (await models.store.positions(["*"]))["*"]
            await psql.execute("INSERT INTO models (id, title, n) VALUES (1000, 'c', 4)")
            events = await models.store.since("*", top.epoch, top.offset)
            await psql.execute("DELETE FROM models")
            return events and [decode(event.body) for event in events]

        await serves()
        for migration in ADDING:
            await psql.execute(migration)
            await serves()
            assert await told() == [{"id": 1000, "title": "c", "n": 4}], migration
        for migration in RETYPING:
            await psql.execute(migration)
            await serves()
            assert await told() is None, migration
        assert caplog.messages == []
        for away, back in BREAKING:
            await psql.execute(away)
            for _ in range(2):
                await refused(models.create({"title": "a"}), "Unavailable")
            await psql.execute(back)
            await serves()
            assert await told() is None, away
            assert ["works again" in line for line in caplog.messages] == [False, True], away
            caplog.clear()
        await install_triggers(database_url, cls)
        assert await told() == [{"id": 1000, "title": "c", "n": 4}]


# As their migrations and scripts make them, in short: Django, Rails, Sakila in a schema, Supabase, Northwind, Chinook.
TABLES = """
CREATE TABLE polls_question (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    question_text varchar(200) NOT NULL, pub_date timestamptz NOT NULL,
    closed boolean NOT NULL, price numeric(12, 2) NOT NULL, tags varchar(20)[] NOT NULL);
CREATE TABLE articles (id bigserial PRIMARY KEY, title character varying, status integer DEFAULT 0,
    created_at timestamp(6) NOT NULL, updated_at timestamp(6) NOT NULL);
CREATE SCHEMA rental;
CREATE TYPE rental.mpaa AS ENUM ('G', 'PG', 'R');
CREATE SEQUENCE rental.film_seq;
CREATE TABLE rental.film (film_id integer PRIMARY KEY DEFAULT nextval('rental.film_seq'), title varchar(255) NOT NULL,
    rating rental.mpaa DEFAULT 'G', special_features text[], last_update timestamp NOT NULL DEFAULT now());
CREATE TABLE todos (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text NOT NULL, done boolean DEFAULT false,
    meta jsonb DEFAULT '{}', inserted_at timestamptz NOT NULL DEFAULT now());
ALTER TABLE todos ENABLE ROW LEVEL SECURITY;
CREATE TABLE products (product_id smallserial PRIMARY KEY, product_name varchar(40) NOT NULL, unit_price real,
    discontinued integer NOT NULL DEFAULT 0);
CREATE TABLE drawings (id serial PRIMARY KEY, title text NOT NULL, rev varchar(5) NOT NULL);
CREATE TABLE "Track" ("TrackId" integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "Name" varchar(200) NOT NULL,
    "Milliseconds" integer NOT NULL, "UnitPrice" numeric(10, 2) NOT NULL);
"""


def apart(**fields: Any) -> type:
    """A class with these fields, each a type, or a type with its default."""
    given = {name: each if isinstance(each, tuple) else (each, attrs.NOTHING) for name, each in fields.items()}
    return attrs.make_class(
        "M", {name: attrs.field(type=type, default=default) for name, (type, default) in given.items()}
    )


SERVED: dict[str, Any] = {
    "todos": (apart(title=str, done=(bool, False), meta=(dict[str, Any] | None, None)), {}),
    "products": (
        apart(product_name=str, unit_price=(float | None, None), discontinued=(int, 0)),
        {"id_attribute": "product_id"},
    ),
    "tracks": (
        apart(Name=str, Milliseconds=(int, 0), UnitPrice=(Decimal, Decimal(0))),
        {"table": "Track", "id_attribute": "TrackId"},
    ),
}
# What is created in each, a patch of it, and what another program writes then.
WRITTEN: dict[str, Any] = {
    "questions": ({"question_text": "?", "price": "7.256"}, {"tags": ["b", "a"]}, "polls_question SET closed = true"),
    "articles": ({"title": "Hi"}, {"status": 2}, "articles SET title = 'Ho'"),
    "drawings": ({"title": "house"}, {"rev": "B-2"}, "drawings SET title = 'villa'"),
    "films": ({"title": "Anna"}, {"rating": "R", "special_features": []}, "rental.film SET rating = 'PG'"),
    "todos": ({"title": "milk"}, {"meta": {"a": [1, None]}}, "todos SET done = NULL"),
    "products": ({"product_name": "Chai", "unit_price": 10.1}, {"discontinued": 1}, "products SET unit_price = 22.35"),
    "tracks": ({"Name": "Abc", "UnitPrice": "0.999"}, {"Milliseconds": 5}, """ "Track" SET "UnitPrice" = 1.5"""),
}


async def holds(mirror: Any, row: Any) -> bool:
    return [*mirror.values()] == [row]


async def test_the_guide_and_tables_of_well_known_kinds(database_url, psql, monkeypatch):
    """The classes of the guide, and others: what is created, patched, asked for and deleted is what pages hold."""
    monkeypatch.setenv("BBIO_DATABASE_URL", database_url)
    await psql.execute(TABLES)
    backends = [
        type("B", (Backend,), {"name": name, "model": cls, "store": PostgresStore(**{"table": name, **options})})
        for name, (cls, options) in SERVED.items()
    ]
    for code in re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL):
        names: dict[str, Any] = {"__name__": "guide"}
        exec(compile(code, str(GUIDE), "exec", dont_inherit=True), names)
        backends += [each for each in names.values() if isinstance(each, type) and Backend in each.__bases__]
    for backend in App().serve(*backends).backends.values():
        await backend.store.install_triggers()
    app = App().serve(*backends)
    assert app.backends.keys() == WRITTEN.keys()
    async with app.running() as url, connect(url, jitter=0) as io:
        for name, (new, patch, written) in WRITTEN.items():
            id = app.backends[name].store.id_attribute
            handle = io.backend(name, id_attribute=id)
            mirror = await handle.collection()
            made = await handle.create(new)
            assert await handle.read(made[id]) == made, name
            patched = await handle.patch({id: made[id], **patch})
            assert patched == await handle.read(made[id]), name
            assert patch.items() <= patched.items()
            for field, value in patched.items():
                if not isinstance(value, (dict, list)):
                    assert [each[id] for each in await handle.read(data={field: value})] == [made[id]], (name, field)
            await psql.execute(f"UPDATE {written}")
            (row,) = await handle.read()
            assert row != patched
            await eventually(partial(holds, mirror, row))
            await handle.delete(made[id])
            assert await handle.read() == []
