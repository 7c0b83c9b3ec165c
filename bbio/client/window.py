"""The window of a list that was asked for with a limit: what of it is known, in order, and what is shown, without I/O.

Known is everything up to a place in the order, and a little more than is shown: what leaves is then replaced at once.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from bbio.client.replica import Key
from bbio.query import Query


class Place:
    """A place in the order of a query.

    Parameters:
        query: the query.
        model: the model that is at this place.
    """

    __slots__ = ("_keys",)

    def __init__(self, query: Query, model: Mapping[str, Any]) -> None:
        self._keys = [(query.key(dict(model), order.path), order.descending) for order in query.order]

    def __lt__(self, other: Place) -> bool:
        for (mine, descending), (theirs, _) in zip(self._keys, other._keys, strict=True):
            if mine != theirs:
                return mine > theirs if descending else mine < theirs
        return False


class Window:
    """The first models of a query with a limit.

    Parameters:
        query: the query, without offset and cursor.

    Example:
        >>> window = Window(Query.read({"sort": "n", "limit": 2}))
        >>> page = [{"id": 1, "n": 1}, {"id": 3, "n": 3}]
        >>> window.extend(page, "a cursor"), [window.put(model["id"], model) for model in page]
        (True, [True, True])
        >>> window.put(2, {"id": 2, "n": 2}), window.put(9, {"id": 9, "n": 9}), window.shown
        (True, False, [1, 2])
        >>> window.put(1, None), window.shown, window.is_short
        (False, [2, 3], False)
    """

    def __init__(self, query: Query) -> None:
        assert query.limit is not None, "else it is no window"
        self._query = query
        self._limit = query.limit
        # The models that are known, in order, and the place of each.
        self._order: list[tuple[Place, Any]] = []
        self._places: dict[Key, Place] = {}
        # The place up to which all are known, None when all are; and the cursor of what comes after it, if any.
        self._end: Place | None = None
        self.cursor: str | None = None

    @property
    def shown(self) -> list[Key]:
        """The ids of what is shown, in order."""
        return [key for _, key in self._order[: self._limit]]

    @property
    def is_short(self) -> bool:
        """Return whether there may be more to show than is known."""
        return self._end is not None and len(self._order) < self._limit

    def extend(self, page: Sequence[Mapping[str, Any]], cursor: str | None) -> bool:
        """Know all up to the end of a page, of which each model is then put; return whether its order is known here.

        Parameters:
            page: the models of the page after what is known, in the order of the server.
            cursor: the cursor of the next page, None when there is none.
        """
        places = [Place(self._query, model) for model in page]
        known = [] if self._end is None else [self._end]
        self._end = places[-1] if places and cursor is not None else None
        self.cursor = cursor
        return all(before < after for before, after in pairwise([*known, *places]))

    def put(self, key: Key, model: Mapping[str, Any] | None) -> bool:
        """Take a model that was written, None when it is gone; return whether it is one of those that are known.

        Parameters:
            key: the id of the model.
            model: the model as it is now.
        """
        self._remove(key)
        if model is None:
            return False
        place = Place(self._query, model)
        if self._end is not None and self._end < place:
            return False
        self._insert(key, place)
        return True

    def cut(self) -> list[Key]:
        """Forget what is known beyond twice of what is shown; return the ids of that."""
        cut = [key for _, key in self._order[2 * self._limit :]]
        for key in cut:
            self._remove(key)
        if cut:
            self._end, self.cursor = self._order[-1][0] if self._order else None, None
        return cut

    def _insert(self, key: Key, place: Place) -> None:
        self._places[key] = place
        insort(self._order, (place, key), key=_place_of)

    def _remove(self, key: Key) -> None:
        place = self._places.pop(key, None)
        if place is None:
            return
        # The id is a part of the order, so no two are at one place.
        del self._order[bisect_left(self._order, place, key=_place_of)]


def _place_of(entry: tuple[Place, Any]) -> Place:
    return entry[0]
