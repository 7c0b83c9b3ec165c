"""Backends with a model: what clients may write, what handlers get, and what leaves the server."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from typing import Any

import attrs
import pytest

from bbio import (
    Backend,
    Conflict,
    Invalid,
    Middleware,
    Request,
    Store,
    SyncError,
    Unauthorized,
    after,
    before,
    create,
    field,
    patch,
    update,
    use,
)
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.client import connect
from tests.support.servers import heard
from tests.support.wire import SyncFailed


@attrs.define
class Address:
    """A class within the model."""

    city: str = attrs.field(validator=attrs.validators.min_len(1))
    zip: str = ""


@attrs.define
class User:
    """A field of each sort."""

    id: str | None = None
    name: str = attrs.field(kw_only=True, validator=attrs.validators.max_len(5))
    address: Address | None = None
    since: datetime.date | None = None
    low: int = 0
    high: int = attrs.field(default=9)
    password: str | None = field(private=True, default=None)
    score: int = field(read_only=True, default=0)
    hash: str = field(private=True, read_only=True, default="h-secret")
    notes: str = field(roles=("support",), default="")

    @high.validator
    def above_low(self, attribute: Any, value: int) -> None:
        if value <= self.low:
            raise ValueError("must be above low")


class Cookies(Middleware):
    """The roles of a client are what its cookie says."""

    @before
    def identify(self, req):
        req.user = {"id": "u", "roles": [req.socket.cookies["role"]]} if "role" in req.socket.cookies else None


SEEN = {"name": "Ann", "address": None, "since": None, "low": 0, "high": 9, "score": 0}


def as_role(role: str) -> dict[str, Any]:
    return {"headers": {"Cookie": f"role={role}"}}


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def users(request, tmp_path, database_url) -> type[Backend]:
    """A backend of users over each kind of store."""
    stores = {
        "memory": MemoryStore,
        "sqlite": lambda: SQLiteStore(tmp_path / "users.db"),
        "postgres": lambda: PostgresStore(database_url),
    }

    class Users(Backend):
        model = User
        middleware = [Cookies()]
        store = stores[request.param]()

    return Users


async def wrong(request: Any) -> dict[str, str]:
    """The fields of the `Invalid` that a request is answered with."""
    with pytest.raises(SyncFailed) as caught:
        await request
    assert caught.value.error == {
        "name": "Invalid",
        "message": "the model is not valid",
        "code": 422,
        "fields": caught.value.error["fields"],
    }
    return caught.value.error["fields"]


async def test_all_that_is_wrong_with_a_model_comes_back_at_once(serve, join, users):
    """Of a create and an update: every field, nested ones by their path, unknown and protected ones too."""
    client = await join(await serve(users), "users")
    given = {
        "name": "Annabel",
        "address": {"city": "", "zip": 1},
        "since": "yesterday",
        "low": 9,
        "score": 5,
        "hash": "h-mine",
        "notes": "n",
        "admin": True,
    }
    expected = {
        "name": "must have at most 5 characters",
        "address.city": "must have at least 1 character",
        "address.zip": "must be a string",
        "since": "must be a date, such as 2026-01-31",
        "high": "must be above low",
        "score": "cannot be set",
        "hash": "is not a known field",
        "notes": "is not a known field",
        "admin": "is not a known field",
    }
    assert await wrong(client.sync("create", given)) == expected
    assert await wrong(client.sync("create", {"id": "x"})) == {"id": "is given by the server", "name": "is required"}
    ann = await client.sync("create", {"name": "Ann"})
    del expected["score"]
    assert await wrong(client.sync("update", {**given, "id": ann["id"]})) == expected
    assert await client.sync("read") == [ann]


async def test_a_patch_is_judged_alone_and_then_the_whole(serve, join, users):
    """Only what is given is looked at first; the record it comes to must be valid, or nothing is stored."""
    app = await serve(users)
    client, other = await join(app, "users"), await join(app, "users")
    ann = await client.sync("create", {"name": "Ann", "low": 3})
    assert await wrong(client.sync("patch", {"id": ann["id"], "since": 1, "low": "x"})) == {
        "since": "must be a date, such as 2026-01-31",
        "low": "must be a whole number",
    }
    assert await wrong(client.sync("patch", {"id": ann["id"], "high": 2})) == {"high": "must be above low"}
    assert await client.sync("read", {"id": ann["id"]}) == ann
    patched = await client.sync("patch", {"id": ann["id"], "high": 4})
    assert patched == {**ann, "high": 4}
    assert await heard(app.backends["users"], other) == [[("create", ann), ("update", patched)]]


async def test_a_model_saved_back_as_it_was_is_accepted(serve, join, users):
    """Backbone sends all it knows of a model: read-only fields count as unchanged if they say what is stored."""
    client = await join(await serve(users), "users")
    ann = await client.sync("create", {"name": "Ann", "score": 0})
    assert ann == {**SEEN, "id": ann["id"]}
    for method in ("update", "patch"):
        assert await client.sync(method, {**ann, "low": 1}) == {**ann, "low": 1}
        assert await wrong(client.sync(method, {**ann, "score": 1})) == {"score": "cannot be changed"}
        assert await wrong(client.sync(method, {**ann, "score": "1"})) == {"score": "cannot be changed"}
    assert await client.sync("update", {"id": ann["id"], "name": "Bob"}) == {**ann, "name": "Bob"}


async def test_what_a_client_cannot_see_survives_its_updates(serve, join, users):
    """An update replaces what the client knows; private fields and those of other roles stay as they are stored."""
    app = await serve(users)
    client, support = await join(app, "users"), await join(app, "users", **as_role("support"))
    ann = await client.sync("create", {"name": "Ann", "password": "p-secret"})
    noted = await support.sync("patch", {"id": ann["id"], "notes": "rude"})
    assert noted == {**ann, "notes": "rude"}
    assert await client.sync("update", {**ann, "name": "Bob"}) == {**ann, "name": "Bob"}
    assert await support.sync("read", {"id": ann["id"]}) == {**ann, "name": "Bob", "notes": "rude"}
    stored = await raw(app, ann["id"])
    assert stored == {**ann, "name": "Bob", "notes": "rude", "password": "p-secret", "hash": "h-secret"}
    # The role sees and writes the field: what it leaves out is gone, as with any field.
    assert (await support.sync("update", ann))["notes"] == ""


async def raw(app: Any, key: Any) -> Any:
    """A record as the store has it."""
    backend = app.backends["users"]
    return (await backend.store.read(Request("read", {"id": key}, backend=backend))).models


async def test_nothing_private_leaves_the_server(serve, join, users):
    """Not in acks, reads, events, replays, emitted events, conflicts or repeated operations."""
    app = await serve(users)
    backend = app.backends["users"]
    client, other = await join(app, "users", ...), await join(app, "users", **as_role("support"))
    (reply,) = await client.namespace.call("listen", None, {"v": 1})
    since = {name: [at["epoch"], 0] for name, at in reply["streams"].items()}
    op = {"c": "me", "n": 1}
    first = await client.namespace.call(
        "sync", {"method": "create", "model": {"name": "Ann", "password": "p-secret"}, "op": op}
    )
    again = await client.namespace.call(
        "sync", {"method": "create", "model": {"name": "Ann", "password": "p-secret"}, "op": op}
    )
    assert first == again
    ann = first[1]
    for method, model in (
        ("patch", {"id": ann["id"], "password": "p-secret-2"}),
        ("update", {**ann, "low": 2}),
        ("read", {}),
    ):
        assert len(await client.namespace.call("sync", {"method": method, "model": model})) == 3
    conflict = await client.namespace.call("sync", {"method": "patch", "model": {"id": ann["id"], "low": 3}, "rev": 1})
    assert conflict[0]["error"]["current"] == {**ann, "low": 2}
    backend.emit("updated", User(id=ann["id"], name="Ann", password="p-secret", notes="n-secret"))
    backend.emit("created", {"id": "1", "name": "Bob", "hash": "h-secret", "password": "p-secret", "old": "o-secret"})
    await heard(backend, other)
    await client.namespace.call("sync", {"method": "delete", "model": {"id": ann["id"]}})
    late = await join(app, "users", ...)
    (replay,) = await late.namespace.call("listen", None, {"v": 1, "since": since})
    assert [event[0] for event in replay["streams"]["c:"]["events"]] == ["create", "update", "update", "delete"]
    for each in (client, late, other):
        frames = "".join(each.wire.frames)
        assert "Ann" in frames
        assert not re.search("[pho]-secret", frames)
        assert ("n-secret" in frames) == (each is other)


async def test_events_show_each_viewer_what_it_may_see(serve, join, users):
    """Listeners with the role see its field, in events as in replies; the others do not, also in a replay."""
    app = await serve(users)
    plain, second = await join(app, "users"), await join(app, "users")
    support = await join(app, "users", **as_role("support"))
    modern, since = await join(app, "users", ...), {}
    for role, client in (("support", await join(app, "users", ..., **as_role("support"))), ("other", modern)):
        (reply,) = await client.namespace.call("listen", None, {"v": 1})
        since[role] = {name: [at["epoch"], at["offset"]] for name, at in reply["streams"].items()}
    ann = await support.sync("create", {"name": "Ann", "notes": "n"})
    seen = {name: value for name, value in ann.items() if name != "notes"}
    bob = await plain.sync("create", {"name": "Bob"})
    assert await heard(app.backends["users"], plain, second, support) == [
        [("create", seen)],
        [("create", seen), ("create", bob)],
        [("create", {**bob, "notes": ""})],
    ]
    assert (await modern.namespace.event())[1:3] == ["create", seen]
    for role, shown, others in (("support", ann, "other"), ("other", seen, "support")):
        late = await join(app, "users", ..., **as_role(role))
        (replay,) = await late.namespace.call("listen", None, {"v": 1, "since": since[role]})
        assert replay["streams"]["c:"]["events"][0][1] == shown
        assert replay["streams"]["c:"]["events"][0][2]["e"] == replay["streams"]["c:"]["epoch"] == since[role]["c:"][0]
        (replay,) = await late.namespace.call("listen", None, {"v": 1, "since": since[others]})
        assert [(at["recovered"], at["events"]) for at in replay["streams"].values()] == [(False, [])] * 2


async def test_a_list_that_a_handler_answers_a_write_with_is_told_as_each_may_see_it(serve, join):
    """Each record in it, live and in a replay, as in the reply."""

    class Users(Backend):
        model = User
        middleware = [Cookies()]

        @create
        def several(self):
            return [User(id="1", name="Ann", notes="n-secret"), User(id="2", name="Bob", notes="n-secret")]

    app = await serve(Users)
    listeners = {role: await join(app, "users", ..., **as_role(role)) for role in ("support", "other")}
    since = {}
    for role, client in listeners.items():
        (reply,) = await client.namespace.call("listen", None, {"v": 1})
        since[role] = {name: [at["epoch"], at["offset"]] for name, at in reply["streams"].items()}
    writer = await join(app, "users")
    assert [sorted(each) for each in await writer.sync("create", {"name": "all"})] == [sorted({**SEEN, "id": "1"})] * 2
    for role, client in listeners.items():
        told = (await client.namespace.event())[2]
        late = await join(app, "users", ..., **as_role(role))
        (replay,) = await late.namespace.call("listen", None, {"v": 1, "since": since[role]})
        assert replay["streams"]["c:"]["events"][0][1] == told
        assert ["notes" in each for each in told] == [role == "support"] * 2


async def test_a_version_1_writer_is_told_of_its_own_write_where_it_stands(serve, join, users):
    """Where views differ too, a writer's own event is its reply or comes as it may see it."""
    app = await serve(users)
    writer, reader = await join(app, "users", ..., **as_role("support")), await join(app, "users", ...)
    for client in (writer, reader):
        await client.namespace.call("listen", None, {"v": 1})
    for number in range(3):
        _, model, place = await writer.namespace.call(
            "sync", {"method": "create", "model": {"name": "A", "low": number}}
        )
        assert model["notes"] == ""
        assert place["o"] == number + 1
        name, method, told, at = await reader.namespace.event()
        assert (name, method, at["o"], "notes" in told) == ("synced", "create", number + 1, False)


