"""`bbio consumers`: how far consumers are, and what they could not handle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import click

from bbio import App
from bbio.commands.target import load
from bbio.errors import BbioError
from bbio.log import ConsumerState, Ledger, Letter
from bbio.runtime import Runtime

ACTIONS = ("list", "show", "retry", "skip", "forget")
# Letters that are listed at most.
SHOWN_LETTERS = 1_000

Action = Callable[["Found", tuple[int, ...]], Awaitable[None]]


class Found:
    """A consumer that the database knows.

    Parameters:
        runtime: its backend.
        ledger: the ledger that has it.
        state: its state.
    """

    def __init__(self, runtime: Runtime, ledger: Ledger, state: ConsumerState) -> None:
        self.runtime = runtime
        self.ledger = ledger
        self.state = state

    @property
    def name(self) -> str:
        return self.state.name


@click.command()
@click.argument("target", metavar="MODULE:APP")
@click.argument("action", type=click.Choice(ACTIONS), default="list", metavar="[list|show|retry|skip|forget]")
@click.argument("name", required=False)
@click.argument("letters", type=int, nargs=-1, metavar="[LETTER]...")
@click.option("--all", "takes_all", is_flag=True, help="All dead letters of the consumer, with retry or skip.")
def consumers(target: str, action: str, name: str | None, letters: tuple[int, ...], takes_all: bool) -> None:
    """See how far the consumers of the application APP of MODULE are, and handle their dead letters.

    \b
    list                  each consumer, how far it is behind, and the process that works for it
    show NAME [LETTER]    its dead letters; of those named, the events whole
    retry NAME LETTER     handle dead letters again, with those of their models that came later
    skip NAME LETTER      drop dead letters; the later ones of their models are handled then
    forget NAME           forget a consumer that no process works for; if it is still declared, it begins anew
    """
    app = load(target)
    if action != "list" and name is None:
        raise click.UsageError(f"say which consumer: bbio consumers {target} {action} NAME")
    if action in ("retry", "skip") and not letters and not takes_all:
        raise click.UsageError(f"say which letters: bbio consumers {target} {action} {name} LETTER, or --all")
    try:
        asyncio.run(_run(app, action, name, letters, takes_all))
    except BbioError as err:
        raise click.ClickException(str(err)) from None


async def _run(app: App, action: str, name: str | None, letters: tuple[int, ...], takes_all: bool) -> None:
    declared = {consumer.name for consumer in app.consumers}
    await app.open(outside=True, migrate=False)
    try:
        found = await _found(app)
        if name is None:
            await _list(found, declared)
            return
        named = next((each for each in found if each.name == name), None)
        if named is None:
            known = ", ".join(each.name for each in found) or "none"
            raise click.ClickException(f"no consumer {name!r} is known to a database; known: {known}")
        if takes_all:
            letters = tuple(each.id for each in await named.ledger.letters(name, most=SHOWN_LETTERS))
        await DO[action](named, letters)
    finally:
        await app.close()


async def _found(app: App) -> list[Found]:
    found: list[Found] = []
    for runtime in app.backends.values():
        ledger = runtime.log.consumers
        if ledger is not None and ledger.is_durable:
            found += [Found(runtime, ledger, state) for state in await ledger.states()]
    return found


async def _list(found: list[Found], declared: set[str]) -> None:
    for name in sorted(declared - {each.name for each in found}):
        click.echo(f"{name}: no database knows it: it has not begun yet, or its backend keeps its events in memory")
    for each in found:
        state, tops = each.state, await each.runtime.log.tops()
        behind = state.behind(tops)
        lag = f"{behind} events behind, {max(0.0, state.idle):.0f} s since all were handled" if behind else "up to date"
        active = f"active: {state.worker}" if state.is_active else "no process works for it"
        lost = f", {state.lost} gaps" if state.lost else ""
        undeclared = "" if state.name in declared else "; it is not declared any more: bbio consumers ... forget"
        click.echo(
            f"{state.name} ({each.runtime.name}): {lag}, {state.letters} dead letters{lost}; {active}{undeclared}"
        )
        for stream in sorted(tops.keys() - {""}):
            if count := state.behind_in(stream, tops[stream]):
                click.echo(f"    {stream}: at {tops[stream].offset - count} of {tops[stream].offset}")


async def _show(found: Found, letters: tuple[int, ...]) -> None:
    for letter in await found.ledger.letters(found.name, most=SHOWN_LETTERS):
        if letters and letter.id not in letters:
            continue
        click.echo(_line(letter))
        if letters:
            click.echo(f"    {letter.event.body.decode()}")


def _line(letter: Letter) -> str:
    event = letter.event
    when = datetime.fromtimestamp(letter.failed, UTC).isoformat(" ", "seconds")
    return (
        f"{letter.id}: {event.method} of {letter.model} in {event.stream} at {event.offset}, {letter.state} since "
        f"{when}, {letter.attempts} attempts: {letter.error}"
    )


async def _retry(found: Found, letters: tuple[int, ...]) -> None:
    for id in letters:
        if await found.ledger.put_back(found.name, id):
            click.echo(f"{id} is handled again")
        else:
            click.echo(f"{id} is left: it is no dead letter, or behind another one of its model", err=True)


async def _skip(found: Found, letters: tuple[int, ...]) -> None:
    for id in letters:
        is_gone = await found.ledger.skip(found.name, id)
        click.echo(f"{id} is dropped" if is_gone else f"there is no letter {id}", err=not is_gone)


async def _forget(found: Found, letters: tuple[int, ...]) -> None:
    if not await found.ledger.forget(found.name):
        raise click.ClickException(f"{found.state.worker} works for {found.name}; stop it first")
    click.echo(f"{found.name} is forgotten, with its dead letters")


DO: dict[str, Action] = {"show": _show, "retry": _retry, "skip": _skip, "forget": _forget}
