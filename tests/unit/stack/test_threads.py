"""Threads for layers that block: in the request's context, bounded, and given up where nobody waits."""

import asyncio
import contextvars
import threading

import pytest

from bbio.errors import Busy
from bbio.ratelimit import LINES_PER_SECOND
from bbio.stack import threads as module
from bbio.stack.threads import Threads

who = contextvars.ContextVar("who", default="nobody")


@pytest.fixture
def threads():
    made = Threads(1)
    yield made
    made.close()


async def test_a_call_runs_in_a_thread_with_the_context_of_its_caller(threads):
    """What it sets there stays there; what it returns or raises comes back."""
    who.set("ann")

    def look(argument):
        seen = who.get()
        who.set("bob")
        return seen, argument, threading.current_thread().name

    seen, argument, name = await threads.wrap(look, "look")(7)
    assert (seen, argument) == ("ann", 7)
    assert name.startswith("bbio-layer")
    assert who.get() == "ann"

    def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        await threads.wrap(fail, "fail")()


async def test_what_it_returns_may_have_to_be_awaited(threads):
    """Then that is done on the event loop."""

    async def later():
        return threading.current_thread() is threading.main_thread()

    assert await threads.wrap(lambda: later(), "late")()


async def test_an_iteration_that_stops_is_an_error_like_others(threads):
    """A future could not hold it, and its caller would wait for ever."""
    with pytest.raises(RuntimeError, match="first raised StopIteration"):
        await threads.wrap(lambda: next(iter(())), "first")()


async def test_what_is_given_up_goes_on(threads, caplog):
    """What it raises then is in the log; what had not begun never does."""
    held, begun, ended = threading.Event(), threading.Event(), threading.Event()

    def hold():
        begun.set()
        held.wait(10)
        ended.set()
        raise KeyError("too late")

    never = []
    first = asyncio.create_task(threads.wrap(hold, "Slow.hold")())
    second = asyncio.create_task(threads.wrap(never.append, "never")(1))
    await asyncio.to_thread(begun.wait, 10)
    for task in (first, second):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not ended.is_set()
    held.set()
    assert await threads.wrap(lambda: "after it", "next")() == "after it"
    assert ended.is_set()
    assert not never
    assert caplog.messages == ["Slow.hold failed in its thread, after its request had been answered"]


def test_what_fails_afterwards_again_and_again_fills_no_log(caplog):
    """A client that leaves each time causes so many lines in a second."""

    def fail():
        raise KeyError("too late")

    for _ in range(10 * LINES_PER_SECOND):
        with pytest.raises(KeyError):
            module._work(fail, "Slow.fail", (), [True])
    assert caplog.text.count("failed in its thread") <= 3 * LINES_PER_SECOND  # should two seconds begin meanwhile


async def test_so_many_wait_and_no_more(threads, monkeypatch, caplog):
    """What is more is Busy; what still runs at the end is told."""
    monkeypatch.setattr(module, "MAX_WAITING_CALLS", 2)
    held = threading.Event()
    tasks = [asyncio.create_task(threads.wrap(held.wait, "hold")(10)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await threads.wrap(print, "print")()
    threads.close()
    assert caplog.messages == ["1 layers still run in threads; the process ends when they have"]
    held.set()
    assert await tasks[0] is True
    for task in tasks[1:]:
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await threads.wrap(lambda: "again", "again")() == "again"
