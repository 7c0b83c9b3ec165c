"""Assembling, starting and mounting applications, and the command line."""

import asyncio
import signal

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bbio import App, Backend, ConfigurationError, FrozenError
from bbio.builtin import Logger, MemoryStore
from tests.support.servers import ServerProcess, bbio, eventually, heard
from tests.support.services import free_port
from tests.support.wire import Closed, ConnectRefused, LegacyClient

MODULE = '''
"""An application."""

from bbio import App, Backend, before, create
from bbio.builtin import Logger, MemoryStore


class Todos(Backend):
    middleware = [Logger()]
    store = MemoryStore()

    @before("create", "update")
    def check_title(self, req):
        pass

    @create
    async def add(self, req, next):
        return await next()


class Notes(Backend):
    store = MemoryStore()


app = App()
app.serve(Todos, Notes)
'''


class Todos(Backend):
    store = MemoryStore()


class Notes(Backend):
    store = MemoryStore()


# Serving


@pytest.mark.parametrize("form", ["class", "instance", "keyword", "keyword instance", "several", "name"])
async def test_the_forms_of_serve(engine, join, form):
    """Classes or instances, under their own name or a given one, one or several at once."""

    class Named(Backend):
        name = "tasks"

    app = App(engine=engine)
    forms = {
        "class": lambda: app.serve(Todos),
        "instance": lambda: app.serve(Todos()),
        "keyword": lambda: app.serve(tasks=Todos),
        "keyword instance": lambda: app.serve(tasks=Todos()),
        "several": lambda: app.serve(Todos, Notes, tasks=Notes),
        "name": lambda: app.serve(Named),
    }
    names = {"several": {"todos", "notes", "tasks"}, "class": {"todos"}, "instance": {"todos"}}
    assert forms[form]() is app
    expected = names.get(form, {"tasks"})
    assert set(app.backends) == expected
    async with app.running() as url:
        assert url == app.url
        for name in expected:
            client = await join(app, name)
            assert (await client.sync("create", {"title": name}))["title"] == name
        with pytest.raises(ConnectRefused):
            await join(app, "nothing")


async def test_one_class_under_two_names_is_two_backends(serve, join):
    """Each served name has its own store and its own clients."""
    app = await serve(named={"mine": Todos, "yours": Todos})
    mine, yours = await join(app, "mine"), await join(app, "yours")
    milk = await mine.sync("create", {"title": "milk"})
    assert await yours.sync("read") == []
    assert await mine.sync("read") == [milk]
    assert await heard(app.backends["yours"], yours) == [[]]


def test_two_backends_of_one_name_are_refused():
    """The message names both and says how to serve one under another name."""

    class Todos2(Backend):
        name = "todos"

    app = App().serve(Todos)
    with pytest.raises(ConfigurationError, match=r"(?s)todos.*serve\("):
        app.serve(Todos2)
    with pytest.raises(ConfigurationError, match="todos"):
        App().serve(Notes, todos=Todos2).serve(Todos)


@pytest.mark.parametrize("thing", [dict, object(), "todos", None, App])
def test_what_is_no_backend_is_refused(thing):
    """Serving something else says what was expected."""
    with pytest.raises((ConfigurationError, TypeError), match="Backend"):
        App().serve(thing)


@pytest.mark.parametrize("name", ["", "a,b", "a b", "/todos", "x" * 300, "*"])
def test_a_name_that_cannot_be_a_namespace_is_refused(name):
    """Commas, blanks and slashes have a meaning in the protocol."""
    with pytest.raises(ConfigurationError):
        App().serve(**{name: Todos})


async def test_nothing_can_be_served_or_registered_after_the_start(engine):
    """A running application is frozen; the attempt raises and changes nothing."""

    class Mine(Backend):
        store = MemoryStore()

    app = App(engine=engine).serve(Mine)
    async with app.running():
        with pytest.raises(FrozenError):
            app.serve(Notes)
        with pytest.raises(FrozenError):
            Mine.use(Logger())
    assert set(app.backends) == {"mine"}


async def test_the_event_prefix_is_told_to_clients(serve, join):
    """`App(event=...)` sets the prefix that clients put before their events."""
    app = await serve(Todos, event="sync")
    client = await join(app, "todos", ...)
    assert await client.listen() == {"event": "sync"}


