"""Events for the server's own code: in order, without a gap, from a position on (docs/server-writes.md)."""

from __future__ import annotations

import asyncio
import gc
import json
from functools import partial
from typing import Any

import attrs
import msgspec
import pytest

import bbio
from bbio import App, Backend, ConfigurationError, HistoryLimits, MemoryLog, Store
from bbio import events as events_module
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.events import Event, Places, Trail, merge
from bbio.streams import Event as Logged
from bbio.streams import Position


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make_store(request):
    """A store of each kind; `app.test()` gives those of databases files and schemas of their own."""
    if request.param == "postgres":
        return partial(PostgresStore, request.getfixturevalue("postgres_server"))
    return MemoryStore if request.param == "memory" else partial(SQLiteStore, "todos.db")


def application(make_store, **options):
    class Todos(Backend):
        store = make_store(**options)

    return App().serve(Todos)


async def take(events, count):
    """The next events; a failure where they do not come."""
    async with asyncio.timeout(20):
        return [await anext(events) for _ in range(count)]


def told(events):
    return [(each.method, each.channel, each.model and each.model.get("title")) for each in events]


async def test_everything_is_told_in_order_with_its_channel(make_store):
    """Writes of all channels, and what is emitted to all; one channel has its own alone, and what is told to all."""
    app = application(make_store)
    async with app.test():
        todos = app.backends["todos"]
        async with todos.events() as everything, todos.events("home") as home, todos.events("") as default:
            milk = await todos.create({"title": "milk"})
            await todos.create({"title": "tea"}, channel="home")
            await todos.patch({"id": milk["id"], "title": "oat milk"})
            todos.emit("created", {"id": "x", "title": "told"})
            await todos.delete(milk["id"])
            assert sorted(told(await take(everything, 5)), key=str) == sorted(
                [
                    ("create", "", "milk"),
                    ("create", "home", "tea"),
                    ("update", "", "oat milk"),
                    ("create", None, "told"),
                    ("delete", "", "oat milk"),
                ],
                key=str,
            )
            assert told(await take(home, 2)) == [("create", "home", "tea"), ("create", None, "told")]
            of_default = await take(default, 4)
            assert [each.method for each in of_default if each.channel == ""] == ["create", "update", "delete"]
            assert [each.rev for each in of_default if each.channel == ""] == sorted(
                each.rev for each in of_default if each.channel == ""
            )


async def test_a_position_is_resumed_without_a_gap(make_store):
    """As JSON, after any event, over a restart where the store keeps its data, and with channels that are new since."""
    app = application(make_store)
    async with app.test() as t:
        todos = app.backends["todos"]
        async with todos.events() as events:
            for n in range(4):
                await todos.create({"title": str(n)}, channel="home" if n % 2 else None)
            seen = await take(events, 4)
            assert seen[-1].position == events.position
        await todos.create({"title": "4"}, channel="new")
        kept = [json.loads(json.dumps(each.position)) for each in seen]
        if make_store is not MemoryStore:
            await t.restart()
        for n, position in enumerate(kept):
            async with todos.events(since=position) as later:
                missed = await take(later, 4 - n)
            assert sorted(each.model["title"] for each in [*seen[: n + 1], *missed]) == list("01234")
        position = next(each.position for each in seen if each.model["title"] == "1")
        async with todos.events("home", since=position) as home:
            assert [each.model["title"] for each in await take(home, 1)] == ["3"]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_other_processes_are_heard(kind, tmp_path, database_url, monkeypatch):
    """A second application on the same data: what it writes comes, in channels that are new too; at once where told."""
    if kind == "postgres":
        monkeypatch.setattr(events_module, "ALL_CHECK_SECONDS", 1_000.0)

    def make(**options):
        return SQLiteStore(tmp_path / "todos.db") if kind == "sqlite" else PostgresStore(database_url)

    async def write():
        there = application(make)
        await there.open()
        for n in range(3):
            await there.backends["todos"].create({"title": str(n)}, channel="home")
        await there.backends["todos"].create({"title": "new"}, channel="new")
        await there.close()

    here = application(make)
    await here.open()
    try:
        todos = here.backends["todos"]
        todos.log.check_interval = 1_000.0 if kind == "postgres" else 1.5
        async with todos.events() as events, todos.events("home") as home:
            await todos.create({"title": "here"})
            await take(events, 1)
            of_all, of_home = asyncio.create_task(take(events, 4)), asyncio.create_task(take(home, 3))
            await asyncio.sleep(0.05)  # both wait by now
            await asyncio.to_thread(asyncio.run, write())
            assert sorted(each.model["title"] for each in await of_all) == ["0", "1", "2", "new"]
            assert [each.model["title"] for each in await of_home] == ["0", "1", "2"]
    finally:
        await here.close()


