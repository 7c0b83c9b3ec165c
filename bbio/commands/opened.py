"""The backends of an application that a command opens, beside servers that may run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from bbio.builtin import MemoryStore
from bbio.commands.target import load
from bbio.errors import BbioError
from bbio.runtime import Runtime


@asynccontextmanager
async def opened(target: str, name: str) -> AsyncIterator[Runtime]:
    """Open a backend of an application without a port, over its own data.

    Parameters:
        target: the application, `module:app`.
        name: the name of the backend.

    Raises:
        click.ClickException: there is no such backend, or it cannot be opened.
    """
    app = load(target)
    runtime = app.backends.get(name)
    if runtime is None:
        raise click.ClickException(f"{target} has no backend {name!r}; it has {', '.join(app.backends) or 'none'}")
    if runtime.store is None or isinstance(runtime.store, MemoryStore):
        keeps = (
            "no store" if runtime.store is None else "a MemoryStore, which keeps models in the server's process alone"
        )
        raise click.ClickException(f"{name!r} has {keeps}; give it an SQLiteStore or a PostgresStore")
    try:
        await app.open()
    except BbioError as err:
        raise click.ClickException(str(err)) from None
    try:
        yield runtime
    finally:
        await app.close()
