"""Operations over the wire: lost acks, retries, duplicates, swapped payloads; and the race of joining."""

import asyncio
from functools import partial

import pytest

from bbio import App, Backend, Conflict, Store, after, before, use
from bbio import create as create_handler
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from tests.support.listeners import SharedStore, until


@pytest.fixture(params=["memory", "sqlite"])
def backend(request, tmp_path):
    """A backend over each of the stores that need no server."""

    class Todos(Backend):
        store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "todos.db")

    return Todos


def create(n=1, **model):
    """The request of an operation."""
    return {"method": "create", "model": model or {"title": "milk"}, "options": {}, "op": {"c": "ann", "n": n}}


async def test_a_lost_ack_and_a_retry(serve, join, backend):
    """The connection breaks before the ack arrives; on the next one the retry gets the reply that was lost."""
    app = await serve(backend)
    listener, ann = await join(app, "todos"), await join(app, "todos", ...)
    await ann.namespace.start("sync", create())
    event = await listener.synced()  # it was committed
    ann.wire.abort()
    ann = await join(app, "todos", ...)
    first, second = [await ann.namespace.call("sync", create()) for _ in range(2)]
    assert first == second
    assert first[:2] == [None, event[1]]
    other = await ann.sync("create", {"title": "beer"})
    assert await listener.synced() == ("create", other)
    assert len(await ann.sync("read")) == 2


async def test_duplicates_at_the_same_time(serve, join, backend):
    """Twenty attempts over four connections, sent together: one model, one event, one reply twenty times."""
    app = await serve(backend)
    listener = await join(app, "todos")
    clients = [await join(app, "todos", ...) for _ in range(4)]
    asked = [(client, await client.namespace.start("sync", create())) for _ in range(5) for client in clients]
    replies = [await client.namespace.reply(id) for client, id in asked]
    assert all(reply == replies[0] for reply in replies)
    assert await listener.synced() == ("create", replies[0][1])
    other = await clients[0].sync("create", {"title": "beer"})
    assert await listener.synced() == ("create", other)
    assert await clients[0].sync("read") == [replies[0][1], other]


async def test_a_swapped_payload(serve, join, backend):
    """Another request under a used operation id is a conflict, at the same time or later, and has no effect."""
    app = await serve(backend)
    ann = await join(app, "todos", ...)
    asked = [await ann.namespace.start("sync", create(title=title)) for title in ("milk", "beer")]
    kept, swapped = [await ann.namespace.reply(id) for id in asked]
    assert kept[1]["title"] == "milk"
    assert swapped[0]["error"]["name"] == "Conflict"
    for same in ({**create(), "channel": ""}, dict(reversed(create().items()))):
        assert await ann.namespace.call("sync", same) == kept
    for change in ({"method": "delete", "model": kept[1]}, {"options": {"a": 1}}, {"rev": 1}, {"model": {}}):
        (refused,) = await ann.namespace.call("sync", {**create(), **change})
        assert refused["error"]["name"] == "Conflict"
    assert await ann.sync("read") == [kept[1]]


async def test_a_retry_with_a_new_token_is_the_same_operation(serve, join):
    """A token says other things each time, but not who its subject is; one that does not say it is an error of ours."""
    claims = iter([{"sub": "ann", "exp": 1}, {"sub": "ann", "exp": 2}, {"exp": 3}])

    class Todos(Backend):
        store = MemoryStore()

        @before("create")
        def identify(self, req):
            req.user = next(claims)

    app = await serve(Todos)
    ann = await join(app, "todos", ...)
    first, second, third = [await ann.namespace.call("sync", create()) for _ in range(3)]
    assert first == second
    assert third[0]["error"]["name"] == "InternalError"
    assert len(await ann.sync("read")) == 1


async def test_every_write_is_applied_once(serve, join, backend):
    """Updates, patches and deletes as well: a retried delete is no NotFound, a retried update undoes no later one."""
    app = await serve(backend)
    ann = await join(app, "todos", ...)
    (_, milk, *_) = await ann.namespace.call("sync", create())
    writes = [("update", {"id": milk["id"], "n": 1}), ("patch", {"id": milk["id"], "m": 2}), ("delete", milk)]
    replies = []
    for n, (method, model) in enumerate(writes, 2):
        replies.append(await ann.namespace.call("sync", {"method": method, "model": model, "op": {"c": "ann", "n": n}}))
    again = [
        await ann.namespace.call("sync", {"method": method, "model": model, "op": {"c": "ann", "n": n}})
        for n, (method, model) in enumerate(writes, 2)
    ]
    assert again == replies
    assert [reply[0] for reply in replies] == [None] * 3
    assert [reply[2]["o"] for reply in replies] == [2, 3, 4]
    assert await ann.sync("read") == []


