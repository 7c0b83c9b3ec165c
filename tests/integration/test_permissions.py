"""Permissions that end, over the wire: who may not read any more hears no more, within a second."""

import asyncio
import contextvars
import time

import pytest

from bbio import Backend, Forbidden, Limits, Unauthorized, before
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
    rooms.backend.members.discard("ann")
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
    app.backends["rooms"].backend.members.discard("ann")
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
        app.backends["rooms"].backend.members.discard("ann")
        await app.backends["rooms"].recheck()
        with pytest.raises(Forbidden):
            async with asyncio.timeout(5):
                await anext(events)


async def test_the_listeners_that_are_asked_again_do_not_see_each_others_context(serve, join):
    """What a layer sets for one of them is not there when the next is asked."""
    tenant = contextvars.ContextVar("tenant", default="none")
    seen = []

    class Notes(Backend):
        @before("read")
        async def identify(self, req):
            seen.append(tenant.get())
            tenant.set(req.socket.sid)

    app = await serve(Notes)
    for _ in range(60):
        await join(app, "notes", "home")
    await app.backends["notes"].recheck()
    assert seen == ["none"] * 120


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_sync_where_one_may_not_listen_is_answered_with_that_refusal(serve, join, transport):
    """401 stays 401, whether the channel is named or is that of the last listen; other channels are as they were."""

    class Notes(Backend):
        store = MemoryStore()
        is_open = False

        @before("read")
        async def log_in(self, req):
            await asyncio.sleep(0)
            if req.channel and req.channel != "hall" and not Notes.is_open:
                raise Unauthorized("log in first")

    app = await serve(Notes, limits=Limits(channels=2))
    eve = await join(app, "notes", "hall", transport=transport)

    async def error(channel):
        (reply,) = await eve.namespace.call("sync", {"method": "create", "model": {}, **channel})
        return reply["error"]

    refusal = {"name": "Unauthorized", "message": "log in first", "code": 401}
    for room in ("one", "two", "three"):
        assert (await eve.namespace.call("listen", room))[0]["error"] == refusal
    assert await error({"channel": "two"}) == await error({"channel": "three"}) == await error({}) == refusal
    assert (await error({"channel": "one"}))["code"] == (await error({"channel": "four"}))["code"] == 403
    ack = await eve.namespace.call("sync", {"method": "create", "model": {}, "channel": "hall"})
    assert ack[0] is None
    Notes.is_open = True
    await eve.listen("three")
    assert (await eve.namespace.call("sync", {"method": "create", "model": {}}))[0] is None
