"""Admission: which HTTP requests may reach the Socket.IO server at all."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from bbio.errors import ConfigurationError
from bbio.handshake import FORWARDED, is_loopback, names_loopback
from bbio.ratelimit import RateLimitedLog, peer
from bbio.server.binding import Binding, cookies_of
from bbio.server.http.lobby import address_of
from bbio.server.limits import Limits
from bbio.server.memory import Addresses
from bbio.weight import LIGHT

# Seconds that a client whose body is not wanted gets to read why; closing at once could take the answer away from it.
LINGER_SECONDS = 1.0
NO_WEBSOCKET = "this is no websocket; a proxy in front must pass the Upgrade and Connection headers on, with HTTP/1.1"
NOT_ALLOWED = "this origin is not allowed; App(cors=...) allows others, App(proxies=...) names the proxy in front"
# What `App(proxies=...)` calls a proxy at the other end of a Unix socket.
UNIX = "unix"
# Addresses whose forwarded headers are not believed, that are told of by name.
MAX_STRANGERS = 100
# Where a request has the client's address.
REMOTE = web.RequestKey("remote", str)
# Where a POST has its body.
BODY = web.RequestKey("bbio.body", bytes)
# Headers that browsers add by themselves, whatever site has asked them to connect.
CREDENTIALS = ("Cookie", "Authorization")
DEFAULT_PORTS = {"http": 80, "https": 443}
# What a request that opens a session has its binding under.
BINDING = web.RequestKey("bbio.binding", Binding)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

logger = logging.getLogger("bbio")


class Admission:
    """Decides whether a request may reach the Socket.IO server; what it refuses is a line in the log.

    Parameters:
        origins: origins allowed besides the server's own; `"*"` allows all.
        hosts: the only host names the server answers to, `"*"` for any. By default those of this machine alone for
            what arrives over loopback from no trusted proxy, else any (a guard against DNS rebinding).
        proxies: addresses or networks whose forwarded headers (for, host, proto) are believed; `"unix"` for whoever
            connects through a Unix socket.
        limits: the application's limits.
        addresses: where clients come from.
        sessions: what the request that opened each session came with, Socket.IO's `environ`.

    Raises:
        ConfigurationError: an origin or a host is spelled so that it never matches, or a proxy is no address.
    """

    def __init__(
        self,
        origins: str | Iterable[str] | None,
        hosts: str | Iterable[str] | None,
        proxies: str | Iterable[str],
        limits: Limits,
        addresses: Addresses,
        sessions: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._origins = {read_origin(origin) for origin in _each(origins or ())}
        # Origins that browsers may show who their user is: not all there are, nor pages that are of no origin.
        self._known_origins = self._origins - {"*", "null"}
        self._hosts = None if hosts is None else {read_host(host) for host in _each(hosts)}
        named = set(_each(proxies))
        self._unix = UNIX in named
        try:
            self._proxies: list[Network] = [ipaddress.ip_network(proxy) for proxy in named - {UNIX}]
        except ValueError as err:
            raise ConfigurationError(
                f"App(proxies=...): {err}; name addresses or networks such as 10.0.0.0/8, "
                f'or "unix" for a proxy that connects through a Unix socket'
            ) from None
        self._limits = limits
        self._addresses = addresses
        self._log = RateLimitedLog(logger)
        self._strangers: set[str] = set()
        self._sessions = sessions
        # While the application stops nobody new is let in: who would tell them goodbye?
        self.stopping = False

    # Proxies

    def _trusted(self, address: str | None) -> bool:
        try:
            parsed = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        # A socket for IPv6 that takes IPv4 too shows ::ffff:10.0.0.1 for 10.0.0.1.
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in proxy for proxy in self._proxies)

    def is_proxy(self, transport: asyncio.BaseTransport | None) -> bool:
        """Return whether a trusted proxy is at the other end of a connection."""
        return self._unix if _is_unix(transport) else self._trusted(address_of(transport))

    def _is_proxied(self, request: web.BaseRequest) -> bool:
        """Return whether a trusted proxy has sent the request."""
        return self._unix if _is_unix(request.transport) else self._trusted(request.remote)

    def remote(self, request: web.BaseRequest) -> str:
        """The client's address: of X-Forwarded-For the last that is no trusted proxy's, if such a proxy sent it."""
        address = request.remote or ""
        if self._is_proxied(request):
            for hop in reversed(",".join(request.headers.getall("X-Forwarded-For", [])).split(",")):
                if hop.strip():
                    address = hop.strip()
                if not self._trusted(address):
                    break
        return address

    def _forwarded(self, request: web.BaseRequest, header: str, seen: str) -> str:
        """Return a header's value from a trusted proxy, else the value seen here."""
        forwarded = request.headers.get(header)
        if forwarded and self._is_proxied(request):
            seen = forwarded.split(",")[0].strip()
        return seen.lower()

    # Refusals

    def refusal(self, request: web.Request) -> web.Response | None:
        """The response that turns a request away; None when it may pass."""
        if "sid" not in request.query:
            if self.stopping:
                return web.Response(status=503, text="the server is stopping")
            self._notice_proxy(request)
            request[BINDING] = Binding(cookies_of(request), self.remote(request))
        elif self._is_others(request, request.query["sid"]):
            return web.Response(status=400, text="the session is another client's, or this one's address has changed")
        if not request.headers.get("Host"):
            return web.Response(status=400, text="the request names no host")
        host = self._host(request)
        if not self._is_served(request, host):
            self._log.warning("refused the host %r: App(hosts=[%r]) serves it", host[:100], host[:100])
            return web.Response(status=403, text="this host name is not served; App(hosts=...) names those that are")
        if not self._origin_allowed(request, host):
            # The page may read that it is refused, which is all there is in it: else it would go on trying in silence.
            return web.Response(status=403, text=NOT_ALLOWED, headers={"Access-Control-Allow-Origin": "*"})
        if "j" in request.query:
            return web.Response(status=400, text="JSONP is not served: any site could read it")
        if request.query.get("transport") == "websocket" and not is_websocket_request(request):
            return web.Response(status=400, text=NO_WEBSOCKET)
        return self._body_refusal(request)

    def _is_others(self, request: web.BaseRequest, sid: str) -> bool:
        """Return whether another client opened the session of a request; False when the session is unknown."""
        opened = self._sessions.get(sid)
        if opened is None:
            return False
        binding: Binding = opened["aiohttp.request"][BINDING]
        return not binding.admits(request, self.remote(request))

    def _host(self, request: web.BaseRequest) -> str:
        return self._forwarded(request, "X-Forwarded-Host", request.host)

    def _is_served(self, request: web.BaseRequest, host: str) -> bool:
        if self._hosts is None:
            # Any site can have its name stand for 127.0.0.1, and its pages ask whoever listens there.
            return not _is_over_loopback(request) or names_loopback(host) or self._is_proxied(request)
        return "*" in self._hosts or host in self._hosts or host.rsplit(":", 1)[0] in self._hosts

    def _notice_proxy(self, request: web.BaseRequest) -> None:
        """Tell once of each address whose forwarded headers are not believed: it may be a proxy that nobody named."""
        if self._is_proxied(request) or not any(header in request.headers for header in FORWARDED):
            return
        address = _name_of_peer(request)
        if address not in self._strangers and len(self._strangers) < MAX_STRANGERS:
            self._strangers.add(address)
            text = "the X-Forwarded headers of %r are not believed: if it is your proxy, App(proxies=[%r]) says so"
            self._log.warning(text, address, address)

    def _body_refusal(self, request: web.Request) -> web.Response | None:
        if not _has_body(request):
            return None
        if request.method != "POST":
            return web.Response(status=400, text="only a POST may have a body")
        if request.content_length is None:
            return web.Response(status=411, text="the request must give the length of its body")
        if "Content-Encoding" in request.headers:
            return web.Response(status=415, text="a body must not be compressed")
        if request.content_length > self._limits.frame:
            return web.Response(status=413, text="the body is too large")
        return None

    def _origin_allowed(self, request: web.BaseRequest, host: str) -> bool:
        origin = request.headers.get("Origin")
        if "*" in self._origins or origin in self._origins or self._is_own(request, host):
            return True
        if origin is None:
            self._log.warning("refused a page of another site that does not say which: App(cors=[...]) allows sites")
            return False
        own = self._own_origin(request, host)
        text = "refused the origin %r: this server's own is %r; App(cors=[%r]) allows it"
        self._log.warning(text, origin[:100], own[:100], origin[:100])
        return False

    def _own_origin(self, request: web.BaseRequest, host: str) -> str:
        return f"{self._forwarded(request, 'X-Forwarded-Proto', request.scheme)}://{host}"

    def _is_own(self, request: web.BaseRequest, host: str) -> bool:
        """Return whether a page of the server's own origin, or a program that is no browser, sent a request."""
        origin = request.headers.get("Origin")
        if origin is None:
            # Programs say nothing of either; browsers leave out the origin alone, of their GET requests.
            return request.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")
        return _same_origin(origin, self._own_origin(request, host))

    def _may_show_user(self, request: web.BaseRequest) -> bool:
        """Return whether the sending page means the credentials that a browser adds by itself, such as cookies."""
        return request.headers.get("Origin") in self._known_origins or self._is_own(request, self._host(request))

    def headers(self, request: web.BaseRequest) -> CIMultiDictProxy[str]:
        """The headers of a request; without credentials if it came from a page that only `cors="*"` lets in."""
        if self._may_show_user(request):
            return request.headers
        headers = CIMultiDict(request.headers)
        for name in CREDENTIALS:
            headers.popall(name, None)
        return CIMultiDictProxy(headers)

    # Handling

    def guard(self, handle: Handler) -> Handler:
        """The same handler behind this admission, with a deadline for bodies."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            # One request of a connection in a round of the loop: they may have arrived together.
            await asyncio.sleep(0)
            request[REMOTE] = self.remote(request)
            peer.set(request[REMOTE])
            response: web.StreamResponse | None = self.refusal(request)
            if response is None:
                response = await self._within(handle, request)
                if not response.prepared and not self._may_show_user(request):
                    response.headers.pop("Access-Control-Allow-Credentials", None)
                _echo_nothing(request, response)
            if response.status >= 400:
                self._tell(request, response)
            if _has_body(request) and not request.content.at_eof():
                await _turn_away(request, response)
            return response

        return guarded

    def _tell(self, request: web.Request, response: web.StreamResponse) -> None:
        why = getattr(response, "text", None) or response.reason
        self._log.info("refused a %.10s from %.50s: %d %.150s", request.method, request[REMOTE], response.status, why)

    async def _within(self, handle: Handler, request: web.Request) -> web.StreamResponse:
        deadline = asyncio.timeout(self._limits.body_time if request.method == "POST" else None)
        try:
            async with deadline:
                return await (self._with_body(handle, request) if request.method == "POST" else handle(request))
        except TimeoutError:
            if not deadline.expired():
                raise
            return web.Response(status=408, text="the body did not arrive in time")
        except ConnectionError:
            if request.transport is not None and not request.transport.is_closing():
                raise
            return web.Response(status=499, text="the client is gone")  # no error of the server, and nobody reads it

    async def _with_body(self, handle: Handler, request: web.Request) -> web.StreamResponse:
        """Handle a request once all of its body is there; what there is of it counts to its address until then."""
        address, blocks, held = self._addresses.of(request[REMOTE]), [], 0
        try:
            async for block in request.content.iter_any():
                if held + len(block) > LIGHT and not address.has_room(len(block)):
                    return web.Response(status=503, text="the bodies that arrive are too large, and too many")
                address.add(len(block))
                held += len(block)
                blocks.append(block)
            request[BODY] = b"".join(blocks)
            blocks.clear()
            return await handle(request)
        finally:
            address.add(-held)


def is_websocket_request(request: web.BaseRequest) -> bool:
    """Return whether a request asks for a websocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _each(names: str | Iterable[str]) -> Iterable[str]:
    return [names] if isinstance(names, str) else names


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


