"""Running a coroutine without a task, until it really waits.

Most requests never wait: their stack runs to the end in one step, and a task for each would cost more than the work.
A `Runner` is a parked asyncio task. A coroutine takes its first step right where it is started, in the name of that
task (`asyncio.current_task()` is it, so timeouts and task groups work); if the coroutine waits, the task takes it over.
"""

from __future__ import annotations

import asyncio
import types
from asyncio.tasks import _enter_task, _leave_task  # documented for implementers of event loops
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any

PARKED_RUNNERS = 16

Job = Coroutine[Any, Any, None]


class Runner:
    """A task that waits to take over coroutines, one at a time."""

    __slots__ = ("_context", "_job", "_stepper", "_wake", "_yielded", "task")

    def __init__(self, stepper: Stepper, loop: asyncio.AbstractEventLoop) -> None:
        self._stepper = stepper
        self._job: Job | None = None
        self._wake: asyncio.Future[None] = loop.create_future()
        self.task: asyncio.Task[None] = loop.create_task(self._run())
        self.task.set_name("bbio-runner")
        self.task.add_done_callback(self._ended)

    def take_over(self, job: Job, context: Context, yielded: Any) -> None:
        """Carry on with a job that waits for what it yielded."""
        self._job = job
        self._context = context
        self._yielded = yielded
        self._wake.set_result(None)

    async def _run(self) -> None:
        # A task wants a native coroutine; what passes on the yields of others can only be a generator.
        await self._drive()

    @types.coroutine
    def _drive(self) -> Generator[Any, Any, None]:
        loop = asyncio.get_running_loop()
        while True:
            arrival: BaseException | None = None
            try:
                yield from self._wake
            except asyncio.CancelledError as cancelled:
                arrival = cancelled
            if self._job is None:
                # Cancelled while parked: by a loop that closes, or by a job that ended without waiting.
                return
            self._wake = loop.create_future()
            yield from self._finish(self._job, arrival)
            self._job = None
            while self.task.cancelling():
                self.task.uncancel()
            if not self._stepper.park(self):
                return

    @types.coroutine
    def _finish(self, job: Job, arrival: BaseException | None) -> Generator[Any, Any, None]:
        run, stepper, yielded = self._context.run, self._stepper, self._yielded
        # A future holds its result: what is not waited for any more is not held, least of all by who is parked.
        del self._context, self._yielded
        sent: Any = None
        while True:
            if arrival is None:
                try:
                    sent = yield yielded
                except BaseException as err:
                    arrival = err
            stepper.stepping = True
            try:
                if arrival is None:
                    yielded = run(job.send, sent)
                else:
                    thrown, arrival = arrival, None
                    yielded = run(job.throw, thrown)
            except StopIteration:
                return
            except asyncio.CancelledError:
                return
            finally:
                stepper.stepping = False
                stepper.after_step()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task that is cancelled before it has begun never comes to its job: then it is cancelled here."""
        if self._job is not None:
            with suppress(StopIteration, asyncio.CancelledError):
                self._context.run(self._job.throw, asyncio.CancelledError())


class Stepper:
    """Starts coroutines.

    Parameters:
        after_step: called after every outermost step, when the coroutine has ended or waits.
    """

    def __init__(self, after_step: Callable[[], None]) -> None:
        self.after_step = after_step
        self.stepping = False
        self.closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parked: list[Runner] = []

    def start(self, job: Job, context: Context | None = None) -> asyncio.Task[None] | None:
        """Run a coroutine up to where it first waits. It must handle its own errors.

        Parameters:
            job: the coroutine.
            context: the context it runs in; a copy of the current one by default.

        Returns: the task that carries on with it, None when it has ended.
        """
        loop = self._loop
        if loop is None:
            self.open()
            loop = asyncio.get_running_loop()
        parked = self._parked
        runner = parked.pop() if parked else Runner(self, loop)
        task = runner.task
        outer_task = asyncio.current_task(loop)
        if outer_task is not None:
            _leave_task(loop, outer_task)
        _enter_task(loop, task)
        outer = self.stepping
        self.stepping = True
        if context is None:
            context = copy_context()
        try:
            yielded = context.run(job.send, None)
        except (StopIteration, asyncio.CancelledError):
            if not self.park(runner):
                task.cancel()
            return None
        finally:
            _leave_task(loop, task)
            if outer_task is not None:
                _enter_task(loop, outer_task)
            self.stepping = outer
            if not outer:
                self.after_step()
        if task.cancelling():
            runner = Runner(self, loop)  # something had cancelled it while it was parked
        runner.take_over(job, context, yielded)
        return runner.task

    def start_bare(self, job: Job) -> asyncio.Task[None] | None:
        """Start a coroutine in which no code runs that could ask for its task or its context."""
        outer = self.stepping
        self.stepping = True
        try:
            yielded = job.send(None)
        except StopIteration:
            return None
        finally:
            self.stepping = outer
            if not outer:
                self.after_step()
        runner = Runner(self, asyncio.get_running_loop())
        runner.take_over(job, copy_context(), yielded)
        return runner.task

    def park(self, runner: Runner) -> bool:
        """Keep a runner for the next coroutine; False when there are enough, or it is being cancelled."""
        if self.closing or len(self._parked) >= PARKED_RUNNERS or runner.task.cancelling():
            return False
        self._parked.append(runner)
        return True

    def open(self) -> None:
        """Begin, or begin again, on the running loop."""
        self.closing = False
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """End the parked tasks."""
        self.closing = True
        parked, self._parked = self._parked, []
        for runner in parked:
            runner.task.cancel()
        await asyncio.gather(*(runner.task for runner in parked), return_exceptions=True)
