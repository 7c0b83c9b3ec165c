"""Streams without I/O: positions, bounded history, operation ids and the replies they had.

docs/protocol.md, "Streams and positions", has the terms: every channel of a backend has a stream of events, numbered
from 1 without holes within an epoch. `Streams` keeps them for a log in memory; stores on disk keep the same in tables.
"""

from __future__ import annotations

import itertools
import math
import secrets
import time
from base64 import urlsafe_b64encode
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Any, Self
from weakref import WeakSet

import attrs
import msgspec

from bbio.errors import Conflict

BACKEND_WIDE = "*"
# A stamp is below this: JavaScript holds such a number exactly.
STAMPS = 2**48
# What Python holds at most for an event besides its body, for a stream, and for the reply of an operation.
EVENT_BYTES = 400
STREAM_BYTES = 1_400
REPLY_BYTES = 750
# Characters of a stream's name that are counted with its events.
COUNTED_NAME_CHARACTERS = 32
# Bytes that each character of a text takes at most: one wide one has all take four, and what was decoded has a copy.
WIDE_CHARACTER_BYTES = 8
# Characters of a request that take less room than its digest would save.
SHORT_REQUEST_CHARACTERS = 512
# Bytes of histories and operations where nothing else is said.
KEPT_BYTES = 40 << 20


def room_of(text: str) -> int:
    """Return the bytes that Python holds at most for the characters of a text.

    Example:
        >>> room_of("milk"), room_of("M\u00fcsli")
        (4, 40)
    """
    return len(text) if text.isascii() else WIDE_CHARACTER_BYTES * len(text)


# What the stream of a channel begins with.
CHANNEL = "c:"


def channel_stream(channel: str | None) -> str:
    """The name of a channel's stream; the default channel's is `c:`."""
    return CHANNEL + channel if channel else CHANNEL


# What a client's public part begins with.
PUBLIC = "~"


# Public parts that are remembered: half a megabyte of them at most.
PUBLIC_PARTS = 1_024


@lru_cache(maxsize=PUBLIC_PARTS)
def public_part(client: str) -> str:
    """The part of a client's id that others may know: nobody makes an operation of that client with it.

    Example:
        >>> public_part("a client's own id, hard to guess")
        '~T8gDQSdrS5lk8a2H'
    """
    digest = blake2b(client.encode("utf-8", "surrogatepass"), digest_size=12, person=b"bbio client").digest()
    return PUBLIC + urlsafe_b64encode(digest).decode()


class Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """An operation id: the client's own id, which is a secret between it and the server, and a number it counts up."""

    c: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    n: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]

    @property
    def public(self) -> str:
        """Return its form in events, `public part:counter`."""
        return f"{public_part(self.c)}:{self.n}"

    def __repr__(self) -> str:
        return f"<Op {self.public}>"

    @classmethod
    def read(cls, text: str) -> Self:
        """The operation id of a text `client:counter`."""
        client, _, counter = text.rpartition(":")
        return cls(client, int(counter))


# Who asked, and the number they gave what they asked for.
Operation = tuple[str, int]

_canonical = msgspec.json.Encoder(order="sorted")


def canonical(text: str) -> bytes:
    """The one form of all texts of a `sync` that ask for the same: the default channel may be named or left out."""
    event, fields = msgspec.json.decode(text, type=tuple[str, dict[str, Any]])
    if not fields.get("channel"):
        fields.pop("channel", None)
    return _canonical.encode((event, fields))


def _digest(text: str) -> bytes:
    return blake2b(canonical(text), digest_size=16).digest()


class Position(msgspec.Struct, frozen=True, gc=False):
    """A position in a stream.

    Parameters:
        epoch: the epoch of the stream's history.
        offset: the offset of the last event seen; 0 before the first.
        stamp: the random number of the transaction that logged that event; 0 if it is not known.

    Example:
        >>> Position("9a0c", 42).stamp
        0
    """

    epoch: str
    offset: int
    stamp: int = 0


