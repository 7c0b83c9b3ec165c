"""`bbio.testing`: the clients, the faults and the clock of a test."""

import asyncio

import pytest

from bbio import (
    App,
    Backend,
    BadRequest,
    Busy,
    ConfigurationError,
    Conflict,
    Forbidden,
    Limits,
    Middleware,
    Timeout,
    Unauthorized,
    Unavailable,
    before,
    create,
    testing,
    update,
)
from bbio.builtin import MemoryStore, SQLiteStore
from bbio.client import Changes, TooLarge, connect


@pytest.fixture
def app(engine, todos):
    """An application of either engine; tests in process need neither."""
    return App(engine=engine).serve(todos)


async def pair(t, **options):
    """Two clients with a collection each."""
    ann, bob = await t.clients(2, **options)
    return ann, bob, await ann.collection(), await bob.collection()


async def test_clients_are_told_of_each_other(app):
    """What one writes the other gets, in order; channels are apart."""
    async with app.test() as t:
        ann, bob, mine, theirs = await pair(t, channel="home")
        work = await (await t.client(channel="work")).collection()
        events = bob.events()
        milk = await ann.create({"title": "milk"})
        await ann.patch({"id": milk["id"], "done": True})
        await t.settle()
        assert mine == theirs == {milk["id"]: {**milk, "done": True}}
        assert [(await anext(events)).method for _ in range(2)] == ["create", "update"]
        assert work == {}


async def test_each_test_begins_anew(app):
    """Stores are opened for each test; the application can be served afterwards, and before."""
    for _ in range(2):
        async with app.test() as t:
            ann = await t.client()
            assert await ann.read() == []
            await ann.create({"title": "milk"})
    async with app.running() as url, connect(url) as io:
        assert await io.backend("todos").read() == []
        with pytest.raises(ConfigurationError, match="runs already"):
            await app.test().__aenter__()
    async with app.test() as t:
        assert await (await t.client()).read() == []


async def test_who_a_client_is(engine):
    """Headers, cookies, address and user are those that the test gives."""
    seen = []

    class Todos(Backend):
        store = MemoryStore()

        @before
        def look(self, req):
            seen.append((req.socket.headers.get("X-Team"), dict(req.socket.cookies), req.socket.remote, req.user))
            if req.user is None:
                raise Unauthorized("log in first")

    async with App(engine=engine).serve(Todos).test() as t:
        ann = await t.client(headers={"X-Team": "red"}, cookies={"a": "1", "b": "2"}, remote="10.0.0.7", user="ann")
        await ann.create({"title": "milk"})
        assert set(map(str, seen)) == {str(("red", {"a": "1", "b": "2"}, "10.0.0.7", "ann"))}
        with pytest.raises(Unauthorized, match="log in first"):
            await t.client()
        stranger = t.connect().backend("todos")
        with pytest.raises(Unauthorized):
            await stranger.create({})
        assert (await ann.read())[0]["title"] == "milk"


async def test_a_lost_answer(app):
    """The write is repeated, applied once, and nobody waits for it in real time."""
    async with app.test() as t:
        ann, bob, mine, theirs = await pair(t)
        t.drop_acks(2, ann)
        assert (await bob.create({"title": "by bob"}))["title"] == "by bob"
        milk = await ann.create({"title": "milk"})
        await t.settle()
        assert t.clock.time() == 16
        assert mine == theirs
        assert milk in mine.values()
        assert len(mine) == 2


async def test_a_lost_request(app):
    """It is made again; a lost listen too."""
    async with app.test() as t:
        ann = await t.client()
        t.drop_requests(1)
        await ann.create({"title": "milk"})
        t.drop_requests(1)
        bob = await t.client()
        assert len(await bob.read()) == 1


async def test_a_lost_notification(app):
    """The next one shows that it is missing, and then it is asked for."""
    async with app.test() as t:
        ann, _, mine, theirs = await pair(t)
        t.drop_events(1)
        await ann.create({"title": "lost"})
        await t.settle()
        assert len(theirs) == 0
        await ann.create({"title": "found"})
        await t.settle()
        assert theirs == mine
        assert len(theirs) == 2


