"""PostgresStore beside other processes and programs, and when its database goes away."""

from __future__ import annotations

import asyncio
import itertools
import sys
from contextlib import AsyncExitStack, suppress

import asyncpg
import attrs
import pytest

from bbio import Busy, SyncError, Timeout, Unavailable, UnknownOutcome, ratelimit
from bbio.builtin import PostgresStore, documents
from bbio.builtin.postgres import broker
from bbio.builtin.postgres import database as postgres_database
from bbio.builtin.postgres import store as postgres
from bbio.builtin.postgres.database import words_of
from bbio.builtin.postgres.statements import UP_TO
from bbio.builtin.postgres.tables import SET_UP_LOCK
from bbio.conformance.cases import refused
from bbio.errors import ConfigurationError
from bbio.protocol import decode
from bbio.ratelimit import RateLimitedLog
from bbio.streams import HistoryLimits, Op
from tests.support.postgres import Relay, log, opened, processes
from tests.support.servers import eventually
from tests.support.services import free_port


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing waits long for the next attempt."""
    monkeypatch.setattr(broker, "BACKOFF_SECONDS", (0.01, 0.1))


async def start_error(dsn, **options):
    """What the start of a store says."""
    with pytest.raises(ConfigurationError) as caught:
        async with opened(dsn, **options):
            pass
    return str(caught.value)


# The start


def test_it_needs_asyncpg_and_says_so(monkeypatch):
    """Without the extra, the store says what to install."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigurationError, match=r"pip install bbio\[postgres\]"):
        PostgresStore("postgresql://127.0.0.1/x")


def test_it_needs_to_know_where(monkeypatch):
    """The DSN is given, or in the environment; a wrong one is told at once."""
    monkeypatch.delenv("BBIO_DATABASE_URL", raising=False)
    for dsn in (None, "", "todos.db", "mysql://127.0.0.1/x"):
        with pytest.raises(ConfigurationError, match="BBIO_DATABASE_URL"):
            PostgresStore(dsn)
    monkeypatch.setenv("BBIO_DATABASE_URL", "postgres://127.0.0.1/x")
    assert PostgresStore().dsn == "postgres://127.0.0.1/x"


async def test_a_database_that_cannot_be_used_is_told_at_the_start(database_url, psql):
    """The text says what is wrong and how to mend it, and holds no password."""
    nowhere = f"postgresql://ann:secret@127.0.0.1:{free_port()}/x"
    said = await start_error(nowhere)
    assert "start PostgreSQL, or correct host and port" in said
    assert "secret" not in said
    assert "createdb" in await start_error(database_url + "_no")
    assert "DSN is wrong" in await start_error("postgresql://127.0.0.1:port/x")
    await psql.execute("CREATE TABLE models (id text, title text)")
    assert "name another" in await start_error(database_url, per_channel=True)
    assert "choose another" in await start_error(database_url, table="bbio_log")
    assert "choose another" in await start_error(database_url, table="x" * 49)
    await psql.execute("CREATE TABLE wrong (id text, body json)")
    assert "ALTER TABLE" in await start_error(database_url, table="wrong")
    await psql.execute("UPDATE bbio_database SET version = 99")
    assert "update bbio" in await start_error(database_url)


async def test_a_server_that_never_answers_is_told_at_the_start():
    """It takes no longer than the timeout."""

    async def say_nothing(reader, writer):
        await reader.read(-1)
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    assert "does not answer" in await start_error(f"postgresql://bbio@127.0.0.1:{port}/x", timeout=0.2)
    silent.close()


async def test_a_connection_that_cannot_be_looked_at_is_closed(database_url, psql, monkeypatch):
    """Whatever goes wrong before it is used, it does not stay open."""

    async def fails(self, connection):
        raise OSError("lost")

    monkeypatch.setattr(postgres_database.Database, "_check_origin", fails)
    await start_error(database_url)

    async def alone():
        return await psql.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == 1

    await eventually(alone)


async def test_rights_that_are_missing_are_told(database_url, psql):
    """A user who may not make tables is told where to look; with tables made and rights given, it works."""
    role = f"role{id(psql)}"
    await psql.execute(f"CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM public")
    low = database_url.replace("://bbio@", f"://{role}@")
    try:
        assert "grant" in await start_error(low)
        async with opened(database_url):
            pass
        await psql.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};"
            f" GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}"
        )
        async with opened(low) as models:
            milk = await models.create({"n": 1})
            assert await models.all() == [milk]
    finally:
        await psql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_table_belongs_to_one_backend_of_a_process(database_url):
    """Two backends of one name for it are a mistake."""
    async with opened(database_url):
        assert "two backends" in await start_error(database_url)


