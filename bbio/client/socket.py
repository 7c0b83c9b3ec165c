"""One Socket.IO connection, from its opening to its end, and the part of it that a session gets: a namespace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from inspect import isawaitable
from typing import Any

import aiohttp
import socketio
from socketio.exceptions import SocketIOError

from bbio import protocol
from bbio.client.identity import Auth
from bbio.client.opener import Opener
from bbio.client.requests import ENVELOPE_BYTES

logger = logging.getLogger("bbio.client")
# Every lost connection is a warning to the library.
library_logger = logging.getLogger("bbio.client.socketio")
library_logger.setLevel(logging.ERROR)

# Seconds that opening a connection may take, and closing one.
OPEN_SECONDS = 10.0
DISCONNECT_SECONDS = 1.0
# Seconds that a connection has for its answers when another takes its place.
DRAIN_SECONDS = 5.0
# Bytes of one message from the server.
MAX_MESSAGE_BYTES = 64 << 20


class PacketJSON:
    """The JSON of this client alone."""

    @staticmethod
    def loads(text: str) -> Any:
        return protocol.decode(text)

    @staticmethod
    def dumps(value: Any, **options: Any) -> str:
        return protocol.encode(value).decode()


class ClientPacket(socketio.packet.Packet):
    """A packet read and written with `PacketJSON`."""

    json = PacketJSON


class Socket:
    """One Socket.IO connection, from its opening to its end.

    Parameters:
        http: the HTTP session it is opened with.
        auth: what is sent when a namespace is joined, or a function that returns it.
        options: further ones for `socketio.AsyncClient`.
    """

    def __init__(self, http: aiohttp.ClientSession, auth: Auth, options: Mapping[str, Any]) -> None:
        self._auth = auth
        options = dict(options)
        extras = {"max_msg_size": MAX_MESSAGE_BYTES, **options.pop("websocket_extra_options", {})}
        self._opener = Opener(http)
        self.library = socketio.AsyncClient(
            reconnection=False,
            handle_sigint=False,
            serializer=ClientPacket,
            http_session=self._opener,
            websocket_extra_options=extras,
            logger=library_logger,
            engineio_logger=library_logger,
            **options,
        )
        self._outgoing: asyncio.Queue[Callable[[], Any]] = asyncio.Queue()
        self._gathered = 0  # bytes that may wait for the next POST
        self._writing: asyncio.Task[None] | None = None
        self._dropped = asyncio.Event()
        self._unanswered = 0
        self._answered = asyncio.Event()
        # What is to be called when it has ended, once another has taken its place.
        self.ends: list[Callable[[], None]] | None = None
        # What namespaces were joined with.
        self.joined_with: dict[str, dict[str, Any]] = {}

    @property
    def max_payload(self) -> int | None:
        """Bytes of the largest message that the server takes, if it has said so."""
        return self._opener.max_payload

    @property
    def refused_with(self) -> int | None:
        """The HTTP status of its opening, if that was refused."""
        return self._opener.refused_with

    async def credentials(self) -> dict[str, Any]:
        """Return the credentials to join a namespace with, asked for anew each time."""
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                auth = self._auth() if callable(self._auth) else self._auth
                return dict((await auth if isawaitable(auth) else auth) or {})
        except Exception:
            logger.warning("auth, given to connect(), failed; it is asked again in a while", exc_info=True)
            raise

    def emit(self, event: str, arguments: tuple[Any, ...], namespace: str, answer: Callable[..., None]) -> None:
        """Send an event after those before it."""
        self._unanswered += 1

        def answered(*arguments: Any) -> None:
            self._unanswered -= 1
            if not self._unanswered:
                self._answered.set()
            answer(*arguments)

        async def send() -> None:
            await self._make_room(namespace, arguments)
            await self.library.emit(event, arguments, namespace, answered)

        self._outgoing.put_nowait(send)

    async def _make_room(self, namespace: str, arguments: tuple[Any, ...]) -> None:
        """Polling sends all that waits as one message, which must not be larger than the server takes."""
        limit = self.max_payload
        if limit is None or self.library.transport() != "polling":
            return
        size = len(protocol.encode(arguments)) + len(namespace) + ENVELOPE_BYTES
        if self._gathered + size > limit:
            await self.library.eio.queue.join()
            self._gathered = 0
        self._gathered += size

    def join(self, namespace: str) -> None:
        """Join one more namespace; the library knows only those that it was opened with."""

        async def send() -> None:
            auth = self.joined_with[namespace] = await self.credentials()
            await self.library._send_packet(ClientPacket(socketio.packet.CONNECT, data=auth, namespace=namespace))

        self._outgoing.put_nowait(send)

    async def run(self) -> None:
        """Send what is to be sent, until the connection ends.

        Raises:
            Exception: something could not be sent, such as an `auth` that a function failed to return.
        """
        self._writing = asyncio.create_task(self._write())
        await self._until(self._writing, self._dropped)
        if self._writing.done():
            self._writing.result()

    async def drain(self) -> None:
        """Go on until everything is answered, for a while."""
        if self._writing is not None and self._unanswered:
            self._answered.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self._until(self._writing, self._answered)

    async def _until(self, writing: asyncio.Task[None], event: asyncio.Event) -> None:
        """Wait until something happened, or the connection ended."""
        waiting = asyncio.create_task(event.wait())
        try:
            ends = [self.library.eio.read_loop_task, writing, waiting]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    def drop(self) -> None:
        """End it at once: the other side does not answer."""
        self._dropped.set()

    async def _write(self) -> None:
        while True:
            send = await self._outgoing.get()
            with suppress(SocketIOError):  # the namespace may have been left since
                await send()

    async def close(self) -> None:
        """End the connection, whatever state it is in."""
        eio = self.library.eio
        closing = asyncio.ensure_future(self.library.disconnect())
        await asyncio.wait([closing], timeout=DISCONNECT_SECONDS)
        begun = (closing, self._writing, eio.read_loop_task, eio.write_loop_task)
        tasks = [task for task in begun if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        eio.http = None  # others use it too, and the library may close what it holds when it is collected
        websocket = self._opener.websocket
        if websocket is not None and not websocket.closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(DISCONNECT_SECONDS):
                    await websocket.close()


class NamespaceSocket:
    """A connection to one namespace."""

    def __init__(self, socket: Socket, namespace: str) -> None:
        self._socket = socket
        self._namespace = namespace

    @property
    def max_payload(self) -> int | None:
        return self._socket.max_payload

    def emit(self, event: str, arguments: tuple[Any, ...], answer: Callable[..., None]) -> None:
        self._socket.emit(event, arguments, self._namespace, answer)

    def drop(self) -> None:
        self._socket.drop()
