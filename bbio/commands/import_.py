"""`bbio import`: models from a file, in batches of one transaction each."""

from __future__ import annotations

import asyncio
import gc
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import click

from bbio.bulk import BATCH_RECORDS, MAX_BATCH_RECORDS, BulkProgress
from bbio.calls import MAX_OP
from bbio.commands.opened import opened, opening
from bbio.commands.rows import FORMATS, Reader, format_of, stdin
from bbio.errors import BulkError
from bbio.runtime import Runtime

METHODS = ("create", "upsert", "update", "patch")


class Stopped(Exception):
    """Somebody stops the import."""


@click.command("import")
@click.argument("target", metavar="MODULE:APP")
@click.argument("backend")
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--format", "form", type=click.Choice(FORMATS), help="Format of the file; by default, as its name ends.")
@click.option("--method", type=click.Choice(METHODS), default=METHODS[0], help="What is done with each row.")
@click.option("--channel", help="Channel that the models are written in.")
@click.option(
    "--batch", type=click.IntRange(1, MAX_BATCH_RECORDS), default=BATCH_RECORDS, help="Rows of a transaction."
)
@click.option("--name", help="Name that its progress is kept under; by default, the path of the file.")
@click.option("--resume", is_flag=True, help="Go on after the rows that an interrupted import has stored.")
@click.option("--restart", is_flag=True, help="Begin with the first row, whatever an interrupted import has stored.")
@opening
def import_(
    target: str,
    backend: str,
    path: str,
    form: str | None,
    method: Any,
    channel: str | None,
    batch: int,
    name: str | None,
    resume: bool,
    restart: bool,
    migrate: bool,
) -> None:
    """Write the rows of FILE to a backend of the application APP of MODULE.

    FILE has a JSON object in each line, or is CSV, whose first line names the fields; - is stdin. Rows are written in
    batches, each in one transaction, and go through the layers of the backend. Servers that run tell their clients.

    A bad row stops the import with its number and its errors, and nothing of its batch is stored. After that, after
    Ctrl-C or a crash, run the same command with --resume: each row is stored once. With --method upsert a row replaces
    the model that has its id, or creates it: so what `bbio export` has written is read again.
    """
    if resume and restart:
        raise click.UsageError("--resume goes on, --restart begins anew; choose one")
    op = name or ("stdin" if path == "-" else str(Path(path).resolve()))
    op = op if channel is None else f"{op} in {channel}"
    if len(op) > MAX_OP or not op.isprintable():
        raise click.UsageError(
            f"the path is too long, or not printable, for a name; give one: --name, {MAX_OP} characters"
        )
    given = {"format": form, "method": method, "channel": channel, "batch": batch, "name": name}
    usual = {"method": METHODS[0], "batch": BATCH_RECORDS}
    options = [f"--{word}={value}" for word, value in given.items() if value != usual.get(word)]
    again = shlex.join(["bbio", "import", target, backend, path, *options])
    size = Path(path).stat().st_size if path != "-" else 0  # that of a pipe is 0 too
    job = Import(op, again, size, form=format_of(path, form), method=method, channel=channel, batch=batch)
    with nullcontext(stdin()) if path == "-" else open(path, "rb") as file:
        asyncio.run(job.run(target, backend, file, resume=resume, restart=restart, migrate=migrate))


class Import:
    """One run of an import.

    Parameters:
        op: the name that its progress is kept under.
        again: the command that runs it again.
        size: the bytes of the file; 0 if nobody knows.
        form: the format of the file.
        method: what is done with each row.
        channel: the channel.
        batch: how many rows are stored in one transaction.
    """

    def __init__(
        self, op: str, again: str, size: int, *, form: str, method: Any, channel: str | None, batch: int
    ) -> None:
        self._op = op
        self._again = again
        self._size = size
        self._form = form
        self._options = {"method": method, "channel": channel, "batch": batch}
        self._is_stopping = self._is_reading = False
        # The lines of the rows that are read and not stored yet, by row.
        self._lines: dict[int, int] = {}

    async def run(
        self, target: str, backend: str, file: IO[bytes], *, resume: bool, restart: bool, migrate: bool
    ) -> None:
        """Import a file.

        Raises:
            click.ClickException: it has not come to the end; the text says how far it came, and how to go on.
        """
        async with opened(target, backend, migrate=migrate) as runtime:
            # As a server does: what is there now stays, and is not to be looked through again and again.
            gc.collect()
            gc.freeze()
            try:
                await self._begin(runtime, resume=resume, restart=restart)
                progress = await self._all_of(runtime, file)
            except BulkError as err:
                raise click.ClickException(self._explain(err)) from None
            except asyncio.CancelledError:
                raise click.ClickException(f"stopped at once; go on: {self._again} --resume") from None
        earlier = f"; {progress.earlier:,} of them were before" if progress.earlier else ""
        click.echo(f"{progress.rows:,} rows are imported{earlier}", err=True)

    async def _begin(self, runtime: Runtime[Any], *, resume: bool, restart: bool) -> None:
        """Look whether an earlier import was interrupted."""
        interrupted = await runtime.bulk_progress(self._op)
        if interrupted is not None and not resume and not restart:
            raise click.ClickException(
                f"an import of it was interrupted after row {interrupted.rows:,}: go on with --resume, or begin with "
                "the first row again with --restart"
            )
        if not resume or interrupted is None:
            await runtime.forget_bulk(self._op)

    async def _all_of(self, runtime: Runtime[Any], file: IO[bytes]) -> BulkProgress:
        reader = Reader(file, self._form, runtime.schema, runtime.id_attribute)
        with (
            self._stopping(),
            click.progressbar(length=self._size or 1, label="importing", file=sys.stderr, item_show_func=_shown) as bar,
        ):

            def show(progress: BulkProgress) -> None:
                for row in [row for row in self._lines if row <= progress.rows]:
                    del self._lines[row]
                bar.update(reader.bytes - bar.pos if self._size else 0, progress)

            progress = await runtime.bulk(self._rows(reader), op=self._op, on_progress=show, **self._options)
            bar.update(bar.length - bar.pos if bar.length else 0, progress)
        return progress

    def _rows(self, reader: Reader) -> Iterator[dict[str, Any]]:
        models = enumerate(reader, 1)
        while not self._is_stopping:
            self._is_reading = True
            try:
                row, model = next(models, (0, None))
            finally:
                self._is_reading = False
            if model is None:
                return
            self._lines[row] = reader.line
            yield model
        raise Stopped

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Have Ctrl-C and SIGTERM stop it after the batch that is being written; a second one stops it at once."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None, "it is a coroutine"

        def stop(*_: Any) -> None:
            if self._is_stopping:
                loop.call_soon_threadsafe(task.cancel)
            self._is_stopping = True
            if self._is_reading:
                raise Stopped  # the next row may never come

        earlier = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in earlier.items():
                signal.signal(each, handler)

    def _explain(self, err: BulkError) -> str:
        if isinstance(err.error, Stopped):
            how = f"stopped: {err.stored}"
        else:
            line = None if err.row is None else self._lines.get(err.row)
            how = str(err) if line in (None, err.row) else f"line {line}, {err}"
        return f"{how}\ngo on, once what is wrong is mended: {self._again} --resume" if err.rows else how


def _shown(progress: BulkProgress | None) -> str | None:
    return None if progress is None else f"{progress.rows:,} rows"
