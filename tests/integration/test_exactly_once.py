"""Operations over the wire: lost acks, retries, duplicates, swapped payloads; and the race of joining."""

import pytest

from bbio import Backend, before
from bbio.builtin import MemoryStore, SQLiteStore
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
