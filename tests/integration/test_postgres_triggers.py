"""What other programs write to the table of a PostgresStore reaches clients; restored databases begin anew."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

import asyncpg
import attrs
import pytest
from click.testing import CliRunner

from bbio.builtin.postgres import store as postgres
from bbio.builtin.postgres.tables import MOST_TOLD
from bbio.cli import main
from bbio.protocol import decode
from tests.support.postgres import install_triggers, log, opened
from tests.support.servers import eventually

pytestmark = pytest.mark.once  # what is asked is what PostgreSQL does, not a Python

SERVED = """
from bbio import App, Backend
from bbio.builtin import MemoryStore, PostgresStore

class Todos(Backend):
    store = PostgresStore("{dsn}", {options})

class Others(Backend):
    store = MemoryStore()

app = App().serve(Todos, Others)
without = App().serve(Others)
"""


def plain(events):
    return [(event.offset, event.method, decode(event.body)) for event in events]


async def test_what_others_write_is_logged_and_told(database_url, psql):
    """Each change is an event of the stream `*` with the whole model and a revision, and the server is woken."""
    await install_triggers(database_url)
    async with opened(database_url) as models:
        await psql.execute("""INSERT INTO models (id, body) VALUES ('7', '{"n": 1}'), ('"7"', '{"n": 1}')""")
        assert await models.published.checked() == [["*"]]
        await psql.execute("""UPDATE models SET body = body || '{"n": 2}' WHERE id = '7'""")
        await psql.execute("""UPDATE models SET id = 'x' WHERE id = '"7"'""")
        await psql.execute("DELETE FROM models WHERE id = 'x'")
        assert plain(await log(models, "*")) == [
            (1, "create", {"id": 7, "n": 1}),
            (2, "create", {"id": "7", "n": 1}),
            (3, "update", {"id": 7, "n": 2}),
            (4, "delete", {"id": "7", "n": 1}),
            (5, "create", {"id": "x", "n": 1}),
            (6, "delete", {"id": "x", "n": 1}),
        ]
        revs = [event.rev for event in await log(models, "*")]
        assert await models.revision(7) == revs[2]
        assert revs[0] < revs[2]
        assert revs[4] < revs[5]
        assert await models.all() == [{"id": 7, "n": 2}]
        patched = await models.write("patch", {"id": 7, "m": 1})
        assert patched.record == {"id": 7, "n": 2, "m": 1}
        assert patched.event.rev > revs[2]


async def test_own_writes_are_logged_once(database_url, psql):
    """The triggers take no notice of bbio; what changes nothing, or is rolled back, is no event."""
    await install_triggers(database_url)
    await install_triggers(database_url)  # again changes nothing
    async with opened(database_url) as models:
        milk = await models.create({"n": 1})
        await models.write("patch", {**milk, "n": 2})
        await models.write("delete", milk)
        assert [event.offset for event in await log(models)] == [1, 2, 3]
        milk = await models.create({"n": 1})
        await psql.execute("UPDATE models SET body = body")
        async with psql.transaction():
            await psql.execute("DELETE FROM models")
            await psql.execute("""INSERT INTO models (id, body) VALUES ('1', '{"n": 1}')""")
        await psql.execute("BEGIN; DELETE FROM models; ROLLBACK")
        assert [event.method for event in await log(models, "*")] == ["delete", "create"]


async def test_others_writes_and_own_ones_have_no_hole(database_url):
    """Programs and the server that write at the same time share the numbers of the stream."""
    await install_triggers(database_url)

    async def program(number):
        connection = await asyncpg.connect(database_url)
        for n in range(10):
            async with connection.transaction():
                for part in range(3):
                    await connection.execute(
                        "INSERT INTO models (id, body) VALUES ($1, '{}')", f"program {number} {n} {part}"
                    )
        await connection.close()

    async with opened(database_url) as models:

        async def server(number):
            for n in range(10):
                await models.store.append("*", "update", {"id": f"{number} {n}"})

        await asyncio.gather(*map(program, range(4)), *map(server, range(4)))
        assert [event.offset for event in await log(models, "*")] == list(range(1, 161))
        assert len(await models.all()) == 120


async def test_an_open_transaction_holds_nobody_up(database_url, psql):
    """Its positions are taken when it commits."""
    await install_triggers(database_url)
    async with opened(database_url, timeout=1.0) as models:
        async with psql.transaction():
            await psql.execute("INSERT INTO models (id, body) VALUES ('1', '{}')")
            await models.store.append("*", "update", {"id": "2"})
        assert [decode(event.body)["id"] for event in await log(models, "*")] == ["2", 1]


async def test_each_channel_has_its_own_events(database_url, psql):
    """With models of their own for each channel, events are in the channel's stream."""
    await install_triggers(database_url, per_channel=True)
    async with opened(database_url, per_channel=True) as models:
        await psql.execute("""INSERT INTO models (channel, id, body) VALUES ('home', 'a', '{}'), ('', 'a', '{}')""")
        await psql.execute("""UPDATE models SET channel = 'work' WHERE channel = 'home'""")
        assert plain(await log(models, "c:home")) == [(1, "create", {"id": "a"}), (2, "delete", {"id": "a"})]
        assert plain(await log(models, "c:work")) == [(1, "create", {"id": "a"})]
        assert plain(await log(models)) == [(1, "create", {"id": "a"})]


