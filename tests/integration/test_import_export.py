"""`bbio import` and `bbio export`, in processes of their own, over real stores."""

from __future__ import annotations

import asyncio
import csv
import importlib
import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bbio.client import connect
from tests.support.guides import files
from tests.support.servers import ROOT, ServerProcess, eventually
from tests.support.services import free_port

pytestmark = pytest.mark.once  # what is asked is what processes do, not a Python

SHOP = """
import os, attrs
from decimal import Decimal
from bbio import App, Backend, Forbidden, before, field
from bbio.builtin import MemoryStore, SQLiteStore, store_from_env

@attrs.define
class Item:
    title: str
    done: bool = False
    count: int | None = None
    price: Decimal = Decimal("0")
    note: str | None = None
    tags: list[str] = attrs.field(factory=list)
    secret: str = field(private=True, default="")
    author: str = field(read_only=True, default="")

class Items(Backend):
    model = Item
    store = store_from_env("shop.db")

class Copies(Backend):
    model = Item
    store = store_from_env("shop.db")

class Plain(Backend):
    store = store_from_env("shop.db", per_channel=True)

class Guarded(Backend):
    store = store_from_env("shop.db")

    @before("create")
    def check(self, req):
        pass

class Fleeting(Backend):
    store = MemoryStore()

class Nowhere(Backend):
    pass

app = App().serve(Items, Copies, Plain, Guarded, Fleeting, Nowhere)
"""

ITEMS = [
    {"title": "milk", "done": True, "count": 0, "price": "1.50", "note": None, "tags": ["a", "b"], "secret": "s"},
    {"title": 'a, "b"\nand c', "count": None, "note": "", "author": "ann"},
    {"title": "", "count": -7, "note": '"quoted"'},
    {"title": '"x"', "note": "plain", "tags": [], "price": "12"},
]


@pytest.fixture(params=["sqlite", "postgres"])
def env(request) -> dict[str, str]:
    """Where the shop keeps its items."""
    if request.param == "sqlite":
        return {"BBIO_DATABASE_URL": ""}
    return {"BBIO_DATABASE_URL": request.getfixturevalue("database_url")}