async def test_layers_get_typed_objects_and_middleware_the_json(serve, join):
    """Middleware stands above the model, the layers of the class below it; stores are given JSON again."""
    seen: list[Any] = []

    class Spy(Middleware):
        @before("create", "update", "patch")
        def look(self, req):
            seen.append(type(req.model))

    class Users(Backend):
        model = User
        middleware = [Spy()]
        store = MemoryStore()

        @before
        def look(self, req):
            seen.append((req.method, req.id, req.model))

        @use("create", "update")
        async def score(self, req, next):
            req.model.score += 1
            return await next()

        @after("update")
        def note(self, req, res):
            seen.append(type(req.model))

    client = await join(await serve(Users), "users")
    seen.clear()
    ann = await client.sync("create", {"name": "Ann", "since": "2026-01-31"})
    day = datetime.date(2026, 1, 31)
    assert seen == [dict, ("create", None, User(name="Ann", since=day, score=1))]
    assert ann["score"] == 1
    seen.clear()
    await client.sync("update", {**ann, "name": "Bob"})
    await client.sync("patch", {"id": ann["id"], "since": "2026-01-31"})
    await client.sync("read", {"id": ann["id"]})
    assert seen == [
        dict,
        ("update", ann["id"], User(id=ann["id"], name="Bob", since=day, score=1)),
        User,
        dict,
        ("patch", ann["id"], {"id": ann["id"], "since": day}),
        ("read", ann["id"], {"id": ann["id"]}),
    ]


