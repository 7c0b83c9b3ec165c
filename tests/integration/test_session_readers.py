"""Readers of the sessions of other frameworks: each framework writes a cookie by itself, and bbio reads it."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import aiohttp_session
import flask
import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient as AiohttpClient
from aiohttp.test_utils import TestServer
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from starlette.applications import Starlette
from starlette.middleware import Middleware as StarletteMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import Response
from starlette.routing import Route

from bbio import Backend, ConfigurationError, Request, Unavailable, before
from bbio.builtin import AiohttpSessions, DjangoSessions, FlaskSessions, MemoryStore, StarletteSessions
from bbio.builtin.sessions import django as django_sessions
from tests.support.sessions import Served

SITE = Path(__file__).parents[1] / "support" / "django_site.py"
SECRET = "the secret of the django site of the tests"


async def seen(sessions, **cookies) -> Request:
    """A request of a connection with these cookies, after the layer."""
    socket = SimpleNamespace(cookies=cookies, headers={"Host": "a.test"}, identity=None)
    req = Request("read", socket=socket)
    later = sessions.identify(req)
    if later is not None:
        await later
    return req


async def assert_tampering_fails(sessions, name, value):
    """Nobody is found by a cookie that was cut, changed, doubled, or is far too long."""
    middle = len(value) // 2
    other = "A" if value[middle] != "A" else "B"
    changed = [value[:-8], value[1:], value[:middle] + other + value[middle + 1 :], value * 2, "", "é☃", "x" * 10_000]
    for each in (*changed, "\udcff", "null", ".", "..", ":::", "a.b.c", "a:b:c", '{"user": "ann"}'):
        assert (await seen(sessions, **{name: each})).user is None, each
    assert (await seen(sessions, **{name + "2": value})).user is None


# Flask


def flask_cookie(session, secret="a secret of flask", **config):
    """The cookie that a Flask site sets."""
    app = flask.Flask("site")
    app.secret_key = secret
    app.config.update(config)

    @app.get("/")
    def index():
        flask.session.update(session)
        return ""

    client = app.test_client()
    client.get("/")
    return client.get_cookie("session").value


FLASK_VALUES = {
    "user": {"id": "ann"},
    "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "uuid": UUID(int=7),
    "bytes": b"\x00\xff",
    "pair": (1, [2, {"a": (3,)}]),
    "tagged": {" t": [1]},
    "one": {"x": 1},
    "long": "word " * 200,
    "text": "Zoë ☃",
}


async def test_flask():
    """What Flask keeps comes back, with its types; each request gets a session of its own."""
    sessions = FlaskSessions("a secret of flask")
    cookie = flask_cookie(FLASK_VALUES)
    req = await seen(sessions, session=cookie)
    assert req.session == FLASK_VALUES
    assert req.user == {"id": "ann"}
    req.session["user"]["id"] = "bob"
    assert (await seen(sessions, session=cookie)).user == {"id": "ann"}
    assert await sessions.load(SimpleNamespace(headers={"Cookie": f"session={cookie}"})) == FLASK_VALUES
    await assert_tampering_fails(sessions, "session", cookie)
    assert (req.session_id, await sessions._still_living([])) == (None, {})


async def test_flask_secrets_and_users(monkeypatch):
    """Fallbacks are accepted as in Flask, another secret is not; the user may be under any key, or made of any."""
    old = flask_cookie({"_user_id": "7"}, "an old secret")
    both = FlaskSessions(["a new secret", "an old secret"], user="_user_id")
    assert (await seen(both, session=old)).user == "7"
    assert (await seen(FlaskSessions("a new secret", user="_user_id"), session=old)).user is None
    new = flask_cookie({"_user_id": "8"}, "a new secret", SECRET_KEY_FALLBACKS=["an old secret"])
    assert (await seen(both, session=new)).user == "8"
    made = FlaskSessions(b"a new secret", user=lambda session: {"id": session["_user_id"]})
    assert (await seen(made, session=new)).user == {"id": "8"}
    now = time.time()
    short = FlaskSessions("a new secret", user="_user_id", max_age=60)
    assert (await seen(short, session=new)).user == "8"
    monkeypatch.setattr(time, "time", lambda: now + 61)
    late = FlaskSessions("a new secret", user="_user_id", max_age=60)
    assert (await seen(late, session=new)).user is None
    assert await late.load(SimpleNamespace(headers={"Cookie": f"session={new}"})) == {}


# Starlette


async def starlette_cookie(session, secret="a secret of starlette", **options):
    """The cookie that a Starlette site sets, over HTTP by httpx."""

    async def index(request):
        request.session.update(session)
        return Response()

    site = Starlette(
        routes=[Route("/", index)], middleware=[StarletteMiddleware(SessionMiddleware, secret_key=secret, **options)]
    )
    transport = httpx.ASGITransport(app=site)
    async with httpx.AsyncClient(transport=transport, base_url="http://a.test") as client:
        await client.get("/")
        return client.cookies["session"]


async def test_starlette():
    """The session of Starlette, and so of FastAPI, comes back."""
    content = {"user": {"id": "ann"}, "text": "Zoë ☃", "list": [1, None, {"a": True}]}
    cookie = await starlette_cookie(content)
    sessions = StarletteSessions("a secret of starlette")
    req = await seen(sessions, session=cookie)
    assert (req.session, req.user) == (content, {"id": "ann"})
    assert (await seen(StarletteSessions("another"), session=cookie)).user is None
    assert (await seen(StarletteSessions(["new", "a secret of starlette"]), session=cookie)).user == {"id": "ann"}
    await assert_tampering_fails(sessions, "session", cookie)


async def test_cookies_of_one_framework_mean_nothing_to_another():
    """Even with the same secret: what a cookie says counts only under the format that it was made in."""
    flask_one = flask_cookie({"user": "ann"}, "one secret")
    starlette_one = await starlette_cookie({"user": "ann"}, "one secret")
    assert (await seen(FlaskSessions("one secret"), session=starlette_one)).user is None
    assert (await seen(StarletteSessions("one secret"), session=flask_one)).user is None
    assert (await seen(DjangoSessions("one secret"), sessionid=flask_one)).user is None


# aiohttp-session


async def aiohttp_cookie(session, storage):
    """The cookie that an aiohttp site sets."""

    async def index(request):
        (await aiohttp_session.get_session(request)).update(session)
        return web.Response()

    site = web.Application()
    aiohttp_session.setup(site, storage)
    site.router.add_get("/", index)
    async with AiohttpClient(TestServer(site)) as client:
        response = await client.get("/")
        return response.cookies["AIOHTTP_SESSION"].value


# aiohttp-session names what it keeps in requests by plain strings still.
@pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")
async def test_aiohttp_session():
    """What an EncryptedCookieStorage keeps comes back; keys are given as it takes them."""
    key, content = secrets.token_bytes(32), {"user": {"id": "ann"}, "text": "Zoë ☃"}
    cookie = await aiohttp_cookie(content, EncryptedCookieStorage(key))
    text = base64.urlsafe_b64encode(key).decode()
    for given in (key, text, [secrets.token_bytes(32), key]):
        req = await seen(AiohttpSessions(given), AIOHTTP_SESSION=cookie)
        assert (req.session, req.user) == (content, {"id": "ann"})
    assert (await seen(AiohttpSessions(secrets.token_bytes(32)), AIOHTTP_SESSION=cookie)).user is None
    await assert_tampering_fails(AiohttpSessions(key), "AIOHTTP_SESSION", cookie)


async def test_what_anybody_can_write_is_no_session():
    """The cookies of a SimpleCookieStorage are not read; a key that is none is refused, and says why."""
    forged = json.dumps({"created": 1, "session": {"user": "ann"}})
    sessions = AiohttpSessions(secrets.token_bytes(32))
    assert (await seen(sessions, AIOHTTP_SESSION=forged)).user is None
    for key in ([], b"short", "not a key", [None]):
        with pytest.raises(ConfigurationError, match="SimpleCookieStorage can be forged by anybody"):
            AiohttpSessions(key)


@pytest.mark.parametrize("reader", [FlaskSessions, StarletteSessions, DjangoSessions])
@pytest.mark.parametrize("secret", ["", [], ["x", ""]])
def test_a_reader_needs_the_secret(reader, secret):
    """Without it anybody could sign."""
    with pytest.raises(ConfigurationError, match=f"{reader.__name__} needs the secret"):
        reader(secret)


# Django


class Site:
    """A Django site on SQLite, with users ann (1), bob (2) and eve (3)."""

    def __init__(self, file):
        self.file = file
        command = [sys.executable, str(SITE), SECRET, str(file)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("create:ann,bob,eve")

    def ask(self, *commands, cookie="", **settings):
        """Have a browser do something; return its session cookie and what pages said."""
        order = {"commands": commands, "cookie": cookie, "settings": settings}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["cookie"], answer["said"]

    def row(self, statement, *values):
        with closing(sqlite3.connect(self.file)) as connection:
            return connection.execute(statement, values).fetchone()

    def stop(self):
        self._process.communicate()


@pytest.fixture(scope="module")
def django(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("django") / "db.sqlite3")
    yield site
    site.stop()


SIGNED = {"SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies"}


# As Django's migrations make them, without columns that are not read.
DJANGO_TABLES = """
CREATE TABLE django_session (session_key varchar(40) PRIMARY KEY, session_data text NOT NULL,
  expire_date timestamptz NOT NULL);
