"""Consumers over processes: killed, stopped and overtaken at any moment, they lose no event.

`make crash` kills servers and workers many times over, and prints what it counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter, defaultdict

import pytest

from tests.support.servers import ServerProcess, eventually
from tests.support.wire import Closed, LegacyClient

pytestmark = pytest.mark.once  # what is asked is what a server does, not a Python

ROUNDS = int(os.environ.get("BBIO_CRASH_ROUNDS", "3"))
MODELS = 4

SERVED = """
import asyncio, json, os
from pathlib import Path
from bbio import App, Backend, HistoryLimits
from bbio.builtin import PostgresStore, SQLiteStore

class Models(Backend):
    store = {}

app = App()
app.serve(Models)
log = open("handled.jsonl", "a", buffering=1)

@app.consumer("worker", backend="models", lease=1.0, pause=0.01, concurrency=int(os.environ["AT_ONCE"]))
async def work(event):
    if Path("poison").exists() and event.model.get("n", 0) < 0:
        raise ValueError("poison")
    await asyncio.sleep(0.001)
    log.write(json.dumps([event.model["id"], event.rev, os.getpid()]) + "\\n")
"""


class Processes:
    """Servers that do no work of consumers, and workers.

    Parameters:
        spawn: starts a server.
        folder: where all run.
        source: the module.
        env: their environment.
    """

    def __init__(self, spawn, folder, source, env):
        self.spawn = spawn
        self.folder = folder
        self.source = source
        self.env = env
        self.workers = []

    async def serve(self, port=None):
        return await self.spawn(self.source, port=port, BBIO_CONSUMERS="no", **self.env)

    async def work(self):
        """Start a worker, and wait until it says that it works."""
        worker = ServerProcess("work", "served:app", cwd=self.folder, env=self.env, forked=True)
        self.workers.append(worker)
        await worker.start()
        await worker.said("bbio works for worker")
        return worker

    async def stop(self):
        for worker in self.workers:
            await worker.stop()


# However far behind consumers are whose processes die again and again, what they need is kept.
LONG = "history=HistoryLimits(consumer_events=1_000_000, consumer_size=1 << 30)"


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def kept(request):
    """The store, and the environment of what uses it."""
    if request.param == "SQLite":
        return f'SQLiteStore("models.db", {LONG})', {"AT_ONCE": "1"}
    return f"PostgresStore(connections=4, {LONG})", {
        "AT_ONCE": "3",
        "BBIO_DATABASE_URL": request.getfixturevalue("database_url"),
    }


@pytest.fixture
async def processes(kept, spawn, tmp_path):
    """Processes over a store."""
    store, env = kept
    found = Processes(spawn, tmp_path, SERVED.format(store), dict(env))
    yield found
    await found.stop()


def handled(folder):
    """The models and revisions that were handled, with the processes, in order."""
    file = folder / "handled.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [tuple(json.loads(line)) for line in lines if line.endswith("]")]


async def client_of(server):
    client = await LegacyClient.open(server.url, "models")
    try:
        await client.namespace.call("listen", None, {"v": 1})
    except BaseException:
        await client.close()
        raise
    return client


async def write(client, name, n, method, model):
    """The record and the revision of a write, which is done once however often it is asked for."""
    fields = {"method": method, "model": model, "options": {}, "channel": None, "op": {"c": name, "n": n}}
    error, record, place = await client.namespace.call("sync", fields)
    assert error is None, error
    return record, place["r"]


class Writer:
    """A client that writes to models of its own, and asks again until it knows that each was written."""

    def __init__(self, name):
        self.name = name
        self.n = 0
        self.asked = None
        self.model = None
        self.written = []

    async def run(self, server, ended):
        """Write until the server is killed, or this is to end."""
        client = None
        try:
            client = await client_of(server)
            while self.asked is not None or not ended.is_set():
                if self.asked is None:
                    self.n += 1
                    new = self.model is None
                    self.asked = ("create", {"n": self.n}) if new else ("patch", {"id": self.model, "n": self.n})
                record, rev = await write(client, self.name, self.n, *self.asked)
                self.model, self.asked = record["id"], None
                self.written.append((record["id"], rev))
        except (Closed, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            if client is not None:
                await client.close()


@pytest.mark.timeout(120 + 20 * ROUNDS)
async def test_no_event_is_lost_however_processes_die(processes, tmp_path):
    """Server, workers, or all are killed at any moment: each event is handled at least once, in order for its model."""
    seed = random.randrange(2**32)
    print(f"\nseed {seed}")
    chance = random.Random(seed)
    at_once = int(processes.env["AT_ONCE"])
    writers = [Writer(f"w{n}") for n in range(MODELS)]
    killed = Counter()
    server = await processes.serve()
    workers = [await processes.work(), await processes.work()]
    for _ in range(ROUNDS):
        ended = asyncio.Event()
        writing = [asyncio.create_task(writer.run(server, ended)) for writer in writers]
        # The moment is the test's very subject: any will do.
        await asyncio.sleep(chance.random() * 0.5)
        what = chance.choice(["server", "worker", "worker", "both"])
        killed[what] += 1
        if what != "server":
            victim = chance.randrange(len(workers))
            workers[victim].signal(signal.SIGKILL)
            await workers[victim].ended()
            workers[victim] = await processes.work()
        if what != "worker":
            server.signal(signal.SIGKILL)
            await server.ended()
            await asyncio.gather(*writing)
            server = await processes.serve(server.port)
        else:
            ended.set()
            await asyncio.gather(*writing)
    ended = asyncio.Event()
    ended.set()
    await asyncio.gather(*(writer.run(server, ended) for writer in writers))
    written = {entry for writer in writers for entry in writer.written}

    seen = handled(tmp_path)
    while written - {entry[:2] for entry in seen}:
        known = len(seen)

        async def is_more_handled(known=known):
            return len(handled(tmp_path)) > known

        await eventually(is_more_handled)  # however far behind it is, it goes on
        seen = handled(tmp_path)
    assert {entry[:2] for entry in seen} == written
    check_order(seen)
    print(
        f"{ROUNDS} rounds, {at_once} at once, killed {dict(killed)}: {len(written)} events, each handled, in order; "
        f"{len(seen) - len(written)} once more"
    )


def check_order(seen):
    """Each model's revisions come in order; what comes again, comes again from some place on, in order."""
    by_model = defaultdict(list)
    for id, rev, _ in seen:
        by_model[id].append(rev)
    for id, revs in by_model.items():
        known = sorted(set(revs))
        place = -1
        for rev in revs:
            at = known.index(rev)
            assert at <= place + 1, f"{id}: {rev} came before {known[place + 1]}"
            place = max(place, at)