@attrs.define
class Price:
    """A model that does not declare its id."""

    amount: Decimal
    at: datetime.datetime = field(read_only=True, factory=lambda: datetime.datetime.now(datetime.UTC))


async def test_an_id_that_is_not_declared_stays_with_the_request(serve, join):
    """`req.id` has it, and records, events and replies carry it."""
    ids = []

    class Prices(Backend):
        model = Price
        store = MemoryStore()

        @before("update", "patch")
        def look(self, req):
            ids.append(req.id)

    app = await serve(Prices)
    client, other = await join(app, "prices"), await join(app, "prices")
    price = await client.sync("create", {"amount": 1.5})
    assert price == {"id": price["id"], "amount": "1.5", "at": price["at"]}
    assert await client.sync("update", {**price, "amount": "2"}) == {**price, "amount": "2"}
    assert await client.sync("patch", {"id": price["id"], "amount": "3"}) == {**price, "amount": "3"}
    assert await wrong(client.sync("create", {"amount": "1", "at": price["at"]})) == {"at": "cannot be set"}
    assert ids == [price["id"], price["id"]]
    assert [model["id"] for _, model in (await heard(app.backends["prices"], other))[0]] == [price["id"]] * 3


async def test_an_update_may_make_the_model(serve, join):
    """With `upsert`, what clients cannot give has its default; a patch must be whole then."""

    class Prices(Backend):
        model = Price
        store = MemoryStore(upsert=True)

    client = await join(await serve(Prices), "prices")
    made = await client.sync("update", {"id": "a", "amount": "1"})
    assert set(made) == {"id", "amount", "at"}
    assert await wrong(client.sync("patch", {"id": "b"})) == {"amount": "is required"}
    assert (await client.sync("patch", {"id": "c", "amount": "2"}))["amount"] == "2"
    assert await wrong(client.sync("update", {"id": "d", "amount": "2", "at": made["at"]})) == {
        "at": "cannot be changed"
    }


