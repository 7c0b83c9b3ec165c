"""Events for the server's own code: what was written to a backend, in order, from a position on, without a gap.

`Runtime.events` makes the iterator. It reads the log alone: that others have told of an event only wakes it. So what it
holds is bounded, and a reader that is slow, or was away, finds everything that the history still has.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Literal, Protocol, Self

import attrs

from bbio.errors import ConfigurationError
from bbio.generic import M
from bbio.log import Log
from bbio.protocol import decode, read_position
from bbio.ratelimit import RateLimitedLog
from bbio.streams import BACKEND_WIDE, Position, channel_stream
from bbio.streams import Event as Logged

logger = logging.getLogger("bbio")
failures = RateLimitedLog(logger)

# Bytes of events that are read at once: then no more streams are read until these have been taken.
READ_BYTES = 16 << 20
# Seconds between two looks at the tops of all streams, where other processes write and may not be heard.
ALL_CHECK_SECONDS = 1.0
# Seconds until a log that could not be read is asked again.
LOG_RETRY_SECONDS = 1.0
# Of the time, the part that looks at the tops of all streams may take.
LOOK_SHARE = 0.2
# Moved streams after which the positions of a subscription are put together anew.
MOVED_STREAMS = 64

NONE_YET = ""
Methods = Literal["create", "update", "delete", "reset"]


class Watcher(Protocol):
    """Code of the server that follows streams."""

    def wake(self, streams: Iterable[str] | None) -> None:
        """Look at the log: these streams may have news; any when None."""

    async def end(self) -> None:
        """End, as the application stops; when it returns, the log is not read any more."""


class Source(Protocol):
    """The server's side of a backend, which knows when there are news."""

    def watch(self, watcher: Watcher) -> None:
        """Wake a watcher from now on."""

    def unwatch(self, watcher: Watcher) -> None:
        """Wake it no more."""


