"""Streams without I/O: positions, bounded history, operation ids and the replies they had.

The terms are docs/protocol.md, "Streams": every channel of a backend has a stream of events, numbered from 1 without
holes within an epoch. `Log` is what a store in memory needs of them; stores on disk keep the same in tables.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import msgspec

from bbio.errors import Conflict

BACKEND_WIDE = "*"


def channel_stream(channel: str | None) -> str:
    """The name of a channel's stream; the default channel's is `c:`."""
    return "c:" + channel if channel else "c:"


@attrs.frozen
class Position:
    """A place in a stream: the epoch and the offset of the last event seen (0 before the first)."""

    epoch: str
    offset: int


class Event(msgspec.Struct, eq=False, gc=False):
    """One write, as other clients are told of it.

    Parameters:
        stream: the stream's name.
        epoch: the stream's epoch.
        offset: the place in the stream, from 1.
        method: `create`, `update` or `delete`.
        body: the model as JSON.
        rev: the model's revision; None when the write was not a store's.
        op: the operation id as `client:counter`, None when there was none.
        when: seconds of a monotonic clock.
    """

    stream: str
    epoch: str
    offset: int
    method: str
    body: bytes
    rev: int | None = None
    op: str | None = None
    when: float = 0.0

    def __repr__(self) -> str:
        return f"<Event {self.stream} {self.epoch}/{self.offset} {self.method}>"


class Commit(msgspec.Struct, eq=False, gc=False):
    """What a write came to: the record, its JSON, the event that tells of it, and whether it had been applied."""

    record: Any
    body: bytes
    event: Event
    duplicate: bool = False


@attrs.frozen
class HistoryLimits:
    """How much of each stream is kept for clients that come back.

    Parameters:
        events: how many events.
        size: how many bytes of models.
        age: how many seconds.
        streams: how many streams are kept; the one longest without an event is forgotten first.
    """

    events: int = 1_000
    size: int = 1 << 20
    age: float = 600.0
    streams: int = 100_000


class Stream:
    """One stream: its epoch, its top offset and its latest events."""

    __slots__ = ("epoch", "events", "name", "size", "top")

    def __init__(self, name: str, epoch: str | None = None) -> None:
        self.name = name
        self.epoch = epoch or secrets.token_hex(6)
        self.top = 0
        self.events: deque[Event] = deque()
        self.size = 0

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.top)

    def append(self, event: Event, limits: HistoryLimits) -> None:
        """Add the event at the top and drop what the limits no longer allow."""
        self.top = event.offset
        events = self.events
        events.append(event)
        self.size += len(event.body)
        while len(events) > limits.events or self.size > limits.size or event.when - events[0].when > limits.age:
            self.size -= len(events.popleft().body)
            if not events:
                break

    def since(self, epoch: Any, offset: Any) -> list[Event] | None:
        """The events after a position, oldest first; None when the history cannot tell."""
        if epoch != self.epoch or type(offset) is not int or not 0 <= offset <= self.top:
            return None
        missed = self.top - offset
        if missed > len(self.events):
            return None
        return list(itertools.islice(self.events, len(self.events) - missed, None))


class Operations:
    """Operations that were applied, by key, for a time: what makes a retry harmless.

    Parameters:
        age: how many seconds a reply is kept.
        count: how many replies are kept.
        size: how many bytes of models are kept.
    """

    def __init__(self, age: float = 86_400.0, count: int = 100_000, size: int = 64 << 20) -> None:
        self._age = age
        self._count = count
        self._limit = size
        self._size = 0
        # What was asked, hashed, and the event that it came to.
        self._replies: OrderedDict[str, tuple[int, Event]] = OrderedDict()
        self._oldest = 0.0

    def __len__(self) -> int:
        return len(self._replies)

    def find(self, key: str, payload: bytes) -> Commit | None:
        """The commit of an earlier attempt, marked as a duplicate; None when there was none.

        Raises:
            Conflict: the key was used for another request.
        """
        reply = self._replies.get(key)
        if reply is None:
            return None
        asked, event = reply
        # Python's hash of bytes has a secret key in each process, and nothing of this outlives the process.
        if asked != hash(payload):
            raise Conflict("this operation id was already used for another request")
        return Commit(msgspec.json.decode(event.body), event.body, event, duplicate=True)

    def keep(self, key: str, payload: bytes, event: Event) -> None:
        """Remember what an operation came to under its key, and forget what is too old or too much."""
        replies, now = self._replies, event.when
        if not replies:
            self._oldest = now
        replies[key] = (hash(payload), event)
        self._size += len(event.body)
        if len(replies) > self._count:
            self._forget()
        while self._size > self._limit:
            self._forget()
        # What `_oldest` says may have been forgotten since: then it is looked up, but not for every operation.
        while replies and self._oldest < now - self._age:
            self._oldest = next(iter(replies.values()))[1].when
            if self._oldest < now - self._age:
                self._forget()

    def _forget(self) -> None:
        self._size -= len(self._replies.popitem(last=False)[1][1].body)


class Log:
    """The streams and operations of one backend, in memory.

    Parameters:
        limits: how much history each stream keeps.
        clock: seconds, never going back.
    """

    def __init__(self, limits: HistoryLimits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits or HistoryLimits()
        self.operations = Operations()
        self._clock = clock
        self._streams: OrderedDict[str, Stream] = OrderedDict()

    def stream(self, name: str) -> Stream:
        """The stream of that name; a new one, in a new epoch, when it is not known."""
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Stream(name)
            if len(self._streams) > self.limits.streams:
                self._streams.popitem(last=False)
        return stream

    def append(self, name: str, method: str, body: bytes, rev: int | None = None, op: str | None = None) -> Event:
        """Number an event and keep it."""
        streams = self._streams
        stream = streams.get(name) or self.stream(name)
        streams.move_to_end(name)
        event = Event(name, stream.epoch, stream.top + 1, method, body, rev, op, self._clock())
        stream.append(event, self.limits)
        return event

    def forget(self, name: str) -> None:
        """Lose a stream's history: its next event begins a new epoch."""
        self._streams.pop(name, None)

    def positions(self, names: Iterable[str]) -> dict[str, Position]:
        """The top of each named stream."""
        return {name: self.stream(name).position for name in names}
