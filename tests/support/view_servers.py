"""Two servers of one backend for the schedules of tests/support/views.py: clients are spread over both."""

from __future__ import annotations

from collections import Counter
from typing import Any, Self

import pytest

from bbio.client import Collection, Handle
from bbio.runtime import Runtime
from bbio.server.connection import ClientSocket, Connection
from bbio.server.gateway import Gateway
from bbio.server.permissions import Permissions
from bbio.testing.harness import Harness, Introduced
from bbio.testing.network import FakeConnection, FakeNetwork
from tests.support.servers import eventually
from tests.support.views import MakeStore, World

# Real seconds within which the other server has heard of what is told.
TOLD_SECONDS = 10.0


class Other:
    """The second server, as the connections to it see it: all but the application is that of the first.

    Parameters:
        harness: the first.
        world: the schedule.
    """

    def __init__(self, harness: TwoServers, world: TwoServersWorld) -> None:
        self._harness = harness
        self.gateway = world.other.gateway
        self.backends = world.other.backends

    def __getattr__(self, name: str) -> Any:
        return getattr(self._harness, name)

    def join(self, runtime: Runtime, connection: Connection, peer: FakeConnection) -> ClientSocket:
        return self.gateway.joined(f"other-{next(self._harness._sids)}", runtime, connection, peer, peer.auth)

    def leave(self, socket: ClientSocket, reason: str) -> None:
        self.gateway.left(socket, reason)


class TwoServers(Harness):
    """A harness whose clients connect to either of two servers.

    Parameters:
        world: the schedule.
        seed: the seed of everything that is left to chance.
    """

    def __init__(self, world: TwoServersWorld, seed: int) -> None:
        super().__init__(world.app, seed=seed, stores="real")
        self.world = world
        self.sides = (self, Other(self, world))

    async def __aenter__(self) -> Self:
        gateway = self.world.other.gateway
        gateway.exchanges.registry = Introduced(gateway.exchanges.registry)
        gateway.delivery.transport = FakeNetwork()
        self.world.other.reopen()
        await self.world.other.open()
        return await super().__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(*error)
        await self._close_other()

    @property
    def busy(self) -> bool:
        return self.app.is_busy or self.world.other.is_busy

    async def restart(self) -> None:
        """Stop one of the servers, and start it again. Its clients connect to either."""
        if self.world.chance.random() < 0.5:
            await super().restart()
            return
        self.running = False
        for connection in self.connections:
            connection.cut()
        await self._close_other()
        self.world.other.reopen()
        await self.world.other.open()
        self.running = True
        for connection in self.connections:
            connection.reconnect()

    async def _close_other(self) -> None:
        await self.world.other.gateway.exchanges.drain(self.limits.drain_time)
        await self.world.other.close()


class TwoServersWorld(World):
    """One schedule of two servers.

    Parameters: see `World`.
    """

    def __init__(self, make_store: MakeStore, seed: int) -> None:
        super().__init__(make_store, seed)
        self.other = self.served(make_store)
        # How often each has looked at permissions again.
        self.looked: Counter[Permissions] = Counter()

    def harness(self, seed: int) -> Harness:
        return TwoServers(self, seed)

    def gateways(self) -> list[Gateway]:
        return [self.app.gateway, self.other.gateway]

    async def look_again(self) -> None:
        """Have one of them look at permissions, and the other by what it tells."""
        here, there = self.chance.sample([self.app, self.other], 2)
        told = there.gateway.subscribers["issues"].permissions
        before = self.looked[told]
        await here.backends["issues"].recheck()

        async def has_looked() -> bool:
            return self.looked[told] > before

        await eventually(has_looked, TOLD_SECONDS)

    def spy(self, patched: pytest.MonkeyPatch) -> None:
        """See also where clients connect to, and when permissions are looked at."""
        super().spy(patched)
        connect, recheck = FakeConnection.connect, Permissions.recheck

        def spied_connect(connection: FakeConnection) -> None:
            if connection._connection is None:
                connection._harness = self.chance.choice(connection._harness.sides)
            connect(connection)

        async def spied_recheck(permissions: Permissions, channel: str | None = None) -> None:
            await recheck(permissions, channel)
            self.looked[permissions] += 1

        patched.setattr(FakeConnection, "connect", spied_connect)
        patched.setattr(Permissions, "recheck", spied_recheck)

    async def check(self, t: Any, handles: list[Handle], collections: list[Collection]) -> None:
        """In the end, which comes as soon as each server has heard of what the other has committed."""

        async def have_heard() -> bool:
            positions = await self.app.backends["issues"].log.positions(["c:"])
            top = positions["c:"]
            told = [gateway.subscribers["issues"]._streams.get("c:") for gateway in self.gateways()]
            return all((each.epoch, each.offset) == (top.epoch, top.offset) for each in told if each is not None)

        await eventually(have_heard, TOLD_SECONDS)
        await t.settle(60.0)
        await super().check(t, handles, collections)
