"""One SQLite file: the threads that use it, its tables and their versions, and what can be wrong with it.

A file has a thread that writes, one that looks up and some that read lists, so that nobody waits for a long read but
who asked for one. A single model is looked up at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bbio import Unavailable, UnknownOutcome
from bbio.builtin.documents import MAX_BATCH_BYTES, Job, Whole, logger, not_made, refusals
from bbio.builtin.ledger import TABLES as TABLES_OF_LEDGERS
from bbio.builtin.sqlite.control import SQLiteControl
from bbio.builtin.sqlite.threads import Call, Lister, Worker
from bbio.errors import ConfigurationError
from bbio.store import RowRefused

if TYPE_CHECKING:
    from bbio.builtin.sqlite.store import SQLiteStore

# Each entry brings a file one version further; what is here is never changed, only added to.
MIGRATIONS = (
    (
        "CREATE TABLE bbio_backends (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rev INTEGER NOT NULL,"
        " epoch TEXT NOT NULL)",
        "CREATE TABLE bbio_streams (id INTEGER PRIMARY KEY, backend INTEGER NOT NULL, name TEXT NOT NULL,"
        " epoch TEXT NOT NULL, top INTEGER NOT NULL, size INTEGER NOT NULL, at REAL NOT NULL, UNIQUE (backend, name))",
        "CREATE TABLE bbio_log (stream INTEGER NOT NULL, position INTEGER NOT NULL, method TEXT NOT NULL,"
        " body TEXT NOT NULL, rev INTEGER, op TEXT, at REAL NOT NULL, PRIMARY KEY (stream, position)) WITHOUT ROWID",
        "CREATE TABLE bbio_operations (id INTEGER PRIMARY KEY, backend INTEGER NOT NULL, operation BLOB NOT NULL,"
        " digest INTEGER NOT NULL, stream TEXT NOT NULL, epoch TEXT NOT NULL, position INTEGER NOT NULL,"
        " method TEXT NOT NULL, body TEXT NOT NULL, rev INTEGER, op TEXT, at REAL NOT NULL,"
        " UNIQUE (backend, operation))",
    ),
    # A log by stream has every stream's end on a page of its own, and a commit of many streams writes them all. In the
    # order of writing they share a page, and each event names the one before it in its stream.
    (
        "CREATE TABLE bbio_events (id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, position INTEGER NOT NULL,"
        " previous INTEGER, before INTEGER NOT NULL, method TEXT NOT NULL, body TEXT NOT NULL, rev INTEGER, op TEXT,"
        " at REAL NOT NULL)",
        "INSERT INTO bbio_events SELECT row_number() OVER everything, stream, position,"
        " CASE WHEN row_number() OVER one > 1 THEN row_number() OVER everything - 1 END,"
        " sum(length(CAST(body AS BLOB))) OVER one - length(CAST(body AS BLOB)), method, body, rev, op, at"
        " FROM bbio_log WINDOW everything AS (ORDER BY stream, position),"
        " one AS (PARTITION BY stream ORDER BY position)",
        "DROP TABLE bbio_log",
        "ALTER TABLE bbio_events RENAME TO bbio_log",
        "CREATE TEMP TABLE ends AS SELECT stream, max(id) AS last FROM bbio_log GROUP BY stream",
        "ALTER TABLE bbio_streams ADD COLUMN last INTEGER",
        "UPDATE bbio_streams SET last = (SELECT e.last FROM ends e WHERE e.stream = id)",
        "DROP TABLE ends",
    ),
    # How often permissions were to be looked at again: other processes see it when they look for what was written.
    ("ALTER TABLE bbio_backends ADD COLUMN rechecks INTEGER NOT NULL DEFAULT 0",),
    # Of what an earlier version wrote the stamps are not known, which is 0.
    (
        "ALTER TABLE bbio_streams ADD COLUMN stamp INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE bbio_log ADD COLUMN stamp INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE bbio_operations ADD COLUMN stamp INTEGER NOT NULL DEFAULT 0",
    ),
    # What layers saw of a record, where events tell less: a repeated write shows them the same.
    ("ALTER TABLE bbio_operations ADD COLUMN record TEXT",),
    # How records were, for backends that need it: apart, so that the events of others take no byte more. An earlier
    # version drops events without what is here, and gives their ids again: so the stamp says whose it is.
    ("CREATE TABLE bbio_was (id INTEGER PRIMARY KEY, stamp INTEGER NOT NULL, was TEXT NOT NULL)",),
    # What processes tell each other: who is to be told nothing more.
    (
        "CREATE TABLE bbio_notices (id INTEGER PRIMARY KEY AUTOINCREMENT, process TEXT NOT NULL, at REAL NOT NULL,"
        " notice TEXT NOT NULL)",
    ),
    # How far consumers are, and what they could not handle.
    tuple(table.replace("{serial}", "INTEGER PRIMARY KEY AUTOINCREMENT") for table in TABLES_OF_LEDGERS),
    # How far bulks have come.
    (
        "CREATE TABLE bbio_bulks (backend INTEGER NOT NULL, name TEXT NOT NULL, stored INTEGER NOT NULL,"
        " digest BLOB NOT NULL, done INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (backend, name))",
    ),
)

# How tables and their indexes were made, tables first.
TABLE_DEFINITIONS = (
    "SELECT tbl_name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL"
    " AND lower(name) NOT GLOB 'bbio_*' AND lower(name) NOT GLOB 'sqlite_*' ORDER BY type DESC, rowid"
)
# The log of what is not yet in the file itself shrinks to so many bytes after it had to grow.
WAL_BYTES = 64 << 20
# Seconds after which a look-up was too long for the event loop, and how long others then go to the thread.
LONG_WRITE_SECONDS = 0.005
BUSY_SECONDS = 0.1

# A commit that fails so has not reached the disk.
SAFE_FAILURES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL)

# What is wrong with the database, not with one write.
FAILURES = (sqlite3.DatabaseError, sqlite3.OperationalError, sqlite3.InternalError)


class Database:
    """One file, shared by all stores of an event loop that keep their models in it.

    Parameters:
        path: the file.
        durable: whether a commit is on the disk before it is acknowledged.
        timeout: seconds to wait for another program that has locked the file.
        migrates: whether the file and its tables may be made and brought to this version.
    """

    _started: asyncio.Future[None]
    _here: sqlite3.Connection
    _opened: ClassVar[dict[tuple[Path, asyncio.AbstractEventLoop], Database]] = {}

    def __init__(self, path: Path, durable: bool, timeout: float, migrates: bool) -> None:
        self.path = path
        self.durable = durable
        self._timeout = timeout
        self._migrates = migrates
        self._stores: list[SQLiteStore] = []
        self._failing = False
        self._origin = ""
        self._busy_until = 0.0
        self._loop = asyncio.get_running_loop()
        # Whether look-ups share a transaction, until the loop has gone once round: one each would cost as much again.
        self._looking = False
        self._version = 0
        self.writer = Worker(self._prepare, self._write)
        self.reader = Worker(self._connect_reading, self._read)
        self.lister = Lister(self._connect_reading, self._error)
        self.control = SQLiteControl(self.writer, self.reader, self._recheck)

    @classmethod
    async def open(cls, store: SQLiteStore) -> Database:
        """The file of a store, opened when it is the first.

        Raises:
            ConfigurationError: the file cannot be used; the text says why.
        """
        path = _real(store.path)
        place = (path, asyncio.get_running_loop())
        database = cls._opened.get(place)
        if database is None:
            database = cls._opened[place] = cls(path, store.durable, store.timeout, store.migrates)
            database._started = asyncio.ensure_future(database._start())
        try:
            await asyncio.shield(database._started)
        except (sqlite3.Error, OSError, ConfigurationError) as err:
            cls._opened.pop(place, None)
            raise ConfigurationError(explain(err, path)) from None
        for other in database._stores:
            if other.table.lower() == store.table.lower():
                raise ConfigurationError(
                    f"two backends keep their models in the table {store.table!r} of {path}; "
                    f"name another: SQLiteStore({store.path!r}, table=...)"
                )
            if other.durable != store.durable:
                raise ConfigurationError(f"one store of {path} is durable and another is not; make them alike")
        database._stores.append(store)
        return database

    async def _start(self) -> None:
        started: list[Worker | Lister] = []
        try:
            for worker in (self.writer, self.reader, self.lister):
                await worker.start()
                started.append(worker)
            self._here = self._connect_reading(timeout=0.0)
            await self.control.start()
        except BaseException:
            for worker in started:
                await worker.stop()
            raise

    async def row(self, statement: str, values: tuple[Any, ...]) -> Any:
        """The first row of a statement that an index answers, None when there is none.

        To hand it to a thread costs more than to look it up, so that is for when it takes long, as from a slow disk.
        """
        begin = time.perf_counter()
        if begin >= self._busy_until:
            try:
                if not self._looking:
                    self._here.execute("BEGIN")
                    self._looking = True
                    # What wakes up after a commit comes after this, so it finds what was committed.
                    self._loop.call_soon(self._looked)
                row = self._here.execute(statement, values).fetchone()
            except sqlite3.Error:
                self._busy_until = begin + BUSY_SECONDS
                self._looked()
            else:
                if time.perf_counter() - begin > LONG_WRITE_SECONDS:
                    self._busy_until = begin + BUSY_SECONDS
                return row
        return await self.reader.call(lambda connection: connection.execute(statement, values).fetchone())

    def _recheck(self, rechecks: Mapping[int, int]) -> None:
        """Have stores notice how often permissions were to be looked at again."""
        for store in self._stores:
            store.note_rechecks(rechecks)

    def _looked(self) -> None:
        if self._looking:
            self._looking = False
            with suppress(sqlite3.Error):
                self._here.rollback()

    async def close(self, store: SQLiteStore) -> None:
        """A store needs this no more; the last one closes the file."""
        self._stores.remove(store)
        if not self._stores:
            del self._opened[self.path, asyncio.get_running_loop()]
            await self.control.stop()
            self._looked()
            self._here.close()
            # The writer last: who closes a file last puts into it what is still in its log.
            for worker in (self.lister, self.reader, self.writer):
                await worker.stop()

    def _connect(self, timeout: float | None = None) -> sqlite3.Connection:
        seconds = self._timeout if timeout is None else timeout
        return sqlite3.connect(self.path, timeout=seconds, isolation_level=None)

    def _connect_reading(self, timeout: float | None = None) -> sqlite3.Connection:
        connection = self._connect(timeout)
        try:
            connection.execute("PRAGMA query_only = 1")
            if timeout is None:
                # Its log is opened with the first read, and may have been taken away until then.
                connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self) -> sqlite3.Connection:
        look_beside(self.path)
        if not self._migrates and not _size(str(self.path)) and self.path.parent.is_dir():
            raise not_made(str(self.path), "is not there; is this the folder in which the server runs?")
        connection = self._connect()
        try:
            if not self._migrates:
                self._check_version(connection)
            self._configure(connection)
            self._migrate(connection)
            self._origin = self._place()
        except BaseException:
            connection.close()
            raise
        return connection

    def _configure(self, connection: sqlite3.Connection) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigurationError(f"{self.path} lies where SQLite cannot share it (WAL): choose a local folder")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self.durable else 'NORMAL'}")
        connection.execute(f"PRAGMA fullfsync = {self.durable:d}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")

    def _check_version(self, connection: sqlite3.Connection) -> None:
        """Refuse a file that is to be left as it is, and is not of this version."""
        made = "SELECT 1 FROM sqlite_master WHERE name = 'bbio_database'"
        row = connection.execute(made).fetchone() and connection.execute("SELECT version FROM bbio_database").fetchone()
        if row is None:
            raise not_made(str(self.path), "has no tables of bbio")
        if row[0] < len(MIGRATIONS):
            raise not_made(str(self.path), "was written by an older version of bbio, whose servers may run")

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Bring the tables to this version."""
        execute = connection.execute
        execute("BEGIN IMMEDIATE")
        execute("CREATE TABLE IF NOT EXISTS bbio_database (version INTEGER)")
        row = execute("SELECT version FROM bbio_database").fetchone()
        version = row[0] if row else 0
        if version > len(MIGRATIONS):
            raise ConfigurationError(f"{self.path} was written by a newer version of bbio: update bbio")
        for migration in MIGRATIONS[version:]:
            for statement in migration:
                execute(statement)
        if row is None:
            execute("INSERT INTO bbio_database VALUES (0)")
        execute("UPDATE bbio_database SET version = ?", (len(MIGRATIONS),))
        execute("COMMIT")

    def _place(self) -> str:
        """Return a text that tells this file, with its log, from others at the same path."""
        return f"{os.stat(self.path).st_ino} {os.stat(f'{self.path}-wal').st_ino}"

    def _read(self, connection: sqlite3.Connection, jobs: list[Call]) -> Sequence[Any]:
        """Do what has come together; nothing is left."""
        for job in jobs:
            if job.given_up:
                continue
            try:
                job.result = job.function(connection)
            except Exception as err:
                job.error = self._error(err)
        return ()

    def _write(self, connection: sqlite3.Connection, jobs: list[Job]) -> list[Any]:
        """Do what has come together, and return what is left for the next batch."""
        changes: list[Any] = []
        wholes: list[Whole] = []
        for job in jobs:
            if isinstance(job, Call):
                self._read(connection, [job])
            elif isinstance(job, Whole):
                wholes.append(job)
            else:
                changes.append(job)
        left = self._commit(connection, changes) if changes else []
        for whole in wholes:
            self._commit_whole(connection, whole)
        return left

    def _commit_whole(self, connection: sqlite3.Connection, whole: Whole) -> None:
        """Make writes in a transaction of their own: all of them, or none."""
        committing = False
        try:
            connection.rollback()
            self._check_place()
            self._begin(connection)
            store: Any = whole.store
            try:
                store.apply_whole(connection, whole)
            except sqlite3.IntegrityError as err:
                raise self._refused(connection, whole, err) from None
            committing = True
            connection.execute("COMMIT")
            self._check_place()
            whole.end()
        except Exception as err:
            self._forget()
            doubtful = committing and whole.step is None and _code(err) not in SAFE_FAILURES
            whole.error = UnknownOutcome() if doubtful else self._error(err)
            with suppress(sqlite3.Error):
                connection.rollback()
        else:
            self._works()

    def _refused(self, connection: sqlite3.Connection, whole: Whole, err: sqlite3.IntegrityError) -> RowRefused:
        """Find the write that breaks a rule of its table, by making all one by one; they are undone."""
        connection.execute("ROLLBACK")
        self._forget()
        self._begin(connection)
        places = enumerate(whole.changes)
        index = next((index for index, change in places if not self._is_applied_alone(connection, change)), 0)
        store: Any = whole.store
        return RowRefused(index, whole.changes[index].error or store.refusal(err, None))

    def _is_applied_alone(self, connection: sqlite3.Connection, change: Any) -> bool:
        self._apply_alone(connection, change)
        return change.error is None

    def _works(self) -> None:
        if self._failing:
            self._failing = False
            logger.warning("%s works again", self.path)

    def _commit(self, connection: sqlite3.Connection, changes: list[Any]) -> list[Any]:
        """Make changes in one transaction, and return those that are left for the next."""
        committing = False
        left: list[Any] = []
        try:
            connection.rollback()  # should a commit have failed, and could not be undone then
            self._check_place()
            try:
                self._begin(connection)
                for store in dict.fromkeys(change.store for change in changes):
                    left += store.apply(connection, [change for change in changes if change.store is store])
            except Exception as err:
                if type(err) in FAILURES:
                    raise
                # One of them cannot be written, such as by a rule that the user gave the table: let the others pass.
                connection.execute("ROLLBACK")
                self._forget()
                self._begin(connection)
                left = self._apply_each(connection, changes)
            committing = True
            connection.execute("COMMIT")
            self._check_place()  # what was deleted meanwhile has taken the commit with it
        except Exception as err:
            self._forget()
            # What could not be synced may be there after a crash, or not. An operation may be repeated, and is told
            # then what it came to; what was refused has come to nothing in any case.
            doubtful = committing and _code(err) not in SAFE_FAILURES
            for change in changes:
                unknown = doubtful and change.operation is None and change.error is None
                error = self._error(err)
                change.error = UnknownOutcome() if unknown else error
            with suppress(sqlite3.Error):
                connection.rollback()
        else:
            self._works()
        return left

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Begin to write; what the stores know of the file holds until somebody else has written to it."""
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self._forget()

    def _forget(self) -> None:
        for store in self._stores:
            store.forget()

    def _apply_each(self, connection: sqlite3.Connection, changes: list[Any]) -> list[Any]:
        """Make changes one by one, without those that cannot be; those that are left for another transaction."""
        size = 0
        for place, change in enumerate(changes):
            if size > MAX_BATCH_BYTES:
                return changes[place:]
            self._apply_alone(connection, change)
            size += 0 if change.error else len(change.result.body)
        return []

    def _apply_alone(self, connection: sqlite3.Connection, change: Any) -> None:
        connection.execute("SAVEPOINT alone")
        try:
            change.store.apply(connection, [change])
        except Exception as err:
            if type(err) in FAILURES:
                raise
            connection.execute("ROLLBACK TO alone")
            self._forget()
            change.error = err
            if isinstance(err, sqlite3.IntegrityError):
                refusals.warning("%s: a write was refused: %s", change.store.table, err)
                change.error = change.store.refusal(err, change.req)
        connection.execute("RELEASE alone")

    def _check_place(self) -> None:
        """Refuse to write into a file that nobody will find again."""
        try:
            there = self._place()
        except OSError:
            there = ""
        if there != self._origin:
            raise sqlite3.OperationalError("it was moved, deleted or replaced while in use: start the server again")

    def _error(self, err: Exception) -> Exception:
        """Return the error that a client gets for an error of the database."""
        if not isinstance(err, sqlite3.Error):
            return err
        if not self._failing:
            self._failing = True
            logger.error("%s", explain(err, self.path))
        return Unavailable("the database cannot be used at the moment", retry_after=1.0)


def _real(path: str) -> Path:
    """Return the real path of a file, the same for all its names."""
    return Path(os.path.realpath(path))


def stand_in(path: str, folder: Path) -> tuple[str, dict[str, list[str]]]:
    """Return a path in a folder that stands for that of a file, and how the file's tables were made, by their names.

    Nothing is written, not even beside the file.

    Raises:
        ConfigurationError: the file is there, and cannot be read.
    """
    real = _real(path)
    other = str(folder / f"{hashlib.blake2b(bytes(real), digest_size=6).hexdigest()}.db")
    if not real.exists():
        return other, {}
    # What is in a log beside it counts too; without one SQLite would make one.
    options = "mode=ro" if Path(f"{real}-wal").exists() else "immutable=1"
    made: dict[str, list[str]] = {}
    try:
        with closing(sqlite3.connect(f"{real.as_uri()}?{options}", uri=True)) as connection:
            for table, statement in connection.execute(TABLE_DEFINITIONS):
                made.setdefault(table.lower(), []).append(statement)
    except sqlite3.Error as err:
        raise ConfigurationError(explain(err, real)) from None
    return other, made


def look_beside(path: Path) -> None:
    """Look for what a file that was deleted has left behind.

    Raises:
        ConfigurationError: its log is there without it. SQLite would begin a new file, and delete that.
    """
    size, log, index = (_size(f"{path}{end}") for end in ("", "-wal", "-shm"))
    if log and not size:
        raise ConfigurationError(
            f"{path} is {'not there' if size is None else 'empty'}, but {path.name}-wal beside it holds what was "
            f"written last: the file was deleted, moved or emptied. Put it back; to restore a backup or to start "
            f"again, end all programs that use it, and remove {path.name}-wal and {path.name}-shm first"
        )
    if size and index and log is None:
        logger.warning(
            "%s: %s-shm is beside it, and %s-wal is not: if that was deleted, what was written last is gone with it; "
            "restore a backup if you need it",
            path,
            path.name,
            path.name,
        )


def _size(path: str) -> int | None:
    """The bytes of a file, None when there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def explain(err: Exception, path: Path) -> str:
    """Explain a fault of a file and how to mend it."""
    if isinstance(err, ConfigurationError):
        return str(err)
    folder = path.parent
    if isinstance(err, PermissionError) or (os.path.isdir(folder) and not os.access(folder, os.X_OK)):
        return f"{path} cannot be used: Permission denied: change the permissions of the folders that it lies in"
    if not os.path.isdir(folder):
        return f"the folder {folder} does not exist: make it, or give SQLiteStore another path"
    if os.path.isdir(path):
        return f"{path} is a folder: give SQLiteStore the path of a file"
    hints = {
        sqlite3.SQLITE_BUSY: "another program has locked it: end that program, or give SQLiteStore a longer timeout",
        sqlite3.SQLITE_FULL: "the disk is full: make room",
        sqlite3.SQLITE_READONLY: "it cannot be written to: change its permissions, or those of its folder",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened: change its permissions, or those of its folder",
        sqlite3.SQLITE_CORRUPT: "it is damaged: move it away, and restore a backup or let bbio make a new file",
        sqlite3.SQLITE_NOTADB: "it is not an SQLite database: move it away, or give SQLiteStore another path",
        sqlite3.SQLITE_IOERR: "the disk fails: look at it",
    }
    hint = hints.get(_code(err))
    if getattr(err, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHORT_READ:
        hint = (
            f"it, or {path.name}-wal, was deleted, replaced or cut off while a program used it: end that program, such "
            "as an earlier server, and start again; restore a backup if something is missing then"
        )
    return f"{path} cannot be used: {hint} ({err!s:.200})" if hint else f"{path} cannot be used: {err!s:.200}"


def _code(err: Exception) -> int:
    """SQLite's code of an error, 0 where the error is not SQLite's own."""
    if str(err).startswith("Could not decode"):
        return sqlite3.SQLITE_CORRUPT
    code: int = getattr(err, "sqlite_errorcode", 0)
    return code & 0xFF