class Commands:
    """Runs commands of bbio in a folder with the shop."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = env
        (folder / "shop.py").write_text(SHOP)

    async def begin(self, *arguments: str, port: int | None = None) -> ServerProcess:
        migrate = ["--migrate"] if arguments[0] != "run" else []
        return await ServerProcess(*arguments, *migrate, cwd=self.folder, env=self.env, forked=True, port=port).start()

    async def run(self, *arguments: str) -> tuple[int, str]:
        """The exit code of a command, and all that it has said."""
        process = await self.begin(*arguments)
        try:
            return await process.ended(), process.output
        finally:
            await process.stop()

    async def exported(self, backend: str, *options: str) -> list[dict[str, Any]]:
        code, output = await self.run("export", "shop:app", backend, "--output", "out.jsonl", *options)
        assert code == 0, output
        return [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]

    def write(self, name: str, rows: list[Any]) -> None:
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def commands(tmp_path, env) -> Commands:
    return Commands(tmp_path, env)


@pytest.fixture
def shop(tmp_path) -> Commands:
    return Commands(tmp_path, {"BBIO_DATABASE_URL": ""})


@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_what_is_exported_is_imported_again(commands, form) -> None:
    """Each record, with its id and its private fields, is the same in a copy, by way of either format."""
    commands.write("items.jsonl", ITEMS)
    code, output = await commands.run("import", "shop:app", "items", "items.jsonl")
    assert (code, "4 rows are imported" in output) == (0, True), output
    items = await commands.exported("items")
    assert sorted(item["title"] for item in items) == sorted(item["title"] for item in ITEMS)
    assert {item["secret"] for item in items} == {"s", ""}
    code, output = await commands.run("export", "shop:app", "items", "--format", form, "--output", f"all.{form}")
    assert (code, "4 rows are exported" in output) == (0, True), output
    code, output = await commands.run("import", "shop:app", "copies", f"all.{form}", "--method", "upsert")
    assert code == 0, output
    assert await commands.exported("copies") == items
    assert await commands.exported("items", "--query", '{"count": {"$lt": 0}}') == [
        item for item in items if item["count"] == -7
    ]


async def test_servers_tell_their_clients_of_an_import(commands) -> None:
    """A client of a running server has all that another process imports, below the limit of events and past it."""
    port = free_port()
    server = await commands.begin("run", "shop:app", "--port", str(port), port=port)
    connection = connect(server.url)
    try:
        shown = await connection.backend("plain").collection().open()
        for count, name in ((20, "few.jsonl"), (2_500, "many.jsonl")):
            commands.write(name, [{"n": number} for number in range(count)])
            before = len(shown)
            code, output = await commands.run("import", "shop:app", "plain", name)
            assert code == 0, output

            async def has_all(total: int = before + count) -> bool:
                return len(shown) == total

            await eventually(has_all)
    finally:
        await connection.close()
        await server.stop()


class Feeder:
    """Rows that are written to a pipe, which a command reads, and no more until `close`."""

    def __init__(self, path: Path, rows: list[Any]) -> None:
        os.mkfifo(path)
        self._path = path
        self._text = "".join(json.dumps(row) + "\n" for row in rows)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def _feed(self) -> None:
        with suppress(BrokenPipeError), open(self._path, "w") as pipe:
            pipe.write(self._text)
            pipe.flush()
            self._over.wait()

    async def close(self) -> None:
        self._over.set()
        await asyncio.to_thread(self._thread.join)


async def test_an_import_that_is_killed_goes_on(commands) -> None:
    """Killed twice in the middle, then resumed, it has stored each row once."""
    rows = [{"n": number} for number in range(1_000)]
    arguments = ("--batch", "50", "--name", "rows")
    for stop, options in ((330, ()), (780, ("--resume",))):
        feeder = Feeder(commands.folder / f"{stop}.fifo", rows[:stop])
        process = await commands.begin("import", "shop:app", "plain", f"{stop}.fifo", *arguments, *options)

        async def has_come_so_far(least: int = stop // 50 * 50) -> bool:
            return len(await commands.exported("plain")) == least

        await eventually(has_come_so_far)
        await process.stop()
        await feeder.close()
    commands.write("rows.jsonl", rows)
    code, output = await commands.run("import", "shop:app", "plain", "rows.jsonl", *arguments)
    assert (code, "interrupted after row 750" in output, "--resume" in output) == (1, True, True), output
    code, output = await commands.run("import", "shop:app", "plain", "rows.jsonl", *arguments, "--resume")
    assert (code, "1,000 rows are imported; 750 of them were before" in output) == (0, True), output
    assert sorted(row["n"] for row in await commands.exported("plain")) == list(range(1_000))


async def test_ctrl_c_says_how_far_it_came(shop) -> None:
    """It stops after the batch that is being written, and says how to go on; --restart begins again."""
    feeder = Feeder(shop.folder / "rows.fifo", [{"n": number} for number in range(25)])
    process = await shop.begin("import", "shop:app", "plain", "rows.fifo", "--batch", "10", "--name", "x")

    async def has_twenty() -> bool:
        return len(await shop.exported("plain")) == 20

    await eventually(has_twenty)
    process.signal(signal.SIGINT)
    assert await process.ended() == 1
    await feeder.close()
    assert "stopped: rows 1 to 20 are stored" in process.output
    assert "bbio import shop:app plain rows.fifo --batch=10 --name=x --resume" in process.output
    shop.write("rows.jsonl", [{"n": number} for number in range(25)])
    code, output = await shop.run("import", "shop:app", "plain", "rows.jsonl", "--name", "x", "--restart")
    assert code == 0, output
    assert len(await shop.exported("plain")) == 45


async def test_rows_are_kept_in_a_channel(shop) -> None:
    """With --channel, models are written to it and read from it."""
    shop.write("rows.jsonl", [{"n": 1}, {"n": 2}])
    code, output = await shop.run("import", "shop:app", "plain", "rows.jsonl", "--channel", "home")
    assert code == 0, output
    assert await shop.exported("plain") == []
    assert [row["n"] for row in await shop.exported("plain", "--channel", "home", "--query", '{"sort": "n"}')] == [1, 2]


async def test_issues_are_imported_into_the_tracker(tmp_path) -> None:
    """The sample file of the example goes in by the command that it names, with the authors that it says."""
    example = ROOT / "examples" / "tracker"
    command = next(line.split() for line in (example / "app.py").read_text().splitlines() if " bbio import " in line)
    assert command[:4] == ["bbio", "import", "examples.tracker.app:app", "issues"]
    env = {"BBIO_DATABASE_URL": "", "BBIO_SECRET_KEY": "0" * 32}
    arguments = [*command[1:4], str(ROOT / command[4]), *command[5:]]
    for arguments_, text in (
        (arguments, "6 rows are imported"),
        (["export", "examples.tracker.app:app", "issues", "--format", "csv", "--output", "issues.csv"], "6 rows are"),
    ):
        process = await ServerProcess(*arguments_, cwd=tmp_path, env=env, forked=True).start()
        assert await process.ended() == 0, process.output
        assert text in process.output
    exported, sample = (
        list(csv.DictReader((folder / "issues.csv").read_text().splitlines())) for folder in (tmp_path, example)
    )
    for row in exported:
        del row["id"]
    assert sorted(map(str, exported)) == sorted(map(str, sample))


async def test_the_guide_does_what_it_says(tmp_path, monkeypatch) -> None:
    """The code of the page stores a file once, however often it is called, and reads what is open."""
    page = ROOT / "docs" / "import-export.md"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "todos.py").write_text(files(page.read_text())["todos.py"])
    monkeypatch.delitem(sys.modules, "todos", raising=False)
    todos = importlib.import_module("todos")
    monkeypatch.delitem(sys.modules, "todos")
    feed = tmp_path / "feed.jsonl"
    feed.write_text("".join(json.dumps({"title": f" todo {n} ", "done": n == 2}) + "\n" for n in range(4)))
    async with todos.app.test():
        assert await todos.read_feed(feed) == 4
        assert await todos.read_feed(feed) == 0
        assert sorted(await todos.open_todos()) == ["todo 0", "todo 1", "todo 3"]
