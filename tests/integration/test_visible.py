"""`@visible`: one declaration decides what is read, written, told and told later (docs/visibility.md)."""

from __future__ import annotations

import asyncio
from functools import partial

import attrs
import pytest
from msgspec import structs

import bbio
from bbio import (
    App,
    Backend,
    Conflict,
    DefinitionError,
    EncodingError,
    Forbidden,
    Middleware,
    NotFound,
    Unauthorized,
    Unavailable,
    after,
    read,
    update,
    visible,
)
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.protocol import decode
from bbio.server import permissions
from bbio.server.subscribers import Subscribers
from bbio.streams import HistoryLimits

PROJECTS = {"ann": ["x"], "bob": ["y"]}


@pytest.fixture(autouse=True)
def projects():
    """Who is in which project."""
    PROJECTS.update(ann=["x"], bob=["y"])


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make_store(request):
    """Each store in turn; `app.test()` gives those of databases files and schemas of their own."""
    if request.param == "postgres":
        return partial(PostgresStore, request.getfixturevalue("postgres_server"))
    return MemoryStore if request.param == "memory" else partial(SQLiteStore, "issues.db")


def issues(make_store=MemoryStore, **options):
    class Issues(Backend):
        store = make_store(**options)

        @visible
        async def scope(self, req):
            return {"$or": [{"author": req.user["id"]}, {"project": {"$in": PROJECTS[req.user["id"]]}}]}

    return App().serve(Issues)


MODELS = [
    {"id": "1", "author": "ann", "project": "x", "n": 1},
    {"id": "2", "author": "bob", "project": "x", "n": 2},
    {"id": "3", "author": "bob", "project": "y", "n": 3},
    {"id": "4", "author": "ann", "project": "y", "n": 4},
]


def ids(models):
    return [model["id"] for model in models]


async def test_a_write_may_leave_where_that_is_said(make_store):
    """Then the writer is told that the model is gone. Nobody gets into what others have by a new one."""

    class Issues(Backend):
        store = make_store(models=MODELS)

        @visible(may_leave=True)
        def scope(self, req):
            return {"project": {"$in": PROJECTS[req.user["id"]]}}

    async with App().serve(Issues).test() as t:
        ann, bob = (t.connect(user={"id": name}).backend("issues") for name in ("ann", "bob"))
        anns, bobs = await ann.collection(), await bob.collection()
        assert await ann.patch({"id": "1", "project": "y"}) == {"id": "1"}
        await t.settle()
        assert sorted(anns) == ["2"]
        assert sorted(bobs) == ["1", "3", "4"]
        with pytest.raises(Forbidden):
            await ann.create({"project": "y"})


async def test_records_come_and_go_with_what_is_written(make_store):
    """In and out of sight, in and out of the page; after a lost connection too, without reading everything again."""
    async with issues(make_store, models=MODELS).test() as t:
        ann, bob = (t.connect(user={"id": name}).backend("issues") for name in ("ann", "bob"))
        anns, bobs = await ann.collection(), await bob.collection()
        await bob.patch({"id": "3", "project": "x"})
        await t.settle()
        assert sorted(anns) == ["1", "2", "3", "4"]
        reads = []
        t.offline(ann)
        await bob.patch({"id": "3", "project": "z"})
        made = await bob.create({"author": "bob", "project": "z"})
        await bob.delete("2")
        anns_reread = anns.reread
        anns.reread = lambda renewed: reads.append(renewed) or anns_reread(renewed)
        t.online(ann)
        await t.advance(5)
        await t.settle()
        assert (sorted(anns), reads) == (["1", "4"], [])
        assert sorted(bobs) == sorted([made["id"], "3", "4"])


