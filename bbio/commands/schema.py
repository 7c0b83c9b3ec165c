"""`bbio schema`."""

from __future__ import annotations

import json

import click

from bbio.commands.target import load
from bbio.model import export as describe


@click.command()
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json-schema", "typescript", "asyncapi"]),
    default="json-schema",
    show_default=True,
    help="What to print.",
)
def schema(target: str, form: str) -> None:
    """Print what the models of every backend are, for programs and people on the other side."""
    backends = load(target).backends
    if form != "asyncapi" and not any(runtime.schema for runtime in backends.values()):
        raise click.ClickException(f"no backend of {target} has a model; give one `model = SomeAttrsClass`")
    if form == "typescript":
        click.echo(describe.typescript(backends), nl=False)
        return
    described = describe.json_schema(backends) if form == "json-schema" else describe.asyncapi(backends, target)
    click.echo(json.dumps(described, indent=2))
