"""A server that is killed while it commits: what was acknowledged is there, once, and nothing is half there.

`make crash` does so many times over and prints what it counted.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter

import pytest

from bbio.streams import Op
from tests.support.servers import eventually
from tests.support.wire import Closed, LegacyClient, decode

pytestmark = pytest.mark.once  # what is asked is what a server does, not a Python

ROUNDS = int(os.environ.get("BBIO_CRASH_ROUNDS", "3"))
CLIENTS = 8
IN_FLIGHT = 8

SERVED = """
from bbio import App, Backend, HistoryLimits
from bbio.builtin import PostgresStore, SQLiteStore

class Models(Backend):
    store = {}, history=HistoryLimits(events=10**7, size=10**10, age=10**7))

app = App()
app.serve(Models)
"""


class Writer:
    """A client that creates, patches and deletes models of its own, and keeps account of it.

    Parameters:
        name: its client id.
        channel: the channel it writes to.
        chance: what decides what it does.
    """

    def __init__(self, name, channel, chance):
        self.name = name
        self.channel = channel
        self.chance = chance
        self.asked = {}
        self.replies = {}
        self.models = []
        self.in_doubt = []

    async def connect(self, url):
        self.client = await LegacyClient.open(url, "models")
        await self.client.namespace.call("listen", self.channel, {"v": 1})

    async def send(self, n):
        """Ask for an operation, for the first time or again; its reply comes back."""
        method, model = self.asked[n]
        fields = {"method": method, "model": model, "options": {}, "channel": self.channel}
        reply = await self.client.namespace.call("sync", {**fields, "op": {"c": self.name, "n": n}})
        assert reply[0] is None, f"{method} {model}: {reply}"
        return reply[1:]

    async def settle(self):
        """Repeat what was in doubt, in order; then nothing is."""
        for n in self.in_doubt:
            self.replies[n] = await self.send(n)
            self.remember(n)
        self.in_doubt = []

    async def write(self, acked):
        """Write until the connection ends."""
        running = set()
        try:
            while True:
                n = len(self.asked)
                self.asked[n] = self.think(n)
                task = asyncio.create_task(self.send(n))
                running.add(task)
                task.add_done_callback(lambda task, n=n: self.done(n, task, acked))
                if len(running) == IN_FLIGHT:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
        except (Closed, ConnectionError):
            await asyncio.gather(*running, return_exceptions=True)
        self.in_doubt = [n for n in self.asked if n not in self.replies]
        await self.client.close()

    def done(self, n, task, acked):
        if not task.cancelled() and task.exception() is None:
            self.replies[n] = task.result()
            self.remember(n)
            acked.set()

    def think(self, n):
        """A method and model; nothing is asked of a model after its deletion was."""
        if self.models and self.chance.random() < 0.5:
            id = self.chance.choice(self.models)
            if self.chance.random() < 0.2:
                self.models.remove(id)
                return "delete", {"id": id}
            return "patch", {"id": id, f"f{n % 5}": n}
        return "create", {"n": n, "of": self.name, "text": "x" * self.chance.randrange(2_000)}

    def remember(self, n):
        if self.asked[n][0] == "create":
            self.models.append(self.replies[n][0]["id"])


class SQLite:
    """What a file holds after the crash."""

    served = SERVED.format('SQLiteStore("data/models.db"')
    models = "SELECT id, rev, body FROM models"

    def __init__(self, folder):
        self.folder = folder
        (folder / "data").mkdir()
        self.env = {}

    async def look(self):
        # A copy: whoever opens the file itself would tidy up after the crash, which is for the server to do.
        shutil.rmtree(self.folder / "copy", ignore_errors=True)
        shutil.copytree(self.folder / "data", self.folder / "copy")

    async def rows(self, statement):
        with contextlib.closing(sqlite3.connect(self.folder / "copy" / "models.db")) as connection:
            return connection.execute(statement).fetchall()

    def check_revisions(self, revs):
        assert revs == list(range(1, len(revs) + 1))


class Postgres:
    """What a database holds after the crash."""

    served = SERVED.format("PostgresStore(connections=4")
    models = "SELECT id, rev, (body || jsonb_build_object('id', id))::text FROM models"

    def __init__(self, url, psql):
        self.env = {"BBIO_DATABASE_URL": url}
        self.psql = psql

    async def look(self):
        busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"

        async def is_at_rest():
            return await self.psql.fetchval(busy) == 1

        # What a server has asked for before it was killed may be done only now.
        await eventually(is_at_rest)

    async def rows(self, statement):
        return await self.psql.fetch(statement)

    def check_revisions(self, revs):
        assert revs == sorted(set(revs))


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def kept(request, tmp_path):
    """Where the server keeps what is written."""
    if request.param == "SQLite":
        return SQLite(tmp_path)
    return Postgres(request.getfixturevalue("database_url"), request.getfixturevalue("psql"))


async def check(kept, writers):
    """Compare what is kept with what the writers were told."""
    await kept.look()
    log = await kept.rows(
        "SELECT s.name, s.epoch, l.position, l.method, l.body, l.rev, l.op FROM bbio_log l"
        " JOIN bbio_streams s ON s.id = l.stream ORDER BY s.name, l.position"
    )
    by_stream, by_op = {}, {}
    for stream, epoch, position, method, body, rev, op in log:
        by_stream.setdefault(stream, []).append((epoch, position))
        assert op not in by_op, f"{op} was applied twice"
        by_op[op] = (stream, epoch, position, method, decode_body(body), rev)
    for stream, positions in by_stream.items():
        assert len({epoch for epoch, _ in positions}) == 1, f"{stream} has several epochs"
        assert [position for _, position in positions] == list(range(1, len(positions) + 1)), f"{stream} has holes"
    tops = dict(await kept.rows("SELECT name, top FROM bbio_streams"))
    assert tops == {stream: len(positions) for stream, positions in by_stream.items()}

    # What was acknowledged is there as it was told.
    for writer in writers:
        for n, (record, place) in writer.replies.items():
            stream, epoch, position, method, body, rev = by_op[Op(writer.name, n).public]
            assert (place["s"], place["e"], place["o"], place["r"]) == (stream, epoch, position, rev)
            assert body == record
            assert method == {"patch": "update"}.get(writer.asked[n][0], writer.asked[n][0])

    # Models, events and operations tell the same.
    models = {}
    for _, _, _, method, body, rev in sorted(by_op.values(), key=lambda event: event[5]):
        models[body["id"]] = (rev, body)
        if method == "delete":
            del models[body["id"]]
    assert {id: (rev, decode_body(body)) for id, rev, body in await kept.rows(kept.models)} == models
    assert {op for (op,) in await kept.rows("SELECT op FROM bbio_operations")} == set(by_op)
    kept.check_revisions(sorted(event[5] for event in by_op.values()))
    return by_op


def decode_body(body):
    packet, _ = decode(f"42[{body}]")
    return packet.data[0]


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_a_server_that_is_killed_keeps_what_it_acknowledged(spawn, kept):
    """Every acked write is there, no unacked half is, offsets have no hole, each operation is applied once."""
    seed = random.randrange(2**32)
    print(f"\nseed {seed}")
    chance = random.Random(seed)
    writers = [Writer(f"w{n}", f"room-{n % 3}", chance) for n in range(CLIENTS)]
    counts = Counter()
    server = await spawn(kept.served, **kept.env)
    for number in range(ROUNDS):
        if number:
            server = await spawn(kept.served, port=server.port, **kept.env)
        await asyncio.gather(*(writer.connect(server.url) for writer in writers))
        await asyncio.gather(*(writer.settle() for writer in writers))
        before = sum(len(writer.replies) for writer in writers)
        acked = asyncio.Event()
        writing = [asyncio.create_task(writer.write(acked)) for writer in writers]
        await acked.wait()
        # The moment is the test's very subject: any will do, and each round takes another.
        await asyncio.sleep(chance.random() * 0.3)
        server.signal(signal.SIGKILL)
        await server.ended()
        await asyncio.gather(*writing)
        by_op = await check(kept, writers)
        doubtful = [Op(writer.name, n).public for writer in writers for n in writer.in_doubt]
        counts["acked"] += sum(len(writer.replies) for writer in writers) - before
        counts["in doubt"] += len(doubtful)
        counts["in doubt and applied"] += sum(op in by_op for op in doubtful)

    server = await spawn(kept.served, port=server.port, **kept.env)
    await asyncio.gather(*(writer.connect(server.url) for writer in writers))
    await asyncio.gather(*(writer.settle() for writer in writers))
    for writer in writers:
        for n in chance.sample(sorted(writer.replies), min(20, len(writer.replies))):
            assert await writer.send(n) == writer.replies[n]
        await writer.client.close()
    by_op = await check(kept, writers)
    assert len(by_op) == sum(len(writer.asked) for writer in writers)
    print(f"{ROUNDS} rounds: {dict(counts)}; {len(by_op)} operations asked, each applied once")
    assert counts["acked"] > ROUNDS


DIES_ONCE = """
import os, signal
from pathlib import Path
from bbio import App, Backend
from bbio.builtin import SQLiteStore

