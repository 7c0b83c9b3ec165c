"""Views: who sees what, by itself and against the rules in the plainest words."""

from __future__ import annotations

import datetime
import gc
import json
import weakref
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict as attributes

from bbio import BadRequest, Conflict, Invalid, Schema, SyncError, field
from bbio.query import QueryLimits
from bbio.server.connection import ClientSocket
from bbio.streams import BACKEND_WIDE, Event, Position
from bbio.view import View, public_body, public_event, roles_of
from tests.support.examples import examples


class Seen(SyncError):
    """An error of an application, with whatever it puts in."""

    details = ("what",)


# The rules of docs/schema.md again, on nothing but what a class was made from: a field's name and who sees it, which
# is everybody, nobody ("private") or those who have one of some roles.


def naive_sees(access: dict[str, Any], roles: list[str], name: str) -> bool:
    if name == "id":
        return True
    if name not in access or access[name] == "private":
        return False
    return access[name] == "open" or any(role in roles for role in access[name])


def naive_record(access: dict[str, Any], roles: list[str], record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if naive_sees(access, roles, name)}


def naive_result(access: dict[str, Any], roles: list[str], value: Any) -> Any:
    if isinstance(value, list):
        return [naive_result(access, roles, each) for each in value]
    return naive_record(access, roles, value) if isinstance(value, dict) else value


def naive_detail(access: dict[str, Any], roles: list[str], value: Any) -> Any:
    if isinstance(value, list):
        return [naive_detail(access, roles, each) for each in value]
    if not isinstance(value, dict):
        return value
    if "id" in value:
        return naive_record(access, roles, value)
    return {
        name: naive_detail(access, roles, each)
        for name, each in value.items()
        if name not in access or naive_sees(access, roles, name)
    }


def naive_told(access: dict[str, Any], roles: list[str], method: str, record: Any) -> Any:
    if method == "delete" and isinstance(record, dict) and "id" in record:
        return {"id": record["id"]}
    return naive_result(access, roles, record)


NAMES = ["a", "b", "c", "d"]
ROLES = ["x", "y", "z"]
accesses = st.dictionaries(
    st.sampled_from(NAMES),
    st.sampled_from(["open", "private"]) | st.lists(st.sampled_from(ROLES), min_size=1, unique=True).map(tuple),
)
held = st.lists(st.sampled_from([*ROLES, "other"]), unique=True)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("abc"), inner))
# Records as an earlier version of the class, or another program, may have written them.
records = st.dictionaries(st.sampled_from([*NAMES, "id", "e"]), values)


def schema_of(access: dict[str, Any]) -> Schema:
    fields = {}
    for name, who in access.items():
        options = {} if who == "open" else {"private": True} if who == "private" else {"roles": who}
        fields[name] = field(type=Any, default=None, **options)
    return Schema(attrs.make_class("Thing", fields))


def told(event: Event) -> Any:
    return json.loads(event.body)


@settings(max_examples=examples(60))
@given(access=accesses, roles=held, value=records | st.lists(records, max_size=2) | values)
def test_results_and_bodies_hold_what_is_seen(access, roles, value):
    """Declared fields that a viewer may see, and the id; of an event, those that anybody may see."""
    schema = schema_of(access)
    assert View.of(schema, {"roles": roles}).result(value) == naive_result(access, roles, value)
    assert json.loads(public_body(schema, value)) == naive_result(access, ROLES, value)
    assert json.loads(public_body(None, value)) == value


@settings(max_examples=examples(60))
@given(access=accesses, roles=held, record=records)
def test_an_instance_is_seen_as_its_record(access, roles, record):
    """Wherever it is: as a result, in a list, in the details of an error."""
    schema = schema_of(access)
    record = {name: record.get(name) for name in access}
    instance, view = schema.structure(record), View.of(schema, {"roles": roles})
    seen = naive_record(access, roles, record)
    assert view.result([instance]) == [seen]
    error = Seen(what={"e": (instance, [instance])})
    view.narrow_error(error)
    assert error.to_json()["what"] == {"e": [seen, [seen]]}


