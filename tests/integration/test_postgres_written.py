"""What PostgreSQL makes of a row is what is acknowledged, told and kept; what it refuses is refused alone."""

from __future__ import annotations

import asyncio
import datetime
from decimal import Decimal
from functools import partial
from typing import Any

import asyncpg
import attrs
import pytest

import bbio
from bbio import ratelimit
from bbio import typed as typing
from bbio.builtin.documents import logger
from bbio.builtin.postgres import database as postgres_database
from bbio.builtin.postgres import store as postgres
from bbio.builtin.postgres.database import is_lost, is_refused, refusal_of
from bbio.conformance.cases import refused
from bbio.protocol import decode
from bbio.ratelimit import RateLimitedLog
from tests.support.postgres import install_triggers, log, opened, processes
from tests.support.servers import eventually

pytestmark = pytest.mark.once  # what is asked is what PostgreSQL does, not a Python


@attrs.define
class Product:
    name: str = ""
    price: Decimal = Decimal(0)
    weight: float = 0.0
    at: datetime.datetime | None = None


@attrs.define
class Film:
    title: str = ""
    slug: str = bbio.field(read_only=True, default="")
    changes: int = bbio.field(read_only=True, default=0)


@attrs.define
class Line:
    price: float = 0.0
    quantity: int = 0
    total: float | None = bbio.field(read_only=True, default=None)


@attrs.define
class Todo:
    title: str = ""
    done: bool = False
    tags: list[str] = attrs.field(factory=list)
    plan: dict[str, int] = attrs.field(factory=lambda: {"a": 1})
    at: datetime.datetime | None = None
    rank: int | None = None


@pytest.fixture(autouse=True)
def fresh_logs(monkeypatch):
    """No test has the lines of another counted."""
    for name in ("refusals", "outages"):
        monkeypatch.setattr(postgres_database, name, RateLimitedLog(logger))


async def same_everywhere(models, commit) -> Any:
    """The record that is acknowledged, told, kept of the operation, and read."""
    record = commit.record
    assert record == await models.read(record["id"])
    events = await log(models)
    assert decode(events[commit.event.offset - 1].body) == decode(commit.body) == record
    assert decode(models.published[-1][0].body) == record
    return record


async def test_what_a_column_makes_of_a_value_is_told(database_url, psql):
    """Rounded, cut, padded: record, event and reply of the operation are what is stored."""
    await psql.execute(
        "CREATE TABLE models (id serial PRIMARY KEY, name varchar(5), price numeric(10, 2), weight real,"
        " at timestamptz(0))"
    )
    given = {"name": "abc    ", "price": "19.999", "weight": 1.23456789, "at": "2026-01-31T09:30:00.700000Z"}
    stored = {"name": "abc  ", "price": "20.00", "weight": 1.2345679, "at": "2026-01-31T09:30:01.000000Z"}
    async with opened(database_url, Product) as models:
        made = await models.write("create", given, op="c:1")
        assert await same_everywhere(models, made) == {"id": 1, **stored}
        assert (await models.write("create", given, op="c:1")).record == made.record
        changed = await models.write("update", {"id": 1, **given, "price": "0.005"})
        assert await same_everywhere(models, changed) == {"id": 1, **stored, "price": "0.01"}
        patched = await models.write("patch", {"id": 1, "price": "7.777"})
        assert await same_everywhere(models, patched) == {"id": 1, **stored, "price": "7.78"}
        assert (await models.write("delete", {"id": 1})).record == patched.record


async def typed(models, method, model, layer=lambda req: None, **fields) -> Any:
    """The record that a write comes to on its way through the stack of a backend."""
    schema, req = models.store.schema, models.request(method, model, **fields)
    typing.enter(schema, req)
    layer(req)
    req.model = typing.plain(schema, req)
    return (await models.store.write(req)).record


TOUCH = """
    CREATE TABLE models (id serial PRIMARY KEY, title text, slug text, changes integer);
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        NEW.slug = replace(lower(NEW.title), ' ', '-');
        NEW.changes = CASE TG_OP WHEN 'INSERT' THEN 0 ELSE OLD.changes + 1 END;
        RETURN NEW;
    END $$;
    CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON models FOR EACH ROW EXECUTE FUNCTION touch()
"""


