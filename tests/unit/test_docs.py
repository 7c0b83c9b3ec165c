"""What the documentation shows works."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest

import bbio

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^([ ]*)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MODULES = ["bbio", *(module.name for module in pkgutil.walk_packages(bbio.__path__, "bbio."))]


def examples() -> list[object]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            name = f"{page.relative_to(ROOT)}:{line}"
            code = "\n" * (line - 1) + textwrap.dedent(match[2])
            found.append(pytest.param(page, code, id=name))
    return found


@pytest.mark.parametrize(("page", "code"), examples())
def test_examples_run(page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python example of the documentation runs by itself, beside the page that it may serve."""
    (tmp_path / "index.html").touch()
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec", dont_inherit=True), {"__name__": "example"})


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
