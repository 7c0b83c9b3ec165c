"""The subscribers of each stream of a backend, and their positions: no event is left out, none is sent twice.

Events come in by one door, whether this process has committed them or another one. One that is the next of its stream
goes on to delivery at once. One that was told already is dropped. One that comes too early, or is of another epoch,
shows that something is missing: the store's log is read, and what it holds is told. Where the log does not reach back,
version-1 clients are told to resync.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from weakref import ref

from bbio import protocol
from bbio.declared import Publisher
from bbio.events import LOG_RETRY_SECONDS, Watcher
from bbio.requests import WRITES, Socket
from bbio.runtime import Runtime
from bbio.server.connection import ClientSocket
from bbio.server.exchange import Exchanges
from bbio.server.followers import HEARD, Follower, Followers
from bbio.server.listeners import Listeners
from bbio.server.permissions import Permissions
from bbio.server.stream import Followed
from bbio.server.tasks import Tasks
from bbio.streams import Event, Position

logger = logging.getLogger("bbio")

# Early events that keep their writers' names while the log is read; the events themselves are in the log.
EARLY_EVENTS = 1_000
# Seconds that what others wrote waits for own writes which may be in what was read.
OWN_WRITES_SECONDS = 0.5
OWN_WRITES_LOOK_SECONDS = 0.01
# Seconds between two times that the subscribers of a stream read everything: while many records are written at once,
# each other write would have them do so.
RESYNC_SECONDS = 1.0
# Events beyond the limits of history that a log may keep until it trims.
UNTRIMMED_EVENTS = 1_000


class Subscribers(Publisher):
    """The subscribers of one backend's streams; what its store publishes to, and what other processes are heard by.

    Parameters:
        exchanges: the requests that are being worked on.
        runtime: the backend.
        all_backends: the subscribers of each backend, which share the memory that there is for rings.
        on_expired: called with a socket whose identity has ended, as a layer says.
        of_session: returns the sockets of a session, known by its id.
    """

    __slots__ = (
        "_all_backends",
        "_checking",
        "_closed",
        "_delivery",
        "_exchanges",
        "_failing",
        "_followers",
        "_namespace",
        "_runtime",
        "_streams",
        "_tasks",
        "_timer",
        "_unchecked",
        "_watchers",
        "listeners",
        "permissions",
    )

    def __init__(
        self,
        exchanges: Exchanges,
        runtime: Runtime,
        all_backends: Mapping[str, Subscribers],
        on_expired: Callable[[ClientSocket], None] = lambda socket: None,
        of_session: Callable[[str], Iterable[ClientSocket]] = lambda session: (),
    ) -> None:
        self._exchanges = exchanges
        self._all_backends = all_backends
        self._runtime = runtime
        self._namespace = runtime.namespace
        self._delivery = exchanges.delivery
        self._tasks = Tasks()
        self.listeners = Listeners(runtime, exchanges.limits, all_backends, self._on_stream)
        self._streams = self.listeners.streams
        self.permissions = Permissions(exchanges, runtime, self.listeners, self._tasks, on_expired, of_session)
        self._unchecked: set[str] = set()
        self._checking = False
        self._closed = False
        self._failing = False
        self._timer: asyncio.TimerHandle | None = None
        self._followers: Followers | None = None
        # Weak: who leaves a loop over events need not close them.
        self._watchers: set[ref[Watcher]] = set()

    # The door for events

    def event(self, event: Event, origin: Socket | None = None) -> None:
        """Tell of a committed event. Called on the event loop."""
        if self._watchers:
            self._wake([event.stream])
        followed = self._streams.get(event.stream)
        if followed is None:
            if self._followers is not None:
                self._followers.hear(event)
            return
        is_needed = followed.viewers is not None or followed.kept
        if event.was is None and (is_needed or (followed.deltas and event.rev is not None)):
            # Another process has told of it, without how its record was; or nobody knows that, as the log then says.
            self.doubt({event.stream: Position(event.epoch, event.offset, event.stamp)})
            return
        if event.offset != followed.offset + 1 or event.epoch != followed.epoch:
            self._take_out_of_turn(followed, event, origin)
        else:
            self._tell(followed, event, origin)
            if followed.waiting:
                self._go_on(followed)

    def doubt(self, streams: Iterable[str] | None = None) -> None:
        """Look at the logs of some streams; compare the tops of all that are followed by default.

        Called on the event loop.

        Parameters:
            streams: the streams' names, with their tops where these are known.
        """
        if self._watchers:
            self._wake(streams)
        if streams is None:
            self._unchecked.update(self._streams)
            if self._unchecked and not self._checking and not self._closed:
                self._checking = True
                self._tasks.spawn(self._check())
            return
        tops: Mapping[str, Position] = streams if isinstance(streams, Mapping) else {}
        for name in streams:
            followed = self._streams.get(name)
            if followed is not None and not self._has_told(followed, tops.get(name)):
                self._doubt(followed)

    @staticmethod
    def _has_told(followed: Followed, top: Position | None) -> bool:
        """Return whether all events up to a position were sent; False when that is unknown."""
        return (
            top is not None
            and top.epoch == followed.epoch
            and top.offset <= followed.offset
            and (not top.stamp or top.stamp == followed.stamp_at(top.offset))
        )

    def _doubt(self, followed: Followed) -> None:
        if followed.epoch:
            self._repair_later(followed)
        else:
            followed.stale = True  # its place is being looked for, and what is found may be older than this

    def live_sessions(self) -> set[str]:
        """Return the ids of the sessions that listeners have."""
        return self.permissions.live_sessions()

    def end_sessions(self, ids: Collection[str]) -> None:
        """Let go of those whose sessions have ended."""
        self.permissions.end_sessions(ids)

    def recheck_soon(self, channel: str | None = None) -> None:
        """Ask again who may listen, as another process was told to. Called on the event loop."""
        self.permissions.recheck_soon(channel)

    async def recheck(self, channel: str | None = None) -> None:
        """Ask the `before` layers of `read` again for every listener, and let go of those that are refused."""
        await self.permissions.recheck(channel)

    # In turn and out of turn

    def _tell(self, followed: Followed, event: Event, origin: Socket | None) -> None:
        followed.advance(event)
        if self._followers is not None:
            self._followers.hear(event)
        if followed.rings.bytes > followed.rings.most:
            self._empty_rings()
        legacy = followed.legacy
        if not followed.version_1 and len(legacy) == 1 and origin in legacy:
            return  # the writer alone follows this stream, and its reply is all that a legacy client gets
        self._delivery.add(followed, event, origin)

    def _take_out_of_turn(self, followed: Followed, event: Event, origin: Socket | None) -> None:
        if not followed.epoch:
            followed.place(Position(event.epoch, event.offset - 1))
            self._tell(followed, event, origin)
        elif event.epoch != followed.epoch or event.offset > followed.offset:
            if len(followed.waiting) < EARLY_EVENTS:
                followed.waiting[event.epoch, event.offset] = (event, origin)
            if self._patience and event.epoch == followed.epoch:
                self._wait_for_missing(followed)
            else:
                self._repair_later(followed)
        elif event.stamp and event.stamp != followed.stamp_at(event.offset):
            self._fall_back(followed, event, origin)

    def _fall_back(self, followed: Followed, event: Event, origin: Socket | None) -> None:
        """Another event was told at this place, or it was so long ago that nobody knows: the log must tell."""
        if followed.stamp_at(event.offset):
            followed.place(Position(event.epoch, event.offset - 1))
            self._tell(followed, event, origin)
            self._resync(followed)
        else:
            self._repair_later(followed)

    def _go_on(self, followed: Followed) -> None:
        """Tell the events that have waited for the one that was just told."""
        while early := followed.waiting.pop((followed.epoch, followed.offset + 1), None):
            self._tell(followed, *early)

    def _wait_for_missing(self, followed: Followed) -> None:
        """Wait a moment for what another process is about to tell; then read the log."""
        if followed.missing is None and not followed.repairing:
            followed.missing = followed.offset
            asyncio.get_running_loop().call_later(self._patience, self._give_up_waiting, followed)

    def _give_up_waiting(self, followed: Followed) -> None:
        missing, followed.missing = followed.missing, None
        if followed.waiting and followed.offset != missing:
            self._wait_for_missing(followed)  # it came, and now another one is missing
        elif followed.waiting:
            self._repair_later(followed)

    def expire(self) -> None:
        """Drop from the rings what is too old, and tell those with views how far their streams have come."""
        for followed in self._streams.values():
            followed.expire()
            if followed.viewers is not None:
                self._delivery.flush()
                self._delivery.tell_place(followed, followed.viewers, followed.position)

    def _empty_rings(self) -> None:
        for followed in self._streams.values():
            if not followed.joining:
                followed.forget()

    def _repair_later(self, followed: Followed) -> None:
        followed.stale = True
        if not followed.repairing and not self._closed:
            followed.repairing = True
            self._tasks.spawn(self._repair(followed))

    async def _repair(self, followed: Followed) -> None:
        try:
            while followed.stale:
                followed.stale = False
                await self._catch_up(followed)
            self._readable()
        except Exception:
            self._unreadable()
        finally:
            followed.repairing = False

    async def _catch_up(self, followed: Followed) -> None:
        log, name, here = self._runtime.log, followed.name, followed.position
        events = await self._runtime.since(name, here.epoch, here.offset, here.stamp)
        if events is None:
            now = asyncio.get_running_loop().time
            early = followed.resynced_at + RESYNC_SECONDS - now()
            if early > 0:
                await asyncio.sleep(early)
                followed.stale = True
                return
            followed.resynced_at = now()
            position = (await log.positions([name]))[name]
            if followed.position == here:
                self._begin_anew(followed, position)
            else:
                followed.stale = True  # what was asked for has come by itself meanwhile
            return
        if followed.legacy:
            await self._own_writes(followed)
        if followed.offset < here.offset:
            followed.stale = True  # history fell back meanwhile, and this may be of the one that was
            return
        waiting = followed.waiting
        for event in events:
            told = waiting.pop((event.epoch, event.offset), (event, None))
            if event.offset == followed.offset + 1:
                self._tell(followed, *told)
        if not followed.stale:
            waiting.clear()  # the log knows nothing of them

    def _begin_anew(self, followed: Followed, position: Position) -> None:
        """Events are lost: what is known is told, and those who can are to read everything."""
        early = [entry for entry in followed.waiting.values() if entry[0].epoch == position.epoch]
        followed.waiting.clear()
        for event, origin in sorted(early, key=lambda entry: entry[0].offset):
            self._tell(followed, event, origin)
            if event.offset >= position.offset:
                position = event.position
        followed.place(position)
        self._resync(followed)

    def _resync(self, followed: Followed) -> None:
        if self._followers is not None:
            self._followers.hear_of_loss()
        self._delivery.send(followed.version_1.values(), self._namespace, protocol.resync(followed.name))

    async def _own_writes(self, followed: Followed) -> None:
        """Wait for writes of legacy subscribers: what was read may hold them, and nobody is told of an own write."""
        loop = asyncio.get_running_loop()
        until = loop.time() + OWN_WRITES_SECONDS
        running = [
            exchange
            for exchange in self._exchanges.running
            if exchange.socket in followed.legacy and exchange.req.method in WRITES
        ]
        while loop.time() < until and any(  # noqa: ASYNC110 - a commit wakes nobody but its writer
            not exchange.has_committed and exchange in self._exchanges.running for exchange in running
        ):
            await asyncio.sleep(OWN_WRITES_LOOK_SECONDS)

    # The server's own code

    def watch(self, watcher: Watcher) -> None:
        """Wake code of the server itself whenever one of its streams may have news."""
        if not self._watchers:
            self._runtime.log.broker.hear_all(hears=True)
        self._watchers.add(ref(watcher, self._forget_watcher))

    def unwatch(self, watcher: Watcher) -> None:
        """Wake it no more."""
        self._forget_watcher(ref(watcher))

    def _forget_watcher(self, watcher: ref[Watcher]) -> None:
        self._watchers.discard(watcher)
        if not self._watchers:
            self._runtime.log.broker.hear_all(hears=False)

    def _wake(self, streams: Iterable[str] | None) -> None:
        for watcher in filter(None, [known() for known in self._watchers]):
            watcher.wake(streams)

    # Looking at the logs

    async def _check(self) -> None:
        try:
            while self._unchecked:
                names, self._unchecked = list(self._unchecked), set()
                positions = await self._runtime.log.positions(names)
                for name in names:
                    followed = self._streams.get(name)
                    if followed is not None and followed.epoch:
                        here, there = followed.position, positions[name]
                        known = here.stamp and there.stamp
                        if there != here if known else (there.epoch, there.offset) != (here.epoch, here.offset):
                            self._repair_later(followed)
            self._readable()
        except Exception:
            self._unreadable()
        finally:
            self._checking = False

    def _readable(self) -> None:
        if self._failing:
            self._failing = False
            logger.warning("the log of %s can be read again", self._runtime.name)

    def _unreadable(self) -> None:
        if not self._failing:
            self._failing = True
            logger.exception("the log of %s cannot be read; trying again", self._runtime.name)
        self._check_later(LOG_RETRY_SECONDS)

    def _on_stream(self) -> None:
        self._check_later(self._runtime.log.check_interval)
        self.permissions.recheck_later()

    def _check_later(self, seconds: float | None) -> None:
        if seconds is not None and self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._check_now)

    def _check_now(self) -> None:
        self._timer = None
        if self._streams:
            self.doubt()
            self._check_later(self._runtime.log.check_interval)

    def open(self) -> None:
        """The application starts."""
        self._closed = False
        self.permissions.open()

    async def follow_others(self) -> None:
        """Hear of all that happens in backends which this one follows. Called once they have started.

        Raises:
            Exception: their logs cannot be read.
        """
        for name, field in self._runtime.backend.follows.items():
            await self._all_backends[name].followed_by(self.permissions, field)

    async def followed_by(self, follower: Follower, field: str) -> None:
        """Tell another backend of all that happens in this one, see `Followers.add`."""
        self._followers = self._followers or Followers()
        self._followers.add(follower, field)
        streams = [self.listeners.stream(name) for name in HEARD]
        for followed in streams:
            followed.kept = True
        await self.locate(streams)

    async def close(self) -> None:
        """Look at no log any more."""
        self._closed = True
        self._followers = None
        for watcher in filter(None, [known() for known in self._watchers]):
            await watcher.end()
            self.unwatch(watcher)
        for followed in list(self._streams.values()):
            followed.kept = False
            self.listeners.let_go(followed)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.permissions.close()
        await self._tasks.close()

    @property
    def _patience(self) -> float:
        return self._runtime.log.broker.patience

    @property
    def busy(self) -> bool:
        """Return whether a log is being read."""
        return bool(self._tasks)

    # Where those who come begin

    async def locate(self, streams: Iterable[Followed]) -> None:
        """Learn the places of streams whose subscribers have been told nothing yet."""
        unknown = [followed for followed in streams if not followed.epoch]
        if unknown:
            positions = await self._runtime.log.positions([followed.name for followed in unknown])
            for followed in unknown:
                if not followed.epoch:
                    followed.place(positions[followed.name])
                    if followed.stale:
                        self._repair_later(followed)

    @property
    def _most_missed(self) -> int:
        """The events that a log reads for a client at most, where it keeps more for consumers."""
        return 2 * self._runtime.log.history.events + UNTRIMMED_EVENTS

    async def since(self, followed: Followed, claimed: Position) -> list[Event] | None:
        """The events after the place that a joining client claims, None when they cannot be told.

        Raises:
            Exception: the log cannot be read.
        """
        known, events = followed.recall(claimed)
        if known:
            return events
        # Those who come back together wait for the first of them to read the log, and find what that one found.
        async with followed.reading:
            known, events = followed.recall(claimed)
            if known:
                return events
            if followed.epoch == claimed.epoch and followed.offset - claimed.offset > self._most_missed:
                return None
            events = await self._runtime.since(followed.name, claimed.epoch, claimed.offset, claimed.stamp)
            if events and claimed.epoch == followed.epoch:
                followed.reach_back(claimed, events)
            return events
