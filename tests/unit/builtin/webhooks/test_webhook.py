"""Webhook by itself, with real receivers: what is sent, and what their answers mean."""

import asyncio
import contextlib
import logging
import time

import pytest
from yarl import URL

from bbio import App, Backend, ConfigurationError, Unavailable
from bbio.builtin import SQLiteStore, Webhook, WebhookRefused
from bbio.builtin.webhooks import posting
from bbio.builtin.webhooks.webhook import id_of, seconds_of
from bbio.consumers import GiveUp
from bbio.events import Event
from tests.support.listeners import until
from tests.support.receivers import Names, client_context, event, receiver, server_context

SECRET = Webhook.make_secret()


@contextlib.asynccontextmanager
async def webhook_to(served, url=None, **options):
    """A webhook to a receiver of the test's own machine."""
    options = {"secret": SECRET, "internal_hosts": [served.host], **options}
    if callable(url):
        options.setdefault("hosts", [])
    webhook = Webhook(served.url if url is None else url, **options)
    try:
        yield webhook
    finally:
        await webhook.aclose()


def connections(monkeypatch, error=None):
    """A list of the addresses that are connected to from now on; with an error, none of them can be reached."""
    loop, connected = asyncio.get_running_loop(), []
    connect = loop.sock_connect

    async def record(sock, address):
        connected.append(address[0])
        if error is not None:
            raise error
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", record)
    return connected


async def refused(webhook, told=None):
    with pytest.raises(WebhookRefused) as caught:
        await webhook(event() if told is None else told)
    return caught.value


async def test_an_event_is_posted_and_signed():
    async with receiver() as served, webhook_to(served) as webhook:
        await webhook(event())
        (posted,) = served.posted
        data = {"channel": "home", "model": {"id": 7, "title": "Müll"}, "rev": 19}
        assert posted.verify(SECRET) == {"type": "issues.update", "data": data}
        assert posted.path == "/hook"
        assert posted.headers["Content-Type"] == "application/json"
        assert posted.headers["User-Agent"] == "bbio"
        assert abs(int(posted.headers["webhook-timestamp"]) - time.time()) < 60


async def test_an_attempt_is_repeated_with_the_same_id_and_body():
    """And a timestamp of its own, as a receiver refuses old ones."""
    async with receiver() as served, webhook_to(served) as webhook:
        await webhook(event())
        webhook._clock = lambda: time.time() + 100
        await webhook(event())
        one, two = served.posted
        assert one.headers["webhook-id"] == two.headers["webhook-id"]
        assert one.body == two.body
        assert int(two.headers["webhook-timestamp"]) - int(one.headers["webhook-timestamp"]) >= 99
        assert one.verify(SECRET) == two.verify(SECRET)


def test_each_event_has_an_id_of_its_own():
    """It hides the names of channels, and no part of it is for the receiver to read."""
    same = [event(), event(), event("create")]
    assert len({id_of(each) for each in same}) == 1
    others = [event(offset=43), event(epoch="9a0d"), event(stream="c:"), event(backend="todos")]
    assert len({id_of(each) for each in [*same, *others]}) == 5
    assert id_of(event(stream="c:Küche\r\nX-Evil: 1")).isascii()
    resets = [Event("reset", backend="issues"), Event("reset", backend="todos")]
    assert len({id_of(each) for each in resets}) == 2
    with pytest.raises(ConfigurationError, match="no id"):
        id_of(Event("update", {"id": 7}))


async def test_ids_of_events_that_are_read_again():
    """The log of a database says the same of an event each time, also to another process after a restart."""

    class Issues(Backend):
        store = SQLiteStore("issues.db")

    async with App().serve(Issues).test() as t:
        issues = t.backends["issues"]
        async with issues.events() as events:
            begun = events.position
            await issues.create({"title": "milk"})
            await issues.create({"title": "tea"}, channel="home")
            first = [id_of(await anext(events)) for _ in range(2)]
        async with issues.events(since=begun) as events:
            assert [id_of(await anext(events)) for _ in range(2)] == first
        await t.restart()
        async with t.backends["issues"].events(since=begun) as events:
            read = [await anext(events) for _ in range(2)]
        assert [id_of(each) for each in read] == first
        assert len(set(first)) == 2
        assert {each.backend for each in read} == {"issues"}


async def test_a_reset_is_posted():
    async with receiver() as served, webhook_to(served) as webhook:
        await webhook(Event("reset", backend="issues"))
        assert served.posted[0].verify(SECRET) == {
            "type": "issues.reset",
            "data": {"channel": None, "model": None, "rev": None},
        }


