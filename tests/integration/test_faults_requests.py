"""More requests than one connection may make: what runs, what waits, and what is told to come back."""

import asyncio
import time

import pytest

from tests.support.attack import MIB, attacked
from tests.support.servers import eventually

pytestmark = pytest.mark.once  # what is asked is what a server does, not a Python


@pytest.mark.parametrize("engine", ["fast", "plain"])
async def test_pending_requests_have_bounds(spawn, engine):
    """Of 2,000 on one socket 32 run, 256 wait, the rest is Busy; those that wait are dropped with the connection."""
    async with attacked(spawn, engine) as target:
        mallory = await target.join("slow", ...)
        ids = [await mallory.start("update", {"id": n}) for n in range(2000)]
        for id in ids[32 + 256 :]:
            (answer,) = await mallory.namespace.reply(id)
            assert answer["error"]["name"] == "Busy"
            assert answer["error"]["retry_after"] > 0
        held = await target.look()
        assert (held["started"], held["now"]) == (32, 32)
        assert target.grown() <= 8 * MIB
        mallory.wire.abort()

        async def gone():
            return (await target.look())["sessions"] == target.held["sessions"]

        await eventually(gone, 20)
        await target.open_gate()
        target.held["tasks"] += engine == "plain"  # the library's ping of a client that left sleeps on
        await target.back_to_base(2)
        assert (await target.look())["started"] == 32
        target.bad_packets = 2000


async def test_waiting_requests_run_when_there_is_room(spawn):
    """Of 288 none is lost while the connection lasts, and never more than 32 run."""
    async with attacked(spawn) as target:
        alice = await target.join("slow", ...)
        ids = [await alice.start("update", {"id": n}) for n in range(288)]
        (busy,) = await alice.namespace.call("sync", {"method": "update", "model": {"id": 288}})
        assert busy["error"]["name"] == "Busy"
        await target.open_gate()
        for n, id in enumerate(ids):
            assert await alice.finish(id) == {"id": n}
        assert (await target.look())["most"] == 32


@pytest.mark.parametrize("engine", ["fast", "plain"])
async def test_requests_of_a_second_have_bounds(spawn, engine):
    """More than `requests_per_second` are Busy and told when to come back; then they are answered again."""
    async with attacked(spawn, engine, requests_per_second=300) as target:
        mallory = await target.join()
        began = time.monotonic()
        ids = [await mallory.start("read") for _ in range(600)]
        answers = [await mallory.namespace.reply(id) for id in ids]
        seconds = time.monotonic() - began
        busy = [answer[0]["error"] for answer in answers if answer[0]]
        assert 600 - 300 * (seconds + 1) <= len(busy)
        assert {error["name"] for error in busy} == {"Busy"}
        assert all(0 <= error["retry_after"] <= 1 for error in busy)
        await asyncio.sleep(busy[-1]["retry_after"] + 0.01)
        assert await mallory.sync("read") == []
        target.bad_packets = 600
