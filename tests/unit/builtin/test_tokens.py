"""Token by itself: which tokens are taken, which are refused, and which cannot be checked at the moment."""

import asyncio
import base64
import json
import sys
import threading
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from multidict import CIMultiDict, CIMultiDictProxy

from bbio import Backend, ConfigurationError, Request, Unauthorized, Unavailable
from bbio.builtin import Token
from bbio.builtin.tokens import keys as keys_module
from bbio.builtin.tokens import opaque as opaque_module
from bbio.server.connection import ClientSocket, Connection
from bbio.server.limits import Limits
from tests.support.listeners import until
from tests.support.tokens import SECRET, ec_key, jwk, key_server, rsa_key, signed

HS = {"algorithms": ["HS256"]}
RS = {"algorithms": ["RS256"]}


class Index:
    """The clock of a socket."""

    revocations = 0

    def __init__(self):
        self.at = time.time()

    def clock(self):
        return self.at

    def change(self, *_):
        """Nobody asks."""


def socket_of(token, header=None):
    headers = CIMultiDictProxy(CIMultiDict({} if header is None else {"Authorization": header}))
    connection = Connection(headers, "127.0.0.1", Limits(), lambda: 0.0)
    auth = None if token is None else json.dumps({"token": token}).encode()
    socket = object.__new__(ClientSocket)
    runtime = type("R", (), {"backend": None, "namespace": "/x", "id_attribute": "id", "name": "x"})
    socket.__init__("s", runtime, connection, None, auth, Index())
    return socket


async def asked(layer, socket):
    req = Request("read", socket=socket)
    waiting = layer.identify(req)
    if waiting is not None:
        await waiting
    return req


async def user_of(layer, token, **options):
    return (await asked(layer, socket_of(token, **options))).user


def pem(key):
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def private_pem(name):
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return rsa_key(name).private_bytes(*kinds).decode()


async def refused(layer, token):
    with pytest.raises(Unauthorized) as caught:
        await user_of(layer, token)
    assert not token or str(token)[:50] not in str(caught.value)
    return caught.value


async def shut_out(layer, token):
    """Expect that a token lets nobody in, be it that keys are asked for again before that is said for ever."""
    with pytest.raises((Unauthorized, Unavailable)):
        await user_of(layer, token)


async def test_a_token_says_who_asks():
    """That of `auth`, or of the header; the identity ends with it; each request has a user of its own."""
    layer = Token(SECRET, **HS)
    assert (await user_of(layer, signed(roles=["a"])))["sub"] == "ann"
    socket = socket_of(None, f"bEaReR {signed()}")
    one, two = await asked(layer, socket), await asked(layer, socket)
    one.user["sub"] = "eve"
    assert two.user["sub"] == "ann"
    two.user["sub"] = "eve"
    assert (await asked(layer, socket)).user["sub"] == "ann"
    assert one.identity is two.identity is socket.identity
    assert socket.identity.subject == "ann"
    assert socket.identity.expires == pytest.approx(time.time() + 3_600, abs=5)
    named = Token(SECRET, **HS, user=lambda claims: claims["sub"].upper())
    assert await user_of(named, signed()) == "ANN"
    nobody = Token(SECRET, **HS, user=lambda claims: None)
    await refused(nobody, signed())
    assert (await asked(layer, None)).user is None


async def test_without_a_token():
    await refused(Token(SECRET, **HS), None)
    free = Token(SECRET, **HS, required=False)
    assert await user_of(free, None) is None
    assert await user_of(free, None, header="Basic YTpi") is None
    await refused(free, "no token")


def unsigned(header):
    parts = [header, {"sub": "ann", "aud": "us", "iss": "them", "exp": time.time() + 60}]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


def whole(key=SECRET, algorithm="HS256", **claims):
    """A token that is valid for us, but for what the claims say."""
    return signed(key, algorithm, **{"aud": "us", "iss": "them", **claims})


