"""Calls of the server's own code: what they give, what comes back, and what they are to the layers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

import bbio
from bbio import (
    App,
    Backend,
    BadRequest,
    ConfigurationError,
    Conflict,
    EncodingError,
    Forbidden,
    InternalError,
    Invalid,
    NotFound,
    Request,
    StackError,
    Unauthorized,
    before,
    read,
    use,
)
from bbio.builtin import CookieParser, Logger, MemoryStore, Session
from bbio.calls import MAX_OP
from bbio.generic import M
from bbio.protocol import encode
from bbio.requests import ServerRequest
from bbio.runtime import Runtime
from bbio.streams import Op


@attrs.define
class Todo:
    title: str
    done: bool = False
    author: str = bbio.field(read_only=True, default="")
    notes: str = bbio.field(roles=("staff",), default="")
    secret: str = bbio.field(private=True, default="")
    due: datetime | None = None


class Base(Backend[M]):
    store = MemoryStore()


def serving(*backends, **named):
    return App().serve(*backends, **named)


@pytest.fixture
async def todos():
    """A backend with a model, running."""

    class Todos(Base[Todo]):
        pass

    app = serving(Todos)
    async with app.test():
        yield app.backends[Todos]


async def test_models_come_and_go_as_instances(todos):
    """With an id that the class does not declare; nothing is hidden, and nothing is read-only."""
    milk = await todos.create(Todo("milk", author="ann", notes="n", secret="s", due=datetime(2026, 1, 2, tzinfo=UTC)))
    assert isinstance(milk, Todo)
    assert attrs.asdict(milk) == attrs.asdict(
        Todo("milk", author="ann", notes="n", secret="s", due=datetime(2026, 1, 2, tzinfo=UTC))
    )
    milk.title = "oat milk"
    assert (await todos.update(milk)).title == "oat milk"
    assert (await todos.patch({"id": milk.id, "done": True, "author": "bob"})).author == "bob"
    found = await todos.read(milk.id)
    assert (found.id, found.title, found.done, found.secret) == (milk.id, "oat milk", True, "s")
    page = await todos.query({"secret": "s", "count": True, "limit": 1})
    assert (page.models[0].id, page.next, page.total) == (milk.id, None, 1)
    assert (await todos.sync("read", {"id": milk.id}))["secret"] == "s"
    assert (await todos.delete(milk)).title == "oat milk"
    with pytest.raises(NotFound):
        await todos.read(milk.id)
    tea = await todos.create({"title": "tea"})
    await todos.delete(tea.id)
    assert (await todos.query()).models == []


async def test_an_instance_of_a_user_is_what_the_user_may_give(todos):
    """Hidden fields with their defaults are not given, with other values they are refused; results have defaults."""
    milk = await todos.create(Todo("milk"), user={"id": "ann"})
    assert (milk.notes, milk.secret) == ("", "")
    await todos.patch({"id": milk.id, "notes": "n", "secret": "s", "author": "bob"})
    seen = await todos.read(milk.id, user={"id": "ann"})
    assert (seen.notes, seen.secret, seen.author) == ("", "", "bob")
    seen.title = "oat milk"
    await todos.update(seen, user={"id": "ann"})
    kept = await todos.read(milk.id)
    assert (kept.title, kept.notes, kept.secret) == ("oat milk", "n", "s")
    kept.author = "ann"
    with pytest.raises(Invalid) as refused:
        await todos.update(kept, user={"id": "ann"})
    assert refused.value.fields.keys() == {"notes"}
    staff = await todos.read(milk.id, user={"id": "eve", "roles": ["staff"]})
    assert (staff.notes, staff.secret) == ("n", "")
    with pytest.raises(Invalid, match="not valid"):
        await todos.patch({"id": milk.id, "author": "ann"}, user=None)
    await todos.patch({"id": milk.id, "$append": {"author": "!"}})
    with pytest.raises(Invalid):
        await todos.patch({"id": milk.id, "$append": {"author": "!"}}, user={"id": "ann"})


async def test_what_is_wrong_with_a_call_is_told_where_it_is_made(todos):
    """As it is told to a client; and what no client could have sent is refused."""
    with pytest.raises(Invalid) as invalid:
        await todos.create({"title": 7, "odd": 1})
    assert invalid.value.fields.keys() == {"title", "odd"}
    nested: Any = {}
    for _ in range(40):
        nested = {"a": nested}
    for wrong, message in (
        ({"title": "a\0"}, "not allowed"),
        ({"title": "\ud800"}, "written as JSON"),
        ({"title": nested}, "too deep"),
        ({"__proto__": 1}, "__proto__"),
        ("milk", "a dict, or an instance of Todo, and not a str"),
        ([], "and not a list"),
    ):
        with pytest.raises(BadRequest, match=message):
            await todos.create(wrong)
    with pytest.raises(EncodingError, match=r"model\.title is a complex"):
        await todos.create({"title": 1j})
    with pytest.raises(EncodingError, match="a value of the call is a complex"):
        await todos.create({"title": "milk"}, options={"a": 1j})
    with pytest.raises(BadRequest, match="dict of the id and the fields"):
        await todos.patch(Todo("milk"))
    with pytest.raises(BadRequest, match="a channel is"):
        await todos.create({"title": "milk"}, channel=7)
    with pytest.raises(BadRequest, match="rev must be"):
        await todos.delete("7", rev=-1)
    for timeout in (0, -1.0, float("nan")):
        with pytest.raises(BadRequest, match="must be greater than 0"):
            await todos.create({"title": "milk"}, timeout=timeout)
    for op in ("", 7, "x" * (MAX_OP + 1)):
        with pytest.raises(BadRequest, match="1 to 200 characters"):
            await todos.create({"title": "milk"}, op=op)
    assert (await todos.query()).models == []


async def test_a_model_may_be_any_json_object_without_a_class():
    """Results are dicts of the caller's own; only a dict is a model."""

    class Notes(Base):
        pass

    app = serving(Notes)
    async with app.test():
        notes = app.backends["notes"]
        note = await notes.create({"text": "a", "tags": ["x"]})
        note["tags"].append("y")
        assert (await notes.read(note["id"]))["tags"] == ["x"]
        with pytest.raises(BadRequest, match="a model of 'notes' is a dict, and not a Todo"):
            await notes.create(Todo("milk"))
        kept = await notes.read(note["id"])
        await notes.update({"id": note["id"], "text": "b"})
        with pytest.raises(Conflict) as conflict:
            await notes.update({**kept, "text": "c"}, rev=1)
        assert conflict.value.current == {"id": note["id"], "text": "b"}


