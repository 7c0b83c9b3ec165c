"""The Engine.IO and the Socket.IO server, as their sessions see them."""

from __future__ import annotations

from typing import Any, Protocol

from bbio.server.batch import WriteBatch
from bbio.server.budget import Resting
from bbio.server.limits import Limits
from bbio.server.memory import Address, Addresses


class Receiver(Protocol):
    """The Socket.IO server, as the sessions below it see it."""

    def receive_event(self, session: Any, text: str) -> bool:
        """Handle an event frame of a backend's namespace; False leaves it to the library."""

    def has_joined(self, eio_sid: str) -> bool:
        """Return whether a session has joined any namespace."""

    def bad_packet(self, session: Any, err: Exception) -> None:
        """End a session that has sent what is no protocol."""

    def report(self, err: BaseException, work: str, eio_sid: str) -> Any:
        """Log a fault of the server's."""


class Engine(Protocol):
    """The Engine.IO server, as its sessions see it."""

    limits: Limits
    addresses: Addresses
    batch: WriteBatch
    resting: Resting
    receiver: Receiver
    sockets: dict[str, Any]
    ping_interval: float
    ping_timeout: float
    reason: Any

    def bad_request(self, why: str) -> Any:
        """Return the response to a request that breaks the protocol."""

    def relieve(self, address: Address) -> None:
        """Drop who has the most unread, where an address holds too much, or all do."""

    def dropped(self, session: Any, reason: str) -> None:
        """Tell the layers above that a session was ended by the server."""
