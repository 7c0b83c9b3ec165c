"""Syncs and their notifications over a real socket: who is answered what, and who is told."""

import pytest

from bbio import Backend, create, read
from bbio.builtin import MemoryStore
from tests.support.servers import heard
from tests.support.wire import SyncFailed


async def test_create_read_update_patch_delete(serve, join, todos):
    """The five methods do what their names say, for one model and for the collection."""
    alice = await join(await serve(todos), "todos")
    milk = await alice.sync("create", {"title": "milk"})
    bread = await alice.sync("create", {"title": "bread"})
    assert milk == {"id": milk["id"], "title": "milk"}
    assert milk["id"] != bread["id"]
    assert await alice.sync("read") == [milk, bread]
    assert await alice.sync("read", {"id": milk["id"]}) == milk
    updated = await alice.sync("update", {"id": milk["id"], "title": "oat milk", "done": False})
    assert updated == {"id": milk["id"], "title": "oat milk", "done": False}
    patched = await alice.sync("patch", {"id": milk["id"], "done": True})
    assert patched == {"id": milk["id"], "title": "oat milk", "done": True}
    assert (await alice.sync("delete", {"id": milk["id"]}))["id"] == milk["id"]
    assert await alice.sync("read") == [bread]


async def test_a_handler_answers_and_its_result_is_published(serve, join):
    """Without a store, what the handler returns is the reply and what the others are told."""

    class Todos(Backend):
        @create
        async def numbered(self, req):
            return {**req.model, "id": 7}

        @read
        def fixed(self, req):
            return [{"id": 7}]

    app = await serve(Todos)
    alice, bob = await join(app, "todos"), await join(app, "todos")
    assert await alice.sync("create", {"title": "milk"}) == {"title": "milk", "id": 7}
    assert await bob.synced() == ("create", {"title": "milk", "id": 7})
    assert await alice.sync("read") == [{"id": 7}]


async def test_without_handler_and_store_the_bottom_answers_with_the_model(serve, join):
    """An empty backend echoes the model and still notifies."""

    class Echo(Backend):
        pass

    app = await serve(Echo)
    alice, bob = await join(app, "echo"), await join(app, "echo")
    assert await alice.sync("create", {"a": [1, {"b": None}]}) == {"a": [1, {"b": None}]}
    assert await bob.synced() == ("create", {"a": [1, {"b": None}]})


async def test_channels_isolate(serve, join, todos):
    """A write is told to its own channel alone, and the default channel is one of them."""
    app = await serve(todos)
    home, home2 = await join(app, "todos", "home"), await join(app, "todos", "home")
    work, work2 = await join(app, "todos", "work"), await join(app, "todos", "work")
    plain, plain2 = await join(app, "todos"), await join(app, "todos", None)
    await home.sync("create", {"title": "at home"})
    await work.sync("create", {"title": "at work"})
    await plain.sync("create", {"title": "anywhere"})
    told = await heard(app.backends["todos"], home, home2, work, work2, plain, plain2)
    titles = [[model["title"] for _, model in events] for events in told]
    assert titles == [[], ["at home"], [], ["at work"], [], ["anywhere"]]


async def test_backends_isolate(serve, join, todos):
    """Channels of the same name in two backends have nothing to do with each other."""

    class Notes(Backend):
        store = MemoryStore()

    app = await serve(todos, Notes)
    todo, note = await join(app, "todos", "room"), await join(app, "notes", "room")
    await todo.sync("create", {"title": "milk"})
    await note.sync("create", {"title": "a note"})
    assert await heard(app.backends["todos"], todo) == [[]]
    assert await heard(app.backends["notes"], note) == [[]]
    assert [model["title"] for model in await note.sync("read")] == ["a note"]


async def test_two_backends_share_one_connection(serve, join, todos):
    """One session serves several namespaces, each with its own listens and acks."""

    class Notes(Backend):
        store = MemoryStore()

    app = await serve(todos, Notes)
    client = await join(app, "todos", "room")
    notes = await client.wire.connect("/notes")
    assert await notes.call("listen", None) == [{"event": "backend"}]
    other = await join(app, "notes")
    note = await other.sync("create", {"title": "a note"})
    assert await notes.event() == ["synced", "create", note]
    assert await heard(app.backends["todos"], client) == [[]]