@pytest.mark.parametrize(
    "make",
    [
        lambda: unsigned({"alg": "none", "typ": "JWT"}),
        lambda: unsigned({"alg": "None"}),
        lambda: unsigned({"alg": ["HS256"]}),
        lambda: unsigned({"alg": "HS256"}),
        lambda: whole("another secret that is long enough for it"),
        lambda: whole(SECRET + SECRET, "HS512"),
        lambda: whole()[:-2],
        lambda: whole() + "x",
        lambda: whole(aud="others"),
        lambda: whole(aud=None),
        lambda: whole(iss="others"),
        lambda: whole(iss=None),
        lambda: whole(exp=None),
        lambda: whole(exp=True),
        lambda: jwt.encode({"sub": "ann", "aud": "us", "iss": "them", "exp": "soon"}, SECRET),
        lambda: jwt.encode({"sub": "ann", "aud": "us", "iss": "them", "exp": 1e400}, SECRET),
        lambda: whole(sub=None),
        lambda: whole(sub=""),
        lambda: whole(sub=7),
        lambda: whole(padding="x" * 9_000),
        lambda: "",
        lambda: "....",
        lambda: "ä.ö.ü",
        lambda: 7,
        lambda: {"sub": "ann"},
        lambda: ["x"],
        lambda: "[" * 8_000,
    ],
)
async def test_bad_tokens(make):
    """None is let in, and none is repeated in the answer."""
    layer = Token(SECRET, **HS, audience="us", issuer=["them"])
    token = make()
    assert (await refused(layer, token)).expired is None
    assert (await user_of(layer, whole(padding="x" * 1_000)))["sub"] == "ann"


async def test_times():
    """By the clock of the application; the leeway counts in both directions."""
    now = time.time()
    layer, lenient = Token(SECRET, **HS), Token(SECRET, **HS, leeway=60)
    assert (await refused(layer, signed(exp=now - 1))).expired is True
    assert (await user_of(lenient, signed(exp=now - 1)))["sub"] == "ann"
    assert (await refused(lenient, signed(exp=now - 61))).expired is True
    for name in ("nbf", "iat"):
        assert "not valid yet" in str(await refused(layer, signed(**{name: now + 30})))
        assert await user_of(lenient, signed(**{name: now + 30}))
    socket = socket_of(signed(exp=now + 100))
    await asked(layer, socket)
    socket.identities.at = now + 101
    with pytest.raises(Unauthorized) as caught:
        await asked(layer, socket)
    assert caught.value.expired is True


async def test_algorithms_that_are_not_named():
    """A token cannot choose one, though its key would do for it."""
    key = rsa_key("one")
    async with key_server() as server:
        server.keys = [{name: value for name, value in jwk("one").items() if name != "alg"}]
        layer = Token(jwks=server.url, **RS)
        assert await user_of(layer, signed(key, "RS256", kid="one"))
        for algorithm in ("RS512", "PS256"):
            await refused(layer, signed(key, algorithm, kid="one"))
        await layer.stop()
    layer = Token(pem(key), **RS)
    for algorithm in ("RS512", "PS256"):
        await refused(layer, signed(key, algorithm))


async def test_a_key_that_is_for_one_algorithm():
    """It is not used for another one, though that is allowed for other keys."""
    key = rsa_key("one")
    async with key_server() as server:
        server.keys = [jwk("one"), jwk("two", alg="RS512")]
        layer = Token(jwks=server.url, algorithms=["RS256", "RS512"])
        assert await user_of(layer, signed(key, "RS256", kid="one"))
        await shut_out(layer, signed(key, "RS512", kid="one"))
        assert await user_of(layer, signed(rsa_key("two"), "RS512", kid="two"))
        await layer.stop()


