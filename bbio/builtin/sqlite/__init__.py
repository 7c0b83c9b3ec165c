"""SQLiteStore: models, events and operations in a file."""

from bbio.builtin.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
