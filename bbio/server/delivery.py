"""Delivery: from a committed event to every client that follows its stream, in the order of the offsets.

Stores publish events in the middle of a request. They wait here until the request's step ends, so that the writer's
reply can go out at the event's own place in the order; at the latest they leave with the end of the step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol, cast

from msgspec import structs

from bbio import protocol
from bbio.server.connection import ClientSocket, Peer
from bbio.server.eager import Stepper
from bbio.server.stream import Followed
from bbio.server.viewers import Group, Viewers
from bbio.streams import Event, Position, public_part
from bbio.view import View, public_event
from bbio.view.filter import Kind


class Transport(Protocol):
    """The sender of one event to many clients."""

    def deliver(self, peers: Iterable[Any], skip: Any, namespace: str, text: bytes) -> None:
        """Send a Socket.IO event, given as JSON, to all peers but one."""


# Events of a stream after which those with views are told how far it has come.
AT_EVENTS = 250
# How many of them are told that in a second at most: where they are many, events come more often than all are told.
AT_PER_SECOND = 2_000
# How many are told it in one turn of the event loop.
AT_ONCE = 250

# An event that waits for the end of a step: who is to be told, and the socket whose write it was.
Pending = tuple[Followed, Event, Any]


def own(event: Event, client: str | None) -> Event:
    """An event as its writer is told of it, by the name that it knows.

    Parameters:
        event: the event.
        client: the own id of a writer that does not know the public part of it.
    """
    public, _, counter = (event.op or "").rpartition(":")
    return structs.replace(event, op=f"{client}:{counter}") if client and public == public_part(client) else event


def _others(audience: Followed | Group) -> dict[Any, Peer]:
    """Return those of version 1 that take whole records alone."""
    peers, takers = audience.version_1, audience.deltas
    if not takers:
        return peers
    return {} if len(takers) == len(peers) else {each: peers[each] for each in peers if each not in takers}


class Delivery:
    """Fans events out.

    Parameters:
        transport: the engine's way to send.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        # Runs the requests; what they publish leaves at the end of a step.
        self.stepper = Stepper(self.flush)
        self._pending: deque[Pending] = deque()
        # The streams of whose followers some are still to be told how far it has come.
        self._placing = 0

    @property
    def busy(self) -> bool:
        """Return whether events wait for the end of a step, or clients for a place."""
        return bool(self._pending or self._placing)

    def add(self, followed: Followed, event: Event, origin: Any) -> None:
        """Take an event that is to leave at the end of the step.

        Parameters:
            followed: the stream, with who is to be told.
            event: the event.
            origin: the socket whose write it was, None when it was nobody's.
        """
        self._pending.append((followed, event, origin))
        if not self.stepper.stepping:
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Send what is pending."""
        pending = self._pending
        while pending:
            self.fan_out(*pending.popleft())

    def take(self, event: Event) -> Followed | None:
        """Send what is pending before `event`, and take that out, for `fan_out`; None when it has been sent."""
        pending = self._pending
        while pending:
            followed, first, origin = pending.popleft()
            if first is event:
                return followed
            self.fan_out(followed, first, origin)
        return None

    def send(self, peers: Collection[Peer], namespace: str, text: bytes) -> None:
        """Send a Socket.IO event, given as JSON, after what is pending."""
        self.flush()
        if peers:
            self.transport.deliver(peers, None, namespace, text)

    def fan_out(self, followed: Followed, event: Event, origin: Any, replied: bool = False) -> None:
        """Send an event, not to its writer when that has just had it as its reply."""
        if followed.has_views:
            if followed.viewers is None:
                self._fan_out_by_view(followed, event, origin, replied)
            else:
                self._fan_out_to_viewers(followed, followed.viewers, event, origin, replied)
            return
        whole, event = event, public_event(event, followed.id_attribute)
        legacy, version_1 = followed.legacy, followed.version_1
        writer = None if origin is None else origin.peer
        if legacy and not (len(legacy) == 1 and origin in legacy):
            self.transport.deliver(legacy.values(), writer, followed.namespace, protocol.synced(event))
        if version_1:
            skipped = writer if replied else self._tell_writer(followed, version_1, event, origin)
            if followed.deltas:
                delta = protocol.synced_v1(followed.view.delta(whole, event, followed.id_attribute))
                self.transport.deliver(followed.deltas.values(), skipped, followed.namespace, delta)
                version_1 = _others(followed)
            if version_1:
                self.transport.deliver(version_1.values(), skipped, followed.namespace, protocol.synced_v1(event))

    def _tell_writer(self, followed: Followed, peers: Collection[Any], event: Event, origin: Any) -> Peer | None:
        """Send an event to its writer, by the id that it has for itself, if that differs and it follows the stream.

        Returns: its peer, which is not to be sent the event of the others; None if it is to be sent that.
        """
        if event.op is None or origin not in peers or not origin.client:
            return None
        writer: Peer = origin.peer
        self.transport.deliver([writer], None, followed.namespace, protocol.synced_v1(own(event, origin.client)))
        return writer

    def _fan_out_by_view(self, followed: Followed, whole: Event, origin: Any, replied: bool) -> None:
        """The same, once for each view that somebody has."""
        seen: dict[View, Event] = {}
        for audience, synced in (
            (followed.legacy, protocol.synced),
            (_others(followed), protocol.synced_v1),
            (followed.deltas, protocol.synced_v1),
        ):
            takes_deltas = audience is followed.deltas
            groups: dict[View, list[Peer]] = {}
            for socket, peer in audience.items():
                view = socket.views[followed.name]
                if socket is not origin:
                    groups.setdefault(view, []).append(peer)
                elif audience is not followed.legacy and not replied:
                    event = own(view.event(whole), socket.client)
                    self.transport.deliver([peer], None, followed.namespace, synced(event))
            for view, peers in groups.items():
                event = seen.get(view) or view.event(whole)
                seen[view] = event
                if takes_deltas:
                    event = view.delta(whole, event, followed.id_attribute)
                self.transport.deliver(peers, None, followed.namespace, synced(event))

    def _fan_out_to_viewers(
        self, followed: Followed, viewers: Viewers, whole: Event, origin: Any, replied: bool
    ) -> None:
        """The same, to those alone whose views the event concerns, and told as what it is to them.

        A writer that is told a part of the stream is told as well: nothing else says where in it its write is.
        """
        concerned = viewers.concerned(whole)
        if concerned is None:
            # Nobody knows who may be told of it, but for those who are told all.
            in_part = [peer for socket, peer in followed.version_1.items() if viewers.told(socket) is not None]
            self.send(in_part, followed.namespace, protocol.resync(followed.name))
            concerned = [(group, cast(Kind, whole.method)) for group in viewers.whole]
        writer = None if origin is None else origin.peer
        events: dict[tuple[Kind, frozenset[str]], Event] = {}
        frames: dict[tuple[Kind, frozenset[str]], bytes] = {}
        deltas: dict[frozenset[str], bytes] = {}
        for group, kind in concerned:
            seen = kind, group.view.fields
            event = events.get(seen)
            if event is None:
                event = events[seen] = group.view.told(whole, kind, followed.id_attribute)
            group.told += 1
            if group.legacy and not (len(group.legacy) == 1 and origin in group.legacy):
                self.transport.deliver(group.legacy.values(), writer, followed.namespace, protocol.synced(event))
            if group.version_1:
                has_had_it = replied and not group.is_part
                skipped = writer if has_had_it else self._tell_writer(followed, group.version_1, event, origin)
                others = group.version_1
                if group.deltas and kind == "update":
                    fields = group.view.fields
                    delta = deltas.get(fields)
                    if delta is None:
                        changes = group.view.delta(whole, event, followed.id_attribute)
                        delta = deltas[fields] = protocol.synced_v1(changes)
                    self.transport.deliver(group.deltas.values(), skipped, followed.namespace, delta)
                    others = _others(group)
                if others:
                    frame = frames.get(seen)
                    if frame is None:
                        frame = frames[seen] = protocol.synced_v1(event)
                    self.transport.deliver(others.values(), skipped, followed.namespace, frame)
        if whole.offset % AT_EVENTS == 0 and viewers.is_due(followed.rings.clock(), AT_PER_SECOND):
            self.tell_place(followed, viewers, Position(whole.epoch, whole.offset, whole.stamp))

    def tell_place(self, followed: Followed, viewers: Viewers, position: Position) -> None:
        """Tell those who follow under views how far the stream has come, whatever of it they were told.

        Parameters:
            followed: the stream.
            viewers: those who follow it.
            position: where it is, and up to where all of it was sent.
        """
        self._tell_some(followed, viewers, iter(viewers.in_part), position)

    def _tell_some(
        self, followed: Followed, viewers: Viewers, sockets: Iterator[ClientSocket], position: Position
    ) -> None:
        """Tell the next of them now, and the others in later turns of the event loop, as it then is."""
        peers: dict[tuple[frozenset[str], int], list[Peer]] = {}
        some = list(islice(sockets, AT_ONCE))
        for socket in some:
            told = viewers.told(socket)
            if told is not None:
                peers.setdefault((socket.told_under[followed.name].fields, told), []).append(socket.peer)
        for (fields, told), group in peers.items():
            place = View(None, fields).position(position)
            self.transport.deliver(group, None, followed.namespace, protocol.at(place, followed.name, told))
        if len(some) == AT_ONCE:
            self._placing += 1
            asyncio.get_running_loop().call_soon(self._go_on, followed, viewers, sockets)

    def _go_on(self, followed: Followed, viewers: Viewers, sockets: Iterator[ClientSocket]) -> None:
        self._placing -= 1
        self.flush()
        self._tell_some(followed, viewers, sockets, followed.position)