async def test_keys_of_a_set_that_are_no_secret_of_their_issuer():
    """Private and shared keys that anybody can read check nothing, beside a key that does."""
    private, ec_private = (
        json.loads(kind.to_jwk(key))
        for kind, key in ((jwt.algorithms.RSAAlgorithm, rsa_key("two")), (jwt.algorithms.ECAlgorithm, ec_key("two")))
    )
    shared = {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("=")}
    async with key_server() as server:
        server.keys = [{**private, "kid": "rsa"}, {**ec_private, "kid": "ec"}, {**shared, "kid": "oct"}, jwk("one")]
        layer = Token(jwks=server.url, algorithms=["RS256", "ES256"])
        assert await user_of(layer, signed(rsa_key("one"), "RS256", kid="one"))
        await shut_out(layer, signed(rsa_key("two"), "RS256", kid="rsa"))
        await shut_out(layer, signed(ec_key("two"), "ES256", kid="ec"))
        await shut_out(layer, signed(SECRET, "HS256", kid="oct"))
        await layer.stop()


async def test_a_key_that_is_taken_back():
    """Once the set is fetched again, it checks nothing any more."""
    async with key_server() as server:
        server.keys = [jwk("one"), jwk("two")]
        layer = Token(jwks=server.url, **RS)
        now = [100.0]
        layer._signed.keys._clock = lambda: now[0]
        token = signed(rsa_key("two"), "RS256", kid="two")
        assert await user_of(layer, token)
        server.keys = [jwk("one")]
        now[0] += 3_500
        assert await user_of(layer, token)
        now[0] += 200
        assert await user_of(layer, token)  # the set is fetched meanwhile
        await until(lambda: server.asked == 2 and layer._signed.keys._fetching is None)
        await shut_out(layer, token)
        assert await user_of(layer, signed(rsa_key("one"), "RS256", kid="one"))
        await layer.stop()


async def test_several_keys():
    """By name, or each in turn; a token that names a key is checked with no other."""
    old, new = SECRET, "the secret that comes after that of before"
    both = Token([new, old], **HS)
    assert await user_of(both, signed(old))
    assert await user_of(both, signed(new))
    named = Token({"new": new, "old": old}, **HS)
    assert await user_of(named, signed(old, kid="old"))
    assert await user_of(named, signed(old))
    await refused(named, signed(old, kid="new"))
    await refused(named, signed(old, kid="other"))


async def test_a_token_that_names_no_key_is_checked_with_eight():
    """More keys take no more time; one that it names is found among any number."""
    keys = {f"key {number}": ec_key(f"key {number}") for number in range(9)}
    layer = Token({name: pem(key) for name, key in keys.items()}, algorithms="ES256")
    assert await user_of(layer, signed(keys["key 7"], "ES256"))
    await refused(layer, signed(keys["key 8"], "ES256"))
    assert await user_of(layer, signed(keys["key 8"], "ES256", kid="key 8"))


async def test_public_keys():
    """Of either kind; a secret made of the public key opens nothing."""
    one, other = rsa_key("one"), ec_key("other")
    layer = Token(pem(one), **RS)
    assert (await user_of(layer, signed(one, "RS256")))["sub"] == "ann"
    await refused(layer, signed(rsa_key("two"), "RS256"))
    await refused(layer, signed("x" * 64, "HS256"))
    assert await user_of(Token(pem(other), algorithms="ES256"), signed(other, "ES256"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "one of the three"),
        ({"key": SECRET, "jwks": "https://x"}, "one of the three"),
        ({"key": SECRET}, "name those"),
        ({"key": SECRET, "algorithms": ["none"]}, "name those"),
        ({"key": SECRET, "algorithms": ["RS1"]}, "name those"),
        ({"key": SECRET, "algorithms": ["HS256", "RS256"]}, "both sides share"),
        ({"jwks": "https://x", "algorithms": ["HS256"]}, "both sides share"),
        ({"jwks": "http://example.org/keys", **RS}, "https"),
        ({"jwks": "file:///keys", **RS}, "https"),
        ({"key": "short", **HS}, "at least 32 bytes"),
        ({"key": "", **HS}, "empty"),
        ({"key": [], **HS}, "empty"),
        ({"key": "no key", **RS}, "no key for RS256"),
        ({"key": 12345, **HS}, "no key for HS256"),
        ({"key": private_pem("one"), **RS}, "private"),
        ({"key": pem(rsa_key("one")), "algorithms": ["RS256", "ES256"]}, "no key for ES256"),
        ({"key": SECRET, **HS, "leeway": -1}, "seconds"),
        ({"key": SECRET, **HS, "warn": float("inf")}, "seconds"),
    ],
)
def test_wrong_arguments(arguments, text):
    with pytest.raises(ConfigurationError, match=text) as caught:
        Token(**arguments)
    assert SECRET not in str(caught.value)