async def test_truncating_the_table_begins_a_new_epoch(database_url, psql):
    """No events are made of it: clients read everything anew."""
    await install_triggers(database_url)
    async with opened(database_url) as models:
        await models.create({})
        before = await models.top()
        await psql.execute("TRUNCATE models")
        assert await models.published.checked() == [None]
        after = await models.top()
        assert (after.offset, after.epoch != before.epoch) == (0, True)
        assert await models.store.since("c:", before.epoch, before.offset) is None
        await models.create({})
        top = await models.top()
        assert (top.epoch, top.offset) == (after.epoch, 1)


@pytest.mark.parametrize("revisions", ["column", "beside"])
async def test_programs_with_few_rights_may_write(database_url, psql, revisions):
    """The triggers run with the rights of their owner, and find bbio's tables whatever its search path is."""
    await install_triggers(database_url, revisions=revisions)
    async with opened(database_url, revisions=revisions) as models:
        role = f"program{id(psql)}"
        await psql.execute(f"CREATE ROLE {role}; GRANT INSERT, TRUNCATE ON models TO {role}")
        tables = await psql.fetch("SELECT relname FROM pg_class WHERE relname LIKE 'bbio\\_%' AND relkind = 'r'")
        assert tables
        try:
            await psql.execute(f"SET ROLE {role}; SET search_path = pg_catalog")
            for (table,) in tables:
                await psql.execute(f"CREATE TEMP TABLE {table} (id int)")
            await psql.execute("INSERT INTO public.models (id, body) VALUES ('a', '{}')")
            await psql.execute("RESET ROLE; RESET search_path")
            assert plain(await log(models, "*")) == [(1, "create", {"id": "a"})]
            epoch = (await models.store.positions(["*"]))["*"].epoch
            await psql.execute(f"SET ROLE {role}; SET search_path = pg_catalog; TRUNCATE public.models")
            await psql.execute("RESET ROLE; RESET search_path")
            assert (await models.store.positions(["*"]))["*"].epoch != epoch
        finally:
            await psql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("name", ["it's", 'a "table"', "back\\slash", "a b"])
async def test_names_are_quoted(database_url, psql, name):
    """A table may have any name, a model any name for its id, also where a backslash is no letter like others."""
    url = f"{database_url}?standard_conforming_strings=off"
    await install_triggers(url, table=name, id_attribute=name)
    async with opened(url, table=name, id_attribute=name, models=[{name: "1"}]) as models:
        milk = await models.create({"n": 1})
        assert await models.read(milk[name]) == milk
        quoted = name.replace('"', '""')
        await psql.execute(f"""INSERT INTO "{quoted}" (id, body) VALUES ('a', '{{}}')""")
        assert plain(await log(models, "*")) == [(1, "create", {name: "a"})]