async def test_a_changed_scope_has_everything_read_again(make_store):
    """Nothing is told until the client has listened again; what it may not have any more leaves its page."""
    app = issues(make_store, models=MODELS)
    async with app.test() as t:
        ann, bob = (t.connect(user={"id": name}).backend("issues") for name in ("ann", "bob"))
        anns = await ann.collection()
        PROJECTS["ann"] = ["y"]
        await app.backends["issues"].recheck()
        await t.settle()
        assert sorted(anns) == ["1", "3", "4"]
        await bob.patch({"id": "2", "n": 9})
        await t.settle()
        assert sorted(anns) == ["1", "3", "4"]


def waiting(method):
    """An application whose method waits at its end, an event that says that it has come there, and one that ends it."""
    begun, gate = asyncio.Event(), asyncio.Event()

    class Issues(Backend):
        store = MemoryStore(models=MODELS)

        @visible
        def scope(self, req):
            return {"project": {"$in": PROJECTS[req.user["id"]]}}

        @after(method)
        async def take_long(self):
            begun.set()
            await gate.wait()

    return App().serve(Issues), begun, gate


async def test_a_write_is_answered_by_what_its_writer_may_have_in_the_end():
    """Permissions may change while it is under way: then its answer has the id alone."""
    app, begun, gate = waiting("patch")
    async with app.test() as t:
        ann = t.connect(user={"id": "ann"}).backend("issues")
        anns = await ann.collection()
        t.drop_events(1, ann)  # else it is the answer
        write = asyncio.create_task(ann.patch({"id": "1", "n": 9}))
        await begun.wait()
        PROJECTS["ann"] = ["y"]
        await app.backends["issues"].recheck()
        gate.set()
        assert await write == {"id": "1"}
        await t.settle()
        assert sorted(anns) == ["3", "4"]


@pytest.mark.parametrize("id", [None, "1"])
async def test_what_is_read_while_permissions_change_is_not_told(id):
    """It was found with the permissions of before, which do not count any more once `recheck` has come back."""
    app, begun, gate = waiting("read")
    async with app.test() as t:
        ann = t.connect(user={"id": "ann"}).backend("issues")
        await ann.ready()
        reading = asyncio.create_task(ann.read(*([] if id is None else [id])))
        await begun.wait()
        PROJECTS["ann"] = ["y"]
        await app.backends["issues"].recheck()
        gate.set()
        with pytest.raises(Unavailable, match="permissions have changed"):
            await reading
        assert ids(await ann.read()) == ["3", "4"]


async def test_what_nobody_knows_the_past_of_is_read(make_store):
    """An update that the application tells of without saying what the record was."""
    app = issues(make_store, models=MODELS)
    async with app.test() as t:
        ann = t.connect(user={"id": "ann"}).backend("issues")
        anns = await ann.collection()
        backend, reads, reread = app.backends["issues"], [], anns.reread
        anns.reread = lambda renewed: reads.append(renewed) or reread(renewed)
        backend.emit("created", {"id": "5", "author": "bob"}, channel="")
        backend.emit("updated", MODELS[2], channel="", before={**MODELS[2], "n": 9})
        await t.advance(5)
        await t.settle()
        assert reads == []
        backend.emit("updated", {"id": "3", "author": "ann"}, channel="")
        await t.advance(5)
        await t.settle()
        assert (sorted(anns), len(reads)) == (["1", "2", "4"], 1)


async def test_what_is_emitted_with_the_record_before_is_told_as_what_it_is_to_each(make_store):
    """In and out of sight, without a read; of a deletion the id alone says nothing of who had the record."""
    app = issues(make_store, models=MODELS)
    async with app.test() as t:
        ann, bob = (t.connect(user={"id": name}).backend("issues") for name in ("ann", "bob"))
        anns, bobs, reads = await ann.collection(), await bob.collection(), []
        reread = anns.reread
        anns.reread = lambda renewed: reads.append(renewed) or reread(renewed)
        emit = app.backends["issues"].emit
        moved, left = {**MODELS[2], "project": "x"}, {**MODELS[1], "project": "y"}
        emit("updated", moved, channel="", before=MODELS[2])
        emit("updated", left, channel="", before=MODELS[1])
        emit("deleted", {"id": "1"}, channel="", before=MODELS[0])
        emit("deleted", MODELS[3], channel="")
        await t.advance(5)
        await t.settle()
        assert (dict(anns), reads) == ({"3": moved}, [])
        assert dict(bobs) == {"2": left, "3": moved}
        emit("deleted", {"id": "3"}, channel="")
        await t.advance(5)
        await t.settle()
        assert (sorted(anns), len(reads)) == (["1", "2", "4"], 1)  # it had been stored by nobody


