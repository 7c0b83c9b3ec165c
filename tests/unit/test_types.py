"""What type checkers find in the code of users, on the strictest settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from bbio import Backend, DefinitionError
from bbio.builtin import MemoryStore
from bbio.generic import M

ROOT = Path(__file__).resolve().parents[2]
CHECKED = """
from typing import Any, TypedDict

import attrs

import bbio
from bbio import App, Backend, Next, Request, Runtime, after, before, create, use
from bbio.client import Collection, Handle, connect


@attrs.define
class Issue:
    title: str
    author: str = ""


class Issues(Backend[Issue]):
    @before("create", "update")
    def sign(self, req: Request[Issue]) -> None:
        req.model.author = "ann"
        req.model.athor = "ann"  # wrong

    @before("patch")
    def look(self, req: Request[dict[str, Any]]) -> None:
        print(req.model.get("title"))

    @use("write")
    async def around(self, req: Request, next: Next) -> Any:
        if req.method == "craete":  # wrong
            return None
        return await next()

    @after("craete")  # wrong
    def late(self, req: Request) -> None: ...

    @create
    def answer(self, req: Request[Issue]) -> Issue:
        return req.model

    def tell(self) -> None:
        self.emit("created", Issue("milk"))
        self.emit("made", Issue("milk"))  # wrong
        self.emit("created", 7)  # wrong


class Record(TypedDict):
    id: str
    title: str


async def main() -> None:
    async with connect("http://127.0.0.1:3000") as io:
        issues: Handle[Record] = io.backend("issues")
        record = await issues.create({"title": "milk"})
        print(record["title"].upper(), record["titel"])  # wrong
        found = await issues.read(data={"title": "milk"})
        print(found[0]["title"], found["title"])  # wrong
        print((await issues.read("1"))["titel"])  # wrong
        page = await issues.query({"limit": 5})
        print(page.models[0]["titel"])  # wrong
        mirror: Collection[Record] = await issues.collection()
        print(mirror["1"]["titel"])  # wrong
        await issues.sync("craete", {})  # wrong
        async for event in issues.events():
            if event.method == "craete":  # wrong
                break
        anything = io.backend("issues")
        print((await anything.create({}))["whatever"])


app = App().serve(Issues)


async def calls() -> None:
    issues = app.backends[Issues]
    named: Runtime[Issue] = app.backends["issues"]
    made = await issues.create(Issue("milk"), user={"id": "ann"}, op="first")
    print(made.title.upper(), made.titel)  # wrong
    print((await named.read("1")).titel)  # wrong
    print((await issues.update({"id": "1", "title": "tea"})).titel)  # wrong
    print((await issues.patch({"id": "1"}, rev=1)).titel)  # wrong
    print((await issues.query({"limit": 5})).models[0].titel)  # wrong
    print((await issues.delete(made)).titel)  # wrong
    await issues.create(7)  # wrong
    await issues.create(Issue("milk"), usr={})  # wrong
    await issues.sync("craete")  # wrong
    async for event in issues.events("home", since=None):
        if event.method == "craete":  # wrong
            break
        print(event.channel, event.position["streams"])


def in_a_thread() -> None:
    blocking = app.backends[Issues].blocking
    print(blocking.create(Issue("milk"), channel="home").titel)  # wrong
    print(blocking.query().models[0].titel)  # wrong
    blocking.create(7)  # wrong
    anything = app.backends["issues"].blocking
    print(anything.read("1")["whatever"])


async def script() -> None:
    async with bbio.open("issues:app") as backends:
        print((await backends[Issues].read("1")).titel)  # wrong
        print((await backends["issues"].read("1"))["whatever"])


def blocking_script() -> None:
    with bbio.open(app, migrate=True) as backends:
        print(backends[Issues].create(Issue("milk")).titel)  # wrong
        print(backends["issues"].read("1")["whatever"])
        backends[Issues].emit("craeted", {})  # wrong
"""
WRONG = {number for number, line in enumerate(CHECKED.splitlines(), 1) if "# wrong" in line}


@pytest.mark.once
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_checkers_find_what_is_wrong_and_nothing_else(checker: str, tmp_path: Path) -> None:
    (tmp_path / "issues.py").write_text(CHECKED)
    program = Path(sys.executable).with_name(checker)
    if checker == "mypy":
        command = [program, "--strict", "--strict-equality", "--output=json", "issues.py"]
    else:
        settings = {"typeCheckingMode": "strict", "include": ["issues.py"], "extraPaths": [str(ROOT)]}
        (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
        command = [program, "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    if checker == "mypy":
        found = {each["line"]: each["message"] for each in map(json.loads, done.stdout.splitlines())}
    else:
        report = json.loads(done.stdout)["generalDiagnostics"]
        found = {each["range"]["start"]["line"] + 1: each["message"] for each in report}
    assert found.keys() == WRONG, (done.stdout, done.stderr)


@attrs.define
class Todo:
    title: str


def test_a_class_in_brackets_is_the_model() -> None:
    """Of the class, of those that it is derived from, and beside `model` where both say the same."""

    class Owned(Backend[M]):
        store = MemoryStore()

    class Todos(Owned[Todo]):
        pass

    class Same(Backend[Todo]):
        model = Todo

    class Derived(Todos):
        pass

    assert [cls.model for cls in (Owned, Todos, Same, Derived)] == [None, Todo, Todo, Todo]
    assert Todos.schema is not None
    assert list(Todos.schema.fields) == ["title"]


def test_brackets_that_declare_no_model() -> None:
    """What may be anything, and what is beside another base in brackets."""

    class Anything(Backend[Any]):
        pass

    class Either(Backend[Todo | None]):
        pass

    class Beside(list[Todo], Backend):
        pass

    assert [cls.model for cls in (Anything, Either, Beside)] == [None, None, None]


def test_brackets_that_cannot_be_the_model() -> None:
    with pytest.raises(DefinitionError, match=r"Backend\[Todo\], and its model is another class; drop one"):
        type("Todos", (Backend,), {"model": int, "__orig_bases__": (Backend[Todo],)})
    with pytest.raises(DefinitionError, match=r"nothing is known yet of 'Todo'; write class Todo above, and Backend"):
        type("Todos", (Backend,), {"__orig_bases__": (Backend["Todo"],)})
    with pytest.raises(DefinitionError, match="is not an attrs class"):
        type("Todos", (Backend,), {"__orig_bases__": (Backend[int],)})