async def test_keys_of_two_kinds():
    """Each is for the algorithms that it fits."""
    one, other = rsa_key("one"), ec_key("o")
    layer = Token([pem(one), pem(other)], algorithms=["RS256", "ES256"])
    assert await user_of(layer, signed(one, "RS256"))
    assert await user_of(layer, signed(other, "ES256"))
    await refused(layer, signed(rsa_key("two"), "RS256"))


async def test_an_end_beyond_numbers():
    await refused(Token(SECRET, **HS), signed(exp=10**400))


async def test_keys_without_a_name_that_are_replaced():
    """They are fetched again, not too often."""

    def unnamed(name):
        return {key: value for key, value in jwk(name).items() if key != "kid"}

    async with key_server() as server:
        server.keys = [unnamed("one")]
        layer = Token(jwks=server.url, **RS)
        now = [100.0]
        layer._signed.keys._clock = lambda: now[0]
        assert await user_of(layer, signed(rsa_key("one"), "RS256"))
        server.keys = [unnamed("two")]
        await refused(layer, signed(rsa_key("two"), "RS256"))
        now[0] += 60
        assert await user_of(layer, signed(rsa_key("two"), "RS256"))
        await layer.stop()


def test_without_pyjwt(monkeypatch):
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ConfigurationError, match=r"bbio\[auth\]"):
        Token(SECRET, **HS)
    Token(verify=lambda token: None)  # that needs none


async def test_keys_of_an_address():
    """Fetched once for all who ask; a new key is found when a token names it, at most each ten seconds."""
    async with key_server() as server:
        layer = Token(jwks=server.url, **RS)
        now = [100.0]
        layer._signed.keys._clock = lambda: now[0]
        token = signed(rsa_key("one"), "RS256", kid="one")
        users = await asyncio.gather(*(user_of(layer, token) for _ in range(20)))
        assert {user["sub"] for user in users} == {"ann"}
        assert server.asked == 1
        assert await user_of(layer, signed(rsa_key("one"), "RS256"))
        server.keys = [jwk("one"), jwk("two")]
        later = signed(rsa_key("two"), "RS256", kid="two")
        now[0] += 3
        with pytest.raises(Unavailable) as caught:
            await user_of(layer, later)
        assert caught.value.retry_after == 7.0
        now[0] += 7
        assert (await user_of(layer, later))["sub"] == "ann"
        assert server.asked == 2
        now[0] += 11
        for _ in range(50):
            await refused(layer, signed(rsa_key("two"), "RS256", kid="three"))
        assert server.asked == 3
        await refused(layer, signed(rsa_key("one"), "RS256", kid="two"))
        # Old keys serve while new ones are fetched, and while none can be had.
        now[0] += 4_000
        server.status = 500
        assert await user_of(layer, token)
        await layer._signed.keys._fetching
        assert await user_of(layer, token)
        with pytest.raises(Unavailable):
            await user_of(layer, signed(rsa_key("two"), "RS256", kid="three"))
        await layer.stop()