async def test_handlers_without_a_store_may_answer_with_instances(serve, join):
    """What they return is told and shown like a record."""

    class Users(Backend):
        model = User
        middleware = [Cookies()]

        @create
        def add(self, req):
            return attrs.evolve(req.model, id="7", hash="h-secret", notes="n")

        @use("read")
        def all(self, req, res):
            if req.id == "none":
                res.end(3)
            elif req.id:
                res.end((User(id=req.id, name="Bob", hash="h-secret"), {"id": "8", "hash": "h-secret"}))
            else:
                res.end(Address("Rome"))

    app = await serve(Users)
    client, other = await join(app, "users"), await join(app, "users")
    ann = await client.sync("create", {"name": "Ann"})
    assert ann == {**SEEN, "id": "7"}
    assert await client.sync("read", {"id": "9"}) == [{**SEEN, "name": "Bob", "id": "9"}, {"id": "8"}]
    assert await client.sync("read", {"id": "none"}) == 3
    updated = await client.sync("update", {"id": "9", "name": "Eve"})
    assert updated["name"] == "Eve"
    patched = await client.sync("patch", {"id": "9", "since": "2026-01-31"})
    assert patched == {"id": "9", "since": "2026-01-31"}
    assert await heard(app.backends["users"], other) == [[("create", ann), ("update", updated), ("update", patched)]]
    with pytest.raises(SyncFailed, match="InternalError"):
        await client.sync("read")


async def test_instances_without_an_id_get_that_of_the_request(serve, join):
    """Where the class declares none."""

    class Prices(Backend):
        model = Price

        @patch
        def change(self, req):
            return Price(Decimal(5))

    client = await join(await serve(Prices), "prices")
    assert (await client.sync("patch", {"id": "a", "amount": "1"}))["id"] == "a"
    assert (await client.sync("update", {"id": "b", "amount": "1"}))["id"] == "b"
    assert "id" not in await client.sync("create", {"amount": "1"})


class Refused(SyncError):
    """Errors of one's own may carry models."""

    details = ("user", "users", "why")


async def test_errors_carry_no_more_than_replies(serve, join):
    """Models in the details of an error are shown as replies are, also when a listen is refused."""

    class Users(Backend):
        model = User
        store = MemoryStore()

        @before("read")
        def refuse(self, req):
            ann = User(name="Ann", hash="h-secret")
            if req.event == "listen" and req.channel == "closed":
                raise Conflict(current=ann)
            if req.id == "x":
                raise Refused(user=ann, users=[ann], why=["no"])

    app = await serve(Users)
    client = await join(app, "users")
    with pytest.raises(SyncFailed) as caught:
        await client.sync("read", {"id": "x"})
    shown = {**SEEN, "id": None}
    assert (caught.value.error["user"], caught.value.error["users"], caught.value.error["why"]) == (
        shown,
        [shown],
        ["no"],
    )
    with pytest.raises(SyncFailed) as caught:
        await client.listen("closed")
    assert caught.value.error["current"] == shown


