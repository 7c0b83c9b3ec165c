"""Bytes that clients make the server hold: how many they are, and how many there may be."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast
from weakref import WeakValueDictionary

from bbio.errors import BadRequest
from bbio.handshake import network_of
from bbio.requests import SHORT_LIST, ListSize, Request
from bbio.runtime import Runtime
from bbio.server.limits import Limits

# The answer on its way at most: as JSON, as what is written, and copies of it; and while the list itself is there.
ANSWER_COPIES = 5
ENCODED_COPIES = 2


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
        self.held: float = 0

    def has_room(self, size: float) -> bool:
        """Return whether so many bytes more may be held, or nothing is held yet."""
        if self.held and self.held + size > self.limit:
            return False
        return self.whole is None or self.whole.has_room(size)

    def add(self, size: float) -> None:
        """Hold so many bytes more; fewer where it is negative."""
        self.held += size
        if self.whole is not None:
            self.whole.add(size)


# The bytes of a list that waits, and what is to be told that it may be made.
Place = tuple[float, asyncio.Future[None]]


class Lists:
    """The bytes of lists that are being made, of which one always may; the others wait for it.

    Next is one of each address in turn, and there of each connection, which waits for one at a time.

    Parameters:
        limit: how many bytes.
    """

    def __init__(self, limit: float) -> None:
        self.whole = ByteBudget(limit)
        self._waiting: dict[ByteBudget, dict[object, Place]] = {}

    async def enter(self, share: ByteBudget, who: object, size: float) -> None:
        """Hold so many bytes more, once there is room.

        Parameters:
            share: the share of an address.
            who: the connection.
            size: how many bytes.
        """
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(share, {})[who] = (size, ready)
        self._begin()
        try:
            await ready
        except asyncio.CancelledError:
            if ready.cancelled():
                self._begin()  # those behind it
            else:
                self.leave(share, size)
            raise

    def leave(self, share: ByteBudget, size: float) -> None:
        """Hold so many bytes fewer."""
        share.add(-size)
        self._begin()

    def _begin(self) -> None:
        """Have those begin for which there is room."""
        waiting = self._waiting
        # Each address is looked at once more after the last list that could begin.
        left = len(waiting)
        while left:
            left -= 1
            share, places = next(iter(waiting.items()))
            del waiting[share]
            who = next((who for who, (_, ready) in places.items() if not ready.done()), None)
            if who is None:
                continue
            waiting[share] = places
            size, ready = places[who]
            if share.has_room(size):
                # A connection that asks again comes behind the others.
                del places[who]
                share.add(size)
                ready.set_result(None)
                left = len(waiting)
            elif not self.whole.has_room(size):
                # Nobody overtakes it, or it would wait for ever.
                self._waiting = {share: places, **waiting}
                return


class Asking(Protocol):
    """The socket of a request, as its list is looked at."""

    runtime: Runtime


class ListRoom:
    """The room that there is for lists which are made for one connection.

    Parameters:
        limits: the application's limits.
        address: the address of the connection.
    """

    __slots__ = ("_address", "_asking", "_limits")

    def __init__(self, limits: Limits, address: Address) -> None:
        self._limits = limits
        self._address = address
        # Held by who waits: so no list of a request waits for another of the same.
        self._asking = asyncio.Lock()

    def most(self, req: Request) -> ListSize:
        """Return the largest size of a list: more than an answer when a layer may leave models out."""
        reply, memory, socket = self._limits.reply, self._limits.memory, cast(Asking, req.socket)
        may_shorten = socket.runtime.stacks[req.method].may_shorten
        return ListSize(max(reply, memory / 4) if may_shorten else reply, memory)

    def passes_on(self, req: Request) -> bool:
        """Return whether the client gets the models as they are read: no layer looks at them."""
        return cast(Asking, req.socket).runtime.stacks[req.method].passes_on

    async def hold(self, req: Request, size: ListSize) -> None:
        """Hold a list for a request, and no other for it; wait while others hold too many.

        Raises:
            BadRequest: the answer would be too long, or hold too many values.
        """
        self.check(req, size)
        held = 0.0
        if size.json > SHORT_LIST:
            held = max(size.decoded + size.json * ENCODED_COPIES, size.json * ANSWER_COPIES)
        if held > req.held:
            self.leave(req)
            async with self._asking:
                self.leave(req)  # another list of it may have begun meanwhile
                await self._address.all_lists.enter(self._address.lists, self, held)
                req.held = held
        elif held < req.held:
            self.leave(req, req.held - held)

    def check(self, req: Request, size: ListSize) -> None:
        """Refuse a list that is too large for the answer to a request.

        Raises:
            BadRequest: the answer would be too long, or hold too many values.
        """
        most = self.most(req)
        if size.json > most.json:
            raise BadRequest(f"the answer has more than {most.json:.0f} bytes; ask for less, such as with a limit")
        if size.decoded > most.decoded:
            raise BadRequest(
                f"the answer has so many values that they take more than {most.decoded:.0f} bytes of memory; ask for "
                f"less, such as with a limit"
            )

    def leave(self, req: Request, size: float | None = None) -> None:
        """Hold fewer bytes for a request, none by default."""
        size = req.held if size is None else size
        if size:
            req.held -= size
            self._address.all_lists.leave(self._address.lists, size)


class Address(ByteBudget):
    """The memory that the clients of one address hold together, their sessions, and their connections in the lobby."""

    __slots__ = ("__weakref__", "all_lists", "connections", "lists", "name", "waiting")

    def __init__(self, name: str, limit: float, whole: ByteBudget, lists: Lists) -> None:
        super().__init__(limit, whole)
        self.name = name
        # The lists that are being made for its clients, as a share of those for all.
        self.all_lists = lists
        self.lists = ByteBudget(lists.whole.limit / 2, lists.whole)
        self.connections = 0
        # Connections without a whole request, longest first.
        self.waiting: dict[Any, None] = {}

    @property
    def is_over(self) -> bool:
        """Return whether these clients, or all together, hold too much."""
        assert self.whole is not None
        return self.held > self.limit or self.whole.held > self.whole.limit


class Addresses:
    """The addresses that clients come from; one is forgotten when nothing is left of its last client.

    Parameters:
        limits: the application's limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._addresses: WeakValueDictionary[str, Address] = WeakValueDictionary()
        self._connections = 0
        # What all clients hold that waits: requests, and what they have not read.
        self.waiting = ByteBudget(limits.memory / 2)
        self.lists = Lists(limits.memory / 8)

    def of(self, remote: str) -> Address:
        """An address; all that one customer of a provider has, which of IPv6 is a whole network."""
        name = network_of(remote) if ":" in remote else remote
        address = self._addresses.get(name)
        if address is None:
            address = self._addresses[name] = Address(name, self._limits.memory / 4, self.waiting, self.lists)
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
        """Count another connection from an address."""
        address.connections += 1
        self._connections += 1

    def leave(self, address: Address) -> None:
        """A connection from an address has ended."""
        address.connections -= 1
        self._connections -= 1
