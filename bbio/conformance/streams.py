"""Streams: what every write is numbered with, what is kept of it, and what a client that comes back is told."""

from __future__ import annotations

import asyncio
from typing import Any

from bbio.conformance.cases import Cases, Opened, case, refused
from bbio.protocol import decode
from bbio.streams import BACKEND_WIDE, HistoryLimits

# A store need not trim at every write; after so many more it must have.
SLACK = 300


async def fill(models: Opened, count: int, **fields: Any) -> None:
    """Write so many events into a channel."""
    await asyncio.gather(*(models.create({"n": n, "text": "x" * 80}, **fields) for n in range(count)))


class Told(Cases):
    """The events of a store's writes."""

    @case()
    async def test_offsets_count_from_one(self) -> None:
        """Every write is one event at the next offset of its channel's stream, published with its writer."""
        sockets: list[Any] = [object(), object(), object()]
        async with self.opened() as models:
            start = await models.top()
            assert start.offset == 0
            milk = await models.create({"n": 0}, socket=sockets[0])
            await models.write("patch", {**milk, "n": 1}, socket=sockets[1])
            await models.write("delete", milk, socket=sockets[2])
            assert [event.offset for event, _ in models.published] == [1, 2, 3]
            assert {(event.stream, event.epoch) for event, _ in models.published} == {("c:", start.epoch)}
            assert [event.method for event, _ in models.published] == ["create", "update", "delete"]
            assert [decode(event.body)["n"] for event, _ in models.published] == [0, 1, 1]
            assert all(writer is socket for (_, writer), socket in zip(models.published, sockets, strict=True))
            top = await models.top()
            assert (top.epoch, top.offset) == (start.epoch, 3)

    @case()
    async def test_a_refused_write_is_no_event(self) -> None:
        """It takes no offset, and nobody is told."""
        async with self.opened() as models:
            await refused(models.write("update", {models.key: "nowhere"}), "NotFound")
            assert (await models.top()).offset == 0
            assert models.published == []
            await models.create({})
            assert [event.offset for event, _ in models.published] == [1]

    @case()
    async def test_append_is_for_what_was_written_elsewhere(self) -> None:
        """The event is numbered and published, in any stream; no model is stored."""
        async with self.opened() as models:
            await models.create({})
            for stream in ("c:", BACKEND_WIDE):
                commit = await models.log.append(stream, "update", {models.key: "elsewhere", "n": 1})
                event, writer = models.published[-1]
                assert (event.stream, event.method, writer) == (stream, "update", None)
                assert decode(event.body) == decode(commit.body) == {models.key: "elsewhere", "n": 1}
            assert [event.offset for event, _ in models.published] == [1, 2, 1]
            assert len(await models.all()) == 1


class Streams(Cases):
    """Positions and history, of whatever is written."""

    @case()
    async def test_every_channel_has_a_stream(self) -> None:
        """Offsets of one say nothing of another's; a stream's epoch is known before its first event."""
        async with self.opened() as models:
            names = ["c:", "c:home", "c:work", BACKEND_WIDE]
            before = await models.log.positions(names)
            assert before == await models.log.positions(names)
            for channel, count in ((None, 1), ("home", 2), ("work", 3)):
                await fill(models, count, channel=channel)
            after = await models.log.positions(names)
            assert [after[name].offset for name in names] == [1, 2, 3, 0]
            assert [after[name].epoch for name in names] == [before[name].epoch for name in names]
            assert [event.offset for event in await models.history("work") or ()] == [1, 2, 3]

    @case()
    async def test_since_tells_what_was_missed(self) -> None:
        """From any position, exactly the events after it, as they were published."""
        async with self.opened() as models:
            for n in range(5):
                await models.create({"n": n}, op=f"c:{n}")
            published = [event for event, _ in models.published]
            for offset in range(len(published) + 1):
                events = await models.log.since("c:", published[0].epoch, offset)
                assert events is not None
                assert [plain(event) for event in events] == [plain(event) for event in published[offset:]]

    @case()
    async def test_since_admits_what_it_does_not_know(self) -> None:
        """Another epoch, an offset ahead of the top, and an invalid position recover nothing, and are not errors."""
        async with self.opened() as models:
            await fill(models, 3)
            epoch = (await models.top()).epoch
            for claimed in ("other", "", None, 1, [epoch], {"$ne": ""}, "' OR 1=1 --", epoch + " "):
                assert await models.log.since("c:", claimed, 0) is None
            wrong: list[Any] = [4, -1, 2**63, 2**80, 1.5, "1", None, True, [1], {}]
            for offset in wrong:
                assert await models.log.since("c:", epoch, offset) is None
            assert await models.log.since("c:nobody ever wrote here", epoch, 1) is None

    @case("history")
    async def test_history_is_bounded_by_events(self) -> None:
        """The latest are kept, as many as the limit allows; the earlier ones go."""
        async with self.opened(history=HistoryLimits(events=100)) as models:
            await fill(models, 100 + SLACK)
            await self.kept(models, 100)

    @case("history")
    async def test_history_is_bounded_by_size(self) -> None:
        """A limit of so many bytes keeps fewer of larger models."""
        async with self.opened(history=HistoryLimits(size=5_000)) as models:
            await fill(models, SLACK)
            await self.kept(models, 5_000 // len(models.published[-1][0].body))
            await models.create({"text": "x" * 6_000})
            events = await models.log.since("c:", *await self.at(models, 1))
            assert events is None or len(events) == 1
            await models.create({})
            assert await models.log.since("c:", *await self.at(models, 0)) == []

    @case("history")
    async def test_history_is_bounded_by_age(self) -> None:
        """Events that are older than the limit go when others come."""
        async with self.opened(history=HistoryLimits(age=0.0)) as models:
            for _ in range(3):
                await fill(models, SLACK // 2)
            assert await models.history() is None
            assert await models.log.since("c:", *await self.at(models, SLACK + SLACK // 2)) is None

    @case("history")
    async def test_streams_are_bounded(self) -> None:
        """The streams that are longest without an event are forgotten: if they come again, it is in another epoch."""
        async with self.opened(history=HistoryLimits(streams=10)) as models:
            await models.create({}, channel="first")
            first = await models.top("first")
            for channel in range(10 + SLACK):
                await models.create({}, channel=str(channel))
            assert await models.log.since("c:first", first.epoch, first.offset) is None
            await models.create({}, channel="first")
            again = await models.top("first")
            assert again.epoch != first.epoch
            assert await models.log.since("c:first", again.epoch, again.offset) == []
            assert await models.history(str(9 + SLACK)) is not None

    async def at(self, models: Opened, back: int) -> tuple[str, int]:
        """The position so many events ago."""
        top = await models.top()
        return top.epoch, top.offset - back

    async def kept(self, models: Opened, count: int) -> None:
        """The latest events must all be there, and the earliest must not."""
        events = await models.log.since("c:", *await self.at(models, count))
        assert events is not None
        top = (await models.top()).offset
        assert [event.offset for event in events] == list(range(top - count + 1, top + 1))
        assert await models.history() is None


def plain(event: Any) -> tuple[Any, ...]:
    """Return the part of an event that must be the same whenever it is sent."""
    return event.stream, event.epoch, event.offset, event.method, decode(event.body), event.rev, event.op
