"""A client written against the Engine.IO 4 and Socket.IO 5 protocols alone, with none of their libraries.

    async with await Wire.open(app.url) as wire:
        todos = await wire.connect("/todos")
        assert await todos.call("listen", None) == [{"event": "backend"}]

`LegacyClient` on top of it speaks what a backbone.io 0.4.2 client speaks, and nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import aiohttp

from tests.support.websocket import WebSocket

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = "0123456"
CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = range(7)
DEADLINE = 5.0
SEPARATOR = "\x1e"
PACKET = re.compile(r"(\d)(?:(\d+)-)?(?:(/[^,]*),)?(\d+)?(.*)", re.DOTALL)

T = TypeVar("T")


class Closed(Exception):
    """The connection ended before what was waited for arrived."""


class ConnectRefused(Exception):
    """The server answered CONNECT with CONNECT_ERROR; `data` is what it said."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.data = data


def encode(value: Any) -> str:
    """JSON as JavaScript's `JSON.stringify` writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@dataclass
class Packet:
    """One Socket.IO packet as it arrived; `text` is the whole Engine.IO message."""

    kind: int
    namespace: str
    id: int | None
    data: Any
    text: str
    attachments: list[bytes] = field(default_factory=list)


def decode(text: str) -> tuple[Packet, int]:
    """Parse a message (`4...`) into its packet and the number of attachments that follow it."""
    match = PACKET.fullmatch(text[1:])
    assert match, f"not a Socket.IO packet: {text[:200]!r}"
    kind, count, namespace, id, data = match.groups()
    packet = Packet(
        int(kind), namespace or "/", None if id is None else int(id), json.loads(data) if data else None, text
    )
    return packet, int(count or 0)


class WebSocketTransport:
    """Engine.IO packets as WebSocket messages."""

    name = "websocket"

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket

    async def send(self, *packets: str | bytes) -> None:
        for packet in packets:
            await self.socket.send(packet)

    async def receive(self) -> list[str | bytes] | None:
        message = await self.socket.receive()
        return None if message is None else [message]

    async def close(self) -> None:
        await self.socket.close()


class PollingTransport:
    """Engine.IO packets in the bodies of GET and POST requests."""

    name = "polling"

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.url = url
        # One connection per request: a poll hanging on a kept-alive one would hold up nothing, but a server
        # that closes it between two requests would make the test fail for no reason of its own.
        self.http = aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(force_close=True))

    async def send(self, *packets: str | bytes) -> None:
        body = SEPARATOR.join(
            f"b{base64.b64encode(packet).decode()}" if isinstance(packet, bytes) else packet for packet in packets
        )
        status, text = await self.post(body)
        if status != 200:
            raise Closed(f"POST was answered with {status}: {text}")

    async def post(self, body: str | bytes) -> tuple[int, str]:
        """POST a body as it is; its status and text come back."""
        data = body.encode() if isinstance(body, str) else body
        headers = {"Content-Type": "text/plain;charset=UTF-8"}
        async with self.http.post(self.url, data=data, headers=headers) as answer:
            return answer.status, await answer.text()

    async def receive(self) -> list[str | bytes] | None:
        try:
            async with self.http.get(self.url) as answer:
                if answer.status != 200:
                    return None
                text = await answer.text()
        except aiohttp.ClientError:
            return None
        return [base64.b64decode(part[1:]) if part[:1] == "b" else part for part in text.split(SEPARATOR)]

    async def close(self) -> None:
        await self.http.close()


class Wire:
    """One Engine.IO session.

    Pings are answered unless `pong` is false. `frames` holds every Engine.IO packet received, in order.
    """

    def __init__(self, url: str, transport: WebSocketTransport | PollingTransport, *, pong: bool) -> None:
        self.url = url
        self.transport = transport
        self.pong = pong
        self.sid = ""
        self.handshake: dict[str, Any] = {}
        self.frames: list[str | bytes] = []
        self.pings = 0
        self.closed = False
        self.namespaces: dict[str, Namespace] = {}
        self.rate: float | None = None
        self._upgrading = False
        self._pending: tuple[Packet, int] | None = None
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        transport: str = "websocket",
        headers: dict[str, str] | None = None,
        pong: bool = True,
        receive_buffer: int | None = None,
        path: str = "/socket.io/",
    ) -> Wire:
        """Open a session over `websocket` or `polling` and wait for the server's OPEN packet."""
        address = f"{url}{path}?EIO=4&transport={transport}"
        link: WebSocketTransport | PollingTransport
        if transport == "websocket":
            link = WebSocketTransport(await WebSocket.open(address, headers=headers, receive_buffer=receive_buffer))
        else:
            link = PollingTransport(address, headers or {})
        wire = cls(url + path, link, pong=pong)
        try:
            async with asyncio.timeout(DEADLINE):
                packets = await link.receive()
            if not packets or str(packets[0])[:1] != OPEN:
                raise Closed(f"no OPEN packet but {packets!r}")
        except BaseException:
            await link.close()
            raise
        wire.handshake = json.loads(str(packets[0])[1:])
        wire.sid = wire.handshake["sid"]
        if isinstance(link, PollingTransport):
            link.url += f"&sid={wire.sid}"
        for packet in packets:
            await wire._take(packet)
        wire._reader = asyncio.create_task(wire._read())
        return wire

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def socket(self) -> WebSocket:
        """The WebSocket below, for tests that go below the protocol."""
        assert isinstance(self.transport, WebSocketTransport), "this session is not on a WebSocket"
        return self.transport.socket

    # Sending

    async def send(self, *packets: str | bytes) -> None:
        """Send Engine.IO packets as they are: text with its type digit, or the bytes of an attachment."""
        await self.transport.send(*packets)

    async def connect(self, namespace: str, auth: Any = None, *, text: str = "") -> Namespace:
        """Connect to a namespace and wait for the answer; `ConnectRefused` when it is refused.

        `text` is sent as it is, where `auth` is no JSON that Python writes.
        """
        client = Namespace(self, namespace)
        self.namespaces[namespace] = client
        await self.send(f"{MESSAGE}{CONNECT}{client.prefix}{text if auth is None else encode(auth)}")
        await self.until(lambda: client.connected or client.refused is not None, f"the answer to {namespace}")
        if not client.connected:
            raise ConnectRefused(client.refused)
        return client

    async def upgrade(self) -> None:
        """Move a polling session to a WebSocket, as a browser does: probe, wait, switch."""
        polling, reader = self.transport, self._reader
        assert isinstance(polling, PollingTransport), "this session is on a WebSocket already"
        assert reader is not None
        socket = await WebSocket.open(f"{self.url}?EIO=4&transport=websocket&sid={self.sid}")
        await socket.send(f"{PING}probe")
        async with asyncio.timeout(DEADLINE):
            probe = await socket.receive()
        assert probe == f"{PONG}probe", probe
        self._upgrading = True
        async with asyncio.timeout(DEADLINE):
            await reader
        self.transport = WebSocketTransport(socket)
        await socket.send(UPGRADE)
        await polling.close()
        self._reader = asyncio.create_task(self._read())

    # Receiving

    async def _read(self) -> None:
        transport = self.transport
        while transport.name == "websocket" or not self._upgrading:
            packets = await transport.receive()
            if packets is None:
                self._end()
                return
            for packet in packets:
                await self._take(packet)
            if self.rate is not None:
                await asyncio.sleep(sum(map(len, packets)) / self.rate)

    async def _take(self, packet: str | bytes) -> None:
        self.frames.append(packet)
        if isinstance(packet, bytes):
            assert self._pending, "an attachment arrived without its packet"
            head, missing = self._pending
            head.attachments.append(packet)
            self._pending = (head, missing - 1)
        elif packet[:1] == PING:
            self.pings += 1
            if self.pong:
                with contextlib.suppress(ConnectionError, Closed):
                    await self.transport.send(PONG + packet[1:])
        elif packet[:1] == CLOSE:
            self._end()
        elif packet[:1] == MESSAGE:
            self._pending = decode(packet)
        if self._pending and self._pending[1] == 0:
            head, _ = self._pending
            self._pending = None
            if head.namespace in self.namespaces:
                self.namespaces[head.namespace]._take(head)
        self._notify()

    def _end(self) -> None:
        self.closed = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
        """Wait until `condition()` is true, looking after each packet; `Closed` if the session ends first."""
        try:
            async with asyncio.timeout(deadline):
                while not (value := condition()):
                    if self.closed:
                        raise Closed(f"the connection ended while waiting for {what}")
                    await self._changed.wait()
                return value
        except TimeoutError:
            raise TimeoutError(f"no sign of {what} within {deadline} s") from None

    async def ended(self, deadline: float = DEADLINE) -> int | None:
        """Wait for the server to end the session; the WebSocket close code comes back (None without one)."""
        await self.until(lambda: self.closed, "the end of the connection", deadline)
        return self.transport.socket.close_code if isinstance(self.transport, WebSocketTransport) else None

    def pause(self) -> None:
        """Stop reading: a consumer that is not slow but stopped."""
        self.socket.pause()

    def resume(self) -> None:
        self.socket.resume()

    def throttle(self, bytes_per_second: float | None) -> None:
        """Read at a given rate from now on (None: as fast as it comes)."""
        self.rate = bytes_per_second

    # Ending

    def abort(self) -> None:
        """Reset the TCP connection."""
        self.socket.abort()

    async def close(self) -> None:
        """Let go of the connection, however it stands."""
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        await self.transport.close()


