"""Who may connect: hosts, origins, trusted proxies, large and slow bodies."""

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from multidict import CIMultiDict

from bbio.errors import ConfigurationError
from bbio.server.health import health
from bbio.server.http import Admission, asset_routes
from bbio.server.limits import Limits


def admission(origins=None, hosts=None, proxies=(), **limits):
    """An admission with what differs from the defaults."""
    return Admission(origins, hosts, proxies, Limits(**limits))


def request(*headers, remote="192.0.2.1", host="example.org", method="GET"):
    """A request with these header lines."""
    made = make_mocked_request(method, "/", CIMultiDict([("Host", host), *headers]))
    return made.clone(remote=remote)


def forwarded(*lines):
    """X-Forwarded-For header lines."""
    return [("X-Forwarded-For", line) for line in lines]


@pytest.mark.parametrize(
    ("remote", "lines", "told"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.3, , 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["203.0.113.9, no address"], "no address"),
        ("", ["198.51.100.7"], ""),
    ],
)
def test_the_address_behind_trusted_proxies(remote, lines, told):
    """The last hop that is no trusted proxy; what an untrusted peer says of itself is ignored."""
    assert admission(proxies=["10.0.0.0/8"]).remote(request(*forwarded(*lines), remote=remote)) == told


def test_a_proxy_must_be_an_address_or_network():
    """The message shows what to write."""
    with pytest.raises(ConfigurationError, match=r"10\.0\.0\.0/8"):
        admission(proxies=["proxy.local"])


@pytest.mark.parametrize(
    ("host", "served"),
    [("example.org", True), ("EXAMPLE.org:8080", True), ("evil.test", False), ("example.org.evil.test", False)],
)
def test_only_named_hosts_are_served(host, served):
    """With `hosts`, other names are turned away; the port does not matter."""
    refused = admission(hosts=["Example.org"]).refusal(request(host=host))
    assert (refused is None) is served
    assert served or refused.status == 403


@pytest.mark.parametrize(("remote", "served"), [("10.0.0.1", True), ("192.0.2.1", False)])
def test_a_forwarded_host_is_believed_of_proxies_only(remote, served):
    """Anyone can send the header."""
    sent = request(("X-Forwarded-Host", "example.org, inner"), remote=remote, host="inner")
    assert (admission(hosts=["example.org"], proxies=["10.0.0.1"]).refusal(sent) is None) is served


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (None, None, True),
        (None, "http://example.org", True),
        (None, "http://EXAMPLE.org:80", True),
        (None, "https://example.org", False),
        (None, "http://example.org:8080", False),
        (None, "http://example.org:x", False),
        (None, "https://other.test", False),
        (None, "null", False),
        (None, "http://[", False),
        ("https://other.test", "https://other.test", True),
        (["https://other.test"], "http://other.test", False),
        ("*", "https://other.test", True),
    ],
)
def test_origins(origins, origin, allowed):
    """The server's own origin and those named may connect, and programs that send none."""
    sent = request(*([] if origin is None else [("Origin", origin)]))
    refused = admission(origins=origins).refusal(sent)
    assert (refused is None) is allowed
    assert allowed or refused.status == 403


@pytest.mark.parametrize(
    ("remote", "proto", "origin", "allowed"),
    [
        ("10.0.0.1", "https", "https://example.org", True),
        ("10.0.0.1", "https, http", "https://example.org", True),
        ("10.0.0.1", "https", "http://example.org", False),
        ("192.0.2.1", "https", "https://example.org", False),
        ("10.0.0.1", None, "http://example.org", True),
        ("10.0.0.1", None, "http://example.org:8080", True),
        ("10.0.0.1", None, "https://example.org:8080", False),
    ],
)
def test_the_scheme_belongs_to_the_origin(remote, proto, origin, allowed):
    """A page over http is another origin than one over https; a trusted proxy says which of them it serves."""
    host = "example.org:8080" if "8080" in origin else "example.org"
    headers = [("Origin", origin)] if proto is None else [("Origin", origin), ("X-Forwarded-Proto", proto)]
    assert (admission(proxies=["10.0.0.1"]).refusal(request(*headers, remote=remote, host=host)) is None) is allowed


@pytest.mark.parametrize(
    ("site", "cors", "allowed"),
    [
        ("same-origin", None, True),
        ("none", None, True),
        ("cross-site", None, False),
        ("same-site", None, False),
        ("cross-site", "*", True),
    ],
)
def test_a_browser_that_says_no_origin_says_where_the_page_is(site, cors, allowed):
    """Scripts and images of other sites are fetched without an origin."""
    assert (admission(origins=cors).refusal(request(("Sec-Fetch-Site", site))) is None) is allowed


def test_jsonp_is_not_served():
    """It is there to be read by other sites."""
    made = make_mocked_request("GET", "/?EIO=4&j=0", CIMultiDict([("Host", "example.org")]))
    assert admission().refusal(made).status == 400


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", [("Content-Length", "10")], None),
        ("POST", [("Content-Length", "11")], 413),
        ("POST", [("Transfer-Encoding", "chunked")], 411),
        ("POST", [("Content-Length", "10"), ("Content-Encoding", "gzip")], 415),
        ("GET", [("Content-Length", "10")], 400),
        ("GET", [("Transfer-Encoding", "chunked")], 400),
        ("GET", [("Content-Length", "0")], None),
    ],
)
def test_only_a_plain_body_of_a_sane_length_is_read(method, headers, status):
    """What is announced is enough to tell."""
    refused = admission(frame=10).refusal(request(*headers, method=method))
    assert (refused and refused.status) == status


@pytest.mark.parametrize(("path", "status"), [("/socket.io/?EIO=4", 503), ("/socket.io/?EIO=4&sid=known", None)])
def test_while_it_stops_nobody_new_is_let_in(path, status):
    """Sessions that are there go on, for what runs is still answered."""
    stopping = admission()
    stopping.stopping = True
    refused = stopping.refusal(make_mocked_request("GET", path))
    assert (refused and refused.status) == status


async def test_a_guarded_server():
    """Requests pass to the handler, refused ones do not, and a body that never ends is given up."""

    async def echo(request):
        return web.Response(body=await request.read())

    async def endless():
        yield b"x"
        await forever.wait()

    forever = asyncio.Event()
    app = web.Application()
    app.router.add_route("*", "/", admission(body_time=0.05).guard(echo))
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/")).status == 200
        assert await (await client.post("/", data=b"hello")).read() == b"hello"
        assert (await client.get("/", headers={"Origin": "https://other.test"})).status == 403
        assert (await client.post("/", data=endless(), headers={"Content-Length": "5"})).status == 408
        forever.set()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_timeout_of_the_handler_is_its_own(method):
    """Only a body that is late is answered 408."""

    async def late(request):
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await admission().guard(late)(request(method=method))


@pytest.mark.parametrize(("closing", "gone"), [(False, False), (True, True), (None, True)])
async def test_a_client_that_is_gone_is_no_error(closing, gone):
    """A connection of the handler's own that breaks is one."""

    async def fails(request):
        raise ConnectionResetError("broken")

    transport = Mock(is_closing=Mock(return_value=closing))
    made = make_mocked_request("GET", "/", CIMultiDict([("Host", "example.org")]), transport=transport)
    if closing is None:
        made.protocol.transport = None
    if gone:
        assert (await admission().guard(fails)(made)).status == 499
    else:
        with pytest.raises(ConnectionResetError):
            await admission().guard(fails)(made)


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