async def test_a_restart_that_loses_history_is_told():
    """One `reset` of everything, or of the channel; then it goes on."""
    app = application(MemoryStore)
    async with app.test() as t:
        todos = app.backends["todos"]
        async with todos.events() as events, todos.events("home") as home:
            await todos.create({"title": "milk"}, channel="home")
            ((all_before,), (home_before,)) = await take(events, 1), await take(home, 1)
        await t.restart()
        async with todos.events(since=all_before.position) as events:
            await todos.create({"title": "tea"}, channel="home")
            assert told(await take(events, 1)) == [("reset", None, None)]
            await todos.create({"title": "beer"}, channel="home")
            rest = [await anext(events)]
            while rest[-1].model["title"] != "beer":
                rest.append(await anext(events))
            assert events.position == rest[-1].position
        async with todos.events("home", since=home_before.position) as home:
            lost = await take(home, 2)
            assert {(each.method, each.channel) for each in lost} == {("reset", "home"), ("reset", None)}
            await todos.create({"title": "wine"}, channel="home")
            assert told(await take(home, 1)) == [("create", "home", "wine")]


async def test_history_that_was_trimmed_is_told(make_store):
    """A position from before the history, of one channel; what others have is told all the same."""
    app = application(make_store, history=HistoryLimits(events=3))
    async with app.test():
        todos = app.backends["todos"]
        async with todos.events() as events:
            await todos.create({"title": "other"}, channel="other")
            (first,) = await take(events, 1)
        await todos.create({"title": "new"}, channel="other")
        for n in range(300):
            await todos.create({"title": str(n)}, channel="home")
        async with todos.events(since=first.position) as events:
            found = await take(events, 2)
            assert told(found) == [("reset", "home", None), ("create", "other", "new")]
            await todos.create({"title": "after"}, channel="home")
            assert told(await take(events, 1)) == [("create", "home", "after")]


async def test_it_ends_with_the_application_and_when_it_is_closed(make_store):
    """Whoever waits is told; it can be closed while somebody waits, and there is nothing any more."""
    app = application(make_store)
    async with app.test() as t:
        todos = app.backends["todos"]
        closed = todos.events()
        async with closed:
            waiting = asyncio.create_task(collect(closed))
            await todos.create({"title": "milk"})
            await asyncio.sleep(0.05)
            await closed.aclose()
            await waiting
        async with todos.events() as events:
            waiting = asyncio.create_task(collect(events))
            await todos.create({"title": "tea"})
            await t.restart()
            assert [each.model["title"] for each in await waiting] in (["tea"], [])
            with pytest.raises(StopAsyncIteration):
                await anext(events)
        async with todos.events() as events:
            waiting = asyncio.create_task(collect(events))
            await asyncio.sleep(0)  # until it is about to look
            await events.aclose()
            assert await waiting == []
    late = todos.events()
    await late.end()
    with pytest.raises(StopAsyncIteration):
        await anext(late)


async def latest(todos):
    async with todos.events() as events:
        return events.position


async def collect(events):
    return [event async for event in events]


