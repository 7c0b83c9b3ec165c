"""SQLite files that cannot be used: a clear error at the start, `Unavailable` later, and recovery by itself."""

import asyncio
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from bbio import ConfigurationError, Unavailable, UnknownOutcome
from bbio.builtin import SQLiteStore
from bbio.builtin.sqlite.file import Database, explain
from bbio.conformance import opened
from bbio.protocol import decode
from tests.support.disks import fail_syncs


@pytest.fixture
def path(tmp_path):
    """Where the models are kept."""
    return tmp_path / "models.db"


async def start(store):
    """Open and close a store."""
    async with opened(store):
        pass


async def consistent(models):
    """Nothing is half-written: the models are those that the stream tells of, at offsets without a hole."""
    events = await models.history()
    assert [event.offset for event in events] == list(range(1, len(events) + 1))
    assert sorted(model["n"] for model in await models.all()) == [decode(event.body)["n"] for event in events]
    assert [event.offset for event, _ in models.published] == [event.offset for event in events]


# At the start


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("nowhere/models.db", None, "the folder .*/nowhere does not exist: make it"),
        (".", None, "is a folder: give SQLiteStore the path of a file"),
        ("models.db", b"Dear diary, " * 1_000, "it is not an SQLite database: move it away"),
    ],
)
async def test_what_is_wrong_is_said_at_the_start(tmp_path, name, content, text):
    """With how to mend it; no thread is left behind."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=text):
        await start(SQLiteStore(tmp_path / name))
    assert [thread for thread in threading.enumerate() if thread.name == "bbio-sqlite"] == []
    if content is not None:
        assert (tmp_path / name).read_bytes() == content


async def test_a_file_that_is_locked_is_said_to_be(path):
    """Another program holds it for longer than the timeout."""
    await start(SQLiteStore(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigurationError, match="another program has locked it: end that program"):
            await start(SQLiteStore(path, timeout=0.05))
    await start(SQLiteStore(path))


async def test_a_file_that_is_locked_before_the_table_is_made(path):
    """The first store has the file open already when another program takes it."""
    async with opened(SQLiteStore(path, timeout=0.05), "first") as first:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(ConfigurationError, match="another program has locked it"):
                await start(SQLiteStore(path, "second"))
        await first.create({})
        await start(SQLiteStore(path, "second"))


async def test_a_place_without_shared_memory_is_refused(path, monkeypatch):
    """Where SQLite cannot keep its log, commits could not be shared."""
    monkeypatch.setattr(Database, "_connect", lambda self, timeout=None: sqlite3.connect(":memory:"))
    path.touch()
    with pytest.raises(ConfigurationError, match="lies where SQLite cannot share it"):
        await start(SQLiteStore(path))


async def test_a_reader_that_cannot_connect_ends_the_writer(path, monkeypatch):
    """The file can be opened later, by the same process."""

    def fail(self, timeout=None):
        raise sqlite3.OperationalError("no more files")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "_connect_reading", fail)
        with pytest.raises(ConfigurationError, match="cannot be used: no more files"):
            await start(SQLiteStore(path))
    assert [thread for thread in threading.enumerate() if thread.name == "bbio-sqlite"] == []
    await start(SQLiteStore(path))


async def test_a_connection_that_cannot_be_used_is_closed(path, monkeypatch):
    """Whichever it is, all of them are closed before the failure is told."""
    opened = []

    class Connection(sqlite3.Connection):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            opened.append(self)

        def execute(self, statement, *values):
            if failing and statement == failing[0]:
                raise sqlite3.OperationalError("no luck")
            return super().execute(statement, *values)

    monkeypatch.setattr(
        Database,
        "_connect",
        lambda self, timeout=None: sqlite3.connect(
            self.path, factory=Connection, check_same_thread=False, isolation_level=None
        ),
    )
    for statement, count in (("PRAGMA journal_mode = WAL", 1), ("PRAGMA query_only = 1", 2)):
        failing = [statement]
        with pytest.raises(ConfigurationError, match="no luck"):
            await start(SQLiteStore(path))
        assert len(opened) == count
        for connection in opened:
            with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
                connection.cursor()
        opened.clear()
    failing = []
    await start(SQLiteStore(path))


# Everything is imported before root is given up: what may be read then is not the question.
OPEN = """
import asyncio, os, sys
from bbio import App, Backend, ConfigurationError
from bbio.builtin import SQLiteStore

class Models(Backend):
    store = SQLiteStore(sys.argv[1])

async def main():
    async with App().serve(Models).running():
        print("opened")

os.setuid(int(sys.argv[2]))
try:
    asyncio.run(main())
except ConfigurationError as err:
    print(err)
