"""A PostgresStore that keeps revisions beside its table, so that somebody else's table gets no column."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import asyncpg
import attrs
import pytest

from bbio import Conflict
from bbio.builtin import PostgresStore
from bbio.builtin.postgres.tables import MOST_TOLD
from bbio.conformance.cases import refused
from bbio.errors import ConfigurationError
from bbio.protocol import decode
from tests.support.postgres import install_triggers, log, opened, processes, remove_triggers
from tests.support.servers import eventually

pytestmark = pytest.mark.once  # what is asked is what PostgreSQL does, not a Python

BESIDE = {"revisions": "beside"}
TABLE = "CREATE TABLE models (id serial PRIMARY KEY, title text, n integer NOT NULL DEFAULT 0, seen integer)"
COLUMNS = (
    "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0"
)
ENTRIES = "SELECT channel, id, rev FROM bbio_revs ORDER BY channel, id"


@attrs.define
class Item:
    title: str | None = None
    n: int = 0


@attrs.define
class Drawing:
    rev: str = ""
    title: str = ""


@attrs.define
class Priced:
    data: dict[str, Any] | None = None
    price: Decimal = Decimal(0)


async def revs(psql):
    """The revision of each model that has an entry, by its id."""
    return {id: rev for _, id, rev in await psql.fetch(ENTRIES)}


def plain(events):
    return [(event.method, decode(event.body)) for event in events]


async def refusal(database_url, model=Item, **options):
    """What the start says."""
    with pytest.raises(ConfigurationError) as told:
        async with opened(database_url, model, **options):
            pass
    return str(told.value)


async def test_nothing_is_added_to_the_table(database_url, psql):
    """Rows that are there have the revision 0; what is written is numbered, asked for and found like anywhere."""
    await psql.execute(TABLE + "; INSERT INTO models (title) VALUES ('a'), ('b'), ('c')")
    columns = await psql.fetchval(COLUMNS, "models")
    async with opened(database_url, Item, index=["title"], **BESIDE) as models:
        req = models.request("read", {}, options={"data": {"sort": "-title", "limit": 2}})
        found = await models.found(req)
        assert [each["title"] for each in found.models] == ["c", "b"]
        assert found.revs == {3: 0, 2: 0}
        patched = await models.write("patch", {"id": 2, "title": "b2"}, rev=0)
        assert await models.revision(2) == patched.event.rev > 0
        made = await models.write("create", {"title": "d", "n": 0})
        assert await revs(psql) == {"2": patched.event.rev, "4": made.event.rev}
        pages, cursor = {}, None
        for _ in range(2):
            data = {"sort": "title", "limit": 2} | ({"cursor": cursor} if cursor else {})
            req = models.request("read", {}, options={"data": data})
            found = await models.found(req)
            pages |= found.revs
            cursor = found.next
        assert (pages, cursor) == ({1: 0, 2: patched.event.rev, 3: 0, 4: made.event.rev}, None)
        counted = await models.write("patch", {"id": 4, "$inc": {"n": 2}}, rev=0)
        assert (counted.record["n"], await models.revision(4)) == (2, counted.event.rev)
        await models.write("delete", {"id": 2})
        assert await revs(psql) == {"4": counted.event.rev}
    assert await psql.fetchval(COLUMNS, "models") == columns


async def test_what_changes_nothing_does_not_touch_the_row(database_url, psql):
    """It has a new revision, as it is an event; the triggers of the owner do not fire."""
    await psql.execute(TABLE + "; INSERT INTO models (title) VALUES ('a')")
    async with opened(database_url, Item, **BESIDE) as models:
        before = await psql.fetchval("SELECT xmin::text FROM models")
        same = first = await models.write("patch", {"id": 1, "title": "a"})
        assert same.record == {"id": 1, "title": "a", "n": 0}
        assert await models.revision(1) == same.event.rev
        assert await psql.fetchval("SELECT xmin::text FROM models") == before
    async with opened(database_url, None, table="documents", per_channel=True, **BESIDE) as models:
        milk = await models.create({"n": 1}, channel="home")
        same = await models.write("patch", {"id": milk["id"], "n": 1}, channel="home")
        assert same.record == milk
        assert await psql.fetch(ENTRIES) == [("", "1", first.event.rev), ("home", milk["id"], same.event.rev)]


async def test_a_column_rev_of_the_owners_is_left_alone(database_url, psql):
    """It may be a field; without this option the start says that there is one."""
    await psql.execute(
        "CREATE TABLE models (id serial PRIMARY KEY, title text, rev text NOT NULL);"
        "INSERT INTO models (title, rev) VALUES ('house', 'B-2')"
    )
    assert "PostgresStore(..., revisions='beside')" in await refusal(database_url)
    async with opened(database_url, Drawing, **BESIDE) as models:
        await models.write("patch", {"id": 1, "title": "villa"})
        made = await models.create({"title": "hut", "rev": "A-1"})
        assert await models.all() == [{"id": 1, "rev": "B-2", "title": "villa"}, made]
        found = await models.found(models.request("read", {}, options={"data": {"rev": "A-1"}}))
        assert found.models == [made]
    assert await psql.fetch("SELECT title, rev FROM models ORDER BY id") == [("villa", "B-2"), ("hut", "A-1")]


async def test_conflicts_are_those_of_a_column(database_url, psql):
    """A patch is one when a field that it sets was changed; others of the same model pass, whoever wrote."""
    await psql.execute(TABLE + "; INSERT INTO models (title) VALUES ('a')")
    await install_triggers(database_url, Item, **BESIDE)
    async with processes(database_url, 2, model=Item, **BESIDE) as (one, two):
        await psql.execute("UPDATE models SET n = 1")
        rev = await one.revision(1)
        await asyncio.gather(
            one.write("patch", {"id": 1, "title": "b"}, rev=rev), two.write("patch", {"id": 1, "n": 2}, rev=rev)
        )
        assert await two.read(1) == {"id": 1, "title": "b", "n": 2}
        with pytest.raises(Conflict) as told:
            await two.write("patch", {"id": 1, "n": 3}, rev=rev)
        assert told.value.rev == await one.revision(1) > rev
        rev = await one.revision(1)
        await psql.execute("UPDATE models SET title = 'c'")
        await refused(one.write("patch", {"id": 1, "title": "d"}, rev=rev), "Conflict")
        await two.write("patch", {"id": 1, "n": 4}, rev=rev)
        assert await one.read(1) == {"id": 1, "title": "c", "n": 4}


async def test_who_has_waited_sees_the_revision(database_url, psql):
    """Another program holds the row, and commits: what it made is what a write that waited is compared with."""
    await psql.execute(TABLE + "; INSERT INTO models (title) VALUES ('a')")
    await install_triggers(database_url, Item, **BESIDE)
    async with opened(database_url, Item, **BESIDE) as models:
        rev = (await models.write("patch", {"id": 1, "n": 1})).event.rev
        other = await asyncpg.connect(database_url)
        async with other.transaction():
            await other.execute("UPDATE models SET title = 'theirs'")
            writing = asyncio.ensure_future(models.write("patch", {"id": 1, "title": "mine"}, rev=rev))

            async def waits():
                return await psql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") == 1

            await eventually(waits)
        with pytest.raises(Conflict):
            await writing
        await other.close()
        assert (await models.read(1))["title"] == "theirs"


async def test_what_others_write_has_a_revision(database_url, psql):
    """Inserts, updates, deletes, updates of the key; a column that is no part of the model changes nothing."""
    await psql.execute(TABLE)
    await install_triggers(database_url, Item, **BESIDE)
    await install_triggers(database_url, Item, **BESIDE)  # again changes nothing
    async with opened(database_url, Item, **BESIDE) as models:
        await psql.execute("INSERT INTO models (title) VALUES ('a'), ('b'), ('c')")
        await psql.execute("UPDATE models SET title = 'x' WHERE id = 1; UPDATE models SET seen = 1")
        await psql.execute("UPDATE models SET id = id + 10, n = 1 WHERE id > 1; DELETE FROM models WHERE id = 12")
        await psql.execute("UPDATE models SET title = 'y' WHERE id = 0; DELETE FROM models WHERE id = 0")
        events = await log(models, "*")
        assert plain(events) == [
            *(("create", {"id": n, "title": title, "n": 0}) for n, title in enumerate("abc", 1)),
            ("update", {"id": 1, "title": "x", "n": 0}),
            ("delete", {"id": 2, "title": "b", "n": 0}),
            ("delete", {"id": 3, "title": "c", "n": 0}),
            ("create", {"id": 12, "title": "b", "n": 1}),
            ("create", {"id": 13, "title": "c", "n": 1}),
            ("delete", {"id": 12, "title": "b", "n": 1}),
        ]
        assert await revs(psql) == {"1": events[3].rev, "13": events[7].rev}
        assert [event.rev for event in events] == sorted(event.rev for event in events)
        assert events[3].rev > events[0].rev


async def test_the_triggers_are_removed(database_url, psql):
    """All of them, and their functions; revisions stay, and what others write then has none."""
    await psql.execute(TABLE)
    await install_triggers(database_url, Item, **BESIDE)
    triggers = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'models'::regclass"
    functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'bbio_%models'"
    assert (await psql.fetchval(triggers), await psql.fetchval(functions)) == (4, 2)
    await psql.execute("INSERT INTO models (title) VALUES ('a')")
    async with opened(database_url, Item, **BESIDE) as models:
        before = await models.revision(1)
        await remove_triggers(database_url, Item, **BESIDE)
        assert (await psql.fetchval(triggers), await psql.fetchval(functions)) == (0, 0)
        await psql.execute("UPDATE models SET title = 'b'; INSERT INTO models (title) VALUES ('c')")
        assert (await models.revision(1), await models.revision(2)) == (before, 0)
        assert len(await log(models, "*")) == 1


async def test_a_model_that_is_created_anew_goes_on(database_url, psql):
    """Under the id of an earlier one, by whomever: a write that builds on the earlier one is a conflict."""
    await install_triggers(database_url, per_channel=True, **BESIDE)
    async with opened(database_url, per_channel=True, upsert=True, **BESIDE) as models:
        first = await models.write("update", {"id": "a", "n": 1})
        await models.write("delete", {"id": "a"})
        await psql.execute("INSERT INTO models (channel, id, body) VALUES ('', 'a', '{}')")
        second = await models.revision("a")
        await psql.execute("DELETE FROM models")
        third = (await models.write("update", {"id": "a", "n": 3})).event.rev
        assert first.event.rev < second < third == await models.revision("a")
        for rev in (first.event.rev, second):
            await refused(models.write("update", {"id": "a", "n": 4}, rev=rev), "Conflict")
        await psql.execute("TRUNCATE models")
        assert await revs(psql) == {}
        # A sequence that a restored backup has taken back.
        await psql.execute(
            "INSERT INTO bbio_revs (backend, id, channel, rev) SELECT id, 'a', '', 99999 FROM bbio_backends"
        )
        await psql.execute("INSERT INTO models (channel, id, body) VALUES ('', 'a', '{}')")
        assert await models.revision("a") == 100000
        await psql.execute("DELETE FROM models")
        assert [event.rev for event in (await log(models))[-2:]] == [100000, 100001]


async def test_what_a_write_sets_off_is_later(database_url, psql):
    """A trigger of the owner's writes the same row once more: its revision stays."""
    await psql.execute(TABLE)
    await install_triggers(database_url, Item, **BESIDE)
    async with opened(database_url, Item, **BESIDE) as models:
        await psql.execute("""
            CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN UPDATE models SET n = 2 WHERE id = NEW.id; RETURN NULL; END $$;
            CREATE TRIGGER counted AFTER INSERT ON models FOR EACH ROW EXECUTE FUNCTION counted();
        """)
        made = await models.write("create", {"n": 1})
        (event,) = await log(models, "*")
        assert (decode(event.body)["n"], await models.revision(1)) == (2, event.rev)
        assert event.rev > made.event.rev


