"""Tests of what bbio asks of every store and every log.

It needs pytest, which `pip install bbio` does not bring.
"""

from __future__ import annotations

from bbio.conformance.appends import Appends
from bbio.conformance.cases import CLAIMS, Opened, case, opened
from bbio.conformance.counts import Counts
from bbio.conformance.endurance import Concurrency, Persistence
from bbio.conformance.logs import CONSUMER_CLAIMS, LOG_CLAIMS, LogConformance
from bbio.conformance.models import Filters, Models, Options, Revisions
from bbio.conformance.operations import Operations
from bbio.conformance.queries import Queries
from bbio.conformance.sessions import SessionStoreConformance
from bbio.conformance.stamps import Stamps
from bbio.conformance.streams import Streams, Told
from bbio.conformance.was import Was

__all__ = [
    "CLAIMS",
    "CONSUMER_CLAIMS",
    "LOG_CLAIMS",
    "LogConformance",
    "Opened",
    "SessionStoreConformance",
    "StoreConformance",
    "case",
    "opened",
]


class StoreConformance(
    Models,
    Options,
    Filters,
    Queries,
    Revisions,
    Counts,
    Appends,
    Told,
    Streams,
    Stamps,
    Was,
    Operations,
    Concurrency,
    Persistence,
):
    """Subclass it in a test module, with one method that makes a store; pytest does the rest.

    Class attributes:
        claims: what the store can do, of `CLAIMS`. Tests of what it does not claim are left out.
        folder: an empty folder, for the time of one test.

    Example:
        >>> from bbio.builtin import SQLiteStore
        >>> class TestSQLiteStore(StoreConformance):
        ...     def make_store(self, **options):
        ...         return SQLiteStore(self.folder / "models.db", **options)
    """
