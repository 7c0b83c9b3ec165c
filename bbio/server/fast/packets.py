"""Packets of Engine.IO and Socket.IO: which of them a client may send, and the attachments that belong to one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import socketio
from engineio import packet as engine_packet

RESERVED_EVENTS = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener", "*", "")
)
PONG = str(engine_packet.PONG)
EVENT = f"{engine_packet.MESSAGE}{socketio.packet.EVENT}"
EVENT_PREFIX = EVENT.encode()
JOINS = (str(socketio.packet.CONNECT), str(socketio.packet.DISCONNECT))
BINARY_PACKETS = (str(socketio.packet.BINARY_EVENT), str(socketio.packet.BINARY_ACK))
FROM_CLIENTS = (engine_packet.MESSAGE, engine_packet.PONG, engine_packet.CLOSE)


class Message(engine_packet.Packet):
    """A text packet for a client, as the bytes that are written: in a text one wide character makes each take four.

    Parameters:
        payload: the packet as UTF-8, with its type before it.
    """

    def __init__(self, payload: bytes) -> None:
        super().__init__(int(payload[:1]))
        self.data = payload

    def encode(self, b64: bool = False) -> str:
        text: str = self.data.decode()
        return text


def written(packet: engine_packet.Packet) -> bytes:
    """Return a packet as the answer to a poll has it."""
    return packet.data if type(packet) is Message else packet.encode(b64=True).encode()


class BadPacket(ValueError):
    """A client has sent what is no protocol. Nothing else may be told as its fault."""


@contextmanager
def decoding() -> Iterator[None]:
    """Turn an error within the block into that of a packet that cannot be read."""
    try:
        yield
    except (ValueError, TypeError, LookupError, RecursionError) as err:
        raise BadPacket(str(err)) from err


def is_event_name(name: Any) -> bool:
    """Return whether a client may send an event of that name: the names of the libraries' own handlers are taken."""
    return type(name) is str and name not in RESERVED_EVENTS and not name.startswith("_")


def placeholders(data: Any) -> Iterator[Any]:
    """Yield what stands in a binary packet's JSON for its attachments, in order; None for what makes no sense."""
    if type(data) is dict:
        if data.get("_placeholder"):
            num = data.get("num")
            yield num if type(num) is int else None
            return
        data = list(data.values())
    if type(data) is list:
        for item in data:
            yield from placeholders(item)


class Attachments:
    """The attachments that a packet has announced, until the last has arrived.

    Parameters:
        packet: the packet.
        most: how many bytes they may have.
        seconds: how long they may take.
        on_late: called when they took longer.
    """

    def __init__(self, packet: socketio.packet.Packet, most: int, seconds: float, on_late: Callable[[], None]) -> None:
        self._packet = packet
        self._most = most
        self._size = 0
        self._timer = asyncio.get_running_loop().call_later(seconds, on_late)

    def add(self, data: Any) -> socketio.packet.Packet | None:
        """Take one; the packet when it was the last.

        Raises:
            BadPacket: it is none, or too large.
        """
        if type(data) is bytes:
            self._size += len(data)
        if type(data) is not bytes or self._size > self._most:
            raise BadPacket("attachments do not fit")
        if not self._packet.add_attachment(data):
            return None
        self.cancel()
        return self._packet

    def cancel(self) -> None:
        """Wait for them no more."""
        self._timer.cancel()