@pytest.mark.parametrize("options", [{"event": ""}, {"event": 7}, {"engine": "warp"}, {"colour": "red"}])
def test_wrong_options_are_refused(options):
    """A misspelt option or an impossible value is told at once."""
    with pytest.raises((ConfigurationError, TypeError)):
        App(**options)


# Starting and stopping


async def test_a_port_in_use_is_a_clear_error(engine, serve):
    """The error names the port and how to choose another."""
    first = await serve(Todos)
    app = App(engine=engine).serve(Todos)
    with pytest.raises(ConfigurationError, match=rf"{first.port}.*port"):
        await app.start(host="127.0.0.1", port=first.port)
    await app.stop()


async def test_an_application_without_backends_starts(engine, dial):
    """Nothing served is no error: custom events on `app.sio` may be all there is."""
    app = App(engine=engine)
    async with app.running():
        wire = await dial(app)
        with pytest.raises(ConnectRefused):
            await wire.connect("/todos")
        await wire.close()


async def test_a_store_is_started_and_stopped_with_the_application(engine, join):
    """A store connects before the first request and lets go after the last."""
    happened = []

    class Noted(MemoryStore):
        async def start(self):
            happened.append("start")
            await super().start()

        async def create(self, req):
            happened.append("create")
            return await super().create(req)

        async def stop(self):
            happened.append("stop")
            await super().stop()

    class Kept(Backend):
        store = Noted()

    app = App(engine=engine).serve(Kept)
    assert happened == []
    async with app.running():
        await (await join(app, "kept")).sync("create", {})
    assert happened == ["start", "create", "stop"]


# Mounting and customising


@pytest.mark.parametrize("mounted", [True, False])
async def test_a_start_that_fails_stops_the_backends_that_have_started(engine, mounted):
    """And only those; once what was wrong is mended the application starts."""
    said, wrong = [], [True]

    class Remote(MemoryStore):
        def __init__(self, name):
            super().__init__()
            self.name = name

        async def start(self):
            if self.name == "second" and wrong:
                raise OSError("no connection")
            said.append(f"start {self.name}")

        async def stop(self):
            said.append(f"stop {self.name}")

    names = ("first", "second", "third")
    app = App(engine=engine)
    for name in names:
        app.serve(**{name: type(name, (Backend,), {"store": Remote(name)})})
    if mounted:
        runner = web.AppRunner(app.mount(web.Application()))
        with pytest.raises(OSError, match="no connection"):
            await runner.setup()
        await runner.cleanup()
    else:
        with pytest.raises(OSError, match="no connection"):
            await app.start()
    assert said == ["start first", "stop first"]
    said.clear()
    wrong.clear()
    async with app.running():
        assert said == [f"start {name}" for name in names]


async def test_mounting_on_an_aiohttp_application(engine, join):
    """An existing application keeps its routes and gains the backends; its cleanup stops them."""
    host = web.Application()

    async def hello(request):
        return web.Response(text="hello")

    host.router.add_get("/", hello)
    app = App(engine=engine).serve(Todos)
    assert app.mount(host) is host
    runner = web.AppRunner(host)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{url}/") as answer:
                assert await answer.text() == "hello"
            async with http.get(f"{url}/healthz") as answer:
                assert await answer.json() == {"status": "ok"}
        alice, bob = await join(url, "todos"), await join(url, "todos")
        milk = await alice.sync("create", {"title": "milk"})
        assert await bob.synced() == ("create", milk)
    finally:
        await runner.cleanup()
    await alice.wire.ended()


async def test_an_application_keeps_its_own_health(engine):
    """`/healthz` is added by `start` and `mount` alike, unless it is there."""

    async def mine(request):
        return web.Response(text="mine")

    host = web.Application()
    host.router.add_get("/healthz", mine)
    async with TestClient(TestServer(App(engine=engine).mount(host))) as client:
        assert await (await client.get("/healthz")).text() == "mine"
    async with (
        App(engine=engine).running() as url,
        aiohttp.ClientSession() as http,
        http.get(f"{url}/healthz") as answer,
    ):
        assert await answer.json() == {"status": "ok"}


