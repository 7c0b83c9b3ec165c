"""The benchmarks: that they can be started at all, which nobody would notice until the next release."""

import argparse
import gc
import importlib
import os
import runpy
from pathlib import Path

import pytest

from bbio.builtin import SQLiteStore
from benchmarks import against, bar, contestants, deltas, listeners, report, scenarios, scopes

ROOT = Path(__file__).parents[2]
MODULES = [path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py") if path.stem != "plot"]
SERVERS = [path.name for path in (ROOT / "benchmarks" / "servers").glob("*.py")]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_can_be_imported(name):
    """What it takes from the inside of bbio is there."""
    assert importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_program_can_be_imported(name):
    """The programs that are measured find what they import."""
    assert callable(runpy.run_path(str(ROOT / "benchmarks" / "servers" / name), run_name=name)["main"])


def test_every_step_of_make_bench_is_a_module_with_bars():
    """`make bench` ends with what measures in one process; each has its line in the documentation."""
    steps = [
        line.split("benchmarks.")[1].split()[0]
        for line in (ROOT / "Makefile").read_text().splitlines()
        if "-m benchmarks." in line
    ]
    assert set(steps) == {"views", "deltas", "listeners", "scopes", "presence", "identity", "bulk"}
    documented = (ROOT / "benchmarks" / "README.md").read_text()
    assert all(f"`{step}.py`" in documented for step in steps)


def test_a_server_is_measured_beside_its_twin_of_another_checkout(monkeypatch, tmp_path):
    """Each scenario but the floods has it right after it; what is no server of bbio has none."""
    monkeypatch.setattr(contestants, "CONTESTANTS", dict(contestants.CONTESTANTS))
    monkeypatch.setattr(against, "CONTESTANTS", contestants.CONTESTANTS)
    monkeypatch.setattr(against, "LABELS", dict(scenarios.LABELS))
    cases = {name: dict(scenario.cases) for name, scenario in scenarios.SCENARIOS.items()}
    try:
        against.add_twins(tmp_path)
        added = {name: list(scenario.cases) for name, scenario in scenarios.SCENARIOS.items()}
        lines = {line.text: line for line in against.lines()}
    finally:
        for name, scenario in scenarios.SCENARIOS.items():
            scenario.cases.clear()
            scenario.cases.update(cases[name])
    assert added["create"] == ["bbio", "bbio, before", "bbio-sqlite", "bbio-sqlite, before", "sqlite-create"]
    assert added["slow"] == ["none", "none, before", "3 slow", "3 slow, before"]
    assert added["floods"] == list(cases["floods"])
    command = contestants.CONTESTANTS["bbio-5-layers, before"].command()
    assert command[:2] == ["env", f"PYTHONPATH={tmp_path}"]
    assert command[-3:] == [str(tmp_path / against.SERVER), "--layers", "5"]
    measured = {"sync1": {"bbio": {"cpu_us": [11.0, 12.0]}, "bbio, before": {"cpu_us": [10.0, 10.0]}}}
    line = lines["sync1, bbio, cpu_us: x before"]
    assert (line.limit, line.compute(measured)) == (bar.SAME, [1.1, 1.2])
    assert report.in_order(scenarios.SCENARIOS["create"], ["bbio, before", "sqlite-create", "bbio"]) == [
        "bbio",
        "sqlite-create",
        "bbio, before",
    ]


def test_a_checkout_that_cannot_be_measured_is_refused(tmp_path):
    """Whoever names it hears what to do; this one can be measured against itself."""
    with pytest.raises(argparse.ArgumentTypeError, match="is no checkout of bbio: it has no benchmarks/servers"):
        against.checkout(str(tmp_path))
    program = tmp_path / against.SERVER
    program.parent.mkdir(parents=True)
    program.touch()
    with pytest.raises(argparse.ArgumentTypeError, match="has no scripts for browsers: run `make setup` in it"):
        against.checkout(str(tmp_path))
    (tmp_path / "bbio" / "static").mkdir(parents=True)
    (tmp_path / "bbio" / "static" / "bbio.js").touch()
    with pytest.raises(argparse.ArgumentTypeError, match="is not what Python imports"):
        against.checkout(str(tmp_path))
    assert against.checkout(os.path.relpath(ROOT)) == ROOT


FEW = {
    listeners: {"LISTENERS": 8, "SHARING": 2, "ROUNDS": 1, "EVENTS": 2, "FEW": 2, "MISSED": 2},
    scopes: {"WRITE_ROUNDS": 1, "WRITES": 2, "TOLD": 2, "LISTENERS": 2, "VIEWERS": 2, "RECHECKED": 2, "RECHECKS": 1},
    deltas: {"APPENDS": 2},
}
PAGES = {"ROUNDS": 1, "RECORDS": 2 * scopes.PAGE, "OWNERS": 2, "PAGES": 2}


@pytest.mark.once
@pytest.mark.parametrize(
    "part",
    [listeners.one_of_many, listeners.shared_view, listeners.resume, scopes.without_views, scopes.recheck],
    ids=lambda part: part.__name__,
)
async def test_what_is_measured_in_one_process_runs(part, monkeypatch, capsys):
    """With few of everything, so that the figures say nothing: it gets to its verdicts."""
    monkeypatch.setattr(gc, "freeze", gc.collect)
    for module, constants in FEW.items():
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)
    await part()
    assert {line[:6] for line in capsys.readouterr().out.splitlines()} <= {"PASS  ", "MISS  "}


@pytest.mark.once
async def test_pages_of_a_scope_and_by_a_condition_are_alike(monkeypatch, capsys, tmp_path):
    """Of a file: every request has its answer, and the pages are whole."""
    monkeypatch.setattr(gc, "freeze", gc.collect)
    for name, value in PAGES.items():
        monkeypatch.setattr(scopes, name, value)
    files = iter(["a.db", "b.db"])
    await scopes.filtered_page("SQLite", lambda: SQLiteStore(tmp_path / next(files), index=scopes.INDEX))
    assert f"a page of {scopes.PAGE} of {2 * scopes.PAGE} records, by a scope, SQLite" in capsys.readouterr().out


@pytest.mark.once
async def test_a_record_that_grows_is_measured_in_bytes(monkeypatch):
    """What changed is less than the record, for each listener."""
    monkeypatch.setattr(deltas, "APPENDS", 2)
    changed, whole = await deltas.measure()
    assert 0 < changed < whole / 10
