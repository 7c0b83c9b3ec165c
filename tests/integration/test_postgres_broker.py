"""What servers of one PostgreSQL tell each other of events: no query if all goes well, nothing lost if it does not."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial

import attrs
import pytest

from bbio import App, Backend, field
from bbio.builtin import PostgresStore, documents
from bbio.builtin.postgres import broker
from bbio.protocol import decode, encode
from bbio.ratelimit import RateLimitedLog
from bbio.streams import Event, Position
from tests.support.postgres import opened, processes
from tests.support.servers import eventually

pytestmark = pytest.mark.once  # what is asked is what PostgreSQL and two servers do, not a Python

LARGE = "x" * 8_000
WRITES = 40


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing waits long for the next attempt."""
    monkeypatch.setattr(broker, "BACKOFF_SECONDS", (0.01, 0.1))
    monkeypatch.setattr(broker, "FULL_SECONDS", 0.01)


class Asked:
    """An application as one of several processes, whose looks at the log are counted."""

    def __init__(self, dsn, check_interval=60.0, **declared):
        store = PostgresStore(dsn)
        store.check_interval = check_interval
        self.app = App().serve(type("Todos", (Backend,), {"store": store, **declared}))
        self.log = self.app.backends["todos"].log
        self.asked = []
        for name in ("since", "positions"):
            setattr(self.log, name, self._counted(name, getattr(self.log, name)))

    def _counted(self, name, method):
        async def counted(*arguments):
            if arguments != (["*"],):  # that is how the server sees whether it is ready
                self.asked.append(name)
            return await method(*arguments)

        return counted

    @property
    def wire(self):
        return self.log._database.wire


async def heard(client, count):
    """The numbers in so many events that a client is told."""
    return [(await client.synced())[1]["n"] for _ in range(count)]


async def test_an_event_of_another_process_costs_no_look_at_the_log(database_url, join):
    """It comes whole; one that is too large costs one look."""
    here, there = (Asked(f"{database_url}?application_name={n}") for n in "ab")
    async with here.app.running(), there.app.running():
        client, writer = await join(there.app, "todos"), await join(here.app, "todos", ...)
        there.asked.clear()
        for n in range(WRITES):
            await writer.sync("create", {"n": n})
        assert await heard(client, WRITES) == list(range(WRITES))
        assert there.asked == []
        await writer.sync("create", {"n": 0, "text": LARGE})
        assert await heard(client, 1) == [0]
        assert there.asked == ["since"]
        assert here.log.broker.healthy
        assert here.wire.garbage == 0


@attrs.define
class Older:
    n: int
    note: str = ""


@attrs.define
class Newer:
    n: int
    note: str = field(private=True, default="")
    done: bool = False


async def test_an_event_is_told_by_the_model_of_who_hears_it(database_url, join):
    """What is private there is left out; what lacks a field that clients there are told of is looked up in the log."""
    there = Asked(f"{database_url}?application_name=b", model=Newer)
    older = Asked(f"{database_url}?application_name=a", model=Older)
    async with there.app.running():
        client = await join(there.app, "todos")
        newer = Asked(f"{database_url}?application_name=c", model=Newer)
        async with newer.app.running():
            writer = await join(newer.app, "todos", ...)
            there.asked.clear()
            await writer.sync("create", {"n": 1})
            assert (await client.synced())[1].keys() == {"id", "n", "done"}
            assert there.asked == []
        async with older.app.running():
            writer = await join(older.app, "todos", ...)
            there.asked.clear()
            await writer.sync("create", {"n": 2, "note": "secret"})
            assert (await client.synced())[1].keys() == {"id", "n", "done"}
            assert there.asked == ["since"]


