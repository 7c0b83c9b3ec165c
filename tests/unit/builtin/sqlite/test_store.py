"""SQLiteStore beyond the store suite: commits shared by many, tables, files that are shared, copied or moved."""

import asyncio
import contextlib
import resource
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from functools import partial

import attrs
import pytest

import bbio
from bbio import BadRequest, Busy, ConfigurationError, Conflict, HistoryLimits, Timeout, Unavailable
from bbio.builtin import SQLiteStore, documents
from bbio.builtin.sqlite import file as sqlite_file
from bbio.builtin.sqlite import store as sqlite_store
from bbio.builtin.sqlite.file import Database
from bbio.builtin.sqlite.threads import Call, Worker
from bbio.conformance import opened
from bbio.model.schema import Schema
from bbio.protocol import decode
from bbio.streams import Position
from bbio.was import RecordChange, change_of
from tests.support.large import LARGE, patch_large


@pytest.fixture
def path(tmp_path):
    """Where the models are kept."""
    return tmp_path / "models.db"


@pytest.fixture
def commits(monkeypatch):
    """How many writes each commit had."""
    sizes = []
    commit = Database._commit

    def counted(self, connection, changes):
        sizes.append(len(changes))
        return commit(self, connection, changes)

    monkeypatch.setattr(Database, "_commit", counted)
    return sizes


def execute(path, *statements):
    """Do something to a file as another program would; the rows of the last statement come back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


async def in_writer(models, function):
    return await models.store._database.writer.call(function)


async def pragma(models, name):
    return await in_writer(models, lambda connection: connection.execute(f"PRAGMA {name}").fetchone()[0])


# Commits


async def test_writes_that_wait_share_a_commit(path, commits):
    """What arrives in one turn of the loop is committed at once, and what arrives meanwhile after it."""
    async with opened(SQLiteStore(path)) as models:
        await asyncio.gather(*(models.create({"n": n}) for n in range(100)))
        assert commits == [100]
        await models.create({})
        assert commits == [100, 1]


async def test_a_commit_has_a_bound(path, commits, monkeypatch):
    """More writes than fit into one are done in several, in order."""
    monkeypatch.setattr(documents, "MAX_BATCH", 40)
    async with opened(SQLiteStore(path)) as models:
        await asyncio.gather(*(models.create({"n": n}) for n in range(100)))
        assert commits == [40, 40, 20]
        assert [decode(event.body)["n"] for event, _ in models.published] == list(range(100))


async def test_large_models_are_written_a_few_at_a_time(path):
    """Small patches of many of them would else hold all of them at once; each has its turn, in order."""
    async with opened(SQLiteStore(path, models=LARGE)) as models:
        await patch_large(models)
        assert [(await models.read(n))["n"] for n in range(10)] == list(range(10, 20))


async def test_large_models_are_written_a_few_at_a_time_beside_one_that_is_refused(path, commits):
    """Then each is written by itself, in one transaction."""
    async with opened(SQLiteStore(path, models=LARGE)) as models:
        execute(path, "CREATE UNIQUE INDEX one ON models (json_extract(body, '$.n'))")
        writes = [models.write("patch", {"id": n, "n": max(n, 1)}) for n in range(10)]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Conflict)] == [1]
        # 0, 1, 2 and 3 of all; of the next eight there are but six, and three have room.
        assert commits == [10, 6, 3]


async def test_too_many_writes_are_told_so(path, monkeypatch):
    """The queue has a bound; beyond it a write is refused at once, and not done."""
    monkeypatch.setattr(documents, "MAX_WAITING_JOBS", 3)
    async with opened(SQLiteStore(path)) as models:
        outcomes = await asyncio.gather(*(models.create({"n": n}) for n in range(5)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [dict, dict, dict, Busy, Busy]
        assert len(await models.all()) == 3


async def test_writers_that_gave_up_at_once_cost_nothing(path, commits, monkeypatch):
    """A batch that nobody waits for is passed over, also when it is not the last."""
    monkeypatch.setattr(documents, "MAX_BATCH", 2)
    async with opened(SQLiteStore(path)) as models:
        writers = [asyncio.ensure_future(models.create({"n": n})) for n in range(5)]
        await asyncio.sleep(0)
        for writer in writers[:4]:
            writer.cancel()
        assert (await writers[4])["n"] == 4
        assert commits == [1]
        writers = [asyncio.ensure_future(models.create({})) for _ in range(2)]
        await asyncio.sleep(0)
        for writer in writers:
            writer.cancel()
    assert len(execute(path, "SELECT * FROM models")) == 1


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 1)])
async def test_durable_means_synced(path, durable, synchronous):
    """Durable commits are synced to the disk one by one, others are not."""
    async with opened(SQLiteStore(path, durable=durable)) as models:
        assert await pragma(models, "synchronous") == synchronous
        assert await pragma(models, "journal_mode") == "wal"


@pytest.mark.parametrize(
    "rule",
    [
        "CREATE UNIQUE INDEX one_title ON models (body ->> 'title')",
        "CREATE TRIGGER one_title BEFORE INSERT ON models WHEN EXISTS (SELECT 1 FROM models"
        " WHERE body ->> 'title' = NEW.body ->> 'title') BEGIN SELECT RAISE(ABORT, 'twice'); END",
    ],
)
async def test_a_write_that_breaks_a_rule_of_the_table_takes_no_other_with_it(path, rule, caplog):
    """It is a conflict; what shared its commit is written, and offsets have no hole."""
    async with opened(SQLiteStore(path)) as models:
        await in_writer(models, lambda connection: connection.execute(rule) and None)
        titles = ["a", "b", "a", "c", "b"]
        outcomes = await asyncio.gather(*(models.create({"title": t}) for t in titles), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [dict, dict, Conflict, dict, Conflict]
        assert len(await models.all()) == 3
        assert [event.offset for event, _ in models.published] == [1, 2, 3]
        assert [event.offset for event in await models.history()] == [1, 2, 3]
    assert "models: a write was refused" in caplog.text


@attrs.define
class Member:
    email: str = ""
    age: int = 18
    badge: int = bbio.field(private=True, default=1)


async def test_a_broken_rule_is_told_by_the_names_of_its_fields(path):
    """As far as SQLite says them and the client sees them, and never with values."""
    execute(
        path,
        "CREATE TABLE Models (id PRIMARY KEY, rev INTEGER NOT NULL, body TEXT NOT NULL,"
        " email AS (json_extract(body, '$.email')) UNIQUE, age AS (json_extract(body, '$.age')) NOT NULL,"
        " badge AS (json_extract(body, '$.badge')) UNIQUE, name AS (json_extract(body, '$.name')),"
        " CHECK (age > 0), UNIQUE (age, name))",
        "CREATE UNIQUE INDEX one_city ON models (json_extract(body, '$.city'))",
        "CREATE TRIGGER small BEFORE INSERT ON models WHEN NEW.age > 99 BEGIN SELECT RAISE(ABORT, 'no'); END",
    )

    async def said(models, model):
        with pytest.raises(Conflict) as refused:
            await models.create(model)
        return str(refused.value)

    ann = {"email": "ann", "age": 9, "badge": 1, "name": "Ann", "city": "Ulm"}
    async with opened(SQLiteStore(path)) as models:
        await models.create(ann)
        assert await said(models, {"email": "ann", "age": 1}) == "another model has the same 'email'"
        assert await said(models, {"age": 9, "name": "Ann"}) == "another model has the same 'age', 'name'"
        assert await said(models, {"email": "bob"}) == "the database needs a value for 'age'"
        assert await said(models, {"age": 0}) == "the database does not allow this value"
        assert await said(models, {"age": 1, "city": "Ulm"}) == "another model has the same, where each has its own"
        assert await said(models, {"age": 100}) == "the model breaks a rule of the database"
        store, err = models.store, sqlite3.IntegrityError("UNIQUE constraint failed: Models.id")
        err.sqlite_errorcode = sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
        assert str(store.refusal(err, None)) == "another model has the same 'id'"
        err.args = ("UNIQUE constraint failed: Models.rev",)
        assert str(store.refusal(err, None)) == "another model has the same, where each has its own"
        store.schema = Schema(Member)
        err.args = ("UNIQUE constraint failed: Models.email",)
        assert str(store.refusal(err, None)) == "another model has the same 'email'"
        # Nobody is to know of the field.
        err.args = ("UNIQUE constraint failed: Models.badge",)
        assert str(store.refusal(err, None)) == "another model has the same, where each has its own"


async def test_a_write_that_cannot_be_put_into_words_takes_no_other_with_it(path):
    """An id that is no Unicode text, such as a handler could make, is its writer's error alone."""
    async with opened(SQLiteStore(path, upsert=True)) as models:
        writes = [models.write("update", {"id": id}) for id in ("a", "\ud800", "b")]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert isinstance(outcomes[1], UnicodeEncodeError)
        assert [model["id"] for model in await models.all()] == ["a", "b"]


