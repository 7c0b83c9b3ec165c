"""The browser's scripts, health, and requests that are no HTTP."""

import logging

import pytest
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.test_utils import TestClient, TestServer

from bbio.errors import ConfigurationError
from bbio.ratelimit import RateLimitedLog
from bbio.server.health import health
from bbio.server.http import NoHTTP, asset_routes


async def test_scripts_and_health():
    """Scripts have an ETag that spares a second download; health answers."""
    app = web.Application()
    app.add_routes([*asset_routes(), web.get("/health", health)])
    async with TestClient(TestServer(app)) as client:
        first = await client.get("/socket.io/backbone.io.js")
        assert (first.status, first.content_type) == (200, "text/javascript")
        tag = first.headers["ETag"]
        again = await client.get("/socket.io/backbone.io.js", headers={"If-None-Match": tag})
        assert (again.status, again.headers["ETag"]) == (304, tag)
        assert (await client.get("/socket.io/backbone.io.js", headers={"If-None-Match": '"old"'})).status == 200
        assert await (await client.get("/health")).json() == {"status": "ok"}


def test_missing_scripts_say_how_to_mend_it(tmp_path, monkeypatch):
    """A checkout that was not built tells the developer what to run."""
    monkeypatch.setattr("bbio.server.http.STATIC", tmp_path)
    with pytest.raises(ConfigurationError, match="make setup"):
        asset_routes()


def test_requests_that_are_no_http_are_no_errors(caplog):
    """One short line without a traceback; other errors of the HTTP server stay what they are."""
    quietened = NoHTTP(RateLimitedLog(logging.getLogger("bbio")))
    caplog.set_level(logging.INFO, logger="bbio")

    def record(err):
        info = None if err is None else (type(err), err, None)
        return logging.LogRecord("aiohttp", logging.ERROR, "", 0, "Error handling request", (), info)

    assert not quietened.filter(record(BadHttpMessage("bad " * 500)))
    assert caplog.messages[0].startswith("refused a request that is no HTTP: ")
    assert len(caplog.messages[0]) < 200
    assert quietened.filter(record(ValueError("x")))
    assert quietened.filter(record(None))
    assert len(caplog.messages) == 1
