"""Where a client stands in its streams: what one event or reply after the other makes of it."""

from bbio.client.tracker import Apply, Listen, Meta, Ready, Tracker


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
