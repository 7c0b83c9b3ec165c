"""A turn: the time for which this process has the lease of a consumer, and works for it.

Events are read in order and handled, as many at once as the consumer allows, those of one model one after the other.
What is handled is kept in the order in which it was read, so that nothing before a kept position is open. Where one is
handled at a time, the next begins when it is kept: after a crash one event comes again at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import attrs

from bbio.consumers import Consumer, GiveUp
from bbio.errors import SyncError
from bbio.events import Event, Events, Places, channel_of
from bbio.log import Ledger, Letter, Step
from bbio.protocol import decode, encode
from bbio.ratelimit import RateLimitedLog
from bbio.runtime import Runtime
from bbio.server.consuming.attempt import attempt, error_text, wanted_pause
from bbio.streams import Position

logger = logging.getLogger("bbio")
failures = RateLimitedLog(logger)

# Parts of a lease after which it is renewed.
RENEWALS = 3
# Events that are read and not kept, for each that may be handled at once, where that is more than one.
AHEAD = 4
# Seconds between two looks for letters that were put back, at most.
LOOK_SECONDS = 1.0
# Seconds between two notes that nothing is left to be handled.
IDLE_SECONDS = 20.0
# Seconds until a ledger that could not be reached is asked again.
RETRY_SECONDS = 0.5
# The error of a letter that is behind another one.
BEHIND = "an earlier event of this model is set aside"


class Overtaken(Exception):
    """Another process has taken the lease: nothing that this one does is kept any more."""


@attrs.define(eq=False)
class Entry:
    """An event that is being handled.

    Parameters:
        event: the event.
        model: the key of its model; None of a reset, which is about all of them.
        letter: the number of the letter that it comes from; 0 if it was read from the log.
        failed: what it has come to, if it is set aside.
        is_over: whether it was handled, or is to be set aside.
        is_pausing: whether it waits for its next attempt.
    """

    event: Event[Any]
    model: str | None
    letter: int = 0
    failed: Letter | None = None
    is_over: bool = False
    is_pausing: bool = False


class Turn:
    """One turn of a consumer in this process.

    Parameters:
        consumer: the consumer.
        runtime: its backend.
        ledger: the ledger of the backend.
        fence: the number of the lease.
        valid_until: the time of the event loop at which the lease ends, if it is not renewed.
    """

    def __init__(self, consumer: Consumer, runtime: Runtime, ledger: Ledger, fence: int, valid_until: float) -> None:
        self._consumer = consumer
        self._runtime = runtime
        self._ledger = ledger
        self._fence = fence
        self._valid_until = valid_until
        self._events: Events[Any] | None = None
        self._epoch = ""
        # What was read and is not kept yet, in order; letters have no place among these.
        self._window: deque[Entry] = deque()
        self._letters: list[Entry] = []
        self._tasks: dict[asyncio.Task[None], Entry] = {}
        # The letters of each model, whose events are set aside as well; and those to be handled again.
        self._held: dict[str, int] = {}
        self._put_back: list[Entry] = []
        self._failure: BaseException | None = None
        self._is_ending = False
        self._idle_noted = 0.0
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def is_busy(self) -> bool:
        """Return whether there is something to do at this moment; what waits for its next attempt does not count."""
        entries = [*self._window, *self._letters]
        if entries:
            return any(not entry.is_pausing for entry in entries)
        return self._events is None or not self._events.is_at_top

    async def run(self) -> None:
        """Work until another process takes over, or `end` is called.

        Raises:
            Overtaken: another process has the lease.
            SyncError: the ledger cannot be read.
        """
        consumer = self._consumer
        state = next(each for each in await self._ledger.states() if each.name == consumer.name)
        await self._look_at_letters()
        self._epoch = state.epoch
        begin = state.epoch if consumer.channel is None else None
        since = Places(state.positions, begin).to_json()
        self._events = self._runtime.events(consumer.channel, since=since)
        reading, keeping, renewing = map(asyncio.ensure_future, (self._read(self._events), self._keep(), self._renew()))
        work = {reading, keeping, renewing}
        try:
            while not keeping.done():
                done, _ = await asyncio.wait({*work}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                work -= done
                if reading.done() and not self._is_ending:
                    await self.end()  # the application ends
        finally:
            await self._events.aclose()
            under_way = [reading, keeping, renewing, *self._tasks]
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def end(self) -> None:
        """Begin nothing more; `run` returns once all that was begun is kept."""
        self._is_ending = True
        if self._events is not None:
            await self._events.aclose()
        for task, entry in self._tasks.items():
            if entry.is_pausing:
                task.cancel()
        self._news.set()
        self._room.set()

    # Reading

    async def _read(self, events: Events[Any]) -> None:
        """Hand out events in their order."""
        async for event in events:
            entry = Entry(event, None if event.method == "reset" else key_of(event, self._runtime.id_attribute))
            if not await self._make_room(entry):
                return
            self._window.append(entry)
            if entry.model is not None and entry.model in self._held:
                self._set_aside(entry, Letter(model=entry.model, event=logged(event), error=BEHIND, state="behind"))
            else:
                self._begin(entry)

    async def _make_room(self, entry: Entry) -> bool:
        """Wait until an event may be handled; return False when nothing more is to be begun."""
        while not self._is_ending:
            if self._has_room(entry):
                return True
            self._room.clear()
            await self._room.wait()
        return False

    def _has_room(self, entry: Entry) -> bool:
        busy = [*self._window, *self._letters]
        if entry.model is None or any(each.model is None for each in busy):
            return not busy
        if not entry.letter and (self._put_back or (entry.model in self._held and self._is_full)):
            return False
        open_ones = [each for each in busy if not each.is_over]
        most = self._consumer.concurrency
        if len(open_ones) >= most or len(self._window) >= (most * AHEAD if most > 1 else 1):
            return False
        return all(each.model != entry.model for each in open_ones)

    # Handling

    @property
    def _is_full(self) -> bool:
        """Return whether there are as many letters as there may be."""
        return sum(self._held.values()) >= self._consumer.dead_letters

    def _begin(self, entry: Entry) -> None:
        task = asyncio.ensure_future(self._handle(entry))
        self._tasks[task] = entry
        task.add_done_callback(self._end_of)

    def _end_of(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled():
            self._failure = self._failure or task.exception()
        self._news.set()

    async def _handle(self, entry: Entry) -> None:
        """Try an event until it is handled, or to be set aside."""
        consumer, event = self._consumer, entry.event
        function = consumer.function if entry.model is not None else consumer.on_lost
        attempts = 0
        while function is not None:
            await self._check_lease()
            entry.is_pausing = False
            err = await attempt(function, event, consumer.timeout)
            if err is None:
                break
            attempts += 1
            failures.error(err, "consumer %s: attempt %d at %s failed", consumer.name, attempts, event.id or "a loss")
            if attempts >= consumer.attempts or isinstance(err, GiveUp):
                if entry.model is None:
                    logger.error("consumer %s: on_lost has failed; the gap is counted all the same", consumer.name)
                    break
                if entry.letter or not self._is_full:
                    self._give_up(entry, entry.model, attempts, err)
                    return
                logger.error(
                    "consumer %s: it has %d dead letters already, and stays at the event that fails now, %s: look at "
                    "them, bbio consumers",
                    consumer.name,
                    consumer.dead_letters,
                    event.id,
                )
            if self._is_ending:
                return
            entry.is_pausing = True
            await asyncio.sleep(max(consumer.pause_after(attempts), wanted_pause(err)))
        self._settle(entry)

    def _give_up(self, entry: Entry, model: str, attempts: int, err: BaseException) -> None:
        logger.error(
            "consumer %s: %s is a dead letter after %d attempts; look at it, or put it back: bbio consumers",
            self._consumer.name,
            entry.event.id,
            attempts,
        )
        event, error = logged(entry.event), error_text(err)
        self._set_aside(entry, Letter(id=entry.letter, model=model, event=event, attempts=attempts, error=error))

    def _set_aside(self, entry: Entry, letter: Letter) -> None:
        """Keep a letter in place of handling an event."""
        entry.failed = letter
        if not letter.id:
            self._held[letter.model] = self._held.get(letter.model, 0) + 1
        self._settle(entry)

    def _settle(self, entry: Entry) -> None:
        entry.is_over = True
        self._news.set()

    # Keeping

    async def _keep(self) -> None:
        """Keep what was handled, again and again, until all is kept and this is to end."""
        while True:
            self._news.clear()
            if self._failure is not None:
                raise self._failure
            step, entries = self._step()
            if entries:
                await self._keep_step(step)
                for entry in entries:
                    (self._letters if entry.letter else self._window).remove(entry)
                self._begin_letters()
                self._room.set()
            elif self._is_ending and not self._tasks:
                return
            else:
                await self._news.wait()

    def _step(self) -> tuple[Step, list[Entry]]:
        """Return what there is to be kept, and of which events."""
        entries: list[Entry] = []
        positions: dict[str, Position] = {}
        replaced: Places | None = None
        for entry in self._window:
            if not entry.is_over:
                break
            entries.append(entry)
            if entry.model is None and entry.event.channel is None and self._consumer.channel is None:
                replaced = entry.event.places  # a reset comes alone
            elif entry.model is None:
                positions.update(moved(entry.event))
            else:
                event = logged(entry.event)
                positions[event.stream] = event.position
        letters = [entry for entry in self._letters if entry.is_over]
        entries += letters
        failed = [entry.failed for entry in entries if entry.failed is not None]
        step = Step(
            positions=positions if replaced is None else replaced.streams,
            epoch=self._new_epoch(replaced),
            replaces=replaced is not None,
            letters=[letter for letter in failed if not letter.id],
            failed=[letter for letter in failed if letter.id],
            settled=[entry.letter for entry in letters if entry.failed is None],
            lost=sum(entry.model is None for entry in entries),
        )
        return step, entries

    def _new_epoch(self, replaced: Places | None) -> str | None:
        begin = None if replaced is None else replaced.begin
        return None if begin == self._epoch else begin

    async def _keep_step(self, step: Step) -> None:
        """Keep a step, however long that takes, unless another process has taken over."""
        if step.lost:
            logger.error(
                "consumer %s: events of %s are lost to it: the history no longer had them. It goes on with what is new",
                self._consumer.name,
                self._runtime.name,
            )
        while True:
            try:
                if not await self._ledger.keep(self._consumer.name, self._fence, step):
                    raise Overtaken
            except SyncError as err:
                failures.error(err, "consumer %s: its position cannot be kept; trying again", self._consumer.name)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._epoch = step.epoch or self._epoch
                return

    # The lease

    async def _renew(self) -> None:
        """Renew the lease, and look for letters that were put back, again and again."""
        consumer = self._consumer
        seconds = min(consumer.lease / RENEWALS, LOOK_SECONDS)
        while True:
            await asyncio.sleep(seconds)
            now = asyncio.get_running_loop().time()
            try:
                if now + consumer.lease - self._valid_until >= consumer.lease / RENEWALS:
                    await self._extend()
                await self._look_at_letters()
                if self._is_idle and now - self._idle_noted >= IDLE_SECONDS:
                    self._idle_noted = now
                    await self._note_idle()
            except SyncError as err:
                failures.error(err, "consumer %s: its lease cannot be renewed; trying again", consumer.name)

    @property
    def _is_idle(self) -> bool:
        return not self._window and self._events is not None and self._events.is_at_top

    async def _note_idle(self) -> None:
        """Note that all is handled; and where streams begin from now on, if some were forgotten meanwhile."""
        begin = self._events.begin if self._events is not None else None
        epoch = None if begin == self._epoch else begin
        if not await self._ledger.keep(self._consumer.name, self._fence, Step(epoch=epoch, is_idle=True)):
            raise Overtaken
        self._epoch = epoch or self._epoch

    async def _extend(self) -> None:
        until = asyncio.get_running_loop().time() + self._consumer.lease
        if not await self._ledger.renew(self._consumer.name, self._fence, self._consumer.lease):
            raise Overtaken
        self._valid_until = until

    async def _check_lease(self) -> None:
        """Wait until it is sure that no other process works, as after a pause of this one."""
        loop = asyncio.get_running_loop()
        while loop.time() >= self._valid_until:
            try:
                await self._extend()
            except SyncError:
                await asyncio.sleep(RETRY_SECONDS)
            except Overtaken:
                await loop.create_future()  # whoever renews the lease finds out as well, and ends the turn

    async def _look_at_letters(self) -> None:
        """See which models have letters, and handle those that were put back."""
        name = self._consumer.name
        held = await self._ledger.held(name)
        for entry in self._window:
            if entry.failed is not None:
                held[entry.failed.model] = held.get(entry.failed.model, 0) + 1
        self._held = held
        taken = {entry.letter for entry in self._letters}
        letters = await self._ledger.letters(name, again=True, most=self._consumer.concurrency) if held else []
        self._put_back = [
            Entry(event_of(letter, self._runtime.name), letter.model, letter.id)
            for letter in letters
            if letter.id not in taken
        ]
        self._begin_letters()
        self._room.set()

    def _begin_letters(self) -> None:
        """Handle letters that were put back, as far as there is room."""
        for entry in [] if self._is_ending else list(self._put_back):
            if self._has_room(entry):
                self._put_back.remove(entry)
                self._letters.append(entry)
                self._begin(entry)


def logged(event: Event[Any]) -> Any:
    """Return an event as the log has it."""
    assert event.logged is not None, "it is no reset"
    return event.logged


def moved(event: Event[Any]) -> dict[str, Position]:
    """Return the positions after the reset of one channel."""
    return {name: position for name, position in event.places.streams.items() if channel_of(name) == event.channel}


def key_of(event: Event[Any], id_attribute: str) -> str:
    """Return a text that is the same for all events of a model; one without an id is alone."""
    id = event.model.get(id_attribute) if isinstance(event.model, dict) else None
    return encode(id).decode() if isinstance(id, (str, int)) else f"{event.id}"


def event_of(letter: Letter, backend: str) -> Event[Any]:
    """Return the event of a letter of a backend as the consumer's function gets it."""
    event = letter.event
    method: Any = event.method
    return Event(method, decode(event.body), channel_of(event.stream), event.rev, event, backend=backend)
