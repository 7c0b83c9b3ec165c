"""Nothing lost, nothing twice: real servers and clients over a bad network, through random schedules.

A schedule writes, cuts connections, loses answers, sends packets twice, holds back what a client should read, restarts
the server and takes history away. Then all is mended, and every collection has to equal the store. The invariants are
those of docs/guarantees.md.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bbio import App, Backend
from bbio.builtin import MemoryStore, SQLiteStore
from bbio.client import Collection, Connection, Handle, connect
from bbio.client.tracker import Meta
from bbio.errors import Conflict, NotFound, SyncError, Timeout
from bbio.server.limits import Limits
from bbio.streams import Event, HistoryLimits
from tests.support.examples import examples
from tests.support.proxy import Proxy

# Schedules of each engine: more than 500 in all, twenty times as many with BBIO_SCHEDULES=2600. Those with a file, in
# which servers start again and again, take three times as long.
SCHEDULES = int(os.environ.get("BBIO_SCHEDULES", examples(130)))
OF_STORES = {"memory": SCHEDULES + SCHEDULES // 2, "sqlite": SCHEDULES // 2}
STEPS = 25
HEALED = 20.0
CHANNELS = (None, "x")
WRITES = ("create", "update", "patch", "delete")
SHORT = HistoryLimits(events=4)
LONG = HistoryLimits()
# A client that holds back more than this is dropped.
SEND_BUFFER = 20_000
BULK = "x" * 4_000


class Page:
    """A client: its connection, a collection, and what it has seen and asked for."""

    def __init__(self, io: Connection, handle: Handle) -> None:
        self.io = io
        self.handle = handle
        self.collection: Collection | None = None
        self.opening: asyncio.Task[Collection] | None = None
        self.writes: list[asyncio.Task[tuple[Any, Any]]] = []
        # Positions in the order in which they were applied; None where everything was read again.
        self.applied: list[tuple[str, str, int] | None] = []
        self._spy()

    def _spy(self) -> None:
        subscription = self.handle._subscription
        notified, reread = subscription.notified, subscription.reread

        def spy_notified(method: str, model: Any, meta: Meta | None, *, own: bool) -> None:
            if meta is not None:
                self.applied.append((meta.stream, meta.epoch, meta.offset))
            notified(method, model, meta, own=own)

        def spy_reread(renewed: bool) -> None:
            self.applied.append(None)
            reread(renewed)

        subscription.notified, subscription.reread = spy_notified, spy_reread  # type: ignore[method-assign]


class Delivery(RuleBasedStateMachine):
    """The schedule; subclasses say which engine and which store."""

    engine = "fast"
    store = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.events: dict[tuple[str, str, int], Event] = {}
        self.pages: list[Page] = []
        self.counter = 0

    def run(self, work: Any) -> Any:
        return self.runner.run(asyncio.wait_for(work, 60))

    # The server

    async def _start(self) -> None:
        if self.store == "memory":
            declared: Any = MemoryStore(per_channel=True, history=self.history)
        else:
            path = Path(self.folder.name, "notes.db")
            declared = SQLiteStore(path, per_channel=True, durable=False, history=self.history)

        class Notes(Backend):
            store = declared

        self.app = App(engine=self.engine, limits=Limits(send_buffer=SEND_BUFFER, drain_time=0.5))
        self.app.serve(Notes)
        self.log = self.app.backends["notes"].log
        publish = self.log._publish

        def record(event: Event, origin: Any) -> None:
            self.events[event.stream, event.epoch, event.offset] = event
            publish(event, origin)

        self.log._publish = record
        await self.app.start()

    async def _stop(self) -> None:
        self.network.refuse(cut=False)
        await asyncio.sleep(0.005)  # who is being accepted is
        await self.app.stop()

    async def _open(self, history: HistoryLimits) -> None:
        self.history = history
        await self._start()
        self.network = await Proxy(self.app.port).__aenter__()
        for channel in (*CHANNELS, CHANNELS[0]):
            io = connect(self.network.url, deadline=30, jitter=0, reconnect=(0.005, 0.02))
            page = Page(io, io.backend("notes", channel=channel))
            page.opening = asyncio.ensure_future(self._follow(page))
            self.pages.append(page)
        await asyncio.sleep(0.01)

    async def _follow(self, page: Page) -> Collection:
        while True:
            with suppress(SyncError):
                page.collection = await page.handle.collection()
                return page.collection
            await asyncio.sleep(0.01)

    @initialize(history=st.sampled_from([LONG, LONG, SHORT]))
    def begin(self, history: HistoryLimits) -> None:
        self.run(self._open(history))

    # What happens

    pages_index = st.integers(0, 2)

    @rule(
        index=pages_index, what=st.sampled_from(["create", "create", "update", "patch", "delete"]), bulk=st.booleans()
    )
    def write(self, index: int, what: str, bulk: bool) -> None:
        """A client writes, and does not wait."""
        page = self.pages[index]
        known = list(page.collection or ())
        if not known:
            what = "create"
        self.counter += 1
        model: dict[str, Any] = {"n": self.counter, "text": BULK if bulk else ""}
        rev = None
        if what != "create":
            model["id"] = known[self.counter % len(known)]
            # Every third write says what it builds on, and may be a conflict.
            assert page.collection is not None
            rev = page.collection.rev(model["id"]) if self.counter % 3 == 0 else None

        async def begin() -> None:
            page.writes.append(asyncio.ensure_future(page.handle.request(what, model, rev=rev)))
            await asyncio.sleep(0)

        self.run(begin())

    @rule(milliseconds=st.sampled_from([0, 0, 1, 3, 10]))
    def turn(self, milliseconds: int) -> None:
        """Some of what is under way goes on."""
        self.run(asyncio.sleep(milliseconds / 1000))

    @rule(index=st.integers(0, 7))
    def cut(self, index: int) -> None:
        """A connection breaks."""
        if self.network.paths:
            self.network.paths[index % len(self.network.paths)].cut()

    @rule(index=st.integers(0, 7))
    def lose(self, index: int) -> None:
        """What the server sends on a connection is lost from now on, and sooner or later it breaks."""
        if self.network.paths:
            self.network.paths[index % len(self.network.paths)].losing = True

    @rule(index=st.integers(0, 7), up=st.integers(0, 3), down=st.integers(0, 3))
    def repeat(self, index: int, up: int, down: int) -> None:
        """Packets of a connection pass twice."""
        if self.network.paths:
            path = self.network.paths[index % len(self.network.paths)]
            path.twice_up += up
            path.twice_down += down

    @rule(index=st.integers(0, 7), writer=st.integers(0, 2))
    def leave_out(self, index: int, writer: int) -> None:
        """A notification does not arrive, and those after it do: a gap."""
        if self.network.paths:
            self.network.paths[index % len(self.network.paths)].leave_out = 1
            self.write(writer, "create", bulk=False)
            self.turn(3)

    @rule(index=st.integers(0, 7), flows=st.booleans())
    def hold(self, index: int, flows: bool) -> None:
        """A client does not read for a while: a slow consumer."""
        if self.network.paths:
            path = self.network.paths[index % len(self.network.paths)]
            path.flowing.set() if flows else path.flowing.clear()

    @precondition(lambda self: self.store == "sqlite")
    @rule()
    def restart(self) -> None:
        """The server stops and starts again; what is on disk is there."""

        async def restart() -> None:
            await self._stop()
            await self._start()
            self.network.port = self.app.port
            self.network.admit()

        self.run(restart())

    @precondition(lambda self: self.store == "memory")
    @rule(channel=st.sampled_from(CHANNELS))
    def forget(self, channel: str | None) -> None:
        """A stream's history is lost: a new epoch begins."""
        self.log.streams.forget("c:" + (channel or ""))

    # What must be true

    @invariant()
    def offsets_are_contiguous_and_revisions_grow(self) -> None:
        """Within an epoch offsets are 1 to n without holes; along a stream each model's revision grows."""
        tops = Counter((stream, epoch) for stream, epoch, _ in self.events)
        revs: dict[tuple[str, str, Any], int] = {}
        for stream, epoch, offset in sorted(self.events):
            assert 1 <= offset <= tops[stream, epoch]
            event = self.events[stream, epoch, offset]
            key = (stream, epoch, _id_of(event))
            assert event.rev is not None
            assert event.rev > revs.get(key, 0)
            revs[key] = event.rev

    def teardown(self) -> None:
        try:
            if self.pages:
                self.run(self._heal())
                self._check_clients()
        finally:
            self.run(self._close())
            self.runner.close()
            self.folder.cleanup()

    async def _heal(self) -> None:
        for path in list(self.network.paths):
            path.flowing.set()
            path.leave_out = 0
            if path.losing:
                path.cut()
        async with asyncio.timeout(HEALED):
            for page in self.pages:
                assert page.opening is not None
                await page.opening
            self.outcomes = [await asyncio.gather(*page.writes, return_exceptions=True) for page in self.pages]
        async with connect(self.app.url) as io:
            for page in self.pages:
                handle = io.backend("notes", channel=page.handle.channel)
                await handle.ready()
                await handle.create({"n": 0, "text": "the last"})  # what comes next shows that something is missing
                stored = {model["id"]: model for model in await handle.read()}
                assert page.collection is not None
                try:
                    await page.collection.until(lambda collection: dict(collection) == stored, HEALED)  # noqa: B023
                except Timeout:
                    assert dict(page.collection) == stored

    def _check_clients(self) -> None:
        ops = Counter(event.op for event in self.events.values() if event.op is not None)
        assert all(times == 1 for times in ops.values()), ops
        for page, outcomes in zip(self.pages, self.outcomes, strict=True):
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    assert isinstance(outcome, (NotFound, Conflict)), repr(outcome)
                    continue
                model, meta = outcome
                # A success is an event, and the reply is what the event says.
                place = meta if isinstance(meta, Meta) else Meta.read(meta)
                event = self.events[place.stream, place.epoch, place.offset]
                assert (event.rev, _id_of(event)) == (place.rev, model["id"])
            tops: dict[str, tuple[str, int]] = {}
            for entry in page.applied:
                if entry is None:
                    tops.clear()
                    continue
                stream, epoch, offset = entry
                if stream in tops and tops[stream][0] == epoch:
                    assert offset > tops[stream][1], page.applied
                tops[stream] = (epoch, offset)

    async def _close(self) -> None:
        for page in self.pages:
            if page.opening is not None:
                page.opening.cancel()
            for write in page.writes:
                write.cancel()
            await page.io.close()
        if self.pages:
            await self._stop()
            await self.network.__aexit__()
            await asyncio.sleep(0.01)  # transports that were aborted let go of their sockets


def _id_of(event: Event) -> Any:
    return msgspec.json.decode(event.body)["id"]


@pytest.mark.parametrize("store", OF_STORES)
@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.timeout(1_800)
def test_nothing_is_lost_and_nothing_happens_twice(engine: str, store: str) -> None:
    """Every collection ends up like the store, every write is applied once, whatever the network does."""
    machine = type("Schedule", (Delivery,), {"engine": engine, "store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=OF_STORES[store],
            stateful_step_count=STEPS,
            deadline=None,
            # Time passes differently each time, so there is nothing to shrink.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
