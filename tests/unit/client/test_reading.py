"""Reads of all that a collection asks for."""

import pytest

from bbio import BadRequest
from bbio.client.reading import conditions_of, query_of, read_all


def server(*pages, page_limit=2):
    """A server that sends so many models at once, and what it was asked for."""
    asked = []
    models = [model for page in pages for model in page]

    async def ask(options):
        asked.append(options)
        data = options.get("data", {})
        if "$limit" not in data and len(models) > page_limit:
            error = BadRequest("there are more")
            error.page_limit = page_limit
            raise error
        begin = data.get("$cursor", 0)
        end = begin + page_limit
        return models[begin:end], {"r": models[begin:end], "next": end if end < len(models) else None}

    return ask, asked


async def test_what_fits_is_read_at_once():
    """With the options of the query, or without any."""
    ask, asked = server([1, 2])
    assert await read_all(ask, None) == ([1, 2], {"r": [1, 2], "next": None})
    assert (await read_all(ask, {"done": True}))[0] == [1, 2]
    assert asked == [{}, {"data": {"done": True}}]


async def test_more_is_read_page_by_page():
    """As many at once as the server sends; of everything there is no next page to speak of."""
    ask, asked = server([1, 2], [3, 4], [5])
    assert await read_all(ask, None) == ([1, 2, 3, 4, 5], {"r": [1, 2, 3, 4, 5]})
    assert asked == [{}, *({"data": {"$limit": 2, **cursor}} for cursor in ({}, {"$cursor": 2}, {"$cursor": 4}))]
    assert (await read_all(ask, {"done": True}))[1] == {"r": [1, 2, 3, 4, 5], "next": None}


async def test_a_page_that_is_refused_is_an_error():
    """Whoever has named a limit is told that it is too high."""

    async def refuse(options):
        error = BadRequest("too many")
        error.page_limit = 2
        raise error

    with pytest.raises(BadRequest, match="too many"):
        await read_all(refuse, {"limit": 5_000})


def test_what_is_no_query_has_no_conditions():
    """The server may give it a meaning of its own."""
    assert conditions_of({"done": True, "sort": "n"}) == {"done": True}
    assert conditions_of({"sort": "n"}) is conditions_of(None) is conditions_of({"$limit": 1, "limit": 2}) is None
    assert query_of({"done": {"$nonsense": 1}}, "id") is None
    assert query_of({"done": True}, "id").matches({"id": 1, "done": True})
