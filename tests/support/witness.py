"""A client that goes on working while a server is attacked, and measures how long its requests take.

    python -m tests.support.witness PORT PID

It is a process of its own, so that what the attackers' side computes does not count. What a busy machine computes does
not count either: from each request is taken off how long the server (PID) and the witness have waited for a processor
meanwhile, as Linux tells it (/proc/PID/schedstat). Beside each request it measures a *control*: a byte to another
process and back. It goes on until its input ends, then prints its result.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from pathlib import Path

from tests.support.websocket import TEXT, frame

PAUSE = 0.005
DEADLINE = 5.0
# A percentile of fewer requests would be the worst of them.
FEWEST = 200


class Connection:
    """A blocking WebSocket on which texts are sent and awaited."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: d2l0bmVzc3dpdG5lc3MhIQ==\r\n\r\n"
            % port
        )
        self.data = b""

    def send(self, text: str) -> None:
        self.sock.sendall(frame(TEXT, text.encode()))

    def until(self, wanted: bytes) -> None:
        """Read until a text has come; what comes before it is let go, pings are answered."""
        while wanted not in self.data:
            chunk = self.sock.recv(1 << 16)
            if not chunk:
                raise ConnectionError("the server has ended the witness's connection")
            self.data += chunk
            if b"\x81\x012" in self.data:
                self.send("3")
        if b"Traceback" in self.data:
            raise AssertionError("the witness was sent a traceback")
        self.data = self.data.split(wanted, 1)[1]


def control() -> socket.socket:
    """A socket whose other end, in another process, sends every byte back."""
    mine, other = socket.socketpair()
    if os.fork() == 0:
        mine.close()
        while byte := other.recv(1):
            other.sendall(byte)
        os._exit(0)
    other.close()
    return mine


def p99(values: list[float]) -> float:
    """In milliseconds."""
    return 1000 * sorted(values)[int(len(values) * 0.99)]


def waited(*pids: int | str) -> float:
    """Seconds for which these processes were ready to run, but something else ran on every processor."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) for pid in pids) / 1e9


def main(port: int, pid: int) -> None:
    echo = control()
    connection = Connection(port)
    connection.until(b'"sid"')
    connection.send("40/quiet,")
    connection.until(b"40/quiet,")
    taken: list[float] = []
    controls: list[float] = []
    print("ready", flush=True)
    while len(taken) < FEWEST or not select.select([sys.stdin], [], [], PAUSE)[0]:
        id = len(taken)
        before = waited(pid, "self")
        began = time.perf_counter()
        connection.send(f'42/quiet,{id}["sync",{{"method":"create","model":{{"id":{id}}},"options":{{}}}}]')
        connection.until(b"43/quiet,%d[" % id)
        answered = time.perf_counter()
        taken.append(max(0.0, answered - began - (waited(pid, "self") - before)))
        echo.sendall(b"x")
        echo.recv(1)
        controls.append(time.perf_counter() - answered)
    print(json.dumps({"requests": len(taken), "p99": p99(taken), "control": p99(controls), "worst": max(taken) * 1000}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