class Namespace:
    """One Socket.IO namespace on a session; `packets` holds everything it received, in order."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name
        self.prefix = "" if name == "/" else f"{name},"
        self.sid = ""
        self.connected = False
        self.refused: Any = None
        self.packets: list[Packet] = []
        self.events: deque[list[Any]] = deque()
        self._ids = 0

    def _take(self, packet: Packet) -> None:
        self.packets.append(packet)
        if packet.kind == CONNECT:
            self.connected, self.sid = True, packet.data["sid"]
        elif packet.kind == CONNECT_ERROR:
            self.refused = packet.data
        elif packet.kind == DISCONNECT:
            self.connected = False
        elif packet.kind in (EVENT, BINARY_EVENT):
            self.events.append(packet.data)

    async def emit(self, event: str, *args: Any) -> None:
        """Send an event that asks for no ack."""
        await self.wire.send(f"{MESSAGE}{EVENT}{self.prefix}{encode([event, *args])}")

    async def start(self, event: str, *args: Any) -> int:
        """Send an event that asks for an ack; its id comes back, to be given to `reply`."""
        self._ids += 1
        await self.raw(encode([event, *args]), self._ids)
        return self._ids

    async def raw(self, payload: str, id: int | str = "") -> None:
        """Send an EVENT packet whose payload is any text, with any ack id."""
        await self.wire.send(f"{MESSAGE}{EVENT}{self.prefix}{id}{payload}")

    def acks(self, id: int) -> list[list[Any]]:
        """Every ack received for an id: there should never be two."""
        return [p.data for p in self.packets if p.id == id and p.kind in (ACK, BINARY_ACK)]

    async def reply(self, id: int, deadline: float = DEADLINE) -> list[Any]:
        """Wait for the ack of an id; its arguments come back."""
        return (await self.wire.until(lambda: self.acks(id), f"ack {id}", deadline))[0]

    async def call(self, event: str, *args: Any, deadline: float = DEADLINE) -> list[Any]:
        """Send an event and wait for its ack; the ack's arguments come back."""
        return await self.reply(await self.start(event, *args), deadline)

    async def event(self, deadline: float = DEADLINE) -> list[Any]:
        """Wait for the next event: `[name, *arguments]`."""
        await self.wire.until(lambda: self.events, f"an event in {self.name}", deadline)
        return self.events.popleft()

    async def disconnect(self) -> None:
        """Leave the namespace; the session stays open."""
        await self.wire.send(f"{MESSAGE}{DISCONNECT}{self.prefix}")
        self.connected = False


