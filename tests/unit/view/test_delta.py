"""Deltas: what an event changed, for those who have the record as it was."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbio.client.deltas import patched
from bbio.client.tracker import Meta
from bbio.protocol import decode, encode, synced_v1
from bbio.streams import Event
from bbio.view.delta import delta_of
from bbio.was import was_of
from tests.support.examples import examples

VALUES = st.sampled_from([None, True, 1, 1.0, "", "a", "ab", "abc", "\U0001f600", [1], {"a": 1}])
RECORDS = st.dictionaries(st.sampled_from("abcd"), VALUES).map(lambda record: {"id": 7, **record})


def event_of(before: Any, after: Any, told: Any = None, **fields: Any) -> Event:
    body = encode(after if told is None else told)
    return Event("c:", "e", 2, "update", body, **{"rev": 5, "was": was_of(before, after, body, 3), **fields})


@settings(max_examples=examples(300))
@given(RECORDS, RECORDS, st.sets(st.sampled_from("abcd")))
def test_whoever_has_the_record_comes_to_the_same(before, after, hidden):
    """Exactly as JSON has it, whatever of it is seen; and what is told holds nothing else."""
    fields = frozenset({"id", *"abcd"} - hidden)
    seen = [{name: value for name, value in record.items() if name in fields} for record in (before, after)]
    whole = event_of(before, after)
    delta = delta_of(whole, event_of(before, after, seen[1]), fields, "id")
    arguments = decode(synced_v1(delta))
    assert arguments[:2] == ["synced", "patch"]
    meta = Meta.read(arguments[3])
    assert (meta.rev, meta.base, meta.offset) == (5, 3, 2)
    made = patched(seen[0], arguments[2], meta)
    assert encode(sorted(made.items())) == encode(sorted(seen[1].items()))
    assert {*arguments[2], *meta.unset, *meta.append} <= fields
    same = [
        name for name in seen[1] if encode(seen[1][name]) == encode(seen[0].get(name, ...) if name in seen[0] else "?")
    ]
    assert not {*same} - {"id"} & {*arguments[2], *meta.append}


@pytest.mark.parametrize(
    "event",
    [
        event_of({"id": 7}, {"id": 7, "n": 1}, rev=None),
        event_of({"id": 7}, {"id": 7, "n": 1}, was=None),
        event_of({"id": 7}, {"id": 7, "n": 1}, was=b'[{},["n"]]'),
        event_of(None, {"id": 7, "n": 1}),
        event_of({"id": 7}, {"id": 7, "n": 1}, told=[7]),
        event_of({"id": 7}, {"id": 7, "n": 1}, told={"n": 1}),
    ],
    ids=["no revision", "no before", "no base", "new", "no record", "no id"],
)
def test_where_nobody_knows_enough_the_whole_is_told(event):
    """It is no event of a store, or of one of an earlier version, or not of one record."""
    assert delta_of(event, event, None, "id") is None


def test_what_is_told_otherwise_than_it_is_stored_is_told_whole():
    """Nobody knows what was told of such a field before; and a field that is merely not told is not gone."""
    before, after = {"id": 7, "text": "a", "pin": "1", "x": 1}, {"id": 7, "text": "ab", "pin": "12", "x": 1}
    whole = event_of(before, after, {"id": 7, "text": "aB", "x": 1})
    delta = delta_of(whole, whole, None, "id")
    assert (decode(delta.body), delta.unset, delta.append) == ({"id": 7, "text": "aB"}, (), {})
