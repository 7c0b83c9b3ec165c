"""The browser's scripts, health, and requests that are no HTTP."""

import asyncio
import logging
import socket
from contextvars import copy_context

import pytest
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.test_utils import TestClient, TestServer

from bbio import App
from bbio.errors import ConfigurationError
from bbio.ratelimit import LINES_PER_SECOND, RateLimitedLog, peer
from bbio.server.http.health import health
from bbio.server.http.server import NoHTTP, asset_routes


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
    monkeypatch.setattr("bbio.server.http.server.STATIC", tmp_path)
    with pytest.raises(ConfigurationError, match="make setup"):
        asset_routes()


@pytest.fixture
def record():
    """Make a record such as aiohttp's."""

    def record(err):
        info = None if err is None else (type(err), err, None)
        return logging.LogRecord(
            "aiohttp", logging.ERROR, "", 0, "Error handling request from %s", ("192.0.2.1",), info
        )

    return record


def test_requests_that_are_no_http_are_no_errors(caplog, record):
    """One short line without a traceback, which says from where; other errors of the HTTP server stay what they are."""
    quietened = NoHTTP(RateLimitedLog(logging.getLogger("bbio")))
    caplog.set_level(logging.INFO, logger="bbio")
    assert not quietened.filter(record(BadHttpMessage("bad " * 500)))
    assert caplog.messages[0].startswith("refused a request that is not HTTP: ")
    assert "192.0.2.1" in caplog.messages[0]
    assert len(caplog.messages[0]) < 200
    assert quietened.filter(record(ValueError("x")))
    assert quietened.filter(record(None))
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("err", [ConnectionResetError(), asyncio.IncompleteReadError(b"", 5)])
def test_a_request_that_is_broken_off_is_no_error(caplog, record, err):
    """A line with the address that it came from."""
    quietened = NoHTTP(RateLimitedLog(logging.getLogger("bbio")))
    caplog.set_level(logging.INFO, logger="bbio")

    def handle():
        peer.set("192.0.2.7")
        return quietened.filter(record(err))

    assert copy_context().run(handle) is False
    assert caplog.messages == ["192.0.2.7 has broken off a request"]


def test_errors_of_libraries_are_so_many_in_a_second(record):
    """And name whose request it was."""
    quietened = NoHTTP(RateLimitedLog(logging.getLogger("bbio")))
    records = [record(ValueError("x")) for _ in range(LINES_PER_SECOND + 5)]

    def handle():
        peer.set("192.0.2.7")
        return [each.getMessage() for each in records if quietened.filter(each)]

    told = copy_context().run(handle)
    assert told == ["Error handling request from 192.0.2.1 (a request of 192.0.2.7)"] * LINES_PER_SECOND


@pytest.mark.parametrize("application", [None, "own"])
async def test_answers_repeat_nothing_and_name_no_version(application):
    """Whether they come from a handler, from a route that is not there, or to what is no HTTP."""
    app = App()
    mounted = None if application is None else app.mount(web.Application())

    async def own(request):
        return web.Response(headers={"Server": "mine"})

    if mounted is not None:
        mounted.router.add_get("/own", own)
    async with app.running(application=mounted):
        answers = []
        for path in ("/healthz", "/none", "/socket.io/?sid=<script>&EIO=4", "/own", "/" + "evil" * 3_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answers.append((await reader.read()).decode())
            writer.close()
    assert [answer.split()[1] for answer in answers] == [
        "200",
        "404",
        "400",
        "404" if mounted is None else "200",
        "400",
    ]
    for answer in answers:
        assert "ython" not in answer
        assert "aiohttp" not in answer
        assert "script" not in answer
        assert "evil" not in answer
        assert "Server: " in answer
    assert ("Server: mine" in answers[3]) is (mounted is not None)


async def test_who_comes_after_the_others_were_closed_is_closed():
    """A connection that was on its way then: nobody else would ever close it."""
    app = App()
    async with app.running():
        server = app._runner.server
    here, there = socket.socketpair()
    with there:
        await asyncio.get_running_loop().connect_accepted_socket(server, here)
        there.setblocking(False)
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(there, 1), 5) == b""
