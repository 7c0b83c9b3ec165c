"""What may be asked: validation (docs/schema.md), limits and deadlines (docs/limits.md), and the end of the server."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import attrs
import pytest

from bbio import Backend, Limits, NotFound, Timeout, before, read, update
from bbio.builtin import MemoryStore
from tests.support.origins import Origin, failure, logged
from tests.support.wire import SyncFailed


@attrs.define
class Todo:
    title: str = attrs.field(validator=attrs.validators.max_len(20))
    count: int = 1


def nested(depth: int) -> Any:
    """Return an object of objects, so many levels deep."""
    return {"a": nested(depth - 1)} if depth else {}


async def test_a_model_is_validated(origin: Origin, make_store: Any) -> None:
    """All wrong fields at once, before any layer of the application; unknown fields, types, and validators."""
    seen: list[Any] = []

    class Todos(Backend[Todo]):
        store = make_store()

        @before("write")
        def look(self, req: Any) -> None:
            seen.append(req.method)

    app = await origin.serve(Todos)
    asker = await origin.asker(app, "todos")
    milk = await asker.sync("create", {"title": "milk"})
    key = {"id": milk["id"]}
    wrong: list[tuple[str, Any, set[str]]] = [
        ("create", {"title": 7, "odd": 1}, {"title", "odd"}),
        ("create", {}, {"title"}),
        ("create", {"title": "x" * 21}, {"title"}),
        ("update", {**key, "title": "tea", "count": "3"}, {"count"}),
        ("patch", {**key, "count": None}, {"count"}),
        ("patch", {**key, "$inc": {"title": 1}}, {"title"}),
        ("patch", {**key, "$append": {"title": "x" * 20}}, {"title"}),
    ]
    for method, model, fields in wrong:
        error = await failure(asker.sync(method, model), "Invalid")
        assert (error["code"], error["fields"].keys()) == (422, fields), method
    assert await asker.sync("read") == [{**key, "title": "milk", "count": 1}]
    assert seen[0] == "create"
    assert set(seen[1:]) <= {"patch"}  # whose result the store validates, if anything about the record is asked
    assert len(await logged(app.backends["todos"])) == 1


MALFORMED: list[dict[str, Any]] = [
    {"model": {"title": "a\0"}},
    {"model": nested(40)},
    {"model": {"__proto__": 1}},
    {"options": {"a": nested(40)}},
    {"rev": -1},
    {"rev": "1"},
    {"channel": 7},
    {"channel": "x" * 300},
    {"op": ""},
    {"method": "update", "model": {"n": 1}},
    {"method": "patch", "model": {"id": [1], "n": 1}},
    {"method": "delete", "model": {"id": {"$ne": None}}},
    {"method": "read", "options": {"data": [1]}},
    {"method": "read", "options": {"data": {"n": {"$odd": 1}}}},
    {"method": "emit"},
]


async def test_what_is_malformed_is_refused(origin: Origin) -> None:
    """As a `BadRequest`, wherever it comes from; nothing is written."""

    class Todos(Backend):
        store = MemoryStore()

    app = await origin.serve(Todos)
    asker = await origin.asker(app, "todos")
    client = await origin.listener(app, "todos", ...)
    for asked in MALFORMED:
        if origin.is_socket and "channel" in asked:
            # One cannot listen to it either.
            (answer,) = await client.namespace.call("listen", asked["channel"])
            assert answer["error"]["name"] == "BadRequest", asked
        else:
            await failure(asker.sync(**{"method": "create", "model": {"title": "milk"}, **asked}), "BadRequest")
    assert await asker.sync("read") == []
    assert await logged(app.backends["todos"]) == []


async def test_a_request_has_a_deadline(origin: Origin) -> None:
    """What takes too long is cancelled and told to nobody; what a thread does goes on, and has no effect."""
    ended: list[Any] = []
    free = threading.Event()

    class Todos(Backend):
        @before("patch", thread=True)
        def block(self, req: Any) -> None:
            free.wait(60)

        @update
        async def wait(self, req: Any) -> Any:
            try:
                await asyncio.sleep(0 if req.model.get("quick") else 60)
            except asyncio.CancelledError:
                ended.append(req.model["id"])
                raise
            return req.model

        @read
        def impatient(self, req: Any) -> None:
            raise Timeout("the printer is busy")

    app = await origin.serve(Todos, limits=Limits(deadline=0.1))
    asker = await origin.asker(app, "todos")
    for method in ("update", "patch"):
        late = await failure(asker.sync(method, {"id": 1}), "Timeout")
        assert late == {"name": "Timeout", "message": Timeout().message, "code": 408}
    free.set()
    assert ended == [1]
    assert (await failure(asker.sync("read", {"id": 1}), "Timeout"))["message"] == "the printer is busy"
    assert await asker.sync("update", {"id": 1, "quick": True}) == {"id": 1, "quick": True}
    assert await logged(app.backends["todos"]) == [("update", {"id": 1, "quick": True})]


async def test_an_answer_has_a_limit(origin: Origin, make_store: Any) -> None:
    """A list that is too long is refused with what to do; shorter ones are not, again and again."""

    class Big(Backend):
        store = make_store(models=[{"id": n, "text": "x" * 30_000} for n in range(40)])

    app = await origin.serve(Big, limits=Limits(memory=2 << 20, reply=100_000))
    asker = await origin.asker(app, "big")
    for _ in range(3):
        assert "ask for less" in (await failure(asker.sync("read"), "BadRequest"))["message"]
        assert len((await asker.page({"limit": 2}))[0]) == 2


async def test_many_at_once_are_all_answered(origin: Origin, make_store: Any) -> None:
    """More than may run at once wait for their turn, and each gets its own answer."""

    class Todos(Backend):
        store = make_store()

        @before("create")
        async def wait(self, req: Any) -> None:
            await asyncio.sleep(0)

    app = await origin.serve(Todos, limits=Limits(calls=4, running=4))
    asker = await origin.asker(app, "todos")
    made = await asyncio.gather(*(asker.sync("create", {"n": n}) for n in range(40)))
    assert [model["n"] for model in made] == list(range(40))
    assert len(await logged(app.backends["todos"])) == 40


async def test_the_stop_lets_requests_finish(origin: Origin) -> None:
    """Within the drain time; what is left is told that the server stops."""
    begun, free, ended = asyncio.Semaphore(0), asyncio.Event(), []

    class Todos(Backend):
        @update
        async def wait(self, req: Any) -> Any:
            begun.release()
            try:
                await (free if req.model["id"] == 1 else asyncio.Event()).wait()
            finally:
                ended.append(req.model["id"])
            return req.model

        @read
        def missing(self) -> None:
            raise NotFound

    app = await origin.serve(Todos, limits=Limits(drain_time=0.5))
    asker = await origin.asker(app, "todos")
    await failure(asker.sync("read", {"id": 1}), "NotFound")
    tasks = [asyncio.create_task(asker.sync("update", {"id": id})) for id in (1, 2)]
    for _ in tasks:
        await begun.acquire()
    stopping = asyncio.create_task(app.stop())
    for _ in range(50):  # it has begun to wait
        await asyncio.sleep(0)
    free.set()
    assert await tasks[0] == {"id": 1}
    with pytest.raises(SyncFailed) as caught:
        await tasks[1]
    assert (caught.value.name, caught.value.error["code"]) == ("Unavailable", 503)
    await stopping
    assert sorted(ended) == [1, 2]
