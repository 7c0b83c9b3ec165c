"""`app.test()` and the stores: the application's own files and databases are not touched."""

import asyncio
import hashlib
import sqlite3
from contextlib import closing

import asyncpg
import attrs
import pytest

from bbio import App, Backend, ConfigurationError, Conflict, Store
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore, store_from_env
from bbio.builtin.postgres.scratch import COMMENT
from bbio.store import Scratch
from tests.support.servers import eventually


def state_of(folder):
    """Every file of a folder, with its content and when it was changed."""
    return {
        path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
    }


async def tables_of(url, schema="public"):
    """All tables of a schema with all of their rows."""
    connection = await asyncpg.connect(url)
    names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY 1", schema)
    rows = {name: await connection.fetch(f'SELECT * FROM "{schema}"."{name}"') for (name,) in names}
    sequences = await connection.fetch(
        "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = $1", schema
    )
    await connection.close()
    return {name: sorted(map(repr, each)) for name, each in rows.items()}, sorted(map(tuple, sequences))


async def schemas_of(url):
    """The schemas that tests have made."""
    connection = await asyncpg.connect(url)
    found = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'bbio_test_%'")
    await connection.close()
    return [name for (name,) in found]


async def use(app, backend):
    """Write what a test may write: through a client, and by emit; restarts keep it."""
    async with app.test() as t:
        ann, bob = await t.clients(2, backend=backend)
        assert await ann.read() == []
        mirror = await bob.collection()
        milk = await ann.create({"title": "milk"})
        await ann.patch({"id": milk["id"], "title": "oat milk"})
        app.backends[backend].emit("updated", milk)
        await t.settle()
        await t.restart()
        assert [todo["title"] for todo in await ann.read()] == ["oat milk"]
        await t.settle()
        assert len(mirror) == 1


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


async def test_a_file_is_not_touched(tmp_path, temporary):
    """Neither made where there is none, nor changed where there is one; what it holds is not seen."""
    data = tmp_path / "data"
    data.mkdir()

    class Todos(Backend):
        store = SQLiteStore(data / "todos.db")

    class Notes(Backend):
        store = SQLiteStore(data / "todos.db")

    app = App().serve(Todos, Notes)
    for _ in range(2):
        await use(app, "todos")
    assert state_of(data) == {}
    async with app.test(stores="real") as t:
        kept = await (await t.client(backend="todos")).create({"title": "kept"})
    before = state_of(data)
    assert before
    await use(app, "todos")
    await use(app, "notes")
    assert state_of(data) == before
    async with app.test(stores="real") as t:
        assert await (await t.client(backend="todos")).read() == [kept]
        # While somebody serves it, what is not yet in the file itself counts too.
        await use(App().serve(Todos), "todos")
    assert list(temporary.iterdir()) == []


async def test_a_files_rules_hold_in_tests(tmp_path):
    """Columns and indexes of one's own; where a table is there, so do the models to begin with."""
    path = tmp_path / "todos.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE Todos (id PRIMARY KEY, rev INTEGER NOT NULL, body TEXT NOT NULL,"
            " title AS (json_extract(body, '$.title')))"
        )
        connection.execute("CREATE UNIQUE INDEX one_title ON todos (title)")

    class Todos(Backend):
        store = SQLiteStore(path, models=[{"id": "1", "title": "milk"}])

    before = state_of(tmp_path)
    async with App().serve(Todos).test() as t:
        ann = await t.client()
        assert [todo["title"] for todo in await ann.read()] == ["milk"]
        with pytest.raises(Conflict):
            await ann.create({"title": "milk"})
    assert state_of(tmp_path) == before


async def test_a_file_that_cannot_be_read_is_told(tmp_path):
    """A test would not be like the application."""
    (tmp_path / "todos.db").write_text("no database" * 100)

    class Todos(Backend):
        store = SQLiteStore(tmp_path / "todos.db")

    app = App().serve(Todos)
    with pytest.raises(ConfigurationError, match=r"todos\.db cannot be used: it is not an SQLite database"):
        await app.test().__aenter__()


async def test_stores_of_one_file_share_it_in_tests(tmp_path):
    """So what cannot be together is told in tests too."""

    class Todos(Backend):
        store = SQLiteStore(tmp_path / "todos.db", table="same")

    class Notes(Backend):
        store = SQLiteStore(tmp_path / "link" / "todos.db", table="same")

    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="two backends keep their models in the table 'same'"):
        await App().serve(Todos, Notes).test().__aenter__()


# PostgreSQL


async def test_a_database_is_not_touched(database_url, monkeypatch):
    """Each test has a schema of its own, which is dropped; also where the environment names the database."""
    monkeypatch.setenv("BBIO_DATABASE_URL", database_url)

    class Todos(Backend):
        store = store_from_env("todos.db")

    class Notes(Backend):
        store = PostgresStore()

    app = App().serve(Todos, Notes)
    empty = await tables_of(database_url)
    await use(app, "todos")
    assert await tables_of(database_url) == empty
    async with app.test(stores="real") as t:
        kept = await (await t.client(backend="todos")).create({"title": "kept"})
    before = await tables_of(database_url)
    assert before != empty
    await use(app, "todos")
    await use(app, "notes")
    assert await tables_of(database_url) == before
    async with app.test(stores="real") as t:
        assert await (await t.client(backend="todos")).read() == [kept]
    assert await schemas_of(database_url) == []