async def test_a_row_is_written_once(database_url, psql):
    """The owner's triggers fire once for each write, and what they make of it is told."""
    await psql.execute("""
        CREATE TABLE models (id serial PRIMARY KEY, title text, version integer DEFAULT 0, seen integer DEFAULT 0);
        CREATE TABLE audit (op text);
        CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO audit VALUES (TG_OP); RETURN NULL; END $$;
        CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON models FOR EACH ROW EXECUTE FUNCTION audited();
        CREATE FUNCTION versioned() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN NEW.version = OLD.version + 1; RETURN NEW; END $$;
        CREATE TRIGGER versioned BEFORE UPDATE OF title ON models FOR EACH ROW EXECUTE FUNCTION versioned();
    """)
    await install_triggers(database_url, Versioned)
    async with opened(database_url, Versioned) as models:
        await psql.execute("INSERT INTO models (title) VALUES ('a')")
        await psql.execute("UPDATE models SET title = 'b'")
        assert await psql.fetch("SELECT op FROM audit") == [("INSERT",), ("UPDATE",)]
        await psql.execute("UPDATE models SET seen = 1")
        rev = await models.revision(1)
        await psql.execute("DELETE FROM models")
        events = await log(models, "*")
        assert plain(events) == [
            (1, "create", {"id": 1, "title": "a", "version": 0}),
            (2, "update", {"id": 1, "title": "b", "version": 1}),
            (3, "delete", {"id": 1, "title": "b", "version": 1}),
        ]
        assert events[1].rev == rev, "a column that is no part of the model changes none"


async def test_what_the_owner_s_triggers_make_of_a_row_is_told(database_url, psql):
    """Those of bbio come after them, whatever these are called: a row changes when they change it, and then alone."""
    await psql.execute("""
        CREATE TABLE models (id serial PRIMARY KEY, title text, seen integer DEFAULT 0);
        CREATE FUNCTION titled() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN NEW.title = CASE NEW.seen WHEN 0 THEN OLD.title ELSE 'seen' END; RETURN NEW; END $$;
        CREATE TRIGGER zz_titled BEFORE UPDATE ON models FOR EACH ROW EXECUTE FUNCTION titled();
    """)
    await install_triggers(database_url, Title)
    async with opened(database_url, Title) as models:
        await psql.execute("INSERT INTO models (title) VALUES ('a'); UPDATE models SET title = 'b'")
        first = await models.revision(1)
        await psql.execute("UPDATE models SET seen = 1")
        events = await log(models, "*")
        assert plain(events) == [(1, "create", {"id": 1, "title": "a"}), (2, "update", {"id": 1, "title": "seen"})]
        assert events[0].rev == first < events[1].rev == await models.revision(1)


async def test_generated_columns_are_told(database_url, psql):
    """They have no value yet when a row gets its revision."""
    await psql.execute(
        "CREATE TABLE models (id serial PRIMARY KEY, a integer,"
        " title text GENERATED ALWAYS AS (CASE a WHEN 1 THEN 'one' ELSE 'more' END) STORED)"
    )
    await install_triggers(database_url, Title)
    async with opened(database_url, Title) as models:
        await psql.execute("INSERT INTO models (a) VALUES (1); UPDATE models SET a = a; UPDATE models SET a = 2")
        assert plain(await log(models, "*")) == [
            (1, "create", {"id": 1, "title": "one"}),
            (2, "update", {"id": 1, "title": "more"}),
        ]


async def test_virtual_columns_are_worked_out(database_url, psql, monkeypatch):
    """Rows hold no values of them; where they are worked out in another way, clients read anew."""
    # Before PostgreSQL 18 a stored one stands in for them.
    kind = "VIRTUAL" if psql.get_server_version().major >= 18 else "STORED"
    monkeypatch.setattr(postgres, "OWNERS", postgres.OWNERS.replace("WHEN 'v'", f"WHEN '{kind[0].lower()}'"))
    await psql.execute(
        "CREATE TABLE models (id serial PRIMARY KEY, rank text NOT NULL DEFAULT '1', stream_name text NOT NULL,"
        f" title text GENERATED ALWAYS AS (stream_name || '\\ ''' || rank) {kind})"
    )
    await install_triggers(database_url, Title)
    async with opened(database_url, Title) as models:
        await psql.execute("INSERT INTO models (stream_name) VALUES ('a'), ('b')")
        await psql.execute("UPDATE models SET rank = '2' WHERE id = 1")
        await psql.execute("UPDATE models SET id = 3 WHERE id = 2; DELETE FROM models WHERE id = 3")
        assert plain(await log(models, "*")) == [
            (1, "create", {"id": 1, "title": "a\\ '1"}),
            (2, "create", {"id": 2, "title": "b\\ '1"}),
            (3, "update", {"id": 1, "title": "a\\ '2"}),
            (4, "delete", {"id": 2, "title": "b\\ '1"}),
            (5, "create", {"id": 3, "title": "b\\ '1"}),
            (6, "delete", {"id": 3, "title": "b\\ '1"}),
        ]
        await psql.execute("ALTER TABLE models RENAME rank TO place; INSERT INTO models (stream_name) VALUES ('c')")
        top = (await models.store.positions(["*"]))["*"]
        assert await models.store.since("*", top.epoch, 6) is None
        await install_triggers(database_url, Title)
        await psql.execute("UPDATE models SET place = '3' WHERE id = 1")
        (event,) = await models.store.since("*", top.epoch, top.offset)
        assert decode(event.body)["title"] == "a\\ '3"


