"""How records were, in the log of a PostgresStore: what other programs write, other versions, and what is dropped."""

from __future__ import annotations

import attrs
import pytest

from bbio import HistoryLimits, field
from bbio.builtin.postgres.tables import MIGRATIONS
from bbio.was import RecordChange, change_of
from tests.support.postgres import install_triggers, log, opened

pytestmark = pytest.mark.once  # what is asked is what PostgreSQL does, not a Python

ROWS = "SELECT count(*) FROM bbio_was"


@attrs.define
class Issue:
    title: str = ""
    pin: str = field(private=True, default="")
    tags: list[str] = attrs.Factory(list)


async def changes(models, stream="*"):
    return [change_of(event) for event in await log(models, stream)]


@pytest.mark.parametrize("options", [{}, {"revisions": "beside"}], ids=["column", "beside"])
@pytest.mark.parametrize("model", [None, Issue], ids=["document", "columns"])
async def test_what_others_write_says_how_it_was(database_url, psql, model, options):
    """Also what is private, and what a statement makes of many rows or of a key."""
    options = {"model": model, "keeps_was": True, **options}
    async with opened(database_url, **options) as models:
        await install_triggers(database_url, **options)
        a, b, c = [
            (await models.write("create", {"title": title, "pin": "1", "tags": []})).record for title in ("a", "b", "c")
        ]
        if model is None:
            await psql.execute("""UPDATE models SET body = body || '{"pin": "2"}' WHERE body ->> 'title' <> 'c'""")
            await psql.execute("""UPDATE models SET body = '{"tags": [1.5]}' WHERE body ->> 'title' = 'a'""")
            left = {"id": a["id"], "tags": [1.5]}
        else:
            await psql.execute("UPDATE models SET pin = '2' WHERE title <> 'c'")
            await psql.execute("UPDATE models SET tags = '[\"x\"]', title = '' WHERE title = 'a'")
            left = {"id": a["id"], "title": "", "pin": "2", "tags": ["x"]}
        await psql.execute("UPDATE models SET id = 'new' WHERE id = $1", c["id"])
        await psql.execute("DELETE FROM models WHERE id = $1", b["id"])
        a2, b2, c2 = {**a, "pin": "2"}, {**b, "pin": "2"}, {**c, "id": "new"}
        found = await changes(models)
        assert sorted(found[:2], key=str) == sorted([RecordChange(a, a2), RecordChange(b, b2)], key=str)
        assert found[2:] == [
            RecordChange(a2, left),
            RecordChange(c, None),
            RecordChange(None, c2),
            RecordChange(b2, None),
        ]
        if model is not None:
            assert all(b"pin" not in event.body for event in await log(models, "*"))
        patched = (await models.write("patch", {"id": "new", "title": "d"})).record
        assert await changes(models, "c:") == [
            *(RecordChange(None, one) for one in (a, b, c)),
            RecordChange(c2, patched),
        ]


async def test_servers_of_an_earlier_version_do_not_say_it(database_url, psql):
    """They write beside others that do; each event says whether it is known. So do triggers that they have made."""
    await install_triggers(database_url)
    other = f"{database_url}?application_name=another"
    async with opened(database_url) as old, opened(other, keeps_was=True) as new:
        first = await new.create({"n": 1})
        second = (await old.write("patch", {**first, "n": 2})).record
        third = (await new.write("patch", {**first, "n": 3})).record
        assert await changes(new, "c:") == [RecordChange(None, first), None, RecordChange(second, third)]
        assert await changes(old, "c:") == [None] * 3
        await psql.execute("DELETE FROM models")
        assert await changes(new) == [None]


async def test_triggers_that_do_not_say_it_are_named(database_url, caplog):
    """The start asks for others."""
    async with opened(database_url):
        await install_triggers(database_url)
    async with opened(database_url, keeps_was=True):
        assert "run `bbio triggers MODULE:APP` again" in caplog.text


async def test_a_database_of_an_earlier_version_keeps_its_history(database_url, psql):
    """What is in it goes on; how its records were is not known."""
    async with opened(database_url) as models:
        first = await models.create({"n": 1})
        events = await log(models)
    await psql.execute(
        "DROP TABLE bbio_was; ALTER TABLE bbio_pending DROP COLUMN was; DROP FUNCTION bbio_was_of(jsonb, jsonb, jsonb);"
        "DROP TABLE bbio_notices; DROP FUNCTION bbio_tell_notice(text, text, double precision, integer);"
        "DROP TABLE bbio_consumers, bbio_consumer_positions, bbio_letters, bbio_bulks"
    )
    await psql.execute("UPDATE bbio_database SET version = $1", len(MIGRATIONS) - 4)
    async with opened(database_url, keeps_was=True) as models:
        second = (await models.write("patch", {**first, "n": 2})).record
        assert await changes(models, "c:") == [None, RecordChange(first, second)]
        assert (await log(models))[0].stamp == events[0].stamp


@pytest.mark.parametrize("history", [HistoryLimits(events=1), HistoryLimits(size=1), HistoryLimits(streams=0)])
async def test_it_is_dropped_with_its_events(database_url, psql, history):
    """Whatever limit drops them."""
    async with opened(database_url, keeps_was=True) as models:
        for n in range(3):
            await models.write("create", {"n": n}, channel="home")
        assert await psql.fetchval(ROWS) == 3
    async with opened(database_url, history=history) as models:
        await psql.execute("UPDATE bbio_streams SET trimmed = -1000")
        await models.store.tidy()
        assert await psql.fetchval(ROWS) == await psql.fetchval("SELECT count(*) FROM bbio_log") < 3


async def test_a_new_epoch_drops_it(database_url, psql):
    """With the events, and what is left of other programs."""
    async with opened(database_url, keeps_was=True) as models:
        await models.create({"n": 1})
        await psql.execute("SELECT bbio_begin_epoch()")
        assert await psql.fetchval(ROWS) == 0


async def test_nothing_is_kept_where_nobody_asks(database_url, psql):
    """Not a byte."""
    await install_triggers(database_url)
    async with opened(database_url) as models:
        await models.create({"n": 1})
        await psql.execute("UPDATE models SET body = '{}'")
        assert await psql.fetchval("SELECT count(was) FROM bbio_pending") == 0
        await log(models, "*")
        assert await psql.fetchval(ROWS) == 0