async def test_what_is_emitted_and_is_no_record_is_nothing_that_views_could_judge():
    """Nobody knows whom it concerns: everything is read again."""
    app = issues(models=MODELS)
    async with app.test() as t:
        anns, reads = await t.connect(user={"id": "ann"}).backend("issues").collection(), []
        anns_reread = anns.reread
        anns.reread = lambda renewed: reads.append(renewed) or anns_reread(renewed)
        app.backends["issues"].emit("created", ["a list"], channel="")
        await t.advance(5)
        await t.settle()
        assert (sorted(anns), len(reads)) == (["1", "2", "4"], 1)


async def test_nothing_is_resumed_across_what_nobody_knows_the_past_of(make_store):
    """Who was away when it was told reads everything."""
    app = issues(make_store, models=MODELS)
    async with app.test() as t:
        ann = t.connect(user={"id": "ann"}).backend("issues")
        anns, reads = await ann.collection(), []
        reread = anns.reread
        anns.reread = lambda renewed: reads.append(renewed) or reread(renewed)
        t.offline(ann)
        app.backends["issues"].emit("updated", MODELS[1], channel="")
        await t.settle()
        t.online(ann)
        await t.advance(5)
        await t.settle()
        assert (sorted(anns), len(reads)) == (["1", "2", "4"], 1)


async def test_a_record_before_that_cannot_travel_is_refused_where_it_is_called():
    """The text says in which of the two."""
    app = issues(models=MODELS)
    async with app.test():
        with pytest.raises(EncodingError, match=r"^before\.n is a .*, which JSON does not have"):
            app.backends["issues"].emit("updated", MODELS[0], before={"n": object()})


async def test_whoever_must_listen_again_is_not_told_how_far_the_stream_has_come():
    """It is told of nothing, so that there is nothing to count."""
    app = issues(models=MODELS)
    async with app.test() as t:
        ann = t.connect(user={"id": "ann"}).backend("issues")
        anns = await ann.collection()
        t.hold(ann)
        PROJECTS["ann"] = ["y"]
        await app.backends["issues"].recheck()
        told = []
        deliver = t.gateway.delivery.transport.deliver
        t.gateway.delivery.transport.deliver = lambda *args: told.append(args) or deliver(*args)
        t.gateway.subscribers["issues"].expire()
        t.gateway.delivery.transport.deliver = deliver
        assert [text for *_, text in told if b'"c:"' in text] == []
        t.release()
        await t.settle()
        assert sorted(anns) == ["1", "3", "4"]


async def test_quiet_views_are_told_how_far_their_stream_has_come(make_store):
    """So that they find their history when they come back, however much of it was nothing to them."""
    async with issues(make_store, models=MODELS, history=HistoryLimits(events=300)).test() as t:
        ann, bob = (t.connect(user={"id": name}).backend("issues") for name in ("ann", "bob"))
        await ann.collection()
        for n in range(250):
            await bob.patch({"id": "3", "n": n})
        await t.settle()
        assert ann._subscription.tracker.since["c:"][1] == 250
        t.drop_events(1, ann)
        await bob.patch({"id": "2", "n": 1})
        await t.settle()
        assert ann._subscription.tracker.since["c:"][1] == 250
        for subscribers in t.gateway.subscribers.values():
            subscribers.expire()
        await t.settle()
        assert ann._subscription.tracker.since["c:"][1] == 251