async def test_whoever_leaves_a_loop_is_forgotten():
    """No `aclose` is needed: nothing of it is left, and nobody is woken."""
    app = application(MemoryStore)
    async with app.test():
        todos, subscribers = app.backends["todos"], app.gateway.subscribers["todos"]

        async def first():
            events = todos.events()
            async with asyncio.timeout(20):
                task = asyncio.create_task(anext(events))
                while not subscribers._watchers:  # noqa: ASYNC110 - nobody is woken by it
                    await asyncio.sleep(0)
                await todos.create({"title": "milk"})
                return (await task).model["title"]

        assert await first() == "milk"
        gc.collect()
        assert not subscribers._watchers


async def test_what_cannot_begin_says_why():
    """A position that is none, another event loop, an application that does not run, a log that lists no streams."""

    class Unlisted(Store, MemoryLog):
        tops = bbio.Log.tops

        async def scratch(self, room):
            return Unlisted()

        async def create(self, req):
            return req.model

    class Lists(Backend):
        store = Unlisted()

    app = application(MemoryStore).serve(Lists)
    todos = app.backends["todos"]
    for wrong in (7, "x", {}, {"streams": 1}, {"streams": {"c:": 1}}, {"streams": {}, "begin": 7}):
        with pytest.raises(ConfigurationError, match=r"since=.*it is the `position` of an event"):
            todos.events(since=wrong)
    with pytest.raises(ConfigurationError, match="does not run"):
        await anext(todos.events())
    async with app.test():
        with pytest.raises(ConfigurationError, match="name it: events"):
            todos.events(since={"streams": {"c:": ["a", 1]}})
        with pytest.raises(ConfigurationError, match=r"Unlisted.* does not list its streams; follow one channel"):
            await anext(app.backends["lists"].events())
        async with app.backends["lists"].events("") as events:
            await app.backends["lists"].create({"id": 1, "title": "milk"})
            assert told(await take(events, 1)) == [("create", "", "milk")]
        with pytest.raises(ConfigurationError, match="for the event loop that the application runs in"):
            await asyncio.to_thread(asyncio.run, latest(todos))


async def test_a_log_that_fails_is_asked_again(monkeypatch, caplog):
    """The log says it, and nothing is missed."""
    monkeypatch.setattr(events_module, "LOG_RETRY_SECONDS", 0.01)
    app = application(MemoryStore)
    async with app.test():
        todos = app.backends["todos"]
        async with todos.events() as events:
            await todos.create({"title": "milk"})
            tops = todos.log.tops

            async def fail():
                monkeypatch.setattr(todos.log, "tops", tops)
                raise OSError("gone")

            monkeypatch.setattr(todos.log, "tops", fail)
            assert told(await take(events, 1)) == [("create", "", "milk")]
    assert "the log of todos cannot be read by its own server; trying again" in caplog.text


async def test_much_is_read_in_parts(monkeypatch):
    """Only so many bytes at once, and still everything."""
    monkeypatch.setattr(events_module, "READ_BYTES", 1)
    app = application(MemoryStore)
    async with app.test():
        todos = app.backends["todos"]
        async with todos.events() as events:
            for n in range(6):
                await todos.create({"title": str(n)}, channel=str(n % 3))
            seen = []
            while len(seen) < 6:
                seen += await take(events, 1)
                assert len(events._waiting) <= 1
            assert sorted(each.model["title"] for each in seen) == list("012345")


async def test_streams_that_the_log_forgets_are_left():
    """Who has read them goes on; who may have missed some is told, and so is who comes back."""
    app = application(MemoryStore, history=HistoryLimits(streams=3))
    async with app.test():
        todos = app.backends["todos"]
        async with todos.events() as events:
            seen = []
            for n in range(10):
                await todos.create({"title": str(n)}, channel=str(n))
                seen += await take(events, 1)
            assert told(seen) == [("create", str(n), str(n)) for n in range(10)]
            assert events.position["streams"].keys() == {"c:7", "c:8", "c:9"}
            for n in range(10):
                await todos.create({"title": str(n)}, channel=f"new {n}")
            assert told(await take(events, 1)) == [("reset", None, None)]
            await todos.create({"title": "milk"})
            assert told(await take(events, 1)) == [("create", "", "milk")]
        async with todos.events(since=seen[0].position) as later:
            assert told(await take(later, 1)) == [("reset", None, None)]


