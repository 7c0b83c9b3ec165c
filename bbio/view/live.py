"""Live queries: which of the records that a client may have it wants to be told of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bbio.errors import BadRequest
from bbio.query import Query, QueryLimits
from bbio.query.query import Comparison, Condition, Either
from bbio.view.filter import Filter
from bbio.view.view import View

# Comparisons whose time grows with the value of the record: each event is judged by them, for each such view.
SLOW_COMPARISONS = frozenset({"$like", "$contains"})
MAX_SLOW = 4


def live_view(data: Any, view: View, *, id_attribute: str, limits: QueryLimits) -> View:
    """Return the part of a view that a client asks for with a `listen`.

    Parameters:
        data: what the client sent as its query.
        view: what it may see.
        id_attribute: the name of the id in a model.
        limits: how much it may ask for.

    Raises:
        BadRequest: it is no query of conditions alone, asks for too much, or names a field that is not seen.

    Example:
        >>> live = live_view({"done": False}, View.whole(), id_attribute="id", limits=QueryLimits())
        >>> live.filter.matches({"id": 7, "done": True})
        False
    """
    options: dict[str, Any] = {"id_attribute": id_attribute, "limits": limits}
    if type(data) is not dict:
        raise BadRequest("the query of a listen must be an object: what the models to be told of are like")
    query = Query.read(data, **options) if view.schema is None else view.query(data, **options)
    if query.order or query.count or query.is_paged:
        raise BadRequest("the query of a listen has conditions alone: sort, pages and count are for reads")
    slow = [condition for condition in _comparisons(query.where) if condition.operator in SLOW_COMPARISONS]
    if len(slow) > MAX_SLOW:
        raise BadRequest(f"the query of a listen may use $like and $contains {MAX_SLOW} times")
    if any(condition.operator == "$like" and "_" in condition.value for condition in slow):
        raise BadRequest("in the query of a listen, a pattern of $like has % alone; filter by _ in a read")
    return view.narrowed(Filter.of(query.where))


def _comparisons(conditions: Iterable[Condition]) -> Iterable[Comparison]:
    for condition in conditions:
        if isinstance(condition, Either):
            for branch in condition.branches:
                yield from _comparisons(branch)
        else:
            yield condition
