"""Bulk writes: many records of the server's own code, in batches of one transaction each.

`app.backends["todos"].bulk(rows)` takes each record down the stack as a call does. The writes of a batch wait for each
other at the store, which applies all of them or none. docs/import-export.md is the guide.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from hashlib import blake2b
from typing import Any, Literal, Protocol, get_args

import attrs
from msgspec import UNSET

from bbio.calls import MAX_OP, Caller, Calls, NoCaller, Terms
from bbio.errors import BadRequest, BulkError, ConfigurationError, Conflict
from bbio.generic import M
from bbio.protocol import encode
from bbio.requests import ServerRequest
from bbio.store import Checkpoint, RowRefused, Step, Store

BulkMethod = Literal["create", "update", "patch", "upsert"]

# Records of a batch, and bytes of them as JSON, after which the next batch begins.
BATCH_RECORDS = 500
MAX_BATCH_RECORDS = 1_000
BATCH_BYTES = 1 << 20
DIGEST_BYTES = 16
# Models of a page.
PAGE_MODELS = 500
# Rows that are stored already and are passed over in one turn of the event loop.
PASSED_AT_ONCE = 500


@attrs.frozen
class BulkProgress:
    """The progress of a bulk write.

    Parameters:
        rows: how many rows are stored, from the first on.
        earlier: how many of them an earlier run had stored, under the same operation id.

    Example:
        >>> BulkProgress(rows=1_500, earlier=1_000).new
        500
    """

    rows: int
    earlier: int = 0

    @property
    def new(self) -> int:
        """Return how many rows this run has stored."""
        return self.rows - self.earlier


OnProgress = Callable[[BulkProgress], Any]


class Batches(Protocol):
    """The server's side of a bulk write: `stored` records of the last batch are stored."""

    stored: int

    async def write(self, reqs: Sequence[ServerRequest], step: Step | None) -> None:
        """Run a batch through the stack, and store it.

        Raises:
            RowRefused: one of the records cannot be stored; nothing of the batch is.
            SyncError: the batch could not be stored, or nobody knows whether it is.
        """


class BulkCaller(Caller, Protocol):
    """The part of the server that runs calls, and bulk writes."""

    def batches(
        self, runtime: Any, req: ServerRequest, size: int, timeout: float | None
    ) -> AbstractAsyncContextManager[Batches]:
        """Begin a bulk write.

        Parameters:
            runtime: the backend.
            req: a request like those that follow.
            size: how many records a batch has at most.
            timeout: seconds that a batch may take; `Limits.deadline` if None.

        Raises:
            ConfigurationError: the application does not run, or the stack is not for bulk writes.
        """


class NoBulkCaller(NoCaller):
    """The caller of a backend that no application serves."""

    def batches(
        self, runtime: Any, req: ServerRequest, size: int, timeout: float | None
    ) -> AbstractAsyncContextManager[Batches]:
        raise ConfigurationError(f"{runtime.name!r} is served by no application; call app.serve(...) first")


