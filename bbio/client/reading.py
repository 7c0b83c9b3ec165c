"""Reads of all that a collection asks for: its query, and page by page where that is more than the server sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bbio.errors import BadRequest
from bbio.query import Query, QueryLimits
from bbio.query.query import split

# The server has its own limits, and has found the query to be within them.
BOUNDLESS = QueryLimits(models=2**53, limit=2**53, offset=2**53, conditions=2**53, values=2**53, depth=100, sort=2**53)

# Called with the options of a read; returns the models and what the server says of them.
Ask = Callable[[Mapping[str, Any]], Awaitable[tuple[Any, Any]]]


def conditions_of(data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the conditions of a query, None of one that has none or is none."""
    try:
        return split(data or {})[0] or None
    except BadRequest:
        return None


def query_of(data: Mapping[str, Any] | None, id_attribute: str) -> Query | None:
    """Return the data of a read as a query; None when it is none."""
    try:
        return Query.read(dict(data or {}), id_attribute=id_attribute, limits=BOUNDLESS)
    except BadRequest:
        return None


async def read_all(ask: Ask, data: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """Read everything, page by page where that is more than the server sends at once.

    Parameters:
        ask: sends a read.
        data: the query; None for everything.

    Returns: the models, and what the server says of them: revisions, and the next page.

    Raises:
        SyncError: a read has failed.
    """
    options = {} if data is None else {"data": data}
    try:
        return await ask(options)
    except BadRequest as err:
        limit = getattr(err, "page_limit", None)
        if not isinstance(limit, int) or {"limit", "$limit"} & set(data or {}):
            raise
    models: list[Any] = []
    revs: list[Any] = []
    page: dict[str, Any] = {"$limit": limit}
    while True:
        page_models, meta = await ask({"data": {**(data or {}), **page}})
        models += page_models
        revs += meta["r"]
        if meta.get("next") is None:
            return models, {"r": revs} if data is None else {"r": revs, "next": None}
        page["$cursor"] = meta["next"]
