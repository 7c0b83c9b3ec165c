"""What other programs write to the table of a PostgresStore reaches clients; restored databases begin anew."""

from __future__ import annotations

import asyncio
import sys
import uuid

import asyncpg
import pytest
from click.testing import CliRunner

from bbio.cli import main
from bbio.protocol import decode
from tests.support.postgres import install_triggers, log, opened
from tests.support.servers import eventually

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


@pytest.fixture
async def psql(database_url):
    """A connection of another program."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


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


async def test_programs_with_few_rights_may_write(database_url, psql):
    """The triggers run with the rights of their owner, and find bbio's tables whatever its search path is."""
    await install_triggers(database_url)
    async with opened(database_url) as models:
        role = f"program{id(psql)}"
        await psql.execute(f"CREATE ROLE {role}; GRANT INSERT ON models TO {role}")
        try:
            await psql.execute(
                f"SET ROLE {role}; SET search_path = pg_catalog; CREATE TEMP TABLE bbio_streams (id int)"
            )
            await psql.execute("INSERT INTO public.models (id, body) VALUES ('a', '{}')")
            await psql.execute("RESET ROLE; RESET search_path")
            assert plain(await log(models, "*")) == [(1, "create", {"id": "a"})]
        finally:
            await psql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("name", ["it's", 'a "table"', "back\\slash", "a b"])
async def test_names_are_quoted(database_url, psql, name):
    """A table may have any name, a model any name for its id."""
    await install_triggers(database_url, table=name, id_attribute=name)
    async with opened(database_url, table=name, id_attribute=name, models=[{name: "1"}]) as models:
        milk = await models.create({"n": 1})
        assert await models.read(milk[name]) == milk
        quoted = name.replace('"', '""')
        await psql.execute(f"""INSERT INTO "{quoted}" (id, body) VALUES ('a', '{{}}')""")
        assert plain(await log(models, "*")) == [(1, "create", {name: "a"})]


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
    triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'bbio%'"
    assert await psql.fetchval(triggers) == 2
    await psql.execute("DROP TRIGGER bbio_tell ON todos; DROP TRIGGER bbio_truncated ON todos")
    status, sql = await command(source, "triggers", "app", "--print")
    assert (status, await psql.fetchval(triggers)) == (0, 0)
    for _ in range(2):
        await psql.execute(sql)
    assert await psql.fetchval(triggers) == 2
    status, said = await command(source, "triggers", "without")
    assert (status, "no backend" in said) == (1, True)


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
    from bbio.builtin import postgres_database

    monkeypatch.setattr(postgres_database, "PULSE", 0.01)
    monkeypatch.setattr(postgres_database, "BACKOFF", (0.01, 0.1))
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
