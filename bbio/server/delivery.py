"""Delivery: from a committed event to every client that follows its stream, in the order of the offsets.

Stores publish events in the middle of a request. They wait here until the request's step ends, so that the writer's
reply can go out at the event's own place in the order; at the latest they leave with the end of the step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from bbio import protocol
from bbio.streams import Event

if TYPE_CHECKING:
    from bbio.backend import Backend
    from bbio.requests import Socket
    from bbio.server.connection import ClientSocket
    from bbio.server.stepping import Stepper

Text = Callable[[Event], bytes]


class Lane(Protocol):
    """How frames reach clients: the part that the two engines do differently."""

    def deliver(self, namespace: str, room: str, event: Event, text: Text, skip: str | None) -> None:
        """Send `text(event)`, a Socket.IO event as JSON, to every socket of a room but one."""

    async def enter(self, socket: ClientSocket, room: str) -> None:
        """Put a socket into a room; does not wait."""

    async def leave(self, socket: ClientSocket, room: str) -> None:
        """Take a socket out of a room; does not wait."""


def legacy_room(stream: str) -> str:
    """The room of a stream's listeners that know two-argument events only."""
    return "legacy/" + stream


def version_1_room(stream: str) -> str:
    """The room of a stream's listeners that are told positions too."""
    return "v1/" + stream


class Pending:
    """An event that waits for the end of a step, and the socket whose write it was."""

    __slots__ = ("backend", "event", "origin")

    def __init__(self, backend: Backend, event: Event, origin: Socket | None) -> None:
        self.backend = backend
        self.event = event
        self.origin = origin


class Delivery:
    """Fans events out.

    Parameters:
        lane: the engine's way to send.
        stepper: tells whether a step is running, at whose end the events leave.
    """

    def __init__(self, lane: Lane, stepper: Stepper) -> None:
        self._lane = lane
        self._stepper = stepper
        self._pending: deque[Pending] = deque()

    def publish(self, backend: Backend, event: Event, origin: Socket | None) -> None:
        """Take an event from a store. Called on the event loop, in the order of offsets."""
        self._pending.append(Pending(backend, event, origin))
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

    def _fan_out(self, entry: Pending, *, replied: bool) -> None:
        event, namespace = entry.event, entry.backend.namespace
        writer = None if entry.origin is None else entry.origin.sid
        self._lane.deliver(namespace, legacy_room(event.stream), event, protocol.synced, writer)
        self._lane.deliver(
            namespace, version_1_room(event.stream), event, protocol.synced_v1, writer if replied else None
        )
