"""SQLiteStore: models, events and operations in an SQLite file, each write in one transaction.

Writes that wait together are committed together: many clients share the one costly step, the sync to the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Awaitable, Iterable
from typing import Any, Self

from bbio.builtin.documents import (
    MAX_BATCH,
    OPERATION_AGE,
    OPERATION_COUNT,
    Batch,
    Change,
    DocumentStore,
    Key,
    op_of,
    op_text,
)
from bbio.builtin.sql import SQLite, Table
from bbio.builtin.sqlite_file import Database, explain
from bbio.errors import ConfigurationError
from bbio.protocol import decode, encode
from bbio.query import Query
from bbio.store import Publisher
from bbio.streams import Commit, Event, Position

# A stream's history is trimmed each time it has grown by so many events, and so on with streams and operations.
TRIM_EVERY = 125


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

    bare_reads = True

    _database: Database
    _backend_id: int
    _new_streams: int
    _new_operations: int
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
        # Looked at with the first write: it is not known what there is.
        opened._new_streams = opened._new_operations = TRIM_EVERY
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
        except BaseException:
            await self._database.close(self)
            raise

    async def stop(self) -> None:
        """Finish what is being written and close the file."""
        await self._database.close(self)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                self._find_backend(connection)
                found = {row[1] for row in connection.execute("SELECT * FROM pragma_table_info(?)", (self.table,))}
                wanted = {*self._columns.split(", "), "rev", "body"}
                if not found:
                    self._make_table(connection)
                elif not wanted <= found or ("channel" in found) != self._per_channel:
                    raise ConfigurationError(
                        f"the table {self.table!r} of {self.path} has the columns {', '.join(sorted(found))}; "
                        f"{', '.join(sorted(wanted))} are needed: name another table, SQLiteStore(..., table='models')"
                    )
                # Tells what is wrong with a table that was made by somebody else.
                connection.execute(f"EXPLAIN {self._upsert_model}", (None,) * (len(wanted)))
                self._index(connection)
        except sqlite3.Error as err:
            raise ConfigurationError(explain(err, self._database.path)) from None

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
        row = connection.execute("SELECT id FROM bbio_backends WHERE name = ?", (self.table,)).fetchone()
        self._backend_id = row[0]

    def _make_table(self, connection: sqlite3.Connection) -> None:
        execute, backend = connection.execute, self._backend_id
        execute(self._create)
        # Should there have been one of that name, its events say nothing of this one, but revisions go on.
        execute("DELETE FROM bbio_log WHERE stream IN (SELECT id FROM bbio_streams WHERE backend = ?)", (backend,))
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

    def apply(self, connection: sqlite3.Connection, changes: list[Change]) -> None:
        """Make changes in the transaction that is open."""
        batch = Batch(self, changes)
        streams = self._load(connection, batch)
        batch.apply()
        if batch.events:
            self._save(connection, batch, streams)

    def _load(self, connection: sqlite3.Connection, batch: Batch) -> dict[str, list[int]]:
        """Tell a batch what it needs to know; the id, top, size and former top of each of its streams come back."""
        execute, backend = connection.execute, self._backend_id
        batch.rev, batch.epoch = execute("SELECT rev, epoch FROM bbio_backends WHERE id = ?", (backend,)).fetchone()
        streams: dict[str, list[int]] = {}
        for name in batch.streams:
            rows = execute(
                "SELECT id, epoch, top, size FROM bbio_streams WHERE backend = ? AND name = ?", (backend, name)
            )
            for id, epoch, top, size in rows:
                batch.positions[name] = Position(epoch, top)
                streams[name] = [id, top, size, top]
        for key in batch.keys:
            for rev, body in execute(self._select, self._columns_of(key)):
                batch.models[key] = (rev, body)
        for operation in batch.operations:
            found = self._operation(connection, operation)
            if found is not None:
                batch.replies[operation] = found
        return streams

    def _operation(self, connection: sqlite3.Connection, operation: bytes) -> tuple[int, Event] | None:
        row = connection.execute(
            "SELECT digest, stream, epoch, position, method, body, rev, op, at FROM bbio_operations"
            " WHERE backend = ? AND operation = ?",
            (self._backend_id, operation),
        ).fetchone()
        if row is None:
            return None
        digest, stream, epoch, offset, method, body, rev, op, at = row
        return digest, Event(stream, epoch, offset, method, body.encode(), rev, op_of(op), at)

    def _save(self, connection: sqlite3.Connection, batch: Batch, streams: dict[str, list[int]]) -> None:
        execute, many, backend = connection.execute, connection.executemany, self._backend_id
        many(
            self._upsert_model,
            [(*self._columns_of(key), row[0], row[1].decode()) for key, row in batch.changed.items() if row],
        )
        many(self._delete, [self._columns_of(key) for key, row in batch.changed.items() if not row])
        at = batch.events[-1].when
        for event in batch.events:
            stream = streams.get(event.stream)
            if stream is None:
                stream = streams[event.stream] = self._add_stream(connection, event, at)
            stream[1] += 1
            stream[2] += len(event.body)
        many(
            "UPDATE bbio_streams SET top = ?, size = ?, at = ? WHERE id = ?",
            [(top, size, at, id) for id, top, size, before in streams.values() if top > before],
        )
        many(
            "INSERT INTO bbio_log VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(streams[e.stream][0], e.offset, e.method, e.body.decode(), e.rev, op_text(e), at) for e in batch.events],
        )
        many(
            "INSERT INTO bbio_operations (backend, operation, digest, stream, epoch, position, method, body, rev, op,"
            " at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    backend,
                    operation,
                    digest,
                    e.stream,
                    e.epoch,
                    e.offset,
                    e.method,
                    e.body.decode(),
                    e.rev,
                    op_text(e),
                    at,
                )
                for operation, digest, e in batch.kept
            ],
        )
        execute("UPDATE bbio_backends SET rev = ? WHERE id = ?", (batch.rev, backend))
        self._trim(connection, [row for row in streams.values() if self._outgrown(row)], at)
        if self._new_streams >= TRIM_EVERY:
            self._new_streams = 0
            self._forget_streams(connection)
        self._new_operations += len(batch.kept)
        if self._new_operations >= TRIM_EVERY:
            self._new_operations = 0
            self._forget_operations(connection, at)

    def _outgrown(self, row: list[int]) -> bool:
        """Whether a stream's events are to be looked at: it has grown by many since the last time, or is too big."""
        _, top, size, before = row
        return top // TRIM_EVERY != before // TRIM_EVERY or size > self.history.size * 5 // 4

    def _add_stream(self, connection: sqlite3.Connection, event: Event, now: float) -> list[int]:
        """The id, top, size and former top of a stream that begins with an event."""
        added = connection.execute(
            "INSERT INTO bbio_streams (backend, name, epoch, top, size, at) VALUES (?, ?, ?, 0, 0, ?)",
            (self._backend_id, event.stream, event.epoch, now),
        )
        self._new_streams += 1
        return [added.lastrowid or 0, 0, 0, 0]

    def _trim(self, connection: sqlite3.Connection, streams: list[list[int]], now: float) -> None:
        """Drop what the limits of the history no longer allow, of streams given by id, top, size and former top."""
        execute, history = connection.execute, self.history
        for id, top, size, _ in streams:
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

    def _forget_operations(self, connection: sqlite3.Connection, now: float) -> None:
        # More than have come since the last time, so that it ends, but not all at once, which would hold up writers.
        connection.execute(
            "DELETE FROM bbio_operations WHERE id IN (SELECT id FROM bbio_operations ORDER BY id LIMIT ?)"
            " AND (at < ? OR id <= (SELECT max(id) FROM bbio_operations) - ?)",
            (MAX_BATCH + 2 * TRIM_EVERY, now - OPERATION_AGE, OPERATION_COUNT),
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

    def look_up(self, key: Key) -> Awaitable[Any]:
        """The revision and body of a model, None when there is none."""
        return self._database.row(self._select, self._columns_of(key))

    def select(self, query: Query, scope: tuple[str, ...]) -> Awaitable[Any]:
        """The models that a query finds, their revisions, and how many there are in all, if it asks for that."""
        return self._database.lister.call(
            lambda connection: _answer(connection, self._queried, query, scope), query.limits.seconds
        )

    def look_up_operation(self, operation: bytes) -> Awaitable[Any]:
        """The digest and event of an operation, None when it is new."""
        return self._database.reader.call(lambda connection: self._operation(connection, operation))

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
            events: list[Event] = []
            for at, method, body, rev, op, when in rows:
                if not events and at != offset + 1:
                    return None
                events.append(Event(stream, top.epoch, at, method, body.encode(), rev, op_of(op), when))
            return events if len(events) == top.offset - offset else None

        return await self._database.reader.call(look)  # type: ignore[no-any-return]

    def _stream(self, connection: sqlite3.Connection, name: str) -> tuple[int, Position]:
        id, epoch, top = connection.execute(
            "SELECT s.id, coalesce(s.epoch, b.epoch), coalesce(s.top, 0) FROM bbio_backends b"
            " LEFT JOIN bbio_streams s ON s.backend = b.id AND s.name = ? WHERE b.id = ?",
            (name, self._backend_id),
        ).fetchone()
        return id, Position(epoch, top)


def _answer(
    connection: sqlite3.Connection, table: Table, query: Query, scope: tuple[Any, ...]
) -> tuple[list[Any], list[int], int | None]:
    """The models that a query finds with their revisions, and how many match if it asks."""
    connection.execute("BEGIN")
    try:
        models, revs = [], []
        for rev, body in connection.execute(*table.select(query, scope, "rowid")):
            models.append(decode(body))
            revs.append(rev)
        total = connection.execute(*table.count(query, scope)).fetchone()[0] if query.count else None
    finally:
        connection.rollback()
    return models, revs, total


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
