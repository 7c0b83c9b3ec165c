"""The plain engine: the same gateway on python-socketio as it is, through its public API alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec
import socketio
from aiohttp import web
from engineio.async_socket import AsyncSocket

from bbio import protocol
from bbio.errors import BadRequest
from bbio.registry import Registry
from bbio.server.budget import PACKET_SECONDS, Budget, Resting
from bbio.server.connection import ClientSocket
from bbio.server.http.admission import BODY, REMOTE, is_websocket_request
from bbio.server.lag import BEHIND_BYTES, relieve
from bbio.server.limits import Limits
from bbio.server.memory import Address, Addresses
from bbio.server.payload import ATTACHED_CHARACTERS, PART_PACKETS, parts
from bbio.server.shared import SharedServer
from bbio.server.stock.turnstile import put_before
from bbio.server.stock.unread import Packets, PlainSession

# What a packet begins with that joins a namespace.
JOIN = str(socketio.packet.CONNECT)
# What stands for the arguments of an event that cannot be read.
UNREADABLE = object()
# Where a session's environ counts the joins that were refused.
REFUSALS_KEY = "bbio.refusals"
# Where a request for a websocket has the budget of its connection.
BUDGET = web.RequestKey("budget", Budget)

# The values of an array, each as JSON: what the library sends it looks through, value by value.
raw_values = msgspec.json.Decoder(list[msgspec.Raw]).decode

logger = logging.getLogger("bbio")


class PlainJSON:
    """The JSON of one server: what cannot be read becomes an argument that the gateway refuses, or an error.

    Parameters:
        depth: how deep arrays and objects may be nested, in a packet's array.
    """

    def __init__(self, depth: int = protocol.MAX_DEPTH + 2) -> None:
        self._depth = depth

    def loads(self, text: str) -> Any:
        try:
            return protocol.parse(text, self._depth)
        except BadRequest as err:
            if text.startswith("{"):  # what a client joins with
                return err
            for event in (*protocol.EVENTS, *protocol.EPHEMERAL):
                if text.startswith(f'["{event}"'):
                    return [event, UNREADABLE]
            raise

    def dumps(self, value: Any, **options: Any) -> str:
        return protocol.encode(value).decode()


def packet_class(limits: Limits, is_answered: Callable[[str, Any], bool]) -> type[socketio.packet.Packet]:
    """Return the class of a server's packets, read and written with `PlainJSON`.

    Parameters:
        limits: the application's limits.
        is_answered: whether a namespace's event is a backend's, which takes no attachments.
    """

    class PlainPacket(socketio.packet.Packet):
        json = PlainJSON(limits.depth + 2)
        data: Any

        def decode(self, encoded_packet: str) -> int:
            attachments: int = super().decode(encoded_packet)
            if attachments and len(encoded_packet) > ATTACHED_CHARACTERS:
                raise BadRequest("too long an event with attachments")
            data = self.data
            if type(data) is list and data[1:] == [UNREADABLE] and not is_answered(self.namespace, data[0]):
                raise BadRequest("not valid JSON")  # an application's handler would not know what to do with it
            return attachments

        def add_attachment(self, attachment: bytes) -> bool:
            complete: bool = super().add_attachment(attachment)
            data = self.data
            if complete and type(data) is list and data and is_answered(self.namespace, data[0]):
                self.data = [data[0], UNREADABLE]
            return complete

    return PlainPacket


class PlainPeer:
    """One client of the plain engine; its acks go out as what the library's handlers return."""

    in_order = False

    def __init__(self, sid: str, disconnect: Callable[[], None], session: PlainSession) -> None:
        self.sid = sid
        self._disconnect = disconnect
        self._session = session
        self._dropped = False
        self.unanswered: set[asyncio.Future[tuple[Any, ...] | None]] = set()

    @property
    def budget(self) -> Budget:
        """Return the time of the event loop that its client may take."""
        return self._session.budget

    @property
    def is_behind(self) -> bool:
        """Return whether the client has much to read yet."""
        return self._session.unread > BEHIND_BYTES

    def joined(self, socket: ClientSocket) -> None:
        """The client has joined a namespace."""
        self._session.connection = socket.connection

    def left(self, socket: ClientSocket) -> None:
        """The client has left a namespace: nobody waits for answers any more."""
        for answer in self.unanswered:
            if not answer.done():
                answer.set_result(None)

    def drop(self, reason: str) -> None:
        """End it, without an answer to what it still sends."""
        if not self._dropped:
            self._dropped = True
            logger.info("ending %s: %s", self.sid, reason)
            self._disconnect()

    def ack(self, socket: ClientSocket, ack_id: asyncio.Future[tuple[Any, ...] | None], arguments: bytes) -> None:
        if not ack_id.done():
            ack_id.set_result(tuple(raw_values(arguments)))


