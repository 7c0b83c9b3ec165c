"""Where a client stands in its streams: what one event or reply after the other makes of it."""

from bbio.client.follower import Apply, Follower, Listen, Meta, Ready


def reply(offset, *, epoch="now", recovered=True):
    """The answer to a listen."""
    told = {"epoch": epoch, "offset": offset, "recovered": recovered, "events": []}
    return {"v": 1, "streams": {"c:": told}}


def live(offset):
    """A follower that is told all up to an offset."""
    follower = Follower()
    follower.connected()
    assert follower.listened(reply(offset, recovered=False)) == [Ready(False)]
    return follower


def listens(effects):
    return [effect for effect in effects if isinstance(effect, Listen)]


def test_an_event_of_a_past_epoch_is_asked_about_once():
    """What came before a listen left is covered by its reply, whatever epoch it was of."""
    follower = live(5)
    assert len(listens(follower.event("update", {}, Meta("c:", "past", 3)))) == 1
    assert listens(follower.listened(reply(5))) == []
    assert follower.event("update", {"id": 1}, Meta("c:", "now", 6)) == [
        Apply("update", {"id": 1}, Meta("c:", "now", 6))
    ]


def test_an_event_of_another_epoch_that_came_meanwhile_is_asked_about():
    """It may be newer than the reply; the next reply covers it."""
    follower = live(5)
    assert len(listens(follower.event("update", {}, Meta("c:", "now", 8)))) == 1
    assert listens(follower.event("update", {}, Meta("c:", "next", 1))) == []
    assert len(listens(follower.listened(reply(5)))) == 1
    assert listens(follower.listened(reply(5))) == []
