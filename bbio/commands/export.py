"""`bbio export`: the models of a backend as rows, read page by page."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import click

from bbio.commands.opened import opened, opening
from bbio.commands.rows import FORMATS, Writer, stdout

# Words of a query that are about pages.
OF_PAGES = ("limit", "offset", "cursor", "count")


@click.command()
@click.argument("target", metavar="MODULE:APP")
@click.argument("backend")
@click.option("--format", "form", type=click.Choice(FORMATS), default=FORMATS[0], help="Format of the rows.")
@click.option("--query", metavar="JSON", help="Which models, such as '{\"done\": false}'; by default, all.")
@click.option("--channel", help="Channel whose models are read.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write; by default, stdout.")
@opening
def export(
    target: str,
    backend: str,
    form: str,
    query: str | None,
    channel: str | None,
    output: Path | None,
    migrate: bool,
) -> None:
    """Write the models of a backend of the application APP of MODULE, one in each row.

    They are read page by page through the layers of the backend, as the server itself sees them: with the private
    fields, so keep the file as safe as the database. A file is written whole or not at all.
    """
    data = _read_query(query)
    if output is None:
        with suppress(BrokenPipeError), stdout() as file:
            asyncio.run(_export(target, backend, form, data, channel, file, migrate=migrate))
        return
    beside = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with open(
            os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8", newline=""
        ) as file:
            asyncio.run(_export(target, backend, form, data, channel, file, migrate=migrate))
        beside.replace(output)
    except OSError as err:
        raise click.ClickException(f"{output} cannot be written: {err.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)


def _read_query(query: str | None) -> dict[str, Any]:
    try:
        data = json.loads(query or "{}")
    except ValueError as err:
        raise click.UsageError(f"--query is not JSON: {err}") from None
    # A comparison is about a field of that name.
    if not isinstance(data, dict) or any(
        name.removeprefix("$") in OF_PAGES and not (name in OF_PAGES and isinstance(value, dict))
        for name, value in data.items()
    ):
        raise click.UsageError(f"--query is a JSON object of fields, and sort; not {', '.join(OF_PAGES)}: all is read")
    return data


async def _export(
    target: str,
    backend: str,
    form: str,
    data: dict[str, Any],
    channel: str | None,
    file: IO[str],
    *,
    migrate: bool,
) -> None:
    async with opened(target, backend, migrate=migrate) as runtime:
        if form == "csv" and runtime.schema is None:
            raise click.ClickException(
                f"CSV needs to know the fields, and {backend!r} has no model; use --format jsonl"
            )
        writer = Writer(file, form, runtime.schema, runtime.id_attribute)
        count = 0
        async for models in runtime.pages(data, channel=channel):
            writer.write(models)
            count += len(models)
    click.echo(f"{count:,} rows are exported", err=True)
