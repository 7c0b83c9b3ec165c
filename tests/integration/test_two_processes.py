"""Two processes that serve one backend from one database: what one is told to do, the other does too."""

from __future__ import annotations

import asyncio

import pytest

pytestmark = pytest.mark.once  # what is asked is what two servers do, not a Python

SERVED = """
from pathlib import Path

from bbio import App, Backend, Forbidden, before
from bbio.builtin import MemoryStore, store_from_env

class Rooms(Backend):
    store = store_from_env("rooms.db")
    store.check_interval = 0.2

    @before("read")
    def members_only(self, req):
        if Path("closed").exists():
            raise Forbidden("members only")

class Admin(Backend):
    store = MemoryStore()

    @before("create")
    async def have_it_done(self, req):
        rooms = app.backends["rooms"]
        if "emit" in req.model:
            rooms.emit("created", req.model["emit"], req.model["channel"])
        else:
            await rooms.recheck(req.model["channel"])

app = App().serve(Rooms, Admin)
"""


@pytest.fixture(params=["PostgreSQL", "SQLite"])
async def servers(request, database_url, spawn):
    """Two processes, one database."""
    env = {"BBIO_DATABASE_URL": database_url if request.param == "PostgreSQL" else ""}
    return [await spawn(SERVED, **env) for _ in range(2)]


async def test_what_is_emitted_reaches_the_clients_of_both(servers, join):
    """Those of a channel, and all."""
    here, there = [await join(server.url, "rooms", "home") for server in servers]
    admin = await join(servers[0].url, "admin", ...)
    for n, channel in enumerate(("home", None)):
        await admin.sync("create", {"emit": {"id": n}, "channel": channel})
        for client in (here, there):
            assert await client.synced() == ("create", {"id": n})


async def test_permissions_are_looked_at_by_both(servers, join, tmp_path):
    """Who listens at the other process is asked again too, and hears no more."""
    listeners = []
    for server in servers:
        listeners.append(await join(server.url, "rooms", ...))
        await listeners[-1].namespace.call("listen", "home", {"v": 1})
    admin = await join(servers[0].url, "admin", ...)
    for _ in range(2):
        (tmp_path / "closed").touch()
        await admin.sync("create", {"channel": "home"})
        for listener in listeners:
            assert await listener.namespace.event() == ["resync", "c:home"]
        (tmp_path / "closed").unlink()
        for listener in listeners:
            await listener.namespace.call("listen", "home", {"v": 1})
    await asyncio.gather(*(listener.close() for listener in listeners))
