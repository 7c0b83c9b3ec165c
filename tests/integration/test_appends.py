"""Appending through a real server: what a client may append, and what comes of it in a table with columns."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import attrs
import pytest

from bbio import App, Backend, BadRequest, Forbidden, Invalid, before, field
from bbio.builtin import MemoryStore, PostgresStore
from bbio.client import connect

pytestmark = pytest.mark.once  # what is asked is what stores do, not a Python


@attrs.define
class Answer:
    """Texts of every kind, and fields that are none."""

    text: str = attrs.field(default="", validator=attrs.validators.max_len(20))
    start: str = "> "
    note: str | None = None
    mixed: int | str = "x"
    level: Literal["a", "aa"] = "a"
    free: Any = None
    n: int = 0
    price: Decimal = Decimal("1.50")
    done: bool = False
    by: str = field(read_only=True, default="bot")
    pin: str = field(private=True, default="12")
    bonus: str = field(roles=("support",), default="")


REFUSED = [
    ({"text": 1}, {"text": "must be a string"}),
    ({"text": None}, {"text": "must be a string"}),
    ({"free": 1}, {"free": "must be a string"}),
    ({"n": "1"}, {"n": "is not a text, and cannot be appended to"}),
    ({"price": "1"}, {"price": "is not a text, and cannot be appended to"}),
    ({"done": "1"}, {"done": "is not a text, and cannot be appended to"}),
    ({"level": "b"}, {"level": "must be one of a, aa"}),
    ({"text": "x" * 21}, {"text": "must have at most 20 characters"}),
    ({"nope": "x"}, {"nope": "is not a known field"}),
    ({"bonus": "x"}, {"bonus": "is not a known field"}),
    ({"by": "x"}, {"by": "cannot be changed"}),
    ({"pin": "x"}, {"pin": "cannot be appended to by who does not see it"}),
    ({"id": "x"}, {"id": "cannot be appended to"}),
    ("x", {"$append": "must be an object"}),
]


async def test_what_a_client_may_append():
    """To fields that it may set and sees, and that are texts; what comes of it meets the rules of the class."""
    app = App().serve(type("Answers", (Backend,), {"store": MemoryStore(), "model": Answer}))
    async with app.running() as url, connect(url) as io:
        answers = io.backend("answers")
        made = await answers.create({})
        id = {"id": made["id"]}
        for appends, wrong in REFUSED:
            with pytest.raises(Invalid) as caught:
                await answers.patch({**id, "note": "new", "$append": appends})
            assert caught.value.fields == wrong
        with pytest.raises(Invalid) as caught:
            await answers.patch({**id, "$append": {"mixed": "x"}, "$inc": {"mixed": 1}})
        assert caught.value.fields == {"mixed": "is counted and appended to at once"}
        with pytest.raises(Invalid) as caught:
            await answers.sync("update", {**made, "$append": {"text": "x"}, "$inc": {"n": 1}})
        assert caught.value.fields == {
            "$append": "appends in a patch alone; give the field its value here",
            "$inc": "counts in a patch alone; give the field its value here",
        }
        assert await answers.read(made["id"]) == made

        appends = {"text": "a", "start": "b", "note": "c", "mixed": "d", "level": "a", "free": "e"}
        expected = {"text": "a", "start": "> b", "note": "c", "mixed": "xd", "level": "aa", "free": "e", "n": 2}
        assert await answers.patch({**id, "$append": appends, "$inc": {"n": 2}}) == made | expected
        await answers.patch({**id, "mixed": 7, "free": [1]})
        for name in ("mixed", "free"):
            with pytest.raises(Invalid) as caught:
                await answers.patch({**id, "$append": {name: "x"}})
            assert caught.value.fields == {name: "does not hold a text"}


async def test_who_may_not_read_cannot_append():
    """What is refused, and what is not, would tell what is stored; where nothing is kept, nothing is appended to."""

    def refuse(self, req):
        raise Forbidden("not for you")

    store = MemoryStore(models=[{"id": "a", "text": "x"}])
    app = App().serve(type("Answers", (Backend,), {"store": store, "refuse": before("read")(refuse)}))
    app.serve(type("Echo", (Backend,), {}))
    async with app.running() as url, connect(url) as io:
        with pytest.raises(Forbidden, match="may not read a model cannot append"):
            await io.backend("answers").patch({"id": "a", "$append": {"text": "x"}})
        with pytest.raises(BadRequest, match="'echo' keeps nothing that could be appended to"):
            await io.backend("echo").patch({"id": "a", "$append": {"text": "x"}})


async def test_appends_in_the_table_of_another_program(database_url, psql):
    """What is told is what the columns hold; what they cannot hold is refused."""
    id = "id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    await psql.execute(f"CREATE TABLE answers ({id}, text varchar(8), n integer NOT NULL DEFAULT 0)")
    await psql.execute("INSERT INTO answers DEFAULT VALUES")
    model = attrs.make_class("Row", {"text": attrs.field(default="", type=str), "n": attrs.field(default=0, type=int)})
    cls = type("Answers", (Backend,), {"store": PostgresStore(database_url, "answers"), "model": model})
    app = App().serve(cls)
    async with app.running() as url, connect(url) as io:
        answers = io.backend("answers")
        for text in ("ab", "abab", "ababab"):
            assert await answers.patch({"id": 1, "$append": {"text": "ab"}, "$inc": {"n": 1}}) == {
                "id": 1,
                "text": text,
                "n": len(text) // 2,
            }
        with pytest.raises((Invalid, BadRequest)):
            await answers.patch({"id": 1, "$append": {"text": "abab"}})
        assert (await answers.read(1))["text"] == "ababab"
