"""Exactly once (docs/guarantees.md): an operation has one effect, one event and equal replies, however often tried."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from bbio import App, Backend, BadRequest, Store, after, create, use
from bbio.builtin import MemoryStore
from tests.support.origins import Asker, OfServer, OfSocket, Origin, WhoAsks, failure, ids, logged
from tests.support.servers import ServerProcess
from tests.support.wire import Closed


def writing(store: Any = None, **body: Any) -> tuple[type[Backend], list[Any]]:
    """Return a backend that writes letters and shapes its replies, and the letters."""
    letters: list[Any] = []

    class Todos(Backend):
        @after("write", once=True)
        def note(self, req: Any, record: Any) -> None:
            letters.append((req.method, record.get("title")))
            record["title"] = "spoilt"
            raise OSError("the mail server is down")

        @after("create")
        def greet(self, res: Any) -> None:
            res.result = {**res.result, "greeting": "hello"}

    return type("Todos", (Todos,), body if store is None else {"store": store, **body}), letters


def bare(store: Any) -> type[Backend]:
    """Return a backend without any layer, whose requests take the shortest way."""
    return type("Todos", (Backend,), {"store": store})


async def askers(origin: Origin, app: App, count: int, user: str | None = None) -> list[Asker]:
    """Return several who ask: sockets of one client, or code of one job."""
    return [await origin.asker(app, "todos", user) for _ in range(count)]


class Plain(Store):
    """A store of one's own, which is not atomic."""

    async def create(self, req: Any) -> Any:
        return {**req.model, "id": "1"}


KINDS: dict[str, Any] = {
    "a store that is not atomic": lambda: writing(Plain()),
    "handlers": lambda: writing(make=create(lambda self, req: {**req.model, "id": "1"})),
    "use layers": lambda: writing(make=use("create")(lambda self, req: {**req.model, "id": "1"})),
}


@pytest.mark.parametrize("make", list(KINDS.values()), ids=list(KINDS))
async def test_what_no_store_has_written_is_once_too(origin: Origin, make: Any) -> None:
    """The log knows the operation: one event, one effect, and the reply as layers had shaped it."""
    backend, letters = make()
    app = await origin.serve(backend)
    one, other = await askers(origin, app, 2)
    replies = await asyncio.gather(*(each.sync("create", {"title": "milk"}, op="a") for each in (one, other, one)))
    replies.append(await other.sync("create", {"title": "milk"}, op="a"))
    assert replies == [{"id": "1", "title": "milk", "greeting": "hello"}] * 4
    assert letters == [("create", "milk")]
    assert await logged(app.backends["todos"]) == [("create", {"id": "1", "title": "milk"})]
    await other.sync("create", {"title": "milk"}, op="b")
    assert letters == [("create", "milk")] * 2


@pytest.mark.parametrize("layers", [False, True], ids=["bare", "layers"])
async def test_attempts_at_the_same_time_and_later_are_one(origin: Origin, make_store: Any, layers: bool) -> None:
    """Over several sockets, or in several tasks: one model, one event, one effect, equal replies; others go on."""
    backend, letters = writing(make_store()) if layers else (bare(make_store()), [("create", "milk")])
    app = await origin.serve(backend)
    asking = await askers(origin, app, 3)
    tries = [each.sync("create", {"title": "milk"}, op="a") for each in asking for _ in range(4)]
    *replies, other = await asyncio.gather(*tries, asking[0].sync("create", {"title": "beer"}, op="b"))
    replies += [await each.sync("create", {"title": "milk"}, op="a") for each in asking]
    assert all(reply == replies[0] for reply in replies)
    assert other["id"] != replies[0]["id"]
    assert sorted(model["title"] for model in await asking[0].sync("read")) == ["beer", "milk"]
    assert sorted(model["title"] for _, model in await logged(app.backends["todos"])) == ["beer", "milk"]
    assert letters.count(("create", "milk")) == 1


