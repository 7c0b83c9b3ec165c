"""Counting through a real server: what many add to one field at once, and what a client may count."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any, Literal

import attrs
import pytest

from bbio import (
    App,
    Backend,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    Limits,
    Middleware,
    after,
    before,
    field,
    patch,
    read,
)
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.client import connect
from tests.support.servers import heard

pytestmark = pytest.mark.once  # what is asked is what stores do, not a Python


@attrs.define
class Tally:
    """Something of every kind that can be counted, and some that cannot."""

    count: int = attrs.field(
        default=0, validator=attrs.validators.and_(attrs.validators.ge(0), attrs.validators.le(9_000))
    )
    ratio: float = 0.0
    money: Decimal = Decimal("1.50")
    tip: Decimal | None = None
    stars: int | None = None
    level: Literal[1, 2, 3] = 1
    mixed: int | str = 7
    free: Any = None
    title: str = "none"
    done: bool = False
    low: int = 0
    likes: int = field(read_only=True, default=0)
    pin: int = field(private=True, default=1234)
    score: int = field(private=True, read_only=True, default=0)
    bonus: int = field(roles=("support",), default=0)

    def __attrs_post_init__(self) -> None:
        if self.low > self.count:
            raise ValueError("low must not be above count")


class Roles(Middleware):
    """The roles of a client are what it says."""

    @before
    def identify(self, req):
        req.user = {"id": "u", "roles": (req.socket.auth or {}).get("roles", [])}


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request, tmp_path):
    """Each of the stores, to be declared."""
    if request.param == "memory":
        return MemoryStore
    if request.param == "sqlite":
        return lambda **options: SQLiteStore(tmp_path / "counts.db", **options)
    url = request.getfixturevalue("database_url")
    return lambda **options: PostgresStore(url, **options)


def backend(store: Any, **attributes: Any) -> type[Backend]:
    return type("Tallies", (Backend,), {"store": store, **attributes})


@pytest.mark.timeout(300)  # thousands of commits of one row, on a machine that is busy with other tests
@pytest.mark.parametrize(("model", "each"), [(None, 100), (Tally, 10)], ids=["document", "typed"])
async def test_what_fifty_clients_count_adds_up(store, join, model, each):
    """Each many times, at once, while some set other fields: no count is lost, and every answer is its own."""
    app = App(limits=Limits(deadline=60)).serve(backend(store(), model=model))
    async with app.running() as url, connect(url, deadline=60) as io:
        handle = io.backend("tallies")
        made = await handle.create({"count": 0})
        mirror = await handle.collection()
        clients = [await join(url, "tallies", ...) for _ in range(50)]

        async def count(n, client):
            beside = {"title": f"{n}"} if n % 5 == 0 else {}
            patch = {"id": made["id"], "$inc": {"count": 1}, **beside}
            answers = [await client.sync("patch", patch, deadline=60) for _ in range(each)]
            assert not any("$inc" in answer for answer in answers)
            return [answer["count"] for answer in answers]

        seen = await asyncio.gather(*(count(n, client) for n, client in enumerate(clients)))
        assert sorted(number for own in seen for number in own) == list(range(1, 50 * each + 1))
        assert all(own == sorted(own) for own in seen)
        assert (await handle.read(made["id"]))["count"] == 50 * each
        await mirror.until(lambda mirror: mirror[made["id"]]["count"] == 50 * each)
        assert "$inc" not in mirror[made["id"]]


REFUSED = [
    ({"count": 0.5}, {"count": "must be a whole number"}),
    ({"count": 1.0}, {"count": "must be a whole number"}),
    ({"count": "1"}, {"count": "must be a whole number"}),
    ({"count": True}, {"count": "must be a whole number"}),
    ({"count": None}, {"count": "must be a whole number"}),
    ({"count": {"$inc": 1}}, {"count": "must be a whole number"}),
    ({"ratio": "1"}, {"ratio": "must be a number"}),
    ({"money": "much"}, {"money": "must be a decimal number, such as 12.50"}),
    ({"tip": None}, {"tip": "must be a decimal number, such as 12.50"}),
    ({"mixed": []}, {"mixed": "must be a whole number"}),
    ({"free": "x"}, {"free": "must be a number"}),
    ({"title": 1}, {"title": "is not a number, and cannot be counted"}),
    ({"done": 1}, {"done": "is not a number, and cannot be counted"}),
    ({"nope": 1}, {"nope": "is not a known field"}),
    ({"rev": 1}, {"rev": "is not a known field"}),
    ({"id": 1}, {"id": "cannot be counted"}),
    ({"likes": 1}, {"likes": "cannot be changed"}),
    ({"likes": 0}, {"likes": "cannot be changed"}),
    ({"pin": 1}, {"pin": "cannot be counted by who does not see it"}),
    ({"score": 1}, {"score": "is not a known field"}),
    ({"bonus": 1}, {"bonus": "is not a known field"}),
    ({"low": 1}, {"": "low must not be above count"}),
    ({"low": 2**53 - 1, "count": -1}, {"count": "must be at least 0"}),
    (
        {"ratio": 2**53},
        {"ratio": "would pass 9007199254740991, the largest whole number that every client tells exactly"},
    ),
    ({"nope": 1, "count": 0.5}, {"nope": "is not a known field", "count": "must be a whole number"}),
    (1, {"$inc": "must be an object"}),
]


async def test_what_a_client_may_count(store):
    """What it may set and sees, as numbers of the field's kind; what comes of it meets the rules of the class."""
    app = App().serve(backend(store(), model=Tally, middleware=[Roles()]))
    async with app.running() as url, connect(url) as io, connect(url, auth={"roles": ["support"]}) as support:
        tallies, others = io.backend("tallies"), support.backend("tallies")
        made = await tallies.create({})
        id = {"id": made["id"]}
        for counts, wrong in REFUSED:
            with pytest.raises(Invalid) as caught:
                await tallies.patch({**id, "level": 2, "$inc": counts})
            assert caught.value.fields == wrong
        with pytest.raises(Invalid) as caught:
            await tallies.patch({**id, "count": 5, "$inc": {"count": 1}})
        assert caught.value.fields == {"count": "is set and counted at once"}
        with pytest.raises(Invalid) as caught:
            await tallies.patch({**id, "likes": 0, "$inc": {"likes": 1}})
        assert "likes" in caught.value.fields
        for method, model in (("create", {}), ("update", made)):
            with pytest.raises(Invalid) as caught:
                await tallies.sync(method, {**model, "$inc": {"count": 1}})
            assert caught.value.fields == {"$inc": "counts in a patch alone; give the field its value here"}
        assert await tallies.read(made["id"]) == made

        # The same error as a set would be.
        for name, value in (("count", -1), ("count", 9_001), ("level", 4)):
            with pytest.raises(Invalid) as set_to:
                await tallies.patch({**id, name: value})
            with pytest.raises(Invalid) as counted:
                await tallies.patch({**id, "$inc": {name: value - made[name]}})
            assert counted.value.fields == set_to.value.fields

        counts = {
            "count": 4,
            "ratio": 1,
            "money": 0.25,
            "tip": "-0.10",
            "stars": 3,
            "level": 2,
            "mixed": 1,
            "free": 2.5,
        }
        expected = {"count": 4, "ratio": 1.0, "money": "1.75", "tip": "-0.10", "stars": 3, "level": 3, "mixed": 8}
        record = await tallies.patch({**id, "title": "once", "$inc": {**counts, "low": 2}})
        assert record == made | expected | {"free": 2.5, "title": "once", "low": 2}
        record = await tallies.patch({**id, "$inc": {"money": "1e1"[:1], "ratio": 0.5, "tip": 1, "count": -2}})
        assert (record["money"], record["ratio"], record["tip"], record["count"]) == ("2.75", 1.5, "0.90", 2)
        # However small they are, they are written without an exponent, and however many digits they have.
        await tallies.patch({**id, "tip": "0"})
        record = await tallies.patch({**id, "$inc": {"tip": "0.00000001"}})
        assert record["tip"] == "0.00000001"
        await tallies.patch({**id, "tip": "12345678901234567890123456789.00"})
        record = await tallies.patch({**id, "$inc": {"tip": "0.0000000001"}})
        assert record["tip"] == "12345678901234567890123456789.0000000001"
        assert (await others.patch({**id, "$inc": {"bonus": 2}}))["bonus"] == 2
        assert "bonus" not in await tallies.patch({**id, "$inc": {"count": 1}})
        await tallies.patch({**id, "mixed": "text", "free": [1]})
        for name in ("mixed", "free"):
            with pytest.raises(Invalid) as caught:
                await tallies.patch({**id, "$inc": {name: 1}})
            assert caught.value.fields == {name: "does not hold a number"}