async def test_custom_events_beside_a_backend(engine, join):
    """`app.sio` takes handlers of its own: in the default namespace, in others and on a backend's."""
    app = App(engine=engine).serve(Todos)

    @app.sio.on("add")
    async def add(sid, a, b):
        return a + b

    @app.sio.on("shout", namespace="/chat")
    async def shout(sid, text):
        await app.sio.emit("heard", text.upper(), namespace="/chat", skip_sid=sid)

    @app.sio.on("wave", namespace="/todos")
    def wave(sid):
        return "hello", sid

    async with app.running():
        client, other = await join(app, "todos"), await join(app, "todos")
        root = await client.wire.connect("/")
        assert await root.call("add", 2, 3) == [5]
        chat, chat2 = await client.wire.connect("/chat"), await other.wire.connect("/chat")
        await chat.emit("shout", "milk")
        assert await chat2.event() == ["heard", "MILK"]
        assert await client.namespace.call("wave") == ["hello", client.namespace.sid]
        assert (await client.sync("create", {"title": "milk"}))["title"] == "milk"
        assert (await other.synced())[0] == "create"


async def test_binary_events_on_app_sio(engine, dial):
    """Attachments of custom events travel both ways."""
    app = App(engine=engine)

    @app.sio.on("reverse")
    async def reverse(sid, data):
        return {"data": data["data"][::-1]}

    async with app.running():
        wire = await dial(app)
        root = await wire.connect("/")
        await wire.send('451-7["reverse",{"data":{"_placeholder":true,"num":0}}]', b"\x00\x01\x02")
        assert await root.reply(7) == [{"data": {"_placeholder": True, "num": 0}}]
        assert root.packets[-1].attachments == [b"\x02\x01\x00"]
        await wire.close()


async def test_the_client_scripts_are_served(serve):
    """Both scripts come from the application itself, with an ETag and as JavaScript."""
    app = await serve(Todos)
    async with aiohttp.ClientSession() as http:
        for name in ("socket.io.js", "backbone.io.js", "backbone.io.min.js", "backbone.io.mjs"):
            async with http.get(f"{app.url}/socket.io/{name}") as answer:
                assert answer.status == 200, name
                assert "javascript" in answer.content_type
                etag = answer.headers["ETag"]
                assert len(await answer.read()) > 1000
            async with http.get(f"{app.url}/socket.io/{name}", headers={"If-None-Match": etag}) as answer:
                assert answer.status == 304
        async with http.get(f"{app.url}/socket.io/../app.py") as answer:
            assert answer.status in (400, 404)


# The command line


async def test_bbio_run_serves_and_stops(spawn, join):
    """`python -m bbio run` says where it is, serves, and ends with status 0 on SIGTERM."""
    server = await spawn(MODULE, fresh=True)
    assert server.url in await server.said(server.url)
    client = await join(server.url, "todos")
    assert (await client.sync("create", {"title": "milk"}))["title"] == "milk"
    server.signal(signal.SIGTERM)
    assert await client.wire.ended() == 1001
    assert await server.ended(6) == 0
    assert "Traceback" not in server.output


async def test_bbio_run_ends_on_ctrl_c(spawn):
    """SIGINT ends it as quietly."""
    server = await spawn(MODULE, fresh=True)
    server.signal(signal.SIGINT)
    assert await server.ended(6) in (0, 130)
    assert "Traceback" not in server.output


async def test_bbio_run_takes_host_and_port_from_the_environment(tmp_path):
    """`BBIO_PORT` and `BBIO_HOST` stand in for the options."""
    (tmp_path / "served.py").write_text(MODULE)
    port = free_port()
    env = {"BBIO_PORT": str(port), "BBIO_HOST": "127.0.0.1"}
    server = ServerProcess("run", "served:app", cwd=tmp_path, port=port, env=env, forked=True)
    try:
        await server.start()
        client = await LegacyClient.open(server.url, "todos")
        assert await client.listen() == {"event": "backend"}
        await client.close()
    finally:
        await server.stop()


@pytest.mark.once
async def test_bbio_run_reloads_when_a_file_changes(tmp_path):
    """With `--reload` an edited module is served without a restart by hand."""
    module = tmp_path / "served.py"
    module.write_text(MODULE)
    port = free_port()
    server = ServerProcess("run", "served:app", "--port", str(port), "--reload", cwd=tmp_path, port=port)

    async def listens():
        try:
            client = await LegacyClient.open(server.url, "extra")
        except (OSError, ConnectRefused, Closed, asyncio.IncompleteReadError):
            return False
        await client.close()
        return True

    try:
        await server.start()
        assert not await listens()
        edited = MODULE.replace("class Notes", "class Extra").replace("Todos, Notes", "Todos, Extra")
        module.write_text(edited + "# longer: what is compiled is known by its second and size\n")
        await eventually(listens)
    finally:
        server.signal(signal.SIGTERM)
        await server.ended()


