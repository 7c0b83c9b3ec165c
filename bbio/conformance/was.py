"""Records before their events, which views of some records need of a log."""

from __future__ import annotations

import asyncio
from typing import Any

from bbio.conformance.cases import Cases, Secret, case
from bbio.streams import Event, HistoryLimits
from bbio.was import RecordChange, change_of


def changes(events: list[Event] | None) -> list[RecordChange | None]:
    """Return what events say of their records, before and after."""
    assert events is not None
    return [change_of(event) for event in events]


class Was(Cases):
    """Each event says how its record was, where that is asked."""

    @case("was")
    async def test_nothing_is_kept_that_nobody_asks_for(self) -> None:
        """Events say nothing of how their records were."""
        async with self.opened() as models:
            record = await models.create({"n": 1})
            await models.write("patch", {**record, "n": 2})
            assert changes(await models.history()) == [None, None]

    @case("was")
    async def test_each_event_says_how_its_record_was(self) -> None:
        """Published and kept alike: of what is new nothing, of what is gone the whole; also what JSON tells apart."""
        async with self.opened(keeps_was=True) as models:
            key = models.key
            first = await models.create({"n": 1, "old": [True, None], "same": {"a": 1.5}})
            id = {key: first[key]}
            second = (await models.write("patch", {**id, "n": True, "new": "Müsli", "old": None})).record
            third = (await models.write("update", {**id, "n": "1"})).record
            await models.write("patch", {**id, "n": "1"})
            await models.write("delete", id)
            expected = [
                RecordChange(None, first),
                RecordChange(first, second),
                RecordChange(second, third),
                RecordChange(third, third),
                RecordChange(third, None),
            ]
            assert changes([event for event, _ in models.published]) == expected
            assert changes(await models.history()) == expected

    @case("was", "upsert")
    async def test_an_upsert_was_nothing(self) -> None:
        """There was no record, as before a create."""
        async with self.opened(keeps_was=True, upsert=True) as models:
            record = (await models.write("update", {models.key: "a", "n": 1})).record
            assert changes(await models.history()) == [RecordChange(None, record)]

    @case("was")
    async def test_a_repeated_operation_changes_nothing_of_it(self) -> None:
        """The log says how the record was the first time."""
        async with self.opened(keeps_was=True) as models:
            first = await models.create({"n": 1})
            second = (await models.write("patch", {**first, "n": 2}, op="c:1")).record
            third = (await models.write("patch", {**first, "n": 3})).record
            assert (await models.write("patch", {**first, "n": 2}, op="c:1")).duplicate
            assert changes(await models.history()) == [
                RecordChange(None, first),
                RecordChange(first, second),
                RecordChange(second, third),
            ]

    @case("was")
    async def test_writes_at_the_same_time_say_what_each_has_found(self) -> None:
        """In the order of the log, each record was what the event before has made of it."""
        async with self.opened(keeps_was=True) as models:
            made = [await models.create({"n": 0, "by": ""}) for _ in range(2)]
            writes = [
                models.write("patch", {models.key: record[models.key], "by": str(n), f"f{n % 3}": n})
                for n in range(20)
                for record in made
            ]
            await asyncio.gather(*writes)
            records: dict[Any, Any] = {}
            for change in changes(await models.history()):
                assert change is not None
                assert change.after is not None
                assert change.before == records.get(change.after[models.key])
                records[change.after[models.key]] = change.after
            assert sorted(records.values(), key=str) == sorted(await models.all(), key=str)

    @case("was")
    async def test_an_event_that_was_logged_without_it_says_so(self) -> None:
        """Nobody takes one of an earlier version, or of a write that no store has made, for another."""
        async with self.opened(keeps_was=True) as models:
            await models.log.append("c:", "update", {models.key: 1, "n": 2})
            await models.log.append("c:", "update", {models.key: 1, "n": 3}, None, b'[{"n":2}]')
            assert changes(await models.history()) == [
                None,
                RecordChange({models.key: 1, "n": 2}, {models.key: 1, "n": 3}),
            ]

    @case("was", "persistent")
    async def test_it_is_there_after_a_restart(self) -> None:
        """With the events; those from before it was asked for do without."""
        async with self.opened() as models:
            first = await models.create({"n": 1})
            before = await models.top()
        async with self.opened(keeps_was=True) as models:
            second = (await models.write("patch", {**first, "n": 2})).record
        async with self.opened(keeps_was=True) as models:
            events = await models.log.since("c:", before.epoch, 0)
            assert changes(events) == [None, RecordChange(first, second)]

    @case("was")
    async def test_private_fields_are_known_too(self) -> None:
        """An event does not tell them, but a view may go by them."""
        async with self.opened(Secret, keeps_was=True) as models:
            first = await models.create({"title": "milk", "pin": "1"})
            id = {models.key: first[models.key]}
            second = (await models.write("patch", {**id, "pin": "2"})).record
            third = (await models.write("patch", {**id, "title": "tea"})).record
            await models.write("delete", id)
            assert [record["pin"] for record in (first, second, third)] == ["1", "2", "2"]
            events = await models.history()
            assert changes(events) == [
                RecordChange(None, first),
                RecordChange(first, second),
                RecordChange(second, third),
                RecordChange(third, None),
            ]
            assert all(b"pin" not in event.body for event in events or ())

    @case("was", "history")
    async def test_it_goes_with_its_events(self) -> None:
        """The limits leave nothing that could be taken for that of later events."""
        async with self.opened(keeps_was=True, history=HistoryLimits(events=10)) as models:
            records = await asyncio.gather(*(models.create({"n": n}) for n in range(300)))
            changed = (await models.write("patch", {**records[0], "n": -1})).record
            top = await models.top()
            assert await models.log.since("c:", top.epoch, 0) is None
            *creates, last = changes(await models.log.since("c:", top.epoch, top.offset - 5))
            assert last == RecordChange(records[0], changed)
            assert all(change is not None and change.before is None for change in creates)