async def test_unknown_fields_that_are_dropped_are_not_counted(store):
    """As they are not set."""
    app = App().serve(backend(store(), model=Tally, unknown="drop"))
    async with app.running() as url, connect(url) as io:
        tallies = io.backend("tallies")
        made = await tallies.create({})
        record = await tallies.patch({"id": made["id"], "$inc": {"nope": 1, "score": 9, "count": 1}})
        assert record == made | {"count": 1}


async def test_layers_see_what_the_client_counts_and_may_count_themselves(store):
    """In `req.model`, as it was sent; what they put there may be of any field."""

    def audit(self, req):
        seen.append(dict(req.model))
        req.model["$inc"] = {**req.model["$inc"], "likes": 2, "score": 1, "money": Decimal("0.50"), "pin": 1}

    seen = []
    app = App().serve(backend(store(), model=Tally, audit=before("patch")(audit)))
    async with app.running() as url, connect(url) as io:
        tallies = io.backend("tallies")
        made = await tallies.create({})
        id = {"id": made["id"]}
        record = await tallies.patch({**id, "done": True, "$inc": {"count": 1}})
        assert seen == [{**id, "done": True, "$inc": {"count": 1}}]
        assert record == made | {"done": True, "count": 1, "likes": 2, "money": "2.00"}
        assert (await tallies.patch({**id, "$inc": {}}))["likes"] == 4