CREATE TABLE auth_user (id integer PRIMARY KEY, password varchar(128) NOT NULL, is_active boolean NOT NULL);
"""


@pytest.fixture
async def reader():
    """`await reader(DjangoSessions(...))`: opened, and closed after the test."""
    opened = []

    async def open_reader(sessions):
        await sessions.start(Served())
        opened.append(sessions)
        return sessions

    yield open_reader
    for sessions in opened:
        await sessions.stop()


async def test_django_sessions_in_the_database(django, reader):
    """The user of a session and what is in it; nobody after the log-out."""
    cookie, _ = django.ask("get:/in?name=ann&cart=2")
    sessions = await reader(DjangoSessions(SECRET, database=django.file, cache_seconds=0.001))
    req = await seen(sessions, sessionid=cookie)
    assert (req.user, req.session["cart"]) == ({"id": "1"}, ["milk"] * 2)
    assert req.session_id not in (None, cookie)
    await assert_tampering_fails(sessions, "sessionid", cookie)
    assert (await sessions.load(SimpleNamespace(headers={"Cookie": f"sessionid={cookie}"})))["cart"] == ["milk"] * 2
    other = await reader(DjangoSessions("another secret", database=str(django.file)))
    assert (await seen(other, sessionid=cookie)).user is None
    _, said = django.ask("get:/who", "get:/out", cookie=cookie)
    assert said[0] == "1"
    await asyncio.sleep(0.002)
    assert (await seen(sessions, sessionid=cookie)).user is None


async def test_django_users_who_may_not_log_in_any_more(django, reader):
    """A changed password and a user who is not active end a session, as in Django itself."""
    (bob, _), (eve, _) = [django.ask(f"get:/in?name={name}") for name in ("bob", "eve")]
    sessions = await reader(DjangoSessions(SECRET, database=django.file, cache_seconds=0.001))
    blind = await reader(DjangoSessions(SECRET, database=django.file, users=None))
    assert [(await seen(sessions, sessionid=each)).user["id"] for each in (bob, eve)] == ["2", "3"]
    _, said = django.ask("password:bob", "deactivate:eve", "get:/who", cookie=bob)
    assert said == ["None"]
    await asyncio.sleep(0.002)
    assert [(await seen(sessions, sessionid=each)).user for each in (bob, eve)] == [None, None]
    # Whoever does not look users up believes the session; bob's was ended by Django, which had it visited.
    assert (await seen(blind, sessionid=eve)).user == {"id": "3"}


async def test_django_sessions_in_signed_cookies(django, reader, monkeypatch):
    """Without a database they are believed until `max_age`; with it, users are looked up all the same."""
    cookie, _ = django.ask("get:/in?name=ann&cart=200", **SIGNED)
    sessions = await reader(DjangoSessions(SECRET))
    req = await seen(sessions, sessionid=cookie)
    assert (req.user, req.session["cart"]) == ({"id": "1"}, ["milk"] * 200)
    await assert_tampering_fails(sessions, "sessionid", cookie)
    looking = await reader(DjangoSessions(SECRET, database=django.file, signed_cookies=True))
    assert (await seen(looking, sessionid=cookie)).user == {"id": "1"}
    visitor, _ = django.ask("get:/visit", **SIGNED)
    req = await seen(looking, sessionid=visitor)
    assert (req.user, req.session) == (None, {"seen": True})
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    old = await reader(DjangoSessions(SECRET, max_age=60))
    assert (await seen(old, sessionid=cookie)).user is None
    assert await old.load(SimpleNamespace(headers={"Cookie": f"sessionid={cookie}"})) == {}


async def test_a_django_session_that_is_too_large_when_it_is_unpacked(django, reader, monkeypatch):
    """Nothing is unpacked without end, whoever has signed it."""
    cookie, _ = django.ask("get:/in?name=ann&cart=200", **SIGNED)
    monkeypatch.setattr(django_sessions, "MAX_INFLATED_BYTES", 100)
    assert (await seen(await reader(DjangoSessions(SECRET)), sessionid=cookie)).user is None


async def test_living_django_sessions_in_a_file(django, reader):
    """One query looks whether many sessions still exist; in signed cookies there is nothing to look at."""
    cookie, _ = django.ask("get:/in?name=ann")
    sessions = await reader(DjangoSessions(SECRET, database=django.file))
    id = (await seen(sessions, sessionid=cookie)).session_id
    assert list(await sessions._still_living([id])) == [id]
    django.ask("get:/out", cookie=cookie)
    assert list(await sessions._still_living([id])) == []
    cookie, _ = django.ask("get:/in?name=ann", **SIGNED)
    signed = await reader(DjangoSessions(SECRET, max_age=1))
    id = (await seen(signed, sessionid=cookie)).session_id
    assert list(await signed._still_living([id])) == [id]


def test_moments_of_django():
    """With a time zone, without one, and in seconds."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    moments = [noon, noon.replace(tzinfo=None), "2026-01-01 12:00:00", "2026-01-01T13:00:00+01:00", noon.timestamp()]
    assert {django_sessions.seconds_of(moment) for moment in moments} == {noon.timestamp()}


