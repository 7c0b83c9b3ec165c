"""Permissions: who may listen to a backend, and to which records of it; asked again while they listen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import copy_context

from bbio import protocol
from bbio.errors import Busy, Timeout, Unauthorized
from bbio.requests import Request
from bbio.runtime import Runtime
from bbio.server.connection import ClientSocket
from bbio.server.exchange import Exchanges
from bbio.server.listeners import Listeners
from bbio.server.stream import Followed
from bbio.server.tasks import Tasks
from bbio.stack.once import refused
from bbio.streams import BACKEND_WIDE, channel_stream
from bbio.view import Scope, View

logger = logging.getLogger("bbio")

# Seconds until it is asked again what those may see of whom `@visible` could not say it.
SCOPE_RETRY_SECONDS = 5.0
# Listeners that are admitted anew at the same time, however many ask for that.
RECHECKS_AT_ONCE = 50


class Permissions:
    """The permissions of those who listen to one backend.

    Parameters:
        exchanges: the requests that are being worked on.
        runtime: the backend.
        listeners: those who listen.
        tasks: the tasks of the backend.
        on_expired: called with a socket whose identity has ended, as a layer says.
        of_session: returns the sockets of a session, known by its id.

    Attributes:
        rechecks: how often permissions were looked at: who was admitted before the last time is asked again.
    """

    __slots__ = (
        "_asking",
        "_closed",
        "_context",
        "_delivery",
        "_ended",
        "_exchanges",
        "_listeners",
        "_of_session",
        "_on_expired",
        "_recheck_timer",
        "_runtime",
        "_tasks",
        "_unasked",
        "_unsure",
        "_unsure_timer",
        "rechecks",
    )

    def __init__(
        self,
        exchanges: Exchanges,
        runtime: Runtime,
        listeners: Listeners,
        tasks: Tasks,
        on_expired: Callable[[ClientSocket], None],
        of_session: Callable[[str], Iterable[ClientSocket]],
    ) -> None:
        self._on_expired = on_expired
        self._of_session = of_session
        self._exchanges = exchanges
        self._delivery = exchanges.delivery
        self._runtime = runtime
        self._listeners = listeners
        self._tasks = tasks
        self._closed = False
        self._context = copy_context()
        self._asking = asyncio.Semaphore(RECHECKS_AT_ONCE)
        self._recheck_timer: asyncio.TimerHandle | None = None
        # The users who are to be asked about; None among them stands for everybody.
        self._unasked: set[str | None] = set()
        # Listeners, by their sockets and streams, of whom nobody could say what they may see.
        self._unsure: set[tuple[ClientSocket, str]] = set()
        self._unsure_timer: asyncio.TimerHandle | None = None
        # Sessions that have ended, whose listeners are to hear nothing more.
        self._ended: set[str] = set()
        self.rechecks = 0

    def open(self) -> None:
        """The application starts."""
        self._closed = False
        self._context = copy_context()
        self._asking = asyncio.Semaphore(RECHECKS_AT_ONCE)  # of this event loop

    def close(self) -> None:
        """Ask nobody any more."""
        self._closed = True
        for timer in (self._recheck_timer, self._unsure_timer):
            if timer is not None:
                timer.cancel()
        self._recheck_timer = self._unsure_timer = None
        # Who was to be asked is no listener after the next start, and must not look as if somebody were about to ask.
        self._unasked.clear()
        self._unsure.clear()
        self._ended.clear()

    # What each sees

    def see(self, socket: ClientSocket, channel: str | None, view: View | None, scope: Scope | None) -> bool:
        """From now on a socket has this view in a channel, and this scope; no view when it follows that no more.

        Returns: whether it had another view.
        """
        wide = socket.views.get(BACKEND_WIDE)
        changed = socket.see(channel_stream(channel), view)
        if view is None or scope is None:
            socket.scopes.pop(channel, None)
        else:
            socket.scopes[channel] = scope
            if not scope.is_known:
                self._ask_again(socket, channel_stream(channel))
        if self._runtime.is_scoped and wide != socket.views.get(BACKEND_WIDE):
            self._suspend(socket, BACKEND_WIDE)
        return changed

    def _suspend(self, socket: ClientSocket, stream: str) -> None:
        """Tell a socket of nothing in a stream whose view has changed: of version 1 until it has listened again."""
        followed = self._listeners.streams.get(stream)
        if followed is None or (socket not in followed.version_1 and socket not in followed.legacy):
            return
        viewers = followed.viewers
        if viewers is not None:
            viewers.leave(socket)
            if socket in followed.legacy and stream in socket.views:
                viewers.join(socket, socket.views[stream], 0)
        if socket in followed.version_1:
            self._delivery.send([socket.peer], self._runtime.namespace, protocol.resync(stream))

    # Identities that end

    def pause(self, socket: ClientSocket) -> None:
        """Tell a socket of nothing any more; its channels stay its own until its client says again who it is."""
        channels, socket.channels = socket.channels, {name: each for name, each in socket.channels.items() if each}
        socket.to_listen = frozenset(socket.channels)
        self._listeners.unfollow(socket, [*map(channel_stream, channels), BACKEND_WIDE])
        for channel in channels:
            self.see(socket, channel, None, None)
        socket.refusals.clear()
        self._tell_to_listen(socket)

    def resume(self, socket: ClientSocket) -> None:
        """Have a client listen again, from where it was told to."""
        self._tell_to_listen(socket)

    def _tell_to_listen(self, socket: ClientSocket) -> None:
        for channel in socket.channels:
            self._delivery.send([socket.peer], self._runtime.namespace, protocol.resync(channel_stream(channel)))

    # Asking again

    async def recheck_socket(self, socket: ClientSocket) -> None:
        """Ask again for one socket, whose client has said anew who it is."""
        streams = [self._listeners.streams.get(channel_stream(channel)) for channel in socket.channels]
        await self._recheck_all((socket, followed) for followed in streams if followed is not None)

    async def recheck(self, channel: str | None = None) -> None:
        """Ask the `before` layers of `read` again for every listener, and let go of those that are refused."""
        self.rechecks += 1
        await self._recheck_all(
            (socket, followed)
            for socket, followed in self._listeners
            if channel is None or followed.name == channel_stream(channel)
        )

    def live_sessions(self) -> set[str]:
        """Return the ids of the sessions that listeners have."""
        identities = (socket.identity for socket, _ in self._listeners)
        return {each.session for each in identities if each is not None and each.session is not None}

    def end_sessions(self, ids: Collection[str]) -> None:
        """End soon what sockets may do whose sessions have ended: listeners, and who waits for an answer."""
        if self._closed:
            return
        is_ending = bool(self._ended)
        self._ended |= set(ids)
        if not is_ending:
            self._tasks.spawn(self._end_sessions())

    async def _end_sessions(self) -> None:
        ids, self._ended = self._ended, set()
        self.rechecks += 1  # who is being admitted is asked again
        # Layers are not asked: one that is slow, or fails, would have them listen on.
        ended = {
            socket: None
            for socket, _ in self._listeners
            if socket.identity is not None and socket.identity.session in ids
        }
        others = (socket for session in ids for socket in self._of_session(session))
        for socket in (*ended, *(each for each in others if each.runtime is self._runtime)):
            self._on_expired(socket)

    def recheck_soon(self, channel: str | None = None) -> None:
        """Do the same soon."""
        if not self._closed:
            # Also where nobody listens: who begins to just now may have been asked before permissions changed.
            self._tasks.spawn(self.recheck(channel))

    def _ask_again(self, socket: ClientSocket, stream: str) -> None:
        """Ask after a while what a listener may see, of whom nobody can say it at the moment."""
        self._unsure.add((socket, stream))
        if self._unsure_timer is None and not self._closed:
            self._unsure_timer = asyncio.get_running_loop().call_later(SCOPE_RETRY_SECONDS, self._ask_unsure)

    def _ask_unsure(self) -> None:
        self._unsure_timer = None
        unsure, self._unsure = self._unsure, set()
        self._tasks.spawn(self._recheck_all(each for each in self._listeners if (each[0], each[1].name) in unsure))

    def ask_viewers(self, viewers: set[str] | None) -> None:
        """Ask soon what these users may have by now, known by the texts of their ids; None for everybody."""
        is_asking = bool(self._unasked)
        self._unasked |= {None} if viewers is None else viewers
        if self._unasked and not is_asking:
            self._tasks.spawn(self._ask_viewers())

    async def _ask_viewers(self) -> None:
        # What comes while these are asked is asked by another.
        viewers, self._unasked = self._unasked, set()
        self.rechecks += 1
        await self._recheck_all(
            (socket, followed)
            for socket, followed in self._listeners
            if None in viewers or socket.scopes[followed.channel].viewer in viewers
        )

    def ask_everywhere(self) -> None:
        """Ask soon what everybody may have by now, in all processes."""
        self._tasks.spawn(self._ask_everywhere())

    async def _ask_everywhere(self) -> None:
        try:
            await self._runtime.recheck()
        except Exception:
            logger.exception("not all could be told that permissions in %s have changed", self._runtime.name)

    async def _recheck_all(self, listeners: Iterable[tuple[ClientSocket, Followed]]) -> None:
        to_ask = list(listeners)
        each = iter(to_ask)
        await asyncio.gather(*(self._recheck_each(each) for _ in range(min(len(to_ask), RECHECKS_AT_ONCE))))

    def recheck_later(self) -> None:
        """Ask everybody again after the backend's `recheck_interval`, and so on while somebody listens."""
        seconds = self._runtime.backend.recheck_interval
        if seconds is not None and self._recheck_timer is None and not self._closed:
            self._recheck_timer = asyncio.get_running_loop().call_later(seconds, self._recheck_now)

    def _recheck_now(self) -> None:
        if self._listeners:
            self._tasks.spawn(self._recheck_periodically())
        else:
            self._recheck_timer = None

    async def _recheck_periodically(self) -> None:
        try:
            await self.recheck()
        finally:
            self._recheck_timer = None
            self.recheck_later()

    async def _recheck_each(self, listeners: Iterator[tuple[ClientSocket, Followed]]) -> None:
        for socket, followed in listeners:
            async with self._asking:
                if not socket.is_suspended and await self._is_refused(socket, followed):
                    self._drop(socket, followed)
                await asyncio.sleep(0)

    async def _is_refused(self, socket: ClientSocket, followed: Followed) -> bool:
        """Return whether to remove a listener. One that gets other fields from now on has to read everything."""
        channel = followed.channel
        req = Request("read", None, {}, self._runtime.backend, channel, socket, event="listen")
        try:
            async with asyncio.timeout(self._exchanges.limits.deadline):
                # In a context of its own: the listeners that are asked by one task must not see each other's.
                admission = self._exchanges.registry.admit(self._runtime, req)
                failure, view = await asyncio.get_running_loop().create_task(admission, context=self._context.copy())
        except TimeoutError:
            failure, view = Timeout(), None
        if isinstance(failure, Unauthorized) and failure.expired and not socket.left:  # type: ignore[attr-defined]
            self._on_expired(socket)
            return False
        if failure is None:
            await self._review(socket, channel, req)
        is_told = channel in socket.channels and channel not in socket.to_listen
        if failure is None and view is not None and is_told:
            self._delivery.flush()  # what was committed before belongs to the view of before
            view = view.narrowed(socket.views[followed.name].asked)
            if self.see(socket, channel, view, req.scope):
                self._suspend(socket, followed.name)
        is_refused = failure is not None and refused(failure) and not isinstance(failure, Busy)
        if failure is not None and not is_refused and self._runtime.is_scoped:
            self._ask_again(socket, followed.name)
        return is_refused

    async def _review(self, socket: ClientSocket, channel: str | None, req: Request) -> None:
        """Look again at what others see of a listener. One whose card cannot be had keeps the one that it has."""
        try:
            async with asyncio.timeout(self._exchanges.limits.deadline):
                await self._exchanges.rooms.review(socket, channel, req)
        except Exception as err:
            # Raised further, or waited for without end, it would keep the others from being asked.
            self._exchanges.registry.internal_error(err, req)

    def end(self, channel: str | None) -> int:
        """End that anybody listens to a channel; those of version 1 may ask at once for more. Return how many did."""
        self.rechecks += 1  # who is being admitted is asked again
        followed = self._listeners.streams.get(channel_stream(channel))
        sockets = [] if followed is None else [*followed.legacy, *followed.version_1]
        for socket in sockets:
            self.dismiss(socket, channel)
        return len(sockets)

    def dismiss(self, socket: ClientSocket, channel: str | None, change: protocol.Change | None = None) -> None:
        """End that a socket listens to a channel. One whose identity has ended listens to none."""
        followed = self._listeners.streams.get(channel_stream(channel))
        if followed is not None and channel in socket.channels:
            self._delivery.flush()  # what was committed before it still may have
            self._drop(socket, followed, change)

    def _drop(self, socket: ClientSocket, followed: Followed, change: protocol.Change | None = None) -> None:
        if socket.left or socket.is_suspended:
            return
        version = socket.channels.pop(followed.channel, 0)
        self._exchanges.rooms.leave(socket, followed.channel)
        self.see(socket, followed.channel, None, None)
        self._listeners.unfollow(socket, [followed.name] if socket.channels else [followed.name, BACKEND_WIDE])
        if socket.channels and not any(socket.channels.values()):
            self._listeners.follow(socket, self._listeners.stream(BACKEND_WIDE), 0)
        if version:
            # Listening again, which is what it then does, tells it why.
            self._delivery.send([socket.peer], self._runtime.namespace, protocol.resync(followed.name, change))