class Event(msgspec.Struct, eq=False, gc=False):
    """One write, as other clients are notified of it.

    Parameters:
        stream: the stream's name.
        epoch: the stream's epoch.
        offset: the place in the stream, from 1.
        method: `create`, `update` or `delete`.
        body: the model as JSON.
        rev: the model's revision; None when the write was not a store's.
        op: the public form of the operation id, None when there was none.
        when: seconds of a monotonic clock.
        stamp: the random number, of 48 bits, of the transaction that logged it; 0 if it is not known.
        was: how the record was, as `bbio.was` has it; None where the log does not say.

    Example:
        >>> Event("c:home", "9a0c", 42, "update", b'{"id":7,"done":true}', rev=19)
        <Event c:home 9a0c/42 update>
    """

    stream: str
    epoch: str
    offset: int
    method: str
    body: bytes
    rev: int | None = None
    op: str | None = None
    when: float = 0.0
    stamp: int = 0
    was: bytes | None = None

    @property
    def position(self) -> Position:
        """The position of who was told of all up to it."""
        return Position(self.epoch, self.offset, self.stamp)

    @property
    def size(self) -> int:
        """The bytes of what it says of its model."""
        return len(self.body) + len(self.was or b"")

    def __repr__(self) -> str:
        return f"<Event {self.stream} {self.epoch}/{self.offset} {self.method}>"


class Delta(Event, eq=False, gc=False, kw_only=True):
    """An event as those are told of it who have the record as it was: its model is the id and the fields to set.

    Parameters:
        base: the revision that it builds on.
        unset: the fields that are gone.
        append: what is added to the end of texts, by field.
    """

    base: int
    unset: tuple[str, ...] = ()
    append: dict[str, str]


class Commit(msgspec.Struct, eq=False, gc=False):
    """The outcome of a write.

    Parameters:
        record: the record as it is stored; of a delete, as it was.
        body: the record as JSON.
        event: the event that was logged.
        duplicate: whether an earlier attempt had applied the write.

    Example:
        >>> Commit({"id": 7}, b'{"id":7}', Event("c:", "9a0c", 1, "create", b'{"id":7}')).duplicate
        False
    """

    record: Any
    body: bytes
    event: Event
    duplicate: bool = False


@attrs.frozen
class HistoryLimits:
    """Limits of the history of each stream, for clients that return; stores take `history=HistoryLimits(age=60)`.

    Parameters:
        events: the number of events.
        size: the bytes of their models.
        age: the seconds for which an event is kept.
        streams: the number of streams; the one that has been longest without an event is forgotten first.
        consumer_events: the number of events that are kept while a consumer still needs them.
        consumer_size: the bytes of their models.
        consumer_age: the seconds for which such an event is kept.

    Example:
        >>> from bbio.builtin import MemoryStore
        >>> MemoryStore(history=HistoryLimits(events=100, age=60.0)).history.events
        100
    """

    events: int = 1_000
    size: int = 1 << 20
    age: float = 600.0
    streams: int = 100_000
    consumer_events: int = 10_000
    consumer_size: int = 16 << 20
    consumer_age: float = 604_800.0

    def for_consumers(self) -> HistoryLimits:
        """Return the limits of what a consumer still needs; they are no lower than those of the rest."""
        return HistoryLimits(
            max(self.events, self.consumer_events),
            max(self.size, self.consumer_size),
            max(self.age, self.consumer_age),
            self.streams,
        )