async def test_packets_that_arrive_twice(app):
    """Neither requests nor answers nor notifications that come twice make a difference."""
    async with app.test() as t:
        ann, bob, mine, theirs = await pair(t)
        events = bob.events()
        t.duplicate(None)
        made = [await ann.create({"n": n}) for n in range(5)]
        await ann.delete(made[0]["id"])
        await t.settle()
        assert mine == theirs == {model["id"]: model for model in made[1:]}
        assert [(await anext(events)).method for _ in range(6)] == ["create"] * 5 + ["delete"]


async def test_cuts(app):
    """A cut loses what is on its way; the client comes back by itself and everything is as it should be."""
    async with app.test() as t:
        ann, _, mine, theirs = await pair(t)
        (connection, _) = t.connections
        for n in range(5):
            write = asyncio.create_task(ann.create({"n": n}))
            await asyncio.sleep(0)
            t.cut(ann)
            assert not connection.connected
            await write
            t.cut()
        await t.settle()
        assert sorted(model["n"] for model in theirs.values()) == list(range(5))
        assert mine == theirs


async def test_offline(app):
    """Writes wait, in order; reads fail at their deadline; what is missed meanwhile comes afterwards."""
    async with app.test() as t:
        ann, bob, mine, theirs = await pair(t)
        milk = await ann.create({"title": "milk"})
        t.offline(bob)
        writes = [asyncio.create_task(bob.patch({"id": milk["id"], "n": n})) for n in range(3)]
        await ann.create({"title": "bread"})
        await t.settle()
        assert not any(write.done() for write in writes)
        with pytest.raises(Timeout, match="could not be reached"):
            await bob.read()
        with pytest.raises(Timeout, match="could not be reached"):
            await bob.create({}, timeout=5)
        t.online(bob)
        t.offline(bob)
        await t.advance(5)
        t.online(bob)
        t.online(bob)
        await t.settle()
        assert [(await write)["n"] for write in writes] == [0, 1, 2]
        assert mine == theirs
        assert len(mine) == 2


async def test_a_connection_that_dies_silently(app):
    """A write finds it out within fifteen seconds, the heartbeat in 45; nothing is lost. A cut is found out at once."""
    async with app.test() as t:
        ann, bob, mine, theirs = await pair(t)
        connection = t.connections[1]
        t.silence()
        milk = await ann.create({"title": "milk"})
        assert t.clock.time() < 15
        assert repr(connection).startswith("<FakeConnection silent")
        await t.settle()
        assert t.clock.time() >= 45
        assert mine == theirs == {milk["id"]: milk}
        t.silence(bob)
        t.offline(bob)
        t.silence(bob)
        t.online(bob)
        await t.settle()
        wire = bob._session.transport
        await t.advance(60)
        assert bob._session.transport is wire


async def test_a_client_that_is_closed_while_it_is_held(app):
    """Keeps nobody's time from passing."""
    async with app.test() as t:
        ann, bob = await t.clients(2)
        t.hold(ann)
        t.connections[0].close()
        await t.advance(60)
        t.cut(bob)
        await t.settle()


async def test_delays(app):
    """Packets take their time, in order; everything is simulated."""
    async with app.test() as t:
        ann, _, mine, theirs = await pair(t)
        t.delay(3.0, ann)
        await ann.create({"title": "milk"})
        assert t.clock.time() == 6
        t.heal()
        await ann.create({"title": "bread"})
        await t.settle()
        assert t.clock.time() == 6
        assert mine == theirs


async def test_holding(app):
    """What is held arrives when it is released; no deadline passes meanwhile, and `settle` says what is the matter."""
    async with app.test() as t:
        ann, _, _, theirs = await pair(t)
        t.hold(ann)
        write = asyncio.create_task(ann.create({"title": "milk"}))
        with pytest.raises(TimeoutError, match=r"client 1: <FakeConnection held, 1 packets .* unanswered \['create'\]"):
            await t.settle(timeout=0.05)
        assert not write.done()
        t.release(ann)
        await t.settle()
        assert theirs == {(await write)["id"]: await write}


