"""Work in memory in steps: nobody waits for the whole of it, and it has a deadline."""

import asyncio
import itertools
import random
from types import SimpleNamespace

import pytest

from bbio.errors import Timeout
from bbio.query.ordering import STEP_CHARACTERS, STEP_VALUES, Like
from bbio.query.query import RUN, Query
from bbio.query.steps import STEP_SECONDS, Turns, call_each, run, run_in_turns


def counted(steps):
    """What work returns, and how many steps it took."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value, count
        count += 1


def test_each_item_is_a_step():
    """And what the function came to is returned."""
    assert counted(call_each(len, ["a", "bc", ""])) == ([1, 2, 0], 3)


class Clock:
    """Each look at it takes so many seconds."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        self.now += self.seconds
        return self.now


def work(steps):
    for _ in range(steps):
        yield
    return "done"


def two_steps():
    yield
    return "done"


async def test_short_work_is_done_at_once():
    """It ends before others have their turn."""
    task = asyncio.ensure_future(run_in_turns(work(10), 1.0, Clock(STEP_SECONDS / 100)))
    await asyncio.sleep(0)
    assert task.done()
    assert await task == "done"


async def test_long_work_lets_others_have_their_turn():
    """It pauses after each step, for longer when more is being done, and counts as done at the end."""
    tasks = [asyncio.ensure_future(run_in_turns(work(10), 9.0, Clock(2 * STEP_SECONDS))) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    assert Turns.count == 2
    assert await asyncio.gather(*tasks) == ["done", "done"]
    assert Turns.count == 0


async def test_the_steps_of_much_long_work_fall_into_turns_of_their_own(monkeypatch):
    """However many begin together: between two steps is as much time as one of them takes."""
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr("bbio.query.steps.asyncio", SimpleNamespace(sleep=sleep))
    now = 100.0
    Turns.begin()
    for _ in range(5):
        assert await run_in_turns(two_steps(), 9.0, itertools.count(now, 2 * STEP_SECONDS).__next__) == "done"
    turns = sorted(now + 2 * STEP_SECONDS + seconds for seconds in slept)
    assert turns == pytest.approx([now + (3 + 2 * n) * STEP_SECONDS for n in range(5)])
    Turns.end()
    assert Turns.pause(now) == pytest.approx(STEP_SECONDS)
    Turns.begin()
    Turns.end()


async def test_much_work_that_begins_at_once_takes_turns():
    """While there is long work, the first step of other is short: many may begin in one turn of the loop."""
    clock = Clock(STEP_SECONDS / 10)
    tasks = [asyncio.ensure_future(run_in_turns(work(30), 9.0, clock)) for _ in range(20)]
    await asyncio.sleep(0)
    assert clock.now < 3 * STEP_SECONDS + 20 * 3 * STEP_SECONDS / 10
    assert await asyncio.gather(*tasks) == ["done"] * 20


async def test_work_has_a_deadline():
    """What takes longer is a Timeout."""
    with pytest.raises(Timeout, match="ask for less"):
        await run_in_turns(work(100), 0.01, Clock(0.02))
    assert Turns.count == 0


def test_a_query_may_be_interrupted_wherever_it_takes_long():
    """Between models, within a long text, and while it sorts; what it finds is the same."""
    shuffled = random.Random(1)
    models = [{"id": n, "rank": shuffled.randrange(9), "name": "x"} for n in range(3 * RUN + 7)]
    query = Query.read({"sort": ["-rank", "name"], "limit": 1000, "rank": {"$gt": 0}})
    page, steps = counted(query.steps(models))
    assert steps > 2 * len(models)
    expected = sorted((m for m in models if m["rank"]), key=lambda m: m["id"], reverse=False)
    expected = sorted(expected, key=lambda m: m["rank"], reverse=True)
    assert page.models == expected[:1000]
    following = Query.read({"sort": ["-rank", "name"], "limit": 1000, "rank": {"$gt": 0}, "cursor": page.next})
    assert run(following.steps(models)).models == expected[1000:]
    long_text = {"id": 1, "t": "a" * STEP_CHARACTERS * 5}
    assert counted(Query.read({"t": {"$like": "%_b"}}).steps([long_text]))[1] == 6
    long_list = {"id": 1, "t": [0] * STEP_VALUES * 5}
    assert counted(Query.read({"t": {"$contains": 1}}).steps([long_list]))[1] == 6


def test_a_pattern_takes_one_step_for_so_many_characters_however_it_is_made():
    """The steps are those of the text alone; plain patterns take none."""
    text = "a" * STEP_CHARACTERS * 4
    for pattern in ("%" + "_" * 250 + "b", "%a_" * 80 + "b", "%_"):
        assert counted(Like(pattern).steps(text))[1] == 4
    assert counted(Like("%a" * 120 + "%b").steps(text)) == (False, 0)
    assert counted(Like("b_").steps(text)) == (False, 0)
    for pattern, expected in (("a%a", True), ("%ab%", False), ("a" * 9, False), ("%a%a%", True), ("b%a", False)):
        assert Like(pattern)(text) is expected
