"""Notifications the server sends of its own accord: `app.backends[...].emit`."""

import asyncio
import threading

import pytest

from bbio import Backend, EncodingError, create
from tests.support.servers import heard


@pytest.mark.parametrize(("event", "method"), [("created", "create"), ("updated", "update"), ("deleted", "delete")])
async def test_each_event_arrives_as_its_method(serve, join, todos, event, method):
    """`created`, `updated` and `deleted` reach clients as create, update and delete; the last tells the id alone."""
    app = await serve(todos)
    alice = await join(app, "todos")
    model = {"id": "x", "title": "from a cron job"}
    app.backends["todos"].emit(event, model)
    assert await alice.synced() == (method, {"id": "x"} if event == "deleted" else model)


async def test_without_a_channel_every_client_is_told_whatever_its_channel(serve, join, todos):
    """No channel means all of them; another backend's clients hear nothing."""

    class Notes(Backend):
        pass

    app = await serve(todos, Notes)
    clients = [await join(app, "todos"), await join(app, "todos", "home"), await join(app, "todos", "work")]
    stranger = await join(app, "notes")
    app.backends["todos"].emit("created", {"id": "x"})
    for client in clients:
        assert await client.synced() == ("create", {"id": "x"})
    assert await heard(app.backends["notes"], stranger) == [[]]


async def test_with_a_channel_only_its_clients_are_told(serve, join, todos):
    """A channel's events stay in it, and a client in two channels hears each once."""
    app = await serve(todos)
    plain, home = await join(app, "todos"), await join(app, "todos", "home")
    both = await join(app, "todos", "home")
    await both.listen("work")
    app.backends["todos"].emit("created", {"id": "h"}, channel="home")
    app.backends["todos"].emit("created", {"id": "w"}, channel="work")
    app.backends["todos"].emit("created", {"id": "nobody"}, channel="elsewhere")
    h, w = ("create", {"id": "h"}), ("create", {"id": "w"})
    assert await heard(app.backends["todos"], plain, home, both) == [[], [h], [h, w]]


async def test_a_client_in_two_channels_is_told_once_of_an_event_for_all(serve, join, todos):
    """Listening to several channels does not multiply what is meant for everybody."""
    app = await serve(todos)
    both = await join(app, "todos", "home")
    await both.listen("work")
    app.backends["todos"].emit("created", {"id": "x"})
    assert await heard(app.backends["todos"], both) == [[("create", {"id": "x"})]]


async def test_from_a_handler(serve, join):
    """A handler may emit through its backend; other backends' emits work from there too."""

    class Audit(Backend):
        pass

    class Todos(Backend):
        @create
        async def audited(self, req):
            app.backends["audit"].emit("created", {"id": 1, "did": req.method})
            return req.model

    app = await serve(Audit, Todos)
    alice, auditor = await join(app, "todos"), await join(app, "audit")
    await alice.sync("create", {"title": "milk"})
    assert await auditor.synced() == ("create", {"id": 1, "did": "create"})


async def test_from_another_task(serve, join, todos):
    """A task of the same loop emits in the order it calls."""
    app = await serve(todos)
    alice = await join(app, "todos")

    async def tick():
        for n in range(50):
            app.backends["todos"].emit("updated", {"id": "clock", "n": n})
            await asyncio.sleep(0)

    await asyncio.create_task(tick())
    assert [await alice.synced() for _ in range(50)] == [("update", {"id": "clock", "n": n}) for n in range(50)]


async def test_from_threads(serve, join, todos):
    """Threads without a loop may emit; each thread's events keep their order and none is lost."""
    app = await serve(todos)
    alice = await join(app, "todos")

    def work(name):
        for n in range(100):
            app.backends["todos"].emit("updated", {"id": name, "n": n})

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    got = [await alice.synced() for _ in range(300)]
    for thread in threads:
        thread.join()
    for name in ("a", "b", "c"):
        assert [model["n"] for _, model in got if model["id"] == name] == list(range(100))


async def test_what_is_emitted_is_what_the_model_was_at_that_moment(serve, join, todos):
    """Changing a model after emitting it changes nothing for the clients, over either transport."""
    app = await serve(todos)
    alice, bob = await join(app, "todos"), await join(app, "todos", transport="polling")
    model = {"id": "x", "n": 1}
    app.backends["todos"].emit("updated", model)
    model["n"] = 2
    assert await alice.synced() == ("update", {"id": "x", "n": 1})
    assert await bob.synced() == ("update", {"id": "x", "n": 1})


async def test_an_unknown_event_is_refused_where_it_is_called(serve, todos):
    """A misspelt event raises in the caller and its text names the right ones."""
    app = await serve(todos)
    with pytest.raises(ValueError, match=r"created.*updated.*deleted"):
        app.backends["todos"].emit("create", {"id": "x"})


async def test_a_model_that_cannot_travel_is_refused_where_it_is_called(serve, join, todos):
    """What JSON cannot say raises in the caller, and the clients' connections live on."""
    app = await serve(todos)
    alice = await join(app, "todos")
    with pytest.raises(ValueError, match="surrogates"):
        app.backends["todos"].emit("created", {"id": "\ud800"})
    for model, place in (({"id": object()}, "model.id"), ({object: 1}, "a key of model")):
        with pytest.raises(EncodingError, match=f"^{place} is a .*, which JSON does not have"):
            app.backends["todos"].emit("created", model)
    assert await heard(app.backends["todos"], alice) == [[]]
