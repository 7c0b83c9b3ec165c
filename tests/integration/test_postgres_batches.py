"""How much a batch of writes asks of PostgreSQL, and that nothing is lost where it asks for less."""

from __future__ import annotations

import asyncio

import attrs
import pytest

from bbio.builtin.postgres import store as postgres
from bbio.builtin.postgres.database import REPLANNED
from tests.support.large import LARGE, patch_large
from tests.support.postgres import log, opened, processes
from tests.support.servers import eventually

pytestmark = pytest.mark.once  # what is asked is what PostgreSQL does, not a Python


@attrs.define
class Bare:
    """A model that is nothing but its id."""


async def statements(models, *writes) -> list[str]:
    """How the statements begin that it takes to make writes together."""
    asked: list[str] = []

    def note(record) -> None:
        asked.append(record.query.split()[0])

    # The only one, which the writes take too.
    async with models.store._database.connections.one() as connection:
        connection.add_query_logger(note)
    await asyncio.gather(*writes)
    async with models.store._database.connections.one() as connection:
        connection.remove_query_logger(note)
    return asked


async def test_a_batch_goes_few_times_to_postgres(database_url):
    async with opened(database_url, connections=1) as models:
        # With this the connection learns the types that it is told of.
        made = [await models.create({"n": 0}, op=f"cid:{n}") for n in range(3)]
        create = ["BEGIN;", "INSERT", "WITH", "COMMIT"]
        patch = ["BEGIN;", "WITH", "UPDATE", "WITH", "COMMIT"]
        assert await statements(models, *(models.create({"n": n}) for n in range(10))) == create
        with_operations = (models.create({"n": n}, op=f"ann:{n}") for n in range(10))
        assert await statements(models, *with_operations) == ["BEGIN;", "SELECT", *create[1:]]
        patches = (models.write("patch", {"id": one["id"], "n": 1}) for one in made)
        assert await statements(models, *patches) == patch
        with_operations = (
            models.write("patch", {"id": one["id"], "n": 2}, op=f"bob:{n}") for n, one in enumerate(made)
        )
        assert await statements(models, *with_operations) == [*patch[:2], "SELECT", *patch[2:]]
        assert len(await log(models)) == 3 + 10 + 10 + 3 + 3


@pytest.mark.parametrize("revisions", ["column", "beside"])
async def test_large_models_are_held_a_few_at_a_time(database_url, revisions):
    """Small patches, or reads, of many of them would else hold all of them at once; each has its turn, in order."""
    async with opened(database_url, models=LARGE, revisions=revisions, timeout=60.0) as models:
        await patch_large(models)
        together, reader = [], models.store._reader
        look_up = reader._work

        async def noted(jobs):
            left = await look_up(jobs)
            together.append(len(jobs) - len(left))
            return left

        reader._work = noted
        assert [model["n"] for model in await asyncio.gather(*map(models.read, range(10)))] == list(range(10, 20))
        assert together == [3, 3, 3, 1]


async def test_new_models_share_a_block_of_revisions(database_url, psql):
    """None is given twice, and what is written later has a later one, whoever writes it."""
    async with processes(database_url, 2) as (one, two):
        begin = await psql.fetchval("SELECT nextval('bbio_revisions')")
        made = []
        for _ in range(3):
            made += await asyncio.gather(*(one.write("create", {"n": n}) for n in range(400)))
        # Of a block of 1,000, two batches of 400 were given theirs.
        assert await psql.fetchval("SELECT last_value FROM bbio_revisions") == begin + 2_000
        made += await asyncio.gather(*(two.write("create", {"n": n}) for n in range(10)))
        assert len({commit.event.rev for commit in made}) == 1_210
        for commit in (made[0], made[-1]):
            id, revs = commit.record["id"], [commit.event.rev]
            for models in (two, one, two, one):
                revs.append((await models.write("patch", {"id": id, "n": -len(revs)})).event.rev)
            assert revs == sorted(set(revs))
            assert await one.revision(id) == revs[-1]