async def test_a_secret_is_replaced():
    """While there are two, receivers with either of them take the message."""
    old, new = Webhook.make_secret(), Webhook.make_secret()
    async with receiver() as served, webhook_to(served, secret=[new, old]) as webhook:
        await webhook(event())
        assert served.posted[0].verify(old) == served.posted[0].verify(new)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_answers_that_are_well(status):
    async with receiver() as served, webhook_to(served) as webhook:
        served.status = status
        await webhook(event())


@pytest.mark.parametrize("status", [300, 304, 400, 401, 403, 404, 405, 409, 410, 413, 422, 451])
async def test_answers_that_end_it(status):
    """Another attempt would be answered alike: a consumer gives the event up at once."""
    async with receiver() as served, webhook_to(served) as webhook:
        served.status = status
        err = await refused(webhook)
        assert isinstance(err, GiveUp)
        assert err.status == status
        assert f"status {status}" in str(err)
        assert ("remove the webhook" in str(err)) == (status == 410)
        assert len(served.posted) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_answers_that_ask_for_another_attempt(status):
    async with receiver() as served, webhook_to(served) as webhook:
        served.status = status
        with pytest.raises(Unavailable, match=f"status {status}") as caught:
            await webhook(event())
        assert caught.value.retry_after is None
        served.headers = {"Retry-After": "17"}
        with pytest.raises(Unavailable) as caught:
            await webhook(event())
        assert caught.value.retry_after == 17.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("99999999", 3_600.0),
        ("9" * 5_000, 3_600.0),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:01:40 -0000", 90.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3_600.0),
        ("Fri, 31 Dec 99999999999 23:59:59 GMT", None),
    ],
)
def test_when_to_try_again(header, seconds):
    """At most in an hour, and not at all by what is no time."""
    assert seconds_of(header, 10.0) == seconds


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status):
    """Neither within a host nor to another one."""
    async with receiver() as other, receiver() as served:
        async with webhook_to(served, internal_hosts=[served.host, other.host]) as webhook:
            for target in (other.url, "/elsewhere"):
                served.status, served.headers = status, {"Location": target}
                assert "redirects are not followed" in str(await refused(webhook))
        assert other.posted == []
        assert {each.path for each in served.posted} == {"/hook"}


async def test_a_receiver_that_does_not_answer():
    async with receiver() as served, webhook_to(served, timeout=0.3) as webhook:
        served.is_silent = True
        with pytest.raises(Unavailable, match=r"did not answer within 0\.3 s"):
            await webhook(event())
        await asyncio.wait_for(served.gone.wait(), 20)


