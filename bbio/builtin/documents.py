"""The parts that stores in databases share: documents by id, and commits of many writes at once.

A batch of writes is planned in memory: the store reads what the batch needs to know, `Batch.apply` decides what every
write comes to, and the store writes all of it in one transaction. A write that is refused has changed nothing, so it
takes no other with it, and the cost of the transaction is shared.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from itertools import count, starmap
from typing import Any, Self

import msgspec

from bbio import BadRequest, Busy, Conflict, Request, Store, SyncError
from bbio.builtin.sql import read_indexes
from bbio.declared import Publisher
from bbio.errors import ConfigurationError
from bbio.log import Log
from bbio.protocol import decode, encode
from bbio.query import Query, QueryLimits
from bbio.ratelimit import RateLimitedLog
from bbio.requests import ENDLESS, NOTIFIED_AS, SHORT_LIST, Found, ListSize
from bbio.store import TOLD_AS, Checkpoint, Records, RowRefused, Step
from bbio.streams import PUBLIC, Commit, Event, HistoryLimits, Operation, channel_stream
from bbio.typed import as_json, view_in, whole_json
from bbio.view import View, public_body
from bbio.was import was_of
from bbio.weight import decoded_bytes

logger = logging.getLogger("bbio.store")
# Writes that break a rule of the database: clients can cause any number of them.
refusals = RateLimitedLog(logger)

RULE = "the model breaks a rule of the database"
# How a client is told which rule of the database a write breaks, by SQLSTATE: with the names of fields, and without.
BROKEN = {
    "23502": ("the database needs a value for {}", "the database needs a value that the model does not give"),
    "23503": ("there is nothing that {} could refer to", "the model refers to what is not there"),
    "23505": ("another model has the same {}", "another model has the same, where each has its own"),
    "23514": ("the database does not allow this {}", "the database does not allow this value"),
}
# Columns of a table of models beside the id.
BESIDE_ID = ("rev", "channel", "body")

Key = tuple[str, Any]
# What a query has found: the models, None where they come to more bytes than were asked for; their revisions, how many
# there are in all if it asks for that, and the size, of those alone that were looked at where they are too many.
Selected = tuple[list[Any] | None, list[int], int | None, ListSize]
# Of an operation: the digest of what was asked, the event it came to, and the record where that holds more.
Outcome = tuple[int, Event, bytes | None]

OPERATION_AGE = 86_400.0
OPERATION_COUNT = 1_000_000
# Seconds that a process has seen an operation itself before it forgets it, whatever time stands beside it.
SEEN_SECONDS = 3_600.0
MAX_BATCH = 500
MAX_WAITING_JOBS = 10_000
# Bytes of the models that are read together, past which the rest of a batch waits for the next.
MAX_BATCH_BYTES = 1 << 20


_began = time.time() - time.monotonic()


def now() -> float:
    """Seconds since 1970 that never jump: the wall clock when the process began, and what has passed since."""
    return _began + time.monotonic()


def bytes_of(body: str) -> int:
    """The bytes that a model takes in a list."""
    return 1 + (len(body) if body.isascii() else len(body.encode()))


class Seen:
    """The greatest id of a growing table some time ago, by this process's own clock.

    Parameters:
        seconds: how long ago.
        clock: seconds, never going back.
    """

    def __init__(self, seconds: float = SEEN_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since = 0.0
        self._next: int | None = None
        self._long_ago = 0

    def through(self, newest: int) -> int:
        """The id up to which all was there so long ago, 0 when that is not known yet.

        Parameters:
            newest: the greatest id at the moment.
        """
        now = self._clock()
        if self._next is None or now - self._since >= self._seconds:
            self._long_ago = self._next or 0
            self._next, self._since = newest, now
        return self._long_ago


class Job(msgspec.Struct, eq=False):
    """Something to be done in the database, and what came of it."""

    future: asyncio.Future[Any] | None = None
    result: Any = None
    error: Exception | None = None

    @property
    def given_up(self) -> bool:
        """Return whether nobody waits any longer."""
        return self.future is not None and self.future.cancelled()


class Change(Job, kw_only=True):
    """A write that waits for its batch.

    Parameters:
        store: the store it is for.
        stream: the stream its event belongs to.
        method: the method its event has.
        req: the request, None for what the server itself appends.
        key: the channel and id of the model to be stored, None when nothing is.
        model: the model of an event whose write happened elsewhere.
        body: that model as JSON.
        was: how that model was, None where it is not known.
        operation: what the operation is remembered under.
    """

    store: DocumentStore
    stream: str
    method: str
    req: Request | None
    key: Key | None = None
    model: Any = None
    body: bytes = b""
    was: bytes | None = None
    operation: bytes | None = None


class Whole(Job, kw_only=True):
    """Writes that are made together, or not at all.

    Parameters:
        store: the store they are for.
        changes: the writes, in order.
        step: the checkpoint that is kept with them.
        tells: whether each event is told.
        made: those of the writes that are made; the others are too large to be made in the same transaction.
    """

    store: DocumentStore
    changes: list[Change]
    step: Step | None = None
    tells: bool = True
    made: list[Change] = []

    def keep(self, batch: Batch) -> None:
        """Keep what a batch came to, which is about to be committed.

        Raises:
            RowRefused: a write cannot be made.
        """
        left = set(map(id, batch.left))
        self.made = [change for change in self.changes if id(change) not in left]
        for index, change in enumerate(self.made):
            if change.error is not None:
                raise RowRefused(index, change.error)

    @property
    def checkpoint(self) -> tuple[str, int, Checkpoint] | None:
        """Return the name of the bulk, how many rows were stored before, and the checkpoint; None without one."""
        step = self.step
        return None if step is None else (step.name, step.start, step.after(len(self.made)))

    def end(self) -> None:
        """Say what came of it, as it is committed."""
        self.result = [change.result for change in self.made]


class Queue:
    """Jobs that wait on the event loop while others are done, to be handed over all at once.

    Parameters:
        hand_over: starts a batch of jobs; `settle` is to be called on the event loop when they are done.
    """

    def __init__(self, hand_over: Callable[[list[Any]], None]) -> None:
        self._hand_over = hand_over
        self._loop = asyncio.get_running_loop()
        # A batch is not worked on in the context of the request that happens to be its first.
        self._context = copy_context()
        self._waiting: list[Job] = []
        # How many are handed over at once: fewer after a batch of which some were left.
        self._most = MAX_BATCH
        self._busy = False
        self._idle: asyncio.Future[None] | None = None

    def submit(self, job: Job) -> asyncio.Future[Any]:
        """Have a job done; the future then has its result.

        Raises:
            Busy: too many are waiting.
        """
        if len(self._waiting) >= MAX_WAITING_JOBS:
            raise Busy("too many requests wait for the database", retry_after=1.0)
        job.future = future = self._loop.create_future()
        self.add(job)
        return future

    def add(self, job: Job) -> None:
        """Have a job done that has its future already."""
        self._waiting.append(job)
        if not self._busy:
            # Not at once: what arrives in the same turn of the loop shares the batch.
            self._busy = True
            self._loop.call_soon(self._next, context=self._context)

    def _next(self) -> None:
        waiting, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        # Whoever gave up waiting before anything was done has changed nothing.
        batch = [job for job in waiting if not job.future.cancelled()]  # type: ignore[union-attr]
        if batch:
            self._hand_over(batch)
        elif self._waiting:
            self._next()
        else:
            self._busy = False
            if self._idle is not None:
                self._idle.set_result(None)

    def settle(self, batch: list[Any], left: Sequence[Any] = ()) -> None:
        """Take back a batch that is done, and those that were left for the next."""
        self._waiting[:0] = left
        self._most = max(1, 2 * len(batch)) if left else min(2 * self._most, MAX_BATCH)
        self._next()
        self.tell(batch)

    @staticmethod
    def tell(batch: list[Any]) -> None:
        """Tell those who wait for a batch what came of it."""
        for job in batch:
            future = job.future
            if future.cancelled():
                if isinstance(job, Change) and job.error is None:
                    # At its place among those that are told when their writers wake up.
                    future.get_loop().call_soon(job.store.tell, job)
            elif job.error is None:
                future.set_result(job.result)
            else:
                future.set_exception(job.error)

    async def finish(self) -> None:
        """Wait until nothing is left to be done."""
        if self._busy:
            self._idle = self._loop.create_future()
            await self._idle


def not_made(place: str, problem: str) -> ConfigurationError:
    """Return the error of a program beside the servers that finds no tables, or those of another version.

    Parameters:
        place: the file or the database.
        problem: what is wrong with it.
    """
    return ConfigurationError(
        f"{place} {problem}. Tables are made and changed by the server when it starts: start it with this version of "
        "bbio and of the application, or let this program do it: bbio.open(..., migrate=True), bbio call --migrate"
    )


class DocumentStore(Store, Log):
    """Keeps the models of one backend as documents in a database, with their events and operations.

    Parameters:
        table: the table of the models; named like the backend by default.
        id_attribute: the name of the id in a model, Backbone's `idAttribute`.
        upsert: whether an update or patch of an unknown id creates the model, instead of `NotFound`.
        per_channel: whether every channel has models of its own.
        models: the models to begin with, when the table is new; each needs an id.
        history: how much of each stream is kept for clients that come back.
        index: the fields that queries ask for: names, or tuples of names that are asked for together.
        queries: how much a query of a client may ask for.
    """

    atomic = True
    # Whether a record is stored just as it is planned; a database may make something else of it.
    as_planned = True
    check_interval = 5.0
    event_clock = staticmethod(time.time)

    records: Records
    _ids: Iterator[Any]
    _seen: Seen
    # The size that a list of everything is likely to come to, a little more than the last one.
    _usual = ListSize(0)

    def __init__(
        self,
        table: str | None = None,
        *,
        id_attribute: str = "id",
        upsert: bool = False,
        per_channel: bool = False,
        models: list[Any] | None = None,
        history: HistoryLimits | None = None,
        index: Iterable[str | tuple[str, ...]] = (),
        queries: QueryLimits | None = None,
    ) -> None:
        self.table = table or ""
        self.id_attribute = id_attribute
        self.history = history or HistoryLimits()
        self.indexes = read_indexes(index)
        self.queries = queries or QueryLimits()
        self._upsert = upsert
        self._per_channel = per_channel
        self._initial = models or []

    def open(self, backend: Any, publisher: Publisher) -> Self:
        opened = super().open(backend, publisher)
        opened.table = self.table or backend.name
        opened.records = Records(opened.schema, self.id_attribute, self._upsert, self.as_planned)
        opened._seen = Seen()
        opened._initial = [as_json(opened.schema, model) for model in self._initial]
        if any(self.key(model) is None for model in opened._initial):
            raise ConfigurationError(f"{type(self).__name__}(models=[...]): each needs an {self.id_attribute!r}")
        return opened

    @abstractmethod
    def submit(self, change: Change) -> asyncio.Future[Commit]:
        """Have a change made in the next batch."""

    @abstractmethod
    def look_up(self, key: Key) -> Awaitable[Any]:
        """The revision and body of a model, None when there is none."""

    @abstractmethod
    def select(
        self,
        query: Query,
        scope: tuple[str, ...],
        client: object = None,
        most: ListSize = ENDLESS,
        passes_on: bool = False,
    ) -> Awaitable[Selected]:
        """Find the models of a query.

        Parameters:
            query: what is asked for.
            scope: the channel whose models are looked at, nothing where all channels share them.
            client: who asks, whose lists are not to keep others waiting; None for the server itself.
            most: the size of the models that are wanted at most.
            passes_on: whether the models are wanted as JSON, `msgspec.Raw`; then they count as such alone.
        """

    @abstractmethod
    def look_up_operation(self, operation: bytes) -> Awaitable[Any]:
        """The digest and event of an operation, None when it is new."""

    async def read(self, req: Request) -> Found:
        """Answer a read: the model named by its id in `req.model`, or the list of models."""
        channel = self.channel_of(req)
        key = None if req.model is None else self.key(req.model)
        if key is not None:
            row = await self.look_up((channel, key))
            if row is None or (req.scope is not None and not req.scope.sees(decode(row[1]))):
                raise self.records.unknown(key)
            rev, body = row
            if len(body) > SHORT_LIST and not req.passes_on:
                await req.make_room(len(body), decoded_bytes(body))
            return Found(decode(body), {key: rev})
        query = self.query(req)
        asked = query or Query(limits=self.queries)
        models, revs, total = await self._within_room(req, asked, (channel,) if self._per_channel else ())
        page = asked.cut(models, total, decode if req.passes_on else None)
        ids = count() if req.passes_on else (model[self.id_attribute] for model in page.models)
        by_id = dict(zip(ids, revs[: len(page.models)], strict=False))
        return Found(page.models, by_id) if query is None else Found(page.models, by_id, page.next, page.total)

    async def _within_room(
        self, req: Request, query: Query, scope: tuple[str, ...]
    ) -> tuple[list[Any], list[int], int | None]:
        """Find the models of a query, within the room that there is for lists."""
        client, most, usual = getattr(req.socket, "connection", None), req.most, ListSize.of(SHORT_LIST)
        # Room is made before anything is held; where it was too little, for as much as there may be.
        is_all = not query.identity
        if is_all:
            usual = ListSize(*map(max, usual, self._usual))
        room = ListSize(*map(min, most, usual))
        passes_on = req.passes_on
        while True:
            await req.make_room(room.json, 0 if passes_on else room.decoded)
            models, revs, total, size = await self.select(query, scope, client, room, passes_on)
            if models is not None or room == most:
                break
            room = most
        await req.make_room(*size)  # where there are no models, it is refused
        assert models is not None
        if is_all:
            self._usual = ListSize(size.json * 5 // 4, size.decoded * 5 // 4)
        return models, revs, total

    async def find(self, req: Request) -> Commit | None:
        """Return the commit that an operation already led to, None when the operation is new."""
        operation = digest_of(req.operation)
        found = None if operation is None else await self.look_up_operation(operation)
        return None if found is None else await self._in_full(repeated(found, req))

    async def _in_full(self, commit: Commit) -> Commit:
        """The commit of an operation that was applied before, maybe by a server with another model."""
        if self._is_partial(commit.event, commit.record):
            record = await self._completed(commit.event, commit.record)
            return Commit(record, public_body(self.schema, record), commit.event, duplicate=True)
        return commit

    async def _all_in_full(self, events: list[Event] | None) -> list[Event] | None:
        """Events of the log as clients here are to be told of them: servers with another model may have logged them."""
        if self.schema is None or not events:
            return events
        told = [(event, decode(event.body)) for event in events]
        partial = [(event, record) for event, record in told if self._is_partial(event, record)]
        if not partial:
            return events
        records = await asyncio.gather(*starmap(self._completed, partial))
        bodies = {event: public_body(self.schema, record) for (event, _), record in zip(partial, records, strict=True)}
        # How these records were is not known to a view: of the fields that are added now, nobody knows how they were.
        return [
            msgspec.structs.replace(event, body=bodies[event], was=None) if event in bodies else event
            for event in events
        ]

    def as_told(self, event: Event) -> Event | None:
        """Return an event of another server as clients here are told of it.

        Parameters:
            event: the event, as that server tells it.

        Returns: the event; None where it lacks what only the log can say, as that server has another model.
        """
        if self.schema is None:
            return event
        return None if self._is_partial(event, decode(event.body)) else View.public(self.schema).narrow(event)

    def _is_partial(self, event: Event, record: Any) -> bool:
        """Return whether a written record lacks fields that clients here are notified of."""
        schema = self.schema
        return (
            schema is not None
            and event.rev is not None
            and event.method != "delete"
            and not View.public(schema).fields <= record.keys()
        )

    async def _completed(self, event: Event, record: dict[str, Any]) -> dict[str, Any]:
        """A record that an event tells of, with the fields that it lacks as they are stored now.

        Those may be newer than the event: then another one follows that tells them too.
        """
        channel = event.stream.partition(":")[2] if self._per_channel else ""
        row = await self.look_up((channel, record[self.id_attribute]))
        stored: dict[str, Any] = {} if row is None else decode(row[1])
        return record | {name: value for name, value in stored.items() if name not in record}

    def tell(self, change: Change) -> None:
        """Publish the event of a change that is committed."""
        commit: Commit = change.result
        if not commit.duplicate:
            self._publish(commit.event, None if change.req is None else change.req.socket)

    async def _commit(self, change: Change) -> Commit:
        future = self.submit(change)
        try:
            commit: Commit = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.tell(change)
            raise
        # Writers wake up in the order of their offsets, and each publishes its event in its own step,
        # which lets a reply take the event's place.
        self.tell(change)
        return await self._in_full(commit) if commit.duplicate else commit

    async def write(self, req: Request) -> Commit:
        """Apply a write in the next batch: model, event and operation in one transaction."""
        return await self._commit(self._change(req))

    def _change(self, req: Request) -> Change:
        return Change(
            store=self,
            stream=channel_stream(req.channel),
            method=NOTIFIED_AS[req.method],
            req=req,
            key=self._target(req),
            operation=digest_of(req.operation),
        )

    async def write_all(self, reqs: Sequence[Request], step: Step | None = None, *, tells: bool = True) -> list[Commit]:
        """Apply writes in a transaction of their own, all or none."""
        changes = []
        for index, req in enumerate(reqs):
            try:
                changes.append(self._change(req))
            except SyncError as err:
                raise RowRefused(index, err) from None
        future = self.submit_all(Whole(store=self, changes=changes, step=step, tells=tells))
        if tells:
            # Whether or not somebody waits any more: it is committed.
            future.add_done_callback(self._tell_all)
        return await asyncio.shield(future)

    def _tell_all(self, future: asyncio.Future[list[Commit]]) -> None:
        if not future.cancelled() and future.exception() is None:
            for commit in future.result():
                self._publish(commit.event, None)

    @abstractmethod
    def submit_all(self, whole: Whole) -> asyncio.Future[list[Commit]]:
        """Have writes made in a transaction of their own, after what waits."""

    async def append(
        self, stream: str, method: str, model: Any, req: Request | None = None, was: bytes | None = None
    ) -> Commit:
        """Log and publish an event whose write happened elsewhere."""
        body = public_body(self.schema, model)
        change = Change(store=self, stream=stream, method=method, req=req, model=model, body=body, was=was)
        if req is not None:
            change.operation = digest_of(req.operation)
        return await self._commit(change)

    def key(self, model: dict[str, Any]) -> Any:
        """The id in a model, None when there is none.

        Raises:
            BadRequest: it can be no id.
        """
        key = model.get(self.id_attribute)
        if key is None or type(key) is str or (type(key) is int and -(2**63) <= key < 2**63):
            return key
        raise BadRequest(f"{self.id_attribute!r} must be a string or a whole number")

    def channel_of(self, req: Request) -> str:
        """The channel whose models a request is about."""
        return req.channel or "" if self._per_channel else ""

    def _target(self, req: Request) -> Key:
        key = self.key(req.model)
        self.records.check(req, key)
        return self.channel_of(req), next(self._ids) if key is None else key

    def shown(self, columns: Sequence[str], req: Request | None, beside: Collection[str] = BESIDE_ID) -> Sequence[str]:
        """Return the names of the fields that an error is about; none if the client may not see them all.

        Parameters:
            columns: those of the table that it is about.
            req: what the client has asked for.
            beside: columns that are no fields.
        """
        hidden = set(beside)
        if self.schema is not None:
            hidden |= view_in(self.schema, req).hidden
        return () if hidden.intersection(columns) else columns


class Write(msgspec.Struct, eq=False):
    """The planned effect of a change on its model.

    Parameters:
        change: the change.
        key: the channel and id of the model.
        rev: the revision that the model gets.
        record: what it comes to, as far as can be told before it is stored; of a delete, the model as it was.
        stored: the model as it was, None where there was none.
    """

    change: Change
    key: Key
    rev: int
    record: dict[str, Any]
    stored: dict[str, Any] | None

    @property
    def method(self) -> str:
        """Return the effect on the model: `create`, `update` or `delete`."""
        req = self.change.req
        assert req is not None
        return TOLD_AS[self.stored is None][req.method]


def _is_about_stored(change: Change) -> bool:
    return change.req is not None and change.req.method != "create"


class Batch:
    """Writes of one store that share a transaction: what they need to know, and what they come to.

    Parameters:
        store: the store.
        changes: the writes, in order.
    """

    def __init__(self, store: DocumentStore, changes: list[Change]) -> None:
        self.store = store
        self.changes = changes
        # The number of this attempt to write them, by which it is found again.
        self.stamp = secrets.randbits(48) or 1
        # Filled by the store from its tables: the counter of revisions, the epoch of new streams, the epoch and top of
        # `streams` unless it will `place` what is numbered, the revision and body of `keys`, the digest and event of
        # `operations`.
        self.rev = 0
        self.epoch = ""
        self.tops: dict[str, tuple[str, int]] = {}
        self.models: dict[Key, tuple[int, bytes]] = {}
        self.replies: dict[bytes, Outcome] = {}
        # Models as they were at revisions that writes build on, by `stale`, as far as they were told.
        self.bases: dict[tuple[Key, int | None], bytes] = {}
        # To be written by the store: models (None when deleted), events, and the replies of operations.
        self.changed: dict[Key, tuple[int, bytes] | None] = {}
        self.events: list[Event] = []
        self.kept: list[tuple[bytes, int, Event, bytes | None]] = []
        # What is too large to be held together with those before it.
        self.left: list[Change] = []
        self._waiting = changes
        for change in changes:
            change.error = None
        # The writes that were made, with what they came to and that as JSON; the operations that they belong to.
        self._made: dict[Change, tuple[Write, dict[str, Any], bytes, int | None]] = {}
        self._operations: set[bytes] = set()

    @property
    def streams(self) -> list[str]:
        """The streams whose positions are needed, in an order that all processes share."""
        return sorted({change.stream for change in self.changes})

    @property
    def keys(self) -> list[Key]:
        """The models that must be known."""
        return list({change.key: None for change in self.changes if change.key and _is_about_stored(change)})

    def end_before(self, keys: Collection[Key]) -> None:
        """Leave for the next batch all from the first change on that must know one of these models."""
        changes = self.changes
        place = next(n for n, change in enumerate(changes) if change.key in keys and _is_about_stored(change))
        self.changes = self._waiting = changes[:place]
        self.left = changes[place:]

    @property
    def operations(self) -> list[bytes]:
        """The operations that may have been applied before."""
        return [change.operation for change in self.changes if change.operation is not None]

    @property
    def stale(self) -> dict[tuple[str, int], Key]:
        """The streams and revisions of which must be known what they said of a model."""
        return {
            (change.stream, change.req.rev): change.key
            for change in self.changes
            if change.key in self.models
            and change.req is not None
            and change.req.rev is not None
            and change.req.method == "patch"
            and change.req.rev < self.models[change.key][0]
        }

    def leave_out(self, keys: Collection[Key], error: Exception) -> None:
        """Refuse the writes of some models."""
        for change in self.changes:
            if change.key in keys:
                change.error = error
        self.changes = self._waiting = [change for change in self.changes if change.error is None]

    def apply(self) -> None:
        """Decide what every write comes to, for a store that keeps a record just as it is given."""
        for change in self.changes:
            if not self._is_repeated(change):
                write = self._plan(change)
                if write is not None:
                    self.made(write, write.record, encode(write.record))
        self.number()

    def turn(self) -> list[Write]:
        """The writes to be made next, no two of one model; none when all are made.

        Before the next turn, each is `made` or its change has an error. What cannot be is refused here.
        """
        writes: list[Write] = []
        while self._waiting and not writes:
            waiting: list[Change] = []
            # What is about the same model, or repeats an operation, comes after what was there first.
            before: set[Any] = set()
            for change in self._waiting:
                if change.key in before or change.operation in before:
                    waiting.append(change)
                elif not self._is_repeated(change):
                    write = self._plan(change)
                    if write is not None:
                        writes.append(write)
                before |= {change.key, change.operation}
                before.discard(None)
            self._waiting = waiting
        return writes

    def _is_repeated(self, change: Change) -> bool:
        return change.operation in self.replies or change.operation in self._operations

    def _plan(self, change: Change) -> Write | None:
        """Plan a change; return None when it is impossible or no model is stored."""
        req, key = change.req, change.key
        if key is None:
            return None
        assert req is not None
        current = self.models.get(key)
        try:
            record, stored = self.store.records.plan(
                req, key[1], current, lambda req, _: self.bases.get((key, req.rev))
            )
        except Exception as err:
            change.error = err
            return None
        # Counters fall back where tables are brought in from elsewhere; a model's revision never does.
        self.rev = max(self.rev, 0 if current is None else current[0]) + 1
        return Write(change, key, self.rev, record, stored)

    def made(self, write: Write, record: dict[str, Any], body: bytes) -> None:
        """A write is made.

        Parameters:
            write: the write.
            record: what is stored now; of a delete, what was.
            body: that as JSON.
        """
        change, key = write.change, write.key
        before = self.models.get(key)
        if before is not None:
            self.bases[key, before[0]] = before[1]
        if write.method == "delete":
            self.models.pop(key, None)
            self.changed[key] = None
        else:
            self.models[key] = self.changed[key] = (write.rev, body)
        self._made[change] = (write, record, body, before and before[0])
        if change.operation is not None:
            self._operations.add(change.operation)

    def number(self) -> None:
        """Give the writes that are made their places in their streams."""
        at = now()
        for change in self.changes:
            if change.error is None:
                try:
                    change.result = self._earlier(change) or self._commit(change, at)
                except Exception as err:
                    change.error = err

    def place(self, tops: Mapping[str, Any]) -> None:
        """Put the events, which are numbered from 1 in each stream, after what is there.

        Parameters:
            tops: each of `streams`, with its `epoch` and its `top`.
        """
        for event in self.events:
            stream = tops[event.stream]
            event.epoch = stream.epoch
            event.offset += stream.top

    def _earlier(self, change: Change) -> Commit | None:
        found = None if change.operation is None else self.replies.get(change.operation)
        return None if found is None else repeated(found, change.req)

    def _commit(self, change: Change, when: float) -> Commit:
        req, record, body, method, rev = change.req, change.model, change.body, change.method, None
        was = change.was
        if change in self._made:
            write, record, whole, base = self._made[change]
            method, rev, body = write.method, write.rev, whole
            if self.store.schema is not None:
                body = public_body(self.store.schema, record)
            if self.store.keeps_was:
                was = was_of(write.stored, None if method == "delete" else decode(whole), body, base)
        epoch, top = self.tops.get(change.stream) or (self.epoch, 0)
        self.tops[change.stream] = epoch, top + 1
        op = None if req is None or req.op is None else req.op.public
        event = Event(change.stream, epoch, top + 1, method, body, rev, op, when, self.stamp, was)
        self.events.append(event)
        if change.operation is not None and req is not None:
            schema = self.store.schema
            seen = None if schema is None else whole_json(schema, record, body)
            self.replies[change.operation] = (req.digest, event, seen)
            self.kept.append((change.operation, req.digest, event, seen))
        return Commit(record, body, event)


def event_row(event: Event) -> tuple[Any, ...]:
    """An event as it is kept with the reply of an operation, but for its time."""
    return event.stream, event.epoch, event.offset, event.method, event.body.decode(), event.rev, event.op


def event_of(
    stream: str,
    epoch: str,
    offset: int,
    method: str,
    body: str,
    rev: int | None,
    op: str | None,
    at: float,
    stamp: int = 0,
    was: str | None = None,
) -> Event:
    """The event that was kept."""
    if op is not None and not op.startswith(PUBLIC):
        op = None  # of an earlier version, which kept the whole of it
    return Event(
        stream, epoch, offset, method, body.encode(), rev, op, at, stamp, None if was is None else was.encode()
    )


def record_text(whole: bytes | None) -> str | None:
    """A record as it is kept with the reply of an operation."""
    return None if whole is None else whole.decode()


def found_of(digest: int, record: str | None, *event: Any) -> Outcome:
    """Return the stored outcome of an operation."""
    return digest, event_of(*event), None if record is None else record.encode()


def repeated(found: Outcome, req: Request | None) -> Commit:
    """The commit of an operation that was applied before.

    Parameters:
        found: what is known of it.
        req: what is asked now.

    Raises:
        Conflict: it is something else.
    """
    digest, event, whole = found
    if req is not None and digest != req.digest:
        raise Conflict("this operation id was already used for another request")
    return Commit(decode(event.body if whole is None else whole), event.body, event, duplicate=True)


def broken_rule(state: str, names: Sequence[str] = ()) -> Conflict:
    """Return what a client is told of a rule of the database that a write breaks.

    Parameters:
        state: the SQLSTATE of the rule's kind.
        names: the fields that it is about, as far as that is known and the client may know it.

    Example:
        >>> print(broken_rule("23505", ["title"]))
        another model has the same 'title'
    """
    named, nameless = BROKEN.get(state, (RULE, RULE))
    return Conflict(named.format(", ".join(map(repr, names))) if names else nameless)


def digest_of(operation: Operation | None) -> bytes | None:
    """A short key for an operation, None without one: a principal may be any object, of any length."""
    if operation is None:
        return None
    return hashlib.blake2b("{}:{}".format(*operation).encode("utf-8", "surrogatepass"), digest_size=16).digest()
