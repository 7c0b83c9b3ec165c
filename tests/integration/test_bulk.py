"""Bulk writes over real stores: all or nothing of a batch, each row once, and listeners who are told."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import asynccontextmanager, closing
from typing import Any

import attrs
import pytest

from bbio import (
    App,
    Backend,
    BadRequest,
    BulkError,
    ConfigurationError,
    Conflict,
    Forbidden,
    Invalid,
    Limits,
    NotFound,
    StackError,
    Store,
    Timeout,
    Unavailable,
    UnknownOutcome,
    after,
    before,
    create,
    on_error,
    use,
    visible,
)
from bbio.builtin import Logger, MemoryStore, PostgresStore, SQLiteStore
from bbio.builtin.postgres import store as postgres_store
from bbio.calls import Terms
from bbio.runtime import Runtime
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


async def test_layers_that_are_not_declared_are_refused() -> None:
    """The text names them, and how to mend it; written by itself, a record may pass any layer."""
    seen: list[str] = []

    class Todos(Backend):
        store = MemoryStore()
        middleware = [Logger()]

        @before("create", bulk=True)
        def first(self, req: Any) -> None:
            seen.append(f"first {req.model['title']}")

        @before("create")
        def look(self, req: Any) -> None:
            seen.append(f"look {req.model['title']}")

        @create
        async def make(self, req: Any, next: Any) -> Any:
            return await next()

        @after("create")
        def tell(self, req: Any, res: Any) -> None:
            seen.append(f"after {res.result['title']}")

    app = App().serve(Todos)
    async with app.test() as t:
        backend = t.backends["todos"]
        with pytest.raises(ConfigurationError, match=r"Todos\.look .*Todos\.make .*bulk=True.*batch=1"):
            await backend.bulk(todos(2))
        await backend.bulk(todos(2), batch=1)
        assert seen == ["first todo 0", "look todo 0", "after todo 0", "first todo 1", "look todo 1", "after todo 1"]


async def test_declared_layers_run_for_a_whole_batch_before_it_is_stored() -> None:
    """Each runs once for each record; what is around the store gets the record that is stored."""
    seen: list[Any] = []

    class Todos(Backend):
        store = MemoryStore()

        @before("create", bulk=True)
        async def first(self, req: Any) -> None:
            await asyncio.sleep(0)
            assert (req.origin, req.is_trusted) == ("server", True)
            seen.append(len(await self.all()))

        @use("create", bulk=True)
        async def around(self, req: Any, next: Any) -> Any:
            record = await next()
            seen.append(record["title"])
            return record

        @create(bulk=True)
        async def make(self, req: Any, next: Any) -> Any:
            return await next()

        @after("create", once=True)
        def once(self, req: Any, record: Any) -> None:
            seen.append(record["id"])

        async def all(self) -> Any:
            return (await app.backends["todos"].query()).models

    app = App().serve(Todos)
    async with app.test() as t:
        await t.backends["todos"].bulk(todos(3))
        assert seen[:3] == [0, 0, 0]
        assert sorted(map(str, seen[3:])) == sorted(
            [f"todo {n}" for n in range(3)] + [model["id"] for model in await app.backends[Todos].backend.all()]
        )


async def test_a_failing_layer_stops_the_batch() -> None:
    """Its error names the row; layers of `on_error` see that error, and no layer goes on with the other rows."""
    seen: list[Any] = []

    class Todos(Backend):
        store = MemoryStore()

        @before("create", bulk=True)
        def check(self, req: Any) -> None:
            if req.model["title"] == "todo 4":
                raise Forbidden("not this one")
            if req.model["title"] == "todo 14":
                raise ZeroDivisionError
            if req.model["title"] == "todo 44":
                raise Forbidden("recover")

        @use("create", bulk=True)
        async def around(self, req: Any, next: Any) -> Any:
            if req.model["title"] == "todo 24":
                return {"id": "answered"}
            return await next()

        @after("create")
        def fail(self, req: Any, res: Any) -> None:
            if res.result["title"] == "todo 34":
                raise Invalid("too late", fields={"title": "is too late"})

        @on_error
        def report(self, err: Exception, req: Any, res: Any) -> None:
            seen.append(type(err))
            if str(err) == "recover":
                res.end({})

    app = App().serve(Todos)
    async with app.test() as t:
        backend = t.backends["todos"]
        for first, text, stored in (
            (0, "row 5: not this one; no row", 0),
            (10, "row 5: Internal error", 0),
            (20, "row 5: a layer has answered todos.create in place of the store", 0),
            (40, "row 5: a layer of todos.create recovers its error", 0),
            (30, "row 5: too late: title is too late; rows 1 to 8 are stored", 8),
        ):
            with pytest.raises(BulkError, match=text) as caught:
                await backend.bulk(todos(8, first), op=f"from {first}")
            assert len((await backend.query()).models) == caught.value.rows == stored
        assert seen == [Forbidden, ZeroDivisionError, StackError, Forbidden, Invalid]


async def test_on_error_layers_see_what_the_store_refuses() -> None:
    """They may make another error of it; if they recover, the row is refused all the same, for it is not stored."""

    class Todos(Backend):
        store = MemoryStore()

        @on_error
        def report(self, err: Exception, req: Any, res: Any) -> None:
            if req.model.get("id") == "recover":
                res.end({})
            else:
                raise Forbidden("another error")

    async with App().serve(Todos).test() as t:
        backend = t.backends["todos"]
        with pytest.raises(BulkError, match="row 2: another error"):
            await backend.bulk([{"id": "a", "n": 1}, {"n": 2}], method="upsert")
    async with App().serve(Todos).test() as t:
        with pytest.raises(BulkError, match="row 1: there is no model"):
            await t.backends["todos"].bulk([{"id": "recover", "n": 1}], method="patch")


async def test_a_bulk_for_a_user_stays_in_the_users_scope(store) -> None:
    """With `user`, rows out of the scope are refused, and the user is known to layers."""

    class Todos(Backend):
        store_ = None

        @visible
        def own(self, req: Any) -> Any:
            return {"owner": req.user["id"]}

    Todos = type("Todos", (Todos,), {"store": store()})
    app = App().serve(Todos)
    async with app.test() as t:
        backend = t.backends["todos"]
        await backend.bulk([{"owner": "ann", "n": 1}], user={"id": "ann"})
        with pytest.raises(BulkError, match="row 2") as caught:
            await backend.bulk([{"owner": "ann", "n": 2}, {"owner": "bob", "n": 3}], user={"id": "ann"})
        assert isinstance(caught.value.error, Forbidden)
        assert [model["n"] for model in (await backend.query()).models] == [1]


async def test_arguments_are_checked() -> None:
    """What makes no sense is refused before a row is read."""
    async with served(MemoryStore(), None) as backend:
        for options, text in (
            ({"method": "delete"}, "use any of create, update, patch, upsert"),
            ({"op": ""}, "1 to 200 printable"),
            ({"op": "a\nb"}, "1 to 200 printable"),
            ({"batch": 0}, "1 to 1000 records"),
            ({"batch": 1_001}, "1 to 1000 records"),
            ({"timeout": 0}, "must be greater than 0"),
        ):
            with pytest.raises(BadRequest, match=text):
                await backend.bulk([], **options)
        for row in ({"n": object()}, "no model"):
            with pytest.raises(BulkError, match="row 2"):
                await backend.bulk([{"n": 1}, row])
        assert (await backend.bulk([])).rows == 0

    class Own(Store):
        async def create(self, req: Any) -> Any:
            return req.model

    for declared, text in ((None, "it has no store"), (Own(), "Own does not")):
        async with served(declared, None) as backend:
            with pytest.raises(ConfigurationError, match=text):
                await backend.bulk([])
            await backend.forget_bulk("x") if declared is None else None
            assert declared is not None or await backend.bulk_progress("x") is None
    own = Own()
    with pytest.raises(BadRequest):
        await own.write_all([backend._bulk_request("create", {}, Terms(None, None, None, None))])
    with pytest.raises(NotImplementedError):
        await own.checkpoint("x")
    with pytest.raises(NotImplementedError):
        await own.set_checkpoint("x", None)


async def test_it_needs_a_running_application() -> None:
    """Before the start, after the end, and where nobody serves the backend, the text says so."""
    app = App().serve(type("Todos", (Backend,), {"store": MemoryStore()}))
    backend = app.backends["todos"]
    with pytest.raises(ConfigurationError, match="does not run"):
        await backend.bulk([])

    async def stopping():
        yield {"title": "a"}
        await app.close()
        yield {"title": "b"}

    await app.open()
    with pytest.raises(BulkError, match="does not run"):
        await backend.bulk(stopping(), batch=1)
    alone = Runtime(type("Alone", (Backend,), {})(), "alone", lambda work: None)
    with pytest.raises(ConfigurationError, match="served by no application"):
        await alone.bulk([])


async def test_a_batch_has_a_deadline() -> None:
    """A layer that hangs ends the batch, and nothing of it is stored."""

    class Todos(Backend):
        store = MemoryStore()

        @before("create", bulk=True)
        async def hang(self, req: Any) -> None:
            if req.model["title"] == "todo 3":
                await asyncio.Event().wait()

    async with App().serve(Todos).test() as t:
        with pytest.raises(BulkError, match="it stopped: The request took too long") as caught:
            await t.backends["todos"].bulk(todos(5), timeout=0.05)
        assert isinstance(caught.value.error, Timeout)
        assert (await t.backends["todos"].query()).models == []


async def test_large_records_are_stored_in_several_transactions(store) -> None:
    """Batches end after a megabyte of rows; updates of large models are parted, and each row is stored once."""
    async with served(store(), None) as backend:
        told: list[int] = []
        await backend.bulk(
            ({"id": f"{n}", "text": "x" * 300_000} for n in range(9)),
            method="upsert",
            on_progress=lambda progress: told.append(progress.rows),
        )
        assert told == [4, 8, 9]
        patches = [{"id": f"{n}", "n": n} for n in range(9)]
        with pytest.raises(BulkError, match="row 9") as caught:
            await backend.bulk([*patches[:8], {"id": "nobody", "n": 0}], method="patch", op="x")
        progress = await backend.bulk_progress("x")
        done = await backend.bulk(patches[:8], method="patch", op="y")
        assert done.rows == 8
        assert (progress.rows if progress else 0) == caught.value.rows < 9
        assert [model.get("n") for page in [p async for p in backend.pages(size=2)] for model in page][:8] == [
            *range(8)
        ]


async def test_rules_of_the_table_name_the_row(tmp_path) -> None:
    """A row that breaks a rule of the file is found, and nothing of its batch is stored."""
    async with served(SQLiteStore(tmp_path / "todos.db", "todos"), None) as backend:
        await backend.create({"title": "first"})
        with closing(sqlite3.connect(tmp_path / "todos.db", isolation_level=None)) as file:
            file.execute("CREATE UNIQUE INDEX titles ON todos (json_extract(body, '$.title'))")
        with pytest.raises(BulkError, match="row 3: another model has the same") as caught:
            await backend.bulk([{"title": title} for title in ("a", "b", "first", "c")], op="x")
        assert isinstance(caught.value.error, Conflict)
        assert len((await backend.query()).models) == 1
        assert (await backend.bulk([{"title": title} for title in "abc"], op="x")).rows == 3


async def test_a_lost_file_is_said(tmp_path) -> None:
    """Errors of the file are nobody's row; the bulk goes on once it is back."""
    path = tmp_path / "todos.db"
    async with served(SQLiteStore(path, "todos", timeout=0.05), None) as backend:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(BulkError, match="it stopped: the database cannot be used at the moment") as caught:
                await backend.bulk(todos(3), op="x")
            assert isinstance(caught.value.error, Unavailable)
            assert caught.value.row is None
            other.rollback()
        assert (await backend.bulk(todos(3), op="x")).rows == 3


