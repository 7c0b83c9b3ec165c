"""PostgreSQL is killed while several processes write: what was acknowledged is there, once, and nothing is half there.

A commit takes long, and another program takes ids of transactions all the time, so that those that a crash takes back
are given to somebody else. `make crash` does so many times over and prints what it counted.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import suppress

import asyncpg
import pytest

from bbio import Conflict, SyncError, UnknownOutcome
from bbio.builtin.postgres import PostgresStore
from bbio.protocol import decode
from bbio.streams import HistoryLimits
from tests.support.postgres import log, processes
from tests.support.servers import eventually
from tests.support.services import PostgresServer

pytestmark = pytest.mark.once  # what is asked is what a server does, not a Python

ROUNDS = int(os.environ.get("BBIO_CRASH_ROUNDS", "3"))
WRITERS = 12
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
    assert {model["id"]: model for model in await stores[1].all()} == told
    for store in stores:
        published = [event.offset for event, _ in store.published]
        assert published == sorted(set(published))
    return len(events)


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


@pytest.mark.timeout(60 + 30 * ROUNDS)
async def test_a_database_killed_while_it_commits(capsys, doubts):
    """Round after round, at a random moment."""
    server = PostgresServer(durable=True, **WIDE)
    server.start()
    program = await asyncpg.connect(server.url)
    await program.execute("CREATE DATABASE other")
    await program.close()
    chance = random.Random(time.time_ns())
    count, began, outages = 0, time.monotonic(), []
    try:
        async with processes(server.url, 2, history=EVERYTHING, timeout=2.0) as stores:
            writers = [Writer(f"w{n}", stores, chance) for n in range(WRITERS)]
            running = asyncio.Event()
            for _ in range(ROUNDS):
                running.set()
                tasks = [asyncio.ensure_future(writer.write(running)) for writer in writers]
                tasks.append(asyncio.ensure_future(take(server.url.replace("/postgres", "/other"), running)))
                await asyncio.sleep(chance.uniform(0.05, 0.6))  # the moment is what is random
                await asyncio.to_thread(server.kill)
                killed = time.monotonic()
                acked = sum(len(writer.acked) for writer in writers)
                await asyncio.to_thread(server.start)

                async def writing(acked=acked):
                    return sum(len(writer.acked) for writer in writers) > acked + WRITERS

                await eventually(writing)
                outages.append(time.monotonic() - killed)
                running.clear()
                await asyncio.gather(*tasks)
                count = await check(stores, writers)
    finally:
        server.remove()
    told = sum((writer.told for writer in writers), Counter())
    with capsys.disabled():
        print(
            f"\n{ROUNDS} kills of PostgreSQL in {time.monotonic() - began:.0f} s: {count} events, no hole, "
            f"{sum(len(writer.acked) for writer in writers)} acknowledged and there, "
            f"{sum(writer.unknown for writer in writers)} of unknown outcome, told meanwhile {dict(told)}, "
            f"transactions in doubt {dict(doubts)}, "
            f"writing again {max(outages):.1f} s after a kill at the latest"
        )
    assert count > 0
