"""Fixtures of the tests of commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SERVED = """
import asyncio

from bbio import App, Backend, Conflict, Invalid, before
from bbio.builtin import SQLiteStore

class Todos(Backend):
    store = SQLiteStore("todos.db", ids=iter(range(1, 99)).__next__)

    @before("create")
    async def check(self, req):
        req.model["by"] = "server" if req.is_trusted else req.user
        if not req.model.get("title"):
            raise Invalid("not valid", fields={"title": "is missing"})
        if req.model["title"] == "bug":
            raise ZeroDivisionError
        if req.model["title"] == "slow":
            await asyncio.sleep(3600)
        req.model.update(req.options)

app = App().serve(Todos)
nothing = App()
"""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """`served(source)`: the name of a module with that source, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    made = []

    def served(source: str = SERVED) -> str:
        made.append(f"served_{os.urandom(4).hex()}")
        (tmp_path / f"{made[-1]}.py").write_text(source)
        return made[-1]

    yield served
    for name in made:
        sys.modules.pop(name, None)