async def test_a_fault_in_a_scope_lets_nobody_see_anything(make_store, caplog):
    """It is logged whole, once for each who asked."""

    class Issues(Backend):
        store = make_store(models=MODELS)

        @visible(may_leave=True)
        def scope(self, req):
            return {"onwer": object()}

    async with App().serve(Issues).test() as t:
        ann = t.connect(user={"id": "ann"}).backend("issues")
        assert await ann.read() == []
        with pytest.raises(NotFound):
            await ann.patch({"id": "1", "n": 2})
        with pytest.raises(Forbidden):
            await ann.create({"n": 1})
    assert "Issues.scope" in caplog.text
    assert "EncodingError" in caplog.text


@pytest.mark.parametrize(
    ("fault", "meanwhile"),
    [(ConnectionError("out of reach"), []), (Unavailable("out of reach", retry_after=1.0), ["1", "4"])],
    ids=["a fault", "unavailable"],
)
async def test_what_a_scope_could_not_say_is_asked_again(fault, meanwhile, monkeypatch):
    """After a fault nothing is seen; who cannot tell at the moment changes nothing. Others are left alone."""
    monkeypatch.setattr(permissions, "SCOPE_RETRY_SECONDS", 0.02)
    authors, faults, asked = {"ann": "ann", "bob": "bob"}, set(), []
    retried, answered = asyncio.Event(), asyncio.Semaphore(0)

    class Issues(Backend):
        store = MemoryStore(models=MODELS)

        @visible
        def scope(self, req):
            user = req.user["id"]
            asked.append(user)
            if user in faults:
                if asked.count(user) > 8:
                    retried.set()
                raise fault
            if user != authors[user]:
                answered.release()
            return {"author": authors[user]}

    async with App().serve(Issues).test() as t:
        ann, phone, bob = (t.connect(user={"id": name}).backend("issues") for name in ("ann", "ann", "bob"))
        shown, also, others = await ann.collection(), await phone.collection(), await bob.collection()
        faults.add("ann")
        authors["ann"] = "bob"
        await t.app.backends["issues"].recheck()
        await t.settle()
        assert (sorted(shown), sorted(also), sorted(others)) == (meanwhile, meanwhile, ["2", "3"])
        before = asked.count("bob")
        async with asyncio.timeout(20):
            await retried.wait()
            assert sorted(shown) == meanwhile
            faults.clear()
            for _ in (ann, phone):
                await answered.acquire()
        await t.settle()
        assert (sorted(shown), sorted(also), asked.count("bob")) == (["2", "3"], ["2", "3"], before)


async def test_a_scope_may_refuse_as_any_layer_may(make_store, caplog):
    """Its client may not listen either; where it cannot tell at the moment, whoever listens goes on listening."""
    answers = {}

    class Issues(Backend):
        store = make_store(models=MODELS)

        @visible
        def scope(self, req):
            answer = answers.get(req.user["id"], True)
            if isinstance(answer, Exception):
                raise answer
            return answer

    app = App().serve(Issues)
    async with app.test() as t:
        ann, bob = (t.connect(user={"id": name}).backend("issues") for name in ("ann", "bob"))
        answers["ann"] = Unauthorized("log in first")
        for asked in (ann.read(), ann.create({"n": 1}), ann.patch({"id": "1", "n": 2}), ann.collection()):
            with pytest.raises(Unauthorized, match="log in first"):
                await asked
        shown = await bob.collection()
        answers["bob"] = Unavailable("the database is out of reach", retry_after=1.0)
        await app.backends["issues"].recheck()
        await t.settle()
        await t.connect(user={"id": "eve"}).backend("issues").patch({"id": "1", "n": 7})
        await t.settle()
        assert (len(shown), shown["1"]["n"]) == (4, 7)
        answers["bob"] = Forbidden("not any more")
        await app.backends["issues"].recheck()
        await t.settle()
        with pytest.raises(Forbidden, match="not any more"):
            await shown.until(lambda models: not models)
    assert "failed to say" not in caplog.text


