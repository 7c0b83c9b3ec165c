"""Hosts that webhooks may be posted to, and their addresses."""

import pytest
from yarl import URL

from bbio import ConfigurationError
from bbio.builtin.webhooks.hosts import Host, Hosts, is_own, is_public, read_url

PUBLIC = ["8.8.8.8", "172.15.255.255", "172.32.0.1", "100.63.0.1", "2606:4700:4700::1111", "2a00:1450::1"]
OWN = [
    "127.0.0.1",
    "127.9.9.9",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "::1",
    "fd12:3456::1",
    "fc00::1",
]
NOBODYS = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.1.1",
    "169.254.169.254",  # metadata of most clouds
    "169.254.170.2",
    "100.100.100.200",  # metadata of Alibaba
    "192.0.0.192",  # metadata of Oracle
    "168.63.129.16",  # metadata of Azure
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::ffff:1.1.1.1",
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "::127.0.0.1",
    "::1.1.1.1",
    "64:ff9b::a9fe:a9fe",  # NAT64 of 169.254.169.254
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",  # Teredo
    "2001:0:a9fe:a9fe::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:a9fe:a9fe::1",  # 6to4 of 169.254.169.254
    "2002:7f00:1::",
    "3fff::1",
    "5f00::1",
    "fd00:ec2::254",  # metadata of Amazon
    "fd20:ce::254",  # metadata of Google
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "127.1",
    "2130706433",
    "0x7f.0.0.1",
    "localhost",
    "",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet(address):
    assert is_public(address)
    assert not is_own(address)


@pytest.mark.parametrize("address", OWN)
def test_addresses_of_a_network_of_ones_own(address):
    assert is_own(address)
    assert not is_public(address)


@pytest.mark.parametrize("address", NOBODYS)
def test_addresses_that_are_never_asked(address):
    """Links, multicast, tunnels, IPv4 within IPv6, what is reserved, the metadata of clouds, what is no address."""
    assert not is_public(address)
    assert not is_own(address)


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        (
            "crm.example.com",
            ["https://crm.example.com/x?y", "https://CRM.example.com:443/", "https://\uff43rm.example.com"],
            [
                "https://crm.example.com:8443/",
                "https://x.crm.example.com/",
                "https://crm.example.com./",
                "https://crm.example.com.evil.org/",
                "https://evilcrm.example.com/",
                "https://example.com/",
                "https://evil.org/crm.example.com",
                "https://evil.org/?https://crm.example.com/",
            ],
        ),
        ("crm.example.com:8443", ["https://crm.example.com:8443/"], ["https://crm.example.com/"]),
        (
            "*.example.com",
            ["https://a.example.com/", "https://a.b.example.com/"],
            [
                "https://example.com/",
                "https://badexample.com/",
                "https://a.example.com.org/",
                "https://a.example.com:1/",
            ],
        ),
        ("*.example.com:444", ["https://a.example.com:444/"], ["https://a.example.com/"]),
        ("*", ["https://anything.org/", "https://1.1.1.1/"], ["https://anything.org:22/"]),
        ("*:8443", ["https://anything.org:8443/"], ["https://anything.org/"]),
        ("Bücher.example", ["https://xn--bcher-kva.example/", "https://bücher.example/"], ["https://bucher.example/"]),
        ("[2606:4700::1]:444", ["https://[2606:4700:0::1]:444/"], ["https://[2606:4700::1]/"]),
    ],
)
def test_entries(entry, inside, outside):
    """They match names whole, or from a dot on, and one port."""
    host = Host.read(entry)
    assert [each for each in inside if not host.matches(URL(each))] == []
    assert [each for each in outside if host.matches(URL(each))] == []


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "https://crm.example.com",
        "crm.example.com/hook",
        "crm.example.com:",
        "crm.example.com:x",
        "crm.example.com:99999",
        "*.",
        "*.*",
        "**",
        "a*.example.com",
        "user@example.com",
        "a b",
        "[::1",
        "[:::]",
        "::1",
        "xn--\u0000",
        7,
        None,
    ],
)
def test_entries_that_are_none(entry):
    with pytest.raises(ConfigurationError, match=r"write 'crm\.example\.com'"):
        Host.read(entry)


def test_hosts_inside_and_outside():
    """Over http only what is named as inside is asked, and only at its port."""
    hosts = Hosts(["crm.example.com"], ["crm.internal:8080", "[::1]:9000"])
    assert hosts.problem_of(URL("https://crm.example.com/")) is None
    assert "only https" in hosts.problem_of(URL("http://crm.example.com/"))
    assert "not in the list" in hosts.problem_of(URL("https://evil.org/"))
    for url in ("http://crm.internal:8080/", "https://crm.internal:8080/", "http://[::1]:9000/"):
        assert hosts.problem_of(URL(url)) is None
        assert hosts.is_internal(URL(url))
    assert "only https" in hosts.problem_of(URL("http://crm.internal:6379/"))
    assert not hosts.is_internal(URL("https://crm.example.com/"))


@pytest.mark.parametrize(
    ("public", "internal", "text"),
    [("crm.example.com", [], "give a list"), ([], "crm", "give a list"), ([], ["*"], "name the hosts")],
)
def test_lists_that_are_none(public, internal, text):
    with pytest.raises(ConfigurationError, match=text):
        Hosts(public, internal)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hook",
        "//crm.example.com/",
        "ftp://crm.example.com/",
        "file:///etc/passwd",
        "https:///hook",
        "https://crm.example.com:99999/",
        "https://crm.example.com:0/",
        "https://crm.example.com\\@evil.org/",
        "https://user@crm.example.com/",
        "https://user:secret@crm.example.com/",
        "https://:secret@crm.example.com/",
        "https://crm.example.com/" + "x" * 3_000,
        7,
        None,
        b"https://crm.example.com/",
    ],
)
def test_addresses_that_are_none(text):
    """The text says what is wrong, and quotes nothing."""
    with pytest.raises(ValueError, match="give ") as caught:
        read_url(text)
    assert "secret" not in str(caught.value)
    assert "crm" not in str(caught.value)


def test_what_is_after_the_name_does_not_matter():
    """Nothing in a path, a query or a fragment is taken for a host."""
    url = read_url("https://evil.org#@crm.example.com/")
    assert url.raw_host == "evil.org"
    assert read_url(URL("https://crm.example.com/a")).path == "/a"
