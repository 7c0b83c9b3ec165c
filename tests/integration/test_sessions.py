"""Server-side sessions over real connections, of several processes, and what happens while their database is down."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import AsyncExitStack, closing
from functools import partial

import asyncpg
import httpx
import pytest
import redis.asyncio

from bbio import App, Backend, ConfigurationError, Unauthorized, Unavailable, before, read
from bbio.builtin import MemorySessions, MemoryStore, PostgresSessions, RedisSessions, SQLiteSessions
from bbio.builtin.sessions import postgres, sqlite
from bbio.builtin.sessions import redis as redis_sessions
from bbio.builtin.sessions.sessions import key_of
from tests.support.postgres import Relay
from tests.support.servers import eventually
from tests.support.services import RedisServer
from tests.support.sessions import http_request, until, value_of
from tests.support.wire import SyncFailed

LOCAL = http_request(host="127.0.0.1:3000")
# Seconds in which a revocation is to have reached everybody, as docs/sessions.md says.
SOON = 1.0


def backend(sessions):
    """A backend for those who have logged in; a read says who asks."""

    class Todos(Backend):
        middleware = [sessions]
        store = MemoryStore()

        @before
        def require_user(self, req):
            if req.user is None:
                raise Unauthorized("log in first")

        @before("create")
        def sign(self, req):
            req.model["by"] = req.user

    return Todos


class Process:
    """An application with sessions of its own, as each process has them."""

    def __init__(self, sessions):
        self.sessions = sessions
        self.app = App().serve(backend(sessions))

    async def log_in(self, user):
        """The cookie of a new session, as a header."""
        return f"bbio_session={value_of(await self.sessions.begin({'user': user}, LOCAL))}"


@pytest.fixture
async def processes(join):
    """`await processes(sessions, ...)`: applications that run, each with one of these."""
    async with AsyncExitStack() as stack:

        async def processes(*all_sessions):
            started = []
            for sessions in all_sessions:
                process = Process(sessions)
                await stack.enter_async_context(process.app.running())
                started.append(process)
            return started

        yield processes


@pytest.fixture
def page(join):
    """`await page(process, cookie)`: a page that listens."""

    async def page(process, cookie):
        return await join(process.app, "todos", headers={"Cookie": cookie})

    return page


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def make_sessions(request, tmp_path):
    """`make_sessions()`: sessions of one more process, in the same place."""
    if request.param == "sqlite":
        return lambda **options: SQLiteSessions(tmp_path / "sessions.db", **options)
    if request.param == "postgres":
        dsn = request.getfixturevalue("database_url")
        return lambda **options: PostgresSessions(dsn, **options)
    url = request.getfixturevalue("redis_url")
    return lambda **options: RedisSessions(url, prefix="test:", **options)


async def is_refused(client):
    try:
        await client.sync("read")
    except SyncFailed:
        return True
    return False


async def refused(client, error="Unauthorized"):
    """What a client is answered that may not read."""
    with pytest.raises(SyncFailed) as caught:
        await client.sync("read")
    assert caught.value.error["name"] == error
    return caught.value.error


async def test_a_revocation_reaches_every_process(make_sessions, processes, page):
    """Within a second, on live connections, whether they ask or only listen; other users go on."""
    # What is remembered does not grow old here: only what one process tells the other ends it.
    one, two = await processes(make_sessions(cache_seconds=600), make_sessions(cache_seconds=600))
    ann, bob = [await one.log_in(user) for user in ("ann", "bob")]
    here, there = [await page(process, ann) for process in (one, two)]
    other = await page(two, bob)
    for client in (here, there, other):
        assert await client.sync("read") == []
    assert await one.sessions.revoke(user="ann") == 1
    assert (await refused(here))["expired"] is True
    begun = time.monotonic()
    listening = two.app.gateway.subscribers["todos"].listeners
    await until(lambda: len(list(listening)) == 1)
    assert time.monotonic() - begun < 5 * SOON
    assert (await refused(there))["expired"] is True
    await other.sync("create", {"title": "secret"})
    with pytest.raises(TimeoutError):
        await there.synced(0.2)
    with pytest.raises(SyncFailed, match="log in first"):
        await page(two, ann)


SERVED = """
from bbio import App, Backend, Unauthorized, before
from bbio.builtin import MemoryStore, SQLiteSessions