@settings(max_examples=examples(60))
@given(access=accesses, roles=held, value=records | st.lists(records, max_size=2) | values)
def test_details_of_errors_hold_what_is_seen(access, roles, value):
    """Records are known by their id, or as the `current` of a conflict; what is wrong with fields is told by name."""
    view = View.of(schema_of(access), {"roles": roles})
    error = Seen(what=value)
    view.narrow_error(error)
    assert error.to_json()["what"] == naive_detail(access, roles, value)
    conflict = Conflict(current=value, rev=3)
    view.narrow_error(conflict)
    current = naive_record(access, roles, value) if isinstance(value, dict) else naive_detail(access, roles, value)
    assert conflict.values == {"current": current, "rev": 3}
    invalid = Invalid(fields=value)
    view.narrow_error(invalid)
    assert invalid.values == {"fields": value}


@settings(max_examples=examples(60))
@given(
    access=accesses,
    roles=held,
    record=records | st.lists(records, max_size=2) | values,
    method=st.sampled_from(["create", "update", "delete"]),
)
def test_events_are_told_alike_live_and_later(access, roles, record, method):
    """What the log has kept from before a field was private is told as what is published now; of a delete, the id."""
    schema = schema_of(access)
    view = View.of(schema, {"roles": roles})
    kept = Event("c:", "9a0c", 7, method, json.dumps(record).encode(), 4, "~w:1", 2.5, 11)
    live = Event("c:", "9a0c", 7, method, public_body(schema, record), 4, "~w:1", 2.5, 11)
    replayed = View.public(schema).narrow(kept)
    assert told(replayed) == told(live) == naive_result(access, ROLES, record)
    for event in (live, replayed):
        assert told(view.event(event)) == naive_told(access, roles, method, record)
        assert told(public_event(event, "id")) == naive_told(access, ROLES, method, record)
    seen = view.event(live)
    assert {**attributes(seen), "epoch": "9a0c", "body": b""} == {**attributes(live), "body": b""}


@settings(max_examples=examples(60))
@given(access=accesses, one=held, other=held)
def test_a_position_is_that_of_equal_views_alone(access, one, other):
    """Who sees the same has the same view, and positions in it; they say nothing of what another was told."""
    schema = schema_of(access)
    first, second = View.of(schema, {"roles": one}), View.of(schema, {"roles": other})
    same = all(naive_sees(access, one, name) == naive_sees(access, other, name) for name in access)
    assert (first == second) is same
    assert not same or hash(first) == hash(second)
    position = first.position(Position("9a0c", 7, 11))
    assert first.is_own(position)
    assert second.is_own(position) is same
    assert View.without_view(position) == Position("9a0c", 7, 11)
    assert not first.is_own(Position("9a0c", 7, 11))
    event = Event("c:", "9a0c", 7, "create", b"{}")
    assert first.place(event).epoch == first.event(event).epoch == position.epoch


@settings(max_examples=examples(60))
@given(access=accesses, roles=held)
def test_queries_name_what_is_seen(access, roles):
    """In conditions and in the order; the text of a refusal names no other field."""
    view = View.of(schema_of(access), {"roles": roles})
    options: dict[str, Any] = {"id_attribute": "id", "limits": QueryLimits()}
    seen = [name for name in ("id", *access) if naive_sees(access, roles, name)]
    for name in ("id", "e", *NAMES):
        for data in ({name: 1}, {"sort": "-" + name}, {"$or": [{name: {"$gt": 1}}]}):
            if name in seen:
                assert view.query(data, **options).matches({name: 2}) is (data != {name: 1})
            else:
                with pytest.raises(BadRequest) as refused:
                    view.query(data, **options)
                assert refused.value.message == f"there is no field {name!r}; there are {', '.join(sorted(seen))}"


@settings(max_examples=examples(60))
@given(access=accesses, channels=st.lists(held, min_size=1, max_size=4))
def test_what_all_channels_share_shows_what_each_of_them_does(access, channels):
    """And what is hidden is each declared field that is not seen."""
    schema = schema_of(access)
    common = View.common([View.of(schema, {"roles": roles}) for roles in channels])
    seen = {name for name in access if all(naive_sees(access, roles, name) for roles in channels)}
    assert common.fields == {"id", *seen}
    assert common.hidden == access.keys() - seen
    assert View.public(schema).hidden == {name for name, who in access.items() if who == "private"}


