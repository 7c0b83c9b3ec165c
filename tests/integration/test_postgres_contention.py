"""Another program and bbio write the same rows at the same time, beside triggers: deadlocks, stricter isolation."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from bbio import Unavailable
from bbio.builtin.postgres import store as postgres
from bbio.protocol import decode
from tests.support.postgres import install_triggers, log, opened
from tests.support.servers import eventually

pytestmark = pytest.mark.once  # what is asked is what PostgreSQL does, not a Python

ROUNDS = 15
CHANGE = "UPDATE models SET body = body || $2::jsonb WHERE id = $1"


@pytest.fixture
async def programs(database_url):
    """Two connections of other programs, which do not end a deadlock themselves."""
    connections = [await asyncpg.connect(f"{database_url}?deadlock_timeout=60s") for _ in range(2)]
    yield connections
    for connection in connections:
        await connection.close()


async def waiting(psql, count=1):
    """Wait until so many sessions wait for others."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    async def are_waiting():
        return await psql.fetchval(asked) == count

    await eventually(are_waiting)


async def pair(models):
    """Two models, in the order in which they are locked."""
    return sorted([(await models.create({}))["id"] for _ in "ab"])


def both(models, pair, number):
    """Patches of two models that share a transaction."""
    return asyncio.gather(*(models.write("patch", {"id": id, "bbio": number}) for id in pair), return_exceptions=True)


async def told(models):
    """The models as the log of their channel says, after seeing that it has no hole and revisions grow."""
    state, revs = {}, {}
    events = await log(models)
    assert [event.offset for event in events] == list(range(1, len(events) + 1))
    for event in events:
        body = decode(event.body)
        assert event.rev > revs.get(body["id"], 0)
        state[body["id"]], revs[body["id"]] = body, event.rev
    return state


@pytest.mark.parametrize("victim", ["bbio", "program"])
async def test_a_deadlock_ends_well(database_url, psql, programs, victim):
    """Whoever PostgreSQL chooses: bbio tries again, and of what a program had to take back nothing is told."""
    await install_triggers(database_url, per_channel=True)
    patience = {"bbio": "1s", "program": "60s"}[victim]
    async with opened(f"{database_url}?deadlock_timeout={patience}", per_channel=True) as models:
        first, second = await pair(models)
        program = programs[0]
        await program.execute(f"SET deadlock_timeout = '{'60s' if victim == 'bbio' else '10ms'}'; BEGIN")
        await program.execute(CHANGE, second, '{"program": 1}')
        writes = both(models, (first, second), 1)
        await waiting(psql)
        if victim == "bbio":
            await program.execute(CHANGE, first, '{"program": 1}')
            await program.execute("COMMIT")
        else:
            with pytest.raises(asyncpg.DeadlockDetectedError):
                await program.execute(CHANGE, first, '{"program": 1}')
            await program.execute("ROLLBACK")
        state = {"bbio": 1, **({"program": 1} if victim == "bbio" else {})}
        commits = await writes
        assert [commit.record for commit in commits] == [{"id": id, **state} for id in (first, second)]
        assert await models.all() == [{"id": id, **state} for id in (first, second)]
        assert await told(models) == {id: {"id": id, **state} for id in (first, second)}
        assert len(await log(models)) == (6 if victim == "bbio" else 4)


async def test_whom_others_always_forestall_is_told_to_come_again(database_url, psql, programs, monkeypatch, caplog):
    """Nothing of it is written; that is no outage, and all that others wrote is told."""
    monkeypatch.setattr(postgres, "BATCH_ATTEMPTS", 2)
    await install_triggers(database_url, per_channel=True)
    async with opened(f"{database_url}?deadlock_timeout=1s", per_channel=True) as models:
        first, second = await pair(models)
        one, two = programs
        await one.execute("BEGIN")
        await one.execute(CHANGE, second, '{"program": 1}')
        # It comes next, before bbio can try again, which waits last: PostgreSQL looks for a deadlock once in each wait.
        await two.execute("BEGIN")
        next_one = asyncio.ensure_future(two.execute(CHANGE, second, '{"program": 2}'))
        await waiting(psql)
        writes = both(models, (first, second), 1)
        await waiting(psql, 2)
        await one.execute(CHANGE, first, '{"program": 1}')
        await one.execute("COMMIT")
        await next_one
        await waiting(psql)
        await two.execute(CHANGE, first, '{"program": 2}')
        await two.execute("COMMIT")
        refused = await writes
        assert [type(error) for error in refused] == [Unavailable, Unavailable]
        assert "others wrote" in str(refused[0])
        assert refused[0].retry_after
        assert "DeadlockDetectedError 40P01" in caplog.text
        assert "cannot be used" not in caplog.text
        state = {id: {"id": id, "program": 2} for id in (first, second)}
        assert await told(models) == state
        assert await models.all() == list(state.values())
        await both(models, (first, second), 2)
        assert {model["bbio"] for model in await models.all()} == {2}


