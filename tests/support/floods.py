"""What hostile clients do: one of the ways at a time, from addresses that no honest client of a test has.

    python -m tests.support.floods PORT COUNT

has so many attack a server, in a process of their own, until its input ends; then it prints how many bad packets they
have sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
from collections.abc import Callable

from tests.support.websocket import BINARY, PING, TEXT, frame

# Frames of which a client sends as many as it can.
FLOODS = {
    "pongs": frame(TEXT, b"3"),
    "pings": frame(PING, b"x"),
    "acks": frame(TEXT, b"43/todos,1[]"),
    "events": frame(TEXT, b'42/todos,["x"]'),
    "requests": frame(TEXT, b'42/todos,1["sync",{"method":"read","model":{}}]'),
    "bad requests": frame(TEXT, b'42/todos,1["sync",{"method":"nonsense"}]'),
    "unreadable requests": frame(TEXT, b'42/todos,1["sync",[1]'),
    "listens": frame(TEXT, b'42/todos,1["listen",7]'),
    "leaving and joining": frame(TEXT, b"41/todos,") + frame(TEXT, b"40/todos,"),
}
# So many frames of a flood at once, and seconds that a hostile client stays where it is not closed.
AT_ONCE = 2_000
STAYS_SECONDS = 2.0
UPGRADE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: aG9zdGlsZWhvc3RpbGVoIQ==\r\n\r\n"
)
POLLING = b"%s /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: %d\r\n\r\n"


def _upgraded(data: bytes) -> Callable[[int], bytes]:
    return lambda port: UPGRADE % port + frame(TEXT, b"40/todos,") + data


# What each sends, as a function of the server's port.
ATTACKS: dict[str, Callable[[int], bytes]] = {
    **{name: _upgraded(flood * AT_ONCE) for name, flood in FLOODS.items()},
    "lists": _upgraded(frame(TEXT, b'42/todos,1["sync",{"method":"read"}]') * 200),
    "a message that is too large": _upgraded(frame(TEXT, b"x" * 2_000_000)),
    "a deep message": _upgraded(frame(TEXT, b'42/todos,1["sync",' + b"[" * 100_000)),
    "bytes that no event has announced": _upgraded(frame(BINARY, b"x" * 100_000) * 5),
    "a body that does not come": lambda port: POLLING % (b"POST", port, 50_000_000),
    "handshakes that are not awaited": lambda port: POLLING % (b"GET", port, 0) * 50,
    "no HTTP": lambda port: b"\x16\x03\x01" + b"x" * 1_000,
    "nothing": lambda port: b"",
}


async def attack(port: int, n: int) -> int:
    """Attack the server on a port in the way number `n`, and leave; every third attacker never reads.

    Returns: about how many bad packets it sent.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    sock.bind((f"127.0.{1 + n % 50}.1", 0))
    sock.setblocking(False)
    name, make = list(ATTACKS.items())[n % len(ATTACKS)]
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(STAYS_SECONDS):
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            reader, writer = await asyncio.open_connection(sock=sock)
            try:
                writer.write(make(port))
                if n % 3:
                    while await reader.read(1 << 16):
                        pass
                await writer.drain()
                await writer.wait_closed()
            finally:
                writer.transport.abort()
    sock.close()
    return AT_ONCE if name in FLOODS else 50


async def main(port: int, count: int) -> None:
    sent = 0
    numbers = itertools.count()

    async def attacker() -> None:
        nonlocal sent
        for n in numbers:
            sent += await attack(port, n)

    attackers = [asyncio.ensure_future(attacker()) for _ in range(count)]
    await asyncio.to_thread(sys.stdin.read)
    for task in attackers:
        task.cancel()
    ended = await asyncio.gather(*attackers, return_exceptions=True)
    failed = [err for err in ended if not isinstance(err, asyncio.CancelledError)]
    assert not failed, failed
    print(sent)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
