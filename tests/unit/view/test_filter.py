"""Filters: what may be said, which are equal, and what an event is to them."""

from __future__ import annotations

import datetime
import uuid

import attrs
import pytest

import bbio
from bbio import BadRequest, Schema
from bbio.errors import EncodingError
from bbio.view import EVERYTHING, NOTHING, Filter


@attrs.define
class Issue:
    title: str = ""
    owner: str = bbio.field(private=True, default="")
    due: datetime.datetime | None = None


def test_true_is_all_and_false_is_none():
    """Nothing else of their kind is taken for one of them."""
    assert Filter.read(True) == EVERYTHING
    assert Filter.read({}) == EVERYTHING
    assert Filter.read(False) == NOTHING
    assert EVERYTHING.matches({"id": 1})
    assert not NOTHING.matches({"id": 1})
    for said in (None, 1, 0, "all", [], [{}]):
        with pytest.raises(BadRequest, match="it must be a query, such as"):
            Filter.read(said)


def test_a_filter_is_a_query_that_says_which_records():
    """Nothing of their order or number, and no more conditions than a database takes."""
    for said in ({"sort": "a"}, {"limit": 5}, {"offset": 1}, {"count": True}):
        with pytest.raises(BadRequest, match="nothing of their order"):
            Filter.read(said)
    assert Filter.read({"project": {"$in": list(range(5_000))}}).matches({"project": 4_999})
    with pytest.raises(BadRequest, match="10000 values"):
        Filter.read({"project": {"$in": list(range(10_001))}})


def test_values_are_what_they_are_in_a_record():
    """Sets, tuples, UUIDs and times of Python too."""
    one = uuid.UUID(int=1)
    assert Filter.read({"a": {"$in": {one}}}).matches({"a": str(one)})
    assert Filter.read({"a": {"$in": (1, 2)}}).matches({"a": 2})
    with pytest.raises(EncodingError):
        Filter.read({"a": object()})


def test_any_field_of_a_model_may_be_named_and_no_other():
    """Private ones too; a typing error is told, and times are compared in the form that is stored."""
    schema = Schema(Issue)
    assert Filter.read({"owner": "ann", "id": 7}, schema).matches({"id": 7, "owner": "ann"})
    at = datetime.datetime(2026, 1, 31, 9, 30, tzinfo=datetime.UTC)
    assert Filter.read({"due": at}, schema).matches({"due": "2026-01-31T09:30:00.000000Z"})
    with pytest.raises(BadRequest, match="no field 'onwer'"):
        Filter.read({"onwer": "ann"}, schema)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": {"$in": [1, 2, 1]}}, {"a": {"$in": [2, 1]}}),
        ({"a": {"$gt": 1, "$lt": 5}}, {"a": {"$lt": 5, "$gt": 1}}),
        ({"$or": [{"a": 1}, {"b": {"$in": [3, 4]}}]}, {"$or": [{"b": {"$in": [4, 3]}}, {"a": 1}, {"a": 1}]}),
        ({"a": {"$eq": 1}}, {"a": 1}),
    ],
)
def test_the_same_in_another_order_is_equal(one, other):
    """So that nobody's view changes because a database gave its rows in another order."""
    assert Filter.read(one) == Filter.read(other)
    assert hash(Filter.read(one)) == hash(Filter.read(other))
    assert Filter.read(one).digest == Filter.read(other).digest


def test_other_conditions_are_another_filter():
    """Also where they differ in a type, an operator or a branch alone."""
    different = [{"a": 1}, {"a": "1"}, {"a": True}, {"a": {"$ne": 1}}, {"a": {"$in": [1]}}, {"a": {"$contains": 1}}]
    different += [{"a.b": 1}, {"b": 1}, {"$or": [{"a": 1}, {"b": 1}]}, {"a": 1, "b": 1}, {}]
    assert len({Filter.read(said) for said in different}) == len(different)
    assert len({Filter.read(said).digest for said in different}) == len(different)


def test_filters_are_joined():
    """A record is in all of them; what is said twice counts once."""
    one, two = Filter.read({"a": 1}), Filter.read({"b": 2})
    assert Filter.all_of([one, two]) == Filter.all_of([two, one, two]) == Filter.read({"a": 1, "b": 2})
    assert Filter.all_of([one, EVERYTHING, one]) is one
    assert Filter.all_of([]) == EVERYTHING
    assert not Filter.all_of([one, NOTHING]).matches({"a": 1})


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (None, {"a": 1}, "create"),
        ({"a": 2}, {"a": 1}, "create"),
        ({"a": 1, "b": 1}, {"a": 1, "b": 2}, "update"),
        ({"a": 1}, {"a": 2}, "delete"),
        ({"a": 1}, None, "delete"),
        ({"a": 2}, {"a": 3}, None),
        (None, {"a": 2}, None),
        ({"a": 2}, None, None),
    ],
)
def test_what_an_event_is_to_a_view(before, after, kind):
    """In and out before, in and out after."""
    assert Filter.read({"a": 1}).transition(before, after) == kind