async def test_whatever_becomes_of_what_is_told_each_event_is_told_once(database_url, join):
    """A fifth is lost, others come twice, late, or among garbage."""
    chance = random.Random(7)
    here, there = Asked(f"{database_url}?application_name=a"), Asked(f"{database_url}?application_name=b", 0.2)
    async with here.app.running(), there.app.running():
        clients = [await join(there.app, "todos") for _ in range(2)]
        writers = [await join(app.app, "todos", ...) for app in (here, here, there)]
        wire, hear = there.wire, there.wire._hear_events

        def mangle(*said):
            for _ in range(chance.choice((0, 1, 1, 1, 2))):
                asyncio.get_running_loop().call_later(chance.choice((0, 0, 0.01, 0.05)), hear, *said)
            hear(*said[:3], chance.choice(("", "[]", '["x",1,[["c:","e"]]]', '["x",1,[["c:","e",1,1,"drop",1]]]')))

        connection = wire._connection
        await connection.remove_listener("bbio_events", hear)
        await connection.add_listener("bbio_events", mangle)
        for n in range(WRITES):
            await asyncio.gather(*(writer.sync("create", {"n": 3 * n + k}) for k, writer in enumerate(writers)))
        for client in clients:
            assert sorted(await heard(client, 3 * WRITES)) == list(range(3 * WRITES))
        assert wire.garbage > 0


async def test_what_could_not_be_told_is_told_when_the_session_is_back(database_url, psql, join, monkeypatch):
    """Whole, as tops where there is too much, and as `any` where there are too many streams."""
    here, there = (Asked(f"{database_url}?application_name={n}") for n in "ab")
    monkeypatch.setattr(broker, "MAX_EVENTS", 2)
    async with here.app.running(), there.app.running():
        client, writer = await join(there.app, "todos"), await join(here.app, "todos", ...)
        for most in (5, 0):
            monkeypatch.setattr(broker, "MAX_STREAMS", most)
            gate, connect = asyncio.Event(), here.log._database.connect

            async def closed(gate=gate, connect=connect):
                await gate.wait()
                return await connect()

            monkeypatch.setattr(here.log._database, "connect", closed)
            await psql.execute("SELECT pg_terminate_backend($1)", here.wire._connection.get_server_pid())

            async def is_cut():
                return not here.wire.healthy

            await eventually(is_cut)
            for n in range(10):
                await writer.sync("create", {"n": n})
            gate.set()
            assert await heard(client, 10) == list(range(10))
            monkeypatch.setattr(here.log._database, "connect", connect)


async def test_a_session_that_fails_while_it_tells_is_opened_again(database_url, join, monkeypatch):
    """Also where that fails at first; what it was to tell is told by the next one."""
    here, there = (Asked(f"{database_url}?application_name={n}") for n in "ab")
    async with here.app.running(), there.app.running():
        client, writer = await join(there.app, "todos"), await join(here.app, "todos", ...)
        there.asked.clear()
        connect, tell, refused = here.log._database.connect, broker.TELL_ALL, asyncio.Event()

        async def fails():
            monkeypatch.setattr(here.log._database, "connect", connect)
            refused.set()
            raise OSError("no way there")

        monkeypatch.setattr(broker, "TELL_ALL", "SELECT 1 / 0, $1::text[], $2::text[]")
        monkeypatch.setattr(here.log._database, "connect", fails)
        here.wire.tell(99, Event("c:", "9a0c", 1, "create", b"{}"))
        await refused.wait()
        monkeypatch.setattr(broker, "TELL_ALL", tell)
        await writer.sync("create", {"n": 1})
        assert await heard(client, 1) == [1]
        assert there.asked == []


SERVED = """
import os, signal
from bbio import App, Backend
from bbio.builtin import PostgresStore
from bbio.builtin.postgres.broker import Wire

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Todos(Backend):
    store = PostgresStore()

Wire.tell = die
app = App().serve(Todos)
"""


async def test_a_process_that_is_killed_between_commit_and_telling(database_url, spawn, join):
    """The others hear of what it wrote all the same, by the comparison of every five seconds."""
    there = Asked(database_url, PostgresStore.check_interval)
    async with there.app.running():
        client = await join(there.app, "todos")
        server = await spawn(SERVED, BBIO_DATABASE_URL=database_url)
        writer = await join(server.url, "todos", ...)
        await writer.start("create", {"n": 1})
        assert await server.process.wait() == -9
        began = time.monotonic()
        assert await heard(client, 1) == [1]
        assert time.monotonic() - began < PostgresStore.check_interval + 5
        assert there.asked[-2:] == ["positions", "since"]


