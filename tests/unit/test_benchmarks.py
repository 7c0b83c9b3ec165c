"""The benchmarks: that they can be started at all, which nobody would notice until the next release."""

import argparse
import importlib
import os
import runpy
from pathlib import Path

import pytest

from benchmarks import against, bar, contestants, report, scenarios

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
    assert set(steps) == {"views", "deltas", "listeners", "scopes"}
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
