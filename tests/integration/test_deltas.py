"""Partial events with `bbio.client`, over each store: what changed travels, and whole records show."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from bbio import App, Backend, Request, read
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.client import Event
from bbio.client.deltas import News
from bbio.client.tracker import Meta
from bbio.testing.network import FakeConnection


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make_store(request):
    """Each store in turn; `app.test()` gives those of databases files and schemas of their own."""
    if request.param == "postgres":
        return partial(PostgresStore, request.getfixturevalue("postgres_server"))
    return MemoryStore if request.param == "memory" else partial(SQLiteStore, "stories.db")


def stories(make_store=MemoryStore, **attributes):
    return App().serve(type("Stories", (Backend,), {"deltas": True, "store": make_store(), **attributes}))


@pytest.fixture
def told(monkeypatch):
    """All that clients are told."""
    told = []
    tell = FakeConnection.tell

    def spied(connection, namespace, text):
        told.append(text)
        tell(connection, namespace, text)

    monkeypatch.setattr(FakeConnection, "tell", spied)
    return told


async def reads(handle):
    """How many requests a client has made."""
    return handle._session.outbox._counter


async def test_an_answer_that_is_written_word_by_word(make_store, told):
    """Collections and readers get whole records; of what travels each word is a small part."""
    async with stories(make_store).test() as t:
        writer, reader = (t.connect().backend("stories") for _ in range(2))
        collection, events = await reader.collection(), reader.events()
        text = "x" * 4_000
        made = await writer.create({"text": text, "n": 0})
        await t.settle()
        told.clear()
        for word in ("milk", " and", " bread"):
            text += word
            await writer.patch({"id": made["id"], "$append": {"text": word}, "$inc": {"n": 1}})
        await t.settle()
        assert dict(collection) == {made["id"]: {**made, "text": text, "n": 3}}
        assert max(map(len, told)) < 250
        assert [len((await anext(events)).model["text"]) for _ in range(4)] == [4_000, 4_004, 4_008, 4_014]
        whole = {"id": made["id"], "title": "other"}
        await writer.update(whole)
        await t.settle()
        assert dict(collection) == {made["id"]: whole}
        assert await anext(events) == Event("update", whole, collection.rev(made["id"]))
        await writer.delete(made["id"])
        await t.settle()
        assert len(collection) == 0


async def test_who_comes_back_is_told_what_changed(make_store):
    """Of its own writes too, whose answers were lost: each counts once."""
    async with stories(make_store).test() as t:
        writer, other = (t.connect().backend("stories") for _ in range(2))
        mine, theirs = await writer.collection(), await other.collection()
        made = await writer.create({"text": "a"})
        await t.settle()
        t.drop_acks(1, writer)
        lost = asyncio.create_task(writer.patch({"id": made["id"], "$append": {"text": "b"}}))
        await theirs.until(lambda theirs: theirs[made["id"]]["text"] == "ab")
        t.cut(writer)
        await other.patch({"id": made["id"], "$append": {"text": "c"}})
        record = await lost
        assert record["text"] == "ab"
        await t.settle()
        assert dict(mine) == dict(theirs) == {made["id"]: {**made, "text": "abc"}}


async def test_what_is_not_up_to_date_is_read():
    """After what was told without a revision; and by who holds nothing, once."""
    async with stories().test() as t:
        writer, other = (t.connect().backend("stories") for _ in range(2))
        made = await writer.create({"text": "a"})
        collection = await other.collection()
        t.app.backends["stories"].emit("updated", {**made, "text": "told"}, channel="")
        await collection.until(lambda held: held[made["id"]]["text"] == "told")
        before = await reads(other)
        for text in "bc":
            await writer.patch({"id": made["id"], "$append": {"text": text}})
            await t.settle()
        assert collection[made["id"]]["text"] == "abc"
        assert await reads(other) == before + 1
        collection.close()
        events = other.events()
        await other.ready()
        for text in "de":
            await writer.patch({"id": made["id"], "$append": {"text": text}})
            assert (await anext(events)).model["text"].endswith(text)
        assert await reads(other) == before + 2


async def test_a_collection_of_some_models_gets_those_that_come_to_be_of_them():
    """What it does not know and does not want costs it nothing."""
    async with stories().test() as t:
        writer, other = (t.connect().backend("stories") for _ in range(2))
        queries = [{"done": True}, {"done": True, "sort": "n", "limit": 9}, {"offset": 1, "limit": 9}]
        done, page, later = [await other.collection(data=data) for data in queries]
        made = await writer.create({"done": False, "text": "a"})
        await t.settle()
        other._subscription._deltas.restart()  # nothing of it is remembered
        for collection in (done, page, later):
            collection._replica.renew()
        before = await reads(other)
        await writer.patch({"id": made["id"], "$append": {"text": "b"}})
        await t.settle()
        assert (len(done), len(page), len(later), await reads(other)) == (0, 0, 0, before)
        await writer.patch({"id": made["id"], "done": True})
        await t.settle()
        assert dict(done) == dict(page) == {made["id"]: {**made, "text": "ab", "done": True}}
        assert (len(later), await reads(other)) == (0, before + 1)


async def test_a_collection_of_everything_wants_what_it_does_not_know():
    """Whatever has changed of it."""
    async with stories().test() as t:
        collection = await t.connect().backend("stories").collection()
        assert collection.wants(News("update", {"id": 9, "text": "b"}, Meta("c:", "now", 2, 5)))


async def test_where_reads_tell_no_revisions_whole_records_are_told(told):
    """From then on: what changed could not be made use of."""

    @read
    async def retell(self, req):
        return (await self.store.read(Request("read", req.model, backend=self))).models

    async with stories(retell=retell).test() as t:
        writer, other = (t.connect().backend("stories") for _ in range(2))
        made = await writer.create({"text": "a"})
        collection = await other.collection()
        for text in "bcd":
            await writer.patch({"id": made["id"], "$append": {"text": text}})
        await t.settle()
        assert collection[made["id"]]["text"] == "abcd"
        told.clear()
        await writer.patch({"id": made["id"], "$append": {"text": "e"}})
        await t.settle()
        assert collection[made["id"]]["text"] == "abcde"
        assert any(text.startswith(b'["synced","update"') for text in told)


async def test_a_model_is_read_although_too_much_waits():
    """Everything is read again then."""
    async with stories().test() as t:
        writer = t.connect().backend("stories")
        other = t.connect(queue_limit=1).backend("stories")
        made = await writer.create({"text": "a"})
        collection = await other.collection()
        collection._replica.accept(made["id"], {**made, "text": "?"}, None)
        t.hold(other)
        waits = asyncio.create_task(other.read(made["id"]))
        await asyncio.sleep(0)
        patch = asyncio.create_task(writer.patch({"id": made["id"], "$append": {"text": "b"}}))
        await asyncio.sleep(0)
        t.release(other)
        await asyncio.gather(waits, patch)
        await t.settle()
        assert collection[made["id"]]["text"] == "ab"
