"""Identities that end, are renewed and are revoked on live sockets, over the wire, on both engines."""

import asyncio

import pytest

from bbio import Backend, Forbidden, Limits, Unauthorized, Unavailable, before, message, presence, update, use, visible
from bbio.builtin import MemoryStore
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
    """The client is warned, then told; nothing reaches it until it says again who it is; then nothing is missing."""
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


async def test_a_client_that_does_not_come_back_in_time(serve, dial):
    """Its connection is closed."""
    app = await serve(Notes, limits=Limits(renewal_time=0.2))
    await joined(dial, app, "ann/0.1/0")
    await until(lambda: not app.gateway.identities.of_user("ann"))
    assert not app.gateway.identities._due


async def test_wrong_calls(serve):
    app = await serve(Notes)
    for wrong in ({}, {"user": "ann", "session": "s"}):
        with pytest.raises(TypeError, match="one of them"):
            await app.revoke(**wrong)


class Peculiar(Backend):
    """A closed channel is refused before it is known who asks; a user may be slow to be known."""

    gate: asyncio.Event

    @before
    async def who(self, req):
        if req.channel == "closed" and self.closed:
            raise Forbidden("closed")
        token = (req.socket.auth or {}).get("token")
        if token == "slow":
            self.asked.set()
            await self.gate.wait()
        if token and token != "nobody":
            req.identify({"id": "ann"})

    def __init__(self):
        self.gate, self.asked = asyncio.Event(), asyncio.Event()
        self.closed = False


async def test_peculiar_layers(serve, dial):
    """A channel that is closed meanwhile does not hide who asks; it is let go of. Nobody's token is refused."""
    app = await serve(Peculiar, limits=Limits(deadline=0.3))
    backend = app.backends["peculiar"].backend
    wire = await dial(app)
    ann = await wire.connect("/peculiar", {"token": "ann"})
    await ann.call("listen", "closed", {"v": 1})
    await ann.call("listen", "open", {"v": 1})
    backend.closed = True
    assert await ann.call("auth", {"token": "ann2"}) == [{"expires_in": None}]
    assert await ann.event() == ["resync", "c:closed"]
    assert (await error_of(ann, "auth", {"token": "nobody"}))["name"] == "Unauthorized"
    # One that takes too long, and one whose client leaves meanwhile.
    assert (await error_of(ann, "auth", {"token": "slow"}))["name"] == "Timeout"
    (socket,) = app.gateway.identities.of_user("ann")
    backend.asked.clear()
    await ann.emit("auth", {"token": "slow"})
    await backend.asked.wait()
    await ann.disconnect()
    await until(lambda: socket.left)
    backend.gate.set()
    await until(lambda: not app.is_busy)
    assert not app.gateway.identities.of_user("ann")


async def test_a_backend_without_layers_knows_no_token(serve, dial):
    class Plain(Backend):
        store = MemoryStore()

    app = await serve(Plain)
    there = await (await dial(app)).connect("/plain")
    assert (await error_of(there, "auth", {"token": "ann"}))["name"] == "Unauthorized"


class Slow(Notes):
    """A read waits for its gate."""

    name = "notes"
    store = MemoryStore()

    def __init__(self):
        self.gate, self.asked = asyncio.Event(), asyncio.Event()

    @use("read")
    async def wait(self, next):
        self.asked.set()
        await self.gate.wait()
        return await next()


async def test_what_was_under_way_at_the_end(serve, dial):
    """A read that was begun before its user was revoked shows nothing."""
    app = await serve(Slow)
    backend = app.backends["notes"].backend
    ann, _ = await joined(dial, app, "ann")
    number = await ann.start("sync", {"method": "read", "model": {}, "options": {}})
    await backend.asked.wait()
    await app.revoke(user="ann")
    await app.revoke(user="ann")
    backend.gate.set()
    assert (await ann.reply(number))[0]["error"] == EXPIRED


class SlowToAdmit(Notes):
    """Who may listen is decided after a while."""

    name = "notes"
    store = MemoryStore()

    def __init__(self):
        self.gate, self.asked = asyncio.Event(), asyncio.Event()

    @before("read")
    async def wait(self, req):
        if req.channel == "slow":
            self.asked.set()
            await self.gate.wait()


