"""Requests and responses: what a layer holds in its hands."""

from types import SimpleNamespace
from uuid import UUID

import pytest

from bbio.errors import BadRequest, NotFound, StackError, SyncError
from bbio.requests import METHODS, NOTIFIED_AS, WRITES, Found, Request, Response, principal
from bbio.streams import Op


def test_the_methods_are_those_of_backbone():
    """Four of the five write, and a patch is told to other clients as an update."""
    assert METHODS == ("create", "read", "update", "patch", "delete")
    assert frozenset(METHODS) - {"read"} == WRITES
    assert NOTIFIED_AS == {"create": "create", "update": "update", "patch": "update", "delete": "delete"}


def test_a_request_carries_what_it_was_given():
    """Trusted fields are arguments of their own; the client's extras stay in `options`."""
    socket, backend, op = object(), object(), Op("c", 7)
    req = Request("update", {"id": 1}, {"silent": True}, backend=backend, channel="room", socket=socket, op=op, rev=3)
    assert (req.method, req.model, req.options) == ("update", {"id": 1}, {"silent": True})
    assert (req.backend, req.channel, req.socket, req.op, req.rev) == (backend, "room", socket, op, 3)


def test_a_bare_request_has_empty_fields_of_its_own():
    """No two requests share the dicts that middleware fills."""
    first, second = Request("read"), Request("read")
    first.session["user"] = first.state["seen"] = first.options["x"] = 1
    assert (second.session, second.state, second.options) == ({}, {}, {})
    assert (first.model, first.channel, first.socket, first.op, first.rev, first.user) == (None,) * 6


def test_nothing_a_client_sends_sets_a_trusted_field():
    """Model and options named like trusted fields stay where they are: in the model and the options."""
    forged = {
        "user": "root",
        "session": {"user": "root"},
        "channel": "other",
        "socket": "s",
        "state": {"admin": 1},
    }
    req = Request("create", dict(forged), dict(forged), channel="mine")
    assert (req.user, req.session, req.channel, req.socket, req.state) == (None, {}, "mine", None, {})


def test_a_request_has_no_other_fields():
    """A misspelt field is an error at once instead of a value nobody reads."""
    with pytest.raises(AttributeError):
        Request("read").sesion = {}


def test_a_request_shows_what_it_is_for():
    """The representation names method, backend and channel, and not the model."""
    backend = type("B", (), {"name": "todos"})()
    assert repr(Request("read", {"secret": 1}, backend=backend, channel="a")) == "<Request read todos channel='a'>"
    assert repr(Request("read")) == "<Request read ? channel=None>"


class Account:
    id = 5


@pytest.mark.parametrize("user", [{"id": 5}, Account(), 5], ids=["a dict", "an object", "an id"])
def test_an_operation_belongs_to_who_asked_for_it(user):
    """The key an operation is remembered under names the user, however middleware gives it."""
    req, other = Request("create", op=Op("c", 7)), Request("create", op=Op("c", 7))
    req.user = user
    assert req.operation == ("5\0c", 7)
    assert other.operation == ("c", 7)


def test_a_request_without_an_operation_id_is_not_remembered():
    """A user alone makes no operation."""
    req = Request("create")
    req.user = {"id": 5}
    assert req.operation is None


def test_end_settles_with_a_result():
    """`end` without an argument answers with nothing, and that is an answer."""
    res = Response()
    assert (res.settled, res.result, res.failure) == (False, None, None)
    res.end({"id": 1})
    assert (res.settled, res.result, res.failure) == (True, {"id": 1}, None)
    empty = Response()
    empty.end()
    assert (empty.settled, empty.result) == (True, None)


def test_error_settles_with_an_error():
    """The error given is the error kept, whatever its class."""
    res, error = Response(), KeyError("k")
    res.error(error)
    assert (res.settled, res.failure) == (True, error)


def test_error_takes_a_text():
    """A string becomes an error the client may read."""
    res = Response()
    res.error("no such list")
    assert type(res.failure) is SyncError
    assert str(res.failure) == "no such list"


@pytest.mark.parametrize("nothing", [None, NotFound, 404], ids=repr)
def test_error_takes_nothing_else(nothing):
    """A rejection with None or a class is a mistake at once, and never a success."""
    res = Response()
    with pytest.raises(TypeError, match=r"rejects nothing; give it an exception such as NotFound\(\) or a string"):
        res.error(nothing)
    assert not res.settled


