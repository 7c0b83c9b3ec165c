"""The fast engine: what it relies on of the libraries below it, and how it tells when that is missing."""

import ast
import inspect
import subprocess
import sys

import pytest

from bbio import App, ConfigurationError
from bbio.server import engine


def private_names(tree):
    """Every private attribute read, set or overridden, without what the module's own classes add."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods, own = set(), set()
    for definition in classes:
        bases = inspect.getmro(getattr(engine, definition.name))[1:]
        for node in definition.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inherited = any(hasattr(base, node.name) for base in bases)
                (methods if inherited else own).add(node.name)
        stored = {
            node.attr
            for node in ast.walk(definition)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        }
        own |= {name for name in stored if not any(hasattr(base, name) for base in bases)}
    touched = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | methods
    return {name for name in touched - own if name.startswith("_") and not name.startswith("__")}


def test_the_list_of_internals_is_the_list_of_what_is_used():
    """Every private name of a library that the engine touches is checked at the start, and no other."""
    used = private_names(ast.parse(inspect.getsource(engine)))
    assert used == {name for _, name in engine.INTERNALS if name.startswith("_")}


def test_private_modules_are_imported_by_the_engine_alone():
    """`bbio.server.engine` is the one place that may fail with another version of a library."""
    for name, module in list(sys.modules.items()):
        if name.startswith("bbio.") and name not in ("bbio.server.engine", "bbio.server.stepping"):
            for node in ast.walk(ast.parse(inspect.getsource(module))):
                if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("bbio"):
                    assert not any(part.startswith("_") for part in (node.module or "").split(".") if part[:2] != "__")


@pytest.mark.parametrize("number", range(len(engine.INTERNALS)))
def test_a_missing_internal_is_told_when_an_application_is_made(monkeypatch, number):
    """The message names it, the versions installed, and what to do; the plain engine does without."""
    owner, name = engine.INTERNALS[number]
    gone = type(owner.__name__, (), {"__module__": owner.__module__})
    internals = [(gone if n == number else one, of) for n, (one, of) in enumerate(engine.INTERNALS)]
    monkeypatch.setattr(engine, "INTERNALS", internals)
    with pytest.raises(ConfigurationError) as told:
        App()
    for word in (f"{owner.__name__}.{name},", "python-socketio", "aiohttp", "install", 'engine="plain"'):
        assert word in str(told.value)
    App(engine="plain")


def test_a_missing_module_is_told_when_an_application_is_made():
    """The same when a module that the engine imports has gone."""
    program = """
import sys, aiohttp.web
sys.modules["aiohttp._websocket.reader"] = None
from bbio import App, ConfigurationError
App(engine="plain")
try:
    App()
except ConfigurationError as err:
    print(err)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "aiohttp._websocket.reader" in answer.stdout
    assert 'engine="plain"' in answer.stdout
