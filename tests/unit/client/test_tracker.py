"""Where a client stands in its streams: what one event or reply after the other makes of it."""

from bbio.client.tracker import Apply, Listen, Meta, Read, Ready, Tracker


def reply(offset, *, epoch="now", recovered=True):
    """The answer to a listen."""
    told = {"epoch": epoch, "offset": offset, "recovered": recovered, "events": []}
    return {"v": 1, "streams": {"c:": told}}


def live(offset):
    """A tracker that is told all up to an offset."""
    tracker = Tracker()
    tracker.connected()
    assert tracker.listened(reply(offset, recovered=False)) == [Ready(False)]
    return tracker


def listens(effects):
    return [effect for effect in effects if isinstance(effect, Listen)]


def test_an_event_of_a_past_epoch_is_asked_about_once():
    """What came before a listen left is covered by its reply, whatever epoch it was of."""
    tracker = live(5)
    assert len(listens(tracker.event("update", {}, Meta("c:", "past", 3)))) == 1
    assert listens(tracker.listened(reply(5))) == []
    assert tracker.event("update", {"id": 1}, Meta("c:", "now", 6)) == [
        Apply("update", {"id": 1}, Meta("c:", "now", 6))
    ]


def test_an_event_of_another_epoch_that_came_meanwhile_is_asked_about():
    """It may be newer than the reply; the next reply covers it."""
    tracker = live(5)
    assert len(listens(tracker.event("update", {}, Meta("c:", "now", 8)))) == 1
    assert listens(tracker.event("update", {}, Meta("c:", "next", 1))) == []
    assert len(listens(tracker.listened(reply(5)))) == 1
    assert listens(tracker.listened(reply(5))) == []


def asked(effects):
    """The positions of each listen."""
    return [listen.since for listen in listens(effects)]


def viewed(offset, *, recovered=True, digest="d", epoch="now", events=()):
    told = {"epoch": epoch, "offset": offset, "stamp": 5, "recovered": recovered, "events": [*events], "d": digest}
    return {"v": 1, "streams": {"c:": told}}


def under_a_view(offset):
    tracker = Tracker()
    tracker.connected()
    tracker.listened(viewed(offset))
    return tracker


def test_with_a_view_any_later_event_is_the_next():
    """What lies between is nothing to the view; what was told is not told again, and an ack moves nothing."""
    tracker = under_a_view(3)
    assert tracker.since == {"c:": ["now", 3, 5, "d"]}
    seven = Meta("c:", "now", 7, stamp=9)
    assert tracker.event("create", {"id": 1}, seven) == [Apply("create", {"id": 1}, seven)]
    assert tracker.event("create", {"id": 1}, Meta("c:", "now", 6)) == []
    assert tracker.acked(Meta("c:", "now", 9)) == []
    assert tracker.since == {"c:": ["now", 7, 9, "d"]}
    assert tracker.passed(Meta("c:", "now", 6), retried=False)
    assert tracker.leaves_content(Meta("c:", "now", 9))
    assert not tracker.leaves_content(Meta("c:", "now", 9, is_in=False))


def test_a_place_says_how_far_the_stream_has_come_and_what_was_told():
    """Another number than was counted has everything read again; so does another epoch."""
    tracker = under_a_view(3)
    tracker.event("create", {"id": 1}, Meta("c:", "now", 5))
    assert tracker.event("at", None, Meta("c:", "now", 9, stamp=8, told=1)) == []
    assert tracker.since == {"c:": ["now", 9, 8, "d"]}
    assert tracker.event("at", None, Meta("c:", "now", 9, told=1)) == []
    assert tracker.event("at", None, Meta("other", "now", 9)) == []
    assert asked(tracker.event("at", None, Meta("c:", "now", 9, told=2))) == [{}]
    assert tracker.event("at", None, Meta("c:", "now", 9, told=2)) == []  # the answer is still to come
    for meta in (Meta("c:", "past", 9, told=0), Meta("c:", "now", 9, told=3)):
        assert asked(under_a_view(3).event("at", None, meta)) == [{}]


def test_a_view_that_has_changed_makes_the_place_void():
    """Also where what is just being read is answered first: it may be of another view than the place."""
    tracker = under_a_view(3)
    assert asked(tracker.gap()) == [{}]
    tracker.complete()
    tracker.disconnected()
    assert asked(tracker.connected()) == [{}]
    assert Read(True) in tracker.listened(viewed(4, recovered=False))
    tracker.complete()
    assert tracker.since == {"c:": ["now", 4, 5, "d"]}


def test_who_comes_back_under_the_same_view_goes_on_from_what_it_missed():
    """Up to the position of the answer, of which the last events may have been nothing to the view."""
    tracker = under_a_view(3)
    tracker.disconnected()
    tracker.connected()
    missed = ["create", {"id": 1}, {"s": "c:", "e": "now", "o": 5}]
    effects = tracker.listened(viewed(8, events=[missed]))
    assert [type(effect).__name__ for effect in effects] == ["Apply", "Ready"]
    assert tracker.since == {"c:": ["now", 8, 5, "d"]}


def test_what_another_channel_was_told_of_a_common_stream_counts():
    """Under the same view it moves the place; another view is asked for."""
    tracker = under_a_view(3)
    assert tracker.overheard("c:", viewed(6)["streams"]["c:"]) == []
    assert tracker.since == {"c:": ["now", 6, 5, "d"]}
    assert asked(tracker.overheard("c:", viewed(6, digest="e")["streams"]["c:"])) == [{"c:": ["now", 6, 5, "d"]}]
    assert live(3).overheard("c:", reply(3)["streams"]["c:"]) == []
