"""The asyncio client against real servers: what it promises while everything works, and while it does not."""

import asyncio
import base64
import datetime
import hashlib
import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bbio import (
    App,
    Backend,
    BadRequest,
    Busy,
    ConfigurationError,
    Conflict,
    Forbidden,
    Invalid,
    Limits,
    NotFound,
    QueryLimits,
    SyncError,
    Timeout,
    Unavailable,
    UnknownOutcome,
    before,
    update,
)
from bbio.builtin import MemoryStore, SQLiteStore
from bbio.client import Changes, Event, TooLarge, connect
from tests.support.proxy import Proxy
from tests.support.servers import eventually

FAST = {"jitter": 0.01, "reconnect": (0.01, 0.05)}


def leftovers():
    """Tasks of clients that still run."""
    return [
        task
        for task in asyncio.all_tasks()
        if "client" in (name := str(task.get_coro())).lower() and "RequestHandler" not in name and "test_" not in name
    ]


@pytest.fixture
async def io():
    """`await io(app)`: a connection that is closed after the test, and leaves no task behind."""
    opened = []

    def io(app, **options):
        opened.append(connect(app if isinstance(app, str) else app.url, **{**FAST, **options}))
        return opened[-1]

    yield io
    for connection in opened:
        await connection.close()
    assert leftovers() == []


@pytest.fixture
async def proxied(serve, todos):
    """An application behind a proxy."""
    async with Proxy((await serve(todos)).port) as proxy:
        yield proxy


@pytest.mark.parametrize("transports", [("websocket",), ("polling",), ("polling", "websocket")], ids="+".join)
async def test_syncs_and_events(serve, todos, io, transports):
    """Every method answers with the record; others are told in order, the writer is not."""
    app = await serve(todos)
    ann, bob = (io(app, transports=transports).backend("todos", channel="home") for _ in range(2))
    await bob.ready()
    await ann.ready()
    theirs, mine = bob.events(), ann.events()
    milk = await ann.create({"title": "milk"})
    oat = await ann.update({**milk, "title": "oat milk"})
    done = await ann.patch({"id": milk["id"], "done": True})
    assert await bob.read(milk["id"]) == done == {**oat, "done": True}
    assert await bob.read() == [done]
    assert await bob.read(data={"done": False}) == []
    assert await ann.delete(milk) == done
    told = [await anext(theirs) for _ in range(4)]
    assert told == [
        Event("create", milk, 1),
        Event("update", oat, 2),
        Event("update", done, 3),
        Event("delete", {"id": milk["id"]}, 4),
    ]
    bread = await bob.create({"title": "bread"})
    assert await anext(mine) == Event("create", bread, 5)


async def test_channels_are_apart(serve, io):
    """Handles of one connection follow their own channel, and what is told to all."""

    class Todos(Backend):
        store = MemoryStore(per_channel=True)

    app = await serve(Todos)
    connection = io(app)
    home, work, main = (connection.backend("todos", channel=channel) for channel in ("home", "work", None))
    assert connection.backend("todos", channel="home") is home
    assert connection.backend("todos", channel="") is main
    for handle in (home, work, main):
        await handle.ready()
    mirrors = [await handle.collection() for handle in (home, work, main)]
    milk = await home.create({"title": "milk"})
    assert [len(mirror) for mirror in mirrors] == [1, 0, 0]
    app.backends["todos"].emit("created", {"id": "all"})
    for mirror in mirrors:
        await mirror.until(lambda mirror: "all" in mirror)
    assert set(mirrors[0]) == {milk["id"], "all"}


