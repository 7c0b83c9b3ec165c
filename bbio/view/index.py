"""The views that an event concerns, found without asking each of them.

A record can only be in a view if it fulfils each of its conditions. So a view that asks for equality is kept by one of
the values it asks for, and an event looks up those that hold such a value of the record, as it was or as it is. What is
found is judged; views that ask for no equality are judged at each event.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar, cast

from bbio.query.ordering import ABSENT, TRUE, Key, Path, key_of, lookup
from bbio.query.query import Comparison, Condition, Either
from bbio.view.filter import Filter, Kind, Record, transition

V = TypeVar("V", bound=Hashable)

# A value that a view asks for: the field, whether the value is in a list there, and what it is compared by.
Anchor = tuple[Path, bool, Key]
# Views by such a value, each with its predicate; None of one that is of all records with one of its values.
Judge = Callable[[Record], bool]
Shelf = dict[V, Judge | None]
# What a change is by whether the record was in the view, which is 1, and is in it, which is 2.
WAS, IS, BOTH = 1, 2, 3
TRANSITIONS: tuple[Kind | None, ...] = tuple(transition(bool(bits & WAS), bool(bits & IS)) for bits in range(4))

# What null, true or false count as, of which most records have one: as this many views that ask for the same value.
COMMON = 1_000


class ViewIndex(Generic[V]):
    """Views, or whatever else stands for their filters, by the values that they ask for.

    Example:
        >>> index = ViewIndex[str]()
        >>> index.add("ann's", Filter.read({"owner": "ann"}))
        >>> index.add("bob's", Filter.read({"owner": "bob"}))
        >>> sorted(index.transitions({"id": 7, "owner": "ann"}, {"id": 7, "owner": "bob"}))
        [("ann's", 'delete'), ("bob's", 'create')]
    """

    __slots__ = ("_equal", "_placed", "_scanned", "_within")

    def __init__(self) -> None:
        self._placed: dict[V, tuple[Anchor, ...] | None] = {}
        self._equal: dict[Path, dict[Key, Shelf[V]]] = {}
        self._within: dict[Path, dict[Key, Shelf[V]]] = {}
        self._scanned: dict[V, Judge] = {}

    def __len__(self) -> int:
        return len(self._placed)

    def add(self, view: V, records: Filter) -> None:
        """Add a view, which is not in it yet.

        Parameters:
            view: what `transitions` returns for it.
            records: which records it is of.
        """
        anchors = self._placed[view] = self._anchors(records.conditions)
        if anchors is None:
            self._scanned[view] = records.matches
        judge = None if _is_certain(records.conditions) else records.matches
        for path, is_within, key in anchors or ():
            shelves = self._within if is_within else self._equal
            shelves.setdefault(path, {}).setdefault(key, {})[view] = judge

    def remove(self, view: V) -> None:
        """Remove a view.

        Parameters:
            view: what it was added as.
        """
        anchors = self._placed.pop(view)
        if anchors is None:
            del self._scanned[view]
        for path, is_within, key in anchors or ():
            shelves = self._within if is_within else self._equal
            shelf = shelves[path][key]
            del shelf[view]
            if not shelf:
                del shelves[path][key]
            if not shelves[path]:
                del shelves[path]

    def transitions(self, before: Record | None, after: Record | None) -> list[tuple[V, Kind]]:
        """Return the views that a change of a record concerns, and what it is to each.

        Parameters:
            before: the record before the change, None where there was none.
            after: the record after it, None where there is none any more.
        """
        certain: dict[V, int] = {}
        judged = self._candidates(before, after, certain)
        found = [(view, cast(Kind, TRANSITIONS[bits])) for view, bits in certain.items()]
        for view, holds in judged.items():
            kind = transition(before is not None and holds(before), after is not None and holds(after))
            if kind is not None:
                found.append((view, kind))
        return found

    def _candidates(self, before: Record | None, after: Record | None, certain: dict[V, int]) -> dict[V, Judge]:
        """Return the views to be judged; note those that need not be, and whether they had and have the record."""
        found = self._scanned.copy()
        was, now = before or {}, after or {}
        for path, shelves in self._equal.items():
            if len(path) == 1:
                old, new = was.get(path[0], ABSENT), now.get(path[0], ABSENT)
            else:
                old, new = lookup(was, path), lookup(now, path)
            if shelf := shelves.get(key_of(new)):
                _take(shelf, BOTH if old is new else IS, found, certain)
            if old is not new and (shelf := shelves.get(key_of(old))):
                _take(shelf, WAS, found, certain)
        for path, shelves in self._within.items():
            old, new = lookup(was, path), lookup(now, path)
            values = new if type(new) is list else []
            if type(old) is list and old != new:
                values = old + values
            for key in shelves.keys() & map(key_of, values):
                found.update(cast(dict[V, Judge], shelves[key]))
        return found

    # Where a view is kept

    def _anchors(self, conditions: Iterable[Condition]) -> tuple[Anchor, ...] | None:
        """Return values of which one is in every record that fulfils some conditions; None where nobody knows any.

        Any of the conditions would do. It is the one that is asked for by the fewest other views.
        """
        best: tuple[Anchor, ...] | None = None
        fewest = 0
        for condition in conditions:
            anchors = self._anchors_of(condition)
            if anchors is not None:
                others = sum(map(self._others, anchors))
                if best is None or others < fewest:
                    best, fewest = anchors, others
        return best

    def _anchors_of(self, condition: Condition) -> tuple[Anchor, ...] | None:
        if isinstance(condition, Either):
            found: dict[Anchor, None] = {}
            for branch in condition.branches:
                anchors = self._anchors(branch)
                if anchors is None:
                    return None
                found.update(dict.fromkeys(anchors))
            return tuple(found)
        return _asked_for(condition)

    def _others(self, anchor: Anchor) -> int:
        path, is_within, key = anchor
        shelves = self._within if is_within else self._equal
        others = len(shelves.get(path, {}).get(key, ()))
        return others + (COMMON if key[0] <= TRUE else 1)


def _asked_for(condition: Comparison) -> tuple[Anchor, ...] | None:
    """The values of which a comparison asks for one; None of one that asks for something else."""
    path, value = condition.path, condition.value
    if condition.operator == "$eq":
        return ((path, False, key_of(value)),)
    if condition.operator == "$in":
        return tuple({(path, False, key_of(each)): None for each in value})
    if condition.operator == "$contains":
        return ((path, True, key_of(value)),)
    return None


def _take(shelf: Shelf[V], bits: int, judged: dict[V, Judge], certain: dict[V, int]) -> None:
    for view, judge in shelf.items():
        if judge is None:
            certain[view] = certain.get(view, 0) | bits
        else:
            judged[view] = judge


def _is_certain(conditions: Iterable[Condition]) -> bool:
    """Return whether every record with one of the values that some conditions ask for fulfils all of them."""
    only = [*conditions]
    if len(only) != 1:
        return False
    if isinstance(only[0], Either):
        return all(map(_is_certain, only[0].branches))
    # Of what a list has within it, the type is looked at too.
    return only[0].operator in ("$eq", "$in")
