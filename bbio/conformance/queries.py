"""Queries: comparisons, sorting and pages of reads with `options.data` (docs/queries.md)."""

from __future__ import annotations

import itertools
from typing import Any

from bbio.conformance.cases import Cases, Opened, case, refused
from bbio.query import QueryLimits

# From the lowest to the highest, as they are sorted; those in one line are alike.
SORTED: list[list[dict[str, Any]]] = [
    [{}],
    [{"x": None}],
    [{"x": False}],
    [{"x": True}],
    [{"x": -(2**63)}],
    [{"x": -1.5}],
    [{"x": 0}, {"x": -0.0}],
    [{"x": 1}, {"x": 1.0}],
    [{"x": 9}],
    [{"x": 10}],
    [{"x": 2**53}],
    [{"x": 2**53 + 1}],
    [{"x": 2**63 - 1}],
    [{"x": ""}],
    [{"x": "10"}],
    [{"x": "9"}],
    [{"x": "B"}],
    [{"x": "a"}],
    [{"x": "b"}],
    [{"x": "é"}],
    [{"x": "\uffff"}],
    [{"x": "\U0001f600"}],
    [{"x": []}, {"x": {}}, {"x": {"x": 1}}],
]

# What is asked, and the names of the models found.
ANSWERS: list[tuple[dict[str, Any], str]] = [
    ({}, "abcdef"),
    ({"n": 1}, "a"),
    ({"n": "1"}, "d"),
    ({"n": {"$eq": 1}}, "a"),
    ({"n": {"$ne": 1}}, "bcdef"),
    ({"n": {"$gt": 1}}, "b"),
    ({"n": {"$gte": 1, "$lt": 2.5}}, "ab"),
    ({"n": {"$lte": "1"}}, "d"),
    ({"n": {"$in": [2, "1", True, None]}}, "bcde"),
    ({"n": {"$in": []}}, ""),
    ({"n": True}, "c"),
    ({"n": None}, "e"),
    ({"name": "a", "n": 2}, ""),
    ({"text": "Milk"}, "a"),
    ({"text": {"$like": "Mi%"}}, "a"),
    ({"text": {"$like": "%lk"}}, "ab"),
    ({"text": {"$like": "_ilk"}}, "ab"),
    ({"text": {"$like": "100\\% *[a]?"}}, "c"),
    ({"text": {"$like": "100%"}}, "cd"),
    ({"text": {"$like": "%\\_%"}}, "d"),
    ({"text": {"$like": "%"}}, "abcde"),
    ({"text": {"$like": "\ue000%"}}, ""),
    ({"text": {"$like": ""}}, "e"),
    ({"at": {"$contains": "Rome"}}, "c"),
    ({"at": {"$contains": "Ro"}}, ""),
    ({"tags": {"$contains": "a"}}, "ab"),
    ({"tags": {"$contains": 1}}, "bc"),
    ({"tags": {"$contains": 1.5}}, "c"),
    ({"tags": {"$contains": "1"}}, "d"),
    ({"tags": {"$contains": True}}, "d"),
    ({"tags": {"$contains": False}}, ""),
    ({"tags": {"$contains": None}}, "e"),
    ({"in.tags": {"$contains": 2**53 + 1}}, "e"),
    ({"in.tags": {"$contains": 2**53}}, ""),
    ({"$or": [{"tags": {"$contains": "a", "$ne": 1}}, {"n": True}], "name": {"$ne": "b"}}, "ac"),
    ({"at.city": "Rome"}, "a"),
    ({"at.city.name": "Rome"}, "b"),
    ({"at.0": "Rome"}, "d"),
    ({"$or": [{"n": 1}, {"text": "milk"}]}, "ab"),
    ({"n": {"$gt": 0}, "$or": [{"text": {"$like": "M%"}}, {"$or": [{"n": 2, "name": "b"}, {"n": 7}]}]}, "ab"),
    ({"limit": {"$eq": 5}}, "f"),
    ({"it's": {"$gte": 1}}, "f"),
]
MODELS: list[dict[str, Any]] = [
    {"name": "a", "n": 1, "text": "Milk", "at": {"city": "Rome"}, "tags": ["a"]},
    {"name": "b", "n": 2, "text": "milk", "at": {"city": {"name": "Rome"}}, "tags": [1, "a"]},
    {"name": "c", "n": True, "text": "100% *[a]?", "at": ["Rome"], "tags": [1.0, 1.5]},
    {"name": "d", "n": "1", "text": "100_", "at": {"0": "Rome"}, "tags": ["1", True, ["a"]]},
    {"name": "e", "n": None, "text": "", "tags": [{"a": 1}, None], "in": {"tags": [2**53 + 1]}},
    {"name": "f", "limit": 5, "it's": 1, "tags": "a", "in": {"tags": {"a": 2**53}}},
]