async def test_a_model_that_is_there_again_when_it_is_deleted(database_url, psql):
    """A trigger of the owner's puts it back: it has the revision that it was told with, and no other."""
    await psql.execute(TABLE)
    await install_triggers(database_url, Item, **BESIDE)
    async with opened(database_url, Item, **BESIDE) as models:
        await models.create({"title": "a", "n": 1})
        await psql.execute("""
            CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN INSERT INTO models (id, title) VALUES (OLD.id, 'again'); RETURN NULL; END $$;
            CREATE TRIGGER again AFTER DELETE ON models FOR EACH ROW EXECUTE FUNCTION again();
        """)
        gone = await models.write("delete", {"id": 1})
        (event,) = await log(models, "*")
        assert plain([event]) == [("create", {"id": 1, "title": "again", "n": 0})]
        assert gone.event.rev < event.rev == await models.revision(1)


async def test_what_is_told_otherwise_has_changed(database_url, psql):
    """Also where its type has no equality, or takes both for the same."""
    await psql.execute("CREATE TABLE models (id serial PRIMARY KEY, data json, price numeric)")
    await install_triggers(database_url, Priced, **BESIDE)
    async with opened(database_url, Priced, **BESIDE) as models:
        await psql.execute("""INSERT INTO models (data, price) VALUES ('{"a": 1}', 1.0)""")
        for change in ("data = data", "data = '{\"a\": 2}'", "price = 1.00", "price = price"):
            await psql.execute(f"UPDATE models SET {change}")
        events = await log(models, "*")
        assert plain(events) == [
            ("create", {"id": 1, "data": {"a": 1}, "price": "1.0"}),
            ("update", {"id": 1, "data": {"a": 2}, "price": "1.0"}),
            ("update", {"id": 1, "data": {"a": 2}, "price": "1.00"}),
        ]
        assert await revs(psql) == {"1": events[-1].rev}


