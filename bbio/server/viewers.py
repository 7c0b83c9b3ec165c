"""Followers of a stream under views of their own, grouped by what they see."""

from __future__ import annotations

from bbio.server.connection import ClientSocket, Peer
from bbio.streams import Event
from bbio.view import View, ViewIndex
from bbio.view.filter import Kind
from bbio.was import change_of


class Group:
    """Followers of a stream under one view.

    Parameters:
        view: the view.
    """

    __slots__ = ("legacy", "told", "version_1", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self.legacy: dict[ClientSocket, Peer] = {}
        self.version_1: dict[ClientSocket, Peer] = {}
        # The events that it was told, those from before somebody came included.
        self.told = 0


class Viewers:
    """The groups of one stream, and which of them an event concerns.

    Parameters:
        stream: the name of the stream.
    """

    __slots__ = ("_groups", "_index", "_since", "_stream")

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._groups: dict[View, Group] = {}
        self._index = ViewIndex[Group]()
        # The group of each who follows, and what that had been told when it came.
        self._since: dict[ClientSocket, tuple[Group, int]] = {}

    def __contains__(self, socket: ClientSocket) -> bool:
        return socket in self._since

    def join(self, socket: ClientSocket, view: View, version: int) -> None:
        """From now on a client is told of events under a view, in that version of the protocol."""
        self.leave(socket)
        group = self._groups.get(view)
        if group is None:
            group = self._groups[view] = Group(view)
            self._index.add(group, view.filter)
        (group.version_1 if version else group.legacy)[socket] = socket.peer
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
        if not group.legacy and not group.version_1:
            del self._groups[group.view]
            self._index.remove(group)

    def told(self, socket: ClientSocket) -> int:
        """Return how many events a client was told since it joined."""
        group, before = self._since[socket]
        return group.told - before

    def concerned(self, event: Event) -> list[tuple[Group, Kind]] | None:
        """Return the groups that an event concerns, and what it is to each; None where nobody knows.

        Parameters:
            event: the event, as it is in the log.
        """
        change = change_of(event)
        return None if change is None else self._index.transitions(*change)