class Todos(Backend):
    middleware = [SQLiteSessions("sessions.db", cache_seconds=600)]
    store = MemoryStore()

    @before
    def require_user(self, req):
        if req.user is None:
            raise Unauthorized("log in first")

app = App().serve(Todos)
"""


async def test_a_revocation_reaches_processes_of_their_own(spawn, join, tmp_path):
    """Two servers, and the program that revokes, share nothing but the file."""
    servers = [await spawn(SERVED), await spawn(SERVED)]
    async with SQLiteSessions(tmp_path / "sessions.db") as sessions:
        cookies = [f"bbio_session={value_of(await sessions.begin({'user': user}, LOCAL))}" for user in ("ann", "bob")]
        pages = [await join(server.url, "todos", headers={"Cookie": cookies[0]}) for server in servers]
        other = await join(servers[0].url, "todos", headers={"Cookie": cookies[1]})
        for client in (*pages, other):
            assert await client.sync("read") == []
        await sessions.revoke(user="ann")
        for client in pages:
            await eventually(partial(is_refused, client), 5 * SOON)
            assert (await refused(client))["expired"] is True
        assert await other.sync("read") == []


async def test_a_session_that_another_program_deletes(make_sessions, processes, page, request, tmp_path):
    """It ends on live connections, too."""
    (process,) = await processes(make_sessions())
    cookie = await process.log_in("ann")
    client = await page(process, cookie)
    assert await client.sync("read") == []
    kind = request.node.callspec.params["make_sessions"]
    if kind == "sqlite":
        with closing(sqlite3.connect(tmp_path / "sessions.db")) as file, file:
            file.execute("DELETE FROM bbio_sessions WHERE subject = 'ann'")
    elif kind == "postgres":
        connection = await asyncpg.connect(request.getfixturevalue("database_url"))
        await connection.execute("DELETE FROM bbio_sessions WHERE subject = 'ann'")
        await connection.close()
    else:
        async with redis.asyncio.Redis.from_url(request.getfixturevalue("redis_url")) as client_of_redis:
            await client_of_redis.flushdb()
        process.sessions._live.compare_soon()  # Redis tells nobody; it is seen with the next comparison
    await until(lambda: not list(process.app.gateway.subscribers["todos"].listeners))
    await refused(client)


async def test_all_sessions_of_a_truncated_table_end(processes, page, database_url, psql):
    """PostgreSQL tells of that as well."""
    (process,) = await processes(PostgresSessions(database_url))
    client = await page(process, await process.log_in("ann"))
    assert await client.sync("read") == []
    await psql.execute("TRUNCATE bbio_sessions")
    await until(lambda: not list(process.app.gateway.subscribers["todos"].listeners))


async def test_requests_cost_no_query_each(make_sessions, processes, page):
    """A session is looked up once within seconds, however many requests there are."""
    (process,) = await processes(make_sessions())
    client = await page(process, await process.log_in("ann"))
    await client.sync("read")
    store = process.sessions.store
    store.find = None
    for _ in range(50):
        await client.sync("read")


async def test_a_log_in_while_connected(make_sessions, processes, page):
    """A connection keeps the cookie that it was opened with: with the next log-in it ends, and a new one is needed."""
    (process,) = await processes(make_sessions())
    cookie = await process.log_in("ann")
    client = await page(process, cookie)
    request = http_request(cookie.partition("=")[2], name="bbio_session", host="127.0.0.1")
    header = await process.sessions.begin({"user": "bob"}, request)
    await refused(client)
    after = await page(process, f"bbio_session={value_of(header)}")
    assert (await after.sync("create", {}))["by"] == "bob"


async def test_two_users_under_one_cookie_name(make_sessions, processes, page):
    """The first cookie of a name counts, and no part of another's."""
    (process,) = await processes(make_sessions())
    ann, bob = [await process.log_in(user) for user in ("ann", "bob")]
    for cookies, user in ((f"{ann}; {bob}", "ann"), (f"{bob}; {ann}", "bob"), (f"x=1; {bob}; y=2", "bob")):
        assert (await (await page(process, cookies)).sync("create", {}))["by"] == user
    halves = f"bbio_session={ann[13:30]}{bob[30:]}"
    with pytest.raises(SyncFailed, match="log in first"):
        await page(process, halves)
    with pytest.raises(SyncFailed, match="log in first"):
        await page(process, f"bbio_session={'x' * 6_000}")


