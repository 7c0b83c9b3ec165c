"""MemoryStore is held to the store suite."""

from bbio.builtin import MemoryStore
from bbio.conformance import CLAIMS, StoreConformance


class TestMemoryStore(StoreConformance):
    claims = CLAIMS - {"persistent"}

    def make_store(self, **options):
        return MemoryStore(**options)
