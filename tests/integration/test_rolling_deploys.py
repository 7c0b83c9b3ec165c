"""An old server and a new one, with different models, serve one database: each tells its clients of whole records."""

from __future__ import annotations

from contextlib import AsyncExitStack
from operator import itemgetter

import attrs
import pytest

import bbio
from bbio.conformance.cases import refused
from bbio.protocol import decode
from tests.support.postgres import opened

pytestmark = pytest.mark.once  # what is asked is what servers and stores do, not a Python

SERVED = """
import attrs

import bbio
from bbio import App, Backend
from bbio.builtin import store_from_env

@attrs.define
class Item:
    title: str = ""
    {fields}

class Items(Backend):
    model = Item
    store = store_from_env("items.db")
    store.check_interval = 0.2

app = App().serve(Items)
"""
OLD = SERVED.format(fields="notes: str = ''")
# What the old model shows, the new one does not.
NEW = SERVED.format(fields="notes: str = bbio.field(private=True, default=''); price: int = 5")


@pytest.fixture(params=["PostgreSQL", "SQLite"])
async def clients(request, database_url, spawn, join):
    """Listeners at the old server and at the new one, which have been told that there is one model; and its id."""
    env = {"BBIO_DATABASE_URL": database_url if request.param == "PostgreSQL" else ""}
    old, new = [await join((await spawn(source, **env)).url, "items") for source in (OLD, NEW)]
    made = await new.sync("create", {"title": "a", "price": 9, "notes": "n"})
    assert made == {"id": made["id"], "title": "a", "price": 9}
    assert await old.synced() == ("create", {"id": made["id"], "title": "a", "notes": "n"})
    return old, new, made["id"]


async def test_clients_of_each_server_are_told_what_they_would_read(clients):
    """Nothing that their model does not know or show, and all that it does; nor is any of it lost."""
    old, new, id = clients
    for method, model in (
        ("patch", {"id": id, "title": "b"}),
        ("update", {"id": id, "title": "c", "notes": "m"}),
        ("create", {"title": "d"}),
    ):
        written = await old.sync(method, model)
        told = await new.synced()
        assert told == (method.replace("patch", "update"), await new.sync("read", {"id": written["id"]}))
        assert "notes" not in told[1]
        if written["id"] == id:
            assert told[1]["price"] == 9
    await new.sync("patch", {"id": id, "price": 7})
    assert await old.synced() == ("update", {"id": id, "title": "c", "notes": "m"})
    await old.sync("delete", {"id": id})
    assert await new.synced() == ("delete", {"id": id})


async def test_what_is_repeated_at_the_new_server_is_answered_with_the_whole_record(clients):
    """The old one has applied it, and its client comes back to the new one."""
    old, new, id = clients
    sync = {"method": "patch", "model": {"id": id, "title": "b"}, "options": {}, "op": {"c": "writer", "n": 1}}
    for client, record in ((old, {"notes": "n"}), (new, {"price": 9})):
        answer = await client.namespace.call("sync", sync)
        assert next(each for each in answer if isinstance(each, dict) and "id" in each) == {
            "id": id,
            "title": "b",
            **record,
        }


@attrs.define
class Old:
    title: str = ""


@attrs.define
class New:
    title: str = ""
    price: int = 5
    secret: str = bbio.field(private=True, default="s")


async def test_what_is_gone_is_told_as_it_was(database_url):
    """A record without a row is told as it is; of two writes of one model, the first has what the second wrote."""
    async with AsyncExitStack() as stack:
        old, new = [
            await stack.enter_async_context(opened(f"{database_url}?application_name={n}", model, per_channel=True))
            for n, model in enumerate((Old, New))
        ]
        kept, gone = [await old.create({"title": title}, channel="x") for title in ("kept", "gone")]
        await old.write("delete", {"id": gone["id"]}, channel="x")
        await new.write("patch", {"id": kept["id"], "price": 7}, channel="x")
        events = await new.history("x")
        assert [itemgetter("title")(decode(event.body)) for event in events] == ["kept", "gone", "gone", "kept"]
        assert [decode(event.body).get("price") for event in events] == [7, None, None, 7]
        assert not any(b"secret" in event.body for event in events)
        assert events[-1].body == new.published[-1][0].body


async def test_a_write_that_the_old_store_has_applied_is_repeated_in_full(database_url):
    """Before it waits for a batch and after."""
    async with AsyncExitStack() as stack:
        old, new = [
            await stack.enter_async_context(opened(f"{database_url}?application_name={n}", model))
            for n, model in enumerate((Old, New))
        ]
        made = await old.write("create", {"title": "a"}, op="c:1")
        found = await new.store.find(new.request("create", {"title": "a"}, op="c:1"))
        again = await new.write("create", {"title": "a"}, op="c:1")
        for commit in (found, again):
            assert commit.duplicate
            assert decode(commit.body) == {**made.record, "price": 5}


async def test_a_patch_of_a_new_field_may_not_build_on_what_an_old_store_made(database_url):
    """What it was then nobody has written down: a conflict tells what it is, and a patch of that passes."""
    async with AsyncExitStack() as stack:
        old, new = [
            await stack.enter_async_context(opened(f"{database_url}?application_name={n}", model))
            for n, model in enumerate((Old, New))
        ]
        made = await old.create({"title": "a"})
        seen = await new.revision(made["id"])
        await new.write("patch", {"id": made["id"], "title": "b"})
        conflict = await refused(new.write("patch", {"id": made["id"], "price": 7}, rev=seen), "Conflict")
        assert conflict.current["price"] == 5
        await new.write("patch", {"id": made["id"], "title": "c"})
        patched = await new.write("patch", {"id": made["id"], "price": 7}, rev=conflict.rev)
        assert (patched.record["title"], patched.record["price"]) == ("c", 7)
