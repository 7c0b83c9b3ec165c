"""The positions of a client in the streams of one channel: a state machine without I/O or clock.

Every input returns the effects it asks for, in order. docs/protocol.md, "Rules for clients", has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs

from bbio.errors import BadRequest
from bbio.protocol import MAX_SINCE_STREAMS, read_digest, read_position

# How many events wait for the reply to a listen; past it the position is lost and everything is read again.
WAITING_EVENTS = 10_000


class Meta(NamedTuple):
    """The server's data about an event: stream, epoch, offset, the model's revision, the operation and the stamp.

    Where this client has a view, also whether what it wrote is in it, and of a stream how many events it was told. Of
    what changed of a record, the revision that it builds on, the fields that are gone, and what is added to texts.
    """

    stream: str
    epoch: str
    offset: int
    rev: int | None = None
    op: str | None = None
    stamp: int = 0
    is_in: bool | None = None
    told: int = 0
    base: int | None = None
    unset: Sequence[str] = ()
    append: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def read(cls, meta: Any) -> Meta | None:
        """Read the third argument of a `synced` or of a write's reply; None from servers that know no positions."""
        if not isinstance(meta, Mapping):
            return None
        stream, epoch, offset = meta.get("s"), meta.get("e"), meta.get("o")
        if not isinstance(stream, str) or not isinstance(epoch, str) or type(offset) is not int:
            return None
        rest = meta.get("r"), meta.get("op"), meta.get("k", 0), meta.get("in"), meta.get("n", 0)
        if "b" not in meta:
            return cls(stream, epoch, offset, *rest)
        return cls(stream, epoch, offset, *rest, meta["b"], meta.get("unset", ()), meta.get("append", {}))


class Listen(NamedTuple):
    """Send a listen; `again`: spread it over time, others do the same now."""

    since: dict[str, list[Any]]
    again: bool = False


class Apply(NamedTuple):
    """Tell the mirrors."""

    method: str
    model: Any
    meta: Meta | None


class Ready(NamedTuple):
    """The listen is answered; `resumed`: nothing was missed since the connection before."""

    resumed: bool


class Read(NamedTuple):
    """History is gone: read everything, then call `complete`; `renewed`: revisions may have begun anew."""

    renewed: bool


class Watch(NamedTuple):
    """Call `overdue` a little later."""


Effect = Listen | Apply | Ready | Read | Watch


@attrs.define
class StreamPosition:
    """A position; `stale`: not to be resumed from before everything was read.

    `stamp` tells whether the position is of the same history, 0 when it is not known; `ahead` has the stamps of own
    writes beyond the position, by offset.

    With a view, offsets have gaps: its `digest` belongs to the position, and `told` counts the events since the listen.
    `void`: the view has changed since, so that what is read by now may be of another than the position.
    """

    epoch: str
    offset: int
    stamp: int = 0
    stale: bool = False
    ahead: dict[int, int] = attrs.field(factory=dict)
    digest: str | None = None
    told: int = 0
    void: bool = False

    @property
    def since(self) -> list[Any]:
        """Return the position as a listen says it."""
        if self.digest is not None:
            return [self.epoch, self.offset, self.stamp, self.digest]
        return [self.epoch, self.offset, self.stamp] if self.stamp else [self.epoch, self.offset]


class Told:
    """The positions up to which readers were told, by stream; those of the tracker may be ahead of them."""

    def __init__(self) -> None:
        self._since: dict[str, list[Any]] = {}

    @property
    def position(self) -> dict[str, Any] | None:
        """Return a copy, as JSON has it; None where no positions are known."""
        return dict(self._since) or None

    def begin(self, tracker: Tracker, *, anew: bool = False) -> None:
        """Take the tracker's positions in streams of which nothing was told yet; in all where it is `anew`."""
        known = tracker.places
        self._since = known if anew else {**known, **self._since}

    def move(self, tracker: Tracker, meta: Meta) -> None:
        """Go on to an event that is told."""
        known = tracker.places.get(meta.stream, [])
        self._since[meta.stream] = [meta.epoch, meta.offset, meta.stamp, *known[3:]]


