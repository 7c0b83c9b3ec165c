"""What the documentation shows works."""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
import pkgutil
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import bbio
import bbio.builtin
import bbio.client
import bbio.testing
from bbio import Backend
from tests.support.guides import files
from tests.support.stacks import Served
from tools.npm import run_npm

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "client/README.md")), *GUIDES]
FENCE = re.compile(r"^([ ]*)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
DECLARED = re.compile(r"\(Backend(\[\w+\])?\):")
SCRIPT = re.compile(r"^```(?:js|javascript)\n(.*?)^```$|<script>\n(.*?)</script>", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
SPAN = re.compile(r"`([^`\n]+)`")
LOG = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a span of a page is that is not the words of a message: a command, or code.
NO_MESSAGE = re.compile(r"^bbio |[(){}=]")
# What a message of the code is filled in with, and what a page writes for any such value.
FILLED_IN = re.compile(r"%(?:\.\d+)?[a-z]|\0")
ANY_VALUE = re.compile(r"\.\.\.|'[^']*'")
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


def run(page: Path, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run an example in a folder, beside the files that the page has shown before it; return what it defines.

    The environment says what differs from place to place. The tests of an example that is a file of tests are run.
    """
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("BBIO_SECRET_KEY", "a key of the tests, long enough to be one")
    monkeypatch.setenv("BBIO_DATABASE_URL", "postgresql://app@127.0.0.1/app")
    for name in ("CRM_SECRET", "CRM_OLD_SECRET"):
        monkeypatch.setenv(name, bbio.builtin.Webhook.make_secret())
    (folder / "index.html").touch()
    shown = "\n".join(page.read_text().splitlines()[: len(code) - len(code.lstrip("\n"))])
    for name, text in files(shown).items():
        (folder / name).write_text(text)
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
    names: dict[str, Any] = {"__name__": "example"}
    before = set(sys.modules)
    try:
        exec(compile(code, str(page), "exec", dont_inherit=True), names)
        if code.lstrip("\n").startswith("# test_"):
            for name in [name for name in names if name.startswith("test_")]:
                asyncio.run(names[name]())
    finally:
        for name in set(sys.modules) - before:
            if (folder / f"{name}.py").exists():
                del sys.modules[name]
    return names


@pytest.mark.parametrize(("page", "code"), examples())
def test_examples_run(page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python example of the documentation runs by itself, beside the page that it may serve."""
    run(page, code, tmp_path, monkeypatch)


@pytest.mark.parametrize(("page", "code"), [each for each in examples() if DECLARED.search(each.values[1])])
def test_examples_show_no_habit_that_leaks(
    page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something answers each sync method; a guard of updates guards patches; nothing but `before` thins out a read."""
    names = run(page, code, tmp_path, monkeypatch)
    backends = [
        cls for cls in names.values() if isinstance(cls, type) and issubclass(cls, Backend) and cls is not Backend
    ]
    assert backends
    for cls in backends:
        runtime = Served(cls).runtime
        assert runtime.narrowing == []
        for stack in runtime.stacks.values():
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


@pytest.mark.once  # asks esbuild
def test_scripts_can_be_parsed(tmp_path: Path) -> None:
    """Every example in JavaScript, of blocks and of pages, is JavaScript."""
    scripts = []
    for page in PAGES:
        for number, texts in enumerate(SCRIPT.findall(page.read_text())):
            scripts.append(tmp_path / f"{page.stem}-{number}.js")
            scripts[-1].write_text("".join(texts))
    assert scripts
    check = ["esbuild", *map(str, scripts), "--format=esm", "--log-level=warning", f"--outdir={tmp_path / 'out'}"]
    run_npm(ROOT / "client", "exec", "--offline", "--", *check)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the repository has one at its end."""
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_files_that_the_architecture_names_are_there() -> None:
    """Each module and script, by the end of its path."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    paths = [path.as_posix() for path in (*(ROOT / "bbio").rglob("*.py"), *(ROOT / "client").rglob("src/**/*.js"))]
    named = set(re.findall(r"`(?:bbio/)?([\w/]+\.(?:py|js))`", text)) - {"tests/unit/test_floor_plan.py"}
    assert len(named) > 40
    assert [name for name in sorted(named) if not any(path.endswith("/" + name) for path in paths)] == []


def test_every_page_is_in_the_index() -> None:
    """No guide is left out of the table of contents."""
    index = (ROOT / "docs" / "index.md").read_text().splitlines()
    assert [page.stem for page in GUIDES if page.stem not in (*index, "index")] == []


@pytest.mark.parametrize("page", ["guarantees.md", "security.md"])
def test_the_tests_that_hold_the_promises_exist(page: str) -> None:
    """Guarantees and defences name tests; each is where the page says."""
    named = re.findall(r"`((?:tests|client/test)/[\w./]+\.(?:py|js))(?:::(\w+))?`", (ROOT / "docs" / page).read_text())
    assert named
    assert [
        (file, test)
        for file, test in named
        if not (ROOT / file).exists() or (test and f"def {test}" not in (ROOT / file).read_text())
    ] == []


def messages() -> list[str]:
    """Return all texts of the package's code, with a NUL for each value that an f-string fills in."""
    found = []
    for path in (ROOT / "bbio").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def quoted(page: Path) -> list[str]:
    """Return the messages that the prose of a page quotes: its spans of several words that are no code."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [span for span in SPAN.findall(prose) if " " in span and not NO_MESSAGE.search(span)]


def test_the_messages_that_troubleshooting_quotes_are_those_of_the_code() -> None:
    """Whoever searches the page for what the log says finds it; `...` and what is in quotes stand for any value."""
    texts = messages()
    spans = quoted(ROOT / "docs" / "troubleshooting.md")
    assert len(spans) >= 6
    for span in spans:
        pattern = ".+".join(map(re.escape, filter(None, (part.strip() for part in ANY_VALUE.split(span)))))
        assert any(re.search(pattern, text, re.DOTALL) for text in texts), f"no message is like {span!r}"


def test_the_log_lines_of_the_documentation_are_those_of_the_code() -> None:
    """Each line of a log that a page shows is a message of the code with its values filled in."""
    templates = [(FILLED_IN.split(text), FILLED_IN.sub("", text)) for text in messages() if FILLED_IN.search(text)]
    patterns = [(re.compile(".+".join(map(re.escape, parts))), len(words)) for parts, words in templates]
    pages = [page for page in PAGES if page.stem not in ("protocol", "architecture")]  # with packets, and a picture
    lines = [line for page in pages for block in LOG.findall(page.read_text()) for line in block.splitlines()]
    assert lines
    for line in lines:
        said = re.sub(r"^(DEBUG|INFO|WARNING|ERROR) ", "", line)
        # A message that is hardly more than its values is like any line.
        assert any(2 * words > len(said) - 50 and pattern.fullmatch(said) for pattern, words in patterns), line


def test_every_page_is_in_the_readme() -> None:
    """Who reads no more than the first page finds all the others."""
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in GUIDES if f"](docs/{page.name}" not in readme and page.stem != "index"] == []


@pytest.mark.parametrize("name", [name for name in MODULES if name != "bbio.__main__"])
def test_docstring_examples(name: str) -> None:
    """Every example in a docstring shows what happens."""
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0


def test_every_public_name_is_in_the_reference() -> None:
    """Whatever a user may import from the package's public modules is in docs/api.md."""
    reference = (ROOT / "docs" / "api.md").read_text()
    errors = {name for name in vars(bbio.errors) if not name.startswith("_")}  # all are there, by automodule
    for module in (bbio, bbio.builtin, bbio.client, bbio.testing):
        names = set(module.__all__) - errors
        assert [name for name in sorted(names) if f":: {module.__name__}.{name}\n" not in reference] == []
