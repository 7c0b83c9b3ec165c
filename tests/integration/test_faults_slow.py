"""Clients that do not read, or read slowly: the memory they take, when they are dropped, and what others hear."""

import asyncio
import time

import pytest

from tests.support.attack import MIB, attacked
from tests.support.servers import eventually
from tests.support.wire import encode

pytestmark = pytest.mark.once  # what is asked is what a server does, not a Python


async def test_a_listener_that_never_reads_costs_little_and_is_dropped(spawn):
    """1,000 events of 10 KB: at most 8 MB more, gone as a slow consumer, and the others get all in order."""
    async with attacked(spawn) as target:
        alice = await target.join()
        mallory = await target.join(receive_buffer=4096)
        mallory.wire.pause()
        for _ in range(10):  # no more at once than waits for a client that a busy machine keeps from reading
            emitting = asyncio.create_task(target.emit(100, 10_000))
            for n in range(100):
                assert (await alice.synced())[1]["id"] == n
            await emitting
        assert target.grown() <= 8 * MIB
        await target.server.said(f"ending {mallory.wire.sid}: slow consumer", 1)
        assert (await target.look())["sessions"] == target.held["sessions"] + 1


async def test_it_is_dropped_within_a_second_of_the_overflow(spawn):
    """What its buffer must not hold is held for a second at most, also when nothing more is sent."""
    async with attacked(spawn) as target:
        alice, mallory = await target.join(), await target.join(receive_buffer=4096)
        await mallory.namespace.emit("narrow")
        mallory.wire.pause()
        waiting = 0
        while waiting <= 1.1 * (1 << 20):
            await target.emit(5, 10_000)
            (waiting,) = await alice.namespace.call("waiting", mallory.wire.sid)
            assert waiting >= 0
        overflown = time.monotonic()
        while waiting >= 0:
            (waiting,) = await alice.namespace.call("waiting", mallory.wire.sid)
            assert time.monotonic() - overflown <= 1
            await asyncio.sleep(0.02)


async def test_what_waits_for_a_client_has_a_bound(spawn):
    """However quickly it comes: at twice the size of its buffer a client is dropped at once."""
    async with attacked(spawn) as target:
        alice, mallory = await target.join(channel=...), await target.join(receive_buffer=4096)
        await mallory.namespace.emit("narrow")
        mallory.wire.pause()
        waiting = 0
        while waiting >= 0:
            assert waiting <= 2 * (1 << 20)
            await target.emit(50, 10_000, burst=50)
            (waiting,) = await alice.namespace.call("waiting", mallory.wire.sid)


async def test_polls_that_are_not_read_cost_little_and_are_dropped(spawn):
    """50 clients whose polls are not read, TCP held open: 2 MB each at most, and within 5 s nothing."""
    async with attacked(spawn, memory=256 << 20) as target:
        alice = await target.join()
        await target.emit(200, 10_000)  # fills the history, which belongs to the base
        await target.note_base()
        polls = []
        for _ in range(50):
            wire = await target.dial(transport="polling")
            wire._reader.cancel()
            for packet in ("40/todos,", f"42/todos,{encode(['listen', None])}"):
                assert (await wire.transport.post(packet))[0] == 200
            query = f"/socket.io/?EIO=4&transport=polling&sid={wire.sid}"
            polls.append(f"GET {query} HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\n\r\n".encode())
        await target.emit(90, 10_000)
        for poll in polls[:25]:  # these ask for all that waits, and leave it; the others do not even ask
            await target.connect(poll, receive_buffer=4096)

        async def polled():
            return (await target.look())["tasks"] >= target.held["tasks"] + 25

        await eventually(polled)
        await target.emit(200, 10_000)
        assert target.grown() <= 50 * 2 * MIB
        for n in (*range(200), *range(90), *range(200)):
            assert (await alice.synced())[1]["id"] == n
        await target.back_to_base(5, memory=5 * MIB)
        target.bad_packets = 50
        assert "slow consumer" in target.server.output


async def test_a_slow_reader_is_kept(spawn):
    """One who reads 200 KB/s gets bursts of 500 KB, whole and in order, and stays."""
    async with attacked(spawn) as target:
        bob = await target.join(receive_buffer=16_384)
        await bob.namespace.emit("narrow")
        bob.wire.throttle(200_000)
        for _ in range(2):
            await target.emit(50, 10_000)
            await asyncio.sleep(1)
        for n in range(100):
            assert (await bob.synced(10))[1]["id"] == n % 50
        assert await bob.sync("read") == []
