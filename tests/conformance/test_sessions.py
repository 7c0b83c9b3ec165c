"""The stores of sessions are held to one suite."""

from __future__ import annotations

import pytest

from bbio.builtin.sessions.memory import MemorySessionStore
from bbio.builtin.sessions.postgres import PostgresSessionStore
from bbio.builtin.sessions.redis import RedisSessionStore
from bbio.builtin.sessions.sqlite import SQLiteSessionStore
from bbio.conformance import SessionStoreConformance


class TestMemorySessions(SessionStoreConformance):
    is_shared = False

    def make_store(self):
        return MemorySessionStore()


class TestSQLiteSessions(SessionStoreConformance):
    def make_store(self):
        return SQLiteSessionStore(self.folder / "sessions.db", 5.0)


class TestPostgresSessions(SessionStoreConformance):
    @pytest.fixture(autouse=True)
    def _database(self, database_url):
        self.dsn = database_url

    def make_store(self):
        return PostgresSessionStore(self.dsn, 5.0)


class TestRedisSessions(SessionStoreConformance):
    @pytest.fixture(autouse=True)
    def _redis(self, redis_url):
        self.url = redis_url

    def make_store(self):
        return RedisSessionStore(self.url, 5.0, "test:")
