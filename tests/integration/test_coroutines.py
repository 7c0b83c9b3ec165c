"""Handlers are ordinary coroutines: whatever asyncio offers works in them, from their first line on."""

import asyncio
import contextlib
import contextvars

import pytest

from bbio import Backend, Limits, Timeout, create, read, update, use
from tests.support.servers import heard
from tests.support.wire import SyncFailed

who = contextvars.ContextVar("who", default="nobody")


async def in_a_task_group(_):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0, n)) for n in range(3)]
    return [task.result() for task in tasks]


async def with_a_timeout(_):
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
        return "waited for ever"
    return "timed out"


async def with_a_timeout_that_passed(_):
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.sleep(0)
            await asyncio.Event().wait()
    await asyncio.sleep(0)
    return "timed out"


async def with_wait_for(_):
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)
    return await asyncio.wait_for(asyncio.sleep(0, "in time"), 1)


async def with_gather(_):
    return await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2))


async def in_a_thread(_):
    return await asyncio.to_thread(lambda: "from a thread")


async def with_a_done_future(_):
    future = asyncio.get_running_loop().create_future()
    future.set_result("done already")
    return await future


async def with_a_bare_yield(_):
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return "twice round the loop"


async def with_a_failing_future(_):
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, LookupError("gone"))
    try:
        await future
    except LookupError as err:
        return str(err)


async def with_the_current_task(_):
    task = asyncio.current_task()
    await asyncio.sleep(0)
    return [task is not None, asyncio.current_task() is task, task in asyncio.all_tasks()]


async def with_an_async_generator(_):
    async def numbers():
        for n in range(3):
            yield n
            await asyncio.sleep(0)

    return [n async for n in numbers()]


async def with_a_lock(lock):
    async with lock:
        await asyncio.sleep(0)
        return "held"


CASES = {
    in_a_task_group: [0, 1, 2],
    with_a_timeout: "timed out",
    with_a_timeout_that_passed: "timed out",
    with_wait_for: "in time",
    with_gather: [1, 2],
    in_a_thread: "from a thread",
    with_a_done_future: "done already",
    with_a_bare_yield: "twice round the loop",
    with_a_failing_future: "gone",
    with_the_current_task: [True, True, True],
    with_an_async_generator: [0, 1, 2],
    with_a_lock: "held",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_what_asyncio_offers_works_in_a_handler(serve, join, case):
    """Alone, many at once on one socket, and again afterwards."""
    lock = asyncio.Lock()

    class Todos(Backend):
        @read
        async def run(self, req):
            return {"result": await case(lock)}

    alice = await join(await serve(Todos), "todos")
    for count in (1, 20, 1):
        ids = [await alice.start("read") for _ in range(count)]
        assert [await alice.finish(id) for id in ids] == [{"result": CASES[case]}] * count


async def test_each_request_has_a_context_of_its_own(serve, join):
    """A context variable set by one request is seen below and after waiting, and by no other request."""

    class Todos(Backend):
        @use
        async def set_name(self, req, next):
            before = who.get()
            who.set(req.model["name"])
            await asyncio.sleep(0)
            return {"before": before, **(await next())}

        @create
        async def tell(self, req):
            await asyncio.sleep(0)
            return {"name": who.get(), "in a task": await asyncio.create_task(self.ask())}

        async def ask(self):
            return who.get()

    alice = await join(await serve(Todos), "todos")
    ids = {name: await alice.start("create", {"name": name}) for name in ("a", "b", "c")}
    for name, id in ids.items():
        assert await alice.finish(id) == {"before": "nobody", "name": name, "in a task": name}


async def test_a_handler_that_cancels_itself_is_answered(serve, join):
    """A cancellation that leaks out of a handler ends that request alone."""

    class Todos(Backend):
        @create
        async def give_up(self, req):
            if req.model["wait"]:
                await asyncio.sleep(0)
            raise asyncio.CancelledError

        @update
        async def cancel(self, req):
            asyncio.current_task().cancel()
            if req.model["wait"]:
                await asyncio.sleep(0)
            return req.model

    alice = await join(await serve(Todos), "todos")
    for wait in (False, True, False, True):
        with pytest.raises(SyncFailed):
            await alice.sync("create", {"wait": wait})
        id = await alice.start("update", {"id": 1, "wait": wait})
        await alice.namespace.reply(id)
        assert await alice.sync("read", {"n": wait}) == {"n": wait}


async def test_an_error_of_a_task_group_is_one_error(serve, join):
    """What fails in a group of tasks is an internal error, and the next request is not affected."""

    class Todos(Backend):
        @create
        async def group(self, req):
            async with asyncio.TaskGroup() as group:
                group.create_task(self.fail())
                group.create_task(asyncio.sleep(60))
            return req.model

        async def fail(self):
            raise RuntimeError

    alice = await join(await serve(Todos), "todos")
    for _ in range(3):
        with pytest.raises(SyncFailed, match="InternalError"):
            await alice.sync("create", {})
        assert await alice.sync("read", {"n": 1}) == {"n": 1}


async def test_a_handlers_own_timeout_is_told_from_the_deadline(serve, join):
    """A handler may turn its own timeout into an error or an answer; the deadline is another matter."""

    class Todos(Backend):
        @create
        async def limited(self, req):
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            except TimeoutError:
                raise Timeout("the shop did not answer") from None

    alice = await join(await serve(Todos, limits=Limits(deadline=20)), "todos")
    with pytest.raises(SyncFailed, match="the shop did not answer"):
        await alice.sync("create", {})


async def test_a_handler_may_tell_and_wait_and_tell(serve, join):
    """Events emitted before and after waiting arrive in the order they were emitted."""

    class Todos(Backend):
        @create
        async def steps(self, req):
            backend = app.backends["todos"]
            for n in range(5):
                backend.emit("updated", {"n": n})
                await asyncio.sleep(0)
            return {"n": 5}

    app = await serve(Todos)
    alice, bob = await join(app, "todos"), await join(app, "todos")
    await alice.sync("create", {})
    to_alice, to_bob = await heard(app.backends["todos"], alice, bob)
    assert [model["n"] for _, model in to_alice] == [0, 1, 2, 3, 4]
    assert [model["n"] for _, model in to_bob] == [0, 1, 2, 3, 4, 5]


async def test_a_context_variable_stays_with_its_request(serve, join):
    """A request that waited for another, or for a free place, does not see what that one has set."""

    class Todos(Backend):
        @update
        async def tell(self, req):
            seen = who.get()
            if req.options.get("name"):
                who.set(req.options["name"])
            await asyncio.sleep(0.01)
            return {"seen": seen, "own": who.get()}

    app = await serve(Todos, limits=Limits(running=2))
    alice = await join(app, "todos")
    ids = [
        await alice.start("update", {"id": id}, {"name": name})
        for id, name in [(1, "ann"), (1, "bob"), (1, None), (2, "cid"), (3, None), (4, "dan"), (5, None)]
    ]
    replies = [(await alice.namespace.reply(id))[1] for id in ids]
    assert [reply["seen"] for reply in replies] == ["nobody"] * 7
    assert [reply["own"] for reply in replies] == ["ann", "bob", "nobody", "cid", "nobody", "dan", "nobody"]
