"""Messages on their way to the listeners of a channel: told now or in a moment, or not at all."""

from __future__ import annotations

from typing import Any

from bbio.server.connection import Peer
from bbio.server.delivery import Delivery
from bbio.server.listeners import Listeners
from bbio.server.presence.pace import Clock, Timer, pause_after
from bbio.streams import channel_stream

# A message that waits: its event as JSON, and who sent it.
Waiting = tuple[bytes, Peer]


class Board:
    """The messages of one channel that wait: the latest of each name and sender.

    Parameters:
        waiting: the messages, by name and key of the sender.
        timer: the moment when they are told.
    """

    __slots__ = ("timer", "waiting")

    def __init__(self, timer: Timer) -> None:
        self.waiting: dict[tuple[str, str], Waiting] = {}
        self.timer = timer


class Messages:
    """The messages of one backend.

    The first one of a channel is told at once, those that come within the next moment together after it. Whoever has
    much to read yet is not told: it would learn too late, and keep what is told to all from the others.

    Parameters:
        delivery: tells clients.
        listeners: the listeners of the backend.
        namespace: the backend's namespace.
        clock: calls later.
    """

    def __init__(self, delivery: Delivery, listeners: Listeners, namespace: str, clock: Clock) -> None:
        self._delivery = delivery
        self._listeners = listeners
        self._namespace = namespace
        self._clock = clock
        self._boards: dict[str | None, Board] = {}

    @property
    def is_due(self) -> bool:
        """Return whether a message waits."""
        return any(board.waiting for board in self._boards.values())

    def tell(self, channel: str | None, name: str, key: str, event: bytes, origin: Any) -> None:
        """Tell a message to the channel's other listeners.

        Parameters:
            channel: the channel.
            name: the name of the message.
            key: the key of who sent it.
            event: the event, as JSON.
            origin: the peer that it came from, which is not told.
        """
        board = self._boards.get(channel)
        if board is not None:
            board.waiting.pop((name, key), None)  # the latest comes last
            board.waiting[name, key] = (event, origin)
        else:
            self._pause(channel, self._send(channel, event, origin))

    def _send(self, channel: str | None, event: bytes, origin: Peer) -> float:
        """Tell one; return the seconds until the next may be told."""
        followed = self._listeners.streams.get(channel_stream(channel))
        takers = {} if followed is None else followed.messages
        peers = [peer for peer in takers.values() if peer is not origin and not peer.is_behind]
        self._delivery.send(peers, self._namespace, event)
        return pause_after(len(takers), len(event))

    def _pause(self, channel: str | None, seconds: float) -> None:
        self._boards[channel] = Board(self._clock.call_later(seconds, self._go_on, channel))

    def _go_on(self, channel: str | None) -> None:
        waiting = self._boards.pop(channel).waiting
        if waiting:
            self._pause(channel, sum(self._send(channel, *each) for each in waiting.values()))

    def close(self) -> None:
        """Tell nothing more."""
        for board in self._boards.values():
            board.timer.cancel()
        self._boards.clear()
