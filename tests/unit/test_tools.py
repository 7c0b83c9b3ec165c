"""The tools of the repository: which Pythons the tests run on, and what the run says of them."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import redis
from coverage import Coverage

from tools import pythons

ROOT = Path(__file__).parents[2]
VERSION = ".".join(map(str, sys.version_info[:2]))
WHOLE = ".".join(map(str, sys.version_info[:3]))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine(folder, version, text)`: a machine with the Pythons that are put there, and no other."""
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(tmp_path / "shims"), str(tmp_path / "bin"), str(tmp_path / "none")])
    )
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")

    def install(folder, version, text):
        program = tmp_path / folder / f"python{version}"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        return program

    return install


def test_what_is_claimed_is_what_the_package_says():
    """The Python in use is one of them; the oldest is that of `requires-python`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert VERSION in pythons.claimed()
    assert project["requires-python"] == f">={pythons.claimed()[0]}"


def test_the_newest_that_works_is_found(machine):
    """Below pyenv's folder first, by numbers; what does not work, as a shim or a broken build, is passed over."""
    machine("shims", "3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    on_path = machine("bin", "3.12", "echo 3.12.3")
    assert pythons.find("3.12") == (on_path, "3.12.3")
    older = machine("home/.pyenv/versions/3.12.2/bin", "3.12", "echo 3.12.2")
    assert pythons.find("3.12") == (older, "3.12.2")
    machine("pyenv/versions/3.12.9/bin", "3.12", "echo 3.12.9")
    newer = machine("pyenv/versions/3.12.10/bin", "3.12", "echo 3.12.10")
    assert pythons.find("3.12") == (newer, "3.12.10")
    newer.chmod(0o644)
    assert pythons.find("3.12")[1] == "3.12.9"


@pytest.mark.parametrize("text", ["echo", "echo 3.14.0", "exit 1", "exec sleep 60"])
def test_what_is_not_that_python_is_not_found(machine, monkeypatch, text):
    """Another interpreter, another version, one that fails or hangs."""
    monkeypatch.setattr(pythons, "ASK_SECONDS", 0.5)
    machine("bin", "3.13", f"PATH=/bin:/usr/bin; {text}")
    assert pythons.find("3.13") is None


def test_a_python_says_who_it_is():
    """The one in use is a CPython with all that the tests need."""
    assert pythons.whole_version(Path(sys.executable)) == WHOLE


@pytest.fixture
def runs(monkeypatch):
    """What was run, instead of being run; `runs.failing` are parts of commands that fail."""

    class Runs(list):
        failing = ()
        found = ("3.11", "3.12", "3.13")

    runs = Runs()

    def run(command, env, **options):
        text = " ".join(map(str, command))
        runs.append((text, env))
        return subprocess.CompletedProcess(command, any(part in text for part in runs.failing))

    def find(version):
        return (Path(f"/python{version}"), f"{version}.9") if version in runs.found else None

    monkeypatch.setattr(pythons.subprocess, "run", run)
    monkeypatch.setattr(pythons, "find", find)
    monkeypatch.setattr(pythons, "whole_version", lambda program: WHOLE)
    return runs


OTHERS = [version for version in pythons.claimed() if version != VERSION]


def test_the_tests_run_on_every_python(runs, capsys):
    """All of them here, with coverage; those that may tell Pythons apart on the others, as locked."""
    assert pythons.main(2, []) == 0
    (here, _), *others = runs
    assert here.endswith("--cov=bbio")
    assert len(others) == 2 * len(OTHERS)
    for version, (sync, env), (test, short) in zip(OTHERS, others[::2], others[1::2], strict=True):
        assert f"sync --quiet --locked --all-extras --python /python{version}" in sync
        assert (env["UV_PROJECT_ENVIRONMENT"], env["UV_PYTHON_DOWNLOADS"]) == (f".venvs/{version}", "never")
        assert test.startswith(f".venvs/{version}/bin/python -m pytest")
        assert "-m not once" in test
        assert short["HYPOTHESIS_PROFILE"] == "short"
    said = capsys.readouterr().out
    assert f"== Python {WHOLE}: passed (all tests)" in said
    assert all(f"== Python {version}.9: passed (all but the slowest tests)" in said for version in OTHERS)


def test_some_tests_run_here_alone(runs):
    """Whoever names tests wants to see them soon."""
    assert pythons.main(2, ["-k", "stack"]) == 0
    assert [command.endswith("--no-cov -k stack") for command, _ in runs] == [True]
    runs.failing = ("stack",)
    assert pythons.main(1, ["-k", "stack"]) == 1


@pytest.mark.parametrize("failing", ["--cov=bbio", "sync", f".venvs/{OTHERS[-1]}/bin/python"])
def test_a_failure_on_one_is_a_failure(runs, capsys, failing):
    """The others run all the same, and it is said which failed."""
    runs.failing = (failing,)
    assert pythons.main(1, []) == 1
    assert sum("-m pytest" in command for command, _ in runs) == (1 if failing == "sync" else 1 + len(OTHERS))
    assert capsys.readouterr().out.count("FAILED") == (len(OTHERS) if failing == "sync" else 1)


@pytest.mark.parametrize(("fewest", "status"), [(1, 0), (2, 1)])
def test_too_few_pythons(runs, capsys, fewest, status):
    """A machine may have one only; where more are asked for, as in CI, that is a failure that says what to do."""
    runs.found = ()
    assert pythons.main(fewest, []) == status
    said = capsys.readouterr().out
    assert all(f"== Python {version}: not found, so nothing ran" in said for version in OTHERS)
    assert ("too few" in said) == bool(status)


def test_redis_is_found_on_every_python(redis_url):
    """Also where no package brings it."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


def test_every_extra_is_of_use():
    """What it installs is imported by the package."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    everything = extras.pop("all")
    assert everything == [f"bbio[{','.join(extras)}]"]
    modules = {name.lower(): module for module, names in packages_distributions().items() for name in names}
    sources = "\n".join(path.read_text() for path in (ROOT / "bbio").rglob("*.py"))
    for extra, requirements in extras.items():
        for requirement in requirements:
            assert f"import {modules[re.split('[>[]', requirement)[0]]}" in sources, f"nothing uses the extra {extra!r}"


@pytest.mark.once  # asks make
def test_the_demo_installs_no_development_tools():
    """`make demo` installs what bbio needs to run, and starts; everything else stays out of it."""
    # -B: as in a fresh clone.
    commands = subprocess.run(["make", "-n", "-B", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "uv sync --locked --no-dev --inexact" in commands
    assert "bbio demo" in commands
    assert "machine.py" not in commands
    assert "--all-extras" not in commands


@pytest.mark.no_cover
def test_what_is_not_to_be_counted_is_not_measured():
    """In a worker either: property tests would take three times as long."""
    assert Coverage.current() is None
