"""Counting: what a patch adds to with `$inc`."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from bbio.conformance.cases import Cases, case, refused
from bbio.protocol import decode
from bbio.streams import HistoryLimits

# Of a patch: what it says beside the id, of a model that holds `n`, and nothing else that is a number.
UNCOUNTABLE: list[tuple[dict[str, Any], str]] = [
    ({"$inc": {"title": 1}}, "'title' does not hold a number"),
    ({"$inc": {"done": 1}}, "'done' does not hold a number"),
    ({"$inc": {"tags": 1}}, "'tags' does not hold a number"),
    ({"$inc": {"n": "1"}}, "'n' must be a number"),
    ({"$inc": {"n": None}}, "'n' must be a number"),
    ({"$inc": {"n": True}}, "'n' must be a number"),
    ({"$inc": {"n": [1]}}, "'n' must be a number"),
    ({"$inc": {"n": 2**53 - 1}}, "'n' would pass 9007199254740991"),
    ({"$inc": {"n": -(2**53)}}, "'n' would pass 9007199254740991"),
    ({"$inc": {"n": 1e300}}, "'n' would pass 9007199254740991"),
    ({"$inc": {"large": -1}}, "'large' would pass 9007199254740991"),
    ({"$inc": {"just": -1}}, "'just' would pass 9007199254740991"),
    ({"$inc": {"n": 1}, "n": 7}, "'n' is set and counted at once"),
    ({"$inc": 1}, "'$inc' must be an object"),
    ({"$inc": None}, "'$inc' must be an object"),
    ({"$inc": ["n"]}, "'$inc' must be an object"),
]


class Counts(Cases):
    """Patches that count."""

    @case("counts")
    async def test_a_patch_counts(self) -> None:
        """It adds to what is stored, also below zero; what is not there, or null, counts from 0; the rest is set."""
        async with self.opened() as models:
            made = await models.create({"n": 1, "x": 0.5, "nothing": None, "title": "milk"})
            id = {models.key: made[models.key]}
            steps: list[tuple[dict[str, Any], dict[str, Any]]] = [
                ({"$inc": {"n": 2}}, {"n": 3}),
                ({"$inc": {"n": -5, "new": 4}, "title": "bread"}, {"n": -2, "new": 4, "title": "bread"}),
                ({"$inc": {"nothing": 1, "x": 0.25}}, {"nothing": 1, "x": 0.75}),
                ({"$inc": {"x": 1, "n": 0.5}}, {"x": 1.75, "n": -1.5}),
                ({"$inc": {}}, {}),
                ({"$inc": {"big": 2**53 - 1}}, {"big": 2**53 - 1}),
                ({"$inc": {"a.b": 1, "": 1, "rev": 1}}, {"a.b": 1, "": 1, "rev": 1}),
            ]
            for patch, changes in steps:
                made |= changes
                commit = await models.write("patch", {**id, **patch})
                assert commit.record == made
                assert [type(commit.record[name]) for name in made] == [type(value) for value in made.values()]
                assert decode(models.published[-1][0].body) == await models.read(made[models.key]) == made
                assert models.published[-1][0].method == "update"

    @case("counts")
    async def test_what_is_no_number_is_not_counted(self) -> None:
        """The answer names the field; nothing changes, not even what the patch sets."""
        async with self.opened() as models:
            made = await models.create(
                {"n": 1, "large": 2**60, "just": 2**53, "title": "milk", "done": True, "tags": [1], "other": "old"}
            )
            for patch, message in [*UNCOUNTABLE, ({"$inc": {models.key: 1}}, f"'{models.key}' cannot be counted")]:
                err = await refused(
                    models.write("patch", {models.key: made[models.key], "other": "new", **patch}), "BadRequest"
                )
                assert err.message.startswith(message), (patch, err.message)
            assert await models.read(made[models.key]) == made
            assert len(models.published) == 1

    @case("counts")
    async def test_nothing_but_a_patch_counts(self) -> None:
        """Elsewhere than in a patch, `$inc` is not a field."""
        async with self.opened() as models:
            made = await models.create({"n": 1})
            for method, model in (("create", {}), ("update", made)):
                for counts in ({"n": 1}, 1, None):
                    err = await refused(models.write(method, {**model, "$inc": counts}), "BadRequest")
                    assert err.message.startswith("'$inc' counts in a patch alone")
            assert await models.all() == [made]
            await models.write("delete", {**made, "$inc": {"n": 1}})

    @case("counts")
    async def test_an_unknown_model_is_not_counted(self) -> None:
        """It is not found, whatever it counts."""
        async with self.opened() as models:
            await refused(models.write("patch", {models.key: "nowhere", "$inc": {"n": 1}}), "NotFound")

    @case("counts", "upsert")
    async def test_an_upsert_counts_from_zero(self) -> None:
        """A model that is made by it has what it counted."""
        async with self.opened(upsert=True) as models:
            for n in (2, 4):
                assert (await models.write("patch", {"id": "a", "$inc": {"n": 2}})).record == {"id": "a", "n": n}
            assert [event.method for event, _ in models.published] == ["create", "update"]

    @case("counts", "atomic")
    async def test_what_many_count_at_once_adds_up(self) -> None:
        """Each event holds what those before it counted, and each answer its own."""
        async with self.opened() as models:
            made = await models.create({"n": 0})
            patch = {models.key: made[models.key], "$inc": {"n": 1, "m": -2}}
            commits = await asyncio.gather(*(models.write("patch", {**patch, f"f{n % 7}": n}) for n in range(150)))
            assert sorted(commit.record["n"] for commit in commits) == list(range(1, 151))
            counted = [decode(event.body) for event, _ in models.published[1:]]
            assert [(body["n"], body["m"]) for body in counted] == [(n, -2 * n) for n in range(1, 151)]
            revs = [event.rev or 0 for event, _ in models.published]
            assert all(a < b for a, b in itertools.pairwise(revs))

    @case("counts", "atomic")
    async def test_an_operation_counts_once(self) -> None:
        """Its repetition is answered as it was, at the same time and later."""
        async with self.opened() as models:
            made = await models.create({"n": 0})
            patch = {models.key: made[models.key], "$inc": {"n": 1}}
            first, second = await asyncio.gather(*(models.write("patch", patch, op="c:1") for _ in range(2)))
            await models.write("patch", patch, op="c:2")
            again = await models.write("patch", patch, op="c:1")
            assert first.record == second.record == again.record == {**made, "n": 1}
            await refused(models.write("patch", {**patch, "$inc": {"n": 2}}, op="c:1"), "Conflict")
            assert await models.read(made[models.key]) == {**made, "n": 2}

    @case("counts", "revisions")
    async def test_what_is_counted_is_no_conflict(self) -> None:
        """Whatever revision it builds on: it builds on the fields that it sets alone."""
        async with self.opened() as models:
            made = await models.create({"n": 0, "title": "milk", "other": 0})
            id = {models.key: made[models.key]}
            seen = await models.revision(made[models.key])
            await models.write("patch", {**id, "n": 10, "title": "bread"})
            await models.write("patch", {**id, "$inc": {"n": 1}}, rev=seen)
            await models.write("patch", {**id, "$inc": {"n": 1}, "other": 1}, rev=seen)
            err = await refused(models.write("patch", {**id, "$inc": {"n": 1}, "title": "jam"}, rev=seen), "Conflict")
            assert err.values["current"] == {**made, "n": 12, "title": "bread", "other": 1}

    @case("counts", "revisions", "history")
    async def test_what_is_counted_builds_on_nothing_that_could_be_forgotten(self) -> None:
        """If the earlier model is not known, only a patch that sets a field is a conflict."""
        async with self.opened(history=HistoryLimits(age=0.0, size=1, events=2)) as models:
            made = await models.create({"n": 0})
            patch = {models.key: made[models.key], "$inc": {"n": 1}}
            seen = await models.revision(made[models.key])
            await asyncio.gather(*(models.write("patch", patch) for n in range(300)))
            assert (await models.write("patch", patch, rev=seen)).record["n"] == 301
            await refused(models.write("patch", {**patch, "a": 1}, rev=seen), "Conflict")
