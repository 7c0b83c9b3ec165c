"""Bulk writes over real stores: all or nothing of a batch, each row once, and listeners who are told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from bbio import (
    App,
    Backend,
    BulkError,
    Conflict,
    Limits,
    NotFound,
)
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.calls import Terms
from bbio.store import Checkpoint, Step


@attrs.define
class Todo:
    title: str = attrs.field(validator=attrs.validators.min_len(1))
    done: bool = False


def todos(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"title": f"todo {number}"} for number in range(first, first + count)]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request, tmp_path) -> Any:
    """A store of each kind."""
    if request.param == "memory":
        return MemoryStore
    if request.param == "sqlite":
        return lambda **options: SQLiteStore(tmp_path / "todos.db", "todos", **options)
    url = request.getfixturevalue("database_url")
    return lambda **options: PostgresStore(url, "todos", **options)


@asynccontextmanager
async def served(declared: Any, model_: Any = Todo, limits: Limits | None = None, **names: Any):
    """The application of one backend over a store, running without a port; it gives the backend."""
    cls = type("Todos", (Backend,), {"store": declared, **({"model": model_} if model_ else {}), **names})
    app = App(limits=limits).serve(cls)
    await app.open()
    try:
        yield app.backends["todos"]
    finally:
        await app.close()


async def titles(backend: Any) -> list[str]:
    """The titles of all models, in the order of their numbers."""
    found = [model["title"] async for page in backend.pages(size=100) for model in page]
    return sorted(found, key=lambda title: int(title.split()[-1]))


async def test_all_rows_are_stored(store) -> None:
    """Rows of a generator, of an async one, and instances are stored, and progress is told after each batch."""

    async def more():
        for row in todos(7, 30):
            yield row

    async with served(store()) as backend:
        told: list[int] = []
        done = await backend.bulk((row for row in todos(30)), batch=10, on_progress=lambda p: told.append(p.rows))
        assert (done.rows, done.earlier, done.new, told) == (30, 0, 30, [10, 20, 30])

        async def tell(progress: Any) -> None:
            told.append(progress.rows)

        await backend.bulk(more(), batch=5, on_progress=tell)
        assert told[3:] == [5, 7]
        await backend.bulk([Todo("todo 37"), Todo("todo 38", done=True)])
        assert await titles(backend) == [f"todo {number}" for number in range(39)]


async def test_a_bad_row_leaves_nothing_of_its_batch(store) -> None:
    """The error has its number and its fields; the batches before it are stored."""
    rows: list[Any] = todos(30)
    rows[17] = {"title": "", "done": "perhaps"}
    async with served(store()) as backend:
        with pytest.raises(BulkError, match=r"row 18: the model is not valid.*rows 1 to 10 are stored") as caught:
            await backend.bulk(rows, batch=10, op="import")
        assert (caught.value.row, caught.value.rows, set(caught.value.fields)) == (18, 10, {"title", "done"})
        assert await titles(backend) == [f"todo {number}" for number in range(10)]
        rows[17] = {"title": "todo 17"}
        done = await backend.bulk(rows, batch=10, op="import")
        assert (done.rows, done.earlier) == (30, 10)
        assert await titles(backend) == [f"todo {number}" for number in range(30)]


async def test_what_the_store_refuses_leaves_nothing(store) -> None:
    """A model that is not there, or is not as the row says, stops the bulk; others are as they were."""
    async with served(store(), None) as backend:
        made = [await backend.create({"n": number}) for number in range(3)]
        seen: list[str] = []
        patches = [{"id": made[0]["id"], "n": 7}, {"id": "nobody", "n": 8}, {"id": made[2]["id"], "n": 9}]
        with pytest.raises(BulkError) as caught:
            await backend.bulk(patches, method="patch", op="x", on_progress=seen.append)
        assert (caught.value.row, type(caught.value.error), seen) == (2, NotFound, [])
        with pytest.raises(BulkError, match="row 1: ids are given by the server"):
            await backend.bulk([{"id": "7", "n": 1}])
        assert [(await backend.read(each["id"]))["n"] for each in made] == [0, 1, 2]
        assert await backend.bulk_progress("x") is None
        await backend.bulk(patches[::2], method="patch")
        await backend.bulk([{"id": made[1]["id"], "n": 8}], method="update")
        assert [(await backend.read(each["id"]))["n"] for each in made] == [7, 8, 9]


async def test_an_upsert_replaces_and_creates(store) -> None:
    """A row replaces the model of its id or creates it, also one of the same bulk; listeners are told which."""
    async with served(store()) as backend, backend.events() as events:
        await backend.bulk([{"id": "a", "title": "a 1"}, {"id": "b", "title": "b 2"}], method="upsert")
        await backend.bulk(
            [{"id": "b", "title": "b 3"}, {"id": "c", "title": "c 4"}, {"id": "c", "title": "c 5"}], method="upsert"
        )
        told = [(event.method, event.model["title"]) for event in [await anext(events) for _ in range(5)]]
        assert told == [
            ("create", "a 1"), ("create", "b 2"), ("update", "b 3"), ("create", "c 4"), ("update", "c 5"),
        ]  # fmt: skip
        assert await titles(backend) == ["a 1", "b 3", "c 5"]
        with pytest.raises(NotFound):
            await backend.update({"id": "d", "title": "other calls create nothing"})
        with pytest.raises(BulkError, match=r"row 1: update needs the model's 'id'"):
            await backend.bulk([{"title": "x"}], method="upsert")


class Broken(Exception):
    """What rows come from breaks."""


def broken(rows: list[Any], after_: int):
    yield from rows[:after_]
    raise Broken("the network is gone")


async def test_an_interrupted_bulk_goes_on(store) -> None:
    """Interrupted twice, by what it reads and by a cancellation, it stores each row once; again, it changes nothing."""
    rows = todos(40)
    async with served(store()) as backend:
        with pytest.raises(BulkError, match="row 26: the network is gone; rows 1 to 20 are stored") as caught:
            await backend.bulk(broken(rows, 25), batch=10, op="import")
        assert isinstance(caught.value.__cause__, Broken)
        progress = await backend.bulk_progress("import")
        assert (progress.rows, progress.new) == (20, 0)

        async def stalled():
            for row in rows[:35]:
                yield row
            reached.set()
            await asyncio.Event().wait()

        reached = asyncio.Event()
        task = asyncio.ensure_future(backend.bulk(stalled(), batch=10, op="import"))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        done = await backend.bulk(rows, batch=7, op="import")
        assert (done.rows, done.earlier) == (40, 30)
        assert await titles(backend) == [f"todo {number}" for number in range(40)]
        again = await backend.bulk(rows, op="import")
        assert (again.rows, again.new) == (40, 0)
        assert await backend.bulk_progress("import") is None
        assert len(await titles(backend)) == 40
        await backend.forget_bulk("import")
        await backend.bulk(rows[:1], op="import")
        assert len(await titles(backend)) == 41


async def test_other_rows_under_the_same_name_are_refused(store) -> None:
    """Rows that are not those which were stored, fewer, or more after the end, are a Conflict, and change nothing."""
    rows = todos(20)
    async with served(store()) as backend:
        with pytest.raises(BulkError):
            await backend.bulk(broken(rows, 15), batch=10, op="x")
        for others, text in (([*rows[:9], {"title": "other"}, *rows[10:]], "other rows"), (rows[:5], "only 5 rows")):
            with pytest.raises(Conflict, match=text):
                await backend.bulk(others, op="x")
        with pytest.raises(Conflict, match="other rows"):
            await backend.bulk(rows, op="x", channel="elsewhere")
        await backend.bulk(rows, op="x")
        with pytest.raises(Conflict, match="more rows"):
            await backend.bulk([*rows, {"title": "more"}], op="x")
        assert await titles(backend) == [f"todo {number}" for number in range(20)]


async def test_two_runs_of_one_bulk_do_not_mix(store) -> None:
    """The second of two that run at once is refused, whichever batch it comes to first; each row is stored once."""
    rows = todos(60)
    async with served(store()) as backend:
        results = await asyncio.gather(
            *(backend.bulk(rows, batch=10, op="x") for _ in range(3)), return_exceptions=True
        )
        refused = [each for each in results if isinstance(each, BulkError)]
        assert len(refused) == 2
        assert all("has gone on elsewhere" in str(each) for each in refused)
        assert await titles(backend) == [f"todo {number}" for number in range(60)]


async def test_checkpoints_are_kept_with_their_rows(store) -> None:
    """A store takes a step after the right number of rows alone, and none when the bulk is done."""
    async with served(store()) as backend:
        requests = [backend._bulk_request("create", row, Terms(None, None, None, None)) for row in todos(2)]
        for req in requests:
            req.entry = None
        opened = backend.store
        await opened.write_all(requests[:1], Step("x", 0, [b"a" * 16]))
        assert await opened.checkpoint("x") == Checkpoint(1, b"a" * 16)
        for start in (0, 2):
            with pytest.raises(Conflict):
                await opened.write_all(requests[1:], Step("x", start, [b"b" * 16]))
        await opened.set_checkpoint("x", Checkpoint(1, b"a" * 16, is_done=True))
        with pytest.raises(Conflict):
            await opened.write_all(requests[1:], Step("x", 1, [b"b" * 16]))
        assert len(await titles(backend)) == 1


async def test_listeners_are_told_of_each_record(store) -> None:
    """Up to the limit, a connected client hears of every record, in order."""
    app = App().serve(type("Todos", (Backend,), {"model": Todo, "store": store()}))
    async with app.test() as t:
        shown = await (await t.client(backend="todos")).collection()
        await app.backends["todos"].bulk(todos(120), batch=50)
        await shown.until(lambda models: len(models) == 120, timeout=60)


async def test_past_the_limit_listeners_read_again(store) -> None:
    """Past the limit nobody is told one by one, and all clients have everything at the end, others' writes too."""
    limits = Limits(bulk_events=20)
    app = App(limits=limits).serve(type("Todos", (Backend,), {"model": Todo, "store": store()}))
    async with app.test() as t:
        backend = app.backends["todos"]
        client = await t.client(backend="todos")
        shown = await client.collection()
        writes = asyncio.ensure_future(backend.bulk(todos(1_500), batch=300))
        await client.create({"title": "todo 1500"})
        await writes
        await shown.until(lambda models: len(models) == 1_501, timeout=120)