@pytest.mark.parametrize("layers", [False, True], ids=["bare", "layers"])
async def test_every_write_is_applied_once(origin: Origin, make_store: Any, layers: bool) -> None:
    """A retried delete is no NotFound, a retried counter counts once, a retried update undoes no later one."""
    app = await origin.serve(writing(make_store())[0] if layers else bare(make_store()))
    asker = await origin.asker(app, "todos")
    key = (await asker.sync("create", {"title": "milk"}))["id"]
    writes: list[tuple[str, Any]] = [
        ("update", {"id": key, "n": 1}),
        ("patch", {"id": key, "$inc": {"n": 2}}),
        ("delete", {"id": key}),
    ]
    first = [await asker.sync(method, model, op=method) for method, model in writes]
    again = [await asker.sync(method, model, op=method) for method, model in writes]
    assert again == first
    if isinstance(asker, OfSocket):  # where the writes are in the history is told again too
        assert [place["o"] for place in asker.places[-6:]] == [2, 3, 4] * 2
        assert asker.places[-3:] == asker.places[-6:-3]
    assert first[1] == {"id": key, "n": 3}
    methods = [method for method, _ in await logged(app.backends["todos"])]
    assert methods == ["create", "update", "update", "delete"]
    assert await asker.sync("read") == []


@pytest.mark.parametrize("layers", [False, True], ids=["bare", "layers"])
async def test_another_request_under_a_used_operation_is_a_conflict(
    origin: Origin, make_store: Any, layers: bool
) -> None:
    """At the same time or later, and it changes nothing; the default channel may be named or left out."""
    app = await origin.serve(writing(make_store())[0] if layers else bare(make_store()))
    asker = await origin.asker(app, "todos")
    kept, _ = await asyncio.gather(
        asker.sync("create", {"title": "milk", "n": 1}, op="a"),
        failure(asker.sync("create", {"title": "beer"}, op="a"), "Conflict"),
    )
    changes: list[dict[str, Any]] = [
        {"method": "delete", "model": {"id": kept["id"]}},
        {"options": {"a": 1}},
        {"rev": 1},
        {"model": {}},
        {"channel": "home"},
    ]
    same = {"method": "create", "model": {"n": 1, "title": "milk"}, "op": "a"}
    for change in changes:
        await failure(asker.sync(**{**same, **change}), "Conflict")
    assert await asker.sync(**same) == kept
    assert await asker.sync(**same, channel="") == kept
    assert ids(await asker.sync("read")) == [kept["id"]]
    assert len(await logged(app.backends["todos"])) == 1


async def test_operations_belong_to_who_asks(origin: Origin, make_store: Any) -> None:
    """The same name of another user, of nobody and of the server itself is another operation."""
    app = await origin.serve(type("Todos", (Backend,), {"store": make_store(), "middleware": [WhoAsks()]}))
    runtime = app.backends["todos"]
    asking = [await origin.asker(app, "todos", user) for user in ("ann", "bob", None)]
    own = OfServer(runtime)
    made = {(await each.sync("create", {"title": "milk"}, op="a"))["id"] for each in [*asking, own]}
    # All of them are the server itself, where it asks on its own behalf.
    assert len(made) == (1 if origin.is_trusted else 4)
    for each in [*asking, own]:
        assert (await each.sync("create", {"title": "milk"}, op="a"))["id"] in made
    assert len(await own.sync("read")) == len(made)


