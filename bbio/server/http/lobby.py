"""The lobby: HTTP connections that have no whole request, at first, between two, or while its body arrives.

Nobody knows yet whether they are a client's, and each takes some 10 KB. So there may be as many as there may be
clients, in all and from one address; then whoever waits longest is shown out. A head of a request has a limit in bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from bbio.ratelimit import RateLimitedLog
from bbio.server.limits import Limits
from bbio.server.memory import Address, Addresses

# However few clients there may be, so many connections may wait: each of their pages keeps some.
LEAST_WAITING = 100
# Bytes of a request's line and headers together; nginx takes as many, Node half.
HEAD_BYTES = 32_768
HEAD_END = b"\r\n\r\n"
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

logger = logging.getLogger("bbio")


def address_of(transport: asyncio.BaseTransport | None) -> str:
    """The address at the other end of a connection; empty where it has none, such as of a Unix socket."""
    name = None if transport is None else transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


class Caller(asyncio.Protocol):
    """Stands between a transport and aiohttp, and measures the heads of requests.

    Parameters:
        transport: the connection.
        handler: aiohttp's protocol.
        address: where it comes from.
        is_proxy: whether that is a proxy which is believed: it calls for others.
    """

    def __init__(
        self, transport: asyncio.Transport, handler: web.RequestHandler, address: Address, is_proxy: bool
    ) -> None:
        self.transport = transport
        self.handler = handler
        self.address = address
        self.is_proxy = is_proxy
        # Bytes of the head so far, None once it is whole, and the last of them.
        self._size: int | None = 0
        self._last = b""
        for name in ("connection_lost", "eof_received", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(handler, name))
        self._pass_on = handler.data_received

    def expect(self) -> None:
        """The next request may come."""
        self._size, self._last = 0, b""

    def data_received(self, data: bytes) -> None:
        """Pass on what has arrived, unless the head is too large."""
        if self._size is not None:
            joined = self._last + data
            end = joined.find(HEAD_END)
            if self._size + (len(data) if end < 0 else end) > HEAD_BYTES:
                self.transport.write(TOO_LARGE)
                self.transport.close()
                return
            self._size = self._size + len(data) if end < 0 else None
            self._last = joined[1 - len(HEAD_END) :]
        self._pass_on(data)


class Lobby:
    """The connections of one HTTP server that have no whole request: so many in all, and of one address.

    Parameters:
        limits: the application's limits.
        addresses: those of its clients.
        is_proxy: whether a proxy which is believed is at the other end of a connection: it may have as many as all.
    """

    def __init__(self, limits: Limits, addresses: Addresses, is_proxy: Callable[[asyncio.BaseTransport], bool]) -> None:
        self._most = max(limits.connections, LEAST_WAITING)
        self._most_of_one = max(limits.connections_per_address, LEAST_WAITING)
        self._addresses = addresses
        self._is_proxy = is_proxy
        self._log = RateLimitedLog(logger)
        self._callers: dict[Any, Caller] = {}
        # Those that wait, longest first.
        self._waiting: dict[Caller, None] = {}

    def came(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take in a new connection."""
        address = self._addresses.of(address_of(transport))
        caller = self._callers[handler] = Caller(transport, handler, address, self._is_proxy(transport))
        transport.set_protocol(caller)
        self._enter(caller)

    def left(self, handler: web.RequestHandler) -> None:
        """A connection has ended."""
        self._leave(self._callers.pop(handler))

    def around(self, handle: Handle) -> Handle:
        """The same handler of requests; connections are not in the lobby while it handles a whole one of theirs."""

        async def handled(request: web.BaseRequest) -> web.StreamResponse:
            self._begin(request)
            try:
                return await handle(request)
            finally:
                self._end(request)

        return handled

    def _begin(self, request: web.BaseRequest) -> None:
        caller = self._callers.get(request.protocol)
        if caller is None:
            return  # it is gone
        self._leave(caller)
        if request.body_exists:
            self._enter(caller)
        if "Upgrade" in request.headers and caller.transport.get_protocol() is caller:
            caller.transport.set_protocol(request.protocol)  # the messages of a websocket take no detour

    def _end(self, request: web.BaseRequest) -> None:
        caller = self._callers.get(request.protocol)
        if caller is not None:
            caller.expect()
            if caller.transport.get_protocol() is request.protocol:
                caller.transport.set_protocol(caller)  # it is no websocket, or none any more
            self._leave(caller)
            self._enter(caller)

    def _enter(self, caller: Caller) -> None:
        address = caller.address
        self._waiting[caller] = None
        address.waiting[caller] = None
        if not caller.is_proxy and len(address.waiting) > self._most_of_one:
            self._show_out(next(iter(address.waiting)), "of this address; Limits(connections_per_address=...)")
        elif len(self._waiting) > self._most:
            self._show_out(next(iter(self._waiting)), "in all; Limits(connections=...)")

    def _leave(self, caller: Caller) -> None:
        self._waiting.pop(caller, None)
        caller.address.waiting.pop(caller, None)

    def _show_out(self, caller: Caller, why: str) -> None:
        self._leave(caller)
        text = "closed a connection from %s that had sent no whole request: too many such %s says how many there may be"
        self._log.warning(text, caller.address.name, why)
        caller.transport.abort()
