"""Scripts and commands beside a server, over one database: its clients hear what they write."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import attrs
import pytest

import bbio
from bbio import App, Backend, ConfigurationError
from bbio.builtin import PostgresStore
from bbio.builtin.postgres import database as postgres_database
from tests.support.servers import bbio as run_bbio

pytestmark = pytest.mark.once  # what is asked is what two processes do, not a Python

ROOT = Path(__file__).resolve().parents[2]

SERVED = """
import asyncio

from bbio import App, Backend, Limits, before
from bbio.builtin import store_from_env

class Rooms(Backend):
    store = store_from_env("rooms.db")
    store.check_interval = {seconds}

    @before("write")
    async def sign(self, req):
        req.model["by"] = "server" if req.is_trusted else req.user["id"]
        if req.options.get("waits"):
            print("waiting", flush=True)
            await asyncio.sleep(3600)

app = App(limits=Limits(drain_time=0.5)).serve(Rooms)
"""

SCRIPT = """
import asyncio
import os

import bbio

async def main():
    async with bbio.open("served:app") as backends:
        rooms = backends["rooms"]
        room = await rooms.create({"title": "milk"}, channel="home")
        await rooms.patch({"id": room["id"], "title": "tea"}, channel="home", user={"id": "ann"})
        rooms.emit("created", {"id": "b"}, channel="home")
        return room["id"]

id = asyncio.run(main())

with bbio.open("served:app") as backends:
    backends["rooms"].delete(id, channel="home")
    child = os.fork()
    if not child:
        try:
            backends["rooms"].query()
        except bbio.ConfigurationError as err:
            print(err, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(params=["PostgreSQL", "SQLite"])
def env(request, database_url):
    """The settings of one database for all processes."""
    return {"BBIO_DATABASE_URL": database_url if request.param == "PostgreSQL" else ""}


@pytest.fixture
async def server(env, spawn):
    """A server that hears of writes over PostgreSQL at once or never, and of those to a file when it looks."""
    return await spawn(SERVED.format(seconds=3600 if env["BBIO_DATABASE_URL"] else 0.2), **env)


async def start(folder, source, env):
    (folder / "script.py").write_text(source)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "script.py",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_clients_hear_what_a_script_writes(server, join, tmp_path, env):
    """In order, in both forms, with what it emits; a forked process is told that it has opened nothing."""
    client = await join(server.url, "rooms", "home")
    script = await start(tmp_path, SCRIPT, env)
    printed, told = await script.communicate()
    assert (script.returncode, told.decode()) == (0, "")
    assert "started before this process was forked" in printed.decode()
    events = [await client.synced() for _ in range(4)]
    id = events[0][1]["id"]
    assert events == [
        ("create", {"id": id, "title": "milk", "by": "server"}),
        ("update", {"id": id, "title": "tea", "by": "ann"}),
        ("create", {"id": "b"}),
        ("delete", {"id": id}),
    ]


async def test_clients_hear_what_the_commands_write(server, join, tmp_path, env, monkeypatch):
    """A call; and a program that is piped to the shell."""
    client = await join(server.url, "rooms", "home")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    call = ("call", "served:app", "rooms", "create", '{"title": "milk"}', "--channel", "home")
    status, printed = await run_bbio(*call, cwd=tmp_path)
    assert status == 0, printed
    made = json.loads(printed)
    assert await client.synced() == ("create", made) == ("create", {"id": made["id"], "title": "milk", "by": "server"})
    shell = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bbio", "shell", "served:app"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.PIPE,
    )
    program = f"await backends['rooms'].patch({{'id': {made['id']!r}, 'n': 7}}, channel='home')"
    await shell.communicate(program.encode())
    assert shell.returncode == 0
    assert await client.synced() == ("update", {**made, "n": 7})


INTERRUPTED = {
    "async": """
import asyncio
import bbio

async def main():
    async with bbio.open("served:app") as backends:
        await backends["rooms"].create({"title": "kept"})
        await backends["rooms"].create({"title": "lost"}, options={"waits": True})

asyncio.run(main())
""",
    "blocking": """
import bbio

with bbio.open("served:app") as backends:
    backends["rooms"].create({"title": "kept"})
    backends["rooms"].create({"title": "lost"}, options={"waits": True})
""",
}


@pytest.mark.parametrize("form", INTERRUPTED)
async def test_ctrl_c_ends_a_script(spawn, tmp_path, form):
    """What was written is kept, what waits is given up, and the file is closed."""
    await spawn(SERVED.format(seconds=0.2))
    script = await start(tmp_path, INTERRUPTED[form], {"BBIO_DATABASE_URL": ""})
    assert await script.stdout.readline() == b"waiting\n"
    script.send_signal(signal.SIGINT)
    _, told = await script.communicate()
    assert script.returncode == -signal.SIGINT
    assert told.decode().rstrip().endswith("KeyboardInterrupt")
    assert ("1 calls were under way at the end" in told.decode()) == (form == "blocking")
    with closing(sqlite3.connect(tmp_path / "rooms.db")) as connection:
        assert connection.execute("SELECT body ->> 'title' FROM rooms").fetchall() == [("kept",)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_the_tables_of_a_database_are_left_as_they_are(database_url, psql, monkeypatch):
    """No tables, no table, those of an earlier version or of another model: the text says which."""

    @attrs.define
    class Old:
        title: str = ""

    @attrs.define
    class New:
        title: str = ""
        price: int = 5

    def make(model, name="rooms", **options):
        backend = type("Rooms", (Backend,), {"model": model, "store": PostgresStore(database_url, name, **options)})
        return App().serve(backend)

    async def refused(app, text):
        before = await shape()
        with pytest.raises(ConfigurationError, match=text) as caught:
            async with bbio.open(app):
                pass
        assert "bbio.open(..., migrate=True)" in str(caught.value)
        assert await shape() == before

    async def shape():
        columns = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        return await psql.fetch(f"{columns} ORDER BY 1, 2"), await psql.fetch("SELECT indexname FROM pg_indexes")

    await refused(make(Old), "has no tables of bbio")
    async with bbio.open(make(Old, index=["title"]), migrate=True) as backends:
        await backends["rooms"].create({"title": "milk"})
    await refused(make(Old, "others"), "has no table 'others'")
    await refused(make(New), "the table 'rooms' of .* is not yet that of this model")
    before = await shape()
    async with bbio.open(make(Old)) as backends:
        assert (await backends["rooms"].query({"title": "milk"})).models[0].title == "milk"
    assert await shape() == before
    with monkeypatch.context() as later:
        later.setattr(postgres_database, "MIGRATIONS", (*postgres_database.MIGRATIONS, "SELECT 1"))
        await refused(make(Old), "was used by an older version of bbio, whose servers may run")
    async with bbio.open(make(New), migrate=True) as backends:
        assert (await backends["rooms"].query({})).models[0].price == 5
    async with bbio.open(make(Old)) as backends:  # an older program beside a newer server
        (room,) = (await backends["rooms"].query({})).models
        await backends["rooms"].patch({"id": room.id, "title": "tea"})
    assert [tuple(row) for row in await psql.fetch("SELECT title, price FROM rooms")] == [("tea", 5)]
    await psql.execute("UPDATE bbio_database SET version = 99")
    with pytest.raises(ConfigurationError, match="used by a newer version of bbio: update bbio"):
        async with bbio.open(make(New)):
            pass
