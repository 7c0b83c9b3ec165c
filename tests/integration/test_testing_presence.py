"""Presence and messages through `app.test()` and the Python client."""

from __future__ import annotations

import asyncio

import pytest

from bbio import App, Backend, BadRequest, Busy, Forbidden, Limits, Timeout, Unavailable, before, message, presence
from bbio.builtin import MemoryStore
from tests.support.servers import eventually


class Rooms(Backend):
    """Nobody is seen in the channel `dark`, nobody listens in `closed`; who is named `broken` breaks the card."""

    store = MemoryStore()
    gate = asyncio.Event()

    @before("read")
    async def admit(self, req):
        if req.channel == "closed":
            raise Forbidden("closed")
        if req.channel == "slow" and req.event == "presence":
            await self.gate.wait()

    @presence
    def card(self, req):
        if req.channel == "dark":
            raise Forbidden("dark")
        return None if req.user == "broken" else {"name": req.user}

    @message("typing")
    async def typing(self, req, data):
        """It is told as it was sent."""


@pytest.fixture
def app():
    """The application, whose gate is closed."""
    Rooms.gate = asyncio.Event()  # an event belongs to the loop that it was waited for in
    return App(limits=Limits(grace=10, members=3)).serve(Rooms)


async def test_a_presence_is_a_mapping(app):
    """One for all who ask, of members by their keys."""
    async with app.test() as t:
        ann = await t.client(user="ann")
        room = ann.presence
        assert room is ann.presence
        assert (len(room), room.me, repr(room)) == (0, None, "<Presence rooms channel=None 0 members>")
        await room.join()
        assert room[room.me].card == {"name": "ann"}
        assert (await room.changed()).joined == {room.me}
        changed = asyncio.ensure_future(room.changed())
        room.set({"n": 1})
        assert (await changed).changed == {room.me}
        await room.join({"n": 2})
        await t.settle()
        with pytest.raises(BadRequest, match="the state of a member is a JSON object"):
            room.set([1])
        with pytest.raises(Timeout, match="is not what is waited for"):
            await room.until(lambda members: len(members) > 1, timeout=1)


async def test_who_is_kept_out_is_told(app):
    """By the listen, by the card, by a channel that is full for as long as it is."""
    async with app.test() as t:
        for channel in ("dark", "closed"):
            handle = t.connect(user="ann").backend("rooms", channel=channel)
            with pytest.raises(Forbidden, match=channel):
                await handle.presence.join()
            with pytest.raises(Forbidden, match=channel):
                await handle.presence.changed()
        first = [await t.client(user=n) for n in range(3)]
        for client in first:
            await client.presence.join()
        late = await t.client(user="late")
        joining = asyncio.ensure_future(late.presence.join())
        await t.advance(5)
        assert not joining.done()
        first[0].presence.leave()
        await joining
        assert len(late.presence) == 3
        assert Busy.code == 429


async def test_a_join_that_takes_long(app):
    """It fails in time, and is there all the same when it may be."""
    async with app.test() as t:
        ann = await t.client(user="ann")
        t.drop_acks(None, ann)
        with pytest.raises(Timeout):
            await ann.presence.join(timeout=1)
        t.heal()
        await ann.presence.until(lambda room: room.me)
        assert len(ann.presence) == 1


async def test_a_join_while_permissions_are_looked_at(app):
    """It is looked at again: the answer from before does not hold."""
    async with app.test() as t:
        ann = await t.client(user="ann", channel="slow")
        joining = asyncio.ensure_future(ann.presence.join())
        await asyncio.sleep(0.02)
        await t.app.backends["rooms"].recheck()
        Rooms.gate.set()
        await joining


async def test_a_client_that_leaves_while_it_joins(app):
    """It is not there afterwards, and what was asked for is given up."""
    async with app.test() as t:
        ann = await t.client(user="ann", channel="slow")
        joining = asyncio.ensure_future(ann.presence.join())
        await asyncio.sleep(0.02)
        t.cut(ann)
        Rooms.gate.set()
        await joining
        await t.settle()
        assert ann.presence[ann.presence.me].connections == 1


async def test_a_broken_card_is_the_servers_fault(app, caplog):
    """It is logged with where it is; the client tries again, as it may be mended; a message has no sender then."""
    async with app.test() as t:
        broken = await t.client(user="broken")
        joining = asyncio.ensure_future(broken.presence.join())

        async def is_logged():
            return "a card is a JSON object" in caplog.text

        await eventually(is_logged)
        joining.cancel()
        with pytest.raises(Exception, match="Internal error"):
            await broken.send("typing")
        broken.presence.leave()


async def test_a_presence_ends_with_its_connection(app):
    """Who waits for it is told."""
    async with app.test() as t:
        connection = t.connect(user="ann")
        handle = connection.backend("rooms")
        await handle.presence.join()
        await handle.presence.changed()
        waiting = asyncio.ensure_future(handle.presence.changed())
        await asyncio.sleep(0)
        connection.close()
        assert (await waiting).left
        with pytest.raises(Unavailable):
            await handle.presence.changed()
        assert handle.messages()._ended


async def test_messages_are_read_one_after_the_other(app):
    """The latest, if they are read too slowly; of the names that were asked for."""
    async with app.test() as t:
        ann, bob = await t.client(user="ann"), await t.client(user="bob", event_limit=2)
        async with bob.messages("typing") as messages, bob.messages("other") as others:
            for n in range(4):
                await ann.send("typing", n)
                await t.settle()
                await t.advance(0.1)
            assert [(await anext(messages)).data for _ in range(2)] == [2, 3]
            reading = asyncio.ensure_future(anext(messages))
            await asyncio.sleep(0)
            await ann.send("typing", 4)
            first = await reading
            assert (first.data, first.card, first.name) == (4, {"name": "ann"}, "typing")
            assert not others._waiting
        with pytest.raises(StopAsyncIteration):
            await anext(messages)
        assert t.app.gateway.subscribers["rooms"].listeners.streams["c:"].messages


async def test_messages_that_cannot_be_sent(app):
    """Fail at once, and are not kept."""
    async with app.test() as t:
        ann = await t.client(user="ann")
        for name, data in (("shouted", 1), ("typing", "x" * 5_000)):
            with pytest.raises(BadRequest):
                await ann.send(name, data)
        with pytest.raises(BadRequest, match="cannot be written as JSON"):
            await ann.send("typing", {1, object()})
        t.drop_acks(1, ann)
        with pytest.raises(Timeout, match="the message 'typing' to 'rooms'"):
            await ann.send("typing", timeout=1)
        t.offline(ann)
        with pytest.raises(Unavailable, match="a message does not wait for one"):
            await ann.send("typing")
        t.online(ann)
        closed = t.connect(user="ann").backend("rooms", channel="closed")
        reader = closed.messages()
        with pytest.raises(Forbidden):
            await closed.send("typing")
        with pytest.raises(Forbidden):
            await anext(reader)
        fresh = t.connect(user="bob").backend("rooms")
        await fresh.send("typing")


async def test_a_present_client_keeps_its_channel(app):
    """Also when nothing else follows it; once it has left, the channel is left."""
    async with app.test() as t:
        ann = await t.client(user="ann")
        mirror = await ann.collection()
        await ann.presence.join()
        mirror.close()
        await t.settle()
        assert t.app.gateway.subscribers["rooms"].listeners
        ann.presence.leave()

        async def is_left():
            return not t.app.gateway.subscribers["rooms"].listeners

        await eventually(is_left)
