"""Live queries on the server: `listen` with a `query` is told what concerns it, and nothing else (docs/protocol.md)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import attrs
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

import bbio
from bbio import App, Backend, DefinitionError, Limits, QueryLimits, visible
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.protocol import decode, encode
from bbio.server.connection import Connection
from bbio.testing import Harness

MODELS = [{"id": "1", "done": False, "n": 1}, {"id": "2", "done": True, "n": 2}]
OPEN = {"done": False}


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make_store(request):
    """Each store in turn; `app.test()` gives those of databases files and schemas of their own."""
    if request.param == "postgres":
        return partial(PostgresStore, request.getfixturevalue("postgres_server"))
    return MemoryStore if request.param == "memory" else partial(SQLiteStore, "todos.db")


class Raw:
    """A client that sends what a test says, and keeps what it is told."""

    in_order = True
    is_behind = False
    auth = None

    def __init__(self, t: Harness, backend: str = "todos", user: Any = None) -> None:
        self.t, self.user = t, user
        self.told: list[list[Any]] = []
        self.connection = Connection(CIMultiDictProxy(CIMultiDict()), "1.2.3.4", t.limits, t.now)
        self.socket = t.join(t.backends[backend], self.connection, self)
        self._answers: list[asyncio.Future[Any]] = []

    async def call(self, event: str, *arguments: Any) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        self.t.gateway.receive(self.socket, event, len(self._answers) - 1, decode(encode(arguments)))
        return await asyncio.wait_for(answer, 10)

    async def listen(self, query: Any = None, since: Any = None, channel: Any = None) -> Any:
        said = {"v": 1, "since": since or {}} | ({} if query is None else {"query": query})
        (answer,) = await self.call("listen", channel, said)
        return answer.get("error") or answer["streams"][f"c:{channel or ''}"]

    async def write(self, method: str, model: Any) -> Any:
        self.n = getattr(self, "n", 0) + 1
        op = {"c": f"client {id(self)}", "n": self.n}
        error, result, place = await self.call("sync", {"method": method, "model": model, "op": op, "channel": None})
        assert error is None
        return result, place

    def ack(self, socket: Any, ack_id: int, arguments: bytes) -> None:
        self._answers[ack_id].set_result(decode(arguments))

    def tell(self, namespace: str, text: bytes) -> None:
        self.told.append(decode(text))

    def drop(self, reason: str) -> None:
        raise AssertionError(reason)

    @property
    def synced(self) -> list[Any]:
        """The methods and models of what it was told."""
        return [event[1:3] for event in self.told if event[0] == "synced"]


def place(state: dict[str, Any]) -> dict[str, Any]:
    """The position that an answer to a listen names, as a client sends it back."""
    digest = [state["d"]] if "d" in state else []
    return {"c:": [state["epoch"], state["offset"], state["stamp"], *digest]}


def todos(make_store: Any = MemoryStore, **options: Any) -> App:
    class Todos(Backend):
        store = make_store(models=MODELS, **options)
        live_queries = True

    return App().serve(Todos)


async def test_what_others_write_is_told_as_what_it_is_to_the_query(make_store):
    """Nothing, a create, an update, or a delete with the id alone."""
    async with todos(make_store).test() as t:
        ann, bob = Raw(t), Raw(t)
        assert isinstance((await ann.listen(OPEN))["d"], str)
        assert "d" not in await bob.listen()
        await bob.write("patch", {"id": "2", "n": 3})
        await bob.write("patch", {"id": "2", "done": False})
        await bob.write("patch", {"id": "2", "n": 4})
        await bob.write("patch", {"id": "2", "done": True})
        await bob.write("create", {"done": True})
        await bob.write("delete", {"id": "1"})
        assert ann.synced == [
            ["create", {"id": "2", "done": False, "n": 3}],
            ["update", {"id": "2", "done": False, "n": 4}],
            ["delete", {"id": "2"}],
            ["delete", {"id": "1"}],
        ]
        assert [event[3]["o"] for event in ann.told] == [2, 3, 4, 6]
        assert bob.told == []


async def test_an_answer_says_whether_the_record_is_in_the_query(make_store):
    """It has the whole record: that is of what may be had. The event is told besides, to others as it is to them."""
    async with todos(make_store).test() as t:
        ann, bob = Raw(t), Raw(t)
        await ann.listen(OPEN)
        await bob.listen()
        result, told = await ann.write("create", {"done": True})
        assert (result["done"], told["in"]) == (True, False)
        _, told = await ann.write("patch", {"id": "1", "n": 9})
        assert told["in"] is True
        result, told = await ann.write("delete", {"id": "1"})
        assert (result["n"], told["in"]) == (9, False)
        assert ann.synced == [["update", {"id": "1", "done": False, "n": 9}], ["delete", {"id": "1"}]]
        assert [method for method, _ in bob.synced] == ["create", "update", "delete"]
        _, told = await bob.write("patch", {"id": "2", "n": 0})
        assert "in" not in told


async def test_what_was_missed_is_told_under_the_same_query_alone(make_store):
    """A position that was reached with another query, or with none, recovers nothing; nor does it without a query."""
    async with todos(make_store).test() as t:
        ann, bob = Raw(t), Raw(t)
        known, whole = place(await ann.listen(OPEN)), place(await bob.listen())
        await bob.write("patch", {"id": "2", "done": False})
        await bob.write("create", {"done": True})
        for same in (OPEN, {"done": {"$eq": False}}):
            answer = await Raw(t).listen(same, known)
            assert [event[:2] for event in answer["events"]] == [["create", {"id": "2", "done": False, "n": 2}]]
            assert answer["offset"] == 2
        for query, since in (({"done": True}, known), (None, known), (OPEN, whole), ({"n": 1}, whole)):
            assert (await Raw(t).listen(query, since))["recovered"] is False
        answer = await Raw(t).listen(None, whole)
        assert [event[0] for event in answer["events"]] == ["update", "create"]


async def test_another_query_replaces_the_one_before(make_store):
    """In the same channel; another channel has its own."""
    async with todos(make_store).test() as t:
        ann, bob = Raw(t), Raw(t)
        first = await ann.listen(OPEN)
        await ann.listen(OPEN, channel="work")
        second = await ann.listen({"done": True})
        assert first["d"] != second["d"]
        await bob.write("patch", {"id": "1", "n": 2})
        assert ann.told == []
        await bob.write("patch", {"id": "2", "n": 3})
        assert [model["id"] for _, model in ann.synced] == ["2"]
        assert "d" not in await ann.listen({})
        await bob.write("patch", {"id": "1", "n": 4})
        assert [model["id"] for _, model in ann.synced] == ["2", "1"]


async def test_where_there_are_no_live_queries_one_is_ignored():
    """Whatever it is; the answer says so by having no digest."""

    class Todos(Backend):
        store = MemoryStore(models=MODELS)

    async with App().serve(Todos).test() as t:
        ann, bob = Raw(t), Raw(t)
        for query in (OPEN, {"$nothing": 1}, 5):
            assert "d" not in await ann.listen(query)
        await bob.write("patch", {"id": "2", "n": 3})
        assert ann.synced == [["update", {"id": "2", "done": True, "n": 3}]]
        answer = await ann.listen(OPEN, place(await bob.listen()))
        assert answer["recovered"] is True
        answer = await ann.listen(OPEN, place({**answer, "d": "another"}))
        assert answer["recovered"] is False


async def test_who_asks_for_all_has_a_stream_without_holes():
    """As without live queries: own writes are told by their answers, and nothing else is sent."""
    async with todos().test() as t:
        ann, bob = Raw(t), Raw(t)
        await ann.listen()
        await bob.listen(OPEN)
        await ann.write("patch", {"id": "2", "n": 3})
        await bob.write("patch", {"id": "2", "n": 4})
        _, told = await ann.write("delete", {"id": "2"})
        assert (told["o"], ann.synced) == (3, [["update", {"id": "2", "done": True, "n": 4}]])
        for subscribers in t.gateway.subscribers.values():
            subscribers.expire()
        assert [event[1] for event in ann.told] == ["update"]
        assert [event[1:4] for event in bob.told] == [["at", None, bob.told[0][3]]]
        assert {name: bob.told[0][3][name] for name in "son"} == {"s": "c:", "o": 3, "n": 0}


async def test_what_is_told_to_all_channels_is_no_matter_of_a_query(make_store):
    """It is asked for in one channel: a client keeps what it is told there to its query itself."""
    app = todos(make_store)
    async with app.test() as t:
        ann, legacy = Raw(t), Raw(t)
        (answer,) = await ann.call("listen", None, {"v": 1, "since": {}, "query": OPEN})
        assert "d" not in answer["streams"]["*"]
        await legacy.call("listen", None)
        app.backends["todos"].emit("created", {"id": "5", "done": True})
        await t.settle()
        assert ann.synced == legacy.synced == [["create", {"id": "5", "done": True}]]


async def test_whoever_asks_for_all_is_told_what_nobody_knows_the_past_of(make_store):
    """Who asks for a part reads everything anew."""
    app = todos(make_store)
    async with app.test() as t:
        ann, bob, legacy = Raw(t), Raw(t), Raw(t)
        await ann.listen(OPEN)
        await bob.listen()
        await legacy.call("listen", None)
        app.backends["todos"].emit("updated", {"id": "1", "done": False}, channel="")
        await t.settle()
        assert ann.told == [["resync", "c:"]]
        assert bob.synced == legacy.synced == [["update", {"id": "1", "done": False}]]


@attrs.define
class Task:
    title: str
    team: str = "a"
    notes: str = bbio.field(roles=("boss",), default="")
    pin: str = bbio.field(private=True, default="x")


def tasks(roles: dict[str, list[str]]) -> App:
    class Tasks(Backend):
        model = Task
        store = MemoryStore()

        @visible
        def scope(self, req):
            return {"team": {"$in": req.user["teams"]}}

    return App().serve(Tasks)


async def test_a_query_is_of_what_may_be_seen():
    """Of records and of fields, also when that changes: a field that is not seen any more is not asked for."""
    user: dict[str, Any] = {"id": 1, "teams": ["a"], "roles": ["boss"]}
    app = tasks({})
    async with app.test() as t:
        ann, boss = Raw(t, "tasks", {"id": 2, "teams": ["a", "b"], "roles": ["boss"]}), Raw(t, "tasks", user)
        refusal = await Raw(t, "tasks", {"id": 3, "teams": ["a"]}).listen({"notes": "n"})
        assert (refusal["name"], "'notes'" in refusal["message"]) == ("BadRequest", True)
        assert (await boss.listen({"pin": "x"}))["name"] == "BadRequest"
        assert "d" in await boss.listen({"notes": "n"})
        await ann.listen()
        one, _ = await ann.write("create", {"title": "one", "notes": "n"})
        await ann.write("create", {"title": "two", "notes": "n", "team": "b"})
        assert [model["title"] for _, model in boss.synced] == ["one"]
        user["teams"] = ["b"]
        await app.backends["tasks"].recheck()
        await ann.write("patch", {"id": one["id"], "team": "b"})
        assert [event[0] for event in boss.told[1:]] == ["resync", "resync"]
        await boss.listen({"notes": "n"})
        await app.backends["tasks"].recheck()
        await ann.write("patch", {"id": one["id"], "title": "new"})
        await ann.write("patch", {"id": one["id"], "notes": ""})
        assert [event[0] for event in boss.synced[1:]] == ["update", "delete"]
        user["roles"] = []
        await app.backends["tasks"].recheck()
        await ann.write("patch", {"id": one["id"], "notes": "n"})
        assert [event[0] for event in boss.told[-2:]] == ["resync", "resync"]
        assert (await boss.listen({"notes": "n"}))["name"] == "BadRequest"


def deep(levels: int) -> Any:
    return {"done": True} if levels == 0 else {"$or": [deep(levels - 1)]}


@pytest.mark.parametrize(
    ("query", "why"),
    [
        (5, "must be an object"),
        ("done", "must be an object"),
        ([], "must be an object"),
        (False, "must be an object"),
        ({"done": {"$regex": "x"}}, "compared with a value"),
        ({"$and": []}, "is not part of a query"),
        ({"$or": []}, "takes a list"),
        ({"done": [1]}, "compared with a string"),
        ({"n": {"$in": list(range(201))}}, "200 values"),
        ({f"f{n}": n for n in range(33)}, "32 conditions"),
        (deep(4), "nested more than 3"),
        ({"a" * 256: 1}, "not the name of a field"),
        ({"a": "a" * 256}, "255 characters"),
        ({"sort": "n"}, "conditions alone"),
        ({"limit": 0}, "conditions alone"),
        ({"offset": 1}, "conditions alone"),
        ({"count": True}, "conditions alone"),
        ({"cursor": "x"}, "cursor"),
        ({"$or": [{"t": {"$like": f"%{n}%"}} for n in range(5)]}, "4 times"),
        ({f"f{n}": {"$contains": n} for n in range(5)}, "4 times"),
        ({"t": {"$like": "a_b"}}, "% alone"),
    ],
)
async def test_what_is_no_query_is_refused(query, why):
    """With a text that says what would be one; whoever listened before goes on as it did."""
    async with todos().test() as t:
        ann, bob = Raw(t), Raw(t)
        await ann.listen(OPEN)
        refusal = await ann.listen(query)
        assert (refusal["name"], why in refusal["message"]) == ("BadRequest", True), refusal
        await bob.write("patch", {"id": "1", "n": 2})
        assert len(ann.synced) == 1


async def test_the_store_says_how_much_a_query_may_ask_for():
    """As it does for reads."""
    async with todos(queries=QueryLimits(conditions=1)).test() as t:
        assert (await Raw(t).listen({"done": False, "n": 1}))["name"] == "BadRequest"


async def test_queries_hold_no_more_than_requests_may():
    """However often a client asks anew, and in however many channels; all of it is let go of in the end."""

    class Todos(Backend):
        store = MemoryStore()
        live_queries = True

    large = {"n": {"$in": list(range(200))}}
    async with App(limits=Limits(memory=4_000_000)).serve(Todos).test() as t:
        ann = Raw(t)
        address = ann.connection.waiting
        for n in range(20):
            assert "d" in await ann.listen({"n": {"$in": [n, *range(1_000, 1_199)]}})
        held = address.held
        assert 50_000 < held < 200_000
        answers = [await ann.listen(large, channel=f"c{n}") for n in range(12)]
        assert [answer.get("name") for answer in answers[:5]] == [None] * 5
        assert answers[-1]["name"] == "Busy"
        assert address.held < 1_200_000
        await ann.call("unlisten", [None, *(f"c{n}" for n in range(12))])
        assert (address.held, ann.socket.views) == (0, {})
        assert "d" in await ann.listen(large)
        t.gateway.left(ann.socket)
        assert address.held == 0


def test_it_needs_a_store_that_says_how_records_were():
    """The text says so."""

    class Todos(Backend):
        live_queries = True

    with pytest.raises(DefinitionError, match=r"'todos': live_queries needs .* and it has no store; give it a"):
        App().serve(Todos)
    with pytest.raises(DefinitionError, match="did you mean 'live_queries'"):

        class Others(Backend):
            live_querys = True
