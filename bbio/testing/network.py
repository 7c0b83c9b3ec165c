"""The connection of one client to the application, instead of a network: packets in order, and faults."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol, Self

import attrs
from multidict import CIMultiDict, CIMultiDictProxy

from bbio import protocol
from bbio.client.errors import error_of
from bbio.client.handle import Handle, Handles
from bbio.client.session import BackendSession
from bbio.client.settings import SessionSettings
from bbio.errors import BadRequest, Unavailable
from bbio.runtime import Runtime
from bbio.server.connection import ClientSocket, Connection
from bbio.server.gateway import Gateway
from bbio.server.limits import Limits
from bbio.testing.clock import Clock

# Seconds, half to one and a half times, after which a client whose connection was lost connects again.
RECONNECT_SECONDS = 1.0
# Seconds after which a dead connection is found out by its heartbeat: by default one comes every 25 s, and may take 20.
HEARTBEAT_SECONDS = 45.0


@attrs.define
class Packet:
    """One packet on its way.

    Parameters:
        kind: `connect`, `event` and `ack` as in Socket.IO, or `synced`: an event that the server sends.
        due: when it arrives, by the harness's clock.
        size: bytes it holds.
        arrive: takes it.
    """

    kind: str
    due: float
    size: int
    arrive: Callable[[], None]


class Surroundings(Protocol):
    """The harness, as its connections see it."""

    clock: Clock
    random: random.Random
    running: bool

    @property
    def gateway(self) -> Gateway:
        """The gateway of the application."""

    @property
    def limits(self) -> Limits:
        """The limits of the application."""

    @property
    def backends(self) -> Mapping[str, Runtime]:
        """The served backends by name."""

    def now(self) -> float:
        """Return the seconds by which a connection counts its requests."""

    def wake(self) -> None:
        """Wake the loop: there is something to do."""

    def copies(self, connection: FakeConnection, kind: str) -> int:
        """Return how many copies of a packet arrive."""

    def cut_later(self, connection: FakeConnection) -> None:
        """Cut a connection, but not in the middle of what the server does just now."""

    def join(self, runtime: Runtime, connection: Connection, peer: FakeConnection) -> ClientSocket:
        """Have a client join a backend's namespace."""

    def leave(self, socket: ClientSocket, reason: str) -> None:
        """Have a client leave a backend's namespace; `reason` as Socket.IO says it."""