async def test_what_a_trigger_makes_of_a_row_is_told(database_url, psql):
    """Of every write, also of several of one model that share a transaction; what was told may be sent again."""
    await psql.execute(TOUCH)
    async with opened(database_url, Film) as models:
        made = await models.write("create", {"title": "Big Fish"})
        assert await same_everywhere(models, made) == {"id": 1, "title": "Big Fish", "slug": "big-fish", "changes": 0}
        commits = await asyncio.gather(
            *(models.write("patch", {"id": 1, "title": f"Fish {n}"}) for n in range(5)),
            models.write("create", {"title": "Other"}),
            models.write("delete", {"id": 1}),
            models.write("patch", {"id": 1, "title": "gone"}),
            return_exceptions=True,
        )
        *patches, other, deleted, late = commits
        assert [patch.record["changes"] for patch in patches] == [1, 2, 3, 4, 5]
        assert [patch.record["slug"] for patch in patches] == [f"fish-{n}" for n in range(5)]
        assert deleted.record == patches[-1].record
        assert type(late).__name__ == "NotFound"
        assert [event.offset for event, _ in models.published] == list(range(1, 9))
        assert [event.method for event, _ in models.published[1:]] == ["update"] * 5 + ["create", "delete"]
        again = await models.write("update", {**other.record, "title": "Another"})
        assert again.record == {"id": 2, "title": "Another", "slug": "another", "changes": 1}


async def test_generated_columns_are_postgresql_s_own(database_url, psql):
    """They are never written, and their values are told; so is an id that is always generated."""
    await psql.execute(
        "CREATE TABLE models (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, price double precision,"
        " quantity integer, total double precision GENERATED ALWAYS AS (price * quantity) STORED)"
    )
    async with opened(database_url, Line) as models:
        line = await same_everywhere(models, await models.write("create", {"price": 2.5, "quantity": 4}))
        assert line == {"id": 1, "price": 2.5, "quantity": 4, "total": 10.0}
        assert (await models.write("patch", {"id": 1, "quantity": 2})).record["total"] == 5.0
        assert (await models.write("update", {"id": 1, "price": 1.0, "quantity": 3})).record["total"] == 3.0


async def test_what_nobody_sets_has_the_column_s_default(database_url, psql):
    """In a table of somebody else; what a client or a layer sets is written, also if it is the class's default."""
    await psql.execute("""
        CREATE TABLE models (id serial PRIMARY KEY, title text NOT NULL DEFAULT 'untitled', done boolean DEFAULT true,
            tags jsonb, plan jsonb DEFAULT '{"b": 2}', at timestamptz NOT NULL DEFAULT now(), rank bigint DEFAULT 7)
    """)
    async with opened(database_url, Todo) as models:
        todo = await typed(models, "create", {})
        assert {**todo, "at": ""} == {
            "id": 1,
            "title": "untitled",
            "done": True,
            "tags": [],
            "plan": {"b": 2},
            "at": "",
            "rank": 7,
        }
        assert todo["at"] is not None
        made = await asyncio.gather(
            typed(models, "create", {"title": "", "done": False, "rank": None}), typed(models, "create", {"title": "x"})
        )
        told = [(record["title"], record["done"], record["rank"]) for record in made]
        assert told == [("", False, None), ("x", True, 7)]


async def test_what_nobody_sets_has_the_default_of_its_type(database_url, psql):
    """A domain has one for all its columns."""
    await psql.execute(
        "CREATE DOMAIN state AS text DEFAULT 'open'; CREATE TABLE models (id serial PRIMARY KEY, state state)"
    )
    async with opened(database_url, attrs.make_class("M", {"state": attrs.field(type=str, default="")})) as models:
        assert await typed(models, "create", {}) == {"id": 1, "state": "open"}


async def test_what_layers_set_is_no_default(database_url, psql):
    """Of an instance, what is another value than it was made with, or was changed within; of a dict, what it has."""
    await psql.execute(
        "CREATE TABLE models (id serial PRIMARY KEY, title text DEFAULT 't', done boolean DEFAULT true,"
        """ tags jsonb DEFAULT '["d"]', plan jsonb DEFAULT '{"b": 2}', at timestamptz, rank bigint DEFAULT 7)"""
    )

    def of_instance(req):
        req.model.rank = 1
        req.model.plan["c"] = 3

    def as_dict(req):
        req.model = {"title": "given"}

    async with opened(database_url, Todo) as models:
        todo = {"title": "t", "done": True, "tags": ["d"], "plan": {"b": 2}, "at": None, "rank": 7}
        assert await typed(models, "create", {}, of_instance) == {"id": 1, **todo, "rank": 1, "plan": {"a": 1, "c": 3}}
        assert await typed(models, "create", {}, as_dict) == {"id": 2, **todo, "title": "given"}


async def test_in_a_table_of_bbio_s_own_the_class_says_the_defaults(database_url):
    """Also when they are others than at the time when the table was made."""
    async with opened(database_url, attrs.make_class("Todo", {"done": attrs.field(type=bool, default=False)})):
        pass
    async with opened(database_url, attrs.make_class("Todo", {"done": attrs.field(type=bool, default=True)})) as models:
        assert (await typed(models, "create", {}))["done"] is True