async def test_processes_may_start_at_once(database_url):
    """Each finds the tables made, by itself or another, and the models to begin with once."""

    async def start(number):
        async with opened(f"{database_url}?application_name=p{number}", models=[{"id": "1"}, {"id": 2}]) as models:
            return await models.all()

    assert await asyncio.gather(*map(start, range(6))) == [[{"id": "1"}, {"id": 2}]] * 6


async def test_a_start_that_is_given_up_leaves_nothing(database_url, psql):
    """Another store of the database goes on, and the next start works."""
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"

    async def waits():
        return await psql.fetchval(blocked) == 1

    async with opened(database_url) as models:
        await psql.execute(f"SELECT pg_advisory_lock({SET_UP_LOCK})")
        begun = asyncio.ensure_future(start_error(database_url, table="others"))
        await eventually(waits)
        begun.cancel()
        with pytest.raises(asyncio.CancelledError):
            await begun
        await psql.execute(f"SELECT pg_advisory_unlock({SET_UP_LOCK})")
        assert len(models.store._database.stores) == 1
        async with opened(database_url, table="others") as others:
            assert await others.all() == []


async def test_a_listener_that_finds_no_connection_is_told_at_the_start(database_url, psql):
    """A store needs two at least."""
    role = f"one{id(psql)}"
    await psql.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1; GRANT ALL ON SCHEMA public TO {role}")
    try:
        said = await start_error(database_url.replace("://bbio@", f"://{role}@"))
        assert "no connection left" in said
    finally:
        await psql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_stores_of_one_database_share_it(database_url, psql):
    """One may stop and the other goes on; what is told of one is not looked at by the other."""
    async with opened(database_url, table="one") as one:
        async with opened(database_url, table="two") as two:
            await two.create({})
        milk = await one.create({})
        assert await one.all() == [milk]
        assert len(one.store._database.stores) == 1


# Several processes


async def test_processes_share_the_streams(database_url):
    """Offsets have no hole and none is given twice; each operation is applied once, whoever gets it."""
    async with processes(database_url, 3) as stores:

        async def write(number):
            for n in range(8):
                store, op = stores[(number + n) % 3], f"w{number // 2}:{n}"
                await store.write("create", {"op": op}, op=op, channel=str(n % 2))

        await asyncio.gather(*map(write, range(20)))
        for stream in ("c:0", "c:1"):
            events = await log(stores[0], stream)
            assert [event.offset for event in events] == list(range(1, len(events) + 1))
            told = [event.offset for store in stores for event, _ in store.published if event.stream == stream]
            assert sorted(told) == [event.offset for event in events]
        operations = [event.op for stream in ("c:0", "c:1") for event in await log(stores[0], stream)]
        assert sorted(operations) == sorted(Op(f"w{w}", n).public for w in range(10) for n in range(8))
        assert len(await stores[1].all()) == len(operations)


async def test_processes_lose_no_patch(database_url):
    """Patches of one model from several processes all are in it, and its revisions grow along the stream."""
    async with processes(database_url, 3) as stores:
        milk = await stores[0].create({})
        await asyncio.gather(
            *(stores[n % 3].write("patch", {"id": milk["id"], f"f{n}": n}) for n in range(60)),
        )
        assert await stores[1].read(milk["id"]) == {**milk, **{f"f{n}": n for n in range(60)}}
        revs = [event.rev for event in await log(stores[2])]
        assert revs == sorted(set(revs))


async def test_processes_that_make_the_same_model_make_one(database_url):
    """With `upsert`, what another process has just made is updated."""
    async with processes(database_url, 3, upsert=True) as stores:
        for round in range(10):
            await asyncio.gather(*(stores[n % 3].write("update", {"id": round, "n": n}) for n in range(12)))
        events = await log(stores[0])
        last = {decode(event.body)["id"]: decode(event.body) for event in events}
        assert await stores[0].all() == sorted(last.values(), key=str)
        for id in range(10):
            revs = [event.rev for event in events if decode(event.body)["id"] == id]
            assert revs == sorted(set(revs))
            assert await stores[0].revision(id) == revs[-1]