async def test_the_id_of_a_row_is_that_of_its_model(database_url, psql):
    """Whatever another program has written into the document, or has not."""
    async with opened(database_url) as models:
        await psql.execute(
            """INSERT INTO models (id, body) VALUES ('a', '{"id": "b", "n": 1}'), ('7', '{}'), ('"7"', '{"n": 2}')"""
        )
        assert [await models.read(id) for id in ("a", 7, "7")] == [{"id": "a", "n": 1}, {"id": 7}, {"id": "7", "n": 2}]
        for id in ("a", 7, "7"):
            patched = await models.write("patch", {"id": id, "n": 3})
            assert patched.record == await models.read(id) == {"id": id, "n": 3}
        gone = await models.write("delete", {"id": 7})
        assert gone.record == {"id": 7, "n": 3}
        assert await models.all() == [{"id": "7", "n": 3}, {"id": "a", "n": 3}]


async def test_a_trigger_may_give_another_id_and_take_fields_away(database_url, psql):
    async with opened(database_url) as models:
        await psql.execute(
            """CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN NEW.id := 7; NEW.body := NEW.body - 'secret'; RETURN NEW; END $$"""
        )
        await psql.execute("CREATE TRIGGER own BEFORE INSERT ON models FOR EACH ROW EXECUTE FUNCTION own()")
        made = await models.create({"n": 1, "secret": "x"})
        assert made == await models.read(7) == {"n": 1, "id": 7}


async def test_a_model_may_be_nothing_but_its_id(database_url):
    async with opened(database_url, Bare) as models:
        made = await models.create({})
        assert made == await models.read(made["id"]) == {"id": made["id"]}
        assert (await models.write("patch", {"id": made["id"]})).record == made
        assert (await models.write("delete", {"id": made["id"]})).record == made
        assert await models.all() == []


async def test_who_has_waited_for_a_stream_goes_on_from_where_it_is(database_url, psql, monkeypatch):
    """The place of an event is what the other one left, not what was before, whatever the isolation by default."""
    monkeypatch.setattr(postgres, "BATCH_ATTEMPTS", 1)
    async with opened(f"{database_url}?default_transaction_isolation=serializable") as models:
        await models.create({"n": 1})
        blocked = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        async with psql.transaction():
            await psql.execute("UPDATE bbio_streams SET top = top + 10, size = size + 1000, trimmed = top + 10")
            write = asyncio.ensure_future(models.write("create", {"n": 2}, op="ann:1"))
            await eventually(lambda: psql.fetchval(blocked))
        commit = await write
        assert commit.event.offset == 12
        assert await psql.fetchval("SELECT top FROM bbio_streams") == 12
        assert await psql.fetchval("SELECT size - 1000 FROM bbio_streams") == await psql.fetchval(
            "SELECT sum(octet_length(body)) FROM bbio_log"
        )
        assert await psql.fetch("SELECT position FROM bbio_log ORDER BY position") == [(1,), (12,)]
        assert (await models.write("create", {"n": 2}, op="ann:1")).event.offset == 12


async def test_what_was_planned_for_a_small_table_is_not_kept_once_it_has_grown(database_url, psql):
    """PostgreSQL itself would look again when it has counted the rows, a minute later at the earliest, or never."""
    async with opened(database_url, connections=1) as models:
        await psql.execute("ALTER TABLE models SET (autovacuum_enabled = off)")
        made = await asyncio.gather(*(models.create({"n": n}) for n in range(20)))

        async def patch() -> str:
            """How PostgreSQL finds the rows of an update at the moment."""
            await asyncio.gather(*(models.write("patch", {"id": one["id"], "n": one["n"] + 1}) for one in made))
            async with models.store._database.connections.one() as connection, connection.transaction():
                name = await connection.fetchval(
                    "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'UPDATE \"models\"%'"
                )
                await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
                plan = await connection.fetch(f"EXPLAIN EXECUTE {name} (NULL, NULL, NULL)")
            return "\n".join(line for (line,) in plan)

        assert "Seq Scan on models" in await patch()
        await psql.execute(
            "INSERT INTO models (id, rev, body) SELECT 'x' || n, 0, '{\"n\": 1}' FROM generate_series(1, 20000) n"
        )
        assert "Seq Scan on models" in await patch()
        for _ in range(REPLANNED):
            planned = await patch()
        assert "Index Scan using models_pkey" in planned