class Tracker:
    """Follows the streams that one `listen` names.

    Example:
        >>> tracker = Tracker()
        >>> tracker.connected()
        [Listen(since={}, again=False)]
        >>> reply = {"v": 1, "streams": {"c:": {"epoch": "a", "offset": 7, "recovered": False, "events": []}}}
        >>> tracker.listened(reply)
        [Ready(resumed=False)]
        >>> tracker.event("create", {"id": 1}, Meta("c:", "a", 9))
        [Listen(since={'c:': ['a', 7]}, again=True)]
    """

    def __init__(self) -> None:
        # Whether the server has answered a listen of this connection, and whether it lets this client listen.
        self.ready = False
        self._admitted = False
        # Whether the server speaks version 1; None until it has answered.
        self.positioned: bool | None = None
        self.listening = False
        self._positions: dict[str, StreamPosition] = {}
        self._waiting: list[tuple[str | None, Any, Meta]] = []
        # How many of those came before the listen left: its reply covers them.
        self._covered = 0
        self._overflown = False
        # Whether the last answer was a refusal: nothing is asked for until there is a reason to.
        self._is_refused = False

    def resume(self, since: Any) -> None:
        """Begin after the positions of an earlier connection.

        Raises:
            BadRequest: they are none.
        """
        read = {name: read_position(dict(since), name) for name in since} if isinstance(since, Mapping) else {}
        if not read or len(read) > MAX_SINCE_STREAMS or not all(read.values()):
            raise BadRequest(f"since={since!r:.80}: it is the `position` of an event, kept as it was")
        for name, each in read.items():
            assert each is not None
            self._positions[name] = StreamPosition(
                each.epoch, each.offset, each.stamp, digest=read_digest(dict(since), name)
            )

    @property
    def since(self) -> dict[str, list[Any]]:
        """Return the positions up to which everything has been applied, by stream, as a listen says them."""
        return {
            stream: position.since
            for stream, position in self._positions.items()
            if not position.stale and not position.void
        }

    @property
    def places(self) -> dict[str, list[Any]]:
        """Return the positions in all streams, whether everything up to them has been read or not."""
        return {stream: position.since for stream, position in self._positions.items()}

    @property
    def stale(self) -> bool:
        """Return whether everything must be read before the positions hold."""
        return any(position.stale for position in self._positions.values())

    @property
    def settled(self) -> bool:
        """Return whether everything is applied that the server has told, and nothing is being asked for."""
        behind = self._waiting or any(position.stale or position.ahead for position in self._positions.values())
        return self.ready and not self.listening and not behind

    def connected(self) -> list[Effect]:
        """Begin on a new connection."""
        self.listening = True
        self._is_refused = False
        self._covered = 0
        return [Listen(self.since)]

    def disconnected(self) -> None:
        """Forget what had not been answered: the connection is gone."""
        self.ready = self._admitted = self.listening = self._overflown = self._is_refused = False
        self._waiting = []

    def refused(self) -> None:
        """Note that the server answered the listen with an error; it may answer syncs all the same."""
        self.ready = self._is_refused = True

    def dismissed(self) -> None:
        """Note that the server has ended that this client listens; it may answer syncs all the same."""
        self.listening = True
        self._covered = len(self._waiting)
        self.refused()

    def invited(self) -> list[Effect]:
        """Listen, as the server has let this client in, whatever it has answered before."""
        return self.connected() if self._is_refused else self.asked()

    def listened(self, reply: Mapping[str, Any]) -> list[Effect]:
        """Take the answer to the latest listen."""
        first = self.positioned is None and not self._positions
        again = self._admitted
        self.ready = self._admitted = True
        self.listening = self._is_refused = False
        self.positioned = reply.get("v") == 1
        resumed = self.positioned and not first
        renewed = False
        effects: list[Effect] = []
        for stream, state in (reply.get("streams") or {}).items():
            position = self._positions.get(stream)
            for method, model, meta in state.get("events") or ():
                effects += self.event(method, model, Meta.read(meta))
            epoch, offset, recovered = state["epoch"], state["offset"], state["recovered"]
            stamp, digest = state.get("stamp", 0), state.get("d")
            if position is not None and position.digest is not None and recovered:
                position.offset = max(position.offset, offset)
            held = position is not None and not position.stale and not position.void
            if position is not None and held and recovered and position.offset == offset:
                position.stamp, position.told = stamp, 0
                if not self._overflown:
                    continue
            # The epoch may be the same and the history another: one that fell back.
            renewed = renewed or position is None or position.epoch != epoch or not recovered
            self._positions[stream] = StreamPosition(
                epoch, offset, stamp, stale=not first or self._overflown, digest=digest
            )
            resumed = False
        reset = self.stale
        waiting, self._waiting = self._waiting[self._covered :], []
        self._overflown = False
        for entry in waiting:
            effects += self._take(*entry)
        self._covered = len(self._waiting)
        if not again or reset:
            effects.append(Ready(resumed and not reset))
        if reset:
            effects.append(Read(renewed))
        return effects

    def overheard(self, stream: str, state: Mapping[str, Any]) -> list[Effect]:
        """Take the answer to a listen of another channel, about a stream that this one follows too."""
        position = self._positions.get(stream)
        if position is None or self.listening:
            return []
        effects: list[Effect] = []
        for method, model, meta in state.get("events") or ():
            effects += self.event(method, model, Meta.read(meta))
        position.told = 0
        if position.digest != state.get("d"):
            return [*effects, *self._again()]
        if position.digest is not None and state["recovered"] and state["epoch"] == position.epoch:
            position.offset = max(position.offset, state["offset"])
        behind = state["epoch"] != position.epoch or state["offset"] > position.offset
        return effects + (self._again() if behind and not self.listening else [])

    def event(self, method: str, model: Any, meta: Meta | None) -> list[Effect]:
        """Take an event, `synced`."""
        if method == "at":
            return [] if meta is None or self.listening else self._at(meta)
        position = None if meta is None or self.listening else self._positions.get(meta.stream)
        if position is not None:
            position.told += 1
        return [Apply(method, model, None)] if meta is None else self._take(method, model, meta)

    def _at(self, meta: Meta) -> list[Effect]:
        """Take how far a stream has come, of which a view tells a part, and how many events of it were told."""
        position = self._positions.get(meta.stream)
        if position is None:
            return []
        if meta.epoch == position.epoch and meta.told == position.told:
            if meta.offset > position.offset:
                position.offset, position.stamp = meta.offset, meta.stamp
            return []
        position.void = True  # which one was lost nobody knows
        return self._again()

    def acked(self, meta: Meta) -> list[Effect]:
        """Take the position in the reply to a write of this client, which need not come as an event."""
        return self._take(None, None, meta)

    def passed(self, meta: Meta, retried: bool) -> bool:
        """Return whether everything up to a position is applied: by events, or by reading everything later than that.

        Parameters:
            meta: the position in a reply.
            retried: whether the reply may be that of an earlier attempt, and its epoch a past one.
        """
        position = self._positions.get(meta.stream)
        if position is None:
            return False
        return meta.offset <= position.offset if meta.epoch == position.epoch else retried

    def leaves_content(self, meta: Meta, is_old: bool = False) -> bool:
        """Return whether a reply says nothing of what this client sees by now: the stream will tell.

        Parameters:
            meta: the position in the reply.
            is_old: whether it is the reply of a connection that another has taken the place of.
        """
        position = self._positions.get(meta.stream)
        return position is not None and position.digest is not None and (is_old or meta.is_in is None)

    def complete(self) -> None:
        """Note that everything has been read and applied since the effect `Read`."""
        for position in self._positions.values():
            position.stale = False

    def gap(self) -> list[Effect]:
        """Ask what was missed: the server can no longer tell it, or tells under another view from now on."""
        for position in self._positions.values():
            position.void = position.digest is not None
        return [] if self.listening or not self.ready else self._again()

    def asked(self) -> list[Effect]:
        """Listen again, as this client asks for other records from now on; a listen under way is to be followed."""
        if self.listening or not self.ready:
            return []
        self.listening = True
        self._covered = len(self._waiting)
        return [Listen(self.since)]

    def lost(self) -> list[Effect]:
        """Ask for everything: what was told cannot be made use of."""
        for position in self._positions.values():
            position.stale = True
        return [] if self.listening or not self.ready else self._again()

    def overdue(self) -> list[Effect]:
        """Ask for what should have arrived by now, some time after the effect `Watch`."""
        return self.gap() if any(position.ahead for position in self._positions.values()) else []

    def _again(self) -> list[Effect]:
        self.listening = True
        self._covered = len(self._waiting)
        return [Listen(self.since, again=True)]

    def _wait(self, method: str | None, model: Any, meta: Meta) -> None:
        if len(self._waiting) < WAITING_EVENTS:
            self._waiting.append((method, model, meta))
        else:
            self._overflown = True

    def _take(self, method: str | None, model: Any, meta: Meta) -> list[Effect]:
        """Take an event (or, without a method, the position of an own write) in its turn, early, late, or again."""
        if self.listening:
            self._wait(method, model, meta)
            return []
        position = self._positions.get(meta.stream)
        if position is None:
            return []
        same_epoch = meta.epoch == position.epoch
        if position.digest is not None and same_epoch:
            if method is None or meta.offset <= position.offset:
                return []  # where the view has been told all up to, its own events say alone
            position.offset, position.stamp = meta.offset, meta.stamp
            return [Apply(method, model, meta)]
        if same_epoch and (meta.offset <= position.offset or (method is None and meta.offset in position.ahead)):
            return []
        if same_epoch and meta.offset == position.offset + 1:
            self._advance(position, meta)
            return [] if method is None else [Apply(method, model, meta)]
        if method is not None:
            self._wait(method, model, meta)
            return self._again()
        if not same_epoch:
            return self._again()
        position.ahead[meta.offset] = meta.stamp
        return [Watch()]

    def _advance(self, position: StreamPosition, meta: Meta) -> None:
        position.ahead[meta.offset] = meta.stamp
        while position.offset + 1 in position.ahead:
            position.offset += 1
            position.stamp = position.ahead.pop(position.offset)