"""


@pytest.fixture
def open_folder():
    """A folder that everybody may enter; those that pytest makes are for their user alone."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("file", "folder", "text"),
    [
        (0o444, 0o777, "it cannot be written to: change its permissions"),
        (None, 0o555, "it cannot be opened: change its permissions, or those of its folder"),
        (0o666, 0o000, "Permission denied: change the permissions of the folders"),
    ],
)
def test_a_file_without_permission_is_said_to_be(open_folder, file, folder, text):
    """Read-only files and folders; tried as somebody who is not root."""
    path = open_folder / "models.db"
    if file is not None:
        asyncio.run(start(SQLiteStore(path)))
        path.chmod(file)
    path.parent.chmod(folder)
    user = str(os.getuid() or 65534)
    # What measures coverage could not write either.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    try:
        done = subprocess.run([sys.executable, "-c", OPEN, path, user], capture_output=True, text=True, env=env)
    finally:
        path.parent.chmod(0o755)
    assert text in done.stdout, done.stderr


def test_a_place_that_may_not_be_entered_is_told(path):
    """It is not said to be missing."""
    err = PermissionError(13, "Permission denied")
    text = "models.db cannot be used: Permission denied: change the permissions of the folders that it lies in"
    assert explain(err, path).endswith(text)


@pytest.mark.parametrize("emptied", [False, True])
async def test_a_log_without_its_file_is_not_destroyed(path, emptied):
    """SQLite would delete it, and begin a new file; put back beside its log, the file has all that was written."""
    async with opened(SQLiteStore(path)) as models:
        for n in range(3):
            await models.create({"n": n})
        after = await crashed(path)
    log = after.with_name("models.db-wal")
    elsewhere, written = after.rename(after.with_suffix(".moved")), log.read_bytes()
    if emptied:
        after.touch()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"models\.db-wal beside it holds what was written last") as told:
            await start(SQLiteStore(after))
        assert ("is empty" in str(told.value)) == emptied
        assert log.read_bytes() == written
    elsewhere.rename(after)
    async with opened(SQLiteStore(after)) as models:
        assert sorted(model["n"] for model in await models.all()) == [0, 1, 2]


async def test_a_file_whose_log_was_deleted_is_told(path, caplog):
    """What is there is served; the index of the log, which is of no use without it, gives it away."""
    async with opened(SQLiteStore(path)) as models:
        await models.create({"n": 1})
        after = await crashed(path)
    after.with_name("models.db-wal").unlink()
    await start(SQLiteStore(after))
    assert caplog.text == ""
    after.with_name("models.db-shm").write_bytes(b"\0" * 32_768)
    await start(SQLiteStore(after))
    assert caplog.text.count("if that was deleted, what was written last is gone with it") == 1