async def test_what_handlers_answer_is_the_result():
    """Whatever it is; a record that is no model is an error that says what is wrong."""

    class Odd(Base[Todo]):
        @read
        def answer(self, req):
            return {"records": [{"id": 1, "title": 7}], "text": "text", "one": {"id": 1, "title": "one"}}[req.id]

    class Shared(Backend):
        kept = {"a": [1]}

        @read
        def answer(self, req):
            return self.kept

    class Sets(Backend):
        @read
        def answer(self, req):
            return {"a": 1j}

    app = serving(Odd, Sets, Shared)
    async with app.test():
        (await app.backends["shared"].read(1))["a"].append(2)
        assert Shared.kept == {"a": [1]}
        odd = app.backends["odd"]
        assert await odd.read("text") == "text"
        assert (await odd.read("one")).title == "one"
        assert await odd.sync("read", {"id": "records"}) == [{"id": 1, "title": 7}]
        with pytest.raises(StackError, match="'odd' holds a record that is no Todo: title must be a string; sync"):
            odd._made({"title": 7})
        with pytest.raises(EncodingError, match=r"result\.a, from Sets\.answer .*, is a complex"):
            await app.backends["sets"].read(1)


async def test_errors_are_those_that_layers_raise():
    """The very class; of others an `InternalError`, with the cause at hand; details as the caller may see them."""

    class Broken(Forbidden):
        details = ("by",)

    class Issues(Base[Todo]):
        @before("create")
        def refuse(self, req):
            if req.model.title == "own":
                raise Broken(by="ann")
            if req.model.title == "conflict":
                raise Conflict("no", current={"id": 1, "title": "a", "secret": "s", "notes": "n"})
            if req.model.title == "bug":
                raise ZeroDivisionError("a bug")

    app = serving(Issues)
    async with app.test():
        issues = app.backends["issues"]
        with pytest.raises(Broken) as own:
            await issues.create({"title": "own"})
        assert own.value.by == "ann"
        with pytest.raises(InternalError) as bug:
            await issues.create({"title": "bug"})
        assert isinstance(bug.value.__cause__, ZeroDivisionError)
        with pytest.raises(Conflict) as whole:
            await issues.create({"title": "conflict"})
        assert whole.value.current.keys() == {"id", "title", "secret", "notes"}
        with pytest.raises(Conflict) as seen:
            await issues.create({"title": "conflict"}, user={"id": "ann"})
        assert seen.value.current == {"id": 1, "title": "a"}


