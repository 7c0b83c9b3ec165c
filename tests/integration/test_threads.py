"""Layers in threads: they hold up nobody, and their requests are answered as others are."""

import contextvars
import threading
import time

import pytest

from bbio import Backend, Forbidden, Limits, after, before, create, on_error, read, update
from bbio.builtin import Logger, MemoryStore
from tests.support.wire import SyncFailed

who = contextvars.ContextVar("who", default="nobody")


class Gate:
    """What holds threads until a test opens it."""

    def __init__(self):
        self.open = threading.Event()
        self.passed = threading.Semaphore(0)

    def wait(self):
        self.open.wait(10)
        self.passed.release()


async def test_nobody_is_held_up(serve, join):
    """While a plain method blocks, its own client and others are served; it is answered once it returns."""
    gate = Gate()

    class Slow(Backend):
        @create(thread=True)
        def wait(self, req):
            gate.wait()
            return {**req.model, "thread": threading.current_thread().name.startswith("bbio-layer")}

    app = await serve(Slow)
    alice, bob = await join(app, "slow"), await join(app, "slow")
    id = await alice.start("create", {"n": 1})
    assert await bob.sync("update", {"id": 2}) == await bob.sync("read", {"id": 2}) == {"id": 2}
    gate.open.set()
    assert await alice.finish(id) == {"n": 1, "thread": True}
    assert await bob.synced() == ("create", {"n": 1, "thread": True})


async def test_layers_of_every_kind_may_run_in_threads(serve, join):
    """They raise, answer through `res`, shape and report as they do on the event loop."""
    seen = []

    class Notes(Backend):
        store = MemoryStore()

        @before("write")
        def introduce(self, req):
            who.set("ann")

        @before("write", thread=True)
        def check(self, req, res):
            seen.append((who.get(), threading.current_thread() is threading.main_thread()))
            if req.model.get("title") == "no":
                raise Forbidden("not this one")
            if req.model.get("title") == "odd":
                res.end({"answered": "early"})
            req.model["by"] = who.get()

        @after(thread=True)
        def shape(self, res):
            res.result = {"shaped": res.result}

        @after("create", once=True, thread=True)
        def effect(self, record):
            seen.append(record["title"])

        @on_error(thread=True)
        def note(self, err):
            seen.append(str(err))

    alice = await join(await serve(Notes), "notes")
    made = (await alice.sync("create", {"title": "milk"}))["shaped"]
    assert (made["title"], made["by"]) == ("milk", "ann")
    assert await alice.sync("create", {"title": "odd"}) == {"shaped": {"answered": "early"}}
    with pytest.raises(SyncFailed, match="not this one"):
        await alice.sync("create", {"title": "no"})
    assert seen == [("ann", False), "milk", ("ann", False), ("ann", False), "not this one"]


async def test_a_deadline_answers_while_the_thread_goes_on(serve, join):
    """`Timeout`; a retry is `UnknownOutcome`, and nothing runs twice."""
    gate, runs = Gate(), []

    class Slow(Backend):
        @create(thread=True)
        def wait(self, req):
            runs.append(req.model["n"])
            gate.wait()
            return req.model

    alice = await join(await serve(Slow, limits=Limits(deadline=0.1)), "slow")
    fields = {"method": "create", "model": {"n": 1}, "op": {"c": "me", "n": 1}}
    (reply,) = await alice.namespace.call("sync", fields)
    assert reply["error"]["name"] == "Timeout"
    (reply,) = await alice.namespace.call("sync", fields)
    assert reply["error"]["name"] == "UnknownOutcome"
    gate.open.set()
    assert gate.passed.acquire(timeout=10)
    assert runs == [1]


async def test_the_number_of_threads_is_bounded(serve, join):
    """What finds none free waits for its turn."""
    pairs, lock, counts = threading.Barrier(2), threading.Lock(), [0, 0]

    class Slow(Backend):
        @read(thread=True)
        def wait(self, req):
            with lock:
                counts[0] += 1
                counts[1] = max(counts)
            pairs.wait(10)
            with lock:
                counts[0] -= 1
            pairs.wait(10)
            return req.model

    app = await serve(Slow, limits=Limits(threads=2))
    alice = await join(app, "slow")
    ids = [await alice.start("read", {"n": n}) for n in range(6)]
    assert [await alice.finish(id) for id in ids] == [{"n": n} for n in range(6)]
    assert counts == [0, 2]


async def test_the_log_names_the_layer_that_holds_up_everybody(serve, join, caplog):
    """On either engine; and the last line of all says that the server has stopped."""
    caplog.set_level("INFO", logger="bbio")

    class Slow(Backend):
        middleware = [Logger(user=True, address=True)]

        @before
        def introduce(self, req):
            req.user = {"id": "ann", "email": "ann@example.org"}

        @update
        def sleep(self, req):
            time.sleep(0.4)
            return req.model

    app = await serve(Slow)
    alice = await join(app, "slow")
    await alice.sync("update", {"id": 1})
    await alice.sync("read", {"id": 1})
    await app.stop()
    assert any("Slow.sleep (" in message and "held up" in message for message in caplog.messages)
    assert caplog.messages[-1] == "stopped: slow served no more"
    line = next(message for message in caplog.messages if message.startswith("backend=slow method=update"))
    assert line.endswith("outcome=ok user='ann' address='127.0.0.1'")
    assert "example.org" not in caplog.text
