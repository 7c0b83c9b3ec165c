"""The suite for logs: events that are numbered, kept and published, and the operations that they came of."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest

from bbio import Backend
from bbio.conformance.cases import Cases, Opened, Published, Secret, case, refused
from bbio.conformance.consumers import Consumers
from bbio.conformance.operations import Known
from bbio.conformance.stamps import Stamps
from bbio.conformance.streams import Streams
from bbio.errors import EncodingError
from bbio.log import Log
from bbio.protocol import decode
from bbio.requests import NOTIFIED_AS
from bbio.streams import BACKEND_WIDE, Commit, Event, Op, channel_stream

LOG_CLAIMS = frozenset(
    {
        "history",  # takes that option
        "persistent",  # keeps events and operations when it stops, and finds them when it starts
        "atomic",  # keeps event and operation together, whatever interrupts an append
        "was",  # keeps how a record was that is appended with that, where `keeps_was` is set
        "tops",  # lists its streams
    }
)
# Claimed beside them: keeps how far consumers are, `Log.consumers`, and what they have not handled for longer.
CONSUMER_CLAIMS = frozenset({"consumers"})


class OpenedLog(Opened):
    """A log as its backend has it, and what it has published. To write is to append.

    Parameters:
        log: the open log.
        published: every event with the socket of its writer, in the order of publishing.
    """

    def __init__(self, log: Log, published: list[tuple[Event, Any]]) -> None:
        self.log = log
        self.published = published
        self.key = "id"
        self._ids = itertools.count(1)

    async def write(self, method: str, model: Any, **fields: Any) -> Commit:
        req = self.request(method, model, **fields)
        record = {**model, self.key: next(self._ids)} if method == "create" else model
        return await self.log.append(channel_stream(req.channel), NOTIFIED_AS[method], record, req)


@asynccontextmanager
async def opened_log(declared: Log, model: type | None = None, *, keeps_was: bool = False) -> AsyncIterator[OpenedLog]:
    """The log of a backend, open and started; stopped at the end."""
    backend = type("Models", (Backend,), {"model": model})()
    published = Published()
    log = declared.open(backend, published)
    if keeps_was:
        log.keeps_was = True
    await log.start()
    try:
        yield OpenedLog(log, published)
    finally:
        await log.stop()


class Appends(Cases):
    """Appending, and finding again."""

    @case()
    async def test_what_is_appended_is_published(self) -> None:
        """At the next offset of its stream, with its writer; the commit has the record and the event."""
        sockets: list[Any] = [object(), None]
        async with self.opened() as models:
            start = await models.top("home")
            assert start.offset == 0
            for n, (method, socket) in enumerate(zip(("create", "delete"), sockets, strict=True), 1):
                req = models.request(method, {"id": "7"}, channel="home", socket=socket, op=f"c:{n}")
                commit = await models.log.append("c:home", method, {"id": "7", "title": "Müsli"}, req)
                assert len(models.published) == n
                event, writer = models.published[-1]
                assert (event.stream, event.epoch, event.offset) == ("c:home", start.epoch, n)
                assert (event.method, event.op, writer) == (method, Op.read(f"c:{n}").public, socket)
                assert commit.record == decode(commit.body) == decode(event.body) == {"id": "7", "title": "Müsli"}
                assert (commit.event.offset, commit.duplicate) == (n, False)
            assert (await models.top("home")).offset == 2

    @case()
    async def test_what_the_server_tells_is_numbered_too(self) -> None:
        """Without a request there is no operation and no writer; a model may be anything that is JSON."""
        told: list[Any] = [{"id": 1}, [1, "two", None], "Zürich \u2028", None, 2**80, {"": {"$gt": 5e-324}}]
        async with self.opened() as models:
            for model in told:
                await models.log.append(BACKEND_WIDE, "update", model)
            assert [decode(event.body) for event, _ in models.published] == told
            assert {(event.op, event.rev, writer) for event, writer in models.published} == {(None, None, None)}
            epoch = (await models.log.positions([BACKEND_WIDE]))[BACKEND_WIDE].epoch
            events = await models.log.since(BACKEND_WIDE, epoch, 0)
            assert [decode(event.body) for event in events or ()] == told

    @case("tops")
    async def test_all_streams_are_listed(self) -> None:
        """Each that has had an event, with its top, and where others begin."""
        async with self.opened() as models:
            assert (await models.log.tops()).keys() == {""}
            for stream in ("c:", "c:home", "c:", BACKEND_WIDE):
                await models.log.append(stream, "update", {"id": "7"})
            tops = await models.log.tops()
            begin = tops.pop("")
            assert tops == await models.log.positions(["c:", "c:home", BACKEND_WIDE])
            assert {"c:new": begin} == await models.log.positions(["c:new"])

    @case()
    async def test_what_cannot_be_written_is_no_event(self) -> None:
        """It takes no offset, nobody is told, and its operation may be tried again."""
        async with self.opened() as models:
            req = models.request("create", {}, op="c:1")
            with pytest.raises(EncodingError):
                await models.log.append("c:", "create", {"id": object()}, req)
            assert models.published == []
            assert await models.log.find(req) is None
            assert (await models.log.append("c:", "create", {"id": 1}, req)).event.offset == 1

    @case()
    async def test_a_repeated_operation_is_one_event(self) -> None:
        """It is answered with what the first came to, whatever comes with it; nothing is published again."""
        async with self.opened() as models:
            first = await models.write("create", {"n": 1}, op="c:1")
            await models.write("update", {"n": 2}, op="c:2")
            for _ in range(2):
                again = await models.write("create", {"n": 1}, op="c:1")
                assert (again.record, decode(again.body), again.duplicate) == (first.record, decode(first.body), True)
                assert (again.event.offset, again.event.stamp) == (1, first.event.stamp)
            assert [event.offset for event, _ in models.published] == [1, 2]

    @case()
    async def test_operations_belong_to_who_asked(self) -> None:
        """Another user's operation of the same id is another operation; so is that of another number."""
        async with self.opened() as models:
            for user in (None, {"id": 1}, {"id": "2"}, "ann"):
                for op in ("c:1", "c:2", "d:1"):
                    assert not (await models.write("create", {"n": 1}, op=op, user=user)).duplicate
                    assert (await models.write("create", {"n": 1}, op=op, user=user)).duplicate
            assert len(models.published) == 12

    @case()
    async def test_an_operation_is_told_in_its_public_form(self) -> None:
        """Nobody can make an operation of a client from what others are told."""
        async with self.opened() as models:
            await models.write("create", {}, op="a secret:7")
            events = [models.published[0][0], *(await models.history() or ())]
            assert [event.op for event in events] == [Op("a secret", 7).public] * 2

    @case()
    async def test_private_fields_are_no_part_of_an_event(self) -> None:
        """They are of the record: whoever repeats an operation gets all of it, and layers do."""
        record = {"id": "1", "title": "milk", "pin": "1234"}
        async with self.opened(model=Secret) as models:
            req = models.request("update", record, op="c:1")
            first = await models.log.append("c:", "update", record, req)
            found = await models.log.find(req)
            assert found is not None
            assert first.record == found.record == record
            for event in (models.published[0][0], found.event, *(await models.history() or ())):
                assert decode(event.body) == {"id": "1", "title": "milk"}

    @case("was")
    async def test_how_a_record_was_is_kept_with_its_event(self) -> None:
        """It comes back just so, also with an operation; an event that came without says so."""
        given = [b'[{"n":1},["new"],{"pin":"x"}]', None, b"[null]"]
        async with self.opened(keeps_was=True) as models:
            for n, was in enumerate(given):
                req = models.request("update", {"n": n}, op=f"c:{n}") if n else None
                await models.log.append("c:", "update", {"n": n}, req, was)
            for events in ([event for event, _ in models.published], await models.history() or ()):
                assert [event.was for event in events] == given

    @case()
    async def test_many_writers_share_a_stream(self) -> None:
        """Events are published in the order of their offsets, without holes, and each writer gets its own."""
        async with self.opened() as models:

            async def write(writer: int) -> list[int]:
                fields: dict[str, Any] = {"channel": str(writer % 2)}
                return [
                    (await models.write("create", {}, op=f"{writer}:{n}", **fields)).event.offset for n in range(10)
                ]

            offsets = await asyncio.gather(*(write(writer) for writer in range(20)))
            for channel in ("0", "1"):
                published = [event.offset for event, _ in models.published if event.stream == f"c:{channel}"]
                assert published == list(range(1, 101))
                assert [event.offset for event in await models.history(channel) or ()] == published
            assert sorted(itertools.chain(*offsets)) == sorted([*range(1, 101)] * 2)

    @case("atomic")
    async def test_duplicates_at_the_same_time_are_one_event(self) -> None:
        """All get the same reply, and one of them made it."""
        async with self.opened() as models:
            commits = await asyncio.gather(*(models.write("create", {"n": 1}, op="c:1") for _ in range(20)))
            assert [commit.duplicate for commit in commits].count(False) == 1
            assert all(commit.record == commits[0].record for commit in commits)
            assert len(models.published) == (await models.top()).offset == 1

    @case("atomic")
    async def test_a_writer_that_gives_up_wrote_all_or_nothing(self) -> None:
        """Whenever it is cancelled, event and operation are there and published, or neither is."""
        async with self.opened() as models:
            for steps in range(12):
                op = f"c:{steps}"
                writer = asyncio.ensure_future(models.write("create", {"n": steps}, op=op))
                other = asyncio.ensure_future(models.write("create", {"other": steps}))
                for _ in range(steps):
                    await asyncio.sleep(0)
                writer.cancel()
                with suppress(asyncio.CancelledError):
                    await writer
                await other
                known = await models.log.find(models.request("create", {"n": steps}, op=op))
                assert (await models.write("create", {"n": steps}, op=op)).duplicate is (known is not None)
            events = await models.history() or ()
            assert [event.offset for event in events] == [event.offset for event, _ in models.published]
            assert sorted(decode(event.body).get("n", -1) for event in events) == [-1] * 12 + list(range(12))

    @case()
    async def test_a_position_is_never_wrong_after_a_restart(self) -> None:
        """A client that comes back is told exactly what it missed, or that nobody knows."""
        async with self.opened() as models:
            for n in range(3):
                await models.write("update", {"n": n}, op=f"c:{n}")
            epoch = models.published[0][0].epoch
        async with self.opened() as models:
            await models.write("update", {"n": 3})
            events = await models.log.since("c:", epoch, 2)
            if events is None:
                assert (await models.top()).epoch != epoch
            else:
                assert [(event.offset, decode(event.body)) for event in events] == [(3, {"n": 2}), (4, {"n": 3})]

    @case("persistent")
    async def test_events_and_operations_are_there_after_a_restart(self) -> None:
        """In the same epoch, at the next offset; a repeated operation is known."""
        async with self.opened() as models:
            first = await models.write("create", {"n": 1}, op="c:1")
            await models.log.append(BACKEND_WIDE, "update", {"n": 2})
            tops = await models.log.positions(["c:", BACKEND_WIDE])
        async with self.opened() as models:
            assert await models.log.positions(["c:", BACKEND_WIDE]) == tops
            again = await models.write("create", {"n": 1}, op="c:1")
            assert (again.record, again.event.offset, again.duplicate) == (first.record, 1, True)
            await refused(models.write("create", {"n": 3}, op="c:1"), "Conflict")
            assert models.published == []
            assert (await models.write("create", {"n": 3}, op="c:2")).event.offset == 2
            events = await models.log.since("c:", tops["c:"].epoch, 0)
            assert [decode(event.body)["n"] for event in events or ()] == [1, 3]


class LogConformance(Appends, Known, Streams, Stamps, Consumers):
    """Subclass it in a test module, with one method that makes a log; pytest does the rest.

    Class attributes:
        claims: what the log can do, of `LOG_CLAIMS`, and of `CONSUMER_CLAIMS` if consumers may rely on it. Tests of
            what it does not claim are left out.
        folder: an empty folder, for the time of one test.

    Example:
        >>> from bbio import MemoryLog
        >>> class TestMemoryLog(LogConformance):
        ...     claims = LOG_CLAIMS - {"persistent"}
        ...
        ...     def make_log(self, **options):
        ...         return MemoryLog(**options)
    """

    claims = LOG_CLAIMS

    def make_log(self, **options: Any) -> Log:
        """A log, not yet open. All that are made for one test keep the same events; another test has others.

        Parameters:
            options: `history`, where the log claims it.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method make_log(self, **options)")

    def opened(
        self, model: type | None = None, *, keeps_was: bool = False, **options: Any
    ) -> AbstractAsyncContextManager[Opened]:
        """`async with self.opened() as models:` makes and opens the log."""
        return opened_log(self.make_log(**options), model, keeps_was=keeps_was)