class SyncFailed(Exception):
    """The server answered a sync with `{"error": {...}}`; `error` is that inner object."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('name')}: {error.get('message')}")
        self.error = error

    @property
    def name(self) -> str:
        return self.error["name"]


class LegacyClient:
    """A backbone.io 0.4.2 client for one backend: listen, sync and synced."""

    def __init__(self, wire: Wire, namespace: Namespace) -> None:
        self.wire = wire
        self.namespace = namespace

    @classmethod
    async def open(cls, url: str, backend: str, **options: Any) -> LegacyClient:
        """Connect to a backend; `options` are those of `Wire.open`."""
        wire = await Wire.open(url, **options)
        try:
            return cls(wire, await wire.connect(f"/{backend}"))
        except BaseException:
            await wire.close()
            raise

    async def listen(self, channel: Any = None) -> dict[str, Any]:
        """Join a channel; the public options come back."""
        (answer,) = await self.namespace.call("listen", channel)
        if "error" in answer:
            raise SyncFailed(answer["error"])
        return answer

    async def sync(
        self,
        method: str,
        model: Any = None,
        options: Any = None,
        *,
        deadline: float = DEADLINE,
        **fields: Any,
    ) -> Any:
        """Send one sync (`fields` are added to it); its result comes back, or `SyncFailed` is raised."""
        id = await self.start(method, model, options, **fields)
        return self.result(await self.namespace.reply(id, deadline))

    async def start(self, method: str, model: Any = None, options: Any = None, **fields: Any) -> int:
        """Send one sync without waiting; its ack id comes back, to be given to `finish`."""
        request = {
            "method": method,
            "model": {} if model is None else model,
            "options": {} if options is None else options,
            **fields,
        }
        return await self.namespace.start("sync", request)

    async def finish(self, id: int, deadline: float = DEADLINE) -> Any:
        """Wait for the result of a sync that was started."""
        return self.result(await self.namespace.reply(id, deadline))

    @staticmethod
    def result(ack: list[Any]) -> Any:
        """The result in an ack, or `SyncFailed`; any other shape fails the test."""
        if len(ack) == 1:
            raise SyncFailed(ack[0]["error"])
        error, result = ack
        assert error is None, ack
        return result

    async def synced(self, deadline: float = DEADLINE) -> tuple[str, Any]:
        """Wait for the next notification: its method and model; any other shape fails the test."""
        name, *arguments = await self.namespace.event(deadline)
        assert name == "synced", f"{name} is not part of the protocol"
        method, model = arguments
        return method, model

    async def close(self) -> None:
        await self.wire.close()


async def post_in_parts(client: LegacyClient, port: int, body: str, cut: int) -> bytes:
    """Send a POST in two parts, the second once the server has read the first; the first line of the answer.

    Parameters:
        client: whose session it is for, which polls.
        port: the server's.
        body: what is posted.
        cut: where the second part begins, counted from the beginning of the body.
    """
    head = (
        f"POST /socket.io/?EIO=4&transport=polling&sid={client.wire.sid} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    sent, cut = f"{head}{body}".encode(), len(head) + cut
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent[:cut])
    await writer.drain()
    await client.sync("read")  # the first part has been read by now
    writer.write(sent[cut:])
    line = await reader.readline()
    writer.close()
    return line