async def test_a_request_under_way_when_its_session_is_revoked(join):
    """Its answer is an error, though its client listens to nothing."""
    sessions, gate, reached = MemorySessions(), asyncio.Event(), asyncio.Event()

    class Todos(Backend):
        middleware = [sessions]

        @read
        async def slowly(self, req):
            reached.set()
            await gate.wait()
            return [{"id": 1, "by": req.user}]

    app = App().serve(Todos)
    async with app.running():
        cookie = f"bbio_session={value_of(await sessions.begin({'user': 'ann'}, LOCAL))}"
        client = await join(app, "todos", ..., headers={"Cookie": cookie})
        asked = await client.start("read")
        await reached.wait()
        await sessions.revoke(user="ann")
        (socket,) = app.gateway.identities.of_user("ann")
        await until(lambda: socket.is_suspended)
        gate.set()
        with pytest.raises(SyncFailed, match="has ended"):
            await client.finish(asked)
        await refused(client)


async def test_a_listen_under_way_when_its_session_is_revoked(join):
    """It is refused, though the client was known when it asked."""
    sessions, gate, reached = MemorySessions(), asyncio.Event(), asyncio.Event()

    class Todos(Backend):
        middleware = [sessions]
        store = MemoryStore()

        @before
        async def wait(self):
            reached.set()
            await gate.wait()

    app = App().serve(Todos)
    async with app.running():
        cookie = f"bbio_session={value_of(await sessions.begin({'user': 'ann'}, LOCAL))}"
        client = await join(app, "todos", ..., headers={"Cookie": cookie})
        listening = asyncio.create_task(client.listen())
        await reached.wait()
        await sessions.revoke(user="ann")
        await asyncio.sleep(0.05)  # listeners are asked again, and this is none
        gate.set()
        with pytest.raises(SyncFailed, match="log in again"):
            await listening
        assert not list(app.gateway.subscribers["todos"].listeners)


# Databases that are down


async def test_while_postgresql_is_cut_off(processes, page, database_url, psql, monkeypatch):
    """Connections stay, their requests are `Unavailable` once what is remembered is old; nobody is let in.

    What was revoked meanwhile ends when it is back.
    """
    async with Relay(database_url) as relay:
        sessions = PostgresSessions(relay.dsn, cache_seconds=0.3, timeout=0.5)
        (process,) = await processes(sessions)
        ann, bob = [await process.log_in(user) for user in ("ann", "bob")]
        pages = [await page(process, cookie) for cookie in (ann, bob)]
        relay.is_open.clear()
        relay.cut()
        await asyncio.sleep(0.35)
        for client in pages:
            await refused(client, "Unavailable")
        with pytest.raises(SyncFailed):
            await page(process, ann)
        with pytest.raises(Unavailable):
            await sessions.begin({"user": "eve"})
        with pytest.raises(Unavailable):
            await sessions.revoke(user="ann")
        assert len(list(process.app.gateway.subscribers["todos"].listeners)) == 2
        await psql.execute("DELETE FROM bbio_sessions WHERE subject = 'ann'")
        relay.is_open.set()
        await until(lambda: len(list(process.app.gateway.subscribers["todos"].listeners)) == 1, 10)
        await refused(pages[0])
        assert await pages[1].sync("read") == []


async def test_while_redis_is_down(processes, page):
    """A frozen Redis is as one that is not there; one that was started anew has lost all sessions, and so they end."""
    server = RedisServer()
    server.start()
    try:
        sessions = RedisSessions(server.url, cache_seconds=0.3, timeout=0.5)
        (process,) = await processes(sessions)
        client = await page(process, await process.log_in("ann"))
        server.pause()
        await asyncio.sleep(0.35)
        await refused(client, "Unavailable")
        server.resume()
        assert await client.sync("read") == []
        server.stop()
        await asyncio.sleep(0.35)
        await refused(client, "Unavailable")
        assert len(list(process.app.gateway.subscribers["todos"].listeners)) == 1
        server.start()
        await until(lambda: not list(process.app.gateway.subscribers["todos"].listeners), 10)
        await refused(client)
    finally:
        server.stop()


