"""Channels with rules over the wire: which channels there are, who is in them, and what the server changes of that."""

import asyncio
import gc
import weakref
from unittest.mock import ANY

import pytest

from bbio import (
    App,
    Backend,
    Busy,
    ConfigurationError,
    Forbidden,
    Limits,
    Middleware,
    Request,
    Unauthorized,
    Unavailable,
    before,
    channel,
    create,
    on_connect,
    read,
)
from bbio.builtin import MemoryStore
from bbio.client import connect
from tests.support.listeners import until
from tests.support.servers import heard
from tests.support.wire import ConnectRefused

NO_SUCH = {"error": {"name": "Forbidden", "message": "there is no such channel", "code": 403}}


class Named(Middleware):
    """The user is who the header says."""

    @before
    def identify(self, req):
        req.user = req.socket.headers.get("name")


class Tasks(Backend):
    """Projects have numbers; each is for those whose header names it, and everybody may be in the lobby."""

    store = MemoryStore(per_channel=True)

    @before
    def identify(self, req):
        name = req.socket.headers.get("name")
        req.user = {"id": name} if name else None

    @channel("project-{project:int}")
    async def members(self, req, project):
        await asyncio.sleep(0)
        if str(project) not in req.socket.headers.get("projects", "").split():
            raise Forbidden("members only")

    @channel("lobby")
    def everybody(self, req):
        return True

    @create
    async def say(self, req, next):
        invited = req.options.get("join")
        if invited is not None:
            await req.socket.join(invited)
        if "leave" in req.options:
            req.socket.leave(req.options["leave"])
        return await next()


def refusal(message):
    return {"error": {"name": "Forbidden", "message": message, "code": 403}}


@pytest.mark.parametrize("extras", [[], [{"v": 1}]], ids=["original", "version 1"])
async def test_a_backend_with_rules_has_no_other_channels(serve, join, extras):
    """The default channel is none of them; an old client gets the same error, and no position."""
    app = await serve(Tasks)
    client = await join(app, "tasks", ..., headers={"projects": "7"})
    for name in (None, "", "project-", "project-x", "project-07", "project-7\n", "lobby ", "x" * 255, "lobby\u202e"):
        (reply,) = await client.namespace.call("listen", name, *extras)
        assert reply == NO_SUCH, name
    (reply,) = await client.namespace.call("listen", "project-8", *extras)
    assert reply == refusal("members only")
    for name in ("project-7", "lobby"):
        (reply,) = await client.namespace.call("listen", name, *extras)
        assert reply["event"] == "backend"


async def test_a_sync_in_a_channel_that_is_not_listened_to_is_asked_about(serve, join):
    """A write in a channel that a socket listens to is not asked about again; any other is."""
    app = await serve(Tasks)
    ann = await join(app, "tasks", ..., headers={"projects": "7"})
    for method in ("create", "read", "update", "patch", "delete"):
        for name, error in ((None, NO_SUCH), ("secret", NO_SUCH), ("project-8", refusal("members only"))):
            call = {"method": method, "model": {"id": 1}, "channel": name}
            assert await ann.namespace.call("sync", call) == [error]
    watcher = await join(app, "tasks", "project-7", headers={"projects": "7"})
    _, made = await ann.namespace.call("sync", {"method": "create", "model": {"title": "a"}, "channel": "project-7"})
    _, found = await ann.namespace.call("sync", {"method": "read", "channel": "project-7"})
    assert found == [made]
    assert await heard(app.backends["tasks"], watcher) == [[("create", made)]]


# The server lets sockets in and out


async def test_a_client_of_version_1_is_told_that_it_was_let_in(serve, join):
    """It may listen then, whatever the rule says; and is told when that ends. Its own connection alone is."""
    app = await serve(Tasks)
    ann = await join(app, "tasks", ...)
    eve = await join(app, "tasks", ...)
    for client in (ann, eve):
        await client.namespace.call("listen", "lobby", {"v": 1})
        assert (await client.namespace.call("listen", "project-7", {"v": 1}))[0] == refusal("members only")
    call = {"method": "create", "model": {"n": 1}, "channel": "lobby", "options": {"join": "project-7"}}
    await ann.namespace.call("sync", call)
    events = [await ann.namespace.event()]
    assert events == [["resync", "c:project-7", {"joined": True}]]
    for _ in range(2):  # also when it listens again
        assert "streams" in (await ann.namespace.call("listen", "project-7", {"v": 1}))[0]
    await app.backends["tasks"].recheck()
    call = {"method": "create", "model": {"n": 2}, "channel": "project-7", "options": {"leave": "project-7"}}
    assert (await ann.namespace.call("sync", call))[0] is None
    while await ann.namespace.event() != ["resync", "c:project-7", {"left": True}]:
        pass  # what was told of before it
    assert (await ann.namespace.call("listen", "project-7", {"v": 1}))[0] == refusal("members only")
    assert (await eve.namespace.call("listen", "project-7", {"v": 1}))[0] == refusal("members only")
    assert not [event for event in eve.namespace.events if event[0] == "resync"]


