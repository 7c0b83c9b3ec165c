"""The store that whoever runs an application chooses."""

from __future__ import annotations

from typing import Any

from bbio import Store
from bbio.builtin.postgres import PostgresStore
from bbio.builtin.sqlite import SQLiteStore
from bbio.errors import ConfigurationError
from bbio.settings import Settings


def store_from_env(default: str, table: str | None = None, **options: Any) -> Store:
    """Return the store of the database that $BBIO_DATABASE_URL names, or of `default` if it is not set.

    Parameters:
        default: a database: `postgresql://user:password@host:5432/name`, `sqlite:///folder/file.db` (with four slashes
            the path begins at the root), or the path of an SQLite file.
        table: the table of the models; named like the backend by default.
        options: options that all stores have, such as `upsert` and `per_channel`.

    Raises:
        ConfigurationError: bbio does not know this kind of database.

    Example:
        >>> from bbio import Backend
        >>> class Todos(Backend):
        ...     store = store_from_env("todos.db")
    """
    url = Settings.from_env().database_url or default
    if url.startswith(("postgresql://", "postgres://")):
        return PostgresStore(url, table, **options)
    path = url.removeprefix("sqlite:///")
    if "://" in path:
        raise ConfigurationError(
            f"{path.partition('://')[0]}:// is not a database that bbio knows; "
            "BBIO_DATABASE_URL is postgresql://..., sqlite:///file.db or the path of an SQLite file"
        )
    return SQLiteStore(path, table, **options)