def test_cryptography_that_is_not_installed(monkeypatch):
    """The text says what to install."""
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(ConfigurationError, match=r"pip install bbio\[auth\]"):
        AiohttpSessions(secrets.token_bytes(32))


async def test_django_fallback_secrets(django, reader):
    """A session from before the secret was changed counts as long as the old one is among the fallbacks."""
    cookie, _ = django.ask("get:/in?name=ann")
    both = await reader(DjangoSessions(["a new secret", SECRET], database=django.file))
    assert (await seen(both, sessionid=cookie)).user == {"id": "1"}


async def test_django_on_postgresql(django, reader, database_url, psql):
    """The same rows in PostgreSQL; one query looks whether many sessions still exist."""
    cookie, _ = django.ask("get:/in?name=ann")
    data, expires = django.row("SELECT session_data, expire_date FROM django_session WHERE session_key = ?", cookie)
    (password,) = django.row("SELECT password FROM auth_user WHERE id = 1")
    await psql.execute(DJANGO_TABLES)
    expire_date = datetime.fromisoformat(expires).replace(tzinfo=UTC)
    await psql.execute("INSERT INTO django_session VALUES ($1, $2, $3)", cookie, data, expire_date)
    await psql.execute("INSERT INTO auth_user VALUES (1, $1, true)", password)
    sessions = await reader(DjangoSessions(SECRET, database=database_url, cache_seconds=0.001))
    req = await seen(sessions, sessionid=cookie)
    assert req.user == {"id": "1"}
    living = await sessions._still_living([req.session_id, "unknown"])
    assert living == {req.session_id: expire_date.timestamp(), "unknown": None}
    await psql.execute("UPDATE auth_user SET is_active = false")
    assert req.session_id not in await sessions._still_living([req.session_id])
    await psql.execute("DELETE FROM django_session")
    assert req.session_id not in await sessions._still_living([req.session_id])
    await asyncio.sleep(0.002)
    assert (await seen(sessions, sessionid=cookie)).user is None
    await psql.execute("DROP TABLE django_session")
    await asyncio.sleep(0.002)
    with pytest.raises(Unavailable):
        await seen(sessions, sessionid=cookie)


