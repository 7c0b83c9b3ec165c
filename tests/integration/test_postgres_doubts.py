"""A commit in doubt, and settings that take back what was committed: nothing is acknowledged that does not last.

The server writes its log to the disk only when a commit asks for it, so that a crash takes back all that did not.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest

from bbio import Unavailable, UnknownOutcome
from bbio.conformance.cases import refused
from bbio.protocol import decode
from bbio.streams import HistoryLimits
from tests.support.postgres import Relay, install_triggers, log, opened
from tests.support.servers import eventually
from tests.support.services import PostgresServer

pytestmark = pytest.mark.once  # what is asked is what PostgreSQL does, not a Python

LAZY = {"wal_writer_delay": "10s", "autovacuum": "off", "checkpoint_timeout": "1h", "bgwriter_lru_maxpages": 0}


@pytest.fixture(scope="module")
def server():
    """A server that tests may kill."""
    server = PostgresServer(**LAZY)
    server.start()
    yield server
    server.remove()


@asynccontextmanager
async def psql(url):
    """A connection of another program."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def url(server):
    """An empty database there."""
    async with psql(server.url) as connection:
        await connection.execute("DROP DATABASE IF EXISTS doubts WITH (FORCE)")
        await connection.execute("CREATE DATABASE doubts")
    return server.url.replace("/postgres", "/doubts")


async def crash(server):
    """Kill the server in the middle of whatever it does, and start it again."""
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


@asynccontextmanager
async def doubted(relay, models, verdict, model, **fields):
    """A write whose COMMIT was just sent; the relay does with it as told, and lets nobody through until the end."""
    sent = asyncio.Event()

    def on_send(data):
        if b"COMMIT" in data and not sent.is_set():
            sent.set()
            relay.is_open.clear()
            return verdict
        return ""

    relay.on_send = on_send
    write = asyncio.ensure_future(models.write("create", model, **fields))
    await sent.wait()
    try:
        yield write
    finally:
        relay.is_open.set()
        await asyncio.wait([write])


@pytest.mark.parametrize("op", [None, "page:1"])
@pytest.mark.parametrize("taker", ["another process", "another program"])
async def test_a_transaction_id_that_another_got_after_a_crash_says_nothing(server, url, taker, op):
    """PostgreSQL crashes before it has read a COMMIT, and gives that transaction's id to another one, which commits."""
    async with Relay(url) as relay, opened(relay.dsn, timeout=8.0) as models, opened(url, timeout=8.0) as others:
        models.store._broker.tell = lambda event: None  # that takes an id of its own, which is on no disk yet
        await models.write("create", {"n": 0})
        async with doubted(relay, models, "leave", {"n": 1}, op=op) as write:
            async with psql(server.url) as program:
                lost = await program.fetchval("SELECT max(backend_xid::text::bigint) FROM pg_stat_activity")
            await crash(server)
            if taker == "another process":
                await others.write("create", {"n": 2})
                async with psql(url) as program:
                    assert await program.fetchval("SELECT max(xmin::text::bigint) FROM bbio_log") == lost
            else:
                async with psql(server.url) as program:
                    assert await program.fetchval("SELECT pg_current_xact_id()::text::bigint") == lost
        commit = await write
        told = [decode(event.body)["n"] for event in await log(models)]
        assert told == ([0, 2, 1] if taker == "another process" else [0, 1])
        assert (commit.duplicate, commit.event.offset) == (False, len(told))
        assert [model for model in await models.all() if model["n"] == 1] == [commit.record]


@pytest.mark.parametrize("verdict", ["cut", "drop"])
@pytest.mark.parametrize("channel", ["home", "new"])
async def test_what_was_committed_is_told_from_what_others_wrote(url, verdict, channel):
    """Others go on in the same stream while nobody knows; it is acknowledged where it stands, once."""
    async with Relay(url) as relay, opened(relay.dsn) as models, opened(url) as others:
        await models.write("create", {"n": 0}, channel="home")
        async with doubted(relay, models, verdict, {"n": 1}, channel=channel) as write:
            for _ in range(3):
                await others.write("create", {"n": 2}, channel=channel)
        commit = await write
        events = await log(models, f"c:{channel}")
        there = [event for event in events if decode(event.body)["n"] == 1]
        assert [(event.offset, event.stamp) for event in there] == [(commit.event.offset, commit.event.stamp)]
        assert events[-1 if verdict == "drop" else -4] is there[0]


async def trim(url, others):
    for _ in range(2):
        await asyncio.gather(*(others.create({}) for _ in range(300)))
    await others.store.tidy()


async def begin_epoch(url, others):
    async with psql(url) as program:
        await program.execute("SELECT bbio_begin_epoch()")


@pytest.mark.parametrize("between", [trim, begin_epoch])
@pytest.mark.parametrize("verdict", ["cut", "drop"])
@pytest.mark.parametrize("op", [None, "page:1"])
async def test_what_the_log_cannot_tell_any_more_is_not_claimed(url, between, verdict, op):
    """Its event was trimmed, or a new epoch has begun: that is said, and the retry of an operation finds out."""
    history = HistoryLimits(events=10)
    async with (
        Relay(url) as relay,
        opened(relay.dsn, history=history) as models,
        opened(url, history=history) as others,
    ):
        await others.create({"n": 0})
        async with doubted(relay, models, verdict, {"n": 1}, op=op) as write:
            await between(url, others)
        await refused(write, "UnknownOutcome" if op is None else "Unavailable")
        assert models.published == []
        if op:
            again = await models.write("create", {"n": 1}, op=op)
            assert again.duplicate == (verdict == "cut")
        there = [model for model in await models.all() if model.get("n") == 1]
        assert len(there) == (verdict == "cut" or op is not None)