async def test_a_row_that_two_foreign_keys_change_at_a_time(database_url, psql):
    """It is there twice for the triggers, and has one revision; whether it is told or not."""
    await psql.execute(f"""
        CREATE TABLE parents (n integer PRIMARY KEY, title text UNIQUE); INSERT INTO parents VALUES (1, 'a');
        {TABLE}; INSERT INTO models (title, n) SELECT 'a', 1 FROM generate_series(1, {MOST_TOLD});
        ALTER TABLE models ADD FOREIGN KEY (n) REFERENCES parents ON UPDATE CASCADE,
            ADD FOREIGN KEY (title) REFERENCES parents (title) ON UPDATE CASCADE
    """)
    await install_triggers(database_url, Item, **BESIDE)
    async with opened(database_url, Item, **BESIDE) as models:
        await psql.execute("UPDATE parents SET n = 2, title = 'b'")
        assert len({*(await revs(psql)).values()}) == 1
        await psql.execute("DELETE FROM models WHERE id > 1")
        top = (await models.store.positions(["*"]))["*"]
        await psql.execute("UPDATE parents SET n = 3, title = 'c'")
        (event,) = await models.store.since("*", top.epoch, top.offset)
        assert decode(event.body) == {"id": 1, "title": "c", "n": 3}
        assert await revs(psql) == {"1": event.rev}


