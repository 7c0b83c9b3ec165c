"""Who may have what (docs/visibility.md, docs/schema.md): a user's requests are narrowed, the server's own are not."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

import bbio
from bbio import Backend, Conflict, Forbidden, before, visible
from bbio.builtin import MemoryStore
from tests.support.origins import Origin, WhoAsks, failure, ids, logged

PROJECTS = {"ann": ["x"], "bob": ["y"]}
MODELS = [
    {"id": "1", "author": "ann", "project": "x", "n": 1},
    {"id": "2", "author": "bob", "project": "x", "n": 2},
    {"id": "3", "author": "bob", "project": "y", "n": 3},
    {"id": "4", "author": "ann", "project": "y", "n": 4},
]


def issues(make_store: Any) -> type[Backend]:
    """Return a backend of which each sees what is its own or of its projects."""

    class Issues(Backend):
        middleware = [WhoAsks()]
        store = make_store(models=MODELS)

        @visible
        async def scope(self, req: Any) -> Any:
            return {"$or": [{"author": req.user["id"]}, {"project": {"$in": PROJECTS[req.user["id"]]}}]}

    return Issues


async def test_reads_pages_and_totals_have_what_is_visible(origin: Origin, make_store: Any) -> None:
    """A list, a query, a page with its cursor and total; one model that is not is as if there were none."""
    app = await origin.serve(issues(make_store))
    ann = await origin.asker(app, "issues", "ann")
    own = origin.is_trusted
    assert ids(await ann.sync("read")) == (["1", "2", "3", "4"] if own else ["1", "2", "4"])
    models, cursor, total = await ann.page({"sort": "-n", "limit": 2, "count": True})
    assert (ids(models), total) == ((["4", "3"], 4) if own else (["4", "2"], 3))
    models, cursor, _ = await ann.page({"sort": "-n", "limit": 2, "cursor": cursor})
    assert (ids(models), cursor) == ((["2", "1"], None) if own else (["1"], None))
    assert ids((await ann.page({"project": "y"}))[0]) == (["3", "4"] if own else ["4"])
    assert (await ann.sync("read", {"id": "2"}))["n"] == 2
    missing = await failure(ann.sync("read", {"id": "9"}), "NotFound")
    if own:
        assert (await ann.sync("read", {"id": "3"}))["n"] == 3
    else:
        hidden = await failure(ann.sync("read", {"id": "3"}), "NotFound")
        assert str(hidden).replace("'3'", "'9'") == str(missing)


async def test_a_write_of_what_is_not_visible_is_of_what_is_not_there(origin: Origin, make_store: Any) -> None:
    """Also with a revision, of which a conflict would tell; nothing is written, and nobody is told."""
    app = await origin.serve(issues(make_store))
    ann, bob = [await origin.asker(app, "issues", name) for name in ("ann", "bob")]
    await bob.sync("patch", {"id": "3", "n": 5})
    refused: list[tuple[str, Any, int | None]] = [
        ("update", {"id": "3", "n": 0}, 1),
        ("patch", {"id": "3", "n": 0}, 1),
        ("update", {"id": "3", "n": 0}, None),
        ("patch", {"id": "3", "n": 0}, None),
        ("patch", {"id": "3", "$inc": {"n": 1}}, None),
        ("delete", {"id": "3"}, None),
    ]
    if origin.is_trusted:
        conflict = await failure(ann.sync("update", {"id": "3", "n": 0}, rev=1), "Conflict")
        assert conflict["current"]["n"] == 5
        for method, model, _ in refused[3:]:
            await ann.sync(method, model)
        await failure(bob.sync("read", {"id": "3"}), "NotFound")
        return
    for method, model, rev in refused:
        error = await failure(ann.sync(method, model, rev=rev), "NotFound")
        assert error["message"] == "there is no model with id '3'"
        assert error.keys() == {"name", "message", "code"}
    assert (await bob.sync("read", {"id": "3"}))["n"] == 5
    assert len(await logged(app.backends["issues"])) == 1


async def test_what_a_write_leaves_must_be_visible_to_its_writer(origin: Origin, make_store: Any) -> None:
    """Else it is refused, and nothing is written; the server's own code may do it."""
    app = await origin.serve(issues(make_store))
    ann, bob = [await origin.asker(app, "issues", name) for name in ("ann", "bob")]
    writes: list[tuple[str, Any]] = [
        ("create", {"author": "bob", "project": "y"}),
        ("patch", {"id": "2", "project": "y"}),
        ("update", {"id": "2", "author": "bob"}),
    ]
    for method, model in writes:
        if origin.is_trusted:
            assert (await ann.sync(method, model))["author"] == "bob"
        else:
            assert "may not have" in (await failure(ann.sync(method, model), "Forbidden"))["message"]
    assert "project" in await bob.sync("read", {"id": "1" if origin.is_trusted else "2"})
    assert len(await logged(app.backends["issues"])) == (3 if origin.is_trusted else 0)
    assert (await ann.sync("create", {"author": "ann"}))["author"] == "ann"


@attrs.define
class Issue:
    title: str
    author: str = bbio.field(read_only=True, default="")
    notes: str = bbio.field(roles=("staff",), default="")
    secret: str = bbio.field(private=True, default="")


