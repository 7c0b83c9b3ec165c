"""One hostile client: `python -m benchmarks.flood NAME PORT` sends as much of a kind as the server takes.

It reads what it is sent, connects anew when it is put out, and goes on until it is ended.
"""

import base64
import contextlib
import itertools
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

TEXT, BINARY, PING, CONTINUATION = 1, 2, 9, 0
ROOM = "/messages"
BIG = 960_000  # bytes of a frame, below the limit


def frame(payload: str | bytes, kind: int = TEXT, last: bool = True) -> bytes:
    """A websocket frame of a client, masked with zeros (RFC 6455, section 5.2)."""
    data = payload.encode() if isinstance(payload, str) else payload
    size, head = len(data), bytes([(0x80 if last else 0) | kind])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    return head + bytes(4) + data


def event(text: str, ack: str = "1") -> bytes:
    return frame(f"42{ROOM},{ack}{text}")


def sync(fields: str) -> bytes:
    return event(f'["sync",{{{fields}}}]')


def read_of(values: str) -> bytes:
    """A read whose model holds a list of these values."""
    return sync(f'"method":"read","model":{{"id":"q","a":[{values}]}}')


def repeated(value: str) -> str:
    return ",".join(itertools.repeat(value, BIG // (len(value.encode()) + 1)))


@dataclass(frozen=True)
class Flood:
    """What is sent over a websocket again and again.

    Parameters:
        unit: what is sent at once.
        first: what is sent before, once for each connection.
    """

    unit: Callable[[], bytes]
    first: Callable[[], Iterator[bytes]] = lambda: iter(())

    def run(self, port: int) -> None:
        unit, first = self.unit(), list(self.first())
        while True:
            with contextlib.suppress(OSError), upgraded(port) as sock:
                for data in first:
                    sock.sendall(data)
                    time.sleep(0.01)
                while True:
                    sock.sendall(unit)


@dataclass(frozen=True)
class Requests:
    """HTTP requests, over and over on one connection; `{sid}` is a session's id."""

    text: str
    body: str = ""
    times: int = 1
    polls: bool = False

    def run(self, port: int) -> None:
        while True:
            with contextlib.suppress(OSError), dialled(port) as sock:
                sid = polling_session(port) if self.polls else ""
                head = self.text.format(sid=sid, size=len(self.body))
                unit = f"{head}Host: 127.0.0.1:{port}\r\n\r\n{self.body}".encode() * self.times
                read_all(sock)
                while True:
                    sock.sendall(unit)


class Handshakes:
    """Websockets that are opened and reset."""

    def run(self, port: int) -> None:
        while True:
            with contextlib.suppress(OSError), upgraded(port, joins=False) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def dialled(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


def read_all(sock: socket.socket) -> None:
    def read() -> None:
        with contextlib.suppress(OSError):
            while sock.recv(1 << 20):
                pass

    threading.Thread(target=read, daemon=True).start()


@contextlib.contextmanager
def upgraded(port: int, joins: bool = True) -> Iterator[socket.socket]:
    """A websocket that has joined the backend."""
    with dialled(port) as sock:
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        received = b""
        while b"\r\n\r\n" not in received:
            more = sock.recv(4_096)
            if not more:
                raise ConnectionError("the server has refused the websocket")
            received += more
        if joins:
            read_all(sock)
            sock.sendall(frame(f"40{ROOM},"))
            time.sleep(0.1)
        yield sock


def polling_session(port: int) -> str:
    with dialled(port) as sock:
        sock.sendall(f"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        answer = b""
        while b'"sid":"' not in answer:
            more = sock.recv(4_096)
            if not more:
                raise ConnectionError("the server has refused the session")
            answer += more
        return answer.partition(b'"sid":"')[2].partition(b'"')[0].decode()


def records(count: int, text: str) -> Iterator[bytes]:
    for _ in range(count // 20):
        yield sync(f'"method":"create","model":{{"text":"{text}","n":1}}') * 20


def many_likes() -> bytes:
    patterns = ",".join(f'{{"t":{{"$like":"%{"_" * (240 - n)}b"}}}}' for n in range(16))
    return sync(f'"method":"read","options":{{"data":{{"$or":[{patterns}]}}}}')


def long_texts() -> Iterator[bytes]:
    for _ in range(3):
        yield sync(f'"method":"create","model":{{"t":"{"a" * 900_000}"}}')


PONGS = "\x1e".join(itertools.repeat("3", BIG // 2))

# The floods that were found to hold others up, and how each is sent.
KNOWN = {
    "pongs": Flood(lambda: frame("3") * 500),
    "bad syncs": Flood(lambda: sync('"method":"nonsense"') * 500),
    "syncs over the rate": Flood(lambda: sync('"method":"read","model":{"id":"q"}') * 500),
    "unknown events": Flood(lambda: event('["x"]', "") * 500),
    "leave and join": Flood(lambda: (frame(f"41{ROOM},") + frame(f"40{ROOM},")) * 100),
    "acks": Flood(lambda: frame(f"43{ROOM},1[]") * 500),
    "attachments": Flood(
        lambda: (frame(f'451-{ROOM},["x",{{"_placeholder":true,"num":0}}]') + frame(b"b", BINARY)) * 200
    ),
    "websocket pings": Flood(lambda: frame(b"x" * 60, PING) * 500),
    "likes": Flood(many_likes, long_texts),
    "frames of []": Flood(lambda: read_of(repeated("[]"))),
}

# And more that may.
OWN = {
    "frames of numbers": Flood(lambda: read_of(repeated("0"))),
    "frames of wide text": Flood(lambda: read_of(f'"{"é" * (BIG // 2)}"')),
    "frames of escapes": Flood(lambda: read_of(f'"{chr(92)}u00e9"' + f',"{chr(92)}u00e9"' * (BIG // 9 - 1))),
    "fragments": Flood(lambda: frame("4", last=False) + frame("2", CONTINUATION, False) * 100_000),
    "empty fragments": Flood(lambda: frame("", CONTINUATION, False) * 20_000, lambda: iter([frame("4", last=False)])),
    "listens": Flood(lambda: (event('["listen","x"]') + event('["unlisten",["x"]]')) * 200),
    "lists": Flood(lambda: sync('"method":"read"') * 8, lambda: records(2_000, "lorem ipsum " * 10)),
    "sorted lists": Flood(
        lambda: sync('"method":"read","options":{"data":{"count":true,"sort":["text","-n"],"limit":5}}') * 8,
        lambda: records(2_000, "lorem ipsum " * 10),
    ),
    "replays": Flood(
        lambda: event('["listen",null,{"v":1,"since":{"c:":["none",1]}}]') * 50,
        lambda: records(1_000, "lorem ipsum " * 10),
    ),
    "creates": Flood(lambda: sync('"method":"create","model":{"text":"hello world"}') * 500),
    "posts of pongs": Requests(
        "POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nContent-Length: {size}\r\n", PONGS, polls=True
    ),
    "polling sessions": Requests("GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n", times=50),
    "scripts": Requests("GET /socket.io/backbone.io.js HTTP/1.1\r\n", times=50),
    "pages that are not there": Requests("GET /nothing HTTP/1.1\r\n", times=50),
    "handshakes": Handshakes(),
}

FLOODS = KNOWN | OWN


if __name__ == "__main__":
    FLOODS[sys.argv[1]].run(int(sys.argv[2]))
