"""Memory, SQLite and PostgreSQL answer the same queries alike, with indexes and without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings

from tests.properties.queries import Loop, models, nested, sorts, walk


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


@settings(deadline=None, max_examples=800, database=None)
@given(models(), nested, sorts)
def test_the_same_lists_totals_and_pages(loop, models, where, sort):
    """Whatever is asked of whatever models: the three find the same, in the same order, page by page."""

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
