"""The rules of a write to one record, which all stores share."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from bbio import Schema
from bbio.builtin import MemoryStore, SQLiteStore
from bbio.conformance import opened
from bbio.errors import BadRequest, Conflict, Forbidden, NotFound
from bbio.protocol import encode
from bbio.requests import METHODS, NOTIFIED_AS, RULES, WRITES, Request
from bbio.store import TOLD_AS, Records
from bbio.typed import enter, plain
from bbio.view import Filter, Scope

MILK = {"id": 7, "title": "milk", "n": 1}


def plan(req: Request, base: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """What a write of the record `MILK`, which is at revision 5, comes to."""
    records = Records(None, "id", **options)
    return records.plan(
        req, req.model["id"], (5, encode(MILK)), lambda req, key: None if base is None else encode(base)
    )[0]


def test_what_others_are_told():
    """As the table of sync methods says; of what was not there, that it is new."""
    for method in WRITES:
        assert TOLD_AS[False][method] == NOTIFIED_AS[method]
        assert TOLD_AS[True][method] == ("delete" if method == "delete" else "create")


def test_a_write_names_its_model():
    """Unless it makes one, whose id the server gives."""
    records = Records(None, "id")
    for method in METHODS:
        if RULES[method].needs_id:
            with pytest.raises(BadRequest, match=f"{method} needs the model's 'id'"):
                records.check(Request(method, {}), None)
            records.check(Request(method, MILK), 7)
    with pytest.raises(BadRequest, match="ids are given by the server"):
        records.check(Request("create", MILK), 7)
    for method, key in (("create", None), ("update", 7)):
        with pytest.raises(BadRequest, match="inc"):
            records.check(Request(method, {"$inc": {"n": 1}}), key)


def test_what_a_write_comes_to():
    """A patch changes what it names, an update replaces, a delete is the record as it was."""
    assert plan(Request("patch", {"id": 7, "n": 2})) == {**MILK, "n": 2}
    assert plan(Request("patch", {"id": 7, "$inc": {"n": 2}})) == {**MILK, "n": 3}
    assert plan(Request("update", {"id": 7, "n": 2})) == {"id": 7, "n": 2}
    assert plan(Request("delete", {"id": 7})) == MILK
    assert Records(None, "id").plan(Request("create", {"n": 1}), 8, None) == ({"n": 1, "id": 8}, None)


SEES_MILK = Scope.of([(Filter.read({"title": "milk"}), False)])


@pytest.mark.parametrize("method", ["update", "patch", "delete"])
def test_what_a_client_may_not_have_is_not_there(method):
    """As if there were no such record, and no conflict either."""
    req = Request(method, {"id": 7, "n": 2}, rev=1, scope=Scope.of([(Filter.read({"title": "tea"}), False)]))
    with pytest.raises(NotFound, match="no model with id 7"):
        plan(req)


@pytest.mark.parametrize("method", ["create", "update"])
def test_what_a_client_may_not_have_is_not_made(method):
    """Whoever may make something else of the record looks itself, when it is made."""
    req = Request(method, {"id": 7, "title": "tea"}, scope=SEES_MILK)
    with pytest.raises(Forbidden, match="may not have"):
        plan(req)
    assert plan(req, as_planned=False) == {"id": 7, "title": "tea"}
    assert plan(Request(method, {"id": 7, "title": "milk"}, scope=SEES_MILK)) == {"id": 7, "title": "milk"}


def test_what_is_not_there():
    """An update or patch makes it where the store says so, and a delete never does."""
    for method in ("update", "patch", "delete"):
        with pytest.raises(NotFound, match="no model with id 7"):
            Records(None, "id").plan(Request(method, MILK), 7, None)
    for method in ("update", "patch"):
        assert Records(None, "id", upsert=True).plan(Request(method, MILK), 7, None) == (MILK, None)
    with pytest.raises(NotFound):
        Records(None, "id", upsert=True).plan(Request("delete", MILK), 7, None)


@pytest.mark.parametrize(
    ("method", "model", "base"),
    [
        ("update", {"n": 2}, MILK),
        ("delete", {}, MILK),
        ("patch", {"n": 3}, None),
        ("patch", {"n": 3}, {**MILK, "n": 0}),
        ("patch", {"new": 1, "n": 3}, {"id": 7}),
    ],
)
def test_what_builds_on_what_was_changed(method, model, base):
    """It is a conflict that shows the record; nothing is one that names the newest revision, or none."""
    model = {"id": 7, **model}
    with pytest.raises(Conflict) as caught:
        plan(Request(method, model, rev=4), base)
    assert caught.value.values == {"current": MILK, "rev": 5}
    plan(Request(method, model, rev=5), base)
    plan(Request(method, model), base)


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ({"title": "tea"}, {**MILK, "n": 0}),
        ({"n": 1}, {**MILK, "n": 0}),
        ({"$inc": {"n": 1}}, None),
    ],
)
def test_what_nobody_has_changed_since(model, base):
    """A patch of other fields, to the same value, or that only counts, is none."""
    plan(Request("patch", {"id": 7, **model}, rev=4), base)


@attrs.define
class Todo:
    title: str = ""


@pytest.mark.parametrize("method", ["update", "patch"])
def test_what_the_schema_does_not_know_stays(method):
    """Of such fields a later version of it may."""
    schema = Schema(Todo)
    req = Request(method, {"id": 7, "title": "tea"})
    enter(schema, req)
    req.model = plain(schema, req)
    stored = {"id": 7, "title": "milk", "later": [1]}
    record, before = Records(schema, "id").plan(req, 7, (5, encode(stored)))
    assert (record, before) == ({"id": 7, "title": "tea", "later": [1]}, stored)


@pytest.mark.parametrize("make", [lambda folder: MemoryStore(), lambda folder: SQLiteStore(folder / "models.db")])
async def test_stores_refuse_alike(make, tmp_path):
    """In the same words, before anything is looked at."""
    async with opened(make(tmp_path)) as models:
        for method, model, message in (
            ("create", {"id": "7"}, "ids are given by the server; create without 'id'"),
            ("create", {"id": []}, "'id' must be a string or a whole number"),
            ("patch", {}, "patch needs the model's 'id'"),
        ):
            with pytest.raises(BadRequest) as caught:
                await models.write(method, model)
            assert str(caught.value) == message
