"""Socket.IO's `auth`: what a client joins a backend with, as layers see it (`req.socket.auth`)."""

import asyncio
import logging

import pytest

from bbio import App, Backend, BadRequest, ConfigurationError, Limits, Unauthorized, before, read
from bbio.builtin import Logger
from bbio.client import connect
from tests.support.proxy import Proxy
from tests.support.wire import CONNECT, MESSAGE, ConnectRefused, Namespace, encode

SECRET = "hunter2-and-more"
READ = {"method": "read", "model": {}, "options": {}}


class Mirror(Backend):
    """Answers a read with what the client has joined with; a layer spoils its own copy."""

    middleware = [Logger()]
    notifies = "unfiltered"

    @before("read")
    def spoil(self, req):
        if req.socket.auth is not None:
            req.socket.auth["token"] = "spoilt"

    @read
    def told(self, req):
        return [{"auth": req.socket.auth}]


class Other(Mirror):
    """Another backend of the same application."""


async def told(namespace):
    """What the layers of a client's backend see."""
    error, models, *_ = await namespace.call("sync", READ)
    assert error is None
    return models[0]["auth"]


def nested(depth):
    """An `auth` of so many objects in each other."""
    auth = {}
    for _ in range(depth - 1):
        auth = {"a": auth}
    return auth


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("auth", [None, {}, {"token": SECRET}, {"a": [1, 2.5, None, True, {"é": "ü"}]}, nested(32)])
async def test_layers_see_what_a_client_joined_with(serve, dial, auth, transport):
    """Each its own copy; None where it sent nothing."""
    wire = await dial(await serve(Mirror), transport=transport)
    namespace = await wire.connect("/mirror", auth)
    for _ in range(2):
        assert await told(namespace) == (auth or None)


async def test_each_backend_has_its_own(serve, dial):
    """And after a client has left and joined again, what it joined with last."""
    wire = await dial(await serve(Mirror, Other))
    one, two = await wire.connect("/mirror", {"token": "one"}), await wire.connect("/other", {"token": "two"})
    assert [await told(one), await told(two)] == [{"token": "one"}, {"token": "two"}]
    await one.disconnect()
    again = await wire.connect("/mirror", {"token": "three"})
    assert [await told(again), await told(two)] == [{"token": "three"}, {"token": "two"}]
    await again.disconnect()
    assert await told(await wire.connect("/mirror")) is None


