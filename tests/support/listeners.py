"""Clients of a gateway without a network: what they ask goes in at the gateway, what they are sent is written down.

server = Server(Todos)
ann = server.client()
ann.listen("home", since={"c:home": [epoch, 3]})
...
ann.reply["streams"], ann.events
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from multidict import CIMultiDict, CIMultiDictProxy

from bbio import Backend, Limits
from bbio.builtin import MemoryStore
from bbio.cluster import Alone
from bbio.protocol import decode
from bbio.registry import Registry
from bbio.server.connection import ClientSocket, Connection
from bbio.server.gateway import Gateway
from bbio.server.memory import Addresses

DEFAULTS = Limits()


class Client:
    """One socket of one connection; the transport writes to it through itself as the peer."""

    in_order = True
    is_behind = False

    def __init__(self, server: Server, **headers: str) -> None:
        self.server = server
        connection = Connection(
            CIMultiDictProxy(CIMultiDict(headers)),
            "127.0.0.1",
            server.gateway.limits,
            asyncio.get_running_loop().time,
        )
        server.clients += 1
        self.socket = server.gateway.joined(f"s{server.clients}", server.runtime, connection, self)
        # All that arrived, in order: acks as ("ack", arguments), events as (name, arguments).
        self.received: list[tuple[str, list[Any]]] = []

    def ack(self, socket: ClientSocket, ack_id: Any, arguments: bytes) -> None:
        self.received.append(("ack", decode(arguments)))

    def listen(self, channel: str | None = None, since: dict[str, Any] | None = None, version: int = 1) -> None:
        """Send a listen."""
        extras = [{"v": 1, "since": since or {}}] if version else []
        self.server.gateway.receive(self.socket, "listen", 1, [channel, *extras])

    def sync(self, method: str, model: Any = None, **fields: Any) -> None:
        """Send a sync."""
        self.server.gateway.receive(self.socket, "sync", 1, [{"method": method, "model": model or {}, **fields}])

    def leave(self) -> None:
        """Go, as after a disconnect."""
        self.server.gateway.left(self.socket)

    @property
    def acks(self) -> list[list[Any]]:
        return [arguments for name, arguments in self.received if name == "ack"]

    @property
    def reply(self) -> Any:
        """The latest ack's first argument."""
        return self.acks[-1][0]

    @property
    def events(self) -> list[list[Any]]:
        """The arguments of every `synced`."""
        return [arguments for name, arguments in self.received if name == "synced"]

    @property
    def offsets(self) -> list[int]:
        """The offsets of every `synced`."""
        return [arguments[2]["o"] for arguments in self.events]

    @property
    def resyncs(self) -> list[str]:
        """The streams that the server said it cannot tell of."""
        return [arguments[0] for name, arguments in self.received if name == "resync"]


class Server:
    """A gateway with one backend."""

    def __init__(self, backend: type[Backend], limits: Limits = DEFAULTS) -> None:
        self.clients = 0
        self.registry = Registry(self._spawn)
        self.gateway = Gateway(self.registry, limits, Addresses(limits), self, {"event": "backend"})
        self.tasks: list[asyncio.Task[Any]] = []
        self.runtime = self.registry.add(backend)
        self.backend = self.runtime.backend
        self.gateway.add(self.runtime)
        self.subscribers = self.gateway.subscribers[self.runtime.name]
        self.store: Any = self.runtime.log

    def _spawn(self, work: Any) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    def deliver(self, peers: Iterable[Client], skip: Client | None, namespace: str, text: bytes) -> None:
        name, *arguments = decode(text)
        for peer in peers:
            if peer is not skip:
                peer.received.append((name, arguments))

    def client(self, **headers: str) -> Client:
        """A client that has joined the backend's namespace."""
        return Client(self, **headers)

    def forget(self) -> None:
        """Empty the rings: what was missed must be read from the log."""
        for followed in self.subscribers._streams.values():
            followed.forget()

    async def close(self) -> None:
        await self.gateway.close()
        await self.gateway.delivery.stepper.close()


class Carrier(Alone):
    """A broker that carries nothing itself: a test is the other process."""

    patience = 0.02

    def __init__(self) -> None:
        self.followed: set[str] = set()

    def follow(self, stream: str) -> None:
        self.followed.add(stream)

    def unfollow(self, stream: str) -> None:
        self.followed.discard(stream)


class SharedStore(MemoryStore):
    """A store in memory that behaves as a database does: it can be waited for, fail, and be written to by others."""

    check_interval: float | None = None

    def open(self, backend: Any, publisher: Any) -> Any:
        opened = super().open(backend, publisher)
        opened.asked = []
        opened.gate = asyncio.Event()
        opened.gate.set()
        opened.slow = None  # the gate holds up all that is asked, or what is asked of this stream
        opened.failure = None
        return opened

    async def _wait(self, *what: Any) -> None:
        self.asked.append(what)
        if self.slow in (None, *what):
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure

    async def positions(self, streams: Iterable[str]) -> Any:
        names = list(streams)
        await self._wait("positions", *names)
        return self.streams.positions(names)

    async def since(self, stream: str, epoch: Any, offset: Any, stamp: int = 0) -> Any:
        events = await super().since(stream, epoch, offset, stamp)
        await self._wait("since", stream, offset)
        return events

    def written_by_others(self, stream: str = "c:", model: Any = None) -> Any:
        """A write of another process: it is in the log, and nobody here was told."""
        return self.streams.append(stream, "update", b'{"id":1}', 1)


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what happens by the clock."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)


async def listening(server: Server, *, version: int = 1, channel: str | None = None, since: Any = None) -> Client:
    """A client that listens."""
    client = server.client()
    client.listen(channel, version=version, since=since)
    await settled()
    return client


def publish(server: Server, event: Any, origin: Any = None) -> None:
    """As a store does that has committed an event."""
    server.subscribers.event(event, origin)


class Todos(Backend):
    """A backend over a store that others write to as well."""

    store = SharedStore()
