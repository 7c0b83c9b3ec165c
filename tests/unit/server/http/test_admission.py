"""Who may connect: hosts, origins, trusted proxies, large and slow bodies."""

import asyncio
import logging
from unittest.mock import Mock

import pytest
from aiohttp import ClientSession, UnixConnector, web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from multidict import CIMultiDict

from bbio.errors import ConfigurationError
from bbio.handshake import read_cookies
from bbio.server.http.admission import BODY, Admission
from bbio.server.http.origins import read_host, read_origin
from bbio.server.limits import Limits
from bbio.server.memory import Addresses


def admission(origins=None, hosts=None, proxies=(), **limits):
    """An admission with what differs from the defaults."""
    bounds = Limits(**limits)
    return Admission(origins, hosts, proxies, bounds, Addresses(bounds), {})


def transport_at(address, **more):
    """The transport of a connection that has arrived at an address of this machine."""
    return Mock(get_extra_info={"sockname": (address, 80)}.get, **more)


def request(*headers, remote="192.0.2.1", host="example.org", method="GET", path="/", at="192.0.2.80"):
    """A request with these header lines, which has arrived at an address."""
    lines = [*([] if host is None else [("Host", host)]), *headers]
    made = make_mocked_request(method, path, CIMultiDict(lines), transport=transport_at(at))
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
    assert admission(proxies=["10.0.0.0/8"]).proxies.remote(request(*forwarded(*lines), remote=remote)) == told


