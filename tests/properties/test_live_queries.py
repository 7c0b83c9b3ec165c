"""Live queries and pages that stay pages, in random schedules: each collection is the store, as far as it asked for.

Half of the backends have a scope too, which changes. Some clients have one collection, some several with other queries
in the same channel, some read events beside; queries change, also while there is no connection.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest

from bbio import App, Backend, Request, Store, visible
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.client.collection import Collection
from bbio.errors import SyncError
from bbio.query import Query
from bbio.streams import HistoryLimits
from tests.support.examples import examples

# Schedules: about twenty times as many with BBIO_SCHEDULES=2600.
SCHEDULES = int(os.environ.get("BBIO_SCHEDULES", examples(100)))
STEPS = 100
GROUPS = "abc"
MakeStore = Callable[[HistoryLimits], Store]


class World:
    """One schedule: an application, who may have what, and what its clients do.

    Parameters:
        make_store: makes the store, of how much history it keeps.
        seed: what the schedule is made of.
    """

    def __init__(self, make_store: MakeStore, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.is_scoped = chance.random() < 0.5
        self.groups = [frozenset(chance.sample(GROUPS, 2)) for _ in range(2)]
        self.asked: list[asyncio.Task[Any]] = []
        self.keys: list[str] = []
        declared = make_store(HistoryLimits(events=chance.choice([3, 10, 1_000])))

        class Base(Backend):
            store = declared
            live_queries = seed % 5 > 0
            deltas = seed // 2 % 2 == 1

        class Scoped(Base):
            @visible(may_leave=True)
            async def scope(backend, req: Request) -> Any:
                return {"group": {"$in": sorted(self.groups[req.user["id"]])}}

        self.app = App().serve(issues=Scoped if self.is_scoped else Base)

    def condition(self) -> dict[str, Any]:
        chance = self.chance
        return chance.choice(
            [
                {"group": chance.choice(GROUPS)},
                {"group": {"$in": chance.sample(GROUPS, 2)}},
                {"n": {"$lt": chance.randint(1, 9)}},
                {"n": {"$ne": chance.randint(0, 9)}},
                {"tags": {"$contains": chance.choice("xy")}},
                {"name": {"$like": chance.choice(["a%", "%b", "a_"])}},
                {"done": False},
            ]
        )

    def query(self) -> dict[str, Any]:
        chance = self.chance
        query: dict[str, Any] = {}
        if chance.random() < 0.9:
            query |= self.condition()
        if chance.random() < 0.3:
            query |= self.condition()
        if chance.random() < 0.2:
            query["$or"] = [self.condition(), self.condition()]
        if chance.random() < 0.6:
            query["limit"] = chance.randint(1, 5)
            query["sort"] = chance.choice(["n", "-n", ["group", "-n"], "name", "-name", "done"])
        return query

    def record(self) -> dict[str, Any]:
        chance = self.chance
        record: dict[str, Any] = {
            "group": chance.choice(GROUPS),
            "n": chance.randint(0, 9),
            "tags": chance.sample("xyz", 2),
            "done": chance.random() < 0.5,
            "name": chance.choice(["a", "ab", "bb", None, 3]),
        }
        return {name: value for name, value in record.items() if chance.random() < 0.8}

    def write(self, handle: Any) -> None:
        chance = self.chance
        method = chance.choice(["create", "create", "update", "patch", "patch", "patch", "delete"])
        key = chance.choice(self.keys) if self.keys else "none"
        if method == "create":
            self.ask(self.create(handle))
        elif method == "delete":
            self.ask(handle.delete(key))
        else:
            record = {"id": key, **self.record()}
            if method == "patch" and "name" not in record:
                record["$append"] = {"name": "b"}
            self.ask(getattr(handle, method)(record))

    async def create(self, handle: Any) -> None:
        made = await handle.create(self.record())
        self.keys.append(made["id"])

    def ask(self, work: Any) -> None:
        async def asked() -> None:
            with suppress(SyncError):
                await work

        self.asked.append(asyncio.ensure_future(asked()))

    async def stored(self) -> list[dict[str, Any]]:
        """Everything, as the server itself sees it."""
        runtime = self.app.backends["issues"]
        res = await runtime.stacks["read"].run(Request("read", {}, {}, runtime.backend))
        return list(res.result)

    def expected(self, stored: list[dict[str, Any]], user: int, data: dict[str, Any]) -> list[dict[str, Any]]:
        seen = [each for each in stored if not self.is_scoped or each.get("group") in self.groups[user]]
        models: list[dict[str, Any]] = Query.read(data).page(seen).models
        return models


async def run(make_store: MakeStore, seed: int) -> None:
    world = World(make_store, seed)
    chance = world.chance
    async with world.app.test(seed=seed) as t:
        users = [n % 2 for n in range(4)]
        handles = [t.connect(user={"id": user}).backend("issues") for user in users]
        asks: dict[int, dict[str, Any]] = {}
        collections: list[tuple[int, Collection[Any]]] = []

        async def open_one(client: int) -> None:
            query = world.query()
            collection = await handles[client].collection(data=query)
            asks[id(collection)] = query
            collections.append((client, collection))

        for client in range(4):
            for _ in range(chance.choice([1, 1, 1, 2])):
                await open_one(client)
        readers = [handles[0].events()] if chance.random() < 0.2 else []
        for _ in range(STEPS):
            step, handle = chance.random(), chance.choice(handles)
            if step < 0.50:
                world.write(handle)
            elif step < 0.58:
                t.cut(handle)
            elif step < 0.62:
                t.hold(handle)
            elif step < 0.70:
                t.release(handle)
            elif step < 0.73:
                t.offline(handle)
            elif step < 0.78:
                t.online(handle)
            elif step < 0.80:
                t.drop_acks(1, handle)
            elif step < 0.81:
                await t.restart()
            elif step < 0.84:
                world.groups[chance.randrange(2)] = frozenset(chance.sample(GROUPS, chance.choice([1, 2])))
                await world.app.backends["issues"].recheck()
            elif step < 0.88:
                _, collection = chance.choice(collections)
                asks[id(collection)] = world.query()
                world.ask(collection.set_query(asks[id(collection)]))
            else:
                t.release()  # no time passes while one is held
                await t.advance(chance.choice([0.0, 0.1, 2.0]))
            if chance.random() < 0.7:
                await asyncio.sleep(0)
        t.heal()
        await world.app.backends["issues"].recheck()
        await t.advance(60.0)
        await asyncio.gather(*world.asked)
        await t.settle(60.0)
        await t.advance(60.0)
        await t.settle(60.0)
        stored = await world.stored()
        for client, collection in collections:
            query = asks[id(collection)]
            expected = world.expected(stored, users[client], query)
            shown = list(collection.values())
            if "limit" not in query:
                expected, shown = (sorted(models, key=lambda model: str(model["id"])) for models in (expected, shown))
            assert shown == expected, f"client {client} asked for {query}"
        for reader in readers:
            reader.close()


async def run_all(make_store: MakeStore, seeds: Iterable[int]) -> None:
    for seed in seeds:
        try:
            await run(make_store, seed)
        except BaseException as err:
            err.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("part", range(2))
async def test_every_collection_is_what_it_asked_for(part):
    """Whatever is written, whatever is asked for, and whatever the network does."""
    await run_all(lambda history: MemoryStore(history=history), range(part, SCHEDULES, 2))


async def test_the_same_with_models_in_a_file():
    """Fewer schedules: what is told is decided by the same code."""
    await run_all(lambda history: SQLiteStore("issues.db", history=history), range(SCHEDULES // 20))


async def test_the_same_with_models_in_postgresql(postgres_server):
    """Fewer schedules, each in a schema of its own."""
    await run_all(lambda history: PostgresStore(postgres_server, history=history), range(SCHEDULES // 20))
