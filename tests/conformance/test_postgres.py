"""PostgresStore is held to both suites."""

from __future__ import annotations

import pytest

from bbio.builtin import PostgresStore
from bbio.conformance import CONSUMER_CLAIMS, LOG_CLAIMS, LogConformance, StoreConformance


class TestPostgresStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _database(self, database_url):
        self.database_url = database_url

    def make_store(self, **options):
        return PostgresStore(self.database_url, **options)


@pytest.mark.once  # the same Python as above; what differs is what PostgreSQL does
class TestPostgresStoreWithRevisionsBeside(TestPostgresStore):
    def make_store(self, **options):
        return PostgresStore(self.database_url, revisions="beside", **options)


class TestPostgresStoreAsLog(LogConformance):
    claims = LOG_CLAIMS | CONSUMER_CLAIMS

    @pytest.fixture(autouse=True)
    def _database(self, database_url):
        self.database_url = database_url

    def make_log(self, **options):
        return PostgresStore(self.database_url, **options)
