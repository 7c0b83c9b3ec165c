"""Scopes: which records a viewer may have, as the layers of `@visible` say, and what follows for reads and writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from bbio.errors import Forbidden, NotFound
from bbio.view.filter import NOTHING, Filter, Record


def missing(id_attribute: str, key: Any) -> NotFound:
    """Return what is told of a record that is not there, or that may not be seen: nobody can tell one from the other.

    Parameters:
        id_attribute: the name of the id.
        key: the id that was asked for.
    """
    return NotFound(f"there is no model with {id_attribute} {key!r:.64}")


class Scope(NamedTuple):
    """Which records a viewer may have.

    Parameters:
        records: those that it may see and change.
        kept: those that a write of it may leave; a part of `records` says nothing here with `may_leave=True`.
        viewer: the text of the viewer's id, where the backend follows another one; None where that is not known.

    Example:
        >>> scope = Scope.of([(Filter.read({"owner": "ann"}), False)])
        >>> scope.sees({"id": 7, "owner": "ann"}), scope.sees({"id": 8, "owner": "bob"})
        (True, False)
    """

    records: Filter
    kept: Filter
    viewer: str | None = None

    @classmethod
    def of(cls, parts: Iterable[tuple[Filter, bool]]) -> Self:
        """Return the scope of several layers, which must all agree.

        Parameters:
            parts: what each has said, and whether a write may leave it.
        """
        said = list(parts)
        return cls(
            Filter.all_of(records for records, _ in said),
            Filter.all_of(records for records, may_leave in said if not may_leave),
        )

    @property
    def is_of_fault(self) -> bool:
        """Return whether a fault has kept `@visible` from saying more than nothing."""
        return self.records is NOTHING

    def sees(self, record: Record) -> bool:
        """Return whether a record may be seen."""
        return self.records.matches(record)

    def check_written(self, record: Record) -> None:
        """Refuse a write that would leave a record that its writer may not have.

        Parameters:
            record: the record as it would be stored.

        Raises:
            Forbidden: the writer may not have it.
        """
        if not self.kept.matches(record):
            raise Forbidden("this would make it a model that you may not have")


# After a fault in a layer of `@visible`.
NO_SCOPE = Scope(NOTHING, NOTHING)