# Tables


async def test_ids_are_within_what_the_file_can_hold(path):
    """A whole number past 64 bits is no id."""
    async with opened(SQLiteStore(path, upsert=True)) as models:
        for id in (2**63, -(2**63) - 1, 10**400):
            with pytest.raises(BadRequest):
                await models.write("update", {"id": id})
            with pytest.raises(BadRequest):
                await models.read(id)


async def test_backends_share_a_file(path, commits):
    """Each has a table, streams, operations and revisions of its own; they share commits."""
    async with opened(SQLiteStore(path), "notes") as notes, opened(SQLiteStore(path), "todos") as todos:
        assert notes.store._database is todos.store._database
        await asyncio.gather(*(models.create({"of": n}, op="c:1") for n, models in enumerate((notes, todos))))
        assert commits == [2]
        assert [model["of"] for models in (notes, todos) for model in await models.all()] == [0, 1]
        assert [event.offset for models in (notes, todos) for event, _ in models.published] == [1, 1]
        assert (await notes.top()).epoch != (await todos.top()).epoch
    assert {row[0] for row in execute(path, "SELECT name FROM bbio_backends")} == {"notes", "todos"}


@pytest.mark.parametrize(
    ("other", "options", "text"),
    [
        ("models.db", {"table": "TODOS"}, "two backends keep their models in the table"),
        ("link.db", {"table": "todos"}, "two backends keep their models in the table"),
        ("models.db", {"durable": False}, "one store of .* is durable and another is not"),
    ],
)
async def test_backends_that_cannot_share_a_file(path, other, options, text):
    """Two may not have one table, by whatever path, and all must be as durable as each other."""
    (path.parent / "link.db").symlink_to(path)
    async with opened(SQLiteStore(path), "todos") as todos:
        with pytest.raises(ConfigurationError, match=text):
            async with opened(SQLiteStore(path.parent / other, **options), "notes"):
                pass
        await todos.create({})


