"""Packets that are no protocol, and requests that make no sense: what they end, what they cost, who else notices."""

import contextlib
import time

import pytest

from tests.support.attack import MIB, attacked
from tests.support.websocket import BINARY, CONTINUATION, PING, TEXT, frame
from tests.support.wire import Closed, ConnectRefused, encode

pytestmark = pytest.mark.once  # what is asked is what a server does, not a Python

ATTACHED = '["x",{"_placeholder":true,"num":0}]'
FRAMES = {
    "a reserved opcode": [frame(0x3, b"x")],
    "a continuation of nothing": [frame(CONTINUATION, b"x")],
    "a ping in parts": [frame(PING, b"x", fin=False)],
    "text that is no UTF-8": [frame(TEXT, b"42\xff\xfe")],
    "2 MB announced": [frame(TEXT, b"4", announced=2_000_000)],
    "binary data nobody announced": [frame(BINARY, b"x")],
    "an empty text": [frame(TEXT, b"")],
}
PACKETS = {
    "10^6 attachments": [f"451000000-/todos,{ATTACHED}"],
    "17 attachments": [f"4517-/todos,{ATTACHED}"],
    "a long event with an attachment": [f"451-/todos,{ATTACHED[:-1]},{'0,' * 17_000}0]", b"a"],
    "0 attachments": [f"450-/todos,{ATTACHED}"],
    "no number of attachments": [f"45/todos,{ATTACHED}"],
    "-1 attachments": [f"45-1-/todos,{ATTACHED}"],
    "1 attachment and no placeholder": ['451-/todos,["x"]'],
    "a placeholder without num": ['451-/todos,["x",{"_placeholder":true}]'],
    "a placeholder of another attachment": ['451-/todos,["x",{"_placeholder":true,"num":9}]', b"a"],
    "a placeholder whose num is a text": ['451-/todos,["x",{"_placeholder":true,"num":"0"}]', b"a"],
    "a placeholder whose num is true": ['451-/todos,["x",{"_placeholder":true,"num":false}]', b"a"],
    "one attachment in two places": [f"451-/todos,[{ATTACHED},{ATTACHED}]", b"a"],
    "an event before the attachment": [f"451-/todos,{ATTACHED}", '42/todos,["x"]'],
    "an ack before the attachment": [f"461-/todos,1{ATTACHED}", "43/todos,1[]"],
    "another announcement": [f"451-/todos,{ATTACHED}", f"451-/todos,{ATTACHED}"],
    "attachments where nobody joined": [f"451-/nowhere,{ATTACHED}"],
    "a CONNECT twice": ["40/todos,"],
    "a CONNECT_ERROR": ['44/todos,{"message":"x"}'],
    "an unknown packet": ["48/todos,"],
    "no packet": ["4"],
    "an unknown message": ["4x"],
    "an event without data": ["42/todos,"],
    "an event that is an object": ['42/todos,{"a":1}'],
    "an event that is no JSON": ["42/todos,[1"],
    "an event without a name": ["42/todos,[]"],
    "an OPEN": ["0{}"],
    "a PING": ["2"],
    "an UPGRADE": ["5"],
    "a NOOP": ["6"],
    "a number that is no packet": ["9"],
    "no number": ["x"],
    "an ack id of 100 digits": [f'42/todos,{"1" * 100}["x"]'],
    "an event with attachments and 40 KB": [
        f'451-/todos,["x",{{"_placeholder":true,"num":0}},"{"long" * 10_000}"]',
    ],
    "a namespace of 900 KB": [f"40/{'long' * 225_000},"],
    **{
        f"the event {name}": [f"42/todos,{encode([name, 'forged'])}"]
        for name in ("connect", "disconnect", "connect_error", "disconnecting", "*", "", "_private", 1, None, True, [])
    },
}


async def ended_within(target, send):
    """Have a fresh client send something; the seconds until it is gone come back."""
    mallory = await target.join()
    began = time.monotonic()
    await send(mallory.wire)
    await mallory.wire.ended(2)
    assert not any("long" in str(packet) for packet in mallory.wire.frames)
    return time.monotonic() - began


