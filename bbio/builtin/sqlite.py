"""SQLiteStore: models, events and operations in an SQLite file, each write in one transaction.

A file has a thread that writes and a thread that reads. Writes that wait together are committed together: with many
clients they share the one costly step, the sync to the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar, Self

from bbio import Conflict, Request, Timeout, Unavailable
from bbio.builtin.documents import (
    OPERATION_AGE,
    OPERATION_COUNT,
    Batch,
    Change,
    DocumentStore,
    Job,
    Queue,
    digest_of,
    logger,
    repeated,
)
from bbio.builtin.sql import SQLite, Table
from bbio.errors import ConfigurationError
from bbio.protocol import decode, encode
from bbio.query import Query
from bbio.store import Publisher
from bbio.streams import Commit, Event, Position

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
)


# A stream's history is trimmed each time it has grown by so many events.
TRIM_EVERY = 125


class Call(Job, kw_only=True):
    """A function to be called with a connection, in its thread."""

    function: Callable[[sqlite3.Connection], Any]


class Worker:
    """A thread with a connection of its own.

    Parameters:
        connect: opens the connection; called in the thread.
        work: does a batch of jobs, and puts into each what came of it; called in the thread.
    """

    def __init__(
        self, connect: Callable[[], sqlite3.Connection], work: Callable[[sqlite3.Connection, list[Any]], None]
    ) -> None:
        self._connect = connect
        self._work = work
        self._inbox: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._queue = Queue(self._inbox.put)
        self._thread = threading.Thread(target=self._run, name="bbio-sqlite", daemon=True)
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self.submit = self._queue.submit

    async def start(self) -> None:
        """Connect."""
        self._thread.start()
        await self._ready

    async def call(self, function: Callable[[sqlite3.Connection], Any]) -> Any:
        """The result of a function called in the thread."""
        return await self.submit(Call(function=function))

    async def stop(self) -> None:
        """Finish what waits and end the thread."""
        await self._queue.finish()
        self._inbox.put(None)
        await self._ended
        self._thread.join()

    def _run(self) -> None:
        wake = self._loop.call_soon_threadsafe
        try:
            connection = self._connect()
        except Exception as err:
            wake(self._ready.set_exception, err)
            return
        wake(self._ready.set_result, None)
        while (batch := self._inbox.get()) is not None:
            self._work(connection, batch)
            wake(self._queue.settle, batch)
        connection.close()
        wake(self._ended.set_result, None)


class Database:
    """One file, shared by all stores of an event loop that keep their models in it.

    Parameters:
        path: the file.
        durable: whether a commit is on the disk before it is acknowledged.
        timeout: seconds to wait for another program that has locked the file.
    """

    _started: asyncio.Future[None]
    _opened: ClassVar[dict[tuple[str, asyncio.AbstractEventLoop], Database]] = {}

    def __init__(self, path: Path, durable: bool, timeout: float) -> None:
        self.path = path
        self.durable = durable
        self._timeout = timeout
        self._stores: list[SQLiteStore] = []
        self._failing = False
        self.writer = Worker(self._prepare, self._write)
        self.reader = Worker(lambda: self._connect("PRAGMA query_only = 1"), self._read)

    @classmethod
    async def open(cls, store: SQLiteStore) -> Database:
        """The database of a store, started when it is the first.

        Raises:
            ConfigurationError: the file cannot be used; the text says why.
        """
        path = store.file
        place = (str(path), asyncio.get_running_loop())
        database = cls._opened.get(place)
        if database is None:
            database = cls._opened[place] = cls(path, store.durable, store.timeout)
            database._started = asyncio.ensure_future(database._start())
        try:
            await asyncio.shield(database._started)
        except (sqlite3.Error, ConfigurationError) as err:
            cls._opened.pop(place, None)
            raise ConfigurationError(_explain(err, path)) from None
        for other in database._stores:
            if other.table == store.table:
                raise ConfigurationError(
                    f"two backends keep their models in the table {store.table!r} of {path}; "
                    f"name another: SQLiteStore({store.path!r}, table=...)"
                )
            if other.durable != store.durable:
                raise ConfigurationError(f"one store of {path} is durable and another is not; make them alike")
        database._stores.append(store)
        return database

    async def _start(self) -> None:
        await self.writer.start()
        await self.reader.start()

    async def close(self, store: SQLiteStore) -> None:
        """A store needs this no more; the last one closes the file."""
        self._stores.remove(store)
        if not self._stores:
            del self._opened[str(self.path), asyncio.get_running_loop()]
            if not self.durable:
                await self.writer.call(_mark_clean)
            await self.reader.stop()
            await self.writer.stop()

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=self._timeout, isolation_level=None)
        for pragma in pragmas:
            connection.execute(pragma)
        return connection

    def _prepare(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA synchronous = {'FULL' if self.durable else 'NORMAL'}")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigurationError(f"{self.path} lies where SQLite cannot share it (WAL): choose a local folder")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE IF NOT EXISTS bbio_database (version INTEGER, origin TEXT, clean INTEGER)")
        row = connection.execute("SELECT version, origin, clean FROM bbio_database").fetchone()
        version, origin, clean = row or (0, None, True)
        if version > len(MIGRATIONS):
            raise ConfigurationError(f"{self.path} was written by a newer version of bbio: update bbio")
        for migration in MIGRATIONS[version:]:
            for statement in migration:
                connection.execute(statement)
        here = str(os.stat(self.path).st_ino)
        if row is None:
            connection.execute("INSERT INTO bbio_database VALUES (0, NULL, 1)")
        elif origin != here or not clean:
            # A copy, or a power cut, may have lost events that clients have seen: positions mean nothing any more.
            connection.execute("DELETE FROM bbio_log")
            connection.execute("DELETE FROM bbio_streams")
            connection.execute("UPDATE bbio_backends SET epoch = hex(randomblob(6))")
        connection.execute(
            "UPDATE bbio_database SET version = ?, origin = ?, clean = ?", (len(MIGRATIONS), here, self.durable)
        )
        connection.execute("COMMIT")

    def _read(self, connection: sqlite3.Connection, jobs: list[Call]) -> None:
        for job in jobs:
            try:
                job.result = job.function(connection)
            except Exception as err:
                job.error = self._error(err)

    def _write(self, connection: sqlite3.Connection, jobs: list[Job]) -> None:
        changes = []
        for job in jobs:
            if isinstance(job, Call):
                self._read(connection, [job])
            else:
                changes.append(job)
        if changes:
            self._commit(connection, changes)

    def _commit(self, connection: sqlite3.Connection, changes: list[Any]) -> None:
        try:
            try:
                connection.execute("BEGIN IMMEDIATE")
                for store in dict.fromkeys(change.store for change in changes):
                    store.apply(connection, [change for change in changes if change.store is store])
            except sqlite3.IntegrityError:
                # One of them breaks a rule that the user gave the table: find it, and let the others pass.
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                for change in changes:
                    _apply_alone(connection, change)
            connection.execute("COMMIT")
            if self._failing:
                self._failing = False
                logger.warning("%s works again", self.path)
        except Exception as err:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            error = self._error(err)
            for change in changes:
                change.error = error

    def _error(self, err: Exception) -> Exception:
        """What a client is told of an error of the database."""
        if not isinstance(err, sqlite3.Error):
            return err
        if not self._failing:
            self._failing = True
            logger.error("%s", _explain(err, self.path))
        return Unavailable("the database cannot be used at the moment", retry_after=1.0)


class SQLiteStore(DocumentStore):
    """Keeps the models of one backend in an SQLite file, with their events and operations.

    A write is acknowledged when it is on the disk. The file, its tables and what later versions need are made at the
    start. All stores of one file share their commits.

    Parameters:
        path: the file; its folder must exist.
        table: the table of the models; named like the backend by default. It has the columns `id`, `rev` and `body`.
        durable: False lets a power cut (not a crash) take the last writes, and makes a lone client's writes faster.
        timeout: seconds to wait for another program that has locked the file.
        id_attribute: the name of the id in a model, Backbone's `idAttribute`.
        upsert: whether an update or patch of an unknown id creates the model, instead of `NotFound`.
        per_channel: whether every channel has models of its own.
        models: the models to begin with, when the table is new; each needs an id.
        history: how much of each stream is kept for clients that come back.
        index: the fields that queries ask for: names, or tuples of names that are asked for together.
        queries: how much a query of a client may ask for.

    Raises (at the start of the application):
        ConfigurationError: the file cannot be used; the text says how to mend it.

    Example:
        >>> from bbio import Backend
        >>> class Todos(Backend):
        ...     store = SQLiteStore("todos.db")
    """

    file: Path
    _database: Database
    _backend_id: int
    _new_streams: int
    _columns: str
    _create: str
    _select: str
    _queried: Table
    _upsert_model: str
    _delete: str

    def __init__(
        self,
        path: str | os.PathLike[str],
        table: str | None = None,
        *,
        durable: bool = True,
        timeout: float = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(table, **options)
        self.path = os.fspath(path)
        self.durable = durable
        self.timeout = timeout
        if self.path in ("", ":memory:"):
            raise ConfigurationError("SQLiteStore keeps models in a file; for models in memory there is MemoryStore()")

    def open(self, backend: Any, publisher: Publisher) -> Self:
        opened = super().open(backend, publisher)
        opened.file = Path(self.path).absolute()
        opened._new_streams = TRIM_EVERY  # looked at with the first write, as it is not known how many there are
        if "\0" in opened.table or opened.table.lower().startswith(("bbio_", "sqlite_")):
            raise ConfigurationError(
                f"{opened.table!r} is no name for a table of models; name another: SQLiteStore(..., table='models')"
            )
        table = _quoted(opened.table)
        columns, places, where = "id", "?", "id = ?"
        if self._per_channel:
            columns, places, where = "channel, id", "?, ?", "channel = ? AND id = ?"
        opened._columns = columns
        opened._create = (
            f"CREATE TABLE {table} ({'channel TEXT NOT NULL, ' if self._per_channel else ''}id NOT NULL,"
            f" rev INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY ({columns}))"
        )
        opened._select = f"SELECT rev, body FROM {table} WHERE {where}"
        scope = ("channel",) if self._per_channel else ()
        opened._queried = Table(SQLite(self.id_attribute), table, "rev, body", scope, self.indexes)
        opened._upsert_model = (
            f"INSERT INTO {table} ({columns}, rev, body) VALUES ({places}, ?, ?)"
            f" ON CONFLICT ({columns}) DO UPDATE SET rev = excluded.rev, body = excluded.body"
        )
        opened._delete = f"DELETE FROM {table} WHERE {where}"
        return opened

    async def start(self) -> None:
        """Open the file and make the table.

        Raises:
            ConfigurationError: the file or the table cannot be used; the text says how to mend it.
        """
        self._database = await Database.open(self)
        try:
            await self._database.writer.call(self._set_up)
        except BaseException as err:
            await self._database.close(self)
            if isinstance(err, Unavailable):
                raise ConfigurationError(f"{self.path} cannot be used; the log says why") from None
            raise

    async def stop(self) -> None:
        """Finish what is being written and close the file."""
        await self._database.close(self)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "INSERT OR IGNORE INTO bbio_backends (name, rev, epoch) VALUES (?, 0, ?)",
                (self.table, secrets.token_hex(6)),
            )
            row = connection.execute("SELECT id FROM bbio_backends WHERE name = ?", (self.table,)).fetchone()
            self._backend_id = row[0]
            found = {row[1] for row in connection.execute("SELECT * FROM pragma_table_info(?)", (self.table,))}
            wanted = {*self._columns.split(", "), "rev", "body"}
            if not found:
                connection.execute(self._create)
                self._insert_initial(connection)
            elif not wanted <= found or ("channel" in found) != self._per_channel:
                raise ConfigurationError(
                    f"the table {self.table!r} of {self.path} has the columns {', '.join(sorted(found))}; "
                    f"{', '.join(sorted(wanted))} are needed: name another table, SQLiteStore(..., table='models')"
                )
            self._index(connection)

    def _index(self, connection: sqlite3.Connection) -> None:
        """Make the indexes that are declared, and drop those that are no more."""
        declared = {}
        for expressions in self._queried.index_expressions().values():
            digest = hashlib.blake2b(expressions.encode(), digest_size=6).hexdigest()
            declared[f"bbio_{self.table}_{digest}"] = expressions
        rows = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND name GLOB 'bbio_*'", (self.table,)
        )
        found = {name for (name,) in rows}
        for name in found - declared.keys():
            connection.execute(f"DROP INDEX {_quoted(name)}")
        for name in declared.keys() - found:
            connection.execute(f"CREATE INDEX {_quoted(name)} ON {self._queried.name} ({declared[name]})")

    def _insert_initial(self, connection: sqlite3.Connection) -> None:
        for rev, model in enumerate(self._initial, 1):
            key = self._columns_of(("", self.key(model)))
            connection.execute(self._upsert_model, (*key, rev, encode(model).decode()))
        connection.execute("UPDATE bbio_backends SET rev = ? WHERE id = ?", (len(self._initial), self._backend_id))

    def _columns_of(self, key: tuple[str, Any]) -> tuple[Any, ...]:
        return key if self._per_channel else key[1:]

    # Writes

    def submit(self, change: Change) -> asyncio.Future[Commit]:
        """Have a change made in the next batch."""
        return self._database.writer.submit(change)

    def apply(self, connection: sqlite3.Connection, changes: list[Change]) -> None:
        """Make changes in the transaction that is open."""
        batch = Batch(self, changes)
        self._load(connection, batch)
        batch.apply()
        if batch.events:
            self._save(connection, batch)

    def _load(self, connection: sqlite3.Connection, batch: Batch) -> None:
        execute, backend = connection.execute, self._backend_id
        batch.rev, batch.epoch = execute("SELECT rev, epoch FROM bbio_backends WHERE id = ?", (backend,)).fetchone()
        for name in batch.streams:
            row = execute("SELECT epoch, top FROM bbio_streams WHERE backend = ? AND name = ?", (backend, name))
            for epoch, top in row:
                batch.positions[name] = Position(epoch, top)
        for key in batch.keys:
            for rev, body in execute(self._select, self._columns_of(key)):
                batch.models[key] = (rev, body)
        for operation in batch.operations:
            found = self._operation(connection, operation)
            if found is not None:
                batch.replies[operation] = found

    def _operation(self, connection: sqlite3.Connection, operation: bytes) -> tuple[int, Event] | None:
        row = connection.execute(
            "SELECT digest, stream, epoch, position, method, body, rev, op, at FROM bbio_operations"
            " WHERE backend = ? AND operation = ?",
            (self._backend_id, operation),
        ).fetchone()
        if row is None:
            return None
        digest, stream, epoch, offset, method, body, rev, op, at = row
        return digest, Event(stream, epoch, offset, method, body.encode(), rev, op, at)

    def _save(self, connection: sqlite3.Connection, batch: Batch) -> None:
        execute, many, backend = connection.execute, connection.executemany, self._backend_id
        many(
            self._upsert_model,
            [(*self._columns_of(key), row[0], row[1].decode()) for key, row in batch.changed.items() if row],
        )
        many(self._delete, [self._columns_of(key) for key, row in batch.changed.items() if not row])
        at = batch.events[-1].when
        rows: dict[str, list[int]] = {}
        for event in batch.events:
            row = rows.get(event.stream)
            if row is None:
                row = rows[event.stream] = self._stream_row(connection, event, at)
            row[1] += 1
            row[2] += len(event.body)
        many(
            "UPDATE bbio_streams SET top = ?, size = ?, at = ? WHERE id = ?",
            [(top, size, at, id) for id, top, size, _ in rows.values()],
        )
        many(
            "INSERT INTO bbio_log VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(rows[e.stream][0], e.offset, e.method, e.body.decode(), e.rev, e.op, at) for e in batch.events],
        )
        many(
            "INSERT INTO bbio_operations (backend, operation, digest, stream, epoch, position, method, body, rev, op,"
            " at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (backend, operation, digest, e.stream, e.epoch, e.offset, e.method, e.body.decode(), e.rev, e.op, at)
                for operation, digest, e in batch.kept
            ],
        )
        execute("UPDATE bbio_backends SET rev = ? WHERE id = ?", (batch.rev, backend))
        self._trim(connection, [(row[0], row[1], row[2]) for row in rows.values() if self._outgrown(row)], at)
        if self._new_streams >= TRIM_EVERY:
            self._new_streams = 0
            self._forget_streams(connection)

    def _outgrown(self, row: list[int]) -> bool:
        """Whether a stream's events are to be looked at: it has grown by many since the last time, or is too big."""
        _, top, size, before = row
        return top // TRIM_EVERY != before // TRIM_EVERY or size > self.history.size * 5 // 4

    def _stream_row(self, connection: sqlite3.Connection, event: Event, now: float) -> list[int]:
        """The id, top, size and former top of the stream that an event is to be added to."""
        values = (self._backend_id, event.stream)
        found = connection.execute(
            "SELECT id, top, size, top FROM bbio_streams WHERE backend = ? AND name = ?", values
        ).fetchone()
        if found is None:
            added = connection.execute(
                "INSERT INTO bbio_streams (backend, name, epoch, top, size, at) VALUES (?, ?, ?, 0, 0, ?)",
                (*values, event.epoch, now),
            )
            found = (added.lastrowid, 0, 0, 0)
            self._new_streams += 1
        return list(found)

    def _trim(self, connection: sqlite3.Connection, streams: list[tuple[int, int, int]], now: float) -> None:
        """Drop what the limits of the history no longer allow, of streams given by id, top and size."""
        if not streams:
            return
        execute, history = connection.execute, self.history
        for id, top, size in streams:
            last = 0
            for position, at, length in execute(
                "SELECT position, at, length(CAST(body AS BLOB)) FROM bbio_log WHERE stream = ? ORDER BY position",
                (id,),
            ):
                if position > top - history.events and now - at <= history.age and size <= history.size:
                    break
                last = position
                size -= length
            execute("DELETE FROM bbio_log WHERE stream = ? AND position <= ?", (id, last))
            execute("UPDATE bbio_streams SET size = ? WHERE id = ?", (size, id))
        execute(
            "DELETE FROM bbio_operations WHERE id IN (SELECT id FROM bbio_operations ORDER BY id LIMIT ?)"
            " AND (at < ? OR id <= (SELECT max(id) FROM bbio_operations) - ?)",
            (2 * TRIM_EVERY, now - OPERATION_AGE, OPERATION_COUNT),
        )

    def _forget_streams(self, connection: sqlite3.Connection) -> None:
        execute, backend = connection.execute, self._backend_id
        (count,) = execute("SELECT count(*) FROM bbio_streams WHERE backend = ?", (backend,)).fetchone()
        if count > self.history.streams:
            forgotten = "SELECT id FROM bbio_streams WHERE backend = ? ORDER BY at DESC, id DESC LIMIT -1 OFFSET ?"
            values = (backend, self.history.streams)
            execute(f"DELETE FROM bbio_log WHERE stream IN ({forgotten})", values)
            execute(f"DELETE FROM bbio_streams WHERE id IN ({forgotten})", values)
            # Should a forgotten stream begin again, its positions must not be taken for the earlier ones.
            execute("UPDATE bbio_backends SET epoch = ? WHERE id = ?", (secrets.token_hex(6), backend))

    # Reads

    async def read(self, req: Request) -> Any:
        """Answer a read: the model named by its id in `req.model`, or the list of models."""
        channel = self.channel_of(req)
        key = None if req.model is None else self.key(req.model)
        if key is not None:
            row = await self._database.reader.call(
                lambda connection: connection.execute(self._select, self._columns_of((channel, key))).fetchone()
            )
            if row is None:
                raise self.unknown(key)
            req.revs = {key: row[0]}
            return decode(row[1])
        query = self.query(req)
        scope = (channel,) if self._per_channel else ()
        rows, total = await self._database.reader.call(
            lambda connection: _answer(connection, self._queried, query or Query(limits=self.queries), scope)
        )
        page = (query or Query(limits=self.queries)).cut([decode(body) for _, body in rows], total)
        req.revs = {model[self.id_attribute]: rev for model, (rev, _) in zip(page.models, rows, strict=False)}
        if query is not None:
            req.page = page.to_json()
        return page.models

    async def find(self, req: Request) -> Commit | None:
        """What an operation already came to, None when it is new."""
        if req.op is None:
            return None
        operation = digest_of(req.operation)
        found = await self._database.reader.call(lambda connection: self._operation(connection, operation))
        return None if found is None else repeated(found, req)

    async def positions(self, streams: Iterable[str]) -> dict[str, Position]:
        """The top of each stream."""
        names = list(streams)

        def look(connection: sqlite3.Connection) -> dict[str, Position]:
            return {name: self._stream(connection, name)[1] for name in names}

        return await self._database.reader.call(look)  # type: ignore[no-any-return]

    async def since(self, stream: str, epoch: Any, offset: Any) -> list[Event] | None:
        """The events after a position, None when they are no longer all there."""
        if type(epoch) is not str or type(offset) is not int or not 0 <= offset < 2**63:
            return None

        def look(connection: sqlite3.Connection) -> list[Event] | None:
            id, top = self._stream(connection, stream)
            if top.epoch != epoch or offset > top.offset:
                return None
            rows = connection.execute(
                "SELECT position, method, body, rev, op, at FROM bbio_log"
                " WHERE stream = ? AND position > ? AND position <= ? ORDER BY position",
                (id, offset, top.offset),
            )
            events = [Event(stream, top.epoch, at, method, body.encode(), *rest) for at, method, body, *rest in rows]
            return events if len(events) == top.offset - offset else None

        return await self._database.reader.call(look)  # type: ignore[no-any-return]

    def _stream(self, connection: sqlite3.Connection, name: str) -> tuple[int, Position]:
        id, epoch, top = connection.execute(
            "SELECT s.id, coalesce(s.epoch, b.epoch), coalesce(s.top, 0) FROM bbio_backends b"
            " LEFT JOIN bbio_streams s ON s.backend = b.id AND s.name = ? WHERE b.id = ?",
            (name, self._backend_id),
        ).fetchone()
        return id, Position(epoch, top)