async def test_deadlocks_are_tried_again(database_url, psql):
    """Another program that locks models in another order is let through, and the write passes."""
    async with opened(database_url) as models:
        a, b = sorted([(await models.create({}))["id"], (await models.create({}))["id"]])
        await psql.execute("SET deadlock_timeout = '10s'; BEGIN")
        await psql.execute("SELECT FROM models WHERE id = $1 FOR UPDATE", b)
        write = asyncio.gather(models.write("patch", {"id": a, "n": 1}), models.write("patch", {"id": b, "n": 1}))
        blocked = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )

        async def waits():
            return await psql.fetchval(blocked) == 1

        await eventually(waits)
        await psql.execute("SELECT FROM models WHERE id = $1 FOR UPDATE", a)
        await psql.execute("COMMIT")
        await write
        assert [model["n"] for model in await models.all()] == [1, 1]


# Slow, busy, refusing


async def test_a_model_that_another_program_holds_is_a_timeout_and_the_others_pass(database_url, psql):
    """Writes of other models that wait together with it are applied."""
    async with opened(database_url, timeout=1.5) as models:
        held, free = await models.create({}), await models.create({})
        async with psql.transaction():
            await psql.execute("SELECT FROM models WHERE id = $1 FOR UPDATE", held["id"])
            late, passed = await asyncio.gather(
                models.write("patch", {**held, "n": 1}), models.write("patch", {**free, "n": 1}), return_exceptions=True
            )
            assert type(late) is Timeout
            assert passed.record == {**free, "n": 1}
        await models.write("patch", {**held, "n": 2})
        assert [event.offset for event in await log(models)] == [1, 2, 3, 4]


async def test_a_slow_database_is_a_timeout(database_url, psql):
    """Reads and writes end in time, and go on when it is over, over the connections that there were."""
    others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with opened(database_url, timeout=1.0) as models:
        milk = await models.create({})
        await asyncio.gather(*(models.store._database.ask("SELECT pg_sleep(0.1)") for _ in range(6)))
        before = set(await psql.fetch(others))
        async with psql.transaction():
            await psql.execute("LOCK TABLE models")
            for request in (models.read(milk["id"]), models.all(), models.create({}), models.write("delete", milk)):
                await refused(request, "Timeout")
        assert await models.all() == [milk]
        assert await models.write("delete", milk)
        # A query that its asker gives up takes its connection with it, and no other.
        assert len(before - set(await psql.fetch(others))) <= 4


async def test_when_all_connections_are_in_use_the_answer_is_busy(database_url, psql):
    """Whoever finds none in time is told to come again; then it works."""
    async with opened(database_url, connections=1, timeout=1.5) as models:
        milk = await models.create({})
        async with psql.transaction():
            await psql.execute("LOCK TABLE models")
            outcomes = await asyncio.gather(models.all(), models.all(), models.all(), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Timeout, Busy}
        assert await models.all() == [milk]