class WholeRequest:
    """A request whose body has arrived.

    Parameters:
        request: the request.
        body: all of its body.
    """

    def __init__(self, request: web.Request, body: bytes) -> None:
        self._request = request
        self.content = self
        self._body = body

    async def read(self, size: int = -1) -> bytes:
        """Return the body."""
        return self._body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


class PlainServer(SharedServer):
    """An unmodified Socket.IO server that is the transport the gateway needs.

    Parameters:
        registry: the served backends.
        limits: what a client may ask for.
        addresses: where clients come from.
        public: what clients are told in the reply to a `listen`, `event` among it.
        options: passed on to `socketio.AsyncServer`.
    """

    def __init__(
        self,
        registry: Registry,
        limits: Limits,
        addresses: Addresses,
        public: dict[str, Any],
        **options: Any,
    ) -> None:
        serializer = packet_class(limits, lambda namespace, event: event in self._answered.get(namespace, ()))
        # Of any namespace the library asks the handlers below, which refuse what is not served.
        super().__init__(registry, limits, addresses, public, serializer=serializer, namespaces="*", **options)
        self._dispatch("*")
        self._sessions: dict[str, PlainSession] = {}
        self._resting = Resting()
        self._count_sessions()
        self._end_heartbeats()
        self._outgoing: asyncio.Queue[tuple[str, list[str], list[Any]]] = asyncio.Queue()
        self._sender: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def _count_sessions(self) -> None:
        """Have sessions counted, and what their clients have not read, beside what the library does for them."""
        begin, end = self.eio.handlers["connect"], self.eio.handlers["disconnect"]
        take, addresses = self.eio.handlers["message"], self._addresses

        async def begun(sid: str, environ: dict[str, Any]) -> Any:
            request = environ["aiohttp.request"]
            address = addresses.of(request[REMOTE])
            addresses.enter(address)
            budget = request.get(BUDGET) or Budget(self._resting)
            session = self._sessions[sid] = PlainSession(
                self.eio.sockets[sid], address, self._limits, budget, self._drop, self._relieve
            )
            session.comes_over(request.transport, is_websocket_request(request))
            return await begin(sid, environ)

        async def ended(sid: str, reason: str) -> None:
            session = self._sessions[sid]
            if session.is_silent(self.eio.ping_interval + self.eio.ping_timeout):
                # The library says so of those alone that it was waiting for a pong of.
                reason = self.eio.reason.PING_TIMEOUT
            session.ended()
            addresses.leave(session.address)
            try:
                await end(sid, reason)
            finally:
                del self._sessions[sid]
                # Not before, as one of them may have found out that the client is gone.
                for heartbeat in session.heartbeats:
                    heartbeat.cancel()

        async def arrived(sid: str, data: str | bytes) -> Any:
            if isinstance(data, str) and data.startswith(JOIN):
                self._count_second_join(sid, data)
            return await take(sid, data)

        self.eio.create_queue = Packets
        self.eio.on("connect", begun)
        self.eio.on("message", arrived)
        self.eio.on("disconnect", ended)

    def _end_heartbeats(self) -> None:
        """Have the heartbeats of a session end with it: the library's go on for as long as one takes.

        A client that connects and leaves again and again would have tens of thousands of them wait, and Python look
        through all of them for garbage.
        """
        start = self.eio.start_background_task

        def started(work: Callable[..., Any], *args: Any, **options: Any) -> Any:
            task = start(work, *args, **options)
            owner = getattr(work, "__self__", None)
            if isinstance(owner, AsyncSocket):
                session = self._sessions.get(owner.sid)
                if session is None:
                    task.cancel()
                else:
                    session.heartbeats.add(task)
                    task.add_done_callback(session.heartbeats.discard)
            return task

        self.eio.start_background_task = started

    def _relieve(self, address: Address) -> None:
        relieve(self._sessions.values(), address)

    def _drop(self, session: PlainSession, reason: str) -> None:
        self.quiet.info("ending %s: %s", session.sid, reason)
        self._do(self._close(session, reason))

    async def _close(self, session: PlainSession, reason: str) -> None:
        """End a session that holds nothing any more: what waits for it is let go."""
        await session.engine.close(wait=False, reason=reason)
        session.engine.queue.put_nowait(None)  # nothing comes behind the farewell
        self.eio.sockets.pop(session.sid, None)

    async def _connect(self, namespace: str, sid: str, environ: dict[str, Any], auth: Any = None) -> Any:
        accepted = False
        try:
            if not self.has_namespace(namespace):
                raise socketio.exceptions.ConnectionRefusedError(self.refuse_namespace(namespace))
            accepted = await super()._connect(namespace, sid, environ, auth)
            return accepted
        finally:
            if accepted is False:
                self._count_refusal(environ, self.manager.eio_sid_from_sid(sid, namespace))

    def _count_refusal(self, environ: dict[str, Any], eio_sid: str) -> None:
        environ[REFUSALS_KEY] = refusals = environ.get(REFUSALS_KEY, 0) + 1
        session = self._sessions.get(eio_sid)
        if session is not None and refusals > self._limits.bad_namespaces:
            session.drop("too many namespaces that it may not join")

    def _count_second_join(self, eio_sid: str, packet: str) -> None:
        """Count a join of a namespace that the session is in, which the library refuses by itself."""
        namespace = self.packet_class(encoded_packet=packet).namespace or "/"
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace)
        if sid is not None:
            self._count_refusal(self.get_environ(sid, namespace), eio_sid)

    def deliver(self, peers: Iterable[PlainPeer], skip: PlainPeer | None, namespace: str, text: bytes) -> None:
        sids = [peer.sid for peer in peers if peer is not skip]
        name, *arguments = raw_values(text)
        self._outgoing.put_nowait((namespace, sids, [protocol.decode(bytes(name)), *arguments]))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        while not self._outgoing.empty():
            namespace, sids, (name, *arguments) = self._outgoing.get_nowait()
            if sids:
                await self.emit(name, tuple(arguments), to=sids, namespace=namespace)

    async def handle_request(self, request: web.Request) -> Any:
        """Handle an HTTP request, with the whole of its body: the library takes what has arrived so far for that."""
        if "sid" not in request.query:
            addresses = self._addresses
            address = addresses.of(request[REMOTE])
            refusal = addresses.refusal(address)
            if refusal is not None:
                self.quiet.warning("refused a connection from %s: %s", address.name, refusal)
                return web.Response(status=503, text="too many connections")
        session = self._sessions.get(request.query.get("sid", ""))
        if request.method == "POST":
            return await self._take_post(request, session)
        transport, is_websocket = request.transport, is_websocket_request(request)
        if is_websocket and transport is not None:
            request[BUDGET] = put_before(transport, Budget(self._resting) if session is None else session.budget)
        if session is not None:
            return await self._take_one(request, session, is_websocket)
        return await super().handle_request(request)

    async def _take_one(self, request: web.Request, session: PlainSession, is_websocket: bool) -> Any:
        """Handle a poll of a session, or its upgrade, of which it has one at a time."""
        if is_websocket in session.open:
            if is_websocket:
                return web.Response(status=400, text="already upgraded")
            # Packets could go to one that nobody reads any more.
            session.drop("overlapping polls")
            return web.Response(status=400, text="overlapping polls")
        session.comes_over(request.transport, is_websocket)
        session.open.add(is_websocket)
        try:
            return await super().handle_request(request)
        finally:
            session.open.discard(is_websocket)

    async def _take_post(self, request: web.Request, session: PlainSession | None) -> Any:
        for part in parts(request[BODY]):
            if session is not None:
                await session.budget.take_turn()
                session.budget.spend(PART_PACKETS * PACKET_SECONDS)
            response = await super().handle_request(WholeRequest(request, part))
            if response.status != 200:
                break
        return response

    def peer_of(self, sid: str, namespace: str) -> PlainPeer:
        """The peer of a socket that joins a namespace."""
        session = self._sessions[self.manager.eio_sid_from_sid(sid, namespace)]
        return PlainPeer(sid, lambda: self._end(sid, namespace), session)

    def _end(self, sid: str, namespace: str) -> None:
        self._do(self.disconnect(sid, namespace=namespace))

    def _do(self, ending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def receive(self, socket: ClientSocket, event: str, arguments: list[Any]) -> Any:
        """Hand an event to the gateway and wait for its ack."""
        answer: asyncio.Future[tuple[Any, ...] | None] = asyncio.get_running_loop().create_future()
        socket.peer.unanswered.add(answer)
        answer.add_done_callback(socket.peer.unanswered.discard)
        if any(argument is UNREADABLE for argument in arguments):
            self.gateway.refuse(socket, answer, BadRequest("not valid JSON, or with attachments"))
        else:
            self.gateway.receive(socket, event, answer, arguments)
        arguments_of_ack = await answer
        return self.not_handled if arguments_of_ack is None else arguments_of_ack
