"""What presence costs a server: 1,000 members that join one channel at the same time, over sockets of their own.

    python -m benchmarks.presence

The server is a process of its own, whose processor time is measured; the clients, in this process, do no more than to
find the ends of frames, and count the members that they are told of. It prints how long it took until everybody knew
everybody, and the server's processor time for each member that somebody was told of: all at once, and one after the
other over a second and a half, so that there are many batches, each for more members than the one before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from statistics import median

from bbio import App, Backend, Limits, presence

MEMBERS = 1_000
ROUNDS = 5
SECONDS = 2.0
MICROSECONDS = 20.0
SPREAD_SECONDS = 1.5
MASK = bytes(4)
HEAD = (
    "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Rooms(Backend):
    """Members have a card each."""

    @presence
    def card(self, req) -> dict[str, str]:
        return {"name": req.socket.auth["user"]}


class Client(asyncio.Protocol):
    """One client: it finds the frames of its websocket, and what they tell."""

    def __init__(self, changed: asyncio.Event) -> None:
        self.changed = changed
        self.data = b""
        self.members = self.packets = self.answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, text: str) -> None:
        payload = text.encode()
        size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2)
        self.transport.write(b"\x81" + size + MASK + payload)

    def data_received(self, data: bytes) -> None:
        data = self.data + data
        if data[:4] == b"HTTP":
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.data = data
                return
            data = data[end + 4 :]
        at = 0
        while len(data) - at >= 2:
            size, begin = data[at + 1], at + 2
            if size > 125:
                begin += 2 if size == 126 else 8
                size = int.from_bytes(data[at + 2 : begin])
            if len(data) < begin + size:
                break
            self.take(data[begin : begin + size])
            at = begin + size
        self.data = data[at:]

    def take(self, frame: bytes) -> None:
        members = frame.count(b'"key":')
        if members:
            self.packets += 1
            self.members += members
        elif frame == b"2":
            self.send("3")
        self.answers += frame.startswith((b"40", b"43"))
        self.changed.set()


async def until(changed: asyncio.Event, clients: list[Client], condition) -> None:
    """Wait until a condition is true of all clients."""
    async with asyncio.timeout(60):
        while not all(map(condition, clients)):
            changed.clear()
            await changed.wait()


def processor_seconds(process: int) -> float:
    """Return the processor time that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def join_all(port: int, process: int, spread: float) -> tuple[float, float, int, int]:
    """Have all clients join within `spread` seconds; return seconds, processor seconds, packets and members told."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    clients = []
    for number in range(MEMBERS):
        _, client = await loop.create_connection(lambda: Client(changed), "127.0.0.1", port)
        client.transport.write(HEAD.format(port=port).encode())
        client.send(f'40/rooms,{{"user":"member {number}"}}')
        client.send('42/rooms,1["listen","home",{"v":1}]')
        clients.append(client)
    await until(changed, clients, lambda client: client.answers == 2)
    await asyncio.sleep(0.5)
    began, spent = loop.time(), processor_seconds(process)
    for number, client in enumerate(clients):
        client.send(f'42/rooms,2["presence","home",{{"state":{{"n":{number}}}}}]')
        if (wait := began + spread * number / MEMBERS - loop.time()) > 0:
            await asyncio.sleep(wait)
    await until(changed, clients, lambda client: client.members >= MEMBERS)
    took, spent = loop.time() - began, processor_seconds(process) - spent
    for client in clients:
        client.transport.abort()
    await asyncio.sleep(0.5)
    return took, spent, sum(client.packets for client in clients), sum(client.members for client in clients)


async def measure(name: str, spread: float) -> bool:
    rounds = []
    for _ in range(ROUNDS):
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.presence", "serve", stdout=asyncio.subprocess.PIPE
        )
        assert server.stdout is not None
        rounds.append(await join_all(int(await server.stdout.readline()), server.pid, spread))
        server.terminate()
        await server.wait()
    seconds = median(took for took, _, _, _ in rounds)
    packet = median(spent / packets * 1e6 for _, spent, packets, _ in rounds)
    member = median(spent / members * 1e6 for _, spent, _, members in rounds)
    held = seconds <= SECONDS and member <= MICROSECONDS
    print(
        f"{'PASS' if held else 'MISS'}  {MEMBERS:,} members join one channel {name}: {seconds:.2f} s (bar: {SECONDS}), "
        f"{member:.2f} us for each member told of (bar: {MICROSECONDS}), {packet:.1f} us for each packet",
        flush=True,
    )
    return held


async def serve() -> None:
    logging.disable()
    app = App(limits=Limits(connections_per_address=2 * MEMBERS)).serve(Rooms)
    async with app.running():
        print(app.port, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    if "serve" in sys.argv:
        import uvloop

        uvloop.run(serve())
    else:
        sys.exit(not all([asyncio.run(measure("at once", 0)), asyncio.run(measure("in turn", SPREAD_SECONDS))]))


if __name__ == "__main__":
    main()
