"""HTTP around Socket.IO: the browser's scripts, and requests that are no HTTP."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from bbio.errors import ConfigurationError
from bbio.ratelimit import RateLimitedLog
from bbio.server.admission import Handler

STATIC = Path(__file__).parent.parent / "static"
MEDIA_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".map": "application/json"}

http_logger = logging.getLogger("bbio.http")


class NoHTTP(logging.Filter):
    """Takes from aiohttp's log the tracebacks of requests that are no HTTP at all."""

    def __init__(self, log: RateLimitedLog) -> None:
        super().__init__()
        self._log = log

    def filter(self, record: logging.LogRecord) -> bool:
        err = record.exc_info[1] if record.exc_info else None
        if isinstance(err, HttpProcessingError):
            self._log.info("refused a request that is no HTTP: %.80r", err.message)
            return False
        return True


http_logger.addFilter(NoHTTP(RateLimitedLog(logging.getLogger("bbio"))))


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
