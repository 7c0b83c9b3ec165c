"""A room: what its sockets are told, whatever comes of its entries."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from bbio.cluster.presence import Entry
from bbio.protocol import decode
from bbio.server.presence.room import Room
from bbio.testing import Clock

TOPIC = ("todos", "home")


class Place:
    """A room, the clock that it lives by, and what it tells."""

    def __init__(self, grace=10.0):
        self.clock = Clock()
        self.told = []
        self.emptied = []
        self.sizes = []
        self.room = Room(TOPIC, "/todos", self, self.clock, grace, self.emptied.append)
        self.when = 0.0

    def send(self, peers, namespace, text):
        assert namespace == "/todos"
        self.told.append((sorted(peers), decode(text)[2]))

    def entry(self, id="1", key="ann", process="", **fields):
        self.when += 1
        given = {"card": b"{}", "state": b"{}"} | fields
        return Entry(TOPIC, id, key, given["card"], given["state"], self.when, process)

    def put(self, *arguments, **fields):
        entry = self.entry(*arguments, **fields)
        self.room.put(entry)
        return entry

    def join(self, name, key="ann"):
        socket = SimpleNamespace(peer=name)
        return SimpleNamespace(socket=socket, answer=self.room.join(Hashed(name), key))

    def pass_time(self, seconds=0.0):
        """Make the calls that are due within some seconds."""
        until = self.clock.time() + seconds
        self.clock.call_later(seconds, lambda: None)
        while self.clock.next is not None and self.clock.next <= until:
            self.clock.turn()

    def news(self):
        """What was told since the last look, without positions."""
        told, self.told = self.told, []
        return [
            (peers, {name: part for name, part in news.items() if name not in ("epoch", "seq")}) for peers, news in told
        ]


class Hashed(str):
    """A socket that is its own peer."""

    @property
    def peer(self):
        return str(self)


@pytest.fixture
async def place():
    """A room with one member, who is told of what happens."""
    place = Place()
    place.put()
    place.join("a")
    place.pass_time()
    place.told.clear()
    return place


async def test_an_answer_has_the_batch_in_it_that_it_comes_with():
    """The others of the room are told of that batch, the new one is not."""
    place = Place()
    place.put()
    first = place.join("a").answer
    place.pass_time()
    reply = decode(first.result())[1]
    assert (reply["seq"], reply["me"], [each["key"] for each in reply["members"]]) == (1, "ann", ["ann"])
    place.put("2", "bob")
    second = place.join("b", "bob").answer
    assert not place.told
    place.pass_time(0.05)
    assert decode(second.result())[1]["seq"] == 2
    assert [(peers, news["seq"]) for peers, news in place.told] == [(["a"], 2)]
    assert decode(place.room.reply("ann", asks=True))[1] | {"me": "bob"} == decode(second.result())[1]
    assert "members" not in decode(place.room.reply("ann", asks=False))[1]


async def test_what_comes_to_nothing_is_not_told(place):
    """Within a batch: who comes and goes, and a change that is taken back."""
    place.put("2", "bob")
    place.room.remove(("", "2"), lingers=False)
    place.put(state=b'{"n":1}')
    place.put()
    place.pass_time(0.05)
    assert place.news() == []
    place.put("2", "bob")
    place.put("2", "bob", state=b'{"n":2}')
    place.pass_time(0.05)
    ((peers, news),) = place.news()
    assert (peers, [each["state"] for each in news["joined"]]) == (["a"], [{"n": 2}])


async def test_a_member_shows_what_was_put_last(place):
    """Of the entries that it has; it is there until the last one is gone."""
    first = place.entry("2", "bob", state=b'{"n":1}')
    place.put("3", "bob", state=b'{"n":3}')
    place.room.put(first)
    place.pass_time(0.05)
    assert place.news()[0][1]["joined"] == [{"key": "bob", "card": {}, "state": {"n": 3}, "connections": 2}]
    assert not place.room.shows(first)
    place.room.remove(("", "3"), lingers=True)
    place.pass_time(0.05)
    assert place.news()[0][1] == {"changed": [{"key": "bob", "card": {}, "state": {"n": 1}, "connections": 1}]}
    place.room.remove(("", "2"), lingers=False)
    place.room.remove(("", "2"), lingers=False)
    place.pass_time(0.05)
    assert place.news()[0][1] == {"left": ["bob"]}


async def test_a_member_lingers_for_the_grace(place):
    """Then it is gone, unless it is back; what it holds is let go of when it is either."""
    released = []
    for end in ("back", "gone"):
        place.put("2", "bob")
        place.pass_time(0.05)
        place.room.remove(("", "2"), lingers=True)
        place.room.hold("bob", lambda end=end: released.append(end))
        place.pass_time(0.05)
        assert [each["connections"] for each in place.news()[-1][1]["changed"]] == [0]
        if end == "back":
            place.pass_time(9)
            assert released == []
            place.put("4", "bob")
            place.pass_time(20)
            assert released == ["back"]
            assert place.news()[0][1]["changed"][0]["connections"] == 1
            place.room.remove(("", "4"), lingers=False)
    place.pass_time(10)
    assert place.news()[-1][1] == {"left": ["bob"]}
    assert released == ["back", "gone"]
    place.room.hold("bob", lambda: released.append("at once"))
    assert released[-1] == "at once"


async def test_an_entry_may_become_another_members(place):
    """Who is somebody else by now: the one before is gone."""
    place.put("1", "cyd")
    place.pass_time(0.05)
    ((_, news),) = place.news()
    assert news["left"] == ["ann"]
    assert [each["key"] for each in news["joined"]] == ["cyd"]


async def test_entries_of_other_processes(place):
    """They are told of, replaced as a whole, and gone with their process."""
    place.put("1", "bob", process="p")
    place.put("2", "ann", process="p")
    place.put("1", "cyd", process="q")
    place.pass_time(0.05)
    ((_, news),) = place.news()
    assert [each["key"] for each in news["joined"]] == ["bob", "cyd"]
    assert [(each["key"], each["connections"]) for each in news["changed"]] == [("ann", 2)]
    place.room.only([place.entry("1", "cyd", process="q"), place.entry("3", "dan", process="p")])
    place.pass_time(0.05)
    ((_, news),) = place.news()
    assert (news["left"], [each["key"] for each in news["joined"]]) == (["bob"], ["dan"])
    place.room.gone("p")
    place.room.gone("nobody")
    place.pass_time(0.05)
    assert place.news()[0][1] == {"left": ["dan"]}
    assert "ann" in place.room
    assert len(place.room) == 2


async def test_a_full_room(place):
    """One that lingers makes way; a member is always let in."""
    assert place.room.has_room("ann", 1)
    assert not place.room.has_room("bob", 1)
    place.put("2", "cyd")
    place.room.remove(("", "2"), lingers=True)
    assert place.room.has_room("bob", 2)
    assert "cyd" not in place.room


async def test_a_room_that_nobody_needs():
    """It is given up when nobody is told any more, nor lingers; what it was about to do is not done."""
    place = Place()
    place.put()
    joining = place.join("a")
    place.room.leave(Hashed("a"))
    await asyncio.sleep(0)
    assert joining.answer.cancelled()
    assert place.emptied == [TOPIC]
    assert not place.room.is_due
    place = Place()
    place.put()
    place.join("a")
    place.pass_time()
    place.room.remove(("", "1"), lingers=True)
    place.room.leave(Hashed("a"))
    assert place.emptied == []
    place.pass_time(10)
    assert place.emptied == [TOPIC]


async def test_an_application_that_ends(place):
    """Nobody is told any more, and nothing waits."""
    released = []
    place.put("2", "bob")
    place.room.remove(("", "2"), lingers=True)
    place.room.hold("bob", lambda: released.append(1))
    joining = place.join("b")
    place.room.close()
    place.room.close()
    await asyncio.sleep(0)
    assert joining.answer.cancelled()
    assert released == [1]
    place.pass_time(1)
    assert place.news() == []


async def test_who_has_waited_too_long_is_told_all_the_same(place):
    """Its answer is not, as its request has been given up."""
    joining = place.join("b", "ann")
    joining.answer.cancel()
    place.pass_time(0.05)
    place.put("2", "bob")
    place.pass_time(0.1)
    assert place.news()[-1][0] == ["a", "b"]


async def test_what_many_are_told_of_has_a_bound(place):
    """The larger a batch is for all, the later comes the next; what happens meanwhile is in one."""
    for n in range(1_000):
        place.room.told[Hashed(f"s{n}")] = f"s{n}"
    place.put(state=b'{"n":"' + b"x" * 62_000 + b'"}')
    place.pass_time(0.05)
    place.news()
    for n in range(10):
        place.put(state=b'{"n":%d}' % n)
        place.pass_time(0.05)
    assert place.news() == []
    place.pass_time(1)
    ((_, news),) = place.news()
    assert news["changed"][0]["state"] == {"n": 9}