async def all_ended(target):
    """Have fresh clients send all that is no protocol; the names of what did not end its connection within 100 ms."""
    slow = []
    for name, parts in {**FRAMES, **PACKETS}.items():

        async def send(wire, name=name, parts=parts):
            if name in FRAMES:
                await wire.socket.write(*parts)
            else:
                await wire.send(*parts)

        for _ in range(5):  # the quickest counts: what the machine does meanwhile is not the server's
            target.bad_packets += 1
            if await ended_within(target, send) <= 0.1:
                break
        else:
            slow.append(name)
    return slow


async def test_what_is_no_protocol_ends_the_connection(spawn):
    """Within 100 ms, whatever layer it breaks, with less than 1 MB of growth for all of them."""
    async with attacked(spawn) as target:
        await ended_within(target, lambda wire: wire.send("x"))  # what is made once belongs to the base
        await target.note_base()
        target.bad_packets = 1
        assert not await all_ended(target)
        if target.grown() >= MIB:  # a leak takes as much again; what a busy machine has the process buy once, it keeps
            await target.note_base()
            assert not await all_ended(target)
        assert target.grown() < MIB
        await target.back_to_base(2)


async def test_an_attachment_that_never_comes_ends_the_connection(spawn):
    """Also when nothing else comes: after `body_time`."""
    async with attacked(spawn, body_time=0.2) as target:
        mallory = await target.join()
        await mallory.wire.send(f"451-/todos,{ATTACHED}")
        await mallory.wire.ended(1)


def deep(levels):
    """A model in which so many arrays are nested."""
    return '{"a":' * (levels - 1) + "{}" + "}" * (levels - 1)


SENSELESS = [
    *("null", "[]", '"sync"', "7", "{}", "true", '{"method":"create"}', '{"method":"drop","model":{}}', "{},1,2,3"),
    *('{"method":"create","model":[]}', '{"method":"create","model":{"__proto__":{"admin":true}}}'),
    '{"method":"create","model":{"a":' + "9" * 5_000 + "}}",
    *(f'{{"method":"create","model":{{"a":{bad}}}}}' for bad in ("NaN", "Infinity", "1e400", r'"\ud800"', r'"\u0000"')),
    *(f'{{"method":"create","model":{deep(levels)}}}' for levels in (33, 600, 100_000)),
]


@pytest.mark.parametrize("engine", ["fast", "plain"])
async def test_requests_without_sense_get_one_ack_each(spawn, engine):
    """BadRequest, nothing stored, nothing told, and the connection goes on."""
    async with attacked(spawn, engine) as target:
        alice, mallory = await target.join(), await target.join()
        ids = range(1000, 1400)
        for id in ids:
            event = "listen" if id % 7 == 0 else "sync"
            arguments = SENSELESS[id % len(SENSELESS)] if event == "sync" else ("7", "[]", "{}", "null,7")[id % 4]
            await mallory.namespace.raw(f'["{event}",{arguments}]', id)
        for id in ids:
            (answer,) = await mallory.namespace.reply(id)
            assert answer["error"]["name"] == "BadRequest"
            assert len(mallory.namespace.acks(id)) == 1
        await mallory.namespace.raw(f'["sync",{{"method":"create","model":{deep(32)}}}]', 1400)
        error, kept = await mallory.namespace.reply(1400)
        assert error is None
        assert await mallory.sync("read") == [kept]
        assert (await alice.synced())[1] == kept
        target.bad_packets = 400


async def test_more_than_a_megabyte_is_not_read(spawn):
    """A message and a POST of 1 MB and a byte end the session; nothing is stored."""
    async with attacked(spawn) as target:
        alice, bob = await target.join(), await target.join(transport="polling")
        text = encode(["sync", {"method": "create", "model": {"a": "x" * 1_000_000}}])
        with pytest.raises(Closed):
            await alice.namespace.call(*(encode(["x", "x" * 1_000_000]), 1))
        assert (await bob.wire.transport.post("42/todos,1" + text))[0] == 413
        assert await bob.sync("read") == []
        target.bad_packets = 2


