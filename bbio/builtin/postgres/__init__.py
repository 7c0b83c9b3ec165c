"""PostgresStore: models, events and operations in a PostgreSQL database."""

from bbio.builtin.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
