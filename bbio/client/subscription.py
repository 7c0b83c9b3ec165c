"""One channel of a backend, as a client follows it: what lies under the user's handle and collections.

The session passes on events, answers and changes of the connection; mirrors, readers and waiters get them from here.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

from bbio.client.deltas import Answered, Deltas, Known, News
from bbio.client.errors import passing
from bbio.client.events import Event, Events
from bbio.client.messages import Message, Messages
from bbio.client.replica import Key
from bbio.client.roster import Roster
from bbio.client.tracker import Meta, Told, Tracker
from bbio.client.transport import Clock
from bbio.client.values import copied
from bbio.errors import SyncError
from bbio.model.operators import sets_of
from bbio.requests import NOTIFIED_AS

# Seconds between attempts to read everything again.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


class Mirror(Protocol):
    """A copy of the backend's models that is kept up to date."""

    @property
    def is_reading(self) -> bool:
        """Return whether everything is being read."""

    def known(self, key: Key) -> Known | None:
        """Return what is known of a model, None where it never was."""

    def wants(self, news: News) -> bool:
        """Return whether a model that it does not know may come in by a change."""

    def apply(self, method: str, model: Any, meta: Meta | None) -> None:
        """Take a notification."""

    async def reread(self, renewed: bool) -> None:
        """Read everything again; `renewed`: revisions may have begun anew."""

    def failed(self, error: SyncError) -> None:
        """Note that it cannot be kept up to date any more."""

    def resumed(self) -> None:
        """Note that it can be kept up to date again."""