async def test_many_rows_have_revisions_too(database_url, psql):
    """More than are told one by one; those that are as they were keep theirs, those that are gone have none."""
    count = MOST_TOLD + 1
    await psql.execute(TABLE)
    await install_triggers(database_url, Item, **BESIDE)
    async with opened(database_url, Item, **BESIDE) as models:
        await psql.execute("INSERT INTO models (title) SELECT 'a' FROM generate_series(1, $1::integer)", count)
        first = await revs(psql)
        assert (len(first), len({*first.values()})) == (count, 1)
        await psql.execute("UPDATE models SET seen = 1, title = CASE id WHEN 7 THEN 'b' ELSE title END")
        second = await revs(psql)
        assert {id for id in second if second[id] != first[id]} == {"7"}
        await psql.execute("UPDATE models SET id = -id WHERE id > 1")
        third = await revs(psql)
        assert third.keys() == {str(-n if n > 1 else n) for n in range(1, count + 1)}
        assert third["1"] == first["1"] < second["7"] < third["-7"]
        await psql.execute("DELETE FROM models")
        assert await revs(psql) == {}
        top = (await models.store.positions(["*"]))["*"]
        assert await models.store.since("*", top.epoch, 0) is None


async def test_too_many_rows_are_one_word(database_url, psql):
    """No row of a large import is written down once more, to be told."""
    await psql.execute(TABLE)
    await install_triggers(database_url, Item, **BESIDE)
    for change in (
        f"INSERT INTO models (title) SELECT 'a' FROM generate_series(0, {MOST_TOLD})",
        "UPDATE models SET n = 1",
        "DELETE FROM models",
    ):
        await psql.execute(change)
        assert await psql.fetch("DELETE FROM bbio_pending RETURNING stream, body") == [("*", None)]


