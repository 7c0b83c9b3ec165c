"""Hosts that webhooks may be posted to, and addresses that they may have.

A name says nothing of where it leads, and may lead elsewhere a moment later. So hosts are compared by name when a
webhook is posted, and the address of each new connection is looked at just before the connection is made.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network
from typing import Any

import attrs
from yarl import URL

from bbio import ConfigurationError

# Characters of an address.
MAX_URL = 2_048
PORTS = {"https": 443, "http": 80}
ANY = "*"
ENTRY = re.compile(r"(\*\.)?([^*/@?#:\[\]\s\\]+|\[[0-9A-Fa-f:.]+\]|(?<!\.)\*)(?::([0-9]{1,5}))?")

# All of IPv6 that is public is in here; IPv4 within IPv6 (mapped, compatible, NAT64) is not.
PUBLIC_IPV6 = ip_network("2000::/3")
# Networks that some versions of Python take for public, and that lead inside, nowhere, or through a tunnel.
NOT_PUBLIC = [
    ip_network(each)
    for each in (
        "192.0.0.0/24",  # protocols; the metadata of Oracle's cloud
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # the metadata of Azure
        "2001::/23",  # protocols; Teredo has an IPv4 address inside
        "2001:db8::/32",
        "2002::/16",  # 6to4 has an IPv4 address inside
        "3fff::/20",
    )
]
# Networks of one's own: loopback, and those that are never routed in public.
OWN = [
    ip_network(each)
    for each in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "::1/128",
        "fc00::/7",
    )
]
# Addresses within those at which clouds give out the keys of a machine.
METADATA = [ip_address(each) for each in ("100.100.100.200", "fd00:ec2::254", "fd20:ce::254")]


class AddressRefused(OSError):
    """Raised instead of connecting to an address that is not allowed."""


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet.

    Example:
        >>> is_public("1.1.1.1"), is_public("10.0.0.1"), is_public("::ffff:1.1.1.1")
        (True, False, False)
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if parsed.version == 6 and parsed not in PUBLIC_IPV6:
        return False
    return parsed.is_global and not parsed.is_multicast and not any(parsed in each for each in NOT_PUBLIC)


def is_own(address: str) -> bool:
    """Return whether an IP address is one of a network of one's own, and not the metadata of a cloud.

    Example:
        >>> is_own("10.0.0.1"), is_own("127.0.0.1"), is_own("169.254.169.254"), is_own("1.1.1.1")
        (True, True, False, False)
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in each for each in OWN) and parsed not in METADATA


def open_only(is_allowed: Callable[[str], bool]) -> Callable[[Any], socket.socket]:
    """Return a function that opens a socket for an entry of `socket.getaddrinfo`, to connect it to that address.

    The function raises AddressRefused for an address that is not allowed. What it was asked about is what is connected
    to: nobody looks up the name again in between.

    Parameters:
        is_allowed: says it of an IP address.
    """

    def open_socket(entry: Any) -> socket.socket:
        family, kind, protocol, _, address = entry
        if not is_allowed(address[0]):
            raise AddressRefused("its address is not allowed")
        return socket.socket(family, kind, protocol)

    return open_socket


@attrs.frozen
class Host:
    """An entry of an allow-list.

    Parameters:
        name: the name; with a dot in front for all names that end with it, "*" for all.
        port: the port; None for the one of the scheme.
    """

    name: str
    port: int | None

    @classmethod
    def read(cls, entry: str) -> Host:
        """Read an entry: a name, `*.` and a name, or `*`; a colon and a port may follow.

        Raises:
            ConfigurationError: it is something else.
        """
        match = ENTRY.fullmatch(entry) if isinstance(entry, str) and entry.isprintable() else None
        try:
            if match is None:
                raise ValueError
            wildcard, name, port = match.groups()
            if name.startswith("["):
                ip_address(name[1:-1])
            url = URL(f"https://{name.replace(ANY, 'any')}:{port or 443}")
            host = ANY if name == ANY else f"{'.' if wildcard else ''}{url.raw_host}"
            return cls(host, None if port is None else url.port)
        except ValueError:
            raise ConfigurationError(
                f"Webhook(hosts=[{entry!r}]): write 'crm.example.com', '*.example.com' or '*', with a port if it is "
                "not that of https: 'crm.example.com:8443'"
            ) from None

    def matches(self, url: URL) -> bool:
        """Return whether an address is on this host."""
        if url.port != (PORTS[url.scheme] if self.port is None else self.port):
            return False
        host = url.raw_host or ""
        return self.name in (ANY, host) or (self.name.startswith(".") and host.endswith(self.name))


class Hosts:
    """The hosts that webhooks may be posted to.

    Parameters:
        public: entries for hosts of the public internet, asked over https.
        internal: entries for hosts in networks of one's own, asked over https or http.

    Raises:
        ConfigurationError: an entry is not valid.
    """

    def __init__(self, public: Iterable[str], internal: Iterable[str]) -> None:
        for name, entries in (("hosts", public), ("internal_hosts", internal)):
            if isinstance(entries, str):
                raise ConfigurationError(f"Webhook({name}={entries!r}): give a list, [{entries!r}]")
        self._public = [Host.read(each) for each in public]
        self._internal = [Host.read(each) for each in internal]
        if any(each.name == ANY for each in self._internal):
            raise ConfigurationError("Webhook(internal_hosts=['*']): name the hosts; this would be the whole network")

    def is_internal(self, url: URL) -> bool:
        """Return whether an address is on a host that was named as one in a network of one's own."""
        return any(each.matches(url) for each in self._internal)

    def problem_of(self, url: URL) -> str | None:
        """Return why nothing may be posted to an address; None for one that is allowed."""
        if self.is_internal(url):
            return None
        if url.scheme != "https":
            return "only https is allowed; name a host of your own network, and its port, in internal_hosts"
        if not any(each.matches(url) for each in self._public):
            return "this host and port are not in the list of hosts that are allowed"
        return None


def read_url(text: str | URL) -> URL:
    """Return an address in its parts.

    Raises:
        ValueError: it is no absolute http or https address, or it holds a user. The text quotes nothing of it.
    """
    if not isinstance(text, str | URL) or len(str(text)) > MAX_URL:
        raise ValueError(f"give a string of at most {MAX_URL} characters")
    try:
        url = URL(text)
        is_whole = url.scheme in PORTS and bool(url.raw_host) and bool(url.port)
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ValueError("give an address that begins with https:// and the name of a host")
    if url.raw_user is not None or url.raw_password is not None:
        raise ValueError("give an address without a user and a password: the signature says who sends")
    return url