async def test_a_restart_of_a_server_with_its_store_in_memory(app):
    """Everything is gone; collections are replaced and say so, and go on."""
    async with app.test() as t:
        ann, _, mine, theirs = await pair(t)
        milk = await ann.create({"title": "milk"})
        await t.settle()
        assert await theirs.changed() == Changes(added={milk["id"]})
        await t.restart()
        bread = await ann.create({"title": "bread"})
        await t.settle()
        assert mine == theirs == {bread["id"]: bread}
        assert await theirs.changed() == Changes(added={bread["id"]}, removed={milk["id"]}, reset=True)


async def test_a_restart_of_a_server_with_its_store_on_disk(engine, tmp_path):
    """Nothing is gone, and nothing is read again."""

    class Todos(Backend):
        store = SQLiteStore(tmp_path / "todos.db")

    async with App(engine=engine).serve(Todos).test() as t:
        ann, bob, mine, theirs = await pair(t)
        t.drop_acks(1, ann)
        write = asyncio.create_task(ann.create({"title": "milk"}))
        await theirs.until(lambda mirror: len(mirror) == 1)
        await t.restart()
        await bob.create({"title": "bread"})
        await t.settle()
        assert len(mine) == 2
        assert mine == theirs
        assert await write in mine.values()
        t.app.backends["todos"].emit("created", {"id": "emitted"})
        await t.settle()
        assert "emitted" in theirs
        changes = await theirs.changed()
        assert (len(changes.added), changes.reset) == (3, False)


async def test_deadlines_pass_at_once(app):
    """A client whose every answer is lost gives up after 30 seconds of its time."""
    async with app.test() as t:
        ann = await t.client()
        t.drop_acks(None)
        with pytest.raises(Timeout, match="did not answer in time"):
            await ann.create({"title": "milk"})
        assert t.clock.time() == 30
        t.heal()
        assert len(await ann.read()) == 1
        await t.advance(100)
        assert t.clock.time() == 130
        mirror = await ann.collection()
        with pytest.raises(Timeout, match="has not come to"):
            await mirror.until(lambda mirror: len(mirror) == 2)


async def test_time_stands_still_while_the_application_works(engine):
    """A slow handler is waited for; the server's own deadline counts in real time."""
    release = asyncio.Event()

    class Todos(Backend):
        @create
        async def slow(self, req):
            await asyncio.sleep(0.02)
            return {**req.model, "id": 1}

        @update
        async def stuck(self, req):
            await release.wait()

    async with App(engine=engine, limits=Limits(deadline=0.5)).serve(Todos).test() as t:
        ann = await t.client()
        assert await ann.create({"title": "milk"}) == {"title": "milk", "id": 1}
        assert t.clock.time() == 0
        with pytest.raises(Timeout, match="took too long"):
            await ann.update({"id": 1})
        write = asyncio.create_task(ann.create({"title": "cut"}))
        await asyncio.sleep(0.005)
        t.cut()
        assert (await write)["title"] == "cut"


async def test_limits_are_the_real_ones(engine, todos):
    """Sizes, depth, queues and slow clients: as with a network."""
    limits = Limits(frame=1000, depth=3, channels=1, send_buffer=2000, requests_per_second=50)
    async with App(engine=engine, limits=limits).serve(todos).test() as t:
        ann, bob, mine, theirs = await pair(t)
        with pytest.raises(BadRequest, match="nested too deep"):
            await ann.create({"a": {"b": {"c": {"d": 1}}}})
        with pytest.raises(BadRequest, match="may listen to 1 channels"):
            await t.connections[0].backend("todos", channel="second").ready()
        with pytest.raises(TooLarge, match="the server takes 1000"):
            await ann.create({"text": "x" * 1000})
        with pytest.raises(Timeout):
            await t.connect().backend("todos", channel="x" * 1000).ready()
        assert not t.connections[2].connected
        t.connections[2].close()
        await t.settle()
        t.hold(bob)
        for n in range(6):
            await ann.create({"n": n, "text": "y" * 500})
        assert not t.connections[1].connected
        t.release(bob)
        await t.settle()
        assert mine == theirs
        outcomes = await asyncio.gather(*(ann.read() for _ in range(60)), return_exceptions=True)
        assert any(isinstance(outcome, Busy) for outcome in outcomes)