async def test_several_listens_on_one_socket_join_several_channels(serve, join, todos):
    """A second listen adds a channel; a sync says which of them it is for."""
    app = await serve(todos)
    both = await join(app, "todos", "home")
    await both.listen("work")
    home, work = await join(app, "todos", "home"), await join(app, "todos", "work")
    at_home = await home.sync("create", {"title": "at home"})
    at_work = await work.sync("create", {"title": "at work"})
    assert await heard(app.backends["todos"], both) == [[("create", at_home), ("create", at_work)]]
    await heard(app.backends["todos"], home, work)
    mine = await both.sync("create", {"title": "mine"}, channel="work")
    assert await heard(app.backends["todos"], home, work) == [[], [("create", mine)]]
    mine = await both.sync("create", {"title": "mine too"}, channel="home")
    assert await heard(app.backends["todos"], both, home, work) == [[], [("create", mine)], []]


async def test_listening_twice_to_a_channel_tells_once(serve, join, todos):
    """A client that listens again to the same channel gets each event once."""
    app = await serve(todos)
    bob = await join(app, "todos", "home")
    assert await bob.listen("home") == {"event": "backend"}
    alice = await join(app, "todos", "home")
    milk = await alice.sync("create", {"title": "milk"})
    assert await heard(app.backends["todos"], bob) == [[("create", milk)]]


@pytest.mark.parametrize("channel", ["work", "c:home"])
async def test_a_sync_for_a_channel_not_listened_to_is_refused(serve, join, todos, channel):
    """Naming a channel is no way into it: nothing is stored and nobody is told."""
    app = await serve(todos)
    alice, bob = await join(app, "todos", "home"), await join(app, "todos", channel)
    with pytest.raises(SyncFailed) as caught:
        await alice.sync("create", {"title": "milk"}, channel=channel)
    assert caught.value.error["code"] in (400, 403)
    assert await heard(app.backends["todos"], bob) == [[]]
    assert await bob.sync("read") == []


async def test_a_client_that_never_listened_is_told_of_no_channel(serve, join, todos):
    """A connection alone joins nothing, and its requests are for the default channel."""
    app = await serve(todos)
    silent = await join(app, "todos", ...)
    alice, home = await join(app, "todos"), await join(app, "todos", "home")
    milk = await alice.sync("create", {"title": "milk"})
    bread = await silent.sync("create", {"title": "bread"})
    assert await silent.sync("read") == [milk, bread]
    assert await heard(app.backends["todos"], alice, home) == [[("create", bread)], []]
    await silent.listen()
    assert await heard(app.backends["todos"], silent) == [[]]


async def test_a_sync_without_an_ack_id_is_done_and_answered_by_nothing(serve, join, todos):
    """Fire and forget: the write happens, the others are told, no ack is sent."""
    app = await serve(todos)
    alice, bob = await join(app, "todos"), await join(app, "todos")
    await alice.namespace.emit("sync", {"method": "create", "model": {"title": "milk"}, "options": {}})
    method, milk = await bob.synced()
    assert (method, milk["title"]) == ("create", "milk")
    assert await alice.sync("read") == [milk]
    assert [packet.id for packet in alice.namespace.packets if packet.kind == 3] == [1, 2]


async def test_a_client_that_left_its_namespace_is_told_nothing(serve, join, todos):
    """DISCONNECT from one namespace ends its listens and leaves the others on the session alone."""

    class Notes(Backend):
        store = MemoryStore()

    app = await serve(todos, Notes)
    client, alice = await join(app, "todos"), await join(app, "todos")
    notes = await client.wire.connect("/notes")
    await notes.call("listen", None)
    await client.namespace.disconnect()
    await notes.call("sync", {"method": "read", "model": {}, "options": {}})
    await alice.sync("create", {"title": "milk"})
    app.backends["notes"].emit("created", {"id": "marker"})
    assert await notes.event() == ["synced", "create", {"id": "marker"}]
    assert not client.namespace.events


async def test_unicode_travels_unharmed(serve, join, todos):
    """Text outside ASCII and outside the basic plane arrives as it was sent, acked and told."""
    app = await serve(todos)
    alice, bob = await join(app, "todos", "帳🎈"), await join(app, "todos", "帳🎈")
    text = 'naïve 帳面 🎈 "quoted" \\ / \u2028 \t'
    milk = await alice.sync("create", {"title": text})
    assert milk["title"] == text
    assert await bob.synced() == ("create", milk)
