"""A client that the server lets into channels, and out of them: without a network."""

import pytest

from bbio import Forbidden
from bbio.client.session import BackendSession
from bbio.client.settings import SessionSettings
from bbio.client.tracker import Listen, Tracker
from bbio.testing import Clock
from tests.unit.client.test_logic import Wire, reply


@pytest.fixture
async def session():
    """A session that counts how often it asks to join, and where it was let in."""
    joins, joined = [], []
    made = BackendSession(
        "rooms", joins.append, Clock(), SessionSettings(), chance=lambda: 0.5, on_joined=lambda *at: joined.append(at)
    )
    made.joins, made.joined, made.wire = joins, joined, Wire()
    yield made
    made.close()


def test_a_tracker_listens_when_it_is_let_in_and_asks_nothing_once_that_has_ended():
    """Whatever was answered before."""
    tracker = Tracker()
    tracker.connected()
    assert tracker.invited() == []  # the listen under way will be answered
    tracker.refused()
    assert tracker.gap() == []
    assert tracker.invited() == [Listen({})]
    tracker.listened(reply(5))
    (again,) = tracker.invited()  # what it is told may be other than before
    assert not again.again
    tracker.listened(reply(5))
    tracker.dismissed()
    assert (tracker.ready, tracker.gap(), tracker.event("update", {}, None) == []) == (True, [], False)
    assert tracker.invited() == [Listen({"c:": ["e", 5]})]
    tracker.dismissed()
    tracker.disconnected()
    assert tracker.connected() == [Listen({"c:": ["e", 5]})]


async def test_whatever_the_server_says_of_channels_does_no_harm(session):
    """What is not followed is told; what is no change is none."""
    subscription = session.subscription("home", "id")
    session.connected(session.wire)
    session.wire.answer(reply(0, stream="c:home"))
    for change in ({"joined": True}, {"left": True}, {}, {"other": 1}):
        session.received("resync", ("c:away", change))
    assert session.joined == [(session, "away")]
    session.received("resync", ("c:", {"joined": True}))
    assert session.joined[-1] == (session, None)
    session.received("resync", (7, {"left": True}))
    session.received("resync", ("c:home", {}))
    assert session.wire.sent == []
    session.received("resync", ("c:home", {"left": True}))
    assert isinstance(subscription.refusal, Forbidden)
    session.received("resync", ("c:home", {"joined": True}))
    assert subscription.refusal is None
    assert session.wire.answer(reply(0, stream="c:home"))[0] == "listen"
    session.leave(subscription)
    session.wire.sent.clear()
    session.received("resync", ("c:home", {"joined": True}))
    session.received("resync", ("c:home", {"left": True}))
    assert (session.joined[-1], subscription.refusal, session.wire.sent) == ((session, "home"), None, [])


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        ({"name": "Busy", "retry_after": 7}, 7.5),
        ({"name": "Timeout"}, 1.5),
        ({"name": "Unavailable", "retry_after": "x"}, 1.5),
    ],
)
async def test_it_joins_again_after_a_passing_refusal(session, data, seconds):
    """After the time that the server has said; not if it was closed, or is there by then."""
    session.refused({"message": "later", "data": data})
    assert (len(session.joins), session.wanted) == (1, True)
    session.clock.turn()
    assert (len(session.joins), session.clock.time()) == (2, seconds)
    session.refused({"message": "later", "data": data})
    session.connected(session.wire)
    session.clock.turn()
    session.disconnected()
    session.refused({"message": "later", "data": data})
    session.close()
    while session.clock.turn():
        pass
    assert len(session.joins) == 2


async def test_another_refusal_is_for_good(session):
    """Until something is asked for again; and one without a name may mean anything."""
    for reason in ({"data": {"name": "Unauthorized"}}, "gone"):
        session.refused(reason)
        assert not session.wanted
        assert not session.clock.turn()
