"""`bbio triggers` and `bbio new-epoch`: what is done to the database of PostgresStores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import click

from bbio.builtin import PostgresStore
from bbio.commands.target import load
from bbio.errors import BbioError


def _postgres_stores(target: str) -> list[PostgresStore]:
    stores = [runtime.store for runtime in load(target).backends.values() if isinstance(runtime.store, PostgresStore)]
    if not stores:
        raise click.ClickException(f"no backend of {target} has a PostgresStore")
    return stores


def _in_database(stores: list[PostgresStore], action: Callable[[PostgresStore], Coroutine[Any, Any, None]]) -> None:
    for store in stores:
        try:
            asyncio.run(action(store))
        except BbioError as err:
            raise click.ClickException(str(err)) from None


@click.command()
@click.argument("target", metavar="MODULE:APP")
@click.option("--print", "shown", is_flag=True, help="Only print the SQL, for somebody else to run.")
@click.option("--remove", "removed", is_flag=True, help="Have it told no more: take the triggers away.")
def triggers(target: str, shown: bool, removed: bool) -> None:
    """Have what other programs write told to clients.

    Adds triggers to the table of each PostgresStore of the application APP of MODULE. What a program writes is then
    told when it commits. The tables are made if they are not there. Run it as the owner of the tables, as often as you
    like: again, it changes nothing.

    With --print, nothing is changed: the SQL is tried in a transaction that is rolled back. It is for a database in
    which the application has been started once.
    """
    stores = _postgres_stores(target)
    if shown:

        async def show(store: PostgresStore) -> None:
            statement, untried = await store.try_triggers(removed=removed)
            if untried:
                click.echo(f"{store.table}: permission denied, so the SQL was not tried: {untried}", err=True)
            click.echo(statement)

        _in_database(stores, show)
        return
    _in_database(stores, PostgresStore.remove_triggers if removed else PostgresStore.install_triggers)
    tables = ", ".join(store.table for store in stores)
    click.echo(f"what others write is told to clients{' no more' * removed}: {tables}")


@click.command("new-epoch")
@click.argument("target", metavar="MODULE:APP")
def new_epoch(target: str) -> None:
    """After a restored backup, have clients read everything anew.

    A backup lacks what was written after it, which clients may have seen. Most restores are noticed at the start of the
    application; those that bring back files or rows in place, as snapshots of disks do, are not. Run this after them.
    It is for the PostgresStores of the application APP of MODULE, and may be run while it serves.
    """
    stores = _postgres_stores(target)
    _in_database(stores, PostgresStore.begin_epoch)
    click.echo(f"clients read everything anew: {', '.join(store.table for store in stores)}")
