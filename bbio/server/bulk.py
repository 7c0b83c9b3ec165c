"""Batches of bulk writes: the stacks of many requests side by side, which wait for each other at the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from bbio.errors import ConfigurationError, StackError
from bbio.requests import Request, ServerRequest
from bbio.runtime import Runtime
from bbio.stack.stack import Run, Stack, Unexpected
from bbio.store import RowRefused, Step, Store
from bbio.streams import Commit, Event, channel_stream

# Layers that an error names.
SHOWN_LAYERS = 3

Turn = Callable[[], AbstractAsyncContextManager[None]]


class Gate:
    """The place above the store where the writes of a batch wait for each other.

    Example:
        `Stack("create", layers, write=gate.write)`
    """

    def __init__(self) -> None:
        self._waiting: dict[Request, asyncio.Future[Commit]] = {}
        self._expected = 0
        self._all_here: asyncio.Future[None] | None = None

    def open(self, count: int) -> asyncio.Future[None]:
        """Expect so many requests; the future is done when each waits here or has ended.

        Parameters:
            count: how many.
        """
        self._waiting = {}
        self._expected = count
        self._all_here = asyncio.get_running_loop().create_future()
        return self._all_here

    async def write(self, req: Request) -> Commit:
        """Wait until the whole batch is stored; return the commit of this request."""
        future: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
        self._waiting[req] = future
        self.arrive()
        return await future

    def arrive(self) -> None:
        """Count a request that waits here, or has ended on the way."""
        self._expected -= 1
        if not self._expected and self._all_here is not None and not self._all_here.done():
            self._all_here.set_result(None)

    def has(self, req: Request) -> bool:
        """Return whether a request waits here."""
        return req in self._waiting

    def answer(self, req: Request, commit: Commit) -> None:
        """Let a request go on, which is stored."""
        self._waiting[req].set_result(commit)

    def refuse(self, req: Request, err: Exception) -> None:
        """Let a request go on, which cannot be stored."""
        self._waiting[req].set_exception(err)


class BulkBatches:
    """The batches of one bulk write.

    Parameters:
        runtime: the backend.
        example: a request like those that follow.
        size: how many records a batch has at most.
        turn: enters the turn of one batch among the calls of the server, with its deadline.
        unexpected: what is raised in place of an error that is no `SyncError`.
        most_told: how many records listeners are told one by one; past it they are told once to look at the log.

    Attributes:
        stored: how many records of the last batch are stored.

    Raises:
        ConfigurationError: the stack is not for bulk writes; the text says how to mend it.
    """

    def __init__(
        self,
        runtime: Runtime,
        example: ServerRequest,
        size: int,
        turn: Turn,
        unexpected: Unexpected,
        most_told: int,
    ) -> None:
        self._runtime = runtime
        self._turn = turn
        self._unexpected = unexpected
        self._most_told = most_told
        self._told = 0
        # Whether there was something that nobody was told of, and the last event of it.
        self._is_silent = False
        self._untold: Event | None = None
        self._stream = channel_stream(example.channel)
        self.stored = 0
        self._gate = Gate()
        self._store, self._stack = self._checked(example, size)

    def _checked(self, example: ServerRequest, size: int) -> tuple[Store, Stack]:
        runtime, method = self._runtime, example.method
        store = runtime.store
        if store is None or not store.promises(method).bulk:
            given = "it has no store" if store is None else f"{type(store).__qualname__} does not"
            raise ConfigurationError(
                f"{runtime.name}.bulk(): it needs a store that writes many records in one transaction, and {given}; "
                "give it a MemoryStore, SQLiteStore or PostgresStore, or a store of your own that promises `bulk`; or "
                f"make calls of {method}, one by one"
            )
        stack = runtime.bulk_stack(method, self._gate.write, self._refuse_answer, is_shown=example.is_for_client)
        layers = [] if size == 1 else stack.not_for_bulk
        if layers:
            named = ", ".join(f"{layer.name} ({layer.where})" for layer in layers[:SHOWN_LAYERS])
            raise ConfigurationError(
                f"{runtime.name}.bulk(): not declared for bulk writes: {named}. If a layer may run for all records of "
                "a batch before any of them is stored, and for records that then are not stored, write bulk=True, such "
                f"as @before({method!r}, bulk=True); else write each record by itself, with batch=1 (--batch 1)"
            )
        return store, stack

    async def write(self, reqs: Sequence[ServerRequest], step: Step | None) -> None:
        """Run a batch through the stack, and store it.

        Raises:
            RowRefused: one of the records cannot be stored; nothing of the batch is.
            SyncError: the batch could not be stored, or nobody knows whether it is.
        """
        self.stored = 0
        async with self._turn():
            runs = [Run() for _ in reqs]
            all_here = self._gate.open(len(reqs))
            tasks = [asyncio.ensure_future(self._run(req, run)) for req, run in zip(reqs, runs, strict=True)]
            try:
                await all_here
                self._check_all_wait(reqs, runs)
                await self._store_all(reqs, runs, tasks, step)
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        self._check_after(runs)

    async def _run(self, req: ServerRequest, run: Run) -> None:
        try:
            await self._stack.run(req, self._unexpected, run)
        finally:
            if not self._gate.has(req):
                self._gate.arrive()

    async def _refuse_answer(self, req: Request, result: Any) -> Commit:
        raise StackError(
            f"a layer has answered {self._runtime.name}.{req.method} in place of the store, which keeps nothing of it; "
            "bulk writes are for layers that hand over to the store: return await next()"
        )

    def _check_all_wait(self, reqs: Sequence[ServerRequest], runs: Sequence[Run]) -> None:
        for index, (req, run) in enumerate(zip(reqs, runs, strict=True)):
            if not self._gate.has(req):
                failure = run.failure or StackError(f"a layer of {self._runtime.name}.{req.method} recovers its error")
                cause = failure.__cause__
                raise RowRefused(index, cause if isinstance(cause, StackError) else failure)

    async def _store_all(
        self,
        reqs: Sequence[ServerRequest],
        runs: Sequence[Run],
        tasks: Sequence[asyncio.Task[None]],
        step: Step | None,
    ) -> None:
        while self.stored < len(reqs):
            left = reqs[self.stored :]
            self._is_silent = self._is_silent or self._told + len(left) > self._most_told
            try:
                commits = await self._store.write_all(left, step, tells=not self._is_silent)
            except RowRefused as err:
                # Its `on_error` layers see it, and may make another error of it.
                index = self.stored + err.index
                self._gate.refuse(reqs[index], err.error)
                await tasks[index]
                raise RowRefused(index, runs[index].failure or err.error) from None
            for req, commit in zip(left, commits, strict=False):
                self._gate.answer(req, commit)
            self.stored += len(commits)
            step = None if step is None else step.rest(len(commits))
            if self._is_silent:
                self._untold = commits[-1].event
            else:
                self._told += len(commits)

    def _check_after(self, runs: Sequence[Run]) -> None:
        """Raise the error of a layer that ran when all was stored."""
        for index, run in enumerate(runs):
            if run.failure is not None:
                raise RowRefused(index, run.failure)

    def close(self) -> None:
        """Tell that there was something of which nobody was told."""
        if self._untold is not None:
            self._runtime.log.broker.tell(self._untold)
        if self._is_silent:
            self._runtime.publisher.doubt([self._stream])
