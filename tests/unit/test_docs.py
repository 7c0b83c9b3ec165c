"""What the documentation shows works."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

import bbio
from bbio import Backend
from tests.support.stacks import Served

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^([ ]*)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MODULES = ["bbio", *(module.name for module in pkgutil.walk_packages(bbio.__path__, "bbio."))]


def examples() -> list[Any]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            name = f"{page.relative_to(ROOT)}:{line}"
            code = "\n" * (line - 1) + textwrap.dedent(match[2])
            found.append(pytest.param(page, code, id=name))
    return found


def run(page: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run an example where the environment says what differs from place to place; what it has defined."""
    monkeypatch.setenv("BBIO_SECRET_KEY", "a key of the tests, long enough to be one")
    monkeypatch.setenv("BBIO_DATABASE_URL", "postgresql://app@127.0.0.1/app")
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, str(page), "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize(("page", "code"), examples())
def test_examples_run(page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python example of the documentation runs by itself, beside the page that it may serve."""
    (tmp_path / "index.html").touch()
    monkeypatch.chdir(tmp_path)
    run(page, code, monkeypatch)


@pytest.mark.parametrize(("page", "code"), [each for each in examples() if "(Backend):" in each.values[1]])
def test_examples_show_no_habit_that_leaks(
    page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something answers each sync method; a guard of updates guards patches; nothing but `before` thins out a read."""
    (tmp_path / "index.html").touch()
    monkeypatch.chdir(tmp_path)
    names = run(page, code, monkeypatch)
    backends = [
        cls for cls in names.values() if isinstance(cls, type) and issubclass(cls, Backend) and cls is not Backend
    ]
    assert backends
    for cls in backends:
        for stack in Served(cls).backend.stacks.values():
            assert cls.store is not None or stack.may_answer, stack.method
            for layer in stack.layers:
                assert layer.kind != "before" or "update" not in layer.methods or "patch" in layer.methods, layer
                assert layer.kind != "after" or "read" not in layer.methods, layer


def test_examples_hold_no_secret() -> None:
    """Who copies an example does not write a password or a key into the source, nor lets every site in."""
    texts = [code for each in examples() for code in [each.values[1]]]
    texts += [path.read_text() for path in (ROOT / "examples").rglob("*.py")]
    bad = re.compile(r"""secret=["'\[]|://\w+:\w+@|password\W+(==|!=)|cors=["']\*""")
    assert [line for text in texts for line in text.splitlines() if bad.search(line)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the repository has one at its end."""
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_is_in_the_index() -> None:
    """No guide is left out of the table of contents."""
    index = (ROOT / "docs" / "index.md").read_text().splitlines()
    assert [page.stem for page in PAGES[1:] if page.stem not in (*index, "index")] == []


def test_the_tests_that_hold_the_promises_exist() -> None:
    """What is guaranteed names tests; each is where it says."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "guarantees.md").read_text())
    assert named
    assert [
        (file, test)
        for file, test in named
        if not (ROOT / file).exists() or f"def {test or 'test_'}" not in (ROOT / file).read_text()
    ] == []


def test_every_page_is_in_the_readme() -> None:
    """Who reads no more than the first page finds all the others."""
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES[1:] if f"](docs/{page.name}" not in readme and page.stem != "index"] == []


@pytest.mark.parametrize("name", [name for name in MODULES if name != "bbio.__main__"])
def test_docstring_examples(name: str) -> None:
    """Every example in a docstring shows what happens."""
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0