async def test_a_backend_that_is_not_served(app):
    """It is refused, each time it is asked."""
    async with app.test() as t:
        connection = t.connect()
        for _ in range(2):
            with pytest.raises(Unavailable, match="refused the backend 'none'"):
                await connection.backend("none").read()
        assert await connection.backend("todos").read() == []


async def test_which_backend(engine, todos):
    """With several, the test must say."""

    class Notes(Backend):
        store = MemoryStore()

    async with App(engine=engine).serve(todos, Notes).test() as t:
        with pytest.raises(ConfigurationError, match="say which backend: backend='todos' or 'notes'"):
            await t.client()
        await t.client(backend="notes")
        connection = t.connect()
        notes, todos = connection.backend("notes"), connection.backend("todos")
        await notes.create({"text": "x"})
        assert await todos.read() == []


async def test_closing_a_client(app):
    """It is gone; others go on."""
    async with app.test() as t:
        async with t.connect() as connection:
            ann = connection.backend("todos")
            await ann.create({"title": "milk"})
        with pytest.raises(Unavailable):
            await ann.read()
        with pytest.raises(Unavailable):
            connection.backend("todos")
        t.cut()
        t.heal()
        assert len(await (await t.client()).read()) == 1


async def test_a_start_that_fails_is_told(engine):
    """Such as that of a middleware; nothing is left running."""

    class Broken(Middleware):
        async def start(self, backend):
            raise OSError("no database")

    class Todos(Backend):
        middleware = [Broken()]

    app = App(engine=engine).serve(Todos)
    for _ in range(2):
        with pytest.raises(OSError, match="no database"):
            await app.test().__aenter__()


async def test_an_error_of_the_machinery_is_raised(app):
    """Not swallowed, and nobody waits for ever."""
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with app.test() as t:
            ann = await t.client()
            t.gateway.receive_sync = lambda *arguments: 1 / 0
            with pytest.raises(Unavailable):
                await ann.read()
            await t.settle()


async def test_a_client_that_floods_is_cut(engine):
    """As the server does it; it connects again like any other."""

    class Todos(Backend):
        store = MemoryStore()

    app = App(engine=engine, limits=Limits(requests_per_second=1)).serve(Todos)
    async with app.test() as t:
        ann = t.connect()
        ann.backend("todos")
        await t.settle()
        first = ann._sockets["todos"]
        for _ in range(4):
            t.gateway.refuse(first, None, BadRequest("no JSON"))
        await t.settle()
        assert ann.connected
        assert ann._sockets["todos"] is not first


async def test_conflicts_and_refusals(engine):
    """A race decided by revisions; a client that is no longer let in."""
    banned = set()

    class Todos(Backend):
        store = MemoryStore()

        @before
        def admit(self, req):
            if req.user in banned:
                raise Forbidden("go away")

    async with App(engine=engine).serve(Todos).test() as t:
        ann, bob = await t.client(user="ann"), await t.client(user="bob")
        mirror, theirs = await ann.collection(), await bob.collection()
        milk = await ann.create({"title": "milk"})
        await t.settle()
        rev = mirror.rev(milk["id"])
        outcomes = await asyncio.gather(
            *(handle.patch({"id": milk["id"], "by": name}, rev=rev) for handle, name in ((ann, "ann"), (bob, "bob"))),
            return_exceptions=True,
        )
        assert sorted(type(outcome) for outcome in outcomes if isinstance(outcome, Conflict)) == [Conflict]
        await t.settle()
        assert mirror == theirs
        await theirs.changed()
        banned.add("bob")
        events = bob.events()
        t.cut(bob)
        await t.settle()
        for attempt in (anext(events), theirs.changed(), theirs.until(lambda mirror: False), bob.ready()):
            with pytest.raises(Forbidden, match="go away"):
                await attempt


def test_the_older_name_of_a_connection():
    """It works, with a warning; a name that there never was is none."""
    with pytest.warns(DeprecationWarning, match=r"bbio\.testing\.Cable is FakeConnection now"):
        assert testing.Cable is testing.FakeConnection
    with pytest.raises(AttributeError, match="no attribute 'Cables'"):
        testing.Cables  # noqa: B018
