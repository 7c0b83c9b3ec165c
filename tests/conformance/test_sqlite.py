"""SQLiteStore is held to both suites, with durable commits and with the faster setting."""

import pytest

from bbio.builtin import SQLiteStore
from bbio.conformance import CONSUMER_CLAIMS, LOG_CLAIMS, LogConformance, StoreConformance


@pytest.mark.parametrize("durable", [True, False])
class TestSQLiteStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _durable(self, durable):
        self.durable = durable

    def make_store(self, **options):
        return SQLiteStore(self.folder / "models.db", durable=self.durable, **options)


class TestSQLiteStoreAsLog(LogConformance):
    claims = LOG_CLAIMS | CONSUMER_CLAIMS

    def make_log(self, **options):
        return SQLiteStore(self.folder / "models.db", **options)
