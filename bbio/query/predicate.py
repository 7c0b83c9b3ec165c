"""Conditions as one function, for records that are judged again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bbio.query.ordering import ABSENT, lookup
from bbio.query.query import Condition, Either

Predicate = Callable[[dict[str, Any]], bool]


def predicate(conditions: Sequence[Condition]) -> Predicate:
    """Return a function that says whether all of some conditions hold for a record: as `Query.matches`, all at once.

    Parameters:
        conditions: the conditions, such as those of a query.

    Example:
        >>> from bbio.query.query import Query
        >>> predicate(Query.read({"owner": 7, "done": False}).where)({"owner": 7, "done": True})
        False
    """
    tests = [_test(condition) for condition in conditions]
    if len(tests) == 1:
        return tests[0]

    def all_hold(record: dict[str, Any]) -> bool:
        for test in tests:  # noqa: SIM110 - a generator for each record would take longer than the tests
            if not test(record):
                return False
        return True

    return all_hold


def _test(condition: Condition) -> Predicate:
    if isinstance(condition, Either):
        branches = [predicate(branch) for branch in condition.branches]
        return lambda record: any(branch(record) for branch in branches)
    holds, path = condition.holds, condition.path
    if len(path) > 1:
        return lambda record: holds(lookup(record, path))
    (name,) = path
    return lambda record: holds(record.get(name, ABSENT))
