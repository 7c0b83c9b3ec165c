"""The ledger of consumers in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from bbio.builtin.ledger import SQLLedger, Statement
from bbio.builtin.sqlite.threads import Worker


class SQLiteLedger(SQLLedger):
    """Keeps the states of consumers in the file of their events.

    Parameters:
        backend: the number of the backend.
        writer: the thread that writes.
        reader: a thread that reads.
    """

    # Seconds since 1970, by the clock of the machine that all processes of a file are on.
    now = "((julianday('now') - 2440587.5) * 86400.0)"

    def __init__(self, backend: int, writer: Worker, reader: Worker) -> None:
        super().__init__(backend)
        self._writer = writer
        self._reader = reader

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        rows: list[Any] = await self._reader.call(lambda connection: self._execute(connection, statement, values))
        return rows

    async def run(self, first: str, values: tuple[Any, ...], rest: Sequence[Statement] = ()) -> list[Any]:
        def work(connection: sqlite3.Connection) -> list[Any]:
            connection.execute("BEGIN IMMEDIATE")
            try:
                found = [self._execute(connection, first, values)]
                if found[0]:
                    found += [self._execute(connection, statement, each) for statement, many in rest for each in many]
            except BaseException:
                connection.rollback()
                raise
            connection.execute("COMMIT")
            return found if found[0] else []

        rows: list[Any] = await self._writer.call(work)
        return rows

    def _execute(self, connection: sqlite3.Connection, statement: str, values: tuple[Any, ...]) -> list[Any]:
        named = {str(number): value for number, value in enumerate(values, 1)}
        return connection.execute(self.text(statement), named).fetchall()
