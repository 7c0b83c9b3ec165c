"""CookieParser and Session, by themselves: what a cookie proves, and for how long."""

from __future__ import annotations

import base64
import logging
import re
import secrets
import time
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from bbio import Backend, ConfigurationError, Request
from bbio.builtin import CookieParser, Session
from bbio.builtin import session as module
from bbio.server.connection import Connection
from bbio.server.limits import Limits
from tests.support.stacks import Served

SECRET = "a secret that is long enough for tests"
OTHER = "another secret that is long enough, too"

values = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=20), max_size=5
)


def asked(*headers: tuple[str, str], host: str = "localhost:3000", scheme: str = "http") -> web.BaseRequest:
    """An HTTP request."""
    return make_mocked_request("GET", "/", CIMultiDict([("Host", host), *headers])).clone(scheme=scheme)


def given_out(sessions: Session, session: dict) -> str:
    """The value of the cookie that a session comes to."""
    response = web.Response()
    sessions.save(response, session)
    (morsel,) = response.cookies.values()
    value: str = morsel.value
    return value


def seen(sessions: Session, value: str | None, prefix: str = "__Host-", host: str = "a.test", **fields) -> Request:
    """A request whose handshake had this cookie, after the layer."""
    cookies = {} if value is None else {prefix + sessions.cookie: value}
    req = Request("read", socket=SimpleNamespace(cookies=cookies, headers={"Host": host}), **fields)
    sessions.identify(req)
    return req


@given(values)
def test_what_is_saved_is_the_session(session):
    """Any JSON object comes back as it was, to layers and to HTTP handlers."""
    sessions = Session(SECRET)
    value = given_out(sessions, session)
    assert re.fullmatch(r"[\w.-]+", value)
    assert seen(sessions, value).session == session
    assert sessions.load(asked(("Cookie", f"__Host-bbio_session={value}"))) == session


@given(st.text() | st.builds("{}.{}".format, st.text(), st.text()))
def test_what_is_not_signed_is_no_session(value):
    """No text that a client can think of passes, and none raises anything."""
    assert seen(Session(SECRET), value).session == {}


def test_a_changed_cookie_is_no_session():
    """Not one character of a cookie can be another, be added, or be left out, unless the signature stays the same."""
    sessions = Session(SECRET)
    value = given_out(sessions, {"user": "ann"})
    proof = _content_and_signature(value)
    for at in range(len(value)):
        for other in ("A", "B", "_", "=", ".", "é", "\udcff", ""):
            changed = value[:at] + other + value[at + 1 :]
            assert _content_and_signature(changed) == proof or seen(sessions, changed).session == {}
    for changed in ("=" + value, value + ".", value * 2):
        assert seen(sessions, changed).session == {}


def _content_and_signature(value: str) -> tuple[str, bytes]:
    """Return what a cookie says, and the bytes of its signature: base64 can spell the same ones in several ways."""
    content, _, signature = value.rpartition(".")
    try:
        return content, base64.urlsafe_b64decode(signature.rstrip("=") + "===")
    except ValueError:
        return content, b""


def test_no_cookie_and_no_socket_are_an_empty_session():
    """Of a new client, and of the server itself, nothing is known."""
    assert seen(Session(SECRET), None).session == {}
    assert seen(Session(SECRET, secure=True), None).session == {}
    req = Request("read")
    req.session = {"user": "set above"}
    Session(SECRET).identify(req)
    assert (req.session, req.user) == ({}, None)
    req = Request("read", user="ann")
    Session(SECRET).identify(req)
    assert (req.session, req.user) == ({"user": "ann"}, "ann")


def test_a_session_ends(monkeypatch):
    """After `max_age` seconds the cookie is worth nothing, also on a connection that is still open."""
    now = 1_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    sessions = Session(SECRET, max_age=60)
    value = given_out(sessions, {"user": "ann"})
    now = 1_059.9
    assert seen(sessions, value).session == {"user": "ann"}
    now = 1_060.0
    assert seen(sessions, value).session == {}


def test_what_a_cookie_proved_is_remembered(monkeypatch):
    """Each request has a session of its own, an old cookie ends all the same, and only so many are remembered."""
    monkeypatch.setattr(module, "KNOWN_COOKIES", 3)
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
    monkeypatch.setattr(sessions, "_serializer", None)  # the signature is not looked at again
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