USE = """
import asyncio, sys
from bbio import App, Backend
from bbio.builtin import SQLiteStore

class Models(Backend):
    store = SQLiteStore(sys.argv[1])

async def main():
    async with App().serve(Models).running():
        print("opened", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def test_a_program_that_still_uses_a_deleted_log_is_told(path):
    """It is not the disk that fails; when the program has ended, all is well."""
    with subprocess.Popen(
        [sys.executable, "-c", USE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout.readline() == "opened\n"
        path.with_name("models.db-wal").unlink()
        with pytest.raises(ConfigurationError, match="was deleted, replaced or cut off while a program used it: end"):
            asyncio.run(start(SQLiteStore(path)))
    asyncio.run(start(SQLiteStore(path)))


# Later


async def test_a_locked_file_is_unavailable_until_it_is_free(path, caplog):
    """Reads go on meanwhile; nothing of what was refused is written, and the log says it once."""
    async with opened(SQLiteStore(path, timeout=0.05)) as models:
        await models.create({"n": 0})
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(2):
                writes = [models.create({"n": n}) for n in range(1, 4)]
                outcomes = await asyncio.gather(*writes, return_exceptions=True)
                assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
                assert outcomes[0].values == {"retry_after": 1.0}
            assert [model["n"] for model in await models.all()] == [0]
        await models.create({"n": 4})
        await consistent(models)
    assert caplog.text.count("another program has locked it") == 1
    assert caplog.text.count("works again") == 1


class FullDisk:
    """A disk of one MiB in memory; without the right to mount one, a file that must not grow."""

    def __init__(self, folder):
        self.folder = folder
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
        self.real = mounted.returncode == 0

    async def fill(self, models):
        if not self.real:
            await models.store._database.writer.call(lambda c: c.execute("PRAGMA max_page_count = 1").fetchone())
            return
        with suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(b"x" * 512)

    async def free(self, models):
        if not self.real:
            await models.store._database.writer.call(lambda c: c.execute("PRAGMA max_page_count = 10000").fetchone())
            return
        (self.folder / "ballast").unlink()

    def close(self):
        if self.real:
            subprocess.run(["umount", "-l", self.folder], check=True)


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = FullDisk(folder)
    yield disk
    disk.close()


async def test_a_full_disk_is_unavailable_until_there_is_room(disk, caplog):
    """What was acknowledged is there, what was refused is not, and writes go on by themselves."""
    async with opened(SQLiteStore(disk.folder / "models.db")) as models:
        for n in range(3):
            await models.create({"n": n})
        await disk.fill(models)
        refused = 0
        for n in range(3, 20):
            with suppress(Unavailable):
                await models.create({"n": n, "text": "x" * 50_000})
                continue
            refused += 1
        assert refused > 5
        assert len(await models.all()) == 20 - refused
        await disk.free(models)
        await models.create({"n": 20})
        await consistent(models)
    assert "the disk is full: make room" in caplog.text
    async with opened(SQLiteStore(disk.folder / "models.db")) as models:
        assert [event.offset for event in await models.history()] == list(range(1, 22 - refused))


async def test_a_store_stops_on_a_full_disk(disk):
    """It does not hang; what was acknowledged is there afterwards."""
    async with opened(SQLiteStore(disk.folder / "models.db")) as models:
        await models.create({"n": 1})
        await disk.fill(models)
        with suppress(Unavailable):
            await models.create({"n": 2, "text": "x" * 500_000})
    with suppress(OSError):
        (disk.folder / "ballast").unlink()
    async with opened(SQLiteStore(disk.folder / "models.db")) as models:
        assert [model["n"] for model in await models.all()] == [1]


async def test_a_full_disk_is_said_to_be_at_the_start(disk):
    """Also when the file is new."""
    if not disk.real:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
    try:
        await disk.fill(None) if disk.real else None
        with pytest.raises(ConfigurationError, match=r"the disk is full|the disk fails|cannot be opened"):
            await start(SQLiteStore(disk.folder / "models.db"))
    finally:
        if not disk.real:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)


async def test_a_damaged_file_is_unavailable_where_it_is_damaged(path, caplog):
    """What can be read is read, the log says what is wrong, and a backup in its place is used at the next start."""
    async with opened(SQLiteStore(path)) as models:
        made = await asyncio.gather(*(models.create({"n": n, "text": "x" * 3_000}) for n in range(100)))
    shutil.copy(path, path.with_suffix(".backup"))
    content = bytearray(path.read_bytes())
    # All but the pages that say which tables there are.
    content[200_000:] = b"\xa5" * (len(content) - 200_000)
    path.write_bytes(content)
    async with opened(SQLiteStore(path)) as models:
        with pytest.raises(Unavailable):
            await models.all()
        outcomes = await asyncio.gather(*(models.read(model["id"]) for model in made), return_exceptions=True)
        assert {type(outcome).__name__ for outcome in outcomes} <= {"dict", "Unavailable", "NotFound"}
        assert "Unavailable" in {type(outcome).__name__ for outcome in outcomes}
    assert "it is damaged: move it away, and restore a backup" in caplog.text
    path.with_suffix(".backup").replace(path)
    async with opened(SQLiteStore(path)) as models:
        assert len(await models.all()) == 100


async def test_a_commit_that_cannot_be_undone_is_undone_later(path):
    """Should even the end of a failed transaction fail, the next write begins anew."""
    async with opened(SQLiteStore(path)) as models:
        await models.store._database.writer.call(lambda connection: connection.execute("BEGIN IMMEDIATE") and None)
        await models.create({"n": 1})
        await consistent(models)


async def test_a_table_that_is_dropped_is_unavailable(path):
    """The others of a commit are refused with it, and none of them is half-written."""
    async with opened(SQLiteStore(path), "first") as first, opened(SQLiteStore(path), "second") as second:
        await first.store._database.writer.call(lambda connection: connection.execute("DROP TABLE second") and None)
        outcomes = await asyncio.gather(first.create({"n": 1}), second.create({"n": 1}), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 2
        await first.create({"n": 2})
        await consistent(first)


async def test_what_is_left_of_a_commit_that_fails_is_written_with_the_next(path):
    """It was too large to be held together with the rest, and nothing of it has been tried."""
    large = [{"id": n, "text": "x" * 600_000} for n in range(4)]
    first, second = SQLiteStore(path, models=large), SQLiteStore(path)
    async with opened(first, "first") as first, opened(second, "second") as second:
        await first.store._database.writer.call(lambda connection: connection.execute("DROP TABLE second") and None)
        writes = [first.write("patch", {"id": n, "n": n}) for n in range(4)]
        outcomes = await asyncio.gather(*writes, second.create({}), return_exceptions=True)
        refused = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Unavailable)]
        assert refused == [0, 1, 4]
        assert ["n" in await first.read(n) for n in range(4)] == [False, False, True, True]
        assert [event.offset for event in await first.history()] == [1, 2]


# Writers that give up while they are being served


async def test_a_writer_that_gives_up_during_its_commit_is_told_to_the_others(path):
    """Its event is published at its place, though nobody waits for its reply."""
    async with opened(SQLiteStore(path)) as models:
        go_on = threading.Event()
        held = asyncio.ensure_future(models.store._database.writer.call(lambda connection: go_on.wait() and None))
        writers = [asyncio.ensure_future(models.create({"n": n})) for n in range(4)]
        refused = asyncio.ensure_future(models.write("update", {"id": "nowhere"}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in (writers[1], writers[3], refused):
            task.cancel()
        go_on.set()
        await held
        await asyncio.gather(*writers, refused, return_exceptions=True)
        await models.create({"n": 4})
        assert [decode(event.body)["n"] for event, _ in models.published] == [0, 1, 2, 3, 4]
        await consistent(models)


async def test_a_writer_that_gives_up_when_it_is_served_is_told_to_the_others(path):
    """Its write is done already, and so its event is published."""
    async with opened(SQLiteStore(path)) as models:
        submit = models.store.submit

        def submit_and_give_up(change):
            future = submit(change)
            future.add_done_callback(lambda _: writer.cancel())
            return future

        for method, model, count in (("create", {"n": 1}, 1), ("update", {"id": "nowhere"}, 1)):
            models.store.submit = submit_and_give_up
            writer = asyncio.ensure_future(models.write(method, model))
            with pytest.raises(asyncio.CancelledError):
                await writer
            models.store.submit = submit
            assert len(models.published) == count
        await consistent(models)


async def test_a_failure_beside_a_broken_rule_is_unavailable(path):
    """A commit of which one write breaks a rule, and another meets a failure of the database, comes to nothing."""
    async with opened(SQLiteStore(path), "first") as first, opened(SQLiteStore(path), "second") as second:
        await first.create({"n": 1})
        rule = "CREATE UNIQUE INDEX one ON first (body ->> 'n')"
        await first.store._database.writer.call(lambda connection: connection.execute(rule) and None)
        await first.store._database.writer.call(lambda connection: connection.execute("DROP TABLE second") and None)
        writes = [first.create({"n": 1}), first.create({"n": 2}), second.create({"n": 1})]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
        await consistent(first)


# Commits of which nobody knows


async def crashed(path):
    """The file as a crash leaves it, somewhere else."""
    elsewhere = path.parent / "after"
    elsewhere.mkdir()
    for name in (path.name, f"{path.name}-wal"):
        shutil.copy(path.parent / name, elsewhere / name)
    return elsewhere / path.name


async def test_a_commit_whose_sync_failed_is_of_unknown_outcome(path, caplog):
    """It may be there after a crash: nobody is told that nothing was done; a retry by its operation id finds out."""
    async with opened(SQLiteStore(path)) as models:
        await models.create({"n": 1})
        await models.store._database.writer.call(lambda connection: fail_syncs())
        writes = (
            models.create({"n": 2}),
            models.write("create", {"n": 3}, op="c:3"),
            models.write("update", {"id": "nowhere"}),
        )
        plain, known, refused = await asyncio.gather(*writes, return_exceptions=True)
        assert type(plain) is UnknownOutcome
        assert type(known) is Unavailable
        assert known.values == {"retry_after": 1.0}
        # What was refused did nothing in any case.
        assert type(refused) is Unavailable
        # Here and now it was not applied, and nobody is told of it.
        assert [model["n"] for model in await models.all()] == [1]
        assert len(models.published) == 1
        after = await crashed(path)
    assert "the disk fails" in caplog.text
    async with opened(SQLiteStore(after)) as models:
        # The disk had it all the same.
        assert sorted(model["n"] for model in await models.all()) == [1, 2, 3]
        again = await models.write("create", {"n": 3}, op="c:3")
        assert (again.duplicate, again.event.offset) == (True, 3)


@pytest.mark.parametrize("name", ["models.db", "models.db-wal"])
async def test_a_file_that_is_deleted_during_a_commit_is_noticed_before_the_answer(path, caplog, monkeypatch, name):
    """Looked at before the transaction alone, the commit would be acknowledged, and be gone with the file."""
    async with opened(SQLiteStore(path)) as models:
        await models.create({"n": 1})
        begin = Database._begin

        def begin_and_lose(database, connection):
            begin(database, connection)
            (path.parent / name).unlink()

        with monkeypatch.context() as patch:
            patch.setattr(Database, "_begin", begin_and_lose)
            writes = (models.create({"n": 2}), models.write("create", {"n": 3}, op="c:3"))
            plain, known = await asyncio.gather(*writes, return_exceptions=True)
        assert (type(plain), type(known)) == (UnknownOutcome, Unavailable)
        assert len(models.published) == 1
        with pytest.raises(Unavailable):
            await models.create({"n": 4})
    assert caplog.text.count("it was moved, deleted or replaced while in use") == 1
