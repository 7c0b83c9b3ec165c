"""Delivery: from a committed event to every client that follows its stream, in the order of the offsets.

Stores publish events in the middle of a request. They wait here until the request's step ends, so that the writer's
reply can go out at the event's own place in the order; at the latest they leave with the end of the step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bbio import protocol
from bbio.streams import Event
from bbio.typed import narrowed

if TYPE_CHECKING:
    from bbio.server.connection import ClientSocket
    from bbio.server.followers import Followed
    from bbio.server.stepping import Stepper


class Link(Protocol):
    """What writes to one client: the part that the two engines do differently."""

    # Whether an ack leaves at once, so that it keeps its place among the events of its socket.
    in_order: bool

    def ack(self, socket: ClientSocket, ack_id: Any, arguments: bytes) -> None:
        """Answer an event with arguments given as JSON."""


class Lane(Protocol):
    """How one event reaches many clients."""

    def deliver(self, links: Iterable[Any], skip: Any, namespace: str, text: bytes) -> None:
        """Send a Socket.IO event, given as JSON, over all links but one."""


class Pending(msgspec.Struct, eq=False, gc=False):
    """An event that waits for the end of a step, who is to be told, and the socket whose write it was."""

    namespace: str
    followed: Followed
    event: Event
    origin: Any


class Delivery:
    """Fans events out.

    Parameters:
        lane: the engine's way to send.
        stepper: tells whether a step is running, at whose end the events leave.
    """

    def __init__(self, lane: Lane, stepper: Stepper) -> None:
        self.lane = lane
        self._stepper = stepper
        self._pending: deque[Pending] = deque()
        stepper.after_step = self.flush

    @property
    def busy(self) -> bool:
        """Whether events wait for the end of a step."""
        return bool(self._pending)

    def add(self, pending: Pending) -> None:
        """Take an event that is to leave at the end of the step."""
        self._pending.append(pending)
        if not self._stepper.stepping:
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Send what is pending."""
        pending = self._pending
        while pending:
            self._fan_out(pending.popleft(), replied=False)

    def flush_before(self, event: Event) -> bool:
        """Send what is pending before `event`; whether `event` itself has not been sent yet."""
        pending = self._pending
        while pending:
            if pending[0].event is event:
                return True
            self._fan_out(pending.popleft(), replied=False)
        return False

    def flush_replied(self) -> None:
        """Send the first pending event, whose writer has just had it as its reply."""
        self._fan_out(self._pending.popleft(), replied=True)

    def send(self, links: Collection[Link], namespace: str, text: bytes) -> None:
        """Send a Socket.IO event, given as JSON, after what is pending."""
        self.flush()
        if links:
            self.lane.deliver(links, None, namespace, text)

    def _fan_out(self, entry: Pending, *, replied: bool) -> None:
        followed, event, origin = entry.followed, entry.event, entry.origin
        if followed.narrowed:
            self._fan_out_narrowed(entry, replied)
            return
        legacy, version_1 = followed.legacy, followed.version_1
        writer = None if origin is None else origin.link
        if legacy and not (len(legacy) == 1 and origin in legacy):
            self.lane.deliver(legacy.values(), writer, entry.namespace, protocol.synced(event))
        if version_1 and not (replied and len(version_1) == 1 and origin in version_1):
            skipped = writer if replied else None
            self.lane.deliver(version_1.values(), skipped, entry.namespace, protocol.synced_v1(event))

    def _fan_out_narrowed(self, entry: Pending, replied: bool) -> None:
        """The same, with a body for each set of fields that somebody sees."""
        followed, origin = entry.followed, entry.origin
        bodies: dict[frozenset[str], Event] = {}
        for told, synced in ((followed.legacy, protocol.synced), (followed.version_1, protocol.synced_v1)):
            groups: dict[frozenset[str], list[Link]] = {}
            for socket, link in told.items():
                if socket is not origin or (told is followed.version_1 and not replied):
                    groups.setdefault(socket.audience, []).append(link)
            for audience, links in groups.items():
                event = bodies.get(audience)
                if event is None:
                    event = bodies[audience] = narrowed(entry.event, audience)
                self.lane.deliver(links, None, entry.namespace, synced(event))
