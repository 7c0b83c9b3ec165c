"""What an event costs beside 10,000 views that do not concern it: the index of views, and whoever asks each of them.

    python -m benchmarks.views

Both are measured in turn, in one process, so that the ratio says the same on every machine.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import Any

from bbio.view import Filter, ViewIndex

VIEWS = 10_000
ROUNDS = 5
EVENTS = 2_000
ASKED = 4

# How much less the index must take, at the least.
BARS = {"owner": 500.0, "owner or one of 5 projects": 100.0}


def owner(view: int, chance: random.Random) -> dict[str, Any]:
    return {"owner": view}


def owner_or_member(view: int, chance: random.Random) -> dict[str, Any]:
    return {"$or": [{"owner": view}, {"project": {"$in": chance.sample(range(VIEWS), 5)}}]}


def changes(count: int, chance: random.Random) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Records before and after a write."""
    made = []
    for _ in range(count):
        number, project = chance.randrange(VIEWS), chance.randrange(VIEWS)
        before = {"id": 1, "owner": number, "project": project, "done": False, "title": "milk"}
        made.append((before, {**before, "done": True}))
    return made


def measure(scope: Callable[[int, random.Random], dict[str, Any]]) -> tuple[float, float]:
    """CPU microseconds of an event, with the index and without."""
    chance = random.Random(1)
    filters = [Filter.read(scope(view, chance)) for view in range(VIEWS)]
    index = ViewIndex[int]()
    for view, records in enumerate(filters):
        index.add(view, records)
    indexed, each = [], []
    for _ in range(ROUNDS):
        work = changes(EVENTS, chance)
        began = time.process_time()
        for before, after in work:
            index.transitions(before, after)
        indexed.append((time.process_time() - began) / EVENTS * 1e6)
        began = time.process_time()
        for before, after in work[:ASKED]:
            asked = [(view, records.transition(before, after)) for view, records in enumerate(filters)]
            assert sorted(index.transitions(before, after)) == [(view, kind) for view, kind in asked if kind]
        each.append((time.process_time() - began) / ASKED * 1e6)
    return min(indexed), min(each)


def main() -> None:
    missed = False
    for (name, bar), scope in zip(BARS.items(), (owner, owner_or_member), strict=True):
        indexed, each = measure(scope)
        missed = missed or each / indexed < bar
        print(
            f"{VIEWS:,} views {{{name}}}: {indexed:.1f} us per event, {each:.0f} us when all are asked; "
            f"{each / indexed:.0f} times as much (bar: {bar:.0f})"
        )
    sys.exit(missed)


if __name__ == "__main__":
    main()