async def test_layers_see_the_same_record_at_a_second_attempt(serve, join, users):
    """Private fields included: a retry ends as the first attempt did, also when it comes to another process."""
    seen = []

    class Mailed(users):
        name = "users"

        @use("create", "patch", "delete")
        async def mail(self, req, next):
            record = await next()
            seen.append((record["hash"], record["notes"], dict(record)))
            return record

    app = await serve(Mailed)
    ann = await join(app, "users", ...)
    model = {"name": "Ann"}
    for n, method in enumerate(("create", "patch", "delete")):
        request = {"method": method, "model": model, "op": {"c": "ann", "n": n}}
        reply = await ann.namespace.call("sync", request)
        assert await ann.namespace.call("sync", request) == reply
        model = {"id": reply[1]["id"], "low": 1}
    assert [seen[n] for n in (0, 2, 4)] == [seen[n] for n in (1, 3, 5)]
    assert {each[0] for each in seen} == {"h-secret"}
    assert "secret" not in "".join(ann.wire.frames)


@attrs.define
class Pair:
    """What an error may hold a record in."""

    first: Any
    second: Any = None


async def test_records_in_errors_are_known_by_their_shape(serve, join):
    """As JSON, as instances, in whatever holds them; what is wrong with a hidden field is told."""
    record = {**SEEN, "id": "1", "hash": "h-secret", "notes": "n-secret", "undeclared": "u-secret"}
    odd = {"hash": "h-secret", "why": [{"notes": "n-secret", "day": datetime.date(2026, 1, 31)}]}
    errors = {
        "record": (Refused(user=record, users=[record], why={"one": record}), {**SEEN, "id": "1"}),
        "odd": (Refused(user=odd, users=Pair(odd, User(name="Ann", hash="h-secret")), why=3), None),
        "current": (Conflict(current={"name": "Ann", "undeclared": "u-secret"}, rev=2), None),
        "fields": (Invalid(fields={"hash": "is too short"}), None),
    }

    class Users(Backend):
        model = User
        store = MemoryStore()

        @before("read")
        def refuse(self, req):
            if req.id is not None:
                raise errors[req.id][0]

    client = await join(await serve(Users), "users")
    told = {}
    for name in errors:
        with pytest.raises(SyncFailed) as caught:
            await client.sync("read", {"id": name})
        told[name] = caught.value.error
    seen = errors["record"][1]
    assert [told["record"][name] for name in Refused.details] == [seen, [seen], {"one": seen}]
    day = {"why": [{"day": "2026-01-31"}]}
    assert (told["odd"]["user"], told["odd"]["users"]["first"], told["odd"]["why"]) == (day, day, 3)
    assert (told["current"]["current"], told["current"]["rev"]) == ({"name": "Ann"}, 2)
    assert told["fields"]["fields"] == {"hash": "is too short"}
    assert "secret" not in "".join(client.wire.frames)


async def test_who_may_not_read_is_shown_no_record_by_a_handler(serve, join):
    """Nor several; what is no record is shown."""
    answers = iter([{"id": 1, "own": 2, "other": 3}, [{"id": 1, "own": 2, "other": 3}], "done"])

    class Notes(Backend):
        @before("read")
        def nobody(self):
            raise Unauthorized("for nobody")

        @update
        def put(self, req):
            return next(answers)

    guest = await join(await serve(Notes), "notes", ...)
    told = [await guest.sync("update", {"id": 1, "own": 2}) for _ in range(3)]
    assert told == [{"id": 1, "own": 2}, [{"id": 1, "own": 2}], "done"]


