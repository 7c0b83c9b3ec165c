"""How records were: what a log keeps of it, and who is asked to."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbio import Backend, Store, create, delete, field, update
from bbio.builtin import MemoryStore
from bbio.conformance import opened
from bbio.errors import DefinitionError
from bbio.protocol import decode, encode
from bbio.streams import Event, Streams
from bbio.was import RecordChange, change_of, was_of
from tests.support.examples import examples
from tests.support.stacks import Served

VALUES = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, "", "1"]) | st.just([1.0])
RECORDS = st.dictionaries(st.sampled_from("abcd"), VALUES).map(lambda record: {"id": 7, **record})


@settings(max_examples=examples(200))
@given(st.none() | RECORDS, st.none() | RECORDS, st.sets(st.sampled_from("abcd")))
def test_the_record_before_and_after_is_known_again(before, after, private):
    """Exactly as JSON has it, whatever is not told of it."""
    if before is None and after is None:
        return
    method = "delete" if after is None else "create" if before is None else "update"
    told = {name: value for name, value in (after or before).items() if name not in private}
    event = Event("c:", "e", 1, method, encode(told), was=was_of(before, after, encode(told)))
    # 1, 1.0 and true are equal to Python.
    assert encode(ordered(change_of(event))) == encode(ordered(RecordChange(before, after)))


def ordered(change: RecordChange) -> list[Any]:
    return [record and sorted(record.items()) for record in change]


def test_nothing_is_known_of_an_event_that_does_not_say():
    """It is not taken for one whose record was nothing, or the same."""
    assert change_of(Event("c:", "e", 1, "update", b'{"id":7}')) is None


def test_it_counts_to_what_a_log_holds():
    """With the bytes of its event, also when both are dropped."""
    streams, was = Streams(), b"x" * 1_000
    streams.append("c:", "update", b"{}")
    without = streams.used_bytes
    event = streams.append("c:", "update", b"{}", None, None, was)
    assert streams.used_bytes - without > len(was)
    assert event.size == len(was) + 2
    streams.stream("c:").expire(float("inf"))
    assert streams.stream("c:").used_bytes == 0
    kept = streams.operations.used_bytes
    streams.keep(("ann", 1), '["sync",{}]', event)
    assert streams.operations.used_bytes - kept > len(was)
    streams.operations.forget(float("inf"))
    assert streams.operations.used_bytes == kept


# Who is asked


class Own(Store):
    """A store of somebody else, as it was written before there was such a thing."""

    async def create(self, req):
        return {**req.model, "id": 1}


@pytest.mark.parametrize(("kept", "given"), [(None, "it has no store"), (Own(), "Own does not")])
def test_a_store_that_cannot_say_it_is_refused(kept, given):
    """With the name of the store, and what to do."""
    served = Served(type("Issues", (Backend,), {"store": kept, "__module__": __name__}))
    with pytest.raises(DefinitionError, match=f"and {given}; give it a MemoryStore, SQLiteStore or Postgres"):
        served.runtime.keep_was()
    assert not served.runtime.log.keeps_was


async def test_a_store_of_somebody_else_goes_on():
    """Nothing of it is asked of a log that was not asked to keep it."""
    async with opened(Own()) as models:
        assert await models.create({"n": 1}) == {"n": 1, "id": 1}
        assert [change_of(event) for event, _ in models.published] == [None]


@attrs.define
class Issue:
    title: str = ""
    pin: str = field(private=True, default="")


class Issues(Backend):
    """Everything but patches is answered by handlers."""

    model = Issue
    store = MemoryStore(models=[{"id": "a", "title": "old"}])

    @create
    def made(self, req):
        return {"id": "b", "title": req.model.title, "pin": "1"}

    @update
    def changed(self, req):
        return {"id": "a", "title": "x"}

    @delete
    def gone(self, req):
        return {"id": "a"}


async def test_what_handlers_do_is_known_of_new_records_alone():
    """How a record was that they change, or delete, nobody has said."""
    served = Served(Issues)
    served.runtime.keep_was()
    await served.ask("create", {"title": "new"})
    await served.ask("update", {"id": "a", "title": "x"})
    await served.ask("patch", {"id": "a", "title": "y"})
    await served.ask("delete", {"id": "a"})
    assert [change_of(event) for event in served.events] == [
        RecordChange(None, {"id": "b", "title": "new", "pin": "1"}),
        None,
        RecordChange({"id": "a", "title": "old"}, {"id": "a", "title": "y", "pin": ""}),
        None,
    ]


OLD, NEW = {"id": "a", "title": "old", "pin": "1"}, {"id": "a", "title": "new", "pin": "2"}


@pytest.mark.parametrize(
    ("event", "before", "model", "change"),
    [
        ("created", None, NEW, RecordChange(None, NEW)),
        ("updated", OLD, NEW, RecordChange(OLD, NEW)),
        ("updated", None, NEW, None),
        ("updated", "old", NEW, None),
        ("deleted", None, OLD, RecordChange(OLD, None)),
        ("deleted", OLD, {"id": "a"}, RecordChange(OLD, None)),
        ("created", None, [NEW], None),
    ],
)
async def test_what_the_server_tells_says_how_it_was(event, before, model, change):
    """As far as the application has said it."""
    served = Served(Issues)
    served.runtime.keep_was()
    served.runtime.emit(event, model, before=before)
    await asyncio.gather(*served.tasks)
    assert change_of(served.events[0]) == change
    assert b"pin" not in served.events[0].body


async def test_an_instance_is_a_record_too():
    """Before and after."""
    served = Served(Issues)
    served.runtime.keep_was()
    served.backend.emit("updated", Issue("new"), before=Issue("old", "1"))
    await asyncio.gather(*served.tasks)
    assert change_of(served.events[0]) == RecordChange({"title": "old", "pin": "1"}, {"title": "new", "pin": ""})


async def test_nothing_is_kept_where_nobody_asks():
    """Whatever the application says."""
    served = Served(Issues)
    served.runtime.emit("updated", NEW, before=OLD)
    await asyncio.gather(*served.tasks)
    assert [event.was for event in served.events] == [None]
    assert decode(served.events[0].body) == {"id": "a", "title": "new"}
