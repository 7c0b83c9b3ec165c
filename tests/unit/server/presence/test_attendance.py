"""The presence of one socket: how often its changes are told, and what it holds."""

from __future__ import annotations

from msgspec import structs

from bbio.cluster.presence import Entry
from bbio.server.memory import ByteBudget
from bbio.server.presence.attendance import Attendance, weight_of
from bbio.testing import Clock


class Rooms:
    """Where entries are put."""

    def __init__(self):
        self.clock = Clock()
        self.put = []
        self.shown = True

    def renew(self, entry, **changes):
        self.put.append((round(self.clock.time(), 3), changes))
        return structs.replace(entry, **changes)

    def shows(self, entry):
        return self.shown


def attending(per_second=10):
    rooms = Rooms()
    entry = Entry(("todos", ""), "1", "ann", b"{}", b"{}", 1.0)
    address = ByteBudget(1e9)
    return rooms, address, Attendance(rooms, rooms, entry, address, per_second, returns=True)


def pass_time(clock, seconds):
    until = clock.time() + seconds
    clock.call_later(seconds, lambda: None)
    while clock.next is not None and clock.next <= until:
        clock.turn()


def test_ten_thousand_changes_in_a_second_are_ten():
    """And the latest of them is told in the end."""
    rooms, _, attendance = attending()
    for n in range(10_000):
        attendance.change(b'{"n":%d}' % n)
        if n % 1_000 == 0:
            pass_time(rooms.clock, 0.1)
    pass_time(rooms.clock, 1)
    assert len(rooms.put) <= 12
    assert attendance.entry.state == b'{"n":9999}'
    assert all(later - sooner >= 0.099 for (sooner, _), (later, _) in zip(rooms.put, rooms.put[1:], strict=False))


def test_the_same_again_is_not_told():
    """Unless another connection of the member has said something else since."""
    rooms, _, attendance = attending()
    pass_time(rooms.clock, 1)
    attendance.change(b"{}")
    assert rooms.put == []
    rooms.shown = False
    attendance.change(b"{}")
    assert len(rooms.put) == 1


def test_what_it_holds_is_counted():
    """As it is, until somebody says that it is let go of; nothing is told after its end."""
    rooms, address, attendance = attending()
    pass_time(rooms.clock, 1)
    attendance.change(b'{"text":"%b"}' % (b"x" * 500))
    assert address.held == weight_of(attendance.entry) > 4_000
    attendance.change(b'{"text":""}')
    release = attendance.end()
    pass_time(rooms.clock, 1)
    assert len(rooms.put) == 1
    release()
    assert address.held == 0
    attendance.end()
