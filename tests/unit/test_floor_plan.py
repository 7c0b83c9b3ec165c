"""The floor plan: which module may import which."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bbio
import bbio.builtin

ROOT = Path(__file__).parents[2]


@pytest.mark.once  # looks at the sources
def test_modules_import_only_what_lies_below_them():
    """Every contract of the floor plan in pyproject.toml holds, and each module has its place in it."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kept, 0 broken" in done.stdout


def test_who_sees_what_is_decided_in_one_place():
    """No module but that of views asks a schema which fields somebody sees."""
    asks = re.compile(r"\bschema\.(public|visible|shown|roles)\b|\broles_of\(")
    modules = [path for path in (ROOT / "bbio").rglob("*.py") if asks.search(path.read_text())]
    assert [path.relative_to(ROOT).as_posix() for path in modules] == ["bbio/view.py"]


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("bbio.query", "QueryLimits"),
        ("bbio.stack", "Middleware"),
        ("bbio.builtin.postgres", "PostgresStore"),
        ("bbio.builtin.sqlite", "SQLiteStore"),
    ],
)
def test_public_names_are_found_where_modules_became_packages(package, name):
    """As they were before."""
    public = bbio.builtin if package.startswith("bbio.builtin") else bbio
    assert getattr(importlib.import_module(package), name) is getattr(public, name)
