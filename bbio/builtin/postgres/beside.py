"""Revisions beside a table: in `bbio_revs`, for a table whose owner wants no column in it.

A model without an entry there has the revision 0, as a row has that another program wrote before bbio came. Those alone
who hold the lock of a row write the entry of its model, so nobody meets there who would not meet in the table.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import attrs

from bbio.builtin.postgres.tables import Table

# The revisions that a transaction has given: the backend, arrays of channels, ids and revisions, NULL of what is gone,
# and the last of the transaction's own. What triggers have given to the same models since is later, and stays.
KEEP = """
    WITH u AS MATERIALIZED (
        SELECT * FROM unnest($2::text[], $3::text[], $4::bigint[]) AS u(channel, id, rev)
    ), gone AS (
        DELETE FROM bbio_revs r USING u
        WHERE u.rev IS NULL AND r.backend = $1 AND r.channel = u.channel AND r.id = u.id AND r.rev <= $5
    )
    INSERT INTO bbio_revs AS r (backend, channel, id, rev)
    SELECT $1::integer, u.channel, u.id, u.rev FROM u WHERE u.rev IS NOT NULL
    ON CONFLICT (backend, id, channel) DO UPDATE SET rev = greatest(excluded.rev, r.rev)
"""


@attrs.frozen
class Beside(Table):
    """A table of models that has no place for their revisions.

    Parameters:
        backend: the number of the backend that they are kept for.
    """

    backend: int = 0

    revised: ClassVar[dict[str, str]] = {}

    def about(self, row: str) -> tuple[str, str]:
        """Return the channel and the id by which an entry names the model of a row, in SQL."""
        channel = f'{row}.channel::text COLLATE "C"' if self.per_channel else "''"
        return channel, f'{row}.{self.id_column}::text COLLATE "C"'

    def _entry(self, row: str) -> str:
        channel, id = self.about(row)
        return f"bbio_r.backend = {self.backend} AND bbio_r.channel = {channel} AND bbio_r.id = {id}"

    def revision(self, row: str) -> str:
        # A name that no table of models has.
        return f"coalesce((SELECT bbio_r.rev FROM bbio_revs bbio_r WHERE {self._entry(row)}), 0)"

    def lock(self, how: str) -> str:
        # A text as a parameter brings its collation along, and the entries have one of their own.
        about = ", ".join(f'{text} COLLATE "C"' for text in ("f.channel" if self.per_channel else "''", "f.id"))
        return self._locked("0", how, f"bbio_rev({self.backend}, {about})")

    def update(self, names: Collection[str], is_losing: bool = False) -> str:
        if self.is_document or any(column.name in names and not column.generated for column in self.columns):
            return super().update(names, is_losing)
        # Of the row nothing is new.
        rows = f"{self._arrays('bigint', 'jsonb')} AS u({', '.join([*self.key, 'rev', 'body'])})"
        return f"SELECT {self._written('u')} FROM {rows} JOIN {self.place} t ON {self._is_key()}"

    def take_over(self) -> str:
        """Keep here what a column of bbio's own has held."""
        channel, id = self.about("t")
        return (
            f"INSERT INTO bbio_revs (backend, channel, id, rev)"
            f" SELECT {self.backend}, {channel}, {id}, t.rev FROM {self.place} t WHERE t.rev > 0"
        )

    def forget(self) -> str:
        """Drop the entries of models that are gone: others have deleted them, and no trigger has told of it."""
        # Nobody waits for it. An entry that was written since it was found stays.
        return f"""
            WITH gone AS MATERIALIZED (
                SELECT bbio_r.channel, bbio_r.id, bbio_r.rev FROM bbio_revs bbio_r WHERE bbio_r.backend = {self.backend}
                AND NOT EXISTS (SELECT FROM {self.place} t WHERE {self._entry("t")}) FOR UPDATE OF bbio_r SKIP LOCKED
            )
            DELETE FROM bbio_revs r USING gone g
            WHERE r.backend = {self.backend} AND r.channel = g.channel AND r.id = g.id AND r.rev = g.rev"""
