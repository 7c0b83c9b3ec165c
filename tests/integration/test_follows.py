"""`follows`: whose permission depends on a record of another backend is asked again when that record changes."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from msgspec import structs

from bbio import App, Backend, ConfigurationError, DefinitionError, Middleware, Request, before, visible
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.client import connect
from bbio.server.subscribers import Subscribers
from tests.support.proxy import Proxy

# How long a client may take until it has heard of a change in another process; nothing is looked for meanwhile.
IN_TIME = 6.0

MEMBERS = [{"id": f"{user}-{project}", "user": user, "project": project} for user in ("ann", "bob") for project in "xy"]
ISSUES = [{"id": "1", "project": "x"}, {"id": "2", "project": "y"}]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make_store(request):
    """Each store in turn; `app.test()` gives those of databases files and schemas of their own."""
    if request.param == "postgres":
        return partial(PostgresStore, request.getfixturevalue("postgres_server"))
    return MemoryStore if request.param == "memory" else partial(SQLiteStore, "issues.db")


class Users(Middleware):
    """Who somebody is, as it says itself."""

    @before
    def identify(self, req):
        if req.socket is not None and req.socket.auth:
            req.user = req.socket.auth["user"]


def tracker(make_store=MemoryStore, **options):
    """An application, and of whom it was asked what they may see."""
    asked = []

    class Memberships(Backend):
        middleware = [Users()]
        store = make_store(models=MEMBERS, **options)

    class Issues(Backend):
        middleware = [Users()]
        store = make_store(models=ISSUES)
        follows = {"memberships": "user"}

        @visible
        async def scope(self, req):
            asked.append(req.user)
            data = {"user": req.user or ""}
            found = await app.backends["memberships"].store.read(Request("read", {}, {"data": data}))
            return {"project": {"$in": [membership["project"] for membership in found.models]}}

    app = App().serve(Memberships, Issues)
    return app, asked


async def pages(t, *users):
    return [await t.connect(user=user).backend("issues").collection() for user in users]


async def test_whose_membership_comes_or_goes_sees_other_records(make_store):
    """Nobody else is asked, whoever made the change, and whatever it was."""
    app, asked = tracker(make_store)
    async with app.test() as t:
        ann, bob, nobody = await pages(t, "ann", "bob", None)
        admin = t.connect().backend("memberships")
        assert [sorted(page) for page in (ann, bob, nobody)] == [["1", "2"], ["1", "2"], []]
        asked.clear()
        await admin.delete("ann-x")
        await t.settle()
        assert [sorted(page) for page in (ann, bob)] == [["2"], ["1", "2"]]
        assert set(asked) == {"ann"}
        asked.clear()
        await admin.patch({"id": "bob-x", "user": "ann"})
        await t.settle()
        assert [sorted(page) for page in (ann, bob)] == [["1", "2"], ["2"]]
        assert set(asked) == {"ann", "bob"}
        asked.clear()
        await admin.patch({"id": "bob-x", "user": None})
        await admin.create({"user": "eve", "project": "x"})
        await t.settle()
        assert [sorted(page) for page in (ann, bob)] == [["2"], ["2"]]
        assert set(asked) == {"ann"}


async def test_who_was_away_meanwhile_sees_it_when_it_comes_back(make_store):
    """What was told under its scope of before is no place to go on from."""
    app, _ = tracker(make_store)
    async with app.test() as t:
        ann, bob = await pages(t, "ann", "bob")
        t.offline(t.connections[0])
        await t.connect().backend("memberships").delete("ann-x")
        t.online(t.connections[0])
        await t.advance(5)
        await t.settle()
        assert [sorted(page) for page in (ann, bob)] == [["2"], ["1", "2"]]


async def test_everybody_is_asked_where_nobody_knows_whom_a_change_concerns(make_store):
    """What the application tells of without saying how it was, and what is written in other channels."""
    app, asked = tracker(make_store)
    async with app.test() as t:
        await pages(t, "ann", "bob")
        memberships = app.backends["memberships"]
        for tell in (
            partial(memberships.emit, "updated", MEMBERS[0], channel=""),
            partial(memberships.emit, "deleted", MEMBERS[0], channel="other"),
        ):
            asked.clear()
            tell()
            await t.advance(5)
            await t.settle()
            assert set(asked) == {"ann", "bob"}
        asked.clear()
        memberships.emit("updated", MEMBERS[0], before=MEMBERS[0])
        await t.settle()
        assert set(asked) == {"ann"}


async def test_of_a_change_in_another_process_the_log_says_whom_it_concerns(make_store, monkeypatch):
    """That process does not tell how the record was."""
    event = Subscribers.event

    def told_by_another(subscribers, told, origin=None):
        event(subscribers, structs.replace(told, was=None))

    monkeypatch.setattr(Subscribers, "event", told_by_another)
    app, asked = tracker(make_store)
    async with app.test() as t:
        ann, bob = await pages(t, "ann", "bob")
        asked.clear()
        await t.connect().backend("memberships").patch({"id": "ann-x", "user": "eve"})
        await t.settle()
        assert [sorted(page) for page in (ann, bob)] == [["2"], ["1", "2"]]
        assert set(asked) == {"ann"}


async def test_everybody_is_asked_after_history_was_lost():
    """Of what was in it nobody knows."""
    app, asked = tracker()
    async with app.test() as t:
        await pages(t, "ann", "bob")
        asked.clear()
        memberships = t.gateway.subscribers["memberships"]
        memberships._resync(memberships.listeners.stream("c:"))
        await t.settle()
        assert set(asked) == {"ann", "bob"}


async def test_a_process_that_cannot_be_told_is_noted(monkeypatch, caplog):
    """Those of this process are asked all the same."""
    app, asked = tracker()
    async with app.test() as t:
        await pages(t, "ann")

        async def fail(channel):
            raise OSError("gone")

        monkeypatch.setattr(app.backends["issues"].log, "tell_recheck", fail)
        asked.clear()
        app.backends["memberships"].emit("created", MEMBERS[0], channel="other")
        await t.settle()
        assert asked == ["ann"]
    assert "not all could be told that permissions in issues have changed" in caplog.text


async def test_many_changes_at_once_are_asked_about_together(monkeypatch):
    """Each user once, not once for each change."""
    app, asked = tracker()
    async with app.test() as t:
        await pages(t, "ann", "bob")
        asked.clear()
        for user in ("ann", "bob", "ann"):
            t.gateway.subscribers["issues"].permissions.ask_viewers({user})
        await t.settle()
        assert sorted(asked) == ["ann", "bob"]


async def test_a_followed_backend_hears_while_nobody_listens_and_until_the_end():
    """Its streams are kept for that, and let go when the application stops."""
    app, _ = tracker()
    async with app.test() as t:
        subscribers = t.gateway.subscribers["memberships"]
        assert sorted(subscribers._streams) == ["*", "c:"]
        connection = t.connect(user="ann")
        await connection.backend("memberships").collection()
        connection.close()
        await t.settle()
        assert sorted(subscribers._streams) == ["*", "c:"]
    assert not subscribers._streams


def test_what_is_followed_is_checked():
    """When the class is defined, and when the application starts."""
    with pytest.raises(DefinitionError, match=r"Bad.follows is \['memberships'\]; name backends"):
        type("Bad", (Backend,), {"follows": ["memberships"]})
    with pytest.raises(DefinitionError, match="did you mean 'follows'"):
        type("Bad", (Backend,), {"follow": {"memberships": "user"}})
    type("Good", (Backend,), {"followers": {}, "flows": {"a": 1}})  # these may be anything


@pytest.mark.parametrize(
    ("members", "scoped", "expected"),
    [
        (None, True, "names 'memberships', which is not served; served: issues"),
        ({"store": MemoryStore()}, False, "Issues has no @visible"),
        ({}, True, "'memberships': its events must say how records were, and it has no store"),
    ],
)
async def test_what_cannot_be_followed_is_no_start(members, scoped, expected):
    """The text says what is missing."""
    scope = {"scope": visible(lambda self, req: True)} if scoped else {}
    issues = type("Issues", (Backend,), {"store": MemoryStore(), "follows": {"memberships": "user"}, **scope})
    others = [] if members is None else [type("Memberships", (Backend,), members)]
    with pytest.raises((ConfigurationError, DefinitionError), match=expected):
        async with App().serve(issues, *others).test():
            pass


SERVED = """
import os