async def test_errors_are_what_the_backend_raised(serve, io):
    """Known names come back as their classes, with details; others as subclasses of SyncError."""

    class Locked(SyncError):
        code = 423
        details = ("by",)

    class Todos(Backend):
        store = MemoryStore()

        @before("create")
        def refuse(self, req):
            raise {
                "invalid": Invalid("no", fields={"title": "missing"}),
                "locked": Locked("locked", by="ann"),
                "strange": type("Strange", (SyncError,), {"details": ("why",)})("strange", why=7),
            }[req.model["as"]]

    todos = io(await serve(Todos)).backend("todos")
    with pytest.raises(NotFound, match="there is no model"):
        await todos.read("none")
    with pytest.raises(Invalid) as invalid:
        await todos.create({"as": "invalid"})
    assert invalid.value.fields == {"title": "missing"}
    with pytest.raises(Locked) as locked:
        await todos.create({"as": "locked"})
    assert (locked.value.by, locked.value.code) == ("ann", 423)
    with pytest.raises(SyncError) as strange:
        await todos.create({"as": "strange"})
    assert strange.value.to_json() == {"name": "Strange", "message": "strange", "code": 400, "why": 7}


async def test_conflicts_carry_the_model(serve, todos, io):
    """A write that builds on an older revision fails with what is there, and can then be made."""
    app = await serve(todos)
    ann, bob = (io(app).backend("todos") for _ in range(2))
    milk = await ann.create({"title": "milk"})
    mirror = await bob.collection()
    rev = mirror.rev(milk["id"])
    oat = await ann.patch({"id": milk["id"], "title": "oat"}, rev=rev)
    with pytest.raises(Conflict) as conflict:
        await bob.patch({"id": milk["id"], "title": "soy"}, rev=rev)
    assert conflict.value.current == oat
    soy = await bob.patch({"id": milk["id"], "title": "soy"}, rev=conflict.value.rev)
    assert mirror == {milk["id"]: soy}


async def test_what_cannot_travel_is_refused_here(serve, todos, io):
    """NaN, cycles and objects that are no JSON fail before anything is sent."""
    handle = io(await serve(todos)).backend("todos")
    cycle = {}
    cycle["self"] = cycle
    for model in ({"n": float("nan")}, {"n": float("inf")}, {"o": object()}, cycle):
        with pytest.raises(BadRequest, match="cannot be written as JSON"):
            await handle.create(model)
    with pytest.raises(BadRequest, match="method must be"):
        await handle.sync("upsert", {})
    assert await handle.read() == []


async def test_a_collection_follows(serve, todos, io):
    """Its content, and what `changed` tells of it."""
    app = await serve(todos)
    ann, bob = (io(app).backend("todos") for _ in range(2))
    milk = await ann.create({"title": "milk"})
    async with bob.collection() as mirror:
        assert dict(mirror) == {milk["id"]: milk}
        assert "1 models" in repr(mirror)
        bread = await ann.create({"title": "bread"})
        assert await mirror.changed() == Changes(added={bread["id"]})
        await ann.patch({"id": milk["id"], "done": True})
        await ann.delete(bread["id"])
        await mirror.until(lambda mirror: bread["id"] not in mirror)
        assert await mirror.changed() == Changes(changed={milk["id"]}, removed={bread["id"]})
        own = await bob.create({"title": "own"})
        assert mirror[own["id"]] == own
        with pytest.raises(Timeout, match="has not come to"):
            await mirror.until(lambda mirror: len(mirror) == 7, timeout=0.01)
    await ann.create({"title": "unseen"})
    await bob.read()
    assert len(mirror) == 2


async def test_a_cut_loses_nothing(proxied, io):
    """What was missed comes in order; what was written meanwhile is sent, once."""
    ann, bob = io(proxied.url), io(proxied.url)
    todos, others = ann.backend("todos"), bob.backend("todos")
    mirror = await todos.collection()
    events = todos.events()
    await others.ready()
    for n in range(5):
        proxied.cut()
        writes = [asyncio.create_task(handle.create({"n": n})) for handle in (todos, others)]
        await asyncio.gather(*writes)
    await mirror.until(lambda mirror: len(mirror) == 10)
    assert [(await anext(events)).model["n"] for _ in range(5)] == list(range(5))
    assert sorted(model["n"] for model in await others.read()) == sorted([*range(5), *range(5)])