async def test_a_listen_under_way_at_the_end(serve, dial):
    """It is refused, and so nothing is told to who was revoked meanwhile."""
    app = await serve(SlowToAdmit)
    backend = app.backends["notes"].backend
    ann, _ = await joined(dial, app, "ann")
    number = await ann.start("listen", "slow", {"v": 1})
    await backend.asked.wait()
    await app.revoke(user="ann")
    backend.gate.set()
    assert (await ann.reply(number))[0]["error"] == EXPIRED
    assert [socket for socket, _ in app.gateway.subscribers["notes"].listeners] == []


async def test_revoked_from_another_thread(serve, dial):
    """The application's event loop does the work."""
    app = await serve(Notes)
    await joined(dial, app, "ann")
    assert await asyncio.to_thread(asyncio.run, app.revoke(user="ann")) == 1


async def test_an_identity_that_ends_while_it_is_looked_at_again(serve, dial):
    """The client is not told that all is well."""

    class Notes(Backend):
        store = MemoryStore()

        @before
        def who(self, req):
            if req.socket.auth["token"] == "new" and not req.socket.is_tried:
                raise Unauthorized("over", expired=True)
            req.identify({"id": "ann"})

    app = await serve(Notes)
    there = await (await dial(app)).connect("/notes", {"token": "old"})
    await there.call("listen", None, {"v": 1})
    (reply,) = await there.call("auth", {"token": "new"})
    assert reply["error"]["expired"] is True


class Lounge(Notes):
    """Who is there, and what they say; each request waits for its gate once it is known who asks."""

    name = "notes"
    store = MemoryStore()

    def __init__(self):
        self.gate, self.asked = asyncio.Event(), asyncio.Event()
        self.gate.set()

    @before
    async def wait(self, req):
        if req.socket is not None and req.user["id"] == "ann":
            self.asked.set()
            await self.gate.wait()

    @presence
    def card(self, req):
        return {"name": req.user["id"]}

    @message("typing")
    def typing(self, data):
        return data


async def test_presence_and_messages_end_with_an_identity(serve, dial):
    """Who has been revoked sees nobody, and tells nobody anything."""
    app = await serve(Lounge)
    ann, _ = await joined(dial, app, "ann")
    bob, _ = await joined(dial, app, "bob")
    await bob.call("listen", "home", {"v": 1, "messages": True})
    await bob.call("presence", "home", {})
    await app.revoke(user="ann")
    for asked in (("presence", "home", {"members": True}), ("message", "typing", "secret", "home")):
        assert await error_of(ann, *asked) == EXPIRED
    await bob.call("unlisten", [])
    assert not [event for event in bob.events if event[0] == "message"]


@pytest.mark.parametrize("asked", [("presence", "home", {"members": True}), ("message", "typing", "secret", "home")])
async def test_presence_and_messages_under_way_at_the_end(serve, dial, asked):
    app = await serve(Lounge)
    backend = app.backends["notes"].backend
    ann, _ = await joined(dial, app, "ann")
    backend.gate.clear()
    backend.asked.clear()
    number = await ann.start(*asked)
    await backend.asked.wait()
    await app.revoke(user="ann")
    backend.gate.set()
    assert (await ann.reply(number))[0]["error"] == EXPIRED


async def test_a_renewal_under_way_at_the_end(serve, dial):
    """Layers are asked again: a token that was good before the revocation need not be any more."""
    bad = set()

    class Notes(Lounge):
        @before
        async def who(self, req):
            token = (req.socket.auth or {})["token"]
            if token in bad:
                raise Unauthorized("log in first")
            req.identify({"id": "ann"})

    app = await serve(Notes)
    backend = app.backends["notes"].backend
    ann, _ = await joined(dial, app, "one")
    backend.gate.clear()
    backend.asked.clear()
    number = await ann.start("auth", {"token": "two"})
    await backend.asked.wait()
    bad |= {"one", "two"}
    await app.revoke(user="ann")
    backend.gate.set()
    assert (await ann.reply(number))[0]["error"]["name"] == "Unauthorized"
    assert await error_of(ann, "sync", {**create("x"), "channel": "home"}) == EXPIRED