async def test_the_isolation_of_the_database_is_not_taken_over(database_url, psql, monkeypatch):
    """A write that has waited for another program's goes on with what that has written, at its first attempt."""
    monkeypatch.setattr(postgres, "BATCH_ATTEMPTS", 1)
    async with opened(f"{database_url}?default_transaction_isolation=serializable") as models:
        milk = await models.create({})
        async with psql.transaction():
            await psql.execute(CHANGE, milk["id"], '{"program": 1}')
            write = asyncio.ensure_future(models.write("patch", {"id": milk["id"], "bbio": 1}))
            await waiting(psql)
        assert (await write).record == {**milk, "program": 1, "bbio": 1}


async def test_nobody_starves(database_url):
    """A program that goes through the rows in the other order, again and again, and bbio both get ahead."""
    await install_triggers(database_url, per_channel=True)
    quick = f"{database_url}?deadlock_timeout=10ms"
    async with opened(quick, per_channel=True, timeout=20.0) as models:
        first, second = await pair(models)

        async def program():
            connection = await asyncpg.connect(quick)
            for number in range(1, ROUNDS + 1):
                while True:
                    try:
                        async with connection.transaction():
                            for id in (second, first):
                                await connection.execute(CHANGE, id, f'{{"program": {number}}}')
                        break
                    except asyncpg.DeadlockDetectedError:
                        continue
            await connection.close()

        async def server():
            number = 1
            while number <= ROUNDS:
                outcomes = await both(models, (first, second), number)
                assert {type(outcome).__name__ for outcome in outcomes} <= {"Commit", "Unavailable"}
                number += all(not isinstance(outcome, Unavailable) for outcome in outcomes)

        await asyncio.gather(program(), server())
        state = {id: {"id": id, "bbio": ROUNDS, "program": ROUNDS} for id in (first, second)}
        assert await told(models) == state
        assert await models.all() == list(state.values())


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_programs_that_write_two_tables_in_opposite_order(database_url, psql, programs, isolation):
    """Where they touch no row of each other's, the triggers have neither wait for the other."""
    for table in ("models", "others"):
        await install_triggers(database_url, table=table)
        await psql.execute(f"INSERT INTO {table} (id, body) VALUES ('0', '{{}}'), ('1', '{{}}')")
    async with opened(database_url) as models, opened(database_url, table="others") as others:
        begun = [program.transaction(isolation=isolation) for program in programs]
        for program, transaction in zip(programs, begun, strict=True):
            await program.execute("SET lock_timeout = '1s'")
            await transaction.start()
        for turn in range(2):
            for number, program in enumerate(programs):
                table = ("models", "others")[(number + turn) % 2]
                await program.execute(f"UPDATE {table} SET body = '{{\"n\": {number}}}' WHERE id = '{number}'")
        for transaction in begun:
            await transaction.commit()
        for store in (models, others):
            events = [decode(event.body) for event in await log(store, "*")][2:]
            assert sorted(events, key=str) == [{"id": 0, "n": 0}, {"id": 1, "n": 1}]


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_a_program_that_must_begin_again(database_url, programs, isolation):
    """A row that it has seen was changed by bbio meanwhile: nothing that it takes back is told, its repetition is."""
    await install_triggers(database_url, per_channel=True)
    program = programs[0]
    async with opened(database_url, per_channel=True) as models:
        milk = await models.create({"n": 0})

        async def order(meanwhile):
            async with program.transaction(isolation=isolation):
                await program.execute("INSERT INTO models (channel, id, body) VALUES ('', 'order', '{}')")
                seen = decode(await program.fetchval("SELECT body::text FROM models WHERE id = $1", milk["id"]))
                await meanwhile
                await program.execute(CHANGE, milk["id"], f'{{"n": {seen["n"] + 1}}}')

        with pytest.raises(asyncpg.SerializationError):
            await order(models.write("patch", {"id": milk["id"], "n": 5}))
        assert await told(models) == {milk["id"]: {"id": milk["id"], "n": 5}}
        await order(asyncio.sleep(0))
        assert [(event.method, decode(event.body).get("n")) for event in await log(models)] == [
            ("create", 0),
            ("update", 5),
            ("create", None),
            ("update", 6),
        ]
        assert (await models.read(milk["id"]))["n"] == 6
