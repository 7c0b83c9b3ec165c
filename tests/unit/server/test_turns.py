"""Turns of which one address has at most half."""

import asyncio

from bbio.server.turns import Turns


async def test_one_address_has_at_most_half_and_others_go_on():
    """Whoever waits gets the turn that another gives back; nothing is remembered of who has none."""
    turns, inside, ends = Turns(4), [], {}

    async def work(address):
        async with turns.turn(address):
            inside.append(address)
            await ends.setdefault(address, asyncio.Event()).wait()

    tasks = [asyncio.create_task(work(address)) for address in "aaaabb"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sorted(inside) == ["a", "a", "b", "b"]
    ends["a"].set()
    ends["b"].set()
    await asyncio.gather(*tasks)
    assert sorted(inside) == ["a"] * 4 + ["b"] * 2
    assert not turns._shares


async def test_whoever_is_cancelled_takes_no_turn():
    """One of one turn is enough for one."""
    turns = Turns(1)
    async with turns.turn("a"):
        waiting = asyncio.create_task(turns.turn("a").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(1), turns.turn("b"):
        pass
    assert not turns._shares