async def test_a_key_that_is_checked_at_the_end(database_url, psql):
    """Until a transaction ends several rows may have one key; its programs do not suffer."""
    await psql.execute(TABLE.replace("PRIMARY KEY", "PRIMARY KEY DEFERRABLE INITIALLY DEFERRED"))
    await install_triggers(database_url, Item, **BESIDE)
    async with opened(database_url, Item, **BESIDE) as models:
        async with psql.transaction():
            await psql.execute("INSERT INTO models VALUES (1, 'a'), (1, 'b'), (2, 'c'), (2, 'd')")
            await psql.execute("UPDATE models SET n = 1")
            await psql.execute("DELETE FROM models WHERE title IN ('a', 'c', 'd')")
        assert await models.all() == [{"id": 1, "title": "b", "n": 1}]
        assert (await log(models, "*"))[0].method == "create"


@pytest.mark.parametrize("revisions", ["beside", "column"])
async def test_texts_of_any_collation_are_keys(database_url, psql, revisions):
    """They are compared with entries that have a collation of their own, by bbio and by triggers."""
    text = 'text COLLATE "POSIX" NOT NULL'
    await psql.execute(f"CREATE TABLE models (channel {text}, id {text}, title text, n integer NOT NULL DEFAULT 0)")
    await psql.execute("ALTER TABLE models ADD PRIMARY KEY (channel, id)")
    options = {"revisions": revisions, "per_channel": True}
    await install_triggers(database_url, Item, **options)
    async with opened(database_url, Item, **options) as models:
        made = await models.create({"title": "a", "n": 0})
        await psql.execute("UPDATE models SET n = 1")
        await psql.execute("INSERT INTO models (channel, id, title) VALUES ('home', 'x', 'b'), ('', 'y', 'c')")
        assert await models.revision(made["id"]) == (await log(models))[1].rev
        assert [model["title"] for model in await models.all()] == ["a", "c"]
        await psql.execute("UPDATE models SET id = 'z' WHERE id = 'y'; DELETE FROM models WHERE id = 'z'")
        await models.write("patch", {"id": made["id"], "n": 2})
        await models.write("delete", made)
        told = [event.method for event in (await log(models))[2:]]
        assert told == ["create", "delete", "create", "delete", "update", "delete"]
        if revisions == "beside":
            assert [(channel, id) for channel, id, _ in await psql.fetch(ENTRIES)] == [("home", "x")]
            await psql.execute("ALTER TABLE models DISABLE TRIGGER USER; DELETE FROM models")
    async with opened(database_url, Item, **options):
        assert await psql.fetch(ENTRIES) == []


