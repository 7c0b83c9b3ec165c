"""Handshake: what the HTTP headers of a client say, read the same way wherever they are read."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

# Bits of an IPv6 address that one customer of a provider cannot choose.
NETWORK_BITS = 64
# Headers in which proxies tell what they were asked for.
FORWARDED = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")


def read_cookies(headers: Any) -> dict[str, str]:
    """Return the cookies of a request by name; the first of a name counts, which is that of the longest path.

    Parameters:
        headers: the headers of a request, as aiohttp, Starlette, Flask or Django have them.
    """
    cookies: dict[str, str] = {}
    if hasattr(headers, "getall"):
        lines = headers.getall("Cookie", [])
    else:
        lines = headers.getlist("Cookie") if hasattr(headers, "getlist") else [headers.get("Cookie", "")]
    # Not http.cookies, with which one odd cookie of another program takes all the others with it.
    for pair in ";".join(lines).split(";"):
        name, equals, value = pair.partition("=")
        if equals:
            cookies.setdefault(name.strip(), value.strip().removeprefix('"').removesuffix('"'))
    return cookies


def is_loopback(address: str) -> bool:
    """Return whether an IP address is one of this machine's own, `127.0.0.0/8` or `::1`."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    # A socket for IPv6 that takes IPv4 too shows ::ffff:127.0.0.1.
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


# The same few names come with every request.
@lru_cache(maxsize=256)
def names_loopback(host: str) -> bool:
    """Return whether a `Host` header names the machine itself, which nobody's DNS can make another name do."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


def is_on_loopback(headers: Mapping[str, str]) -> bool:
    """Return whether a request was sent to the machine itself, not by a proxy; true if it names no host."""
    return names_loopback(headers.get("Host", "localhost")) and not any(header in headers for header in FORWARDED)


def network_of(address: str) -> str:
    """Return the network that an address counts as: of an IPv4 address itself, of an IPv6 address its provider's.

    Example:
        >>> network_of("192.0.2.7"), network_of("::ffff:192.0.2.7"), network_of("2001:db8::7")
        ('192.0.2.7', '192.0.2.7', '2001:db8::/64')
    """
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, NETWORK_BITS), strict=False))