async def test_the_top_of_a_stream_is_known_without_its_history(url):
    """Its stamp is kept with the stream: a commit is found there, and a position is checked, when all else is gone."""
    async with Relay(url) as relay, opened(relay.dsn) as models:
        await models.create({})
        async with doubted(relay, models, "cut", {"n": 1}), psql(url) as waiting:
            # Not before it is committed.
            await waiting.execute("SELECT FROM bbio_streams FOR UPDATE")
            await waiting.execute("DELETE FROM bbio_log")
        assert [event.offset for event, _ in models.published] == [1, 2]
        top = await models.top()
        assert top.stamp == models.published[-1][0].stamp
        assert await models.store.since("c:", top.epoch, 2, top.stamp) == []
        assert await models.store.since("c:", top.epoch, 2, top.stamp + 1) is None


async def test_a_server_that_does_not_know_that_a_client_is_gone(url):
    """It holds the transaction open for `timeout`; the write is then made again, and acknowledged in time."""
    async with Relay(url) as relay, opened(relay.dsn, timeout=1.0) as models:
        async with doubted(relay, models, "leave", {"n": 1}) as write:
            pass
        commit = await write
        assert await models.all() == [commit.record]
        assert [event.offset for event in await log(models)] == [1]


# Settings


@pytest.fixture
async def hanging(server):
    """`await hanging(True)`: all commits wait for a standby that never comes."""

    async def hanging(on):
        async with psql(server.url) as program:
            await program.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{'*' if on else ''}'")
            await program.execute("SELECT pg_reload_conf()")

            async def set():
                return await program.fetchval("SHOW synchronous_standby_names") == ("*" if on else "")

            await eventually(set)

    yield hanging
    await hanging(False)


async def test_a_commit_that_no_standby_has_is_no_success(url, hanging):
    """Not for the write, not for its retry; when the standby is back, the retry is told what it came to."""
    async with opened(url, timeout=1.5) as models:
        await models.create({})
        await hanging(True)
        unsure = [models.write("create", {"n": 1}), models.write("create", {"n": 2}, op="c:1")]
        outcomes = await asyncio.gather(*unsure, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [UnknownOutcome, Unavailable]
        asked = models.request("create", {"n": 2}, op="c:1")
        await refused(models.store.write(asked), "Unavailable")
        await refused(models.store.find(asked), "Timeout")
        assert len(models.published) == 1
        await hanging(False)
        assert (await models.store.find(asked)).duplicate
        assert (await models.store.write(asked)).duplicate
        assert [event.offset for event in await log(models)] == [1, 2, 3]


async def test_a_wait_for_a_standby_that_somebody_ends_is_no_success(url, hanging):
    """PostgreSQL warns, whatever the role hears; it is acknowledged when a later commit has reached the standby."""
    waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    async with opened(f"{url}?client_min_messages=error", timeout=10.0) as models:
        await models.create({})
        await hanging(True)
        write = asyncio.ensure_future(models.create({"n": 1}))
        async with psql(url) as program:
            for _ in range(2):

                async def waits():
                    return await program.fetchval(f"SELECT count(*) {waiting}") == 1

                await eventually(waits)
                before = await program.fetchval(f"SELECT xact_start {waiting}")
                await program.execute(f"SELECT pg_cancel_backend(pid) {waiting}")

                async def another(before=before):
                    return await program.fetchval(f"SELECT xact_start > $1 {waiting}", before)

                await eventually(another)
        assert not write.done()
        await hanging(False)
        assert (await write)["n"] == 1
        assert [event.offset for event, _ in models.published] == [1, 2]


@pytest.mark.parametrize("triggers", [False, True])
async def test_what_is_acknowledged_or_told_does_not_depend_on_synchronous_commit(server, url, triggers):
    """A role or a session may have it off: bbio's own commits, and those that triggers tell of, survive a crash."""
    await install_triggers(url)
    async with opened(url) as models, psql(url) as program:
        await program.execute("ALTER DATABASE doubts SET synchronous_commit = off")
    async with opened(url) as models, psql(url) as program:
        assert await program.fetchval("SHOW synchronous_commit") == "off"
        if triggers:
            for n in range(3):
                await program.execute("INSERT INTO models (id, body) VALUES ($1, '{}')", str(n))
            assert ["*"] in await models.published.checked()
        else:
            await asyncio.gather(*(models.create({}) for _ in range(3)))
        await crash(server)
        assert len(await models.all()) == 3
        assert len(await log(models, "*" if triggers else "c:")) == 3


async def test_a_session_that_waits_for_more_goes_on_doing_so(url):
    """Only what is off is changed: a role that asks for standbys keeps what it asks for."""
    async with psql(url) as program:
        await program.execute("ALTER DATABASE doubts SET synchronous_commit = remote_apply")
    async with opened(url) as models, models.store._database.connections.one() as connection:
        await connection.execute(models.store._begin)
        await models.store._lock_streams(connection, ["c:"])
        assert await connection.fetchval("SHOW synchronous_commit") == "remote_apply"
        await connection.execute("ROLLBACK")
