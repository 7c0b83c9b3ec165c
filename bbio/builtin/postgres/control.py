"""The notices of the processes that share a PostgreSQL database: a table, and a NOTIFY when there is a new one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol

from bbio.builtin.postgres.statements import NEXT_NOTICES, TELL, TELL_NOTICE
from bbio.builtin.postgres.tables import notices_channel
from bbio.cluster.control import KEPT_SECONDS, MAX_NOTICES, MAX_READ, Control, Row
from bbio.errors import SyncError

# For what nobody was told of, as where a connection has died in silence.
NOTICE_LOOK_SECONDS = 5.0


class Place(Protocol):
    """A database, as its notices need it.

    Attributes:
        channel: where its servers tell each other of writes.
    """

    channel: str

    async def ask(self, statement: str, *values: Any, timeout: float | None = None) -> list[Any]:
        """Return the rows of a statement."""


class PostgresControl(Control):
    """Tells the other processes that share a database, and hears what they tell.

    Parameters:
        database: the database.
    """

    seconds = NOTICE_LOOK_SECONDS

    def __init__(self, database: Place) -> None:
        super().__init__()
        self._database = database

    async def write(self, text: str) -> None:
        ask, channel = self._database.ask, self._database.channel
        await ask(TELL_NOTICE, self.process, text, KEPT_SECONDS, MAX_NOTICES)
        with suppress(SyncError):  # it is kept, and others look for it by themselves
            await ask(TELL, notices_channel(channel), "")

    async def read(self, position: int) -> tuple[int, list[Row]]:
        rows = await self._database.ask(NEXT_NOTICES, position, MAX_READ)
        return rows[0]["top"], [(row["id"], row["process"], row["notice"]) for row in rows if row["id"] is not None]
