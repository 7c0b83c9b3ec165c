"""Permissions that end, over the wire: who may not read any more hears no more, within a second."""

import asyncio
import time

import pytest

from bbio import Backend, Forbidden, before
from bbio.builtin import MemoryStore
from bbio.client import connect
from tests.support.listeners import until
from tests.support.servers import heard


class Rooms(Backend):
    """Whoever is in a room's list may read it."""

    store = MemoryStore()

    def __init__(self):
        self.members = {"ann", "bob"}

    @before("read")
    def members_only(self, req):
        if req.channel == "staff" and req.socket.headers.get("name") not in self.members:
            raise Forbidden("members only")


class Watched(Rooms):
    """The same, asking again by itself."""

    name = "rooms"
    store = MemoryStore()
    recheck_interval = 0.3


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_listen_without_permission_is_denied(serve, join, transport):
    """Neither what is live nor what was comes through, and no position."""
    app = await serve(Rooms)
    writer = await join(app, "rooms", "staff", headers={"name": "ann"})
    await writer.sync("create", {"title": "secret"})
    eve = await join(app, "rooms", ..., headers={"name": "eve"}, transport=transport)
    for extras in ([], [{"v": 1, "since": {"c:staff": ["x", 0]}}]):
        (reply,) = await eve.namespace.call("listen", "staff", *extras)
        assert reply == {"error": {"name": "Forbidden", "message": "members only", "code": 403}}
    await writer.sync("create", {"title": "secret"})
    await eve.listen(None)
    assert await heard(app.backends["rooms"], eve) == [[]]


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_permission_that_is_taken_away(serve, join, transport):
    """`recheck` ends the subscription at once; version-1 clients are told to ask, and then learn why."""
    app = await serve(Rooms)
    rooms = app.backends["rooms"]
    headers = {"name": "ann"}
    writer = await join(app, "rooms", "staff", headers={"name": "bob"})
    legacy = await join(app, "rooms", "staff", headers=headers, transport=transport)
    modern = await join(app, "rooms", ..., headers=headers, transport=transport)
    await modern.namespace.call("listen", "staff", {"v": 1})
    rooms.members.discard("ann")
    began = time.monotonic()
    await rooms.recheck("staff")
    assert await modern.namespace.event() == ["resync", "c:staff"]
    assert time.monotonic() - began <= 1.0
    secret = await writer.sync("create", {"title": "secret"})
    (reply,) = await modern.namespace.call("listen", "staff", {"v": 1})
    assert reply["error"]["name"] == "Forbidden"
    for client in (legacy, modern):
        (reply,) = await client.namespace.call("sync", {"method": "update", "model": secret, "channel": "staff"})
        assert reply["error"]["name"] == "Forbidden"
    assert not modern.namespace.events
    assert not legacy.namespace.events


async def test_a_permission_that_ends_unannounced(serve, join):
    """With `recheck_interval` it is noticed within that time."""
    app = await serve(Watched)
    modern = await join(app, "rooms", ..., headers={"name": "ann"})
    await modern.namespace.call("listen", "staff", {"v": 1})
    began = time.monotonic()
    app.backends["rooms"].members.discard("ann")
    assert await modern.namespace.event() == ["resync", "c:staff"]
    assert time.monotonic() - began <= 1.0


async def test_a_client_learns_that_its_permission_has_ended(serve):
    """The asyncio client gets the refusal as its error."""
    app = await serve(Rooms)
    async with (
        connect(app.url, headers={"name": "ann"}, jitter=0.01) as io,
        io.backend("rooms", channel="staff").events() as events,
    ):
        await until(lambda: app.backends["rooms"].publisher._streams.get("c:staff"))
        app.backends["rooms"].members.discard("ann")
        await app.backends["rooms"].recheck()
        with pytest.raises(Forbidden):
            async with asyncio.timeout(5):
                await anext(events)