async def test_what_a_layer_counts_without_sense_is_refused(store):
    """A field that the class does not have is kept, as one that is set is; what cannot be added is told by its name."""

    def meddle(self, req):
        req.model["$inc"] = {"new": 1, "done": 1, "count": None}

    app = App().serve(backend(store(), model=Tally, meddle=before("patch")(meddle)))
    async with app.running() as url, connect(url) as io:
        made = await io.backend("tallies").create({})
        with pytest.raises(Invalid) as caught:
            await io.backend("tallies").patch({"id": made["id"]})
        assert caught.value.fields == {"done": "does not hold a number", "count": "must be a number"}


@attrs.define
class Score:
    """A model with more fields than its records have."""

    must: int
    five: int = 5
    seven: int | None = 7


async def test_what_is_not_there_counts_from_the_default(store):
    """In records from before there was a class, or a field; from 0 where that has none, or null is a value of it."""

    def meddle(self, req):
        req.model["$inc"]["new"] = 2

    def note(self, record):
        written.append(record)

    written = []
    kept = {"models": [{"id": "none", "must": 1, "five": None, "seven": None}, {"id": "bare"}]}
    async with App().serve(backend(store(**kept))).running():
        pass
    app = App().serve(
        backend(store(**kept), model=Score, meddle=before("patch")(meddle), note=after("patch", once=True)(note))
    )
    async with app.running() as url, connect(url) as io:
        for id, expected in (
            ("none", {"must": 2, "five": 6, "seven": 1}),
            ("bare", {"must": 1, "five": 6, "seven": 8}),
        ):
            counts = dict.fromkeys(expected, 1)
            assert await io.backend("tallies").patch({"id": id, "$inc": counts}) == {"id": id, **expected}
            # What a layer counts beside the fields of the class is kept.
            assert written[-1]["new"] == 2