class Subscription:
    """A channel that a client follows.

    Parameters:
        name: the backend's name.
        channel: the channel; None for the default one.
        id_attribute: the name of the id in its models.
        clock: calls later.
        read: called with a subscription, the id of a model and what takes the answer: reads the model.
        lost: called with a subscription when everything must be told again.
        roster: who is present in it.
    """

    def __init__(
        self,
        name: str,
        channel: str | None,
        id_attribute: str,
        clock: Clock,
        read: Callable[[Subscription, Key, Answered], None],
        lost: Callable[[Subscription], None],
        roster: Roster,
    ) -> None:
        self.name = name
        self.roster = roster
        # What shows it to the application, once that has asked for it.
        self.presence: object = None
        self.channel = channel
        self.id_attribute = id_attribute
        self.tracker = Tracker()
        # Where the readers are: what waits to be made whole is behind the tracker.
        self._told = Told()
        # Whether it can be told what a write changed, in place of the whole record.
        self.takes_deltas = True
        self._read = read
        self._lost = lost
        self._deltas = Deltas(self, id_attribute)
        # Whether the channel is followed, and whether the last of what followed it was closed.
        self.joined = False
        self.released = False
        # The user that the server took this client for when it listened last; None as long as that is not known.
        self.known_as: str | None = None
        self.refusal: SyncError | None = None
        self.listens = False
        # The conditions that the records are asked for by which all its followers want, None for all records; and those
        # by which the server picks out what it tells, as it has said.
        self.query: dict[str, Any] | None = None
        self.live: dict[str, Any] | None = None
        # How many listens were answered.
        self.answered = 0
        self._clock = clock
        # By identity, as a collection equals any mapping of the same models; one that nobody has any more is forgotten.
        self._mirrors: weakref.WeakValueDictionary[int, Mirror] = weakref.WeakValueDictionary()
        self._readers: weakref.WeakSet[Events | Messages] = weakref.WeakSet()
        self._waiters: set[asyncio.Future[None]] = set()
        self._rereading: asyncio.Task[None] | None = None

    # Followers

    @property
    def mirrors(self) -> list[Mirror]:
        """The mirrors that are kept up to date."""
        return list(self._mirrors.values())

    def add_mirror(self, mirror: Mirror) -> None:
        """Keep a mirror up to date, for as long as somebody has it."""
        self._mirrors[id(mirror)] = mirror

    def add_reader(self, reader: Events | Messages) -> None:
        """Tell a reader of what others write, or send, for as long as somebody has it."""
        if self.refusal is not None:
            reader.fail(self.refusal)
        self._readers.add(reader)

    def remove(self, follower: Mirror | Events | Messages) -> bool:
        """Forget a mirror or a reader; return whether it was there."""
        if isinstance(follower, (Events, Messages)):
            was_there = follower in self._readers
            self._readers.discard(follower)
        else:
            was_there = self._mirrors.pop(id(follower), None) is not None
        if was_there:
            self.released = not self._mirrors
        return was_there

    def cover(self, follower: Mirror | Events, query: dict[str, Any] | None) -> bool:
        """Ask for the records that a follower wants; return whether the server must be asked anew.

        Whoever follows beside others is told all, and picks out its own: what is asked for becomes less for one alone.

        Parameters:
            follower: a mirror or a reader.
            query: its conditions, None for all records.
        """
        is_alone = all(each is follower for each in (*self._mirrors.values(), *self._events))
        if not is_alone and self.query in (None, query):
            return False
        before, self.query = self.query, query if is_alone else None
        return self.query != before

    @property
    def _events(self) -> list[Events]:
        return [reader for reader in self._readers if isinstance(reader, Events)]

    def add_waiter(self) -> asyncio.Future[None]:
        """Return a future that is done when the server has answered the listen."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        waiter.add_done_callback(self._waiters.discard)
        return waiter

    @property
    def is_followed(self) -> bool:
        """Return whether a mirror, a reader or a waiter needs the channel, or this client is present in it."""
        return bool(self._mirrors) or bool(self._readers) or bool(self._waiters) or self.roster.wanted

    @property
    def settled(self) -> bool:
        """Return whether everything that the server has sent is applied, or the server refused the client."""
        return self.refusal is not None or (self.tracker.settled and self._deltas.settled)

    # The connection

    def online(self) -> None:
        """Note that the listen is answered."""
        self.listens = True
        if self.refusal is not None:
            self.refusal = None
            for mirror in self.mirrors:
                mirror.resumed()
        self._told.begin(self.tracker)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def offline(self) -> None:
        """Note that the connection is gone, and what was being read over it."""
        self.listens = False
        self.roster.offline()
        self._stop_rereading()

    def refused(self, error: SyncError) -> None:
        """Note that the server does not let this client listen."""
        self._give_up(error)
        for reader in list(self._readers):
            reader.fail(error)

    def invited(self) -> None:
        """Note that the server has let this client in, so that what it has refused before counts no more."""
        self.refusal = None
        for mirror in self.mirrors:
            mirror.resumed()

    def left(self) -> None:
        """Note that the channel was left: a client that comes back to it begins anew."""
        self.offline()
        self._deltas.restart()
        self.tracker, self._told = Tracker(), Told()
        self.query = self.live = None

    def close(self, error: SyncError) -> None:
        """Note that the connection was closed for good."""
        self._stop_rereading()
        self._give_up(error)
        for reader in list(self._readers):
            reader.close()

    def _give_up(self, error: SyncError) -> None:
        self.listens = False
        self.refusal = error
        self.roster.refused(error)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        for mirror in self.mirrors:
            self._end(mirror, error)

    # Events and answers

    def notified(self, method: str, model: Any, meta: Meta | None, *, own: bool) -> None:
        """Take a notification, in its turn."""
        for news in self._deltas.whole(News(method, model, meta, own)):
            self._tell(*news)

    def made(self, model: Any, meta: Meta | None) -> Any:
        """Return the record that a change came to; None where that is not known."""
        return self._deltas.now(News("patch", model, meta))

    def _tell(self, method: str, model: Any, meta: Meta | None, own: bool) -> None:
        if meta is not None:
            self._told.move(self.tracker, meta)
        if not own:
            for reader in self._events:
                reader.put(Event(cast("Any", method), copied(model), meta and meta.rev, self._told.position))
        self._apply(method, model, meta)

    def messaged(self, message: Message) -> None:
        """Take a message."""
        for reader in list(self._readers):
            if isinstance(reader, Messages):
                reader.put(message)

    def wrote(self, request: Mapping[str, Any], result: Any, meta: Meta | None, *, is_gone: bool = False) -> None:
        """Take the result of a write of this client; `is_gone` where it does not see what it wrote, or no longer."""
        model = result if isinstance(result, dict) else sets_of(request["model"])
        self._apply("delete" if is_gone else NOTIFIED_AS[request["method"]], model, meta)

    def _apply(self, method: str, model: Any, meta: Meta | None) -> None:
        for mirror in self.mirrors:
            try:
                mirror.apply(method, copied(model), meta)
            except Exception as err:
                self.report(err, "a mirror")

    def _end(self, mirror: Mirror, error: SyncError) -> None:
        try:
            mirror.failed(error)
        except Exception as err:
            self.report(err, "a mirror")

    def report(self, err: BaseException, what: str) -> None:
        """Report what the application raised: that costs nobody else an event, nor this client its position."""
        context = {"message": f"{what} of {self.name!r} failed", "exception": err}
        asyncio.get_running_loop().call_exception_handler(context)

    # Changes of records, as `Deltas` makes whole records of them

    def is_reading(self) -> bool:
        """Return whether anything is being read that says what the models are."""
        return self.tracker.stale or any(mirror.is_reading for mirror in self.mirrors)

    def known(self, key: Key) -> Iterable[Known]:
        """Return what mirrors know of a model."""
        return [known for mirror in self.mirrors if (known := mirror.known(key)) is not None]

    def wants(self, news: News) -> bool:
        """Return whether anything needs a model that nobody knows."""
        return bool(self._events) or any(mirror.wants(news) for mirror in self.mirrors)

    def read(self, key: Key, done: Answered) -> None:
        """Read one model."""
        self._read(self, key, done)

    def tell(self, news: Iterable[News]) -> None:
        """Take notifications that have waited."""
        for each in news:
            self.notified(each.method, each.model, each.meta, own=each.own)

    def lost(self, *, whole: bool) -> None:
        """Have everything told again, with `whole` records from then on."""
        self.takes_deltas = self.takes_deltas and not whole
        self._lost(self)

    def was_read(self) -> None:
        """Note that something was read."""
        self._deltas.released()

    # Reading everything again

    def reread(self, renewed: bool) -> None:
        """Have every mirror read everything again, for as long as it takes: history is gone."""
        self._stop_rereading()
        self._deltas.restart()
        self._told.begin(self.tracker, anew=True)
        for reader in self._events:
            reader.put(Event("reset", position=self._told.position))
        if self._mirrors:
            self._rereading = asyncio.get_running_loop().create_task(self._reread(renewed))
        else:
            self.tracker.complete()

    async def _reread(self, renewed: bool) -> None:
        pause = FIRST_PAUSE
        while True:
            mirrors = self.mirrors
            outcomes = await asyncio.gather(*(mirror.reread(renewed) for mirror in mirrors), return_exceptions=True)
            again = False
            for mirror, outcome in zip(mirrors, outcomes, strict=True):
                if isinstance(outcome, SyncError):
                    again = again or passing(outcome)
                    if not passing(outcome):
                        self._end(mirror, outcome)
                elif outcome is not None:
                    self.report(outcome, "a mirror")
            if not again:
                break
            await self.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._rereading = None
        self.tracker.complete()
        self.was_read()

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        over = asyncio.Event()
        timer = self._clock.call_later(seconds, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    def _stop_rereading(self) -> None:
        if self._rereading is not None:
            self._rereading.cancel()
            self._rereading = None