# Servers of the version before


async def test_a_server_of_the_version_before_understands_and_is_understood(database_url, psql, join):
    """In the channel that it knows it is told the streams; what it says costs one look at the log."""
    app = Asked(database_url)
    said = asyncio.Queue()
    async with app.app.running():
        client = await join(app.app, "todos")
        await psql.add_listener("bbio", lambda *told: said.put_nowait(told[3]))
        await (await join(app.app, "todos", ...)).sync("create", {"n": 1})
        process, backend, streams = decode((await said.get()).encode())
        assert (type(process), backend, streams) == (str, app.log.backend_id, ["c:"])
        assert await heard(client, 1) == [1]
        app.asked.clear()
        async with opened(f"{database_url}?application_name=b", table="todos") as former:
            former.store._broker.tell = lambda event: None
            await former.create({"n": 2})
            await psql.execute("SELECT pg_notify('bbio', $1)", encode(("former", backend, ["c:"])).decode())
            assert await heard(client, 1) == [2]
            assert app.asked == ["since"]


async def test_what_is_said_and_makes_no_sense_is_ignored(database_url, psql, caplog):
    """The log is told once; what is of another backend is not looked at."""
    async with opened(database_url) as models:
        for channel in ("bbio", "bbio_events"):
            for payload in ("", "x", "[]", '["a", 1]', '["", 99, null]', '["", null, null]'):
                await psql.execute("SELECT pg_notify($1, $2)", channel, payload)
            assert await models.published.checked() == [None]
        assert caplog.text.count("is not bbio's") == 1
        assert models.store._database.wire.garbage == 8


async def test_a_body_that_is_no_record_has_the_log_read(database_url, psql, caplog):
    """Whoever said it, clients are told what is in the log."""

    class Strict(PostgresStore):
        def as_told(self, event):
            raise ValueError(event)

    async with processes(database_url, 2) as (one, two):
        two.store._broker.follow("c:")
        two.store._broker.store = Strict(database_url)
        made = await one.write("create", {})
        assert await two.published.checked() == [{"c:": Position(made.event.epoch, 1, made.event.stamp)}]
        assert two.store._database.wire.garbage == 1


async def test_processes_tell_each_other_of_events(database_url):
    """Each event of the streams that are followed, as it is in the log; not to the own process."""
    async with processes(database_url, 2) as (one, two):
        for stream in ("c:home", "c:away"):
            two.store._broker.follow(stream)
        two.store._broker.unfollow("c:away")
        one.store._broker.follow("c:home")
        await one.create({}, channel="away")
        commits = [await one.write("create", {"n": n}, channel="home", op=f"c:{n}") for n in range(3)]

        async def are_heard():
            return len(two.published) == 3

        await eventually(are_heard)
        for (event, writer), commit in zip(two.published, commits, strict=True):
            assert writer is None
            assert encode(event) == encode(commit.event)
        assert len(one.published) == 4
        assert one.published.checks == two.published.checks == []


async def test_what_a_server_has_written_is_told_before_it_ends(database_url, monkeypatch):
    """Also what waits for those events that were told just before."""
    monkeypatch.setattr(broker, "TELL_SECONDS", 0.3)
    async with opened(f"{database_url}?application_name=one") as one:
        one.store._broker.follow("c:")

        async def have_come(count):
            return len(one.published) == count

        async with opened(f"{database_url}?application_name=two") as two:
            await two.create({})
            await eventually(partial(have_come, 1))
            await two.create({})
        await eventually(partial(have_come, 2))
        assert one.published.checks == []


async def test_a_stream_whose_name_has_no_room_is_told_as_any(database_url):
    """It cannot be named in a notification."""
    async with processes(database_url, 2) as (one, two):
        await one.store.append("c:" + "x" * 8_000, "create", {})
        assert await two.published.checked() == [None]


