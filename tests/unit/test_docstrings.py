"""The docstrings of what users import: each tells what to give, what is raised, and shows an example."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import bbio

REFERENCE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
ENTRY = re.compile(r"^\.\. auto(?:class|function):: ([\w.]+)\n((?:   .*\n)*)", re.MULTILINE)
# How no docstring begins: with a clause that lacks its noun.
HEADLESS = re.compile(
    r"(?:What|Who|Whom|Whose|Of|Those|That|Where|Whether|How|The same(?: (?:of|as|with|in|for))|As"
    r"|Told|Known|Found|Given|Held|Kept|Made|Sent|Said|Seen|Taken)\b"
)
DECORATORS = [bbio.before, bbio.use, bbio.after, bbio.on_error, bbio.create, bbio.read, bbio.update, bbio.patch]


def found(path: str) -> Any:
    """Return what a dotted name of the reference stands for."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def documented() -> list[Any]:
    """Return the classes and functions of the reference, and the members that it names, each with its name."""
    entries = []
    for path, options in ENTRY.findall(REFERENCE):
        members = re.sub(r":\w+:|\s", "", options).split(",")
        entries += [(path, found(path)), *((f"{path}.{name}", getattr(found(path), name)) for name in members if name)]
    errors = [err for err in vars(bbio.errors).values() if isinstance(err, type) and issubclass(err, bbio.BbioError)]
    entries += [(f"bbio.errors.{err.__name__}", err) for err in errors]
    return [pytest.param(name, each, id=name) for name, each in entries]


def docstring(obj: Any) -> str:
    own = obj.__doc__ if isinstance(obj, type) else inspect.getdoc(obj)
    return inspect.cleandoc(own or "")


def parameters(obj: Any) -> list[str]:
    """Return the names of the parameters that a user gives; of an error those are the details, which it declares."""
    if isinstance(obj, type) and issubclass(obj, bbio.SyncError):
        return list(obj.details)
    if not callable(obj) or (isinstance(obj, type) and obj.__init__ in (object.__init__, Exception.__init__)):
        return []
    try:
        names = inspect.signature(obj).parameters.values()
    except ValueError:
        return []
    every = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in names if each.name != "self" and each.kind not in every]


@pytest.mark.parametrize(("name", "obj"), documented())
def test_a_docstring_says_what_a_user_has_to_know(name: str, obj: Any) -> None:
    """It begins with a verb or a noun, names each parameter or says where they are, and a class shows an example.

    A class that something else makes for the user, which it names, need not tell of its parameters.
    """
    text = docstring(obj)
    assert text
    assert not HEADLESS.match(text)
    if not re.search(r"see `|made by `", text.lower()):
        assert [each for each in parameters(obj) if not re.search(rf"\b{each}\b", text)] == []
    if isinstance(obj, type) or name.count(".") == 1 or name.startswith(("bbio.client.connect", "bbio.builtin.store")):
        assert "Example:" in text


@pytest.mark.once  # looks at the sources
def test_every_docstring_begins_with_a_verb_or_a_noun() -> None:
    """Also one that only those read who work on bbio."""
    package = Path(bbio.__file__).parent
    headless = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                headless += [f"{path.name}: {text.splitlines()[0]}"] if HEADLESS.match(text) else []
    assert headless == []


@pytest.mark.parametrize("decorator", DECORATORS, ids=repr)
def test_the_examples_of_decorators_run(decorator: Any) -> None:
    """They are objects, whose docstrings doctest does not look for."""
    test = doctest.DocTestParser().get_doctest(decorator.__doc__, vars(bbio).copy(), repr(decorator), None, None)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
