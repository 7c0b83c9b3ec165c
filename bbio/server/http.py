"""HTTP around Socket.IO: who may connect at all, the browser's scripts, and health."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from bbio.errors import ConfigurationError
from bbio.server.limits import Limits

STATIC = Path(__file__).parent.parent / "static"
MEDIA_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".map": "application/json"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Admission:
    """Decides whether a request may reach the Socket.IO server.

    Parameters:
        origins: origins allowed besides the server's own; `"*"` allows all.
        hosts: the only host names the server answers to, None for any (a guard against DNS rebinding).
        proxies: addresses or networks whose forwarded headers are believed.
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

    def refusal(self, request: web.Request) -> web.Response | None:
        """The response that turns a request away; None when it may pass."""
        host = self._host(request)
        if self._hosts is not None and host not in self._hosts and host.rsplit(":", 1)[0] not in self._hosts:
            return web.Response(status=403, text="this host name is not served")
        origin = request.headers.get("Origin")
        if origin is not None and not self._origin_allowed(origin, host):
            return web.Response(status=403, text="this origin is not allowed")
        if (request.content_length or 0) > self._limits.frame:
            refused = web.Response(status=413, text="the body is too large")
            refused.force_close()
            return refused
        return None

    def _origin_allowed(self, origin: str, host: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        try:
            return urlsplit(origin).netloc.lower() == host
        except ValueError:
            return False

    def guard(self, handle: Handler) -> Handler:
        """The same handler behind this admission, with a deadline for bodies."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            refused = self.refusal(request)
            if refused is not None:
                return refused
            if request.method != "POST":
                return await handle(request)
            try:
                async with asyncio.timeout(self._limits.body_time):
                    return await handle(request)
            except TimeoutError:
                late = web.Response(status=408, text="the body did not arrive in time")
                late.force_close()
                return late

        return guarded


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


async def health(request: web.Request) -> web.Response:
    """Answers while the server runs."""
    return web.json_response({"status": "ok"})
