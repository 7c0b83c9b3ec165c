"""Models: what the five methods do, what the options of bbio's own stores change, and revisions."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from bbio.conformance.cases import Cases, case, refused
from bbio.protocol import decode
from bbio.streams import HistoryLimits

MISSING = ("update", "patch", "delete")

VALUES: dict[str, Any] = {
    "empty": "",
    "quotes": "'; DROP TABLE models; -- \" ` \\",
    "unicode": "Zürich 東京 \N{GRINNING FACE} \u2028 e\u0301",
    "null": None,
    "false": False,
    "zero": 0,
    "large": 2**80,
    "negative": -(2**63),
    "float": 1e300,
    "largest": 1.7976931348623157e308,
    "tiny": 5e-324,
    "third": 1 / 3,
    "nested": {"list": [1, [2, {"three": [None, True, "x"]}]], "": {}},
    "$gt": "no operator",
    "a.b": "no path",
    "rev": "no revision",
    "body": "no column",
}


class Models(Cases):
    """Create, read, update, patch and delete."""

    @case()
    async def test_a_created_model_can_be_read(self) -> None:
        """A created model is returned with its id, and read so, alone and among all."""
        async with self.opened() as models:
            commit = await models.write("create", {"title": "milk"})
            milk = commit.record
            assert milk == {"title": "milk", models.key: milk[models.key]}
            assert decode(commit.body) == milk
            assert await models.read(milk[models.key]) == milk
            assert await models.all() == [milk]

    @case("ids")
    async def test_ids_are_given_by_the_store(self) -> None:
        """Every creation has an id of its own; one that names an id is refused, and takes no model's place."""
        async with self.opened() as models:
            made = [await models.create({"n": n}) for n in range(30)]
            assert len({model[models.key] for model in made}) == 30
            assert all(type(model[models.key]) in (str, int) for model in made)
            await refused(models.create({models.key: made[0][models.key], "n": "mine now"}), "BadRequest")
            await refused(models.create({models.key: "of my choice"}), "BadRequest")
            assert await models.read(made[0][models.key]) == made[0]
            assert len(await models.all()) == len(models.published) == 30

    @case()
    async def test_update_replaces_patch_merges_and_delete_removes(self) -> None:
        """An update is the whole model, a patch its changed fields; a delete returns the model as it was."""
        async with self.opened() as models:
            id = (await models.create({"a": 1, "b": 1}))[models.key]
            assert (await models.write("update", {models.key: id, "b": 2})).record == {models.key: id, "b": 2}
            assert await models.read(id) == {models.key: id, "b": 2}
            patched = {models.key: id, "b": 2, "c": 3}
            assert (await models.write("patch", {models.key: id, "c": 3})).record == patched
            assert await models.read(id) == patched
            assert (await models.write("delete", {models.key: id})).record == patched
            assert await models.all() == []

    @case()
    async def test_only_the_model_that_is_meant_changes(self) -> None:
        """The others stay as they were."""
        async with self.opened() as models:
            first, second, third = [await models.create({"n": n}) for n in range(3)]
            await models.write("update", {**second, "n": 20})
            await models.write("delete", third)
            assert await models.read(first[models.key]) == first
            assert [model["n"] for model in await models.all()] in ([0, 20], [20, 0])

    @case()
    async def test_an_unknown_id_is_not_found(self) -> None:
        """Neither read nor written; nothing is stored and nothing is published."""
        async with self.opened() as models:
            for id in ("nowhere", 4711, "", "'; DROP TABLE models; --"):
                await refused(models.read(id), "NotFound")
                for method in MISSING:
                    await refused(models.write(method, {models.key: id, "x": 1}), "NotFound")
            assert await models.all() == models.published == []
            assert (await models.top()).offset == 0

    @case()
    async def test_a_deleted_model_is_not_found(self) -> None:
        """It is as if it had never been."""
        async with self.opened() as models:
            milk = await models.create({"title": "milk"})
            await models.write("delete", milk)
            await refused(models.read(milk[models.key]), "NotFound")
            for method in MISSING:
                await refused(models.write(method, milk), "NotFound")
            assert len(models.published) == 2

    @case()
    async def test_what_can_be_no_id_finds_nothing(self) -> None:
        """Ids are strings and whole numbers; anything else is refused, and is not a condition."""
        async with self.opened() as models:
            milk = await models.create({"title": "milk"})
            for id in ({"$ne": None}, [milk[models.key]], True, 1.5, {}, []):
                await refused(models.read(id), "BadRequest", "NotFound")
                for method in MISSING:
                    await refused(models.write(method, {models.key: id}), "BadRequest", "NotFound")
            assert await models.all() == [milk]

    @case()
    async def test_a_write_without_an_id_is_refused(self) -> None:
        """Only a creation names no model."""
        async with self.opened() as models:
            milk = await models.create({"title": "milk"})
            for method in MISSING:
                await refused(models.write(method, {"title": "x"}), "BadRequest", "NotFound")
                await refused(models.write(method, {models.key: None, "title": "x"}), "BadRequest", "NotFound")
            assert await models.all() == [milk]

    @case()
    async def test_every_json_value_comes_back_as_it_was(self) -> None:
        """Values of any kind and size, under any name."""
        async with self.opened() as models:
            made = await models.create(VALUES)
            assert made == {**VALUES, models.key: made[models.key]}
            found = await models.read(made[models.key])
            assert found == made
            assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in made.items()}
            for name, value in VALUES.items():
                patched = (await models.write("patch", {models.key: made[models.key], name: [value]})).record
                assert patched[name] == [value]

    @case()
    async def test_what_was_returned_is_a_copy(self) -> None:
        """Whoever changes a result does not reach into the store."""
        async with self.opened() as models:
            milk = await models.create({"title": "milk", "tags": []})
            id = milk[models.key]
            for model in (milk, await models.read(id), (await models.all())[0]):
                model["tags"].append("changed")
                model["title"] = "changed"
            assert await models.read(id) == {models.key: id, "title": "milk", "tags": []}


