"""The identities of all sockets: found by user and by session, and ended in time by one timer."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Callable

from bbio.identity import Identity
from bbio.server.connection import ClientSocket

logger = logging.getLogger("bbio")

# Seconds between two looks at the clock of the machine, which may be set.
CLOCK_LOOK_SECONDS = 30.0
# Entries of the heap that are no more needed, before it is made anew.
STALE_ENTRIES = 64

Index = dict[str, dict[ClientSocket, None]]


class Identities:
    """The identities of the sockets of one application.

    Parameters:
        on_warn: called with a socket and the seconds until its identity ends, some time before that.
        on_end: called with a socket whose identity has ended.
        on_close: called with a socket whose client has not said again in time who it is.
        clock: seconds since 1970.
        renewal_time: seconds for which a client may say again who it is, once its identity has ended.

    Attributes:
        revocations: how often identities were revoked: what was found out before counts no more.
    """

    def __init__(
        self,
        on_warn: Callable[[ClientSocket, float], None],
        on_end: Callable[[ClientSocket], None],
        on_close: Callable[[ClientSocket], None],
        clock: Callable[[], float] = time.time,
        renewal_time: float = 300.0,
    ) -> None:
        self._renewal_time = renewal_time
        self.clock = clock
        self.revocations = 0
        self._on_warn = on_warn
        self._on_end = on_end
        self._on_close = on_close
        self._by_subject: Index = {}
        self._by_session: Index = {}
        # When to look at a socket next: entries whose number is not that of the socket are not needed any more.
        self._heap: list[tuple[float, int, ClientSocket]] = []
        self._due: dict[ClientSocket, int] = {}
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def of_user(self, subject: str) -> list[ClientSocket]:
        """Return the sockets of a user, known by the text of its id."""
        return list(self._by_subject.get(subject, ()))

    def of_session(self, session: str) -> list[ClientSocket]:
        """Return the sockets of a session on the server, known by its id."""
        return list(self._by_session.get(session, ()))

    def change(self, socket: ClientSocket, before: Identity | None, identity: Identity | None) -> None:
        """Note that a socket has another identity, or none any more."""
        if before is not None:
            self._take_out(self._by_subject, before.subject, socket)
            self._take_out(self._by_session, before.session, socket)
        if identity is None or socket.left:
            self._due.pop(socket, None)
            return
        for index, key in ((self._by_subject, identity.subject), (self._by_session, identity.session)):
            if key is not None:
                index.setdefault(key, {})[socket] = None
        if socket.is_suspended:
            return  # it waits for its client already
        if identity.expires is None:
            self._due.pop(socket, None)
        else:
            self._look_at(socket, identity.expires - max(identity.warn, 0.0))

    @staticmethod
    def _take_out(index: Index, key: str | None, socket: ClientSocket) -> None:
        sockets = None if key is None else index.get(key)
        if key is not None and sockets is not None:
            sockets.pop(socket, None)
            if not sockets:
                del index[key]

    def close_later(self, socket: ClientSocket) -> None:
        """Close the connection of a socket unless its client says again in time who it is."""
        self._look_at(socket, self.clock() + self._renewal_time)

    def _look_at(self, socket: ClientSocket, when: float) -> None:
        number = self._due[socket] = next(self._numbers)
        heap = self._heap
        if len(heap) > 2 * len(self._due) + STALE_ENTRIES:
            heap[:] = [entry for entry in heap if self._due.get(entry[2]) == entry[1]]
            heapq.heapify(heap)
        heapq.heappush(heap, (when, number, socket))
        if heap[0][1] == number:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            seconds = min(max(self._heap[0][0] - self.clock(), 0.0), CLOCK_LOOK_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(seconds, self.look)

    def look(self) -> None:
        """Do what is due by now."""
        heap, now = self._heap, self.clock()
        while heap and heap[0][0] <= now:
            _, number, socket = heapq.heappop(heap)
            if self._due.get(socket) == number:
                del self._due[socket]
                try:
                    self._act(socket, now)
                except Exception:
                    logger.exception("the end of an identity in %s failed", socket.runtime.name)
        self._set_timer()

    def _act(self, socket: ClientSocket, now: float) -> None:
        identity = socket.identity
        if socket.is_suspended:
            self._on_close(socket)
            return
        assert identity is not None, "nothing is due without one"
        assert identity.expires is not None, "nor without an end"
        left = identity.expires - now
        if left <= 0:
            self._on_end(socket)
        else:
            self._look_at(socket, identity.expires)
            self._on_warn(socket, left)

    def close(self) -> None:
        """Look no more: the application stops."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._heap.clear()
        self._due.clear()
        self._by_subject.clear()
        self._by_session.clear()