async def test_a_table_may_have_any_name(path):
    """It is quoted."""
    name = 'to-do "list"; DROP TABLE x --'
    async with opened(SQLiteStore(path, name)) as models:
        await models.create({"n": 1})
    assert (name,) in execute(path, "SELECT name FROM sqlite_master")


@pytest.mark.parametrize("name", ["bbio_log", "BBIO_x", "sqlite_master", "a\0b"])
async def test_names_that_no_table_may_have(path, name):
    """They belong to SQLite or bbio."""
    with pytest.raises(ConfigurationError, match="cannot be the table of the models"):
        async with opened(SQLiteStore(path, name)):
            pass


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_models_are_kept_in_a_file(path):
    """For memory there is another store."""
    with pytest.raises(ConfigurationError, match="MemoryStore"):
        SQLiteStore(path)


async def test_models_to_begin_with_need_ids(path):
    """This is said at the start."""
    with pytest.raises(ConfigurationError, match="each needs an 'id'"):
        async with opened(SQLiteStore(path, models=[{"id": "a"}, {"n": 1}])):
            pass


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("CREATE TABLE models (id, title)", "has the columns id, title; body, id, rev are needed"),
        ("CREATE TABLE models (channel, id, rev, body)", "has the columns body, channel, id, rev; body, id, rev are"),
        ("CREATE TABLE models (id, rev, body)", "ON CONFLICT clause does not match any PRIMARY KEY"),
    ],
)
async def test_a_table_of_somebody_else_is_not_touched(path, statement, text):
    """One that cannot be used is an error at the start, and stays as it is."""
    execute(path, statement, "INSERT INTO models (id) VALUES (1)")
    with pytest.raises(ConfigurationError, match=text):
        async with opened(SQLiteStore(path)):
            pass
    assert len(execute(path, "SELECT * FROM models")) == 1
    assert execute(path, "SELECT name FROM bbio_backends") == []


async def test_a_table_that_was_made_before_is_used(path):
    """With the columns that are needed, and others beside them."""
    execute(
        path,
        "CREATE TABLE models (id TEXT PRIMARY KEY, rev INTEGER, body TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP)",
        """INSERT INTO models (id, rev, body) VALUES ('a', 0, '{"id": "a", "n": 1}')""",
    )
    async with opened(SQLiteStore(path)) as models:
        await models.write("patch", {"id": "a", "n": 2})
        assert await models.all() == [{"id": "a", "n": 2}]
    assert execute(path, "SELECT at FROM models") != [(None,)]


async def test_indexes_are_those_that_are_declared(path):
    """Those of an earlier start are dropped, those of somebody else are not."""
    names = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    async with opened(SQLiteStore(path, index=["title", "rank"])):
        pass
    before = set(execute(path, "CREATE INDEX own ON models (rev)", names))
    async with opened(SQLiteStore(path, index=["rank", "done"])):
        pass
    after = set(execute(path, names))
    assert (len(before - after), len(after - before)) == (1, 1)
    assert ("own",) in after


async def test_a_patch_that_builds_on_what_was_never_told_is_a_conflict(path):
    """Nothing was written to a model that the store began with."""
    async with opened(SQLiteStore(path, models=[{"id": "a"}])) as models:
        with pytest.raises(Conflict):
            await models.write("patch", {"id": "a", "n": 1}, rev=0)


async def test_a_table_that_is_made_again_begins_a_new_epoch(path):
    """Of one that was dropped no history is told, and revisions go on."""
    async with opened(SQLiteStore(path, models=[{"id": "a"}])) as models:
        for n in range(5):
            await models.write("patch", {"id": "a", "n": n})
        top, rev = await models.top(), await models.revision("a")
    execute(path, "DROP TABLE models")
    async with opened(SQLiteStore(path, models=[{"id": "a"}])) as models:
        assert (await models.top()).offset == 0
        assert await models.revision("a") > rev
        for n in range(6):
            await models.write("patch", {"id": "a", "n": n})
        assert await models.store.since("c:", top.epoch, top.offset) is None


async def test_a_file_of_a_newer_version_is_refused(path):
    """Nothing is changed in it."""
    async with opened(SQLiteStore(path)):
        pass
    execute(path, "UPDATE bbio_database SET version = 99")
    with pytest.raises(ConfigurationError, match="newer version of bbio: update bbio"):
        async with opened(SQLiteStore(path)):
            pass
    assert execute(path, "SELECT version FROM bbio_database") == [(99,)]


