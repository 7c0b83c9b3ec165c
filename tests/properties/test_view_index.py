"""The index of views finds those that an event concerns: the same as who asks each of them."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bbio.query.query import Query
from bbio.view import Filter, ViewIndex
from tests.properties.queries import models, wheres
from tests.support.examples import examples

# Scopes as they are written: by ownership, by membership, in a record or beside it; and whatever else may be asked.
some = st.sampled_from([None, True, False, 1, 1.0, 2, "1", "ann"])
scopes = st.one_of(
    some.map(lambda value: {"a": value}),
    st.lists(some, max_size=3).map(lambda values: {"b": {"$in": values}}),
    some.map(lambda value: {"b": {"$contains": value}}),
    st.builds(
        lambda one, two, three: {"$or": [{"a": one}, {"n.x": {"$in": two}}, {"b": {"$contains": three}}]},
        some,
        st.lists(some, max_size=3),
        some,
    ),
    st.builds(lambda one, two: {"a": one, "b": {"$ne": two}}, some, some),
)
records = st.one_of(
    models().map(lambda found: found[0] if found else None),
    st.fixed_dictionaries(
        {}, optional={"a": some, "b": some | st.lists(some, max_size=3), "n": st.fixed_dictionaries({"x": some})}
    ),
)


def naive(said: dict[str, Any], before: Any, after: Any) -> str | None:
    """The four lines of the table."""
    query = Query.read(said, id_attribute="_id")
    was = before is not None and query.matches(before)
    is_now = after is not None and query.matches(after)
    return {(False, False): None, (False, True): "create", (True, True): "update", (True, False): "delete"}[was, is_now]


views = st.lists(st.tuples(scopes | scopes | wheres, st.booleans()), max_size=8)


@settings(deadline=None, max_examples=examples(100))
@given(views, st.lists(st.tuples(records, records), max_size=4))
@example(
    [({"a": True}, True), ({"a": 1}, True), ({"b": {"$contains": True}}, True)],
    [({"a": 1, "b": [1]}, {"a": True, "b": [True]})],
)
@example(
    [({"a": 1, "$or": [{"b": 2}, {}]}, True), ({"a": 1}, False), ({"$or": [{"a": {"$in": []}}]}, True)],
    [(None, {"a": 1}), ({"a": 1}, None)],
)
def test_the_index_finds_what_asking_each_view_finds(views, changes):
    """Whatever views come and go, and whatever changes."""
    index = ViewIndex[int]()
    there: dict[int, dict[str, Any]] = {}
    for number, (view, _) in enumerate(views):
        index.add(number, Filter.of(Query.read(view, id_attribute="_id").where))
    for number, (view, stays) in enumerate(views):
        if stays:
            there[number] = view
        else:
            index.remove(number)
    assert len(index) == len(there)
    for before, after in changes:
        asked = {number: naive(view, before, after) for number, view in there.items()}
        assert dict(index.transitions(before, after)) == {number: kind for number, kind in asked.items() if kind}
    for number in there:
        index.remove(number)
    assert not len(index)
    assert index.transitions({"a": 1, "b": [1]}, {"a": 2}) == []


def test_an_event_asks_those_alone_that_it_may_concern():
    """Of 1,000 views by owner the two whose owner it names, though all of them ask for `done` too; of each once."""
    asked = []

    def counting(owner: int) -> Filter:
        records = Filter.read({"done": False, "owner": owner})
        matches = records.matches

        def judge(record: dict[str, Any]) -> bool:
            asked.append(owner)
            return matches(record)

        return Filter(records.identity, records.conditions, judge)

    index = ViewIndex[int]()
    for owner in range(1_000):
        index.add(owner, counting(owner))
    before, after = {"owner": 3, "done": False}, {"owner": 7, "done": False}
    assert index.transitions(before, after) == [(7, "create"), (3, "delete")]
    assert sorted(asked) == [3, 3, 7, 7]
