"""Messages: told now to who listens, never kept; over real connections on both engines."""

from __future__ import annotations

import asyncio

import pytest

from bbio import Backend, Forbidden, Limits, before, message, presence
from bbio.builtin import MemoryStore
from tests.support.wire import LegacyClient, Wire


class Rooms(Backend):
    """Who a client says it is, it is."""

    store = MemoryStore()

    @before("read")
    def introduce(self, req):
        req.user = (req.socket.auth or {}).get("user")
        if req.event == "message" and req.user == "mute":
            raise Forbidden("you may listen, not speak")

    @presence
    def card(self, req):
        if req.user == "unseen":
            raise Forbidden("nobody sees you")
        return {"name": req.user}

    @message("typing")
    def typing(self, req, data):
        """It is told as it was sent."""

    @message("said", "sung")
    async def said(self, req, data):
        if data == "bad":
            raise Forbidden("not so")
        if data == "gate":
            await asyncio.sleep(0.05)
        if data == "large":
            return "x" * 5_000
        return {"text": data, "in": req.channel}


class Quiet(Backend):
    """Has no messages."""


@pytest.fixture
async def enter(serve):
    """`await enter(user, channel)`: the namespace of a client that listens, and takes messages."""
    apps, wires = [], []

    async def enter(user=None, channel=None, *, backend="rooms", limits=None, messages=True, **options):
        if not apps:
            apps.append(await serve(Rooms, Quiet, limits=limits))
        wire = await Wire.open(apps[0].url, **options)
        wires.append(wire)
        namespace = await wire.connect(f"/{backend}", None if user is None else {"user": user})
        await namespace.call("listen", channel, {"v": 1, "messages": messages})
        namespace.app = apps[0]
        return namespace

    yield enter
    for wire in wires:
        await wire.close()


async def told(*namespaces):
    """What each was told so far: a marker goes the way of all events."""
    for each in namespaces:
        await each.call("unlisten", [])
    await asyncio.sleep(0.15)
    return [[event[1:] for event in each.events if event[0] == "message"] for each in namespaces]


async def test_the_others_are_told(enter):
    """Of the channel alone, and not who has sent it; with who that is."""
    ann, bob, cyd = await enter("ann", "home"), await enter("bob", "home"), await enter("cyd", "work")
    assert await ann.call("message", "typing", {"in": "title"}, "home") == [None]
    (from_ann,), nothing, elsewhere = await told(bob, ann, cyd)
    assert from_ann[:3] == ["typing", {"in": "title"}, "home"]
    assert from_ann[3]["card"] == {"name": "ann"}
    assert (nothing, elsewhere) == ([], [])


async def test_the_sender_is_the_member(enter):
    """The same key and card, whether it is present or not."""
    ann, bob = await enter("ann"), await enter("bob")
    await ann.call("message", "typing", 1, None)
    _, joined = await ann.call("presence", None, {})
    await ann.call("message", "sung", 2)
    first, second = (await told(bob))[0]
    assert first[3]["key"] == second[3]["key"] == joined["me"]
    assert first[3]["card"] == second[3]["card"] == {"name": "ann"}
    unseen = await enter("unseen")
    await unseen.call("message", "typing", 3, None)
    assert (await told(bob))[0][-1][3]["card"] == {}


async def test_the_method_decides(enter):
    """It may change what is told, and refuse it."""
    ann, bob = await enter("ann", "home"), await enter("bob", "home")
    await ann.call("message", "said", "hello", "home")
    (refused,) = await ann.call("message", "said", "bad", "home")
    (large,) = await ann.call("message", "said", "large", "home")
    (muted,) = await (await enter("mute", "home")).call("message", "typing", 1, "home")
    assert refused["error"]["message"] == "not so"
    assert large["error"]["message"] == "the data of a message may have 4096 bytes as JSON"
    assert muted["error"]["message"] == "you may listen, not speak"
    assert [each[1] for each in (await told(bob))[0]] == [{"text": "hello", "in": "home"}]


@pytest.mark.parametrize(
    "arguments",
    [[], ["typing"], [7, 1, None], [None, 1, None], [["typing"], 1, None], ["typing", 1, 7], ["typing", 1, None, 1]],
)
async def test_arguments_of_any_shape(enter, arguments):
    """What is not valid is a BadRequest, and nobody is told."""
    ann, bob = await enter("ann"), await enter("bob")
    (reply,) = await ann.call("message", *arguments)
    assert reply["error"]["name"] == "BadRequest"
    await ann.call("message", "typing", 2, None)
    assert [each[1] for each in (await told(bob))[0]] == [2]


