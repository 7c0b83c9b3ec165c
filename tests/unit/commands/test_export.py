"""`bbio export`, in the process of the test."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bbio.cli import main


def run(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=input)


@pytest.fixture
def app(served) -> str:
    source = "from bbio import App, Backend\nfrom bbio.builtin import SQLiteStore\n"
    source += 'class Todos(Backend):\n    store = SQLiteStore("todos.db")\napp = App().serve(Todos)\n'
    target = f"{served(source)}:app"
    rows = "".join(json.dumps({"n": number, "count": number % 7}) + "\n" for number in range(1_200))
    assert run("import", target, "todos", "-", "--migrate", input=rows).exit_code == 0
    return target


def test_all_pages_are_written(app: str) -> None:
    """To stdout, each model once; or those of a query, a field of which may have a name of a page's."""
    done = run("export", app, "todos")
    assert sorted(json.loads(line)["n"] for line in done.stdout.splitlines()) == list(range(1_200))
    done = run("export", app, "todos", "--query", '{"count": {"$eq": 3}}')
    assert len(done.stdout.splitlines()) == 171


def test_a_file_is_written_whole_or_not_at_all(app: str) -> None:
    """For its owner alone; an earlier one stays until the new one is there."""
    path = Path("out.jsonl")
    path.write_text("earlier")
    assert run("export", app, "todos", "--output", "out.jsonl", "--query", '{"n": "$"}').exit_code == 0
    assert path.read_text() == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    done = run("export", app, "todos", "--output", "out.jsonl", "--query", '{"n": {"$odd": 1}}')
    assert done.exit_code == 1
    assert path.read_text() == ""
    done = run("export", app, "todos", "--output", "nowhere/out.jsonl")
    assert (done.exit_code, "nowhere/out.jsonl cannot be written" in done.stderr) == (1, True)
    assert not list(Path.cwd().glob(".*.part"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--query", "{"), "--query is not JSON"),
        (("--query", "[]"), "is a JSON object"),
        (("--query", '{"limit": 5}'), "not limit, offset, cursor, count"),
        (("--query", '{"$count": {"$eq": 1}}'), "not limit, offset, cursor, count"),
        (("--format", "csv"), "'todos' has no model; use --format jsonl"),
    ],
)
def test_what_cannot_be_exported_is_said(app: str, options: tuple[str, ...], message: str) -> None:
    """Queries that are none, or are about pages; CSV where nobody knows the fields."""
    done = run("export", app, "todos", *options)
    assert done.exit_code in (1, 2)
    assert message in done.stderr
