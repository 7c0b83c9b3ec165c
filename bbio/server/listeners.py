"""The listeners of a backend: the streams that somebody follows, and who follows each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized

from bbio.runtime import Runtime
from bbio.server.connection import ClientSocket
from bbio.server.limits import Limits
from bbio.server.stream import Followed, Rings
from bbio.server.viewers import Viewers
from bbio.streams import BACKEND_WIDE
from bbio.view import View


class Listeners:
    """The followed streams of one backend. A stream is here for as long as somebody follows it.

    Parameters:
        runtime: the backend.
        limits: what a client may take.
        all_backends: all backends, which share the memory that there is for rings.
        on_stream: is called when there is one stream more.

    Attributes:
        streams: the streams by name.
    """

    __slots__ = ("_all_backends", "_limits", "_on_stream", "_rings", "_runtime", "streams")

    def __init__(self, runtime: Runtime, limits: Limits, all_backends: Sized, on_stream: Callable[[], None]) -> None:
        self._runtime = runtime
        self._limits = limits
        self._all_backends = all_backends
        self._on_stream = on_stream
        self._rings: Rings | None = None
        self.streams: dict[str, Followed] = {}

    def __bool__(self) -> bool:
        return bool(self.streams)

    def __iter__(self) -> Iterator[tuple[ClientSocket, Followed]]:
        """Iterate over those who listen to channels, each with the channel's stream."""
        for followed in self.streams.values():
            if followed.name != BACKEND_WIDE:
                for socket in (*followed.legacy, *followed.version_1):
                    yield socket, followed

    def stream(self, name: str) -> Followed:
        """A stream that somebody is about to follow; its place may not be known yet."""
        followed = self.streams.get(name)
        if followed is None:
            if self._rings is None:
                log, limits = self._runtime.log, self._limits
                most = limits.memory / 8 / len(self._all_backends)
                self._rings = Rings(log.history, limits.replay, most, log.event_clock)
            runtime = self._runtime
            # What all channels share is not asked for in any: a query is of the models of its channel.
            is_filtered = runtime.is_scoped if name == BACKEND_WIDE else runtime.has_live_queries
            followed = self.streams[name] = Followed(
                name,
                self._rings,
                runtime.namespace,
                is_filtered or View.differs(runtime.schema),
                runtime.id_attribute,
                Viewers(name, runtime.is_scoped) if is_filtered else None,
                runtime.common_view,
            )
            self._runtime.log.broker.follow(name)
            self._on_stream()
        return followed

    def follow(
        self, socket: ClientSocket, followed: Followed, version: int, deltas: bool = False, messages: bool = False
    ) -> None:
        """From now on a socket is told of a stream's events, in that version of the protocol.

        Parameters:
            socket: the socket.
            followed: the stream.
            version: the version.
            deltas: whether it takes what changed of a record in place of the whole.
            messages: whether it takes messages of the channel.
        """
        deltas = deltas and self._runtime.backend.deltas
        told, not_told = followed.legacy, followed.version_1
        if version:
            told, not_told = not_told, told
        told[socket] = socket.peer
        not_told.pop(socket, None)
        if deltas:
            followed.deltas[socket] = socket.peer
        elif followed.deltas:
            followed.deltas.pop(socket, None)
        if messages:
            followed.messages[socket] = socket.peer
        elif followed.messages:
            followed.messages.pop(socket, None)
        if followed.viewers is not None:
            followed.viewers.join(socket, socket.views[followed.name], version, deltas)

    def unfollow(self, socket: ClientSocket, names: Iterable[str]) -> None:
        """A socket is told of these streams no more."""
        for name in names:
            followed = self.streams.get(name)
            if followed is not None:
                followed.legacy.pop(socket, None)
                followed.version_1.pop(socket, None)
                followed.deltas.pop(socket, None)
                followed.messages.pop(socket, None)
                if followed.viewers is not None:
                    followed.viewers.leave(socket)
                self.let_go(followed)

    def join(self, names: Iterable[str]) -> list[Followed]:
        """Streams whose log somebody is about to read: what is told meanwhile is kept, until `joined`."""
        streams = [self.stream(name) for name in names]
        for followed in streams:
            followed.joining += 1
        return streams

    def joined(self, streams: Iterable[Followed]) -> None:
        """The end of `join`."""
        for followed in streams:
            followed.joining -= 1
            self.let_go(followed)

    def let_go(self, followed: Followed) -> None:
        """Forget a stream that nobody follows any more."""
        if not (followed.legacy or followed.version_1 or followed.joining or followed.kept):
            self.streams.pop(followed.name, None)
            self._runtime.log.broker.unfollow(followed.name)
            followed.waiting.clear()
            followed.forget()