async def test_made_up_names_shut_nobody_out():
    """A token with a new key is told to come back, however many others name keys that there are not."""
    async with key_server() as server:
        layer = Token(jwks=server.url, **RS)
        keys, now = layer._signed.keys, [100.0]
        keys._clock = lambda: now[0]
        for number in range(4):
            await refused(layer, signed(rsa_key("one"), "RS256", kid=f"made up {number}"))
            for other in range(5):
                with pytest.raises(Unavailable):
                    await user_of(layer, signed(rsa_key("one"), "RS256", kid=f"made up {number} {other}"))
            now[0] += 10
        assert server.asked == 4
        # A name that was just looked for in vain is not told to come back.
        now[0] -= 10
        await refused(layer, signed(rsa_key("one"), "RS256", kid="made up 3"))
        assert server.asked == 4


async def test_a_fetch_under_way_may_be_too_early_for_a_key():
    """Who comes while keys are fetched is not told that there is no such key."""
    async with key_server() as server:
        layer = Token(jwks=server.url, **RS)
        await user_of(layer, signed(rsa_key("one"), "RS256", kid="one"))
        layer._signed.keys._asked_at = None
        server.delay = 0.1
        first, second = [
            asyncio.create_task(user_of(layer, signed(rsa_key("two"), "RS256", kid=kid))) for kid in ("two", "three")
        ]
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(each).__name__ for each in outcomes] == ["Unauthorized", "Unavailable"]
        assert server.asked == 2


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 302},
        {"body": json.dumps({"keys": [jwk("one")]}).encode() + b" " * 300_000},
        {"body": b"no json"},
        {"body": b"[]"},
        {"body": b'{"keys": 7}'},
        {"keys": [jwk("one")] + [{}] * 200},
        {"keys": [{"kty": "oct", "k": "AAAA", "kid": "one"}, "odd", {"kty": "RSA"}, jwk("one", use="enc")]},
        {"keys": [jwk("one", alg="ES256"), jwk("one", kid=7)]},
        {"delay": 0.6},
    ],
)
async def test_keys_that_cannot_be_had(fault, monkeypatch, caplog):
    """Nobody is let in, the client is not at fault, and once the server is well again all is."""
    monkeypatch.setattr(keys_module, "FETCH_SECONDS", 0.3)
    async with key_server() as server:
        well = dict(vars(server))
        vars(server).update(fault)
        layer = Token(jwks=server.url, **RS)
        now = [100.0]
        layer._signed.keys._clock = lambda: now[0]
        token = signed(rsa_key("one"), "RS256", kid="one")
        for _ in range(3):
            with pytest.raises(Unavailable):
                await user_of(layer, token)
        assert server.asked == 1
        assert token not in caplog.text
        vars(server).update(well)
        now[0] += 11
        assert await user_of(layer, token)


async def test_the_server_of_the_keys_leads_nowhere_else():
    """A redirect is not followed, not even to keys."""
    async with key_server() as other, key_server() as server:
        server.status, server.location = 302, other.url
        layer = Token(jwks=server.url, **RS)
        with pytest.raises(Unavailable):
            await user_of(layer, signed(rsa_key("one"), "RS256", kid="one"))
        assert (server.asked, other.asked) == (1, 0)
        await layer.stop()


async def test_a_fetch_ends_with_the_application():
    async with key_server() as server:
        server.delay = 0.3
        layer = Token(jwks=server.url, **RS)
        waiting = asyncio.create_task(user_of(layer, signed(rsa_key("one"), "RS256", kid="one")))
        await until(lambda: layer._signed.keys._fetching is not None)
        await layer.stop()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(0.3)
        assert layer._signed.keys._fetching is None
    await Token(SECRET, **HS).stop()


