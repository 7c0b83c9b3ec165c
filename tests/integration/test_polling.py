"""Everything works over polling, and across the upgrade to a WebSocket."""

import asyncio
import json

import pytest
from aiohttp import ClientSession
from engineio import packet as engine_packet

from bbio import Backend, update
from bbio.server.fast.engine import FastEngine
from tests.support.servers import heard
from tests.support.wire import LegacyClient, SyncFailed


async def scenario(app, alice: LegacyClient, bob: LegacyClient) -> None:
    """Two clients use all of the protocol."""
    milk = await alice.sync("create", {"title": "milk"})
    assert await bob.synced() == ("create", milk)
    done = await bob.sync("patch", {"id": milk["id"], "done": True})
    assert await alice.synced() == ("update", done)
    assert await alice.sync("read") == [done]
    with pytest.raises(SyncFailed, match="NotFound"):
        await alice.sync("update", {"id": "nowhere"})
    await alice.sync("delete", {"id": milk["id"]})
    assert (await bob.synced())[0] == "delete"
    app.backends["todos"].emit("created", {"id": "x"})
    assert await alice.synced() == await bob.synced() == ("create", {"id": "x"})


@pytest.mark.parametrize("transports", [("polling", "polling"), ("polling", "websocket")])
async def test_everything_works_over_polling(serve, join, todos, transports):
    """Polling clients and WebSocket clients share channels and see the same."""
    app = await serve(todos)
    alice, bob = [await join(app, "todos", "home", transport=transport) for transport in transports]
    await scenario(app, alice, bob)


async def test_everything_works_after_the_upgrade(serve, join, todos):
    """Listens made over polling hold on the WebSocket."""
    app = await serve(todos)
    alice, bob = [await join(app, "todos", "home", transport="polling") for _ in range(2)]
    await alice.wire.upgrade()
    await scenario(app, alice, bob)
    await bob.wire.upgrade()
    await scenario(app, alice, bob)


async def test_nothing_is_lost_or_doubled_during_the_upgrade(serve, join, todos):
    """Events that are sent while clients change their transport arrive once each, in order."""
    app = await serve(todos)
    alice = await join(app, "todos")
    bob = await join(app, "todos", transport="polling")
    stop = asyncio.Event()
    sent = []

    async def write():
        while not stop.is_set():
            sent.append(await alice.sync("create", {"n": len(sent)}))

    writing = asyncio.create_task(write())
    first = await bob.synced()
    await bob.wire.upgrade()
    await bob.sync("read")
    stop.set()
    await writing
    (rest,) = await heard(app.backends["todos"], bob)
    assert [first, *rest] == [("create", model) for model in sent]


async def test_requests_made_before_the_upgrade_are_answered_after_it(serve, join):
    """An ack finds the client on the transport it has moved to."""
    release = asyncio.Event()

    class Todos(Backend):
        @update
        async def slow(self, req):
            await release.wait()
            return req.model

    bob = await join(await serve(Todos), "todos", transport="polling")
    id = await bob.start("update", {"id": 1})
    await bob.wire.upgrade()
    release.set()
    assert await bob.finish(id) == {"id": 1}
    assert len(bob.namespace.acks(id)) == 1


async def test_several_packets_in_one_post(serve, join, todos):
    """A payload of several requests answers each of them, in order for one model."""
    app = await serve(todos)
    alice, bob = await join(app, "todos", transport="polling"), await join(app, "todos")
    milk = await bob.sync("create", {"n": 0})
    await alice.synced()
    requests = [{"method": "update", "model": {"id": milk["id"], "n": n}, "options": {}} for n in range(10)]
    await alice.wire.send(*(f"42/todos,{100 + n}{json.dumps(['sync', request])}" for n, request in enumerate(requests)))
    for n in range(10):
        assert await alice.namespace.reply(n + 100) == [None, {"id": milk["id"], "n": n}]
    assert [model["n"] for _, model in (await heard(app.backends["todos"], bob))[0]] == list(range(10))


async def test_large_models_cross_both_transports(serve, join, todos):
    """A model of 100 kB is stored and told over polling and WebSocket."""
    app = await serve(todos)
    alice, bob = await join(app, "todos", transport="polling"), await join(app, "todos")
    text = "x" * 100_000
    assert (await alice.sync("create", {"text": text}))["text"] == text
    assert (await bob.synced())[1]["text"] == text
    assert (await bob.sync("create", {"text": text}))["text"] == text
    assert (await alice.synced())[1]["text"] == text


async def poll(app, sid):
    """What comes over a connection that asks once, until the server ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    query = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
    writer.write(f"GET {query} HTTP/1.1\r\nHost: 127.0.0.1:{app.port}\r\n\r\n".encode())
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
async def test_who_polls_for_no_session_is_not_kept_connected(serve, todos):
    """A session that has ended leaves no connection behind."""
    assert (await poll(await serve(todos), "unknown")).startswith(b"HTTP/1.1 400 ")


async def test_packets_for_no_session_are_refused(serve, todos):
    """However many they are, the first is the last that is looked at."""
    app = await serve(todos)
    async with ClientSession() as http:
        answer = await http.post(
            f"{app.url}/socket.io/?EIO=4&transport=polling&sid=unknown", data="\x1e".join("3" * 40)
        )
        assert answer.status == 400


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
async def test_a_poll_for_a_session_that_was_dropped_is_not_answered(serve, dial, todos, monkeypatch):
    """Nobody would look after the answer any more: who reads nothing of it would keep it for ever."""
    app = await serve(todos)
    wire = await dial(app, transport="polling")
    wire._reader.cancel()
    (socket,) = app.sio.eio.sockets.values()
    socket.enqueue(engine_packet.Packet(engine_packet.MESSAGE, "x" * 100_000))
    monkeypatch.setattr(FastEngine, "dropped", lambda *_: None)  # as it is until the loop comes to it
    socket.drop("slow consumer")
    assert b"xxx" not in await poll(app, wire.sid)
