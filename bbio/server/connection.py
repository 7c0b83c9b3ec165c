"""One client connection: who it is, what it may still ask for, and the order of what it asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bbio import protocol
from bbio.errors import Busy
from bbio.handshake import read_cookies
from bbio.streams import BACKEND_WIDE

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from bbio.backend import Backend
    from bbio.server.limits import Limits

Key = tuple[str, Any] | None
Start = Callable[[], bool]


class Connection:
    """One Engine.IO session: what its sockets (one per namespace) share.

    Parameters:
        headers: the HTTP headers of the handshake.
        remote: the client's address.
        limits: the application's limits.
        clock: seconds, never going back.
    """

    def __init__(self, headers: CIMultiDictProxy[str], remote: str, limits: Limits, clock: Callable[[], float]) -> None:
        self.headers = headers
        self.remote = remote
        self.sockets: dict[str, ClientSocket] = {}
        self.closed = False
        self.running = 0
        self._limits = limits
        self._clock = clock
        self._second = clock()
        self._asked = 0
        # Requests for a model that is being worked on wait in its own queue; the rest wait for a free place.
        self._busy: dict[Key, deque[Start]] = {}
        self._waiting: deque[tuple[Key, Start]] = deque()
        self._queued = 0

    @cached_property
    def cookies(self) -> Mapping[str, str]:
        """The cookies of the handshake."""
        return read_cookies(self.headers)

    def count_request(self) -> None:
        """Count one request.

        Raises:
            Busy: there were too many within this second.
        """
        self._asked += 1
        if self._asked > self._limits.requests_per_second:
            now = self._clock()
            left = 1.0 - (now - self._second)
            if left > 0:
                raise Busy("too many requests", retry_after=round(left, 3))
            self._second = now
            self._asked = 1

    def submit(self, key: Key, start: Start) -> bool:
        """Start a request, or queue it behind those it must not overtake; whether it was queued.

        Parameters:
            key: what must be worked on in order: backend name and id; None for what has no order.
            start: starts the request; True when it goes on and will call `finished` with the same key.

        Raises:
            Busy: too many requests wait.
        """
        behind = None if key is None else self._busy.get(key)
        if behind is None and self.running < self._limits.running and not self._waiting:
            if start():
                self.begun(key)
            return False
        if self._queued >= self._limits.queued:
            raise Busy("too many requests are waiting", retry_after=1.0)
        self._queued += 1
        if behind is not None:
            behind.append(start)
        else:
            self._waiting.append((key, start))
        return True

    def begun(self, key: Key) -> None:
        self.running += 1
        if key is not None:
            self._busy.setdefault(key, deque())

    def finished(self, key: Key) -> None:
        """A request that had gone on has ended: start what waited for it."""
        self.running -= 1
        if key is not None:
            behind = self._busy[key]
            while behind and not self.closed:
                self._queued -= 1
                if behind.popleft()():
                    self.running += 1
                    return
            del self._busy[key]
        while self._waiting and self.running < self._limits.running and not self.closed:
            waiting_key, start = self._waiting.popleft()
            behind_it = None if waiting_key is None else self._busy.get(waiting_key)
            if behind_it is not None:
                behind_it.append(start)
                continue
            self._queued -= 1
            if start():
                self.begun(waiting_key)

    def close(self) -> None:
        """Drop what is queued: nobody waits for it any more. What runs is finished."""
        self.closed = True
        self._waiting.clear()
        for behind in self._busy.values():
            behind.clear()
        self._queued = 0


class ClientSocket:
    """A connection within one namespace; layers see it as `req.socket`.

    Parameters:
        sid: the id of this socket.
        backend: the backend whose namespace it is.
        connection: the connection it belongs to.
        link: the engine's handle to write to; None where the library does the writing.
        auth: the JSON of what the client sent when it joined; None when it sent nothing.
    """

    __slots__ = (
        "_auth",
        "audiences",
        "backend",
        "channels",
        "client",
        "connection",
        "id_attribute",
        "last_channel",
        "left",
        "link",
        "namespace",
        "refusals",
        "sid",
    )

    def __init__(
        self, sid: str, backend: Backend, connection: Connection, link: Any = None, auth: bytes | None = None
    ) -> None:
        self.sid = sid
        self.backend = backend
        self.namespace = backend.namespace.encode()
        self.id_attribute = backend.id_attribute
        self.connection = connection
        self.link = link
        # As JSON, whose size has a limit; what it decodes to may take twenty times as much.
        self._auth = auth
        # The fields it is told of, by stream, where what is seen depends on roles: as they were when it was last asked
        # who it is. Of what all channels share it is told what it may see in each of its own.
        self.audiences: dict[str, frozenset[str]] = {}
        # Channels listened to, each with the protocol version of its listen.
        self.channels: dict[str | None, int] = {}
        self.last_channel: str | None = None
        # The own id of a client that knows not its public part, as its operations say it; None of one that does.
        self.client: str | None = ""
        # The answers to listens that were refused, by channel, as JSON.
        self.refusals: dict[str, bytes] = {}
        self.left = False

    def see(self, stream: str, audience: frozenset[str] | None) -> bool:
        """From now on it is told of these fields in the stream of a channel, None when it follows that no more.

        Returns: whether it was told of others.
        """
        audiences = self.audiences
        audiences.pop(BACKEND_WIDE, None)
        before = audiences.pop(stream, audience)
        if audience is not None:
            audiences[stream] = audience
        if audiences:
            audiences[BACKEND_WIDE] = frozenset.intersection(*audiences.values())
        return before != audience

    @property
    def headers(self) -> Mapping[str, str]:
        return self.connection.headers

    @property
    def cookies(self) -> Mapping[str, str]:
        return self.connection.cookies

    @property
    def auth(self) -> Any:
        return None if self._auth is None else protocol.decode(self._auth)

    @property
    def remote(self) -> str:
        return self.connection.remote
