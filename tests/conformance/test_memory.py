"""MemoryStore is held to both suites, and MemoryLog to that of logs."""

from bbio import MemoryLog
from bbio.builtin import MemoryStore
from bbio.conformance import CLAIMS, CONSUMER_CLAIMS, LOG_CLAIMS, LogConformance, StoreConformance


class TestMemoryStore(StoreConformance):
    claims = CLAIMS - {"persistent"}

    def make_store(self, **options):
        return MemoryStore(**options)


class TestMemoryLog(LogConformance):
    claims = (LOG_CLAIMS | CONSUMER_CLAIMS) - {"persistent"}

    def make_log(self, **options):
        return MemoryLog(**options)


class TestMemoryStoreAsLog(LogConformance):
    claims = (LOG_CLAIMS | CONSUMER_CLAIMS) - {"persistent"}

    def make_log(self, **options):
        return MemoryStore(**options)