class FakeConnection:
    """One client: a connection to the application, carrying any number of backends and channels.

    Made by `Harness.connect`. `connection.backend(name, channel=...)` returns the same `Handle` as `bbio.client` does.

    Example:
        `todos = t.connect(user={"id": "ann"}).backend("todos")`
    """

    # Acks leave at once, as those of the fast engine do.
    in_order = True
    # What a slow client is not told, this one is; a test that holds packets back gets them in the end.
    is_behind = False

    def __init__(
        self,
        harness: Surroundings,
        *,
        headers: Mapping[str, str],
        auth: Mapping[str, Any] | None,
        remote: str,
        user: Any,
        settings: SessionSettings,
    ) -> None:
        self.user = user
        self.auth = None if auth is None else dict(auth)
        self.online = True
        self.held = False
        self.latency = 0.0
        # Whether the connection has died and neither side knows.
        self.silent = False
        self.sessions: dict[str, BackendSession] = {}
        self.handles = Handles()
        self._harness = harness
        self._headers = CIMultiDictProxy(CIMultiDict(headers))
        self._remote = remote
        self._settings = settings
        self._client = secrets.token_hex(12)
        self._connection: Connection | None = None
        self._sockets: dict[str, ClientSocket] = {}
        self._answers: dict[int, Callable[..., None]] = {}
        # Of what asks whether the server is there: no fault that a test counts is meant for it.
        self._signs: set[int] = set()
        self._asked = 0
        self._up: deque[Packet] = deque()
        self._down: deque[Packet] = deque()
        self._down_size = 0
        self._reconnecting = False
        self.closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def backend(self, name: str, *, channel: str | None = None, id_attribute: str = "id") -> Handle:
        """Return a handle of a backend, in a channel; see `bbio.client.Connection.backend`.

        Raises:
            Unavailable: this client was closed.
        """
        if self.closed:
            raise Unavailable("the connection was closed")
        session = self.sessions.get(name)
        if session is None:
            harness = self._harness
            chance = harness.random.random
            session = BackendSession(name, self._join, harness.clock, self._settings, self._client, chance)
        return self.handles.get(session, session.subscription(channel or None, id_attribute))

    async def authenticate(self, token: str) -> None:
        """Say anew who the client is, on the connection that it has and on later ones.

        Parameters:
            token: the token.

        Raises:
            SyncError: a backend refuses it.

        Example:
            `await ann.authenticate(token)`
        """
        loop = asyncio.get_running_loop()
        replies = []
        for session in self.sessions.values():
            if session.name in self._sockets:
                reply = loop.create_future()
                self.emit(session, "auth", ({"token": token},), reply.set_result)
                replies.append(reply)
        for answer in await asyncio.gather(*replies):
            if "error" in answer:
                raise error_of(answer["error"])
        self.auth = {**(self.auth or {}), "token": token}

    def __repr__(self) -> str:
        state = "held" if self.held else "silent" if self.silent else "connected" if self.connected else "not connected"
        asked = [entry.request["method"] for session in self.sessions.values() for entry in session.outbox.entries]
        subscriptions = [each for session in self.sessions.values() for each in session.subscriptions.values()]
        behind = [f"{each.name} {each.channel or ''}".strip() for each in subscriptions if not each.settled]
        on_the_way = len(self._up) + len(self._down)
        return f"<FakeConnection {state}, {on_the_way} packets on their way, unanswered {asked}, behind in {behind}>"

    @property
    def max_payload(self) -> int:
        """Bytes of the largest message that the server takes."""
        return self._harness.limits.frame

    @property
    def connected(self) -> bool:
        """True while there is a connection."""
        return self._connection is not None

    @property
    def settled(self) -> bool:
        """Return whether all that was sent has arrived, and nothing is being asked for; or the client is offline."""
        if not self.online:
            return True
        sessions = [session for session in self.sessions.values() if session.wanted]
        return (
            not self.silent
            and not self._up
            and not self._down
            and all(session.transport is not None and not session.outbox for session in sessions)
            and all(each.settled for session in sessions for each in session.subscriptions.values())
        )

    def close(self) -> None:
        """Disconnect for good."""
        if self.closed:
            return
        self.closed = True
        self.online = self.held = False
        for session in self.sessions.values():
            session.close()
        self._end("client disconnect")

    # Connecting

    def _join(self, session: BackendSession) -> None:
        self.sessions[session.name] = session
        if self._connection is not None:
            self._send("connect", 0, partial(self._connect, session))
        else:
            self.connect()

    def connect(self) -> None:
        """Connect all sessions that want it, unless the client is offline or connected."""
        self._reconnecting = False
        harness = self._harness
        wanted = [session for session in self.sessions.values() if session.wanted]
        if not wanted or not self.online or not harness.running or self._connection is not None:
            return
        self._connection = Connection(self._headers, self._remote, harness.limits, harness.now)
        self._down_size = 0
        for session in wanted:
            self._send("connect", 0, partial(self._connect, session))

    def cut(self, reason: str = "transport close") -> None:
        """Lose the connection and what is on its way; connect again in a while, unless the client is offline."""
        if self._connection is None:
            return
        self._end(reason)
        for session in self.sessions.values():
            session.disconnected()
        self.reconnect()

    def silence(self) -> None:
        """Let the connection die without a sign; the client finds out by what is not answered, or by the heartbeat."""
        if self._connection is not None:
            self.silent = True
            self._up.clear()
            self._down.clear()
            self._harness.clock.call_later(HEARTBEAT_SECONDS, self._missed, self._connection)

    def _missed(self, connection: Connection) -> None:
        if connection is self._connection:
            self.cut("ping timeout")

    def reconnect(self) -> None:
        """Connect again in a while."""
        if self.online and self._harness.running and not self._reconnecting:
            self._reconnecting = True
            self._harness.clock.call_later(RECONNECT_SECONDS * (0.5 + self._harness.random.random()), self.connect)

    def _end(self, reason: str) -> None:
        self._connection = None
        self.silent = False
        self._up.clear()
        self._down.clear()
        self._answers.clear()
        sockets, self._sockets = self._sockets, {}
        for socket in sockets.values():
            self._harness.leave(socket, reason)

    def _connect(self, session: BackendSession) -> None:
        """The server takes a `connect`."""
        connection = self._connection
        assert connection is not None, "packets end with the connection"
        runtime = self._harness.backends.get(session.name)
        if runtime is None:
            self._answer("connect", 0, lambda: session.refused("Unable to connect"))
            return
        try:
            self._sockets[session.name] = self._harness.join(runtime, connection, self)
        except BadRequest as err:
            told = err.to_json()
            self._answer("connect", 0, lambda: session.refused(told))
            return
        self._answer("connect", 0, lambda: session.connected(SessionTransport(self, session)))

    # Packets

    def _send(self, kind: str, size: int, arrive: Callable[[], None]) -> None:
        self._put(self._up, kind, size, arrive)

    def _answer(self, kind: str, size: int, arrive: Callable[[], None]) -> None:
        if (self.held or self.latency) and self._down_size > self._harness.limits.send_buffer:
            self._harness.cut_later(self)  # a slow consumer
        self._down_size += size
        self._put(self._down, kind, size, arrive)

    def _put(self, queue: deque[Packet], kind: str, size: int, arrive: Callable[[], None]) -> None:
        if self.silent:
            return
        due = self._harness.clock.time() + self.latency
        for _ in range(self._harness.copies(self, kind)):
            queue.append(Packet(kind, due, size, arrive))
        self._harness.wake()

    def carry(self) -> bool:
        """Let the next packet of each direction arrive; whether there was one."""
        carried = False
        for queue in (self._up, self._down):
            if queue and not self.held and queue[0].due <= self._harness.clock.time():
                packet = queue.popleft()
                if queue is self._down:
                    self._down_size -= packet.size
                packet.arrive()
                carried = True
        return carried

    @property
    def next(self) -> float | None:
        """Return the time when the next packet arrives."""
        return min((queue[0].due for queue in (self._up, self._down) if queue), default=None)

    def emit(
        self, session: BackendSession, event: str, arguments: tuple[Any, ...], answer: Callable[..., None]
    ) -> None:
        """The client sends an event."""
        self._asked += 1
        ack_id = self._asked
        self._answers[ack_id] = answer
        kind = "event"
        if event == "unlisten":
            kind = "sign"
            self._signs.add(ack_id)
        text = protocol.encode([event, *arguments]).decode()
        self._send(kind, len(text), lambda: self._receive(session.name, event, ack_id, text))

    def _receive(self, name: str, event: str, ack_id: int, text: str) -> None:
        """The server takes an event."""
        socket = self._sockets[name]
        gateway, depth = self._harness.gateway, self._harness.limits.depth + 2
        if len(text) > self.max_payload:
            self._harness.cut_later(self)
            return
        fields = protocol.decode_sync(text, depth) if event == "sync" else None
        if fields is not None:
            gateway.receive_sync(socket, ack_id, fields, text)
            return
        try:
            arguments = protocol.parse(text, depth)
        except BadRequest as err:
            gateway.reject(socket, ack_id, err)
        else:
            gateway.receive(socket, event, ack_id, arguments[1:])

    # What the server sends

    def ack(self, socket: ClientSocket, ack_id: int, arguments: bytes) -> None:
        """The server answers an event."""
        if socket.connection is self._connection:
            kind = "sign" if ack_id in self._signs else "ack"
            self._signs.discard(ack_id)
            self._answer(kind, len(arguments), lambda: self._acked(ack_id, protocol.decode(arguments)))
        self._harness.wake()

    def drop(self, reason: str) -> None:
        """The server ends the connection."""
        self._harness.cut_later(self)

    def _acked(self, ack_id: int, arguments: Any) -> None:
        answer = self._answers.pop(ack_id, None)
        if answer is not None:
            answer(*arguments)

    def tell(self, namespace: str, text: bytes) -> None:
        """The server sends an event."""
        session = self.sessions[namespace[1:]]
        self._answer("synced", len(text), lambda: self._told(session, protocol.decode(text)))

    def _told(self, session: BackendSession, event: list[Any]) -> None:
        session.received(event[0], tuple(event[1:]))


class SessionTransport:
    """The connection as one session sees it."""

    def __init__(self, connection: FakeConnection, session: BackendSession) -> None:
        self._connection = connection
        self._session = session

    @property
    def max_payload(self) -> int:
        return self._connection.max_payload

    def emit(self, event: str, arguments: tuple[Any, ...], answer: Callable[..., None]) -> None:
        self._connection.emit(self._session, event, arguments, answer)

    def drop(self) -> None:
        self._connection.cut()


class FakeNetwork:
    """The transport of the gateway: it reaches many connections."""

    def deliver(self, peers: Iterable[FakeConnection], skip: Any, namespace: str, text: bytes) -> None:
        for peer in list(peers):
            if peer is not skip:
                peer.tell(namespace, text)