async def test_a_migration_keeps_what_is_there(path, monkeypatch):
    """A later version adds to a file of an earlier one; models, history and operations stay."""
    async with opened(SQLiteStore(path)) as models:
        milk = await models.create({"title": "milk"}, op="c:1")
        top = await models.top()
    added = (*sqlite_file.MIGRATIONS, ("ALTER TABLE bbio_backends ADD COLUMN more",))
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", added)
    for _ in range(2):
        async with opened(SQLiteStore(path)) as models:
            assert await models.all() == [milk]
            assert await models.top() == top
            assert (await models.write("create", {"title": "milk"}, op="c:1")).duplicate
    assert execute(path, "SELECT version FROM bbio_database") == [(len(added),)]
    assert execute(path, "SELECT more FROM bbio_backends") == [(None,)]


async def test_the_log_of_version_1_is_read_on(path, monkeypatch):
    """A file as the first version wrote it: all of its streams can be followed from where they were."""
    first = sqlite_file.MIGRATIONS[:1]
    for statement in (
        "CREATE TABLE bbio_database (version INTEGER, origin TEXT, durable INTEGER, stopped REAL)",
        *first[0],
        "CREATE TABLE models (id PRIMARY KEY, rev INTEGER NOT NULL, body TEXT NOT NULL)",
        "INSERT INTO bbio_backends VALUES (1, 'models', 5, 'begin')",
        "INSERT INTO bbio_streams VALUES (7, 1, 'c:a', 'old', 4, 16, 1e10), (8, 1, 'c:b', 'old', 1, 5, 1e10),"
        " (9, 1, 'c:empty', 'old', 6, 0, 1e10)",
        """INSERT INTO bbio_log VALUES
        (7, 3, 'create', '"é3"', 3, 'c:3', 1e10), (7, 4, 'update', '"é4"', 5, NULL, 1e10),
        (8, 1, 'create', '"b"', 4, 'c:4', 1e10), (7, 2, 'create', '"é2"', 2, NULL, 1e10)""",
    ):
        execute(path, statement)
    execute(path, "INSERT INTO bbio_database VALUES (1, '77', 1, 0)")
    history = HistoryLimits(size=40)
    async with opened(SQLiteStore(path, history=history)) as models:
        since = models.store.since
        told = [(e.offset, e.method, e.body.decode(), e.rev, e.op) for e in await since("c:a", "old", 1)]
        assert told == [
            (2, "create", '"é2"', 2, None),
            (3, "create", '"é3"', 3, None),
            (4, "update", '"é4"', 5, None),
        ]
        assert await since("c:a", "old", 0) is None
        assert [event.offset for event in await since("c:b", "old", 0)] == [1]
        assert (await since("c:empty", "old", 6), await since("c:empty", "old", 5)) == ([], None)
        await models.create({}, channel="a")
        await models.create({}, channel="empty")
        # The size of what was there counts.
        assert [event.offset for event in await since("c:a", "old", 4)] == [5]
        assert await since("c:a", "old", 1) is None
        assert [event.offset for event in await since("c:empty", "old", 6)] == [7]


async def test_what_another_process_writes_is_not_overwritten(path):
    """The positions that a server remembers hold until somebody else has written to the file."""
    async with opened(SQLiteStore(path)) as models:
        await models.create({"n": 1})
        execute(path, "UPDATE bbio_streams SET top = 7, epoch = 'other', last = NULL")
        await models.create({"n": 2})
        top = await models.top()
        assert (top.epoch, top.offset) == ("other", 8)
        assert [event.offset for event in await models.store.since("c:", "other", 7)] == [8]
        await models.create({"n": 3})
        assert [event.offset for event in await models.store.since("c:", "other", 7)] == [8, 9]


