"""Followers of a stream under views of their own, grouped by what they see."""

from __future__ import annotations

import math

from bbio.server.connection import ClientSocket, Peer
from bbio.streams import Event
from bbio.view import View, ViewIndex
from bbio.view.filter import Kind
from bbio.was import change_of


class Group:
    """Followers of a stream under one view.

    Parameters:
        view: the view.
        is_part: whether they are told a part of the stream, with gaps.
    """

    __slots__ = ("deltas", "is_part", "legacy", "told", "version_1", "view")

    def __init__(self, view: View, is_part: bool) -> None:
        self.view = view
        self.is_part = is_part
        self.legacy: dict[ClientSocket, Peer] = {}
        self.version_1: dict[ClientSocket, Peer] = {}
        # Those of version 1 that are told what changed.
        self.deltas: dict[ClientSocket, Peer] = {}
        # The events that it was told, those from before somebody came included.
        self.told = 0


class Viewers:
    """The groups of one stream, and which of them an event concerns.

    Parameters:
        stream: the name of the stream.
        is_scoped: whether what a client may have is a part for each, even where that is everything at the moment.
    """

    __slots__ = ("_due", "_groups", "_index", "_is_scoped", "_since", "_stream")

    def __init__(self, stream: str, is_scoped: bool = True) -> None:
        self._stream = stream
        self._is_scoped = is_scoped
        self._groups: dict[View, Group] = {}
        self._index = ViewIndex[Group]()
        # The group of each who follows, and what that had been told when it came.
        self._since: dict[ClientSocket, tuple[Group, int]] = {}
        # The time from which on they may be told again how far the stream has come.
        self._due = -math.inf

    def _is_part(self, view: View) -> bool:
        return self._is_scoped or not view.is_whole

    def digest(self, view: View) -> str | None:
        """Return the digest of a view of a part of the stream; None where all of it is told."""
        return view.digest if self._is_part(view) else None

    def join(self, socket: ClientSocket, view: View, version: int, deltas: bool = False) -> None:
        """From now on a client is told of events under a view, in that version of the protocol."""
        self.leave(socket)
        group = self._groups.get(view)
        if group is None:
            group = self._groups[view] = Group(view, self._is_part(view))
            self._index.add(group, view.filter)
        (group.version_1 if version else group.legacy)[socket] = socket.peer
        if deltas:
            group.deltas[socket] = socket.peer
        self._since[socket] = group, group.told
        socket.told_under[self._stream] = view

    def leave(self, socket: ClientSocket) -> None:
        """A client is told of nothing any more."""
        group, _ = self._since.pop(socket, (None, 0))
        if group is None:
            return
        del socket.told_under[self._stream]
        group.legacy.pop(socket, None)
        group.version_1.pop(socket, None)
        group.deltas.pop(socket, None)
        if not group.legacy and not group.version_1:
            del self._groups[group.view]
            self._index.remove(group)

    def told(self, socket: ClientSocket) -> int | None:
        """Return how many events a client was told since it joined; None of one that is not told a part of them."""
        group, before = self._since.get(socket, (None, 0))
        return None if group is None or not group.is_part else group.told - before

    def is_due(self, now: float, most: float) -> bool:
        """Return whether all may be told how far the stream has come, and count that they are.

        Parameters:
            now: seconds of a monotonic clock.
            most: how many of them may be told in a second.
        """
        if now < self._due:
            return False
        self._due = now + len(self._since) / most
        return True

    @property
    def in_part(self) -> tuple[ClientSocket, ...]:
        """Clients that are told a part of the stream in version 1 of the protocol, as they are now."""
        return tuple(socket for group in self._groups.values() if group.is_part for socket in group.version_1)

    @property
    def whole(self) -> list[Group]:
        """The groups that are told all of the stream."""
        return [group for group in self._groups.values() if not group.is_part]

    def concerned(self, event: Event) -> list[tuple[Group, Kind]] | None:
        """Return the groups that an event concerns, and what it is to each; None where nobody knows.

        Parameters:
            event: the event, as it is in the log.
        """
        change = change_of(event)
        return None if change is None else self._index.transitions(*change)