class Stream:
    """One stream: its epoch, its top offset and its latest events."""

    __slots__ = ("before", "epoch", "events", "name", "size", "top")

    def __init__(self, name: str, epoch: str | None = None) -> None:
        self.name = name
        self.epoch = epoch or secrets.token_hex(6)
        self.top = 0
        # The stamp of the event before those that are kept.
        self.before = 0
        self.events: deque[Event] = deque()
        self.size = 0

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.top, self.events[-1].stamp if self.events else self.before)

    @property
    def used_bytes(self) -> int:
        """The bytes that its events take."""
        return self.size + EVENT_BYTES * len(self.events)

    def append(self, event: Event, limits: HistoryLimits, needed: Callable[[str], int | None] | None = None) -> int:
        """Add the event at the top and drop what the limits no longer allow.

        Parameters:
            event: the event.
            limits: the limits.
            needed: returns the offset in a stream after which consumers need events; None if there are none.

        Returns: how many bytes more it takes.
        """
        self.top = event.offset
        events = self.events
        events.append(event)
        size = len(event.body) if event.was is None else event.size
        self.size += size
        more = size + EVENT_BYTES
        handled: int | None = None
        while len(events) > limits.events or self.size > limits.size or event.when - events[0].when > limits.age:
            if needed is not None:
                if handled is None:
                    handled = needed(self.name)
                if handled is None:
                    needed = None
                elif events[0].offset > handled:
                    limits, needed = limits.for_consumers(), None
                    continue
            more -= self._drop_oldest()
            if not events:
                break
        return more

    def _drop_oldest(self) -> int:
        oldest = self.events.popleft()
        size = len(oldest.body) if oldest.was is None else oldest.size
        self.size -= size
        self.before = oldest.stamp
        return size + EVENT_BYTES

    def expire(self, oldest: float, handled: float = math.inf) -> int:
        """Drop the events from before a time; how many bytes fewer it takes.

        Parameters:
            oldest: the time.
            handled: the offset of the last event that may be dropped.
        """
        fewer = 0
        while self.events and self.events[0].when < oldest and self.events[0].offset <= handled:
            fewer += self._drop_oldest()
        return fewer

    def since(self, epoch: Any, offset: Any, stamp: int = 0) -> list[Event] | None:
        """The events after a position, oldest first; None when the history cannot tell.

        Parameters:
            epoch: the epoch of the position.
            offset: its offset.
            stamp: the stamp of the event at that offset; 0 when it is not to be checked.
        """
        if epoch != self.epoch or type(offset) is not int or not 0 <= offset <= self.top:
            return None
        events = self.events
        missed = self.top - offset
        first = len(events) - missed
        if first < 0:
            return None
        if stamp and stamp != (events[first - 1].stamp if first else self.before):
            return None
        return list(itertools.islice(events, first, None))


class Reply(msgspec.Struct, eq=False, gc=False):
    """The outcome of an operation.

    It has the operation, what was asked (a digest where that is long), the event, and the record where that holds more.
    """

    who: str
    n: int
    asked: str | bytes
    event: Event
    record: bytes | None = None

    @property
    def used_bytes(self) -> int:
        """The bytes that it takes."""
        asked = self.asked
        size = len(asked) if isinstance(asked, bytes) else room_of(asked)
        name = self.event.stream
        if len(name) > COUNTED_NAME_CHARACTERS:
            size += room_of(name)
        event = self.event
        size += len(event.body) if event.was is None else event.size
        return REPLY_BYTES + size + len(self.record or b"")

    def is_of(self, payload: str) -> bool:
        """Return whether it is the reply to this request."""
        asked = self.asked
        if isinstance(asked, bytes):
            return asked == _digest(payload)
        return asked == payload or canonical(asked) == canonical(payload)


class Replies(dict[int, Reply]):
    """The replies to one who asked, by number.

    Parameters:
        who: who that is.
    """

    __slots__ = ("who",)

    def __init__(self, who: str) -> None:
        self.who = who


