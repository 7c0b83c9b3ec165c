"""Faults of the original backbone.io that a server must not have; one test for each."""

import asyncio

import pytest

from bbio import Backend, Limits, Unauthorized, before, create, read, update
from bbio.builtin import MemoryStore
from tests.support.servers import heard
from tests.support.wire import SyncFailed


class Notes(Backend):
    store = MemoryStore()


async def test_a_second_listen_does_not_take_the_place_of_the_first(serve, join, todos):
    """Both channels are told and both can be written to: what is heard and what is written agree."""
    app = await serve(todos)
    both = await join(app, "todos", "first")
    await both.listen("second")
    first, second = await join(app, "todos", "first"), await join(app, "todos", "second")
    for channel in ("first", "second"):
        mine = await both.sync("create", {"for": channel}, channel=channel)
        told = dict(zip(("first", "second"), await heard(app.backends["todos"], first, second), strict=True))
        assert told.pop(channel) == [("create", mine)]
        assert list(told.values()) == [[]]
    await first.sync("create", {"by": "first"})
    await second.sync("create", {"by": "second"})
    told = (await heard(app.backends["todos"], both))[0]
    assert [model["by"] for _, model in told if "by" in model] == ["first", "second"]


async def test_a_listen_in_one_backend_says_nothing_about_another(serve, join, todos):
    """One connection, two backends: the channel of each is its own, for what is heard and what is written."""
    app = await serve(todos, Notes)
    client = await join(app, "todos", "room")
    notes = await client.wire.connect("/notes")
    await notes.call("listen", "desk")
    in_room, in_desk = await join(app, "notes", "room"), await join(app, "notes", "desk")
    todo_room, todo_desk = await join(app, "todos", "room"), await join(app, "todos", "desk")
    todo = await client.sync("create", {"title": "a todo"})
    note = (await notes.call("sync", {"method": "create", "model": {}, "options": {}}))[1]
    assert await heard(app.backends["notes"], in_room, in_desk) == [[], [("create", note)]]
    assert await heard(app.backends["todos"], todo_room, todo_desk) == [[("create", todo)], []]


async def test_the_channel_of_one_backend_is_refused_in_another(serve, join, todos):
    """`channel` in a sync is looked up in the backend it is sent to."""
    app = await serve(todos, Notes)
    client = await join(app, "todos", "room")
    notes = await client.wire.connect("/notes")
    request = {"method": "create", "model": {}, "options": {}, "channel": "room"}
    (ack,) = await notes.call("sync", request)
    assert ack["error"]["code"] in (400, 403)
    assert (await notes.call("sync", {"method": "read", "model": {}, "options": {}}))[1] == []


async def test_writes_of_the_default_channel_stay_in_it(serve, join, todos):
    """The original told every channel of what clients without one wrote."""
    app = await serve(todos)
    plain, room, empty = (
        await join(app, "todos"),
        await join(app, "todos", "room"),
        await join(app, "todos", ""),
    )
    milk = await plain.sync("create", {"title": "milk"})
    assert await heard(app.backends["todos"], plain, room, empty) == [[], [], [("create", milk)]]


FORGED = {
    "user": "root",
    "session": {"user": "root"},
    "state": {"user": "root"},
    "socket": {"sid": "root"},
    "backend": "notes",
    "sid": "root",
    "headers": {"cookie": "user=root"},
    "identity": "root",
}


@pytest.mark.parametrize("where", ["request", "model", "options", "listen"])
async def test_nothing_a_client_sends_sets_a_trusted_field(serve, join, where):
    """`user`, `session` and the like come from the server's own layers, wherever a client writes them."""
    seen = []

    class Todos(Backend):
        @before
        def require_user(self, req):
            seen.append((req.user, req.session, req.state, req.channel, req.backend.name, req.socket.sid))
            if not req.user and not req.session.get("user"):
                raise Unauthorized("log in first")

    app = await serve(Todos)
    alice = await join(app, "todos", ...)
    if where == "listen":
        await alice.namespace.call("listen", None, FORGED)
    fields = FORGED if where == "request" else {}
    model = FORGED if where == "model" else {}
    options = FORGED if where == "options" else {}
    with pytest.raises(SyncFailed) as caught:
        await alice.sync("create", model, options, **fields)
    assert caught.value.name in ("Unauthorized", "BadRequest")
    assert set(map(repr, seen)) <= {repr((None, {}, {}, None, "todos", alice.namespace.sid))}
    if where in ("model", "options"):
        assert caught.value.name == "Unauthorized"
        assert seen


