"""The harness: an application that runs for a test, its clients, its clock and its faults."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self

import attrs

from bbio.client.handle import Handle
from bbio.client.settings import SessionSettings
from bbio.errors import ConfigurationError, SyncError
from bbio.identity import Identity
from bbio.registry import Registry
from bbio.requests import Request
from bbio.runtime import Runtime
from bbio.server.connection import ClientSocket, Connection
from bbio.server.gateway import Gateway
from bbio.server.limits import Limits
from bbio.stack.stack import Run
from bbio.store import Scratch, Store
from bbio.testing.clock import Clock
from bbio.testing.network import FakeConnection, FakeNetwork

if TYPE_CHECKING:
    from bbio.app import App

# How often the event loop goes round before time passes: what waits for a packet gets to answer it.
ROUNDS = 10
# Real seconds between looks at an application that is busy.
IDLE_LOOK_SECONDS = 0.005

Client = Handle | FakeConnection
Stores = Literal["fresh", "real"] | Mapping[str, Store]


@attrs.define
class Fault:
    """A fault of packets of a kind: `copies` of each arrive; `left` of them, None for all."""

    kind: str
    copies: int
    left: int | None
    connections: frozenset[FakeConnection] | None


class Introduced(Registry):
    """A registry that knows the users of test clients."""

    def __init__(self, registry: Registry) -> None:
        vars(self).update(vars(registry))

    def dispatch(self, runtime: Runtime, req: Request, res: Run | None = None) -> Awaitable[Run]:
        _introduce(req)
        return super().dispatch(runtime, req, res)

    async def permit(self, runtime: Runtime, req: Request) -> SyncError | None:
        _introduce(req)
        return await super().permit(runtime, req)


def _chosen(app: App, stores: Stores) -> Mapping[str, Store] | Literal["real"]:
    """Read the argument `stores` of a test."""
    if isinstance(stores, str):
        if stores not in ("fresh", "real"):
            raise ConfigurationError(f"app.test(stores={stores!r}): it is 'fresh', 'real' or {{'name': MemoryStore()}}")
        return "real" if stores == "real" else {}
    for name, store in stores.items():
        if name not in app.backends or app.backends[name].store is None:
            served = ", ".join(name for name, runtime in app.backends.items() if runtime.store is not None)
            raise ConfigurationError(
                f"app.test(stores=...): {name!r} is not a backend with a store; those are {served}"
            )
        if not isinstance(store, Store):
            raise ConfigurationError(f"app.test(stores=...): {store!r} is not a store; use {{{name!r}: MemoryStore()}}")
    return stores


def _introduce(req: Request) -> None:
    assert isinstance(req.socket, ClientSocket), "what a registry is asked comes from clients"
    socket, user = req.socket, req.socket.peer.user
    req.user = user
    if user is not None:
        known = socket.identity
        req.take(known if known is not None and known.user is user else Identity(user), user)


class Harness:
    """An application that runs for a test, without a network: `async with app.test() as t:`. Made by `App.test`.

    The time of the clients is simulated: it passes at once when nothing else can happen. A lost answer is asked for
    again without a wait of eight seconds, and a deadline passes right away.

    Parameters:
        app: the application; it must not be running.
        seed: the seed of everything that is left to chance.
        stores: see `App.test`.

    Raises:
        ConfigurationError: there is no such choice of stores.

    Example:
        >>> from bbio import App, Backend
        >>> from bbio.builtin import MemoryStore
        >>> class Todos(Backend):
        ...     store = MemoryStore()
        >>> async def main():
        ...     async with App().serve(Todos).test() as t:
        ...         ann = await t.client()
        ...         t.drop_acks(1, ann)
        ...         return (await ann.create({"title": "milk"}))["title"]  # repeated, and applied once
        >>> asyncio.run(main())
        'milk'
    """

    def __init__(self, app: App, *, seed: int = 0, stores: Stores = "fresh") -> None:
        self.app = app
        self._stores = _chosen(app, stores)
        self.clock = Clock(self.wake)
        self.random = random.Random(seed)
        self.running = False
        self.connections: list[FakeConnection] = []
        # Seconds by which the time of identities is ahead of that of the machine.
        self._ahead = 0.0
        self._sids = itertools.count(1)
        self._faults: list[Fault] = []
        self._cutting: list[FakeConnection] = []
        self._activity = asyncio.Event()
        self._quiet = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self.app.is_open:
            raise ConfigurationError("this application runs already; app.test() runs it by itself")
        self._registry, self._transport = self.gateway.exchanges.registry, self.gateway.delivery.transport
        self._room = Scratch()
        try:
            self._moved = await self._move_stores()
            self.gateway.exchanges.registry = Introduced(self._registry)
            self.gateway.delivery.transport = FakeNetwork()
            self.gateway.use_clock(self.clock)
            self.app.reopen(self._moved)
            self.gateway.identities.clock = self.time
            await self.app.open()
            await self.app.consume()
        except BaseException:
            await self._leave()
            raise
        self.running = True
        self._pump = asyncio.create_task(self._run())
        self._pump.add_done_callback(self._ended)
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self.connections:
            connection.close()
        pump = self._pump
        assert pump is not None
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
        await self._drain()
        await self._leave()
        self._check()

    def _ended(self, pump: asyncio.Task[None]) -> None:
        """Without anything that carries packets nobody must wait for one."""
        for connection in self.connections:
            connection.close()
        self._quiet.set()

    async def _leave(self) -> None:
        """Give the application back as it was before."""
        gateway, app = self.gateway, self.app
        try:
            await app.close()
        finally:
            gateway.exchanges.registry, gateway.delivery.transport = self._registry, self._transport
            gateway.use_clock(None)
            gateway.identities.clock = time.time
            app.reopen()
            await self._room.close()

    async def _move_stores(self) -> dict[str, Store]:
        """Return the stores in which backends keep their models until the test is over, instead of their own."""
        if self._stores == "real":
            return {}
        return {
            name: self._stores.get(name) or await runtime.declared.scratch(self._room)
            for name, runtime in self.app.backends.items()
            if runtime.declared is not None
        }

    @property
    def gateway(self) -> Gateway:
        return self.app.gateway

    @property
    def limits(self) -> Limits:
        return self.app.limits

    @property
    def backends(self) -> Mapping[str, Runtime]:
        """The served backends by name."""
        return self.app.backends

    # Clients

    def connect(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        auth: Mapping[str, Any] | None = None,
        remote: str = "127.0.0.1",
        user: Any = None,
        deadline: float = 30.0,
        queue_limit: int = 1_000,
        event_limit: int = 1_000,
        jitter: float = 1.0,
    ) -> FakeConnection:
        """Return a client with a connection of its own; `.backend(name, channel=...)` gives its handles.

        Parameters:
            headers: HTTP headers of its handshake.
            cookies: cookies of its handshake, by name.
            auth: `req.socket.auth` of its requests, such as `{"token": ...}`; `connection.authenticate` renews it.
            remote: its address.
            user: `req.user` of its requests, unless a layer sets another.
            deadline, queue_limit, event_limit, jitter: see `bbio.client.connect`.

        Example:
            `ann = t.connect(user={"id": "ann"}).backend("todos", channel="home")`
        """
        sent = dict(headers or {})
        if cookies is not None:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        settings = SessionSettings(deadline=deadline, queue_limit=queue_limit, event_limit=event_limit, jitter=jitter)
        connection = FakeConnection(self, headers=sent, auth=auth, remote=remote, user=user, settings=settings)
        self.connections.append(connection)
        return connection

    async def client(
        self, *, backend: str | None = None, channel: str | None = None, id_attribute: str = "id", **options: Any
    ) -> Handle:
        """Return the handle of a new client that listens already.

        Parameters:
            backend: the backend's name; not needed when only one is served.
            channel: the channel to listen to; None for the default channel.
            id_attribute: the name of the id in its models.
            options: see `connect`.

        Raises:
            SyncError: the client may not listen.
            ConfigurationError: several backends are served, and none is named.

        Example:
            `ann = await t.client(backend="todos", user={"id": "ann"})`
        """
        if backend is None:
            if len(self.backends) != 1:
                raise ConfigurationError(f"say which backend: backend={' or '.join(map(repr, self.backends))}")
            (backend,) = self.backends
        handle = self.connect(**options).backend(backend, channel=channel, id_attribute=id_attribute)
        await handle.ready()
        return handle

    async def clients(self, count: int, **options: Any) -> list[Handle]:
        """Return the handles of several clients, each with a connection of its own.

        Parameters:
            count: the number of clients.
            options: see `client`.

        Example:
            `ann, bob = await t.clients(2, backend="todos")`
        """
        return [await self.client(**options) for _ in range(count)]

    # Time

    def time(self) -> float:
        """Return the time by which identities end, such as tokens and sessions: seconds since 1970."""
        return time.time() + self._ahead

    def pass_time(self, seconds: float) -> None:
        """Let time pass for identities: what ends in it ends now, or is warned of.

        Parameters:
            seconds: how much, 0 or more.

        Raises:
            ValueError: it is less than 0.

        Example:
            `t.pass_time(3600)`
        """
        if not seconds >= 0:
            raise ValueError(f"t.pass_time({seconds!r}): time goes forward; give seconds, 0 or more")
        self._ahead += seconds
        self.gateway.identities.look()
        self.wake()

    # Faults

    def drop_acks(self, count: int | None = 1, *clients: Client) -> None:
        """Lose the next answers; the server has handled the requests all the same.

        Parameters:
            count: the number of answers; None for all until `heal`.
            clients: the clients concerned; all by default.
        """
        self._fault("ack", 0, count, clients)

    def drop_events(self, count: int | None = 1, *clients: Client) -> None:
        """Lose the next notifications; see `drop_acks`."""
        self._fault("synced", 0, count, clients)

    def drop_requests(self, count: int | None = 1, *clients: Client) -> None:
        """Lose the next syncs and listens; see `drop_acks`."""
        self._fault("event", 0, count, clients)

    def duplicate(self, count: int | None = 1, *clients: Client) -> None:
        """Have the next packets of any kind arrive twice; see `drop_acks`."""
        self._fault("", 2, count, clients)

    def delay(self, seconds: float, *clients: Client) -> None:
        """Delay every packet until `heal`; packets stay in order.

        Parameters:
            seconds: seconds of the simulated time.
            clients: see `drop_acks`.
        """
        for connection in self._of(clients):
            connection.latency = seconds

    def hold(self, *clients: Client) -> None:
        """Hold all packets back, in both directions, until `release` or `heal`. Time stands still meanwhile.

        Parameters:
            clients: see `drop_acks`.
        """
        for connection in self._of(clients):
            connection.held = True

    def release(self, *clients: Client) -> None:
        """End `hold`.

        Parameters:
            clients: see `drop_acks`.
        """
        for connection in self._of(clients):
            connection.held = False
        self.wake()

    def cut(self, *clients: Client) -> None:
        """Cut connections; packets on their way are lost. The clients connect again after about a second.

        Parameters:
            clients: see `drop_acks`.
        """
        for connection in self._of(clients):
            connection.cut()

    def silence(self, *clients: Client) -> None:
        """Let connections die without a sign: no packet passes any more, and neither side notices at first.

        A client finds out by a write that has no answer within twelve seconds, or after 45 seconds by the heartbeat.

        Parameters:
            clients: see `drop_acks`.
        """
        for connection in self._of(clients):
            connection.silence()

    def offline(self, *clients: Client) -> None:
        """Cut connections; the clients cannot connect again until `online` or `heal`.

        Parameters:
            clients: see `drop_acks`.
        """
        for connection in self._of(clients):
            connection.online = False
            connection.cut()

    def online(self, *clients: Client) -> None:
        """End `offline`: the clients connect again after about a second.

        Parameters:
            clients: see `drop_acks`.
        """
        for connection in self._of(clients):
            if not connection.online:
                connection.online = True
                connection.reconnect()

    def heal(self) -> None:
        """End all faults."""
        self._faults.clear()
        for connection in self.connections:
            connection.latency = 0.0
        self.release()
        self.online()

    async def restart(self) -> None:
        """Stop the server and start it again. Data in memory is lost, with its streams; the clients reconnect."""
        self.running = False
        for connection in self.connections:
            connection.cut()
        await self._drain()
        await self.app.close()
        self.app.reopen(self._moved)
        await self.app.open()
        await self.app.consume()
        self.running = True
        for connection in self.connections:
            connection.reconnect()

    def _fault(self, kind: str, copies: int, count: int | None, clients: tuple[Client, ...]) -> None:
        self._faults.append(Fault(kind, copies, count, frozenset(self._of(clients)) if clients else None))

    def _of(self, clients: tuple[Client, ...]) -> list[FakeConnection]:
        if not clients:
            return [connection for connection in self.connections if not connection.closed]
        return [client if isinstance(client, FakeConnection) else self._connection_of(client) for client in clients]

    def _connection_of(self, handle: Handle) -> FakeConnection:
        return next(connection for connection in self.connections if handle in connection.handles)

    def copies(self, connection: FakeConnection, kind: str) -> int:
        """Return how many copies of a packet arrive."""
        for fault in self._faults:
            if (fault.kind == kind or (not fault.kind and kind != "connect")) and (
                fault.connections is None or connection in fault.connections
            ):
                if fault.left is not None:
                    fault.left -= 1
                    if not fault.left:
                        self._faults.remove(fault)
                return fault.copies
        return 1

    # Time

    async def settle(self, timeout: float = 10.0) -> None:
        """Wait until everything that was sent has been worked on, answered, delivered and applied.

        Clients that are offline are left out.

        Parameters:
            timeout: real seconds after which it is not going to happen.

        Raises:
            TimeoutError: something is still under way; the text says what.
        """
        await self._rounds()
        try:
            async with asyncio.timeout(timeout):
                self.wake()
                while not self.settled:
                    self._check()
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            raise TimeoutError(f"not settled within {timeout} s: {self._unsettled()}") from None
        await self._rounds()

    def _unsettled(self) -> str:
        what = ["the application is at work"] if self.busy else []
        what += [
            f"client {n}: {connection!r}" for n, connection in enumerate(self.connections, 1) if not connection.settled
        ]
        return "; ".join(what)

    def _check(self) -> None:
        """Raise what has gone wrong with the harness itself, such as an error of the gateway."""
        pump = self._pump
        if pump is not None and pump.done() and not pump.cancelled() and (error := pump.exception()) is not None:
            raise error

    @property
    def settled(self) -> bool:
        """Return whether `settle` has nothing to wait for."""
        return (
            not self.busy and not self.gateway.is_telling and all(connection.settled for connection in self.connections)
        )

    async def advance(self, seconds: float) -> None:
        """Let the clients' time pass.

        Parameters:
            seconds: the seconds to pass.
        """
        over = asyncio.Event()
        self.clock.call_later(seconds, over.set)
        await over.wait()
        await self._rounds()

    @property
    def busy(self) -> bool:
        """Return whether the application works on something."""
        return self.app.is_busy

    def wake(self) -> None:
        """Wake the loop: there is something to do."""
        self._activity.set()

    def cut_later(self, connection: FakeConnection) -> None:
        """Cut a connection, but not in the middle of what the server does just now."""
        self._cutting.append(connection)
        self.wake()

    def now(self) -> float:
        """The clock that a connection counts its requests by."""
        return asyncio.get_running_loop().time()

    async def _rounds(self) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0)

    async def _run(self) -> None:
        """Carry packets; when there are none and the application is at rest, let time pass."""
        while True:
            self._activity.clear()
            cutting, self._cutting = self._cutting, []
            for connection in cutting:
                connection.cut()
            carried = [connection.carry() for connection in list(self.connections)]
            if any(carried) or cutting:
                await asyncio.sleep(0)
                continue
            await self._rounds()
            self._quiet.set()
            if self._activity.is_set():
                continue
            # What is told in a moment, and who waits to be told, have time pass as well.
            if self.busy and not self.gateway.is_telling:
                await self._wait(IDLE_LOOK_SECONDS)
            elif any(connection.held for connection in self.connections) or not self._pass_time():
                await self._wait(None)

    def _pass_time(self) -> bool:
        arrivals = [connection.next for connection in self.connections]
        arrival = min((due for due in arrivals if due is not None), default=None)
        due = self.clock.next
        if arrival is not None and (due is None or arrival < due):
            self.clock.call_later(arrival - self.clock.time(), self.wake)
        return self.clock.turn()

    async def _wait(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._activity.wait()

    # The application

    async def _drain(self) -> None:
        await self.gateway.drain(self.limits.drain_time)

    def join(self, runtime: Runtime, connection: Connection, peer: FakeConnection) -> ClientSocket:
        """A client joins a backend's namespace."""
        return self.gateway.joined(f"test-{next(self._sids)}", runtime, connection, peer, peer.auth)

    def leave(self, socket: ClientSocket, reason: str) -> None:
        """A client leaves a backend's namespace."""
        self.gateway.left(socket, reason)
