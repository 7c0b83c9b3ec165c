"""One backend of an application that a command opens, beside servers that may run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import click

from bbio.commands.target import load
from bbio.errors import BbioError
from bbio.outside import open as open_app
from bbio.runtime import Runtime


@asynccontextmanager
async def opened(target: str, name: str, *, migrate: bool) -> AsyncIterator[Runtime[Any]]:
    """Open a backend of an application, over its own data.

    Parameters:
        target: the application, `module:app`.
        name: the name of the backend.
        migrate: whether its store may make and change tables.

    Raises:
        click.ClickException: there is no such backend, or it cannot be opened, or what is done with it has failed.
    """
    app = load(target)
    if name not in app.backends:
        raise click.ClickException(f"no backend {name!r} is served; served: {', '.join(app.backends) or 'none'}")
    try:
        async with open_app(app, migrate=migrate) as backends:
            runtime = backends[name]
            runtime.check_reach("create")
            yield runtime
    except BbioError as err:
        raise click.ClickException(str(err)) from None
