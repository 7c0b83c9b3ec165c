"""What keeps presence: the one of a process that is alone, and the interface that several processes can share.

`Leased` is what the interface asks of one that is shared, in one process: leases, sweeps, lost messages. Whole servers
over it show that the clients of all see each other, and that a server which is killed leaves nobody behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from msgspec import structs

from bbio import App, Backend, Limits, presence
from bbio.builtin import MemoryStore
from bbio.cluster.local import LocalPresence
from bbio.cluster.presence import BEAT_SECONDS, LEASE_SECONDS, Entry, HeardPresence, Presence, Topic
from bbio.testing import Clock

ENTRY = Entry(("todos", "home"), "1", "ann", b"{}", b"{}", 1.0)


class Heard:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def put(self, entry: Entry) -> None:
        self.calls.append(("put", entry))

    def remove(self, entry: Entry, *, lingers: bool) -> None:
        self.calls.append(("remove", entry, lingers))

    def gone(self, process: str) -> None:
        self.calls.append(("gone", process))

    def only(self, topic: Topic, entries: Iterable[Entry]) -> None:
        self.calls.append(("only", topic, list(entries)))


async def test_who_is_alone_hears_of_its_own():
    """At once, and that all are gone in the end; what comes before the start or after the end is nothing."""
    local, heard = LocalPresence(), Heard()
    await local.stop()
    local.put(ENTRY)
    await local.start(heard)
    local.follow(ENTRY.topic)
    local.put(ENTRY)
    local.remove(ENTRY, lingers=True)
    local.unfollow(ENTRY.topic)
    await local.stop()
    local.put(ENTRY)
    local.remove(ENTRY, lingers=False)
    assert heard.calls == [("put", ENTRY), ("remove", ENTRY, True), ("gone", "")]
    assert ENTRY.place == ("", "1")
    assert LocalPresence().secret != local.secret


class Shared:
    """What the processes share: entries by incarnation, and until when each incarnation is alive."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.names = itertools.count()
        self.leases: dict[str, float] = {}
        self.entries: dict[str, dict[tuple[Topic, str], Entry]] = {}
        self.processes: list[Leased] = []

    def sweep(self, process: str) -> None:
        """Remove what a dead incarnation has left, and tell all."""
        del self.leases[process], self.entries[process]
        for each in list(self.processes):
            if each.name != process:
                each.heard.gone(process)


class Leased:
    """One process of those that share it; `killed` is what SIGKILL makes of it."""

    secret = b"shared by all"

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.topics: set[Topic] = set()
        self.killed = False
        self.is_deaf = False

    async def start(self, heard: HeardPresence) -> None:
        self.heard = heard
        self.renew()
        self.shared.processes.append(self)
        self.beat()

    def renew(self) -> None:
        self.name = f"incarnation {next(self.shared.names)}"
        self.shared.entries[self.name] = {}
        self.shared.leases[self.name] = self.shared.clock.time() + LEASE_SECONDS

    def beat(self) -> None:
        if self.killed:
            return
        now, shared = self.shared.clock.time(), self.shared
        if self.name not in shared.leases:  # it was paused for so long that it was taken for dead
            mine = self.mine
            self.renew()
            for entry in mine:
                self.put(entry)
        self.mine = [structs.replace(entry, process="") for entry in shared.entries[self.name].values()]
        shared.leases[self.name] = now + LEASE_SECONDS
        for process, until in list(shared.leases.items()):
            if until < now:
                shared.sweep(process)
        shared.clock.call_later(BEAT_SECONDS, self.beat)

    async def stop(self) -> None:
        if not self.killed:
            self.shared.processes.remove(self)
            self.killed = True
            self.shared.sweep(self.name)
            self.heard.gone("")

    def follow(self, topic: Topic) -> None:
        self.topics.add(topic)
        self.look(topic)

    def look(self, topic: Topic) -> None:
        others = [
            structs.replace(entry, process=process)
            for process, entries in self.shared.entries.items()
            for (where, _), entry in entries.items()
            if process != self.name and where == topic
        ]
        self.heard.only(topic, others)

    def unfollow(self, topic: Topic) -> None:
        self.topics.discard(topic)

    def put(self, entry: Entry) -> None:
        self.shared.entries[self.name][entry.topic, entry.id] = entry
        self.heard.put(entry)
        for each in self.others(entry.topic):
            each.heard.put(structs.replace(entry, process=self.name))

    def remove(self, entry: Entry, *, lingers: bool) -> None:
        self.shared.entries.get(self.name, {}).pop((entry.topic, entry.id), None)
        self.heard.remove(entry, lingers=lingers)
        for each in self.others(entry.topic):
            each.heard.remove(structs.replace(entry, process=self.name), lingers=lingers)

    def others(self, topic: Topic) -> list[Leased]:
        return [
            each
            for each in self.shared.processes
            if each is not self and topic in each.topics and not (each.killed or each.is_deaf)
        ]


