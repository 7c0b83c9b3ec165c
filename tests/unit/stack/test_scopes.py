"""Scopes: which records a client may have, as the layers of `@visible` say."""

from types import SimpleNamespace

import pytest

from bbio import Conflict, Forbidden, NotFound, Unavailable
from bbio.requests import Request
from bbio.stack.scopes import Scopes
from bbio.stack.stack import Run, make_layer
from bbio.view import EVERYTHING, NO_SCOPE, Filter, Scope


def by_owner(req):
    return {"owner": req.user["id"]}


def scopes(*functions, **options):
    layers = [make_layer("visible", each.__name__, ("read",), each, where="here") for each in functions]
    return Scopes(layers, **options)


def request(method="read", **socket):
    client = SimpleNamespace(user={"id": "ann"}, session=None, **socket)
    return Request(method, {"id": 1} if method != "read" else None, {}, None, "", client, user=client.user)


async def test_a_client_is_asked_about_once():
    """What was said when it began to listen counts until permissions are looked at again."""
    known = Scope(EVERYTHING, EVERYTHING)
    req = request(scopes={"": known})
    await scopes(by_owner).enter(req)
    assert req.scope is known
    req.event = "listen"
    await scopes(by_owner).enter(req)
    assert req.scope == Scope.of([(Filter.read({"owner": "ann"}), False)])


async def test_the_server_itself_has_everything():
    """It is no client."""
    req = Request("read", None, {}, None)
    await scopes(by_owner).enter(req)
    assert req.scope is None


@pytest.mark.parametrize("names_viewers", [False, True])
async def test_a_scope_says_whose_it_is_where_that_is_asked(names_viewers):
    """As the backend follows another one."""
    req = request()
    await scopes(by_owner, names_viewers=names_viewers).enter(req)
    assert req.scope.viewer == ("ann" if names_viewers else None)


async def test_a_layer_that_fails_shows_nothing(caplog):
    """A refusal is no failure: it is the answer."""

    def fails(req):
        return req.user["team"]

    def refuses(req):
        raise Forbidden("not you")

    req = request()
    await scopes(by_owner, fails).enter(req)
    assert req.scope == NO_SCOPE
    assert "fails (here) failed to say what a client may see" in caplog.text
    with pytest.raises(Forbidden):
        await scopes(refuses).enter(req)


async def test_answers_of_layers_are_narrowed():
    """A list keeps what may be seen, of one record it is said that it is not there, and a failure tells of none."""
    judging, req = scopes(by_owner), request()
    await judging.enter(req)
    own, other = {"id": 1, "owner": "ann"}, {"id": 2, "owner": "bob"}
    several, one, failed = Run(req), Run(req), Run(req)
    several.result, one.result, failed.failure = [own, other, "text"], other, Conflict("changed", current=other)
    for res in (several, one, failed):
        judging.judge(req, res)
    assert several.result == [own, "text"]
    assert isinstance(one.failure, NotFound)
    assert one.result is None
    assert "current" not in failed.failure.values


async def test_what_was_read_under_permissions_of_before_is_read_again():
    """They may have changed since the request began."""
    judging, req = scopes(by_owner), request(scopes={})
    await judging.enter(req)
    req.socket.scopes[""] = NO_SCOPE
    res = Run(req)
    res.result = [{"id": 1, "owner": "ann"}]
    judging.judge(req, res)
    assert isinstance(res.failure, Unavailable)
    assert res.result is None