async def test_rules_of_the_table_refuse_one_write_and_not_the_others(database_url, psql, caplog):
    """A user's own constraint makes a conflict, a value that PostgreSQL cannot keep a bad request."""
    async with opened(database_url) as models:
        await psql.execute("CREATE UNIQUE INDEX ON models ((body ->> 'name'))")
        writes = [{"name": "a"}, {"name": "b"}, {"name": "a"}, {"name": "c\0"}, {"name": "d"}]
        outcomes = await asyncio.gather(*(models.write("create", model) for model in writes), return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == [
            "Commit",
            "Commit",
            "Conflict",
            "BadRequest",
            "Commit",
        ]
        assert [event.offset for event, _ in models.published] == [1, 2, 3]
        assert sorted(model["name"] for model in await models.all()) == ["a", "b", "d"]
        known = outcomes[0].record
        for id in ("a\0b", "\ud800"):
            odd, found = await asyncio.gather(models.read(id), models.read(known["id"]), return_exceptions=True)
            assert (type(odd).__name__, found) == ("BadRequest", known)


async def test_a_write_that_is_refused_leaves_no_value_in_the_log(database_url, psql, caplog, monkeypatch):
    """The kind of the error, the rule and the trigger are told, in so many lines a second at most."""
    monkeypatch.setattr(postgres_database, "refusals", RateLimitedLog(documents.logger))
    async with opened(database_url) as models:
        await psql.execute("ALTER TABLE models ADD CONSTRAINT polite CHECK (body ->> 'name' <> 'secret-bad')")
        await psql.execute("""
            CREATE FUNCTION grumble() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF NEW.body ->> 'name' = 'secret-odd' THEN RAISE EXCEPTION 'no %', NEW.body; END IF;
                PERFORM (NEW.body ->> 'age')::integer;
                RETURN NEW;
            END $$;
            CREATE TRIGGER grumble BEFORE INSERT ON models FOR EACH ROW EXECUTE FUNCTION grumble();
        """)
        for name, age, kind in (
            ("secret-bad", 1, "Conflict"),
            ("secret-odd", 1, "Conflict"),
            ("x", "secret-age", "BadRequest"),
        ):
            with pytest.raises(SyncError) as caught:
                await models.write("create", {"name": name, "age": age})
            assert type(caught.value).__name__ == kind
        assert [message.partition("refused: ")[2] for message in caplog.messages] == [
            "CheckViolationError 23514, table models, rule polite",
            "RaiseError P0001, PL/pgSQL function grumble() line 3 at RAISE",
            "InvalidTextRepresentationError 22P02, PL/pgSQL function grumble() line 4 at PERFORM",
        ]
        monkeypatch.setattr(ratelimit, "LINES_PER_SECOND", 0)
        for _ in range(3):
            with pytest.raises(SyncError):
                await models.write("create", {"name": "secret-bad"})
    assert caplog.text.count("rule polite") == 1
    assert "secret" not in caplog.text


def test_what_the_log_is_told_of_an_error():
    """No value, whether it is PostgreSQL that names it or its driver."""
    refused_by_driver = asyncpg.exceptions._base.DataError("invalid input for query argument $1: 'secret'")
    assert words_of(refused_by_driver) == "DataError"
    assert words_of(OSError("no route")) == "OSError: no route"
    error = asyncpg.exceptions.UndefinedTableError("there is none")
    error.detail = "secret"
    assert words_of(error) == "UndefinedTableError 42P01: there is none"
    error.context = "PL/pgSQL function grumble() line 3 at EXECUTE"
    assert words_of(error) == "UndefinedTableError 42P01, PL/pgSQL function grumble() line 3 at EXECUTE"
    # Whatever code a function raises an error with, and whatever language it is written in, its words are its own.
    for name, code in ("SerializationError", "40001"), ("DiskFullError", "53100"), ("InternalServerError", "XX000"):
        error = getattr(asyncpg.exceptions, name)("words")
        for function in "PL/pgSQL function grumble() line 3 at RAISE", 'PL/Python function "grumble"':
            error.context = f"{function}\nSQL statement \"SELECT 'secret'\""
            assert words_of(error) == f"{name} {code}, {function}"
        error.context = 'while updating tuple (0,1) in relation "models"'
        assert words_of(error) == f"{name} {code}: words"
    # Of what is about values the message may hold one.
    error = asyncpg.exceptions.InvalidTextRepresentationError('invalid input syntax for type integer: "secret"')
    assert words_of(error) == "InvalidTextRepresentationError 22P02"


async def test_a_table_that_vanished_is_unavailable(database_url, psql, caplog):
    """What PostgreSQL says goes into the log, not to clients."""
    async with opened(database_url) as models:
        await psql.execute("DROP TABLE models")
        for request in (models.create({}), models.read("1"), models.all()):
            assert "models" not in str(await refused(request, "Unavailable"))
        assert caplog.text.count("UndefinedTableError") == 1


async def test_a_fault_of_the_server_is_no_outage(database_url, caplog, monkeypatch):
    """Nobody is told that the database is away; the fault reaches whoever asked, or the log, whole."""

    def broken(*_):
        raise TypeError("a fault of ours")

    async with opened(database_url) as models:
        with monkeypatch.context() as patch:
            patch.setattr(postgres, "Batch", broken)
            patch.setattr(postgres.PostgresStore, "_models", broken)
            patch.setattr(postgres.PostgresStore, "_trim", broken)
            for request in (models.create({}), models.read("1")):
                with pytest.raises(TypeError, match="a fault of ours"):
                    await request
            assert caplog.records == []
            await models.store.tidy()
        (record,) = caplog.records
        assert isinstance(record.exc_info[1], TypeError)
        await models.create({})


async def test_who_gets_no_connection_in_time_is_told_so(database_url):
    """All are in use for longer than a request may take."""
    async with opened(database_url, connections=1, timeout=1.0) as models:
        async with models.store._database.connections.one():
            await refused(models.create({}), "Busy")
        await models.create({})


# The database goes away


async def test_lost_connections_are_made_again(database_url, psql):
    """Terminated backends under load: writes pass or say so, and every one that passed is there once."""
    whole = HistoryLimits(events=100_000, size=1 << 28)  # on a fast machine they are thousands
    async with opened(database_url, history=whole) as models:
        done = asyncio.Event()
        acked = []

        async def write(writer):
            n = 0
            while not done.is_set():
                n += 1
                with suppress(SyncError):
                    acked.append((await models.write("create", {"w": writer, "n": n}, op=f"{writer}:{n}")).record["id"])

        writers = [asyncio.ensure_future(write(writer)) for writer in range(5)]
        for _ in range(10):
            count = len(acked) + 20

            async def wrote(count=count):
                return len(acked) >= count

            await eventually(wrote)
            await psql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        done.set()
        await asyncio.gather(*writers)
        events = await log(models)
        assert [event.offset for event in events] == list(range(1, len(events) + 1))
        assert len({event.op for event in events}) == len(events)
        stored = {model["id"] for model in await models.all()}
        assert stored == {decode(event.body)["id"] for event in events}
        assert set(acked) <= stored
        assert None in await models.published.checked(), "the log is looked at when the listener is back"


async def test_what_idle_connections_have_lost_is_not_noticed_by_readers(database_url, psql):
    """A read finds another connection, and so does a write."""
    async with opened(database_url) as models:
        milk = await models.create({})
        for request in (lambda: models.read(milk["id"]), models.all, lambda: models.write("patch", milk), models.top):
            await asyncio.gather(*(models.all() for _ in range(5)))
            await psql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await request()


async def test_a_connection_that_is_lost_while_it_is_looked_at_is_let_go(database_url):
    """What cannot say which database it is, is not used."""
    async with Relay(database_url) as relay, opened(relay.dsn) as models:
        relay.on_send = lambda data: "cut" if b"pg_control_system" in data else ""
        relay.cut()
        await refused(models.all(), "Unavailable")
        relay.on_send = lambda data: ""
        assert await models.all() == []


def transactions(models, monkeypatch):
    """Return a list that gets, with each transaction that is tried, how many writes it has."""
    sizes, transact = [], models.store._transact

    async def counted(changes, *rest):
        sizes.append(len(changes))
        return await transact(changes, *rest)

    monkeypatch.setattr(models.store, "_transact", counted)
    return sizes


async def test_a_rule_that_is_checked_at_the_commit_refuses_one_write(database_url, psql, monkeypatch):
    """The others of the batch pass, in the next transaction."""
    cls = attrs.make_class("Todo", {"title": attrs.field(type=str)})
    async with opened(database_url, cls) as models:
        await psql.execute("ALTER TABLE models ADD UNIQUE (title) DEFERRABLE INITIALLY DEFERRED")
        sizes = transactions(models, monkeypatch)
        writes = [models.write("create", {"title": title}) for title in "aba"]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert sizes == [3, 3]
        assert [type(outcome).__name__ for outcome in outcomes] == ["Commit", "Commit", "Conflict"]
        assert [event.offset for event in await log(models)] == [1, 2]


async def test_history_is_trimmed_without_own_writes(database_url, psql, monkeypatch):
    """What a trigger, or a process that ended, has logged is dropped in time; answers to old operations too."""
    monkeypatch.setattr(postgres_database, "TIDY_SECONDS", 0.02)
    async with opened(database_url, history=HistoryLimits(events=10)) as models:
        await models.write("create", {}, op="c:1")
        await psql.execute("UPDATE bbio_operations SET at = at - 90000")
        models.store._seen = documents.Seen(0.0)
        epoch = (await models.store.positions(["*"]))["*"].epoch
        await psql.execute("SELECT bbio_tell('models', '*', 'create', '{}', NULL) FROM generate_series(1, 300)")

        async def trimmed():
            return await models.store.since("*", epoch, 0) is None

        await eventually(trimmed)
        assert len(await models.store.since("*", epoch, 290)) == 10

        async def forgotten():
            return await psql.fetchval("SELECT count(*) FROM bbio_operations") == 0

        await eventually(forgotten)


async def test_an_operation_that_has_just_come_is_kept(database_url, psql):
    """Whatever time stands beside it: the clock of the machine that wrote it may be another's."""
    async with opened(database_url) as models:
        first = await models.write("create", {}, op="c:1")
        await psql.execute("UPDATE bbio_operations SET at = at - 90000")
        for _ in range(2):
            await models.store.tidy()
        again = await models.write("create", {}, op="c:1")
        assert (again.duplicate, again.event.offset) == (True, first.event.offset)
        # Once it was seen long ago the time beside it counts.
        await models.write("create", {}, op="c:2")
        clock = itertools.count(0.0, documents.SEEN_SECONDS)
        models.store._seen = documents.Seen(clock=lambda: next(clock))
        for _ in range(3):
            await models.store.tidy()
        assert [(await models.write("create", {}, op=op)).duplicate for op in ("c:1", "c:2")] == [False, True]


async def test_the_own_id_of_a_client_is_not_written_down(database_url, psql):
    """Who reads the tables, or a backup, cannot name an operation of somebody else."""
    async with opened(database_url) as models:
        commit = await models.write("create", {}, op="own id of a client:1")
        assert (await models.write("create", {}, op="own id of a client:1")).duplicate
        tables = [await psql.fetch(f"SELECT t::text FROM {name} AS t") for name in ("bbio_log", "bbio_operations")]
    written = str(tables)
    assert commit.event.op in written
    assert "own id" not in written
    assert b"own id".hex() not in written


async def test_one_process_trims_at_a_time(database_url, psql):
    """Another one leaves it to the first, and does not wait for it."""
    async with opened(database_url, history=HistoryLimits(events=10)) as models:
        epoch = (await models.store.positions(["*"]))["*"].epoch
        await psql.execute("SELECT bbio_tell('models', '*', 'create', '{}', NULL) FROM generate_series(1, 300)")
        async with psql.transaction():
            await psql.execute("SELECT FROM bbio_backends FOR UPDATE")
            await models.store.tidy()
        assert len(await models.store.since("*", epoch, 0)) == 300
        await models.store.tidy()
        assert await models.store.since("*", epoch, 0) is None


async def test_history_that_cannot_be_trimmed_holds_up_no_write(database_url, psql, caplog):
    """The write is acknowledged, the log says what is wrong, and the next time it is trimmed."""
    async with opened(database_url, history=HistoryLimits(events=10)) as models:
        await psql.execute("ALTER TABLE bbio_operations RENAME TO elsewhere")
        await asyncio.gather(*(models.create({}) for _ in range(300)))
        assert "bbio_operations" in caplog.text
        await psql.execute("ALTER TABLE elsewhere RENAME TO bbio_operations")
        await models.create({})
        assert await models.history() is None
        assert len(models.published) == 301


async def test_odd_epochs_are_unknown(database_url):
    """Whatever a client sends as one."""
    async with opened(database_url) as models:
        for epoch in ("\0", "\ud800", "\u00e9"):
            assert await models.store.since("c:", epoch, 0) is None


@pytest.mark.parametrize("op", [None, "c:1"])
async def test_a_commit_whose_answer_is_lost_is_found_out(database_url, op):
    """The connection dies after COMMIT was sent, or before it arrived: the write is applied once and acknowledged."""
    async with Relay(database_url) as relay, opened(relay.dsn) as models:
        for verdict in ("cut", "drop"):
            commits = []

            def on_send(data, verdict=verdict, commits=commits):
                if b"COMMIT" in data and not commits:
                    commits.append(data)
                    return verdict
                return ""

            relay.on_send = on_send
            commit = await models.write("create", {"n": verdict}, op=op and verdict + op)
            assert commits
            assert [model for model in await models.all() if model["n"] == verdict] == [commit.record]
        assert [event.offset for event, _ in models.published] == [1, 2]
        assert [event.offset for event in await log(models)] == [1, 2]


async def test_a_commit_that_cannot_be_found_out_is_not_claimed(database_url):
    """With an operation the client is to ask again, and is told; without, that nobody knows."""
    async with Relay(database_url) as relay, opened(relay.dsn, timeout=1.5) as models:
        lost = False

        def on_send(data):
            nonlocal lost
            lost = lost or b"COMMIT" in data
            return "cut" if lost else ""

        relay.on_send = on_send
        unsure = [models.write("create", {"n": 1}), models.write("create", {"n": 2}, op="c:1")]
        outcomes = await asyncio.gather(*unsure, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [UnknownOutcome, Unavailable]
        assert models.published == []
        relay.on_send = lambda data: ""
        again = await models.write("create", {"n": 2}, op="c:1")
        assert again.duplicate
        assert [event.offset for event in await log(models)] == [1, 2]
        assert len(await models.all()) == 2


# Neighbours


async def test_a_refused_write_costs_its_batch_few_transactions(database_url, psql, monkeypatch):
    """What breaks a rule is found by halves, however many wait together with it; those keep their order."""
    async with opened(database_url) as models:
        await psql.execute("ALTER TABLE models ADD CHECK ((body ->> 'n')::integer <> 20)")
        sizes = transactions(models, monkeypatch)
        made, make = [], models.store._make

        async def counted_parts(connection, batch, writes, *rest):
            made.append(len(writes))
            await make(connection, batch, writes, *rest)

        monkeypatch.setattr(models.store, "_make", counted_parts)
        writes = [models.write("create", {"n": n}) for n in range(65)]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, SyncError)] == [20]
        assert sizes[0] == 65
        assert len(sizes) <= 1 + 2 * 7
        assert len(made) <= 1 + (1 + 2 * 7)
        assert [decode(event.body)["n"] for event in await log(models)] == [n for n in range(65) if n != 20]