async def test_scopes_are_joined_and_inherited():
    """Of a mixin, a middleware and the class; overridden without the decorator, it keeps the mark."""

    class NotDone:
        @visible
        def open(self):
            return {"done": False}

    class Own(Middleware):
        @visible(thread=True)
        def own(self, req):
            return {"owner": req.user["id"]}

    class Base(NotDone, Backend):
        middleware = [Own()]
        store = MemoryStore(
            models=[{"id": n, "done": n > 2, "owner": "ann" if n % 2 else "bob", "n": n} for n in range(1, 5)]
        )

        @visible
        def few(self, req):
            return True

    class Todos(Base):
        def few(self, req):
            return {"n": {"$lt": 9}}

    async with App().serve(Base, Todos).test() as t:
        ann, mallory = (t.connect(user={"id": name}) for name in ("ann", "mallory"))
        assert ids(await ann.backend("todos").read()) == [1]
        assert ids(await ann.backend("base").read()) == [1]
        assert await mallory.backend("todos").read() == []


async def test_the_server_itself_sees_everything():
    """A request without a client has no scope."""
    app = issues(models=MODELS)
    async with app.test():
        runtime = app.backends["issues"]
        res = await runtime.stacks["read"].run(bbio.Request("read", {}, {}, runtime.backend))
        assert ids(res.result) == ["1", "2", "3", "4"]
        assert ids((await runtime.query()).models) == ["1", "2", "3", "4"]
        assert (await runtime.patch({"id": "3", "n": 0}))["n"] == 0


async def test_what_handlers_answer_is_judged():
    """A list is shortened, a model is not there, a conflict shows nothing; what is no record stays."""

    class Issues(Backend):
        store = MemoryStore(models=MODELS)

        @visible
        def scope(self, req):
            return {"author": req.user["id"]}

        @read
        def mine(self, req):
            if req.options.get("count"):
                return len(MODELS)
            return MODELS if req.id is None else MODELS[int(req.id) - 1]

        @update
        def refuse(self, req):
            raise Conflict("no", current=MODELS[int(req.id) - 1], rev=3)

    async with App().serve(Issues).test() as t:
        ann = t.connect(user={"id": "ann"}).backend("issues")
        assert ids(await ann.read()) == ["1", "4"]
        assert (await ann.read("4"))["n"] == 4
        assert await ann.sync("read", {}, options={"count": True}) == 4
        with pytest.raises(NotFound):
            await ann.read("2")
        with pytest.raises(Conflict) as seen:
            await ann.update({"id": "1"})
        assert seen.value.current == MODELS[0]
        with pytest.raises(Conflict) as hidden:
            await ann.update({"id": "2"})
        assert "bob" not in str(hidden.value.to_json())


@attrs.define
class Task:
    title: str
    team: str = bbio.field(private=True, default="a")
    notes: str = bbio.field(roles=("boss",), default="")


async def test_a_scope_may_name_private_fields(make_store):
    """Nobody is told of these; who sees which fields is apart from who sees which records."""

    class Tasks(Backend):
        model = Task
        store = make_store(
            models=[{"id": "1", "title": "one", "notes": "n", "team": "a"}, {"id": "2", "title": "two", "team": "b"}]
        )

        @visible
        def scope(self, req):
            return {"team": req.user["team"]}

    async with App().serve(Tasks).test() as t:
        one = t.connect(user={"id": 1, "team": "a"}).backend("tasks")
        boss = t.connect(user={"id": 2, "team": "a", "roles": ["boss"]}).backend("tasks")
        other = t.connect(user={"id": 3, "team": "b"}).backend("tasks")
        pages = [await handle.collection() for handle in (one, boss, other)]
        assert [sorted(page) for page in pages] == [["1"], ["1"], ["2"]]
        await boss.patch({"id": "1", "title": "new", "notes": "m"})
        await t.settle()
        assert pages[0]["1"] == {"id": "1", "title": "new"}
        assert pages[1]["1"] == {"id": "1", "title": "new", "notes": "m"}
        assert sorted(pages[2]) == ["2"]
        await one.delete("1")
        await t.settle()
        assert [sorted(page) for page in pages] == [[], [], ["2"]]