class Operations:
    """Operations that were applied, for a time: what makes a retry harmless.

    Parameters:
        age: how many seconds a reply is kept.
        count: how many replies are kept.
        size: how many bytes they may take.
    """

    def __init__(self, age: float = 86_400.0, count: int = 100_000, size: int = 64 << 20) -> None:
        self._age = age
        self._count = count
        # They are forgotten some at a time.
        self._most = count + count // 1_000
        self._limit = size
        self.used_bytes = 0
        # By who asked and then by number: numbers that follow each other lie side by side in memory.
        self._replies: dict[str, Replies] = {}
        self._in_order: deque[Reply] = deque()
        # When the oldest is too old, at the earliest.
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._in_order)

    def find(self, operation: Operation, payload: str) -> Commit | None:
        """The commit of an earlier attempt, marked as a duplicate; None when there was none.

        Raises:
            Conflict: the operation was another request.
        """
        who, n = operation
        replies = self._replies.get(who)
        reply = None if replies is None else replies.get(n)
        if reply is None:
            return None
        if not reply.is_of(payload):
            raise Conflict("this operation id was already used for another request")
        event = reply.event
        return Commit(msgspec.json.decode(reply.record or event.body), event.body, event, duplicate=True)

    def keep(self, operation: Operation, payload: str, event: Event, record: bytes | None = None) -> None:
        """Remember what an operation came to, and forget what is too old or too much.

        Parameters:
            operation: the operation.
            payload: what was asked.
            event: the event.
            record: the record as JSON, where it holds more than the event tells.
        """
        who, n = operation
        replies = self._replies.get(who)
        if replies is None:
            replies = self._replies[who] = Replies(who)
            self.used_bytes += room_of(who)
        in_order = self._in_order
        if not in_order:
            self._due = event.when + self._age
        asked: str | bytes = payload
        size = len(payload)
        if size > SHORT_REQUEST_CHARACTERS:
            asked = _digest(payload)
            size = len(asked)
        elif not payload.isascii():
            size *= WIDE_CHARACTER_BYTES
        if len(event.stream) > COUNTED_NAME_CHARACTERS:
            size += room_of(event.stream)  # it may outlive its stream
        # All replies to one have the same text of who that is.
        replies[n] = reply = Reply(replies.who, n, asked, event, record)
        in_order.append(reply)
        size += len(event.body) if event.was is None else event.size
        self.used_bytes = used = self.used_bytes + REPLY_BYTES + size + (0 if record is None else len(record))
        if len(in_order) > self._most or used > self._limit or event.when > self._due:
            self.forget(event.when)

    def forget(self, now: float, size: int | None = None) -> None:
        """Forget what is too old or too much.

        Parameters:
            now: the time.
            size: how many bytes they may take now, where that is less than else.
        """
        in_order, replies = self._in_order, self._replies
        used, limit, old = self.used_bytes, self._limit if size is None else size, now - self._age
        for _ in range(len(in_order)):
            oldest = in_order[0]
            event = oldest.event
            if len(in_order) <= self._count and used <= limit and event.when >= old:
                self._due = event.when + self._age
                break
            used -= oldest.used_bytes
            of_one = replies[oldest.who]
            del of_one[oldest.n], in_order[0]
            if not of_one:
                del replies[oldest.who]
                used -= room_of(oldest.who)
        self.used_bytes = used


class Kept:
    """The histories and operations that several backends keep in memory, with one bound for all.

    Parameters:
        limit: how many bytes they may take.
    """

    def __init__(self, limit: float = KEPT_BYTES) -> None:
        self.limit = limit
        self.used_bytes = 0
        self.logs: WeakSet[Streams] = WeakSet()

    def trim(self) -> None:
        """Have those that take the most give up an eighth of all, so that it need not be done at every write."""
        while self.used_bytes > self.limit:
            largest = max(self.logs, key=lambda log: log.used_bytes)
            if not largest.give_up(self.used_bytes - self.limit * 7 / 8):
                return

    def expire(self) -> None:
        """Drop what is too old."""
        for log in self.logs:
            log.expire()


