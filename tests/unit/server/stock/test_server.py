"""The plain engine: what it reads, who is told, and what becomes of answers that nobody waits for."""

import asyncio
from unittest.mock import Mock

import pytest
from engineio.async_socket import AsyncSocket

from bbio import BadRequest, Limits, protocol
from bbio.registry import Registry
from bbio.server.memory import Addresses
from bbio.server.payload import ATTACHED_CHARACTERS, PART_PACKETS, parts
from bbio.server.stock.server import UNREADABLE, PlainJSON, PlainPeer, PlainServer, packet_class


@pytest.mark.parametrize("event", ["sync", "listen"])
def test_an_event_of_ours_that_cannot_be_read_is_an_event(event):
    """So it gets its ack."""
    assert PlainJSON().loads(f'["{event}",NaN]') == [event, UNREADABLE]
    assert PlainJSON().loads(f'["{event}",1]') == [event, 1]


def test_other_packets_that_cannot_be_read_are_errors():
    """The library deals with them."""
    with pytest.raises(BadRequest):
        PlainJSON().loads('["other",NaN]')


def is_sync(namespace, event):
    """Whether a backend answers an event."""
    return event == "sync"


def test_json_is_nested_as_deep_as_the_limits_say():
    """Those of the application, not the library's nor the protocol's own."""
    read = packet_class(Limits(depth=2), is_sync)(encoded_packet='2/todos,["sync",{"model":[]}]')
    assert read.data == ["sync", {"model": []}]
    read = packet_class(Limits(depth=2), is_sync)(encoded_packet='2/todos,["sync",{"model":[[[]]]}]')
    assert read.data == ["sync", UNREADABLE]
    with pytest.raises(BadRequest):  # a handler of the application's could not tell what that is
        packet_class(Limits(depth=2), is_sync)(encoded_packet='2/chat,["message",[[[[[]]]]]]')


@pytest.mark.parametrize(
    ("text", "namespaces", "data"),
    [
        ('["sync",{}]', ["/todos"], ["sync", UNREADABLE]),
        ('["sync",{}]', [], ["sync", {}]),
        ('["own",{"_placeholder":true,"num":0}]', ["/todos"], ["own", b"x"]),
        ('{"a":{"_placeholder":true,"num":0}}', ["/todos"], {"a": b"x"}),
        ("[]", ["/todos"], []),
    ],
)
def test_a_backend_takes_no_attachments(text, namespaces, data):
    """Whatever is attached to its events, they cannot be read; others' are as they are."""
    answers = lambda namespace, event: namespace in namespaces and is_sync(namespace, event)  # noqa: E731
    packet = packet_class(Limits(), answers)(encoded_packet=f"52-/todos,{text}")
    assert not packet.add_attachment(b"x")
    assert packet.add_attachment(b"y")
    assert packet.data == data


def test_an_event_with_attachments_is_not_long():
    """It is looked through value by value, to find where they belong."""
    values = ",".join("0" for _ in range(ATTACHED_CHARACTERS // 2))
    with pytest.raises(BadRequest):
        packet_class(Limits(), is_sync)(encoded_packet=f'51-["x",{values}]')
    assert len(packet_class(Limits(), is_sync)(encoded_packet=f'2["x",{values}]').data) > PART_PACKETS


@pytest.mark.parametrize(
    "packets", [1, *(PART_PACKETS + n for n in (-1, 0, 1)), 3 * PART_PACKETS, 3 * PART_PACKETS + 5]
)
def test_the_packets_of_a_post_come_in_parts(packets):
    """All of them, in order, a few in each."""
    split = [part.split(b"\x1e") for part in parts(b"\x1e".join(b"%d" % n for n in range(packets)))]
    assert [int(packet) for part in split for packet in part] == list(range(packets))
    assert all(len(part) == PART_PACKETS for part in split[:-1])
    assert len(split[-1]) <= PART_PACKETS


async def test_nobody_waits_for_answers_of_a_client_that_left():
    """What still waits is let go; what was answered or given up stays as it is."""
    peer = PlainPeer("s1", list, None)
    waiting, answered, given_up = (asyncio.get_running_loop().create_future() for _ in range(3))
    peer.unanswered |= {waiting, answered, given_up}
    peer.ack(None, answered, b"[null,1]")
    peer.ack(None, answered, b"[null,2]")
    given_up.cancel()
    peer.left(None)
    assert [protocol.decode(bytes(value)) for value in answered.result()] == [None, 1]
    assert (waiting.result(), given_up.cancelled()) == (None, True)


async def test_a_session_that_has_ended_gets_no_heartbeat():
    """Though its pong has arrived behind its farewell; what else works in the background is left alone."""
    server = PlainServer(Registry(Mock()), Limits(), Addresses(Limits()), {}, async_mode="aiohttp")
    session = AsyncSocket(server.eio, "s1")
    session.schedule_ping()
    other = server.start_background_task(asyncio.sleep, 0, result="done")
    (heartbeat,) = asyncio.all_tasks() - {asyncio.current_task(), other}
    await asyncio.wait([heartbeat, other])
    assert (heartbeat.cancelled(), other.result()) == (True, "done")


def test_a_client_is_dropped_once(caplog):
    """Whoever finds it behind first."""
    caplog.set_level("INFO", logger="bbio")
    gone = []
    peer = PlainPeer("s1", lambda: gone.append(1), None)
    peer.drop("slow consumer")
    peer.drop("slow consumer")
    assert (gone, caplog.messages) == ([1], ["ending s1: slow consumer"])


async def test_events_leave_in_order_for_all_but_one(monkeypatch):
    """One after another; an event that only its writer listens to is told to nobody."""
    server, told = PlainServer(Registry(Mock()), Limits(), Addresses(Limits()), {}, async_mode="aiohttp"), []

    async def emit(name, arguments, *, to, namespace):
        await asyncio.sleep(0)
        told.append((name, *map(protocol.decode, map(bytes, arguments)), to, namespace))

    monkeypatch.setattr(server, "emit", emit)
    alice, bob = PlainPeer("alice", list, None), PlainPeer("bob", list, None)
    server.deliver([alice, bob], None, "/todos", b'["synced",1]')
    server.deliver([alice], alice, "/todos", b'["synced",2]')
    server.deliver([alice, bob], alice, "/todos", b'["synced",3]')
    for _ in range(5):
        await asyncio.sleep(0)
    assert told == [("synced", 1, ["alice", "bob"], "/todos"), ("synced", 3, ["bob"], "/todos")]
    server.deliver([bob], None, "/todos", b'["synced",4]')
    for _ in range(3):
        await asyncio.sleep(0)
    assert told[2:] == [("synced", 4, ["bob"], "/todos")]
