"""The presence of a channel as a client follows it, without a connection."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from bbio import BadRequest, Busy, Forbidden, Timeout, Unauthorized
from bbio.client import calls
from bbio.client.presence import Presence, PresenceChanges
from bbio.client.roster import Member, Roster
from bbio.testing import Clock


class Wire:
    """What a roster asks, and what it tells."""

    def __init__(self):
        self.clock = Clock()
        self.asked = []
        self.answers = []
        self.changes = []
        self.ends = []
        self.faults = []
        self.roster = Roster(self.clock, lambda: 0.5, 1.0, self.ask)
        self.roster.on_change = lambda *changes: self.changes.append(changes)
        self.roster.on_answer = self.ends.append
        self.roster.on_fault = self.faults.append

    def ask(self, options, answer):
        self.asked.append(options)
        self.answers.append(answer)

    def answer(self, *keys, seq=1, epoch="now", me="me"):
        members = [{"key": key, "card": {}, "state": {}, "connections": 1} for key in keys]
        self.answers[-1](None, {"epoch": epoch, "seq": seq, "me": me, "members": members})

    def refuse(self, error):
        self.answers[-1]({"error": error.to_json()})

    def pass_time(self, seconds):
        until = self.clock.time() + seconds
        self.clock.call_later(seconds, lambda: None)
        while self.clock.next is not None and self.clock.next <= until:
            self.clock.turn()

    def take(self):
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def wire():
    """A client that is present, with one other."""
    wire = Wire()
    wire.roster.listened(False)
    wire.roster.join({"n": 1})
    wire.answer("me", "other")
    wire.take()
    return wire


def test_a_join_waits_for_the_listen():
    """And happens once."""
    wire = Wire()
    wire.roster.join({"n": 1})
    assert wire.asked == []
    wire.roster.listened(False)
    wire.roster.listened(False)
    assert wire.take() == [{"state": {"n": 1}, "members": True}]
    wire.answer("me", "other")
    assert (wire.roster.me, set(wire.roster.members)) == ("me", {"me", "other"})
    assert wire.ends == [None]
    wire.roster.listened(True)
    assert wire.take() == []
    wire.roster.join({"n": 2})
    assert wire.ends == [None, None]
    wire.pass_time(1)
    assert wire.take() == [{"state": {"n": 2}}]


def test_batches_in_order(wire):
    """Each is taken once; an earlier one, and one of before the answer, not at all."""
    news = {
        "epoch": "now",
        "joined": [{"key": "new"}],
        "changed": [{"key": "other", "state": {"n": 2}}],
        "left": ["me"],
    }
    wire.roster.told(news | {"seq": 2})
    assert wire.changes[-1] == ({"new"}, {"other"}, {"me"})
    assert wire.roster.members == {"other": Member("other", state={"n": 2}), "new": Member("new")}
    wire.roster.told(news | {"seq": 2})
    wire.roster.told({"epoch": "now", "seq": 1})
    assert len(wire.changes) == 2
    assert wire.take() == []
    other = Wire()
    other.roster.told(news | {"seq": 2})
    wire.roster.told("odd")
    assert other.changes == []


@pytest.mark.parametrize(("epoch", "seq"), [("now", 3), ("next", 1), (None, 2)])
def test_a_batch_that_is_missing(wire, epoch, seq):
    """Or of another epoch, has the list asked for, once."""
    for _ in range(2):
        wire.roster.told({"epoch": epoch, "seq": seq, "left": ["other"]})
    assert wire.take() == [{"members": True}]
    wire.answer("me", "third", seq=9)
    assert wire.changes[-1] == ({"third"}, set(), {"other"})
    wire.roster.told({"epoch": "now", "seq": 10, "left": ["third"]})
    assert set(wire.roster.members) == {"me"}


def test_what_is_not_answered_is_asked_again(wire):
    """After a while; a late answer to the first counts no more."""
    wire.roster.told({"epoch": "now", "seq": 9})
    late = wire.answers[-1]
    wire.pass_time(8)
    assert wire.take() == [{"members": True}] * 2
    late(None, {"epoch": "late", "seq": 1, "me": "late"})
    assert wire.roster.me == "me"
    wire.answer("me")
    wire.pass_time(60)
    assert wire.take() == []


def test_after_a_lost_connection(wire):
    """It joins again with the latest state, and keeps what it shows until it is told."""
    wire.roster.offline()
    wire.roster.set({"n": 2})
    assert set(wire.roster.members) == {"me", "other"}
    wire.pass_time(60)
    assert wire.take() == []
    wire.roster.listened(False)
    assert wire.take() == [{"state": {"n": 2}, "members": True}]
    wire.answers[0](None, {"epoch": "old", "seq": 1, "me": "old"})
    wire.answer("me", epoch="next")
    assert wire.changes[-1] == (set(), set(), {"other"})


def test_changes_are_few(wire):
    """The latest is sent when it is time for it; the same again is not."""
    for n in range(100):
        wire.roster.set({"n": n})
        wire.pass_time(0.005)
    wire.pass_time(1)
    asked = wire.take()
    assert 4 <= len(asked) <= 7
    assert asked[-1] == {"state": {"n": 99}}
    wire.roster.set({"n": 99})
    wire.pass_time(1)
    assert wire.take() == []
    wire.roster.set({"n": 1})
    wire.roster.set({"n": 99})
    wire.pass_time(1)
    assert wire.take() == []
    wire.roster.set({"n": 5})
    wire.pass_time(1)
    wire.answers[-1](None, {})
    wire.refuse(BadRequest("too large"))
    assert [str(error) for error in wire.faults] == ["too large"]


def test_who_is_kept_out():
    """Hears why, and is not there; what may pass is tried again."""
    wire = Wire()
    wire.roster.listened(False)
    wire.roster.join({})
    wire.refuse(Busy("full", retry_after=10.0))
    wire.pass_time(9)
    assert len(wire.take()) == 1
    wire.pass_time(1)
    assert len(wire.take()) == 1
    wire.refuse(Busy("full"))
    wire.pass_time(1)
    wire.answer("me")
    wire.roster.told({"epoch": "now", "seq": 7})
    wire.refuse(Forbidden("out"))
    assert (wire.roster.wanted, wire.roster.members, wire.roster.me) == (False, {}, None)
    assert str(wire.ends[-1]) == "out"
    wire.roster.refused(Forbidden("may not listen"))
    assert len(wire.ends) == 2
    wire.roster.join({})
    wire.roster.refused(Forbidden("may not listen"))
    assert str(wire.ends[-1]) == "may not listen"
    wire.roster.join({})
    wire.roster.listened(False)
    wire.answers[-1]("odd")
    assert wire.ends[-1].message == "odd"


def test_who_is_put_out_joins_again(wire):
    """A moment later, to hear why, or to be back."""
    wire.roster.told(None)
    wire.roster.told(None)
    wire.roster.told({"epoch": "now", "seq": 2, "left": ["me"]})
    assert wire.take() == []
    wire.pass_time(0.5)
    assert wire.take() == [{"state": {"n": 1}, "members": True}]


def test_who_leaves_sees_nobody(wire):
    """The server is told, if it may know of it."""
    wire.roster.set({"n": 2})
    wire.roster.leave()
    assert (wire.roster.members, wire.roster.me) == ({}, None)
    wire.answers[-1](None)
    wire.pass_time(60)
    assert wire.take() == [None]
    wire.roster.leave()
    wire.roster.told({"epoch": "now", "seq": 2, "joined": [{"key": "x"}]})
    assert wire.take() == []
    wire.roster.join({})
    wire.roster.offline()
    wire.roster.leave()
    assert wire.take() == [{"state": {}, "members": True}]


def test_a_roster_that_nobody_looks_at():
    """It works all the same."""
    clock = Clock()
    answers = []
    roster = Roster(clock, lambda: 0.0, 0.0, lambda options, answer: answers.append(answer))
    roster.listened(False)
    roster.join({"n": 1})
    answers[-1](None, {"epoch": "e", "seq": 1, "me": "me", "members": [{"key": "me"}]})
    roster.set({"n": 2})
    clock.turn()
    while clock.turn():
        pass
    answers[-1]({"error": {"name": "BadRequest", "message": "too large", "code": 400}})
    assert roster.members["me"].connections == 1


def test_changes_as_one():
    """Who came and went was never there; who went and came back has changed."""
    changes = PresenceChanges().then({"a", "b"}, {"x"}, {"y", "z"}).then({"y"}, {"a"}, {"b", "x"})
    assert changes == PresenceChanges(frozenset("a"), frozenset("y"), frozenset("xz"))


async def test_a_join_that_takes_too_long_goes_on(monkeypatch, wire):
    """The client is present as soon as it can be; one that is refused is not."""

    async def late(session, subscription):
        raise errors.pop(0)

    monkeypatch.setattr(calls, "ready", late)
    errors = [Timeout("later"), Forbidden("no")]
    presence = Presence(None, SimpleNamespace(roster=wire.roster))
    for error, is_wanted in ((Timeout, True), (Forbidden, False)):
        with pytest.raises(error):
            await presence.join({})
        assert wire.roster.wanted is is_wanted


@pytest.mark.parametrize(("error", "is_told_again"), [(Unauthorized(expired=True), False), (Forbidden("no"), True)])
async def test_the_end_of_an_identity_is_told_once(wire, error, is_told_again):
    """After that one waits for the client to be present again; what keeps it out for good is told each time."""
    subscription = SimpleNamespace(roster=wire.roster, name="notes", channel="")
    presence = Presence(SimpleNamespace(clock=wire.clock), subscription)
    wire.roster.on_answer(error)
    with pytest.raises(type(error)):
        await presence.changed()
    waiting = asyncio.ensure_future(presence.until(lambda _: False, 5.0))
    await asyncio.sleep(0)
    wire.pass_time(5.0)
    with pytest.raises(type(error) if is_told_again else Timeout):
        await waiting


def test_what_was_asked_over_a_connection_that_is_lost_is_not_asked_again(wire):
    """The next one asks for itself."""
    wire.roster.told({"epoch": "now", "seq": 7, "joined": []})
    wire.pass_time(2.0)
    assert wire.take()
    wire.roster.offline()
    wire.pass_time(120.0)
    assert wire.take() == []
