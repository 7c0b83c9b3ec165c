"""Origins and hosts: how they are spelled, and how those that nobody has are told."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from bbio.errors import ConfigurationError

DEFAULT_PORTS = {"http": 80, "https": 443}


def read_origin(text: str, where: str = "App(cors={!r})") -> str:
    """An origin of `App(cors=...)` as browsers spell it.

    Parameters:
        text: the origin as somebody wrote it.
        where: the place where it was written, for the error.

    Raises:
        ConfigurationError: no browser has such an origin; the text shows the right one.
    """
    spelled = text.strip()
    if spelled in ("*", "null"):
        return spelled
    try:
        scheme, name, port = _origin(spelled)
        host = _ascii(name or "")
    except ValueError:
        scheme, host, port = "", "", None
    if "," in spelled or " " in spelled:
        advice = f"name each origin by itself: cors={spelled.replace(',', ' ').split()!r}"
    elif "*" in spelled:
        advice = 'name each origin, as there are no patterns, or "*" for all'
    elif not spelled:
        advice = 'name an origin such as "https://www.example.org", or leave cors out'
    elif "://" not in spelled:
        advice = f"write 'https://{spelled.split('/')[0]}'"
    elif not host:
        advice = "write a scheme and a host such as 'https://www.example.org', or 'null' for pages that have no origin"
    else:
        host = f"[{host}]" if ":" in host else host
        origin = f"{scheme}://{host}" + ("" if port in (None, DEFAULT_PORTS.get(scheme)) else f":{port}")
        if not _beyond(spelled):
            return origin
        advice = f"an origin is scheme, host and port alone: write {origin!r}"
    raise ConfigurationError(f"{where.format(text)}: no browser has such an origin; {advice}")


def _beyond(url: str) -> bool:
    """Return whether a URL says more than scheme, host and port."""
    parts = urlsplit(url)
    return bool(parts.path or parts.query or parts.fragment or "@" in parts.netloc or url[-1] in "?#")


def read_host(text: str) -> str:
    """A name of `App(hosts=...)` as it is in the header `Host`.

    Raises:
        ConfigurationError: no request has such a host; the text shows the right one.
    """
    spelled = text.strip().lower()
    if spelled == "*":
        return spelled
    if ":" in spelled and _is_ipv6(spelled):
        return f"[{spelled}]"
    parts = urlsplit(spelled if "://" in spelled else f"//{spelled}")
    try:
        host, port = _ascii(parts.hostname or ""), parts.port
    except ValueError:
        host, port = "", None
    name = f"[{host}]" if ":" in host else host
    if not host or "*" in host or " " in host or "," in host:
        advice = "name each host such as 'app.example.org', as there are no patterns, or '*' for any"
    elif "://" in spelled or _beyond(f"//{spelled}") or port in DEFAULT_PORTS.values():
        advice = f"write {name!r}"
    else:
        return name if port is None else f"{name}:{port}"
    raise ConfigurationError(f"App(hosts={text!r}): no request has such a host; {advice}")


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _ascii(host: str) -> str:
    """A name as it travels, `xn--...` where it is not ASCII."""
    return host if host.isascii() else host.encode("idna").decode()


def is_same_origin(one: str, other: str) -> bool:
    """Return whether a browser's origin is that of a URL."""
    try:
        scheme, host, port = _origin(one)
        return bool(host) and (scheme, host, port) == _origin(other) and not _beyond(one)
    except ValueError:
        return False


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)