BAD = {
    "a list": (encode([SECRET]), "must be a JSON object"),
    "too large": (encode({"token": SECRET * 1_000}), "may have 8192 bytes.*raise Limits.auth"),
    "too deep": (encode({"token": SECRET, "a": nested(32)}), "nested too deep"),
    "a field that is none": (encode({"__proto__": SECRET}), "__proto__ is not allowed as the name of a field"),
    "NUL": (encode({"token": f"{SECRET}\0"}), "is not allowed"),
    "half a character": (f'{{"token":"{SECRET}\\ud800"}}', "is not allowed|not valid JSON"),
    "no number": (f'{{"token":"{SECRET}","n":NaN}}', "too large|not valid JSON"),
    "too large a number": (f'{{"token":"{SECRET}","n":1e999}}', "too large|not valid JSON"),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_cannot_be_accepted_is_refused_and_told_why(serve, dial, name):
    """The client has not joined, and may try again on the same connection."""
    text, why = BAD[name]
    app = await serve(Mirror)
    wire = await dial(app)
    with pytest.raises(ConnectRefused) as refused:
        await wire.connect("/mirror", text=text)
    assert refused.match(why)
    assert refused.value.data["data"]["name"] == "BadRequest"
    assert SECRET not in str(refused.value.data)
    assert not app.gateway.delivery.busy
    assert await told(await wire.connect("/mirror", {"token": "good"})) == {"token": "good"}


async def test_how_large_it_may_be_is_a_limit(serve, dial):
    """`Limits.auth`, in bytes of JSON; `Limits.depth` counts too."""
    wire = await dial(await serve(Mirror, Other, limits=Limits(auth=20, depth=2)))
    with pytest.raises(ConnectRefused, match="may have 20 bytes"):
        await wire.connect("/mirror", {"token": "x" * 9})
    with pytest.raises(ConnectRefused, match="nested too deep"):
        await wire.connect("/mirror", nested(3))
    assert await told(await wire.connect("/mirror", {"token": "x" * 8})) == {"token": "x" * 8}
    assert await told(await wire.connect("/other", nested(2))) == nested(2)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_who_is_refused_too_often_is_gone(serve, dial, transport):
    """Joins that are refused count as those of backends that do not exist."""
    wire = await dial(await serve(Mirror, limits=Limits(bad_namespaces=2)), transport=transport)
    with pytest.raises(ConnectRefused):
        await wire.connect("/none")
    with pytest.raises(ConnectRefused):
        await wire.connect("/mirror", [1])
    await wire.send(f"{MESSAGE}{CONNECT}/mirror,[1]")
    await wire.ended()


@pytest.mark.parametrize("where", ["query", "headers", "request", "model", "options", "listen"])
async def test_nothing_else_that_a_client_sends_gets_there(serve, dial, where):
    """Not what the handshake, a `listen` or a `sync` holds."""
    forged = {"auth": {"token": "forged"}, "token": "forged", "socket": {"auth": {"token": "forged"}}, "_auth": "{}"}
    app = await serve(Mirror)
    wire = await dial(app, headers={"Auth": encode(forged), "Authorization": "Bearer forged"})
    namespace = Namespace(wire, "/mirror")
    wire.namespaces["/mirror"] = namespace
    await wire.send(f"{MESSAGE}{CONNECT}/mirror{'?auth=forged&token=forged' if where == 'query' else ''},")
    await wire.until(lambda: namespace.connected, "the answer")
    if where == "listen":
        await namespace.call("listen", None, {"v": 1, **forged})
    extra = {name: forged for name in ("model", "options") if where == name}
    ack = await namespace.call("sync", {**READ, **extra, **(forged if where == "request" else {})})
    assert "forged" not in encode(ack)
    assert await told(namespace) is None


async def test_it_is_never_logged(serve, dial, caplog):
    """Neither at any level, nor when it is refused, nor in what a failing layer leaves."""

    class Fails(Backend):
        @read
        def fail(self, req):
            token = req.socket.auth["token"]
            raise RuntimeError(f"no luck with a token of {len(token)} characters")

    caplog.set_level(logging.DEBUG)
    app = await serve(Mirror, Fails)
    asyncio.get_running_loop().set_debug(True)
    wire = await dial(app)
    assert await told(await wire.connect("/mirror", {"token": SECRET})) == {"token": SECRET}
    (failed,) = await (await wire.connect("/fails", {"token": SECRET})).call("sync", READ)
    assert failed["error"]["name"] == "InternalError"
    for text, _ in BAD.values():
        with pytest.raises(ConnectRefused):
            await (await dial(app)).connect("/mirror", text=text)
    for text in (f'{{"token":"{SECRET}"', f'"{SECRET}', f'12345{{"{SECRET}"}}', f"²{SECRET}"):
        broken = await dial(app)
        await broken.send(f"{MESSAGE}{CONNECT}/mirror,{text}")
        await broken.send(f"{MESSAGE}{CONNECT}/mirror,")
        await broken.until(
            lambda broken=broken: broken.closed or any(f"{MESSAGE}{CONNECT}/m" in str(f) for f in broken.frames),
            "an answer, or the end",
        )
    assert "no luck with a token" in caplog.text
    assert SECRET not in caplog.text
    assert all(SECRET not in repr(vars(record)) for record in caplog.records)


# The client in Python


FAST = {"jitter": 0.01, "reconnect": (0.01, 0.05)}


def tokens():
    """A function that returns another token each time."""
    count = iter(range(1, 1_000))
    return lambda: {"token": next(count)}


async def of(handle):
    """What the layers see of a client in Python."""
    return (await handle.read())[0]["auth"]


async def test_the_client_joins_with_an_object(serve):
    """The same for every backend and after every lost connection."""
    app = await serve(Mirror, Other)
    async with Proxy(app.port) as proxy, connect(proxy.url, auth={"token": SECRET}, **FAST) as io:
        for _ in range(2):
            assert await of(io.backend("mirror")) == await of(io.backend("other")) == {"token": SECRET}
            proxy.cut()


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_client_asks_a_function(serve, is_async):
    """For each connection, and for each backend that joins a live one."""
    plain = tokens()

    async def later():
        await asyncio.sleep(0)
        return plain()

    app = await serve(Mirror, Other)
    async with Proxy(app.port) as proxy, connect(proxy.url, auth=later if is_async else plain, **FAST) as io:
        one, two = io.backend("mirror"), None
        assert await of(one) == {"token": 1}
        two = io.backend("other")
        assert await of(two) == {"token": 2}
        proxy.cut()
        assert (await of(one))["token"] == (await of(two))["token"] >= 3


async def test_a_namespace_that_the_server_closes_is_joined_with_it_again(serve):
    """With what the function returns then."""
    app = await serve(Mirror)
    async with connect(app.url, auth=tokens(), **FAST) as io:
        assert await of(io.backend("mirror")) == {"token": 1}
        ((sid, _),) = app.sio.manager.get_participants("/mirror", None)
        await app.sio.disconnect(sid, namespace="/mirror")
        assert await of(io.backend("mirror")) == {"token": 2}


@pytest.mark.parametrize("joined", [0, 1])
async def test_a_function_that_fails_is_asked_again(serve, caplog, joined):
    """Whether the connection is still to be opened, or one more backend is to join it: nothing is lost by it."""
    calls = []

    def auth():
        calls.append(len(calls))
        if len(calls) == 1 + joined:
            raise LookupError("the tokens are elsewhere")
        return "text" if len(calls) == 2 + joined else None if len(calls) == 3 + joined else {"token": len(calls)}

    app = await serve(Mirror, Other)
    async with connect(app.url, auth=auth, **FAST) as io:
        if joined:
            assert await of(io.backend("mirror")) == {"token": 1}
        assert await of(io.backend("other")) is None
    assert caplog.text.count("auth, given to connect(), failed") == 2
    assert "the tokens are elsewhere" in caplog.text


@pytest.mark.parametrize("joined", [0, 1])
async def test_a_function_that_takes_for_ever_is_asked_again(serve, monkeypatch, caplog, joined):
    """Nobody waits for it for ever, and the log says why it took so long."""
    monkeypatch.setattr("bbio.client.socket.OPEN_SECONDS", 0.2)
    calls = []

    async def auth():
        calls.append(len(calls))
        if len(calls) == 1 + joined:
            await asyncio.Event().wait()
        return {"token": len(calls)}

    app = await serve(Mirror, Other)
    async with connect(app.url, auth=auth, **FAST) as io:
        if joined:
            assert await of(io.backend("mirror")) == {"token": 1}
        assert await of(io.backend("other")) == {"token": 2 + joined}
    assert caplog.text.count("auth, given to connect(), failed") == 1


async def test_the_client_is_told_why_it_is_refused(serve):
    """As the error that the server sent; the next request tries again."""
    given = [{"token": "x" * 10_000}, {"token": "good"}]
    app = await serve(Mirror)
    async with connect(app.url, auth=lambda: given.pop(0), **FAST) as io:
        handle = io.backend("mirror")
        with pytest.raises(BadRequest, match="refused the backend 'mirror': auth may have 8192 bytes"):
            await handle.read()
        assert await of(handle) == {"token": "good"}


@pytest.mark.parametrize("auth", ["a token", 5, ["a"]])
def test_what_is_no_auth_is_told_at_once(auth):
    """The message shows an object."""
    with pytest.raises(ConfigurationError, match="token"):
        connect("http://localhost:1", auth=auth)


# Tests of applications


async def test_clients_of_a_test_have_it_too(engine):
    """`auth=` of the harness; what a server would refuse is refused."""

    class Todos(Mirror):
        @before("create")
        def admit(self, req):
            if (req.socket.auth or {}).get("token") != SECRET:
                raise Unauthorized("log in first")

    async with App(engine=engine).serve(Todos).test() as t:
        ann, bob = await t.client(auth={"token": SECRET}), await t.client()
        assert (await ann.create({"title": "milk"}))["title"] == "milk"
        with pytest.raises(Unauthorized):
            await bob.create({"title": "milk"})
        t.cut(ann)
        assert await of(ann) == {"token": SECRET}
        with pytest.raises(BadRequest, match="may have 8192 bytes"):
            await t.client(auth={"token": "x" * 10_000})
