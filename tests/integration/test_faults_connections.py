"""Connections that are opened, left and broken in every way: what they cost, and that nothing of them stays."""

import asyncio
import json
import re
import socket
import struct

import pytest
from aiohttp import web

from bbio import App
from tests.support.attack import attacked
from tests.support.servers import eventually
from tests.support.wire import encode

pytestmark = pytest.mark.once  # what is asked is what a server does, not a Python


def request(port: int, query: str, method: str = "GET", *headers: str) -> bytes:
    """The head of an HTTP request to the Socket.IO server."""
    lines = [f"{method} /socket.io/?EIO=4&{query} HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers, "", ""]
    return "\r\n".join(lines).encode()


UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: d2l0bmVzc3dpdG5lc3MhIQ==",
)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a TCP connection with RST, at once."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def refused(reader: asyncio.StreamReader) -> None:
    """Wait for 413, a second at most."""
    async with asyncio.timeout(1):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")


async def test_posts_that_announce_too_much_are_gone_at_once(spawn):
    """300 announce 50 MB and send nothing: 413 within a second, and two later no task is left of them."""
    async with attacked(spawn) as target:
        target.bad_packets = 300
        head = request(target.port, "transport=polling&sid=x", "POST", "Content-Length: 50000000")
        connections = [await target.connect(head) for _ in range(300)]
        await asyncio.gather(*(refused(reader) for reader, _ in connections))
        await target.back_to_base(2)


async def test_they_are_gone_of_a_mounted_application_too(engine):
    """What the application that bbio is mounted on lets HTTP connections do does not matter."""
    host = web.Application()
    app = App(engine=engine)
    app.mount(host)
    runner = web.AppRunner(host)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    writers = []
    try:
        tasks = len(asyncio.all_tasks())
        head = request(port, "transport=polling&sid=x", "POST", "Content-Length: 50000000")
        for _ in range(50):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            writer.write(head)
            await refused(reader)

        async def back_to_base():
            return len(asyncio.all_tasks()) <= tasks

        await eventually(back_to_base, 20)
    finally:
        for writer in writers:
            writer.close()
        await runner.cleanup()


async def test_handshakes_that_are_broken_off_leave_nothing(spawn):
    """2,250 by polling and 750 by WebSocket are reset, 100 never CONNECT: nothing is left after 10 s."""
    async with attacked(spawn) as target:
        idle = [await target.dial(transport=transport) for transport in ("polling", "websocket") for _ in range(50)]
        polling = request(target.port, "transport=polling")
        websocket = request(target.port, "transport=websocket", "GET", *UPGRADE)
        for n in range(3000):
            reader, writer = await target.connect(websocket if n % 4 == 0 else polling)
            if n % 2:  # every other one once it has its answer
                await reader.readline()
            reset(writer)
        await target.back_to_base(10)
        for wire in idle:
            await wire.ended(1)
        target.bad_packets = 3100


async def test_connections_that_are_reset_leave_nothing(spawn):
    """200 resets during a broadcast and during handlers: the survivor is told all, and 2 s later nothing is left."""
    async with attacked(spawn) as target:
        alice = await target.join()
        await target.note_base()
        listeners = [await target.join() for _ in range(100)]
        workers = [await target.join("slow", ...) for _ in range(100)]
        emitting = asyncio.create_task(target.emit(500, 1000, burst=2))
        for listener, worker in zip(listeners, workers, strict=True):
            await worker.start("create", {"seconds": 0.5})
            worker.wire.abort()
            listener.wire.abort()
        for n in range(500):
            assert (await alice.synced())[1]["id"] == n
        await emitting
        await target.back_to_base(2)


class Poller:
    """A polling client by hand, whose polls can be broken off."""

    def __init__(self, target, wire):
        self.target = target
        self.query = f"transport=polling&sid={wire.sid}"
        self.told = []
        self.open = True

    @classmethod
    async def join(cls, target):
        wire = await target.dial(transport="polling")
        wire._reader.cancel()
        for packet in ("40/todos,", f"42/todos,{encode(['listen', None])}"):
            assert (await wire.transport.post(packet))[0] == 200
        poller = cls(target, wire)
        assert "40/todos" in await poller.finish(await poller.poll())
        return poller

    async def poll(self):
        return await self.target.connect(request(self.target.port, self.query))

    async def finish(self, poll):
        """Read an answer; what it tells of events is noted."""
        reader, writer = poll
        try:
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                body = (await reader.readexactly(int(length[1]))).decode()
        except (asyncio.IncompleteReadError, ConnectionError):
            head, body = b"", ""
        writer.close()
        if not head.startswith(b"HTTP/1.1 200 "):
            self.open = False
        for packet in body.split("\x1e"):
            if packet.startswith("42/todos,"):
                self.told.append(json.loads(packet.removeprefix("42/todos,"))[2]["id"])
        return body


@pytest.mark.parametrize("when", ["while it waits", "once it is answered", "while it is answered"])
async def test_a_poll_that_is_broken_off_loses_nothing_silently(spawn, when):
    """The event is told by the next poll, or the session is over: a client never misses one and goes on."""
    async with attacked(spawn) as target:
        pollers = [await Poller.join(target) for _ in range(20)]
        size = 3_000_000 // 10 if when == "while it is answered" else 10
        polls = [await poller.poll() for poller in pollers]
        for _, writer in polls:
            if when == "while it waits":
                reset(writer)
        await target.emit(1, size)
        for _, writer in polls:
            if when != "while it waits":
                reset(writer)
        for poller in pollers:
            await poller.finish(await poller.poll())
        await target.emit(2, 10)
        for poller in pollers:
            if poller.open:
                await poller.finish(await poller.poll())
            assert poller.told in ([], [0], [0, 0, 1]), poller.told
            assert poller.told or not poller.open
        target.bad_packets = 20


async def test_polls_that_overlap_end_the_session(spawn):
    """Packets could go to the one that nobody reads any more: the client starts anew instead of missing them."""
    async with attacked(spawn) as target:
        pollers = [await Poller.join(target) for _ in range(20)]
        for poller in pollers:
            first, second = await poller.poll(), await poller.poll()
            await asyncio.gather(poller.finish(first), poller.finish(second))
            assert not poller.open
            assert not poller.told
        await target.back_to_base(2, "sessions", "environ", "rooms")
        target.bad_packets = 20