@attrs.frozen
class Places:
    """The positions of a subscription in its streams.

    Parameters:
        streams: the positions by stream.
        begin: the epoch in which streams begin that are not among them; None where others are not followed.
    """

    streams: Mapping[str, Position]
    begin: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON has it."""
        streams = {name: [each.epoch, each.offset, each.stamp] for name, each in self.streams.items()}
        return {"streams": streams} if self.begin is None else {"begin": self.begin, "streams": streams}

    @classmethod
    def read(cls, since: Any) -> Self:
        """Read what `to_json` has returned.

        Raises:
            ConfigurationError: it is something else.
        """
        streams = since.get("streams") if isinstance(since, Mapping) else None
        begin = since.get("begin") if isinstance(since, Mapping) else None
        if isinstance(streams, Mapping) and (begin is None or isinstance(begin, str)):
            read = {name: read_position(dict(streams), name) for name in streams}
            if all(read.values()) and all(isinstance(name, str) for name in read):
                return cls({name: each for name, each in read.items() if each is not None}, begin)
        raise ConfigurationError(f"since={since!r:.80}: it is the `position` of an event, or of events, kept as it was")


class Trail:
    """The positions of a subscription as it goes on: each event knows them as they were with it.

    Parameters:
        places: where it begins.
    """

    __slots__ = ("_begun", "_moves", "begin", "now")

    def __init__(self, places: Places) -> None:
        self._begun = dict(places.streams)
        self._moves: list[tuple[str, Position]] = []
        self.now = dict(places.streams)
        self.begin = places.begin

    def leave(self, stream: str) -> None:
        """Follow a stream no more, which is forgotten."""
        del self.now[stream]
        self._begun, self._moves = dict(self.now), []

    def move(self, stream: str, position: Position) -> Callable[[], Places]:
        """Go on in a stream; return a function that says where all streams are with that."""
        if len(self._moves) > max(MOVED_STREAMS, len(self._begun)):
            self._begun, self._moves = dict(self.now), []
        self._moves.append((stream, position))
        self.now[stream] = position
        begun, moves, count, begin = self._begun, self._moves, len(self._moves), self.begin
        return lambda: Places({**begun, **dict(moves[:count])}, begin)


@attrs.frozen
class Event(Generic[M]):
    """A write, as others are notified of it, for the server's own code.

    Parameters:
        method: `create`, `update` or `delete`; `reset` says that events are missing here: read everything again.
        model: the whole model as JSON, without its private fields; of a delete as it was; None of a reset.
        channel: the channel, "" for the default channel; None for what was told to all clients, and for a reset of all.
        rev: the model's revision; None if no store keeps one.
        logged: the event as the log has it, with its stream, epoch, offset and stamp; None of a reset.
        places: returns the positions of all streams with this event, for `position`.
        backend: the name of the backend.

    Example:
        >>> event = Event("update", {"id": 7, "done": True}, "home", rev=19)
        >>> event.method, event.model["done"]
        ('update', True)
    """

    method: Methods
    model: Any = None
    channel: str | None = None
    rev: int | None = None
    logged: Logged | None = attrs.field(default=None, repr=False, eq=False)
    _places: Callable[[], Places] = attrs.field(default=lambda: Places({}), repr=False, eq=False)
    backend: str = attrs.field(default="", repr=False, eq=False, kw_only=True)

    @property
    def id(self) -> str | None:
        """Return a text that is the same whenever this event comes, and another for each other; None of a reset."""
        logged = self.logged
        return None if logged is None else f"{logged.stream}@{logged.epoch}/{logged.offset}"

    @property
    def places(self) -> Places:
        """Return the positions of all streams with this event."""
        return self._places()

    @property
    def position(self) -> dict[str, Any]:
        """Return the position of who has seen all up to this event, as JSON: keep it, and give it to `since`."""
        return self.places.to_json()


def channel_of(stream: str) -> str | None:
    """Return the channel of a stream, "" for the default channel; None for the one of all clients."""
    return None if stream == BACKEND_WIDE else stream.partition(":")[2]


def merge(streams: Iterable[list[Logged]], id_attribute: str) -> Iterator[tuple[Logged, Any]]:
    """Merge events of several streams, each with its model: in order within each stream, and for each model.

    Parameters:
        streams: the events of each stream, oldest first; together, all that was logged up to one moment.
        id_attribute: the name of the id in a model.
    """
    waiting = [deque((event, decode(event.body)) for event in events) for events in streams if events]
    # The revisions of each model that have not come yet, the next one last, where several streams may tell of it.
    due: dict[Any, list[int]] = {}
    if len(waiting) > 1:
        for event, model in (each for events in waiting for each in events):
            if event.rev is not None:
                due.setdefault(_key(model, id_attribute), []).append(event.rev)
        for revs in due.values():
            revs.sort(reverse=True)
    while waiting:
        events = next((events for events in waiting if _is_next(*events[0], due, id_attribute)), waiting[0])
        # Should revisions contradict the order of the streams, that of the streams holds.
        is_forced = True
        while events and (is_forced or _is_next(*events[0], due, id_attribute)):
            event, model = events.popleft()
            if event.rev is not None and due:
                due[_key(model, id_attribute)].remove(event.rev)
            is_forced = False
            yield event, model
        waiting = [events for events in waiting if events]


def _is_next(event: Logged, model: Any, due: dict[Any, list[int]], id_attribute: str) -> bool:
    revs = due.get(_key(model, id_attribute))
    return event.rev is None or not revs or event.rev == revs[-1]


def _key(model: Any, id_attribute: str) -> Any:
    key = model.get(id_attribute) if isinstance(model, dict) else None
    return key if isinstance(key, (str, int)) else None


@attrs.frozen
class Feed:
    """The backend whose events are read.

    Parameters:
        name: its name.
        log: its log.
        source: wakes those who follow it.
        id_attribute: the name of the id in its models.
        narrow: leaves in an event what anybody may see of its model.
        check: called with what is asked for; raises where the application does not run, or in another event loop.
    """

    name: str
    log: Log
    source: Source
    id_attribute: str
    narrow: Callable[[Logged], Logged]
    check: Callable[[str], None]


class Events(Generic[M]):
    """An endless asynchronous iterator of `Event`, made by `Runtime.events`; it ends with the application.

    Parameters:
        feed: the backend.
        channel: the channel, "" for the default channel; None for all.
        since: the position to begin after, the `position` of an event or of this; None for now.

    Example:
        `async with app.backends["todos"].events(since=position) as events:`
    """

    def __init__(self, feed: Feed, channel: str | None, since: Any = None) -> None:
        self._feed = feed
        self._names = None if channel is None else (channel_stream(channel), BACKEND_WIDE)
        self._since = None if since is None else Places.read(since)
        if self._since is not None and self._names is None and self._since.begin is None:
            raise ConfigurationError("this position is of one channel; name it: events(channel, since=...)")
        self._trail: Trail | None = None
        self._places: Callable[[], Places] | None = None
        self._waiting: deque[Event[M]] = deque()
        self._news = asyncio.Event()
        self._reading = asyncio.Lock()
        self._ended = False
        # Whether streams were left for the next look, as those before them have had so much.
        self._is_behind = False
        self._is_at_top = False
        self._rest_until = 0.0

    @property
    def position(self) -> dict[str, Any] | None:
        """Return the position after the event that was read last, as JSON; None before the beginning."""
        return None if self._places is None else self._places().to_json()

    @property
    def begin(self) -> str | None:
        """Return the epoch in which streams begin that are not known yet; None where one channel is followed."""
        return None if self._trail is None else self._trail.begin

    @property
    def is_at_top(self) -> bool:
        """Return whether all that was in the log at the last look was taken, and there is no news of more."""
        return self._is_at_top and not self._waiting and not self._news.is_set()

    def wake(self, streams: Iterable[str] | None) -> None:
        """Look at the log: these streams may have news; any when None."""
        if streams is None or self._names is None or any(name in self._names for name in streams):
            self._news.set()

    async def end(self) -> None:
        """End once what was read from the log is taken, as the application stops; return when no more is read."""
        self._ended = True
        self._news.set()
        async with self._reading:
            pass

    async def aclose(self) -> None:
        """End at once, and follow the backend no more."""
        self._ended = True
        self._news.set()
        self._waiting.clear()
        self._feed.source.unwatch(self)

    async def __aenter__(self) -> Self:
        """Begin: from here on nothing is missed.

        Raises:
            ConfigurationError: the application does not run, or runs in another event loop.
            SyncError: the log cannot be read.
        """
        if self._trail is None and not self._ended:
            self._feed.check(f"{self._feed.name}.events")
            self._feed.source.watch(self)
            if self._since is None:
                async with self._reading:
                    tops = await self._tops()
                self._begin(Places({name: top for name, top in tops.items() if name}, self._begin_of(tops)))
            else:
                self._begin(self._since)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event[M]:
        """The next event.

        Raises:
            ConfigurationError: the application does not run, or runs in another event loop.
        """
        await self.__aenter__()
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            await self._look()
        event = self._waiting.popleft()
        self._places = event._places
        return event

    def _begin(self, places: Places) -> None:
        self._trail = Trail(places)
        self._places = lambda: places

    def _begin_of(self, tops: Mapping[str, Position]) -> str | None:
        return None if self._names is not None else tops[NONE_YET].epoch

    async def _tops(self) -> dict[str, Position]:
        """The tops of the streams, all as of one moment."""
        log, names = self._feed.log, self._names
        return await log.tops() if names is None else await log.positions(names)

    async def _look(self) -> None:
        """Read the log, and wait for news where it has none."""
        loop, interval = asyncio.get_running_loop(), self._interval
        self._is_at_top = False
        self._news.clear()
        try:
            await asyncio.sleep(max(0.0, self._rest_until - loop.time()))
            async with self._reading:
                if self._ended:
                    return
                begun = loop.time()
                tops = await self._tops()
                self._rest_until = loop.time() + (loop.time() - begun) * (1 / LOOK_SHARE - 1)
                await self._read(tops)
            self._is_at_top = not self._is_behind
        except Exception as err:
            failures.error(err, "the log of %s cannot be read by its own server; trying again", self._feed.name)
            interval = LOG_RETRY_SECONDS
        if not self._waiting:
            await self._wait(interval)

    @property
    def _interval(self) -> float | None:
        interval = self._feed.log.check_interval
        return interval if interval is None or self._names is not None else min(interval, ALL_CHECK_SECONDS)

    async def _wait(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _read(self, tops: dict[str, Position]) -> None:
        """Read what is new up to the tops of the streams."""
        trail = self._trail
        assert trail is not None
        if self._has_lost_streams(trail, tops):
            self._reset_all(tops)
            return
        begin, size = trail.begin, 0
        lost: list[str] = []
        found: list[list[Logged]] = []
        for name, top in tops.items():
            here = trail.now.get(name) or Position(top.epoch, 0)
            if not name or _is_same(here, top):
                continue
            events = await self._feed.log.since(name, here.epoch, here.offset, here.stamp)
            if events is None:
                lost.append(name)
                continue
            found.append([event for event in events if event.offset <= top.offset])
            size += sum(event.size for event in events)
            if size > READ_BYTES:
                break  # the other streams come when these have been taken
        self._since = None
        self._is_behind = size > READ_BYTES
        trail.begin = begin and self._begin_of(tops)
        for name in lost:
            places = trail.move(name, tops[name])
            self._waiting.append(Event("reset", None, channel_of(name), places=places, backend=self._feed.name))
        for event, model in merge(found, self._feed.id_attribute):
            self._waiting.append(self._event(event, model, trail))

    def _event(self, event: Logged, model: Any, trail: Trail) -> Event[M]:
        told = self._feed.narrow(event)
        model = model if told is event else decode(told.body)
        places = trail.move(event.stream, event.position)
        method: Any = event.method
        return Event(method, model, channel_of(event.stream), event.rev, told, places, backend=self._feed.name)

    def _has_lost_streams(self, trail: Trail, tops: Mapping[str, Position]) -> bool:
        """Return whether streams that were to be resumed are gone, so that nobody knows what they have had since."""
        if self._names is not None:
            return False
        gone = [name for name in trail.now if name not in tops and trail.now[name].offset]
        has_forgotten = trail.begin != tops[NONE_YET].epoch
        if self._since is not None:
            return bool(gone) or has_forgotten
        # Those are forgotten that are longest without an event. If one is there that has had none since the last look,
        # so had they; and whoever looked then has read them.
        is_as_it_was = any(trail.now[name] == tops[name] for name in trail.now.keys() & tops)
        if has_forgotten and (self._is_behind or not is_as_it_was):
            return True
        for name in gone:
            trail.leave(name)
        return False

    def _reset_all(self, tops: Mapping[str, Position]) -> None:
        places = Places({name: top for name, top in tops.items() if name}, self._begin_of(tops))
        self._trail, self._since, self._is_behind = Trail(places), None, False
        self._waiting.append(Event("reset", places=lambda: places, backend=self._feed.name))


def _is_same(here: Position, top: Position) -> bool:
    if here.stamp and top.stamp:
        return here == top
    return (here.epoch, here.offset) == (top.epoch, top.offset)
