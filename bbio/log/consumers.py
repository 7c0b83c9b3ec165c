"""Ledgers of consumers: how far each is, which process works for it, and what it could not handle.

A log that keeps a ledger makes `App.consumer` possible. Where it is in the database of the events, a consumer loses
nothing by a crash. `MemoryLedger` is one in memory.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

from bbio.streams import Event, Position, Streams

# Of a letter: it waits for somebody to look at it; for an earlier one of its model; or to be handled once more.
LetterState = Literal["dead", "behind", "again"]


@attrs.frozen(kw_only=True)
class Letter:
    """An event that a consumer has set aside, a dead letter.

    Parameters:
        id: its number.
        model: the key of the model that it is about, as the consumer has it.
        event: the event.
        attempts: how often it was tried.
        error: the last error, as one line.
        state: `dead`; `behind` an earlier letter of the same model; or put back, to be handled `again`.
        failed: seconds since 1970 when it was set aside.

    Example:
        >>> event = Event("c:", "9a0c", 1, "create", b'{"id":7}')
        >>> Letter(model="7", event=event, attempts=5, error="OSError").state
        'dead'
    """

    model: str
    event: Event
    attempts: int = 0
    error: str = ""
    state: LetterState = "dead"
    id: int = 0
    failed: float = 0.0


@attrs.frozen(kw_only=True)
class Step:
    """A step of a consumer, which its ledger keeps at once or not at all.

    Parameters:
        positions: the positions up to which all is handled, of the streams that have moved.
        epoch: the epoch in which streams begin that it has no position of; None if it is as it was.
        replaces: whether the positions are those of all streams.
        letters: events that are set aside; their states are `dead`, or `behind`, which becomes `again` if there is no
            earlier letter of the model any more.
        settled: the numbers of letters that were handled after all.
        failed: letters that have failed once more.
        lost: how many gaps there are more.
        is_idle: whether nothing is left to be handled at this moment.

    Example:
        >>> Step(positions={"c:": Position("9a0c", 7)}).lost
        0
    """

    positions: Mapping[str, Position] = attrs.field(factory=dict)
    epoch: str | None = None
    replaces: bool = False
    letters: Sequence[Letter] = ()
    settled: Sequence[int] = ()
    failed: Sequence[Letter] = ()
    lost: int = 0
    is_idle: bool = False


@attrs.frozen(kw_only=True)
class ConsumerState:
    """The state of a consumer.

    Parameters:
        name: its name.
        channel: the channel that it is for; None for all.
        epoch: the epoch in which streams begin that it has no position of.
        positions: the positions up to which all is handled, by stream.
        worker: the process that has the lease, or had it last; None if it was given back.
        lease: seconds until the lease ends; less than 0 when it has ended.
        idle: seconds since all was handled, at most.
        lost: how many gaps there were.
        letters: how many letters there are.

    Example:
        >>> state = ConsumerState(name="mailer", channel=None, epoch="9a0c", positions={"c:": Position("9a0c", 7)})
        >>> state.behind({"c:": Position("9a0c", 9)}), state.is_active
        (2, False)
    """

    name: str
    channel: str | None
    epoch: str
    positions: Mapping[str, Position]
    worker: str | None = None
    lease: float = 0.0
    idle: float = 0.0
    lost: int = 0
    letters: int = 0

    @property
    def is_active(self) -> bool:
        """Return whether a process has the lease."""
        return self.worker is not None and self.lease > 0

    def behind(self, tops: Mapping[str, Position]) -> int:
        """Return how many events are not handled yet.

        Parameters:
            tops: the top of each stream.
        """
        return sum(self.behind_in(stream, top) for stream, top in tops.items())

    def behind_in(self, stream: str, top: Position) -> int:
        """Return how many events of a stream are not handled yet."""
        if self.channel is not None and stream not in self.positions:
            return 0
        here = self.positions.get(stream)
        return top.offset - here.offset if here is not None and here.epoch == top.epoch else top.offset


class Ledger(ABC):
    """Keeps the states of the consumers of one backend.

    A lease has a number, the fence, which grows with each process that takes it. `renew` and `keep` have no effect for
    a process whose fence is not the latest: another one has taken over.

    Class attributes:
        is_durable: whether it is kept together with the events, whatever happens to the process.

    Example:
        `Log.consumers` of a log is its ledger, once it is open; a `Log` of your own sets it in `open` or `start`.
    """

    is_durable = True

    @abstractmethod
    async def register(self, name: str, channel: str | None, epoch: str, positions: Mapping[str, Position]) -> None:
        """Make a consumer known, unless it is.

        Parameters:
            name: its name.
            channel: the channel that it is for; None for all.
            epoch: the epoch in which streams begin that have no position.
            positions: where it begins.
        """

    @abstractmethod
    async def states(self) -> list[ConsumerState]:
        """Return the states of all consumers, in the order of their names."""

    @abstractmethod
    async def claim(self, name: str, worker: str, seconds: float) -> int | None:
        """Take the lease if no other process has it.

        Parameters:
            name: the consumer.
            worker: the process, as people know it.
            seconds: how long the lease lasts, unless it is renewed.

        Returns: the fence; None while another process has the lease.
        """

    @abstractmethod
    async def renew(self, name: str, fence: int, seconds: float) -> bool:
        """Have the lease last for so many seconds from now on; return False if another process has taken it."""

    @abstractmethod
    async def release(self, name: str, fence: int) -> None:
        """Give the lease back."""

    @abstractmethod
    async def keep(self, name: str, fence: int, step: Step) -> bool:
        """Keep a step, in one transaction; return False, with nothing kept, if another process has taken the lease."""

    @abstractmethod
    async def held(self, name: str) -> dict[str, int]:
        """Return how many letters there are of each model, by its key."""

    @abstractmethod
    async def letters(self, name: str, *, again: bool = False, most: int = 1_000) -> list[Letter]:
        """Return the letters of a consumer, the oldest first.

        Parameters:
            name: the consumer.
            again: whether only those are asked for that are to be handled again.
            most: how many at most.
        """

    @abstractmethod
    async def put_back(self, name: str, id: int) -> bool:
        """Have a dead letter handled again; return False if there is none of this number, or it waits for another."""

    @abstractmethod
    async def skip(self, name: str, id: int) -> bool:
        """Drop a letter; what was behind it is handled then. Return False if there is none of this number."""

    @abstractmethod
    async def forget(self, name: str) -> bool:
        """Forget a consumer with its letters; return False if it is not known, or a process works for it."""


class MemoryLedger(Ledger):
    """A ledger in memory, gone when the process ends.

    Parameters:
        streams: the streams of its log, which then keep what consumers need.

    Example:
        >>> from bbio.streams import Streams
        >>> MemoryLedger(Streams()).is_durable
        False
    """

    is_durable = False

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._states: dict[str, ConsumerState] = {}
        self._letters: dict[str, dict[int, Letter]] = {}
        self._fences: dict[str, int] = {}
        self._until: dict[str, float] = {}
        self._idle: dict[str, float] = {}
        self._last_letter = 0

    async def register(self, name: str, channel: str | None, epoch: str, positions: Mapping[str, Position]) -> None:
        if name not in self._states:
            self._streams.needed = self.needed
            self._states[name] = ConsumerState(name=name, channel=channel, epoch=epoch, positions=dict(positions))
            self._letters[name] = {}
            self._fences[name], self._until[name] = 0, 0.0
            self._idle[name] = time.monotonic()

    async def states(self) -> list[ConsumerState]:
        now = time.monotonic()
        return [
            attrs.evolve(
                state,
                lease=self._until[name] - now,
                idle=now - self._idle[name],
                letters=len(self._letters[name]),
            )
            for name, state in sorted(self._states.items())
        ]

    def needed(self, stream: str) -> int | None:
        """Return the offset in a stream up to which all consumers have handled everything; None if none follows it."""
        offsets = [
            state.positions[stream].offset if stream in state.positions else 0
            for state in self._states.values()
            if state.channel is None or stream in state.positions
        ]
        return min(offsets, default=None)

    async def claim(self, name: str, worker: str, seconds: float) -> int | None:
        now = time.monotonic()
        state = self._states[name]
        if state.worker not in (None, worker) and self._until[name] > now:
            return None
        self._states[name] = attrs.evolve(state, worker=worker)
        self._fences[name] += 1
        self._until[name] = now + seconds
        return self._fences[name]

    async def renew(self, name: str, fence: int, seconds: float) -> bool:
        if self._fences.get(name) != fence:
            return False
        self._until[name] = time.monotonic() + seconds
        return True

    async def release(self, name: str, fence: int) -> None:
        if self._fences.get(name) == fence:
            self._states[name] = attrs.evolve(self._states[name], worker=None)

    async def keep(self, name: str, fence: int, step: Step) -> bool:
        if self._fences.get(name) != fence:
            return False
        state, letters = self._states[name], self._letters[name]
        positions = {} if step.replaces else dict(state.positions)
        positions.update(step.positions)
        self._states[name] = attrs.evolve(
            state, positions=positions, epoch=step.epoch or state.epoch, lost=state.lost + step.lost
        )
        if step.is_idle:
            self._idle[name] = time.monotonic()
        for letter in step.letters:
            self._add(letters, letter)
        for letter in step.failed:
            if (before := letters.get(letter.id)) is not None:
                attempts = before.attempts + letter.attempts
                letters[letter.id] = attrs.evolve(before, attempts=attempts, error=letter.error, state="dead")
        for id in step.settled:
            letters.pop(id, None)
        self._promote(letters)
        return True

    def _add(self, letters: dict[int, Letter], letter: Letter) -> None:
        self._last_letter += 1
        state: LetterState = letter.state
        if state == "behind" and all(each.model != letter.model for each in letters.values()):
            state = "again"
        letters[self._last_letter] = attrs.evolve(letter, id=self._last_letter, state=state, failed=time.time())

    @staticmethod
    def _promote(letters: dict[int, Letter]) -> None:
        """Have those handled again that are no longer behind another one."""
        seen: set[str] = set()
        for id, letter in letters.items():
            if letter.state == "behind" and letter.model not in seen:
                letters[id] = attrs.evolve(letter, state="again")
            seen.add(letter.model)

    async def held(self, name: str) -> dict[str, int]:
        return dict(Counter(letter.model for letter in self._letters[name].values()))

    async def letters(self, name: str, *, again: bool = False, most: int = 1_000) -> list[Letter]:
        letters = self._letters.get(name, {}).values()
        return [letter for letter in letters if not again or letter.state == "again"][:most]

    async def put_back(self, name: str, id: int) -> bool:
        letters = self._letters.get(name, {})
        letter = letters.get(id)
        if letter is None or letter.state != "dead":
            return False
        letters[id] = attrs.evolve(letter, state="again")
        return True

    async def skip(self, name: str, id: int) -> bool:
        letters = self._letters.get(name, {})
        if letters.pop(id, None) is None:
            return False
        self._promote(letters)
        return True

    async def forget(self, name: str) -> bool:
        state = self._states.get(name)
        if state is None or (state.worker is not None and self._until[name] > time.monotonic()):
            return False
        for each in (self._states, self._letters, self._fences, self._until, self._idle):
            each.pop(name, None)
        return True
