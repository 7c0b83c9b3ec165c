"""MemoryStore: models in a dictionary, with streams and operation ids, gone when the process ends."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import msgspec

from bbio import BadRequest, Conflict, Request, Store
from bbio.builtin.ids import Ids, given_ids, random_ids
from bbio.builtin.sql import read_indexes
from bbio.declared import Publisher
from bbio.log import MemoryLog
from bbio.protocol import decode, encode
from bbio.query.query import QueryLimits, too_many
from bbio.query.steps import call_each, run_in_turns
from bbio.requests import SHORT_LIST, Found, Socket
from bbio.store import (
    CHECKPOINT_SECONDS,
    TOLD_AS,
    Checkpoint,
    Promises,
    Records,
    RowRefused,
    Scratch,
    Step,
    gone_on,
    is_as_in,
)
from bbio.streams import Commit, Event, HistoryLimits, channel_stream
from bbio.typed import as_json
from bbio.view import public_body
from bbio.was import was_of
from bbio.weight import decoded_bytes

Models = dict[Any, tuple[int, bytes]]


class MemoryStore(Store, MemoryLog):
    """Keeps the models of one backend in memory.

    Parameters:
        id_attribute: the name of the id in a model, Backbone's `idAttribute`.
        ids: a function that returns the id of each new model, a string or a whole number; by default ids are random,
            so that nobody can guess one. A create whose id is taken is a `Conflict`.
        upsert: whether an update or patch of an unknown id creates the model, instead of `NotFound`.
        per_channel: whether every channel has models of its own.
        models: the initial models; each needs an id. Instances, if the backend has a model, or JSON.
        history: how much of each stream is kept for clients that return.
        index: as of the other stores; memory has no indexes.
        queries: how much a query of a client may ask for.

    Raises:
        ConfigurationError: an index names no field.

    Example:
        >>> from bbio import Backend
        >>> class Todos(Backend):
        ...     store = MemoryStore(models=[{"id": "1", "title": "Milk"}])
    """

    atomic = True

    _records: Records
    _ids: Iterator[str | int]
    _rev: int
    _channels: dict[str | None, Models]
    # Of bulks, with the time.
    _checkpoints: dict[str, tuple[Checkpoint, float]]

    def __init__(
        self,
        *,
        id_attribute: str = "id",
        ids: Ids | None = None,
        upsert: bool = False,
        per_channel: bool = False,
        models: list[Any] | None = None,
        history: HistoryLimits | None = None,
        index: Iterable[str | tuple[str, ...]] = (),
        queries: QueryLimits | None = None,
    ) -> None:
        self.id_attribute = id_attribute
        self.ids = ids
        self.history = history or HistoryLimits()
        self.indexes = read_indexes(index)
        self.queries = queries or QueryLimits()
        self._upsert = upsert
        self._per_channel = per_channel
        self._initial = models or []

    async def scratch(self, room: Scratch) -> Self:
        """Return this declaration: all that is opened from it has models of its own."""
        return self

    def open(self, backend: Any, publisher: Publisher) -> Self:
        opened = super().open(backend, publisher)
        opened._records = Records(opened.schema, self.id_attribute, self._upsert)
        opened._ids = random_ids() if self.ids is None else given_ids(self.ids)
        opened._rev = 0
        opened._channels = {}
        opened._checkpoints = {}
        for given in self._initial:
            model = as_json(opened.schema, given)
            opened._rev += 1
            opened._models(None)[model[self.id_attribute]] = (opened._rev, encode(model))
        return opened

    def promises(self, method: str) -> Promises:
        """Return what a backend may rely on; a class derived from this one may wait."""
        is_own = type(self) is MemoryStore
        is_same = is_as_in(MemoryStore, self)
        return Promises(self.atomic, immediate=is_own, passes_on=is_own, was=True, scoped=is_same, bulk=is_same)

    def _models(self, channel: str | None) -> Models:
        key = channel if self._per_channel else None
        models: Models | None = self._channels.get(key)
        if models is None:
            models = self._channels[key] = {}
        return models

    async def read(self, req: Request) -> Found:
        models = self._models(req.channel)
        key = None if req.model is None else self._key(req.model)
        if key is not None:
            if key not in models:
                raise self._records.unknown(key)
            rev, body = models[key]
            if req.scope is not None and not req.scope.sees(decode(body)):
                raise self._records.unknown(key)
            if len(body) > SHORT_LIST and not req.passes_on:
                await req.make_room(len(body), decoded_bytes(body))
            return Found(decode(body), {key: rev})
        query = self.query(req)
        if query is None and len(models) > self.queries.models:
            raise too_many(self.queries)
        found = models.copy()  # others write between the steps
        if query is not None:
            # The keys of models alone: what a query passes on its way may be much more than it comes to.
            steps = query.places((key, decode(body)) for key, (_, body) in found.items())
            page = await run_in_turns(steps, query.limits.seconds)
            found = {key: found[key] for key in page.models}
        bodies = [body for _, body in found.values()]
        size = sum(map(len, bodies)) + len(bodies) + 1
        passes_on, seconds = req.passes_on, self.queries.seconds
        if size > SHORT_LIST:
            is_decoded = not passes_on and size <= req.most.json
            sizes = await run_in_turns(call_each(decoded_bytes, bodies), seconds) if is_decoded else ()
            await req.make_room(size, sum(sizes))
        revs = {key: rev for key, (rev, _) in found.items()}
        listed: list[Any] = [msgspec.Raw(body) for body in bodies] if passes_on else []
        if not passes_on:
            listed = await run_in_turns(call_each(decode, bodies), seconds)
        return Found(listed, revs) if query is None else Found(listed, revs, page.next, page.total)

    async def write(self, req: Request) -> Commit:
        """Apply a write. `create`, `update`, `patch` and `delete` only say what the record is to be."""
        operation = req.operation
        if operation is not None:
            earlier = self.streams.operations.find(operation, req.payload)
            if earlier is not None:
                return earlier
        method = req.method
        record = await getattr(self, method)(req)
        body = encode(record)
        key = record[self.id_attribute]
        self._rev = rev = self._rev + 1
        models = self._models(req.channel)
        before = models.get(key)
        told = TOLD_AS[before is None][method]
        if method == "delete":
            models.pop(key, None)
        else:
            models[key] = (rev, body)
        if self.schema is not None:
            body = public_body(self.schema, record)
        was = None
        if self.keeps_was:
            after = None if method == "delete" else decode(models[key][1])
            was = was_of(before and decode(before[1]), after, body, before and before[0])
        return self.record(channel_stream(req.channel), told, record, body, req, operation, rev, was)

    async def write_all(self, reqs: Sequence[Request], step: Step | None = None, *, tells: bool = True) -> list[Commit]:
        """Apply writes, all or none. Nothing waits in between, so that nobody sees a part of it."""
        if step is not None:
            self._check_step(step)
        drawn = await self._try(reqs)
        ids, publish = self._ids, self._publish
        # The ids that were drawn when it was tried; a given function need not give them twice.
        self._ids = iter(drawn)
        if not tells:
            self._publish = _tell_nobody
        try:
            commits = [await self.write(req) for req in reqs]
        finally:
            self._ids, self._publish = ids, publish
        if step is not None:
            self._checkpoints[step.name] = (step.after(len(reqs)), time.monotonic())
        return commits

    async def _try(self, reqs: Sequence[Request]) -> list[Any]:
        """Return the ids that writes draw, where all of them can be applied; nothing is changed.

        Raises:
            RowRefused: one cannot.
        """
        drawn: list[Any] = []
        undo: list[tuple[Models, Any, Any]] = []
        ids, rev = self._ids, self._rev
        self._ids = (drawn.append(id) or id for id in ids)  # type: ignore[func-returns-value]
        try:
            for index, req in enumerate(reqs):
                try:
                    record = await getattr(self, req.method)(req)
                    body = encode(record)
                except Exception as err:
                    raise RowRefused(index, err) from None
                models, key = self._models(req.channel), record[self.id_attribute]
                undo.append((models, key, models.get(key)))
                rev += 1
                models[key] = (rev, body)
        finally:
            self._ids = ids
            for models, key, before in reversed(undo):
                if before is None:
                    del models[key]
                else:
                    models[key] = before
        return drawn

    def _check_step(self, step: Step) -> None:
        checkpoint, _ = self._checkpoints.get(step.name, (None, 0.0))
        if (step.start, False) != ((0, False) if checkpoint is None else (checkpoint.rows, checkpoint.is_done)):
            raise gone_on(step.name)

    async def checkpoint(self, name: str) -> Checkpoint | None:
        return self._checkpoints.get(name, (None, 0.0))[0]

    async def set_checkpoint(self, name: str, checkpoint: Checkpoint | None) -> None:
        now, checkpoints = time.monotonic(), self._checkpoints
        checkpoints.pop(name, None)
        if checkpoint is not None:
            checkpoints[name] = (checkpoint, now)
        for each, (kept, at) in list(checkpoints.items()):
            if kept.is_done and at < now - CHECKPOINT_SECONDS:
                del checkpoints[each]

    async def create(self, req: Request) -> dict[str, Any]:
        records, key = self._records, req.model.get(self.id_attribute)
        records.check(req, None if key is None else self._key(req.model))
        record, _ = records.plan(req, next(self._ids), None)
        if self.ids is not None and record[self.id_attribute] in self._models(req.channel):
            raise Conflict(f"there is a model with {self.id_attribute} {record[self.id_attribute]!r:.64} already")
        return record

    async def update(self, req: Request) -> dict[str, Any]:
        records, key = self._records, self._key(req.model)
        records.check(req, key)
        record, _ = records.plan(req, key, self._models(req.channel).get(key), self._base)
        return record

    patch = update
    delete = update

    def _base(self, req: Request, key: Any) -> bytes | None:
        """A model as it was at the revision that a request names, None where that is forgotten."""
        for event in self.streams.revised(channel_stream(req.channel), req.rev or 0):
            if event.method != "delete" and decode(event.body)[self.id_attribute] == key:
                return event.body
        return None

    def _key(self, model: dict[str, Any]) -> Any:
        key = model.get(self.id_attribute)
        if key is not None and (not isinstance(key, (str, int)) or isinstance(key, bool)):
            raise BadRequest(f"{self.id_attribute!r} must be a string or a whole number")
        return key


def _tell_nobody(event: Event, origin: Socket | None) -> None:
    """Leave an event to whoever says later that there were some."""
