"""The common parts of commands that open an application beside its servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]


def opening(command: Command) -> Command:
    """Add the option of a command that opens an application."""
    return click.option(
        "--migrate", is_flag=True, help="Make tables, and bring them to this version, as a server does when it starts."
    )(command)