@pytest.mark.parametrize("revisions", ["column", "beside"])
async def test_ids_that_a_trigger_gives_are_told(database_url, psql, revisions):
    """A row may get another id than the one that it was given; its revision is kept under that."""
    await psql.execute("""
        CREATE TABLE models (id text PRIMARY KEY, title text);
        CREATE FUNCTION named() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.id = 'id-' || NEW.title; RETURN NEW;
        END $$;
        CREATE TRIGGER named BEFORE INSERT ON models FOR EACH ROW EXECUTE FUNCTION named()
    """)
    cls = attrs.make_class("Todo", {"title": attrs.field(type=str)})
    async with opened(database_url, cls, revisions=revisions) as models:
        made = await asyncio.gather(*(models.write("create", {"title": f"{n}"}) for n in range(3)))
        assert [each.record for each in made] == [{"id": f"id-{n}", "title": f"{n}"} for n in range(3)]
        assert await models.read("id-1") == made[1].record
        assert await models.revision("id-1") == made[1].event.rev


STOP = """
    CREATE TABLE models (id serial PRIMARY KEY, title text, hidden boolean NOT NULL DEFAULT false);
    CREATE TABLE noted (title text);
    CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'DELETE' THEN
            IF OLD.title = 'soft' THEN UPDATE models SET hidden = true WHERE id = OLD.id; RETURN NULL; END IF;
            RETURN OLD;
        END IF;
        IF NEW.title = 'elsewhere' THEN INSERT INTO noted VALUES (NEW.title); RETURN NULL; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER stop BEFORE INSERT OR UPDATE OR DELETE ON models FOR EACH ROW EXECUTE FUNCTION stop()
"""


async def test_a_write_that_was_not_made_is_no_success(database_url, psql, caplog):
    """What a trigger swallows is a conflict for that write alone, and leaves nothing behind."""
    await psql.execute(STOP)
    cls = attrs.make_class("Todo", {"title": attrs.field(type=str)})
    async with opened(database_url, cls) as models:
        soft, other = [await models.create({"title": title}) for title in ("soft", "other")]
        outcomes = await asyncio.gather(
            models.write("create", {"title": "elsewhere"}),
            models.write("create", {"title": "a"}, op="c:1"),
            models.write("patch", {**other, "title": "elsewhere"}),
            models.write("delete", soft),
            models.write("create", {"title": "b"}),
            models.write("create", {"title": "a"}, op="c:1"),
            return_exceptions=True,
        )
        assert [type(outcome).__name__ for outcome in outcomes] == [
            "Conflict",
            "Commit",
            "Conflict",
            "Conflict",
            "Commit",
            "Commit",
        ]
        assert outcomes[5].duplicate
        assert "stops it" in str(outcomes[0])
        assert [model["title"] for model in await models.all()] == ["soft", "other", "a", "b"]
        assert [event.offset for event, _ in models.published] == [1, 2, 3, 4]
        assert await psql.fetchval("SELECT count(*) FROM noted") == 0
        assert not await psql.fetchval("SELECT bool_or(hidden) FROM models")
        assert caplog.text.count("NotMade") == 3


async def test_a_row_that_is_hidden_when_it_is_deleted_is_deleted(database_url, psql):
    """A soft delete, where a policy hides the rows that are marked."""
    role = f"role{id(psql)}"
    await psql.execute(STOP.replace("LANGUAGE plpgsql AS", "LANGUAGE plpgsql SECURITY DEFINER AS"))
    cls = attrs.make_class("Todo", {"title": attrs.field(type=str)})
    async with opened(database_url, cls):
        pass
    await psql.execute(f"""
        CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
        GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}; ALTER TABLE models ENABLE ROW LEVEL SECURITY;
        CREATE POLICY kept ON models USING (NOT hidden)
    """)
    try:
        async with opened(database_url.replace("://bbio@", f"://{role}@"), cls) as models:
            soft = await models.create({"title": "soft"})
            deleted = await models.write("delete", soft)
            assert deleted.record == soft
            assert models.published[-1][0].method == "delete"
            assert await models.all() == []
            assert await psql.fetchval("SELECT hidden FROM models") is True
            await refused(models.write("delete", soft), "NotFound")
    finally:
        await psql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_what_a_policy_forbids_is_forbidden(database_url, psql, caplog):
    """For that write alone; a model that may be seen and not changed is not found by who would change it."""
    role = f"role{id(psql)}"
    await psql.execute(
        "CREATE TABLE models (id serial PRIMARY KEY, title text); INSERT INTO models (title) VALUES ('b')"
    )
    cls = attrs.make_class("Todo", {"title": attrs.field(type=str)})
    async with opened(database_url, cls):
        pass
    await psql.execute(f"""
        CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
        GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}; ALTER TABLE models ENABLE ROW LEVEL SECURITY;
        CREATE POLICY see ON models FOR SELECT USING (true);
        CREATE POLICY edit ON models FOR UPDATE USING (title <> 'b');
        CREATE POLICY add ON models FOR INSERT WITH CHECK (title <> 'no')
    """)
    try:
        async with opened(database_url.replace("://bbio@", f"://{role}@"), cls) as models:
            outcomes = await asyncio.gather(
                *(models.write("create", {"title": title}) for title in ("x", "no", "y")), return_exceptions=True
            )
            assert [type(outcome).__name__ for outcome in outcomes] == ["Commit", "Forbidden", "Commit"]
            assert "no" not in str(outcomes[1]).split()
            await refused(models.write("update", {"id": 1, "title": "c"}), "NotFound")
            await refused(models.write("delete", {"id": outcomes[0].record["id"]}), "Conflict")
            assert [event.offset for event, _ in models.published] == [1, 2]
            assert "cannot be used" not in caplog.text
            assert "InsufficientPrivilegeError 42501" in caplog.text
    finally:
        await psql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