async def test_every_call_of_the_server_is_applied_once(backend):
    """Under an operation id, at the same time and later, over a restart where the store keeps it; one event each."""
    async with App().serve(todos=backend).test() as t:
        todos, heard = t.backends["todos"], (await t.client()).events()
        made = await asyncio.gather(*(todos.create({"title": "milk"}, op="made") for _ in range(10)))
        assert all(each == made[0] for each in made)
        key = made[0]["id"]
        calls = {
            "update": partial(todos.update, {"id": key, "n": 1}, op="updated"),
            "patch": partial(todos.patch, {"id": key, "$inc": {"n": 2}}, op="patched"),
            "delete": partial(todos.delete, key, op="deleted"),
        }
        results = {name: [await call(), await call()] for name, call in calls.items()}
        assert results["patch"][0]["n"] == 3
        for first, again in results.values():
            assert first == again
        with pytest.raises(Conflict):
            await todos.delete("another", op="deleted")
        assert [(await anext(heard)).method for _ in range(4)] == ["create", "update", "update", "delete"]
        if not isinstance(backend.store, MemoryStore):
            await t.restart()
            for name, call in calls.items():
                assert await call() == results[name][0]
        assert (await todos.query()).models == []


async def test_the_race_of_joining(serve, join):
    """A write that commits while a client's history is read is told to it exactly once, on either engine."""

    class Todos(Backend):
        store = SharedStore()

    app = await serve(Todos)
    store = app.backends["todos"].log
    # Nobody listens yet, so that what is missed must be read.
    writer, ann = await join(app, "todos", ...), await join(app, "todos", ...)
    first = await writer.namespace.call("sync", {"method": "create", "model": {}, "op": {"c": "w", "n": 0}})
    place = first[2]
    for n in range(3):
        await writer.sync("create", {"n": n})
    store.slow = "since"
    store.gate.clear()
    listening = await ann.namespace.start("listen", None, {"v": 1, "since": {"c:": [place["e"], place["o"]]}})
    await until(lambda: ("since", "c:", 1) in store.asked)
    for n in range(3, 6):
        await writer.sync("create", {"n": n})
    store.gate.set()
    (listened,) = await ann.namespace.reply(listening)
    for n in range(6, 9):
        await writer.sync("create", {"n": n})
    told = listened["streams"]["c:"]
    assert told["recovered"] is True
    seen = [(model["n"], at["o"]) for _, model, at in told["events"]]
    while len(seen) < 9:
        _, _, model, at = await ann.namespace.event()
        if at["o"] > told["offset"]:
            seen.append((model["n"], at["o"]))
    assert seen == [(n, n + 2) for n in range(9)]


class Plain(Store):
    """A store of one's own, which is not atomic."""

    async def create(self, req):
        return {**req.model, "id": "1"}


@pytest.fixture(params=["memory", "sqlite", "postgres", "plain", "handlers", "layers"])
def mailing(request, tmp_path):
    """A backend over each store, and over none, that writes letters, and shapes its replies; and the letters."""
    letters = []

    class Todos(Backend):
        @after("create", once=True)
        async def welcome(self, req, record):
            letters.append(("create", record["title"]))
            raise OSError("the mail server is down")

        @after("write", once=True)
        def note(self, req, record):
            letters.append((req.method, record["title"], sorted(record)))
            record["title"] = "spoilt"

        @after("create")
        def greet(self, res):
            res.result = {**res.result, "greeting": "hello"}

    match request.param:
        case "memory":
            body = {"store": MemoryStore()}
        case "sqlite":
            body = {"store": SQLiteStore(tmp_path / "todos.db")}
        case "postgres":
            body = {"store": PostgresStore(request.getfixturevalue("database_url"))}
        case "plain":
            body = {"store": Plain()}
        case "handlers":
            body = {"make": create_handler(lambda self, req: {**req.model, "id": "1"})}
        case "layers":  # each attempt runs them, and the log knows the operation
            body = {"make": use("create")(lambda self, req: {**req.model, "id": "1"})}
    return type("Todos", (Todos,), body), letters


EFFECTS = [("create", "milk"), ("create", "milk", ["id", "title"])]


async def test_effects_happen_once(serve, join, mailing):
    """However often an operation is tried, at the same time or later; and each attempt gets the same reply."""
    backend, letters = mailing
    app = await serve(backend)
    listener, ann = await join(app, "todos"), await join(app, "todos", ...)
    asked = [await ann.namespace.start("sync", create()) for _ in range(3)]
    replies = [await ann.namespace.reply(id) for id in asked]
    bob = await join(app, "todos", ...)
    replies.append(await bob.namespace.call("sync", create()))
    assert all(reply == replies[0] for reply in replies)
    assert replies[0][1] == {"id": replies[0][1]["id"], "title": "milk", "greeting": "hello"}
    assert await listener.synced() == ("create", {"id": replies[0][1]["id"], "title": "milk"})
    assert letters == EFFECTS
    await bob.namespace.call("sync", create(2))
    assert letters == EFFECTS * 2


@pytest.mark.parametrize("mailing", ["sqlite", "postgres"], indirect=True)
async def test_effects_do_not_happen_again_after_a_restart(serve, join, mailing):
    """The retry that comes to the next process, when the first has committed and ended, is answered, and no more."""
    backend, letters = mailing
    first = await serve(backend)
    ann = await join(first, "todos", ...)
    reply = await ann.namespace.call("sync", create())
    await first.stop()
    ann = await join(await serve(backend), "todos", ...)
    assert await ann.namespace.call("sync", create()) == reply
    assert letters == EFFECTS
