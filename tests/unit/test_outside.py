"""`bbio.open`: what is opened, what is refused, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
import sqlite3
import sys
import threading
from contextlib import closing
from types import ModuleType

import attrs
import pytest
from aiohttp import web

import bbio
from bbio import App, Backend, ConfigurationError, Limits, NotFound, Runtime, Store, Unavailable, before, create, read
from bbio.builtin import MemoryStore, SQLiteStore
from bbio.builtin.sqlite import file as sqlite_file
from bbio.outside import LoopThread


@attrs.define
class Todo:
    title: str
    by: str = ""


def make_app(path, limits=None, **backends):
    """An application over a file."""

    class Todos(Backend[Todo]):
        store = SQLiteStore(path, index=["title"])

        @before("create")
        def sign(self, req):
            req.model.by = "server" if req.is_trusted else req.user

    return App(limits=limits).serve(Todos, **backends)


@pytest.fixture
def path(tmp_path):
    """A file in which a server has made its tables."""
    path = tmp_path / "todos.db"

    async def serve():
        async with make_app(path).running():
            pass

    asyncio.run(serve())
    return path


@pytest.fixture
def started():
    """`started()`: the threads that were started since the test began and run; other tests may have left some."""
    before = set(threading.enumerate())
    return lambda: set(threading.enumerate()) - before


def tables(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()


def test_both_forms_give_the_backends(path, started):
    """By name and by class; one application may be opened again and again, in one form and the other."""
    app = make_app(path)
    (todos,) = app.backends.values()
    cls = type(todos.backend)

    async def main():
        async with bbio.open(app) as backends:
            assert backends is app.backends
            milk = await backends[cls].create(Todo("milk"))
            tea = await backends["todos"].create({"title": "tea"}, user="ann")
            return milk, tea

    opening = bbio.open(app)
    for _ in range(2):
        milk, tea = asyncio.run(main())
        assert (milk.title, milk.by, tea.by) == ("milk", "server", "ann")
        with opening as backends:
            assert (list(backends), len(backends), repr(backends["todos"])) == (["todos"], 1, "<BlockingBackend todos>")
            assert backends[cls].read(milk.id) == milk
            assert backends["todos"].delete(tea).title == "tea"
            with pytest.raises(NotFound):
                backends["todos"].read(tea.id)
            with pytest.raises(KeyError, match="no backend 'notes' is served; served: todos"):
                backends["notes"]
    assert started() == set()


def test_a_mounted_application_is_opened_by_the_name_of_its_module(path, monkeypatch):
    """It is the App that is mounted on it; a name that is wrong is told as an import error is."""
    served = ModuleType("served_by_name")
    served.app = web.Application()
    make_app(path).mount(served.app)
    monkeypatch.setitem(sys.modules, "served_by_name", served)
    with bbio.open("served_by_name:app") as backends:
        assert list(backends) == ["todos"]
    for target, text in (
        ("no_such_module:app", "there is no module 'no_such_module'; run the program in the folder that holds it"),
        ("served_by_name:other", "has no 'other'; did you mean served_by_name:app"),
        (7, "7 is no application: give a bbio.App"),
        (web.Application(), "is no application: give a bbio.App"),
    ):
        with pytest.raises(ConfigurationError, match=text), bbio.open(target):
            pass


def test_an_application_without_a_shared_store_is_refused(started):
    """The text says why, and what to do."""

    class Todos(Backend):
        store = MemoryStore()

    for app, text in (
        (App().serve(Todos), r"shared by processes \(todos\).* give it an SQLiteStore or a PostgresStore.*bbio.client"),
        (App(), "serves no backend"),
    ):
        with pytest.raises(ConfigurationError, match=text), bbio.open(app):
            pass
    assert started() == set()


class Kept(Store):
    async def read(self, req):
        return {"id": req.id, "kept": True}

    async def delete(self, req):
        return dict(req.model)


class Prices(Backend):
    @read
    def price(self, req):
        return {"id": req.id, "price": 7}

    @create
    async def add(self, req):
        return req.model


def test_of_backends_beside_a_shared_one_only_what_is_true_anywhere_can_be_asked(path, caplog):
    """What is in memory is the server's; handlers and other stores read alike, but nobody would be told of a write."""

    class Memory(Backend):
        store = MemoryStore(models=[{"id": 1}])

    class Other(Backend):
        store = Kept()

    app = make_app(path, memory=Memory, prices=Prices, other=Other)
    with bbio.open(app) as backends:
        assert backends["prices"].read("milk") == {"id": "milk", "price": 7}
        assert backends["other"].read("a") == {"id": "a", "kept": True}
        for call in (lambda: backends["memory"].read(1), lambda: backends["memory"].create({})):
            with pytest.raises(ConfigurationError, match=r"'memory' keeps its models in memory.*give it an SQL"):
                call()
        for call in (lambda: backends["prices"].create({}), lambda: backends["other"].delete("a")):
            with pytest.raises(ConfigurationError, match=r"the clients of the server would not be told; give it"):
                call()
        caplog.clear()
        backends["prices"].emit("created", {"id": "tea"})
        backends["todos"].emit("created", {"id": "a", "title": "milk"})
        (record,) = caplog.records
        assert "prices: an emit from outside the server's process reaches nobody" in record.getMessage()

    async def serve():
        async with app.running():
            assert (await app.backends["memory"].read(1)) == {"id": 1}
            await app.backends["prices"].create({"id": "tea"})
            app.backends["prices"].emit("created", {"id": "tea"})

    asyncio.run(serve())
    assert caplog.text.count("from outside") == 1


