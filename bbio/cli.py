"""The command `bbio`."""

from __future__ import annotations

import click

from bbio import __version__
from bbio.commands.call import call
from bbio.commands.consumers import consumers
from bbio.commands.demo import demo
from bbio.commands.export import export
from bbio.commands.import_ import import_
from bbio.commands.postgres import new_epoch, triggers
from bbio.commands.schema import schema
from bbio.commands.serving import run
from bbio.commands.shell import shell
from bbio.commands.stacks import stacks
from bbio.commands.work import work


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="bbio")
def main() -> None:
    """Real-time model sync: serve backends, look at their stacks, look after their database, try the demo."""


for command in (run, work, call, shell, import_, export, consumers, stacks, schema, triggers, new_epoch, demo):
    main.add_command(command)
