"""Positions of events in the client: a program keeps one, and goes on there when it starts again."""

from __future__ import annotations

import asyncio
import json

import pytest

from bbio import App, Backend, BadRequest, HistoryLimits, visible
from bbio.builtin import MemoryStore


class Plain(Backend):
    store = MemoryStore(history=HistoryLimits(events=5))


class Scoped(Backend):
    store = MemoryStore(history=HistoryLimits(events=5))

    @visible
    def shown(self, req):
        return {"hidden": {"$ne": True}}


@pytest.fixture(params=[Plain, Scoped])
async def running(request):
    """An application, with a view for each listener or without."""
    async with App().serve(todos=request.param).test() as t:
        yield t


async def take(events, count):
    async with asyncio.timeout(20):
        return [await anext(events) for _ in range(count)]


async def test_a_program_goes_on_after_any_event(running):
    """Nothing is missing, and own writes come too, as they are another program's now."""
    todos = running.backends["todos"]
    ann = running.connect().backend("todos")
    async with ann.events() as events:
        await ann.ready()
        await todos.create({"n": 1})
        await todos.create({"n": 2, "hidden": True})
        await ann.create({"n": 3})
        await todos.create({"n": 4})
        await running.settle()
        seen = await take(events, 2 if todos.is_scoped else 3)
    first, last = seen[0], seen[-1]
    assert (first.model["n"], last.model["n"]) == (1, 4)
    for event in (first, last):
        again = running.connect().backend("todos")
        async with again.events(since=json.loads(json.dumps(event.position))) as events:
            await again.ready()
            await todos.create({"n": 9})
            missed = []
            while not missed or missed[-1] != 9:
                missed += [each.model["n"] for each in await take(events, 1)]
            expected = [3, 4, 9] if todos.is_scoped else [2, 3, 4, 9]
            assert missed == (expected if event is first else [9])
            await todos.delete((await todos.query({"n": 9})).models[0]["id"])


async def test_a_history_that_is_gone_is_told_first(running):
    """And the position goes on from there."""
    todos = running.backends["todos"]
    ann = running.connect().backend("todos")
    async with ann.events() as events:
        await ann.ready()
        await todos.create({"n": 1})
        (first,) = await take(events, 1)
    for n in range(8):
        await todos.create({"n": n})
    events = running.connect().backend("todos").events(since=first.position)
    (reset,) = await take(events, 1)
    assert reset.method == "reset"
    await todos.create({"n": "after"})
    again = running.connect().backend("todos").events(since=reset.position)
    for each in (events, again):
        (event,) = await take(each, 1)
        assert event.model["n"] == "after"


async def test_a_history_that_was_lost_meanwhile_is_behind(running):
    """The position of a reset on a connection that comes back is that of now."""
    todos = running.backends["todos"]
    ann = running.connect().backend("todos")
    async with ann.events() as events:
        await ann.ready()
        await todos.create({"n": 1})
        await take(events, 1)
        running.offline(ann)
        for n in range(8):
            await todos.create({"n": n})
        running.online(ann)
        (reset,) = await take(events, 1)
        assert reset.method == "reset"
        await todos.create({"n": "later"})
        (event,) = await take(running.connect().backend("todos").events(since=reset.position), 1)
        assert event.model["n"] == "later"


async def test_what_is_no_position_is_refused(running):
    """And one that comes too late: others follow the channel already."""
    ann = running.connect().backend("todos")
    for wrong in (7, {}, {"c:": 7}, {"c:": ["a"]}, {name: ["a", 1] for name in "abc"}):
        with pytest.raises(BadRequest, match=r"since=.* it is the `position` of an event"):
            ann.events(since=wrong)
    async with ann.events():
        with pytest.raises(BadRequest, match="comes before all else that follows the channel"):
            ann.events(since={"c:": ["a", 1]})
