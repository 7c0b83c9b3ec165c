"""Stores: what keeps the models of a backend, and the rules of a write to one of them."""

from bbio.store.bulk import CHECKPOINT_SECONDS, Checkpoint, RowRefused, Step, gone_on
from bbio.store.records import TOLD_AS, Records
from bbio.store.store import NO_PROMISES, Promises, Scratch, Store, is_as_in

__all__ = [
    "CHECKPOINT_SECONDS",
    "NO_PROMISES",
    "TOLD_AS",
    "Checkpoint",
    "Promises",
    "Records",
    "RowRefused",
    "Scratch",
    "Step",
    "Store",
    "gone_on",
    "is_as_in",
]
