"""The connection of a client: opened when it is needed, and again when it was lost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import aiohttp

from bbio.client.errors import Dropped, turned_away
from bbio.client.handle import Handle, Handles
from bbio.client.identity import Auth, GetToken, Identity
from bbio.client.outbox import new_client
from bbio.client.session import BackendSession
from bbio.client.settings import SessionSettings
from bbio.client.socket import OPEN_SECONDS, NamespaceSocket, Socket
from bbio.client.subscription import Subscription
from bbio.errors import ConfigurationError, Unavailable

Queue = Literal["drop", "keep"]
# Called with a handle and its writes when these will not be sent.
OnDropped = Callable[[Handle[Any], list[Dropped]], object]
OnJoined = Callable[[str, str | None], object]

logger = logging.getLogger("bbio.client")

TRANSPORTS = ("polling", "websocket")
QUEUES = ("drop", "keep")
# Options that are the library's own; its others are about what is done here, such as connecting again.
OPTIONS = ("http_session", "request_timeout", "ssl_verify", "timestamp_requests", "websocket_extra_options")

# Seconds after which a namespace that the server closed is joined again, besides the jitter.
REJOIN_SECONDS = 0.25


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
        get_token: GetToken | None,
        user: str | None,
        transports: Iterable[str],
        path: str,
        reconnect: tuple[float, float],
        queue: Queue,
        dropped: OnDropped | None,
        joined: OnJoined | None,
        settings: SessionSettings,
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
        self._sessions: dict[str, BackendSession] = {}
        self._socket: Socket | None = None
        self._identity = Identity(
            lambda: [session.renewal for session in self._sessions.values()], lambda: self.connected
        )
        self._speak_for(auth, headers, user, get_token)
        self._keep_queue(queue)
        self._transports = transports
        self._path = path
        self._settings = settings
        self._first_pause, self._longest_pause = reconnect
        self._pause = self._first_pause
        self._options = options
        self._client = new_client()
        self._on_dropped = dropped
        self._on_joined = joined
        self._handles = Handles()
        self._wanted = asyncio.Event()
        # Set when whatever is being done for the connection there is, or was, is void.
        self._anew = asyncio.Event()
        # The latest, open or not.
        self._current: Socket | None = None
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
        return self._socket is not None

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
            session = BackendSession(
                name,
                self._join,
                loop,
                self._settings,
                self._client,
                user=self._user,
                keep=self._keeps,
                on_dropped=self._dropped,
                identity=self._identity,
                on_joined=self._joined,
            )
        return self._handles.get(session, session.subscription(channel or None, id_attribute))

    def connect(
        self,
        *,
        auth: Auth = None,
        get_token: GetToken | None = None,
        headers: Mapping[str, str] | None = None,
        user: str | None = None,
        queue: Queue = "drop",
    ) -> Self:
        """Connect again, as another user or with other credentials; handles and collections move along.

        The old connection has 5 seconds for the writes under way: the ones that it cannot answer fail with
        `UnknownOutcome`. Writes that wait to be sent go out as the user who made them, or not at all.

        Parameters:
            auth: see `bbio.client.connect`; None logs out.
            get_token: see `bbio.client.connect`; None asks for no tokens any more.
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
        self._speak_for(auth, headers or {}, user, get_token)
        ends = [session.replaced(self._user, keep=self._keeps) for session in self._sessions.values()]
        if self._current is not None:
            self._current.ends = ends
        self._socket = self._current = None
        self._pause = self._first_pause
        self._anew.set()
        self._wanted.set()
        return self

    async def authenticate(self, token: str) -> None:
        """Tell the server of another token of the same user, on the connection that there is and on later ones.

        It returns when all backends have taken the token; without a connection it is kept for the next one. To log in
        as another user, or to log out, call `connect`.

        Parameters:
            token: the token, sent as `{"token": ...}`.

        Raises:
            ConfigurationError: the token is not a string, or empty.
            Forbidden: it is another user's.
            Unauthorized: it does not hold.
            Timeout: the server did not answer in time.
            Unavailable: the connection was closed, or another token took the place of this one.

        Example:
            >>> async def renew(io: Connection, token: str) -> None:
            ...     await io.authenticate(token)
        """
        if self._closed:
            raise Unavailable("the connection was closed")
        await self._identity.authenticate(token)

    def _speak_for(self, auth: Auth, headers: Mapping[str, str], user: str | None, get_token: GetToken | None) -> None:
        if not (auth is None or callable(auth) or isinstance(auth, Mapping)):
            raise ConfigurationError('connect(auth=...): give an object such as {"token": ...}, or a function for one')
        if not (user is None or isinstance(user, str)):
            raise ConfigurationError(f"connect(user={user!r}): give the user's name, a string")
        auth = auth if auth is None or callable(auth) else dict(auth)
        self._identity.begin(auth, get_token)
        self._headers = dict(headers)
        self._user = repr((None if callable(auth) else auth, self._headers) if user is None else user)

    def _keep_queue(self, queue: Queue) -> None:
        if queue not in QUEUES:
            raise ConfigurationError(f"connect(queue={queue!r}): give one of {', '.join(QUEUES)}")
        self._keeps = queue == "keep"

    async def close(self) -> None:
        """Disconnect. Requests that have no answer yet fail with `Unavailable`; `events()` end."""
        self._closed = True
        self._identity.stop()
        for session in self._sessions.values():
            session.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _dropped(self, session: BackendSession, subscription: Subscription, writes: list[Dropped]) -> None:
        if self._on_dropped is not None:
            self._on_dropped(self._handles.get(session, subscription), writes)

    def _joined(self, session: BackendSession, channel: str | None) -> None:
        if self._on_joined is None:
            return
        try:
            self._on_joined(session.name, channel)
        except Exception as err:
            context = {"message": f"connect(joined=...) of {session.name!r} failed", "exception": err}
            asyncio.get_running_loop().call_exception_handler(context)

    def _join(self, session: BackendSession) -> None:
        """A session needs a connection."""
        self._sessions[session.name] = session
        self._wanted.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        elif self._socket is not None:
            self._bind(self._socket, session)
            self._socket.join("/" + session.name)

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
                    socket = Socket(http, self._identity.credentials, options)
                    await self._unless_anew(self._connect(socket, wanted))
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

    async def _connect(self, socket: Socket, sessions: list[BackendSession]) -> None:
        """One connection, from its opening to its end."""
        self._current = socket
        for session in sessions:
            self._bind(socket, session)
        try:
            await self._identity.prepare()
            auth = await socket.credentials()
            socket.joined_with = {"/" + session.name: auth for session in sessions}
            async with asyncio.timeout(OPEN_SECONDS):
                await socket.library.connect(
                    self.url,
                    headers=self._headers,
                    auth=auth,
                    transports=self._transports,
                    namespaces=["/" + session.name for session in sessions],
                    socketio_path=self._path,
                    wait=False,
                )
            self._socket = socket
            for session in self._sessions.values():
                if session.wanted and session not in sessions:
                    self._join(session)
            await socket.run()
        except Exception as err:
            # Whatever it is: the library also stumbles over connections that end while they are being opened.
            logger.debug("no connection to %s: %r", self.url, err)
            refusal = turned_away(socket.refused_with, self.url)
            if refusal is not None and self._current is socket:
                for session in sessions:
                    session.turned_away(refusal)
        finally:
            if socket.ends is None:
                self._socket = self._current = None
                await socket.close()
                for session in self._sessions.values():
                    session.disconnected()
            else:
                draining = asyncio.create_task(self._drain(socket, socket.ends))
                self._draining.add(draining)
                draining.add_done_callback(self._draining.discard)

    async def _drain(self, socket: Socket, ends: list[Callable[[], None]]) -> None:
        """Have a connection that another has taken the place of answer what it can, and end it."""
        try:
            await socket.drain()
        finally:
            for end in ends:
                end()
            await socket.close()

    async def _end_draining(self) -> None:
        for task in self._draining:
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)

    def _bind(self, socket: Socket, session: BackendSession) -> None:
        """Have a session told of what happens in its namespace."""
        namespace = "/" + session.name

        def current(handler: Callable[..., None]) -> Callable[..., None]:
            """Make a handler that is called until another connection takes the place of this one."""

            def handle(*arguments: Any) -> None:
                if self._current is socket:
                    handler(*arguments)

            return handle

        def joined() -> None:
            self._pause = self._first_pause
            token = socket.joined_with.get(namespace, {}).get("token")
            session.connected(NamespaceSocket(socket, namespace), token if isinstance(token, str) else None)

        def left(reason: str) -> None:
            session.disconnected()
            if self._socket is socket and reason == socket.library.reason.SERVER_DISCONNECT:
                pause = REJOIN_SECONDS + random.random() * self._settings.jitter
                asyncio.get_running_loop().call_later(pause, rejoin)

        def rejoin() -> None:
            if self._socket is socket and not self._closed:
                socket.join(namespace)

        def refused(reason: Any = None, *_: Any) -> None:
            # The library also says so when there is no connection at all.
            if self._socket is socket:
                session.refused(reason)

        def received(event: str, *arguments: Any) -> None:
            session.received(event, arguments)

        on = socket.library.on
        on("connect", current(joined), namespace=namespace)
        on("disconnect", current(left), namespace=namespace)
        on("connect_error", current(refused), namespace=namespace)
        for event in ("synced", "resync", "presence", "message", "auth"):
            on(event, current(partial(received, event)), namespace=namespace)
