"""Handlers of the application on the namespaces of backends: called beside bbio's, never instead."""

import asyncio
import logging

import pytest
import socketio

from bbio import App, Backend, ConfigurationError, Limits
from bbio.builtin import MemoryStore
from tests.support.servers import eventually
from tests.support.wire import ConnectRefused, Wire


class Todos(Backend):
    store = MemoryStore()


class Notes(Backend):
    store = MemoryStore()


def application(engine, *, early=(), late=(), **options):
    """An App whose handlers are registered before and after its backends are served."""
    app = App(engine=engine, limits=Limits(**options))
    for event, namespace, handler in early:
        app.sio.on(event, handler, namespace=namespace)
    app.serve(Todos, Notes)
    for event, namespace, handler in late:
        app.sio.on(event, handler, namespace=namespace)
    return app


async def comes_and_goes(app, dial, namespace="/todos"):
    """A client joins a namespace, syncs, and leaves with its connection; then nothing of it is left."""
    wire = await dial(app)
    joined = await wire.connect(namespace)
    assert (await joined.call("sync", {"method": "create", "model": {}}))[0] is None
    left = []
    left_before = app.gateway.left
    app.gateway.left = lambda socket, reason: (left.append(socket), left_before(socket, reason))
    await wire.close()

    async def gone():
        return len(left) == 1

    await eventually(gone)
    app.gateway.left = left_before
    return joined.sid


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("place", ["/todos", "*"])
async def test_functions_are_called_beside_bbio(engine, dial, when, place):
    """With what python-socketio gives them; clients join, sync and leave as they do without."""
    seen = []
    some = ("/todos",) if place == "*" else ()

    async def connect(*arguments):
        assert isinstance(arguments[-2], dict)
        seen.append(arguments[: len(some) + 1] + arguments[-1:])

    def disconnect(*arguments):
        seen.append(arguments)

    app = application(engine, **{when: [("connect", place, connect), ("disconnect", place, disconnect)]})
    async with app.running():
        sid = await comes_and_goes(app, dial)

        async def both():
            return len(seen) == 2

        await eventually(both)
    assert seen[0] == (*some, sid, None)
    assert seen[1][: len(some) + 1] == (*some, sid)
    assert isinstance(seen[1][-1], str)


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("place", ["/todos", "*"])
async def test_classes_are_called_beside_bbio(engine, dial, when, place):
    """Also those whose methods take what the first versions of python-socketio gave."""
    seen = []

    class Coming(socketio.AsyncNamespace):
        def on_connect(self, *arguments):
            seen.append(("connect", len(arguments)))

        async def on_disconnect(self, *arguments):
            seen.append(("disconnect", len(arguments)))

        async def on_wave(self, *arguments):
            return "hello"

    class Early(Coming):
        def on_connect(self, sid, environ):
            seen.append(("connect", 3))

        async def on_disconnect(self, sid):
            seen.append(("disconnect", 2))

    more = 1 if place == "*" else 0
    app = App(engine=engine)
    kind = Coming if place == "*" else Early
    if when == "early":
        app.sio.register_namespace(kind(place))
    app.serve(Todos)
    if when == "late":
        app.sio.register_namespace(kind(place))
    async with app.running():
        await comes_and_goes(app, dial)

        async def both():
            return seen == [("connect", 3 + more), ("disconnect", 2 + more)]

        await eventually(both)


async def test_a_decorated_function_stays_what_it_is(engine, dial):
    """`@app.sio.event` and `@app.sio.on` give it back; it may take one argument less."""
    app, seen = App(engine=engine).serve(Todos), []

    @app.sio.event(namespace="/todos")
    def connect(sid, environ):
        seen.append("connect")

    @app.sio.on("disconnect", namespace="/todos")
    async def disconnect(sid):
        seen.append("disconnect")

    async with app.running():
        await comes_and_goes(app, dial)

        async def both():
            return seen == ["connect", "disconnect"]

        await eventually(both)
    assert connect("sid", {}) is None
    await disconnect("sid")
    assert seen == ["connect", "disconnect"] * 2


@pytest.mark.parametrize(
    "refuse", [lambda: False, lambda: 1 / 0, "refused", "builtin"], ids=["false", "fails", "refused", "builtin"]
)
async def test_who_is_refused_does_not_join_the_backend(engine, dial, refuse, caplog):
    """By `False`, by an error of python-socketio's, or by a handler that fails, which is the server's own fault."""

    def connect(sid, environ):
        if refuse == "refused":
            raise socketio.exceptions.ConnectionRefusedError("not you")
        if refuse == "builtin":
            raise ConnectionRefusedError
        return refuse()

    app = application(engine, late=[("connect", "/todos", connect)])
    async with app.running():
        wire = await dial(app)
        with pytest.raises(ConnectRefused) as refused:
            await wire.connect("/todos")
        assert "ZeroDivision" not in str(refused.value.data)
        if refuse == "refused":
            assert refused.value.data == {"message": "not you"}
        # The connection is not to blame.
        notes = await wire.connect("/notes")
        assert (await notes.call("sync", {"method": "read"}))[0] is None
        assert not app.sio.manager.rooms.get("/todos")
    assert ("a handler of connect in the namespace /todos failed" in caplog.text) is (
        "ZeroDivisionError" in caplog.text
    )