async def test_a_client_of_the_original_library_gets_the_events_of_where_it_was_let_in(serve, join):
    """Nothing else arrives: no event that it does not know, no third argument. Its requests stay where they were."""
    app = await serve(Tasks)
    ann = await join(app, "tasks", "lobby")
    bob = await join(app, "tasks", "project-7", headers={"projects": "7"})
    await ann.sync("create", {"n": 1}, {"join": "project-7"})
    made = await bob.sync("create", {"n": 2})
    assert await heard(app.backends["tasks"], ann) == [[("create", made)]]
    assert [model["n"] for model in await ann.sync("read")] == [1]
    await ann.sync("create", {"n": 3}, {"leave": "project-7"})
    await bob.sync("create", {"n": 4})
    assert await heard(app.backends["tasks"], ann) == [[]]


async def test_what_is_given_at_the_connection_begins_with_the_first_listen(serve, join):
    """A client of version 1 is told then; one of the original library gets events from then on."""

    class Rooms(Backend):
        store = MemoryStore()

        @on_connect
        async def let_in(self, req):
            await req.socket.join("home")
            await req.socket.join("")

        @channel("{room}")
        def nobody(self, req, room):
            return room == "lobby"

    app = await serve(Rooms)
    modern = await join(app, "rooms", ...)
    await modern.namespace.call("listen", "lobby", {"v": 1})
    told = [await modern.namespace.event() for _ in range(2)]
    assert sorted(told) == [["resync", "c:", {"joined": True}], ["resync", "c:home", {"joined": True}]]
    legacy = await join(app, "rooms", "lobby")
    assert "streams" in (await modern.namespace.call("listen", "home", {"v": 1}))[0]
    _, made, _ = await modern.namespace.call("sync", {"method": "create", "model": {}, "channel": "home"})
    assert await heard(app.backends["rooms"], legacy) == [[("create", made)]]


async def test_what_cannot_be_a_channel_or_is_one_too_many(serve, join):
    """It is the fault of the application, which the client hears nothing of."""
    app = await serve(Tasks, limits=Limits(channels=2))
    ann = await join(app, "tasks", ..., headers={"name": "ann"})
    await ann.namespace.call("listen", "lobby", {"v": 1})

    async def let_into(channel):
        call = {"method": "create", "model": {}, "channel": "lobby", "options": {"join": channel}}
        return (await ann.namespace.call("sync", call))[0]

    assert (await let_into(7))["error"]["name"] == "InternalError"
    assert (await let_into("x" * 256))["error"]["name"] == "InternalError"
    for _ in range(2):
        assert await let_into("project-1") is None
    assert (await let_into("project-2"))["error"]["name"] == "InternalError"
    with pytest.raises(ValueError, match="a channel is null or a string"):
        await app.revoke(channel="x" * 256)
    with pytest.raises(ConfigurationError, match="there is no such backend; served: tasks"):
        await app.join("project-1", user="ann", backend="task")
    with pytest.raises(TypeError, match="give one of them"):
        await app.revoke(channel="lobby", user="ann")
    with pytest.raises(TypeError, match="give one of them"):
        await app.revoke(user="ann", backend="tasks")
    with pytest.raises(ValueError, match="too long"):
        await app.revoke(user="x" * 10_000)


async def test_before_layers_of_read_decide_where_a_client_is_let_in(serve, join):
    """Who may not read may not listen, and whoever lets it in is told."""

    class Rooms(Backend):
        store = MemoryStore()

        @before("read")
        def readers(self, req):
            if req.channel == "home" and req.socket.headers.get("name") != "ann":
                raise Forbidden("readers only")

        @create
        async def let_in(self, req):
            await req.socket.join("home")
            return {"id": 1}

    app = await serve(Rooms)
    for extras in ([], [{"v": 1}]):
        for name in ("ann", "eve"):
            client = await join(app, "rooms", ..., headers={"name": name})
            await client.namespace.call("listen", None, *extras)
            reply = await client.namespace.call("sync", {"method": "create", "model": {}})
            assert reply == [refusal("readers only")] if name == "eve" else reply[0] is None


