"""HTTP around Socket.IO: the browser's scripts, and requests that are no HTTP."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from pathlib import Path
from typing import cast

from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.http_exceptions import HttpProcessingError

from bbio.errors import ConfigurationError
from bbio.ratelimit import RateLimitedLog, peer
from bbio.server.http.lobby import Lobby

STATIC = Path(__file__).parents[2] / "static"
MEDIA_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".map": "application/json"}
# What answers call the server.
SERVER = "bbio"


class NoHTTP(logging.Filter):
    """Lets from the log of an HTTP library through what is no client's fault, so many lines in a second.

    Parameters:
        log: where it is told in a line what clients do.
    """

    def __init__(self, log: RateLimitedLog) -> None:
        super().__init__()
        self._log = log

    def filter(self, record: logging.LogRecord) -> bool:
        err = record.exc_info[1] if record.exc_info else None
        if isinstance(err, HttpProcessingError):
            # Aiohttp has said from where.
            self._log.info("refused a request that is not HTTP: %.80r (%.80s)", err.message, record.getMessage())
            return False
        if isinstance(err, (ConnectionError, asyncio.IncompleteReadError)):
            self._log.info("%.50s has broken off a request", peer.get())
            return False
        if not self._log.admits(record.levelno):
            return False
        if peer.get():
            record.msg, record.args = f"{record.getMessage()} (a request of {peer.get()})".replace("%", "%%"), ()
        return True


def _quiet(logger: logging.Logger) -> logging.Logger:
    logger.addFilter(NoHTTP(RateLimitedLog(logging.getLogger("bbio"))))
    return logger


http_logger = _quiet(logging.getLogger("bbio.http"))
# That of Socket.IO and Engine.IO, which tell of each packet unless they are told to be quiet.
socket_logger = _quiet(logging.getLogger("bbio.socketio"))
socket_logger.setLevel(logging.ERROR)


class QuietHandler(web.RequestHandler):
    """Answers what is no HTTP without a word of what was sent, and of what runs here."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        response = super().handle_error(request, status, exc, HTTPStatus(status).phrase)
        response.headers["Server"] = SERVER
        return response


class OwnServer(web.Server):
    """An HTTP server whose connections are handled by `QuietHandler`, and wait for their requests in a lobby."""

    lobby: Lobby
    is_shut = False

    async def shutdown(self, timeout: float | None = None) -> None:
        self.is_shut = True
        await super().shutdown(timeout)

    def __call__(self) -> web.RequestHandler:
        handler = super().__call__()
        handler.__class__ = QuietHandler
        return handler

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self.lobby.came(handler, transport)
        if self.is_shut:
            # It was on its way when the others were closed, and nobody would ever close it.
            transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self.lobby.left(handler)


def own(runner: web.AppRunner, lobby: Lobby) -> None:
    """Have a runner that is set up bound its connections, and answer no HTTP without a word of what was sent."""
    server = runner.server
    assert server is not None
    server.__class__ = OwnServer
    cast(OwnServer, server).lobby = lobby
    server.request_handler = lobby.around(server.request_handler)


def hide_version(response: web.StreamResponse) -> None:
    """Take from a response the versions of Python and aiohttp, which tell whoever looks for holes where to look."""
    if response.headers.get("Server") == SERVER_SOFTWARE:
        response.headers["Server"] = SERVER


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
    return [_asset(file) for file in files]


def file_route(path: str, file: Path, **headers: str) -> web.RouteDef:
    """Return the route at which a file is served, with ETag and ranges, and with headers of its own."""

    async def serve(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(file, headers=headers)

    return web.get(path, serve)


def _asset(file: Path) -> web.RouteDef:
    # What the system says of a name's ending differs, and browsers run no module of another type.
    headers = {"Content-Type": f"{MEDIA_TYPES[file.suffix]}; charset=utf-8", "Cache-Control": "public, max-age=86400"}
    return file_route(f"/socket.io/{file.name}", file, **headers)
