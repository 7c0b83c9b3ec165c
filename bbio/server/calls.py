"""Calls of the server's own code, through the stacks: their deadline, their turns, and the calls within them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from bbio.calls import Answer
from bbio.errors import ConfigurationError, EncodingError, StackError, SyncError, Timeout, Unavailable
from bbio.protocol import decode, encode
from bbio.registry import Registry
from bbio.requests import ListSize, Request, ServerRequest
from bbio.runtime import Runtime
from bbio.server.bulk import BulkBatches
from bbio.server.limits import Limits
from bbio.server.memory import Address, Addresses, ListRoom
from bbio.stack.stack import Run
from bbio.stack.threads import OUTER_CALLS
from bbio.streams import Operation

T = TypeVar("T")

# Seconds that a thread waits for the answer of a call beyond its deadline: longer than the server needs to say so.
ANSWER_SECONDS = 5.0
# Seconds that calls get to end in when the application stops, once they were told.
END_SECONDS = 0.5
# Calls that an error names.
SHOWN_CALLS = 4

# Seconds after which a thread that waits looks for signals.
SIGNAL_SECONDS = 0.2

Link = tuple[Runtime, str, Operation | None]


class CallRoom(ListRoom):
    """The room that there is for the list of one call.

    Parameters:
        limits: the application's limits.
        address: what the lists of all calls are a share of.
        runtime: the backend.
        is_nested: whether the call is within another one, which may hold a list: it must not wait for it.
    """

    __slots__ = ("_is_nested", "_runtime")

    def __init__(self, limits: Limits, address: Address, *, is_nested: bool) -> None:
        super().__init__(limits, address)
        self._is_nested = is_nested

    def most(self, req: Request) -> ListSize:
        memory = self._limits.memory
        return ListSize(max(self._limits.reply, memory / 4), memory)

    def passes_on(self, req: Request) -> bool:
        return False

    async def hold(self, req: Request, size: ListSize) -> None:
        if self._is_nested:
            self.check(req, size)
        else:
            await super().hold(req, size)


class ServerCalls:
    """Runs the calls of the server's own code.

    Parameters:
        registry: the served backends.
        limits: the application's limits.
    """

    def __init__(self, registry: Registry, limits: Limits) -> None:
        self._registry = registry
        self._limits = limits
        self.running: set[asyncio.Timeout] = set()
        # Lists of calls share nothing with those of clients, which may wait for calls.
        self._address = Addresses(limits).of("the server itself")
        self._turns = asyncio.Semaphore(limits.calls)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None
        self._process = 0
        self._one_ended = asyncio.Event()

    def open(self) -> None:
        """Take calls from now on, on the running loop."""
        self._turns = asyncio.Semaphore(self._limits.calls)
        self._one_ended = asyncio.Event()
        self._thread = threading.get_ident()
        self._process = os.getpid()
        self._loop = asyncio.get_running_loop()

    async def drain(self, seconds: float) -> int:
        """Let calls finish, for a time; those that do not are `Unavailable`.

        Returns: how many did not.
        """
        await self._wait(seconds)
        unfinished = len(self.running)
        self._give_up()
        return unfinished

    async def close(self) -> None:
        """Take no more calls, and end those that run."""
        self._loop = self._thread = None
        self._give_up()
        await self._wait(END_SECONDS)

    def _give_up(self) -> None:
        for deadline in self.running:
            if not deadline.expired():
                deadline.reschedule(0)

    async def _wait(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        while self.running:
            self._one_ended.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._one_ended.wait()
            except TimeoutError:
                return

    async def call(self, runtime: Runtime, req: ServerRequest, timeout: float | None) -> Answer:
        """Run a request through the stack of its backend; from any thread that has an event loop.

        Parameters:
            runtime: the backend.
            req: the request.
            timeout: seconds until it fails; `Limits.deadline` if None.

        Raises:
            SyncError: the request failed.
            StackError: it is within too many calls, or within one that has the same operation id.
            ConfigurationError: the application does not run.
        """
        loop = self._running_loop(f"{runtime.name}.{req.method}")
        if asyncio.get_running_loop() is loop:
            return await self._call(runtime, req, timeout)
        future = _submit(self._call(runtime, req, timeout), loop)
        try:
            async with asyncio.timeout(self._longest(timeout)):
                return await asyncio.wrap_future(future)
        except TimeoutError as err:
            if isinstance(err, Timeout):
                raise
            raise Timeout from None

    def block(self, call: Coroutine[Any, Any, T], timeout: float | None) -> T:
        """Run a coroutine that makes a call, and wait for it; from a thread without the server's event loop.

        Parameters:
            call: the coroutine.
            timeout: the timeout of the call.

        Raises:
            ConfigurationError: the application does not run, or this is the thread of its event loop.
        """
        try:
            loop = self._running_loop("a call")
            if threading.get_ident() == self._thread:
                raise ConfigurationError(
                    "a blocking call would wait for the event loop that it holds up; "
                    "await the call, or make it in a thread: @before(thread=True), asyncio.to_thread"
                )
            future = _submit(call, loop)
        except BaseException:
            call.close()
            raise
        try:
            return result_of(future, self._longest(timeout))
        except TimeoutError as err:
            future.cancel()
            if isinstance(err, Timeout):
                raise
            raise Timeout from None
        except concurrent.futures.CancelledError:
            raise Unavailable("the application has stopped", retry_after=1.0) from None

    def check_loop(self, call: str) -> None:
        """Raise where the application does not run, or runs in another event loop.

        Parameters:
            call: what is asked for.

        Raises:
            ConfigurationError: it is so.
        """
        if asyncio.get_running_loop() is not self._running_loop(call):
            raise ConfigurationError(f"{call} is for the event loop that the application runs in; use it there")

    def _longest(self, timeout: float | None) -> float:
        return (self._limits.deadline if timeout is None else timeout) + ANSWER_SECONDS

    def _running_loop(self, call: str) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise ConfigurationError(
                f"{call}: the application does not run; make calls between its start and its stop: "
                "async with app.running(), async with app.test(), or async with bbio.open(app)"
            )
        if self._process != os.getpid():
            raise ConfigurationError(
                f"{call}: the application was started before this process was forked, and runs in the other one; "
                "start or open it in each process, after the fork"
            )
        return self._loop

    async def _call(self, runtime: Runtime, req: ServerRequest, timeout: float | None) -> Answer:
        self._running_loop(f"{runtime.name}.{req.method}")  # it may have stopped on the way here
        runtime.check_reach(req.method)
        room = req.room = CallRoom(self._limits, self._address, is_nested=bool(OUTER_CALLS.get()))
        try:
            async with self._turn((runtime, req.method, req.operation), timeout):
                return await self._run(runtime, req)
        finally:
            room.leave(req)

    @asynccontextmanager
    async def _turn(self, link: Link, timeout: float | None) -> AsyncIterator[None]:
        """Enter the turn of a call, and leave it when its time is over."""
        outer: tuple[Link, ...] = OUTER_CALLS.get()
        self._check_depth((*outer, link))
        token = OUTER_CALLS.set((*outer, link))
        try:
            async with self._deadline(self._limits.deadline if timeout is None else timeout):
                if outer:
                    yield  # it must not wait for those that it is within
                else:
                    async with self._turns:
                        yield
        finally:
            OUTER_CALLS.reset(token)

    @asynccontextmanager
    async def batches(
        self, runtime: Runtime, req: ServerRequest, size: int, timeout: float | None
    ) -> AsyncIterator[BulkBatches]:
        """Begin a bulk write.

        Parameters:
            runtime: the backend.
            req: a request like those that follow.
            size: how many records a batch has at most.
            timeout: seconds that a batch may take; `Limits.deadline` if None.

        Raises:
            ConfigurationError: the application does not run, or runs in another event loop, or the stack is not for
                bulk writes.
        """
        name = f"{runtime.name}.bulk"
        self.check_loop(name)
        runtime.check_reach(req.method)

        def turn() -> AbstractAsyncContextManager[None]:
            self._running_loop(name)  # it may have stopped
            return self._turn((runtime, req.method, None), timeout)

        batches = BulkBatches(runtime, req, size, turn, self._unexpected, self._limits.bulk_events)
        try:
            yield batches
        finally:
            batches.close()

    def _check_depth(self, links: tuple[Link, ...]) -> None:
        shown = " > ".join(f"{runtime.name}.{method}" for runtime, method, _ in links[-SHOWN_CALLS:])
        if len(links) > self._limits.call_depth:
            raise StackError(
                f"{len(links)} calls are within each other (... > {shown}); a layer calls itself, or raise "
                "Limits(call_depth=...)"
            )
        *outer, (runtime, _, operation) = links
        if operation is not None and any(each[0] is runtime and each[2] == operation for each in outer):
            raise StackError(f"{shown}: a call within another one has its operation id, and would wait for it for ever")

    @asynccontextmanager
    async def _deadline(self, seconds: float) -> AsyncIterator[None]:
        """Give a call so many seconds; `drain` and `close` may end it earlier.

        Raises:
            Timeout: they have passed.
            Unavailable: the application stops.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        try:
            async with asyncio.timeout_at(until) as deadline:
                self.running.add(deadline)
                yield
        except TimeoutError:
            if not deadline.expired():
                raise
            if deadline.when() == until:
                raise Timeout from None
            raise Unavailable("the application stops", retry_after=1.0) from None
        finally:
            self.running.discard(deadline)
            self._one_ended.set()

    async def _run(self, runtime: Runtime, req: ServerRequest) -> Answer:
        stack, res = runtime.stacks[req.method], Run()
        await stack.run(req, self._unexpected, res)
        failure = res.failure
        if isinstance(failure, SyncError):
            # The attributes as the caller may see them, like the values.
            for name in failure.details:
                setattr(failure, name, failure.values.get(name))
        if failure is not None:
            raise failure
        try:
            # A copy: stores and layers keep what they have answered.
            result = decode(res.body or encode(res.result))
        except EncodingError as err:
            stack.explain(err, req, res.result)
            raise
        page = None if res.found is None else res.found.page
        return Answer(result, page or {})

    def _unexpected(self, err: Exception, req: Request) -> Exception:
        internal = self._registry.internal_error(err, req)
        internal.__cause__ = err
        return internal


def result_of(future: concurrent.futures.Future[T], seconds: float = math.inf) -> T:
    """Wait for a future, in a thread without an event loop. Ctrl-C ends the wait also where it came just before it.

    A signal that comes when a thread is about to sleep does not wake it up.

    Parameters:
        future: the future.
        seconds: how long to wait.

    Raises:
        TimeoutError: it took longer.
    """
    until = time.monotonic() + seconds
    while not future.done():
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        concurrent.futures.wait((future,), min(left, SIGNAL_SECONDS))
    return future.result()


def _submit(call: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> concurrent.futures.Future[T]:
    """Have another thread's loop run a coroutine."""
    try:
        return asyncio.run_coroutine_threadsafe(call, loop)
    except RuntimeError:  # it was closed just now
        call.close()
        raise ConfigurationError("the application does not run any more") from None