async def test_a_lost_ack_is_asked_for_again(proxied, io):
    """A write whose answer is lost is repeated on the next connection, and applied once."""
    connection = io(proxied.url)
    todos = connection.backend("todos")
    mirror = await todos.collection()
    proxied.hold_answers()
    write = asyncio.create_task(todos.create({"title": "milk"}))
    witness = io(f"http://127.0.0.1:{proxied.port}").backend("todos")
    applied = await witness.collection()
    await applied.until(lambda mirror: len(mirror) == 1)
    assert not write.done()
    proxied.cut()
    proxied.release_answers()
    milk = await write
    assert await witness.read() == [milk] == list(mirror.values())


async def test_writes_wait_for_the_connection_in_order(proxied, io):
    """Offline, writes queue up to a bound; they arrive in the order they were made. Reads do not wait for ever."""
    todos = io(proxied.url, queue_limit=11).backend("todos")
    milk = await todos.create({"title": "milk"})
    proxied.refuse()
    await eventually(lambda: asyncio.sleep(0, todos._session.transport is None))
    writes = [asyncio.create_task(todos.patch({"id": milk["id"], "n": n})) for n in range(10)]
    with pytest.raises(Timeout, match="could not be reached"):
        await todos.read(timeout=0.05)
    writes.append(asyncio.create_task(todos.patch({"id": milk["id"], "n": 10})))
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="wait for an answer already"):
        await todos.create({"title": "too many"})
    proxied.admit()
    assert [(await write)["n"] for write in writes] == list(range(11))
    assert (await todos.read(milk["id"]))["n"] == 10


async def test_a_restart_with_a_memory_store_resets(io, engine, todos):
    """A server that forgot everything is followed anew: the collection is replaced, and says so."""
    app = App(engine=engine).serve(todos)
    await app.start()
    async with Proxy(app.port) as proxy:
        handle = io(proxy.url).backend("todos")
        events = handle.events()
        mirror = await handle.collection()
        old = await handle.create({"title": "old"})
        assert await mirror.changed() == Changes(added={old["id"]})
        proxy.refuse()
        await app.stop()
        app = App(engine=engine).serve(todos)
        await app.start()
        proxy.port = app.port
        proxy.admit()
        new = await handle.create({"title": "new"})
        await mirror.until(lambda mirror: dict(mirror) == {new["id"]: new})
        assert (await mirror.changed()).reset
        assert await anext(events) == Event("reset")
        await app.stop()


async def test_a_restart_with_a_store_on_disk_resumes(io, engine, tmp_path):
    """A server that kept its log is followed where it was left; a write on its way is applied once."""

    class Todos(Backend):
        store = SQLiteStore(tmp_path / "todos.db")

    app = App(engine=engine).serve(Todos)
    await app.start()
    async with Proxy(app.port) as proxy:
        ann, bob = io(proxy.url).backend("todos"), io(proxy.url).backend("todos")
        mirror = await bob.collection()
        milk = await ann.create({"title": "milk"})
        await mirror.changed()
        proxy.hold_answers()
        lost = asyncio.create_task(ann.create({"title": "lost"}))
        witness = io(app).backend("todos")
        applied = await witness.collection()
        await applied.until(lambda mirror: len(mirror) == 2)
        proxy.refuse()
        proxy.release_answers()
        await app.stop()
        app = App(engine=engine).serve(Todos)
        await app.start()
        proxy.port = app.port
        proxy.admit()
        lost = await lost
        assert await ann.read() == [milk, lost]
        changes = await mirror.changed()
        assert (changes.added, changes.reset) == ({lost["id"]}, False)
        assert mirror == {milk["id"]: milk, lost["id"]: lost}
        await app.stop()


async def test_who_may_not_listen_is_told(serve, io):
    """`ready`, `collection` and `events` raise what the server answered; syncs that are allowed still work."""

    class Todos(Backend):
        store = MemoryStore()

        @before
        def admit(self, req):
            if req.channel == "secret" or (req.event == "listen" and not req.socket.cookies.get("token")):
                raise Forbidden("not for you")

    app = await serve(Todos)
    secret = io(app, headers={"Cookie": "token=1"}).backend("todos", channel="secret")
    stranger = io(app).backend("todos")
    for handle in (secret, stranger):
        events = handle.events()
        for attempt in (handle.ready(), handle.collection(), anext(events)):
            with pytest.raises(Forbidden, match="not for you"):
                await attempt
    milk = await stranger.create({"title": "milk"})
    assert await io(app, headers={"Cookie": "token=1"}).backend("todos").collection() == {milk["id"]: milk}