@pytest.mark.parametrize("model", [None, User])
async def test_who_may_not_read_is_shown_no_record_by_a_write(serve, join, model):
    """A write's answer holds what its client gave, a conflict no record; who may read, or listens, is shown all."""

    class Users(Backend):
        store = MemoryStore()

        @before("read")
        def staff(self, req):
            if "role" not in req.socket.cookies:
                raise Unauthorized("for staff")

    Users = type("Users", (Users,), {"model": model})
    app = await serve(Users)
    guest, staff = await join(app, "users", ...), await join(app, "users", **as_role("staff"))
    known = await join(app, "users", ..., **as_role("staff"))
    ann = await guest.sync("create", {"name": "Ann", "low": 1})
    assert (ann["name"], ann["low"]) == ("Ann", 1)
    bare = {"id": ann["id"]}
    assert await guest.sync("patch", {**bare, "low": 2}) == {**bare, "low": 2}
    for client in (staff, known):
        assert (await client.sync("patch", bare))["name"] == "Ann"
    with pytest.raises(SyncFailed) as caught:
        await guest.sync("update", {**bare, "name": "Bob"}, rev=0)
    assert ("current" in caught.value.error, caught.value.error["rev"]) == (False, 4)
    with pytest.raises(SyncFailed) as caught:
        await known.sync("update", {**bare, "name": "Bob"}, rev=0)
    assert caught.value.error["current"]["name"] == "Ann"
    with pytest.raises(SyncFailed, match="Unauthorized"):
        await guest.sync("read", bare)
    assert await guest.sync("delete", bare) == bare


async def test_who_may_not_is_told_so_before_what_is_wrong(serve, join):
    """Middleware that refuses comes first; layers of the class see valid models alone."""

    class Guard(Middleware):
        @before("create")
        def require(self, req):
            if req.user is None:
                raise Unauthorized("log in first")

    class Users(Backend):
        model = User
        middleware = [Cookies(), Guard()]
        store = MemoryStore()

        @before("create")
        def own(self, req):
            raise Unauthorized("not you")

    app = await serve(Users)
    anonymous, known = await join(app, "users"), await join(app, "users", **as_role("x"))
    with pytest.raises(SyncFailed, match="Unauthorized: log in first"):
        await anonymous.sync("create", {})
    assert await wrong(known.sync("create", {})) == {"name": "is required"}
    with pytest.raises(SyncFailed, match="Unauthorized: not you"):
        await known.sync("create", {"name": "Ann"})


async def test_unknown_fields_are_dropped_where_so_set(serve, join):
    """Also those of other roles, and private ones that nobody may set."""

    class Users(Backend):
        model = User
        unknown = "drop"
        store = MemoryStore()

    app = await serve(Users)
    client = await join(app, "users")
    ann = await client.sync(
        "create", {"name": "Ann", "hash": "h", "notes": "n", "x": 1, "address": {"city": "A", "y": 1}}
    )
    assert ann == {**SEEN, "id": ann["id"], "address": {"city": "A", "zip": ""}}
    assert (await client.sync("patch", {"id": ann["id"], "x": 1})) == ann
    assert (await raw(app, ann["id"]))["hash"] == "h-secret"


async def test_layers_may_replace_the_model_by_json(serve, join):
    """Then the store gets what they say; in an update, what they do not say of hidden fields stays."""

    class Users(Backend):
        model = User
        store = MemoryStore()

        @before("create", "update")
        def replace(self, req):
            req.model = {"name": req.model.name, "since": datetime.date(2026, 1, 31)}

        @before("delete")
        def confuse(self, req):
            req.model = User(id=req.id, name="Ann") if req.options.get("clear") else [1]

    app = await serve(Users)
    client = await join(app, "users")
    ann = await client.sync("create", {"name": "Ann"})
    assert ann == {**SEEN, "id": ann["id"], "name": "Ann", "since": "2026-01-31"}
    again = await client.sync("update", {"id": ann["id"], "name": "Bob"})
    assert again == {**ann, "name": "Bob"}
    with pytest.raises(SyncFailed, match="InternalError"):
        await client.sync("delete", {"id": ann["id"]})
    assert await client.sync("delete", {"id": ann["id"]}, {"clear": True}) == again


async def test_a_record_that_breaks_a_rule_in_what_is_hidden_says_no_more_than_that(serve, join, tmp_path):
    """Neither the name nor the value of a hidden field is told; the client learns that its patch cannot be."""

    @attrs.define
    class Account:
        limit: int = 0
        used: int = field(private=True, default=7)

        @used.validator
        def within(self, attribute, value):
            if value > self.limit:
                raise ValueError(f"{value} are used")

    class Accounts(Backend):
        model = Account
        store = MemoryStore(models=[{"id": "1", "limit": 9, "used": 7}])

    client = await join(await serve(Accounts), "accounts")
    assert await wrong(client.sync("patch", {"id": "1", "limit": 5})) == {"": "the model as a whole is not valid"}
    assert await wrong(client.sync("patch", {"id": "1", "used": 10})) == {"used": "10 are used"}
    assert await client.sync("patch", {"id": "1", "limit": 8}) == {"id": "1", "limit": 8}


