"""HTTP around Socket.IO: who may connect at all, and the browser's scripts."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from bbio.errors import ConfigurationError
from bbio.server.limits import Limits
from bbio.server.quiet import NoHTTP, QuietLog

STATIC = Path(__file__).parent.parent / "static"
# Seconds that a client whose body is not wanted gets to read why; closing at once could take the answer away from it.
LINGER = 1.0
NOT_ALLOWED = "this origin is not allowed; App(cors=...) allows others, App(proxies=...) names the proxy in front"
MEDIA_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".map": "application/json"}

http_logger = logging.getLogger("bbio.http")
http_logger.addFilter(NoHTTP(QuietLog(logging.getLogger("bbio"))))

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Admission:
    """Decides whether a request may reach the Socket.IO server.

    Parameters:
        origins: origins allowed besides the server's own; `"*"` allows all.
        hosts: the only host names the server answers to, None for any (a guard against DNS rebinding).
        proxies: addresses or networks whose forwarded headers (for, host, proto) are believed.
        limits: the application's limits.

    Raises:
        ConfigurationError: a proxy is no address or network.
    """

    def __init__(
        self, origins: str | Iterable[str] | None, hosts: Iterable[str] | None, proxies: Iterable[str], limits: Limits
    ) -> None:
        self._origins = {origins} if isinstance(origins, str) else set(origins or ())
        self._hosts = None if hosts is None else {host.lower() for host in hosts}
        try:
            self._proxies: list[Network] = [ipaddress.ip_network(proxy) for proxy in proxies]
        except ValueError as err:
            raise ConfigurationError(
                f"App(proxies=...): {err}; name addresses or networks such as 10.0.0.0/8"
            ) from None
        self._limits = limits
        # While the application stops nobody new is let in: who would tell them goodbye?
        self.stopping = False

    def _trusted(self, address: str | None) -> bool:
        try:
            return address is not None and any(ipaddress.ip_address(address) in proxy for proxy in self._proxies)
        except ValueError:
            return False

    def remote(self, request: web.BaseRequest) -> str:
        """The client's address: of X-Forwarded-For the last that is no trusted proxy's, if such a proxy sent it."""
        address = request.remote or ""
        if self._trusted(address):
            for hop in reversed(",".join(request.headers.getall("X-Forwarded-For", [])).split(",")):
                if hop.strip():
                    address = hop.strip()
                if not self._trusted(address):
                    break
        return address

    def _host(self, request: web.BaseRequest) -> str:
        forwarded = request.headers.get("X-Forwarded-Host")
        if forwarded and self._trusted(request.remote):
            return forwarded.split(",")[0].strip().lower()
        return request.host.lower()

    def _scheme(self, request: web.BaseRequest) -> str:
        forwarded = request.headers.get("X-Forwarded-Proto")
        if forwarded and self._trusted(request.remote):
            return forwarded.split(",")[0].strip().lower()
        return request.scheme

    def refusal(self, request: web.Request) -> web.Response | None:
        """The response that turns a request away; None when it may pass."""
        if self.stopping and "sid" not in request.query:
            return web.Response(status=503, text="the server is stopping")
        host = self._host(request)
        if self._hosts is not None and host not in self._hosts and host.rsplit(":", 1)[0] not in self._hosts:
            return web.Response(status=403, text="this host name is not served; App(hosts=...) names those that are")
        if not self._origin_allowed(request, host):
            return web.Response(status=403, text=NOT_ALLOWED)
        if "j" in request.query:
            return web.Response(status=400, text="JSONP is not served: any site could read it")
        return self._body_refusal(request)

    def _body_refusal(self, request: web.Request) -> web.Response | None:
        if not _has_body(request):
            return None
        if request.method != "POST":
            return web.Response(status=400, text="only a POST may have a body")
        if request.content_length is None:
            return web.Response(status=411, text="the length of the body must be told")
        if "Content-Encoding" in request.headers:
            return web.Response(status=415, text="a body must not be compressed")
        if request.content_length > self._limits.frame:
            return web.Response(status=413, text="the body is too large")
        return None

    def _origin_allowed(self, request: web.BaseRequest, host: str) -> bool:
        if "*" in self._origins:
            return True
        origin = request.headers.get("Origin")
        if origin is None:
            # Programs say nothing of either; browsers leave out the origin alone, of their GET requests.
            return request.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")
        return origin in self._origins or _same_origin(origin, f"{self._scheme(request)}://{host}")

    def guard(self, handle: Handler) -> Handler:
        """The same handler behind this admission, with a deadline for bodies."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            response: web.StreamResponse | None = self.refusal(request)
            if response is None:
                response = await self._within(handle, request)
            if _has_body(request) and not request.content.at_eof():
                await _turn_away(request, response)
            return response

        return guarded

    async def _within(self, handle: Handler, request: web.Request) -> web.StreamResponse:
        deadline = asyncio.timeout(self._limits.body_time if request.method == "POST" else None)
        try:
            async with deadline:
                return await handle(request)
        except TimeoutError:
            if not deadline.expired():
                raise
            return web.Response(status=408, text="the body did not arrive in time")
        except ConnectionError:
            if request.transport is not None and not request.transport.is_closing():
                raise
            return web.Response(status=499, text="the client is gone")  # no error of the server, and nobody reads it


def _same_origin(one: str, other: str) -> bool:
    try:
        scheme, host, port = _origin(one)
        return bool(host) and (scheme, host, port) == _origin(other)
    except ValueError:
        return False


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _has_body(request: web.Request) -> bool:
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


async def _turn_away(request: web.Request, response: web.StreamResponse) -> None:
    """Answer a request whose body was not read, and end its connection soon, whatever the client still sends."""
    response.force_close()
    with suppress(TimeoutError, OSError, web.RequestPayloadError):
        async with asyncio.timeout(LINGER):
            await response.prepare(request)
            await response.write_eof()
            while not request.content.at_eof():
                await request.content.readany()
    request.protocol.force_close()


def asset_routes() -> list[web.RouteDef]:
    """Routes of the browser's scripts below /socket.io/, with ETag and caching.

    Raises:
        ConfigurationError: the scripts were not built.
    """
    files = sorted(path for path in STATIC.glob("*") if path.suffix in MEDIA_TYPES)
    if not files:
        raise ConfigurationError(
            "the browser's scripts are missing from bbio/static; in a checkout run `make setup`, else reinstall bbio"
        )
    return [web.get(f"/socket.io/{path.name}", _asset(path)) for path in files]


def _asset(path: Path) -> Handler:
    body = path.read_bytes()
    tag = hashlib.sha256(body).hexdigest()[:16]

    async def serve(request: web.Request) -> web.Response:
        headers = {"ETag": f'"{tag}"', "Cache-Control": "public, max-age=86400"}
        if any(etag.value in (tag, "*") for etag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=MEDIA_TYPES[path.suffix], charset="utf-8", headers=headers)

    return serve
