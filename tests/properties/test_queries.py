"""Memory, SQLite and PostgreSQL answer the same queries alike, with indexes and without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bbio import BadRequest
from tests.properties.queries import HOSTILE, Loop, models, questions, values, walk
from tests.support.examples import examples


@pytest.fixture(scope="module")
def loop(postgres_server: str) -> Iterator[Loop]:
    """The three, each with the same models."""
    loop = Loop(postgres_server)
    yield loop
    loop.close()


def ids(models: list[dict[str, Any]]) -> list[Any]:
    return [model["_id"] for model in models]


def by_id(ids: list[Any]) -> list[Any]:
    return sorted(ids, key=lambda id: (isinstance(id, str), id))


@settings(deadline=None)
@given(models(), questions())
@example([{"_id": n, "a": a} for n, a in enumerate([1, 1.0, 1, 1.0, 1])], ({"a": 1}, ["a"]))
@example([{"_id": n, "a": 1, "b": n % 2} for n in range(5)], ({"_id": {"$gte": 0}, "a": {"$in": []}}, ["_id"]))
def test_the_same_lists_totals_and_pages(loop, models, question):
    """Whatever is asked of whatever models: the three find the same, in the same order, page by page."""
    where, sort = question

    async def compare() -> None:
        expected = None
        for store in loop.stores:
            await store.keep(models)
            whole = await store.answer({**where, "sort": sort, "count": True})
            assert whole.next is None
            assert whole.total == len(whole.models)
            found = ids(whole.models) if sort else by_id(ids(whole.models))
            expected = found if expected is None else expected
            assert found == expected, store
            pages = await walk({**where, "sort": sort, "limit": 2}, store.answer)
            assert [id for page in pages for id in ids(page.models)] == found
            assert all(len(page.models) == 2 for page in pages[:-1])
            part = await store.answer({**where, "sort": sort, "limit": 3, "offset": 1})
            assert ids(part.models) == found[1:4]

    loop.run(compare())


changes = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.none() | st.tuples(values, values)), max_size=4), min_size=6, max_size=6
)


@settings(deadline=None, max_examples=examples(50))
@given(models(), questions(), changes)
def test_a_walk_misses_nothing_and_repeats_nothing(loop, models, question, changes):
    """Whatever is added and deleted between two pages: what was there all the time is found, and nothing twice."""
    where, sort = question

    async def compare() -> None:
        for store in loop.stores:
            held = {model["_id"]: model for model in models}
            await store.keep(list(held.values()))
            matching = set(ids((await store.answer(where)).models))
            data = {**where, "sort": sort, "limit": 2}
            page = await store.answer(data)
            found = ids(page.models)
            for change in changes:
                if page.next is None:
                    break
                for id, ab in change:
                    # Ids that the first models do not have come and go; so do some of theirs.
                    if ab is None:
                        held.pop(id, None)
                        matching.discard(id)
                    elif id not in held:
                        held[id] = {"_id": id, "a": ab[0], "b": ab[1]}
                await store.keep(list(held.values()))
                page = await store.answer({**data, "cursor": page.next})
                found += ids(page.models)
            while page.next is not None:
                page = await store.answer({**data, "cursor": page.next})
                found += ids(page.models)
            kinds = [(type(id), id) for id in found]
            assert len(kinds) == len(set(kinds)), store
            assert matching <= set(found), store

    loop.run(compare())


hostile = st.sampled_from(HOSTILE) | st.text(max_size=6)
words = st.sampled_from(
    [
        "sort",
        "$sort",
        "limit",
        "offset",
        "cursor",
        "count",
        "$or",
        "$eq",
        "$ne",
        "$gt",
        "$in",
        "$contains",
        "$like",
        "a",
        "n.x",
    ]
)
anything = st.recursive(
    hostile | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words | hostile, inner, max_size=2),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(words | hostile, anything, max_size=4))
def test_nothing_that_is_asked_reaches_the_database_as_sql(loop, data):
    """Hostile texts in every place of a query: all refuse it, or all answer it alike; nothing is changed."""
    models = [{"_id": n, "a": text, "n": {"x": text}} for n, text in enumerate(HOSTILE)]

    async def compare() -> None:
        answers = []
        for store in loop.stores:
            await store.keep(models)
            try:
                page = await store.answer({"limit": 5, "count": True, **data} if "$limit" not in data else data)
                answers.append((by_id(ids(page.models)), page.total, page.next))
            except BadRequest as err:
                answers.append(err.message)
            assert len((await store.answer({})).models) == len(models)
        assert all(answer == answers[0] for answer in answers), answers

    loop.run(compare())