@pytest.mark.parametrize(
    "store",
    [
        None,
        type("Own", (MemoryStore,), {"update": lambda self, req: 1})(),
        type("Own", (SQLiteStore,), {"read": lambda self, req: 1})("issues.db"),
        type("Own", (PostgresStore,), {"select": lambda self, *rest: 1})("postgresql://localhost/none"),
    ],
    ids=["none", "memory", "sqlite", "postgres"],
)
def test_it_needs_a_store_that_keeps_to_scopes(store):
    """The text says so, and what would be one."""
    given = store

    class Issues(Backend):
        store = given

        @visible
        def scope(self, req):
            return True

    with pytest.raises(
        DefinitionError, match=r"Issues\.scope is @visible, which needs a store .* (it has none|Own does not); give"
    ):
        App().serve(Issues)


def test_a_mark_is_checked_when_the_class_is_defined():
    """It names no sync methods, asks for nothing but the request, and is not forgotten."""
    assert repr(visible) == "<decorator @visible>"
    with pytest.raises(DefinitionError, match="names no sync methods"):
        visible("read")
    with pytest.raises(DefinitionError, match="unknown parameter `res`"):

        class Bad(Backend):
            @visible
            def scope(self, req, res):
                return True

    with pytest.raises(DefinitionError, match="has no decorator"):

        class Forgotten(Backend):
            def visible(self, req):
                return True


async def test_it_holds_on_a_server(serve, join):
    """As it does in a test: which layers a backend has is not known before it is served."""

    class Issues(Backend):
        store = MemoryStore(models=MODELS)

        @visible
        def scope(self, req):
            return {"author": req.socket.headers["name"]}

    app = await serve(Issues)
    ann, other, bob = [await join(app, "issues", headers={"name": name}) for name in ("ann", "ann", "bob")]
    await bob.sync("patch", {"id": "3", "n": 1})
    await other.sync("patch", {"id": "1", "n": 1})
    assert (await ann.synced())[1]["id"] == "1"


async def test_legacy_clients_are_told_the_same_in_two_arguments():
    """Who sees a record come, change and go is told so; a changed scope counts at once."""
    app = issues(models=MODELS)
    async with app.test() as t:
        connection, told = t.connect(user={"id": "ann"}), []
        ann, bob = connection.backend("issues"), t.connect(user={"id": "bob"}).backend("issues")
        await ann.read()
        connection.tell = lambda namespace, text: told.append(decode(text)[1:])
        t.gateway.receive(connection._sockets["issues"], "unlisten", None, [[None]])
        t.gateway.receive(connection._sockets["issues"], "listen", None, [None])
        await t.settle()
        await bob.patch({"id": "3", "project": "x"})
        await bob.patch({"id": "3", "n": 0})
        await bob.patch({"id": "3", "project": "z"})
        await bob.patch({"id": "3", "n": 1})
        await ann.sync("patch", {"id": "1", "n": 0})
        assert [(method, model["id"]) for method, model in told] == [("create", "3"), ("update", "3"), ("delete", "3")]
        assert told[-1] == ["delete", {"id": "3"}]
        PROJECTS["ann"] = ["z"]
        await app.backends["issues"].recheck()
        await bob.patch({"id": "3", "n": 2})
        await bob.patch({"id": "2", "n": 2})
        assert [(method, model["id"]) for method, model in told[3:]] == [("update", "3")]