async def test_lists_leave_connections_to_others(database_url, psql):
    """Those of a table that is locked wait for each other: writes and lists of another backend go on."""
    async with opened(database_url, timeout=3.0) as models, opened(database_url, table="others") as others:
        await models.create({})
        async with psql.transaction():
            await psql.execute("LOCK TABLE models")
            lists = [asyncio.ensure_future(models.all()) for _ in range(40)]
            await asyncio.sleep(0)
            async with asyncio.timeout(1.5):
                milk = await others.create({"title": "milk"})
                assert await others.read(milk["id"]) == milk
                assert await others.all() == [milk]
            assert not any(one.done() for one in lists)
        for one in lists:
            one.cancel()
        await asyncio.gather(*lists, return_exceptions=True)


async def test_one_client_s_lists_keep_no_other_client_waiting(database_url):
    """Each has a share of those of a backend, which have one of all; the server itself has none of its own."""
    async with opened(database_url) as models:
        database, store = models.store._database, models.store
        database.timeout = 0.2
        async with database.listing(store, "mallory"):
            with pytest.raises(Busy, match="too many lists"):
                async with database.listing(store, "mallory"):
                    raise AssertionError("it has its share already")
            async with database.listing(store, "ann"):
                pass
            async with database.listing(store, None):
                pass
        async with AsyncExitStack() as held:
            for other in range(database._lists._size):
                await held.enter_async_context(database.listing(other, "somebody"))
            with pytest.raises(Busy):
                async with database.listing(store, "ann"):
                    raise AssertionError("half of the connections are for what is no list")
        assert not database._lists._turns
        assert not database._lists_of_store._turns
        assert not database._lists_of_client._turns


