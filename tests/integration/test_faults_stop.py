"""Stopping while much is going on: who is answered, who is told, and how long it takes."""

import asyncio
import signal
import time

from tests.support.attack import MODULE
from tests.support.websocket import WebSocket
from tests.support.wire import LegacyClient


async def idle(port):
    """A WebSocket that has joined a backend and does nothing."""
    socket = await WebSocket.open(f"http://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket")
    await socket.send("40/quiet,")
    while not str(await socket.receive()).startswith("40/quiet,"):
        pass
    return socket


async def told(socket):
    """The code that a WebSocket is closed with."""
    while await socket.receive() is not None:
        pass
    return socket.close_code


async def test_a_stopping_server_answers_what_runs_and_tells_the_rest(spawn):
    """SIGTERM with 100 requests of 2 s in flight and 500 idle sockets: nobody new, all acks, code 1001, 5 s at most."""
    server = await spawn(MODULE, BBIO_TEST_LIMITS="{}")
    clients = [await LegacyClient.open(server.url, "slow") for _ in range(10)]
    poller = await LegacyClient.open(server.url, "quiet", transport="polling")
    sockets = [await idle(server.port) for _ in range(500)]
    requests = [(client, await client.start("create", {"seconds": 2, "n": n})) for client in clients for n in range(10)]
    for client in clients:  # a later request is answered at once: those before it have arrived
        await client.sync("read")
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    codes = [asyncio.create_task(told(socket)) for socket in sockets]

    async def refused():
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            except ConnectionRefusedError:
                return time.monotonic() - began
            writer.close()
            await asyncio.sleep(0.01)

    assert await refused() < 1.5, "the listener is open while requests run"
    for client, id in requests:
        assert "seconds" in await client.finish(id)
    assert set(await asyncio.gather(*codes)) == {1001}
    await poller.wire.ended(2)
    assert await server.ended(6) == 0
    assert time.monotonic() - began <= 5
    assert "Traceback" not in server.output
    for socket in sockets:
        await socket.close()
    for client in (*clients, poller):
        await client.close()
