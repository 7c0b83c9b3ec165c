"""Stores and middleware that come with bbio. They use only what a user could."""

from bbio.builtin.logger import Logger
from bbio.builtin.memory import MemoryStore
from bbio.builtin.sqlite import SQLiteStore

__all__ = ["Logger", "MemoryStore", "SQLiteStore"]
