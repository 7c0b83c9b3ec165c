"""The connection of a client: python-socketio's, opened when it is needed and again when it was lost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from inspect import isawaitable
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import aiohttp
import socketio
from socketio.exceptions import SocketIOError

from bbio import protocol
from bbio.client.errors import Dropped, turned_away
from bbio.client.handle import Handle, Handles
from bbio.client.opener import Opener
from bbio.client.outbox import new_client
from bbio.client.session import ENVELOPE, Session, Settings
from bbio.client.subscription import Subscription
from bbio.errors import ConfigurationError, Unavailable

Credentials = Mapping[str, Any] | None
Auth = Credentials | Callable[[], Credentials | Awaitable[Credentials]]
Queue = Literal["drop", "keep"]
# Called with a handle and its writes when these will not be sent.
OnDropped = Callable[[Handle[Any], list[Dropped]], object]

logger = logging.getLogger("bbio.client")
# Every lost connection is a warning to the library.
library_logger = logging.getLogger("bbio.client.socketio")
library_logger.setLevel(logging.ERROR)

TRANSPORTS = ("polling", "websocket")
QUEUES = ("drop", "keep")
# Options that are the library's own; its others are about what is done here, such as connecting again.
OPTIONS = ("http_session", "request_timeout", "ssl_verify", "timestamp_requests", "websocket_extra_options")

# Seconds that opening a connection may take, and closing one.
OPEN_TIME = 10.0
CLOSE_TIME = 1.0
# Seconds that a connection has for its answers when another takes its place.
GRACE = 5.0
# Bytes of one message from the server.
MAX_MESSAGE = 64 << 20
# Seconds after which a namespace that the server closed is joined again, besides the jitter.
REJOIN_PAUSE = 0.25


class WireJSON:
    """The JSON of this client alone."""

    @staticmethod
    def loads(text: str) -> Any:
        return protocol.decode(text)

    @staticmethod
    def dumps(value: Any, **options: Any) -> str:
        return protocol.encode(value).decode()


class ClientPacket(socketio.packet.Packet):
    """A packet read and written with `WireJSON`."""

    json = WireJSON


class Wire:
    """One Socket.IO connection, from its opening to its end.

    Parameters:
        http: the HTTP session it is opened with.
        auth: what is sent when a namespace is joined, or a function that returns it.
        options: further ones for `socketio.AsyncClient`.
    """

    def __init__(self, http: aiohttp.ClientSession, auth: Auth, options: Mapping[str, Any]) -> None:
        self._auth = auth
        given = dict(options)
        extras = {"max_msg_size": MAX_MESSAGE, **given.pop("websocket_extra_options", {})}
        self._opener = Opener(http)
        self.socket = socketio.AsyncClient(
            reconnection=False,
            handle_sigint=False,
            serializer=ClientPacket,
            http_session=self._opener,
            websocket_extra_options=extras,
            logger=library_logger,
            engineio_logger=library_logger,
            **given,
        )
        self._outgoing: asyncio.Queue[Callable[[], Any]] = asyncio.Queue()
        self._gathered = 0  # bytes that may wait for the next POST
        self._writing: asyncio.Task[None] | None = None
        self._dropped = asyncio.Event()
        self._unanswered = 0
        self._answered = asyncio.Event()
        # What is to be called when it has ended, once another has taken its place.
        self.ends: list[Callable[[], None]] | None = None

    @property
    def max_payload(self) -> int | None:
        """Bytes of the largest message that the server takes, if it has said so."""
        return self._opener.max_payload

    @property
    def refused_with(self) -> int | None:
        """The HTTP status of its opening, if that was refused."""
        return self._opener.refused_with

    async def credentials(self) -> dict[str, Any]:
        """What to join a namespace with, asked for anew each time."""
        try:
            async with asyncio.timeout(OPEN_TIME):
                auth = self._auth() if callable(self._auth) else self._auth
                return dict((await auth if isawaitable(auth) else auth) or {})
        except Exception:
            logger.warning("auth, given to connect(), failed; it is asked again in a while", exc_info=True)
            raise

    def emit(self, event: str, arguments: tuple[Any, ...], namespace: str, answer: Callable[..., None]) -> None:
        """Send an event after those before it."""
        self._unanswered += 1

        def answered(*told: Any) -> None:
            self._unanswered -= 1
            if not self._unanswered:
                self._answered.set()
            answer(*told)

        async def send() -> None:
            await self._make_room(namespace, arguments)
            await self.socket.emit(event, arguments, namespace, answered)

        self._outgoing.put_nowait(send)

    async def _make_room(self, namespace: str, arguments: tuple[Any, ...]) -> None:
        """Polling sends all that waits as one message, which must not be larger than the server takes."""
        limit = self.max_payload
        if limit is None or self.socket.transport() != "polling":
            return
        size = len(protocol.encode(arguments)) + len(namespace) + ENVELOPE
        if self._gathered + size > limit:
            await self.socket.eio.queue.join()
            self._gathered = 0
        self._gathered += size

    def join(self, namespace: str) -> None:
        """Join one more namespace; the library knows only those that it was opened with."""

        async def send() -> None:
            auth = await self.credentials()
            await self.socket._send_packet(ClientPacket(socketio.packet.CONNECT, data=auth, namespace=namespace))

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
                async with asyncio.timeout(GRACE):
                    await self._until(self._writing, self._answered)

    async def _until(self, writing: asyncio.Task[None], event: asyncio.Event) -> None:
        """Wait until something happened, or the connection ended."""
        waiting = asyncio.create_task(event.wait())
        try:
            ends = [self.socket.eio.read_loop_task, writing, waiting]
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
        eio = self.socket.eio
        closing = asyncio.ensure_future(self.socket.disconnect())
        await asyncio.wait([closing], timeout=CLOSE_TIME)
        begun = (closing, self._writing, eio.read_loop_task, eio.write_loop_task)
        tasks = [task for task in begun if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        eio.http = None  # others use it too, and the library may close what it holds when it is collected
        websocket = self._opener.websocket
        if websocket is not None and not websocket.closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIME):
                    await websocket.close()


class SocketLink:
    """A connection to one namespace."""

    def __init__(self, wire: Wire, namespace: str) -> None:
        self._wire = wire
        self._namespace = namespace

    @property
    def max_payload(self) -> int | None:
        return self._wire.max_payload

    def emit(self, event: str, arguments: tuple[Any, ...], answer: Callable[..., None]) -> None:
        self._wire.emit(event, arguments, self._namespace, answer)

    def drop(self) -> None:
        self._wire.drop()


class Connection:
    """One connection to a server, carrying any number of backends and channels.

    Made by `bbio.client.connect`.

    Example:
        >>> async def titles(io: Connection) -> list[str]:
        ...     return [todo["title"] for todo in await io.backend("todos").read()]
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        auth: Auth,
        user: str | None,
        transports: Iterable[str],
        path: str,
        reconnect: tuple[float, float],
        queue: Queue,
        dropped: OnDropped | None,
        settings: Settings,
        options: Mapping[str, Any],
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https", "ws", "wss") or not urlsplit(url).netloc:
            raise ConfigurationError(f"connect({url!r}): give the server's address, such as http://localhost:3000")
        if unknown := set(options) - set(OPTIONS):
            raise ConfigurationError(
                f"connect() has no option {min(unknown)!r}; of Socket.IO's it has {', '.join(OPTIONS)}"
            )
        transports = list(transports)
        if not transports or not set(transports) <= set(TRANSPORTS):
            raise ConfigurationError(
                f"connect(transports={transports!r}): give one of {', '.join(TRANSPORTS)}, or both"
            )
        self.url = url
        self._speak_for(auth, headers, user)
        self._keep_queue(queue)
        self._transports = transports
        self._path = path
        self._settings = settings
        self._first_pause, self._longest_pause = reconnect
        self._pause = self._first_pause
        self._options = options
        self._client = new_client()
        self._on_dropped = dropped
        self._sessions: dict[str, Session] = {}
        self._handles = Handles()
        self._wanted = asyncio.Event()
        # Set when whatever is being done for the connection there is, or was, is void.
        self._anew = asyncio.Event()
        self._wire: Wire | None = None
        # The latest, open or not.
        self._current: Wire | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """True while there is a connection."""
        return self._wire is not None

    def backend(self, name: str, *, channel: str | None = None, id_attribute: str = "id") -> Handle[Any]:
        """Return a handle of a backend, in a channel. The first one opens the connection.

        Parameters:
            name: the backend's name on the server.
            channel: the channel; None for the backend's default channel.
            id_attribute: the name of the id in its models.

        Raises:
            ConfigurationError: the name or the channel is not a string.
            Unavailable: the connection was closed.

        Example:
            >>> def home(io: Connection) -> Handle:
            ...     return io.backend("todos", channel="home")
        """
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"a backend is named by a string, not {name!r}")
        if channel is not None and not isinstance(channel, str):
            raise ConfigurationError(f"the channel of {name!r} must be a string, not {channel!r}")
        if self._closed:
            raise Unavailable("the connection was closed")
        session = self._sessions.get(name)
        if session is None:
            loop = asyncio.get_running_loop()
            session = Session(
                name,
                self._join,
                loop,
                self._settings,
                self._client,
                user=self._user,
                keep=self._keeps,
                on_dropped=self._dropped,
            )
        return self._handles.get(session, session.subscription(channel or None, id_attribute))

    def connect(
        self,
        *,
        auth: Auth = None,
        headers: Mapping[str, str] | None = None,
        user: str | None = None,
        queue: Queue = "drop",
    ) -> Self:
        """Connect again, as another user or with other credentials; handles and collections move along.

        The old connection has 5 seconds for the writes under way: the ones that it cannot answer fail with
        `UnknownOutcome`. Writes that wait to be sent go out as the user who made them, or not at all.

        Parameters:
            auth: see `bbio.client.connect`; None logs out.
            headers: HTTP headers of the handshake.
            user: the name of the user of later requests. Without it, other `auth` or `headers` mean another user. If
                `auth` is a function, the server reports its user.
            queue: see `bbio.client.connect`; it holds from now on.

        Raises:
            ConfigurationError: an argument is not valid.
            Unavailable: the connection was closed.

        Example:
            >>> def log_in(io: Connection, token: str) -> None:
            ...     io.connect(auth={"token": token}, user="ann")
        """
        self._keep_queue(queue)
        if self._closed:
            raise Unavailable("the connection was closed")
        self._speak_for(auth, headers or {}, user)
        ends = [session.replaced(self._user, keep=self._keeps) for session in self._sessions.values()]
        if self._current is not None:
            self._current.ends = ends
        self._wire = self._current = None
        self._pause = self._first_pause
        self._anew.set()
        self._wanted.set()
        return self

    def _speak_for(self, auth: Auth, headers: Mapping[str, str], user: str | None) -> None:
        if not (auth is None or callable(auth) or isinstance(auth, Mapping)):
            raise ConfigurationError('connect(auth=...): give an object such as {"token": ...}, or a function for one')
        if not (user is None or isinstance(user, str)):
            raise ConfigurationError(f"connect(user={user!r}): give the user's name, a string")
        self._auth = auth if auth is None or callable(auth) else dict(auth)
        self._headers = dict(headers)
        self._user = repr((None if callable(auth) else self._auth, self._headers) if user is None else user)

    def _keep_queue(self, queue: Queue) -> None:
        if queue not in QUEUES:
            raise ConfigurationError(f"connect(queue={queue!r}): give one of {', '.join(QUEUES)}")
        self._keeps = queue == "keep"

    async def close(self) -> None:
        """Disconnect. Requests that have no answer yet fail with `Unavailable`; `events()` end."""
        self._closed = True
        for session in self._sessions.values():
            session.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _dropped(self, session: Session, subscription: Subscription, writes: list[Dropped]) -> None:
        if self._on_dropped is not None:
            self._on_dropped(self._handles.get(session, subscription), writes)

    def _join(self, session: Session) -> None:
        """A session needs a connection."""
        self._sessions[session.name] = session
        self._wanted.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        elif self._wire is not None:
            self._bind(self._wire, session)
            self._wire.join("/" + session.name)

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            options = dict(self._options)
            http = options.pop("http_session", None) or await stack.enter_async_context(aiohttp.ClientSession())
            stack.push_async_callback(self._end_draining)
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while wanted := [session for session in self._sessions.values() if session.wanted]:
                    self._anew.clear()
                    await self._unless_anew(self._connect(Wire(http, self._auth, options), wanted))
                    await self._unless_anew(asyncio.sleep(self._pause * (0.5 + random.random())))
                    self._pause = min(2 * self._pause, self._longest_pause)

    async def _unless_anew(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something, and stop as soon as another connection is asked for."""
        tasks = [asyncio.create_task(work), asyncio.create_task(self._anew.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, wire: Wire, sessions: list[Session]) -> None:
        """One connection, from its opening to its end."""
        self._current = wire
        for session in sessions:
            self._bind(wire, session)
        try:
            auth = await wire.credentials()
            async with asyncio.timeout(OPEN_TIME):
                await wire.socket.connect(
                    self.url,
                    headers=self._headers,
                    auth=auth,
                    transports=self._transports,
                    namespaces=["/" + session.name for session in sessions],
                    socketio_path=self._path,
                    wait=False,
                )
            self._wire = wire
            for session in self._sessions.values():
                if session.wanted and session not in sessions:
                    self._join(session)
            await wire.run()
        except Exception as err:
            # Whatever it is: the library also stumbles over connections that end while they are being opened.
            logger.debug("no connection to %s: %r", self.url, err)
            refusal = turned_away(wire.refused_with, self.url)
            if refusal is not None and self._current is wire:
                for session in sessions:
                    session.turned_away(refusal)
        finally:
            if wire.ends is None:
                self._wire = self._current = None
                await wire.close()
                for session in self._sessions.values():
                    session.disconnected()
            else:
                draining = asyncio.create_task(self._drain(wire, wire.ends))
                self._draining.add(draining)
                draining.add_done_callback(self._draining.discard)

    async def _drain(self, wire: Wire, ends: list[Callable[[], None]]) -> None:
        """Have a connection that another has taken the place of answer what it can, and end it."""
        try:
            await wire.drain()
        finally:
            for end in ends:
                end()
            await wire.close()

    async def _end_draining(self) -> None:
        for task in self._draining:
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)

    def _bind(self, wire: Wire, session: Session) -> None:
        """Have a session told of what happens in its namespace."""
        namespace = "/" + session.name

        def current(handler: Callable[..., None]) -> Callable[..., None]:
            """Make a handler that is called until another connection takes the place of this one."""

            def handle(*told: Any) -> None:
                if self._current is wire:
                    handler(*told)

            return handle

        def joined() -> None:
            self._pause = self._first_pause
            session.connected(SocketLink(wire, namespace))

        def left(reason: str) -> None:
            session.disconnected()
            if self._wire is wire and reason == wire.socket.reason.SERVER_DISCONNECT:
                pause = REJOIN_PAUSE + random.random() * self._settings.jitter
                asyncio.get_running_loop().call_later(pause, rejoin)

        def rejoin() -> None:
            if self._wire is wire and not self._closed:
                wire.join(namespace)

        def refused(told: Any = None, *_: Any) -> None:
            # The library also says so when there is no connection at all.
            if self._wire is wire:
                session.refused(told)

        def received(event: str, *arguments: Any) -> None:
            session.received(event, arguments)

        on = wire.socket.on
        on("connect", current(joined), namespace=namespace)
        on("disconnect", current(left), namespace=namespace)
        on("connect_error", current(refused), namespace=namespace)
        for event in ("synced", "resync"):
            on(event, current(partial(received, event)), namespace=namespace)
