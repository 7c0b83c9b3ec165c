"""`bbio work`: the consumers of an application, in a process that serves nobody."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress

import click

from bbio import App
from bbio.commands.target import load
from bbio.errors import BbioError
from bbio.ratelimit import IndentingFormatter
from bbio.settings import LOG_LEVELS, Settings, variable


@click.command()
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "--log-level",
    default=Settings().log_level,
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    metavar="LEVEL",
    envvar=variable("log_level"),
    show_envvar=True,
    help=f"What is logged: {', '.join(LOG_LEVELS)}.",
)
def work(target: str, log_level: str) -> None:
    """Work for the consumers of the application APP of MODULE until Ctrl-C, without serving anybody.

    Servers work for consumers as well, where no other process does; with BBIO_CONSUMERS=no they leave it to this.
    Several such processes may run: one of them works for each consumer, and another takes over when it ends.
    """
    app = load(target)
    handler = logging.StreamHandler()
    handler.setFormatter(IndentingFormatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    try:
        asyncio.run(_work(app, target))
    except BbioError as err:
        raise click.ClickException(str(err)) from None


async def _work(app: App, target: str) -> None:
    names = [consumer.name for consumer in app.consumers]
    if not names:
        raise click.ClickException(f"{target} has no consumers; declare one: @app.consumer('mailer', backend='issues')")
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, stopped.set)
    await app.open()
    try:
        await app.consume()
        click.echo(f"bbio works for {', '.join(names)} (Ctrl-C stops it)")
        await stopped.wait()
    finally:
        await app.close()
