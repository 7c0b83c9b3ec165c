"""Random schedules of writes and faults: in the end all clients hold what the store holds, each write applied once."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbio import App, Backend, Conflict, NotFound
from bbio.builtin import MemoryStore, SQLiteStore
from bbio.streams import HistoryLimits
from tests.support.examples import examples

CLIENTS = 3
WRITES = ("create", "create", "update", "patch", "delete")

clients = st.integers(0, CLIENTS - 1)
steps = st.one_of(
    st.tuples(st.just("write"), clients, st.sampled_from(WRITES), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("write"), clients, st.sampled_from(WRITES), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("write"), clients, st.sampled_from(WRITES), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("wait"), st.integers(1, 40)),
    st.tuples(st.sampled_from(["cut", "offline", "online", "hold", "release"]), clients),
    st.tuples(st.sampled_from(["drop_acks", "drop_events", "drop_requests", "duplicate"]), st.integers(1, 4), clients),
    st.tuples(st.just("delay"), clients, st.sampled_from([0.0, 0.05, 3.0])),
    st.tuples(st.just("settle")),
    st.tuples(st.just("restart")),
)


class Counting:
    """Counts the effects of each operation, on their way from a store to its followers."""

    def __init__(self, publisher: Any, effects: Counter[str]) -> None:
        self._publisher = publisher
        self._effects = effects
        self.check = publisher.check

    def publish(self, event: Any, origin: Any) -> None:
        if event.op is not None:
            self._effects[event.op] += 1
        self._publisher.publish(event, origin)


def counted(store: type[Any], effects: Counter[str], **options: Any) -> Any:
    """A store that counts effects, with a history that is soon too short."""

    class Counted(store):
        def open(self, backend: Any, publisher: Any) -> Any:
            opened = super().open(backend, Counting(publisher, effects))
            if store is MemoryStore:
                effects.clear()
            return opened

    return Counted(history=HistoryLimits(events=4), **options)


class Schedule:
    """One run of a schedule."""

    def __init__(self, store: Any, effects: Counter[str], seed: int) -> None:
        class Todos(Backend):
            pass

        Todos.store = store
        self.effects = effects
        self.harness = App().serve(Todos).test(seed=seed)
        self.writes: list[asyncio.Task[Any]] = []
        self.count = 0
        self.restarts = 0

    async def run(self, steps: list[tuple[Any, ...]]) -> None:
        async with self.harness as t:
            self.handles = await t.clients(CLIENTS, channel="x", deadline=10_000)
            self.mirrors = [await handle.collection() for handle in self.handles]
            for name, *arguments in steps:
                await getattr(self, name)(*arguments)
                assert max(self.effects.values(), default=0) <= 1
            await self.check()

    async def write(self, client: int, method: str, which: int, careful: bool) -> None:
        handle, mirror = self.handles[client], self.mirrors[client]
        self.count += 1
        if method == "create" or not mirror:
            work = handle.create({"n": self.count})
        else:
            key = sorted(mirror)[which % len(mirror)]
            rev = mirror.rev(key) if careful else None
            work = handle.sync(method, {"id": key, "n": self.count}, rev=rev)
        self.writes.append(asyncio.create_task(work))

    async def wait(self, rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(0)

    async def settle(self) -> None:
        if not any(cable.held for cable in self.harness.cables):
            await self.harness.settle()

    async def restart(self) -> None:
        if self.restarts < 2:
            self.restarts += 1
            await self.harness.restart()

    async def delay(self, client: int, seconds: float) -> None:
        self.harness.delay(seconds, self.handles[client])

    def __getattr__(self, name: str) -> Any:
        async def fault(*arguments: int) -> None:
            *count, client = arguments
            getattr(self.harness, name)(*count, self.handles[client])

        return fault

    async def check(self) -> None:
        t = self.harness
        t.heal()
        await t.settle()
        outcomes = await asyncio.gather(*self.writes, return_exceptions=True)
        assert [outcome for outcome in outcomes if not isinstance(outcome, (dict, Conflict, NotFound))] == []
        # A lost notification shows with the next one.
        await self.handles[0].create({"n": 0})
        await t.settle()
        witness = await t.client(channel="x")
        held = {model["id"]: model for model in await witness.read()}
        assert [dict(mirror) for mirror in self.mirrors] == [held] * CLIENTS
        numbers = Counter(model["n"] for model in held.values())
        assert max(numbers.values()) == 1
        assert max(self.effects.values()) == 1


@pytest.mark.timeout(600)
@settings(max_examples=examples(300))
@given(st.lists(steps, max_size=40), st.integers(0, 1000))
def test_memory(schedule: list[tuple[Any, ...]], seed: int) -> None:
    """A store in memory, that forgets everything when the server is restarted."""
    effects: Counter[str] = Counter()
    asyncio.run(Schedule(counted(MemoryStore, effects), effects, seed).run(schedule))


@pytest.mark.timeout(600)
@settings(max_examples=examples(100))
@given(st.lists(steps, max_size=40), st.integers(0, 1000))
def test_disk(schedule: list[tuple[Any, ...]], seed: int) -> None:
    """A store on disk, that forgets nothing: every write that succeeded is there, once."""
    effects: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        store = counted(SQLiteStore, effects, path=Path(folder) / "todos.db", durable=False)
        asyncio.run(Schedule(store, effects, seed).run(schedule))