async def test_many_rows_that_are_stored_are_passed_over_in_turns() -> None:
    """A long bulk that is gone on with does not hold up the event loop."""
    async with served(MemoryStore(), None) as backend:
        await backend.bulk(todos(1_200), op="x")
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        await backend.bulk(todos(1_200), op="x")
        counting.cancel()
        assert turns >= 2


async def test_a_bulk_that_is_done_is_forgotten_after_a_month(store, monkeypatch) -> None:
    """Its checkpoint goes when another bulk is kept; one that was interrupted stays."""
    async with served(store()) as backend:
        await backend.bulk(todos(1), op="done")
        with pytest.raises(BulkError):
            await backend.bulk(broken(todos(3), 2), op="interrupted", batch=1)
        module = sys.modules[type(backend.store).__module__]
        monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1.0)
        await backend.store.set_checkpoint("other", Checkpoint(1, bytes(16)))
        assert await backend.store.checkpoint("done") is None
        assert (await backend.bulk_progress("interrupted")).rows == 2
        assert await backend.store.checkpoint("other") == Checkpoint(1, bytes(16))


async def test_a_commit_that_fails_is_nobodys_row(tmp_path, monkeypatch) -> None:
    """It may be on the disk: without a name the outcome is unknown, with one it can be gone on with."""
    async with served(SQLiteStore(tmp_path / "todos.db", "todos"), None) as backend:
        database = backend.store._database
        check, checks = database._check_place, []

        def lost() -> None:
            checks.append(1)
            if len(checks) % 2 == 0:
                raise sqlite3.OperationalError("it was moved")
            check()

        monkeypatch.setattr(database, "_check_place", lost)
        for op, kind in ((None, UnknownOutcome), ("x", Unavailable)):
            with pytest.raises(BulkError) as caught:
                await backend.bulk(todos(1), op=op)
            assert type(caught.value.error) is kind
        monkeypatch.undo()
        assert (await backend.bulk(todos(1), op="x")).new == 0
        assert len((await backend.query()).models) == 2


