"""Clients that come and go without end: memory and tasks stay where they are.

`make soak` does for half an hour what the test suite does for some seconds, with half of the clients hostile.
"""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest

from tests.support.attack import MIB, attacked
from tests.support.servers import ROOT
from tests.support.wire import LegacyClient

pytestmark = pytest.mark.once  # what is asked is what a server does, not a Python

MINUTES = float(os.environ.get("BBIO_SOAK_MINUTES", "0"))
AT_ONCE = 8
# By then histories are full, and an allocator has what it keeps.
WARM_UP_SECONDS = 300


async def visit(target, n):
    """Come, listen, read, write, and leave in one of four ways."""
    transport = "polling" if n % 4 == 0 else "websocket"
    client = await LegacyClient.open(target.url, "quiet", transport=transport)
    await client.listen("room")
    assert await client.sync("update", {"id": n % 5, "text": "x" * (n % 50)})
    if n % 4 == 0:
        await client.wire.send("1")
    elif n % 4 == 1:
        client.wire.abort()
    elif n % 4 == 2:
        await client.namespace.disconnect()
    await client.close()


async def churn(target, numbers):
    """Several visitors at a time."""

    async def visitor():
        for n in numbers:
            await visit(target, n)

    await asyncio.gather(*(visitor() for _ in range(AT_ONCE)))


def slope(samples):
    """What memory grows by in a second, by the line through all samples."""
    middle = sum(moment for moment, _ in samples) / len(samples)
    spread = sum((moment - middle) ** 2 for moment, _ in samples)
    return sum((moment - middle) * memory for moment, memory in samples) / spread


@asynccontextmanager
async def besieged(target):
    """As many attackers as there are visitors are at work during the block, one way of attacking after the other."""
    command = (sys.executable, "-m", "tests.support.floods", str(target.port), str(AT_ONCE))
    siege = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield siege
        assert siege.returncode is None
        out, _ = await siege.communicate(b"")
        target.bad_packets += int(out)
    finally:
        if siege.returncode is None:
            siege.kill()
            await siege.wait()


async def test_nothing_grows_with_clients_that_come_and_go(spawn):
    """After the first, less than 1.5 MB for 400 visits, whose operations are kept; tasks and sessions as before."""
    async with attacked(spawn) as target:
        tasks = target.held["tasks"]
        await churn(target, iter(range(200)))
        await target.back_to_base(5)
        await target.note_base()
        await churn(target, iter(range(400)))
        assert target.grown() < 1.5 * MIB
        await target.back_to_base(5)
        assert (await target.look())["tasks"] <= tasks
        target.bad_packets = 600


async def soak(spawn):
    """Honest clients are all served beside as many hostile ones, and a witness as fast as ever.

    Memory grows by less than 1 MB in 10 minutes, after the first five; afterwards nothing is left of anybody.
    """
    async with attacked(spawn) as target:
        tasks = target.held["tasks"]
        async with besieged(target):
            began, samples = time.monotonic(), []
            while time.monotonic() - began < MINUTES * 60:
                await churn(target, iter(range(400)))
                samples.append((time.monotonic() - began, target.server.rss()))
                print(f"{samples[-1][0]:6.0f} s {samples[-1][1]:8} KiB", flush=True)
        print(f"{target.bad_packets} bad packets", flush=True)
        await target.back_to_base(15)
        assert (await target.look())["tasks"] <= tasks
    later = [sample for sample in samples if sample[0] > WARM_UP_SECONDS]
    assert len(later) < 2 or slope(later) * 600 < MIB, later


if MINUTES:

    async def test_nothing_grows_beside_as_many_that_are_hostile(spawn):
        """What `make soak` runs."""
        await soak(spawn)
