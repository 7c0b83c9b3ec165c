"""The plain lane: what it reads, who is told, and what becomes of answers that nobody waits for."""

import asyncio

import pytest

from bbio import BadRequest
from bbio.server.plain import UNREADABLE, PlainJSON, PlainLink, PlainServer


@pytest.mark.parametrize("event", ["sync", "listen"])
def test_an_event_of_ours_that_cannot_be_read_is_an_event(event):
    """So it gets its ack."""
    assert PlainJSON.loads(f'["{event}",NaN]') == [event, UNREADABLE]
    assert PlainJSON.loads(f'["{event}",1]') == [event, 1]


def test_other_packets_that_cannot_be_read_are_errors():
    """The library deals with them."""
    with pytest.raises(BadRequest):
        PlainJSON.loads('["other",NaN]')


async def test_nobody_waits_for_answers_of_a_client_that_left():
    """What still waits is let go; what was answered or given up stays as it is."""
    link = PlainLink("s1", list)
    waiting, answered, given_up = (asyncio.get_running_loop().create_future() for _ in range(3))
    link.unanswered |= {waiting, answered, given_up}
    link.ack(None, answered, b"[null,1]")
    link.ack(None, answered, b"[null,2]")
    given_up.cancel()
    link.left(None)
    assert (waiting.result(), answered.result(), given_up.cancelled()) == (None, (None, 1), True)


def test_a_client_is_dropped_once(caplog):
    """Whoever finds it behind first."""
    caplog.set_level("INFO", logger="bbio")
    gone = []
    link = PlainLink("s1", lambda: gone.append(1))
    link.drop("slow consumer")
    link.drop("slow consumer")
    assert (gone, caplog.messages) == ([1], ["ending s1: slow consumer"])


async def test_events_leave_in_order_for_all_but_one(monkeypatch):
    """One after another; an event that only its writer listens to is told to nobody."""
    server, told = PlainServer(async_mode="aiohttp"), []

    async def emit(name, arguments, *, to, namespace):
        await asyncio.sleep(0)
        told.append((name, arguments, to, namespace))

    monkeypatch.setattr(server, "emit", emit)
    alice, bob = PlainLink("alice", list), PlainLink("bob", list)
    server.deliver([alice, bob], None, "/todos", b'["synced",1]')
    server.deliver([alice], alice, "/todos", b'["synced",2]')
    server.deliver([alice, bob], alice, "/todos", b'["synced",3]')
    for _ in range(5):
        await asyncio.sleep(0)
    assert told == [("synced", (1,), ["alice", "bob"], "/todos"), ("synced", (3,), ["bob"], "/todos")]
    server.deliver([bob], None, "/todos", b'["synced",4]')
    for _ in range(3):
        await asyncio.sleep(0)
    assert told[2:] == [("synced", (4,), ["bob"], "/todos")]
