"""Who sees what, live: random schedules in which records, permissions and connections come and go.

Each record carries a secret that is another one in each of its versions. The whole wire is searched: no packet holds
the secret of a version that its client might not see when it was sent, and none the id of a record that it never saw.
In the end each collection is the store, as far as its client may see it. The rules are those of docs/guarantees.md.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest

from bbio import App, Backend, Request, Store, visible
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.client import Handle
from bbio.errors import SyncError
from bbio.server.subscribers import Subscribers
from bbio.streams import Event, HistoryLimits
from bbio.testing.network import FakeConnection
from bbio.was import change_of
from tests.support.examples import examples

# Schedules: about twenty times as many with BBIO_SCHEDULES=2600.
SCHEDULES = int(os.environ.get("BBIO_SCHEDULES", examples(100)))
STEPS = 120
GROUPS = "abc"
USERS = 3
SECRET = re.compile(rb"secret-\d+")
ID = re.compile(rb"key-\d+")
MakeStore = Callable[["World", HistoryLimits], Store]


class World:
    """One schedule: an application, its clients, and what each of them may have been told.

    Parameters:
        make_store: makes the store, of a world and how much history it keeps.
        seed: what the schedule is made of.
    """

    def __init__(self, make_store: MakeStore, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.groups = {user: frozenset(chance.sample(GROUPS, chance.choice([1, 2]))) for user in range(USERS)}
        # The groups that a user has been in since its permissions were looked at for the last time.
        self.may = dict(self.groups)
        # The group of the version that holds a secret; the ids that a user may know.
        self.group_of: dict[bytes, str] = {}
        self.known: dict[int, set[bytes]] = defaultdict(set)
        self.leaks: list[str] = []
        self.secrets = self.keys = 0
        self.asked: list[asyncio.Task[Any]] = []
        self.app = App()
        world, may_leave = self, chance.random() < 0.5

        declared = make_store(self, HistoryLimits(events=chance.choice([3, 8, 1_000])))

        class Issues(Backend):
            store = declared

            @visible(may_leave=may_leave)
            async def scope(self, req: Request) -> Any:
                groups = world.groups[req.user["id"]]
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
                in_one = [{"group": {"$in": sorted(groups)}}, {"groups": {"$contains": "everybody"}}]
                return {"$or": in_one} if groups else False

        self.app.serve(Issues)

    def next_key(self) -> str:
        self.keys += 1
        return f"key-{self.keys}"

    def record(self, group: str) -> dict[str, Any]:
        """A new version of a record, in a group."""
        self.secrets += 1
        secret = f"secret-{self.secrets}"
        self.group_of[secret.encode()] = group
        return {"group": group, "text": secret, "done": self.chance.random() < 0.5}

    def sees(self, user: int, secret: bytes) -> bool:
        return self.group_of[secret] in self.may[user]

    def sent(self, connection: FakeConnection, text: bytes) -> None:
        """Look at a packet on its way to a client."""
        user, known = connection.user["id"], self.known[connection.user["id"]]
        self.leaks += [f"user {user}: {text!r}" for secret in SECRET.findall(text) if not self.sees(user, secret)]
        if text.startswith(b'[{"error"'):
            return  # it names what was asked for
        if text.startswith(b"[null,{"):  # the answer to a write of its own
            known.update(ID.findall(text))
        if not known.issuperset(ID.findall(text)):
            self.leaks.append(f"user {user} knows {sorted(known)}: {text!r}")

    def wrote(self, record: dict[str, Any]) -> None:
        """A write is committed: who may see what it came to may know its id."""
        for user, groups in self.may.items():
            if record["group"] in groups:
                self.known[user].add(record["id"].encode())

    # What happens

    def write(self, handle: Handle) -> None:
        chance, group = self.chance, self.chance.choice(GROUPS)
        key = f"key-{chance.randint(1, max(1, self.keys))}"
        method = chance.choice(["create", "update", "patch", "patch", "patch", "delete"])
        if method == "delete":
            self.ask(handle.delete(key))
        elif method == "create":
            self.ask(handle.create(self.record(group)))
        elif method == "update" or chance.random() < 0.6:
            self.ask(getattr(handle, method)({"id": key, **self.record(group)}))
        else:
            self.ask(handle.patch({"id": key, "done": chance.random() < 0.5}))

    def ask(self, work: Any) -> None:
        async def asked() -> None:
            with suppress(SyncError):
                await work

        self.asked.append(asyncio.ensure_future(asked()))

    async def change_groups(self) -> None:
        user = self.chance.randrange(USERS)
        self.groups[user] = frozenset(self.chance.sample(GROUPS, self.chance.choice([0, 1, 2])))
        self.may[user] |= self.groups[user]
        for record in await self.stored():
            self.wrote(record)

    async def recheck(self) -> None:
        asked = dict(self.groups)
        await self.app.backends["issues"].recheck()
        for user, groups in asked.items():
            self.may[user] = groups | self.groups[user]

    async def stored(self) -> list[dict[str, Any]]:
        """Everything, as the server itself sees it."""
        runtime = self.app.backends["issues"]
        res = await runtime.stacks["read"].run(Request("read", {}, {}, runtime.backend))
        return list(res.result)


async def run(make_store: MakeStore, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(make_store, seed)
    chance = world.chance
    tell, ack, publish = FakeConnection.tell, FakeConnection.ack, Subscribers.event

    def spied_tell(connection: FakeConnection, namespace: str, text: bytes) -> None:
        world.sent(connection, text)
        tell(connection, namespace, text)

    def spied_ack(connection: FakeConnection, socket: Any, ack_id: int, arguments: bytes) -> None:
        world.sent(connection, arguments)
        ack(connection, socket, ack_id, arguments)

    def spied_event(subscribers: Subscribers, event: Event, origin: Any = None) -> None:
        change = change_of(event)
        assert change is not None
        for record in filter(None, change):
            world.wrote(record)
        publish(subscribers, event, origin)

    with monkeypatch.context() as patched:
        patched.setattr(Subscribers, "event", spied_event)
        patched.setattr(FakeConnection, "tell", spied_tell)
        patched.setattr(FakeConnection, "ack", spied_ack)
        async with world.app.test(seed=seed) as t:
            handles = [t.connect(user={"id": n % USERS}).backend("issues") for n in range(5)]
            collections = [await handle.collection() for handle in handles]
            for _ in range(STEPS):
                step, handle = chance.random(), chance.choice(handles)
                if step < 0.45:
                    world.write(handle)
                elif step < 0.55:
                    t.cut(handle)
                elif step < 0.60:
                    t.hold(handle)
                elif step < 0.68:
                    t.release(handle)
                elif step < 0.72:
                    t.offline(handle)
                elif step < 0.78:
                    t.online(handle)
                elif step < 0.81:
                    t.drop_acks(1, handle)
                elif step < 0.82:
                    await t.restart()
                elif step < 0.88:
                    await world.change_groups()
                elif step < 0.92:
                    await world.recheck()
                else:
                    t.release()  # no time passes while one is held
                    await t.advance(chance.choice([0.0, 0.1, 2.0]))
                if chance.random() < 0.7:
                    await asyncio.sleep(0)
            t.heal()
            await world.recheck()
            await t.advance(60.0)
            await asyncio.gather(*world.asked)
            await t.settle(60.0)
            assert not world.leaks, world.leaks
            stored = {record["id"]: record for record in await world.stored()}
            for handle, collection in zip(handles, collections, strict=True):
                user = t._connection_of(handle).user["id"]
                seen = {key: record for key, record in stored.items() if record["group"] in world.groups[user]}
                assert dict(collection) == seen, f"user {user} in {sorted(world.groups[user])}"


async def run_all(make_store: MakeStore, seeds: Iterable[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in seeds:
        try:
            await run(make_store, seed, monkeypatch)
        except BaseException as err:
            err.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("part", range(4))
async def test_every_client_sees_what_it_may_and_nothing_else(part, monkeypatch):
    """Whatever is written, by whom, whoever's permissions change, and whatever the network does."""
    await run_all(
        lambda world, history: MemoryStore(ids=world.next_key, history=history),
        range(part, SCHEDULES, 4),
        monkeypatch,
    )


async def test_the_same_with_models_in_a_file(monkeypatch):
    """Fewer schedules: what is told is decided by the same code."""
    await run_all(
        lambda world, history: SQLiteStore("issues.db", ids=world.next_key, history=history),
        range(SCHEDULES // 20),
        monkeypatch,
    )


async def test_the_same_with_models_in_postgresql(postgres_server, monkeypatch):
    """Fewer schedules, each in a schema of its own."""

    def make_store(world: World, history: HistoryLimits) -> Store:
        monkeypatch.setattr("bbio.builtin.postgres.store._ids", lambda: iter(world.next_key, None))
        return PostgresStore(postgres_server, history=history)

    await run_all(make_store, range(SCHEDULES // 20), monkeypatch)
