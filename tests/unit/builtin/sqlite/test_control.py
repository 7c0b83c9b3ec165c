"""Notices in an SQLite file: heard by others who have it open, dropped when they are old, and no burden otherwise."""

import sqlite3
from contextlib import closing

import pytest

from bbio import App, Backend, Unavailable
from bbio.builtin import SQLiteStore
from bbio.builtin.sqlite import control as sqlite_control
from bbio.cluster.control import Notice
from bbio.conformance import opened
from tests.support.listeners import until


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nobody waits long for the next look."""
    monkeypatch.setattr(sqlite_control.SQLiteControl, "seconds", 0.02)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "models.db"


def execute(path, statement, *values):
    """Do something to the file as another process would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement, values).fetchall()


def told(path, text='{"id": "a", "kind": "revoke", "user": "ann"}', at=2e9):
    execute(path, "INSERT INTO bbio_notices (process, at, notice) VALUES ('other', ?, ?)", at, text)


async def test_what_another_process_tells_is_heard_once(path):
    """What was told before the start is not."""
    async with opened(SQLiteStore(path)):
        told(path)
    async with opened(SQLiteStore(path)) as models:
        heard = []
        models.store.control.add(heard.append)
        told(path, '{"id": "b", "kind": "revoke", "channel": "staff"}')
        await until(lambda: heard)
        await models.create({"n": 1})
        await models.store.control.tell(Notice("own", "revoke", user="ann"), heard.append)
        told(path, "garbage")
        told(path, '{"id": "c", "kind": "leave"}')
        await until(lambda: len(heard) > 1)
        assert [notice.id for notice in heard] == ["b", "c"]


async def test_many_notices_are_read_piece_by_piece(path, monkeypatch):
    """All of them, in order."""
    monkeypatch.setattr(sqlite_control, "MAX_READ", 3)
    async with opened(SQLiteStore(path)) as models:
        heard = []
        models.store.control.add(heard.append)
        for n in range(10):
            told(path, f'{{"id": "{n}", "kind": "revoke"}}')
        await until(lambda: len(heard) == 10)
        assert [notice.id for notice in heard] == list("0123456789")


async def test_a_file_that_does_not_change_is_not_looked_into(path):
    """One pragma tells."""
    async with opened(SQLiteStore(path)) as models:
        control = models.store.control
        looked, polls, read = [], [], control.read

        async def counted(position):
            polls.append(position)
            return await read(position)

        control.read, control._on_change = counted, looked.append
        await models.create({"n": 1})
        control.add(looked.append)
        await until(lambda: looked)
        polls.clear()
        await until(lambda: len(polls) > 3)
        assert len(looked) == 1


async def test_a_recheck_of_another_process_is_heard(path):
    """With the next look, although nobody reads the log."""
    async with opened(SQLiteStore(path)) as models:
        rechecked = []
        models.store.publisher.recheck_soon = lambda channel=None: rechecked.append(channel)
        models.store.control.add(rechecked.append)
        execute(path, "UPDATE bbio_backends SET rechecks = rechecks + 1")
        await until(lambda: rechecked)
        await models.store.positions(["c:"])
        assert rechecked == [None]


async def test_old_notices_are_dropped_and_what_is_missed_is_noticed(path, monkeypatch):
    """By their age and by their number; numbers are never given again."""
    monkeypatch.setattr(sqlite_control, "MAX_NOTICES", 3)
    async with opened(SQLiteStore(path)) as models:
        told(path, at=0.0)
        for n in range(5):
            await models.store.control.tell(Notice(f"n{n}", "revoke"))
        rows = execute(path, "SELECT id FROM bbio_notices ORDER BY id")
        assert rows == [(4,), (5,), (6,)]
        execute(path, "DELETE FROM bbio_notices")
        heard = []
        models.store.control.add(heard.append)
        told(path)
        await until(lambda: heard)
        assert [notice and notice.id for notice in heard] == [None, "a"]


async def test_a_file_that_cannot_be_written_is_unavailable(path, caplog):
    """Nothing stays half done."""
    async with opened(SQLiteStore(path, timeout=0.01)) as models:
        execute(path, "CREATE TRIGGER no BEFORE INSERT ON bbio_notices BEGIN SELECT RAISE(FAIL, 'no'); END")
        with pytest.raises(Unavailable):
            await models.store.control.tell(Notice("a", "revoke"))
        execute(path, "DROP TRIGGER no")
        await models.store.control.tell(Notice("a", "revoke"))
        assert len(execute(path, "SELECT * FROM bbio_notices")) == 1


async def test_all_applications_of_a_process_hear_what_one_tells(path):
    """Two of them share the file, and its control."""
    apps = [App().serve(type(name, (Backend,), {"store": SQLiteStore(path)})) for name in ("Rooms", "Notes")]
    ended = []
    for app in apps:
        await app.open()
        app.gateway.revoke = lambda app=app, **who: ended.append((app, who)) or 0
    await apps[0].revoke(user="ann")
    await until(lambda: len(ended) == 2)
    assert ended == [(app, {"subject": "ann", "session": None}) for app in apps]
    for app in apps:
        await app.close()
