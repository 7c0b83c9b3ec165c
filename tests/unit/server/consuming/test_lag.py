"""How far consumers are behind is told, and warned of in time."""

from __future__ import annotations

import asyncio
import logging

import pytest

from bbio import App, Backend, HistoryLimits
from bbio.builtin import MemoryStore
from bbio.server.consuming import lag as lag_module
from bbio.server.consuming.lag import Lag
from tests.support.servers import eventually


@pytest.fixture
async def todos():
    """A backend with a consumer for which no process works."""

    class Todos(Backend):
        store = MemoryStore(history=HistoryLimits(consumer_events=10_000))

    app = App().serve(Todos)

    @app.consumer("mailer", backend="todos")
    async def work(event):
        """Do nothing."""

    await app.open()
    await app.consume(works=False)
    yield app.backends["todos"]
    await app.close()


async def write(todos, count):
    for n in range(count):
        await todos.create({"n": n})


async def test_nothing_is_told_of_who_is_up_to_date(todos, caplog):
    """A few events behind are nothing to tell of either."""
    caplog.set_level(logging.INFO)
    await Lag([todos]).look(todos)
    await write(todos, 3)
    await Lag([todos]).look(todos)
    assert "behind" not in caplog.text


async def test_lag_is_told(todos, caplog):
    """With events and seconds; where more than half of what is kept is needed, it is a warning."""
    caplog.set_level(logging.INFO)
    await write(todos, 200)
    await Lag([todos]).look(todos)
    assert "consumer mailer of todos: 200 events behind" in caplog.text
    todos.log.history = HistoryLimits(events=10, consumer_events=300)
    await Lag([todos]).look(todos)
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "the history will drop them soon: no process works for it" in record.getMessage()


async def test_a_worker_that_is_slow_is_told_so(todos, caplog):
    """What is to be mended is another thing then; the age counts as well as the events."""
    ledger = todos.log.consumers
    await ledger.claim("mailer", "one", 60.0)
    await write(todos, 1)
    ledger._idle["mailer"] -= 100.0
    caplog.set_level(logging.INFO)
    await Lag([todos]).look(todos)
    assert "1 events behind, 100 s since all were handled" in caplog.text
    ledger._idle["mailer"] -= 400_000.0
    await Lag([todos]).look(todos)
    assert "see why it is slow" in caplog.text


async def test_it_looks_again_and_again(todos, caplog, monkeypatch):
    """A database that is away is no end of it."""
    monkeypatch.setattr(lag_module, "LOOK_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    await write(todos, 200)
    tops, todos.log.tops = todos.log.tops, None
    task = asyncio.ensure_future(Lag([todos]).run())

    async def has_failed():
        return "is not known" in caplog.text

    await eventually(has_failed)
    todos.log.tops = tops

    async def has_told():
        return "200 events behind" in caplog.text

    await eventually(has_told)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