async def test_opaque_tokens(monkeypatch):
    """A function is asked once, and again after a while; it may be async."""
    calls = []

    async def verify(token):
        calls.append(token)
        await asyncio.sleep(0)
        return {"good": ({"id": "ann"}, None), "old": ({"id": "ann"}, 5.0)}.get(token)

    layer = Token(verify=verify)
    socket = socket_of("good")
    assert [each.user["id"] for each in await asyncio.gather(*(asked(layer, socket) for _ in range(5)))] == ["ann"] * 5
    assert await user_of(layer, "good") == {"id": "ann"}
    assert calls == ["good"]
    socket.identities.at += 61
    assert (await asked(layer, socket)).user["id"] == "ann"
    assert calls == ["good", "good"]
    assert (await refused(layer, "old")).expired is True
    await refused(layer, "bad")
    monkeypatch.setattr(opaque_module, "MAX_ANSWERS", 3)
    for number in range(10):
        await refused(layer, f"bad{number}")
    assert len(layer._opaque._answers) <= 4
    now = time.time()
    plain = Token(verify=lambda token: ("ann", now + 10))
    socket = socket_of("x")
    assert (await asked(plain, socket)).identity.expires == now + 10
    socket.identities.at = now + 11
    with pytest.raises(Unauthorized) as caught:
        await asked(plain, socket)
    assert caught.value.expired is True
    await plain.stop()


async def test_an_opaque_token_that_is_taken_back():
    """An answer of before a revocation is not used after it, by whatever connection."""
    answers = {"x": ("ann", None)}
    layer = Token(verify=answers.get)
    socket, other = socket_of("x"), socket_of("x")
    assert (await asked(layer, socket)).user == "ann"
    del answers["x"]
    assert (await asked(layer, other)).user == "ann"
    later = socket_of("x")
    later.identities.revocations = 1
    with pytest.raises(Unauthorized):
        await asked(layer, later)


async def test_a_function_that_fails(monkeypatch, caplog):
    """Nobody is let in, and no token is logged."""

    def broken(token):
        raise OSError("the issuer is down")

    async def slow(token):
        await asyncio.sleep(30)

    for verify, seconds in ((broken, 30.0), (slow, 0.05)):
        monkeypatch.setattr(opaque_module, "VERIFY_SECONDS", seconds)
        with pytest.raises(Unavailable):
            await user_of(Token(verify=verify), "a-secret-token")
    monkeypatch.setattr(opaque_module, "VERIFY_SECONDS", 30.0)
    assert "a-secret-token" not in caplog.text

    def forbids(token):
        raise Unauthorized("locked")

    with pytest.raises(Unauthorized, match="locked"):
        await user_of(Token(verify=forbids), "x")
    for odd in (("ann",), "ann", (None, None)):
        with pytest.raises(ConfigurationError, match="returns"):
            await user_of(Token(verify=lambda token, odd=odd: odd), "x")
    waiting = Token(verify=slow)
    task = asyncio.create_task(user_of(waiting, "x"))
    await until(lambda: waiting._opaque._asking)
    await waiting.stop()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("end", [float("nan"), float("inf"), True, "tomorrow", 10**400])
async def test_a_function_that_returns_no_time(end):
    """Nobody is let in without an end."""
    with pytest.raises(ConfigurationError, match="seconds since 1970"):
        await user_of(Token(verify=lambda token: ("ann", end)), "x")


async def test_a_plain_function_holds_up_nobody():
    """It runs in a thread of its own."""
    threads = []

    def verify(token):
        threads.append(threading.get_ident())
        return token, None

    assert await user_of(Token(verify=verify), "ann") == "ann"
    assert threads[0] != threading.get_ident()


async def test_a_new_token_meanwhile():
    """A request that was checking the old one is of the new one."""
    gate = asyncio.Event()

    async def verify(token):
        await gate.wait()
        return (token, None)

    layer = Token(verify=verify)
    socket = socket_of("ann")
    task = asyncio.create_task(asked(layer, socket))
    await asyncio.sleep(0)
    socket.take_auth(socket.try_auth(b'{"token":"ann2"}'))
    gate.set()
    assert (await task).user == "ann2"


def test_it_is_middleware():
    class Todos(Backend):
        middleware = [Token(SECRET, **HS)]

    assert Todos.middleware
