"""Tokens on live connections: over the wire on both engines, and in `app.test()`, where time passes at once."""

import asyncio
import time

import pytest

from bbio import App, Backend, Unauthorized, Unavailable
from bbio.builtin import MemoryStore, Session, Token
from tests.support.listeners import until
from tests.support.tokens import SECRET, jwk, key_server, rsa_key, signed


def notes(**options):
    class Notes(Backend):
        middleware = [Token(**options)]
        store = MemoryStore()

    return Notes


SIGNED = {"key": SECRET, "algorithms": ["HS256"]}


async def test_tokens_over_the_wire(serve, dial):
    """By `auth` and by the header; without one, or with a bad one, nothing is had."""
    app = await serve(notes(**SIGNED))
    for auth, headers in (({"token": signed()}, {}), (None, {"Authorization": f"Bearer {signed()}"})):
        wire = await dial(app, headers=headers)
        there = await wire.connect("/notes", auth)
        (reply,) = await there.call("listen", None)
        assert reply == {"event": "backend"}
        assert (await there.call("sync", {"method": "read", "model": {}, "options": {}}))[0] is None
    for auth in (None, {"token": "bad"}, {"token": 7}, {"token": signed("x" * 40)}, {"token": signed(exp=1)}):
        there = await (await dial(app)).connect("/notes", auth)
        for asked in (("listen", None), ("sync", {"method": "read", "model": {}, "options": {}})):
            (reply,) = await there.call(*asked)
            assert reply["error"]["name"] == "Unauthorized"
            assert (
                reply["error"].get("expired") is (True if auth == {"token": signed(exp=1)} else None)
                or auth is not None
            )


async def test_the_end_of_a_token_over_the_wire(serve, dial):
    """The client is told, refused as expired, and let in with a new token of the same user alone."""
    app = await serve(notes(**SIGNED, warn=0.4))
    there = await (await dial(app)).connect("/notes", {"token": signed(exp=time.time() + 0.6)})
    await there.call("listen", None, {"v": 1})
    name, told = await there.event()
    assert (name, 0 < told["expires_in"] <= 0.4) == ("auth", True)
    assert await there.event() == ["auth", {"expires_in": 0.0}]
    assert await there.event() == ["resync", "c:"]
    (reply,) = await there.call("sync", {"method": "read", "model": {}, "options": {}})
    assert reply["error"]["expired"] is True
    (reply,) = await there.call("auth", {"token": signed(sub="eve")})
    assert reply["error"]["name"] == "Forbidden"
    (reply,) = await there.call("auth", {"token": signed(exp=time.time() - 1)})
    assert reply["error"] == {"name": "Unauthorized", "message": "the token has expired", "code": 401, "expired": True}
    (reply,) = await there.call("auth", {"token": signed()})
    assert 3_500 < reply["expires_in"] <= 3_600


async def test_keys_of_a_server_over_the_wire(serve, dial):
    """While they cannot be had nobody is let in, and nobody is at fault."""
    async with key_server() as keys:
        keys.status = 500
        app = await serve(notes(jwks=keys.url, algorithms=["RS256"]))
        layer = app.backends["notes"].backend.middleware[0]
        token = signed(rsa_key("one"), "RS256", kid="one")
        there = await (await dial(app)).connect("/notes", {"token": token})
        (reply,) = await there.call("listen", None)
        assert reply["error"]["name"] == "Unavailable"
        keys.status, keys.keys = 200, [jwk("one")]
        layer._signed.keys._asked_at = None
        assert await there.call("listen", None) == [{"event": "backend"}]


async def test_in_a_test_time_passes_at_once():
    """A token ends, another takes its place, and what was missed is there; a client that does not renew it is cut."""
    async with App().serve(notes(**SIGNED)).test() as t:
        ann = await t.client(auth={"token": signed(exp=t.time() + 100)})
        bob = await t.client(auth={"token": signed(sub="bob", exp=t.time() + 1e6)})
        mine = t.connections[0]
        t.pass_time(50)
        await ann.create({"title": "a"})
        t.pass_time(51)
        with pytest.raises(Unauthorized) as caught:
            await ann.create({"title": "b"})
        assert caught.value.expired is True
        await bob.create({"title": "missed"})
        with pytest.raises(Unauthorized):
            await mine.authenticate("bad")
        await mine.authenticate(signed(exp=t.time() + 100))
        assert [each["title"] for each in await ann.read()] == ["a", "missed"]
        assert await t.app.revoke(user="bob") == 1
        with pytest.raises(ValueError, match="forward"):
            t.pass_time(-1)
        t.pass_time(200)
        socket = mine._sockets["notes"]
        assert socket.is_suspended
        t.pass_time(301)
        await until(lambda: socket.left)


