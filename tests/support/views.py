"""Random schedules for views: records, permissions and connections come and go, and the whole wire is searched.

Each record carries a secret that is another one in each of its versions. No packet may hold the secret of a version
that its client might not see when it was sent, and none the id of a record that it never saw. A collection never goes
back to an earlier version. In the end each collection is the store, as far as its client may see it.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from bbio import App, Backend, Request, Store, visible
from bbio.builtin import MemoryStore
from bbio.client import Collection, Handle
from bbio.errors import SyncError
from bbio.server.gateway import Gateway
from bbio.server.subscribers import Subscribers
from bbio.streams import Event, HistoryLimits
from bbio.testing import Harness
from bbio.testing.network import FakeConnection
from bbio.was import change_of

GROUPS = "abc"
USERS = 3
CLIENTS = 5
SECRET = re.compile(rb"secret-\d+")
ID = re.compile(rb"key-\d+")
SYNCED = tuple(b'["synced","%b"' % method for method in (b"create", b"update", b"patch", b"delete"))
MakeStore = Callable[["World", HistoryLimits], Store]
# A bug made in the code, for one schedule.
Bug = Callable[["World", pytest.MonkeyPatch], None]


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
        # Those of before that time: a request is answered by what held when it began, if its client does not listen.
        self.might = dict(self.groups)
        # The group of the version that holds a secret; the ids that a user may know.
        self.group_of: dict[bytes, str] = {}
        self.known: dict[int, set[bytes]] = defaultdict(set)
        # All records that ever were, as they were last.
        self.latest: dict[str, dict[str, Any]] = {}
        # Where in the stream that was told.
        self.latest_at: dict[str, int] = {}
        # The revision of each version of a record, and that of the version that each collection has shown last.
        self.revs: dict[tuple[Any, Any], int] = {}
        self.shown: dict[tuple[int, Any], int] = {}
        self.wrong: list[str] = []
        # Packets with ids that nobody had told of, where a read may find what is committed and about to be told.
        self.early: list[tuple[int, bytes]] = []
        self.numbers = self.keys = 0
        self.asked: list[asyncio.Task[Any]] = []
        # How often an event is lost on its way, as a broken proxy does it: in some schedules, at their end.
        self.loss = 0.0
        # Who hears nothing any more, as its connection is about to be lost.
        self.unheard: FakeConnection | None = None
        self.may_leave, self.history = chance.random() < 0.7, HistoryLimits(events=chance.choice([3, 8, 1_000]))
        self.deltas = seed % 2 == 1
        # Whether permissions cannot change between the beginning of a write and its commit.
        self.is_immediate = False
        self.app = self.served(make_store)

    def served(self, make_store: MakeStore) -> App:
        """An application that serves the records."""
        world, chance, declared = self, self.chance, make_store(self, self.history)
        self.is_immediate = isinstance(declared, MemoryStore)

        class Issues(Backend):
            store = declared
            deltas = world.deltas

            @visible(may_leave=world.may_leave)
            async def scope(self, req: Request) -> Any:
                said = world.scope(req.user["id"])
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
                return said

        return App().serve(Issues)

    def harness(self, seed: int) -> Harness:
        """What the clients are tested with."""
        return self.app.test(seed=seed)

    def scope(self, user: int) -> Any:
        """What a user may see, as the application says it."""
        groups = self.groups[user]
        return (
            {"$or": [{"group": {"$in": sorted(groups)}}, {"groups": {"$contains": "everybody"}}]} if groups else False
        )

    def next_key(self) -> str:
        self.keys += 1
        return f"key-{self.keys}"

    def record(self, group: str) -> dict[str, Any]:
        """A new version of a record, in a group."""
        number = self.number()
        secret = f"secret-{number}"
        self.group_of[secret.encode()] = group
        return {"group": group, "text": secret, "n": number}

    def number(self) -> int:
        """Another number for each version, so that versions can be told apart."""
        self.numbers += 1
        return self.numbers

    # What is seen

    def sent(self, connection: FakeConnection, text: bytes, *, listens: bool = True) -> None:
        """Look at a packet on its way to a client."""
        user, known = connection.user["id"], self.known[connection.user["id"]]
        seen = self.may[user] if listens else self.may[user] | self.might[user]
        self.wrong += [f"user {user}: {text!r}" for secret in SECRET.findall(text) if self.group_of[secret] not in seen]
        if text.startswith(b'[{"error"'):
            return  # it names what was asked for
        if text.startswith(b"[null,{"):  # the answer to a write of its own, or to a read of one record
            known.update(ID.findall(text)[:1])
        if not known.issuperset(ID.findall(text)):
            self.tells_unknown(user, text)

    def tells_unknown(self, user: int, text: bytes) -> None:
        """A packet names a record that its client has never seen. Databases commit before the server hears of it."""
        if self.is_immediate:
            self.wrong.append(f"user {user} knows {sorted(self.known[user])}: {text!r}")
        else:
            self.early.append((user, text))

    def wrote(self, record: dict[str, Any]) -> None:
        """A write is committed: who may see what it came to may know its id."""
        for user, groups in self.may.items():
            if record["group"] in groups:
                self.known[user].add(record["id"].encode())

    def shows(self, collection: Collection) -> None:
        """Look whether what a collection shows is older than what it has shown."""
        for key, record in collection.items():
            before = self.shown.get((id(collection), key), 0)
            rev = self.shown[id(collection), key] = self.revs.get((key, record.get("n")), before)
            if rev < before:
                self.wrong.append(f"a page went back from revision {before} to {record!r}")
            if not {"group", "n"} <= record.keys():
                self.wrong.append(f"a page shows a part of a record: {record!r}")

    # What happens

    def write(self, handle: Handle) -> None:
        chance, group = self.chance, self.chance.choice(GROUPS)
        key = f"key-{chance.randint(max(1, self.keys - 6), max(1, self.keys))}"
        method = chance.choice(["create", "create", "update", "patch", "patch", "patch", "delete"])
        rev = chance.randint(1, 40) if chance.random() < 0.2 else None
        if method == "delete":
            self.ask(handle.delete(key))
        elif method == "create":
            self.ask(handle.create(self.record(group)))
        elif method == "update" or chance.random() < 0.6:
            self.ask(getattr(handle, method)({"id": key, **self.record(group)}, rev=rev))
        else:
            number = self.number()
            self.ask(handle.patch({"id": key, "n": number, "$append": {"log": f" {number}"}}, rev=rev))

    def read(self, handle: Handle) -> None:
        key = f"key-{self.chance.randint(1, max(1, self.keys))}"
        self.ask(handle.query(self.page(None)) if self.chance.random() < 0.5 else handle.read(key))

    @staticmethod
    def page(cursor: str | None) -> dict[str, Any]:
        return {"sort": "-text", "limit": 2, "count": True, **({} if cursor is None else {"cursor": cursor})}

    def ask(self, work: Any) -> None:
        async def asked() -> None:
            with suppress(SyncError):
                await work

        self.asked.append(asyncio.ensure_future(asked()))

    def change_groups(self, user: int, groups: frozenset[str]) -> None:
        self.groups[user] = groups
        self.may[user] |= groups
        for record in self.latest.values():
            self.wrote(record)

    def gateways(self) -> list[Gateway]:
        """Those of all servers."""
        return [self.app.gateway]

    async def recheck(self) -> None:
        asked = dict(self.groups)
        await self.look_again()
        self.might = dict(self.may)
        for user, groups in asked.items():
            self.may[user] = groups | self.groups[user]

    async def look_again(self) -> None:
        """Have every server look at permissions."""
        await self.app.backends["issues"].recheck()

    async def stored(self) -> list[dict[str, Any]]:
        """Everything, as the server itself sees it."""
        runtime = self.app.backends["issues"]
        res = await runtime.stacks["read"].run(Request("read", {}, {}, runtime.backend))
        return list(res.result)

    # The schedule

    def spy(self, patched: pytest.MonkeyPatch) -> None:
        """See what is committed, what is sent, and what collections take."""
        tell, ack, publish = FakeConnection.tell, FakeConnection.ack, Subscribers.event
        take, replace = Collection._take, Collection._replace

        def spied_tell(connection: FakeConnection, namespace: str, text: bytes) -> None:
            self.sent(connection, text)
            if connection is not self.unheard and not (text.startswith(SYNCED) and self.chance.random() < self.loss):
                tell(connection, namespace, text)

        def spied_ack(connection: FakeConnection, socket: Any, ack_id: int, arguments: bytes) -> None:
            if socket.connection is connection._connection:  # what answers a connection that is gone is not sent
                self.sent(connection, arguments, listens=bool(socket.scopes))
            if connection is not self.unheard:
                ack(connection, socket, ack_id, arguments)

        def spied_event(subscribers: Subscribers, event: Event, origin: Any = None) -> None:
            change = change_of(event)
            if change is None:
                assert origin is None, "whoever commits an event knows how its record was"
                publish(subscribers, event, origin)
                return
            for record in filter(None, change):
                self.wrote(record)
                # Another server may tell of it later than this one of what came after.
                if event.offset >= self.latest_at.get(record["id"], 0):
                    self.latest[record["id"]] = record
                    self.latest_at[record["id"]] = event.offset
            if self.is_immediate and origin is not None and change.before is not None:
                user = origin.peer.user["id"]
                if change.before["group"] not in self.may[user]:
                    self.wrong.append(f"user {user} changed {change.before!r}")
            if change.after is not None and event.rev is not None:
                self.revs[change.after["id"], change.after["n"]] = event.rev
            publish(subscribers, event, origin)

        def spied_take(collection: Collection, *args: Any) -> None:
            take(collection, *args)
            self.shows(collection)

        def spied_replace(collection: Collection, *args: Any, **options: Any) -> None:
            replace(collection, *args, **options)
            self.shows(collection)

        patched.setattr(Subscribers, "event", spied_event)
        patched.setattr(FakeConnection, "tell", spied_tell)
        patched.setattr(FakeConnection, "ack", spied_ack)
        patched.setattr(Collection, "_take", spied_take)
        patched.setattr(Collection, "_replace", spied_replace)

    async def step(self, t: Any, handles: list[Handle]) -> None:
        chance, step, handle = self.chance, self.chance.random(), self.chance.choice(handles)
        user = chance.randrange(USERS)
        if step < 0.43:
            self.write(handle)
        elif step < 0.46:
            self.read(handle)
        elif step < 0.55:
            t.cut(handle)
        elif step < 0.60:
            t.hold(handle)
        elif step < 0.68:
            t.release(handle)
        elif step < 0.72:
            t.offline(handle)
        elif step < 0.77:
            t.online(handle)
        elif step < 0.81:
            t.drop_acks(1, handle)
        elif step < 0.82:
            await t.restart()
        elif step < 0.86:
            self.change_groups(user, frozenset(chance.sample(GROUPS, chance.choice([0, 1, 2]))))
        elif step < 0.88:
            await self.in_passing(user, handles)
        elif step < 0.91:
            await self.overtaken(t, handle, handles)
        elif step < 0.93:
            await self.recheck()
        else:
            t.release()  # no time passes while one is held
            await t.advance(chance.choice([0.0, 0.1, 2.0]))

    async def in_passing(self, user: int, handles: list[Handle]) -> None:
        """Somebody is let in or out for a moment, writes, and nobody looks at permissions meanwhile."""
        groups, handle = self.groups[user], handles[user]
        self.change_groups(user, frozenset(self.chance.sample(GROUPS, 1)))
        for _ in range(4):
            self.write(handle)
            await asyncio.sleep(0)
        await self.rounds()
        self.groups[user] = groups

    async def overtaken(self, t: Any, handle: Handle, handles: list[Handle]) -> None:
        """The answer to a create is lost with the connection, and what was made goes on without its maker."""
        t.release()
        self.unheard = t._connection_of(handle)
        self.ask(handle.create(self.record(self.chance.choice(GROUPS))))
        await self.rounds()
        t.offline(handle)
        self.unheard = None
        if self.chance.random() < 0.5:  # then it reads everything when it comes back
            self.change_groups(handles.index(handle) % USERS, frozenset(self.chance.sample(GROUPS, 2)))
        for other in self.chance.sample(handles, 3):
            self.write(other)
            self.ask(other.delete(f"key-{self.keys}"))
        await self.rounds()
        t.online(handle)

    async def lose(self, t: Any, handles: list[Handle]) -> None:
        """Events are lost, and nothing else: what tells how many there were shows it."""
        await t.advance(60.0)
        await t.settle(60.0)
        self.loss = 0.3
        for handle in handles:
            self.write(handle)
            await self.rounds()
        await t.settle(60.0)
        self.loss = 0.0

    @staticmethod
    async def rounds() -> None:
        """Let everything run that can."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def check(self, t: Any, handles: list[Handle], collections: list[Collection]) -> None:
        """In the end everybody has what it may see, in pages too, and has been told nothing else."""
        self.wrong += [
            f"user {user} knows {sorted(self.known[user])}: {text!r}"
            for user, text in self.early
            if not self.known[user].issuperset(ID.findall(text))
        ]
        assert not self.wrong, self.wrong
        stored = {record["id"]: record for record in await self.stored()}
        for n, (handle, collection) in enumerate(zip(handles, collections, strict=True)):
            user = n % USERS
            seen = {key: record for key, record in stored.items() if record["group"] in self.groups[user]}
            assert dict(collection) == seen, f"user {user} in {sorted(self.groups[user])}"
            if n == self.numbers % CLIENTS:
                page, found = await handle.query(self.page(None)), []
                assert page.total == len(seen)
                while found := found + [record["id"] for record in page.models]:
                    if page.next is None:
                        break
                    page = await handle.query(self.page(page.next))
                assert sorted(found) == sorted(seen)
        assert not self.wrong, self.wrong


