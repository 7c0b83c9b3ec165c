"""Stores: what keeps the models of a backend, and the rules of a write to one of them."""

from bbio.store.records import TOLD_AS, Records
from bbio.store.store import NO_PROMISES, Promises, Scratch, Store, is_as_in

__all__ = ["NO_PROMISES", "TOLD_AS", "Promises", "Records", "Scratch", "Store", "is_as_in"]