async def test_a_store_of_ones_own_is_given_json(serve, join):
    """What it returns is shown like any record; `merged` is there for it too."""

    class Own(Store):
        def __init__(self):
            self.values = {"1": {"id": "1", "name": "Ann", "hash": "h-secret", "score": 3}}

        async def read(self, req):
            return list(self.values.values())

        async def patch(self, req):
            self.values["1"] = self.merged(req, self.values["1"])
            return self.values["1"]

        async def update(self, req):
            return req.model

    class Users(Backend):
        model = User
        store = Own()

    app = await serve(Users)
    client, other = await join(app, "users"), await join(app, "users")
    assert await client.sync("read") == [{"id": "1", "name": "Ann", "score": 3}]
    assert await client.sync("patch", {"id": "1", "low": 3}) == {**SEEN, "id": "1", "low": 3, "score": 3}
    assert await wrong(client.sync("patch", {"id": "1", "low": 10})) == {"high": "must be above low"}
    told = {name: value for name, value in SEEN.items() if name != "score"}
    assert await client.sync("update", {"id": "1", "name": "Bob"}) == {**told, "id": "1", "name": "Bob"}
    assert [method for method, _ in (await heard(app.backends["users"], other))[0]] == ["update", "update"]


async def test_initial_models_may_be_instances(serve, join, tmp_path):
    """They are stored like others."""
    for store in (MemoryStore, lambda models: SQLiteStore(tmp_path / "users.db", models=models)):

        class Users(Backend):
            model = User

        Users.store = store(models=[User(id="1", name="Ann", hash="h-mine"), {"id": "2", "name": "Bob"}])
        app = await serve(Users)
        client = await join(app, "users")
        assert await client.sync("read") == [{**SEEN, "id": "1"}, {"id": "2", "name": "Bob"}]
        assert (await raw(app, "1"))["hash"] == "h-mine"


async def test_history_from_before_a_field_was_private_is_cleaned(serve, join, tmp_path):
    """What is in a log on the disk, or was the reply of an operation, is shown as the class has it now."""

    @attrs.define
    class Before:
        name: str
        token: str = ""

    @attrs.define
    class After:
        name: str
        token: str = field(private=True, default="")

    op = {"c": "me", "n": 1}
    request = {"method": "create", "model": {"name": "Ann", "token": "t-secret"}, "op": op}
    removal = {"method": "delete", "op": {"c": "me", "n": 2}}
    for model in (Before, After):
        members = type("Users", (Backend,), {"model": model, "store": SQLiteStore(tmp_path / "users.db")})
        app = await serve(members)
        client = await join(app, "users", ...)
        if model is Before:
            (reply,) = await client.namespace.call("listen", None, {"v": 1})
            since = {name: [at["epoch"], at["offset"]] for name, at in reply["streams"].items()}
            _, ann, _ = await client.namespace.call("sync", request)
            assert ann["token"] == "t-secret"
            await client.namespace.call("sync", {**removal, "model": {"id": ann["id"]}})
            await app.stop()
        else:
            (reply,) = await client.namespace.call("listen", None, {"v": 1, "since": since})
            created, deleted = (event[1] for event in reply["streams"]["c:"]["events"])
            assert (created, deleted) == ({"id": ann["id"], "name": "Ann"}, {"id": ann["id"]})
            for again in (request, {**removal, "model": {"id": ann["id"]}}):
                assert (await client.namespace.call("sync", again))[1] == {"id": ann["id"], "name": "Ann"}
            assert "t-secret" not in "".join(client.wire.frames)


async def test_a_role_that_is_taken_away_is_gone_with_the_next_recheck(serve, join):
    """What a listener is told of is decided again whenever its permission is."""
    roles = ["support"]

    class Roles(Middleware):
        @before
        def identify(self, req):
            req.user = {"roles": list(roles)}

    class Users(Backend):
        model = User
        middleware = [Roles()]
        store = MemoryStore()

    app = await serve(Users)
    client = await join(app, "users")
    backend = app.backends["users"]
    backend.emit("created", User(id="1", name="Ann", notes="n"))
    assert (await client.synced())[1]["notes"] == "n"
    roles.clear()
    await backend.recheck()
    backend.emit("created", User(id="2", name="Bob", notes="n"))
    assert "notes" not in (await client.synced())[1]


