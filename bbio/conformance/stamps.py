"""Stamps: what tells a history from another one that has the same numbers."""

from __future__ import annotations

import asyncio

from bbio.conformance.cases import Cases, case
from bbio.streams import STAMPS, HistoryLimits


class Stamps(Cases):
    """A position is of one history alone."""

    @case()
    async def test_every_event_has_a_stamp(self) -> None:
        """A random number, also where it is read from the log; the top has that of the last event."""
        async with self.opened() as models:
            assert (await models.top()).stamp == 0
            for n in range(3):
                await models.create({"n": n})
            await models.log.append("c:", "update", {models.key: "elsewhere"})
            stamps = [event.stamp for event, _ in models.published]
            assert all(type(stamp) is int and 0 < stamp < STAMPS for stamp in stamps)
            assert len(set(stamps)) == 4, "each transaction has its own"
            assert [event.stamp for event in await models.history() or ()] == stamps
            assert (await models.top()).stamp == stamps[-1]
        async with self.opened() as models:
            await models.create({}, channel="another")
            assert models.published[0][0].stamp not in stamps, "those of a later start are others"

    @case()
    async def test_a_position_with_another_stamp_recovers_nothing(self) -> None:
        """Its epoch and offset may be right: the history that it is of fell back, and went on otherwise."""
        async with self.opened() as models:
            for n in range(4):
                await models.create({"n": n})
            events = [event for event, _ in models.published]
            epoch = events[0].epoch
            for event in events:
                found = await models.log.since("c:", epoch, event.offset, event.stamp)
                assert [later.offset for later in found or ()] == list(range(event.offset + 1, 5))
                assert found is not None
                for other in (event.stamp ^ 1, STAMPS - 1 - event.stamp, 1):
                    assert await models.log.since("c:", epoch, event.offset, other) is None
            assert await models.log.since("c:", epoch, 0, events[0].stamp) is None
            assert await models.log.since("c:nobody ever wrote here", epoch, 0, 1) is None

    @case()
    async def test_a_position_without_a_stamp_is_not_checked(self) -> None:
        """Older clients know none."""
        async with self.opened() as models:
            for n in range(3):
                await models.create({"n": n})
            epoch = models.published[0][0].epoch
            for offset in range(4):
                assert len(await models.log.since("c:", epoch, offset, 0) or ()) == 3 - offset

    @case()
    async def test_a_repeated_operation_tells_the_first_stamp(self) -> None:
        """Its place in the history is that of the first attempt."""
        async with self.opened() as models:
            first = await models.write("create", {"n": 1}, op="c:1")
            again = await models.write("create", {"n": 1}, op="c:1")
            assert again.event.stamp == first.event.stamp != 0

    @case("history")
    async def test_the_stamp_of_the_top_outlives_its_event(self) -> None:
        """A client that has missed nothing is told so, however little history is kept; others read again."""
        async with self.opened(history=HistoryLimits(age=0.0, size=1)) as models:
            await asyncio.gather(*(models.create({"n": n}) for n in range(300)))
            top = await models.top()
            assert top.stamp == models.published[-1][0].stamp
            assert await models.log.since("c:", top.epoch, top.offset, top.stamp) == []
            assert await models.log.since("c:", top.epoch, top.offset, top.stamp ^ 1) is None
            early = models.published[0][0]
            assert await models.log.since("c:", early.epoch, early.offset, early.stamp) is None

    @case("atomic", "persistent")
    async def test_stamps_are_there_after_a_restart(self) -> None:
        """A client that comes back is told what it missed, and one that knows another history is not."""
        async with self.opened() as models:
            for n in range(3):
                await models.write("create", {"n": n}, op=f"c:{n}")
            events = [event for event, _ in models.published]
        async with self.opened() as models:
            top = await models.top()
            assert (top.offset, top.stamp) == (3, events[-1].stamp)
            found = await models.log.since("c:", top.epoch, 1, events[0].stamp)
            assert [event.stamp for event in found or ()] == [event.stamp for event in events[1:]]
            assert await models.log.since("c:", top.epoch, 1, events[1].stamp) is None
            again = await models.write("create", {"n": 2}, op="c:2")
            assert again.duplicate
            assert again.event.stamp == events[-1].stamp
