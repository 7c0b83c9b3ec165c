"""`bbio consumers` and `bbio work`: what they print, and what they refuse."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bbio import cli
from bbio.commands import target, work
from bbio.log import Letter, Step
from bbio.streams import Event, Position

SERVED = """
from bbio import App, Backend
from bbio.builtin import MemoryStore, SQLiteStore

class Todos(Backend):
    store = SQLiteStore("todos.db")

class Notes(Backend):
    store = MemoryStore()

app = App().serve(Todos, Notes)
handled = []

@app.consumer("mailer", backend="todos")
async def mail(event):
    handled.append(event)

@app.consumer("indexer", backend="notes")
async def index(event):
    pass

@app.consumer("late", backend="todos")
async def late(event):
    pass

bare = App()
"""


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The name of the module, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"served_{os.urandom(4).hex()}"
    (tmp_path / f"{name}.py").write_text(SERVED)
    yield name
    sys.modules.pop(name, None)


def run(*arguments, code=0):
    """The output of a command."""
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == code, result.output
    return result.output


def letter(offset, model="7", **fields):
    event = Event("c:", "e", offset, "update", b'{"id":7,"title":"milk"}', rev=offset)
    return Letter(model=model, event=event, **fields)


def prepare(served, *, active=False):
    """Two events behind, three letters, one gap; and a consumer that is not declared."""
    app = target.load(f"{served}:app")

    async def main():
        await app.open()
        todos = app.backends["todos"]
        ledger = todos.log.consumers
        for name in ("mailer", "old"):
            await ledger.register(name, None, "e", {})
        await todos.create({"title": "milk"})
        await todos.create({"title": "bread"})
        top = (await todos.log.positions(["c:"]))["c:"]
        fence = await ledger.claim("mailer", "one", 60.0)
        letters = [letter(1, attempts=5, error="OSError: no"), letter(2, state="behind"), letter(3, model="8")]
        await ledger.keep("mailer", fence, Step(positions={"c:": Position(top.epoch, 1)}, letters=letters, lost=1))
        fence = await ledger.claim("old", "one", 60.0)
        await ledger.keep("old", fence, Step(positions={"c:": top}))
        await ledger.release("old", fence)
        if not active:
            await ledger.release("mailer", await ledger.claim("mailer", "one", 60.0))
        await app.close()

    asyncio.run(main())


def test_consumers_are_listed(served):
    """With how far they are, who works, letters and gaps; also those that no database knows, or nobody declares."""
    prepare(served, active=True)
    listed = run("consumers", f"{served}:app")
    assert "mailer (todos): 1 events behind" in listed
    assert "3 dead letters, 1 gaps; active: one" in listed
    assert "    c:: at 1 of 2" in listed
    assert "old (todos): up to date, 0 dead letters; no process works for it; it is not declared any more" in listed
    assert "indexer: no database knows it" in listed
    assert "late: no database knows it" in listed


def test_letters_are_shown(served):
    """In lines, with the errors; the events whole of those that are named."""
    prepare(served)
    shown = run("consumers", f"{served}:app", "show", "mailer")
    assert "1: update of 7 in c: at 1, dead since" in shown
    assert "5 attempts: OSError: no" in shown
    assert "2: update of 7 in c: at 2, behind since" in shown
    assert "milk" not in shown
    assert '{"id":7,"title":"milk"}' in run("consumers", f"{served}:app", "show", "mailer", "3")


def test_letters_are_put_back_and_dropped(served):
    """By number, or all of them; what cannot be is said."""
    prepare(served)
    command = ("consumers", f"{served}:app")
    output = run(*command, "retry", "mailer", "1", "2", "9")
    assert "1 is handled again" in output
    assert "2 is left: it is no dead letter, or behind another one" in output
    assert "9 is left" in output
    assert "3 is dropped" in run(*command, "skip", "mailer", "3")
    assert "there is no letter 3" in run(*command, "skip", "mailer", "3")
    assert "1 is dropped\n2 is dropped" in run(*command, "skip", "mailer", "--all")


def test_a_consumer_is_forgotten(served):
    """Not while a process works for it."""
    prepare(served, active=True)
    command = ("consumers", f"{served}:app")
    assert "one works for mailer; stop it first" in run(*command, "forget", "mailer", code=1)
    assert "old is forgotten" in run(*command, "forget", "old")
    assert "no consumer 'old' is known to a database; known: mailer" in run(*command, "show", "old", code=1)


def test_what_is_not_said_is_asked_for(served):
    """A consumer, letters; a folder that is gone is an error without a traceback."""
    command = ("consumers", f"{served}:app")
    assert "say which consumer" in run(*command, "show", code=2)
    assert "say which letters" in run(*command, "retry", "mailer", code=2)
    assert "todos.db is not there" in run(*command, "show", "mailer", code=1)  # and it is not made
    Path("todos.db").mkdir()
    assert "is a folder" in run(*command, code=1)
    assert "is a folder" in run("work", f"{served}:app", code=1)


def test_work_needs_consumers(served):
    """The text shows how to declare one."""
    assert "has no consumers; declare one" in run("work", f"{served}:bare", code=1)


def test_work_ends_with_a_signal(served, monkeypatch):
    """Until then it works; then it stops as a server does."""
    app = target.load(f"{served}:app")

    async def stop(*, works=True):
        assert works
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(app, "consume", stop)
    assert "bbio works for mailer, indexer, late" in run("work", f"{served}:app")
    assert not app.is_open
    assert work.work.name == "work"
