"""The wall clock of a server jumps, as that of a machine that gets the time from the net: a retry is still a retry."""

import os

import pytest

from tests.support.servers import ROOT

DAY = 86_400.0

# Python runs it before all else: the clock of the process is set by a file, that of the system stays as it is.
CLOCK = """
import time
from pathlib import Path

wall, ahead = time.time, Path(__file__).with_name("clock")
time.time = lambda: wall() + float(ahead.read_text())
"""
SERVED = """
import os
import time

from bbio import App, Backend, before
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore

class Todos(Backend):
    store = {store}

    @before("create")
    def stamp(self, req):
        req.model["at"] = time.time()

app = App()
app.serve(Todos)
"""
STORES = {
    "memory": "MemoryStore()",
    "sqlite": 'SQLiteStore("todos.db")',
    "postgres": 'PostgresStore(os.environ["STORED_AT"])',
}


async def pay(client):
    """What is sent again when its ack was lost."""
    id = await client.start("create", {"title": "pay 100"}, op={"c": "page", "n": 1})
    error, paid, _ = await client.namespace.reply(id)
    assert error is None
    return paid


async def many(client, first):
    """Operations of others, so many that a store looks for what it may forget; the last that was made comes back."""
    for n in range(first, first + 600, 100):
        ops = [{"c": "others", "n": n + each} for each in range(100)]
        started = [await client.start("create", {"title": "other"}, op=op) for op in ops]
        replies = [await client.namespace.reply(id) for id in started]
        assert [reply[0] for reply in replies] == [None] * 100
    return replies[-1][1]


@pytest.mark.once
@pytest.mark.parametrize("store", STORES)
async def test_a_retry_after_a_jump_of_the_clock_is_applied_once(spawn, join, tmp_path, database_url, store):
    """Two days ahead, a day back, and, where there is a database, in a process that has begun at the later time."""
    env = {"STORED_AT": database_url, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    clock = tmp_path / "clock"
    clock.write_text("0")
    source = SERVED.format(store=STORES[store])
    server = await spawn(source, fresh=True, **env)  # Python must begin with the clock
    ann = await join(server.url, "todos")
    paid = await pay(ann)
    for first, jump in ((1, 2 * DAY), (1_001, -DAY)):
        clock.write_text(str(jump))
        other = await many(ann, first)
        assert abs(other["at"] - paid["at"] - jump) < DAY / 2
        assert await pay(ann) == paid
    if store != "memory":
        await server.stop()
        clock.write_text(str(3 * DAY))
        server = await spawn(source, port=server.port, fresh=True, **env)
        ann = await join(server.url, "todos")
        await many(ann, 2_001)
        assert await pay(ann) == paid
    models = await ann.sync("read", options={"query": {"title": "pay 100"}})
    assert [model["id"] for model in models if model["title"] == "pay 100"] == [paid["id"]]