class Bulks(Calls[M]):
    """The bulk writes of one backend, beside its calls."""

    store: Store | None
    _caller: BulkCaller

    async def bulk(
        self,
        models: Iterable[M | Mapping[str, Any]] | AsyncIterable[M | Mapping[str, Any]],
        *,
        method: BulkMethod = "create",
        channel: str | None = None,
        user: Any = UNSET,
        options: Mapping[str, Any] | None = None,
        op: str | None = None,
        batch: int = BATCH_RECORDS,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> BulkProgress:
        """Write many models, in batches of one transaction each. It is for the application's event loop.

        Layers run for each record as for any write. Those that run before it is stored must say `bulk=True`, unless
        `batch` is 1: they run for all records of a batch before any of them is stored.

        Parameters:
            models: dicts, or instances of the backend's model. A plain iterable is asked in the event loop, so it must
                not block; give an async one where reading takes long. Only one batch of it is held.
            method: `create`; `update` or `patch` of models that are there; `upsert`, an update that creates the model
                where there is none.
            channel, user, options: see `create`.
            op: the name of this bulk, up to 200 printable characters: its progress is kept in the store with each
                batch. A run that repeats it passes over the rows that are stored, and goes on after them. Each row is
                stored once, however often it is interrupted.
            batch: how many records are stored in one transaction, 1 to 1,000.
            timeout: seconds that each batch may take; `Limits.deadline` by default.
            on_progress: called with a `BulkProgress` after each batch; a plain function, or an async one.

        Returns: how far it has come: to the end.

        Raises:
            BulkError: a row cannot be stored, or a batch cannot, or `models` has raised. It says how many rows are
                stored, and which row is at fault.
            Conflict: other rows were stored under this `op`, or another process runs it too.
            ConfigurationError: the application does not run, a layer is not declared for bulk writes, or the store does
                not have them.
            BadRequest: an argument is not valid.

        Example:
            >>> from bbio import App, Backend
            >>> from bbio.builtin import MemoryStore
            >>> class Todos(Backend):
            ...     store = MemoryStore()
            >>> async def main():
            ...     async with App().serve(Todos).test() as t:
            ...         done = await t.backends["todos"].bulk({"title": f"todo {n}"} for n in range(1_200))
            ...         return done.rows
            >>> asyncio.run(main())
            1200
        """
        self._check_bulk(method, op, batch)
        terms = Terms(channel, user, options, timeout)
        example = self._bulk_request(method, {}, terms)
        async with self._caller.batches(self, example, batch, timeout) as batches:
            run = _Run(self, method, terms, op, batch, batches, on_progress)
            return await run.all_of(models)

    async def pages(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        channel: str | None = None,
        user: Any = UNSET,
        options: Mapping[str, Any] | None = None,
        size: int = PAGE_MODELS,
        timeout: float | None = None,
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Read all models of a query as JSON, page by page; only one page is held.

        A model that is there all the time is on one page, once, whatever others write meanwhile.

        Parameters:
            data: the query (docs/queries.md), without `limit`, `offset`, `cursor` and `count`; without it, all models.
            channel, user, options: see `create`.
            size: how many models a page has at most.
            timeout: seconds that each page may take; `Limits.deadline` by default.

        Raises:
            BadRequest: it is not a valid query.
            SyncError: see `create`.

        Example:
            `async for models in app.backends["todos"].pages({"done": False}):`
        """
        most = size if self.store is None else min(size, self.store.queries.limit)
        query: dict[str, Any] = {**(data or {}), "$limit": most}
        while True:
            terms = Terms(channel, user, {**(options or {}), "data": query}, timeout)
            answer = await self._ask("read", {}, terms)
            yield answer.result
            cursor = answer.page.get("next")
            if cursor is None:
                return
            query["$cursor"] = cursor

    async def bulk_progress(self, op: str) -> BulkProgress | None:
        """Return how far a bulk write has come that was interrupted; None if there is none under this name.

        Parameters:
            op: the name of the bulk.

        Raises:
            SyncError: the store cannot be used at the moment.

        Example:
            `progress = await app.backends["todos"].bulk_progress("import of May")`
        """
        checkpoint = None if self.store is None else await self.store.checkpoint(op)
        if checkpoint is None or checkpoint.is_done:
            return None
        return BulkProgress(checkpoint.rows, checkpoint.rows)

    async def forget_bulk(self, op: str) -> None:
        """Forget a bulk write, so that a run under this name begins anew. What it has stored stays.

        Parameters:
            op: the name of the bulk.

        Raises:
            SyncError: the store cannot be used at the moment.

        Example:
            `await app.backends["todos"].forget_bulk("import of May")`
        """
        if self.store is not None:
            await self.store.set_checkpoint(op, None)

    def _check_bulk(self, method: str, op: str | None, batch: int) -> None:
        if method not in get_args(BulkMethod):
            raise BadRequest(f"bulk(method={method!r}): use any of {', '.join(get_args(BulkMethod))}")
        if op is not None and not (isinstance(op, str) and 0 < len(op) <= MAX_OP and op.isprintable()):
            raise BadRequest(f"op={op!r:.64}: the name of a bulk is a string of 1 to {MAX_OP} printable characters")
        if type(batch) is not int or not 0 < batch <= MAX_BATCH_RECORDS:
            raise BadRequest(f"bulk(batch={batch!r}): a batch has 1 to {MAX_BATCH_RECORDS} records")

    def _bulk_request(self, method: BulkMethod, model: Any, terms: Terms) -> ServerRequest:
        req = self._read("update" if method == "upsert" else method, model, terms)
        req._upserts = method == "upsert"
        return req


class _Run:
    """One run of a bulk write: the rows that are read, and those that are stored."""

    def __init__(
        self,
        calls: Bulks[Any],
        method: BulkMethod,
        terms: Terms,
        op: str | None,
        size: int,
        batches: Batches,
        on_progress: OnProgress | None,
    ) -> None:
        self._calls = calls
        self._method = method
        self._terms = terms
        self._op = op
        self._size = size
        self._batches = batches
        self._on_progress = on_progress
        # The rows that are stored, those that are read, and those that wait for their batch, with their bytes.
        self._rows = self._earlier = 0
        self._row = 0
        self._waiting: list[ServerRequest] = []
        self._bytes = 0
        self._checkpoint: Checkpoint | None = None
        # A digest of all rows that are read, and what it was after each that waits.
        seed = encode([method, terms.channel, terms.user is not UNSET])
        self._digest = blake2b(seed, digest_size=DIGEST_BYTES)
        self._digests: list[bytes] = []

    async def all_of(self, models: Any) -> BulkProgress:
        """Store all rows."""
        store = self._calls.store
        if self._op is not None and store is not None:
            self._checkpoint = await store.checkpoint(self._op)
        self._earlier = 0 if self._checkpoint is None else self._checkpoint.rows
        async for model in self._each(models):
            self._row += 1
            if self._row <= self._earlier:
                await self._pass_over(model)
            else:
                self._take(model)
                if len(self._waiting) >= self._size or self._bytes >= BATCH_BYTES:
                    await self._write()
        if self._row < self._earlier:
            raise self._other(f"there are only {self._row} rows now")
        if self._waiting:
            await self._write()
        self._rows = self._row
        if self._op is not None and store is not None and not (self._checkpoint and self._checkpoint.is_done):
            await store.set_checkpoint(self._op, Checkpoint(self._rows, self._digest.digest(), is_done=True))
        return BulkProgress(self._rows, self._earlier)

    async def _each(self, models: Any) -> AsyncIterator[Any]:
        try:
            if hasattr(models, "__aiter__"):
                async for model in models:
                    yield model
            else:
                for model in models:
                    yield model
        except Exception as err:
            raise self._stopped(err, self._row + 1) from err

    async def _pass_over(self, model: Any) -> None:
        """Look whether a row is the one that is stored already."""
        self._add_to_digest(model)
        checkpoint = self._checkpoint
        if checkpoint is not None and self._row == checkpoint.rows:
            if self._digest.digest() != checkpoint.digest:
                raise self._other("they are other rows now")
            self._rows = self._row
        if not self._row % PASSED_AT_ONCE:
            await asyncio.sleep(0)

    def _take(self, model: Any) -> None:
        if self._checkpoint is not None and self._checkpoint.is_done:
            raise self._other("there are more rows now")
        try:
            req = self._calls._bulk_request(self._method, model, self._terms)
            self._bytes += self._add_to_digest(model)
        except Exception as err:
            raise self._stopped(err, self._row) from err
        self._waiting.append(req)
        if self._op is not None:
            self._digests.append(self._digest.copy().digest())

    def _add_to_digest(self, model: Any) -> int:
        """Add a row to the digest; return its bytes as JSON."""
        body = encode(self._calls._sent(model, self._terms.user))
        if self._op is not None:
            self._digest.update(body + b"\n")
        return len(body)

    async def _write(self) -> None:
        """Store the rows that wait."""
        reqs, digests = self._waiting, self._digests
        self._waiting, self._digests, self._bytes = [], [], 0
        step = None if self._op is None else Step(self._op, self._rows, digests)
        try:
            await self._batches.write(reqs, step)
        except RowRefused as err:
            row = self._rows + 1 + err.index
            self._rows += self._batches.stored
            raise self._stopped(err.error, row) from err.error
        except Exception as err:
            self._rows += self._batches.stored
            raise self._stopped(err) from err
        self._rows += len(reqs)
        if self._on_progress is not None:
            told = self._on_progress(BulkProgress(self._rows, self._earlier))
            if inspect.isawaitable(told):
                await told

    def _stopped(self, err: Exception, row: int | None = None) -> BulkError:
        return BulkError(err, max(self._rows, self._earlier), row)

    def _other(self, what: str) -> Conflict:
        return Conflict(f"the bulk {self._op!r} has stored {self._earlier} rows, and {what}; give this one another op")
