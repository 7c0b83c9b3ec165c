"""Watchdog: what holds up the event loop is named, and nothing else is."""

import asyncio
import re
import threading
import time
from contextlib import contextmanager

import pytest
import uvloop

from bbio import Backend, create, read
from bbio.server.watchdog import Watchdog
from bbio.stack.stack import layers_of
from tests.support.listeners import until

HELD = 0.04


class Slow(Backend):
    """Layers that hold up the loop."""

    @create
    def sleep(self, req):
        inner(time.sleep)

    @read
    async def calculate(self):
        until = time.monotonic() + 12 * HELD
        while time.monotonic() < until:
            re.fullmatch("(a|aa)+b", "a" * 28)  # keeps the interpreter to itself, for longer than it may be held


def inner(sleep):
    sleep(5 * HELD)


def elsewhere():
    time.sleep(5 * HELD)


@contextmanager
def watching():
    slow = Slow()
    watchdog = Watchdog(HELD, {layer.where: layer.name for layer in layers_of(slow, Slow.__bbio_layers__)})
    try:
        yield slow
    finally:
        watchdog.stop()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def run(request):
    """Runs a coroutine on a loop of either kind."""

    def run(main):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main)

    return run


@pytest.mark.parametrize("name", ["sleep", "calculate"])
def test_a_layer_that_holds_up_the_loop_is_named(run, caplog, name):
    """With the line that it is at, however deep below it the loop is held, and for how long."""

    async def main():
        with watching() as slow:
            await asyncio.sleep(2 * HELD)
            if name == "sleep":
                slow.sleep(None)
            else:
                await slow.calculate()
            await until(lambda: caplog.records)

    run(main())
    record = caplog.records[0]
    assert (record.name, record.levelname) == ("bbio.watchdog", "WARNING")
    text = rf"Slow\.{name} \(.*test_watchdog\.py:\d+\) held up the event loop, .* for (\d+\.\d\d) s: .*True"
    assert float(re.match(text, record.getMessage())[1]) >= 0.1


def test_other_code_is_told_by_where_it_is(run, caplog):
    """Such as a callback of the application's own."""

    async def main():
        with watching():
            await asyncio.sleep(2 * HELD)
            asyncio.get_running_loop().call_soon(elsewhere)
            await until(lambda: caplog.records)

    run(main())
    assert re.match(r"elsewhere \(.*test_watchdog\.py:\d+\) held up", caplog.messages[0])


def test_a_loop_that_only_waits_is_held_up_by_nobody(run):
    """Where the process gets no time, its loop's thread is where it always is when it waits."""

    async def main():
        with watching():
            await asyncio.sleep(4 * HELD)
            watchdog = Watchdog(60, {})
            watchdog._sign()
            loop = asyncio.get_running_loop()
            looked = loop.create_future()

            def look():
                time.sleep(HELD)  # until the loop waits for this thread
                loop.call_soon_threadsafe(looked.set_result, watchdog._culprit())

            loop.call_soon(watchdog._sign)
            await asyncio.sleep(0)
            thread = threading.Thread(target=look)
            thread.start()
            assert await looked is None
            thread.join()
            watchdog.stop()

    run(main())


def test_it_ends_with_a_loop_that_was_closed_without_it(run):
    """Such as that of an application that failed to start."""
    kept = []

    async def main():
        kept.append(Watchdog(HELD, {}))

    run(main())
    kept[0]._thread.join(10)
    assert not kept[0]._thread.is_alive()


def test_what_held_up_the_loop_until_it_stops_is_told_too(run, caplog):
    """The stop waits for that line."""

    async def main():
        with watching() as slow:
            await asyncio.sleep(2 * HELD)
            slow.sleep(None)
        assert caplog.messages[0].startswith("Slow.sleep (")

    run(main())