async def test_look_ups_share_a_transaction_but_see_what_was_committed(path):
    """Whoever waited for a write finds it, however many look up meanwhile; and nothing stays open afterwards."""
    async with opened(SQLiteStore(path)) as models:
        first = await models.create({"n": 0})
        done = False

        async def look():
            while not done:
                await models.read(first["id"])
                await asyncio.sleep(0)

        lookers = [asyncio.create_task(look()) for _ in range(10)]
        for n in range(200):
            model = await models.create({"n": n})
            assert await models.read(model["id"]) == model
        done = True
        await asyncio.gather(*lookers)
        await asyncio.sleep(0)
        assert execute(path, "PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)]


# Operations and history


async def test_operations_are_forgotten_in_time(path, monkeypatch):
    """Those that are too old, and the oldest of too many."""
    async with opened(SQLiteStore(path)) as models:

        async def fill(begin, end):
            await asyncio.gather(*(models.write("create", {"n": n}, op=f"c:{n}") for n in range(begin, end)))

        async def known(n):
            return await models.store.find(models.request("create", {"n": n}, op=f"c:{n}")) is not None

        monkeypatch.setattr(sqlite_store, "OPERATION_COUNT", 100)
        await fill(0, 300)
        assert [await known(n) for n in (0, 199, 200, 299)] == [False, False, True, True]
        clock = [0.0]
        models.store._seen = documents.Seen(clock=lambda: clock[0])
        monkeypatch.setattr(sqlite_store, "OPERATION_COUNT", 10_000)
        await fill(300, 500)
        clock[0] = documents.SEEN_SECONDS
        await fill(500, 700)
        assert await known(299)  # it was seen long ago, but less than a day
        monkeypatch.setattr(sqlite_store, "OPERATION_AGE", -1.0)
        await fill(700, 900)
        assert await known(600)  # however old it says that it is, it came within the hour
        clock[0] = 2 * documents.SEEN_SECONDS
        await fill(900, 1_100)
        assert [await known(n) for n in (420, 1_099)] == [False, True]


async def test_the_own_id_of_a_client_is_not_written_down(path):
    """Who reads the file, or a copy of it, cannot name an operation of somebody else."""
    async with opened(SQLiteStore(path)) as models:
        commit = await models.write("create", {}, op="own id of a client:1")
        assert (await models.write("create", {}, op="own id of a client:1")).duplicate
        written = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert commit.event.op.encode() in written
    assert b"own id" not in written


async def test_a_jump_of_the_clock_forgets_no_operation(path, monkeypatch):
    """Neither while the process runs, nor where it begins again: a retry some seconds later has no second effect."""
    wall = time.time
    async with opened(SQLiteStore(path)) as models:
        first = await models.write("create", {"n": 1}, op="page:1")
        monkeypatch.setattr(time, "time", lambda: wall() + 2 * 86_400)
        await asyncio.gather(*(models.create({}, op=f"others:{n}") for n in range(300)))
        assert (await models.write("create", {"n": 1}, op="page:1")).event.offset == first.event.offset
        assert documents.now() < wall() + 86_400
    monkeypatch.setattr(documents, "_began", time.time() - time.monotonic())
    async with opened(SQLiteStore(path)) as models:
        await asyncio.gather(*(models.create({}, op=f"later:{n}") for n in range(300)))
        assert (await models.write("create", {"n": 1}, op="page:1")).event.offset == first.event.offset


async def test_many_channels_do_not_keep_many_operations(path, monkeypatch):
    """Operations are bounded also where no stream grows."""
    monkeypatch.setattr(sqlite_store, "OPERATION_COUNT", 50)
    async with opened(SQLiteStore(path)) as models:
        await asyncio.gather(*(models.create({}, op=f"c:{n}", channel=str(n)) for n in range(400)))
    assert execute(path, "SELECT count(*) FROM bbio_operations")[0][0] < 50 + 2 * sqlite_store.TRIM_EVERY


async def test_what_is_trimmed_leaves_the_file(path):
    """The log has about as many events as the limit allows."""
    async with opened(SQLiteStore(path, history=HistoryLimits(events=10))) as models:
        for _ in range(4):
            await asyncio.gather(*(models.create({}) for _ in range(100)))
        top = await models.top()
        assert await models.store.since("c:", top.epoch, 1) is None
    assert execute(path, "SELECT count(*), max(position) FROM bbio_log")[0][0] <= 10 + sqlite_store.TRIM_EVERY


async def test_trimming_gets_past_what_is_kept(path):
    """The events of a quiet stream, at the beginning of the log, do not keep those of a busy one behind them."""
    async with opened(SQLiteStore(path, history=HistoryLimits(events=300))) as models:
        await asyncio.gather(*(models.create({}, channel="quiet") for _ in range(300)))
        for _ in range(20):
            await asyncio.gather(*(models.create({}, channel="busy") for _ in range(100)))
    assert execute(path, "SELECT count(*) FROM bbio_log")[0][0] <= 2 * 600 + sqlite_store.TRIM_EVERY


async def test_forgotten_streams_leave_no_events(path):
    """They go with the next looks at the log; a stream that comes back begins anew."""
    async with opened(SQLiteStore(path, history=HistoryLimits(streams=5))) as models:
        epoch = (await models.top()).epoch
        for _ in range(5):
            await asyncio.gather(*(models.create({}, channel=f"{n}") for n in range(200)))
        top = await models.top("0")
        assert top.epoch != epoch
        await models.create({}, channel="0")
        again = await models.top("0")
        assert (again.epoch, again.offset) == (top.epoch, top.offset + 1)
        assert len(await models.history("0")) == top.offset + 1
    (count,) = execute(path, "SELECT count(*) FROM bbio_log")[0]
    assert count <= 2 * (5 + 2 * sqlite_store.TRIM_EVERY)


async def test_only_so_many_streams_are_remembered(path, monkeypatch):
    """A writer that has to do with many forgets them, and finds them again in the file."""
    monkeypatch.setattr(sqlite_store, "KNOWN_STREAMS", 10)
    async with opened(SQLiteStore(path)) as models:
        for _ in range(3):
            for n in range(15):
                await models.create({}, channel=f"{n}")
            assert len(models.store._streams) <= 11
        assert [(await models.top(f"{n}")).offset for n in range(15)] == [3] * 15


async def test_no_event_is_taken_for_that_of_another_stream(path, monkeypatch):
    """When the id it has in the log was that of an event which is gone."""
    monkeypatch.setattr(sqlite_store, "TRIM_EVERY", 1)
    async with opened(SQLiteStore(path, history=HistoryLimits(size=100))) as models:
        large = {"x": "x" * 200}  # too large to be kept
        asked = (("other", {}), ("one", {}), ("one", large))
        await asyncio.gather(*(models.create(model, channel=name) for name, model in asked))
        assert execute(path, "SELECT id FROM bbio_log") == [(1,)]
        for _ in range(2):
            await models.create({}, channel="other")
        assert execute(path, "SELECT last FROM bbio_streams") == [(3,), (3,)]
        epoch = (await models.top("one")).epoch
        since = models.store.since
        assert await since("c:one", epoch, 1) is None
        await models.create({}, channel="one")
        assert [event.offset for event in await since("c:one", epoch, 2)] == [3]
        assert await since("c:one", epoch, 1) is None


FAILING = """CREATE TRIGGER {0} BEFORE INSERT ON bbio_log WHEN new.body LIKE '%{0}%' BEGIN SELECT {1}; END"""


async def test_a_commit_that_failed_leaves_no_hole(path):
    """What was decided in it is forgotten: the next events follow those that are in the file."""
    async with opened(SQLiteStore(path)) as models:
        execute(path, FAILING.format("failing", "abs(-9223372036854775808)"))  # which overflows
        await models.create({"n": 1})
        with pytest.raises(Unavailable):
            await models.create({"n": "failing"})
        await models.create({"n": 3})
        assert [event.offset for event in await models.history()] == [1, 2]


async def test_a_model_that_is_refused_leaves_no_hole(path):
    """The others of its commit have offsets as if it had not been there."""
    async with opened(SQLiteStore(path)) as models:
        execute(path, FAILING.format("refused", "RAISE(ABORT, 'no')"))
        await models.create({"n": 1})
        asked = (models.create({"n": n}) for n in (2, "refused", 3, "refused", 4))
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(one, Conflict) for one in done] == [False, True, False, True, False]
        await models.create({"n": 5})
        assert [event.offset for event in await models.history()] == [1, 2, 3, 4, 5]
        assert [event.offset for event, _ in models.published] == [1, 2, 3, 4, 5]