async def test_what_another_process_tells_is_looked_up_in_the_log(make_store, monkeypatch):
    """It does not tell how the record was, which the log does: nobody has to read everything."""
    event = Subscribers.event

    def told_by_another(subscribers, told, origin=None):
        event(subscribers, structs.replace(told, was=None))

    monkeypatch.setattr(Subscribers, "event", told_by_another)
    async with issues(make_store, models=MODELS).test() as t:
        ann, bob = (t.connect(user={"id": name}).backend("issues") for name in ("ann", "bob"))
        anns, reads = await ann.collection(), []
        anns.reread = reads.append
        await bob.patch({"id": "3", "project": "x"})
        await bob.patch({"id": "2", "project": "y"})
        await t.settle()
        assert (sorted(anns), reads) == (["1", "3", "4"], [])


@attrs.define
class Letter:
    title: str
    owner: str = ""


async def test_what_a_database_makes_of_a_record_is_judged(database_url, psql):
    """A default of a column is what the record has in the end; what its writer may not have is not kept."""
    await psql.execute("CREATE TABLE letters (id text PRIMARY KEY, title text, owner text DEFAULT 'ann')")

    class Letters(Backend):
        model = Letter
        store = PostgresStore(database_url)

        @visible
        def scope(self, req):
            return {"owner": req.user["id"]}

    async with App().serve(Letters).test() as t:
        ann, bob = (t.connect(user={"id": name}).backend("letters") for name in ("ann", "bob"))
        assert (await ann.create({"title": "a"}))["owner"] == "ann"
        with pytest.raises(Forbidden, match="may not have"):
            await bob.create({"title": "b"})
        await bob.create({"title": "c", "owner": "bob"})
        runtime = t.app.backends["letters"]
        res = await runtime.stacks["read"].run(bbio.Request("read", {}, {}, runtime.backend))
        assert sorted(letter["title"] for letter in res.result) == ["a", "c"]


async def test_scopes_may_be_large(make_store):
    """Each may compare with 10,000 values, and several are joined; one more is a fault, so that nothing is seen."""
    models = [{"id": str(n), "n": n} for n in range(20)] + [{"id": "half", "n": 0.5}, {"id": "true", "n": True}]
    first, values = [0], 9_000

    class Issues(Backend):
        store = make_store(models=models)

        @visible
        def named(self, req):
            return {"id": {"$in": ["half", "true", *map(str, range(first[0], values))]}}

        @visible
        def numbered(self, req):
            return {"n": {"$in": [0.5, True, *range(2, values)]}}

        @visible
        def named_again(self, req):
            return {"id": {"$in": {"half", "true", *map(str, range(3, values))}}}

        @visible
        def numbered_again(self, req):
            return {"n": {"$in": [0.5, True, *range(4, values)]}}

    async with App().serve(Issues).test() as t:
        ann = t.connect(user={"id": "ann"}).backend("issues")
        shown = await ann.collection()
        assert sorted(shown) == sorted([*map(str, range(4, 20)), "half", "true"])
        assert ids((await ann.query({"n": {"$lt": 6}, "sort": "n"})).models) == ["half", "4", "5"]
        first[0] = -2_000
        await t.app.backends["issues"].recheck()
        await t.settle()
        assert sorted(shown) == []


async def test_many_rechecks_ask_no_more_at_once_than_one():
    """Those who write meanwhile are not held up by them; in the end everybody has what they may."""
    asking, most, projects = [], [0], ["x"]

    class Issues(Backend):
        store = MemoryStore(models=MODELS)

        @visible
        async def scope(self, req):
            asking.append(req.user["id"])
            most[0] = max(most[0], len(asking))
            await asyncio.sleep(0)
            asking.remove(req.user["id"])
            return {"project": {"$in": list(projects)}}

    async with App().serve(Issues).test() as t:
        handles = [t.connect(user={"id": n}).backend("issues") for n in range(30)]
        shown = [await handle.collection() for handle in handles]
        projects[:] = ["y"]
        backend = t.app.backends["issues"]
        await asyncio.gather(*(backend.recheck() for _ in range(4)))
        await t.settle()
        assert most[0] == permissions.RECHECKS_AT_ONCE
        assert {tuple(sorted(collection)) for collection in shown} == {("3", "4")}
