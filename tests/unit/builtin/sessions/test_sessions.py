"""Server-side sessions: what their cookies prove, how they end, and what happens while their store is down."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from bbio import ConfigurationError, Request, SessionStore, StackError, StoredSession, Unauthorized, Unavailable
from bbio.builtin import MemorySessions, Sessions
from bbio.builtin.sessions import identified, live, memory
from bbio.builtin.sessions import sessions as module
from bbio.builtin.sessions.sessions import key_of
from tests.support.sessions import Page, Served, TroubledStore, http_request, until, value_of

ANN = {"user": {"id": "ann", "name": "Ann"}, "cart": ["milk"]}


@pytest.fixture
async def make():
    """`sessions, store, backend = await make(idle=60)`: sessions that have started, stopped after the test."""
    started = []

    async def make(store=None, **options):
        store, backend = store or TroubledStore(), Served()
        sessions = Sessions(store, **options)
        await sessions.start(backend)
        started.append(sessions)
        return sessions, store, backend

    yield make
    for sessions in started:
        await sessions.stop()


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves: `clock.pass_(60)`."""
    offset = 0.0
    real, monotonic = time.time, time.monotonic
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + offset)

    def pass_(seconds):
        nonlocal offset
        offset += seconds

    return SimpleNamespace(pass_=pass_)


# Log-in


async def test_a_session_is_what_was_logged_in(make):
    """Layers get the session and its user, each request a copy; the id is not the cookie, and nobody else has it."""
    sessions, store, _ = await make()
    value = value_of(await sessions.begin(ANN))
    page = Page(sessions, value)
    first, second = await page.ask(), await page.ask()
    assert first.session == second.session == ANN
    assert first.user is first.session["user"]
    first.user["id"] = first.session["cart"][0] = "changed"
    assert (await page.ask()).session == ANN
    assert first.session_id == key_of(value)
    assert value not in repr(vars(store)) + str(first.session_id)
    assert await sessions.load(http_request(value)) == ANN
    assert (await page.ask(user="root")).user == "root"
    assert store.finds == 2  # one by the page, one by `load`


async def test_the_header_that_begins_a_session(make):
    """It is out of reach for scripts and other sites; on this machine it is sent over HTTP."""
    sessions, _, _ = await make(lifetime=60)
    for request in (None, http_request(host="app.example.org")):
        header = await sessions.begin({}, request)
        assert re.fullmatch(
            r"__Host-bbio_session=[\w-]{43}; HttpOnly; Max-Age=60; Path=/; SameSite=Lax; Secure", header
        )
    header = await sessions.begin({}, http_request(host="localhost:3000"))
    assert re.fullmatch(r"bbio_session=[\w-]{43}; HttpOnly; Max-Age=60; Path=/; SameSite=Lax", header)
    page = Page(sessions, value_of(header), "bbio_session", "localhost:3000")
    assert (await page.ask()).session_id
    assert (await Page(sessions, value_of(header), "bbio_session").ask()).session_id is None


async def test_log_in_and_log_out_on_responses_of_aiohttp(make):
    """The cookie is set and removed; both ways the session before ends."""
    sessions, _, backend = await make()
    response, request = web.Response(), make_mocked_request("GET", "/", headers={"Host": "a.test"})
    await sessions.login(response, ANN, request)
    value = response.cookies["__Host-bbio_session"].value
    request = make_mocked_request("GET", "/", headers={"Host": "a.test", "Cookie": f"__Host-bbio_session={value}"})
    assert await sessions.load(request) == ANN
    await sessions.login(response, {"user": "bob"}, request)
    assert await sessions.load(request) == {}
    assert backend.ended == [key_of(value)]
    value = response.cookies["__Host-bbio_session"].value
    request = http_request(value)
    await sessions.logout(response, request)
    assert response.cookies["__Host-bbio_session"]["max-age"] == "0"
    assert await sessions.load(request) == {}
    await sessions.logout(response, http_request())


