"""The notices of the processes that share an SQLite file: a small table, looked at when the file has changed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bbio.cluster.control import KEPT_SECONDS, MAX_NOTICES, MAX_READ, Control, Row

if TYPE_CHECKING:
    from bbio.builtin.sqlite.threads import Worker

# Seconds between two looks at what other processes have written, or ended.
POLL_SECONDS = 0.5

TOP = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'bbio_notices'), 0)"
NEXT = "SELECT id, process, notice FROM bbio_notices WHERE id > ? ORDER BY id LIMIT ?"
INSERT = "INSERT INTO bbio_notices (process, at, notice) VALUES (?, ?, ?)"
TRIM = "DELETE FROM bbio_notices WHERE at < ? OR id <= last_insert_rowid() - ?"
# How often permissions were to be looked at again, by backend.
ALL_RECHECKS = "SELECT id, rechecks FROM bbio_backends"


class SQLiteControl(Control):
    """Tells the other processes that share a file, and hears what they tell.

    Parameters:
        writer: the thread that writes.
        reader: a thread that reads, whose connection never writes.
        on_change: called with how often permissions of each backend were to be looked at again, when the file changes.
    """

    seconds = POLL_SECONDS

    def __init__(self, writer: Worker, reader: Worker, on_change: Callable[[Mapping[int, int]], None]) -> None:
        super().__init__()
        self._writer = writer
        self._reader = reader
        self._on_change = on_change
        self._version = -1

    async def write(self, text: str) -> None:
        def write(connection: sqlite3.Connection) -> None:
            now = time.time()
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.execute(INSERT, (self.process, now, text))
                connection.execute(TRIM, (now - KEPT_SECONDS, MAX_NOTICES))
            except BaseException:
                connection.rollback()
                raise
            connection.execute("COMMIT")

        await self._writer.call(write)

    async def read(self, position: int) -> tuple[int, list[Row]]:
        def read(connection: sqlite3.Connection) -> tuple[int, list[Row], dict[int, int]] | None:
            # It differs when another connection has committed, whatever process that is of.
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return None
            (top,) = connection.execute(TOP).fetchone()
            rows = connection.execute(NEXT, (position, MAX_READ)).fetchall()
            rechecks = dict(connection.execute(ALL_RECHECKS).fetchall())
            if len(rows) < MAX_READ:
                self._version = version
            return top, rows, rechecks

        found = await self._reader.call(read)
        if found is None:
            return position, []
        top, rows, rechecks = found
        self._on_change(rechecks)
        return top, rows