# A write changes what it was given


@attrs.define
class Offer:
    name: str = ""
    until: datetime.datetime | None = None
    day: datetime.date = datetime.date(2026, 1, 1)
    price: Decimal = Decimal(0)
    ratio: float = 0.0
    data: dict[str, Any] | None = None
    code: int = bbio.field(read_only=True, default=1)


ODD = [
    ("until", "'infinity'", "infinity"),
    ("until", "'-infinity'", "-infinity"),
    ("until", "'0044-03-15 12:00Z BC'", "0044-03-15T12:00:00.000000Z BC"),
    ("day", "'infinity'", "infinity"),
    ("day", "'-infinity'", "-infinity"),
    ("day", "'0044-03-15 BC'", "0044-03-15 BC"),
    ("day", "'12026-01-01'", "12026-01-01"),
    ("day", "NULL", None),
    ("price", "'NaN'", "NaN"),
    ("ratio", "'NaN'", "NaN"),
    ("ratio", "'-Infinity'", "-Infinity"),
    ("data", "'[1]'", [1]),
    ("data", "('{\"n\": 1' || repeat('0', 400) || '}')::jsonb", {"n": "1" + 400 * "0"}),
    ("data", "('{\"n\": 1' || repeat('0', 400) || '.5}')::jsonb", {"n": "1" + 400 * "0" + ".5"}),
    ("data", "'{\"n\": [1e308, 1.7e308]}'", {"n": [10**308, 17 * 10**307]}),
    ("data", "'{\"n\": 2e308}'", {"n": "2" + 308 * "0"}),
    ("data", "('{\"n\": ' || repeat('9', 309) || '}')::jsonb", {"n": 309 * "9"}),
    ("data", "('{\"n\": \"' || repeat('0', 400) || '\", \"m\": 1.5}')::jsonb", {"n": 400 * "0", "m": 1.5}),
    ("code", "NULL", None),
]


async def test_what_json_cannot_tell_survives_a_write_of_another_field(database_url, psql):
    """It is told as a text, lists go on, and a patch or an update of the rest leaves it alone."""
    columns = "until timestamptz, day date, price numeric, ratio double precision, data jsonb, code bigint"
    await psql.execute(f"CREATE TABLE models (id serial PRIMARY KEY, name text, {columns})")
    await psql.execute(
        "INSERT INTO models (day, price, ratio, code) SELECT now(), 1, 1, 1 FROM generate_series(1, $1)", 99
    )
    async with opened(database_url, Offer) as models:
        for id, (field, value, told) in enumerate(ODD, 1):
            await psql.execute(f"UPDATE models SET {field} = {value} WHERE id = $1", id)
            kept = await psql.fetchval(f"SELECT {field}::text FROM models WHERE id = $1", id)
            assert (await models.read(id))[field] == told
            patched = await typed(models, "patch", {"id": id, "name": "renamed"})
            assert (patched["name"], patched[field]) == ("renamed", told)
            assert await psql.fetchval(f"SELECT {field}::text FROM models WHERE id = $1", id) == kept
            assert {model["id"]: model for model in await models.all()}[id] == patched
        odd = await models.read(1)
        assert (await typed(models, "update", {**odd, "until": None}))["until"] is None
        # What is read-only may be sent along as it was told.
        assert (await typed(models, "update", {**await models.read(len(ODD)), "name": "x"}))["code"] is None
        err = await refused(typed(models, "update", await models.read(2)), "Invalid")
        assert err.fields.keys() == {"until"}
        err = await refused(typed(models, "patch", {"id": 2, "name": "x", "code": 2}), "Invalid")
        assert err.fields == {"code": "cannot be changed"}