# Copies, backups, crashes


def saved(path):
    """The file as SQLite's own backup writes it."""
    to = path.parent / "backup.db"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)
    return to


async def fill(models, *numbers):
    """Write so many models, one after the other; the position after them comes back."""
    for n in numbers:
        await models.create({"n": n})
    return await models.top()


def since(models, position):
    """What a client that comes back with a position is told."""
    return models.store.since("c:", position.epoch, position.offset, position.stamp)


def in_place(backup, path):
    """The content of another file in the place of what is in this one."""
    with path.open("r+b") as file:
        file.truncate()
        file.write(backup.read_bytes())


def renamed(backup, path):
    """Another file in its place."""
    backup.replace(path)


@pytest.mark.parametrize("bring_back", [in_place, renamed])
@pytest.mark.parametrize("beside", ["-wal and -shm", "nothing"])
@pytest.mark.parametrize("durable", [True, False])
async def test_a_backup_that_is_brought_back_recovers_who_has_seen_no_more(path, bring_back, beside, durable):
    """Whatever put it back, and however soon: who knows what is gone reads everything anew, and nobody else does."""
    async with opened(SQLiteStore(path, durable=durable)) as models:
        early = await fill(models, *range(4))
        backup = saved(path)
        late = await fill(models, *range(4, 7))
    bring_back(backup, path)
    if beside == "nothing":
        assert not path.with_name("models.db-wal").exists()
    else:
        # As a crash would have left them: empty, with the file's whole content in it.
        path.with_name("models.db-wal").touch()
    async with opened(SQLiteStore(path, durable=durable)) as models:
        assert (await since(models, early), await since(models, late)) == ([], None)
        await fill(models, *range(10, 16))
        assert [event.offset for event in await since(models, early)] == [5, 6, 7, 8, 9, 10]
        assert await since(models, late) is None
        assert await models.store.since("c:", late.epoch, late.offset + 1, late.stamp) is None


@pytest.mark.parametrize("durable", [True, False])
async def test_a_snapshot_of_a_disk_recovers_who_has_seen_no_more(path, durable):
    """The files as they are in the middle of writing, put back in place after the server was killed."""
    async with opened(SQLiteStore(path, durable=durable)) as models:
        early = await fill(models, *range(4))
        files = {file: file.read_bytes() for file in path.parent.glob("models.db*")}
        assert len(files) == 3
        late = await fill(models, *range(4, 7))
    for file, content in files.items():
        file.write_bytes(content)
    async with opened(SQLiteStore(path, durable=durable)) as models:
        assert len(await models.all()) == 4
        assert (await since(models, early), await since(models, late)) == ([], None)
        await fill(models, *range(10, 16))
        assert len(await since(models, early)) == 6
        assert await since(models, late) is None


async def test_two_copies_of_a_file_go_on_apart(path):
    """What both have is known to both; what one has written, the other does not take for its own."""
    async with opened(SQLiteStore(path)) as models:
        both = await fill(models, 1, 2)
    shutil.copy2(path, path.parent / "copy.db")
    tops = []
    for name in ("models.db", "copy.db"):
        async with opened(SQLiteStore(path.parent / name)) as models:
            tops.append(await fill(models, 3, 4))
            assert len(await since(models, both)) == 2
    for name, own, other in (("models.db", *tops), ("copy.db", *reversed(tops))):
        async with opened(SQLiteStore(path.parent / name)) as models:
            assert (await since(models, own), await since(models, other)) == ([], None)