def _is_unix(transport: asyncio.BaseTransport | None) -> bool:
    connection = None if transport is None else transport.get_extra_info("socket")
    return connection is not None and connection.family == getattr(socket, "AF_UNIX", None)


def _name_of_peer(request: web.BaseRequest) -> str:
    return UNIX if _is_unix(request.transport) else request.remote or ""


def _is_over_loopback(request: web.BaseRequest) -> bool:
    """Return whether a request has arrived at an address that only this machine can reach."""
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    return isinstance(name, tuple) and is_loopback(name[0])


def _same_origin(one: str, other: str) -> bool:
    try:
        scheme, host, port = _origin(one)
        return bool(host) and (scheme, host, port) == _origin(other) and not _beyond(one)
    except ValueError:
        return False


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)


def _has_body(request: web.Request) -> bool:
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def _echo_nothing(request: web.Request, response: web.StreamResponse) -> None:
    """Leave out of a refusal what the engine repeats of the request."""
    sid = request.query.get("sid")
    if sid and response.status >= 400 and isinstance(response, web.Response) and sid in (response.text or ""):
        response.text = "the session is unknown"


async def _turn_away(request: web.Request, response: web.StreamResponse) -> None:
    """Answer a request whose body was not read, and end its connection soon, whatever the client still sends."""
    response.force_close()
    with suppress(TimeoutError, OSError, web.RequestPayloadError):
        async with asyncio.timeout(LINGER_SECONDS):
            await response.prepare(request)
            await response.write_eof()
            while not request.content.at_eof():
                await request.content.readany()
    request.protocol.force_close()
