"""What a client learns of a failure, and what the log does."""

import datetime
import logging
import re
from typing import Any

import attrs
import pytest

from bbio import (
    Backend,
    Conflict,
    after,
    before,
    create,
    on_error,
    read,
    use,
)
from bbio.builtin import MemoryStore
from tests.support.servers import heard
from tests.support.wire import SyncFailed

SECRET = "postgres://root:hunter2@db"


async def failure(client, method="create", model=None):
    """The error object of a sync that must fail."""
    with pytest.raises(SyncFailed) as caught:
        await client.sync(method, model)
    return caught.value.error


async def test_an_error_acks_with_one_argument(serve, join):
    """A failed sync is acked with `[{"error": {...}}]`, as the original's clients expect."""

    class Todos(Backend):
        @create
        def never(self, req):
            raise Conflict("no")

    alice = await join(await serve(Todos), "todos")
    ack = await alice.namespace.call("sync", {"method": "create", "model": {}, "options": {}})
    assert ack == [{"error": {"name": "Conflict", "message": "no", "code": 409}}]


async def test_debug_adds_message_and_stack(serve, join):
    """With `debug=True` the developer's browser shows what happened and where."""

    class Todos(Backend):
        @create
        def broken(self, req):
            raise RuntimeError("out of milk")

    alice = await join(await serve(Todos, debug=True), "todos")
    error = await failure(alice)
    assert error["name"] == "InternalError"
    assert "out of milk" in error["message"]
    assert "in broken" in error["stack"]


async def test_a_use_layer_that_answers_nothing_is_the_developers_error(serve, join, caplog):
    """The client learns nothing of it; the log names the layer."""

    class Todos(Backend):
        @use("create")
        async def forgot(self, req, next):
            pass

    alice = await join(await serve(Todos), "todos")
    with caplog.at_level(logging.ERROR, logger="bbio"):
        error = await failure(alice)
    assert error["name"] == "InternalError"
    assert "forgot" not in str(error)
    assert "forgot" in caplog.text


async def test_an_on_error_layer_may_replace_or_recover(serve, join):
    """What on_error raises is what the client sees; what it answers is the reply, and nobody is told."""

    class Todos(Backend):
        @create
        def broken(self, req):
            raise RuntimeError(req.model["kind"])

        @on_error
        def translate(self, err, req, res):
            if str(err) == "replace":
                raise Conflict("translated")
            res.end({"recovered": True})

    app = await serve(Todos)
    alice, bob = await join(app, "todos"), await join(app, "todos")
    assert (await failure(alice, "create", {"kind": "replace"}))["message"] == "translated"
    assert await alice.sync("create", {"kind": "recover"}) == {"recovered": True}
    assert await heard(app.backends["todos"], bob) == [[]]


async def test_a_result_that_cannot_travel_is_an_internal_error(serve, join, caplog):
    """A handler that returns what JSON cannot say gets its client an answer all the same."""

    class Todos(Backend):
        @read
        def bad(self, req):
            return {"value": {"object": object, "surrogate": "\ud800"}[req.options["kind"]]}

    app = await serve(Todos)
    alice = await join(app, "todos")
    for kind in ("object", "surrogate"):
        with pytest.raises(SyncFailed, match="InternalError"):
            await alice.sync("read", {}, {"kind": kind})
    assert await alice.sync("create", {"a": 1}) == {"a": 1}


async def test_a_failed_listen_is_answered_with_an_error(serve, join, todos):
    """A channel that cannot be one is refused, the connection lives and a good listen works."""
    app = await serve(todos)
    alice = await join(app, "todos", ...)
    for channel in (1, True, {}, [], "x" * 256):
        with pytest.raises(SyncFailed) as caught:
            await alice.listen(channel)
        assert caught.value.error["code"] == 400
        assert "xxxxxxxx" not in str(caught.value.error)
    assert await alice.listen("home") == {"event": "backend"}


class Odd:
    """What JSON does not have, and what must not be in the log."""

    def __repr__(self):
        return SECRET


@attrs.define
class Meeting:
    """A model with fields that a layer sets wrongly."""

    title: str = ""
    at: datetime.datetime | None = None
    extra: Any = None


def odd_handler():
    class Notes(Backend):
        @create
        def make(self, req):
            return {"id": 1, "items": [{"odd": Odd()}]}

    return (
        Notes,
        r"result\.items\.0\.odd, from Notes\.make \(.*test_errors\.py:\d+\), is a .*Odd, which JSON does not have",
    )


def odd_reader():
    class Notes(Backend):
        @use("create")
        async def own(self, req, next):
            return await next()

        @after("create")
        def shape(self, res):
            res.result = [Odd()]

    return Notes, r"result\.0, from Notes\.own \(.*\) or Notes\.shape \(.*\), is a .*Odd"


def odd_before():
    class Notes(Backend):
        store = MemoryStore()

        @before("create")
        def fill(self, req):
            req.model["by"] = {"odd": Odd()}

    return Notes, r"req\.model\.by\.odd, from Notes\.fill \(.*\), is a .*Odd"


def odd_field():
    class Notes(Backend):
        model = Meeting
        store = MemoryStore()

        @before("create")
        def fill(self, req):
            req.model.at = datetime.datetime(2026, 1, 31)

    return Notes, r"req\.model\.at, from .*Notes\.fill \(.*\), is a datetime without a zone"


def odd_free_field():
    class Notes(Backend):
        model = Meeting
        store = MemoryStore()

        @create
        async def make(self, req, next):
            return Meeting(extra=[Odd()])

    return Notes, r"result\.extra\.0, from Notes\.make \(.*\), is a .*Odd"


@pytest.mark.parametrize("odd", [odd_handler, odd_reader, odd_before, odd_field, odd_free_field])
@pytest.mark.parametrize("op", [{}, {"op": {"c": "me", "n": 1}}])
async def test_what_cannot_travel_is_told_by_its_place(serve, join, caplog, odd, op):
    """The log names the place, the type and the layers, and holds no value; the client learns nothing of it."""
    notes, text = odd()
    alice = await join(await serve(notes), "notes")
    (reply,) = await alice.namespace.call("sync", {"method": "create", "model": {"title": "x"}, **op})
    assert reply["error"]["name"] == "InternalError"
    (record,) = [r for r in caplog.records if r.name == "bbio" and r.levelname == "ERROR"]
    assert reply["error"]["id"] in record.getMessage()
    assert re.search(text, str(record.exc_info[1])), str(record.exc_info[1])
    assert SECRET not in caplog.text
