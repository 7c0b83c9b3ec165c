"""The common parts of commands that open an application beside its servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import click

from bbio import App
from bbio.commands.target import load
from bbio.errors import BbioError
from bbio.outside import open as open_app
from bbio.runtime import Runtime

Command = Callable[..., Any]


def opening(command: Command) -> Command:
    """Add the option of a command that opens an application."""
    return click.option(
        "--migrate", is_flag=True, help="Make tables, and bring them to this version, as a server does when it starts."
    )(command)


def app_serving(target: str, name: str) -> App:
    """Return the application that a target names, which serves a backend.

    Parameters:
        target: the application, `module:app`.
        name: the name of the backend.

    Raises:
        click.ClickException: it cannot be imported, or there is no such backend.
    """
    app = load(target)
    if name not in app.backends:
        raise click.ClickException(f"no backend {name!r} is served; served: {', '.join(app.backends) or 'none'}")
    return app


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
    app = app_serving(target, name)
    try:
        async with open_app(app, migrate=migrate) as backends:
            runtime = backends[name]
            runtime.check_reach("create")
            yield runtime
    except BbioError as err:
        raise click.ClickException(str(err)) from None