async def test_a_rule_that_no_row_breaks_alone_is_nobodys_row(tmp_path) -> None:
    """Two rows that break a rule together: the second is at fault."""
    async with served(SQLiteStore(tmp_path / "todos.db", "todos"), None) as backend:
        with closing(sqlite3.connect(tmp_path / "todos.db", isolation_level=None)) as file:
            file.execute("CREATE UNIQUE INDEX titles ON todos (json_extract(body, '$.title'))")
        with pytest.raises(BulkError, match="row 2: another model has the same"):
            await backend.bulk([{"title": "a"}, {"title": "a"}])


async def test_rules_of_postgres_name_the_row(database_url, psql) -> None:
    """A row that a rule of the table refuses is found; one that another program holds is said to be so."""
    async with served(PostgresStore(database_url, "todos", timeout=0.5), None) as backend:
        first = await backend.create({"title": "first"})
        await psql.execute("CREATE UNIQUE INDEX titles ON todos ((body ->> 'title'))")
        with pytest.raises(BulkError, match="row 3: another model has the same") as caught:
            await backend.bulk([{"title": title} for title in ("a", "b", "first", "c")], op="x")
        assert isinstance(caught.value.error, Conflict)
        assert len((await backend.query()).models) == 1
        other = await backend.create({"title": "other"})
        async with psql.transaction():
            await psql.execute("SELECT FROM todos WHERE id = $1 FOR UPDATE", first["id"])
            with pytest.raises(BulkError, match="row 2: another program holds the model"):
                await backend.bulk([{"id": each["id"], "n": 1} for each in (other, first)], method="patch")
        assert [model.get("n") for model in (await backend.query()).models] == [None, None]


async def test_a_lost_connection_is_nobodys_row(database_url, psql) -> None:
    """A commit whose outcome cannot be learned: without a name it is unknown, with one it can be gone on with."""
    async with served(PostgresStore(database_url, "todos"), None) as backend:
        store = backend.store

        async def unknown(batch: Any) -> None:
            return None

        commit = postgres_store.commit

        async def in_doubt(connection: Any) -> None:
            await commit(connection)
            raise postgres_store.InDoubt

        store._outcome = unknown
        postgres_store.commit = in_doubt
        try:
            for op, kind in ((None, UnknownOutcome), ("x", Unavailable)):
                with pytest.raises(BulkError) as caught:
                    await backend.bulk(todos(1), op=op)
                assert type(caught.value.error) is kind
        finally:
            postgres_store.commit = commit
        assert (await backend.bulk(todos(1), op="x")).new == 0
        assert len((await backend.query()).models) == 2