async def test_each_log_in_makes_a_new_id(make):
    """Nobody can have the victim log in under an id that they know."""
    sessions, store, _ = await make()
    planted = value_of(await sessions.begin({"user": "eve"}))
    made_up = secrets.token_urlsafe(32)
    for value in (planted, made_up):
        after = value_of(await sessions.begin({"user": "ann"}, http_request(value)))
        assert after != value
        assert (await Page(sessions, value).ask()).user is None
        assert (await Page(sessions, after).ask()).user == "ann"
    assert await store.find(key_of(made_up)) is None


async def test_a_session_gets_a_new_id_on_demand(make):
    """With the same content and end; the old one ends, and nothing comes of one that is not valid."""
    sessions, store, backend = await make(lifetime=100, idle=50)
    old = value_of(await sessions.begin(ANN))
    header = await sessions.rotate(http_request(old))
    new = value_of(header)
    assert backend.ended == [key_of(old)]
    assert await sessions.load(http_request(old)) == {}
    assert await sessions.load(http_request(new)) == ANN
    assert (await store.find(key_of(new))).ends == pytest.approx(time.time() + 100, abs=5)
    assert int(re.search(r"Max-Age=(\d+)", header)[1]) in range(90, 101)
    assert await sessions.rotate(http_request(old)) is None
    assert await sessions.rotate(http_request()) is None


async def test_the_header_that_ends_a_session(make):
    """It removes the cookie that the browser has."""
    sessions, _, _ = await make()
    assert (await sessions.finish(http_request("x"))).startswith('__Host-bbio_session=""; HttpOnly; Max-Age=0; ')
    value = value_of(await sessions.begin(ANN))
    local = [http_request(value, name=name, host="localhost") for name in ("bbio_session", "__Host-bbio_session")]
    assert (await sessions.finish(local[0])).startswith('bbio_session=""; HttpOnly; Max-Age=0; ')
    assert (await sessions.finish(local[1])).startswith('__Host-bbio_session=""; HttpOnly; Max-Age=0; ')
    assert await sessions.load(http_request(value)) == {}


@pytest.mark.parametrize(
    ("session", "error", "words"),
    [
        ({"cart": "x" * 65_536}, ValueError, "too large"),
        ({"user": "x" * 513}, ValueError, "id of a user has 513"),
        ({"user": {"name": "ann"}}, StackError, "without an id"),
        ({"when": object()}, TypeError, "unsupported"),
    ],
)
async def test_sessions_that_cannot_be(make, session, error, words):
    """They are refused at the log-in."""
    sessions, _, _ = await make()
    with pytest.raises(error, match=words):
        await sessions.begin(session)


# Bad cookies


@pytest.mark.parametrize(
    "change",
    [
        lambda value: "",
        lambda value: value[:-1],
        lambda value: value + "A",
        lambda value: ("B" if value[0] == "A" else "A") + value[1:],
        lambda value: value.swapcase(),
        lambda value: key_of(value),
        lambda value: "é" * 43,
        lambda value: "\udcff" * 43,
        lambda value: value[:-1] + "\n",
        lambda value: "A" * 10_000,
        lambda value: "' OR 1=1 --" + "A" * 32,
    ],
)
async def test_a_cookie_that_names_no_session(make, change):
    """No text but the id of a session is one; most are not even looked up, and none twice within seconds."""
    sessions, store, _ = await make()
    value = value_of(await sessions.begin(ANN))
    page = Page(sessions, change(value))
    for _ in range(3):
        req = await page.ask()
        assert (req.session, req.user, req.session_id) == ({}, None, None)
    assert store.finds <= 1
    assert await sessions.load(http_request(change(value))) == {}


async def test_requests_without_a_cookie_have_no_session(make):
    """A connection without one has none; a request of the server itself has the user that it is for."""
    sessions, store, _ = await make()
    page = Page(sessions, None)
    assert (await page.ask()).session == {}
    for user, session in ((None, {}), ("ann", {"user": "ann"})):
        req = Request("read", user=user)
        req.session = {"set": "above"}
        assert sessions.identify(req) is None
        assert (req.session, req.user) == (session, user)
    assert store.finds == 0


# The end