async def test_tests_at_the_same_time_are_apart(database_url):
    """And servers of the same tables are not told of what they write."""
    told = []

    class Noted:
        """What a server hears of others."""

        def event(self, event):
            told.append(event)

        def doubt(self, streams=None):
            told.append(streams)

    class Todos(Backend):
        store = PostgresStore(database_url)

    app = App().serve(Todos)
    async with app.running():
        app.backends["todos"].log.broker.heard = Noted()
        apps = [App().serve(Todos) for _ in range(3)]
        await asyncio.gather(*(use(app, "todos") for app in apps))
        # What was said before is heard by now: notifications keep their order.
        await execute(database_url, """SELECT pg_notify('bbio', '["", null, ["heard"]]')""")

        async def heard():
            return ["heard"] in told

        await eventually(heard)
    assert [heard for heard in told if heard not in (None, ["heard"])] == []
    assert await schemas_of(database_url) == []


async def execute(url, *statements):
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@attrs.define
class Ticket:
    title: str
    state: str = "open"


@pytest.mark.parametrize("numbering", ["serial", "integer GENERATED BY DEFAULT AS IDENTITY"])
async def test_a_table_that_is_there_is_there_in_tests(database_url, numbering):
    """Empty, with its columns, rules and indexes; numbers are drawn from sequences of the test's own."""
    await execute(
        database_url,
        'CREATE SEQUENCE "odd Numbers"',
        "CREATE SCHEMA office",
        f"CREATE TABLE office.tickets (id {numbering} PRIMARY KEY, title text UNIQUE CHECK (title <> ''), state text,"
        """ number integer DEFAULT (1 + 2 * nextval('"odd Numbers"')))""",
        "INSERT INTO office.tickets (title, state) VALUES ('kept', 'open')",
    )
    first = {"id": 7, "title": "first", "state": "new"}

    class Tickets(Backend):
        model = Ticket
        store = PostgresStore(f"{database_url}?search_path=office,public", models=[first])

    before = await tables_of(database_url, "office"), await tables_of(database_url)
    async with App().serve(Tickets).test() as t:
        ann = await t.client()
        assert await ann.read() == [first]
        made = await ann.create({"title": "second"})
        assert made == {"id": 1, "title": "second", "state": "open"}
        for title in ("second", ""):
            with pytest.raises(Conflict):
                await ann.create({"title": title})
    assert (await tables_of(database_url, "office"), await tables_of(database_url)) == before


async def test_a_table_in_another_schema_is_there_in_tests(database_url):
    """One that its name says: the test has a copy, the table itself is not touched."""
    await execute(
        database_url,
        "CREATE SCHEMA office; CREATE TABLE office.tickets (id serial PRIMARY KEY, title text UNIQUE, state text)",
        "INSERT INTO office.tickets (title, state) VALUES ('kept', 'open')",
    )

    class Tickets(Backend):
        model = Ticket
        store = PostgresStore(database_url, "office.tickets")

    class Others(Backend):
        store = PostgresStore(database_url, "office.others")

    before = await tables_of(database_url, "office"), await tables_of(database_url)
    async with App().serve(Tickets, Others).test() as t:
        ann = await t.client(backend="tickets")
        assert await ann.create({"title": "kept"}) == {"id": 1, "title": "kept", "state": "open"}
        assert (await (await t.client(backend="others")).create({"n": 1}))["n"] == 1
    assert (await tables_of(database_url, "office"), await tables_of(database_url)) == before


async def test_who_may_not_make_a_schema_is_told_what_to_do(database_url):
    """Nothing is written instead; another store does."""
    await execute(
        database_url,
        "DROP ROLE IF EXISTS bbio_reader",
        "CREATE ROLE bbio_reader LOGIN",
        "GRANT ALL ON SCHEMA public TO bbio_reader",
    )
    before = await tables_of(database_url)

    class Todos(Backend):
        store = PostgresStore(f"postgresql://bbio_reader@{database_url.partition('@')[2]}")

    app = App().serve(Todos)
    with pytest.raises(ConfigurationError, match=r"GRANT CREATE ON DATABASE.*app\.test\(stores=") as told:
        await app.test().__aenter__()
    assert "permission denied" in str(told.value)
    assert await tables_of(database_url) == before
    async with app.test(stores={"todos": MemoryStore()}) as t:
        await (await t.client()).create({"title": "milk"})
    assert await tables_of(database_url) == before
    await execute(database_url, "DROP OWNED BY bbio_reader", "DROP ROLE bbio_reader")


async def test_a_database_that_is_away_is_told():
    """As at a start."""

    class Todos(Backend):
        store = PostgresStore("postgresql://nobody@127.0.0.1:1/none")

    with pytest.raises(ConfigurationError, match="nothing answers there"):
        await App().serve(Todos).test().__aenter__()