async def test_no_write_waits_for_place_for_notifications(database_url, psql, monkeypatch, caplog):
    """It is told once there is place again."""
    monkeypatch.setattr(broker, "refusals", RateLimitedLog(documents.logger))
    async with opened(f"{database_url}?search_path=public,full,pg_catalog") as models:
        await psql.execute("""
            CREATE SCHEMA "full"; CREATE TABLE "full".asked (at timestamptz); CREATE TABLE "full".place (n int);
            CREATE FUNCTION "full".pg_notification_queue_usage() RETURNS double precision LANGUAGE sql AS
                'INSERT INTO "full".asked VALUES (now()); SELECT pg_catalog.pg_notification_queue_usage()';
            CREATE FUNCTION "full".pg_notify(channel text, payload text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
                IF NOT EXISTS (SELECT FROM "full".place) THEN
                    RAISE 'too many notifications in the NOTIFY queue' USING ERRCODE = 'program_limit_exceeded';
                END IF;
                PERFORM pg_catalog.pg_notify(channel, payload);
            END $$
        """)
        said = asyncio.Queue()
        await psql.add_listener("bbio_events", lambda *told: said.put_nowait(told[3]))
        milk = await models.create({"title": "milk"})
        assert await models.all() == [milk]

        async def is_asked():
            return await psql.fetchval('SELECT count(*) FROM "full".asked') > 0

        await eventually(is_asked)
        assert said.empty()
        await psql.execute('INSERT INTO "full".place VALUES (1)')
        _, _, ((stream, *_, body),) = decode((await said.get()).encode())
        assert (stream, body) == ("c:", milk)
        assert "has no place for notifications" in caplog.text


# What waits to be told


def events(count, streams=1, text=""):
    return [
        Event(f"c:{n % streams}", "9a0c", n + 1, "create", encode({"n": n, "text": text}), n, stamp=7)
        for n in range(count)
    ]


def frames(payloads):
    """What the frames in payloads tell of."""
    said = []
    for payload in payloads:
        assert len(payload.encode()) <= broker.MAX_PAYLOAD_BYTES
        process, _, told = broker.read_events(payload)
        assert process == "own"
        said += [None] if told is None else told
    return said


def test_events_share_notifications():
    """As many as have room, in their order, of each backend apart."""
    untold = broker.Untold()
    assert not untold
    for event in events(200):
        untold.add(1, event)
        untold.add(2, event)
    payloads = list(untold.payloads("own"))
    assert len(payloads) < 12
    told = frames(payloads)
    assert [frame.offset for frame in told] == [*range(1, 201)] * 2
    assert encode(told[0].event) == encode(events(1)[0])
    assert [decode(name.encode()) for name in untold.names("own")] == [["+own", 1, ["c:0"]], ["+own", 2, ["c:0"]]]


def test_what_is_too_much_is_told_as_tops_and_then_as_any():
    """Memory is bounded, whatever is written while nothing can be told."""
    untold = broker.Untold()
    for event in events(broker.MAX_EVENTS + 100, streams=100):
        untold.add(1, event)
    later = broker.Untold()
    later.add(1, Event("c:5", "9a0c", 5_000, "create", b"{}"))
    later.take_back(untold)
    told = frames(later.payloads("own"))
    assert [frame.event is None for frame in told] == [False] * broker.MAX_EVENTS + [True] * 100
    assert told[-95].position.offset in (broker.MAX_EVENTS + 6, 5_000)
    for event in events(broker.MAX_STREAMS + 101, streams=broker.MAX_STREAMS + 101):
        later.add(1, event)
    assert frames(later.payloads("own"))[0] is None
    assert [decode(name.encode()) for name in later.names("own")] == [["+own", None, None]]


def test_names_that_have_no_room_are_told_as_any():
    """As the version before did."""
    untold = broker.Untold()
    for n in range(40):
        untold.add(1, Event(f"c:{n}" + "x" * 250, "9a0c", 1, "create", b"{}"))
    assert [decode(name.encode()) for name in untold.names("own")] == [["+own", 1, None]]
