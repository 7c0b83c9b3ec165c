"""The application: what it says when it cannot do what is asked, and what it does not wait for."""

import asyncio
import errno
import logging

import pytest

from bbio import App, Backend, ConfigurationError, Middleware, Unavailable
from bbio.app import _why_not
from bbio.builtin import MemoryStore
from bbio.client import connect
from tests.support.servers import eventually
from tests.support.wire import LegacyClient


class Notes(Backend):
    store = MemoryStore()


async def test_an_emit_before_the_start_waits_for_it():
    """What is emitted earlier comes first, from whatever thread; an application that has ended says so."""
    appended = []

    class Log(MemoryStore):
        async def append(self, stream, method, model, req=None):
            appended.append((method, bytes(model)))
            return await super().append(stream, method, model, req)

    class Todos(Backend):
        store = Log()

    app = App().serve(Todos)
    todos = app.backends["todos"]
    await asyncio.to_thread(todos.emit, "created", {"id": 1})
    todos.emit("updated", {"id": 1})
    assert appended == []
    for n in (2, 3):
        async with app.running():
            todos.emit("deleted", {"id": n})
        with pytest.raises(ConfigurationError, match="does not run any more"):
            todos.emit("created", {"id": 4})
    assert appended == [
        ("create", b'{"id":1}'),
        ("update", b'{"id":1}'),
        ("delete", b'{"id":2}'),
        ("delete", b'{"id":3}'),
    ]


async def test_emits_that_wait_for_the_start_have_a_bound(monkeypatch):
    """An application that never starts does not keep what it is told for ever."""
    monkeypatch.setattr("bbio.app.EARLY_EMITS", 2)
    notes = App().serve(Notes).backends["notes"]
    notes.emit("created", {"id": 1})
    notes.emit("created", {"id": 2})
    with pytest.raises(ConfigurationError, match="2 emits wait"):
        notes.emit("created", {"id": 3})


async def test_what_middleware_emits_at_the_start_comes_after_all_have_started():
    """A store that has not started takes nothing yet."""
    order = []

    class Late(MemoryStore):
        async def start(self):
            await super().start()
            order.append("started")

        async def append(self, stream, method, model, req=None):
            order.append(method)
            return await super().append(stream, method, model, req)

    class Herald(Middleware):
        async def start(self, backend):
            app.backends["second"].emit("created", {"id": 1})

    class First(Backend):
        middleware = [Herald()]

    class Second(Backend):
        store = Late()

    app = App().serve(First, Second)
    async with app.running():
        pass
    assert order == ["started", "create"]


async def test_clients_are_told_what_is_public():
    """The reply to a `listen` carries it, of either version, beside the prefix of the events."""
    app = App(event="live", public={"version": "2.1", "flags": ["a"]}).serve(Notes)
    async with app.running():
        client = await LegacyClient.open(app.url, "notes")
        expected = {"event": "live", "version": "2.1", "flags": ["a"]}
        assert await client.namespace.call("listen", None) == [expected]
        [reply] = await client.namespace.call("listen", None, {"v": 1})
        assert {name: reply[name] for name in expected} == expected
        await client.close()


@pytest.mark.parametrize("public", [{"event": 1}, {"v": 2}, {"key": object()}, 7])
def test_what_is_public_is_json_and_no_word_of_the_protocol(public):
    """The mistake shows where it was made."""
    with pytest.raises(ConfigurationError, match="public"):
        App(public=public)


@pytest.mark.parametrize("debug", [False, True])
async def test_a_backend_that_does_not_exist_is_named(debug, caplog):
    """The client hears what it asked for and the log which there are; the client only in debug mode."""
    with caplog.at_level(logging.INFO, "bbio"):
        async with App(debug=debug).serve(Notes, others=Notes).running() as url, connect(url) as io:
            with pytest.raises(Unavailable, match="no backend is named 'note'") as refused:
                await io.backend("note").read()
    assert ("served: notes, others" in str(refused.value)) == debug
    assert "no backend is named 'note'; served: notes, others" in caplog.text


async def test_an_application_runs_once():
    """A second start while it runs is a mistake."""
    async with App().serve(Notes).running():
        pass
    app = App()
    await app.start()
    try:
        with pytest.raises(ConfigurationError, match="runs already"):
            await app.start()
    finally:
        await app.stop()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EADDRINUSE, "in use"),
        (errno.EACCES, "above 1023"),
        (errno.EADDRNOTAVAIL, "choose an address of this machine"),
    ],
)
def test_why_it_cannot_listen(number, said):
    """The text says how to mend it."""
    assert said in _why_not(OSError(number, "no"), "127.0.0.1", 80)


async def test_an_emit_that_fails_is_logged(caplog):
    """Whoever emits does not wait for it; the log tells."""

    class Broken(MemoryStore):
        async def append(self, stream, method, model, req=None):
            raise OSError("the disk is gone")

    class Fragile(Backend):
        store = Broken()

    app = App().serve(Fragile)
    async with app.running():
        with caplog.at_level(logging.ERROR, "bbio"):
            app.backends["fragile"].emit("created", {"id": 1})
    assert "an emit failed" in caplog.text
    assert "the disk is gone" in caplog.text


async def test_a_stop_does_not_wait_for_who_does_not_read():
    """A client that takes nothing any more, with much on its way, is left behind."""
    app = App().serve(Notes)
    await app.start()
    client = await LegacyClient.open(app.url, "notes", receive_buffer=4_096)
    await client.listen()
    client.wire.pause()
    app.backends["notes"].emit("created", {"id": 1, "text": "x" * 20_000_000})
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await app.stop()
    client.wire.abort()
    await client.close()

    async def gone():
        return not app.sio.eio.sockets

    await eventually(gone)