@pytest.mark.parametrize("engine", ["fast", "plain"])
async def test_an_error_of_a_handler_tells_nothing(spawn, engine):
    """A correlation id, the same as in the log, and nothing of what was raised."""
    async with attacked(spawn, engine) as target:
        mallory = await target.join("secret")
        (answer,) = await mallory.namespace.call("sync", {"method": "read", "model": {}})
        error = answer["error"]
        assert error["name"] == "InternalError"
        assert not any("hunter2" in str(packet) or "Connection" in str(packet) for packet in mallory.wire.frames)
        assert error["id"] in await target.server.said("hunter2")
        target.raised = 1


@pytest.mark.parametrize("engine", ["fast", "plain"])
async def test_channels_have_bounds(spawn, engine):
    """Of 1,000 channels a socket gets 64, names of 900 KB are refused and not echoed, and little memory is taken."""
    async with attacked(spawn, engine) as target:
        mallory = await target.join("todos", ...)
        for name in ("long" * 225_000, "x" * 256, 7, ["x"], {"x": 1}):
            (answer,) = await mallory.namespace.call("listen", name)
            assert answer["error"]["name"] == "BadRequest"
            assert "long" not in str(answer)
        answers = [await mallory.namespace.call("listen", f"channel {n}") for n in range(1000)]
        assert [("error" in answer) for (answer,) in answers] == [n >= 64 for n in range(1000)]
        assert target.grown() <= 4 * MIB
        target.bad_packets = 941


async def test_namespaces_have_bounds(spawn):
    """The 21st that does not exist ends the connection, however many are asked for at once."""
    async with attacked(spawn) as target:
        wire = await target.dial()
        for n in range(20):
            with pytest.raises(ConnectRefused):
                await wire.connect(f"/guess{n}")
        await wire.send("40/guess20,")
        await wire.ended(1)
        for packet in ("40/guess{},", '42/guess{},["x"]', '452-/guess{},["x"]'):
            mallory = await target.join()
            with contextlib.suppress(ConnectionError):  # it ends before all is sent
                await mallory.wire.send(*(packet.format(n) for n in range(1000)))
            await mallory.wire.ended(1)
        target.bad_packets = 24


async def test_a_channel_of_another_has_no_history(spawn):
    """What names a socket, another backend's channel or a stream recovers nothing and tells no position."""
    async with attacked(spawn) as target:
        victim = await target.join(channel="room")
        for n in range(3):
            await victim.sync("create", {"secret": n})
        (own,) = await victim.namespace.call("listen", "room", {"v": 1})
        place = own["streams"]["c:room"]
        assert place["offset"] == 3
        spy = await target.join("quiet", ...)
        claimed = [place["epoch"], 0]
        for channel in (victim.namespace.sid, "room", "c:room", "todos", "/todos", "*"):
            streams = {"c:room": claimed, "*": claimed, f"c:{channel}": claimed}
            for since in (dict(list(streams.items())[:2]), streams):
                (answer,) = await spy.namespace.call("listen", channel, {"v": 1, "since": since})
                assert set(answer["streams"]) == {f"c:{channel}", "*"}
                for told in answer["streams"].values():
                    assert (told["offset"], told["events"], told["recovered"]) == (0, [], False)
                    assert told["epoch"] != place["epoch"]


async def test_acks_that_nobody_waits_for_change_nothing(spawn):
    """Unknown, repeated, 0 and 14-digit ids by the hundred; the server's own calls still work afterwards."""
    async with attacked(spawn) as target:
        mallory = await target.join()
        for id in (0, 1, 1, 7, 10**13):
            await mallory.wire.send(*[f'43/todos,{id}["forged"]'] * 100)
        await mallory.wire.send(*['43/todos,["forged"]', "43/todos,1", '43/todos,1{"a":1}', '43/nowhere,1["x"]'] * 10)
        assert await mallory.sync("read") == []
        assert await mallory.namespace.call("waiting", "nobody") == [-1]
        request = encode(["sync", {"method": "read", "model": {}}])
        for id in (0, 4, 4):
            await mallory.namespace.raw(request, id)
        await mallory.wire.until(lambda: len(mallory.namespace.acks(4)) == 2, "two acks")
        assert len(mallory.namespace.acks(0)) == 1