async def run(
    make_store: MakeStore,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    bug: Bug | None = None,
    make_world: Callable[[MakeStore, int], World] = World,
) -> None:
    """Run one schedule.

    Parameters:
        make_store: makes the store.
        seed: what the schedule is made of.
        monkeypatch: undone for what is seen, and for the bug.
        steps: how many steps it has.
        bug: a bug to make in the code.
        make_world: makes the world, of a maker of stores and a seed.
    """
    world = make_world(make_store, seed)
    with monkeypatch.context() as patched:
        world.spy(patched)
        if bug is not None:
            bug(world, patched)
        async with world.harness(seed) as t:
            handles = [t.connect(user={"id": n % USERS}).backend("issues") for n in range(CLIENTS)]
            collections = [await handle.collection() for handle in handles]
            for _ in range(steps):
                await world.step(t, handles)
                if world.chance.random() < 0.7:
                    await asyncio.sleep(0)
            if world.chance.random() < 0.3:
                await world.overtaken(t, world.chance.choice(handles), handles)
            t.heal()
            await world.recheck()
            if world.chance.random() < 0.3:
                await world.lose(t, handles)
            await t.advance(60.0)
            await asyncio.gather(*world.asked)
            for gateway in world.gateways():
                for subscribers in gateway.subscribers.values():
                    subscribers.expire()  # a lost event shows
            await t.settle(60.0)
            await world.check(t, handles, collections)