async def test_state_does_not_travel_between_requests(serve, join):
    """What a layer puts on one request is not on the next, of the same or another client."""

    class Todos(Backend):
        notifies = "unfiltered"

        @before("create")
        def log_in(self, req):
            req.user = "ann"
            req.session["user"] = "ann"
            req.state["admin"] = True

        @read
        def who(self, req):
            return {"user": req.user, "session": dict(req.session), "state": dict(req.state)}

    app = await serve(Todos)
    alice, bob = await join(app, "todos"), await join(app, "todos")
    await alice.sync("create", {})
    for client in (alice, bob):
        assert await client.sync("read") == {"user": None, "session": {}, "state": {}}


async def test_a_request_sees_its_own_socket(serve, join):
    """`req.socket` is the connection the request came from: headers, cookies and address are its own."""

    class Todos(Backend):
        notifies = "unfiltered"

        @read
        def who(self, req):
            socket = req.socket
            return {
                "sid": socket.sid,
                "agent": socket.headers.get("User-Agent"),
                "cookies": dict(socket.cookies),
                "remote": socket.remote,
                "channel": req.channel,
            }

    app = await serve(Todos)
    headers = {"User-Agent": "test", "Cookie": "a=1; b=two", "X-Forwarded-For": "10.9.8.7"}
    alice = await join(app, "todos", "home", headers=headers)
    assert await alice.sync("read") == {
        "sid": alice.namespace.sid,
        "agent": "test",
        "cookies": {"a": "1", "b": "two"},
        "remote": "127.0.0.1",
        "channel": "home",
    }


async def test_an_unknown_id_does_not_read_as_success(serve, join, todos):
    """The original answered an unknown id with nothing and no error."""
    alice = await join(await serve(todos), "todos")
    ack = await alice.namespace.call("sync", {"method": "read", "model": {"id": "nowhere"}, "options": {}})
    assert ack[0]["error"]["code"] == 404


async def test_error_objects_do_not_leak_their_properties(serve, join):
    """What an exception carries stays on the server, whether declared as an error or not."""

    class Todos(Backend):
        @create
        def fail(self, req):
            error = Unauthorized("no") if req.model["declared"] else ConnectionError(111, "refused", "/etc/secret")
            error.connection = {"password": "hunter2"}
            error.add_note("hunter2")
            raise error from ValueError("hunter2")

    alice = await join(await serve(Todos), "todos")
    for declared in (True, False):
        with pytest.raises(SyncFailed):
            await alice.sync("create", {"declared": declared})
    assert not any("hunter2" in str(frame) or "secret" in str(frame) for frame in alice.wire.frames)


@pytest.mark.parametrize("event", ["connect", "disconnect", "synced", "*", "message", "error", "backend:create"])
async def test_other_events_of_a_client_are_no_way_in(serve, join, todos, event):
    """A client cannot send notifications or run handlers under other names; others are told nothing."""
    app = await serve(todos)
    mallory, alice = await join(app, "todos"), await join(app, "todos")
    await mallory.namespace.emit(event, "create", {"id": "forged"})
    assert await heard(app.backends["todos"], alice) == [[]]
    assert await alice.sync("read") == []