async def test_while_an_sqlite_file_is_locked(processes, page, tmp_path):
    """Whoever is logged in is answered, as look-ups wait for no writer; a log-in is `Unavailable`."""
    sessions = SQLiteSessions(tmp_path / "sessions.db", cache_seconds=0.01, timeout=0.3)
    (process,) = await processes(sessions)
    client = await page(process, await process.log_in("ann"))
    with closing(sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        assert await client.sync("read") == []
        with pytest.raises(Unavailable):
            await sessions.begin({"user": "bob"})
        file.execute("ROLLBACK")
    assert value_of(await sessions.begin({"user": "bob"}))


async def test_an_sqlite_file_that_breaks(processes, page, tmp_path, caplog):
    """Requests are `Unavailable`, and the log says why."""
    sessions = SQLiteSessions(tmp_path / "sessions.db", cache_seconds=0.01)
    (process,) = await processes(sessions)
    client = await page(process, await process.log_in("ann"))
    with closing(sqlite3.connect(tmp_path / "sessions.db")) as file:
        file.execute("ALTER TABLE bbio_sessions RENAME TO gone")
        file.execute("ALTER TABLE bbio_session_ends RENAME TO gone_too")
    await asyncio.sleep(0.02)
    await refused(client, "Unavailable")
    await until(lambda: "it cannot be seen which sessions have ended" in caplog.text)


async def test_an_sqlite_file_that_is_none(tmp_path):
    """It fails at the start, and is left as it was."""
    (tmp_path / "sessions.db").write_text("dear diary, " * 1_000)
    with pytest.raises(ConfigurationError, match="not a database"):
        async with SQLiteSessions(tmp_path / "sessions.db"):
            pass
    assert (tmp_path / "sessions.db").read_text().startswith("dear diary")


@pytest.mark.parametrize("make_sessions", ["sqlite", "postgres"], indirect=True)
async def test_a_log_in_that_fails_half_way(make_sessions, database_url):
    """The session that it was to replace goes on."""
    async with make_sessions() as sessions:
        old, other = [value_of(await sessions.begin({"user": user})) for user in ("ann", "bob")]
        stored = await sessions.store.find(key_of(other))
        with pytest.raises((sqlite3.IntegrityError, asyncpg.UniqueViolationError)):
            await sessions.store.add(stored, key_of(old))
        assert await sessions.load(http_request(old)) == {"user": "ann"}


async def test_sqlite_looks_again_and_again(tmp_path, monkeypatch):
    """Nothing is said of what has not ended."""
    monkeypatch.setattr(sqlite, "POLL_SECONDS", 0.01)
    sessions = SQLiteSessions(tmp_path / "sessions.db")
    said = []
    monkeypatch.setattr(sessions, "_on_ended", said.append)
    async with sessions:
        value = value_of(await sessions.begin({}))
        await asyncio.sleep(0.1)
        said.clear()
        await asyncio.sleep(0.1)
        assert said == []
        await sessions.finish(http_request(value))
        await until(lambda: [key_of(value)] in said)


async def test_sqlite_after_a_long_pause(processes, tmp_path, monkeypatch):
    """What has ended may be known no more, so all that live here are compared."""
    monkeypatch.setattr(sqlite, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(sqlite, "ENDS_SECONDS", 0.0)
    sessions = SQLiteSessions(tmp_path / "sessions.db")
    said = []
    monkeypatch.setattr(sessions, "_on_ended", said.append)
    async with sessions:
        await until(lambda: None in said)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: SQLiteSessions(path), "unable to open"),
        (lambda path: PostgresSessions("postgresql://bbio:hunter2@127.0.0.1:1/x", timeout=0.5), "PostgresSessions"),
        (lambda path: PostgresSessions("no url", timeout=0.5), "PostgresSessions"),
        (lambda path: RedisSessions("redis://:hunter2@127.0.0.1:1/0", timeout=0.5), "RedisSessions"),
        (lambda path: RedisSessions("no url", timeout=0.5), "RedisSessions"),
    ],
)
async def test_a_place_that_cannot_be_used(make, words, tmp_path):
    """It fails at the start, and the text names no password."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        async with make(tmp_path):
            pass
    assert "hunter2" not in str(caught.value)


def test_postgres_sessions_need_a_url(monkeypatch):
    """From the environment, if it is not given."""
    monkeypatch.delenv("BBIO_DATABASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="BBIO_DATABASE_URL"):
        PostgresSessions()
    monkeypatch.setenv("BBIO_DATABASE_URL", "postgresql://app@127.0.0.1/app")
    PostgresSessions()


@pytest.mark.parametrize(
    ("module", "make"),
    [("asyncpg", lambda: PostgresSessions("postgresql://x")), ("redis", lambda: RedisSessions("redis://x"))],
)
def test_a_driver_that_is_not_installed(module, make, monkeypatch):
    """The text says what to install."""
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=r"pip install bbio\["):
        make()


async def test_whoever_may_not_make_tables_uses_those_that_are_there(database_url, psql):
    """As a role that may read and write alone."""
    async with PostgresSessions(database_url):
        pass
    role = f"r{time.time_ns()}"
    await psql.execute(f"CREATE ROLE {role} LOGIN; GRANT ALL ON bbio_sessions TO {role}")
    try:
        dsn = database_url.replace("bbio@", f"{role}@")
        async with PostgresSessions(dsn) as sessions:
            value = value_of(await sessions.begin({"user": "ann"}))
            assert await sessions.load(http_request(value)) == {"user": "ann"}
    finally:
        await psql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_database_that_cannot_be_listened_to(database_url, monkeypatch):
    """It fails at the start."""

    async def refuse(*args, **options):
        raise OSError("too many connections")

    monkeypatch.setattr(asyncpg, "connect", refuse)
    with pytest.raises(ConfigurationError, match="PostgresSessions cannot use its database"):
        async with PostgresSessions(database_url):
            pass


# Silent connections


async def test_a_silent_postgresql_is_asked_whether_it_is_there(database_url, monkeypatch):
    """One that does not answer counts as gone, and is connected to again."""
    monkeypatch.setattr(postgres, "PULSE_SECONDS", 0.05)
    monkeypatch.setattr(postgres, "PULSE_ANSWER_SECONDS", 0.3)
    said = []
    async with Relay(database_url) as relay:
        sessions = PostgresSessions(relay.dsn)
        monkeypatch.setattr(sessions, "_on_ended", said.append)
        async with sessions:
            await asyncio.sleep(0.2)
            assert said == []
            relay.on_answer = lambda data: False
            await asyncio.sleep(0.5)
            relay.on_answer = lambda data: True
            await until(lambda: None in said, 10)


async def test_a_silent_redis_is_asked_whether_it_is_there(monkeypatch):
    """One that does not answer counts as gone, and is connected to again."""
    monkeypatch.setattr(redis_sessions, "PULSE_SECONDS", 0.05)
    server = RedisServer()
    server.start()
    said = []
    try:
        sessions = RedisSessions(server.url, timeout=0.3)
        monkeypatch.setattr(sessions, "_on_ended", said.append)
        async with sessions:
            await asyncio.sleep(0.3)
            assert said == []
            server.pause()
            await asyncio.sleep(0.3)
            server.resume()
            await until(lambda: None in said, 10)
    finally:
        server.stop()


# Other frameworks


async def test_a_session_that_fastapi_or_starlette_begins(tmp_path, processes, page):
    """A page of another framework, in another process, logs in by the header; bbio knows the user."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    sessions = SQLiteSessions(tmp_path / "sessions.db")

    async def log_in(request):
        response = Response()
        response.headers.append("Set-Cookie", await sessions.begin({"user": "ann"}, request))
        return response

    async def who(request):
        return JSONResponse(await sessions.load(request))

    async def log_out(request):
        response = Response()
        response.headers.append("Set-Cookie", await sessions.finish(request))
        return response

    site = Starlette(routes=[Route("/in", log_in), Route("/who", who), Route("/out", log_out)])
    (process,) = await processes(SQLiteSessions(tmp_path / "sessions.db"))
    transport = httpx.ASGITransport(app=site)
    async with sessions, httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as browser:
        await browser.get("/in")
        assert (await browser.get("/who")).json() == {"user": "ann"}
        client = await page(process, f"bbio_session={browser.cookies['bbio_session']}")
        assert (await client.sync("create", {}))["by"] == "ann"
        await browser.get("/out")
        assert dict(browser.cookies) == {}
        assert (await browser.get("/who")).json() == {}
        await until(lambda: not list(process.app.gateway.subscribers["todos"].listeners))
        await refused(client)


async def test_no_log_and_no_packet_holds_a_cookie(make_sessions, processes, page, caplog):
    """Neither its value nor the key of the session."""
    caplog.set_level("DEBUG")
    (process,) = await processes(make_sessions())
    cookie = await process.log_in("ann")
    client = await page(process, cookie)
    answers = [await client.sync("create", {"title": "milk"}), await client.sync("read")]
    await process.sessions.revoke(user="ann")
    answers.append(await refused(client))
    value = cookie.partition("=")[2]
    for secret in (value, key_of(value)):
        assert secret not in caplog.text
        assert secret not in repr(answers)
