"""The application: what it says when it cannot do what is asked, and what it does not wait for."""

import asyncio
import errno
import logging

import aiohttp
import pytest
from aiohttp import web

import bbio.app
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


@pytest.mark.parametrize("public", [{"event": 1}, {"v": 2}, {"user": "x"}, {"key": object()}, 7])
def test_what_is_public_is_json_and_no_word_of_the_protocol(public):
    """The mistake shows where it was made."""
    with pytest.raises(ConfigurationError, match="public"):
        App(public=public)


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("debug", [False, True])
async def test_a_backend_that_does_not_exist_is_named(debug, engine, caplog):
    """The client hears what it asked for and the log which there are; the client only in debug mode."""
    with caplog.at_level(logging.INFO, "bbio"):
        served = App(debug=debug, engine=engine).serve(Notes, others=Notes)
        async with served.running() as url, connect(url) as io:
            with pytest.raises(Unavailable, match="no backend is named 'note'") as refused:
                await io.backend("note").read()
    assert ("served: notes, others" in str(refused.value)) == debug
    assert "refused the namespace '/note': app.serve(...) serves it; served: notes, others" in caplog.text


async def test_an_application_runs_once():
    """A second start while it runs is a mistake."""
    async with App().serve(Notes).running():
        pass
    app = App()
    await app.start()
    try:
        with pytest.raises(ConfigurationError, match="runs already"):
            await app.start()
        with pytest.raises(ConfigurationError, match="runs already"):
            app.reopen()
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


# Pages


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page's file, in the current folder."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "index.html"
    file.write_text("<h1>milk</h1>")
    return file


@pytest.mark.parametrize(
    ("path", "file", "said"),
    [
        (
            "/",
            "missing.html",
            r"no such file, .*/missing\.html; name a file beside the module: Path\(__file__\)",
        ),
        ("/", ".", "that is a folder"),
        ("index.html", "index.html", "begins with '/'; write '/index.html'"),
        ("/there", "index.html", "there is a page at this path already, .*index.html"),
    ],
)
def test_a_page_that_cannot_be_served_is_told_at_once(page, path, file, said):
    """Not when somebody asks for it."""
    app = App().page("/there", page)
    with pytest.raises(ConfigurationError, match=said):
        app.page(path, file)


async def test_a_page_is_found_whatever_folder_is_current(page, tmp_path, monkeypatch):
    """A relative path begins where the current folder was when it was given."""
    app = App().page("/", "index.html")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    async with app.running() as url, aiohttp.ClientSession() as http, http.get(url) as answer:
        assert await answer.text() == "<h1>milk</h1>"


async def test_a_late_page_is_refused(page):
    """Nobody would ever see it."""
    app = App()
    async with app.running():
        with pytest.raises(ConfigurationError, match="came too late"):
            app.page("/", page)
    app.page("/", page)
    app.mount(web.Application())
    with pytest.raises(ConfigurationError, match="came too late"):
        app.page("/more", page)


# Mounted


async def test_a_mounted_application_is_started_with_its_own_pages(page):
    """`start`, `running` and `run` take the application that this one is mounted on."""
    app = App().serve(Notes)

    async def hello(request):
        return web.Response(text="hello")

    host = web.Application()
    host.router.add_get("/hello", hello)
    with pytest.raises(ConfigurationError, match=r"call app.mount\(application\) first"):
        await app.start(application=host)
    app.mount(host)
    async with app.running(application=host) as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}/hello") as answer:
            assert await answer.text() == "hello"
        client = await LegacyClient.open(url, "notes")
        assert (await client.sync("create", {"title": "milk"}))["title"] == "milk"
        await client.close()


async def test_a_start_that_fails_cleans_up_the_application_it_is_mounted_on():
    """What the application has opened for itself is closed again."""
    happened = []

    async def resource(application):
        happened.append("open")
        yield
        happened.append("closed")

    class Broken(MemoryStore):
        async def start(self):
            raise OSError("no connection")

    class Fragile(Backend):
        store = Broken()

    host = web.Application()
    host.cleanup_ctx.append(resource)
    app = App().serve(Fragile)
    app.mount(host)
    with pytest.raises(OSError, match="no connection"):
        await app.start(application=host)
    assert happened == ["open", "closed"]


async def test_a_start_whose_consumers_cannot_begin_closes_the_backends(monkeypatch):
    """Those that were opened for it."""
    monkeypatch.setenv("BBIO_CONSUMERS", "maybe")
    host = web.Application()
    app = App().serve(Notes)
    app.mount(host)
    runner = web.AppRunner(host)
    with pytest.raises(ConfigurationError, match="BBIO_CONSUMERS is 'maybe'"):
        await runner.setup()
    assert not app.is_open
    await runner.cleanup()


async def test_calls_that_did_not_finish_are_counted_in_the_log(monkeypatch, caplog):
    """Where there is none, there is nothing to tell."""
    unfinished = [2, 0]

    async def drain(seconds):
        return unfinished.pop(0)

    app = App()
    monkeypatch.setattr(app.gateway.calls, "drain", drain)
    for _ in range(2):
        await app.finish()
    assert [record.getMessage() for record in caplog.records] == [
        "2 calls were under way at the end and were given up; writes may be applied"
    ]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1", "::1"])
async def test_the_url_can_be_asked_for(host):
    """Whatever address it listens on."""
    async with App().running(host) as url, aiohttp.ClientSession() as http, http.get(f"{url}/healthz") as answer:
        assert answer.status == 200


async def test_all_addresses_are_those_of_both_protocols():
    """A client of IPv4 is known by its own address then, and asks loopback for no other name all the same."""
    app = App(proxies=["127.0.0.0/8"])
    async with app.running("::"), aiohttp.ClientSession() as http:
        for host, named, status in (
            ("127.0.0.1", "localhost", 200),
            ("[::1]", "localhost", 200),
            ("[::1]", "rebound.example", 403),
            ("127.0.0.1", "rebound.example", 200),  # from a proxy
        ):
            url = f"http://{host}:{app.port}/socket.io/?EIO=4&transport=polling"
            async with http.get(url, headers={"Host": named}) as answer:
                assert (host, answer.status) == (host, status)
        with pytest.raises(ConfigurationError, match=f"port {app.port} of :: is in use"):
            await App().start("::", app.port)


async def test_what_does_not_close_in_time_is_given_up(monkeypatch):
    """A stop waits for nobody any longer."""
    monkeypatch.setattr(bbio.app, "CLOSE_SECONDS", 0.01)
    ended = []

    async def hang():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    await bbio.app._finish([hang(), hang()])
    assert ended == [True, True]
