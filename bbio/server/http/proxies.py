"""Proxies in front of the server: which are believed when they say where a request comes from."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

from aiohttp import web

from bbio.errors import ConfigurationError
from bbio.server.http.lobby import address_of

# A proxy at the other end of a Unix socket.
UNIX = "unix"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """The trusted proxies.

    Parameters:
        names: their addresses or networks, `"unix"` for whoever connects through a Unix socket.

    Raises:
        ConfigurationError: one of them is no address.
    """

    def __init__(self, names: Iterable[str]) -> None:
        names = set(names)
        self._unix = UNIX in names
        try:
            self._networks: list[Network] = [ipaddress.ip_network(name) for name in names - {UNIX}]
        except ValueError as err:
            raise ConfigurationError(
                f"App(proxies=...): {err}; name addresses or networks such as 10.0.0.0/8, "
                f'or "unix" for a proxy that connects through a Unix socket'
            ) from None

    def _have(self, address: str | None) -> bool:
        try:
            parsed = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        # A socket for IPv6 that takes IPv4 too shows ::ffff:10.0.0.1 for 10.0.0.1.
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in network for network in self._networks)

    def have_opened(self, transport: asyncio.BaseTransport | None) -> bool:
        """Return whether one of them is at the other end of a connection."""
        return self._unix if _is_unix(transport) else self._have(address_of(transport))

    def have_sent(self, request: web.BaseRequest) -> bool:
        """Return whether one of them has sent a request."""
        return self._unix if _is_unix(request.transport) else self._have(request.remote)

    def remote(self, request: web.BaseRequest) -> str:
        """The client's address: of X-Forwarded-For the last that is no trusted proxy's, if such a proxy sent it."""
        address = request.remote or ""
        if self.have_sent(request):
            for hop in reversed(",".join(request.headers.getall("X-Forwarded-For", [])).split(",")):
                if hop.strip():
                    address = hop.strip()
                if not self._have(address):
                    break
        return address

    def forwarded(self, request: web.BaseRequest, header: str, seen: str) -> str:
        """Return a header's value from a trusted proxy, else the value seen here."""
        forwarded = request.headers.get(header)
        if forwarded and self.have_sent(request):
            seen = forwarded.split(",")[0].strip()
        return seen.lower()


def _is_unix(transport: asyncio.BaseTransport | None) -> bool:
    connection = None if transport is None else transport.get_extra_info("socket")
    return connection is not None and connection.family == getattr(socket, "AF_UNIX", None)


def name_of_peer(request: web.BaseRequest) -> str:
    """Return what `App(proxies=...)` calls whoever has sent a request."""
    return UNIX if _is_unix(request.transport) else request.remote or ""
