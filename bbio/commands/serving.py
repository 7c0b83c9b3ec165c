"""`bbio run`, and what commands that serve have in common."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
from aiohttp import web
from watchfiles import PythonFilter, run_process

from bbio import App
from bbio.commands.target import app_of, find, mounts
from bbio.errors import BbioError
from bbio.settings import LAST_PORT, LOG_LEVELS, Settings, variable

# A server that is started again has this long to end what it is doing.
STOP_SECONDS = 10


def serving(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that serves."""
    levels = click.Choice(LOG_LEVELS, case_sensitive=False)
    ports = click.IntRange(0, LAST_PORT)
    for name, default, kind, metavar, text in (
        ("cors-origins", None, str, "LIST", "Origins of other sites that may connect, with commas between; * for all."),
        ("log-level", Settings().log_level, levels, "LEVEL", f"What is logged: {', '.join(LOG_LEVELS)}."),
        ("port", Settings().port_number(), ports, "NUMBER", "TCP port; 0 takes a free one."),
        ("host", Settings().host, str, "ADDRESS", "Address to listen on; 0.0.0.0 for all, :: for IPv6 too."),
    ):
        command = click.option(
            f"--{name}",
            default=default,
            type=kind,
            metavar=metavar,
            envvar=variable(name.replace("-", "_")),
            show_envvar=True,
            help=text,
        )(command)
    return command


def serve(
    found_by: Callable[[], App | web.Application], host: str, port: int, log_level: str, cors_origins: str | None
) -> None:
    """Serve what is found, with these settings, until Ctrl-C."""
    if cors_origins is not None:
        os.environ[variable("cors_origins")] = cors_origins  # where an application looks for what it is not told
    try:
        found = found_by()
        mounting = found if isinstance(found, web.Application) else None
        app_of(found).run(host, port, log_level, application=mounting)
    except BbioError as err:
        raise click.ClickException(str(err)) from None


@click.command()
@click.argument("target", metavar="MODULE:APP")
@serving
@click.option("--reload", is_flag=True, help="Start again when a Python file of this folder changes.")
def run(target: str, reload: bool, **settings: Any) -> None:
    """Serve the application APP of MODULE until Ctrl-C.

    APP is a bbio.App, or an aiohttp application that one is mounted on, which is served with all of its own pages.
    """
    if reload:
        given = [(name.replace("_", "-"), value) for name, value in settings.items() if value is not None]
        _reload([sys.executable, "-m", "bbio", "run", target, *(f"--{name}={value}" for name, value in given)])
    serve(lambda: _whole(target), **settings)


def _whole(target: str) -> App | web.Application:
    """The application named by a target; say so when it is only a part of what the module serves."""
    found = find(target)
    module_name = target.partition(":")[0]
    for name, app in mounts(sys.modules[module_name]).items():
        if app is found:
            click.echo(f"{target} is mounted on {module_name}:{name}; run that to serve its other pages too", err=True)
    return found


def _reload(command: list[str]) -> NoReturn:
    """Run a command until Ctrl-C or SIGTERM, and start it again whenever a Python file of this folder changes."""

    def tell(changes: object) -> None:
        click.echo("a file changed: starting again")

    run_process(
        Path.cwd(),
        target=shlex.join(command),
        target_type="command",
        watch_filter=PythonFilter(),
        callback=tell,
        sigint_timeout=STOP_SECONDS,
    )
    sys.exit(0)
