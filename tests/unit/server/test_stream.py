"""The ring of a stream: what of the log is of the history that was told."""

import pytest

from bbio.server.stream import Followed, Rings
from bbio.streams import Event, HistoryLimits, Position


def event(offset, stamp=7, epoch="e"):
    return Event("c:", epoch, offset, "create", b"{}", stamp=stamp)


@pytest.fixture
def followed():
    """A stream that was told up to offset 5, its last two events at hand."""
    stream = Followed("c:", Rings(HistoryLimits(), 1 << 19))
    stream.place(Position("e", 3, 3))
    stream.advance(event(4, 4))
    stream.advance(event(5, 5))
    return stream


@pytest.mark.parametrize(
    ("position", "events", "fits"),
    [
        (Position("e", 2, 2), [event(3, 3), event(4, 4)], True),
        (Position("e", 2, 2), [event(3, 3), event(4, 9)], False),
        (Position("e", 2, 2), [event(3, 3), event(5, 5)], False),
        (Position("e", 2, 2), [event(3, 3, "other")], False),
        (Position("e", 3, 3), [], True),
        (Position("e", 3, 9), [], False),
        (Position("e", 3, 0), [], True),
        (Position("e", 5, 5), [event(6, 6)], True),
        (Position("e", 6, 6), [event(7, 7)], True),
    ],
)
def test_what_the_log_told_fits_what_was_told_here(followed, position, events, fits):
    """Every offset is there once, and what both know has one stamp in both."""
    assert followed.fits(position, events) is fits
