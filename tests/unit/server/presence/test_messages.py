"""Messages on their way: which are told, when, and to whom."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bbio.server.presence.messages import Messages
from bbio.testing import Clock


class Listener:
    """Somebody who takes messages."""

    def __init__(self, is_behind=False):
        self.is_behind = is_behind


@pytest.fixture
def place():
    """Messages of a channel with two listeners, and one who has much to read yet."""
    place = SimpleNamespace(clock=Clock(), told=[])
    place.peers = [Listener(), Listener(), Listener(is_behind=True)]
    followed = SimpleNamespace(messages=dict(enumerate(place.peers)))
    delivery = SimpleNamespace(send=lambda peers, namespace, text: place.told.append((text, peers)))
    listeners = SimpleNamespace(streams={"c:home": followed})
    place.messages = Messages(delivery, listeners, "/todos", place.clock)
    return place


def test_the_first_is_told_at_once(place):
    """To those who listen and take their time for it, but for who has sent it."""
    one, two, _ = place.peers
    place.messages.tell("home", "typing", "ann", b"1", one)
    assert place.told == [(b"1", [two])]
    place.messages.tell("elsewhere", "typing", "ann", b"2", one)
    assert place.told[1:] == [(b"2", [])]


def test_the_latest_of_those_that_wait(place):
    """Of each name and sender, in the order of the latest; then the next is told at once again."""
    one, two, _ = place.peers
    for n, (name, key, origin) in enumerate(
        [("a", "x", one), ("a", "x", one), ("a", "y", two), ("b", "x", one), ("a", "x", two)]
    ):
        place.messages.tell("home", name, key, b"%d" % n, origin)
    assert place.messages.is_due
    assert [text for text, _ in place.told] == [b"0"]
    place.clock.turn()
    assert place.told[1:] == [(b"2", [one]), (b"3", [two]), (b"4", [one])]
    assert not place.messages.is_due
    assert place.clock.time() == 0.05
    place.messages.tell("home", "a", "x", b"5", one)
    assert len(place.told) == 4
    place.clock.turn()
    assert place.told[4:] == [(b"5", [two])]
    place.clock.turn()
    place.messages.tell("home", "a", "x", b"6", one)
    assert place.told[5:] == [(b"6", [two])]


def test_an_application_that_ends(place):
    """What waits is told to nobody."""
    for text in (b"1", b"2"):
        place.messages.tell("home", "typing", "ann", text, place.peers[0])
    place.messages.close()
    assert not place.clock.turn()
    assert len(place.told) == 1