@pytest.mark.parametrize("revisions", ["column", "beside"])
async def test_every_kind_of_statement_is_told(database_url, psql, revisions):
    """Whatever a program writes with; of a row that moves to another part of the table too."""
    await psql.execute(
        "CREATE TABLE models (id integer PRIMARY KEY, title text) PARTITION BY RANGE (id);"
        "CREATE TABLE low PARTITION OF models FOR VALUES FROM (0) TO (9);"
        "CREATE TABLE high PARTITION OF models FOR VALUES FROM (9) TO (99)"
    )
    await psql.execute("CREATE SEQUENCE numbers; ALTER TABLE models ALTER id SET DEFAULT nextval('numbers')")
    await install_triggers(database_url, Title, revisions=revisions)
    async with opened(database_url, Title, revisions=revisions) as models:

        async def told():
            events = [(event.method, *decode(event.body).values()) for event in await log(models, "*")]
            rows = {each["id"]: each["title"] for each in await models.all()}
            # What was told last of each is what is there.
            last = {id: None if method == "delete" else title for method, id, title in events}
            assert {id: title for id, title in last.items() if title is not None} == rows
            new, told.before = events[told.before :], len(events)
            return new

        told.before = 0
        await psql.copy_records_to_table("models", records=[(1, "a"), (2, "b")], columns=["id", "title"])
        assert await told() == [("create", 1, "a"), ("create", 2, "b")]
        upsert = "INSERT INTO models VALUES (2, 'x'), (3, 'c') ON CONFLICT (id) DO"
        await psql.execute(f"{upsert} UPDATE SET title = excluded.title")
        assert sorted(await told()) == [("create", 3, "c"), ("update", 2, "x")]
        await psql.execute(f"{upsert} NOTHING")
        assert await told() == []
        await psql.execute(
            "WITH gone AS (DELETE FROM models WHERE id = 2 RETURNING *), added AS (INSERT INTO models (id, title)"
            " SELECT 4, title FROM gone) UPDATE models SET title = 'y' WHERE id = 3"
        )
        assert sorted(await told()) == [("create", 4, "x"), ("delete", 2, "x"), ("update", 3, "y")]
        await psql.execute("UPDATE models SET id = 40 WHERE id = 4")
        assert await told() == [("delete", 4, "x"), ("create", 40, "x")]
        if psql.get_server_version().major >= 15:
            await psql.execute(
                "MERGE INTO models t USING (VALUES (1, 'm'), (3, 'm'), (5, 'm')) v(id, title) ON t.id = v.id"
                " WHEN MATCHED AND v.id = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET title = v.title"
                " WHEN NOT MATCHED THEN INSERT (id, title) VALUES (v.id, v.title)"
            )
            assert sorted(await told()) == [("create", 5, "m"), ("delete", 1, "a"), ("update", 3, "m")]


async def test_columns_may_have_any_name(database_url, psql):
    """Those of the model, and those of the host beside them."""
    names = ["w", "o", "n", "r", "e", "l", "t", "u", "revision", "stream", "bbio_place", "bbio_new", "old", "new"]
    columns = ", ".join(f'"{name}" text' for name in names)
    host = "backend_id text, stream_name text, body text, place text, p text, stamp text, tg_op text"
    await psql.execute(f"CREATE TABLE models (id serial PRIMARY KEY, {columns}, {host})")
    model = attrs.make_class("Model", {name: attrs.field(type=str, default="") for name in names})
    await install_triggers(database_url, model)
    async with opened(database_url, model) as models:
        await psql.execute(f"INSERT INTO models ({', '.join(names)}) VALUES ({', '.join(map(repr, names))})")
        await psql.execute("UPDATE models SET w = 'x'")
        await psql.execute("DELETE FROM models")
        whole = {"id": 1, **{name: name for name in names}}
        assert plain(await log(models, "*")) == [
            (1, "create", whole),
            (2, "update", {**whole, "w": "x"}),
            (3, "delete", {**whole, "w": "x"}),
        ]