async def test_a_module_that_cannot_be_used_is_a_clear_error(tmp_path):
    """One line says where it went wrong, and nothing else does; `tests/unit/test_cli.py` has what else can be wrong."""
    (tmp_path / "served.py").write_text("\n1 / 0")
    status, output = await bbio("stacks", "served:app", cwd=tmp_path, forked=False)
    place = f"{tmp_path / 'served.py'}:2"
    assert status == 1
    assert output == f"Error: served cannot be imported: ZeroDivisionError: division by zero ({place})\n"


async def test_bbio_run_says_the_same(tmp_path):
    """Whatever needs an application reads it in one way."""
    status, output = await bbio("run", "nowhere:app", cwd=tmp_path)
    assert (status, output[:37]) == (1, "Error: there is no module 'nowhere'; ")


MOUNTED = (
    MODULE
    + """
import gc

from aiohttp import web

async def hello(request):
    return web.Response(text=f"{gc.get_freeze_count()} objects are no garbage")

application = web.Application()
application.router.add_get("/hello", hello)
app.mount(application)
"""
)


@pytest.mark.parametrize("target", ["application", "app"])
async def test_bbio_run_serves_a_mounted_application(tmp_path, target):
    """With all that is its own; whoever names the App alone is told what that leaves out."""
    (tmp_path / "served.py").write_text(MOUNTED)
    port = free_port()
    server = ServerProcess("run", f"served:{target}", "--port", str(port), cwd=tmp_path, port=port, forked=True)
    try:
        await server.start()
        await server.said(f"bbio serves todos, notes on {server.url} (Ctrl-C stops it)")
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{server.url}/hello") as answer:
                assert answer.status == (200 if target == "application" else 404)
                # What was imported is looked through for garbage once, not while clients wait.
                assert target == "app" or int((await answer.text()).split()[0]) > 10_000
            async with http.get(f"{server.url}/readyz") as answer:
                assert answer.status == 200
        client = await LegacyClient.open(server.url, "todos")
        assert (await client.sync("create", {"title": "milk"}))["title"] == "milk"
        server.signal(signal.SIGTERM)
        assert await client.wire.ended() == 1001
        assert await server.ended(6) == 0
        await client.close()
        advice = "served:app is mounted on served:application; run that to serve its other pages too"
        assert (advice in server.output) is (target == "app")
        assert "Traceback" not in server.output
    finally:
        await server.stop()


async def test_bbio_run_tells_when_the_port_is_in_use(tmp_path, serve):
    """The command line shows the same clear error as `start`, without a traceback."""
    app = await serve(Todos)
    (tmp_path / "served.py").write_text(MODULE)
    status, output = await bbio("run", "served:app", "--port", str(app.port), cwd=tmp_path)
    assert status != 0
    assert output == f"Error: port {app.port} of 127.0.0.1 is in use; stop what uses it, or choose another port\n"


async def test_bbio_stacks_prints_each_layer_with_file_and_line(tmp_path):
    """Every backend and method, layer by layer, in the order they run, with where they are defined."""
    (tmp_path / "served.py").write_text(MODULE)
    status, output = await bbio("stacks", "served:app", cwd=tmp_path)
    assert status == 0
    line = next(n for n, text in enumerate(MODULE.splitlines(), 1) if "def check_title" in text)
    create = output[output.index("create") :]
    places = [create.index(word) for word in ("Logger", "check_title", "add", "MemoryStore")]
    assert places == sorted(places)
    assert "todos" in output
    assert "notes" in output
    assert f"served.py:{line - 1}" in output or f"served.py:{line}" in output


async def test_help_names_the_commands(tmp_path):
    """`--help` lists run, stacks and demo."""
    status, output = await bbio("--help", cwd=tmp_path)
    assert status == 0
    assert all(command in output for command in ("run", "stacks", "demo"))


async def test_bbio_demo_serves_the_messages_example(tmp_path):
    """`bbio demo` prints its address and shows a page there."""
    port = free_port()
    server = ServerProcess("demo", "--port", str(port), cwd=tmp_path, port=port, forked=True)
    try:
        await server.start()
        await server.said(server.url)
        async with aiohttp.ClientSession() as http, http.get(f"{server.url}/") as answer:
            assert answer.status == 200
            assert "backbone.io" in await answer.text()
    finally:
        await server.stop()