async def test_the_next_write_after_a_file_was_put_back_under_a_server_is_told_at_its_place(path):
    """The writer does not go on from the place that it remembers, so that whoever follows sees another history."""
    async with opened(SQLiteStore(path)) as models:
        await fill(models, *range(4))
        backup = saved(path)
        late = await fill(models, *range(4, 7))
        execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        in_place(backup, path)
        assert await since(models, late) is None
        await fill(models, *range(10, 14))
        assert [event.offset for event, _ in models.published][-4:] == [5, 6, 7, 8]
        assert await since(models, late) is None


async def test_stamps_that_an_earlier_version_did_not_write_are_not_known(path):
    """Its events are told to those who know no stamp either."""
    async with opened(SQLiteStore(path)) as models:
        known = await fill(models, 1, 2)
    execute(
        path,
        "ALTER TABLE bbio_log DROP COLUMN stamp",
        "ALTER TABLE bbio_streams DROP COLUMN stamp",
        "ALTER TABLE bbio_operations DROP COLUMN stamp",
        "ALTER TABLE bbio_operations DROP COLUMN record",
        "DROP TABLE bbio_was",
        "DROP TABLE bbio_notices",
        *(
            f"DROP TABLE {table}"
            for table in ("bbio_consumers", "bbio_consumer_positions", "bbio_letters", "bbio_bulks")
        ),
        f"UPDATE bbio_database SET version = {len(sqlite_file.MIGRATIONS) - 6}",
    )
    async with opened(SQLiteStore(path)) as models:
        assert await models.top() == Position(known.epoch, 2)
        assert [event.stamp for event in await models.store.since("c:", known.epoch, 1)] == [0]
        assert await since(models, known) is None
        top = await fill(models, 3)
        assert top.stamp
        assert [event.stamp for event in await models.store.since("c:", known.epoch, 1)] == [0, top.stamp]


async def test_how_a_record_was_is_never_that_of_another_event(path):
    """An earlier version drops events and leaves that behind; their ids are given again."""
    async with opened(SQLiteStore(path), keeps_was=True) as models:
        first = await models.create({"n": 1})
        second = (await models.write("patch", {**first, "n": 2})).record
    execute(path, "UPDATE bbio_log SET stamp = 5 WHERE id = 2", "INSERT INTO bbio_was VALUES (3, 5, '[null]')")
    async with opened(SQLiteStore(path), keeps_was=True) as models:
        assert [change_of(event) for event in await models.history()] == [RecordChange(None, first), None]
        third = (await models.write("patch", {**first, "n": 3})).record
        assert change_of((await models.history())[-1]) == RecordChange(second, third)
        assert execute(path, "SELECT id FROM bbio_was") == [(1,), (3,)]


@pytest.mark.parametrize("what", ["models.db-wal", "models.db"])
async def test_a_file_whose_log_is_taken_away_is_not_written_to(path, what):
    """What is written into a log that nobody will find again would be lost."""
    async with opened(SQLiteStore(path)) as models:
        await models.create({"n": 1})
        path.with_name(what).unlink()
        with pytest.raises(Unavailable):
            await models.create({"n": 2})


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
async def test_a_file_that_is_taken_away_is_not_written_to(path, how, caplog):
    """Nobody is told that something was kept where nobody will find it; back in its place it is used again."""
    async with opened(SQLiteStore(path)) as models:
        await models.create({"n": 1})
        elsewhere = path.with_suffix(".moved")
        path.rename(elsewhere)
        if how == "replaced":
            path.write_text("")
        with pytest.raises(Unavailable):
            await models.create({"n": 2})
        assert "moved, deleted or replaced while in use" in caplog.text
        if how != "deleted":
            elsewhere.rename(path)
            await models.create({"n": 3})
            assert sorted(model["n"] for model in await models.all()) == [1, 3]


# Threads


async def test_a_long_read_ends_at_its_deadline_and_holds_nobody_up(path):
    """Other reads and writes go on meanwhile, and the next long read begins."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    async with opened(SQLiteStore(path)) as models:
        milk = await models.create({"title": "milk"})
        lister = models.store._database.lister
        long = asyncio.ensure_future(lister.call(lambda connection: connection.execute(endless).fetchone(), 0.2))
        await asyncio.sleep(0)
        assert await models.read(milk["id"]) == milk
        await models.create({})
        assert not long.done()
        with pytest.raises(Timeout, match="ask for less"):
            await long
        assert len(await models.all()) == 2


async def test_a_long_read_ends_when_nobody_waits_for_it(path):
    """A request that was cancelled does not keep the thread."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    async with opened(SQLiteStore(path)) as models:
        lister = models.store._database.lister
        running = asyncio.Event()
        loop = asyncio.get_running_loop()

        def read(connection):
            loop.call_soon_threadsafe(running.set)
            connection.execute(endless).fetchone()

        long = asyncio.ensure_future(lister.call(read, 1_000))
        second = asyncio.ensure_future(lister.call(read, 1_000))
        await running.wait()
        long.cancel()
        second.cancel()
        assert await asyncio.wait_for(models.all(), 10) == []