async def test_who_stood_still_is_overtaken_and_keeps_nothing(processes, tmp_path):
    """A worker that is stopped in its middle loses the lease; when it goes on, its events are another one's."""
    server = await processes.serve()
    first = await processes.work()
    client = await client_of(server)
    record, _ = await write(client, "w", 1, "create", {"n": 1})

    async def by(pid, n):
        await eventually(lambda: is_handled(pid, n))

    async def is_handled(pid, n):
        return sum(entry[2] == pid for entry in handled(tmp_path)) >= n

    await by(first.process.pid, 1)
    first.signal(signal.SIGSTOP)
    second = await processes.work()
    await write(client, "w", 2, "patch", {"id": record["id"], "n": 2})
    await by(second.process.pid, 1)
    first.signal(signal.SIGCONT)
    for n in range(3, 9):
        await write(client, "w", n, "patch", {"id": record["id"], "n": n})
    await by(second.process.pid, 7)
    await client.close()
    assert [entry[2] for entry in handled(tmp_path)].count(first.process.pid) == 1
    check_order(handled(tmp_path))


async def test_a_server_works_where_nobody_else_does(processes, tmp_path):
    """With BBIO_CONSUMERS=yes, the default; when it ends, a worker takes over at once."""
    server = await processes.spawn(processes.source, **processes.env)
    client = await client_of(server)
    await write(client, "w", 1, "create", {"n": 1})
    await eventually(lambda: _reaches(tmp_path, 1))
    worker = await processes.work()
    assert {entry[2] for entry in handled(tmp_path)} == {server.process.pid}
    await client.close()
    await server.stop()
    server = await processes.serve(server.port)
    client = await client_of(server)
    await write(client, "w", 2, "create", {"n": 2})
    await eventually(lambda: _reaches(tmp_path, 2))
    assert handled(tmp_path)[1][2] == worker.process.pid
    await client.close()


async def _reaches(folder, count):
    return len(handled(folder)) >= count


async def test_dead_letters_are_looked_at_and_put_back(processes, tmp_path):
    """By the command, beside the servers."""
    (tmp_path / "poison").touch()
    server = await processes.serve()
    await processes.work()
    client = await client_of(server)
    record, _ = await write(client, "w", 1, "create", {"n": -1})
    await write(client, "w", 2, "patch", {"id": record["id"], "n": 2})

    async def command(*arguments):
        worker = ServerProcess("consumers", "served:app", *arguments, cwd=tmp_path, env=processes.env, forked=True)
        await worker.start()
        assert await worker.ended() == 0, worker.output
        return worker.output

    async def has_letters():
        return "2 dead letters" in await command()

    await eventually(has_letters)
    assert "up to date" in (listed := await command())
    assert "active: " in listed
    shown = await command("show", "worker")
    assert "dead since" in shown
    assert "behind since" in shown
    assert "ValueError: poison" in shown
    (tmp_path / "poison").unlink()
    assert "1 is handled again" in await command("retry", "worker", "1")
    await eventually(lambda: _reaches(tmp_path, 2))
    check_order(handled(tmp_path))
    await client.close()
