"""Notices in PostgreSQL: heard at once, in order, and not lost where a connection is."""

from __future__ import annotations

import asyncio

import pytest

from bbio.builtin.postgres import broker, control
from bbio.cluster.control import Notice
from bbio.errors import Unavailable
from tests.support.listeners import until
from tests.support.postgres import opened

pytestmark = pytest.mark.once  # what is asked is what PostgreSQL does, not a Python


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing waits long for the next attempt; nobody looks unless told."""
    monkeypatch.setattr(broker, "BACKOFF_SECONDS", (0.01, 0.1))
    monkeypatch.setattr(control.PostgresControl, "seconds", 60.0)


def told(name):
    """The statement by which another process tells something."""
    return f'SELECT bbio_tell_notice(\'other\', \'{{"id": "{name}", "kind": "revoke"}}\', 3600, 1000)'


async def test_what_others_tell_is_heard_at_once(database_url, psql):
    """What is written while nobody is told comes with the next; garbage in the channel only has it looked at."""
    async with opened(database_url) as models:
        heard = []
        models.store.control.add(heard.append)
        await psql.execute(told("a"))
        await psql.execute("NOTIFY bbio_notices, 'garbage'")
        await until(lambda: heard)
        await models.store.control.tell(Notice("own", "revoke"), heard.append)
        await psql.execute(told("b"))
        await psql.execute("NOTIFY bbio_notices")
        await until(lambda: len(heard) == 2)
        assert [notice.id for notice in heard] == ["a", "b"]


async def test_what_is_told_while_the_connection_is_lost_is_heard_later(database_url, psql):
    """The process looks for it once it is connected again."""
    async with opened(database_url) as models:
        heard = []
        models.store.control.add(heard.append)
        listeners = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'LISTEN%'"
        assert await psql.fetch(listeners)
        await psql.execute(told("a"))
        await until(lambda: heard)
        assert [notice.id for notice in heard] == ["a"]


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_notices_of_many_have_numbers_without_gaps(database_url, psql, end):
    """Whoever has read one has read those before it, whoever commits first."""
    async with opened(database_url) as models:
        one, other = models.store.control, models.store._database
        heard = []
        one.add(heard.append)
        transaction = psql.transaction()
        await transaction.start()
        await psql.execute(told("first"))
        second = asyncio.ensure_future(one.tell(Notice("second", "revoke"), heard.append))
        await asyncio.sleep(0.05)
        assert not second.done()
        await getattr(transaction, end)()
        await second
        await psql.execute(told("third"))
        one.look()
        await until(lambda: heard)
        rows = await other.ask("SELECT id, notice FROM bbio_notices ORDER BY id")
        told_by_others = ["first", "third"] if end == "commit" else ["third"]
        await until(lambda: len(heard) == len(told_by_others))
        assert [row["id"] for row in rows] == list(range(1, 2 + len(told_by_others)))
        assert [notice.id for notice in heard] == told_by_others


async def test_old_notices_are_dropped_but_for_the_last(database_url, psql, monkeypatch):
    """That says how far they have come."""
    monkeypatch.setattr(control, "KEPT_SECONDS", -1.0)
    async with opened(database_url) as models:
        for n in range(3):
            await models.store.control.tell(Notice(f"n{n}", "revoke"))
        assert [row["id"] for row in await psql.fetch("SELECT id FROM bbio_notices")] == [3]


async def test_a_database_that_does_not_take_it_is_unavailable_and_one_that_tells_nobody_is_not(database_url, psql):
    """What is kept is found by others."""
    async with opened(database_url) as models:
        await psql.execute("ALTER TABLE bbio_notices RENAME TO elsewhere")
        with pytest.raises(Unavailable):
            await models.store.control.tell(Notice("a", "revoke"))
        await psql.execute("ALTER TABLE elsewhere RENAME TO bbio_notices")
        ask = models.store._database.ask

        async def deaf(statement, *values, timeout=None):
            if "pg_notify" in statement:
                raise Unavailable("no place for notifications")
            return await ask(statement, *values, timeout=timeout)

        models.store._database.ask = deaf
        await models.store.control.tell(Notice("a", "revoke"))
        assert await psql.fetchval("SELECT count(*) FROM bbio_notices") == 1
