"""The pace of what is told without being asked for."""

import pytest

from bbio.server.presence.pace import LoopClock, PerSecond, pause_after
from bbio.testing import Clock


def test_a_count_begins_anew_each_second():
    """What is too much is told when it is welcome."""
    clock = Clock()
    count = PerSecond(2, clock)
    assert [count.count() for _ in range(4)] == [0, 0, 1, 1]
    clock.call_later(0.75, lambda: None)
    clock.turn()
    assert count.count() == 0.25
    clock.call_later(0.25, lambda: None)
    clock.turn()
    assert [count.count() for _ in range(3)] == [0, 0, 1]


@pytest.mark.parametrize(("recipients", "size", "seconds"), [(0, 0, 0.05), (1_000, 1_000, 0.05), (20_000, 1_200, 1.0)])
def test_large_batches_come_less_often(recipients, size, seconds):
    """By their bytes and by how many are told."""
    assert pause_after(recipients, size) == seconds


async def test_the_clock_of_the_loop():
    """It calls later."""
    clock, called = LoopClock(), []
    before = clock.time()
    clock.call_later(0, called.append, 1)
    timer = clock.call_later(0, called.append, 2)
    timer.cancel()
    import asyncio

    while not called:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert called == [1]
    assert clock.time() >= before
