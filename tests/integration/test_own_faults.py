"""A fault of the server is never taken for the client's: it is logged whole with an id."""

import asyncio
import json
import logging

import aiohttp
import pytest

from bbio import before
from bbio.server.connection import Connection
from bbio.server.exchange import Exchange
from bbio.server.fast.socket import FastSocket
from bbio.server.gateway import Gateway
from tests.support.listeners import until
from tests.support.wire import ConnectRefused, SyncFailed

SYNC = {"method": "create", "model": {}}


def broken(*_, **__):
    raise TypeError("a fault of ours")


def faults(caplog):
    """The lines about faults of the server; there must be none that blames a client."""
    assert "bad packet" not in caplog.text
    return [r for r in caplog.records if r.levelno == logging.ERROR and isinstance(r.exc_info[1], TypeError)]


@pytest.fixture(autouse=True)
def whole(caplog):
    caplog.set_level(logging.INFO, logger="bbio")


@pytest.mark.parametrize(
    ("event", "arguments"), [("sync", [SYNC]), ("sync", [{**SYNC, "rev": 1}, 2]), ("listen", ["x"])]
)
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_before_a_request_begins(serve, join, todos, caplog, monkeypatch, event, arguments, transport):
    """The ack is an InternalError with the id of the log; the connection goes on."""
    alice = await join(await serve(todos), "todos", ..., transport=transport)
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "count_request" if len(arguments) == 1 else "submit", broken)
        patch.setattr("bbio.protocol.read_sync", broken)
        (reply,) = await alice.namespace.call(event, *arguments)
    assert reply["error"]["name"] == "InternalError"
    (record,) = faults(caplog)
    assert record.getMessage() == f"todos {event} of 127.0.0.1 failed [{reply['error']['id']}]"
    await alice.listen(None)


async def test_once_a_request_has_been_answered(serve, join, todos, caplog, monkeypatch):
    """It is not answered a second time."""
    alice = await join(await serve(todos), "todos")
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "finish", broken)
        assert (await alice.sync("create", {"title": "milk"}))["title"] == "milk"
    assert faults(caplog)
    assert len(await alice.sync("read", {})) == 1


async def test_what_joins_a_namespace_of_the_application(serve, dial, todos, caplog):
    """The client is refused there and not told why; its other namespaces do not notice."""
    app = await serve(todos)
    app.sio.on("connect", broken, namespace="/own")
    wire = await dial(app)
    with pytest.raises(ConnectRefused, match="Internal error"):
        await wire.connect("/own")
    await wire.connect("/todos")
    assert faults(caplog)


class TestTheFastEngine:
    """Its own ways for packets."""

    @pytest.fixture
    def engine(self):
        return "fast"

    async def test_what_joins_a_backend(self, serve, dial, todos, caplog, monkeypatch):
        """The answer has the id of the log."""
        wire = await dial(await serve(todos))
        with monkeypatch.context() as patch:
            patch.setattr(Gateway, "joined", broken)
            with pytest.raises(ConnectRefused) as caught:
                await wire.connect("/todos")
        error = caught.value.data
        assert error["message"] == "Internal error."
        (record,) = faults(caplog)
        assert record.getMessage() == f"joining '/todos' of 127.0.0.1 failed [{error['data']['id']}]"
        await wire.connect("/todos")

    async def test_an_acknowledgement_of_a_client(self, serve, join, todos, caplog):
        """What the application does with it is the application's."""
        app = await serve(todos)
        alice = await join(app, "todos", ..., transport="polling")
        (sid,) = app.sio.manager.rooms["/todos"][None]
        await app.sio.emit("question", to=sid, namespace="/todos", callback=broken)
        await alice.namespace.event()
        await alice.wire.send("43/todos,1[]")
        assert await alice.sync("read", {}) == []
        (record,) = faults(caplog)
        assert record.getMessage().startswith("a packet of 127.0.0.1 failed")

    async def test_an_answer_that_fails(self, serve, join, todos, caplog, monkeypatch):
        """Nobody hears of it but the log."""
        alice = await join(await serve(todos), "todos")
        with monkeypatch.context() as patch:
            patch.setattr(Gateway, "reject", broken)
            await alice.start("nonsense", {})
            assert await alice.sync("read", {}) == []
        (record,) = faults(caplog)
        assert record.getMessage().startswith("a packet of 127.0.0.1 failed")

    async def test_a_connection(self, serve, dial, todos, caplog, monkeypatch):
        """It ends, as nobody knows what state it is in."""
        wire = await dial(await serve(todos))
        monkeypatch.setattr(FastSocket, "receive", broken)
        await wire.send("40/todos,")
        await wire.ended()
        (record,) = faults(caplog)
        assert record.getMessage().startswith("the connection ")

    async def test_a_namespace_that_is_not_served_is_told(self, serve, dial, todos, caplog):
        """With those that are."""
        wire = await dial(await serve(todos))
        with pytest.raises(ConnectRefused):
            await wire.connect("/nothing\nFAKE")
        text = "refused the namespace '/nothing\\nFAKE': app.serve(...) serves it; served: todos"
        assert text in caplog.messages


async def test_the_text_of_an_error_can_travel_whatever_it_is(serve, join, caplog):
    """With `debug` the client is told even what is no text in any language."""
    caplog.set_level(logging.CRITICAL, logger="bbio")
    from bbio import Backend, create

    class Notes(Backend):
        @create
        def fail(self):
            raise ValueError("half \ud800")

    alice = await join(await serve(Notes, debug=True), "notes")
    with pytest.raises(SyncFailed) as caught:
        await alice.sync("create", {})
    assert caught.value.error["message"] == "ValueError: half \\ud800"


async def test_errors_that_a_client_causes_are_so_many_in_a_second(serve, join, todos, caplog):
    """Each request is answered; the log holds ten a second, with the address."""
    alice = await join(await serve(type("Todos", (todos,), {"fail": before("create")(lambda self: broken())})), "todos")
    calls = [alice.namespace.call("sync", {"method": "create", "model": {"n": n}, "options": {}}) for n in range(60)]
    replies = await asyncio.gather(*calls)
    assert {reply["error"]["name"] for reply, *_ in replies} == {"InternalError"}
    told = faults(caplog)
    # They may fall into more than one second.
    assert 0 < len(told) < 60
    assert all(record.getMessage().startswith("todos create of 127.0.0.1 failed [") for record in told)


async def test_a_post_that_is_broken_off_leaves_no_traceback(serve, todos, caplog):
    """On the stock engine, what has arrived is all there is; on either, the log says whose it was."""
    app = await serve(todos)
    async with aiohttp.ClientSession() as http, http.get(f"{app.url}/socket.io/?EIO=4&transport=polling") as opened:
        sid = json.loads((await opened.text())[1:])["sid"]
    _, writer = await asyncio.open_connection("127.0.0.1", app.port)
    path = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
    writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n40/".encode())
    await writer.drain()
    writer.transport.abort()
    with caplog.at_level(logging.INFO, logger="bbio"):
        await until(lambda: "127.0.0.1" in caplog.text)
    assert not [record for record in caplog.records if record.exc_info]