class Options(Cases):
    """The effects of the options."""

    @case("id_attribute")
    async def test_the_id_may_have_another_name(self) -> None:
        """With `id_attribute="_id"`, `id` is an attribute like any other."""
        async with self.opened(id_attribute="_id") as models:
            milk = await models.create({"id": 7, "title": "milk"})
            assert set(milk) == {"_id", "id", "title"}
            await models.write("patch", {"_id": milk["_id"], "id": 8})
            assert await models.read(milk["_id"]) == {**milk, "id": 8}
            await refused(models.read("7"), "NotFound")
            await models.write("delete", {"_id": milk["_id"]})
            assert await models.all() == []

    @case("upsert")
    async def test_upsert_creates_what_is_updated_or_patched(self) -> None:
        """With `upsert=True` update and patch of an unknown id store it; read and delete still fail."""
        async with self.opened(upsert=True) as models:
            key = models.key
            for method in ("update", "patch"):
                assert (await models.write(method, {key: method, "n": 1})).record == {key: method, "n": 1}
            assert (await models.write("patch", {key: "update", "m": 2})).record == {key: "update", "n": 1, "m": 2}
            await refused(models.read("nowhere"), "NotFound")
            await refused(models.write("delete", {key: "nowhere"}), "NotFound")
            await refused(models.write("update", {"n": 1}), "BadRequest")
            assert {model[key] for model in await models.all()} == {"update", "patch"}

    @case("upsert", "history")
    async def test_what_an_upsert_creates_is_told_as_a_create(self) -> None:
        """A client with the whole collection gets the new model; a model that comes back after a delete is new."""
        async with self.opened(upsert=True) as models:
            key = models.key
            for method in ("update", "patch", "update", "delete", "patch"):
                await models.write(method, {key: "a", "n": 1})
            told = [event.method for event, _ in models.published]
            assert told == ["create", "update", "update", "delete", "create"]

    @case("upsert")
    async def test_ids_are_told_apart_as_json_tells_them(self) -> None:
        """A string is not a number, and neither case nor blanks are ignored."""
        numbers = [1, 0, -1, 2**53 + 1, -(2**63)]
        texts = ["1", "01", "1.0", "", " ", "a", "A", "ä", "a\u0308", "a ", "%", "_", "'", '"', "\u2028", "x" * 255]
        async with self.opened(upsert=True) as models:
            for number, id in enumerate([*numbers, *texts]):
                await models.write("update", {models.key: id, "n": number})
            for number, id in enumerate([*numbers, *texts]):
                assert await models.read(id) == {models.key: id, "n": number}
            assert len(await models.all()) == len(numbers) + len(texts)

    @case("per_channel")
    async def test_per_channel_keeps_the_models_apart(self) -> None:
        """With `per_channel=True` ids of another channel are unknown; the default channel is one of them."""
        async with self.opened(per_channel=True) as models:
            milk = await models.create({"title": "milk"}, channel="home")
            id = milk[models.key]
            for channel in ("work", None, "Home", "home "):
                assert await models.all(channel=channel) == []
                await refused(models.read(id, channel=channel), "NotFound")
                for method in MISSING:
                    await refused(models.write(method, {**milk, "title": "x"}, channel=channel), "NotFound")
            assert await models.all(channel="home") == [await models.read(id, channel="home")] == [milk]

    @case()
    async def test_channels_share_the_models(self) -> None:
        """Channels are about who is told; without `per_channel` everybody reads the same models."""
        async with self.opened() as models:
            milk = await models.create({"title": "milk"}, channel="home")
            assert await models.all(channel="work") == await models.all() == [milk]

    @case("models")
    async def test_models_to_begin_with(self) -> None:
        """They are there before the first request, with their own ids, and are not events."""
        first = [{"id": "a", "n": 1}, {"id": 2, "n": 2}]
        async with self.opened(models=first) as models:
            assert await models.all() == first
            await models.write("patch", {"id": "a", "n": 10})
            assert await models.read("a") == {"id": "a", "n": 10}
            assert (await models.top()).offset == len(models.published) == 1


