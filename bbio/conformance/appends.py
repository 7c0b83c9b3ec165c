"""Appending: the texts that a patch adds to with `$append`."""

from __future__ import annotations

import asyncio
from typing import Any

from bbio.conformance.cases import Cases, case, refused
from bbio.protocol import decode

MAX_BYTES = 1_000_000

# Of a patch: what it says beside the id, of a model that holds `text`, `n`, and `wide`, which is nearly full.
UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"$append": {"n": "x"}}, "'n' does not hold a text"),
    ({"$append": {"done": "x"}}, "'done' does not hold a text"),
    ({"$append": {"tags": "x"}}, "'tags' does not hold a text"),
    ({"$append": {"text": 1}}, "'text' must be a string"),
    ({"$append": {"text": None}}, "'text' must be a string"),
    ({"$append": {"text": ["x"]}}, "'text' must be a string"),
    ({"$append": {"wide": "\u00e9"}}, "'wide' would pass 1000000 bytes"),
    ({"$append": {"text": "x" * MAX_BYTES}}, "'text' would pass 1000000 bytes"),
    ({"$append": {"text": "x"}, "text": "y"}, "'text' is set and appended to at once"),
    ({"$append": {"n": "x"}, "$inc": {"n": 1}}, "'n' is counted and appended to at once"),
    ({"$append": "x"}, "'$append' must be an object"),
    ({"$append": None}, "'$append' must be an object"),
]


class Appends(Cases):
    """Patches that append."""

    @case("appends")
    async def test_a_patch_appends(self) -> None:
        """It adds to the end of what is stored; what is not there, or null, is an empty text; the rest is set."""
        async with self.opened() as models:
            made = await models.create({"text": "milk", "nothing": None, "n": 1})
            id = {models.key: made[models.key]}
            steps: list[tuple[dict[str, Any], dict[str, Any]]] = [
                ({"$append": {"text": " and"}}, {"text": "milk and"}),
                (
                    {"$append": {"text": " br\u00f6t \U0001f35e", "new": "x"}, "n": 2},
                    {"text": "milk and br\u00f6t \U0001f35e", "new": "x", "n": 2},
                ),
                ({"$append": {"nothing": "now"}, "$inc": {"n": 1}}, {"nothing": "now", "n": 3}),
                ({"$append": {"text": ""}}, {}),
                ({"$append": {}}, {}),
                ({"$append": {"a.b": "1", "": "2", "rev": "3"}}, {"a.b": "1", "": "2", "rev": "3"}),
            ]
            for patch, changes in steps:
                made |= changes
                commit = await models.write("patch", {**id, **patch})
                assert commit.record == made
                assert decode(models.published[-1][0].body) == await models.read(made[models.key]) == made
                assert models.published[-1][0].method == "update"

    @case("appends")
    async def test_what_is_no_text_is_not_appended_to(self) -> None:
        """The answer names the field; nothing changes, not even what the patch sets."""
        async with self.opened() as models:
            full = "\u00e9" * (MAX_BYTES // 2 - 1) + "x"
            made = await models.create({"text": "milk", "n": 1, "done": True, "tags": ["x"], "wide": full})
            for patch, message in [*UNFIT, ({"$append": {models.key: "x"}}, f"'{models.key}' cannot be appended to")]:
                err = await refused(
                    models.write("patch", {models.key: made[models.key], "other": "new", **patch}), "BadRequest"
                )
                assert err.message.startswith(message), (patch, err.message)
            assert await models.read(made[models.key]) == made
            assert len(models.published) == 1
            patch = {models.key: made[models.key], "$append": {"wide": "y"}}
            assert (await models.write("patch", patch)).record["wide"] == full + "y"

    @case("appends")
    async def test_nothing_but_a_patch_appends(self) -> None:
        """Elsewhere than in a patch, `$append` is not a field."""
        async with self.opened() as models:
            made = await models.create({"text": "milk"})
            for method, model in (("create", {}), ("update", made)):
                err = await refused(models.write(method, {**model, "$append": {"text": "x"}}), "BadRequest")
                assert err.message.startswith("'$append' appends in a patch alone")
            assert await models.all() == [made]
            await refused(models.write("patch", {models.key: "nowhere", "$append": {"text": "x"}}), "NotFound")

    @case("appends", "upsert")
    async def test_an_upsert_appends_to_nothing(self) -> None:
        """A model that is made by it has what it appended."""
        async with self.opened(upsert=True) as models:
            for text in ("x", "xx"):
                commit = await models.write("patch", {"id": "a", "$append": {"text": "x"}})
                assert commit.record == {"id": "a", "text": text}

    @case("appends", "atomic")
    async def test_what_many_append_at_once_is_there_once(self) -> None:
        """Each event holds what those before it appended; an operation that is repeated appends once."""
        async with self.opened() as models:
            made = await models.create({"text": ""})
            id = {models.key: made[models.key]}
            letters = "abcdefghijklmnopqrstuvwxyz"
            await asyncio.gather(
                *(
                    models.write("patch", {**id, "$append": {"text": letter}}, op=f"c:{n}")
                    for n, letter in enumerate(letters)
                    for _ in range(2)
                )
            )
            written = [decode(event.body)["text"] for event, _ in models.published[1:]]
            assert sorted(written[-1]) == list(letters)
            assert written == [written[-1][: n + 1] for n in range(len(letters))]
            again = await models.write("patch", {**id, "$append": {"text": "a"}}, op="c:0")
            assert again.duplicate
            await refused(models.write("patch", {**id, "$append": {"text": "b"}}, op="c:0"), "Conflict")
            assert (await models.read(made[models.key]))["text"] == written[-1]

    @case("appends", "revisions")
    async def test_what_is_appended_is_no_conflict(self) -> None:
        """Whatever revision it builds on: it builds on the fields that it sets alone."""
        async with self.opened() as models:
            made = await models.create({"text": "a", "title": "milk"})
            id = {models.key: made[models.key]}
            seen = await models.revision(made[models.key])
            await models.write("patch", {**id, "text": "b", "title": "bread"})
            await models.write("patch", {**id, "$append": {"text": "c"}, "$inc": {"n": 1}}, rev=seen)
            err = await refused(
                models.write("patch", {**id, "$append": {"text": "d"}, "title": "jam"}, rev=seen), "Conflict"
            )
            assert err.values["current"] == {**made, "text": "bc", "title": "bread", "n": 1}
