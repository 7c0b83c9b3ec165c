"""`bbio import`, in the process of the test."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bbio.bulk import BulkProgress
from bbio.cli import main
from bbio.commands import import_

SOURCE = """
import asyncio, os, signal

from bbio import App, Backend
from bbio.builtin import MemoryStore, SQLiteStore
from bbio import before

class Todos(Backend):
    store = SQLiteStore("todos.db")

class Guarded(Backend):
    store = SQLiteStore("todos.db")

    @before("create")
    def check(self, req):
        pass

class Stopping(Backend):
    store = SQLiteStore("todos.db")

    @before("create", bulk=True)
    async def stop(self, req):
        for _ in range(req.model.get("stop", 0)):
            os.kill(os.getpid(), signal.SIGINT)
        if req.model.get("stop") == 2:
            await asyncio.Event().wait()

class Fleeting(Backend):
    store = MemoryStore()

class Other(Backend):
    store = SQLiteStore("missing/todos.db")

app = App().serve(Todos, Guarded, Stopping, Fleeting)
broken = App().serve(Other)
"""


def run(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=input)


@pytest.fixture
def app(served) -> str:
    return f"{served(SOURCE)}:app"


def test_stdin_is_imported(app: str) -> None:
    """From `-`, whose progress is kept under a name of its own."""
    done = run("import", app, "todos", "-", "--migrate", input='{"n": 1}\n{"n": 2}\n')
    assert (done.exit_code, done.stderr.endswith("2 rows are imported\n")) == (0, True), done.output
    done = run("import", app, "todos", "-", "--format", "csv", "--resume", input="n\n3\n")
    assert done.exit_code == 0, done.output
    assert run("export", app, "todos", "--query", '{"sort": "n"}').stdout.count("\n") == 3


def test_a_bad_row_is_named_with_its_line(app: str) -> None:
    """The line too, where it is another number than the row's."""
    Path("rows.jsonl").write_text('{"n": 1}\n\n{"n": 2}\n{"n": }\n')
    done = run("import", app, "todos", "rows.jsonl", "--migrate", "--batch", "2")
    assert done.exit_code == 1
    assert "row 3: it is not JSON" in done.stderr
    assert f"bbio import {app} todos rows.jsonl --batch=2 --resume" in done.stderr
    Path("rows.jsonl").write_text('{"n": 1}\n\n{"n": 2}\n{"n": 3, "id": 4}\n')
    done = run("import", app, "todos", "rows.jsonl", "--resume")
    assert "line 4, row 3: ids are given by the server" in done.stderr


def test_what_cannot_be_imported_is_said(app: str, tmp_path: Path) -> None:
    """Backends that are not there, or keep nothing here; layers that are not declared; options that make no sense."""
    Path("rows.jsonl").write_text('{"n": 1}\n')
    long = tmp_path / ("x" * 220)
    long.write_text("")
    for arguments, text in (
        ((app, "nobody", "rows.jsonl"), "no backend 'nobody' is served; served: todos, guarded, stopping, fleeting"),
        ((app, "fleeting", "rows.jsonl", "--migrate"), "keeps its models in memory"),
        ((app, "guarded", "rows.jsonl", "--migrate"), "not declared for bulk writes: Guarded.check"),
        ((app, "todos", "rows.jsonl", "--resume", "--restart"), "choose one"),
        ((app, "todos", str(long)), "give one: --name"),
        ((app, "todos", "nowhere.jsonl"), "does not exist"),
        ((app.replace(":app", ":broken"), "other", "rows.jsonl", "--migrate"), "missing"),
    ):
        done = run("import", *arguments)
        assert done.exit_code in (1, 2)
        assert text in done.stderr, arguments
    assert run("import", app, "guarded", "rows.jsonl", "--batch", "1").exit_code == 0


def test_signals_stop_it(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the batch that is being written; while it waits for a row; and the second at once."""
    rows = "".join(f'{{"n": {number}, "stop": {int(number == 3)}}}\n' for number in range(1, 9))
    done = run("import", app, "stopping", "-", "--migrate", "--batch", "2", input=rows)
    assert (done.exit_code, "stopped: rows 1 to 4 are stored" in done.stderr) == (1, True), done.stderr
    done = run("import", app, "stopping", "-", "--resume", "--batch", "2", input=rows)
    assert (done.exit_code, "8 rows are imported; 4 of them" in done.stderr) == (0, True), done.stderr
    done = run("import", app, "stopping", "-", "--name", "x", input='{"stop": 2}\n')
    assert (done.exit_code, "stopped at once; go on: bbio import" in done.stderr) == (1, True), done.stderr

    went_on: list[bool] = []

    class Waiting(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                os.kill(os.getpid(), signal.SIGINT)
                went_on.append(True)
            return super().readline(size)

    monkeypatch.setattr(import_, "stdin", lambda: Waiting(b'{"n": 1}\n{"n": 2}\n'))
    done = run("import", app, "todos", "-", "--name", "y")
    assert (done.exit_code, "stopped: no row is stored" in done.stderr) == (1, True), done.stderr
    assert went_on == []
    assert len(run("export", app, "stopping").stdout.splitlines()) == 8


def test_the_bar_tells_how_many_rows_there_are() -> None:
    """Nothing before the first batch."""
    assert import_._shown(None) is None
    assert import_._shown(BulkProgress(rows=12_345)) == "12,345 rows"
