"""The application that a command is given: `module:app`."""

from __future__ import annotations

import os
import sys

import click
from aiohttp import web

from bbio import App
from bbio import target as named
from bbio.errors import ConfigurationError
from bbio.target import app_of, mounts

__all__ = ["app_of", "find", "load", "mounts"]


def find(target: str) -> App | web.Application:
    """The application named by `module:attribute`, looked for in the current folder too.

    Returns: an App, or an aiohttp application that one is mounted on.

    Raises:
        click.ClickException: it cannot be imported or is neither.
    """
    sys.path.insert(0, os.getcwd())
    try:
        return named.find(target, "bbio")
    except ConfigurationError as err:
        raise click.ClickException(str(err)) from None


def load(target: str) -> App:
    """The App that `module:attribute` names, by itself or by the aiohttp application that it is mounted on.

    Raises:
        click.ClickException: it cannot be imported, or is neither.
    """
    return app_of(find(target))