WHOLE = {"title": "milk", "author": "bob", "notes": "n", "secret": "s"}


async def test_fields_are_hidden_and_read_only_for_users_alone(origin: Origin, make_store: Any) -> None:
    """In answers, conflicts and events; who filters or sorts by them learns nothing either."""

    class Issues(Backend[Issue]):
        middleware = [WhoAsks()]
        store = make_store()

        @before("delete")
        def refuse(self, req: Any) -> None:
            raise Conflict("no", current={"id": 1, **WHOLE})

    app = await origin.serve(Issues)
    runtime = app.backends["issues"]
    made = await runtime.sync("create", WHOLE)
    assert made == {"id": made["id"], **WHOLE}
    ann = await origin.asker(app, "issues", "ann")
    key, seen = {"id": made["id"]}, WHOLE if origin.is_trusted else {"title": "milk", "author": "bob"}
    assert await ann.sync("read", key) == {**key, **seen}
    assert await ann.sync("read") == [{**key, **seen}]
    assert await ann.sync("patch", {**key, "title": "milk"}) == {**key, **seen}
    assert (await failure(ann.sync("delete", key), "Conflict"))["current"] == {"id": 1, **seen}
    changes: list[tuple[str, Any]] = [
        ("author", {"author": "new"}),
        ("author", {"$append": {"author": "!"}}),
        ("notes", {"notes": "new"}),
        ("notes", {"$append": {"notes": "!"}}),
        ("secret", {"$append": {"secret": "!"}}),
    ]
    for name, change in changes:
        if origin.is_trusted:
            assert (await ann.sync("patch", {**key, **change}))[name] != WHOLE[name]
        else:
            assert name in (await failure(ann.sync("patch", {**key, **change}), "Invalid"))["fields"]
    for name in ("notes", "secret"):
        for data in ({name: "n"}, {"sort": name}):
            if origin.is_trusted:
                await ann.sync("read", None, {"data": data})
            else:
                await failure(ann.sync("read", None, {"data": data}), "BadRequest", "Invalid")
    stored = await runtime.sync("read", key)
    changed = {"author": "new!", "notes": "new!", "secret": "s!"} if origin.is_trusted else {}
    assert stored == {**key, **WHOLE, **changed}
    assert all("secret" not in model for _, model in await logged(runtime))


async def test_who_may_write_but_not_read_gets_back_what_it_gave(origin: Origin, make_store: Any) -> None:
    """No more of the record; a change that builds on what is stored is refused. The server itself gets all."""

    class Reports(Backend):
        middleware = [WhoAsks()]
        store = make_store(models=[{"id": 1, "text": "a", "verdict": "no"}])

        @before("read")
        def staff(self, req: Any) -> None:
            if not req.is_trusted and req.user != {"id": "staff"}:
                raise Forbidden("for staff")

    app = await origin.serve(Reports)
    ann, staff = [await origin.asker(app, "reports", name) for name in ("ann", "staff")]
    patch, append = {"id": 1, "text": "b"}, {"id": 1, "$append": {"text": "!"}}
    whole = {**patch, "verdict": "no"}
    assert await ann.sync("patch", patch) == (whole if origin.is_trusted else patch)
    assert await staff.sync("patch", patch) == whole
    if origin.is_trusted:
        assert (await ann.sync("patch", append))["text"] == "b!"
    else:
        await failure(ann.sync("patch", append), "Forbidden")


async def test_a_layer_that_forgets_the_user_shows_nothing_more(origin: Origin) -> None:
    """A request for a user stays one, and does not become the server's own."""
    trusted: list[bool] = []

    class Issues(Backend):
        middleware = [WhoAsks()]
        store = MemoryStore(models=MODELS)

        @before
        def forget(self, req: Any) -> None:
            req.user = None

        @before
        def look(self, req: Any) -> None:
            trusted.append(req.is_trusted)

        @visible
        def scope(self, req: Any) -> Any:
            return {"author": "ann"}

    app = await origin.serve(Issues)
    bob = await origin.asker(app, "issues", "bob")
    assert ids(await bob.sync("read")) == (["1", "2", "3", "4"] if origin.is_trusted else ["1", "4"])
    if not origin.is_trusted:
        await failure(bob.sync("patch", {"id": "2", "n": 0}), "NotFound")
    assert set(trusted) == {origin.is_trusted}


@pytest.mark.parametrize("user", ["ann", None])
async def test_permissions_are_those_of_who_asks(origin: Origin, user: str | None) -> None:
    """A `before` layer lets in and refuses alike; the server itself says that it is trusted."""

    class Todos(Backend):
        middleware = [WhoAsks()]

        @before
        def require_user(self, req: Any) -> None:
            if req.user is None and not req.is_trusted:
                raise bbio.Unauthorized("log in first")

    app = await origin.serve(Todos)
    asker = await origin.asker(app, "todos", user)
    if user is None and not origin.is_trusted:
        await failure(asker.sync("create", {"id": 1}), "Unauthorized")
        assert await logged(app.backends["todos"]) == []
    else:
        assert await asker.sync("create", {"id": 1}) == {"id": 1}