async def test_what_a_write_of_bbio_sets_off_is_told(database_url, psql):
    """Cascades, and what triggers write to other rows; not what bbio wrote itself."""
    await psql.execute("""
        CREATE TABLE parents (id serial PRIMARY KEY, title text);
        CREATE TABLE models (id serial PRIMARY KEY, title text, parent integer REFERENCES parents ON DELETE CASCADE);
        INSERT INTO parents (title) VALUES ('one'), ('two');
        INSERT INTO models (title, parent) VALUES ('a', 1), ('b', 1), ('c', 2);
        CREATE FUNCTION renamed() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN UPDATE models SET title = NEW.title WHERE parent = NEW.id; RETURN NULL; END $$;
        CREATE TRIGGER renamed AFTER UPDATE ON parents FOR EACH ROW EXECUTE FUNCTION renamed();
    """)
    for table in ("models", "parents"):
        await install_triggers(database_url, Title, table=table)
    async with opened(database_url, Title) as models, opened(database_url, Title, table="parents") as parents:
        await parents.write("patch", {"id": 2, "title": "x"})
        await parents.write("delete", {"id": 1})
        assert ["*"] in await models.published.checked()
        events = await log(models, "*")
        assert plain(events) == [
            (1, "update", {"id": 3, "title": "x"}),
            (2, "delete", {"id": 1, "title": "a"}),
            (3, "delete", {"id": 2, "title": "b"}),
        ]
        assert await models.revision(3) == events[0].rev
        assert await log(parents, "*") == []


async def test_what_is_set_off_is_numbered_before_the_next_write(database_url, psql):
    """In a stream that both are in, what a write builds on comes first."""
    await install_triggers(database_url, per_channel=True)
    async with opened(database_url, per_channel=True) as models:
        await psql.execute("INSERT INTO models (channel, id, body) VALUES ('', '1', '{}')")
        await models.write("patch", {"id": 1, "n": 1})
        events = await log(models)
        assert [(event.offset, event.method) for event in events] == [(1, "create"), (2, "update")]
        assert events[0].rev < events[1].rev


async def test_what_a_write_sets_off_in_its_own_stream_comes_after_it(database_url, psql):
    """A trigger of the owner's that writes the row once more: what is told last is what is there."""
    await install_triggers(database_url, per_channel=True)
    async with opened(database_url, per_channel=True) as models:
        await psql.execute("""
            CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN UPDATE models SET body = body || '{"n": 2}' WHERE id = NEW.id; RETURN NULL; END $$;
            CREATE TRIGGER counted AFTER INSERT ON models FOR EACH ROW EXECUTE FUNCTION counted();
        """)
        milk = await models.create({"n": 1})
        events = await log(models)
        assert [(event.method, decode(event.body)["n"]) for event in events] == [("create", 1), ("update", 2)]
        assert await models.revision(milk["id"]) == events[1].rev > events[0].rev


async def test_what_a_write_sets_off_comes_after_it_whatever_others_leave_meanwhile(database_url, psql):
    """Another program writes to the same stream while a trigger of the owner's takes its time: that comes first."""
    await install_triggers(database_url, per_channel=True)
    async with opened(database_url, per_channel=True) as models:
        await psql.execute("""
            CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                UPDATE models SET body = body || '{"n": 2}' WHERE id = NEW.id;
                PERFORM pg_advisory_xact_lock(1);
                RETURN NULL;
            END $$;
            CREATE TRIGGER counted AFTER INSERT ON models FOR EACH ROW WHEN (NEW.id <> 'theirs')
                EXECUTE FUNCTION counted();
            SELECT pg_advisory_lock(1)
        """)
        writing = asyncio.ensure_future(models.create({"n": 1}))

        async def waits():
            return await psql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") == 1

        await eventually(waits)
        await psql.execute("""INSERT INTO models (channel, id, body) VALUES ('', 'theirs', '{"n": 0}')""")
        await psql.execute("SELECT pg_advisory_unlock(1)")
        await writing
        events = [(event.method, decode(event.body)["n"]) for event in await log(models)]
        assert events == [("create", 0), ("create", 1), ("update", 2)]


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_transactions_that_touch_different_rows_are_not_in_each_others_way(database_url, psql, isolation):
    """At any isolation: no row is shared. One that is rolled back leaves no hole."""
    await install_triggers(database_url)
    other, third = [await asyncpg.connect(database_url) for _ in range(2)]
    connections = [psql, other, third]
    async with opened(database_url) as models:
        await psql.execute("INSERT INTO models (id, body) VALUES ('a', '{}'), ('b', '{}'), ('c', '{}')")
        assert len(await log(models, "*")) == 3, "the stream is there already"
        begun = [connection.transaction(isolation=isolation) for connection in connections]
        for transaction in begun:
            await transaction.start()
        for name, connection in zip("abc", connections, strict=True):
            await connection.execute("""UPDATE models SET body = '{"n": 1}' WHERE id = $1""", name, timeout=20)
        await begun[1].rollback()
        assert len(await log(models, "*")) == 3, "those that are open hold nobody up"
        await begun[2].commit()
        await begun[0].commit()
        assert [(event.offset, decode(event.body)["id"]) for event in await log(models, "*")] == [
            *enumerate("abc", 1),
            (4, "a"),
            (5, "c"),
        ]
    for connection in connections[1:]:
        await connection.close()