class Rooms(Backend):
    """Who a client is, others see."""

    store = MemoryStore()

    @presence
    def card(self, req):
        return {"name": req.user}


def names(room):
    return sorted(member.card["name"] for member in room.values())


@pytest.fixture
async def cluster():
    """Two servers that share their presence, each with a client."""
    clock = Clock()
    shared = Shared(clock)
    harnesses = []
    for _ in range(2):
        app = App(limits=Limits(grace=1)).serve(Rooms)
        leased: Presence = Leased(shared)
        app.gateway.rooms.presence = leased
        harness = app.test()
        harness.leased = leased
        harnesses.append(await harness.__aenter__())
    yield clock, shared, harnesses
    for harness in harnesses:
        await harness.__aexit__()


async def settled(*harnesses):
    for harness in harnesses:
        await harness.settle()


async def test_the_clients_of_all_processes_see_each_other(cluster):
    """Also those that were there before; a user on two of them is one member, with one key."""
    _, _, (one, two) = cluster
    ann, bob = await one.client(user="ann"), await two.client(user="bob")
    again = await two.client(user="ann")
    for client in (ann, bob, again):
        await client.presence.join({"n": 1})
    await settled(one, two)
    assert names(ann.presence) == names(bob.presence) == ["ann", "bob"]
    assert ann.presence.me == again.presence.me
    assert bob.presence[ann.presence.me].connections == 2
    again.presence.leave()
    bob.presence.set({"n": 2})
    await ann.presence.until(lambda room: room[bob.presence.me].state == {"n": 2})
    assert ann.presence[ann.presence.me].connections == 1
    two.offline(bob)
    await ann.presence.until(lambda room: names(room) == ["ann"])


async def test_a_process_that_is_killed_leaves_nobody_behind(cluster):
    """Once its lease has run out; before that nobody can know."""
    clock, shared, (one, two) = cluster
    ann, bob = await one.client(user="ann"), await two.client(user="bob")
    for client in (ann, bob):
        await client.presence.join()
    await settled(one, two)
    two.leased.killed = True
    shared.processes.remove(two.leased)
    while clock.next <= LEASE_SECONDS:
        clock.turn()
    await settled(one)
    assert names(ann.presence) == ["ann", "bob"]
    while clock.next <= LEASE_SECONDS + BEAT_SECONDS + 1:
        clock.turn()
    await ann.presence.until(lambda room: names(room) == ["ann"])


async def test_a_process_that_was_paused_comes_back(cluster):
    """Its clients are gone for the others meanwhile, and are there again as another incarnation."""
    clock, shared, (one, two) = cluster
    ann, bob = await one.client(user="ann"), await two.client(user="bob")
    for client in (ann, bob):
        await client.presence.join()
    clock.turn(), clock.turn()
    shared.sweep(two.leased.name)
    await ann.presence.until(lambda room: names(room) == ["ann"])
    for _ in range(2):
        clock.turn()
    await ann.presence.until(lambda room: names(room) == ["ann", "bob"])
    assert names(bob.presence) == ["ann", "bob"]


async def test_what_a_process_has_missed_is_read(cluster):
    """Messages between processes may be lost."""
    _, _, (one, two) = cluster
    ann, bob = await one.client(user="ann"), await two.client(user="bob")
    for client in (ann, bob):
        await client.presence.join()
    await settled(one, two)
    one.leased.is_deaf = True
    bob.presence.leave()
    await (await two.client(user="cyd")).presence.join()
    await settled(one, two)
    assert names(ann.presence) == ["ann", "bob"]
    one.leased.look(("rooms", ""))
    await ann.presence.until(lambda room: names(room) == ["ann", "cyd"])
    one.leased.look(("rooms", "elsewhere"))


async def test_a_process_that_ends_takes_its_own_along(cluster):
    """At once, everywhere."""
    _, _, (one, two) = cluster
    ann, bob = await one.client(user="ann"), await two.client(user="bob")
    for client in (ann, bob):
        await client.presence.join()
    await settled(one, two)
    await two.leased.stop()
    await ann.presence.until(lambda room: names(room) == ["ann"])
