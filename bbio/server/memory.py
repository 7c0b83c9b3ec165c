"""Bytes that clients make the server hold: how many they are, and how many there may be."""

from __future__ import annotations

import ipaddress
from typing import Any
from weakref import WeakValueDictionary

from bbio.server.limits import Limits

# Requests of less text are not weighed: what the places of one connection hold of them is bounded by their number.
LIGHT = 4_096
# What Python holds at most for a number, a text, a list and an object of JSON, besides the characters.
VALUE_BYTES = 40
TEXT_BYTES = 52
LIST_BYTES = 90
OBJECT_BYTES = 240
# Bits of an IPv6 address that one customer of a provider cannot choose.
NETWORK_BITS = 64


def weigh(text: str | bytes) -> int:
    """Return the bytes that Python holds at most for a JSON text and what it is decoded to; 0 for a light one.

    Parameters:
        text: the JSON.

    Example:
        >>> weigh('{"id": 1}'), weigh("[" + "[]," * 2_000 + "[]]")
        (0, 272188)
    """
    if len(text) <= LIGHT:
        return 0
    if isinstance(text, bytes):
        text = text.decode()
    values, quotes, lists, objects = text.count(","), text.count('"'), text.count("["), text.count("{")
    # The text, which has a copy in UTF-8 once it was decoded unless it is ASCII, and the characters of its values.
    characters = len(text) * (2 if text.isascii() else 12)
    return characters + values * VALUE_BYTES + quotes // 2 * TEXT_BYTES + lists * LIST_BYTES + objects * OBJECT_BYTES


class ByteBudget:
    """Bytes that may be held, of which one always may: what is too large by itself is for other limits to refuse.

    Parameters:
        limit: how many bytes.
        whole: the budget that this is a share of, None when it is of none.
    """

    __slots__ = ("held", "limit", "whole")

    def __init__(self, limit: float, whole: ByteBudget | None = None) -> None:
        self.limit = limit
        self.whole = whole
        self.held = 0

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more may be held, or nothing is yet."""
        if self.held and self.held + size > self.limit:
            return False
        return self.whole is None or self.whole.has_room(size)

    def add(self, size: int) -> None:
        """Hold so many bytes more; fewer where it is negative."""
        self.held += size
        if self.whole is not None:
            self.whole.add(size)


class Address(ByteBudget):
    """What the clients of one address hold together, how many sessions they have, and who is in the lobby."""

    __slots__ = ("__weakref__", "connections", "name", "waiting")

    def __init__(self, name: str, limit: float, whole: ByteBudget) -> None:
        super().__init__(limit, whole)
        self.name = name
        self.connections = 0
        # Connections without a whole request, longest first.
        self.waiting: dict[Any, None] = {}

    @property
    def is_over(self) -> bool:
        """Whether they, or all, hold too much."""
        assert self.whole is not None
        return self.held > self.limit or self.whole.held > self.whole.limit


class Addresses:
    """The addresses that clients come from; one is forgotten when nothing is left of its last client.

    Parameters:
        limits: the application's limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: WeakValueDictionary[str, Address] = WeakValueDictionary()
        self._connections = 0
        # What all clients hold that waits: requests, and what they have not read.
        self.waiting = ByteBudget(limits.memory / 2)

    def of(self, remote: str) -> Address:
        """An address; all that one customer of a provider has, which of IPv6 is a whole network."""
        name = _network(remote) if ":" in remote else remote
        address = self._known.get(name)
        if address is None:
            address = self._known[name] = Address(name, self._limits.memory / 4, self.waiting)
        return address

    def refusal(self, address: Address) -> str | None:
        """Why another connection from an address is not taken; None when it is."""
        if self._connections >= self._limits.connections:
            return "too many connections; Limits(connections=...) says how many there may be"
        if address.connections >= self._limits.connections_per_address:
            return (
                "too many connections from this address; Limits(connections_per_address=...) says how many there may "
                "be, App(proxies=...) names a proxy that they come through"
            )
        return None

    def enter(self, address: Address) -> None:
        """There is another connection from an address."""
        address.connections += 1
        self._connections += 1

    def leave(self, address: Address) -> None:
        """A connection from an address has ended."""
        address.connections -= 1
        self._connections -= 1


def _network(remote: str) -> str:
    try:
        parsed = ipaddress.IPv6Address(remote.partition("%")[0])
    except ValueError:
        return remote
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, NETWORK_BITS), strict=False))