@settings(max_examples=examples(60))
@given(access=accesses)
def test_viewers_differ_only_by_roles(access):
    """Where no field is for a role, all have one view, whoever they are: it is what all may see."""
    schema = schema_of(access)
    differs = any(isinstance(who, tuple) for who in access.values())
    assert View.differs(schema) is differs
    assert differs or View.of(schema, {"roles": ROLES}) == View.of(schema, None) == View.public(schema)


def test_without_a_model_nothing_differs():
    """There are no views, and everything is told."""
    assert not View.differs(None)


@pytest.mark.parametrize(
    ("user", "roles"),
    [
        (None, ()),
        ("ann", ()),
        ({"roles": "admin"}, ("admin",)),
        ({"roles": ["a", "b"]}, ("a", "b")),
        ({"roles": 3}, ()),
        (type("U", (), {"roles": {"a"}})(), ("a",)),
        ({"id": 1}, ()),
    ],
)
def test_roles_are_those_of_the_user(user, roles):
    """A key or an attribute of `req.user`; anything odd is no role."""
    assert roles_of(user) == roles


def test_a_record_in_whatever_holds_it_is_narrowed():
    """Also in what becomes an object only as JSON; what becomes none stays what it is."""

    @attrs.define
    class Secret:
        name: str = "n"
        key: str = field(private=True, default="k")

    @attrs.define
    class Holder:
        held: Secret = attrs.field(factory=Secret)

    view, day = View.public(Schema(Secret)), datetime.date(2026, 1, 2)
    error = Seen(what=[Holder(), Secret(), {"id": 1, "key": "k"}, {"key": "k", "at": day}, day, 1])
    view.narrow_error(error)
    assert error.values == {"what": [{"held": {"name": "n"}}, {"name": "n"}, {"id": 1}, {"at": day}, day, 1]}


@pytest.mark.parametrize(
    ("method", "body", "told"),
    [
        ("update", b'{"id":1,"a":2}', b'{"id":1,"a":2}'),
        ("delete", b'{"id":1,"a":2}', b'{"id":1}'),
        ("delete", b'{"a":2}', b'{"a":2}'),
        ("delete", b'[{"id":1}]', b'[{"id":1}]'),
    ],
)
def test_of_a_delete_the_id_alone_is_told(method, body, told):
    """Where what was deleted has one."""
    assert public_event(Event("c:", "9a0c", 1, method, body), "id").body == told


def test_a_socket_has_a_view_of_each_channel():
    """And of what they share, as long as it follows one; it says whether a channel's is another one now."""
    schema = schema_of({"a": ("x",), "b": ("y",), "c": "open"})
    x, y, both = (View.of(schema, {"roles": roles}) for roles in (["x"], ["y"], ["x", "y"]))
    runtime: Any = type("Nothing", (), {"backend": None, "namespace": "/things", "id_attribute": "id"})
    socket = ClientSocket("1", runtime, None)  # type: ignore[arg-type]
    assert not socket.see("c:one", both)
    assert not socket.see("c:two", x)
    assert socket.views == {"c:one": both, "c:two": x, BACKEND_WIDE: x}
    assert socket.see("c:one", y)
    assert socket.views[BACKEND_WIDE].fields == {"id", "c"}
    assert not socket.see("c:one", View.of(schema, {"roles": "y"}))
    assert socket.see("c:two", None)
    assert socket.views == {"c:one": y, BACKEND_WIDE: y}
    assert socket.see("c:one", None)
    assert socket.views == {}


def test_roles_that_no_field_is_for_are_not_remembered():
    """They may be words of a client, of any number and length."""

    class Word(str):
        """A text that tells when it is gone."""

    schema, word = schema_of({"a": ("x",)}), Word("y" * 10_000)
    kept = weakref.ref(word)
    assert View.of(schema, {"roles": [word]}) is View.of(schema, None)
    del word
    gc.collect()
    assert kept() is None