def test_it_is_open_once_in_a_process(path):
    """Not while it is open, nor where it runs; afterwards it can be opened again."""
    app = make_app(path)

    async def main():
        async with app.running():
            with pytest.raises(ConfigurationError, match=r"runs already in this process; use app\.backends"):
                async with bbio.open(app):
                    pass
        async with bbio.open(app) as backends:
            with pytest.raises(ConfigurationError, match="is open already; open it once in each process"):
                async with bbio.open(app):
                    pass
            with pytest.raises(ConfigurationError, match=r"write `async with bbio\.open"), bbio.open(app):
                pass
            return await backends["todos"].query()

    assert asyncio.run(main()).models == []
    opened = bbio.open(app)
    with opened as backends:
        with pytest.raises(ConfigurationError, match="is open already"), bbio.open(app):
            pass
        assert opened.run(app.backends["todos"].query()).models == backends["todos"].query().models == []
    with pytest.raises(ConfigurationError, match=r"is for within `with bbio\.open"):
        opened.run(app.backends["todos"].query())
    with pytest.raises(ConfigurationError, match="does not run"):
        backends["todos"].query()


def test_tables_are_left_as_they_are(path, monkeypatch, tmp_path):
    """A file of another version, or a path where there is none, is refused; `migrate` does what a server does."""
    before = tables(path)

    def refused(app, text):
        async def main():
            async with bbio.open(app):
                pass

        with pytest.raises(ConfigurationError, match=text) as caught, bbio.open(app):
            pass
        assert "bbio.open(..., migrate=True)" in str(caught.value)
        with pytest.raises(ConfigurationError, match=text):
            asyncio.run(main())

    class Todos(Backend):
        store = SQLiteStore(path, "todos")

    with bbio.open(App().serve(Todos)):  # without the index
        pass
    assert tables(path) == before
    refused(App().serve(type("Notes", (Backend,), {"store": SQLiteStore(path)})), "todos.db has no table 'notes'")
    assert tables(path) == before
    elsewhere = tmp_path / "elsewhere.db"
    refused(make_app(elsewhere), r"elsewhere.db is not there; is this the folder in which the server runs\?")
    assert not elsewhere.exists()
    with closing(sqlite3.connect(elsewhere)) as connection:
        connection.execute("CREATE TABLE other (id)")
    refused(make_app(elsewhere), "elsewhere.db has no tables of bbio")
    with bbio.open(make_app(elsewhere), migrate=True) as backends:
        backends["todos"].create({"title": "milk"})
    with bbio.open(make_app(elsewhere)) as backends:
        assert [todo.title for todo in backends["todos"].query().models] == ["milk"]
    later = (*sqlite_file.MIGRATIONS, ("ALTER TABLE bbio_backends ADD COLUMN more",))
    with monkeypatch.context() as newer:
        newer.setattr(sqlite_file, "MIGRATIONS", later)
        refused(make_app(path), "todos.db was written by an older version of bbio, whose servers may run")
        assert tables(path) == before
        with bbio.open(make_app(path), migrate=True):
            pass
    with pytest.raises(ConfigurationError, match="newer version of bbio: update bbio"), bbio.open(make_app(path)):
        pass