def _apply_alone(connection: sqlite3.Connection, change: Change) -> None:
    connection.execute("SAVEPOINT alone")
    try:
        change.store.apply(connection, [change])  # type: ignore[attr-defined]
    except sqlite3.IntegrityError as err:
        connection.execute("ROLLBACK TO alone")
        logger.warning("%s: a write was refused: %s", change.store.table, err)
        change.error = Conflict("the model breaks a rule of the database, such as one of uniqueness")
    connection.execute("RELEASE alone")


def _mark_clean(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("UPDATE bbio_database SET clean = 1")


def _explain(err: Exception, path: Path) -> str:
    """What is wrong with a file, and how to mend it."""
    if isinstance(err, ConfigurationError):
        return str(err)
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist: make it, or give SQLiteStore another path"
    if path.is_dir():
        return f"{path} is a folder: give SQLiteStore the path of a file"
    code = getattr(err, "sqlite_errorcode", 0) & 0xFF
    hints = {
        sqlite3.SQLITE_BUSY: "another program has locked it: end that program, or give SQLiteStore a longer timeout",
        sqlite3.SQLITE_FULL: "the disk is full: make room",
        sqlite3.SQLITE_READONLY: "it cannot be written to: change its permissions, or those of its folder",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened: change its permissions, or those of its folder",
        sqlite3.SQLITE_CORRUPT: "it is damaged: move it away, and bring back a backup or let a new one be made",
        sqlite3.SQLITE_NOTADB: "it is no SQLite database: move it away, or give SQLiteStore another path",
        sqlite3.SQLITE_IOERR: "the disk fails: look at it",
    }
    return f"{path} cannot be used: {hints.get(code, 'look at what SQLite says')} ({err})"


def _answer(
    connection: sqlite3.Connection, table: Table, query: Query, scope: tuple[Any, ...]
) -> tuple[list[tuple[int, str]], int | None]:
    """The rows that a query finds, and how many match if it asks.

    Raises:
        Timeout: it takes too long.
    """
    deadline = time.monotonic() + query.limits.seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
    connection.execute("BEGIN")
    try:
        rows = connection.execute(*table.select(query, scope, "rowid")).fetchall()
        total = connection.execute(*table.count(query, scope)).fetchone()[0] if query.count else None
    except sqlite3.OperationalError as err:
        if getattr(err, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            raise Timeout("the query takes too long: ask for less, or have its fields indexed") from None
        raise
    finally:
        connection.set_progress_handler(None, 0)
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return rows, total


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
