"""What a view costs whoever is told of events: listeners with views beside the same without, in rounds that alternate.

    python -m benchmarks.listeners

All of a server runs here but what reads from its sockets, so that nothing but the server's own processor time is
measured. The writes of all clients go to one connection over loopback: with ten thousand of them, each still has a
session of its own, which is not in the processor's caches when it is told something.
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from statistics import median
from types import SimpleNamespace
from typing import Any

from multidict import CIMultiDict, CIMultiDictProxy

from bbio import App, Backend, Limits, visible
from bbio.builtin import MemoryStore
from bbio.protocol import encode
from bbio.runtime import Runtime
from bbio.server.connection import Connection
from bbio.server.fast.session import FastSession
from bbio.server.subscribers import Subscribers
from bbio.streams import Event, channel_stream
from bbio.was import was_of

LISTENERS = 10_000
SHARING = 1_000
PROJECTS = 5
MISSED = 100
ROUNDS = 15
EVENTS = 300
# Where each of them is told to all.
FEW = 10
# Clients that are made between two turns of the event loop.
AT_ONCE = 100
RESUME_MS = 1.5

Record = dict[str, Any]


class Bare(Backend):
    """Without views."""

    store = MemoryStore()


class Owned(Backend):
    store = MemoryStore()

    @visible
    def own(self, req: Any) -> Record:
        return {"owner": req.socket.auth["user"]}


class Member(Backend):
    """Records of their owners, and of the members of their projects."""

    store = MemoryStore()

    @visible
    def own_or_shared(self, req: Any) -> Record:
        user = req.socket.auth["user"]
        projects = [(user * 7 + each * 1_009) % LISTENERS for each in range(PROJECTS)]
        return {"$or": [{"owner": user}, {"project": {"$in": projects}}]}


class Shared(Backend):
    """A view that all have."""

    store = MemoryStore()

    @visible
    def shared(self, req: Any) -> Record:
        return {"public": True}


class Wire:
    """The one connection over loopback that all writes take, so that each costs what the system takes for it."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.near = socket.create_connection(listener.getsockname())
            self.far, _ = listener.accept()
        self.near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.far.setblocking(False)

    def drain(self) -> None:
        """Read what was written; it must be less than the system keeps."""
        with suppress(BlockingIOError):
            while self.far.recv(1 << 20):
                pass

    def close(self) -> None:
        self.near.close()
        self.far.close()


class Sink:
    """The transport of a client that reads all at once."""

    def __init__(self, wire: Wire) -> None:
        self.send = wire.near.send
        self.sent = 0

    def write(self, data: bytes) -> None:
        self.sent += 1
        self.send(data)


class Client:
    """One listener of a backend."""

    def __init__(self, server: Server, runtime: Runtime, number: int) -> None:
        self.gateway = server.app.gateway
        self.sink = Sink(server.wire)
        session = FastSession(server.app.sio.eio, f"{runtime.name}{number}")
        session._connect_timer.cancel()
        session.transport, session.protocol = self.sink, SimpleNamespace(_paused=False)
        headers = CIMultiDictProxy(CIMultiDict[str]())
        connection = Connection(headers, "127.0.0.1", server.app.limits, time.monotonic)
        name = f"{runtime.name}{number}"
        self.socket = self.gateway.joined(name, runtime, connection, session, {"user": number})

    def listen(self, channel: str | None = None, since: dict[str, Any] | None = None) -> None:
        """Send a listen, and write what it is answered."""
        self.gateway.receive(self.socket, "listen", 1, [channel, {"v": 1, "since": since or {}}])


class Server:
    """An application without a port.

    Parameters:
        backends: what it serves.
        limits: those of its clients, where they differ from the defaults.
    """

    def __init__(self, *backends: type[Backend], limits: Limits | None = None) -> None:
        self.app = App(limits=limits)
        self.app.serve(*backends)
        self.wire = Wire()
        self.clients: dict[str, list[Client]] = {}

    def subscribers(self, backend: type[Backend]) -> Subscribers:
        return self.app.gateway.subscribers[backend.__name__.lower()]

    async def connect(self, backend: type[Backend], count: int, channel: str | None = None) -> None:
        """Have clients listen to a backend: to a channel, where its name has a place for the number of the client."""
        made = [Client(self, self.app.backends[backend.__name__.lower()], number) for number in range(count)]
        for number, client in enumerate(made):
            client.listen(channel and channel.format(number))
            if number % AT_ONCE == 0:
                await self.settled()
        await self.settled()
        self.clients[backend.__name__.lower()] = made
        assert all(client.socket.channels for client in made), "all of them listen"

    async def settled(self) -> None:
        """Let everything be done and written."""
        await asyncio.sleep(0)
        while self.app.is_busy:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.wire.drain()

    def events(self, backend: type[Backend], records: Iterable[Record], channel: str | None = None) -> list[Event]:
        """The next updates of some records, as a store logs them.

        Parameters:
            records: what they are like before it.
            channel: where; with a place for the owner of the record.
        """
        subscribers, offsets, events = self.subscribers(backend), dict[str, int](), []
        for before in records:
            after = {**before, "done": True}
            followed = subscribers.listeners.stream(channel_stream(channel and channel.format(before["owner"])))
            offset = offsets[followed.name] = offsets.get(followed.name, followed.offset) + 1
            body = encode(after)
            was = None if followed.viewers is None else was_of(before, after, body)
            events.append(
                Event(followed.name, followed.epoch, offset, "update", body, rev=offset, stamp=offset + 7, was=was)
            )
        return events

    def tell(self, backend: type[Backend], events: list[Event]) -> float:
        """Tell of committed updates, one by one, up to what is written; return the microseconds of each."""
        subscribers, delivery, batch = self.subscribers(backend), self.app.gateway.delivery, self.app.sio.eio.batch
        began = time.thread_time()
        for event in events:
            subscribers.event(event)
            delivery.flush()
            batch.flush()
        return (time.thread_time() - began) / len(events) * 1e6

    async def close(self) -> None:
        await self.app.close()
        self.wire.close()