async def test_whoever_is_revoked_is_present_no_more(serve, join):
    """Neither for the others, nor for itself, until it has listened and joined again."""

    class Rooms(Backend):
        store = MemoryStore()
        presence = True

        @channel("room")
        def anybody(self): ...

    app = await serve(Rooms)
    ann, bob = [await join(app, "rooms", ...) for _ in range(2)]
    for client in (ann, bob):
        await client.namespace.call("listen", "room", {"v": 1})
        await client.namespace.call("presence", "room", {})
    assert await app.revoke(channel="room") == 2
    await bob.namespace.call("listen", "room", {"v": 1})
    _, reply = await bob.namespace.call("presence", "room", {})
    assert len(reply["members"]) == 1
    assert (await ann.namespace.call("presence", "room", {}))[0]["error"]["name"] == "Forbidden"


async def test_the_application_lets_a_user_in_and_out_from_any_thread(serve, join):
    """And only while it runs."""

    class Rooms(Backend):
        store = MemoryStore()
        middleware = [Named()]

        @channel("lobby")
        def anybody(self): ...

    app = await serve(Rooms)
    ann = await join(app, "rooms", ..., headers={"name": "ann"})
    await ann.namespace.call("listen", "lobby", {"v": 1})
    for call, change in ((app.join, "joined"), (app.leave, "left")):
        work = call("home", user={"id": "ann"}, backend="rooms")
        assert await asyncio.to_thread(asyncio.run, work) == 1
        assert await ann.namespace.event() == ["resync", "c:home", {change: True}]
        await ann.namespace.call("listen", "home", {"v": 1})
    for call in (app.join, app.leave):
        assert await call("lobby", user="ann", backend="rooms") == 1
        assert await call("lobby", user="bob", backend="rooms") == 0
        with pytest.raises(ConfigurationError, match=rf"app.{call.__name__}\(backend='room'\): there is no such"):
            await call("lobby", user="ann", backend="room")
    with pytest.raises(ConfigurationError, match=r"call app.join\(...\) while it runs"):
        await App().serve(Rooms).join("home", user="ann", backend="rooms")


# Once for each connection


class Greeted(Backend):
    """Whoever connects is asked about once."""

    name = "greeted"
    store = MemoryStore()
    middleware = [Named()]

    def __init__(self):
        self.asked = []
        self.gate = asyncio.Event()
        self.gate.set()

    @on_connect
    async def greet(self, req):
        self.asked.append((req.event, req.user))
        await req.socket.join("home")
        kept = req.socket.state["kept"] = type("Kept", (), {})()
        self.kept = weakref.ref(kept)
        await self.gate.wait()
        if req.user == "eve":
            raise Unauthorized("no eve")
        if req.user == "bug":
            raise RuntimeError("a secret")
        if req.user == "busy":
            raise Busy("later", retry_after=2.0)
        req.socket.state["greeting"] = f"hello {req.user}"

    @read
    def greeting(self, req):
        return [{"id": 1, "text": req.socket.state.get("greeting")}]


async def refused_of(wire, namespace):
    with pytest.raises(ConnectRefused):
        await wire.connect(namespace)
    return wire.namespaces[namespace].refused


async def test_it_runs_once_and_its_state_stays(serve, join):
    """Middleware says who connects; what is kept is there for each request, and for no other connection."""
    app = await serve(Greeted)
    for name in ("ann", "bob"):
        client = await join(app, "greeted", headers={"name": name})
        for _ in range(2):
            assert await client.sync("read") == [{"id": 1, "text": f"hello {name}"}]
    assert app.backends["greeted"].backend.asked == [("connect", "ann"), ("connect", "bob")]


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_it_may_refuse_the_connection(serve, dial, transport):
    """A `SyncError` is told as it is, anything else as an internal error without its text; nothing is left."""
    app = await serve(Greeted)
    for name, error in (
        ("eve", {"name": "Unauthorized", "message": "no eve", "code": 401}),
        ("busy", {"name": "Busy", "message": "later", "code": 429, "retry_after": 2.0}),
        ("bug", {"name": "InternalError", "message": "Internal error.", "code": 500}),
    ):
        wire = await dial(app, headers={"name": name}, transport=transport)
        refused = await refused_of(wire, "/greeted")
        assert {**refused["data"], "id": ANY} == {**error, "id": ANY}
        assert refused["message"] == error["message"]
    assert not app.gateway.memberships._members