def test_what_is_under_way_at_the_end_finishes(path, monkeypatch):
    """Calls in tasks, also those that have not begun, and emits."""
    app = make_app(path)
    go_on = threading.Event()
    append = Runtime._append

    async def slow(self, *args, **kwargs):
        await asyncio.to_thread(go_on.wait)
        return await append(self, *args, **kwargs)

    monkeypatch.setattr(Runtime, "_append", slow)

    async def main():
        async with bbio.open(app) as backends:
            runtime = backends["todos"]
            runtime.emit("created", {"id": "x", "title": "emitted"})
            task = asyncio.create_task(runtime.create({"title": "milk"}))
            asyncio.get_running_loop().call_later(0.05, go_on.set)
        return await task

    made = asyncio.run(main())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM todos").fetchall() == [(made.id,)]
        assert connection.execute("SELECT count(*) FROM bbio_log").fetchone() == (2,)


def test_what_does_not_finish_is_told(path, monkeypatch, caplog):
    """The caller is told, and the log tells how many calls and emits there were."""

    class Slow(Backend):
        store = SQLiteStore(path)

        @before
        async def wait(self):
            await asyncio.Event().wait()

    never = asyncio.Event()

    async def stuck(self, *args, **kwargs):
        await never.wait()

    monkeypatch.setattr(Runtime, "_append", stuck)
    app = make_app(path, limits=Limits(drain_time=0.1), slow=Slow)

    async def main():
        async with bbio.open(app, migrate=True) as backends:
            task = asyncio.create_task(backends["slow"].create({}))
            backends["todos"].emit("created", {"id": "x", "title": "emitted"})
        with pytest.raises(Unavailable):
            await task

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "1 calls were under way at the end and were given up; writes may be applied",
        "1 emits were under way at the end; clients may not be told of them",
    ]


def test_an_error_in_the_block_is_raised_and_all_is_closed(path, started):
    """Also one of the start, after which the application can be opened again."""
    app = make_app(path)

    async def main():
        async with bbio.open(app):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())
    with pytest.raises(ZeroDivisionError), bbio.open(app):
        raise ZeroDivisionError
    path.rename(path.with_suffix(".away"))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="is not there"), bbio.open(app):
            pass
    assert started() == set()
    path.with_suffix(".away").rename(path)
    with bbio.open(app):
        pass


async def interrupt():
    """Have Ctrl-C come to a thread that is not the one that waits, as one does that comes just before it sleeps."""
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    await asyncio.sleep(3600)


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt in this test."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_wait_that_it_does_not_wake_up():
    """The thread that waits looks for signals all the same."""
    thread = LoopThread()
    try:
        with pytest.raises(KeyboardInterrupt):
            thread.run(interrupt())
    finally:
        thread.stop()


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_call_that_it_does_not_wake_up(path):
    """As it ends any other wait; the call goes on until the application is closed."""

    class Slow(Backend):
        store = SQLiteStore(path)

        @before
        async def wait(self):
            await interrupt()

    app = make_app(path, limits=Limits(drain_time=0.1), slow=Slow)
    with bbio.open(app, migrate=True) as backends, pytest.raises(KeyboardInterrupt):
        backends["slow"].create({}, timeout=3600)