async def test_a_write_touches_no_column_but_those_that_differ(database_url, psql):
    """A trigger on a column is fired by who changes it; what changed meanwhile stays."""
    await psql.execute("""
        CREATE TABLE models (id serial PRIMARY KEY, title text, done boolean, tags jsonb, plan jsonb, at timestamptz,
            rank bigint, fired text DEFAULT '');
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.fired = NEW.fired || TG_ARGV[0]; RETURN NEW;
        END $$;
        CREATE TRIGGER note_title BEFORE UPDATE OF title ON models FOR EACH ROW EXECUTE FUNCTION note('t');
        CREATE TRIGGER note_done BEFORE UPDATE OF done ON models FOR EACH ROW EXECUTE FUNCTION note('d')
    """)
    async with opened(database_url, Todo) as models:
        todo = await typed(models, "create", {"title": "a"})
        await typed(models, "patch", {"id": 1, "title": "a", "done": True})
        await typed(models, "update", {**todo, "done": True, "rank": 1})
        await typed(models, "update", {**todo, "title": "b", "done": True})
        await asyncio.gather(*(typed(models, "patch", {"id": 1, field: value}) for field, value in todo.items()))
        assert await psql.fetchval("SELECT fired FROM models") == "dttd"
        assert await models.read(1) == {**todo, "done": False, "rank": None}


async def test_a_document_keeps_the_keys_that_a_write_does_not_give(database_url, psql):
    """Numbers past a double among them; an update drops what it lacks, but with a model what that does not know."""
    huge = "1" + 30 * "0" + "." + 30 * "1"
    async with opened(database_url) as models:
        milk = await models.create({"title": "milk", "n": 1, "gone": True})
        await psql.execute(f"UPDATE models SET body = body || '{{\"n\": {huge}}}'")
        await models.write("patch", {"id": milk["id"], "title": "oat milk"})
        assert await psql.fetchval("SELECT body ->> 'n' FROM models") == huge
        stored = await models.read(milk["id"])
        del stored["gone"]
        assert (await models.write("update", {**stored, "title": "soy milk"})).record == {**stored, "title": "soy milk"}
        assert await psql.fetchval("SELECT body ->> 'n' FROM models") == huge
    cls = attrs.make_class("Todo", {"title": attrs.field(type=str), "done": attrs.field(type=bool, default=False)})
    async with opened(database_url, cls) as models:
        updated = await typed(models, "update", {"id": milk["id"], "title": "milk"})
        assert (updated["title"], updated["done"]) == ("milk", False)
        assert await psql.fetchval("SELECT body ->> 'n' FROM models") == huge


async def test_a_patch_builds_on_what_a_trigger_has_told(database_url, psql):
    """Its events are in the stream of all channels."""
    await install_triggers(database_url, Todo)
    async with opened(database_url, Todo) as models:
        todo = await typed(models, "create", {})
        await psql.execute("UPDATE models SET title = 'a'")
        seen = await models.revision(todo["id"])
        await psql.execute("UPDATE models SET rank = 7")
        assert (await typed(models, "patch", {"id": todo["id"], "title": "b"}, rev=seen))["rank"] == 7
        await refused(typed(models, "patch", {"id": todo["id"], "rank": 8}, rev=seen), "Conflict")


async def test_nothing_builds_on_a_delete(database_url, psql):
    """What was there before it is no base of the model that has its id now, whoever has deleted."""
    await install_triggers(database_url)
    async with opened(database_url, upsert=True) as models:
        await models.write("update", {"id": "a", "n": 1})
        deleted = await models.write("delete", {"id": "a"})
        await models.write("update", {"id": "a", "n": 1})
        await refused(models.write("patch", {"id": "a", "n": 2}, rev=deleted.event.rev), "Conflict")
        before = await models.revision("a")
        await psql.execute("DELETE FROM models")
        await psql.execute("""INSERT INTO models (id, body) VALUES ('a', '{"n": 1}')""")
        await refused(models.write("patch", {"id": "a", "n": 2}, rev=before + 1), "Conflict")
        assert (await log(models, "*"))[0].rev == before + 1


# Who is refused keeps nobody else waiting


class Client:
    """A connection, as a request's socket has it."""

    def __init__(self) -> None:
        self.connection = self