async def test_layers_know_who_calls():
    """`origin`, no socket, the user; nothing of it can be set; built-in middleware copes."""
    seen = []

    class Todos(Base):
        middleware = [Logger(address=True, user=True), CookieParser(), Session(secret="x" * 40)]

        @use("create")
        async def look(self, req, next):
            seen.append((req.origin, req.is_trusted, req.socket, req.user, req.session, req.channel, req.options))
            with pytest.raises(AttributeError):
                req.origin = "socket"
            return await next()

        @before("delete")
        def require_user(self, req):
            if req.user is None and not req.is_trusted:
                raise Unauthorized("log in first")

    app = serving(Todos)
    async with app.test() as t:
        todos, ann = app.backends["todos"], {"id": "ann"}
        await todos.create({"n": 1})
        await todos.create({"n": 2}, user=ann, channel="home", options={"a": 1})
        await todos.create({"n": 3}, user=None, channel="")
        client = await t.client(user=ann)
        await client.create({"n": 4})
        assert seen[:3] == [
            ("server", True, None, None, {}, None, {}),
            ("server", False, None, ann, {"user": ann}, "home", {"a": 1}),
            ("server", False, None, None, {}, None, {}),
        ]
        assert seen[3][:2] == ("socket", False)
        with pytest.raises(Unauthorized):
            await todos.delete(1, user=None)
        first = (await todos.query({"n": 1})).models[0]
        await todos.delete(first["id"])


async def test_no_client_uses_up_an_operation_of_the_server():
    """Whatever it calls itself, and whoever it is."""

    class Todos(Base):
        pass

    app = serving(Todos)
    async with app.test():
        todos, model = app.backends["todos"], {"title": "theirs"}
        for user in (None, {"id": "ann"}, {"id": ""}):
            asked = Request("create", dict(model), backend=todos.backend, user=user, op=Op("daily", 0))
            asked.payload = encode(["sync", {"method": "create", "model": model}]).decode()
            assert (await todos.stacks["create"].run(asked)).failure is None
        assert (await todos.create({"title": "ours"}, op="daily"))["title"] == "ours"
        for user in ({"id": "ann"}, {"id": ""}):
            assert (await todos.create({"title": "ours"}, op="daily", user=user))["title"] == "ours"
        assert len((await todos.query()).models) == 6


async def test_a_backend_that_nothing_serves_takes_no_calls():
    """It says what to do, also to threads."""

    class Todos(Base):
        pass

    runtime = Runtime(Todos(), "todos", lambda work: None)
    with pytest.raises(ConfigurationError, match=r"call app\.serve"):
        await runtime.create({})
    with pytest.raises(ConfigurationError, match=r"call app\.serve"):
        runtime.blocking.create({})
    with pytest.raises(ConfigurationError, match=r"call app\.serve"):
        runtime._caller.check_loop("todos.events")


def test_a_request_for_another_one_keeps_who_asks():
    """So that reading is asked in the name of whoever writes."""
    own = ServerRequest("patch", {"id": 1}, channel="home").asking("read", {"id": 1})
    assert (own.method, own.channel, own.is_trusted, own.user) == ("read", "home", True, None)
    of_ann = ServerRequest.of_user({"id": "ann"}, "patch", {})
    of_ann.user = None
    assert (of_ann.asking("read", {}).user, of_ann.asking("read", {}).is_trusted) == ({"id": "ann"}, False)


async def test_a_class_finds_its_backend():
    """Where it is served once; the texts of the errors name what to write."""

    class Todos(Base):
        pass

    class Notes(Base):
        pass

    app = serving(Todos, a=Notes, b=Notes)
    assert app.backends[Todos] is app.backends["todos"]
    with pytest.raises(KeyError, match=r"Notes is served more than once; name one: backends\['a' or 'b'\]"):
        app.backends[Notes]
    with pytest.raises(KeyError, match="no backend 'Base' is served"):
        app.backends[Base]


@attrs.define
class WithId:
    id: int | str | None = None
    title: str = ""


@attrs.frozen
class Frozen:
    title: str


async def test_ids_that_a_class_declares_or_cannot_have():
    """A declared id is the field; one whose name is no attribute stays with the record."""

    class Declared(Base[WithId]):
        store = MemoryStore(models=[{"id": 1, "title": "milk"}])

    class Dashed(Base[Frozen]):
        store = MemoryStore(id_attribute="the-id", models=[{"the-id": 1, "title": "milk"}])

    class Plain(Base[Frozen]):
        store = MemoryStore(models=[{"id": 1, "title": "milk"}])

    app = serving(Declared, Dashed, Plain)
    async with app.test():
        declared = app.backends[Declared]
        milk = await declared.read(1)
        assert milk == WithId(1, "milk")
        assert await declared.update(milk) == milk
        assert (await declared.create(WithId(title="tea"))).title == "tea"
        assert await app.backends[Dashed].read(1) == Frozen("milk")
        plain = await app.backends[Plain].read(1)
        assert (plain.id, plain.title, repr(plain)) == (1, "milk", "Frozen(title='milk')")