REFUSED: list[dict[str, Any]] = [
    {"$where": "1"},
    {"n": {"$gt": None}},
    {"n": {"$gt": True}},
    {"n": {"$like": 1}},
    {"n": {"$like": "a\\"}},
    {"n": {"$in": 1}},
    {"n": {"$contains": [1]}},
    {"n": {"$contains": {}}},
    {"n": {"$regex": "a"}},
    {"n": {}},
    {"n": {"$gt": 1, "a": 1}},
    {"n": []},
    {"n": "x" * 256},
    {"": 1},
    {"a..b": 1},
    {'a"b': 1},
    {"a\\b": 1},
    {"x" * 256: 1},
    {"$or": []},
    {"$or": {"n": 1}},
    {"$or": [1]},
    {"$or": [{"$or": [{"$or": [{"$or": [{}]}]}]}]},
    {"n": {"$in": [1] * 201}},
    {"$or": [{"n": 1}] * 33},
    {"sort": 1},
    {"sort": ["a", "b", "c", "d", "e"]},
    {"sort": "a'; --" + '"'},
    {"limit": -1},
    {"limit": 1.5},
    {"limit": True},
    {"limit": 1_001},
    {"limit": 1, "$limit": 1},
    {"offset": "1"},
    {"count": 1},
    {"cursor": 1},
    {"cursor": ""},
    {"cursor": "AAAA"},
    {"cursor": "é"},
]


async def ask(models: Opened, data: dict[str, Any], **fields: Any) -> tuple[list[Any], dict[str, Any]]:
    """The models that a query finds, and what is told of the page."""
    req = models.request("read", {}, options={"data": data}, **fields)
    found = await models.found(req)
    assert found.page is not None, "a query returns Found: with next, the cursor, and the total if that was asked for"
    assert found.revs is not None
    assert set(found.revs) == {model[models.key] for model in found.models}, "revs has those that were found"
    return found.models, found.page


async def walk(models: Opened, data: dict[str, Any], **fields: Any) -> list[Any]:
    """All that a query finds, page by page."""
    found, page = await ask(models, data, **fields)
    while page["next"] is not None:
        more, page = await ask(models, {**data, "cursor": page["next"]}, **fields)
        found += more
    return found