class Mortal(SQLiteStore):
    def tell(self, change):
        if change.result.record.get("fatal") and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().tell(change)

class Models(Backend):
    store = Mortal("models.db")

app = App()
app.serve(Models)
"""


async def test_a_crash_between_commit_and_publishing_loses_no_event(spawn, tmp_path):
    """Clients that come back with their position are told within six seconds; the write is not done again."""
    server = await spawn(DIES_ONCE)

    async def listen(since):
        client = await LegacyClient.open(server.url, "models")
        (answer,) = await client.namespace.call("listen", "room", {"v": 1, "since": since})
        return client, answer["streams"]["c:room"]

    async def fatal(client, n):
        request = {"method": "create", "model": {"n": n, "fatal": n > 0}, "options": {}, "op": {"c": "w", "n": n}}
        return await client.namespace.call("sync", request)

    writer, _ = await listen({})
    reader, at = await listen({})
    _, first, place = await fatal(writer, 0)
    assert (await reader.namespace.event())[1:] == ["create", first, {**place, "op": Op("w", 0).public}]
    with pytest.raises((Closed, ConnectionError)):
        await fatal(writer, 1)
    assert await server.ended() == -signal.SIGKILL
    assert (tmp_path / "died").exists()
    await asyncio.gather(writer.close(), reader.close())

    server = await spawn(DIES_ONCE, port=server.port)
    restarted = time.monotonic()
    reader, stream = await listen({"c:room": [at["epoch"], 1]})
    assert time.monotonic() - restarted < 6
    assert (stream["recovered"], stream["offset"]) == (True, 2)
    ((method, model, _),) = stream["events"]
    assert (method, model["n"]) == ("create", 1)
    writer, _ = await listen({})
    _, record, place = await fatal(writer, 1)
    assert (record, place["o"]) == (model, 2)
    _, _, place = await fatal(writer, 2)
    assert place["o"] == 3
    assert (await reader.namespace.event())[3]["o"] == 3
    await asyncio.gather(writer.close(), reader.close())