async def test_a_revoked_session_ends_at_once(make):
    """All of a user, or one; what is remembered of them is forgotten, and their connections are told."""
    sessions, _, backend = await make()
    values = [value_of(await sessions.begin({"user": user})) for user in ("ann", "ann", "bob")]
    pages = [Page(sessions, value) for value in values]
    for page in pages:
        assert (await page.ask()).user
    assert await sessions.revoke(user={"id": "ann"}) == 2
    assert backend.ended == sorted(map(key_of, values[:2]))
    for page in pages[:2]:
        with pytest.raises(Unauthorized, match="log in again") as caught:
            await page.ask()
        assert caught.value.to_json()["expired"] is True
    bob = await pages[2].ask()
    assert await sessions.revoke(id=bob.session_id) == 1
    assert await sessions.revoke(id=bob.session_id) == 0
    with pytest.raises(Unauthorized):
        await pages[2].ask()
    # A connection that comes later with the old cookie is nobody's.
    assert (await Page(sessions, values[2]).ask()).user is None
    for wrong in ({}, {"user": "ann", "id": "x"}):
        with pytest.raises(TypeError, match="one of them"):
            await sessions.revoke(**wrong)


async def test_a_revoked_session_has_ended_though_its_store_is_down_by_then(make):
    """It need not be asked."""
    sessions, store, backend = await make()
    value = value_of(await sessions.begin(ANN))
    page = Page(sessions, value)
    await page.ask()
    store.on_ended([key_of(value)])
    store.is_down = True
    with pytest.raises(Unauthorized):
        await page.ask()
    assert backend.ended == [key_of(value)]


async def test_the_cookie_is_not_what_revokes(make):
    """The id that layers see cannot be used as a cookie, nor the other way round."""
    sessions, _, _ = await make()
    value = value_of(await sessions.begin(ANN))
    assert await sessions.revoke(id=value) == 0
    assert (await Page(sessions, value).ask()).user


async def test_a_session_that_was_revoked_while_it_was_looked_up(make):
    """What was found just before the end is looked up again."""
    sessions, store, _ = await make()
    value = value_of(await sessions.begin(ANN))
    store.gate.clear()
    page = Page(sessions, value)
    asking = [asyncio.create_task(page.ask()) for _ in range(3)]
    await until(lambda: store.finds == 1)
    await sessions.revoke(user="ann")
    store.gate.set()
    assert [(await each).user for each in asking] == [None] * 3
    assert store.finds == 2


async def test_a_look_up_goes_on_while_others_end(make):
    """It is not done again for the end of another session."""
    sessions, store, _ = await make()
    ann, bob = [value_of(await sessions.begin({"user": user})) for user in ("ann", "bob")]
    store.gate.clear()
    asking = asyncio.create_task(Page(sessions, bob).ask())
    await until(lambda: store.finds == 1)
    store.on_ended([key_of(ann)])
    store.gate.set()
    assert (await asking).user == "bob"
    assert store.finds == 1


async def test_another_process_ends_a_session(make):
    """The store tells of it; of sessions that have nothing to do with it nothing is forgotten."""
    sessions, store, backend = await make()
    values = [value_of(await sessions.begin({"user": user})) for user in ("ann", "bob")]
    pages = [Page(sessions, value) for value in values]
    for page in pages:
        await page.ask()
    assert store.finds == 2
    await store.remove(key_of(values[0]))
    assert (await pages[0].ask()).user == "ann"  # nobody has told yet
    store.on_ended(["unknown", key_of(values[0]), "unknown too"])
    assert key_of(values[0]) in backend.ended
    with pytest.raises(Unauthorized):
        await pages[0].ask()
    assert (await pages[1].ask()).user == "bob"
    assert store.finds == 2


async def test_what_was_missed_is_made_good(make, monkeypatch):
    """When messages may have been lost, what is remembered is looked up, and what has connections is compared."""
    sessions, store, backend = await make()
    values = [value_of(await sessions.begin({"user": user})) for user in ("ann", "bob")]
    pages = [Page(sessions, value) for value in values]
    for page in pages:
        await page.ask()
    backend.live = set(map(key_of, values))
    await store.remove(key_of(values[0]))
    store.on_ended(None)
    await until(lambda: backend.ended)
    assert backend.ended == [key_of(values[0])]
    with pytest.raises(Unauthorized):
        await pages[0].ask()
    assert (await pages[1].ask()).user == "bob"