@pytest.mark.parametrize(
    ("secure", "request_", "is_secure"),
    [
        (None, asked(), False),
        (None, asked(host="127.0.0.1:3000"), False),
        (None, asked(host="app.example.org"), True),
        (None, asked(host="192.0.2.7"), True),
        (None, asked(scheme="https"), True),
        # A proxy on the same machine that asks for an address of its own.
        (None, asked(("X-Forwarded-Proto", "https")), True),
        (None, None, True),
        (True, asked(), True),
        (False, asked(host="app.example.org"), False),
    ],
)
def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites(secure, request_, is_secure):
    """HttpOnly, SameSite and a life time are set, and Secure but on this machine. `clear` takes the same one away."""
    sessions = Session(SECRET, max_age=60, secure=secure)
    response = web.Response()
    sessions.save(response, {}, request_)
    ((name, cookie),) = response.cookies.items()
    assert name == ("__Host-bbio_session" if is_secure else "bbio_session")
    assert (cookie["httponly"], cookie["samesite"], cookie["max-age"]) == (True, "Lax", "60")
    # What a browser wants of a name that begins with `__Host-`.
    assert (cookie["secure"] is True, cookie["path"], cookie["domain"]) == (is_secure, "/", "")
    sessions.clear(response)
    assert (response.cookies[name].value, response.cookies[name]["max-age"]) == ("", "0")
    assert bool(response.cookies[name]["secure"]) is is_secure


@pytest.mark.parametrize(
    ("secure", "prefix", "host", "is_seen"),
    [
        (None, "__Host-", "app.example.org", True),
        (None, "", "app.example.org", False),
        (None, "__Host-", "localhost", True),
        (None, "", "localhost", True),
        (True, "__Host-", "localhost", True),
        (True, "", "localhost", False),
        (False, "", "app.example.org", True),
        (False, "__Host-", "app.example.org", False),
    ],
)
def test_a_cookie_that_a_neighbour_could_have_set_is_no_session(secure, prefix, host, is_seen):
    """Another site of the same domain may set any name but one with the prefix, such as a session of its own."""
    sessions = Session(SECRET, secure=secure)
    value = given_out(sessions, {"user": "ann"})
    assert seen(sessions, value, prefix, host).user == ("ann" if is_seen else None)
    loaded = sessions.load(asked(("Cookie", f"{prefix}bbio_session={value}"), host=host))
    assert loaded == ({"user": "ann"} if is_seen else {})


def test_handlers_and_layers_read_the_same_cookie():
    """Of several of one name they take the first, whatever stands around them, in however many headers."""
    sessions = Session(SECRET)
    ann, bob = (given_out(sessions, {"user": name}) for name in ("ann", "bob"))
    lines = [("Cookie", f'odd[=1; =; x; __Host-bbio_session="{ann}"'), ("Cookie", f"__Host-bbio_session={bob}; b=2")]
    headers = CIMultiDictProxy(CIMultiDict([("Host", "a.test"), *lines]))
    connection = Connection(headers, "192.0.2.1", Limits(), time.monotonic)
    req = Request("read", socket=SimpleNamespace(cookies=connection.cookies, headers=headers))
    sessions.identify(req)
    assert req.session == sessions.load(asked(*lines, host="a.test")) == {"user": "ann"}
    assert connection.cookies["b"] == "2"


def test_a_session_too_large_for_a_cookie_is_refused():
    """Browsers would drop it without a word."""
    with pytest.raises(ValueError, match="keep an id in it"):
        Session(SECRET).save(web.Response(), {"cart": secrets.token_hex(4000)})


def test_the_header_for_the_response_of_any_framework():
    """It sets the same cookie as `save`, and removes the one that the browser has."""
    sessions = Session(SECRET, max_age=60)
    header = sessions.save_header({"user": "ann"}, asked(host="app.example.org"))
    name, _, rest = header.partition("=")
    value, _, attributes = rest.partition("; ")
    assert (name, attributes) == ("__Host-bbio_session", "HttpOnly; Max-Age=60; Path=/; SameSite=Lax; Secure")
    assert seen(sessions, value).user == "ann"
    assert sessions.save_header({}, asked()).startswith("bbio_session=")
    assert sessions.clear_header(asked(("Cookie", f"__Host-bbio_session={value}"))).startswith(
        '__Host-bbio_session=""; HttpOnly; Max-Age=0; '
    )
    with pytest.raises(ValueError, match="keep an id in it"):
        sessions.save_header({"cart": secrets.token_hex(4000)})


@pytest.mark.parametrize("odd", [float("inf"), 2**70, "\x00", 1e300])
def test_sessions_that_json_hardly_has(odd):
    """They come back as they were."""
    sessions = Session(SECRET)
    value = given_out(sessions, {"user": "ann", "odd": odd})
    assert seen(sessions, value).session == seen(sessions, value).session == {"user": "ann", "odd": odd}


def test_a_user_set_above_is_kept():
    """What identified the client before counts, such as a token."""
    sessions = Session(SECRET)
    assert seen(sessions, given_out(sessions, {"user": "ann"}), user="root").user == "root"


def test_cookie_parser_hands_cookies_to_layers():
    """They are a dict of the request's own; without a socket there are none."""

    class Todos(Backend):
        middleware = [CookieParser()]

    assert [layer.kind for layer in Served(Todos).runtime.layers] == ["before"]
    socket = SimpleNamespace(cookies={"language": "de"})
    req = Request("read", socket=socket)
    CookieParser().parse(req)
    req.state["cookies"]["language"] = "fr"
    assert socket.cookies == {"language": "de"}
    req = Request("read")
    CookieParser().parse(req)
    assert req.state["cookies"] == {}