async def test_a_backend_that_is_not_served_is_refused(serve, todos, io):
    """Its requests fail at once, each time anew; other backends of the connection go on."""
    connection = io(await serve(todos))
    good, bad = connection.backend("todos"), connection.backend("none")
    for _ in range(2):
        with pytest.raises(Unavailable, match="refused the backend 'none'"):
            await bad.read()
    with pytest.raises(Unavailable):
        await bad.ready()
    assert await good.read() == []
    assert connection.connected


@pytest.mark.parametrize("engine", ["fast"], indirect=True)
async def test_who_is_refused_everywhere_is_not_connected(serve, todos, io):
    """The server ends a connection without a backend; it is opened again with the next request."""
    connection = io(await serve(todos, limits=Limits(connect_time=0.05)))
    bad = connection.backend("none")
    for _ in range(2):
        with pytest.raises(Unavailable, match="refused the backend 'none'"):
            await bad.read()
        await eventually(lambda: asyncio.sleep(0.1, not connection.connected))


async def test_another_backend_joins_a_live_connection(serve, todos, io):
    """Backends share one connection, whenever they are asked for."""

    class Notes(Backend):
        store = MemoryStore()

    app = await serve(todos, Notes)
    opening = io(app)
    handle = opening.backend("todos")
    await asyncio.sleep(0)
    assert await opening.backend("notes").read() == await handle.read() == []
    connection = io(app)
    assert await connection.backend("todos").read() == []
    socket = connection._socket
    assert (await connection.backend("notes").create({"text": "x"}))["text"] == "x"
    assert connection._socket is socket


async def test_a_namespace_that_the_server_closes_is_joined_again(serve, todos, io):
    """Whether it is the connection's only one or not."""

    class Notes(Backend):
        store = MemoryStore()

    app = await serve(todos, Notes)
    connection = io(app)
    handle = connection.backend("todos")
    mirror = await handle.collection()
    for others in (0, 1):
        if others:
            await connection.backend("notes").ready()
        ((sid, _),) = app.sio.manager.get_participants("/todos", None)
        await app.sio.disconnect(sid, namespace="/todos")
        await handle.create({"n": others})
        await mirror.until(lambda mirror, others=others: len(mirror) == others + 1)


