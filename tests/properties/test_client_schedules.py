"""Random schedules of writes and faults: in the end all clients hold what the store holds, each write applied once.

Among the faults: links that die silently, log-ins with writes queued or on their way, also such as nobody has said
to the client, mirrors that raise, and writes that wait for the id of a model.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbio import App, Backend, Conflict, NotFound, QueryLimits, SyncError, Timeout, Unavailable, UnknownOutcome, before
from bbio.builtin import MemoryStore, SQLiteStore
from bbio.client import Dropped
from bbio.protocol import decode
from bbio.streams import HistoryLimits
from tests.support.examples import examples

CLIENTS = 3
WRITES = ("create", "create", "update", "patch", "delete")

clients = st.integers(0, CLIENTS - 1)
steps = st.one_of(
    st.tuples(st.just("write"), clients, st.sampled_from(WRITES), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("write"), clients, st.sampled_from(WRITES), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("write"), clients, st.sampled_from(WRITES), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("chain"), clients, st.sampled_from(["update", "patch"]), st.booleans()),
    st.tuples(st.just("wait"), st.integers(1, 40)),
    st.tuples(st.sampled_from(["cut", "silence", "offline", "online", "hold", "release"]), clients),
    st.tuples(st.just("login"), clients),
    st.tuples(st.just("turn"), clients),
    st.tuples(st.sampled_from(["drop_acks", "drop_events", "drop_requests", "duplicate"]), st.integers(1, 4), clients),
    st.tuples(st.just("delay"), clients, st.sampled_from([0.0, 0.05, 3.0])),
    st.tuples(st.just("settle")),
    st.tuples(st.just("restart")),
)


# Seconds of the clients' time within which a write on a link that died is stored: it is found out, and opened again.
FOUND_OUT = 15.0
# Real seconds that a busy machine may take until everything has settled.
PATIENCE = 60.0


class Counting:
    """Counts the effects of each operation and of each number written, on their way from a store to its trackers."""

    def __init__(self, publisher: Any, effects: Counter[str]) -> None:
        self._publisher = publisher
        self._effects = effects
        self.doubt = publisher.doubt

    def event(self, event: Any, origin: Any) -> None:
        if event.op is not None:
            self._effects[event.op] += 1
            if event.method != "delete":
                self._effects[f"number {decode(event.body)['n']}"] += 1
        self._publisher.event(event, origin)


def counted(store: type[Any], effects: Counter[str], **options: Any) -> Any:
    """A store that counts effects, with a history that is soon too short."""

    class Counted(store):
        def open(self, backend: Any, publisher: Any) -> Any:
            opened = super().open(backend, Counting(publisher, effects))
            if store is MemoryStore:
                effects.clear()
            return opened

    return Counted(history=HistoryLimits(events=4), **options)


class Raising:
    """A mirror with mistakes in it.

    Parameters:
        chance: says at random when it raises.
    """

    is_reading = False

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def known(self, key: Any) -> None:
        """It knows nothing."""

    def wants(self, news: Any) -> None:
        """Nor does it want anything."""

    def apply(self, method: str, model: Any, meta: Any) -> None:
        self._stumble()

    async def reread(self, renewed: bool) -> None:
        self._stumble()

    def failed(self, error: SyncError) -> None:
        self._stumble()

    def resumed(self) -> None:
        """Nothing is to be undone."""

    def _stumble(self) -> None:
        if self._chance.random() < 0.3:
            raise ZeroDivisionError


class Schedule:
    """One run of a schedule."""

    def __init__(self, store: Any, effects: Counter[str], seed: int, *, is_lasting: bool) -> None:
        class Todos(Backend):
            @before("create", "update", "patch")
            def sign(self, req: Any) -> None:
                assert req.model["by"] == req.user

        Todos.store = store
        Todos.deltas = seed % 2 == 1
        self.effects = effects
        self.is_lasting = is_lasting
        self.harness = App().serve(Todos).test(seed=seed)
        self.chance = random.Random(seed)
        self.writes: list[asyncio.Task[Any]] = []
        self.chains: list[asyncio.Task[Any]] = []
        self.unsent: list[int] = []
        self.failures: list[Any] = []
        self.count = 0
        self.users = 0
        self.restarts = 0
        # What each client is logged in as, follows the backend with, and has opened.
        self.handles: list[Any] = [None] * CLIENTS
        self.mirrors: list[Any] = [None] * CLIENTS
        self.raising: list[Any] = [None] * CLIENTS
        self.opened: list[Any] = [None] * CLIENTS

    async def run(self, steps: list[tuple[Any, ...]]) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.failures.append(context))
        async with self.harness as t:
            for client in range(CLIENTS):
                await self.login(client)
            await t.settle(PATIENCE)
            for name, *arguments in steps:
                await getattr(self, name)(*arguments)
                assert max(self.effects.values(), default=0) <= 1
            await self.check()
        assert [one for one in self.failures if not isinstance(one.get("exception"), ZeroDivisionError)] == []

    async def login(self, client: int) -> None:
        """Another user takes a client over: its connection is closed, whatever waits, and another one opened."""
        if self.handles[client] is not None:
            self.harness._connection_of(self.handles[client]).close()
            await asyncio.gather(self.opened[client], return_exceptions=True)
        self.users += 1
        connection = self.harness.connect(user=f"user {self.users}", deadline=10_000)
        handle = self.handles[client] = connection.backend("todos", channel="x")
        raising = self.raising[client] = Raising(self.chance)
        handle._subscription.add_mirror(raising)
        self.mirrors[client] = handle.collection()
        self.opened[client] = asyncio.create_task(self.mirrors[client].open())

    async def turn(self, client: int) -> None:
        """At the next connection a client is somebody else; the server knows, and has to tell it."""
        handle = self.handles[client]
        if handle._subscription.tracker.positioned:
            self.users += 1
            self.harness._connection_of(handle).user = f"user {self.users}"
            self.harness.cut(handle)

    async def write(self, client: int, method: str, which: int, careful: bool) -> None:
        handle, mirror = self.handles[client], self.mirrors[client]
        keys = sorted(key for key in mirror if not mirror[key].get("chain"))
        self.count += 1
        fields = {"n": self.count, "by": self._user(handle)}
        if method == "create" or not keys:
            work = self._written(handle, "create", fields)
        else:
            key = keys[which % len(keys)]
            rev = mirror.rev(key) if careful else None
            more = {"$append": {"log": f" {self.count}"}} if method == "patch" else {}
            work = self._written(handle, method, {"id": key, **fields, **more}, rev)
        self.writes.append(asyncio.create_task(work))

    async def chain(self, client: int, method: str, ends: bool) -> None:
        """Writes of one model, each begun as soon as the one before is answered."""
        self.count += 3
        work = self._chained(self.handles[client], self.mirrors[client], method, ends, self.count)
        self.chains.append(asyncio.create_task(work))

    async def _chained(
        self, handle: Any, mirror: Any, method: str, ends: bool, last: int
    ) -> tuple[Any, Any, int] | None:
        """Return the id, what must be there of it in the end, and how often the server had begun anew before."""
        begun = self.restarts
        try:
            model = await self._written(handle, "create", self._link(handle, n=last - 2))
            key = model["id"]
            # It shows as soon as it is answered; what is read anew comes a little later.
            is_followed = any(each is mirror for each in handle._subscription.mirrors)
            is_whole = is_followed and mirror._read and mirror._reading is None
            assert key in mirror or not is_whole or begun != self.restarts
            model = await self._written(handle, method, self._link(handle, id=key, n=last - 1), mirror.rev(key))
            model = await self._written(handle, "patch", self._link(handle, id=key, n=last))
            if ends:
                await self._written(handle, "delete", {"id": key})
                model = None
        except (NotFound, Conflict):
            # Nobody else writes it: only the loss of everything takes it away.
            assert not self.is_lasting
            assert begun != self.restarts
            return None
        except (Dropped, Timeout, Unavailable, UnknownOutcome):
            return None
        return key, model, begun

    def _link(self, handle: Any, **fields: Any) -> dict[str, Any]:
        return {"chain": True, "by": self._user(handle), **fields}

    async def _written(self, handle: Any, method: str, model: dict[str, Any], rev: int | None = None) -> Any:
        try:
            return await handle.sync(method, model, rev=rev)
        except (Dropped, Timeout, Unavailable) as err:
            # Time passes only for a client that has never reached the server; else it stands still until it does again.
            is_late = isinstance(err, Timeout)
            assert not (is_late and handle._session._reached)
            # It was never sent, so it may be written once more, by whoever may.
            if method != "delete":
                self.unsent.append(model["n"])
            raise

    def _user(self, handle: Any) -> str:
        return self.harness._connection_of(handle).user

    async def wait(self, rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(0)

    async def settle(self) -> None:
        if not any(connection.held for connection in self.harness.connections):
            await self.harness.settle(PATIENCE)

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
        for client, handle in enumerate(self.handles):
            if t._connection_of(handle).silent and handle._subscription.tracker.positioned:
                begun = t.clock.time()
                with suppress(Dropped):  # it is somebody else by now
                    await handle.create({"n": -self.users - client, "by": self._user(handle)})
                assert t.clock.time() - begun < FOUND_OUT
        await t.settle(PATIENCE)
        outcomes = await asyncio.gather(*self.writes, return_exceptions=True)
        expected = (dict, Conflict, Dropped, NotFound, Timeout, Unavailable, UnknownOutcome)
        assert [outcome for outcome in outcomes if not isinstance(outcome, expected)] == []
        chains = [chain for chain in await asyncio.gather(*self.chains) if chain is not None]
        for client, opened in enumerate(self.opened):
            if (await asyncio.gather(opened, return_exceptions=True))[0] is not self.mirrors[client]:
                await self.mirrors[client].open()
        # A lost notification shows with the next one.
        await self.handles[0].create({"n": 0, "by": self._user(self.handles[0])})
        await t.settle(PATIENCE)
        witness = await t.client(channel="x")
        held = {model["id"]: model for model in await witness.read()}
        assert [dict(mirror) for mirror in self.mirrors] == [held] * CLIENTS
        numbers = Counter(model["n"] for model in held.values())
        assert max(numbers.values()) == 1
        assert max(self.effects.values()) == 1
        assert [n for n in self.unsent if self.effects[f"number {n}"]] == []
        for key, model, begun in chains:
            assert held.get(key) == model or not (self.is_lasting or begun == self.restarts)


@pytest.mark.timeout(600)
@settings(max_examples=examples(200))
@given(st.lists(steps, max_size=40), st.integers(0, 1000))
def test_memory(schedule: list[tuple[Any, ...]], seed: int) -> None:
    """A store in memory, that forgets everything when the server is restarted."""
    effects: Counter[str] = Counter()
    asyncio.run(Schedule(counted(MemoryStore, effects), effects, seed, is_lasting=False).run(schedule))


@pytest.mark.timeout(600)
@settings(max_examples=examples(60))
@given(st.lists(steps, max_size=40), st.integers(0, 1000))
def test_disk(schedule: list[tuple[Any, ...]], seed: int) -> None:
    """A store on disk, that forgets nothing: every write that succeeded is there, once."""
    effects: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        store = counted(SQLiteStore, effects, path=Path(folder) / "todos.db", durable=False)
        asyncio.run(Schedule(store, effects, seed, is_lasting=True).run(schedule))


async def many_models() -> None:
    """Read 20,000 models page by page, and once more after a silent death, while another client writes."""
    effects: Counter[str] = Counter()
    held = {f"s{n:05}": {"id": f"s{n:05}", "n": n} for n in range(20_000)}

    class Many(Backend):
        store = counted(MemoryStore, effects, models=list(held.values()), queries=QueryLimits(limit=5_000, seconds=60))

    async with App().serve(Many).test() as t:
        ann, bob = await t.clients(2, deadline=10_000)

        async def work(first: int) -> None:
            for n in range(first, 20_000, 5_000):
                made = await bob.create({"n": -n})
                changed = await bob.patch({"id": f"s{n:05}", "n": -n})
                gone = await bob.delete(f"s{19_999 - n:05}")
                held.update({made["id"]: made, changed["id"]: changed})
                del held[gone["id"]]

        mirror, _ = await asyncio.gather(ann.collection().open(), work(1))
        await t.settle(PATIENCE)
        assert dict(mirror) == held
        t.silence(ann)
        await work(2)
        reset = asyncio.create_task(mirror.changed())
        await asyncio.gather(t.settle(PATIENCE), work(3))
        await t.settle(PATIENCE)
        assert (await reset).reset
        assert dict(mirror) == held
        assert all(mirror.rev(key) for key in held)


@pytest.mark.timeout(600)
def test_many_models() -> None:
    """More than a server tells at once."""
    asyncio.run(many_models())
