"""The ledger of consumers in a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bbio.builtin.ledger import SQLLedger, Statement
from bbio.builtin.postgres.database import Database


class PostgresLedger(SQLLedger):
    """Keeps the states of consumers in the database of their events.

    Parameters:
        backend: the number of the backend.
        database: the database.
    """

    # Seconds since 1970, by the one clock of the database.
    now = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"

    def __init__(self, backend: int, database: Database) -> None:
        super().__init__(backend)
        self._database = database

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        return await self._database.ask(self.text(statement), *values)

    async def run(self, first: str, values: tuple[Any, ...], rest: Sequence[Statement] = ()) -> list[Any]:
        try:
            async with self._database.connections.one() as connection, connection.transaction():
                # An event that was handled must not come again for a crash of the database, if it need not.
                await connection.execute("SET LOCAL synchronous_commit = 'local'")
                found = [await connection.fetch(self.text(first), *values)]
                if not found[0]:
                    return []
                for statement, many in rest:
                    if len(many) > 1:
                        await connection.executemany(self.text(statement), many)
                    elif many:
                        found.append(await connection.fetch(self.text(statement), *many[0]))
                return found
        except Exception as err:
            raise self._database.error(err, "bbio_consumers") from None
