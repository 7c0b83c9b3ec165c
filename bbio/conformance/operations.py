"""Operation ids: a write that is repeated has one effect."""

from __future__ import annotations

import asyncio

from bbio.conformance.cases import Cases, case, refused
from bbio.protocol import decode
from bbio.streams import Op


class Known(Cases):
    """Operations that a log has applied; asked of logs alone too."""

    @case()
    async def test_find_tells_what_an_operation_came_to(self) -> None:
        """None when it is new or there is none; a conflict when it was another request, which is not appended."""
        async with self.opened() as models:
            assert await models.log.find(models.request("create", {"n": 1}, op="c:1")) is None
            first = await models.write("create", {"n": 1}, op="c:1")
            found = await models.log.find(models.request("create", {"n": 1}, op="c:1"))
            assert found is not None
            assert (found.record, found.event.offset, found.duplicate) == (first.record, 1, True)
            await refused(models.log.find(models.request("create", {"n": 2}, op="c:1")), "Conflict")
            await refused(models.write("create", {"n": 2}, op="c:1"), "Conflict")
            assert await models.log.find(models.request("create", {"n": 1})) is None
            assert len(models.published) == 1


class Operations(Known):
    """Writes once."""

    @case()
    async def test_a_repeated_operation_has_one_effect(self) -> None:
        """The retry gets the reply of the first time, as a duplicate; nothing is stored or published again."""
        async with self.opened() as models:
            first = await models.write("create", {"n": 1}, op="c:1")
            for _ in range(3):
                again = await models.write("create", {"n": 1}, op="c:1")
                assert (again.record, decode(again.body)) == (first.record, decode(first.body))
                assert (again.event.epoch, again.event.offset) == (first.event.epoch, first.event.offset)
                assert again.duplicate
            assert not first.duplicate
            assert await models.all() == [first.record]
            assert [event.op for event, _ in models.published] == [Op.read("c:1").public]

    @case()
    async def test_the_reply_is_that_of_the_first_time(self) -> None:
        """Also when the model has changed since, or is gone."""
        async with self.opened() as models:
            first = await models.write("create", {"n": 1}, op="c:1")
            patched = await models.write("patch", {**first.record, "n": 2}, op="c:2")
            deleted = await models.write("delete", first.record, op="c:3")
            assert (await models.write("create", {"n": 1}, op="c:1")).record == first.record
            assert (await models.write("patch", {**first.record, "n": 2}, op="c:2")).record == patched.record
            assert (await models.write("delete", first.record, op="c:3")).record == deleted.record
            assert await models.all() == []

    @case()
    async def test_another_request_under_the_same_operation_is_a_conflict(self) -> None:
        """It is not applied."""
        async with self.opened() as models:
            milk = await models.create({"n": 1}, op="c:1")
            await refused(models.write("create", {"n": 2}, op="c:1"), "Conflict")
            await refused(models.write("delete", milk, op="c:1"), "Conflict")
            assert await models.all() == [milk]

    @case()
    async def test_a_refused_write_is_not_remembered(self) -> None:
        """The same operation may be tried again, also with another request."""
        async with self.opened() as models:
            for _ in range(2):
                await refused(models.write("update", {models.key: "nowhere"}, op="c:1"), "NotFound")
            assert not (await models.write("create", {"n": 1}, op="c:1")).duplicate

    @case()
    async def test_operations_belong_to_who_asked(self) -> None:
        """Another user's operation of the same id is another operation."""
        async with self.opened() as models:
            for user in (None, {"id": 1}, {"id": "2"}, "ann"):
                assert not (await models.write("create", {"n": 1}, op="c:1", user=user)).duplicate
                assert (await models.write("create", {"n": 1}, op="c:1", user=user)).duplicate
            assert len(await models.all()) == 4

    @case()
    async def test_append_for_a_request_happens_once(self) -> None:
        """A handler's event is published once, however often its operation is repeated."""
        async with self.opened() as models:
            for repeated in (False, True, True):
                req = models.request("create", {}, op="c:1")
                commit = await models.log.append("c:", "create", {models.key: 1}, req)
                assert (commit.duplicate, commit.event.offset) == (repeated, 1)
            assert [event.op for event, _ in models.published] == [Op.read("c:1").public]

    @case("atomic")
    async def test_duplicates_at_the_same_time_have_one_effect(self) -> None:
        """All get the same reply, and one of them made it."""
        async with self.opened() as models:
            commits = await asyncio.gather(*(models.write("create", {"n": 1}, op="c:1") for _ in range(20)))
            assert [commit.duplicate for commit in commits].count(False) == 1
            assert all(commit.record == commits[0].record for commit in commits)
            assert await models.all() == [commits[0].record]
            assert len(models.published) == 1
