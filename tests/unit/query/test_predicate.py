"""Conditions as one function: it says what a query says of each model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from bbio.query.predicate import predicate
from bbio.query.query import Query
from tests.properties.queries import models, wheres
from tests.support.examples import examples


@settings(deadline=None, max_examples=examples(50))
@given(models(), wheres)
def test_the_function_says_what_the_query_says(models, where):
    """Whatever the conditions and the models."""
    query = Query.read(where, id_attribute="_id")
    holds = predicate(query.where)
    for model in models:
        assert holds(model) is query.matches(model)


def test_conditions_by_themselves():
    """None, one, several, one of several, and of a field in a field."""
    record = {"id": 1, "a": 1, "at": {"city": "Rome"}}
    for said, held in (
        ({}, True),
        ({"a": 1}, True),
        ({"a": 1, "id": 2}, False),
        ({"at.city": "Rome", "id": 1}, True),
        ({"at.town": "Rome"}, False),
        ({"$or": [{"a": 2}, {"at.city": "Rome"}]}, True),
        ({"$or": [{"a": 2}, {"b": 1}]}, False),
    ):
        assert predicate(Query.read(said).where)(record) is held


@pytest.mark.parametrize(
    ("wanted", "values", "holds"),
    [(1, [1.0], True), (1, [True], False), (True, [1, True], True), (None, [0, False], False), ("a", ["b", "a"], True)],
)
def test_what_python_finds_equal_is_of_the_same_type_too(wanted, values, holds):
    """True is not 1."""
    assert predicate(Query.read({"t": {"$contains": wanted}}).where)({"t": values}) is holds