class Filters(Cases):
    """Reads with `options.data`."""

    @case("filters")
    async def test_data_filters_by_equality(self) -> None:
        """The models that have all of those values; as JSON has it, `true` is not 1, and what is missing not null."""
        async with self.opened() as models:
            xs: list[dict[str, Any]] = [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"b": "x"}]
            for model in [*xs, {"a": None}, {"a": True}]:
                await models.create(model)

            async def found(data: dict[str, Any]) -> list[dict[str, Any]]:
                return [
                    {name: value for name, value in model.items() if name != models.key}
                    for model in await models.all(options={"data": data})
                ]

            assert await found({"a": 1}) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}]
            assert await found({"a": 1, "b": "x"}) == [{"a": 1, "b": "x"}]
            assert await found({"b": "z"}) == await found({"c": 1}) == await found({"c": None}) == []
            assert await found({"a": None}) == [{"a": None}]
            assert await found({"a": True}) == [{"a": True}]
            assert len(await found({})) == 6

    @case("filters")
    async def test_what_is_no_filter_is_refused(self) -> None:
        """To ignore it would show everything."""
        async with self.opened() as models:
            await models.create({"a": 1})
            for data in (1, "a", [1], True):
                await refused(models.all(options={"data": data}), "BadRequest")


class Revisions(Cases):
    """Revisions and conflicts."""

    @case("revisions")
    async def test_revisions_grow(self) -> None:
        """Each event of a model has a higher revision than the one before; readers are told the latest."""
        async with self.opened() as models:
            milk = await models.create({"n": 0})
            await models.create({"another": "model"})
            for n in range(1, 4):
                await models.write("update", {**milk, "n": n})
                assert await models.revision(milk[models.key]) == models.published[-1][0].rev
            await models.write("patch", {**milk, "n": 4})
            await models.write("delete", milk)
            revs = [event.rev for event, _ in models.published if decode(event.body)[models.key] == milk[models.key]]
            assert all(a is not None and b is not None and a < b for a, b in itertools.pairwise(revs)), revs
            assert len(revs) == 6

    @case("revisions", "upsert")
    async def test_revisions_survive_deletion(self) -> None:
        """A model that comes again after it was deleted is newer than it was."""
        async with self.opened(upsert=True) as models:
            for _ in range(3):
                await models.write("update", {models.key: "a"})
                await models.write("delete", {models.key: "a"})
            revs = [event.rev or 0 for event, _ in models.published]
            assert all(a < b for a, b in itertools.pairwise(revs)), revs

    @case("revisions")
    async def test_an_older_revision_is_a_conflict(self) -> None:
        """A write based on what is no longer so is refused with what is; nothing changes."""
        async with self.opened() as models:
            milk = await models.create({"n": 0})
            seen = await models.revision(milk[models.key])
            current = (await models.write("patch", {**milk, "n": 1}, rev=seen)).record
            rev = await models.revision(milk[models.key])
            for method in MISSING:
                err = await refused(models.write(method, {**milk, "n": 2}, rev=seen), "Conflict")
                assert err.values == {"current": current, "rev": rev}
            assert await models.read(milk[models.key]) == current
            assert len(models.published) == 2
            assert (await models.write("update", {**milk, "n": 3}, rev=rev)).record["n"] == 3

    @case("revisions")
    async def test_a_patch_builds_on_the_fields_that_it_gives(self) -> None:
        """Patches of different fields apply; one of a field that was changed is refused, unless it says the same."""
        async with self.opened() as models:
            milk = await models.create({"a": 0, "b": 0})
            id = {models.key: milk[models.key]}
            seen = await models.revision(milk[models.key])
            await asyncio.gather(*(models.write("patch", {**id, field: 1}, rev=seen) for field in "abc"))
            assert await models.read(milk[models.key]) == {**milk, "a": 1, "b": 1, "c": 1}
            rev = await models.revision(milk[models.key])
            for fields in ({"a": 2}, {"a": 0}, {"b": 1, "c": 2}):
                err = await refused(models.write("patch", {**id, **fields}, rev=seen), "Conflict")
                assert err.values == {"current": {**milk, "a": 1, "b": 1, "c": 1}, "rev": rev}
            await models.write("patch", {**id, "d": 2, "a": 1}, rev=seen)
            await models.write("delete", milk)
            await refused(models.write("patch", {**id, "d": 3}, rev=seen), "NotFound")

    @case("revisions")
    async def test_a_patch_that_builds_on_another_model_is_a_conflict(self) -> None:
        """The revision that it names says nothing of the model."""
        async with self.opened() as models:
            milk, bread = await models.create({"a": 0}), await models.create({"a": 0})
            seen = await models.revision(bread[models.key])
            await models.write("patch", {**milk, "a": 1})
            await refused(models.write("patch", {models.key: milk[models.key], "b": 1}, rev=seen), "Conflict")

    @case("revisions", "history")
    async def test_a_patch_that_builds_on_what_is_forgotten_is_a_conflict(self) -> None:
        """Nobody knows which fields were changed since."""
        async with self.opened(history=HistoryLimits(age=0.0, size=1, events=2)) as models:
            milk = await models.create({"a": 0, "b": 0})
            seen = await models.revision(milk[models.key])
            await asyncio.gather(*(models.write("patch", {**milk, "a": n}) for n in range(300)))
            await refused(models.write("patch", {models.key: milk[models.key], "b": 1}, rev=seen), "Conflict")

    @case("revisions")
    async def test_a_list_has_the_revision_of_each(self) -> None:
        """A collection read tells them by id."""
        async with self.opened() as models:
            made = [await models.create({"n": n}) for n in range(3)]
            await models.write("patch", {**made[1], "n": 10})
            found = await models.found(models.request("read", {}))
            assert found.revs == {model[models.key]: await models.revision(model[models.key]) for model in made}