async def test_a_session_that_is_remembered_is_looked_at_again(make, clock):
    """After some seconds; should nobody have told that it has ended, its connections are ended then."""
    sessions, store, backend = await make(cache_seconds=5)
    value = value_of(await sessions.begin(ANN))
    page = Page(sessions, value)
    await page.ask()
    await store.remove(key_of(value))
    clock.pass_(4.9)
    assert (await page.ask()).user
    clock.pass_(0.2)
    with pytest.raises(Unauthorized):
        await page.ask()
    assert backend.ended == [key_of(value)]


async def test_an_unused_session_expires(make, clock):
    """Requests use it, of any process, and a connection that only listens does not; it is written once a minute."""
    sessions, store, backend = await make(idle=600)
    value = value_of(await sessions.begin(ANN))
    page = Page(sessions, value)
    for minutes in range(1, 30):
        clock.pass_(60.1)
        for _ in range(3):
            assert (await page.ask()).user
        await until(lambda: not sessions._touched)
        assert store.touches == minutes
    assert await sessions.load(http_request(value)) == ANN
    backend.live = {key_of(value)}
    clock.pass_(600.1)
    sessions._live.compare_soon()
    await until(lambda: backend.ended)
    with pytest.raises(Unauthorized):
        await page.ask()
    assert await sessions.load(http_request(value)) == {}


async def test_an_expired_session_that_is_not_deleted_yet(make, clock, monkeypatch):
    """It is none."""
    monkeypatch.setattr(module, "TIDY_SECONDS", 1e9)
    sessions, store, _ = await make(idle=60)
    value = value_of(await sessions.begin(ANN))
    clock.pass_(60.1)
    assert await store.find(key_of(value)) is not None
    assert await sessions.load(http_request(value)) == {}
    assert await sessions.rotate(http_request(value)) is None
    assert (await Page(sessions, value).ask()).user is None


async def test_a_session_has_an_end_however_much_it_is_used(make, clock):
    """The last part of it is not written any more."""
    sessions, store, _ = await make(idle=600, lifetime=1000)
    value = value_of(await sessions.begin(ANN))
    page = Page(sessions, value)
    for _ in range(3):
        clock.pass_(300)
        assert (await page.ask()).user
        assert (await page.ask()).identity.expires == pytest.approx((await store.find(key_of(value))).ends)
        await until(lambda: not sessions._touched)
    stored = await store.find(key_of(value))
    assert stored.expires == stored.ends
    assert store.touches == 2
    clock.pass_(101)
    with pytest.raises(Unauthorized):
        await page.ask()


async def test_a_session_with_a_connection_expires_soon_after_its_end(make, monkeypatch):
    """Also when it has been used since the last look: then it is looked at again at its later end."""
    monkeypatch.setattr(live, "LEAST_COMPARE_SECONDS", 0.01)
    sessions, store, backend = await make(idle=0.3)
    value = value_of(await sessions.begin(ANN))
    backend.live = {key_of(value)}
    await Page(sessions, value).ask()
    await store.touch(key_of(value), time.time() + 0.6)
    begun = time.monotonic()
    await until(lambda: backend.ended)
    assert time.monotonic() - begun > 0.4


async def test_load_keeps_a_session_from_expiring(make, clock):
    """HTTP requests use it too."""
    sessions, store, _ = await make(idle=600)
    value = value_of(await sessions.begin(ANN))
    clock.pass_(61)
    await sessions.load(http_request(value))
    await until(lambda: not sessions._touched)
    assert store.touches == 1
    store.is_down = True


# A store in trouble