@pytest.mark.parametrize("later", ["end", "error"])
def test_the_first_settlement_wins(later):
    """Whatever comes after the first `end` or `error` changes nothing."""
    res = Response()
    res.end(1)
    res.end(2) if later == "end" else res.error(BadRequest("late"))
    assert (res.result, res.failure) == (1, None)
    res, first = Response(), NotFound("first")
    res.error(first)
    res.end(2) if later == "end" else res.error(BadRequest("late"))
    assert (res.result, res.failure) == (None, first)


def test_what_layers_tell_each_other_may_be_replaced():
    """`state` and `session` are plain dicts that can be set."""
    req = Request("read")
    req.state = {"a": 1}
    req.session = {"user": 1}
    assert (req.state, req.session) == ({"a": 1}, {"user": 1})


class Subject:
    """What a token says, as an object."""

    sub = "ann"


class Anonymous:
    """An object that nobody is known by."""

    id = None


@pytest.mark.parametrize(
    ("user", "known"),
    [
        ("ann", "ann"),
        (7, "7"),
        (UUID(int=1), str(UUID(int=1))),
        ({"id": 0, "sub": "other"}, "0"),
        ({"id": None, "sub": "ann", "exp": 1}, "ann"),
        ({"sub": "ann", "exp": 2}, "ann"),
        ({"id": UUID(int=1)}, str(UUID(int=1))),
        (Account(), "5"),
        (Subject(), "ann"),
    ],
)
def test_a_user_is_known_again(user, known):
    """By the id, or the subject of a token, whatever else a new token says."""
    assert principal(user) == known


@pytest.mark.parametrize("user", [Anonymous(), object(), {}, {"name": "ann"}, {"id": object()}, {"id": {}}, True, [1]])
def test_a_user_who_cannot_be_known_again_is_an_error(user):
    """A default text would make each retry a new write."""
    req = Request("create", op=Op("c", 7))
    req.user = user
    with pytest.raises(StackError, match=r"req.user is a \w+ without an id: .* give it an `id` or a `sub`"):
        _ = req.operation


def test_cookies_are_those_of_the_handshake():
    """A request of the server's own has no client, so none; nothing a client sends in a request sets them."""

    class Socket:
        cookies = {"language": "de"}

    assert Request("read", socket=Socket()).cookies == {"language": "de"}
    assert Request("read").cookies == {}


@pytest.mark.parametrize(
    ("found", "page"),
    [
        (Found([]), None),
        (Found([], {}, next=None), {"next": None}),
        (Found([], next="x", total=3), {"next": "x", "total": 3}),
        (Found([], total=3), None),
    ],
)
def test_a_page_is_told_of_what_was_asked_for_in_pages(found, page):
    """Without a query there is no cursor, and so no page."""
    assert found.page == page


def test_what_a_store_of_an_earlier_version_leaves_in_the_request_is_found():
    """It says what to write instead; what was left is told as if it had been returned."""
    req = Request("read")
    assert not req.has_left
    assert req.found([]).page is None
    with pytest.warns(DeprecationWarning, match=r"write `return Found\(page\.models, next=page\.next, total="):
        req.page = {"next": "x", "total": 3}
    with pytest.warns(DeprecationWarning, match=r"write `return Found\(models, revs\)` in the store's read"):
        req.revs = {1: 7}
    assert req.has_left
    found = req.found([{"id": 1}])
    assert (found.models, found.revs, found.page) == ([{"id": 1}], {1: 7}, {"next": "x", "total": 3})
    assert req.found(Found([], next=None)).page == {"next": None}
    with pytest.raises(AttributeError):
        _ = req.page


def test_layers_say_who_asks():
    """The connection knows it too; a user whom a layer above has set stays, and the server itself has no session."""
    socket = SimpleNamespace(identity=None)
    req = Request("read", socket=socket)
    assert req.session_id is None
    req.identify({"id": "ann"}, session="s1", expires=60.0)
    assert (req.user, req.session_id, req.identity.expires, req.identity.warn) == ({"id": "ann"}, "s1", 60.0, 60.0)
    assert socket.identity is req.identity
    req.identify({"id": "bob"})
    assert (req.user, socket.identity.user) == ({"id": "ann"}, {"id": "ann"})
    req = Request("read")
    req.identify("ann")
    assert req.user == "ann"
