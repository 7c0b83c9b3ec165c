"""PostgreSQL is killed while several processes write: what was acknowledged is there, once, and nothing is half there.

A commit takes long, and another program takes ids of transactions all the time, so that those that a crash takes back
are given to somebody else. Beside triggers, other programs write to the same table, and to rows that bbio writes: what
they have committed is told, once, or told as a gap, and what they have not is not. `make crash` does so many times over
and prints what it counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from bbio import Conflict, SyncError, UnknownOutcome
from bbio.builtin.postgres.store import PostgresStore
from bbio.builtin.postgres.tables import MOST_TOLD
from bbio.protocol import decode
from bbio.streams import HistoryLimits
from tests.support.postgres import install_triggers, log, processes
from tests.support.servers import eventually
from tests.support.services import PostgresServer

pytestmark = pytest.mark.once  # what is asked is what a server does, not a Python

ROUNDS = int(os.environ.get("BBIO_CRASH_ROUNDS", "3"))
WRITERS = 12
PROGRAMS = 3
EVERYTHING = HistoryLimits(events=10**7, size=10**10, age=10**7)
# Microseconds from the writing of a commit to its flushing: most kills come then.
WIDE = {"commit_delay": 15_000, "commit_siblings": 0}


class Writer:
    """Writes to models of its own through any of some stores, until told to stop, and keeps account of it."""

    def __init__(self, name, stores, chance):
        self.name = name
        self.stores = stores
        self.chance = chance
        self.count = 0
        self.told = Counter()
        self.acked = {}
        self.models = {}
        self.unknown = 0

    async def write(self, running):
        while running.is_set():
            self.count += 1
            method, model = "create", {"by": self.name, "n": self.count}
            if self.models and self.chance.random() < 0.5:
                method = self.chance.choice(["patch", "delete"])
                model = {**model, "id": self.chance.choice(list(self.models))}
            op = f"{self.name}:{self.count}" if self.count % 4 else None
            commit = await self._insist(method, model, op)
            if commit is None:
                # Nobody knows: the model may be there, and is not looked at again.
                self.models.pop(model.get("id"), None)
                continue
            self.acked[commit.event.offset] = (commit.event.stamp, decode(commit.event.body))
            if method == "delete":
                del self.models[commit.record["id"]]
            else:
                self.models[commit.record["id"]] = commit.record

    async def _insist(self, method, model, op):
        """Ask until there is an answer, as a client does; None when nobody knows and nobody may ask again."""
        while True:
            try:
                return await self.chance.choice(self.stores).write(method, model, op=op, channel="home")
            except UnknownOutcome:
                self.unknown += 1
                return None
            except Conflict:
                raise
            except SyncError as err:
                self.told[type(err).__name__] += 1
                await asyncio.sleep(0.02)


async def check(stores, writers):
    """The log has no hole, has each operation once and all that was acknowledged; the models are what it says."""
    events = await log(stores[0], "c:home")
    assert [event.offset for event in events] == list(range(1, len(events) + 1))
    operations = [event.op for event in events if event.op]
    assert len(operations) == len(set(operations))
    bodies = {event.offset: decode(event.body) for event in events}
    there = {event.offset: (event.stamp, bodies[event.offset]) for event in events}
    for writer in writers:
        assert writer.acked.items() <= there.items()
    told = {}
    revs = {}
    for event in events:
        body = bodies[event.offset]
        assert event.rev > revs.get(body["id"], 0)
        revs[body["id"]] = event.rev
        told[body["id"]] = body
        if event.method == "delete":
            del told[body["id"]]
    req = stores[1].request("read", {}, channel="home")
    found = await stores[1].found(req)
    assert {model["id"]: model for model in found.models} == told
    assert found.revs == {id: revs[id] for id in told}
    for store in stores:
        published = [event.offset for event, _ in store.published]
        assert published == sorted(set(published))
    return len(events)


class Program:
    """Writes straight into the table, to rows of its own and of bbio, until told to stop, and keeps account of it.

    Whatever a transaction of it writes has a mark of the transaction, and a number of its own.
    """

    def __init__(self, name, dsn, chance, writers):
        self.name = name
        self.dsn = dsn
        self.chance = chance
        self.writers = writers
        self.count = 0
        self.rows = []
        # Of each transaction, by its mark: how many times it has written that in `home`, and how it ended.
        self.marked = {}
        self.ended = {}
        self.deadlocks = 0

    async def write(self, running):
        while running.is_set():
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await asyncpg.connect(self.dsn, timeout=5.0, command_timeout=10.0)
                try:
                    # Where it would let a crash take commits back, the triggers do not.
                    await connection.execute(f"SET synchronous_commit = {self.chance.choice(['on', 'off'])}")
                    while running.is_set():
                        await self._transact(connection)
                finally:
                    connection.terminate()
            await asyncio.sleep(0.02)

    async def _transact(self, connection):
        self.count += 1
        mark = f"{self.name}:{self.count}"
        self.ended[mark], self.marked[mark] = "aborted", 0
        rows = list(self.rows)
        await connection.execute("BEGIN")
        try:
            for _ in range(self.chance.randint(1, 4)):
                self.marked[mark] += await self._change(connection, mark, rows)
            if self.chance.random() < 0.1:
                await self._replace_many(connection, mark)
        except asyncpg.DeadlockDetectedError:
            self.deadlocks += 1
            await connection.execute("ROLLBACK")
            return
        if self.chance.random() < 0.2:
            await connection.execute("ROLLBACK")
            return
        self.ended[mark] = "unknown"
        await connection.execute("COMMIT")
        self.ended[mark] = "committed"
        self.rows = rows

    async def _change(self, connection, mark, rows):
        """Write one row of `home`; in how many the mark is then."""
        kind = self.chance.choice(["insert", "update", "delete", "bbio", "bbio"])
        if kind == "insert" or not rows:
            rows.append(f"{mark}:{len(rows)}")
            statement, id = "INSERT INTO models (channel, id, body) VALUES ('home', $1, $2)", rows[-1]
        elif kind == "delete":
            id = rows.pop(self.chance.randrange(len(rows)))
            await connection.execute("DELETE FROM models WHERE channel = 'home' AND id = $1", id)
            return 0
        else:
            theirs = list(self.chance.choice(self.writers).models)
            id = self.chance.choice(theirs if kind == "bbio" and theirs else rows)
            statement = "UPDATE models SET body = body || $2 WHERE channel = 'home' AND id = $1"
        written = await connection.execute(statement, id, json.dumps({"mark": mark, "at": self.chance.random()}))
        return int(written.rpartition(" ")[2])

    async def _replace_many(self, connection, mark):
        """Write more rows than are told one by one."""
        await connection.execute("DELETE FROM models WHERE channel = 'many' AND body ->> 'by' = $1", self.name)
        await connection.execute(
            "INSERT INTO models (channel, id, body) SELECT 'many', $1 || n,"
            " jsonb_build_object('by', $2::text, 'mark', $1::text) FROM generate_series(1, $3::integer) n",
            *(mark, self.name, MOST_TOLD + 1),
        )


class Page:
    """Holds the models of a channel as it is told of them; where there is a gap, it reads them anew."""

    def __init__(self, channel):
        self.channel = channel
        self.position = None
        self.models = {}
        self.gaps = 0

    async def check(self, store):
        """Catch up, while nobody writes, and see that what it holds then is what is there."""
        there = {model["id"]: model for model in await store.all(channel=self.channel)}
        before, self.position = self.position, await store.top(self.channel)
        events = None
        if before is not None:
            events = await store.store.since(f"c:{self.channel}", before.epoch, before.offset, before.stamp)
            self.gaps += events is None
        if events is None:
            self.models = there
            return
        for event in events:
            body = decode(event.body)
            self.models[body["id"]] = body
            if event.method == "delete":
                del self.models[body["id"]]
        assert self.models == there


async def check_programs(store, programs):
    """What programs have committed is told once, whole or not at all; what they have taken back is not told."""
    told, last = Counter(), {}
    for event in await log(store, "c:home"):
        body = decode(event.body)
        mark = body.get("mark"), body.get("at")
        # What bbio writes to such a row afterwards keeps the mark.
        if event.method != "delete" and mark != last.get(body["id"], (None, None)):
            told[body["id"], *mark] += 1
            last[body["id"]] = mark
    assert set(told.values()) <= {1}
    rows = Counter(mark for _, mark, _ in told)
    for program in programs:
        for mark, ended in program.ended.items():
            whole = program.marked[mark]
            assert rows[mark] in {"committed": {whole}, "aborted": {0}, "unknown": {0, whole}}[ended]


async def take(dsn, running):
    """Commit small transactions in another database of the server, as fast as it can."""
    while running.is_set():
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            program = await asyncpg.connect(dsn, timeout=2.0)
            try:
                while running.is_set():
                    await program.execute("SELECT pg_current_xact_id()")
            finally:
                program.terminate()
        await asyncio.sleep(0.001)


@pytest.fixture
def doubts(monkeypatch):
    """What was found out of each commit that was in doubt."""
    doubts = Counter()
    find_out = PostgresStore._outcome

    async def noted(store, batch):
        outcome = await find_out(store, batch)
        doubts[{True: "committed", False: "aborted", None: "unknown"}[outcome]] += 1
        return outcome

    monkeypatch.setattr(PostgresStore, "_outcome", noted)
    return doubts


async def kill_repeatedly(server, chance, writers, programs, check):
    """Kill it round after round, at a random moment; the seconds after which everybody had written again, at most."""
    longest = 0.0
    running = asyncio.Event()
    for _ in range(ROUNDS):
        running.set()
        tasks = [asyncio.ensure_future(each.write(running)) for each in (*writers, *programs)]
        tasks.append(asyncio.ensure_future(take(server.url.replace("/postgres", "/other"), running)))
        await asyncio.sleep(chance.uniform(0.05, 0.6))  # the moment is what is random
        await asyncio.to_thread(server.kill)
        killed = time.monotonic()
        before = (acknowledged(writers), committed(programs))
        await asyncio.to_thread(server.start)

        async def are_writing(before=before):
            return acknowledged(writers) > before[0] + len(writers) and committed(programs) >= before[1] + len(programs)

        await eventually(are_writing)
        longest = max(longest, time.monotonic() - killed)
        running.clear()
        await asyncio.gather(*tasks)
        await check()
    return longest


def acknowledged(writers):
    return sum(len(writer.acked) for writer in writers)


def committed(programs):
    return sum(ended == "committed" for program in programs for ended in program.ended.values())


@asynccontextmanager
async def killable(**settings):
    """A server with slow commits, and a database `other` in it."""
    server = PostgresServer(durable=True, **WIDE, **settings)
    server.start()
    try:
        program = await asyncpg.connect(server.url)
        await program.execute("CREATE DATABASE other")
        await program.close()
        yield server
    finally:
        server.remove()


@pytest.mark.timeout(60 + 30 * ROUNDS)
async def test_a_database_killed_while_it_commits(capsys, doubts):
    """Nothing that was acknowledged is lost, or there twice."""
    chance, began, count = random.Random(time.time_ns()), time.monotonic(), 0
    async with killable() as server, processes(server.url, 2, history=EVERYTHING, timeout=2.0) as stores:
        writers = [Writer(f"w{n}", stores, chance) for n in range(WRITERS)]

        async def check_all():
            nonlocal count
            count = await check(stores, writers)

        longest = await kill_repeatedly(server, chance, writers, [], check_all)
    told = sum((writer.told for writer in writers), Counter())
    with capsys.disabled():
        print(
            f"\n{ROUNDS} kills of PostgreSQL in {time.monotonic() - began:.0f} s: {count} events, no hole, "
            f"{acknowledged(writers)} acknowledged and there, "
            f"{sum(writer.unknown for writer in writers)} of unknown outcome, told meanwhile {dict(told)}, "
            f"transactions in doubt {dict(doubts)}, writing again {longest:.1f} s after a kill at the latest"
        )
    assert count > 0


@pytest.mark.timeout(120 + 60 * ROUNDS)
@pytest.mark.parametrize("revisions", ["column", "beside"])
async def test_a_database_killed_while_other_programs_write(capsys, doubts, revisions):
    """Nothing that they have committed is lost to clients, or told twice, and nothing is told of the rest."""
    chance, began, count = random.Random(time.time_ns()), time.monotonic(), 0
    options = {"history": EVERYTHING, "timeout": 2.0, "per_channel": True, "revisions": revisions}
    async with killable(deadlock_timeout="50ms") as server, processes(server.url, 2, **options) as stores:
        await install_triggers(server.url, per_channel=True, revisions=revisions)
        writers = [Writer(f"w{n}", stores, chance) for n in range(WRITERS // 3)]
        programs = [Program(f"p{n}", server.url, chance, writers) for n in range(PROGRAMS)]
        pages = [Page("home"), Page("many")]

        async def check_all():
            nonlocal count
            count = await check(stores, writers)
            await check_programs(stores[0], programs)
            for page in pages:
                await page.check(stores[1])

        longest = await kill_repeatedly(server, chance, writers, programs, check_all)
    ended = Counter(ended for program in programs for ended in program.ended.values())
    told = sum((writer.told for writer in writers), Counter())
    with capsys.disabled():
        print(
            f"\n{ROUNDS} kills of PostgreSQL beside other programs in {time.monotonic() - began:.0f} s: {count} "
            f"events, no hole; of bbio {acknowledged(writers)} acknowledged and there, told meanwhile {dict(told)}, "
            f"transactions in doubt {dict(doubts)}; of programs {sum(ended.values())} transactions {dict(ended)}, "
            f"{sum(program.deadlocks for program in programs)} of them by deadlocks, {pages[1].gaps} gaps; "
            f"writing again {longest:.1f} s after a kill at the latest"
        )
    assert committed(programs) > 0