async def test_while_the_store_is_down(make, clock, caplog):
    """Who is remembered is answered for some seconds, then nobody is; no session ends, and nobody is let in."""
    sessions, store, backend = await make(cache_seconds=5)
    value = value_of(await sessions.begin(ANN))
    page = Page(sessions, value)
    await page.ask()
    backend.live = {key_of(value)}
    store.is_down = True
    assert (await page.ask()).user
    clock.pass_(5.1)
    for cookie in (value, secrets.token_urlsafe(32)):
        with pytest.raises(Unavailable) as caught:
            await Page(sessions, cookie).ask()
        assert caught.value.to_json()["retry_after"] > 0
        assert "hunter2" not in str(caught.value.to_json())
    assert (await Page(sessions, "no id at all").ask()).user is None
    store.on_ended(None)
    for asked in (
        sessions.begin(ANN),
        sessions.rotate(http_request(value)),
        sessions.finish(http_request(value)),
        sessions.load(http_request(value)),
        sessions.revoke(user="ann"),
        sessions.revoke(id=key_of(value)),
        page.ask(),
    ):
        with pytest.raises(Unavailable):
            await asked
    await asyncio.sleep(0.3)
    assert backend.ended == []
    assert value not in caplog.text
    store.is_down = False
    assert (await page.ask()).user == ANN["user"]


async def test_a_store_that_does_not_answer(make):
    """The request waits no longer than `timeout`, and others do not wait for it."""
    sessions, store, _ = await make(timeout=0.1)
    slow, quick = [value_of(await sessions.begin({"user": user})) for user in ("ann", "bob")]
    assert (await Page(sessions, quick).ask()).user == "bob"
    store.gate.clear()
    waiting = asyncio.create_task(Page(sessions, slow).ask())
    await asyncio.sleep(0.01)
    assert (await Page(sessions, quick).ask()).user == "bob"
    with pytest.raises(Unavailable):
        await waiting
    store.gate.set()
    assert (await Page(sessions, slow).ask()).user == "ann"


async def test_a_request_that_ends_does_not_end_the_look_up_of_others(make):
    """They share it."""
    sessions, store, _ = await make()
    value = value_of(await sessions.begin(ANN))
    store.gate.clear()
    first, second = [asyncio.create_task(Page(sessions, value).ask()) for _ in range(2)]
    await until(lambda: store.finds == 1)
    first.cancel()
    await asyncio.sleep(0)
    store.gate.set()
    assert (await second).user == ANN["user"]
    assert store.finds == 1


async def test_troubles_in_the_background_are_logged(make, clock, monkeypatch, caplog):
    """What could not be kept from expiring, or be deleted, is tried again; the log says it."""
    monkeypatch.setattr(module, "TIDY_SECONDS", 0.01)
    store = TroubledStore()
    store.is_down = True
    sessions, _, _ = await make(store)
    await until(lambda: "expired sessions could not be deleted" in caplog.text)
    store.is_down = False
    value = value_of(await sessions.begin(ANN))
    clock.pass_(61)
    sessions._log = identified.RateLimitedLog(logging.getLogger("bbio"))
    page = Page(sessions, value)
    monkeypatch.setattr(store, "touch", None)
    assert (await page.ask()).user
    await until(lambda: not sessions._touched)
    assert "could not be kept from expiring" in caplog.text


async def test_expired_sessions_are_deleted(make, clock, monkeypatch):
    """All of them, in pieces."""
    monkeypatch.setattr(module, "TIDY_SECONDS", 0.01)
    monkeypatch.setattr(module, "TIDY_AT_ONCE", 3)
    sessions, store, _ = await make(idle=60)
    keys = [key_of(value_of(await sessions.begin({}))) for _ in range(8)]
    clock.pass_(61)
    await until(lambda: not store._sessions)
    assert await store.living(keys) == {}


# Bounds