async def test_what_failed_half_way_is_not_done_again(origin: Origin) -> None:
    """Nobody knows what became of it; what was refused may be tried again, and so may what an atomic store knows."""
    failures: list[Exception] = [OSError("half way"), BadRequest("not now")]
    tried: list[Any] = []

    async def make(self: Any, req: Any) -> Any:
        tried.append(req.model["title"])
        if failures and req.model["title"] == type(failures[0]).__name__:
            raise failures.pop(0)
        return {**req.model, "id": "1"}

    class Atomic(MemoryStore):
        async def create(self, req: Any) -> Any:
            return await super().create(req) if await make(self, req) else None

    app = await origin.serve(handlers=type("Handlers", (Backend,), {"make": create(make)}))
    asker = await origin.asker(app, "handlers")
    await failure(asker.sync("create", {"title": "OSError"}, op="a"), "InternalError")
    for title in ("OSError", "another"):
        await failure(asker.sync("create", {"title": title}, op="a"), "UnknownOutcome")
    await failure(asker.sync("create", {"title": "BadRequest"}, op="b"), "BadRequest")
    again = await asker.sync("create", {"title": "BadRequest"}, op="b")
    assert (again["title"], tried) == ("BadRequest", ["OSError", "BadRequest", "BadRequest"])
    failures.append(OSError("half way"))
    app = await origin.serve(atomic=type("Todos", (Backend,), {"store": Atomic()}))
    asker = await origin.asker(app, "atomic")
    await failure(asker.sync("create", {"title": "OSError"}, op="a"), "InternalError")
    made = [await asker.sync("create", {"title": "OSError"}, op="a") for _ in range(2)]
    assert made[0] == made[1]
    assert len(await asker.sync("read")) == 1


async def test_a_restart_repeats_nothing(origin: Origin, make_store: Any) -> None:
    """Where the store keeps what it knows, the next process answers a retry, and no effect happens again."""
    backend, letters = writing(make_store())
    app = await origin.serve(backend)
    asker = await origin.asker(app, "todos")
    made = await asker.sync("create", {"title": "milk"}, op="made")
    gone = await asker.sync("delete", {"id": made["id"]}, op="gone")
    await app.stop()
    app = await origin.serve(backend)
    asker = await origin.asker(app, "todos")
    if isinstance(backend.store, MemoryStore):
        assert (await asker.sync("create", {"title": "milk"}, op="made"))["id"] != made["id"]
        return
    assert {**await asker.sync("create", {"title": "milk"}, op="made"), "greeting": "hello"} == made
    assert await asker.sync("delete", {"id": made["id"]}, op="gone") == gone
    await failure(asker.sync("create", {"title": "beer"}, op="made"), "Conflict")
    assert await asker.sync("read") == []
    assert len(letters) == 2


SERVED = """
import os, pathlib, signal

from bbio import App, Backend, after, before
from bbio.builtin import PostgresStore, SQLiteStore

class Todos(Backend):
    store = {store}

    @before("read")
    async def call(self, req, res):
        if "own" in req.options:
            who = {{}} if req.options["own"] else {{"user": {{"id": "ann"}}}}
            res.end(await app.backends["todos"].create({{"title": "milk"}}, op="a", **who))

    @after("create")
    def die(self):
        if not os.path.exists("died"):
            pathlib.Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

app = App(engine={engine!r}).serve(Todos)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def durable(request: pytest.FixtureRequest) -> str:
    """Each store that outlives its process, as a module writes it."""
    if request.param == "sqlite":
        return "SQLiteStore('models.db')"
    return f"PostgresStore({request.getfixturevalue('database_url')!r})"


@pytest.mark.once  # what is asked is what a store does, not a Python
async def test_a_crash_before_the_answer_repeats_nothing(origin: Origin, durable: str, tmp_path: Path) -> None:
    """The process is killed between the commit and the answer: the next one gives the answer, and writes nothing."""
    source = SERVED.format(store=durable, engine="plain" if origin.name == "plain" else "fast")

    async def ask(server: ServerProcess) -> Any:
        client = OfSocket(await origin.listener(server, "todos", ...))
        if origin.is_socket:
            return client, await client.sync("create", {"title": "milk"}, op="a")
        # Code of that process makes the call.
        return client, await client.sync("read", {"id": 1}, {"own": origin.is_trusted})

    server = await origin.spawn(tmp_path, source)
    with pytest.raises((Closed, ConnectionError)):
        await ask(server)
    assert await server.ended() == -signal.SIGKILL
    server = await origin.spawn(tmp_path, source)
    (client, reply), (_, again) = [await ask(server) for _ in range(2)]
    assert reply == again
    assert await client.sync("read") == [reply]