def record(owner: int) -> Record:
    return {"id": f"{owner:016x}", "owner": owner, "project": -1, "public": True, "title": "buy milk", "done": False}


async def one_of_many() -> bool:
    """An event that concerns one of 10,000 listeners."""
    server = Server(Bare, Owned, Member)
    await server.app.open()
    cases: dict[type[Backend], str | None] = {Bare: "of {}", Owned: None, Member: None}
    for backend, channel in cases.items():
        await server.connect(backend, LISTENERS, channel)
    taken: dict[type[Backend], list[float]] = {backend: [] for backend in cases}
    gc.collect()
    gc.freeze()
    chance = random.Random(1)
    for _ in range(ROUNDS):
        for backend, channel in cases.items():
            records = [record(chance.randrange(LISTENERS)) for _ in range(EVENTS)]
            events = server.events(backend, records, channel)
            taken[backend].append(server.tell(backend, events))
            await server.settled()
    await server.close()
    held = True
    for backend, name in ((Owned, "{owner: me}"), (Member, "$or with 5 projects")):
        held &= said(f"one of {LISTENERS:,} listeners, views {name}", taken[backend], taken[Bare], 1.5)
    return held


async def shared_view() -> bool:
    """An event for 1,000 listeners with one view."""
    server = Server(Bare, Shared)
    await server.app.open()
    taken: dict[type[Backend], list[float]] = {Bare: [], Shared: []}
    for backend in taken:
        await server.connect(backend, SHARING)
    gc.collect()
    gc.freeze()
    for _ in range(ROUNDS):
        for backend in taken:
            spent = 0.0
            for number in range(FEW):
                spent += server.tell(backend, server.events(backend, [record(number)])) / FEW
                server.wire.drain()
            taken[backend].append(spent)
            await server.settled()
    await server.close()
    return said(f"{SHARING:,} listeners that share a view", taken[Shared], taken[Bare], 1.15)


def said(what: str, these: list[float], those: list[float], bar: float, other: str = "without views") -> bool:
    """Print a ratio of rounds, and return whether it is as low as it must be.

    Parameters:
        what: the case.
        these: microseconds of it, one figure for each round.
        those: microseconds of what it is compared with.
        bar: the greatest ratio.
        other: what it is compared with.
    """
    ratio = median(a / b for a, b in zip(these, those, strict=True))
    figures = f"{median(these):.1f} us, {median(those):.1f} {other}"
    print(f"{'PASS' if ratio <= bar else 'MISS'}  {what}: {ratio:.2f} (bar: {bar:.2f}; {figures})", flush=True)
    return ratio <= bar


async def resume() -> bool:
    """A listener that comes back, and has missed 100 events of its view."""
    server = Server(Owned)
    await server.app.open()
    await server.connect(Owned, 2)
    followed = server.subscribers(Owned).listeners.stream("c:")
    client = server.clients["owned"][1]
    since = client.socket.views["c:"].position(followed.position)
    digest = client.socket.told_under["c:"].digest
    server.tell(Owned, server.events(Owned, [record(1) for _ in range(MISSED)]))
    taken = []
    for _ in range(ROUNDS):
        await server.settled()
        began = time.thread_time()
        client.listen(None, {"c:": [since.epoch, since.offset, since.stamp, digest]})
        await server.settled()
        taken.append((time.thread_time() - began) * 1e3)
    await server.close()
    held = median(taken) <= RESUME_MS
    verdict = "PASS" if held else "MISS"
    print(f"{verdict}  resume of {MISSED} events through a view: {median(taken):.2f} ms (bar: {RESUME_MS})")
    return held


async def measure() -> bool:
    return all([await part() for part in (one_of_many, shared_view, resume)])


def main() -> None:
    sys.exit(not asyncio.run(measure()))


if __name__ == "__main__":
    main()