async def test_so_much_is_remembered(make, monkeypatch):
    """Of sessions, of their characters, and of cookies that name none; the oldest are forgotten first."""
    monkeypatch.setattr(identified, "MAX_CACHED", 3)
    monkeypatch.setattr(identified, "MAX_CACHED_UNKNOWN", 2)
    sessions, _, _ = await make()
    pages = [Page(sessions, value_of(await sessions.begin({"user": str(n)}))) for n in range(5)]
    for page in pages:
        await page.ask()
    assert len(sessions._found) == len(sessions._values) == 3
    monkeypatch.setattr(identified, "MAX_CACHED_SIZE", 30)
    await pages[0].ask()
    assert len(sessions._found) == 2
    assert sessions._size == sum(each.size for each in sessions._found.values())
    for _ in range(5):
        await Page(sessions, secrets.token_urlsafe(32)).ask()
    assert len(sessions._unknown) == 2
    assert sessions._lookups == {}


async def test_memory_holds_so_many_sessions(monkeypatch):
    """With one more, the oldest one ends."""
    monkeypatch.setattr(memory, "MAX_SESSIONS", 2)
    async with MemorySessions() as sessions:
        values = [value_of(await sessions.begin({"user": user})) for user in ("ann", "bob", "eve")]
        assert [bool(await sessions.load(http_request(value))) for value in values] == [False, True, True]


async def test_a_session_is_kept_from_expiring_once_at_a_time(make, clock):
    """Also where it is used by a page and by an HTTP request at once."""
    sessions, store, _ = await make(idle=600)
    value = value_of(await sessions.begin(ANN))
    clock.pass_(61)
    await asyncio.gather(sessions.load(http_request(value)), sessions.load(http_request(value)))
    await until(lambda: not sessions._touched)
    assert store.touches == 1


# Beginning and end


@pytest.mark.parametrize("option", ["idle", "lifetime", "cache_seconds", "timeout", "per_user"])
def test_options_must_be_greater_than_0(option):
    """They are refused where they are given."""
    with pytest.raises(ConfigurationError, match=rf"MemorySessions\({option}=0\): it must be greater than 0"):
        MemorySessions(**{option: 0})


def test_a_store_must_be_one():
    """The text shows how to have one."""
    with pytest.raises(ConfigurationError, match=r"subclass bbio\.SessionStore"):
        Sessions("sessions.db")


async def test_sessions_must_have_started():
    """The text shows how."""
    sessions = MemorySessions()
    with pytest.raises(ConfigurationError, match="async with sessions"):
        await sessions.begin(ANN)
    async with sessions:
        value = value_of(await sessions.begin(ANN))
        assert await sessions.load(http_request(value)) == ANN
    for asked in (sessions.load(http_request(value)), sessions.revoke(user="ann")):
        with pytest.raises(ConfigurationError):
            await asked


async def test_several_backends_share_sessions(make):
    """The first opens them and the last closes them; what is remembered does not outlive that."""
    sessions, _, first = await make()
    second = Served()
    await sessions.start(second)
    value = value_of(await sessions.begin(ANN))
    await Page(sessions, value).ask()
    await sessions.stop()
    await sessions.revoke(user="ann")
    assert first.ended == second.ended == [key_of(value)]
    await sessions.stop()
    await sessions.start(first)
    assert sessions._unknown == sessions._found == {}


async def test_a_look_up_ends_with_the_application(make):
    """Whoever waits for it is told."""
    sessions, store, backend = await make()
    value = value_of(await sessions.begin(ANN))
    store.gate.clear()
    asking = asyncio.create_task(Page(sessions, value).ask())
    await until(lambda: store.finds == 1)
    await sessions.stop()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await sessions.start(backend)


async def test_a_store_of_ones_own(make):
    """A subclass of `SessionStore` in a few lines."""

    class Nowhere(SessionStore):
        async def add(self, session, replaces=None, per_user=100):
            self.last = session
            return []

        async def find(self, key):
            return self.last

        async def touch(self, key, expires): ...

        async def remove(self, key):
            return False

        async def remove_user(self, subject):
            return []

        async def living(self, keys):
            return {}

        async def tidy(self, now, most):
            return 0

    sessions, store, _ = await make(Nowhere())
    value = value_of(await sessions.begin(ANN))
    assert (await Page(sessions, value).ask()).user == ANN["user"]
    assert isinstance(store.last, StoredSession)
    assert (store.last.subject, store.last.key) == ("ann", key_of(value))