async def test_a_receiver_that_is_not_there():
    async with receiver() as served:
        pass
    async with webhook_to(served) as webhook:
        with pytest.raises(Unavailable, match=r"cannot be reached \(ConnectionRefusedError\)"):
            await webhook(event())


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000])
async def test_receivers_that_do_not_speak_http(answer):
    async def speak(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        webhook = Webhook(f"http://{host}/a-secret-path", secret=SECRET, internal_hosts=[host])
        with pytest.raises(Unavailable, match="gave no answer") as caught:
            await webhook(event())
        assert "a-secret-path" not in str(caught.value)
        await webhook.aclose()


async def test_a_connection_serves_again():
    """For all events of a while; a webhook that was closed opens another one when it is used again."""
    async with receiver() as served, webhook_to(served) as webhook:
        for _ in range(5):
            await webhook(event())
        assert len(served.clients) == 1
        await webhook.aclose()
        await webhook(event())
        assert len(served.clients) == 2


@pytest.mark.parametrize("part", [b"x", b"x" * 50_000])
async def test_answers_without_an_end(part, monkeypatch):
    """The status counts; of the rest some bytes are taken, for a short time, and the connection is closed."""
    monkeypatch.setattr(posting, "ANSWER_SECONDS", 0.2 if len(part) == 1 else 60.0)
    async with receiver() as served, webhook_to(served, timeout=60.0) as webhook:
        served.endless = part
        await asyncio.wait_for(webhook(event()), 30)
        await asyncio.wait_for(served.gone.wait(), 30)
        assert served.sent < 20_000_000
        served.status = 500
        with pytest.raises(Unavailable, match="status 500"):
            await asyncio.wait_for(webhook(event()), 30)


async def test_an_answer_that_ends_too_soon():
    """Its status counts."""

    async def speak(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        webhook = Webhook(f"http://{host}/", secret=SECRET, internal_hosts=[host])
        await webhook(event())
        await webhook.aclose()


async def test_nothing_of_an_answer_is_unpacked_or_kept():
    """A body that says it is packed is thrown away as it is; cookies are not sent back."""
    async with receiver() as served, webhook_to(served) as webhook:
        served.headers = {"Content-Encoding": "gzip", "Set-Cookie": "a=b; Path=/"}
        served.body = b"no gzip at all"
        await webhook(event())
        await webhook(event())
        assert len(served.clients) == 1
        assert "Cookie" not in served.posted[1].headers


async def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    """Such a proxy would look up the name again, and connect to wherever that leads."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with receiver() as served, webhook_to(served) as webhook:
        await webhook(event())
        assert len(served.posted) == 1


async def test_tls():
    """The certificate is checked, against the name in the address."""
    async with receiver(server_context()) as served:
        local = served.url.replace("127.0.0.1", "localhost")
        host = served.host.replace("127.0.0.1", "localhost")
        trusted = {"ssl_context": client_context(), "internal_hosts": [host, served.host]}
        async with webhook_to(served, local, **trusted) as webhook:
            await webhook(event())
            assert served.posted[0].verify(SECRET)
        async with webhook_to(served, local, internal_hosts=[host]) as webhook:
            with pytest.raises(Unavailable, match="CertVerification"):
                await webhook(event())
        async with webhook_to(served, **trusted) as webhook:  # no certificate of 127.0.0.1
            with pytest.raises(Unavailable, match="CertVerification"):
                await webhook(event())
        assert len(served.posted) == 1


async def test_a_function_chooses_the_receiver():
    """Webhooks of projects: each has an address and a secret of its own, or none."""
    secrets = {"one": Webhook.make_secret(), "two": Webhook.make_secret()}

    async with receiver() as served:

        async def url_of(told):
            return f"{served.url}/{told.channel}" if told.channel in secrets else None

        async def secret_of(told):
            return [secrets[told.channel]]

        def data_of(told):
            return None if told.method == "delete" else {"id": told.model["id"]}

        async with webhook_to(served, url_of, secret=secret_of, data=data_of) as webhook:
            for channel in ("one", "two", "three"):
                for method in ("create", "delete"):
                    await webhook(Event(method, {"id": 7, "key": "x"}, channel, 1, event().logged, backend="issues"))
        one, two = served.posted
        assert one.verify(secrets["one"]) == {"type": "issues.create", "data": {"id": 7}}
        assert two.verify(secrets["two"])
        assert (one.path, two.path) == ("/hook/one", "/hook/two")


@pytest.mark.parametrize(
    "url",
    [
        "http://{host}/",
        "https://{host}:1/",
        "https://localhost/",
        "https://127.0.0.1/",
        "https://evil.example.org/",
        "https://{host}@evil.example.org/",
        "https://evil.example.org/?{host}",
        "https://evil.example.org#{host}",
        "file:///etc/passwd",
        "no address",
        "",
        7,
        b"x",
    ],
)
async def test_addresses_that_a_function_may_not_choose(url, monkeypatch):
    """They are refused before anybody looks up a name."""
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Names().getaddrinfo)
    async with receiver() as served:
        given = url.format(host=served.host) if isinstance(url, str) else url
        webhook = Webhook(lambda told: given, secret=SECRET, hosts=["hooks.example.com", served.host])
        err = await refused(webhook)
        assert err.status is None
        assert served.clients == set()


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f.1", "0", "[::]"]
)
async def test_any_host_is_any_host_of_the_internet(host, monkeypatch):
    """Names and numbers that lead to the machine itself are refused, however they are written."""
    connected = connections(monkeypatch)
    webhook = Webhook(lambda told: f"https://{host}/", secret=SECRET, hosts=["*"])
    assert "address" in str(await refused(webhook))
    assert connected == []
    await webhook.aclose()


async def test_a_host_is_asked_for_once_and_what_was_looked_at_is_connected_to(monkeypatch):
    """A name that leads elsewhere a moment later (DNS rebinding) leads nowhere."""
    names = Names(hooks_example_com=[["1.1.1.1", "2606:4700::1"], ["127.0.0.1"]])
    connected = connections(monkeypatch, ConnectionRefusedError())
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names.getaddrinfo)
    webhook = Webhook("https://hooks.example.com/", secret=SECRET)
    with pytest.raises(Unavailable):
        await webhook(event())
    assert names.asked == ["hooks.example.com"]
    assert set(connected) == {"1.1.1.1", "2606:4700::1"}
    connected.clear()
    assert "address" in str(await refused(webhook))
    assert connected == []
    await webhook.aclose()


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "::ffff:10.0.0.1", "8.8.8.8"])
async def test_a_host_inside_leads_inside(address, monkeypatch):
    """Not to the metadata of a cloud, nor over http through the internet; a second address that is allowed serves."""
    connected, names = connections(monkeypatch), Names(crm_internal=[[address], [address, "127.0.0.1"]])
    async with receiver() as served:
        port = served.host.partition(":")[2]
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names.getaddrinfo)
        async with webhook_to(
            served, f"http://crm.internal:{port}/", internal_hosts=[f"crm.internal:{port}"]
        ) as webhook:
            await refused(webhook)
            assert connected == []
            await webhook(event())
            assert connected == ["127.0.0.1"]
            assert len(served.posted) == 1


async def test_connections_to_hosts_inside_are_for_them_alone():
    """A host that is no more named as one inside gets none, even if one is open."""
    async with receiver(server_context()) as served:
        local = served.host.replace("127.0.0.1", "localhost")
        options = {"ssl_context": client_context(), "hosts": [local], "internal_hosts": [local]}
        async with webhook_to(served, f"https://{local}/", **options) as webhook:
            await webhook(event())
            webhook._hosts._internal.clear()
            await refused(webhook)
            assert len(served.posted) == 1


async def test_no_secret_is_written_anywhere(caplog):
    """Errors and logs name the host alone; no path, query, secret, model or signature."""
    caplog.set_level(logging.DEBUG)
    path, texts = "/T0/private-path?key=private-key", []
    async with receiver() as served:
        url = URL(served.url).origin().join(URL(path))
        async with webhook_to(served, url, timeout=5.0) as webhook:
            for status in (200, 302, 404, 410, 503):
                served.status = status
                with contextlib.suppress(WebhookRefused, Unavailable):
                    await webhook(event())
                    continue
                with pytest.raises((WebhookRefused, Unavailable)) as caught:
                    await webhook(event())
                assert caught.value.__cause__ is None
                texts.append(str(caught.value))
            texts.append(repr(webhook))
        for wrong in (f"http://example.com{path}", f"https://user:private-key@example.com{path}"):
            with pytest.raises(ConfigurationError) as caught:
                Webhook(wrong, secret=SECRET)
            texts.append(str(caught.value))
    assert served.host in texts[0]
    sent = [SECRET, "private", "Müll", *(each.headers["webhook-signature"] for each in served.posted)]
    written = "\n".join(
        [*texts, *(record.getMessage() for record in caplog.records if record.name != "aiohttp.access")]
    )
    assert [each for each in sent if each in written] == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"url": "http://crm.example.com/"}, "only https"),
        ({"url": "http://crm.example.com/", "hosts": ["crm.example.com:80"]}, "only https"),
        ({"url": "https://crm.example.com/", "hosts": ["example.com"]}, "not in the list"),
        ({"url": "https://crm.example.com/", "hosts": []}, "not in the list"),
        ({"url": "crm.example.com"}, "begins with https://"),
        ({"url": "https://ann:x@crm.example.com"}, "without a user"),
        ({"url": None}, "give a string"),
        ({"url": lambda told: None}, "list the hosts"),
        ({"hosts": "crm.example.com"}, "give a list"),
        ({"hosts": ["https://crm.example.com"]}, "write 'crm"),
        ({"secret": "hunter2"}, "make_secret"),
        ({"secret": []}, "1 to 8"),
        ({"timeout": 0}, "seconds"),
        ({"timeout": float("inf")}, "seconds"),
        ({"timeout": float("nan")}, "seconds"),
    ],
)
def test_wrong_arguments(arguments, text):
    with pytest.raises(ConfigurationError, match=text) as caught:
        Webhook(**{"url": "https://crm.example.com/", "secret": SECRET, **arguments})
    assert "hunter2" not in str(caught.value)


async def test_a_function_that_returns_no_secret():
    """Nothing is sent without a signature."""
    async with receiver() as served, webhook_to(served, secret=lambda told: "hunter2") as webhook:
        with pytest.raises(ConfigurationError, match="make_secret"):
            await webhook(event())
        assert served.posted == []


def test_a_webhook_goes_on_in_another_event_loop():
    """Connections of the loop of before are left behind."""
    webhook = None

    async def post():
        nonlocal webhook
        async with receiver() as served:
            webhook = webhook or Webhook(lambda told: url[0], secret=SECRET, hosts=[], internal_hosts=["127.0.0.1:1"])
            webhook._hosts = type(webhook._hosts)([], [served.host])
            url[0] = served.url
            await webhook(event())
            await until(lambda: served.posted)
            await webhook.aclose()

    url = [""]
    asyncio.run(post())
    asyncio.run(post())


def test_names():
    assert repr(Webhook("https://crm.example.com/x", secret=SECRET)) == "<Webhook https://crm.example.com>"
    assert repr(Webhook(lambda told: None, secret=SECRET, hosts=["*"])) == "<Webhook of a function>"