async def test_a_look_up_that_nobody_waits_for_is_not_made(path):
    """Who gave up while the thread was busy with others of its batch takes none of its time."""
    steps, made = [(threading.Event(), threading.Event()) for _ in range(2)], []

    def hold(connection, began, gate):
        began.set()
        gate.wait(10)

    async with opened(SQLiteStore(path)) as models:
        call = models.store._database.reader.call
        (began, gate), (begins, opens) = steps
        asked = [asyncio.create_task(call(partial(hold, began=began, gate=gate)))]
        await asyncio.to_thread(began.wait, 10)
        # These two share the next batch.
        asked += [asyncio.create_task(call(partial(hold, began=begins, gate=opens)))]
        asked += [asyncio.create_task(call(made.append))]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.to_thread(begins.wait, 10)
        asked[-1].cancel()
        await asyncio.sleep(0)
        opens.set()
        await asyncio.gather(*asked, return_exceptions=True)
        await call(lambda connection: None)
    assert made == []


async def test_an_error_of_a_long_read_is_told_as_any_other(path):
    """Only the deadline is a timeout."""
    async with opened(SQLiteStore(path)) as models:
        with pytest.raises(Unavailable):
            await models.store._database.lister.call(lambda connection: connection.execute("SELECT * FROM nothing"), 5)


async def test_a_thread_survives_whatever_its_work_raises(caplog):
    """All that waited are told, and the next are served."""
    failing = [True, False]

    def work(connection, jobs):
        if failing.pop(0):
            raise RuntimeError("broken")
        for job in jobs:
            job.result = job.function(connection)
        return ()

    worker = Worker(lambda: sqlite3.connect(":memory:"), work)
    await worker.start()
    with pytest.raises(RuntimeError, match="broken"):
        await worker.call(lambda connection: 1)
    assert await worker.call(lambda connection: 2) == 2
    await worker.stop()
    assert "the database's thread failed" in caplog.text
    assert not Call(function=print).given_up


async def test_a_thread_that_stops_does_what_waits():
    """Whoever asked before the end is answered."""

    def work(connection, jobs):
        for job in jobs:
            job.result = job.function(connection)
        return ()

    worker = Worker(lambda: sqlite3.connect(":memory:"), work)
    await worker.start()
    asked = [asyncio.ensure_future(worker.call(lambda connection, n=n: n)) for n in range(3)]
    await asyncio.sleep(0)
    await worker.stop()
    assert await asyncio.gather(*asked) == [0, 1, 2]


async def test_look_ups_that_take_long_go_to_the_thread(path, monkeypatch):
    """One that was slow is followed by others in the thread, for a time; all find the same."""
    asked = []
    call = Worker.call

    async def counted(self, function):
        asked.append(function)
        return await call(self, function)

    async with opened(SQLiteStore(path)) as models:
        milk = await models.create({"title": "milk"})
        monkeypatch.setattr(Worker, "call", counted)
        assert await models.read(milk["id"]) == milk
        assert asked == []
        monkeypatch.setattr(sqlite_file, "LONG_WRITE_SECONDS", -1.0)
        assert await models.read(milk["id"]) == milk
        assert asked == []
        assert await models.read(milk["id"]) == milk
        assert len(asked) == 1
        monkeypatch.setattr(sqlite_file, "LONG_WRITE_SECONDS", 1.0)
        models.store._database._busy_until = 0.0
        models.store._database._here.close()
        assert await models.read(milk["id"]) == milk
        assert len(asked) == 2


async def test_a_million_models_are_read_page_by_page(path):
    """Memory follows the page, not the table; what asks for all of them is refused, and holds nobody up."""
    async with opened(SQLiteStore(path)) as models:
        await in_writer(
            models,
            lambda connection: (
                connection.execute(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)"
                    """ INSERT INTO models SELECT i, 1, '{"id":' || i || ',"n":' || (i % 10) || '}' FROM n"""
                )
                and None
            ),
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused = asyncio.ensure_future(models.store.read(models.request("read", {})))
        assert await models.read(500_000) == {"id": 500_000, "n": 0}
        with pytest.raises(BadRequest):
            await refused
        cursor, seen = None, 0
        for _ in range(3):
            data = {"limit": 1_000} | ({"cursor": cursor} if cursor else {})
            req = models.request("read", {}, options={"data": data})
            found = await models.found(req)
            assert len(found.models) == 1_000
            seen += len(found.models)
            cursor = found.next
        with contextlib.suppress(Timeout):
            await models.store.read(models.request("read", {}, options={"data": {"n": 11, "limit": 10}}))
        assert seen == 3_000
        # KiB; the models of the whole table would take some hundred thousand.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


async def test_another_process_has_permissions_looked_at(path):
    """It counts in the file, which is looked at with the positions; what this process does itself is nothing new."""
    count = "UPDATE bbio_backends SET rechecks = rechecks + 1"
    async with opened(SQLiteStore(path)) as models:
        told = []
        models.published.recheck_soon = lambda channel=None: told.append(channel)
        await models.store.tell_recheck("home")
        await models.top()
        assert told == []
        execute(path, count)
        await models.top()
        await models.top()
        assert told == [None]
        execute(path, count)
        await models.store.tell_recheck(None)
        await models.top()
        assert told == [None, None]