async def test_a_second_renewal_before_the_next_listen(serve, dial):
    """A client that has not listened again yet may show one more token."""

    class Scoped(Notes):
        name = "notes"
        store = MemoryStore()

        @visible
        def scope(self):
            return True

    app = await serve(Scoped)
    ann, _ = await joined(dial, app, "ann")
    await app.revoke(user="ann")
    for number in range(2):
        assert "error" not in (await ann.call("auth", {"token": f"ann/{50 + number}/1"}))[0]


class Answers(Lounge):
    """Writes that are answered by the store, and others."""

    name = "notes"
    store = MemoryStore()
    done = 0

    @update
    def answer(self, req):
        self.done += 1
        return {"id": 1, "secret": "of before"}


async def test_writes_under_way_at_the_end(serve, dial):
    """None of them shows anything. What is known again may be repeated, what may not is not asked for again."""
    app = await serve(Answers)
    backend = app.backends["notes"].backend
    ann, _ = await joined(dial, app, "ann")
    wrong = {"method": "patch", "model": {"id": "none"}, "options": {}}
    asked = {
        "known again": {**create("x"), "op": {"c": "a client of ann's", "n": 1}},
        "committed": create("y"),
        "answered": {"method": "update", "model": {"id": 1}, "options": {}, "op": {"c": "a client of ann's", "n": 2}},
        "refused": wrong,
    }
    backend.gate.clear()
    numbers = {}
    for name, each in asked.items():
        backend.asked.clear()
        numbers[name] = await ann.start("sync", {**each, "channel": "home"})
        await backend.asked.wait()
    await app.revoke(user="ann")
    backend.gate.set()
    errors = {name: (await ann.reply(number))[0]["error"] for name, number in numbers.items()}
    assert errors["known again"] == errors["answered"] == errors["refused"] == EXPIRED
    assert errors["committed"]["name"] == "UnknownOutcome"
    await ann.call("auth", {"token": "ann/50/1"})
    _, made, _ = await ann.call("sync", {**asked["known again"], "channel": "home"})
    assert made["title"] == "x"
    _, answer, _ = await ann.call("sync", {**asked["answered"], "channel": "home"})
    assert answer["secret"] == "of before"
    assert backend.done == 1
    found = await ann.call("sync", {"method": "read", "model": {}, "options": {}, "channel": "home"})
    assert [each["title"] for each in found[1]] == ["x", "y"]


async def test_a_failure_under_way_at_the_end(serve, dial):
    """One that says nothing of what was done stays as it is."""

    class Failing(Lounge):
        name = "notes"
        store = MemoryStore()

        @before("create")
        def fail(self):
            raise ValueError("a fault")

    app = await serve(Failing)
    backend = app.backends["notes"].backend
    ann, _ = await joined(dial, app, "ann")
    backend.gate.clear()
    backend.asked.clear()
    number = await ann.start("sync", {**create("x"), "channel": "home"})
    await backend.asked.wait()
    await app.revoke(user="ann")
    backend.gate.set()
    assert (await ann.reply(number))[0]["error"]["name"] == "InternalError"


async def test_a_token_is_no_proof_where_something_else_would_do(serve, dial):
    """A layer that reads `auth` for something else makes no token of it: the cookie was revoked."""

    class Notes(Backend):
        store = MemoryStore()

        @before
        def language(self, req):
            req.state["language"] = (req.socket.auth or {}).get("language")

        @before
        def who(self, req):
            if req.cookies.get("name"):
                req.identify({"id": req.cookies["name"]})
            elif (req.socket.auth or {}).get("token") == "good":
                req.identify({"id": "ann"})

    app = await serve(Notes)
    wire = await dial(app, headers={"Cookie": "name=ann"})
    there = await wire.connect("/notes", {"language": "en"})
    await there.call("listen", None, {"v": 1})
    await app.revoke(user="ann")
    assert await error_of(there, "auth", {"token": "anything"}) == EXPIRED
    other = await (await dial(app)).connect("/notes", {"token": "good", "language": "en"})
    await other.call("listen", None, {"v": 1})
