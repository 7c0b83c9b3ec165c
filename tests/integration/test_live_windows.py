"""Collections of the Python client that ask for some models alone: live queries, and pages that stay pages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bbio import App, Backend, Forbidden, Unavailable, before, use
from bbio.builtin import MemoryStore
from bbio.client.tracker import Tracker

OPEN = {"done": False}
MODELS = [{"id": n, "done": n % 2 == 0, "n": n} for n in range(1, 11)]


def todos(live: bool = True, layers: dict[str, Any] | None = None, **options: Any) -> App:
    """An application with ten models, every second of them done; new ones get the ids 100, 101 and so on."""
    made = iter(range(100, 200))
    store = MemoryStore(models=MODELS, ids=lambda: next(made), **options)
    return App().serve(type("Todos", (Backend,), {"store": store, "live_queries": live, **(layers or {})}))


@pytest.fixture
def heard(monkeypatch):
    """The events that clients were told."""
    heard: list[Any] = []
    event = Tracker.event

    def spied(tracker, method, model, meta):
        heard.append((method, model and model.get("id")))
        return event(tracker, method, model, meta)

    monkeypatch.setattr(Tracker, "event", spied)
    return heard


def reads(t, monkeypatch):
    """What lists are read from now on."""
    found = []
    dispatch = type(t.gateway.exchanges.registry).dispatch

    def spied(registry, runtime, req, res=None):
        if req.method == "read":
            found.append(dict(req.options.get("data") or {}))
        return dispatch(registry, runtime, req, res)

    monkeypatch.setattr(type(t.gateway.exchanges.registry), "dispatch", spied)
    return found


async def test_a_collection_is_told_what_it_asked_for(heard):
    """And nothing else; what leaves the query leaves the collection."""
    async with todos().test() as t:
        ann, bob = await t.clients(2, jitter=0)
        mirror = await bob.collection(data=OPEN)
        assert sorted(mirror) == [1, 3, 5, 7, 9]
        await ann.patch({"id": 2, "n": 0})
        await ann.patch({"id": 1, "done": True})
        await ann.patch({"id": 4, "done": False})
        await bob.patch({"id": 3, "done": True})
        await t.settle()
        assert sorted(mirror) == [4, 5, 7, 9]
        assert [told for told in heard if told[1] == 2] == []
        assert ("delete", 1) in heard
        assert bob._subscription.live == OPEN


async def test_another_query_is_told_like_a_lost_history(heard):
    """What has come and gone, with a reset; once, and of the models it asks for now."""
    async with todos().test() as t:
        ann, bob = await t.clients(2, jitter=0)
        mirror = await bob.collection(data=OPEN)
        with pytest.MonkeyPatch.context() as patched:
            asked = reads(t, patched)
            await mirror.set_query({"done": True})
            assert asked == [{"done": True}]
        changes = await mirror.changed()
        assert (changes.added, changes.removed, changes.reset) == ({2, 4, 6, 8, 10}, {1, 3, 5, 7, 9}, True)
        await ann.patch({"id": 1, "n": 0})
        await ann.patch({"id": 2, "n": 0})
        await ann.patch({"id": 3, "done": True})
        await t.settle()
        assert (sorted(mirror), mirror[2]["n"]) == ([2, 3, 4, 6, 8, 10], 0)
        await mirror.set_query(None)
        assert len(mirror) == 10
        await ann.create({"done": False})
        await t.settle()
        assert len(mirror) == 11


async def test_the_query_may_change_while_there_is_no_connection():
    """It counts from the next connection on; the latest of several counts."""
    async with todos().test() as t:
        ann, bob = await t.clients(2, jitter=0)
        mirror = await bob.collection(data=OPEN)
        t.offline(bob)
        ann_writes = ann.patch({"id": 1, "done": True})
        asked = [asyncio.ensure_future(mirror.set_query(data)) for data in (None, OPEN, {"n": {"$lt": 3}})]
        await ann_writes
        t.online(bob)
        await asyncio.gather(*asked)
        await t.settle()
        assert sorted(mirror) == [1, 2]
        await ann.patch({"id": 5, "n": 0})
        await t.settle()
        assert sorted(mirror) == [1, 2, 5]


async def test_the_query_may_change_while_the_server_is_being_asked(heard):
    """What it answers was asked by another query, so it is asked again."""
    async with todos().test() as t:
        ann, bob = await t.clients(2, jitter=0)
        mirror = await bob.collection(data=OPEN)
        t.hold(bob)
        asked = [asyncio.ensure_future(mirror.set_query(data)) for data in ({"done": True}, {"n": {"$lt": 3}})]
        await asyncio.sleep(0)
        t.release(bob)
        await asyncio.gather(*asked)
        await t.settle()
        assert (sorted(mirror), bob._subscription.live) == ([1, 2], {"n": {"$lt": 3}})
        await ann.patch({"id": 5, "n": 0})
        await ann.patch({"id": 6, "done": True})
        await t.settle()
        assert (sorted(mirror), heard[-1]) == ([1, 2, 5], ("create", 5))


async def test_several_collections_with_different_queries_are_told_all(heard):
    """They keep to their queries themselves, also when one of them is alone again; alone from the start, it is not."""
    async with todos().test() as t:
        ann, bob = await t.clients(2, jitter=0)
        first = await bob.collection(data=OPEN)
        same = await bob.collection(data=OPEN)
        assert bob._subscription.live == OPEN
        second = await bob.collection(data={"done": True})
        await t.settle()
        assert (bob._subscription.live, (await first.changed()).reset) == (None, True)
        await ann.patch({"id": 1, "done": True})
        await t.settle()
        assert (sorted(first), sorted(same), sorted(second)) == ([3, 5, 7, 9], [3, 5, 7, 9], [1, 2, 4, 6, 8, 10])
        second.close()
        same.close()
        await ann.patch({"id": 1, "done": False})
        await t.settle()
        assert sorted(first) == [1, 3, 5, 7, 9]
        assert bob._subscription.live is None
        first.close()
        assert bob._subscription.query is None
        await bob.collection(data=OPEN)
        assert bob._subscription.live == OPEN


async def test_events_are_those_of_all_models():
    """So the listen is of all models as long as somebody reads them; who opened them late is told of a reset."""
    async with todos().test() as t:
        ann, bob = await t.clients(2, jitter=0)
        mirror = await bob.collection(data=OPEN)
        events = bob.events()
        await t.settle()
        await ann.patch({"id": 2, "n": 0})
        await t.settle()
        assert [(await anext(events)).method for _ in range(2)] == ["reset", "update"]
        assert sorted(mirror) == [1, 3, 5, 7, 9]


async def test_without_live_queries_nothing_is_read_twice(monkeypatch):
    """The client keeps its collections to their queries, as ever."""
    async with todos(live=False).test() as t:
        ann, bob = await t.clients(2, jitter=0)
        asked = reads(t, monkeypatch)
        mirror = await bob.collection(data=OPEN)
        await bob.collection(data={"done": True})
        assert asked == [OPEN, {"done": True}]
        await ann.patch({"id": 1, "done": True})
        await mirror.set_query({"n": 1})
        await t.settle()
        assert (list(mirror), len(asked), (await mirror.changed()).reset) == ([1], 3, True)


@pytest.mark.parametrize("data", [{"t": {"$like": "a_"}}, {"$near": 1}, {"limit": 5, "$limit": 5}])
async def test_a_query_that_the_server_cannot_follow_live_is_kept_by_the_client(data):
    """Or, where it is none at all, refused when it is read."""

    def translate(self, req):
        if "$near" in req.options.get("data", {}) or "$limit" in req.options.get("data", {}):
            req.options["data"] = {}

    async with todos(layers={"translate": before("read")(translate)}).test() as t:
        ann, bob = await t.clients(2, jitter=0)
        mirror = await bob.collection(data=data)
        one = await ann.create({"t": "ab"})
        await t.settle()
        assert one["id"] in mirror
        assert bob._subscription.live is None


@pytest.mark.parametrize("live", [True, False])
async def test_data_with_a_meaning_of_the_servers_own_is_no_live_query(live, monkeypatch):
    """What is told cannot be compared, so it is read again: once for many changes."""

    def translate(self, req):
        if "search" in req.options.get("data", {}):
            req.options["data"] = {"n": {"$lt": 3}}

    async with todos(live, layers={"translate": before("read")(translate)}).test() as t:
        ann, bob = await t.clients(2, jitter=0)
        mirror = await bob.collection(data={"search": "few"})
        await t.settle()
        assert (sorted(mirror), bob._subscription.live) == ([1, 2], None)
        asked = reads(t, monkeypatch)
        for n in range(5, 10):
            await ann.patch({"id": n, "n": n - 5})
        await t.settle()
        await t.advance(1)
        await t.settle()
        assert sorted(mirror) == [1, 2, 5, 6, 7]
        assert len(asked) <= 4


# Windows


async def titles(t, mirror):
    await t.settle()
    return list(mirror)


@pytest.mark.parametrize("live", [True, False])
async def test_a_page_stays_the_first_page(live, monkeypatch):
    """What comes in pushes the last out, in its place; what leaves is replaced by the next one, read once for many."""
    async with todos(live).test() as t:
        ann, bob = await t.clients(2, jitter=0)
        data = {"done": False, "sort": "-n", "limit": 3}
        mirror = await bob.collection(data=data)
        assert list(mirror) == [9, 7, 5]
        asked = reads(t, monkeypatch)
        new = (await ann.create({"done": False, "n": 8}))["id"]
        assert await titles(t, mirror) == [9, new, 7]
        await ann.patch({"id": 9, "n": 7.5})
        assert await titles(t, mirror) == [new, 9, 7]
        await ann.delete(9)
        assert await titles(t, mirror) == [new, 7, 5]
        assert asked == []
        await ann.patch({"id": 7, "done": True})
        await ann.patch({"id": new, "n": -1})
        assert await titles(t, mirror) == [5, 3, 1]
        assert [read["$cursor"] is not None and read["$limit"] for read in asked] == [3]
        await ann.delete(1)
        assert await titles(t, mirror) == [5, 3, new]
        changes = await mirror.changed()
        assert (changes.reset, set(mirror) - changes.added) == (False, {5})
        await ann.delete(5)
        await ann.delete(3)
        assert await titles(t, mirror) == [new]
        assert len(mirror) == 1
        await ann.create({"done": True, "n": 4})
        assert await titles(t, mirror) == [new]
        assert len(asked) == 1


async def test_a_page_that_is_pushed_far_is_read_from_its_beginning(monkeypatch):
    """No more than two pages are known; the cursor is of what comes after these alone."""
    async with todos().test() as t:
        ann, bob = await t.clients(2, jitter=0)
        mirror = await bob.collection(data={"sort": "-n", "limit": 2})
        made = [(await ann.create({"n": n}))["id"] for n in range(20, 26)]
        assert await titles(t, mirror) == made[:-3:-1]
        assert len(mirror._replica.models) == 4
        asked = reads(t, monkeypatch)
        for key in made[2:]:
            await ann.delete(key)
        assert await titles(t, mirror) == [made[1], made[0]]
        assert asked[0] == {"sort": "-n", "limit": 2}


async def test_writes_and_lost_connections_leave_a_page_right():
    """Whatever comes while it is being read."""
    async with todos().test() as t:
        ann, bob = await t.clients(2, jitter=0)
        mirror = await bob.collection(data={"sort": "n", "limit": 3})
        t.hold(bob)
        for n in (1, 2, 3):
            await ann.delete(n)
        t.cut(bob)
        await ann.patch({"id": 10, "n": 0})
        t.release(bob)
        t.heal()
        await t.advance(5)
        assert await titles(t, mirror) == [10, 4, 5]
        await bob.delete(10)
        assert await titles(t, mirror) == [4, 5, 6]


async def test_a_page_whose_order_only_the_server_knows_is_read_again(monkeypatch):
    """Once for many changes; so it is when it cannot be read for a while."""
    fails: list[Exception] = []

    async def turned(self, next):
        if fails:
            raise fails.pop()
        return list(reversed(await next()))

    async with todos(layers={"turned": use("read")(turned)}).test() as t:
        ann, bob = await t.clients(2, jitter=0)
        mirror = await bob.collection(data={"sort": "n", "limit": 3})
        assert list(mirror) == [3, 2, 1]
        asked = reads(t, monkeypatch)
        for n in (2, 3, 4):
            await ann.delete(n)
        await t.advance(1)
        assert sorted(await titles(t, mirror)) == [1, 5, 6]
        fails.append(Unavailable("not now"))
        before_failure = len(asked)
        await ann.delete(5)
        await t.advance(5)
        assert sorted(await titles(t, mirror)) == [1, 6, 7]
        assert (before_failure <= 2, len(asked) - before_failure) == (True, 2)
        fails.append(Forbidden("never"))
        await ann.delete(6)
        await t.advance(5)
        await t.settle()
        while True:
            try:
                await mirror.changed()
            except Forbidden:
                break
        mirror.close()


async def test_a_page_that_is_closed_is_not_read():
    """Nor is one of which more is written than can wait."""
    async with todos().test() as t:
        ann, bob = await t.clients(2, jitter=0)
        mirror = await bob.collection(data={"sort": "n", "limit": 3})
        await ann.delete(1)
        t.hold(bob)
        await ann.delete(2)
        mirror._fill_soon()
        mirror.close()
        t.release(bob)
        await t.settle()
        assert mirror._filling is None
