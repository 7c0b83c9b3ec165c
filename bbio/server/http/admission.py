"""Admission: which HTTP requests may reach the Socket.IO server at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from bbio.handshake import FORWARDED, is_loopback, names_loopback
from bbio.ratelimit import RateLimitedLog, peer
from bbio.server.binding import Binding, cookies_of
from bbio.server.http.origins import is_same_origin, read_host, read_origin
from bbio.server.http.proxies import Proxies, name_of_peer
from bbio.server.limits import Limits
from bbio.server.memory import Addresses
from bbio.weight import LIGHT

# Seconds that a client whose body is not wanted gets to read why; closing at once could take the answer away from it.
LINGER_SECONDS = 1.0
NO_WEBSOCKET = "this is no websocket; a proxy in front must pass the Upgrade and Connection headers on, with HTTP/1.1"
NOT_ALLOWED = "this origin is not allowed; App(cors=...) allows others, App(proxies=...) names the proxy in front"
# Addresses whose forwarded headers are not believed, that are told of by name.
MAX_STRANGERS = 100
# Where a request has the client's address.
REMOTE = web.RequestKey("remote", str)
# Where a POST has its body.
BODY = web.RequestKey("bbio.body", bytes)
# Headers that browsers add by themselves, whatever site has asked them to connect.
CREDENTIALS = ("Cookie", "Authorization")
# What a request that opens a session has its binding under.
BINDING = web.RequestKey("bbio.binding", Binding)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

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
        self.proxies = Proxies(_each(proxies))
        self._limits = limits
        self._addresses = addresses
        self._log = RateLimitedLog(logger)
        self._strangers: set[str] = set()
        self._sessions = sessions
        # While the application stops nobody new is let in: who would tell them goodbye?
        self.stopping = False

    # Refusals

    def refusal(self, request: web.Request) -> web.Response | None:
        """The response that turns a request away; None when it may pass."""
        if "sid" not in request.query:
            if self.stopping:
                return web.Response(status=503, text="the server is stopping")
            self._notice_proxy(request)
            request[BINDING] = Binding(cookies_of(request), self.proxies.remote(request))
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
        return not binding.admits(request, self.proxies.remote(request))

    def _host(self, request: web.BaseRequest) -> str:
        return self.proxies.forwarded(request, "X-Forwarded-Host", request.host)

    def _is_served(self, request: web.BaseRequest, host: str) -> bool:
        if self._hosts is None:
            # Any site can have its name stand for 127.0.0.1, and its pages ask whoever listens there.
            return not _is_over_loopback(request) or names_loopback(host) or self.proxies.have_sent(request)
        return "*" in self._hosts or host in self._hosts or host.rsplit(":", 1)[0] in self._hosts

    def _notice_proxy(self, request: web.BaseRequest) -> None:
        """Tell once of each address whose forwarded headers are not believed: it may be a proxy that nobody named."""
        if self.proxies.have_sent(request) or not any(header in request.headers for header in FORWARDED):
            return
        address = name_of_peer(request)
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
        return f"{self.proxies.forwarded(request, 'X-Forwarded-Proto', request.scheme)}://{host}"

    def _is_own(self, request: web.BaseRequest, host: str) -> bool:
        """Return whether a page of the server's own origin, or a program that is no browser, sent a request."""
        origin = request.headers.get("Origin")
        if origin is None:
            # Programs say nothing of either; browsers leave out the origin alone, of their GET requests.
            return request.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")
        return is_same_origin(origin, self._own_origin(request, host))

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
            request[REMOTE] = self.proxies.remote(request)
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


def _is_over_loopback(request: web.BaseRequest) -> bool:
    """Return whether a request has arrived at an address that only this machine can reach."""
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    return isinstance(name, tuple) and is_loopback(name[0])


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