async def test_django_by_functions_of_the_application(django, reader):
    """It may look sessions and users up by any means, such as the ORM in a thread."""
    cookie, _ = django.ask("get:/in?name=ann")

    async def session(key):
        found = django.row("SELECT session_data, expire_date FROM django_session WHERE session_key = ?", key)
        return found and (found[0], datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp())

    async def password(user):
        return django.row("SELECT password FROM auth_user WHERE id = ?", user)[0]

    sessions = await reader(DjangoSessions(SECRET, session=session, password=password))
    req = await seen(sessions, sessionid=cookie)
    assert req.user == {"id": "1"}
    assert list(await sessions._still_living([req.session_id])) == [req.session_id]
    blind = await reader(DjangoSessions(SECRET, session=session))
    assert (await seen(blind, sessionid=cookie)).user == {"id": "1"}
    assert (await seen(blind, sessionid="x" * 32)).user is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"database": "db.sqlite3", "session": print}, "looks up by itself"),
        ({"database": "db.sqlite3", "users": 'x"; --'}, "not the name of a table"),
        ({"signed_cookies": False}, "needs database"),
    ],
)
def test_django_options_that_do_not_fit(options, words):
    """Each is refused where it is given."""
    with pytest.raises(ConfigurationError, match=words):
        DjangoSessions(SECRET, **options)


async def test_a_django_database_that_is_not_there(reader, tmp_path):
    """It fails at the start, and makes no file."""
    with pytest.raises(ConfigurationError, match="there is no file"):
        await reader(DjangoSessions(SECRET, database=tmp_path / "none.db"))
    assert list(tmp_path.iterdir()) == []


# Over a real connection


async def test_a_page_of_another_framework_is_logged_in(serve, join):
    """Its cookie comes with the handshake; a forged one is nobody's."""
    sessions = FlaskSessions("a secret of flask")

    class Todos(Backend):
        middleware = [sessions]
        store = MemoryStore()

        @before("create")
        def sign(self, req):
            req.model["by"] = req.user

    app = await serve(Todos)
    cookie = flask_cookie({"user": "ann"})
    ann = await join(app, "todos", headers={"Cookie": f"session={cookie}"})
    assert (await ann.sync("create", {"title": "milk"}))["by"] == "ann"
    eve = await join(app, "todos", headers={"Cookie": f"session={cookie[:-8]}"})
    assert (await eve.sync("create", {"title": "milk"}))["by"] is None