async def test_what_is_written_while_the_log_is_read_comes_later(monkeypatch):
    """A model that is written in two channels meanwhile is not told in the wrong order."""
    app = application(MemoryStore)
    async with app.test():
        todos = app.backends["todos"]
        async with todos.events() as events:
            milk = await todos.create({"title": "0"}, channel="a")
            await todos.create({"title": "tea"}, channel="b")
            since, left = todos.log.since, [None, None]

            async def slow(stream, *position):
                if left:
                    left.pop()
                    if not left:  # the first stream was read, and the second is not yet
                        await todos.patch({"id": milk["id"], "title": "1"}, channel="a")
                        await todos.patch({"id": milk["id"], "title": "2"}, channel="b")
                return await since(stream, *position)

            monkeypatch.setattr(todos.log, "since", slow)
            titles = [each.model["title"] for each in await take(events, 4) if each.model["id"] == milk["id"]]
            assert titles == ["0", "1", "2"]


@attrs.define
class Note:
    text: str
    secret: str = bbio.field(private=True, default="")


async def test_private_fields_are_not_told(make_store):
    """The model is what anybody may be told of it."""

    class Notes(Backend[Note]):
        store = make_store()

    app = App().serve(Notes)
    async with app.test():
        notes = app.backends[Notes]
        async with notes.events() as events:
            note = await notes.create(Note("milk", "s3cret"))
            assert note.secret == "s3cret"
            (event,) = await take(events, 1)
            assert event.model.keys() == {"id", "text"}
            # As an earlier version of the class may have had it logged, to which it was not private.
            await notes.log.append("c:", "update", msgspec.Raw(b'{"id":"1","text":"a","secret":"s"}'))
            (event,) = await take(events, 1)
            assert event.model == {"id": "1", "text": "a"}


# Without a backend


def logged(stream: str, offset: int, id: Any, rev: int | None) -> Logged:
    return Logged(stream, "e", offset, "update", json.dumps({"id": id}).encode(), rev)


def order(*streams: list[Logged]) -> list[tuple[str, int]]:
    return [(event.stream, event.offset) for event, _ in merge(streams, "id")]


def test_events_of_one_model_in_several_streams_are_merged_by_revision() -> None:
    """Each stream keeps its order; revisions that contradict it are not waited for."""
    a = [logged("a", 1, 7, 2), logged("a", 2, 7, 4)]
    b = [logged("b", 1, 7, 1), logged("b", 2, 7, 3), logged("b", 3, 7, 5)]
    assert order(a, b) == [("b", 1), ("a", 1), ("b", 2), ("a", 2), ("b", 3)]
    assert order(b, a) == order(a, b)
    assert order([logged("a", 1, 7, 2), logged("a", 2, 8, 1)], [logged("b", 1, 8, 2), logged("b", 2, 7, 1)]) == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
        ("b", 2),
    ]
    assert order([logged("a", 1, 7, None)], [logged("b", 1, [], 1)], []) == [("a", 1), ("b", 1)]
    assert order(a) == [("a", 1), ("a", 2)]


def test_positions_are_those_at_each_event() -> None:
    """However many follow, and in however many streams."""
    trail = Trail(Places({"a": Position("e", 1)}, "e"))
    moves = [trail.move(name, Position("e", n)) for n in range(2, 300) for name in "ab"]
    for number, places in enumerate(moves):
        n, is_b = divmod(number, 2)
        expected = {"a": Position("e", n + 2)}
        if is_b or n:
            expected["b"] = Position("e", n + 1 + is_b)
        assert places() == Places(expected, "e")
    trail.leave("a")
    assert trail.move("c", Position("e", 1))().streams.keys() == {"b", "c"}
    assert Places.read(moves[9]().to_json()) == moves[9]()
    assert Event("create").position == {"streams": {}}
