"""The floor plan: which module may import which."""

import ast
import importlib
import re
import subprocess
import sys
from graphlib import TopologicalSorter
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
    assert "4 kept, 0 broken" in done.stdout


def test_who_sees_what_is_decided_in_one_place():
    """No module but that of views asks a schema which fields somebody sees."""
    asks = re.compile(r"\bschema\.(public|visible|shown|roles)\b|\broles_of\(")
    modules = [path for path in (ROOT / "bbio").rglob("*.py") if asks.search(path.read_text())]
    assert [path.relative_to(ROOT).as_posix() for path in modules] == ["bbio/view/view.py"]


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


def imported(path: Path, modules: set[str]) -> set[str]:
    """Return those of the modules that a source imports, at any place in it and for types alone too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            paths = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= paths & modules or {str(node.module)}
    return names & modules


@pytest.mark.once  # looks at the sources
@pytest.mark.parametrize("package", ["client"])
def test_no_modules_of_a_package_import_each_other_in_a_circle(package):
    """Neither when they run nor for types: each module can be read after those that it imports."""
    folder = ROOT / "bbio" / package
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in folder.rglob("*.py")}
    paths = {name.removesuffix(".__init__"): path for path, name in names.items()}
    graph = {name: imported(path, set(paths)) for name, path in paths.items()}
    list(TopologicalSorter(graph).static_order())  # a CycleError names the circle