class Rooms(Middleware):
    """Who somebody is in a room: `role=room` in the cookie."""

    @before
    def identify(self, req):
        if req.socket is not None:
            rooms = req.socket.cookies.get("role", "").split("+")
            req.user = {"id": "u", "roles": ["support"] if req.channel in rooms else []}


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
async def test_a_role_in_one_channel_shows_nothing_of_another(serve, join, order):
    """In whatever order they are listened to; what all channels are told shows what is seen in each of them."""

    class Users(Backend):
        model = User
        middleware = [Rooms()]
        store = MemoryStore()

    app = await serve(Users)
    ann, both = await join(app, "users", ..., **as_role("a")), await join(app, "users", ..., **as_role("a+b"))
    for client in (ann, both):
        for channel in order:
            await client.namespace.call("listen", channel, {"v": 1})
    for channel in ("a", "b", None):
        app.backends["users"].emit("created", User(id="1", name="Ann", notes="n"), channel)
    told = {}
    for client in (ann, both):
        events = [await client.namespace.event() for _ in range(3)]
        told[client] = {place["s"]: "notes" in model for _, _, model, place in events}
    assert told[ann] == {"c:a": True, "c:b": False, "*": False}
    assert told[both] == {"c:a": True, "c:b": True, "*": True}
    _, _, place = await ann.namespace.call("sync", {"method": "create", "model": {"name": "B"}, "channel": "b"})
    (at,) = await ann.namespace.call("listen", "b", {"v": 1, "since": {"c:b": [place["e"], place["o"]]}})
    assert at["streams"]["c:b"]["recovered"]


async def test_a_role_that_comes_or_goes_has_all_read_anew(serve):
    """Who is told of other fields from now on has all as it sees it now, without connecting anew."""
    roles = []

    class Roles(Middleware):
        @before
        def identify(self, req):
            req.user = {"id": "u", "roles": list(roles)}

    class Users(Backend):
        model = User
        middleware = [Roles()]
        store = MemoryStore(models=[User(id="1", name="Ann", notes="n")])

    app = await serve(Users)
    async with connect(app.url, jitter=0.0) as client:
        collection = await client.backend("users").collection()
        for held in (["support"], []):
            roles[:] = held
            await app.backends["users"].recheck()
            await collection.until(lambda users: ("notes" in users["1"]) is bool(roles))
            await app.backends["users"].recheck()  # nothing has changed


async def test_the_server_itself_may_write_to_a_store(serve, users):
    """Without a client there is nothing that could not be written; the whole must be valid all the same."""
    app = await serve(users)
    backend = app.backends["users"]

    async def write(method: str, model: Any) -> Any:
        return (await backend.store.write(Request(method, model, backend=backend))).record

    ann = await write("create", {"name": "Ann", "hash": "h-1"})
    assert (await write("patch", {"id": ann["id"], "score": 3}))["hash"] == "h-1"
    assert (await write("update", {"id": ann["id"], "name": "Bob"}))["hash"] == "h-secret"
    with pytest.raises(Invalid):
        await write("patch", {"id": ann["id"], "low": 10})
    res = await backend.stacks["create"].run(Request("create", 3, backend=backend))
    assert isinstance(res.failure, AttributeError)  # a middleware looks for cookies


async def test_queries_name_what_the_client_sees_in_any_spelling(serve, join, tmp_path):
    """Times are compared as times; of fields that the client does not see there is no word."""

    @attrs.define
    class Entry:
        at: datetime.datetime
        hash: str = field(private=True, default="h-secret")
        notes: str = field(roles=("support",), default="n")
        seen: list[datetime.datetime] = attrs.field(factory=list)

    for store in (MemoryStore(), SQLiteStore(tmp_path / "entries.db")):
        app = await serve(type("Entries", (Backend,), {"model": Entry, "store": store, "middleware": [Cookies()]}))
        client, support = await join(app, "entries"), await join(app, "entries", **as_role("support"))
        one = await client.sync("create", {"at": "2026-01-31T09:30:00Z"})
        two = await client.sync("create", {"at": "2026-01-31T09:30:00.500Z", "seen": ["2026-02-01T00:00:00Z"]})
        for data, found in (
            ({"at": "2026-01-31T10:30:00.000+01:00"}, [one]),
            ({"at": {"$in": ["2026-01-31T09:30Z", "2026-01-31T09:30:00.500Z"]}}, [one, two]),
            ({"at": {"$gt": "2026-01-31T09:30:00.000Z"}}, [two]),
            ({"seen": {"$contains": "2026-02-01T01:00:00+01:00"}}, [two]),
        ):
            assert await client.sync("read", {}, {"data": data}) == found
        assert len(await support.sync("read", {}, {"data": {"notes": "n"}})) == 2
        for name in ("hash", "notes", "none"):
            for data in ({name: "h"}, {"sort": name}, {"$or": [{name: {"$like": "h%"}}]}):
                with pytest.raises(SyncFailed, match=f"there is no field '{name}'; there are at, id, seen"):
                    await client.sync("read", {}, {"data": data})