async def test_what_is_not_declared_or_not_listened_to(enter):
    """Is refused: names, channels, backends; too large data; also after an unlisten."""
    ann, bob = await enter("ann"), await enter("bob")
    quiet = await enter(backend="quiet")
    asked = [
        (ann, ("message", "shouted", 1, None), "'rooms' has no message of this name"),
        (ann, ("message", "read", 1, None), "'rooms' has no message of this name"),
        (ann, ("message", "typing", 1, "home"), "listen to a channel before you send a message to it"),
        (ann, ("message", "typing", "x" * 4_096, None), "the data of a message may have 4096 bytes as JSON"),
        (quiet, ("message", "typing", 1, None), "'quiet' has no messages"),
    ]
    for namespace, packet, text in asked:
        (reply,) = await namespace.call(*packet)
        assert reply["error"]["message"] == text
    await ann.call("unlisten", [None])
    (reply,) = await ann.call("message", "typing", 1, None)
    assert reply["error"]["name"] == "Forbidden"
    await ann.emit("message", "typing", 1, None)
    await ann.emit("message", 7)
    await ann.raw('["message","typing",{"__proto__":1},null]', 99)
    assert (await ann.reply(99))[0]["error"]["name"] == "BadRequest"
    assert await told(ann, bob) == [[], []]


async def test_older_clients_get_none(enter):
    """Nor those that have not said that they take messages; who listens anew without saying it, no more."""
    ann, bob, cyd = await enter("ann"), await enter("bob", messages=False), await enter("cyd")
    old = await LegacyClient.open(ann.app.url, "rooms")
    await old.listen(None)
    await ann.call("message", "typing", 1, None)
    await cyd.call("listen", None, {"v": 1})
    await ann.call("message", "typing", 2, None)
    await asyncio.sleep(0.1)
    await ann.call("message", "typing", 3, None)
    assert [len(each) for each in await told(bob, cyd, old.namespace)] == [0, 1, 0]
    await old.close()


async def test_the_latest_of_those_that_wait(enter):
    """Of one name and sender; what others say meanwhile is told too."""
    ann, bob, cyd = await enter("ann", limits=Limits(messages_per_second=1_000)), await enter("bob"), await enter("cyd")
    await ann.call("message", "typing", 0, None)
    for n in range(1, 100):
        await ann.emit("message", "typing", n, None)
    await ann.emit("message", "said", "x", None)
    await bob.call("message", "typing", "b", None)
    await ann.call("message", "typing", 100, None)
    (events,) = await told(cyd)
    typing = [each[1] for each in events if each[0] == "typing" and each[3]["card"]["name"] == "ann"]
    assert typing[0] == 0
    assert typing[-1] == 100
    assert len(typing) < 10
    assert [each[1]["text"] for each in events if each[0] == "said"] == ["x"]
    assert [each[1] for each in events if each[3]["card"]["name"] == "bob"] == ["b"]


async def test_too_many_are_busy(enter):
    """Nobody is told of those."""
    ann, bob = await enter("ann", limits=Limits(messages_per_second=3)), await enter("bob")
    replies = [await ann.call("message", "typing", n, None) for n in range(6)]
    busy = [reply[0]["error"] for reply in replies if reply[0]]
    assert {error["name"] for error in busy} == {"Busy"}
    assert len(busy) >= 3 or len(busy) == 2
    assert all(0 < error["retry_after"] <= 1 for error in busy)
    assert len((await told(bob))[0]) <= 3


async def test_messages_are_told_in_the_order_in_which_they_came(enter):
    """One that is decided on slowly is not overtaken by a later one of the same client."""
    ann, bob = await enter("ann"), await enter("bob")
    ids = [await ann.start("message", "said", text, None) for text in ("gate", "after")]
    for each in ids:
        assert await ann.reply(each) == [None]
    (events,) = await told(bob)
    assert events[-1][1]["text"] == "after"


async def test_nothing_is_kept(enter):
    """Neither for who comes later, nor as an event of the stream."""
    ann = await enter("ann")
    await ann.call("message", "typing", 1, None)
    bob = await enter("bob")
    assert await told(bob) == [[]]
    (listened,) = await bob.call("listen", None, {"v": 1, "since": {"c:": ["", 0]}})
    assert listened["streams"]["c:"]["offset"] == 0


async def test_a_client_that_is_behind_is_not_told(serve):
    """Its connection is not for what is only of interest now; the others are told."""
    app = await serve(Rooms, limits=Limits(send_buffer=8 << 20, stall_time=60))
    async with await Wire.open(app.url) as wire, await Wire.open(app.url) as other, await Wire.open(app.url) as slow:
        ann, bob, behind = [await each.connect("/rooms") for each in (wire, other, slow)]
        for each in (ann, bob, behind):
            await each.call("listen", None, {"v": 1, "messages": True})
        slow.pause()
        for _ in range(40):
            assert (await ann.call("sync", {"method": "create", "model": {"text": "x" * 50_000}}))[0] is None
        await ann.call("message", "typing", 1, None)
        assert len((await told(bob))[0]) == 1
        slow.resume()
        await slow.until(lambda: sum(event[0] == "synced" for event in behind.events) == 40, "all events")
        assert await told(behind) == [[]]