from bbio import App, Backend, Middleware, Request, before, visible
from bbio.builtin import PostgresStore

class Users(Middleware):
    @before
    def identify(self, req):
        req.user = req.socket.auth["user"] if req.socket.auth else None

def table():
    store = PostgresStore(os.environ["BBIO_DATABASE_URL"])
    store.check_interval = 60.0  # what is heard of is told by the other process, or by a trigger
    return store

class Memberships(Backend):
    middleware = [Users()]
    store = table()

memberships = Memberships()

class Issues(Backend):
    middleware = [Users()]
    store = table()
    follows = {"memberships": "user"}

    @visible
    async def scope(self, req):
        found = await memberships.store.read(Request("read", {}, {"data": {"user": req.user or ""}}))
        return True if req.user is None else {"project": {"$in": [each["project"] for each in found.models]}}

app = App().serve(memberships, Issues)
"""


@pytest.mark.once  # what is asked is what two servers do, not a Python
@pytest.mark.parametrize("removed_by", ["the other process", "another program"])
async def test_a_member_is_removed_by_another_process(removed_by, database_url, spawn, psql):
    """Its issues leave its pages, also one that was offline meanwhile, and stay in those of others."""
    env = {"BBIO_DATABASE_URL": database_url}
    first, second = await spawn(SERVED, **env), await spawn(SERVED, **env)
    if removed_by == "another program":
        memberships = type("Memberships", (Backend,), {"store": PostgresStore(database_url)})()
        App().serve(memberships)
        await memberships.store.install_triggers()
    async with Proxy(second.port) as proxy:
        there = {"jitter": 0.0, "reconnect": (0.01, 0.05)}
        connections = [
            connect(first.url),
            *(connect(url, auth={"user": user}, **there) for url, user in ((second.url, "ann"), (second.url, "bob"))),
            connect(proxy.url, auth={"user": "ann"}, **there),
        ]
        admin, *others = connections
        try:
            members, issues = admin.backend("memberships"), admin.backend("issues")
            made = {}
            for user in ("ann", "bob"):
                for project in "xy":
                    made[user, project] = (await members.create({"user": user, "project": project}))["id"]
            one, two = [(await issues.create({"project": project}))["id"] for project in "xy"]
            ann, bob, away = [await each.backend("issues").collection() for each in others]
            assert [set(page) for page in (ann, bob, away)] == [{one, two}] * 3
            proxy.refuse()
            if removed_by == "another program":
                await psql.execute("DELETE FROM memberships WHERE id = $1", made["ann", "x"])
            else:
                await members.delete(made["ann", "x"])
            await ann.until(lambda page: set(page) == {two}, IN_TIME)
            await issues.patch({"id": one, "n": 1})
            await issues.patch({"id": two, "n": 1})
            await bob.until(lambda page: page[one].get("n") == page[two].get("n") == 1, IN_TIME)
            proxy.admit()
            for page in (ann, away):
                await page.until(lambda page: dict(page) == {two: {"id": two, "project": "y", "n": 1}}, IN_TIME)
            assert set(bob) == {one, two}
        finally:
            await asyncio.gather(*(connection.close() for connection in connections))