async def test_a_table_that_has_changed_since_has_revisions(database_url, psql):
    """All that is written counts as changed, as long as its key is what it was."""
    await psql.execute(TABLE + "; INSERT INTO models (title) VALUES ('a'), ('b')")
    await install_triggers(database_url, Item, **BESIDE)
    async with opened(database_url, Item, **BESIDE) as models:
        await psql.execute("ALTER TABLE models ALTER title TYPE varchar; UPDATE models SET title = title WHERE id = 1")
        assert (await revs(psql)).keys() == {"1"}
        await psql.execute("UPDATE models SET id = 3 WHERE id = 1")
        assert (await revs(psql)).keys() == {"3"}
        await psql.execute("ALTER TABLE models RENAME id TO key; UPDATE models SET title = 'c'; DELETE FROM models")
        assert (await revs(psql)).keys() == {"3"}
        top = (await models.store.positions(["*"]))["*"]
        assert await models.store.since("*", top.epoch, 0) is None


async def test_virtual_columns_and_names(database_url, psql, monkeypatch):
    """Columns may be called like anything that the triggers use; tables and ids too, and are nothing but names."""
    name, host = 'x"; DROP TABLE "Kept"; --', "backend_id number events kept stream_name is_fit channel_name v e r"
    quoted = '"' + name.replace('"', '""') + '"'
    columns = ", ".join(f"{each} text" for each in host.split())
    await psql.execute(
        f'CREATE TABLE "Kept" (id text); CREATE SCHEMA "Old"; CREATE TABLE "Old".{quoted} ("Id" varchar PRIMARY KEY,'
        f" number_ integer, {columns}, title text GENERATED ALWAYS AS (backend_id || number_::text) STORED)"
    )
    from bbio.builtin.postgres import store as postgres

    # Before PostgreSQL 18 a stored one stands in for a virtual one.
    monkeypatch.setattr(postgres, "OWNERS", postgres.OWNERS.replace("WHEN 'v'", "WHEN 's'"))
    cls = attrs.make_class("M", {each: attrs.field(type=str | None, default=None) for each in [*host.split(), "title"]})
    options = {"table": f"Old.{name}", "id_attribute": "Id", **BESIDE}
    await install_triggers(database_url, cls, **options)
    async with opened(database_url, cls, **options) as models:
        await psql.execute(
            f"INSERT INTO \"Old\".{quoted} (\"Id\", backend_id, number_) VALUES ('a''\"', 'b', 1), ('7', 'c', 1)"
        )
        await psql.execute(f'UPDATE "Old".{quoted} SET number_ = 2 WHERE "Id" = \'7\'')
        events = await log(models, "*")
        assert [(event.method, decode(event.body)["Id"], decode(event.body)["title"]) for event in events] == [
            ("create", "a'\"", "b1"),
            ("create", 7, "c1"),
            ("update", 7, "c2"),
        ]
        assert await models.revision(7) == events[2].rev
        patched = await models.write("patch", {"Id": "a'\"", "r": name})
        assert await models.revision("a'\"") == patched.event.rev
        await psql.execute('SELECT 1 FROM "Kept"')


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_transactions_on_different_rows_do_not_meet(database_url, psql, isolation):
    """Of two programs that see the table as it was: no entry is shared."""
    await psql.execute(TABLE + "; INSERT INTO models (title) SELECT 'a' FROM generate_series(1, 4)")
    await install_triggers(database_url, Item, **BESIDE)
    other = await asyncpg.connect(database_url)
    async with opened(database_url, Item, **BESIDE) as models:
        for connection in (psql, other):
            # A table of four rows would be read as a whole, which is no row of one's own.
            await connection.execute("SET enable_seqscan = off")
        for turn in range(2):
            begun = [connection.transaction(isolation=isolation) for connection in (psql, other)]
            for transaction in begun:
                await transaction.start()
            for number, connection in enumerate((psql, other), 1):
                await connection.execute("UPDATE models SET n = n + 1 WHERE id = $1", number)
            assert (await models.write("patch", {"id": 4, "n": turn})).record["n"] == turn
            for transaction in begun:
                await transaction.commit()
        assert [each["n"] for each in (await models.all())[:4]] == [2, 2, 0, 1]
        assert len(await log(models, "*")) == 4
    await other.close()