async def test_a_request_is_handled_in_a_round_of_its_own():
    """Many may arrive together on one connection: between two of them others have their turn."""
    handled = []

    async def handle(request):
        handled.append(request)
        return web.Response()

    answer = admission().guard(handle)(request())
    answer.send(None)
    assert handled == []
    with pytest.raises(StopIteration):
        answer.send(None)
    assert len(handled) == 1


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
    ("host", "options", "status"),
    [
        ("localhost:3000", {}, None),
        ("LOCALHOST", {}, None),
        ("app.localhost", {}, None),
        ("127.0.0.1:3000", {}, None),
        ("127.8.9.1", {}, None),
        ("[::1]:3000", {}, None),
        ("rebind.evil.example:3000", {}, 403),
        ("localhost.evil.example", {}, 403),
        ("127.0.0.1.evil.example", {}, 403),
        ("evil.example@127.0.0.1", {"hosts": ["localhost"]}, 403),
        ("192.0.2.80", {}, 403),
        ("[", {}, 403),
        ("app.example.org", {"hosts": ["app.example.org"]}, None),
        ("localhost", {"hosts": ["app.example.org"]}, 403),
        ("any.example.org", {"hosts": "*"}, None),
        ("any.example.org", {"proxies": ["192.0.2.1"]}, None),
        ("any.example.org", {"proxies": ["192.0.2.2"]}, 403),
    ],
)
@pytest.mark.parametrize("at", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_over_loopback_only_this_machine_is_asked_for(host, options, status, at):
    """A site that has its name stand for 127.0.0.1 reaches nobody, unless the name is served (DNS rebinding)."""
    refused = admission(**options).refusal(request(host=host, at=at))
    assert (refused and refused.status) == status


@pytest.mark.parametrize("at", ["192.0.2.80", "2001:db8::80", "no address"])
def test_elsewhere_any_name_is_served(at):
    """Whoever listens on a network has a name there, which bbio does not know."""
    assert admission().refusal(request(host="any.example.org", at=at)) is None


@pytest.mark.parametrize("host", [None, ""])
def test_a_request_names_its_host(host):
    """Without one the library would ask the network for a name, and everybody would wait."""
    assert admission().refusal(request(host=host)).status == 400


@pytest.mark.parametrize(
    ("cors", "headers", "shown"),
    [
        ((), [], True),
        ((), [("Origin", "http://example.org")], True),
        ("https://other.test", [("Origin", "https://other.test")], True),
        ("*", [("Origin", "http://example.org")], True),
        ("*", [("Origin", "https://other.test")], False),
        ("*", [("Origin", "null")], False),
        ("*", [("Sec-Fetch-Site", "cross-site")], False),
        ("null", [("Origin", "null")], False),
        (["*", "https://other.test"], [("Origin", "https://other.test")], True),
    ],
)
async def test_credentials_are_for_origins_that_are_named(cors, headers, shown):
    """Of a page that anybody may have written, what the browser adds by itself says nothing: not of what it is told."""

    async def answer(request):
        return web.Response(headers={"Access-Control-Allow-Credentials": "true"})

    guard = admission(origins=cors)
    sent = request(*headers, ("Cookie", "a=1"), ("Cookie", "b=2"), ("Authorization", "Basic x"))
    assert guard.refusal(sent) is None
    told = guard.headers(sent)
    assert (read_cookies(told), "Authorization" in told) == (({"a": "1", "b": "2"}, True) if shown else ({}, False))
    answered = await guard.guard(answer)(sent)
    assert ("Access-Control-Allow-Credentials" in answered.headers) is shown


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (None, None, True),
        (None, "http://example.org/", False),
        (None, "http://ann@example.org", False),
        (None, "http://example.org#x", False),
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
    assert admission().refusal(request(path="/?EIO=4&j=0")).status == 400


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
    refused = stopping.refusal(request(path=path))
    assert (refused and refused.status) == status


async def test_a_guarded_server():
    """Requests pass to the handler, refused ones do not, and a body that never ends is given up."""

    async def echo(request):
        return web.Response(body=request.get(BODY))

    async def endless():
        yield b"x"
        await forever.wait()

    forever = asyncio.Event()
    app = web.Application()
    app.router.add_route("*", "/", admission(body_time=0.05).guard(echo))
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/")).status == 200
        assert await (await client.post("/", data=b"hello")).read() == b"hello"
        refused = await client.get("/", headers={"Origin": "https://other.test"})
        assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (403, "*")
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

    transport = transport_at("192.0.2.80", is_closing=Mock(return_value=closing))
    made = make_mocked_request("GET", "/", CIMultiDict([("Host", "example.org")]), transport=transport)
    if closing is None:
        made.protocol.transport = None
    if gone:
        assert (await admission().guard(fails)(made)).status == 499
    else:
        with pytest.raises(ConnectionResetError):
            await admission().guard(fails)(made)


@pytest.mark.parametrize(
    ("spelled", "origin"),
    [
        ("https://www.example.org", "https://www.example.org"),
        (" https://www.example.org ", "https://www.example.org"),
        ("HTTPS://WWW.Example.org", "https://www.example.org"),
        ("https://www.example.org:443", "https://www.example.org"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("null", "null"),
        ("*", "*"),
    ],
)
def test_an_origin_is_understood_as_browsers_spell_it(spelled, origin):
    """Upper case, the default port and spaces around it are no mistake."""
    assert read_origin(spelled) == origin


@pytest.mark.parametrize(
    ("spelled", "advice"),
    [
        ("https://www.example.org/", "write 'https://www.example.org'"),
        ("https://www.example.org/chat?x", "write 'https://www.example.org'"),
        ("http://[::1]:3000/", r"write 'http://\[::1\]:3000'"),
        ("https://ann@example.org", "write 'https://example.org'"),
        ("https://example.org?", "write 'https://example.org'"),
        ("example.org", "write 'https://example.org'"),
        ("example.org:8080/chat", "write 'https://example.org:8080'"),
        ("https://*.example.org", "there are no patterns"),
        ("https://a.example, https://b.example", r"cors=\['https://a.example', 'https://b.example'\]"),
        ("", "or leave cors out"),
        ("file://", "'null' for pages"),
        ("https://example.org:port", "write a scheme and a host"),
        ("https://" + "ä" * 100, "write a scheme and a host"),
    ],
)
def test_an_origin_that_no_browser_has_is_refused(spelled, advice):
    """The text shows the right spelling."""
    with pytest.raises(ConfigurationError, match=advice):
        admission(origins=[spelled])


@pytest.mark.parametrize(
    ("spelled", "host"),
    [
        (" App.example.org", "app.example.org"),
        ("app.example.org:3000", "app.example.org:3000"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("[::1]:3000", "[::1]:3000"),
        ("*", "*"),
        ("bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_a_host_is_understood_as_it_travels(spelled, host):
    assert read_host(spelled) == host


@pytest.mark.parametrize(
    ("spelled", "advice"),
    [
        ("https://app.example.org", "write 'app.example.org'"),
        ("app.example.org/", "write 'app.example.org'"),
        ("app.example.org:443", "write 'app.example.org'"),
        ("http://[::1]:3000", r"write '\[::1\]'"),
        ("*.example.org", "there are no patterns"),
        ("a.example, b.example", "there are no patterns"),
        ("app.example.org:port", "name each host"),
        ("", "name each host"),
    ],
)
def test_a_host_that_no_request_has_is_refused(spelled, advice):
    """The text shows the right spelling."""
    with pytest.raises(ConfigurationError, match=advice):
        admission(hosts=[spelled])


def test_one_name_may_be_given_without_a_list():
    """It is not taken for a list of letters."""
    one = admission("https://other.test", "example.org", "10.0.0.1")
    assert one.refusal(request(("Origin", "https://other.test"))) is None
    assert one.proxies.remote(request(*forwarded("203.0.113.7"), remote="10.0.0.1")) == "203.0.113.7"


def test_a_proxy_may_come_as_ipv4_within_ipv6():
    """So it does where the server listens to both with one socket."""
    sent = request(*forwarded("203.0.113.7"), remote="::ffff:10.0.0.1")
    assert admission(proxies=["10.0.0.0/8"]).proxies.remote(sent) == "203.0.113.7"


@pytest.mark.parametrize(("proxies", "status"), [(["unix"], 200), (["0.0.0.0/0"], 403)])
async def test_a_proxy_behind_a_unix_socket(tmp_path, caplog, proxies, status):
    """It has no address, and is named "unix"."""
    guard = admission(proxies=proxies)

    async def remote(request):
        return web.Response(text=guard.proxies.remote(request))

    application = web.Application()
    application.router.add_get("/", guard.guard(remote))
    runner = web.AppRunner(application)
    await runner.setup()
    await web.UnixSite(runner, tmp_path / "s").start()
    headers = {
        "Origin": "https://example.org",
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Host": "example.org",
        "X-Forwarded-Proto": "https",
    }
    async with (
        ClientSession(connector=UnixConnector(str(tmp_path / "s"))) as session,
        session.get("http://inner/", headers=headers) as response,
    ):
        assert response.status == status
        assert status != 200 or await response.text() == "203.0.113.7"
    await runner.cleanup()
    assert ("App(proxies=['unix']) says so" in caplog.text) is (status != 200)


@pytest.mark.parametrize(
    ("options", "headers", "line"),
    [
        ({"hosts": ["app.test"]}, [], "refused the host 'example.org': App(hosts=['example.org']) serves it"),
        (
            {},
            [("Origin", "https://x.test")],
            "refused the origin 'https://x.test': this server's own is 'http://example.org'; "
            "App(cors=['https://x.test']) allows it",
        ),
        ({}, [("Sec-Fetch-Site", "cross-site")], "refused a page of another site that does not say which: "),
    ],
)
def test_what_is_refused_is_told_with_what_allows_it(caplog, options, headers, line):
    """One line for whoever runs the server."""
    assert admission(**options).refusal(request(*headers)).status == 403
    (record,) = caplog.records
    assert record.getMessage().startswith(line)
    assert (record.name, record.levelname) == ("bbio", "WARNING")


def test_a_proxy_that_nobody_named_is_told_once(caplog):
    """Of each address, and of so many addresses in all; not of one that is named."""
    strict = admission(proxies=["10.0.0.1"])
    for remote in ("10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3"):
        strict.refusal(request(*forwarded("203.0.113.7"), remote=remote))
    assert [record.args[0].partition("'")[2][:8] for record in caplog.records] == ["10.0.0.2", "10.0.0.3"]
    assert caplog.messages[0].endswith("are not believed: if it is your proxy, App(proxies=['10.0.0.2']) says so")
    caplog.clear()
    for n in range(200):
        strict.refusal(request(*forwarded("203.0.113.7"), remote=f"10.1.0.{n}"))
    assert len(strict._strangers) == 100


async def test_a_refused_handshake_is_a_line(caplog):
    """Whatever refuses it, with the answer; nothing that a client sends begins a line of its own."""

    async def handle(request):
        return web.Response(status=400, text="no such\nprotocol")

    application = web.Application()
    application.router.add_get("/", admission().guard(handle))
    with caplog.at_level(logging.INFO, logger="bbio"):
        async with TestClient(TestServer(application)) as client, client.get("/") as response:
            assert response.status == 400
    assert "refused a GET from 127.0.0.1: 400 no such\\nprotocol" in caplog.messages


def test_a_websocket_that_a_proxy_has_undone_is_refused():
    """As nginx does where nobody tells it otherwise; the text says what it has to do."""
    path = "/?transport=websocket"
    refused = admission().refusal(request(path=path))
    assert (refused.status, refused.text[:20]) == (400, "this is no websocket")
    assert admission().refusal(request(("Upgrade", "WebSocket"), path=path)) is None
    assert admission().refusal(request(path="/?transport=polling")) is None


async def test_a_refusal_repeats_nothing_of_the_request():
    """What stands in a link must not come to stand in a page of the server's."""

    async def handle(request):
        return web.Response(status=400, text=f"Invalid session {request.query.get('sid')}")

    answered = await admission().guard(handle)(request(path="/?sid=<script>"))
    assert answered.text == "the session is unknown"
    answered = await admission().guard(handle)(request(path="/?sid="))
    assert answered.text == "Invalid session "
