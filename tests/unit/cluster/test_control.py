"""Notices of other processes: each is told once, in order, and what is missing is noticed."""

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbio.cluster.control import MAX_NOTICE_BYTES, Control, Inbox, Notice, check_notice
from bbio.errors import Unavailable
from tests.support.listeners import until


def row(number, process="other", **fields):
    return number, process, check_notice(Notice(f"n{number}", "revoke", **fields)).decode()


def test_each_notice_of_others_is_taken_once_in_order():
    """What this process has told itself is left out."""
    inbox = Inbox("me")
    notices, is_lost = inbox.take(3, [row(1, user="ann"), row(2, "me"), row(3, channel="")])
    assert ([each.id for each in notices], is_lost, inbox.position) == (["n1", "n3"], False, 3)
    assert notices[1].channel == ""
    assert inbox.take(3, []) == ([], False)


def test_a_gap_is_noticed():
    """Rows that were dropped before this process has read them."""
    inbox = Inbox("me")
    inbox.position = 5
    notices, is_lost = inbox.take(9, [row(8), row(9)])
    assert ([each.id for each in notices], is_lost, inbox.position) == (["n8", "n9"], True, 9)


def test_a_database_that_was_set_back_is_noticed():
    """As by a restored backup: its numbers begin anew."""
    inbox = Inbox("me")
    inbox.position = 5
    assert inbox.take(2, []) == ([], True)
    assert inbox.take(3, [row(3)]) == ([Notice("n3", "revoke")], False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"id": 1, "kind": "revoke"}',
        '{"id": "a", "kind": "explode"}',
        '{"kind": "revoke"}',
        '{"id": "a", "kind": "revoke", "user": 7}',
        "\ud800",
        '{"id": "%s", "kind": "revoke"}' % ("x" * MAX_NOTICE_BYTES),
    ],
)
def test_garbage_is_counted_and_told_once(text, caplog):
    """It stands in nobody's way."""
    inbox = Inbox("me")
    notices, is_lost = inbox.take(3, [(1, "other", text), (2, "other", text), row(3)])
    assert ([each.id for each in notices], is_lost, inbox.garbage) == (["n3"], False, 2)
    assert len(caplog.records) == 1


def test_fields_of_a_later_version_are_passed_over():
    """The rest says what is to be done."""
    inbox = Inbox("me")
    text = '{"id": "a", "kind": "revoke", "user": "ann", "more": {"x": [1]}}'
    assert inbox.take(1, [(1, "other", text)]) == ([Notice("a", "revoke", user="ann")], False)


def test_a_notice_is_not_longer_than_others_take():
    """Whoever tells it learns that."""
    with pytest.raises(ValueError, match="too long"):
        check_notice(Notice("a", "revoke", user="x" * MAX_NOTICE_BYTES))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=30))
def test_whatever_is_read_when_nobody_is_missed(steps):
    """Over random reads: what was told is taken, in order, once."""
    inbox, told, taken = Inbox("me"), [], []
    for count, reads in steps:
        told += range(len(told) + 1, len(told) + 1 + count)
        if reads:
            notices, is_lost = inbox.take(len(told), [row(n) for n in told[inbox.position :]])
            taken += [int(each.id[1:]) for each in notices]
            assert not is_lost
    assert taken == told[: inbox.position]


class InMemory(Control):
    """A table in memory."""

    seconds = 0.05

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.error = None
        self.reads = 0

    async def write(self, text):
        self.rows.append((len(self.rows) + 1, self.process, text))

    async def read(self, position):
        self.reads += 1
        if self.error is not None:
            raise self.error
        return len(self.rows), self.rows[min(position, len(self.rows)) :][:2]


async def test_what_one_tells_the_other_hears(caplog):
    """All of it, also what it has missed while the database was away; and nothing that was told before it began."""
    rows = []
    here, there = InMemory(rows), InMemory(rows)
    await here.tell(Notice("before", "revoke"))
    await there.start()
    heard = asyncio.Queue()
    there.add(heard.put_nowait)
    there.error = Unavailable()
    there.look()
    for n in range(5):
        await here.tell(Notice(f"n{n}", "revoke", user="ann"))
    async with asyncio.timeout(5):
        await until(lambda: there.reads >= 4)
        there.error = None
        assert [(await heard.get()).id for _ in range(5)] == [f"n{n}" for n in range(5)]
        there.remove(heard.put_nowait)
        await here.tell(Notice("after", "revoke"))
        await until(lambda: there._inbox.position == 7)
    assert heard.empty()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    await there.stop()
    await here.stop()


async def test_others_of_the_same_process_hear_it_too():
    """Whoever tells it need not."""
    control, heard, own = InMemory([]), [], []
    control.add(heard.append)
    control.add(own.append)
    await control.tell(Notice("a", "revoke"), own.append)
    assert (heard, own) == ([Notice("a", "revoke")], [])
    await control.stop()


async def test_what_is_missing_is_told_before_what_follows():
    """None stands for it."""
    control = InMemory([row(n) for n in range(1, 4)])
    heard, also = asyncio.Queue(), asyncio.Queue()
    control._inbox.position = 7
    control.add(heard.put_nowait)
    control.add(also.put_nowait)
    control.look()
    async with asyncio.timeout(5):
        assert await heard.get() is await also.get() is None
    await control.stop()