async def test_a_schema_that_is_not_used_is_refused(database_url, monkeypatch):
    """As where a pooler drops the part of the DSN that names it: then tables would be made among the real ones."""
    monkeypatch.setattr("bbio.builtin.postgres.scratch.SEARCH_PATH", "application_name")

    class Todos(Backend):
        store = PostgresStore(database_url)

    before = await tables_of(database_url)
    with pytest.raises(ConfigurationError, match="connect to PostgreSQL directly"):
        await App().serve(Todos).test().__aenter__()
    assert await tables_of(database_url) == before
    async with App().serve(Todos).test(stores={"todos": MemoryStore()}):
        assert await schemas_of(database_url) == []


async def test_what_a_killed_test_has_left_is_dropped_by_the_next(database_url):
    """Not what a test still uses, and not what somebody else has named alike."""

    class Todos(Backend):
        store = PostgresStore(database_url)

    name = Scratch().name
    await execute(
        database_url,
        f"CREATE SCHEMA {name}",
        f"COMMENT ON SCHEMA {name} IS '{COMMENT}'",
        "CREATE SCHEMA bbio_test_mine",
    )
    async with App().serve(Todos).test() as t:
        (running,) = set(await schemas_of(database_url)) - {"bbio_test_mine"}
        assert running != name
        await use(App().serve(Todos), "todos")
        assert set(await schemas_of(database_url)) == {running, "bbio_test_mine"}
        await (await t.client()).create({"title": "milk"})
    assert await schemas_of(database_url) == ["bbio_test_mine"]


async def test_a_schema_that_cannot_be_dropped_is_told(database_url, caplog):
    """The outcome of the test is what it was."""

    class Todos(Backend):
        store = PostgresStore(database_url)

    async with App().serve(Todos).test():
        (name,) = await schemas_of(database_url)
        await execute(database_url, f"ALTER SCHEMA {name} RENAME TO another")
    assert f"the schema {name} of a test is left" in caplog.text


# Stores of one's own


class Remembered(Store):
    """Keeps models in a dictionary that all copies share."""

    def __init__(self, models=None):
        self.models = {} if models is None else models

    async def read(self, req):
        return list(self.models.values())

    async def create(self, req):
        model = {**req.model, "id": len(self.models)}
        self.models[model["id"]] = model
        return model


async def test_a_store_that_does_not_say_is_refused():
    """Nobody can know what it would write to; nothing is left running."""

    class Todos(Backend):
        store = MemoryStore()

    class Notes(Backend):
        store = Remembered()

    app = App().serve(Todos, Notes)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"how Remembered keeps it; give it `async def scratch"):
            await app.test().__aenter__()
    async with app.running():
        assert type(app.backends["notes"].store) is Remembered


async def test_a_store_says_where_it_goes():
    """By `scratch`; once for those that share something."""
    entered = []

    class Shared:
        async def __aenter__(self):
            entered.append("enter")
            return {}

        async def __aexit__(self, *_):
            entered.append("exit")

    class Moving(Remembered):
        async def scratch(self, room):
            return Moving(await room.share("models", Shared))

    class Todos(Backend):
        store = Moving()

    class Notes(Backend):
        store = Moving()

    class Mere(Backend):
        pass

    app = App().serve(Todos, Notes, Mere)
    for _ in range(2):
        async with app.test() as t:
            ann = await t.client(backend="todos")
            assert await ann.read() == []
            await ann.create({"title": "milk"})
            assert len(await (await t.client(backend="notes")).read()) == 1
            await t.restart()
            assert len(await ann.read()) == 1
    assert entered == ["enter", "exit"] * 2
    assert Todos.store.models == Notes.store.models == {}


async def test_a_test_says_which_store_it_uses(tmp_path):
    """For some backends; the others begin empty as always."""

    class Todos(Backend):
        store = Remembered()

    class Notes(Backend):
        store = SQLiteStore(tmp_path / "notes.db")

    app = App().serve(Todos, Notes)
    async with app.test(stores={"todos": MemoryStore(models=[{"id": "1"}])}) as t:
        assert await (await t.client(backend="todos")).read() == [{"id": "1"}]
        await (await t.client(backend="notes")).create({"title": "milk"})
    assert Todos.store.models == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stores", "said"),
    [
        ("reel", "it is 'fresh', 'real' or"),
        ({"todo": MemoryStore()}, "'todo' is not a backend with a store; those are todos"),
        ({"mere": MemoryStore()}, "'mere' is not a backend with a store"),
        ({"todos": MemoryStore}, "is not a store; use {'todos': MemoryStore()}"),
    ],
)
def test_a_choice_that_makes_no_sense_is_told(stores, said):
    """Before anything runs."""

    class Todos(Backend):
        store = MemoryStore()

    class Mere(Backend):
        pass

    with pytest.raises(ConfigurationError) as told:
        App().serve(Todos, Mere).test(stores=stores)
    assert said in str(told.value)