class Queries(Cases):
    """Reads with comparisons, sorting and pages."""

    @case("queries")
    async def test_comparisons(self) -> None:
        """Each operator finds what it says; across types nothing is equal, lower or higher."""
        async with self.opened() as models:
            for model in MODELS:
                await models.create(model)
            for data, expected in ANSWERS:
                found, page = await ask(models, {**data, "sort": "name"})
                assert "".join(model["name"] for model in found) == expected, data
                assert page == {"next": None}
                found, page = await ask(models, {**data, "$limit": 0, "$count": True})
                assert (found, page) == ([], {"next": None, "total": len(expected)}), data

    @case("queries")
    async def test_values_of_all_types_have_one_order(self) -> None:
        """Missing, null, false, true, numbers, texts by code point, lists and objects; downwards the reverse."""
        async with self.opened() as models:
            places = {}
            for place, alike in enumerate(SORTED):
                for model in alike:
                    places[(await models.create(model))[models.key]] = place
            for sort in ("x", "-x"):
                found, _ = await ask(models, {"sort": sort})
                order = [places[model[models.key]] for model in found]
                assert order == sorted(order, reverse=sort == "-x")
                assert await walk(models, {"sort": sort, "limit": 2}) == found
                part, _ = await ask(models, {"sort": sort, "limit": 4, "offset": 3})
                assert part == found[3:7]

    @case("queries")
    async def test_sorted_by_several_fields(self) -> None:
        """The first field counts most, each in its own direction; what is alike in all has an order nevertheless."""
        async with self.opened() as models:
            for n in range(24):
                await models.create({"a": n % 2, "b": n % 3, "c": "x" * (n % 4)})
            sorts: list[list[str]] = [["a", "b"], ["a", "-b"], ["-a", "b", "c"], ["-a", "-b"], ["c"], []]
            for sort in sorts:
                found, _ = await ask(models, {"sort": sort, "limit": 24})
                for one, other in itertools.pairwise(found):
                    ranked = [
                        (one[field[-1]] < other[field[-1]]) != field.startswith("-")
                        for field in sort
                        if one[field[-1]] != other[field[-1]]
                    ]
                    assert all(ranked[:1])
                assert await walk(models, {"sort": sort, "limit": 5}) == found

    @case("queries")
    async def test_pages_while_others_write(self) -> None:
        """A walk by cursor finds everything that was there all the time, once, whatever comes and goes meanwhile."""
        async with self.opened() as models:
            made = [await models.create({"n": n % 5, "keep": n % 3 != 0}) for n in range(30)]
            kept = [model for model in made if model["keep"]]
            goners = [model for model in made if not model["keep"]]
            data: dict[str, Any] = {"sort": "-n", "limit": 5}
            seen, page = await ask(models, data)
            while page["next"] is not None:
                await models.write("delete", goners.pop())
                await models.create({"n": len(goners) % 6})
                more, page = await ask(models, {**data, "cursor": page["next"]})
                seen += more
            ids = [model[models.key] for model in seen]
            assert len(ids) == len(set(ids))
            assert {model[models.key] for model in kept} <= set(ids)

    @case("queries")
    async def test_a_cursor_belongs_to_its_query(self) -> None:
        """A cursor of another query, or a changed one, is refused. It outlives the model that it was made of."""
        async with self.opened() as models:
            for n in range(6):
                await models.create({"n": n})
            data: dict[str, Any] = {"n": {"$gt": 0}, "sort": "n", "limit": 2}
            found, page = await ask(models, data)
            cursor = page["next"]
            others: list[dict[str, Any]] = [{"sort": "-n"}, {"sort": []}, {"n": {"$gt": 1}}, {"n": 1}]
            for other in others:
                await refused(models.all(options={"data": {**data, **other, "cursor": cursor}}), "BadRequest")
            for place, character in enumerate(cursor):
                changed = cursor[:place] + ("A" if character != "A" else "B") + cursor[place + 1 :]
                await refused(models.all(options={"data": {**data, "cursor": changed}}), "BadRequest")
            for changed in (cursor[:-1], cursor + "A", cursor + "=", cursor * 2):
                await refused(models.all(options={"data": {**data, "cursor": changed}}), "BadRequest")
            await refused(models.all(options={"data": {**data, "cursor": cursor, "offset": 1}}), "BadRequest")
            await models.write("delete", found[-1])
            more, _ = await ask(models, {**data, "cursor": cursor, "limit": 1})
            assert [model["n"] for model in more] == [3]

    @case("queries")
    async def test_what_is_no_query_is_refused(self) -> None:
        """With a text that says what would be, and nothing of it reaches the database."""
        async with self.opened() as models:
            milk = await models.create({"n": 1})
            for data in REFUSED:
                err = await refused(models.all(options={"data": data}), "BadRequest")
                assert len(err.message) < 400, data
            assert await models.all() == [milk]

    @case("queries")
    async def test_too_many_models_are_refused(self) -> None:
        """Without a limit no more than `QueryLimits.models`; a page may have `QueryLimits.limit`."""
        async with self.opened(queries=QueryLimits(models=3, limit=2)) as models:
            for n in range(3):
                await models.create({"n": n})
            assert len(await models.all()) == len(await models.all(options={"data": {}})) == 3
            await models.create({"n": 3})
            everything: list[dict[str, Any]] = [{}, {"data": {}}, {"data": {"sort": "n"}}]
            for options in everything:
                err = await refused(models.all(options=options), "BadRequest")
                assert "limit" in err.message
            assert len((await ask(models, {"n": {"$gt": 0}}))[0]) == 3
            assert len((await ask(models, {"limit": 2}))[0]) == 2
            await refused(models.all(options={"data": {"limit": 3}}), "BadRequest")

    @case("queries", "per_channel")
    async def test_a_query_stays_in_its_channel(self) -> None:
        """With `per_channel=True` nothing of another channel is found or counted."""
        async with self.opened(per_channel=True) as models:
            for n in range(4):
                for channel in ("home", "work", None):
                    await models.create({"n": n, "of": channel}, channel=channel)
            for channel in ("home", "work", None):
                data: dict[str, Any] = {"n": {"$gte": 1}, "sort": "-n"}
                assert [m["of"] for m in await walk(models, {**data, "limit": 2}, channel=channel)] == [channel] * 3
                assert (await ask(models, {**data, "count": True}, channel=channel))[1]["total"] == 3
            assert await models.all(channel="nowhere", options={"data": {"n": 1}}) == []

    @case("queries", "upsert", "id_attribute")
    async def test_ids_of_both_types(self) -> None:
        """Numbers come before texts, and 1 is not "1"; an id is compared, sorted and paged by as any field is."""
        async with self.opened(upsert=True, id_attribute="key") as models:
            ids = [-1, 0, 1, 2, 10, 2**53, 2**53 + 1, "", "1", "10", "2", "A", "a", "x" * 300, "x" * 300 + "y", "é"]
            for id in reversed(ids):
                await models.write("update", {"key": id, "same": True})
            for sort in ("key", "-key"):
                found = await walk(models, {"sort": sort, "limit": 3})
                assert [model["key"] for model in found] == ids[:: 1 if sort == "key" else -1]
            assert len(await walk(models, {"sort": "same", "limit": 3})) == len(await walk(models, {"limit": 3})) == 16
            for data, expected in (
                ({"key": 1}, [1]),
                ({"key": "1"}, ["1"]),
                ({"key": {"$in": [10, "2", True]}}, [10, "2"]),
                ({"key": {"$gt": 2}}, [10, 2**53, 2**53 + 1]),
                ({"key": {"$like": "1%"}}, ["1", "10"]),
            ):
                found, _ = await ask(models, {**data, "sort": "key"})
                assert [model["key"] for model in found] == expected, data
