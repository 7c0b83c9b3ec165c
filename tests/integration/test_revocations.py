"""Revocations: what the application takes away from clients ends on every process, within a second."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.once  # what is asked is what two servers do, not a Python

SERVED = """
from bbio import App, Backend, Forbidden, before, channel
from bbio.builtin import MemoryStore, store_from_env

closed = set()

class Rooms(Backend):
    store = store_from_env("rooms.db")
    store.check_interval = 0.2

    @before
    def identify(self, req):
        name = req.socket.headers.get("name")
        if name:
            req.identify({"id": name})

    @channel("room-{room}")
    def members(self, req, room):
        if room in closed:
            raise Forbidden("closed")

    @channel("staff")
    def nobody(self, req):
        raise Forbidden("staff only")

class Admin(Backend):
    store = MemoryStore()

    @before("create")
    async def do(self, req):
        closed.update(req.model.get("close", ()))
        call = req.model.get("call")
        if call:
            req.model["count"] = await getattr(app, call)(*req.model.get("args", ()), **req.model["with"])

app = App().serve(Rooms, Admin)
"""


@pytest.fixture(params=["PostgreSQL", "SQLite"])
async def servers(request, database_url, spawn):
    """Two processes, one database."""
    env = {"BBIO_DATABASE_URL": database_url if request.param == "PostgreSQL" else ""}
    return [await spawn(SERVED, **env) for _ in range(2)]


@pytest.fixture
async def clients(servers, join):
    """For each process a client of version 1 and one of the original library, both in `room-a`; and the admins."""
    modern, legacy, admins = [], [], []
    for server in servers:
        modern.append(await join(server.url, "rooms", ..., headers={"name": "ann"}))
        assert "streams" in (await modern[-1].namespace.call("listen", "room-a", {"v": 1}))[0]
        legacy.append(await join(server.url, "rooms", "room-a", headers={"name": "bob"}))
        admins.append(await join(server.url, "admin", ...))
    return modern, legacy, admins


async def do(admin, **model):
    return await admin.sync("create", model)


async def say(client, channel):
    _, made, _ = await client.namespace.call(
        "sync", {"method": "create", "model": {"text": "hello"}, "channel": channel}
    )
    return made


async def test_a_channel_is_ended_on_both_processes(clients):
    """A client of version 1 asks at once to listen again, and is asked about; one of the original library is let go."""
    modern, legacy, admins = clients
    for admin in admins:
        await do(admin, close=["a"])
    began = time.monotonic()
    made = await do(admins[0], call="revoke", **{"with": {"channel": "room-a"}})
    assert made["count"] == 2
    for client in modern:
        assert await client.namespace.event() == ["resync", "c:room-a"]
        assert (await client.namespace.call("listen", "room-a", {"v": 1}))[0]["error"]["message"] == "closed"
    assert time.monotonic() - began <= 1.0
    await modern[0].namespace.call("listen", "room-b", {"v": 1})
    for client in (*modern, *legacy):
        (refusal,) = await client.namespace.call("sync", {"method": "create", "model": {}, "channel": "room-a"})
        assert refusal["error"]["message"] == "closed"
    assert all(not client.namespace.events for client in legacy)


async def test_who_may_still_listen_goes_on_where_it_was(clients):
    """Nothing is missed between the end of a subscription and the next listen."""
    modern, _, admins = clients
    reply = (await modern[1].namespace.call("listen", "room-a", {"v": 1}))[0]
    place = reply["streams"]["c:room-a"]
    await do(admins[0], call="revoke", **{"with": {"channel": "room-a", "backend": "rooms"}})
    assert await modern[1].namespace.event() == ["resync", "c:room-a"]
    await modern[0].namespace.event()
    await modern[0].namespace.call("listen", "room-a", {"v": 1})
    made = await say(modern[0], "room-a")
    since = {"c:room-a": [place["epoch"], place["offset"], place["stamp"]]}
    reply = (await modern[1].namespace.call("listen", "room-a", {"v": 1, "since": since}))[0]
    assert [event[1] for event in reply["streams"]["c:room-a"]["events"]] == [made]


async def test_a_user_is_revoked_on_both_processes(clients):
    """The user's connections are told that they have ended; those of others go on."""
    modern, legacy, admins = clients
    began = time.monotonic()
    await do(admins[1], call="revoke", **{"with": {"user": "ann"}})
    for client in modern:
        assert await client.namespace.event() == ["auth", {"expires_in": 0.0}]
        assert await client.namespace.event() == ["resync", "c:room-a"]
        (refusal,) = await client.namespace.call("sync", {"method": "read", "model": {}})
        assert refusal["error"]["name"] == "Unauthorized"
    assert time.monotonic() - began <= 1.0
    for client in legacy:
        assert (await client.namespace.call("sync", {"method": "read", "model": {}}))[0] is None


async def test_a_user_is_let_into_a_channel_and_out_on_both_processes(clients):
    """Although the rule refuses everybody."""
    modern, legacy, admins = clients
    where = {"backend": "rooms"}
    for client in modern:
        assert (await client.namespace.call("listen", "staff", {"v": 1}))[0]["error"]["message"] == "staff only"
    await do(admins[0], call="join", args=["staff"], **{"with": {"user": "ann", **where}})
    await do(admins[0], call="join", args=["staff"], **{"with": {"user": "bob", **where}})
    for client in modern:
        assert await client.namespace.event() == ["resync", "c:staff", {"joined": True}]
        assert "streams" in (await client.namespace.call("listen", "staff", {"v": 1}))[0]
    made = await say(modern[0], "staff")
    for client in legacy:
        assert await client.synced() == ("create", made)
    await do(admins[1], call="leave", args=["staff"], **{"with": {"user": "ann", **where}})
    for client in modern:
        event = await client.namespace.event()
        while event[0] == "synced":
            event = await client.namespace.event()
        assert event == ["resync", "c:staff", {"left": True}]
        assert (await client.namespace.call("listen", "staff", {"v": 1}))[0]["error"]["message"] == "staff only"
