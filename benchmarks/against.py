"""Another checkout of bbio beside this one: each of its servers has a twin there, measured right after it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.bar import SAME, Line, ratio
from benchmarks.contestants import CONTESTANTS, Contestant
from benchmarks.scenarios import LABELS, SCENARIOS, Case

SERVER = Path("benchmarks", "servers", "bbio_app.py")
SCRIPTS = "bbio/static/*.js"
# Of these the first that a scenario has is compared: latencies differ from run to run by more than what is looked for.
FIGURES = ("cpu_us", "kib", "rss_mib")
# They have a bar of their own.
APART = ("floods",)


def checkout(text: str) -> Path:
    """Return the folder of another checkout, as the command line names it.

    Raises:
        argparse.ArgumentTypeError: it is none, or has not been set up.
    """
    path = Path(text).resolve()
    if not (path / SERVER).is_file():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of bbio: it has no {SERVER}")
    if not any(path.glob(SCRIPTS)):
        raise argparse.ArgumentTypeError(f"{text} has no scripts for browsers: run `make setup` in it")
    found = "import importlib.util; print(importlib.util.find_spec('bbio').origin)"
    told = subprocess.run([*interpreter(path), "-c", found], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(told).is_relative_to(path):
        raise argparse.ArgumentTypeError(f"{text} is not what Python imports, but {told}")
    return path


def interpreter(path: Path) -> list[str]:
    """Return the command of this same Python, with the same packages, that imports the bbio of a checkout."""
    return ["env", f"PYTHONPATH={path}", sys.executable, "-P"]


def add_twins(path: Path) -> None:
    """Have every server of this checkout measured in another one too, with the server program that is there."""
    for name, contestant in list(CONTESTANTS.items()):
        if is_of_bbio(name):
            command = partial(twin_command, path, contestant)
            CONTESTANTS[twin(name)] = replace(contestant, label=twin(contestant.label), command=command)
            LABELS[twin(name)] = twin(contestant.label)
    for scenario in SCENARIOS.values():
        if scenario.name in APART:
            continue
        for name, case in list(scenario.cases.items()):
            entries = {name: scenario.cases.pop(name)}
            if is_of_bbio(case.contestant):
                entries[twin(name)] = Case(twin(case.contestant), case.settings)
            scenario.cases.update(entries)  # each beside its twin


def twin(name: str) -> str:
    return f"{name}, before"


def is_of_bbio(contestant: str) -> bool:
    return contestant == "bbio" or contestant.startswith("bbio-")


def twin_command(path: Path, contestant: Contestant) -> list[str]:
    _, _, *options = contestant.command()
    return [*interpreter(path), str(path / SERVER), *options]


def lines() -> list[Line]:
    """Return the promises that nothing became dearer."""
    made = []
    for scenario in SCENARIOS.values():
        figure = next((figure for figure in FIGURES if figure in scenario.metrics), "")
        for name in scenario.cases:
            text = f"{scenario.name}, {name}, {figure}: x before"
            made.append(Line(text, SAME, ratio(scenario.name, twin(name), figure, name)))
    return made
