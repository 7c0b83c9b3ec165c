"""A stream with subscribers: up to where they have been told, and the latest that they were told.

Clients that lost their connection come back at once and to a place that is a little behind. So the latest events stay
at hand, in a ring, and none of those clients has the store's log read.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from itertools import islice

from bbio.requests import Socket
from bbio.server.connection import ClientSocket, Peer
from bbio.server.viewers import Viewers
from bbio.streams import EVENT_BYTES, Event, HistoryLimits, Position
from bbio.view import View

# Events that a ring holds, however long a history the store keeps.
RECENT_EVENTS = 1_000


class Rings:
    """The bounds of the rings of one backend, and the bytes that the events in them take.

    Parameters:
        history: how much of each stream the store keeps; a ring holds no more.
        replay: bytes of models that one client may be sent; what is past them would help nobody.
        most: bytes in all rings; past it they are emptied, and fill again.
        clock: the clock of the events.
    """

    __slots__ = ("age", "bytes", "clock", "events", "most", "size")

    def __init__(
        self,
        history: HistoryLimits,
        replay: int,
        most: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = most
        self.clock = clock
        self.events = min(history.events, RECENT_EVENTS)
        self.size = min(history.size, replay)
        self.age = history.age
        self.bytes = 0


class Followed:
    """A stream with subscribers: up to where they have been told, and who they are.

    Parameters:
        name: the stream's name.
        rings: the bounds of its ring.
        namespace: the backend's namespace.
        has_views: whether each who follows it has a view of its own; else all see the same.
        id_attribute: the name of the id in the models.
        viewers: those who follow it under views of some records alone; None where there are no such views.
        view: what is seen by who has no view of its own.
    """

    __slots__ = (
        "base",
        "deltas",
        "epoch",
        "has_views",
        "id_attribute",
        "joining",
        "kept",
        "legacy",
        "messages",
        "missing",
        "name",
        "namespace",
        "offset",
        "reading",
        "recent",
        "repairing",
        "resynced_at",
        "rings",
        "size",
        "stale",
        "stamp",
        "version_1",
        "view",
        "viewers",
        "waiting",
    )

    def __init__(
        self,
        name: str,
        rings: Rings,
        namespace: str = "/",
        has_views: bool = False,
        id_attribute: str = "id",
        viewers: Viewers | None = None,
        view: View | None = None,
    ) -> None:
        self.name = name
        self.id_attribute = id_attribute
        self.rings = rings
        self.namespace = namespace
        self.has_views = has_views
        self.viewers = viewers
        self.view = view or View.whole()
        # Nobody is told anything before the place is known: the epoch is then not empty.
        self.epoch = ""
        self.offset = 0
        self.stamp = 0
        # Those told two arguments, and those told positions too.
        self.legacy: dict[ClientSocket, Peer] = {}
        self.version_1: dict[ClientSocket, Peer] = {}
        # Those of the latter that are told what changed of a record, where that is known.
        self.deltas: dict[ClientSocket, Peer] = {}
        # Those of them that take messages.
        self.messages: dict[ClientSocket, Peer] = {}
        # The ring: the latest events up to the place, the bytes of their models, and the stamp of the one before them.
        self.recent: deque[Event] = deque()
        self.size = 0
        self.base = 0
        # Whether it is followed whoever listens, as what happens in it concerns other backends.
        self.kept = False
        # How many clients are joining, and who of them reads the log.
        self.joining = 0
        self.reading = asyncio.Lock()
        # Early events by place, with their writers; whether the log is being read; whether it must be read again.
        self.waiting: dict[tuple[str, int], tuple[Event, Socket | None]] = {}
        self.repairing = False
        self.stale = False
        # When its subscribers were last told to read everything, by the clock of the event loop.
        self.resynced_at = -math.inf
        # After which offset an event is missing whose successors wait for it; None when none of them does.
        self.missing: int | None = None

    @property
    def channel(self) -> str | None:
        """The channel that it is the stream of; None for the default one."""
        return self.name[2:] or None

    @property
    def position(self) -> Position:
        """The place that those who follow have been told all up to."""
        return Position(self.epoch, self.offset, self.stamp)

    def place(self, position: Position) -> None:
        """Set the position up to which the subscribers know all; forget the events before it."""
        self.epoch, self.offset, self.stamp = position.epoch, position.offset, position.stamp
        self.forget()

    def forget(self) -> None:
        """Empty the ring."""
        self.rings.bytes -= self.size + EVENT_BYTES * len(self.recent)
        self.recent.clear()
        self.size = 0
        self.base = self.stamp

    def advance(self, event: Event) -> None:
        """The next event is told."""
        self.offset = event.offset
        self.stamp = event.stamp
        event.stream = self.name  # the same text for all, however many the ring holds
        recent, rings, size = self.recent, self.rings, len(event.body)
        recent.append(event)
        self.size += size
        rings.bytes += size + EVENT_BYTES
        if self.size > rings.size or len(recent) > rings.events:
            self._shrink()

    def _shrink(self) -> None:
        # Who is joining needs what was told meanwhile, whatever the limits.
        recent, rings, most = self.recent, self.rings, RECENT_EVENTS if self.joining else self.rings.events
        while len(recent) > most or (self.size > rings.size and not self.joining):
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        event = self.recent.popleft()
        size = len(event.body)
        self.size -= size
        self.rings.bytes -= size + EVENT_BYTES
        self.base = event.stamp

    def expire(self) -> None:
        """Drop from the ring what is too old to be told."""
        oldest = self.rings.clock() - self.rings.age
        while self.recent and self.recent[0].when < oldest and not self.joining:
            self._drop_oldest()

    def reach_back(self, position: Position, events: list[Event]) -> None:
        """Have what the log told of the time after a position in the ring, where the two meet."""
        older = self.offset - len(self.recent) - position.offset
        size = self.size + sum(len(event.body) for event in events[:older])
        if (
            0 < older <= len(events)
            and older + len(self.recent) <= self.rings.events
            and size <= self.rings.size
            and self.fits(position, events)
        ):
            for event in reversed(events[:older]):
                event.stream = self.name
                self.recent.appendleft(event)
            self.rings.bytes += size - self.size + EVENT_BYTES * older
            self.size = size
            self.base = position.stamp

    def stamp_at(self, offset: int) -> int:
        """The stamp of the event at an offset, 0 when it is not known."""
        back = self.offset - offset
        if back == 0:
            return self.stamp
        if 0 < back < len(self.recent):
            return self.recent[-1 - back].stamp
        return self.base if back == len(self.recent) else 0

    def recall(self, claimed: Position) -> tuple[bool, list[Event] | None]:
        """Return whether memory alone says what a client missed, and the events; None when nothing can be told."""
        stamp = self.stamp_at(claimed.offset)
        if claimed.epoch != self.epoch or (claimed.stamp and stamp and claimed.stamp != stamp):
            return True, None
        if claimed.stamp and not stamp:
            return False, None
        events = self.events_after(claimed.offset)
        if events is None or (events and 0 < events[0].when < self.rings.clock() - self.rings.age):
            return False, None
        return True, events

    def events_after(self, offset: int) -> list[Event] | None:
        """The events told after an offset; None when they are not all at hand."""
        missed = self.offset - offset
        if not 0 <= missed <= len(self.recent):
            return None
        return [*islice(reversed(self.recent), missed)][::-1]

    def fits(self, position: Position, events: list[Event]) -> bool:
        """Return whether the log's events after a position belong to the history that was sent here.

        They are when every offset is there once, and what both know has one stamp in both.
        """
        if any(
            event.offset != offset or event.epoch != self.epoch
            for offset, event in enumerate(events, position.offset + 1)
        ):
            return False
        both = min(position.offset + len(events), self.offset)
        if both < position.offset:
            return True
        there = events[both - position.offset - 1].stamp if both > position.offset else position.stamp
        here = self.stamp_at(both)
        return not (there and here) or there == here

    def merge(
        self, claimed: Position | None, events: list[Event] | None, limit: int
    ) -> tuple[Position, list[Event] | None]:
        """Return the position of a client that now subscribes, and all events that it missed.

        Parameters:
            claimed: the place it claims, None when it claims none.
            events: what was told of the time after that place, None when that cannot be told.
            limit: how many bytes of models it may be sent.

        Returns: the position, and the events up to it; None for them at any doubt.
        """
        if claimed is None or events is None or claimed.epoch != self.epoch or not self.fits(claimed, events):
            return self.position, None
        read = claimed.offset + len(events)
        later = self.events_after(read) if read < self.offset else []
        if later is None:
            return self.position, None
        missed = events + later
        if sum(len(event.body) for event in missed) > limit:
            return self.position, None
        if missed:
            return Position(self.epoch, missed[-1].offset, missed[-1].stamp), missed
        return Position(self.epoch, claimed.offset, claimed.stamp or self.stamp_at(claimed.offset)), missed
