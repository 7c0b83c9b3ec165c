"""A client that speaks section 1 of the protocol only: it can do everything, and its frames never change."""

import re

import pytest

from bbio import Backend, NotFound, create, delete, patch, read, update
from bbio.builtin import MemoryStore
from tests.support.servers import heard
from tests.support.wire import Wire


class Notes(Backend):
    """Handlers with fixed answers, so that a transcript is the same each time."""

    @create
    def make(self, req):
        return {"id": 1, **req.model}

    @read
    def all(self, req):
        return [{"id": 1, "title": "milk"}]

    @update
    def put(self, req):
        return req.model

    @patch
    async def change(self, req):
        return {"title": "milk", **req.model}

    @delete
    async def drop(self, req):
        if req.model["id"] != 1:
            raise NotFound("no note 2")
        return req.model


# Who, direction (> to the server), and the frame. `<sid>` stands for an id that differs each time.
TRANSCRIPT = """
alice > 40/notes,
alice < 40/notes,{"sid":"<sid>"}
bob   > 40/notes,
bob   < 40/notes,{"sid":"<sid>"}
alice > 42/notes,0["listen",null]
alice < 43/notes,0[{"event":"backend"}]
bob   > 42/notes,0["listen",null]
bob   < 43/notes,0[{"event":"backend"}]
alice > 42/notes,1["sync",{"method":"create","model":{"title":"milk"},"options":{}}]
alice < 43/notes,1[null,{"id":1,"title":"milk"}]
bob   < 42/notes,["synced","create",{"id":1,"title":"milk"}]
bob   > 42/notes,1["sync",{"method":"read","model":{},"options":{}}]
bob   < 43/notes,1[null,[{"id":1,"title":"milk"}]]
bob   > 42/notes,2["sync",{"method":"update","model":{"id":1,"title":"oat"},"options":{}}]
bob   < 43/notes,2[null,{"id":1,"title":"oat"}]
alice < 42/notes,["synced","update",{"id":1,"title":"oat"}]
alice > 42/notes,2["sync",{"method":"patch","model":{"id":1,"done":true},"options":{"patch":true}}]
alice < 43/notes,2[null,{"title":"milk","id":1,"done":true}]
bob   < 42/notes,["synced","update",{"title":"milk","id":1,"done":true}]
alice > 42/notes,3["sync",{"method":"delete","model":{"id":2},"options":{}}]
alice < 43/notes,3[{"error":{"name":"NotFound","message":"no note 2","code":404}}]
alice > 42/notes,12345["sync",{"method":"delete","model":{"id":1},"options":{}}]
alice < 43/notes,12345[null,{"id":1}]
bob   < 42/notes,["synced","delete",{"id":1}]
"""


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_the_transcript_is_byte_identical(serve, transport):
    """Every frame a legacy client receives is the one written down here, byte for byte, in this order."""
    app = await serve(Notes)
    wires = {name: await Wire.open(app.url, transport=transport) for name in ("alice", "bob")}
    read = dict.fromkeys(wires, 1)  # the OPEN packet is the transport's own
    try:
        for line in TRANSCRIPT.strip().splitlines():
            name, direction, frame = line.split(maxsplit=2)
            wire = wires[name]
            if direction == ">":
                await wire.send(frame)
                continue
            place = read[name]
            await wire.until(lambda w=wire, n=place: len(w.frames) > n, line)
            assert re.sub(r'"sid":"[^"]+"', '"sid":"<sid>"', wire.frames[place]) == frame
            read[name] += 1
        app.backends["notes"].emit("created", {"id": "end"})
        await wires["alice"].until(lambda: len(wires["alice"].frames) > read["alice"], "the end")
        end = '42/notes,["synced","create",{"id":"end"}]'
        assert wires["alice"].frames[read["alice"] :] == [end]
        await wires["bob"].until(lambda: len(wires["bob"].frames) > read["bob"], "the end")
        assert wires["bob"].frames[read["bob"] :] == [end]
    finally:
        for wire in wires.values():
            await wire.close()


async def test_listen_as_the_original_sends_it(serve, join):
    """The original's client listens with a channel, with null, or with no argument but the ack."""
    alice = await join(await serve(Notes), "notes", ...)
    for arguments in ([], [None], ["room"], [""]):
        assert await alice.namespace.call("listen", *arguments) == [{"event": "backend"}]


async def test_only_public_options_are_told(serve, join):
    """The listen reply is the event prefix and never the server's configuration."""
    app = await serve(Notes, event="sync", debug=True)
    alice = await join(app, "notes", ...)
    assert await alice.namespace.call("listen", None) == [{"event": "sync"}]


async def test_legacy_and_version_1_listeners_live_side_by_side(serve, join):
    """A version 1 client in the same channel changes nothing for the legacy one: two arguments, always."""
    app = await serve(Notes)
    legacy, modern = await join(app, "notes"), await join(app, "notes", ...)
    (reply,) = await modern.namespace.call("listen", None, {"v": 1})
    assert (reply["event"], reply["v"]) == ("backend", 1)
    answer = await modern.namespace.call("sync", {"method": "create", "model": {"a": 1}, "options": {}})
    assert answer[:2] == [None, {"id": 1, "a": 1}]
    assert await legacy.namespace.event() == ["synced", "create", {"id": 1, "a": 1}]
    assert await legacy.namespace.call("sync", {"method": "create", "model": {}, "options": {}}) == [
        None,
        {"id": 1},
    ]
    method, model, position = (await modern.namespace.event())[1:]
    if model != {"id": 1}:  # its own write, in stream order
        method, model, position = (await modern.namespace.event())[1:]
    assert (method, model, position["s"]) == ("create", {"id": 1}, "c:")


async def test_a_legacy_client_does_everything(serve, join):
    """Two clients, a store, channels and errors: the whole of the original, from outside."""

    class Todos(Backend):
        store = MemoryStore()

    app = await serve(Todos)
    alice, bob = await join(app, "todos", "list"), await join(app, "todos", "list")
    milk = await alice.sync("create", {"title": "milk"})
    assert await bob.synced() == ("create", milk)
    done = await bob.sync("patch", {"id": milk["id"], "done": True})
    assert await alice.synced() == ("update", done)
    assert await alice.sync("read") == [done]
    await alice.sync("delete", {"id": milk["id"]})
    assert (await bob.synced())[1]["id"] == milk["id"]
    assert await bob.sync("read") == []
    assert await heard(app.backends["todos"], alice, bob) == [[], []]


@pytest.mark.parametrize("models", [[], [{"id": 1, "title": "milk"}, {"id": 2}]])
async def test_fetching_a_collection_as_the_original_does(serve, join, models):
    """The original's client sends the collection's models along with a read: they are not looked at."""

    class Todos(Backend):
        store = MemoryStore()

    alice = await join(await serve(Todos), "todos")
    milk = await alice.sync("create", {"title": "milk"})
    request = {"method": "read", "model": models, "options": {"parse": True}}
    assert await alice.namespace.call("sync", request) == [None, [milk]]


@pytest.mark.parametrize("missing", ["model", "options"])
async def test_a_request_may_leave_out_model_and_options(serve, join, missing):
    """A hand-written client that sends only what it needs is understood."""
    alice = await join(await serve(Notes), "notes")
    request = {"method": "read", "model": {}, "options": {}}
    del request[missing]
    assert await alice.namespace.call("sync", request) == [None, [{"id": 1, "title": "milk"}]]
