"""Lists that are being made: the bytes that they hold are bounded, and those that wait have their turn."""

import asyncio
from types import SimpleNamespace

import pytest

from bbio import BadRequest, Limits, Request
from bbio.requests import DECODED_BYTES, ENDLESS, SHORT_LIST
from bbio.server.memory import ANSWER_COPIES, ENCODED_COPIES, Addresses, ByteBudget, ListRoom, Lists

MORE = 10 * SHORT_LIST
# What is held for a byte of a list of which no more is known.
LISTED_BYTES = DECODED_BYTES + ENCODED_COPIES


async def settled():
    """Whatever can run has run."""
    for _ in range(5):
        await asyncio.sleep(0)


class Line:
    """Lists of some addresses, which write down when they begin."""

    def __init__(self, limit=10, share=5):
        self.lists = Lists(limit)
        self.shares = {name: ByteBudget(share, self.lists.whole) for name in "ab"}
        self.begun = []

    def ask(self, name, size=5):
        """`a1`: connection 1 of address a."""

        async def enter():
            await self.lists.enter(self.shares[name[0]], name, size)
            self.begun.append(name)

        return asyncio.create_task(enter())

    async def leave(self, name, size=5):
        self.lists.leave(self.shares[name[0]], size)
        await settled()


async def test_one_always_may():
    """However long it is; the next waits for it."""
    line = Line()
    line.ask("a1", 1_000)
    line.ask("a2", 1)
    line.ask("b1", 1)
    await settled()
    assert line.begun == ["a1"]
    await line.leave("a1", 1_000)
    assert line.begun == ["a1", "a2", "b1"]


async def test_addresses_and_connections_take_turns():
    """Who asks for many is not served before who asks for one."""
    line = Line(5)
    for name in ("a1", "a2", "a3", "b1"):
        line.ask(name)
    await settled()
    assert line.begun == ["a1"]
    line.ask("a1")
    for name in ("a1", "a2", "b1", "a3"):
        await line.leave(name)
    assert line.begun == ["a1", "a2", "b1", "a3", "a1"]


async def test_an_address_without_room_does_not_hold_up_others():
    """Each has its share."""
    line = Line(10)
    for name in ("a1", "a2", "b1", "b2"):
        line.ask(name)
    await settled()
    assert line.begun == ["a1", "b1"]
    await line.leave("b1")
    assert line.begun == ["a1", "b1", "b2"]


async def test_nobody_overtakes_for_ever():
    """One for which all must be free is not passed by short ones of other addresses."""
    line = Line(10, 100)
    line.ask("a1", 6)
    await settled()
    line.ask("b1", 9)
    line.ask("a2", 1)
    await settled()
    assert line.begun == ["a1"]
    await line.leave("a1", 6)
    assert line.begun == ["a1", "b1", "a2"]


async def test_who_gives_up_makes_room():
    """Before its turn, and in the moment in which it comes."""
    line = Line()
    line.ask("a1")
    waits, behind = line.ask("a2"), line.ask("a3")
    await settled()
    waits.cancel()
    await settled()
    assert line.begun == ["a1"]
    line.lists.leave(line.shares["a"], 5)
    behind.cancel()
    await settled()
    assert (line.begun, line.lists.whole.held, line.lists._waiting) == (["a1"], 0, {})


def room_for(may_shorten=False, **limits):
    """The room of a connection, and a request of it."""
    address = Addresses(Limits(**limits)).of("192.0.2.1")
    stack = SimpleNamespace(may_shorten=may_shorten, passes_on=not may_shorten)
    req = Request("read", socket=SimpleNamespace(runtime=SimpleNamespace(stacks={"read": stack})))
    req.room = ListRoom(Limits(**limits), address)
    return req, address


async def test_a_request_holds_what_it_last_said():
    """A short list nothing; what is given back is free for others."""
    req, address = room_for()
    for size in (100, MORE, 2 * MORE, MORE, MORE, 100):
        await req.make_room(size)
        assert req.held == address.lists.held == address.all_lists.whole.held == (size > 100) * size * LISTED_BYTES
    await req.make_room(MORE)
    req.room.leave(req)
    assert req.held == address.lists.held == 0


async def test_what_is_known_of_a_list_counts():
    """What Python holds for it, and the answer; or at least the copies that are made of that on its way."""
    req, address = room_for()
    for decoded, held in (
        (0, ANSWER_COPIES * MORE),
        (MORE, ANSWER_COPIES * MORE),
        (20 * MORE, (20 + ENCODED_COPIES) * MORE),
    ):
        await req.make_room(MORE, decoded)
        assert req.held == address.lists.held == held
    req.room.leave(req)


async def test_a_list_does_not_wait_for_another_of_the_same_request():
    """A layer may read several at a time, for which there is no room together."""
    req, address = room_for()
    async with asyncio.timeout(10):
        await asyncio.gather(req.make_room(MORE), req.make_room(2 * MORE))
    assert req.held == address.lists.held == 2 * MORE * LISTED_BYTES
    req.room.leave(req)
    assert address.lists.held == 0


async def test_what_would_be_refused_in_the_end_is_refused_before():
    """Where a layer may leave some out, only what is too much to be held; the server's own lists have no bound."""
    req, _ = room_for(reply=1_000, memory=400_000)
    assert (req.most.json, req.passes_on) == (1_000, True)
    with pytest.raises(BadRequest, match="more than 1000 bytes; ask for less"):
        await req.make_room(1_001)
    req, _ = room_for(True, reply=1_000, memory=400_000)
    assert (req.most.json, req.passes_on) == (100_000, False)
    await req.make_room(1_001)
    with pytest.raises(BadRequest, match="so many values that they take more than 400000 bytes of memory"):
        await req.make_room(1_001, 400_001)
    own = Request("read")
    await own.make_room(10**12)
    assert (own.most, own.passes_on) == (ENDLESS, False)
