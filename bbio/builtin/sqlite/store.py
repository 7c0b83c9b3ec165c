"""SQLiteStore: models, events and operations in an SQLite file, each write in one transaction.

Writes that wait together are committed together: many clients share the one costly step, the sync to the disk.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Awaitable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Self

import msgspec

from bbio.builtin.documents import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    OPERATION_AGE,
    OPERATION_COUNT,
    Batch,
    Change,
    DocumentStore,
    Key,
    Outcome,
    Selected,
    Whole,
    broken_rule,
    bytes_of,
    event_of,
    event_row,
    found_of,
    not_made,
    now,
    record_text,
)
from bbio.builtin.ids import Ids, given_ids, neighbouring_ids
from bbio.builtin.sql import QueryTable, SQLite
from bbio.builtin.sqlite.file import Database, explain, stand_in
from bbio.builtin.sqlite.ledger import SQLiteLedger
from bbio.declared import Publisher
from bbio.errors import ConfigurationError, Conflict
from bbio.protocol import decode, encode
from bbio.query import Query
from bbio.requests import ENDLESS, SHORT_LIST, ListSize, Request
from bbio.store import CHECKPOINT_SECONDS, Checkpoint, Promises, Scratch, gone_on, is_as_in
from bbio.streams import Commit, Event, Position
from bbio.weight import decoded_bytes

# The log is trimmed each time it has grown by so many events, and so on with streams and operations.
TRIM_EVERY = 125
# How many streams the writing thread remembers.
KNOWN_STREAMS = 10_000

# The SQLSTATE of each kind of rule, by SQLite's code.
RULE_CODES = {
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: "23502",
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: "23505",
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: "23505",
    sqlite3.SQLITE_CONSTRAINT_CHECK: "23514",
}

ALL_TOPS = """
SELECT '', epoch, 0, 0 FROM bbio_backends WHERE id = :backend
UNION ALL SELECT name, epoch, top, stamp FROM bbio_streams WHERE backend = :backend"""

RECHECKS = "SELECT rechecks FROM bbio_backends WHERE id = ?"
RECHECK = "UPDATE bbio_backends SET rechecks = rechecks + 1 WHERE id = ?"

# How far a bulk has come.
FIND_BULK = "SELECT stored, digest, done FROM bbio_bulks WHERE backend = ? AND name = ?"
BEGIN_BULK = "INSERT OR IGNORE INTO bbio_bulks (stored, digest, at, backend, name, done) VALUES (?, ?, ?, ?, ?, 0)"
KEEP_BULK = "INSERT OR REPLACE INTO bbio_bulks (stored, digest, at, backend, name, done) VALUES (?, ?, ?, ?, ?, ?)"
ADVANCE = (
    "UPDATE bbio_bulks SET stored = ?, digest = ?, at = ? WHERE backend = ? AND name = ? AND stored = ? AND NOT done"
)

MISSED = """
WITH RECURSIVE missed (id, previous, position, method, body, rev, op, at, stamp) AS (
    SELECT id, previous, position, method, body, rev, op, at, stamp FROM bbio_log
    WHERE id = :last AND stream = :stream AND position = :top AND position >= :first
    UNION ALL
    SELECT l.id, l.previous, l.position, l.method, l.body, l.rev, l.op, l.at, l.stamp
    FROM missed m JOIN bbio_log l ON l.id = m.previous
    WHERE l.stream = :stream AND l.position = m.position - 1 AND l.position >= :first
) SELECT position, method, body, rev, op, at, stamp FROM missed"""
# The same with how the records were.
MISSED_WITH_WAS = MISSED.replace(
    "SELECT position, method, body, rev, op, at, stamp FROM missed",
    "SELECT m.position, m.method, m.body, m.rev, m.op, m.at, m.stamp, w.was FROM missed m"
    " LEFT JOIN bbio_was w ON w.id = m.id AND w.stamp = m.stamp ORDER BY m.position DESC",
)

# From the last event of a stream back to the one that made a revision.
REVISED = """
WITH RECURSIVE earlier (id, previous, position, method, body, rev) AS (
    SELECT id, previous, position, method, body, rev FROM bbio_log WHERE id = :last AND stream = :stream
    UNION ALL
    SELECT l.id, l.previous, l.position, l.method, l.body, l.rev
    FROM earlier e JOIN bbio_log l ON l.id = e.previous
    WHERE e.rev IS NOT :rev AND l.stream = :stream AND l.position > :oldest
) SELECT body FROM earlier WHERE rev = :rev AND method <> 'delete'"""

# Of so many events from a place on: those that no stream's limits allow any more, and those of streams that are gone.
# What a consumer has not handled has limits of its own, with the event before it, whose stamp says which history it is.
TRIM = """
DELETE FROM bbio_log WHERE id IN (
    SELECT l.id FROM bbio_log l LEFT JOIN bbio_streams s ON s.id = l.stream
    WHERE l.id BETWEEN :first AND :last AND (s.id IS NULL OR (s.backend = :backend AND
        (l.position <= s.top - :events OR s.size - l.before > :size OR l.at < :oldest) AND
        (l.position <= s.top - :needed_events OR s.size - l.before > :needed_size OR l.at < :oldest_needed
        OR NOT EXISTS (
            SELECT 1 FROM bbio_consumers c
            LEFT JOIN bbio_consumer_positions p ON p.consumer = c.id AND p.stream = s.name
            WHERE c.backend = :backend AND (c.channel IS NULL OR p.stream IS NOT NULL)
            AND l.position >= CASE WHEN p.epoch = s.epoch THEN p.position ELSE 0 END)))))"""
# How the records of events were that are gone.
TRIM_WAS = """
DELETE FROM bbio_was AS w WHERE id BETWEEN :first AND :last
    AND NOT EXISTS (SELECT 1 FROM bbio_log l WHERE l.id = w.id AND l.stamp = w.stamp)"""


class StreamRow(msgspec.Struct, eq=False):
    """A stream as the file has it: its top, the bytes of all its events, the id and stamp of its last event."""

    id: int
    epoch: str
    top: int
    size: int
    last: int | None
    stamp: int


class SQLiteStore(DocumentStore):
    """Keeps the models of one backend in an SQLite file, with their events and operations.

    A write is acknowledged when it is on the disk. The file, its tables and what later versions need are made at the
    start. All stores of one file share their commits.

    Parameters:
        path: the file; its folder must exist.
        table: the table of the models; named like the backend by default. It has the columns `id`, `rev` and `body`.
        durable: whether a write waits for the disk. Without that a power cut (not a crash) may lose the last writes,
            and the writes of a lone client are faster.
        timeout: seconds to wait for another program that has locked the file.
        ids: a function that returns the id of each new model, a string or a whole number; by default ids are random,
            so that nobody can guess one. A create whose id is taken is a `Conflict`.
        id_attribute: the name of the id in a model, Backbone's `idAttribute`.
        upsert: whether an update or patch of an unknown id creates the model, instead of `NotFound`.
        per_channel: whether every channel has models of its own.
        models: the initial models, stored when the table is new; each needs an id.
        history: how much of each stream is kept for clients that return.
        index: the fields that queries ask for: names, or tuples of names that are asked for together.
        queries: how much a query of a client may ask for.

    Raises (at the start of the application):
        ConfigurationError: the file cannot be used; the text says how to mend it.

    Example:
        >>> from bbio import Backend
        >>> class Todos(Backend):
        ...     store = SQLiteStore("todos.db")
    """

    # In a test: how the tables of the file that it keeps away from were made, by their names.
    _copied: Mapping[str, list[str]] = MappingProxyType({})
    _database: Database
    _backend_id: int
    _rechecks: int
    _streams: dict[str, StreamRow]
    _trimmed: int
    _new_events: int
    _new_streams: int
    _new_operations: int
    _columns: str
    _create: str
    _select: str
    _queried: QueryTable
    _insert_model: str
    _upsert_model: str
    _delete: str

    def __init__(
        self,
        path: str | os.PathLike[str],
        table: str | None = None,
        *,
        durable: bool = True,
        timeout: float = 5.0,
        ids: Ids | None = None,
        **options: Any,
    ) -> None:
        super().__init__(table, **options)
        self.ids = ids
        self.path = os.fspath(path)
        self.durable = durable
        self.timeout = timeout
        if self.path in ("", ":memory:"):
            raise ConfigurationError("SQLiteStore keeps models in a file; for models in memory there is MemoryStore()")

    async def scratch(self, room: Scratch) -> Self:
        """Return this declaration over a file of the test's own, with tables like those of the real one."""
        other = copy.copy(self)
        other.path, other._copied = await asyncio.to_thread(stand_in, self.path, room.folder)
        return other

    def open(self, backend: Any, publisher: Publisher) -> Self:
        opened = super().open(backend, publisher)
        opened._ids = neighbouring_ids() if self.ids is None else given_ids(self.ids)
        # Looked at with the first write: it is not known what there is.
        opened._streams = {}
        # It has none before the start.
        opened._backend_id = opened._rechecks = 0
        opened._trimmed = 0
        opened._new_events = opened._new_streams = opened._new_operations = TRIM_EVERY
        if "\0" in opened.table or opened.table.lower().startswith(("bbio_", "sqlite_")):
            raise ConfigurationError(
                f"{opened.table!r} cannot be the table of the models; choose another: SQLiteStore(..., table='models')"
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
        opened._queried = QueryTable(SQLite(self.id_attribute), table, "rev, body", scope, self.indexes)
        opened._insert_model = f"INSERT INTO {table} ({columns}, rev, body) VALUES ({places}, ?, ?)"
        opened._upsert_model = (
            f"{opened._insert_model} ON CONFLICT ({columns}) DO UPDATE SET rev = excluded.rev, body = excluded.body"
        )
        opened._delete = f"DELETE FROM {table} WHERE {where}"
        return opened

    def promises(self, method: str) -> Promises:
        """Return what a backend may rely on: without a model, a read by this very class runs no other code."""
        is_own = type(self) is SQLiteStore and self.schema is None
        return Promises(
            atomic=self.atomic,
            immediate=is_own and method == "read",
            passes_on=type(self) is SQLiteStore,
            was=True,
            scoped=is_as_in(SQLiteStore, self),
            bulk=is_as_in(SQLiteStore, self),
        )

    async def start(self) -> None:
        """Open the file and make the table.

        Raises:
            ConfigurationError: the file or the table cannot be used; the text says how to mend it.
        """
        self._database = await Database.open(self)
        try:
            await self._database.writer.call(self._set_up)
        except BaseException:
            await self._database.close(self)
            raise
        self.control = self._database.control
        self.consumers = SQLiteLedger(self._backend_id, self._database.writer, self._database.reader)

    async def stop(self) -> None:
        """Finish what is being written and close the file."""
        await self._database.close(self)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                found = self._columns_found(connection)
                if not found and not self.migrates:
                    raise not_made(self.path, f"has no table {self.table!r}")
                self._find_backend(connection)
                if not found:
                    self._make_table(connection)
                found = self._columns_found(connection)
                wanted = {*self._columns.split(", "), "rev", "body"}
                if not wanted <= found or ("channel" in found) != self._per_channel:
                    raise ConfigurationError(
                        f"the table {self.table!r} of {self.path} has the columns {', '.join(sorted(found))}; "
                        f"{', '.join(sorted(wanted))} are needed: name another table, SQLiteStore(..., table='models')"
                    )
                # Tells what is wrong with a table that was made by somebody else.
                connection.execute(f"EXPLAIN {self._upsert_model}", (None,) * (len(wanted)))
                if self.migrates:
                    self._index(connection)
        except sqlite3.Error as err:
            raise ConfigurationError(explain(err, self._database.path)) from None

    def _columns_found(self, connection: sqlite3.Connection) -> set[str]:
        return {row[1] for row in connection.execute("SELECT * FROM pragma_table_info(?)", (self.table,))}

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

    def _find_backend(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT OR IGNORE INTO bbio_backends (name, rev, epoch) VALUES (?, 0, ?)",
            (self.table, secrets.token_hex(6)),
        )
        row = connection.execute("SELECT id, rechecks FROM bbio_backends WHERE name = ?", (self.table,)).fetchone()
        self._backend_id, self._rechecks = row

    def _make_table(self, connection: sqlite3.Connection) -> None:
        execute, backend = connection.execute, self._backend_id
        for statement in self._copied.get(self.table.lower(), (self._create,)):
            execute(statement)
        # Should there have been one of that name, its events say nothing of this one, but revisions go on.
        execute("DELETE FROM bbio_streams WHERE backend = ?", (backend,))
        (rev,) = execute("SELECT rev FROM bbio_backends WHERE id = ?", (backend,)).fetchone()
        for model in self._initial:
            rev += 1
            key = self._columns_of(("", self.key(model)))
            execute(self._upsert_model, (*key, rev, encode(model).decode()))
        execute("UPDATE bbio_backends SET rev = ?, epoch = ? WHERE id = ?", (rev, secrets.token_hex(6), backend))

    def _columns_of(self, key: tuple[str, Any]) -> tuple[Any, ...]:
        return key if self._per_channel else key[1:]

    # Writes

    def submit(self, change: Change) -> asyncio.Future[Commit]:
        """Have a change made in the next batch."""
        return self._database.writer.submit(change)

    def submit_all(self, whole: Whole) -> asyncio.Future[list[Commit]]:
        """Have writes made in a transaction of their own, after what waits."""
        return self._database.writer.submit(whole)

    def apply_whole(self, connection: sqlite3.Connection, whole: Whole) -> None:
        """Make writes, all or none, in the transaction that is open.

        Raises:
            RowRefused: one of them cannot be made.
            Conflict: the bulk has gone on elsewhere.
        """
        batch = Batch(self, whole.changes)
        last = self._load(connection, batch)
        batch.apply()
        whole.keep(batch)
        self._save(connection, batch, last)
        if whole.checkpoint is not None:
            name, start, checkpoint = whole.checkpoint
            values = (checkpoint.rows, checkpoint.digest, now(), self._backend_id, name)
            moved = connection.execute(ADVANCE, (*values, start)) if start else connection.execute(BEGIN_BULK, values)
            if moved.rowcount != 1:
                raise gone_on(name)

    async def checkpoint(self, name: str) -> Checkpoint | None:
        def look(connection: sqlite3.Connection) -> Any:
            return connection.execute(FIND_BULK, (self._backend_id, name)).fetchone()

        row = await self._database.reader.call(look)
        return None if row is None else Checkpoint(row[0], row[1], bool(row[2]))

    async def set_checkpoint(self, name: str, checkpoint: Checkpoint | None) -> None:
        def keep(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM bbio_bulks WHERE done AND at < ?", (now() - CHECKPOINT_SECONDS,))
            if checkpoint is None:
                connection.execute("DELETE FROM bbio_bulks WHERE backend = ? AND name = ?", (self._backend_id, name))
            else:
                values = (checkpoint.rows, checkpoint.digest, now(), self._backend_id, name, checkpoint.is_done)
                connection.execute(KEEP_BULK, values)

        await self._database.writer.call(keep)

    def apply(self, connection: sqlite3.Connection, changes: list[Change]) -> list[Change]:
        """Make changes in the transaction that is open; those that are left for another come back."""
        batch = Batch(self, changes)
        last = self._load(connection, batch)
        batch.apply()
        if batch.events:
            self._save(connection, batch, last)
        return batch.left

    def forget(self) -> None:
        """Forget the remembered state of the file: a commit failed, or somebody else has written to it."""
        self._streams.clear()

    def _load(self, connection: sqlite3.Connection, batch: Batch) -> int:
        """Tell a batch what it needs to know; the id of the last event in the log comes back."""
        execute, streams = connection.execute, self._streams
        last: int
        batch.rev, batch.epoch, last = execute(
            "SELECT rev, epoch, (SELECT coalesce(max(id), 0) FROM bbio_log) FROM bbio_backends WHERE id = ?",
            (self._backend_id,),
        ).fetchone()
        if len(streams) > KNOWN_STREAMS:
            streams.clear()
        for name in batch.streams:
            stream = streams.get(name) or self._find_stream(connection, name)
            if stream is not None:
                batch.tops[name] = stream.epoch, stream.top
        size, keys = 0, batch.keys
        for place, key in enumerate(keys):
            if size > MAX_BATCH_BYTES:
                batch.end_before(keys[place:])
                break
            for rev, body in execute(self._select, self._columns_of(key)):
                batch.models[key] = (rev, body)
                size += len(body)
        for (name, rev), key in batch.stale.items():
            base = self._base(connection, name, rev, key)
            if base is not None:
                batch.bases[key, rev] = base
        for operation in batch.operations:
            found = self._operation(connection, operation)
            if found is not None:
                batch.replies[operation] = found
        return last

    def _find_stream(self, connection: sqlite3.Connection, name: str) -> StreamRow | None:
        row = connection.execute(
            "SELECT id, epoch, top, size, last, stamp FROM bbio_streams WHERE backend = ? AND name = ?",
            (self._backend_id, name),
        ).fetchone()
        if row is None:
            return None
        stream = self._streams[name] = StreamRow(*row)
        return stream

    def _base(self, connection: sqlite3.Connection, name: str, rev: int, key: Key) -> bytes | None:
        """Return the event of a model at a revision from its stream; None when it is forgotten."""
        stream = self._streams.get(name)
        if stream is not None:
            oldest = stream.top - self.history.events
            place = {"last": stream.last, "stream": stream.id, "rev": rev, "oldest": oldest}
            for (body,) in connection.execute(REVISED, place):
                if decode(body)[self.id_attribute] == key[1]:
                    return bytes(body.encode())
        return None

    def _operation(self, connection: sqlite3.Connection, operation: bytes) -> Outcome | None:
        row = connection.execute(
            "SELECT digest, record, stream, epoch, position, method, body, rev, op, at, stamp FROM bbio_operations"
            " WHERE backend = ? AND operation = ?",
            (self._backend_id, operation),
        ).fetchone()
        return None if row is None else found_of(*row)

    def _save(self, connection: sqlite3.Connection, batch: Batch, last: int) -> None:
        execute, many, backend = connection.execute, connection.executemany, self._backend_id
        created = {change.key for change in batch.changes if change.method == "create"}
        inserted: list[tuple[Any, ...]] = []
        upserted: list[tuple[Any, ...]] = []
        for key, row in batch.changed.items():
            if row:
                # What is there already under the id of a new model is never overwritten.
                rows = inserted if key in created else upserted
                rows.append((*self._columns_of(key), row[0], row[1].decode()))
        many(self._insert_model, inserted)
        many(self._upsert_model, upserted)
        many(self._delete, [self._columns_of(key) for key, row in batch.changed.items() if not row])
        at = batch.events[-1].when
        streams: dict[str, StreamRow] = {}
        log = []
        for id, event in enumerate(batch.events, last + 1):
            name, body = event.stream, event.body
            stream = streams[name] = self._streams.get(name) or self._add_stream(connection, event, at)
            place = (id, stream.id, event.offset, stream.last, stream.size)
            log.append((*place, event.method, body.decode(), event.rev, event.op, at, event.stamp))
            stream.top, stream.last, stream.stamp = event.offset, id, event.stamp
            stream.size += len(body)
        many("INSERT INTO bbio_log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", log)
        if self.keeps_was:
            were = [(id, event.stamp, event.was) for id, event in enumerate(batch.events, last + 1)]
            many(
                "INSERT OR REPLACE INTO bbio_was VALUES (?, ?, ?)",
                [(id, stamp, was.decode()) for id, stamp, was in were if was is not None],
            )
        many(
            "UPDATE bbio_streams SET top = ?, size = ?, at = ?, last = ?, stamp = ? WHERE id = ?",
            [(stream.top, stream.size, at, stream.last, stream.stamp, stream.id) for stream in streams.values()],
        )
        many(
            "INSERT INTO bbio_operations (backend, operation, digest, stream, epoch, position, method, body, rev, op,"
            " at, stamp, record) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (backend, operation, digest, *event_row(event), at, event.stamp, record_text(whole))
                for operation, digest, event, whole in batch.kept
            ],
        )
        execute("UPDATE bbio_backends SET rev = ? WHERE id = ?", (batch.rev, backend))
        self._new_events += len(log)
        if self._new_events >= TRIM_EVERY:
            self._trim(connection, 2 * self._new_events, log[-1][0], at)
            self._new_events = 0
        if self._new_streams >= TRIM_EVERY:
            self._new_streams = 0
            self._forget_streams(connection)
        self._new_operations += len(batch.kept)
        if self._new_operations >= TRIM_EVERY:
            self._new_operations = 0
            self._forget_operations(connection, at)

    def _add_stream(self, connection: sqlite3.Connection, event: Event, now: float) -> StreamRow:
        """A stream that begins with an event."""
        added = connection.execute(
            "INSERT INTO bbio_streams (backend, name, epoch, top, size, at) VALUES (?, ?, ?, 0, 0, ?)",
            (self._backend_id, event.stream, event.epoch, now),
        )
        self._new_streams += 1
        stream = self._streams[event.stream] = StreamRow(added.lastrowid or 0, event.epoch, 0, 0, None, 0)
        return stream

    def _trim(self, connection: sqlite3.Connection, count: int, newest: int, now: float) -> None:
        """Look at so many events, from where the last look ended, and drop what the limits no longer allow.

        At two for each that is written, all have been looked at before the log has doubled.
        """
        first = self._trimmed
        (last,) = connection.execute(
            "SELECT max(id) FROM (SELECT id FROM bbio_log WHERE id >= ? ORDER BY id LIMIT ?)", (first, count)
        ).fetchone()
        history, needed = self.history, self.history.for_consumers()
        values = {"first": first, "last": last, "backend": self._backend_id, "events": history.events}
        values |= {"size": history.size, "oldest": now - history.age}
        values |= {"needed_events": needed.events, "needed_size": needed.size, "oldest_needed": now - needed.age}
        connection.execute(TRIM, values)
        connection.execute(TRIM_WAS, {"first": first, "last": last})
        self._trimmed = 0 if last is None or last >= newest else last + 1

    def _forget_operations(self, connection: sqlite3.Connection, now: float) -> None:
        (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM bbio_operations").fetchone()
        # More than have come since the last time, so that it ends, but not all at once, which would hold up writers.
        connection.execute(
            "DELETE FROM bbio_operations WHERE id IN (SELECT id FROM bbio_operations ORDER BY id LIMIT ?)"
            " AND ((at < ? AND id <= ?) OR id <= ?)",
            (
                MAX_BATCH + 2 * TRIM_EVERY,
                now - OPERATION_AGE,
                self._seen.through(newest),
                newest - OPERATION_COUNT,
            ),
        )

    def _forget_streams(self, connection: sqlite3.Connection) -> None:
        execute, backend = connection.execute, self._backend_id
        (count,) = execute("SELECT count(*) FROM bbio_streams WHERE backend = ?", (backend,)).fetchone()
        if count > self.history.streams:
            forgotten = "SELECT id FROM bbio_streams WHERE backend = ? ORDER BY at DESC, id DESC LIMIT -1 OFFSET ?"
            values = (backend, self.history.streams)
            # Their events go when the log is trimmed.
            execute(f"DELETE FROM bbio_streams WHERE id IN ({forgotten})", values)
            self.forget()
            # Should a forgotten stream begin again, its positions must not be taken for the earlier ones.
            execute("UPDATE bbio_backends SET epoch = ? WHERE id = ?", (secrets.token_hex(6), backend))

    # Reads

    def look_up(self, key: Key) -> Awaitable[Any]:
        """The revision and body of a model, None when there is none."""
        return self._database.row(self._select, self._columns_of(key))

    def select(
        self,
        query: Query,
        scope: tuple[str, ...],
        client: object = None,
        most: ListSize = ENDLESS,
        passes_on: bool = False,
    ) -> Awaitable[Selected]:
        """Find the models of a query."""
        path = (self, getattr(client, "address", None), client)
        return self._database.lister.call(
            lambda connection: _answer(connection, self._queried, query, scope, most, passes_on),
            query.limits.seconds,
            path,
        )

    def look_up_operation(self, operation: bytes) -> Awaitable[Any]:
        """The digest and event of an operation, None when it is new."""
        return self._database.reader.call(lambda connection: self._operation(connection, operation))

    async def positions(self, streams: Iterable[str]) -> dict[str, Position]:
        """The top of each stream."""
        names = list(streams)

        def look(connection: sqlite3.Connection) -> tuple[int, dict[str, Position]]:
            (rechecks,) = connection.execute(RECHECKS, (self._backend_id,)).fetchone()
            return rechecks, {name: self._stream(connection, name)[1] for name in names}

        rechecks, positions = await self._database.reader.call(look)
        self.note_rechecks({self._backend_id: rechecks})
        return positions  # type: ignore[no-any-return]

    async def tops(self) -> dict[str, Position]:
        """Return the top of each stream that has had an event, and under the empty name where others begin."""

        def look(connection: sqlite3.Connection) -> dict[str, Position]:
            rows = connection.execute(ALL_TOPS, {"backend": self._backend_id})
            return {name: Position(epoch, top, stamp) for name, epoch, top, stamp in rows}

        return await self._database.reader.call(look)  # type: ignore[no-any-return]

    def note_rechecks(self, rechecks: Mapping[int, int]) -> None:
        """Have permissions looked at again, if another process was told to.

        Parameters:
            rechecks: how often that was, by backend.
        """
        count = rechecks.get(self._backend_id, self._rechecks)
        if count != self._rechecks:
            self._rechecks = count
            self.publisher.recheck_soon()

    async def tell_recheck(self, channel: str | None) -> None:
        """Have the other processes that serve the backend ask again who may listen, in all channels.

        They notice within a second: they look twice a second whether the file has changed.
        """

        def count(connection: sqlite3.Connection) -> int:
            connection.execute(RECHECK, (self._backend_id,))
            (rechecks,) = connection.execute(RECHECKS, (self._backend_id,)).fetchone()
            return rechecks  # type: ignore[no-any-return]

        if await self._database.writer.call(count) == self._rechecks + 1:
            self._rechecks += 1  # it was this process alone

    async def since(self, stream: str, epoch: Any, offset: Any, stamp: int = 0) -> list[Event] | None:
        """The events after a position, None when they are not all there any more, or it is of another history."""
        if type(epoch) is not str or type(offset) is not int or not 0 <= offset < 2**63:
            return None
        missed = MISSED_WITH_WAS if self.keeps_was else MISSED

        def look(connection: sqlite3.Connection) -> list[Event] | None:
            id, top, last = self._stream(connection, stream)
            if top.epoch != epoch or offset > top.offset:
                return None
            if offset == top.offset:
                return [] if stamp in (0, top.stamp) else None
            # With the event at the place itself, where its stamp is to be looked at.
            first = offset if stamp else offset + 1
            place = {"stream": id, "top": top.offset, "last": last, "first": first}
            events = [event_of(stream, top.epoch, *rest) for rest in connection.execute(missed, place)]
            events.reverse()
            if len(events) != top.offset - first + 1 or (stamp and events[0].stamp != stamp):
                return None
            return events[1:] if stamp else events

        return await self._all_in_full(await self._database.reader.call(look))

    def refusal(self, err: sqlite3.IntegrityError, req: Request | None) -> Conflict:
        """Return what a client is told of a rule of the file that its write breaks.

        Parameters:
            err: SQLite's error.
            req: what the client has asked for.
        """
        table = f"{self.table}.".lower()
        names = str(err).partition(" constraint failed: ")[2].split(", ")
        # Of a rule about an expression, SQLite says another name or the expression itself.
        columns = [name[len(table) :] for name in names if name.lower().startswith(table)]
        fields = [self.id_attribute if column == "id" else column for column in columns]
        return broken_rule(RULE_CODES.get(err.sqlite_errorcode, ""), self.shown(fields, req))

    def _stream(self, connection: sqlite3.Connection, name: str) -> tuple[int, Position, int]:
        """The id of a stream, its top, and the id of its last event."""
        id, epoch, top, stamp, last = connection.execute(
            "SELECT s.id, coalesce(s.epoch, b.epoch), coalesce(s.top, 0), coalesce(s.stamp, 0), s.last"
            " FROM bbio_backends b"
            " LEFT JOIN bbio_streams s ON s.backend = b.id AND s.name = ? WHERE b.id = ?",
            (name, self._backend_id),
        ).fetchone()
        return id, Position(epoch, top, stamp), last


def _answer(
    connection: sqlite3.Connection,
    table: QueryTable,
    query: Query,
    scope: tuple[Any, ...],
    most: ListSize,
    passes_on: bool,
) -> Selected:
    """Find the models of a query."""
    connection.execute("BEGIN")
    try:
        models: list[Any] = []
        revs: list[int] = []
        size, decoded = 1, 0
        for rev, body in connection.execute(*table.select(query, scope, "rowid")):
            size += bytes_of(body)
            if size > SHORT_LIST and not passes_on:
                decoded += decoded_bytes(body)
            if size > most.json or decoded > most.decoded:
                return None, revs, None, ListSize(size, decoded)
            # Other programs may have written it: what they wrote must be JSON.
            models.append(msgspec.Raw(encode(decode(body))) if passes_on else decode(body))
            revs.append(rev)
        total = connection.execute(*table.count(query, scope)).fetchone()[0] if query.count else None
    finally:
        connection.rollback()
    return models, revs, total, ListSize(size, decoded)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
