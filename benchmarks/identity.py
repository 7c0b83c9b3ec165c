"""What it costs a server to know who asks: syncs of signed-in users beside those of anonymous ones, over sockets.

    python -m benchmarks.identity

The server is a process of its own, whose processor time is measured. The clients, in this process, send a sync when
they have the answer to the one before. Each kind of identity has a backend, which its anonymous clients ask as well.
Beside them all there is a backend without any layer. All of them are measured in turn in each round.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import jwt

from bbio import App, Backend
from bbio.builtin import MemorySessions, MemoryStore, Session, Token
from benchmarks.presence import HEAD, Client, until

ROUNDS = 40
CLIENTS = 20
SYNCS = 50
# A signed-in user beside an anonymous one of the same backend.
RATIO = 1.15
# A signed-in user beside a client of a backend that has no layer: layers take a request off the shortest way.
BARE_RATIO = 1.5
SECRET = "for benchmarks only, never for a real site"
USER = {"id": 7, "name": "ann", "roles": ["staff"]}
KINDS = {"token": "Token", "cookie": "Session", "session": "MemorySessions"}


class Asking(Client):
    """A client that asks again as soon as it is answered.

    Parameters:
        changed: set when an answer has come.
        backend: the backend that it asks.
    """

    def __init__(self, changed: asyncio.Event, backend: str) -> None:
        super().__init__(changed)
        self.left = 0
        self.sync = f'42/{backend},1["sync",{{"method":"read","model":{{"id":1}},"options":{{}}}}]'

    def take(self, frame: bytes) -> None:
        super().take(frame)
        if frame.startswith(b"43"):
            assert b"milk" in frame, frame
            self.left -= 1
            if self.left > 0:
                self.send(self.sync)


def processor_seconds(process: int) -> float:
    """Return the processor time of all threads of a process, in nanoseconds where presence.py counts in ticks."""
    tasks = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


async def connect(port: int, backend: str, headers: str, auth: Any) -> list[Asking]:
    """Return clients that have joined a backend."""
    loop, changed, clients = asyncio.get_running_loop(), asyncio.Event(), list[Asking]()
    for _ in range(CLIENTS):
        _, client = await loop.create_connection(lambda: Asking(changed, backend), "127.0.0.1", port)
        client.transport.write((HEAD.format(port=port)[:-2] + headers + "\r\n").encode())
        client.send(f"40/{backend},{json.dumps(auth) if auth else ''}")
        clients.append(client)
    await until(changed, clients, lambda client: client.answers == 1)
    return clients


async def ask(process: int, clients: list[Asking]) -> float:
    """Have each client make its syncs; return the server's microseconds for each."""
    began = processor_seconds(process)
    for client in clients:
        client.left = SYNCS
        client.send(client.sync)
    await until(clients[0].changed, clients, lambda client: client.left == 0)
    return (processor_seconds(process) - began) / (SYNCS * len(clients)) * 1e6


async def measure() -> bool:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.identity", "serve", stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    said = json.loads(await server.stdout.readline())
    port, process = said["port"], server.pid
    token = jwt.encode({"sub": "7", **USER, "exp": int(time.time()) + 3_600}, SECRET, algorithm="HS256")
    users = {
        "token": ("", {"token": token}),
        "cookie": (f"Cookie: {said['cookie']}\r\n", None),
        "session": (f"Cookie: {said['session']}\r\n", None),
    }
    asking = {"bare": await connect(port, "bare", "", None)}
    for kind, (headers, auth) in users.items():
        asking[f"{kind}, nobody"] = await connect(port, kind, "", None)
        asking[f"{kind}, ann"] = await connect(port, kind, headers, auth)
    spent: dict[str, list[float]] = {name: [] for name in asking}
    for number in range(ROUNDS + 1):
        for name, clients in asking.items():
            figure = await ask(process, clients)
            if number:  # the first round warms up
                spent[name].append(figure)
    server.terminate()
    await server.wait()
    held = True
    for kind, name in KINDS.items():
        for other, bar in ((f"{kind}, nobody", RATIO), ("bare", BARE_RATIO)):
            pairs = list(zip(spent[f"{kind}, ann"], spent[other], strict=True))
            ratio = median(user / nobody for user, nobody in pairs)
            held = held and ratio <= bar
            beside = "an anonymous client's" if other != "bare" else "one of a backend without layers"
            print(
                f"{'PASS' if ratio <= bar else 'MISS'}  sync of a user known by {name}: {ratio:.2f} x {beside} (bar: "
                f"{bar}), {median(user for user, _ in pairs):.1f} us and {median(each for _, each in pairs):.1f} us",
                flush=True,
            )
    return held


async def serve() -> None:
    logging.disable()
    sessions, signed = MemorySessions(secure=False), Session(SECRET, secure=False)
    middleware = {"token": Token(SECRET, algorithms=["HS256"], required=False), "cookie": signed, "session": sessions}
    app = App()
    for name in ("bare", *middleware):
        layers = [middleware[name]] if name in middleware else []
        store = MemoryStore(models=[{"id": 1, "title": "milk"}])
        app.serve(**{name: type(name, (Backend,), {"store": store, "middleware": layers})})
    async with app.running():
        cookies = {"cookie": signed.save_header({"user": USER}), "session": await sessions.begin({"user": USER})}
        print(
            json.dumps({"port": app.port, **{name: each.partition(";")[0] for name, each in cookies.items()}}),
            flush=True,
        )
        await asyncio.Event().wait()


def main() -> None:
    if "serve" in sys.argv:
        import uvloop

        uvloop.run(serve())
    else:
        sys.exit(not asyncio.run(measure()))


if __name__ == "__main__":
    main()