async def test_a_channel_is_never_a_sid_or_another_room(serve, join, todos):
    """Listening to what names a socket, a backend, a stream or a room gives none of its events."""
    app = await serve(todos, Notes)
    victim = await join(app, "todos", "room")
    names = [
        victim.namespace.sid,
        victim.wire.sid,
        "/todos",
        "/notes",
        "todos",
        "*",
        "c:",
        "c:room",
        "room ",
        "ROOM",
        "room\u0000",
        "/notes room",
        "None",
        "null",
    ]
    spy = await join(app, "todos", ...)
    for name in names:
        if "\u0000" in name:
            with pytest.raises(SyncFailed, match="BadRequest"):
                await spy.listen(name)
        else:
            assert await spy.listen(name) == {"event": "backend"}
    plain, friend = await join(app, "todos"), await join(app, "todos", "room")
    await plain.sync("create", {"secret": 1})
    await friend.sync("create", {"secret": 2})
    note = await join(app, "notes", "room")
    await note.sync("create", {"secret": 3})
    app.backends["todos"].emit("created", {"secret": 4}, channel="room")
    assert await heard(app.backends["todos"], spy) == [[]]
    assert len((await heard(app.backends["todos"], victim))[0]) == 2


@pytest.mark.parametrize("pair", [("1", 1), ("true", True), ("0", 0), ("null", 0.0)])
async def test_a_channel_is_a_string_and_not_what_looks_like_one(serve, join, todos, pair):
    """`1`, `true` and the like are refused instead of being taken for a channel of that text."""
    text, other = pair
    app = await serve(todos)
    alice = await join(app, "todos", text)
    spy = await join(app, "todos", "elsewhere")
    with pytest.raises(SyncFailed, match="BadRequest"):
        await spy.listen(other)
    with pytest.raises(SyncFailed):
        await alice.sync("create", {}, channel=other)
    await alice.sync("create", {})
    assert await spy.sync("read") != []
    app.backends["todos"].emit("created", {"id": "x"}, channel=text)
    assert await alice.synced() == ("create", {"id": "x"})
    assert await heard(app.backends["todos"], spy) == [[]]


# The library as it is keeps such a connection open.
@pytest.mark.parametrize("engine", ["fast"], indirect=True)
async def test_one_bad_client_does_not_disturb_another(serve, join, todos):
    """After packets that are no protocol at all, the sender is gone and the others go on."""
    app = await serve(todos)
    alice = await join(app, "todos")
    for raw in (
        "4",
        "4x",
        "42/todos",
        "42/todos,",
        "42/todos,[",
        '42/todos,{"a":1}',
        "42/todos,[1]",
        "9",
        "47",
    ):
        mallory = await join(app, "todos")
        await mallory.wire.send(raw)
        await mallory.wire.ended()
    milk = await alice.sync("create", {"title": "milk"})
    assert await alice.sync("read") == [milk]


async def test_a_retried_operation_does_not_run_its_handler_again(serve, join):
    """A retry under the same operation id gets the first reply; the handler ran once and told others once."""
    ran = []

    class Notes(Backend):
        @create
        def keep(self, req):
            ran.append(req.model)
            return {**req.model, "id": len(ran)}

    app = await serve(Notes)
    alice, bob = await join(app, "notes"), await join(app, "notes")
    request = {"method": "create", "model": {"a": 1}, "options": {}, "op": {"c": "alice", "n": 1}}
    first = await alice.namespace.call("sync", request)
    again = await alice.namespace.call("sync", request)
    assert first[:2] == again[:2] == [None, {"a": 1, "id": 1}]
    assert ran == [{"a": 1}]
    assert await heard(app.backends["notes"], bob) == [[("create", {"a": 1, "id": 1})]]


async def test_the_deadline_counts_from_the_arrival(serve, join):
    """A request queued behind one that hangs is answered Timeout together with it, not a deadline later."""
    reached = []

    class Slow(Backend):
        @update
        async def hang(self, req):
            reached.append(req.model)
            await asyncio.Event().wait()

    app = await serve(Slow, limits=Limits(deadline=0.5))
    alice = await join(app, "slow")
    ids = [await alice.namespace.start("sync", {"method": "update", "model": {"id": 1, "n": n}}) for n in range(5)]
    for id in ids:
        (ack,) = await alice.namespace.reply(id)
        assert ack["error"]["name"] == "Timeout"
    # The last may still begin when those before it are given up, a moment before it is itself.
    assert reached[0] == {"id": 1, "n": 0}
    assert len(reached) < len(ids)
