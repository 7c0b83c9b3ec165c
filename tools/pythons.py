"""Run the Python tests: all of them on the Python of .venv, those that may tell Pythons apart on the others too.

    python tools/pythons.py 2               # fail unless they run on two Pythons at least
    python tools/pythons.py 1 -k stack      # some, on the Python of .venv alone

The others are those that pyproject.toml claims, where they are found: below $PYENV_ROOT or ~/.pyenv, or on PATH. Each
has an environment of its own in .venvs, with what uv.lock says.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
CLAIM = re.compile(r"Programming Language :: Python :: (3\.\d+)")
# Nobody waits for a shim that hangs.
ASK_SECONDS = 20
# Says who it is, if it is a CPython with its lock and the modules that tests need.
ASK = """
import platform, sqlite3, ssl, sys, sysconfig, venv
usual = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
print(platform.python_version() if usual else "")
"""
FOLDERS = ("tests/unit", "tests/conformance", "tests/integration", "tests/properties")
PYTEST = ("-m", "pytest", "--dist", "loadgroup")
# Some measure time and memory: each of two cores has one test to run.
ALL = (*PYTEST, "-n", "3")
# None of these does so closely, and many wait for servers, databases and timers: a third keeps two cores busy.
SHORT = (*PYTEST, "-n", "3", "--no-cov", "-m", "not once", *FOLDERS)


def claimed() -> list[str]:
    """The Pythons that the package says it runs on, as `3.12`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [claim[1] for text in project["classifiers"] if (claim := CLAIM.fullmatch(text))]


def programs(version: str) -> Iterator[Path]:
    """Where a Python may be, the newest of pyenv first. The shims of pyenv on PATH work only for chosen versions."""
    for root in (os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv"):
        if root:
            found = Path(root, "versions").glob(f"{version}.*/bin/python{version}")
            yield from sorted(found, key=lambda path: [int(number) for number in re.findall(r"\d+", path.parts[-3])])[
                ::-1
            ]
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        program = Path(folder, f"python{version}")
        if program.exists():
            yield program


def whole_version(program: Path) -> str:
    """The whole version of a Python that works and can run the tests, else nothing."""
    try:
        told = subprocess.run([program, "-I", "-c", ASK], capture_output=True, text=True, timeout=ASK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""


def find(version: str) -> tuple[Path, str] | None:
    """A Python of this version that works, and its whole version."""
    for program in programs(version):
        found = whole_version(program)
        if found.startswith(f"{version}."):
            return program, found
    return None


def has_passed(*command: str | Path, **env: str) -> bool:
    """Run a command in the project's folder, with its output shown; whether it succeeded."""
    print("+", *command, flush=True)
    return subprocess.run(command, cwd=ROOT, env=os.environ | env).returncode == 0


def test_here(args: list[str]) -> bool:
    """Run all tests, or those that the arguments name, on the Python of .venv; whether they have passed."""
    return has_passed(sys.executable, *ALL, *(["--no-cov", *args] if args else ["--cov=bbio"]))


def test_on(version: str, program: Path) -> bool:
    """Run the shorter tests on another Python, in an environment of its own; whether they have passed."""
    environment = f".venvs/{version}"
    options = ("--quiet", "--locked", "--all-extras", "--python", str(program))
    return has_passed(
        UV, "sync", *options, UV_PROJECT_ENVIRONMENT=environment, UV_PYTHON_DOWNLOADS="never"
    ) and has_passed(f"{environment}/bin/python", *SHORT, HYPOTHESIS_PROFILE="short")


def main(fewest: int, args: list[str]) -> int:
    """Run the tests and say on which Pythons they have passed; how the process is to exit."""
    mine = ".".join(map(str, sys.version_info[:2]))
    print(f"== Python {mine}", flush=True)
    passed = {mine: test_here(args)}
    if args:
        return 0 if passed[mine] else 1
    said = [f"{whole_version(Path(sys.executable))}: {outcome(passed[mine])} (all tests)"]
    for version in claimed():
        if version == mine:
            continue
        print(f"== Python {version}", flush=True)
        found = find(version)
        if found is None:
            said.append(f"{version}: not found, so nothing ran")
            continue
        program, whole = found
        passed[version] = test_on(version, program)
        said.append(f"{whole}: {outcome(passed[version])} (all but the slowest tests)")
    for line in said:
        print(f"== Python {line}")
    ran = [version for version in passed if version in claimed()]
    if len(ran) < fewest:
        wanted = ", ".join(claimed())
        print(f"== too few: the tests must run on {fewest} of Python {wanted}; install another, with pyenv or on PATH")
    return 0 if all(passed.values()) and len(ran) >= fewest else 1


def outcome(passed: bool) -> str:
    return "passed" if passed else "FAILED"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