async def test_a_list_that_is_too_long_is_not_looked_for_to_its_end(psql):
    """The model that is one too many is the last that is made."""
    await psql.execute("""
        CREATE SEQUENCE made;
        CREATE FUNCTION make(n integer) RETURNS text LANGUAGE plpgsql AS $$
            BEGIN PERFORM nextval('made'); RETURN repeat('x', 9); END $$
    """)
    for wanted, most, found in ((1000, 100, 10), (1000, 101, 11), (5, 100, 5), (5, 0, 1), (0, 0, 0)):
        await psql.execute("ALTER SEQUENCE made RESTART")
        models = f"SELECT n, make(n) FROM generate_series(1, {wanted}) n"
        rows = await psql.fetch(UP_TO.format(models, 1), most)
        assert [rev for rev, _ in rows] == list(range(1, found + 1))
        assert await psql.fetchval("SELECT nextval('made')") <= found + 2


async def test_a_recheck_that_cannot_be_told_is_no_fault_of_a_client(database_url, psql, caplog):
    """Whoever asked for it is told to come again."""
    async with opened(f"{database_url}?search_path=public,full,pg_catalog") as models:
        await psql.execute("""
            CREATE SCHEMA "full";
            CREATE FUNCTION "full".pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
                RAISE 'too many notifications in the NOTIFY queue' USING ERRCODE = 'program_limit_exceeded';
            END $$
        """)
        error = await refused(models.store.tell_recheck("home"), "Unavailable")
        assert "other processes" in str(error)
        assert "no place for notifications" in caplog.text