async def test_revisions_move_beside(database_url, psql, caplog):
    """From a column of bbio's, once; its triggers follow, and the way back is named."""
    await psql.execute(TABLE + "; INSERT INTO models (title) VALUES ('a'), ('unnumbered')")
    await install_triggers(database_url, Item)
    async with opened(database_url, Item) as models:
        before = (await models.write("patch", {"id": 1, "title": "b"})).event.rev
    async with opened(database_url, Item, **BESIDE) as models:
        assert 'ALTER TABLE "models" DROP COLUMN rev' in caplog.text
        assert await models.revision(1) == before
        assert await revs(psql) == {"1": before}
        await psql.execute("DELETE FROM models WHERE id = 2; UPDATE models SET title = 'c'")
        assert await models.revision(1) > before
        await psql.execute("ALTER TABLE models DROP COLUMN rev; UPDATE models SET title = 'd'")
        (*_, event) = await log(models, "*")
        assert (decode(event.body)["title"], await models.revision(1)) == ("d", event.rev)
    caplog.clear()
    async with opened(database_url, Item, **BESIDE):
        assert caplog.text == ""
    told = await refusal(database_url)
    assert "kept beside the table: PostgresStore(..., revisions='beside')" in told
    await psql.execute(told.rpartition(": ")[2])
    async with opened(database_url, Item):
        assert "rev" in (await psql.fetchval(COLUMNS, "models")).split()


async def test_entries_of_models_that_are_gone_are_dropped(database_url, psql):
    """At the start, where others have deleted them and no trigger told of it; not those that somebody writes then."""
    await psql.execute(TABLE)
    async with opened(database_url, Item, **BESIDE) as models:
        for title in "abc":
            await models.create({"title": title, "n": 0})
    await psql.execute("DELETE FROM models WHERE id > 1")
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("UPDATE bbio_revs SET rev = rev + 1 WHERE id = '3'")
        async with opened(database_url, Item, **BESIDE):
            assert (await revs(psql)).keys() == {"1", "3"}
    await other.close()


async def test_an_entry_that_is_written_while_others_are_dropped_stays(database_url, psql):
    """A model that comes back just then keeps its revision."""
    await psql.execute("CREATE TABLE models (id text PRIMARY KEY, title text, n integer)")
    await psql.execute("INSERT INTO models VALUES ('a')")
    async with opened(database_url, Item, **BESIDE) as models:
        table = models.store.definition
    # A table that is looked at slowly.
    await psql.execute("""
        CREATE FUNCTION wait() RETURNS boolean LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_advisory_xact_lock(1); RETURN true; END $$;
        CREATE VIEW slow AS SELECT * FROM models WHERE wait()
    """)
    await psql.execute("INSERT INTO bbio_revs (backend, channel, id, rev) SELECT id, '', 'b', 7 FROM bbio_backends")
    await psql.execute("INSERT INTO bbio_revs (backend, channel, id, rev) SELECT id, '', 'c', 8 FROM bbio_backends")
    await psql.execute("SELECT pg_advisory_lock(1)")
    other = await asyncpg.connect(database_url)
    dropping = asyncio.ensure_future(other.execute(attrs.evolve(table, name="slow").forget()))

    async def waits():
        return await psql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") == 1

    await eventually(waits)
    await psql.execute("INSERT INTO models VALUES ('b'); UPDATE bbio_revs SET rev = 9 WHERE id = 'b'")
    await psql.execute("SELECT pg_advisory_unlock(1)")
    await dropping
    await other.close()
    assert await revs(psql) == {"b": 9}


async def test_what_does_not_fit_is_said(database_url, psql):
    """An option that there is not; a field that the table lacks, with what would add it."""
    with pytest.raises(ConfigurationError, match="in a 'column' of the table, or 'beside' it"):
        PostgresStore(database_url, revisions="besides")
    await psql.execute("CREATE TABLE models (id serial PRIMARY KEY, n integer)")
    told = await refusal(database_url, **BESIDE)
    assert "the table 'models' has no 'title', and nothing is added" in told
    await psql.execute(told.rpartition(": ")[2])
    async with opened(database_url, Item, **BESIDE) as models:
        assert (await models.create({"title": "a", "n": 0}))["title"] == "a"
