"""Bulk writes as a store sees them: many records in one transaction, and the checkpoint that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import attrs

from bbio.errors import Conflict

# Seconds for which the checkpoint of a bulk that is done is kept: until then, to repeat it changes nothing.
CHECKPOINT_SECONDS = 30 * 86_400.0


@attrs.frozen
class Checkpoint:
    """The progress of a bulk, kept in the store under the name of the bulk.

    Parameters:
        rows: how many of its rows are stored.
        digest: tells these rows from others, 16 bytes.
        is_done: whether there were no more.

    Example:
        >>> Checkpoint(500, bytes(16)).is_done
        False
    """

    rows: int
    digest: bytes
    is_done: bool = False


@attrs.frozen
class Step:
    """The checkpoints of a bulk after each of some more rows: the last is kept in the transaction that stores them.

    Parameters:
        name: the name of the bulk.
        start: how many rows are stored before it.
        digests: the digest of all rows up to each of these.

    Example:
        >>> step = Step("todos.csv", 500, [b"a", b"b", b"c"])
        >>> step.after(2)
        Checkpoint(rows=502, digest=b'b', is_done=False)
        >>> step.rest(2).start
        502
    """

    name: str
    start: int
    digests: Sequence[bytes]

    def after(self, count: int) -> Checkpoint:
        """Return the checkpoint after so many of its rows.

        Parameters:
            count: how many.

        Example:
            >>> Step("todos.csv", 0, [b"a"]).after(1).rows
            1
        """
        return Checkpoint(self.start + count, self.digests[count - 1])

    def rest(self, count: int) -> Self:
        """Return the step of the rows after so many of them.

        Parameters:
            count: how many.

        Example:
            >>> Step("todos.csv", 0, [b"a", b"b"]).rest(1)
            Step(name='todos.csv', start=1, digests=[b'b'])
        """
        return attrs.evolve(self, start=self.start + count, digests=self.digests[count:])


class RowRefused(Exception):
    """A row of a batch cannot be stored; nothing of the batch is.

    Parameters:
        index: the place of the row in its batch, from 0.
        error: why.

    Example:
        >>> RowRefused(3, ValueError("too long")).index
        3
    """

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(index, error)
        self.index = index
        self.error = error


def gone_on(name: str) -> Conflict:
    """Return the error of a bulk whose checkpoint is not what it was.

    Parameters:
        name: the name of the bulk.
    """
    return Conflict(f"the bulk {name!r} has gone on elsewhere: another process runs it too; run it in one at a time")