async def test_too_many_rows_are_not_told_one_by_one(database_url, psql):
    """Clients read everything anew: after one statement, after many of one transaction, after many transactions."""
    await install_triggers(database_url, per_channel=True)
    insert = (
        "INSERT INTO models (channel, id, body) SELECT 'home', $1 || n, '{}' FROM generate_series(1, $2::integer) n"
    )
    async with opened(database_url, per_channel=True) as models:
        await psql.execute(insert, "a", MOST_TOLD + 1)
        top = await models.top("home")
        assert (top.offset, await models.store.since("c:home", top.epoch, 0)) == (1, None)
        assert await models.store.since("c:home", top.epoch, 1, top.stamp) == []
        async with psql.transaction():
            await psql.execute("UPDATE models SET channel = 'work'")
            await psql.execute("DELETE FROM models WHERE channel = 'work'")
        for channel, before in (("home", 1), ("work", 0)):
            after = await models.top(channel)
            assert after.offset > before
            assert await models.store.since(f"c:{channel}", after.epoch, before) is None
        # Of a transaction that writes them bit by bit, no more are kept either.
        async with psql.transaction():
            for name in "xyz":
                await psql.execute(insert, name, MOST_TOLD * 2 // 3)
            assert await psql.fetchval("SELECT count(*) FROM bbio_pending WHERE body IS NOT NULL") < MOST_TOLD
            await psql.execute("DELETE FROM models")
        before = await models.top("home")
        for name in "bc":
            await psql.execute(insert, name, MOST_TOLD)
        last = await models.top("home")
        assert last.offset == before.offset + 2 * MOST_TOLD
        assert await models.store.since("c:home", last.epoch, before.offset) is None
        assert await psql.fetchval("SELECT count(*) FROM bbio_pending") == 0
        milk = await models.write("create", {}, channel="home")
        (event,) = await models.store.since("c:home", last.epoch, last.offset, last.stamp)
        assert event.body == milk.body


async def test_what_others_left_is_among_the_tops_of_all_streams(database_url, psql):
    """Whoever lists them numbers it first."""
    await install_triggers(database_url)
    async with opened(database_url) as models:
        await psql.execute("INSERT INTO models (id, body) VALUES ('7', '{}'), ('8', '{}')")
        assert await psql.fetchval("SELECT count(*) FROM bbio_pending") == 2
        tops = await models.log.tops()
        assert tops["*"].offset == 2
        assert tops.pop("").epoch == tops["*"].epoch
        assert tops == await models.log.positions(["*"])


def processor_seconds(pid):
    """What a process has used of the processor, whoever else does."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.parametrize("revisions", ["column", "beside"])
async def test_an_import_costs_few_times_what_it_costs_without_triggers(database_url, psql, revisions):
    """By the processor's time of PostgreSQL: two to three times, and not the 270 times of an earlier version."""
    pid = psql.get_server_pid()

    async def cost(name):
        costs = []
        for n in range(3):
            before = processor_seconds(pid)
            await psql.execute(
                f"INSERT INTO models (id, title) SELECT '{name} {n} ' || k, 'title' FROM generate_series(1, 16000) k"
            )
            costs.append(processor_seconds(pid) - before)
        return min(costs)

    async with opened(database_url, Title, revisions=revisions):
        pass
    without = await cost("without")
    await install_triggers(database_url, Title, revisions=revisions)
    assert await cost("with") < 4 * without


async def test_a_table_that_has_changed_since_is_written_to_all_the_same(database_url, psql, caplog):
    """Its programs do not suffer; clients read anew, and the next start names the command that mends it."""
    await psql.execute("CREATE TABLE models (id serial PRIMARY KEY, title text)")
    await install_triggers(database_url, Title)
    async with opened(database_url, Title) as models:
        top = (await models.store.positions(["*"]))["*"]
        await psql.execute("ALTER TABLE models RENAME title TO name")
        await psql.execute("INSERT INTO models (name) VALUES ('a')")
        await psql.execute("UPDATE models SET name = 'b'; DELETE FROM models")
        assert await models.store.since("*", top.epoch, top.offset) is None
    assert "bbio triggers" not in caplog.text
    await psql.execute("ALTER TABLE models RENAME name TO title")
    title = attrs.make_class("Title", {"title": attrs.field(type=str), "id": attrs.field(type=int, default=0)})
    await psql.execute("COMMENT ON TRIGGER bbio_insert ON models IS 'another version'")
    async with opened(database_url, title) as models:
        assert "run `bbio triggers MODULE:APP` again" in caplog.text
        await install_triggers(database_url, title)
        top = (await models.store.positions(["*"]))["*"]
        await psql.execute("INSERT INTO models (title) VALUES ('c')")
        (event,) = await models.store.since("*", top.epoch, top.offset)
        assert decode(event.body) == {"id": 2, "title": "c"}
    caplog.clear()
    async with opened(database_url, title):
        assert caplog.text == ""


async def test_a_field_that_is_new_is_told_from_the_start_on(database_url, psql, caplog):
    """Whoever adds its column has the triggers made anew."""
    await install_triggers(database_url, Title)
    noted = attrs.make_class("Title", {"title": attrs.field(type=str), "note": attrs.field(type=str, default="none")})
    async with opened(database_url, noted) as models:
        await psql.execute("INSERT INTO models (id, title) VALUES ('a', 'b')")
        (event,) = await log(models, "*")
        assert decode(event.body) == {"id": "a", "title": "b", "note": "none"}
    assert caplog.text == ""


OLDER = """
CREATE FUNCTION bbio_tell_models() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET bbio.own = '1' AS $bbio$
BEGIN
    PERFORM bbio_tell('models', '*', 'create', (NEW.body || jsonb_build_object('id', bbio_id(NEW.id::text)))::text, 7);
    RETURN NULL;
END $bbio$;
CREATE CONSTRAINT TRIGGER bbio_tell AFTER INSERT ON models DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (current_setting('bbio.own', true) IS DISTINCT FROM '1') EXECUTE FUNCTION bbio_tell_models();
"""


async def test_triggers_of_an_earlier_version_go_on(database_url, psql, caplog):
    """The start names the command that brings new ones, which take their place."""
    async with opened(database_url):
        await psql.execute(OLDER)
    async with opened(database_url) as models:
        assert "run `bbio triggers MODULE:APP` again" in caplog.text
        await psql.execute("INSERT INTO models (id, body) VALUES ('a', '{}')")
        assert plain(await log(models, "*")) == [(1, "create", {"id": "a"})]
        await install_triggers(database_url)
        await psql.execute("INSERT INTO models (id, body) VALUES ('b', '{}')")
        assert plain(await log(models, "*"))[1:] == [(2, "create", {"id": "b"})]


@attrs.define
class Versioned:
    title: str = ""
    version: int = 0


@attrs.define
class Title:
    title: str = ""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`await command(source, "triggers", "app")`: runs `bbio` for a module of that source; exit status and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    async def command(source, name, attribute, *options):
        module = f"served_{uuid.uuid4().hex}"
        (tmp_path / f"{module}.py").write_text(source)
        result = await asyncio.to_thread(CliRunner().invoke, main, [name, f"{module}:{attribute}", *options])
        return result.exit_code, result.output

    return command


async def test_the_command_installs_the_triggers(database_url, psql, command):
    """`bbio triggers` may be run again and again; `--print` shows what somebody else may run to the same end."""
    source = SERVED.format(dsn=database_url, options="")
    for _ in range(2):
        status, said = await command(source, "triggers", "app")
        assert (status, "todos" in said) == (0, True)
    triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%bbio%'"
    functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'bbio_%todos'"
    assert (await psql.fetchval(triggers), await psql.fetchval(functions)) == (6, 2)
    status, removing = await command(source, "triggers", "app", "--remove", "--print")
    assert (status, await psql.fetchval(triggers)) == (0, 6)
    status, said = await command(source, "triggers", "app", "--remove")
    assert (status, "no more: todos" in said) == (0, True)
    assert (await psql.fetchval(triggers), await psql.fetchval(functions)) == (0, 0)
    await psql.execute(removing)  # again changes nothing
    status, sql = await command(source, "triggers", "app", "--print")
    assert (status, await psql.fetchval(triggers)) == (0, 0), "it is tried, and rolled back"
    for _ in range(2):
        await psql.execute(sql)
    assert await psql.fetchval(triggers) == 6
    status, said = await command(source, "triggers", "without")
    assert (status, "no backend" in said) == (1, True)


async def test_sql_that_may_not_be_tried_is_printed_all_the_same(database_url, psql, command):
    """The owner of the table is somebody else, who is to run it."""
    role = f"app{id(psql)}"
    async with opened(database_url, table="todos"):
        pass
    await psql.execute(
        f"CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA public TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA public"
        f" TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
    )
    try:
        source = SERVED.format(dsn=database_url.replace("://bbio@", f"://{role}@"), options="")
        status, said = await command(source, "triggers", "app", "--print")
        assert "so the SQL was not tried: " in said
        assert status == 0
        await psql.execute(said[said.index("INSERT INTO bbio_backends") :])
        assert await psql.fetchval("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%bbio%'") == 6
    finally:
        await psql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_the_command_says_what_is_wrong(command):
    """An unreachable database is told in one line."""
    source = SERVED.format(dsn="postgresql://127.0.0.1:1/x", options="")
    for name in ("triggers", "new-epoch"):
        status, said = await command(source, name, "app")
        assert (status, said.count("\n"), "start PostgreSQL" in said) == (1, 1, True)


async def test_the_command_begins_a_new_epoch(database_url, command):
    """`bbio new-epoch` has servers that run look at their streams, and no earlier position is known any more."""
    async with opened(database_url) as models:
        milk = await models.create({})
        before = await models.top()
        status, said = await command(SERVED.format(dsn=database_url, options="table='models'"), "new-epoch", "app")
        assert (status, "models" in said) == (0, True)
        assert await models.published.checked() == [None]
        assert await models.store.since("c:", before.epoch, before.offset) is None
        assert await models.all() == [milk]


async def test_a_database_restored_elsewhere_begins_a_new_epoch(database_url, psql, caplog):
    """A copy of the tables, as pg_restore makes them, is noticed when the store starts."""
    async with opened(database_url) as models:
        milk = await models.create({})
        before = await models.top()
    await psql.execute(
        "CREATE TABLE copy (LIKE bbio_streams INCLUDING ALL); INSERT INTO copy OVERRIDING SYSTEM VALUE"
        " SELECT * FROM bbio_streams; DROP TABLE bbio_streams; ALTER TABLE copy RENAME TO bbio_streams"
    )
    async with opened(database_url) as models:
        assert (await models.top()).epoch != before.epoch
        assert await models.store.since("c:", before.epoch, before.offset) is None
        assert await models.all() == [milk]
        assert "was restored" in caplog.text


async def test_where_the_origin_is_kept_secret_nothing_is_noticed(database_url, psql):
    """A service that does not let its users ask for it can be used all the same."""
    role = f"low{id(psql)}"
    await psql.execute(
        f"CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA public TO {role};"
        " REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public"
    )
    try:
        async with opened(database_url.replace("://bbio@", f"://{role}@")) as models:
            await models.create({})
    finally:
        await psql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_the_listener_comes_back(database_url, psql, monkeypatch):
    """A connection that is silent is asked whether it lives; when it was cut, the log is looked at."""
    from bbio.builtin.postgres import broker

    monkeypatch.setattr(broker, "PULSE_SECONDS", 0.01)
    monkeypatch.setattr(broker, "BACKOFF_SECONDS", (0.01, 0.1))
    async with opened(database_url) as models:
        listening = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND query = 'SELECT 1'"
        )

        async def asked():
            return await psql.fetchval(listening) is not None

        await eventually(asked)
        await psql.execute(f"SELECT pg_terminate_backend(pid) FROM ({listening}) l")
        assert await models.published.checked() == [None]
