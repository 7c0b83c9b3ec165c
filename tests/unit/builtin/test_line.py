"""The line of what is slow: who has used least is next, and nobody has more turns or places than a share."""

from itertools import groupby

import pytest

from bbio import Busy
from bbio.builtin.line import NO_LIMIT, InLine, Line

ONE = (1, 1, 1, 1)


def put(line, count, *path):
    """Have so many jobs wait; they come back."""
    jobs = [InLine(path=path) for _ in range(count)]
    for job in jobs:
        line.put(job)
    return jobs


def order(line, costs, level=0):
    """Do all that waits, one by one: who it was, at a level of the path, and how often without another between."""
    taken = []
    while (job := line.take()) is not None:
        line.leave(job.group, costs[job.path[level]])
        taken.append(job.path[level])
    return [(key, len(list(jobs))) for key, jobs in groupby(taken)]


def is_forgotten(line):
    """Whether nothing is kept of those that are through."""
    return not line._all.parts and not line._addresses


def test_a_backend_waits_for_one_job_of_another():
    """What costs little comes after one that costs much, not after all of them; those who ask alike take turns."""
    line = Line(ONE)
    put(line, 50, "slow", "a", 1)
    put(line, 40, "fast", "b", 2)
    assert order(line, {"slow": 1.0, "fast": 0.01}) == [("slow", 1), ("fast", 40), ("slow", 49)]
    put(line, 3, "one", "a", 1)
    put(line, 3, "other", "b", 2)
    assert order(line, {"one": 1.0, "other": 1.0}) == [("one", 1), ("other", 1)] * 3
    assert is_forgotten(line)


def test_ten_connections_of_an_address_are_one():
    """Another address of the same backend waits for one of them; so does another connection of that address."""
    line = Line(ONE)
    for connection in range(10):
        put(line, 5, "all", "many", connection)
    put(line, 20, "all", "one", "single")
    assert order(line, {"many": 1.0, "one": 0.04}, level=1) == [("many", 1), ("one", 20), ("many", 49)]
    put(line, 9, "all", "same", "greedy")
    put(line, 9, "all", "same", "modest")
    assert order(line, {"greedy": 1.0, "modest": 0.1}, level=2) == [("greedy", 1), ("modest", 9), ("greedy", 8)]


def test_nobody_is_owed_the_time_in_which_nothing_was_asked_for():
    """Who comes late takes turns with those who were there, and does not have all at once."""
    line = Line(ONE)
    put(line, 100, "early", "a", 1)
    for _ in range(97):
        line.leave(line.take().group, 1.0)
    put(line, 3, "late", "b", 2)
    assert order(line, {"early": 1.0, "late": 1.0}) == [("late", 1), ("early", 1)] * 3


def test_who_runs_something_is_not_forgotten():
    """What that costs counts when more is asked for meanwhile."""
    line = Line((2, 2, 2, 2))
    put(line, 1, "slow", "a", 1)
    running = line.take()
    put(line, 2, "slow", "a", 1)
    put(line, 2, "fast", "b", 2)
    line.leave(running.group, 1.0)
    assert order(line, {"slow": 1.0, "fast": 0.1}) == [("fast", 2), ("slow", 2)]


def test_turns_are_shared():
    """Those of one backend, address and connection are fewer than all."""
    line = Line((3, 2, 1, 1), turns_of_address=2)
    put(line, 2, "x", "a", 1)
    put(line, 2, "x", "a", 2)
    put(line, 2, "x", "b", 3)
    put(line, 2, "x", "c", 4)
    first = [line.take() for _ in range(3)]
    assert [job and job.path for job in first] == [("x", "a", 1), ("x", "b", 3), None]
    put(line, 1, "y", "a", 1)
    put(line, 1, "z", "a", 1)
    assert (line.waiting, line.is_full()) == (8, False)
    assert line.take().path == ("y", "a", 1)
    assert (line.waiting, line.is_full()) == (7, True)
    assert line.take() is None
    line.leave(first[1].group, 1.0)
    # In another backend there is a turn left, but not for that address.
    assert line.take().path == ("x", "c", 4)


def test_an_address_does_not_have_the_turns_of_all_backends():
    """One is left for another address."""
    line = Line((3, 2, 1, 1), turns_of_address=2)
    for backend in "xyz":
        put(line, 1, backend, "a", 1)
    assert [line.take().path[0], line.take().path[0], line.take()] == ["x", "y", None]
    assert line.enter(("z", "a", 1)) is None
    other = line.enter(("z", "b", 2))
    assert line.enter(("z", "c", 3)) is None
    line.leave(other, 1.0)
    assert line.take() is None


def test_what_runs_already_may_enter_where_a_turn_is_left():
    """Else nothing is remembered of it."""
    line = Line((3, 2, 1, 1), turns_of_address=2)
    entered = line.enter(("x", "a", 1))
    assert line.enter(("x", "a", 2)) is None
    put(line, 1, "x", "a", 2)
    assert line.take() is None
    line.leave(entered, 1.0)
    waited = line.take()
    assert waited.path == ("x", "a", 2)
    line.leave(waited.group, 1.0)
    assert is_forgotten(line)


@pytest.mark.parametrize("sizes", [(4, NO_LIMIT, NO_LIMIT, NO_LIMIT), (9, 9, 4, 4)])
def test_the_line_has_an_end(sizes):
    """Whether for all, or for one address whose lists leave room for those of others."""
    line = Line(ONE, sizes)
    put(line, 4, "x", "a", 1)
    for connection in (1, 2):
        with pytest.raises(Busy, match="too many requests wait") as busy:
            put(line, 1, "x", "a", connection)
        assert busy.value.values == {"retry_after": 1.0}
    if sizes[0] > 4:
        put(line, 1, "x", "b", 3)
    line.take()
    put(line, 1, "x", "a", 2)


def test_who_is_refused_is_forgotten():
    """Whether it is to wait, or asks for a turn; who waits or has one is not."""
    line = Line(ONE, (1, 1, 1, 1))
    put(line, 1, "x", "a", 1)
    running = line.take()
    put(line, 1, "x", "a", 1)
    with pytest.raises(Busy):
        put(line, 1, "y", "b", 2)
    assert line.enter(("z", "c", 3)) is None
    assert list(line._all.parts) == ["x"]
    line.leave(running.group, 1.0)
    assert line.take().path == ("x", "a", 1)


def test_what_was_let_in_already_has_a_place():
    """However many wait."""
    line = Line(ONE, (1, 1, 1, 1))
    put(line, 1, "x", "a", 1)
    line.let_in(InLine(path=("x", "a", 1)))
    assert order(line, {"x": 1.0}) == [("x", 2)]


def test_some_may_have_the_turn_of_everybody():
    """Nobody else has one then, whoever it is."""
    line = Line(ONE)
    together = line.enter(())
    assert (line.is_full(), line.enter(()), line.enter(("x", "a", 1))) == (True, None, None)
    put(line, 1, "x", "a", 1)
    assert line.take() is None
    line.leave(together, 1.0)
    assert line.take().path == ("x", "a", 1)