async def test_a_connection_that_ends_while_it_is_opened_is_tried_again(io):
    """A server that stops just then says goodbye before it has said hello."""
    opened = asyncio.Queue()

    async def part(reader, writer):
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", await reader.readuntil(b"\r\n\r\n"))[1]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + b"\x88\x02\x03\xe9")
        opened.put_nowait(writer)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(part, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        io(f"http://{host}:{port}").backend("todos").events()
        for _ in range(3):
            await asyncio.wait_for(opened.get(), 10)


@pytest.mark.parametrize("answered", ["no", "just", "open"])
async def test_closing_ends_a_connection_that_is_still_being_opened(io, answered):
    """A server that has not answered the request for a websocket sees it end; one that says nothing is told goodbye."""
    came, gone = asyncio.Event(), asyncio.Event()

    async def silent(request):
        websocket = web.WebSocketResponse(autoping=False)
        try:
            if answered == "no":
                came.set()
                await asyncio.Event().wait()
            await websocket.prepare(request)
            if answered == "just":
                came.set()  # whether the answer has been read, or is lost with the connection, is left to chance
            await websocket.ping()
            if (await websocket.receive()).type is web.WSMsgType.PONG:
                came.set()
                assert (await websocket.receive()).type is web.WSMsgType.CLOSE
            else:
                assert answered == "just"
        finally:
            gone.set()
        return websocket

    application = web.Application()
    application.router.add_get("/socket.io/", silent)
    async with TestServer(application) as server:
        connection = io(str(server.make_url("/")), transports=["websocket"])
        connection.backend("todos").events()
        await asyncio.wait_for(came.wait(), 10)
        await connection.close()
        await asyncio.wait_for(gone.wait(), 10)


async def test_nobody_there(io):
    """Without a server everything ends at its deadline, with a text that says what to look at."""
    handle = io("http://127.0.0.1:1", deadline=0.05).backend("todos")
    for attempt in (handle.read(), handle.create({}), handle.ready()):
        with pytest.raises(Timeout, match="is the address right"):
            await attempt


async def test_closing_ends_everything(serve, io):
    """Requests fail, events end, collections say so, and nothing can be asked any more."""
    release = asyncio.Event()

    class Todos(Backend):
        store = MemoryStore()

        @update
        async def wait(self, req):
            await release.wait()

    connection = io(await serve(Todos))
    handle = connection.backend("todos")
    mirror, events = await handle.collection(), handle.events()
    write = asyncio.create_task(handle.update({"id": 1}))
    change = asyncio.create_task(mirror.changed())
    await handle.read()
    await connection.close()
    release.set()
    with pytest.raises(UnknownOutcome, match="may have been applied"):
        await write
    with pytest.raises(Unavailable, match="was closed"):
        await change
    assert [event async for event in events] == []
    assert [event async for event in handle.events()] == []
    for attempt in (handle.read(), handle.ready()):
        with pytest.raises(Unavailable):
            await attempt
    with pytest.raises(Unavailable):
        connection.backend("notes")
    assert not connection.connected


async def test_wrong_options():
    """Mistakes are told at once."""
    for url in ("localhost:3000", "todos", "ftp://localhost"):
        with pytest.raises(ConfigurationError, match="http://localhost:3000"):
            connect(url)
    with pytest.raises(ConfigurationError, match="must not be negative"):
        connect("http://localhost", deadline=-1)
    for option in ("reconnection", "logger", "auht"):  # the library's that bbio does itself, and nobody's
        with pytest.raises(ConfigurationError, match=f"no option '{option}'.*ssl_verify"):
            connect("http://localhost", **{option: True})
    for transports in ((), "websocket", ("websocket", "carrier pigeon")):
        with pytest.raises(ConfigurationError, match="polling, websocket"):
            connect("http://localhost", transports=transports)
    async with connect("http://localhost:1") as connection:
        for name, channel in (("", None), (7, None), ("todos", 7)):
            with pytest.raises(ConfigurationError, match="string"):
                connection.backend(name, channel=channel)


async def test_pages(serve, todos, io):
    """A page has its models, the cursor of the next one and the total; what is no query is refused."""
    handle = io(await serve(todos)).backend("todos")
    for n in range(5):
        await handle.create({"n": n})
    page = await handle.query({"n": {"$gt": 0}, "sort": "-n", "limit": 3, "count": True})
    assert [model["n"] for model in page.models] == [4, 3, 2]
    assert page.total == 4
    page = await handle.query({"n": {"$gt": 0}, "sort": "-n", "limit": 3, "cursor": page.next})
    assert ([model["n"] for model in page.models], page.next, page.total) == ([1], None, None)
    with pytest.raises(BadRequest):
        await handle.query({"n": {"$near": 1}})


async def test_a_model_that_an_update_creates_is_in_all_collections(serve, io):
    """Those of the writer itself, too, and such as keep to a query that finds it."""

    class Settings(Backend):
        store = MemoryStore(upsert=True)

    ann = io(await serve(Settings)).backend("settings")
    async with ann.collection() as first, ann.collection() as second, ann.collection(data={"kind": "draft"}) as drafts:
        theme = await ann.update({"id": "theme", "kind": "color"})
        await second.until(lambda mirror: "theme" in mirror)
        assert dict(first) == dict(second) == {"theme": theme}
        assert dict(drafts) == {}


async def test_a_collection_keeps_to_its_query(serve, todos, io):
    """What others write comes in while it fits; the first page stays that, and a later one takes in nothing."""
    app = await serve(todos)
    ann, bob = (io(app).backend("todos") for _ in range(2))
    low = await ann.create({"n": 1})
    high = await ann.create({"n": 5})
    mirror = await bob.collection(data={"n": {"$lt": 4}})
    page = await bob.collection(data={"n": {"$lt": 4}, "sort": "n", "limit": 1})
    later = await bob.collection(data={"n": {"$lt": 4}, "sort": "n", "limit": 1, "offset": 1})
    assert (set(mirror), set(page), set(later)) == ({low["id"]}, {low["id"]}, set())
    other = await ann.create({"n": 2})
    await ann.create({"n": 9})
    await ann.patch({"id": high["id"], "n": 0})
    last = await ann.create({"n": 3})
    await mirror.until(lambda mirror: last["id"] in mirror)
    assert set(mirror) == {low["id"], other["id"], high["id"], last["id"]}
    assert set(page) == {high["id"]}
    await ann.patch({"id": low["id"], "n": 1.5})
    await ann.patch({"id": high["id"], "n": 4})
    await page.until(lambda page: set(page) == {low["id"]})
    assert page[low["id"]]["n"] == 1.5
    assert set(later) == set()
    await ann.patch({"id": low["id"], "n": 4})
    await page.until(lambda page: set(page) == {other["id"]})
    await mirror.until(lambda mirror: low["id"] not in mirror)


async def test_data_that_the_server_understands_in_its_own_way_is_no_query(serve, io):
    """Then everything that is told comes in."""

    class Todos(Backend):
        store = MemoryStore(models=[{"id": 1, "n": 1}])

        @before("read")
        def translate(self, req):
            req.options["data"] = {"sort": "n"} if "page" in req.options.get("data", {}) else {}

    handle = io(await serve(Todos)).backend("todos")
    for data in ({"page": 1}, {"$near": 1}):
        mirror = await handle.collection(data=data)
        new = await handle.create({"n": 2})
        await mirror.until(lambda mirror, new=new: new["id"] in mirror)


async def test_a_client_may_visit_any_number_of_channels(serve, io):
    """A collection that is closed leaves its channel, which is told of no more; who comes back begins anew."""

    class Rooms(Backend):
        store = MemoryStore(per_channel=True)

    app = await serve(Rooms)
    connection = io(app)
    other = io(app)
    for number in range(70):
        handle = connection.backend("rooms", channel=f"room {number}")
        async with handle.collection() as mirror:
            await handle.create({"n": number})
            await mirror.until(len)
    writer = other.backend("rooms", channel="room 3")
    await writer.ready()
    await writer.create({"n": 1})
    left = connection.backend("rooms", channel="room 3")
    async with left.collection() as mirror, left.events():
        assert len(mirror) == 2
        await writer.create({"n": 2})
        await mirror.until(lambda mirror: len(mirror) == 3)
    await left.create({"n": 3})


async def test_a_collection_of_any_size_is_read(serve, io):
    """Page by page, where it is more than the server tells at once; a `limit` of its own is kept to."""

    class Many(Backend):
        store = MemoryStore(queries=QueryLimits(models=5, limit=3))

    handle = io(await serve(Many)).backend("many")
    for number in range(8):
        await handle.create({"n": number, "even": number % 2 == 0})
    mirror = await handle.collection()
    assert sorted(model["n"] for model in mirror.values()) == list(range(8))
    assert all(mirror.rev(key) for key in mirror)
    evens = await handle.collection(data={"n": {"$lt": 100}})
    assert len(evens) == 8
    with pytest.raises(BadRequest, match="page by page") as error:
        await handle.read()
    assert error.value.page_limit == 3
    with pytest.raises(BadRequest):
        await handle.collection(data={"limit": 100})


async def test_a_query_is_kept_to_as_it_was_sent(serve, todos, io):
    """What the caller does to it later, and what JSON has no type for, plays no part."""
    handle = io(await serve(todos)).backend("todos")
    data = {"due": {"$lte": datetime.datetime(2027, 1, 31, tzinfo=datetime.UTC)}}
    mirror = await handle.collection(data=data)
    data["due"] = {"$lte": "2000"}
    await handle.create({"due": "2027-01-01T00:00:00Z"})
    await handle.create({"due": "2028-01-01T00:00:00Z"})
    await mirror.until(len)
    assert [model["due"] for model in mirror.values()] == ["2027-01-01T00:00:00Z"]


async def test_what_the_application_does_to_a_record_reaches_nobody_else(serve, todos, io):
    """An answer, an event and the models of a collection are each one's own."""
    app = await serve(todos)
    handle, other = io(app).backend("todos"), io(app).backend("todos")
    mirror, theirs, events = await handle.collection(), await other.collection(), other.events()
    made = await handle.create({"tags": ["a"]})
    event = await anext(events)
    made["tags"].append("b")
    event.model["tags"].clear()
    await theirs.until(len)
    assert [model["tags"] for model in (*mirror.values(), *theirs.values())] == [["a"], ["a"]]


async def test_a_link_that_is_dropped_is_opened_again(proxied, io):
    """It is closed without a word to the other side, and opened again."""
    handle = io(f"http://127.0.0.1:{proxied.port}").backend("todos")
    await handle.ready()
    session = handle._session
    transport = session.transport
    transport.drop()

    async def opened_again():
        return session.transport not in (None, transport)

    await eventually(opened_again)
    made = await handle.create({"title": "milk"})
    assert await handle.read() == [made]


@pytest.mark.parametrize("transports", [("websocket",), ("polling",), ("polling", "websocket")], ids="+".join)
async def test_what_is_larger_than_the_server_takes_is_refused_at_once(serve, todos, io, transports):
    """It is not sent, as it would close the connection, and whatever waits behind it goes on."""
    app = await serve(todos, limits=Limits(frame=20_000))
    connection = io(app, transports=transports)
    ann = connection.backend("todos")
    await ann.ready()
    large = asyncio.create_task(ann.create({"text": "ä" * 10_000}))
    small = asyncio.create_task(ann.create({"text": "x" * 19_000}))
    with pytest.raises(
        TooLarge, match=r"the create of 'todos' is too large: 201.. bytes, and the server takes 20000"
    ) as caught:
        await large
    assert caught.value.to_json() == {
        "name": "TooLarge",
        "message": str(caught.value),
        "code": 413,
        "size": caught.value.size,
        "limit": 20_000,
    }
    assert isinstance(caught.value, BadRequest)
    assert len((await small)["text"]) == 19_000
    assert connection.connected
    assert len(await ann.read()) == 1


async def test_polling_sends_no_more_at_once_than_the_server_takes(serve, todos, io):
    """Each of many writes is small enough; together they are several messages."""
    app = await serve(todos, limits=Limits(frame=20_000))
    ann = io(app, transports=["polling"], deadline=10).backend("todos")
    made = await asyncio.gather(*(ann.create({"n": n, "text": "x" * 3_000}) for n in range(60)))
    assert [todo["n"] for todo in made] == list(range(60))


@pytest.mark.parametrize("transports", [("websocket",), ("polling", "websocket")], ids="+".join)
@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        ({"headers": {"Origin": "http://other.example"}}, Forbidden, r"\(403\): is the header Origin allowed\?"),
        ({"path": "elsewhere"}, Unavailable, r"\(404\): is that where bbio is\?"),
    ],
    ids=["origin", "path"],
)
async def test_who_is_turned_away_is_told_at_once(serve, todos, io, transports, options, error, hint):
    """By each request, and by what waits for the backend; it goes on trying all the same."""
    app = await serve(todos)
    handle = io(app, transports=transports, **options).backend("todos")
    for asked in (handle.ready(), handle.read(), handle.create({"n": 1}), handle.collection().open()):
        with pytest.raises(error, match=hint):
            async with asyncio.timeout(10):
                await asked


async def test_who_was_let_in_before_goes_on_waiting_when_it_is_turned_away(serve, todos, io):
    """What is in between may refuse for a while; another status may be another one the next time."""
    app = await serve(todos)
    connection = io(app)
    handle = connection.backend("todos")
    await handle.ready()
    connection.connect(headers={"Origin": "http://other.example"}, user="ann")
    write = asyncio.create_task(handle.create({"n": 1}))
    refused = asyncio.Event()
    turned_away = handle._session.turned_away
    handle._session.turned_away = lambda err: (turned_away(err), refused.set())
    await refused.wait()
    connection.connect(user="ann")
    assert (await write)["n"] == 1