async def test_requests_wait_for_it_and_it_has_a_deadline(serve, dial):
    """What is sent before it has ended is not looked at; what takes too long refuses the client."""
    app = await serve(Greeted, limits=Limits(deadline=0.3))
    greeted = app.backends["greeted"].backend
    greeted.gate.clear()
    wire = await dial(app, headers={"name": "ann"})
    refused = await refused_of(wire, "/greeted")
    assert refused["data"]["name"] == "Timeout"


@pytest.mark.parametrize("ends", ["client", "server"])
async def test_a_client_that_leaves_meanwhile_leaves_nothing(serve, dial, ends):
    """Its socket is forgotten, although nobody tells of it again."""
    app = await serve(Greeted)
    greeted = app.backends["greeted"].backend
    greeted.gate.clear()
    wire = await dial(app, headers={"name": "ann"})
    await wire.send("40/greeted,")
    async with asyncio.timeout(5):
        await until(lambda: greeted.asked)
        if ends == "client":
            await wire.close()
        else:
            await asyncio.gather(*(each.close(wait=False) for each in list(app.sio.eio.sockets.values())))
        greeted.gate.set()
        await until(lambda: not app.gateway.addresses._connections)
        await until(lambda: not app.gateway.memberships._members)
        await until(lambda: (gc.collect(), greeted.kept() is None)[1])


# The Python client


async def test_a_collection_follows_where_its_client_is_let_in(serve):
    """One that was refused is filled; when the server ends it, it says so, and comes back when it is let in again."""
    app = await serve(Tasks)
    joined = []
    async with connect(app.url, jitter=0.01, joined=lambda *names: joined.append(names)) as io:
        lobby = io.backend("tasks", channel="lobby")
        project = io.backend("tasks", channel="project-7").collection()
        with pytest.raises(Forbidden, match="members only"):
            await project.open()
        await lobby.create({}, options={"join": "project-7"})
        await until(lambda: joined)
        assert joined == [("tasks", "project-7")]
        await project.open()
        store = app.backends["tasks"].store
        for n in range(3):
            await store.write(Request("create", {"n": n}, channel="project-7"))
            await until(lambda: len(project) == n + 1)  # noqa: B023 - it is called here alone
            await lobby.create({}, options={"leave": "project-7"})
            await until(lambda: project._error is not None)
            assert project._error.message == "the server has ended listening to this channel"
            await store.write(Request("update", {"n": 10 + n, "id": next(iter(project))}, channel="project-7"))
            await lobby.create({}, options={"join": "project-7"})
            await until(lambda: next(iter(project.values()))["n"] == 10 + n)  # noqa: B023
            assert project._error is None
        assert len(joined) == 1


@pytest.mark.parametrize("joined", [None, lambda *names: 1 / 0])
async def test_what_raises_when_it_is_told_of_a_channel_is_reported(serve, joined):
    """It costs the connection nothing; and nobody need be told."""
    app = await serve(Tasks)
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    async with connect(app.url, jitter=0.01, joined=joined) as io:
        lobby = io.backend("tasks", channel="lobby")
        await lobby.create({}, options={"join": "project-7"})
        await lobby.create({})
    assert reported == ([] if joined is None else ["connect(joined=...) of 'tasks' failed"])


async def test_a_client_connects_again_after_a_passing_refusal(serve):
    """What it asks for waits; a refusal for good fails it."""

    class Rooms(Backend):
        store = MemoryStore()
        refusals = [Unavailable("not yet", retry_after=0.01), Busy("later")]

        @on_connect
        def greet(self, req):
            if req.socket.headers.get("name") == "eve":
                raise Unauthorized("no eve")
            if self.refusals:
                raise self.refusals.pop()

    app = await serve(Rooms)
    async with connect(app.url, jitter=0.01) as io:
        assert (await io.backend("rooms").create({"n": 1}))["n"] == 1
    async with connect(app.url, headers={"name": "eve"}) as io:
        with pytest.raises(Unauthorized, match="no eve"):
            await io.backend("rooms").read()