class Streams:
    """The streams and operations of one backend, in memory.

    Parameters:
        limits: how much history each stream keeps.
        clock: seconds, never going back.
        kept: what it shares with other backends' logs.
    """

    def __init__(
        self,
        limits: HistoryLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        kept: Kept | None = None,
    ) -> None:
        self.limits = limits or HistoryLimits()
        self.operations = Operations()
        # Returns the offset in a stream after which consumers need events; None where there are no consumers.
        self.needed: Callable[[str], int | None] | None = None
        self.kept = kept or Kept()
        self.kept.logs.add(self)
        self._clock = clock
        # The bytes that its streams take.
        self._size = 0
        # The epoch of streams that have had no event yet.
        self._epoch = secrets.token_hex(6)
        # Where the clock begins that stamps are taken from, in no two processes at the same place.
        self._stamps_from = secrets.randbits(48)
        self._streams: OrderedDict[str, Stream] = OrderedDict()

    @property
    def used_bytes(self) -> int:
        """The bytes that it takes."""
        return self._size + self.operations.used_bytes

    def stream(self, name: str) -> Stream:
        """The stream of that name; a new one when it is not known."""
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Stream(name, self._epoch)
            size = STREAM_BYTES + room_of(name)
            self._size += size
            self._account(size)
            if len(self._streams) > self.limits.streams:
                self.forget(next(iter(self._streams)))
        return stream

    def append(
        self,
        name: str,
        method: str,
        body: bytes,
        rev: int | None = None,
        op: str | None = None,
        was: bytes | None = None,
    ) -> Event:
        """Number an event and keep it."""
        streams = self._streams
        stream = streams.get(name) or self.stream(name)
        streams.move_to_end(name)
        # No history in memory falls back by itself, but a machine's may, as it was, with all its generators of random
        # numbers; the time does not. It costs a fifth of a random number of the system.
        stamp = (self._stamps_from + time.time_ns()) % STAMPS or 1
        # All events of a stream have the same text of its name.
        event = Event(stream.name, stream.epoch, stream.top + 1, method, body, rev, op, self._clock(), stamp, was)
        size = stream.append(event, self.limits, self.needed)
        self._size += size
        self._account(size)
        return event

    def keep(self, operation: Operation, payload: str, event: Event, record: bytes | None = None) -> None:
        """Remember what an operation came to."""
        operations = self.operations
        before = operations.used_bytes
        operations.keep(operation, payload, event, record)
        self._account(operations.used_bytes - before)

    def _account(self, size: int) -> None:
        kept = self.kept
        kept.used_bytes += size
        if kept.used_bytes > kept.limit:
            kept.trim()

    def share(self, kept: Kept) -> None:
        """Count what a log keeps to this from now on."""
        self.kept.logs.discard(self)
        self.kept.used_bytes -= self.used_bytes
        self.kept = kept
        kept.logs.add(self)
        kept.used_bytes += self.used_bytes

    def give_up(self, size: float) -> bool:
        """Keep so many bytes fewer, where there are so many; whether any were given up.

        Histories are emptied, the largest first: who follows a stream notices nothing. Then the streams go that are
        longest without an event, and the oldest operations where they take more than the histories.
        """
        before, least = self.used_bytes, self.used_bytes - size
        if self.operations.used_bytes > self._size:
            self._forget_operations(max(self.operations.used_bytes - size, 0))
        for stream in sorted(self._streams.values(), key=lambda stream: stream.used_bytes, reverse=True):
            if self.used_bytes <= least or not stream.events:
                break
            self._shrink(stream.expire(math.inf))
        while self.used_bytes > least and len(self._streams) > 1:
            self.forget(next(iter(self._streams)))
        if self.used_bytes > least:
            self._forget_operations(max(self.operations.used_bytes - (self.used_bytes - least), 0))
        return self.used_bytes < before

    def _forget_operations(self, size: float) -> None:
        before = self.operations.used_bytes
        self.operations.forget(self._clock(), int(size))
        self.kept.used_bytes += self.operations.used_bytes - before

    def _shrink(self, size: int) -> None:
        self._size -= size
        self.kept.used_bytes -= size

    def expire(self) -> None:
        """Drop what is too old."""
        oldest = self._clock() - self.limits.age
        oldest_needed = self._clock() - self.limits.for_consumers().age
        for stream in self._streams.values():
            handled = None if self.needed is None else self.needed(stream.name)
            self._shrink(stream.expire(oldest, math.inf if handled is None else handled))
            if handled is not None:
                self._shrink(stream.expire(oldest_needed))
        before = self.operations.used_bytes
        self.operations.forget(self._clock())
        self.kept.used_bytes += self.operations.used_bytes - before

    def forget(self, name: str) -> None:
        """Lose a stream's history: its next event begins a new epoch."""
        stream = self._streams.pop(name, None)
        if stream is not None:
            self._shrink(stream.used_bytes + STREAM_BYTES + room_of(name))
        # Its positions must not be taken for those of one that begins again.
        self._epoch = secrets.token_hex(6)

    def positions(self, names: Iterable[str]) -> dict[str, Position]:
        """The top of each named stream; nothing is kept of one that has had no event."""
        streams, none = self._streams, Position(self._epoch, 0)
        return {name: streams[name].position if name in streams else none for name in names}

    def tops(self) -> dict[str, Position]:
        """The top of each stream that has had an event; under the empty name, where others begin."""
        return {"": Position(self._epoch, 0), **{name: stream.position for name, stream in self._streams.items()}}

    def revised(self, name: str, rev: int) -> Iterator[Event]:
        """The events of a stream that made a revision, while it keeps them."""
        stream = self._streams.get(name)
        return iter(()) if stream is None else (event for event in stream.events if event.rev == rev)

    def since(self, name: str, epoch: Any, offset: Any, stamp: int = 0) -> list[Event] | None:
        """The events of a stream after a position, oldest first; None when the history cannot tell."""
        stream = self._streams.get(name) or Stream(name, self._epoch)
        return stream.since(epoch, offset, stamp)