async def test_a_client_that_is_refused_is_written_apart(database_url, psql, monkeypatch):
    """Its writes share no transaction with those of others, in their order, and for a while alone."""
    async with opened(database_url) as models:
        await psql.execute("ALTER TABLE models ADD CHECK ((body ->> 'n')::integer <> 13)")
        now = 0.0
        store, mallory, ann = models.store, Client(), Client()
        store._suspects._clock = lambda: now
        batches, transact = [], store._transact

        async def noted(changes, *options):
            batches.append([change.req.socket for change in changes])
            return await transact(changes, *options)

        monkeypatch.setattr(store, "_transact", noted)

        async def write(client, n, **options):
            return await models.write("create", {"n": n}, socket=client, **options)

        # The first time, it is tried again, with care.
        outcomes = await asyncio.gather(write(mallory, 13), write(ann, 1), write(None, 13), return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == ["Conflict", "Commit", "Conflict"]
        assert batches == [[mallory, ann, None]] * 2
        batches.clear()
        outcomes = await asyncio.gather(
            *(write(client, n) for client, n in ((mallory, 13), (ann, 2), (mallory, 3), (None, 4), (mallory, 5))),
            return_exceptions=True,
        )
        assert [type(outcome).__name__ for outcome in outcomes] == ["Conflict"] + ["Commit"] * 4
        assert sorted(batches, key=len) == [[ann, None], [mallory] * 3]
        offsets = [outcome.event.offset for outcome in outcomes[1:]]
        assert offsets[1] < offsets[3]
        batches.clear()
        # As long as one of its writes waits, later ones come after it, whatever the time is.
        async with psql.transaction():
            await psql.execute("SELECT FROM bbio_streams FOR UPDATE")
            first = asyncio.ensure_future(write(mallory, 6))
            await waiting(psql, 1)
            now = 100.0
            later = asyncio.gather(first, write(mallory, 7), write(ann, 8))
        await later
        assert [mallory, ann] not in batches
        batches.clear()
        await asyncio.gather(write(mallory, 9), write(ann, 10))
        assert batches == [[mallory, ann]]
        assert len(await models.all()) == 10


async def test_who_is_written_apart_rests_after_each_turn(database_url, psql, monkeypatch):
    """As long as its share says, and no longer than a limit; its answers come before the rest."""
    monkeypatch.setattr(postgres, "SHARE_OF_SUSPECTS", 1e-6)
    monkeypatch.setattr(postgres, "LONGEST_REST_SECONDS", 0.5)
    async with opened(database_url) as models:
        await psql.execute("ALTER TABLE models ADD CHECK ((body ->> 'n')::integer <> 13)")
        mallory, loop = Client(), asyncio.get_running_loop()
        await refused(models.write("create", {"n": 13}, socket=mallory), "Conflict")
        began = loop.time()
        await models.write("create", {"n": 1}, socket=mallory)
        assert models.store._writer_apart._queue._busy
        # Hours, but for the limit.
        async with asyncio.timeout(60):
            await models.write("create", {"n": 2}, socket=mallory)
        assert loop.time() - began > 0.5


async def waiting(psql, count):
    """Wait until so many transactions wait for others."""
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    async def waits():
        return await psql.fetchval(blocked) == count

    await eventually(waits)


async def test_models_are_locked_in_an_order_that_all_share(database_url, psql):
    """Whoever waits for the first of them holds none of the others: processes never wait for each other in a circle."""
    async with opened(database_url, models=[{"id": "a"}, {"id": "b"}]) as models:
        other = await asyncpg.connect(database_url)
        async with psql.transaction():
            await psql.execute("SELECT FROM models WHERE id = 'a' FOR UPDATE")
            writes = asyncio.gather(*(models.write("patch", {"id": id, "n": 1}) for id in "ba"))
            await waiting(psql, 1)
            await other.execute("SELECT FROM models WHERE id = 'b' FOR UPDATE NOWAIT")
        await writes
        await other.close()


async def test_an_operation_that_another_process_applies_is_no_refusal(database_url, psql):
    """Where a unique value is taken by the very operation, its reply is the answer, also of who is written apart."""
    await psql.execute("CREATE TABLE models (id text PRIMARY KEY, title text UNIQUE)")
    cls = attrs.make_class("Todo", {"title": attrs.field(type=str)})
    async with processes(database_url, 2, model=cls) as (one, two):
        client = Client()
        await one.create({"title": "taken"})
        await refused(two.write("create", {"title": "taken"}, socket=client, op="c:1"), "Conflict")
        async with psql.transaction():
            await psql.execute("SELECT FROM bbio_streams FOR UPDATE")
            first = asyncio.ensure_future(one.write("create", {"title": "new"}, op="c:2"))
            await waiting(psql, 1)
            again = asyncio.ensure_future(two.write("create", {"title": "new"}, op="c:2", socket=client))
            await waiting(psql, 2)
        assert (await again).duplicate
        assert (await again).record == (await first).record


async def test_a_model_that_has_just_appeared_is_changed_also_apart(database_url, psql):
    """With `upsert`, an update of a model that another program is adding waits for it."""
    async with opened(database_url, upsert=True) as models:
        await psql.execute("ALTER TABLE models ADD CHECK (body ->> 'n' IS NULL OR (body ->> 'n')::integer <> 13)")
        client = Client()
        await refused(models.write("update", {"id": "x", "n": 13}, socket=client), "Conflict")
        async with psql.transaction():
            await psql.execute("""INSERT INTO models (id, rev, body) VALUES ('x', 0, '{"a": 1}')""")
            write = asyncio.ensure_future(models.write("patch", {"id": "x", "n": 1}, socket=client))
            await waiting(psql, 1)
        assert (await write).record == {"id": "x", "a": 1, "n": 1}
        assert models.published[-1][0].method == "update"


async def test_what_is_no_refusal_is_none_to_who_is_written_apart(database_url, psql):
    """An outage is one; and what breaks a rule elsewhere than in the table of models is found as well."""
    async with opened(database_url) as models:
        await psql.execute("ALTER TABLE models ADD CHECK (body ->> 'n' <> '13')")
        await psql.execute("ALTER TABLE bbio_log ADD CHECK (body NOT LIKE '%evil%')")
        client = Client()
        writes = [{"n": "1"}, {"n": "evil"}, {"n": "13"}, {"n": "2"}]
        outcomes = await asyncio.gather(
            *(models.write("create", each, socket=client) for each in writes), return_exceptions=True
        )
        assert [type(outcome).__name__ for outcome in outcomes] == ["Commit", "Conflict", "Conflict", "Commit"]
        await psql.execute("""
            CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE 'could not extend file' USING ERRCODE = 'disk_full';
            END $$;
            CREATE TRIGGER fill BEFORE INSERT ON models FOR EACH ROW EXECUTE FUNCTION fill()
        """)
        await refused(models.write("create", {"n": "3"}, socket=client), "Unavailable")


@attrs.define
class Member:
    email: str = ""
    age: int = 18
    group_id: int | None = None
    badge: int = bbio.field(private=True, default=1)
    born: str | None = None


async def test_a_broken_rule_is_told_by_the_names_of_its_fields(database_url, psql, caplog):
    """As far as the client sees these, and never with values; rules that came later are told without names."""
    await psql.execute("""
        CREATE TABLE groups (id integer PRIMARY KEY);
        INSERT INTO groups VALUES (1);
        CREATE TABLE models (id serial PRIMARY KEY, email text NOT NULL, age bigint CHECK (age > 0), born text,
            group_id bigint REFERENCES groups, badge bigint UNIQUE, CONSTRAINT grown CHECK (born <> 'x' OR age > 17));
        CREATE UNIQUE INDEX each_email ON models (email) INCLUDE (age);
        CREATE TABLE visits (member integer REFERENCES models);
    """)
    async with opened(database_url, Member) as models:
        store = models.store

        async def said(method, model):
            write = models.write if method == "delete" else partial(typed, models)
            return str(await refused(write(method, model), "Conflict"))

        ann = await models.create({"email": "ann", "badge": 1, "born": ""})
        assert await said("create", {"email": "ann", "badge": 2}) == "another model has the same 'email'"
        patch = {"id": ann["id"]}
        assert await said("patch", {**patch, "age": 0}) == "the database does not allow this 'age'"
        assert await said("patch", {**patch, "age": 9, "born": "x"}) == "the database does not allow this 'born', 'age'"
        assert await said("patch", {**patch, "group_id": 2}) == "there is nothing that 'group_id' could refer to"
        # Nobody is to know of the field.
        assert await said("create", {"email": "bob", "badge": 1}) == (
            "another model has the same, where each has its own"
        )
        await psql.execute("INSERT INTO visits VALUES ($1)", ann["id"])
        assert await said("delete", patch) == "something in the database still refers to this model"
        await psql.execute("ALTER TABLE models ADD CHECK (email <> 'bad'); ALTER TABLE models ALTER born SET NOT NULL")
        assert await said("create", {"email": "bad", "badge": 2, "born": ""}) == (
            "the database does not allow this value"
        )
        assert await said("create", {"email": "bob", "badge": 2}) == "the database needs a value for 'born'"
        # Of a write of the server itself, or of another table, there is less to say.
        err = asyncpg.exceptions.NotNullViolationError("x")
        assert store._named_in(err, None) == ()
        err.table_name, err.column_name = "models", "badge"
        assert store._named_in(err, None) == ()
        err.column_name = "id"
        assert store._named_in(err, None) == ["id"]
    async with opened(database_url) as models:
        err.column_name = "body"
        assert models.store._named_in(err, None) == ()
    assert "ann" not in caplog.text


async def test_what_no_field_gives_is_named_where_it_is_missed(database_url, psql):
    """A column without a default: nothing can be created, and the rest goes on."""
    await psql.execute(
        "CREATE TABLE models (id serial PRIMARY KEY, title text, made date NOT NULL);"
        "INSERT INTO models (title, made) VALUES ('a', '2026-01-01')"
    )
    async with opened(database_url, attrs.make_class("M", {"title": attrs.field(type=str, default="")})) as models:
        missed = await refused(models.create({"title": "b"}), "Conflict")
        assert str(missed) == "the database needs a value for 'made'"
        await models.write("patch", {"id": 1, "title": "c"})
        await models.write("delete", {"id": 1})


def test_errors_are_named_by_their_class():
    """What is about the connection, the server or others is no refusal; what is about the tables is no client's."""
    names = asyncpg.exceptions
    for error, told in (
        (names.UniqueViolationError, "Conflict"),
        (names.RaiseError, "Conflict"),
        (names.WithCheckOptionViolationError, "Conflict"),
        (names.CardinalityViolationError, "Conflict"),
        (names.ObjectNotInPrerequisiteStateError, "Conflict"),
        (names.NumericValueOutOfRangeError, "BadRequest"),
        (names.ProgramLimitExceededError, "BadRequest"),
        (names._base.DataError, "BadRequest"),
        (names.InsufficientPrivilegeError, "Forbidden"),
        (names.UndefinedColumnError, "NoneType"),
        (names.FeatureNotSupportedError, "NoneType"),
    ):
        assert is_refused(error("x"))
        assert not is_lost(error("x"))
        assert type(refusal_of(error("x"))).__name__ == told
    for error in (
        names.ConnectionDoesNotExistError,
        names.DiskFullError,
        names.AdminShutdownError,
        names.DeadlockDetectedError,
        names.LockNotAvailableError,
        names.ReadOnlySQLTransactionError,
        names.PostgresIOError,
        names.DataCorruptedError,
        names.PostgresError,
        names.InterfaceError,
        OSError,
    ):
        assert not is_refused(error("x"))


async def test_it_works_again_is_told_at_the_first_success(database_url, psql, caplog):
    """Of a write, where only a write failed; the next trouble is told again."""
    async with opened(database_url) as models:
        for _ in range(2):
            caplog.clear()
            await psql.execute("""
                CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    RAISE 'could not extend file' USING ERRCODE = 'disk_full';
                END $$;
                CREATE TRIGGER fill BEFORE INSERT ON models FOR EACH ROW EXECUTE FUNCTION fill()
            """)
            for _ in range(2):
                await refused(models.create({}), "Unavailable")
                await models.all()
            assert [("its disk is full" in line, "works again" in line) for line in caplog.messages] == [(True, False)]
            await psql.execute("DROP FUNCTION fill CASCADE")
            await models.create({})
            await models.create({})
            assert "works again" in caplog.messages[-1]
            assert len(caplog.messages) == 2


async def test_an_outage_that_comes_and_goes_fills_no_log(database_url, psql, caplog, monkeypatch):
    """Its lines are counted like those of clients, who may cause it."""
    async with opened(database_url) as models:
        monkeypatch.setattr(ratelimit, "LINES_PER_SECOND", 0)
        await psql.execute("ALTER TABLE models RENAME TO elsewhere")
        await refused(models.create({}), "Unavailable")
        await psql.execute("ALTER TABLE elsewhere RENAME TO models")
        await models.create({})
        assert caplog.messages == []


@pytest.mark.parametrize(
    ("statement", "outcome", "words"),
    [
        pytest.param(
            "EXECUTE 'SELECT ' || (NEW.body ->> 'odd')",
            "Unavailable",
            "UndefinedColumnError 42703, PL/pgSQL function failing()",
            id="a wrong function is an outage",
        ),
        # By that code PostgreSQL means the whole transaction.
        pytest.param(
            "RAISE 'it holds %', NEW.body USING ERRCODE = 'serialization_failure'",
            "Conflict",
            "SerializationError 40001, PL/pgSQL function failing() line 2 at RAISE",
            id="one that says that others wrote refuses",
        ),
    ],
)
async def test_a_trigger_that_fails_takes_no_other_write_with_it(database_url, psql, caplog, statement, outcome, words):
    """The others of the batch pass, and the log is told what failed, without what was written."""
    async with opened(database_url) as models:
        await psql.execute(f"""
            CREATE FUNCTION failing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.body ? 'odd' THEN {statement}; END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER failing BEFORE INSERT ON models FOR EACH ROW EXECUTE FUNCTION failing()
        """)
        writes = [{"n": 1}, {"odd": "hunter2"}, {"n": 2}]
        outcomes = await asyncio.gather(*(models.write("create", each) for each in writes), return_exceptions=True)
        assert [type(each).__name__ for each in outcomes] == ["Commit", outcome, "Commit"]
        assert words in caplog.text
        assert "hunter2" not in caplog.text