@pytest.mark.parametrize("place", ["/", "/todos", "class"])
async def test_a_failing_disconnect_keeps_nobody(engine, dial, place, caplog):
    """Whatever namespace its handler is of, the client leaves all others."""

    def disconnect(sid, reason):
        raise OSError("nobody expects that")

    class Failing(socketio.AsyncNamespace):
        def on_disconnect(self, sid, reason):
            disconnect(sid, reason)

    app = application(engine, early=[("hello", "/", print)])
    if place == "class":
        app.sio.register_namespace(Failing("/"))
    else:
        app.sio.on("disconnect", disconnect, namespace=place)
    async with app.running():
        wire = await dial(app)
        for namespace in ("/", "/todos", "/notes"):
            await wire.connect(namespace)
        with caplog.at_level(logging.ERROR, "bbio"):
            await wire.close()

            async def gone():
                manager = app.sio.manager
                return not app.sio.environ and not any(manager.rooms.get(each) for each in ("/", "/todos", "/notes"))

            await eventually(gone)
    where = "/" if place == "class" else place
    assert f"a handler of disconnect in the namespace {where} failed" in caplog.text
    assert "nobody expects that" in caplog.text


@pytest.mark.parametrize("kind", ["function", "class"])
async def test_a_connect_that_takes_too_long_is_refused(engine, dial, kind, caplog):
    """No client waits for ever, and none stays half joined."""

    class Stuck(socketio.AsyncNamespace):
        async def on_connect(self, sid, environ, auth):
            await asyncio.Event().wait()

    app = application(engine, deadline=0.1)
    if kind == "class":
        app.sio.register_namespace(Stuck("/todos"))
    else:
        app.sio.on("connect", Stuck("/todos").on_connect, namespace="/todos")
    async with app.running():
        wire = await dial(app)
        with pytest.raises(ConnectRefused):
            await wire.connect("/todos")
    assert "TimeoutError" in caplog.text


async def test_who_goes_while_it_is_let_in_does_not_stay(engine):
    """A handler that waits gives its client time to go away."""
    waiting, go = asyncio.Event(), asyncio.Event()

    async def connect(sid, environ):
        waiting.set()
        await go.wait()

    app = application(engine, late=[("connect", "/todos", connect)])
    async with app.running():
        wire = await Wire.open(app.url, transport="polling")
        joining = asyncio.create_task(wire.connect("/todos"))
        await waiting.wait()
        (session,) = app.sio.eio.sockets.values()
        await session.close(wait=False, abort=True)
        assert not app.sio.environ
        go.set()

        async def gone():
            return not app.sio.manager.rooms.get("/todos")

        await eventually(gone)
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)
        await wire.close()


async def test_a_stop_does_not_wait_for_a_disconnect_that_hangs(engine, dial):
    """It is given up soon."""

    async def disconnect(sid, reason):
        await asyncio.Event().wait()

    app = application(engine, late=[("disconnect", "/todos", disconnect)])
    await app.start()
    for transport in ("websocket", "polling"):
        wire = await dial(app, transport=transport)
        await wire.connect("/todos")
    async with asyncio.timeout(5):
        await app.stop()

    async def gone():
        return not app.sio.environ

    await eventually(gone)


@pytest.mark.parametrize("event", ["sync", "listen"])
def test_what_a_backend_answers_is_refused(engine, event):
    """Such a handler would never be called, or called instead of the backend."""

    class Answering(socketio.AsyncNamespace):
        pass

    setattr(Answering, f"on_{event}", print)
    text = "sync, listen, unlisten, auth of the namespace '/todos' are answered by the backend 'todos'"
    app = App(engine=engine).serve(Todos)
    with pytest.raises(ConfigurationError, match=text):
        app.sio.on(event, print, namespace="/todos")
    with pytest.raises(ConfigurationError, match=text):
        app.sio.register_namespace(Answering("/todos"))
    app.sio.on(event, print, namespace="/other")
    app.sio.register_namespace(Answering("/others"))
    for register in (
        lambda sio: sio.on(event, print, namespace="/todos"),
        lambda sio: sio.register_namespace(Answering("/todos")),
    ):
        app = App(engine=engine)
        register(app.sio)
        with pytest.raises(ConfigurationError, match=text):
            app.serve(Todos)


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("kind", ["function", "catch-all", "class"])
async def test_messages_of_the_application_are_its_own(engine, dial, when, kind):
    """A backend that declares no messages leaves the event to it, however it is handled."""
    seen = []

    async def take(*arguments):
        seen.append(arguments[-1])

    class Chat(socketio.AsyncNamespace):
        async def on_message(self, sid, text):
            seen.append(text)

    def register(sio):
        if kind == "class":
            sio.register_namespace(Chat("/todos"))
        else:
            sio.on("message" if kind == "function" else "*", take, namespace="/todos")

    app = App(engine=engine)
    if when == "early":
        register(app.sio)
    app.serve(Todos)
    if when == "late":
        register(app.sio)

    async def arrived():
        return seen == ["hello"]

    async with app.running():
        joined = await (await dial(app)).connect("/todos")
        await joined.emit("message", "hello")
        await eventually(arrived)