async def test_a_token_is_told_to_the_backends_that_let_a_client_in():
    """One that has refused it is asked nothing; the next connection begins with the token."""
    async with App().serve(notes(**SIGNED)).test() as t:
        first, second = (signed(exp=t.time() + 100, n=n) for n in (1, 2))
        mine = t.connect(auth={"token": first})
        nowhere = mine.backend("nowhere")
        with pytest.raises(Unavailable, match="Unable to connect"):
            await nowhere.read()
        await mine.backend("notes").read()
        await mine.authenticate(second)
        assert mine._sockets["notes"].auth == mine.auth == {"token": second}


async def test_users_of_a_test_can_be_revoked():
    """Those that a test names, without any middleware."""

    class Plain(Backend):
        store = MemoryStore()

    async with App().serve(Plain).test() as t:
        ann = await t.client(user={"id": "ann"})
        assert await t.app.revoke(user="ann") == 1
        with pytest.raises(Unauthorized):
            await ann.read()


async def test_revoke_needs_a_running_application():
    with pytest.raises(Exception, match="does not run"):
        await App().serve(notes(**SIGNED)).revoke(user="ann")


async def test_an_answer_of_before_a_revocation_is_not_used():
    good = {"tok"}

    async def verify(token):
        return ({"id": "ann"}, None) if token in good else None

    async with App().serve(notes(verify=verify)).test() as test:
        await (await test.client(auth={"token": "tok"})).read()
        good.clear()
        assert await test.app.revoke(user="ann") == 1
        with pytest.raises(Unauthorized):
            await (await test.client(auth={"token": "tok"})).read()


async def test_a_wrong_end_stops_no_other(serve, dial):
    async def verify(token):
        return token, float("nan") if token == "nan" else time.time() + 0.3

    app = await serve(notes(verify=verify, warn=0.0))
    (reply,) = await (await (await dial(app)).connect("/notes", {"token": "nan"})).call("listen", None)
    assert reply["error"]["name"] == "InternalError"
    there = await (await dial(app)).connect("/notes", {"token": "bob"})
    await there.call("listen", None, {"v": 1})
    assert await there.event() == ["auth", {"expires_in": 0.0}]


async def test_junk_undoes_no_revocation_of_a_cookie():
    sessions = Session(secret="x" * 40, secure=False)

    class Notes(Backend):
        middleware = [sessions]
        store = MemoryStore()

    cookie = sessions._serializer.dumps({"user": "ann"})
    async with App().serve(Notes).test() as test:
        client = await test.client(cookies={"bbio_session": cookie})
        await client.read()
        assert await test.app.revoke(user="ann") == 1
        with pytest.raises(Unauthorized):
            await test.connections[0].authenticate("junk")
        with pytest.raises(Unauthorized):
            await client.read()


async def test_a_check_under_way_at_a_revocation_is_made_again(serve, dial):
    """What was found out before the user was revoked lets in neither the request that asked nor any later one."""
    good, asked, gate = {"tok"}, asyncio.Event(), asyncio.Event()

    async def verify(token):
        is_good = token in good
        asked.set()
        await gate.wait()
        return ({"id": "ann"}, None) if is_good else None

    app = await serve(notes(verify=verify))
    there = await (await dial(app)).connect("/notes", {"token": "tok"})
    number = await there.start("sync", {"method": "create", "model": {"title": "x"}, "options": {}})
    await asked.wait()
    good.clear()
    assert await app.revoke(user="ann") == 0, "nobody knows yet whose it is"
    gate.set()
    assert (await there.reply(number))[0]["error"]["name"] == "Unauthorized"
    assert (await there.call("listen", None))[0]["error"]["name"] == "Unauthorized"
