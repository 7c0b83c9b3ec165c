"""The presence of one socket in one channel, and how often what it says of itself may change."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from bbio.cluster.presence import Entry
from bbio.server.memory import Address
from bbio.server.presence.pace import Clock, PerSecond, Timer
from bbio.server.presence.room import Room

# Bytes that an entry takes besides its card and its state; and how many copies there are of these.
ENTRY_BYTES = 2_000
COPIES = 4


def weight_of(entry: Entry) -> int:
    """Return the bytes that an entry takes."""
    return ENTRY_BYTES + COPIES * (len(entry.card) + len(entry.state))


class Attendances:
    """The channels that one socket is present in, and the count of its joins.

    Parameters:
        joins_per_second: how often it may join in a second.
        clock: the clock.
    """

    __slots__ = ("joins", "of_channels")

    def __init__(self, joins_per_second: int, clock: Clock) -> None:
        self.joins = PerSecond(joins_per_second, clock)
        self.of_channels: dict[str | None, Attendance] = {}


class Renewing(Protocol):
    """The rooms, as an attendance sees them."""

    clock: Clock

    def renew(self, entry: Entry, **changes: Any) -> Entry:
        """Put an entry again, with changes; return what it is now."""


class Attendance:
    """The presence of one socket in one channel.

    Parameters:
        rooms: puts its entry.
        room: the room.
        entry: its entry.
        address: what the clients of its address hold, to which its bytes count.
        changes_per_second: how often its state is told in a second.
        returns: whether the socket's successor is the same member, once the connection was lost.
    """

    __slots__ = ("_address", "_interval", "_next_at", "_rooms", "_state", "_timer", "entry", "returns", "room")

    def __init__(
        self, rooms: Renewing, room: Room, entry: Entry, address: Address, changes_per_second: int, *, returns: bool
    ) -> None:
        self._rooms = rooms
        self.room = room
        self.entry = entry
        self.returns = returns
        self._address = address
        address.add(weight_of(entry))
        self._interval = 1 / changes_per_second
        self._next_at = rooms.clock.time() + self._interval
        # What waits for its time to be told.
        self._state: bytes | None = None
        self._timer: Timer | None = None

    def change(self, state: bytes) -> None:
        """Take another state, which is told when it is time for it; of several that wait the latest is."""
        if self._timer is not None:
            self._state = state
            return
        wait = self._next_at - self._rooms.clock.time()
        if wait > 0:
            self._state = state
            self._timer = self._rooms.clock.call_later(wait, self._tell_waiting)
        else:
            self._tell(state)

    def _tell_waiting(self) -> None:
        self._timer = None
        assert self._state is not None, "it has waited"
        state, self._state = self._state, None
        self._tell(state)

    def _tell(self, state: bytes) -> None:
        # The same state counts where another connection of the member has said something else since.
        if state != self.entry.state or not self.room.shows(self.entry):
            self._next_at = self._rooms.clock.time() + self._interval
            self.renew(state=state)

    def renew(self, **changes: Any) -> None:
        """Change the entry."""
        before = weight_of(self.entry)
        self.entry = self._rooms.renew(self.entry, **changes)
        self._address.add(weight_of(self.entry) - before)

    def end(self) -> Callable[[], None]:
        """Tell nothing more; return what is to be called when the entry takes no memory any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return partial(self._address.add, -weight_of(self.entry))
