"""CookieParser and Session, by themselves: what a cookie proves, and for how long."""

from __future__ import annotations

import logging
import re
import time
from types import SimpleNamespace

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from bbio import Backend, ConfigurationError, Request
from bbio.builtin import CookieParser, Session
from bbio.builtin import session as module

SECRET = "a secret that is long enough for tests"
OTHER = "another secret that is long enough, too"

values = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=20), max_size=5
)


def given_out(sessions: Session, session: dict) -> str:
    """The value of the cookie that a session comes to."""
    response = web.Response()
    sessions.save(response, session)
    value: str = response.cookies[sessions.cookie].value
    return value


def seen(sessions: Session, value: str | None, **fields: object) -> Request:
    """A request whose handshake had this cookie, after the layer."""
    cookies = {} if value is None else {sessions.cookie: value}
    req = Request("read", socket=SimpleNamespace(cookies=cookies), **fields)
    sessions.identify(req)
    return req


@given(values)
def test_what_is_saved_is_the_session(session):
    """Any JSON object comes back as it was, to layers and to HTTP handlers."""
    sessions = Session(SECRET)
    value = given_out(sessions, session)
    assert re.fullmatch(r"[\w.-]+", value)
    assert seen(sessions, value).session == session
    assert sessions.load(SimpleNamespace(cookies={"bbio_session": value})) == session


@given(st.text() | st.builds("{}.{}".format, st.text(), st.text()))
def test_what_is_not_signed_is_no_session(value):
    """No text that a client can think of passes, and none raises anything."""
    assert seen(Session(SECRET), value).session == {}


def test_a_changed_cookie_is_no_session():
    """Not one character of a cookie can be another, be added, or be left out."""
    sessions = Session(SECRET)
    value = given_out(sessions, {"user": "ann"})
    for at in range(len(value)):
        for other in ("A", "B", "_", "=", ".", "é", "\udcff", ""):
            changed = value[:at] + other + value[at + 1 :]
            assert changed == value or seen(sessions, changed).session == {}
    for changed in (value + "=", "=" + value, value + ".", value * 2):
        assert seen(sessions, changed).session == {}


def test_no_cookie_and_no_socket_are_an_empty_session():
    """Of a new client, and of the server itself, nothing is known."""
    assert seen(Session(SECRET), None).session == {}
    req = Request("read")
    req.session = {"user": "set above"}
    Session(SECRET).identify(req)
    assert (req.session, req.user) == ({}, None)


def test_a_session_ends(monkeypatch):
    """After `max_age` seconds the cookie is worth nothing, also on a connection that is still open."""
    now = 1_000.0
    monkeypatch.setattr("bbio.builtin.session.time", SimpleNamespace(time=lambda: now))
    sessions = Session(SECRET, max_age=60)
    value = given_out(sessions, {"user": "ann"})
    now = 1_059.9
    assert seen(sessions, value).session == {"user": "ann"}
    now = 1_060.0
    assert seen(sessions, value).session == {}


def test_what_a_cookie_proved_is_remembered(monkeypatch):
    """Each request has a session of its own, an old cookie ends all the same, and only so many are remembered."""
    monkeypatch.setattr(module, "KNOWN", 3)
    now = time.time()
    sessions = Session(SECRET, max_age=60)
    values = [given_out(sessions, {"user": {"id": n}}) for n in range(5)]
    for n, value in enumerate(values):
        first, second = seen(sessions, value).session, seen(sessions, value).session
        assert first == second == {"user": {"id": n}}
        first["user"]["id"] = "changed"
        assert seen(sessions, value).session == {"user": {"id": n}}
        assert len(sessions._known) == min(n + 1, 3)
    assert seen(sessions, values[0] + "x").session == {}
    monkeypatch.setattr(module, "_mac", None)  # the signature is not looked at again
    assert seen(sessions, values[-1]).session == {"user": {"id": 4}}
    monkeypatch.setattr(module.time, "time", lambda: now + 61)
    assert seen(sessions, values[-1]).session == {}


def test_a_secret_can_be_replaced():
    """The first secret signs; cookies of those after it are still accepted, and of no other."""
    old, both, new = Session(OTHER), Session([SECRET, OTHER]), Session(SECRET)
    assert seen(both, given_out(old, {"user": "ann"})).user == "ann"
    assert seen(new, given_out(both, {"user": "ann"})).user == "ann"
    assert seen(new, given_out(old, {"user": "ann"})).session == {}


def test_a_cookie_counts_under_its_own_name_alone():
    """A cookie made for something else with the same secret is no session."""
    value = given_out(Session(SECRET, cookie="cart"), {"user": "ann"})
    assert seen(Session(SECRET), value).session == {}


def test_the_secret_comes_from_the_environment(monkeypatch):
    """`$BBIO_SECRET_KEY` holds one secret, or several separated by spaces."""
    monkeypatch.setenv("BBIO_SECRET_KEY", f"{'x' * 40} {'y' * 40}")
    assert seen(Session(), given_out(Session("y" * 40), {"user": "ann"})).user == "ann"
    assert seen(Session("x" * 40), given_out(Session(), {"user": "ann"})).user == "ann"


@pytest.mark.parametrize("secret", [None, "", [], ["x" * 40, ""]])
def test_without_a_secret_there_is_no_session(secret, monkeypatch):
    """It fails where it is made, and says how to make a secret."""
    monkeypatch.delenv("BBIO_SECRET_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=r"BBIO_SECRET_KEY.*token_urlsafe"):
        Session(secret)


@pytest.mark.parametrize(("secret", "warned"), [("guess me", True), ([SECRET, "guess me"], True), (SECRET, False)])
async def test_a_short_secret_is_warned_of(secret, warned, caplog):
    """It works, for a first try, but the log says what is wrong with it."""
    with caplog.at_level(logging.WARNING, logger="bbio"):
        await Session(secret).start(None)
    assert bool(caplog.records) is warned


def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites():
    """HttpOnly, SameSite and a life time are set; Secure if wanted. `clear` takes the same cookie away."""
    response = web.Response()
    Session(SECRET, max_age=60, secure=True).save(response, {})
    cookie = response.cookies["bbio_session"]
    assert (cookie["httponly"], cookie["samesite"], cookie["max-age"], cookie["secure"]) == (True, "Lax", "60", True)
    assert cookie["path"] == "/"
    Session(SECRET).clear(response)
    assert (response.cookies["bbio_session"].value, response.cookies["bbio_session"]["max-age"]) == ("", "0")


def test_a_session_too_large_for_a_cookie_is_refused():
    """Browsers would drop it without a word."""
    with pytest.raises(ValueError, match="keep an id in it"):
        Session(SECRET).save(web.Response(), {"cart": "x" * 4000})


def test_a_user_set_above_is_kept():
    """What identified the client before counts, such as a token."""
    sessions = Session(SECRET)
    assert seen(sessions, given_out(sessions, {"user": "ann"}), user="root").user == "root"


def test_cookie_parser_hands_cookies_to_layers():
    """They are a dict of the request's own; without a socket there are none."""

    class Todos(Backend):
        middleware = [CookieParser()]

    assert [layer.kind for layer in Todos().layers] == ["before"]
    socket = SimpleNamespace(cookies={"language": "de"})
    req = Request("read", socket=socket)
    CookieParser().parse(req)
    req.state["cookies"]["language"] = "fr"
    assert socket.cookies == {"language": "de"}
    req = Request("read")
    CookieParser().parse(req)
    assert req.state["cookies"] == {}
