"""Coroutines without tasks: where they run, who carries on with them, and what may be cancelled."""

import asyncio
import contextlib
import contextvars
import inspect
import weakref

import pytest

from bbio.server.eager import PARKED_RUNNERS, Stepper


@pytest.fixture
async def stepper():
    """A stepper, closed after the test; `steps` counts the outermost steps that have ended."""
    made = Stepper(lambda: None)
    made.steps = 0

    def after_step():
        made.steps += 1

    made.after_step = after_step
    yield made
    await made.close()


async def rounds(count=5):
    """Let the event loop run so many rounds."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("bare", [False, True])
async def test_what_does_not_wait_ends_at_once(stepper, bare):
    """It has run when `start` returns, and no task carries on with it."""
    ran = []

    async def job():
        ran.append(stepper.stepping)

    assert (stepper.start_bare if bare else stepper.start)(job()) is None
    assert (ran, stepper.steps, stepper.stepping) == ([True], 1, False)


@pytest.mark.parametrize("bare", [False, True])
async def test_what_waits_is_carried_on_with(stepper, bare):
    """By a task, with what it waited for; every step counts."""
    gate = asyncio.get_running_loop().create_future()
    ran = []

    async def job():
        ran.append(await gate)
        ran.append(asyncio.current_task())

    task = (stepper.start_bare if bare else stepper.start)(job())
    assert ran == []
    gate.set_result("opened")
    await rounds()
    assert ran == ["opened", task]
    assert (stepper.steps, stepper.stepping) == (2, False)


async def test_tasks_are_given_native_coroutines(stepper):
    """Python 3.12 refuses others, and then nothing that waits would ever go on."""
    gate = asyncio.Event()
    for start in (stepper.start, stepper.start_bare):
        assert inspect.iscoroutine(start(gate.wait()).get_coro())
    gate.set()
    await rounds()


async def test_every_step_runs_in_the_name_of_one_task(stepper):
    """The first too, so that timeouts work; the caller's own task is itself again afterwards."""
    tasks, ended = [], asyncio.Event()

    async def job():
        tasks.append(asyncio.current_task())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        tasks.append(asyncio.current_task())
        ended.set()

    mine = asyncio.current_task()
    task = stepper.start(job())
    assert asyncio.current_task() is mine
    await ended.wait()
    assert tasks == [task, task]


async def test_from_a_callback_of_the_loop(stepper):
    """Where no task runs, there is none to come back to."""
    seen = []

    async def job():
        seen.append(asyncio.current_task() is not None)

    loop = asyncio.get_running_loop()
    loop.call_soon(stepper.start, job())
    loop.call_soon(lambda: seen.append(asyncio.current_task()))
    await rounds()
    assert seen == [True, None]


async def test_what_it_no_longer_waits_for_is_not_held(stepper):
    """Neither while it goes on, nor by its task, which is parked for the next: a result may be a large model."""

    class Large:
        """What can be looked for."""

    loop, variable = asyncio.get_running_loop(), contextvars.ContextVar("variable")
    first, second = loop.create_future(), loop.create_future()

    async def job(first):
        variable.set(Large())
        seen.append(weakref.ref(variable.get()))
        seen.append(weakref.ref(await first))
        del first
        await second

    seen = []
    task = stepper.start(job(first))
    first.set_result(Large())
    del first
    await rounds()
    in_context, awaited = seen
    assert (in_context() is None, awaited() is None) == (False, True)
    second.set_result(None)
    await rounds()
    assert not task.done()  # it is parked
    assert in_context() is None


async def test_errors_of_what_it_waits_for_arrive(stepper):
    """As they do in a task."""
    gate = asyncio.get_running_loop().create_future()
    caught = []

    async def job():
        try:
            await gate
        except ValueError as err:
            caught.append(err)

    stepper.start(job())
    error = ValueError("x")
    gate.set_exception(error)
    await rounds()
    assert caught == [error]


@pytest.mark.parametrize("survives", [False, True])
async def test_cancelling_the_task_cancels_the_coroutine(stepper, survives):
    """It may clean up or go on; its task then serves the next one as if nothing had been."""
    seen = []

    async def job():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            if not survives:
                raise
        await asyncio.sleep(0)
        seen.append("went on")

    task = stepper.start(job())
    await rounds()
    task.cancel()
    await rounds()
    assert seen == ["cancelled"] + ["went on"] * survives
    assert not task.done()
    assert task.cancelling() == 0
    gate = asyncio.Event()
    assert stepper.start(gate.wait()) is task
    gate.set()


@pytest.mark.parametrize("warm", [False, True])
async def test_a_coroutine_cancelled_before_its_task_runs(stepper, warm):
    """The cancellation arrives, whether the task is new or was parked."""
    seen = []

    async def job():
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cleaned up")

    if warm:
        stepper.start(asyncio.sleep(0))
        await rounds()
    stepper.start(job()).cancel()
    await rounds()
    assert seen == ["cleaned up"]


async def test_a_coroutine_that_cancels_itself_and_ends(stepper):
    """Its task is not used again."""
    used = []

    async def job():
        used.append(asyncio.current_task())
        asyncio.current_task().cancel()

    async def raises():
        raise asyncio.CancelledError

    assert stepper.start(job()) is None
    await rounds()
    assert used[0].done()
    assert stepper.start(raises()) is None
    assert stepper.start(asyncio.sleep(0)) is not used[0]
    await rounds()


@pytest.mark.parametrize("wait", [0, 5])
async def test_a_parked_task_that_was_cancelled_is_replaced(stepper, wait):
    """Somebody who kept `current_task()` cannot harm the next coroutine."""
    used, gate = [], asyncio.Event()

    async def job():
        used.append(asyncio.current_task())

    stepper.start(job())
    await rounds()
    used[0].cancel()
    await rounds(wait)
    ended = []

    async def waits():
        await gate.wait()
        ended.append(True)

    task = stepper.start(waits())
    assert task is not used[0]
    await rounds()
    gate.set()
    await rounds()
    assert (ended, task.done()) == ([True], False)


async def test_so_many_tasks_are_kept(stepper):
    """Of those that a rush has made the rest ends."""
    gate = asyncio.Event()
    tasks = [stepper.start(gate.wait()) for _ in range(PARKED_RUNNERS + 3)]
    assert len(set(tasks)) == PARKED_RUNNERS + 3
    gate.set()
    await rounds()
    assert sum(task.done() for task in tasks) == 3


async def test_a_closed_stepper_keeps_nothing(stepper):
    """What still runs ends, its task too; opened again it starts anew."""
    gate = asyncio.Event()
    parked = stepper.start(asyncio.sleep(0))
    running = stepper.start(gate.wait())
    await rounds()
    await stepper.close()
    assert parked.done()
    gate.set()
    await rounds()
    assert running.done()
    assert stepper.start(asyncio.sleep(0)).get_name() == "bbio-runner"
    await rounds()
    stepper.open()
    assert stepper.start(asyncio.sleep(0)) is not running
    await rounds()


async def test_a_step_within_a_step(stepper):
    """What a coroutine starts counts as part of its own step."""
    gate = asyncio.Event()

    async def inner():
        await gate.wait()

    async def outer():
        stepper.start(inner())
        stepper.start_bare(inner())
        stepper.start_bare(asyncio.sleep(0))
        assert stepper.stepping
        assert stepper.steps == 0

    stepper.start(outer())
    assert stepper.steps == 1
    gate.set()
    await rounds()
    assert stepper.steps == 4