async def test_who_may_not_read_cannot_count(store):
    """What is refused, and what is not, would tell what is stored."""

    def refuse(self, req):
        raise Forbidden("not for you")

    app = App().serve(backend(store(models=[{"id": "a", "n": 1}]), refuse=before("read")(refuse)))
    async with app.running() as url, connect(url) as io:
        tallies = io.backend("tallies")
        for counts in ({"n": 1}, {"title": 1}, 1):
            with pytest.raises(Forbidden, match="may not read a model cannot count"):
                await tallies.patch({"id": "a", "$inc": counts})
        assert await tallies.patch({"id": "a", "n": 3}) == {"id": "a", "n": 3}
        # As some clients do, of a record from before there were counts.
        assert await tallies.delete({"id": "a", "$inc": 1}) == {"id": "a"}


async def test_what_is_told_of_a_count(store, join):
    """Other clients, also those of before version 1, are told the record."""
    app = App().serve(backend(store()))
    async with app.running() as url, connect(url) as io:
        tallies = io.backend("tallies")
        made = await tallies.create({"n": 1})
        other = await join(url, "tallies")
        await tallies.patch({"id": made["id"], "$inc": {"n": 1}, "title": "milk"})
        told = await heard(app.backends["tallies"], other)
        assert told == [[("update", {**made, "n": 2, "title": "milk"})]]


async def test_a_backend_that_keeps_nothing_counts_nothing(join):
    """It says so; a handler is given what is to be counted, and of what it does not answer nothing is told."""

    class Echo(Backend):
        pass

    class Own(Backend):
        @read
        def nothing(self):
            return []

        @patch
        def count(self, req):
            counted.append(req.model["$inc"])

    counted = []
    app = App().serve(Echo, Own)
    async with app.running() as url, connect(url) as io:
        listener = await join(url, "own")
        for method in ("create", "update", "patch"):
            with pytest.raises(BadRequest, match="'echo' keeps nothing that could be counted"):
                await io.backend("echo").sync(method, {"id": 1, "$inc": {"n": 1}})
        mirror = await io.backend("own").collection()
        assert await io.backend("own").patch({"id": 1, "title": "x", "$inc": {"n": 1}}) is None
        assert dict(mirror) == {1: {"id": 1, "title": "x"}}
        assert counted == [{"n": 1}]
        assert await heard(app.backends["own"], listener) == [[("update", {"id": 1, "title": "x"})]]


@attrs.define
class Stock:
    """A table of another program."""

    name: str = ""
    sold: int = 0
    price: Decimal | None = None
    left: int = 0
    gross: Decimal | None = None
    seen: int | None = None


STOCK = """
CREATE TABLE stock (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL DEFAULT '', sold integer,
    price numeric(6,2) DEFAULT 1, "left" integer NOT NULL DEFAULT 7 CHECK ("left" >= 0), seen smallint,
    gross numeric GENERATED ALWAYS AS (price * 2) STORED);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN NEW.seen = coalesce(NEW.seen, 0) + 1; RETURN NEW; END $$;
CREATE TRIGGER look BEFORE UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION look();
INSERT INTO stock (name) VALUES ('milk');
"""


async def test_counts_in_the_table_of_another_program(database_url, psql):
    """They add up with what that program counts itself; what PostgreSQL makes of it, or refuses, is what is told."""
    await psql.execute(STOCK)
    app = App().serve(backend(PostgresStore(database_url, "stock"), model=Stock))
    async with app.running() as url, connect(url) as io:
        stock = io.backend("tallies")
        # NULL, where the class has a default, counts from that.
        record = await stock.patch({"id": 1, "$inc": {"sold": 2, "price": "0.255"}})
        assert (record["sold"], record["price"], record["gross"], record["seen"]) == (2, "1.26", "2.52", 1)
        # A rule of the table, and numbers that its columns cannot hold.
        for counts in ({"left": -8}, {"sold": 2**31}, {"seen": 40_000}):
            with pytest.raises((Invalid, BadRequest, Conflict)):
                await stock.patch({"id": 1, "name": "bread", "$inc": counts})
        assert await stock.read(1) == record

        async def others():
            for _ in range(20):
                await psql.execute("UPDATE stock SET sold = sold + 1")

        await asyncio.gather(others(), *(stock.patch({"id": 1, "$inc": {"sold": 1}}) for _ in range(30)))
        assert (await stock.read(1))["sold"] == 52
