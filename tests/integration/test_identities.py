"""Identities that end, are renewed and are revoked on live sockets, over the wire, on both engines."""

import asyncio
import time

import pytest

from bbio import Backend, Forbidden, Unauthorized, Unavailable, before
from bbio.builtin import MemoryStore
from bbio.server import identities as module
from bbio.server.identities import Identities
from tests.support.listeners import until

EXPIRED = {
    "name": "Unauthorized",
    "message": "this identity has ended: send a new token, or connect again",
    "code": 401,
    "expired": True,
}


class Notes(Backend):
    """A token is `user`, or `user/seconds/warn` for one that ends."""

    store = MemoryStore()

    @before
    def who(self, req):
        user, *rest = (req.socket.auth or {}).get("token", "").split("/")
        if user == "down":
            raise Unavailable("the keys cannot be had")
        if not user or user == "bad":
            raise Unauthorized("log in first")
        seconds, warn = rest or (None, 0)
        ends = None if seconds is None else req.socket.memo.setdefault("ends", req.socket.now() + float(seconds))
        req.identify({"id": user}, expires=ends, warn=float(warn), session=f"session of {user}")
        if req.channel == "staff" and user != "ann":
            raise Forbidden("staff only")


async def joined(dial, app, token, channel="home", v=1):
    """A client with a token that listens to a channel."""
    wire = await dial(app)
    there = await wire.connect("/notes", {"token": token})
    (reply,) = await there.call("listen", channel, {"v": 1}) if v else await there.call("listen", channel)
    assert "error" not in reply
    return there, reply


async def error_of(there, *asked):
    return (await there.call(*asked))[-1]["error"]


def create(title):
    return {"method": "create", "model": {"title": title}, "options": {}}


async def test_an_identity_ends_and_is_renewed_without_loss(serve, dial):
    """The client is warned, then told; nothing reaches it until it says again who it is, and then nothing is missing."""
    app = await serve(Notes)
    ann, reply = await joined(dial, app, "ann/0.5/0.4")
    epoch, offset = (reply["streams"]["c:home"][key] for key in ("epoch", "offset"))
    bob, _ = await joined(dial, app, "bob")
    name, told = await ann.event()
    assert name == "auth"
    assert 0 < told["expires_in"] <= 0.4
    assert await ann.event() == ["auth", {"expires_in": 0.0}]
    assert await ann.event() == ["resync", "c:home"]
    await bob.call("sync", {**create("missed"), "channel": "home"})
    for asked in (("sync", {**create("x"), "channel": "home"}), ("listen", "home", {"v": 1}), ("listen", None)):
        assert await error_of(ann, *asked) == EXPIRED
    assert await ann.call("auth", {"token": "ann/100/60"}) == [{"expires_in": pytest.approx(100, abs=5)}]
    assert await ann.event() == ["resync", "c:home"]
    (reply,) = await ann.call("listen", "home", {"v": 1, "since": {"c:home": [epoch, offset]}})
    events = reply["streams"]["c:home"]["events"]
    assert [event[1]["title"] for event in events] == ["missed"]
    await ann.call("sync", {**create("mine"), "channel": "home"})


async def test_a_renewal_in_time_changes_nothing(serve, dial):
    """Subscriptions stay; the earlier end means nothing any more."""
    app = await serve(Notes)
    ann, _ = await joined(dial, app, "ann/0.6/0.5")
    assert (await ann.event())[0] == "auth"
    assert await ann.call("auth", {"token": "ann"}) == [{"expires_in": None}]
    await asyncio.sleep(0.7)
    bob, _ = await joined(dial, app, "bob")
    await bob.call("sync", {**create("news"), "channel": "home"})
    event = await ann.event()
    assert (event[0], event[2]["title"]) == ("synced", "news")
    assert len(app.gateway.identities.of_user("ann")) == 1


async def test_bad_auth(serve, dial):
    """Another user, a bad token, one that nobody can check now, and what is no `auth` change nothing."""
    app = await serve(Notes)
    ann, _ = await joined(dial, app, "ann", "staff")
    assert (await error_of(ann, "auth", {"token": "bob"}))["name"] == "Forbidden"
    assert (await error_of(ann, "auth", {"token": "bad"}))["name"] == "Unauthorized"
    assert (await error_of(ann, "auth", {"token": "down"}))["name"] == "Unavailable"
    for bad in ((), (None,), ({"token": 1},), ({"token": ""},), ({},), ({"token": "ann", "more": 1},), ("ann",)):
        assert (await error_of(ann, "auth", *bad))["name"] == "BadRequest", bad
    assert (await error_of(ann, "auth", {"token": "x" * 9_000}))["name"] == "BadRequest"
    assert await ann.call("auth", {"token": "ann"}) == [{"expires_in": None}]
    await ann.call("sync", {**create("still here"), "channel": "staff"})


async def test_a_revoked_user_is_told_nothing_more(serve, dial):
    """On all backends; the token of before is not enough to go on, a new one is. A stranger's connection goes on."""
    app = await serve(Notes)
    ann, _ = await joined(dial, app, "ann")
    old, _ = await joined(dial, app, "ann", v=0)
    bob, _ = await joined(dial, app, "bob")
    assert await app.revoke(user={"id": "ann"}) == 2
    assert await ann.event() == ["auth", {"expires_in": 0.0}]
    assert await ann.event() == ["resync", "c:home"]
    await bob.call("sync", {**create("secret"), "channel": "home"})
    assert await error_of(ann, "auth", {"token": "ann"}) == EXPIRED
    assert await error_of(old, "sync", create("x")) == EXPIRED
    assert await app.revoke(session="session of bob") == 1
    assert await app.revoke(user="nobody") == 0
    assert await ann.call("auth", {"token": "ann/50/1"}) == [{"expires_in": pytest.approx(50, abs=5)}]


async def test_a_client_that_does_not_come_back_in_time(serve, dial, monkeypatch):
    """Its connection is closed."""
    monkeypatch.setattr(module, "RENEWAL_SECONDS", 0.2)
    app = await serve(Notes)
    _ann, _ = await joined(dial, app, "ann/0.1/0")
    await until(lambda: not app.gateway.identities.of_user("ann"))
    assert not app.gateway.identities._due


async def test_wrong_calls(serve):
    app = await serve(Notes)
    for wrong in ({}, {"user": "ann", "session": "s"}):
        with pytest.raises(TypeError, match="one of them"):
            await app.revoke(**wrong)


async def test_one_timer_and_a_bounded_heap():
    """However often identities are renewed."""
    told = []
    now = time.time()
    index = Identities(lambda *_: told.append("warn"), lambda *_: told.append("end"), told.append, lambda: now)

    class Peer:
        left = is_suspended = False
        identity = None

    from bbio.identity import Identity

    sockets = [Peer() for _ in range(3)]
    for _ in range(1_000):
        for socket in sockets:
            new = Identity("ann", expires=now + 100, warn=10)
            index.change(socket, socket.identity, new)
            socket.identity = new
    assert len(index._heap) < 200
    now += 95
    index.look()
    now += 10
    index.look()
    assert told == ["warn"] * 3 + ["end"] * 3
    index.close()
