"""`bbio call`: one call to a backend, as JSON."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any, cast

import click
from msgspec import UNSET

from bbio.calls import Answer, Terms, ask
from bbio.commands.opened import app_serving, opening
from bbio.errors import BbioError, SyncError
from bbio.outside import open as open_app
from bbio.protocol import encode, parse
from bbio.requests import METHODS, Method

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
# How JSON begins where a plain text would do as well.
QUOTED = ("{", '"')


@click.command()
@click.argument("target", metavar="MODULE:APP")
@click.argument("backend")
@click.argument("method", type=click.Choice([*METHODS, "query"]))
@click.argument("data", required=False)
@click.option("--channel", metavar="NAME", help="The channel; without it, the default channel.")
@click.option(
    "--user",
    metavar="USER",
    help="The user whose call it is: an id, or a JSON object; null for a client without a user. "
    "Without it, the call is the server's own.",
)
@click.option("--rev", type=int, metavar="NUMBER", help="The revision that a write is based on.")
@click.option("--op", metavar="ID", help="An operation id: a repeated call gets the result of the first one.")
@click.option("--options", "extras", metavar="JSON", help="Extras for layers, req.options.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Seconds until the call fails.")
@opening
def call(
    target: str,
    backend: str,
    method: str,
    data: str | None,
    channel: str | None,
    user: str | None,
    rev: int | None,
    op: str | None,
    extras: str | None,
    timeout: float | None,
    migrate: bool,
) -> None:
    """Call a backend of the application APP of MODULE, and print the result as JSON.

    DATA is the model of a create, update or patch, the id of a read or delete, or a query; - reads it from the standard
    input. The call goes through the whole stack to the database, and the clients of running servers are notified.

    Errors are printed with their code to the standard error, and the exit status is 1.

    \b
    bbio call shop:app orders create '{"product": "milk"}'
    bbio call shop:app orders read 7
    bbio call shop:app orders query '{"state": "open", "limit": 10}' --user ann
    """
    app = app_serving(target, backend)
    if data == "-":
        data = sys.stdin.read().strip()
    options = None if extras is None else _object("--options", extras)
    if method == "query" and data is not None:
        options = {**(options or {}), "data": _object("DATA", data)}
    model = {} if method == "query" else _model(app.backends[backend].id_attribute, method, data)
    terms = Terms(channel, UNSET if user is None else _user(user), options, timeout, rev, op)

    async def run() -> Answer:
        async with open_app(app, migrate=migrate) as backends:
            return await ask(backends[backend], "read" if method == "query" else cast(Method, method), model, terms)

    try:
        answer = asyncio.run(run())
    except BbioError as err:
        raise click.ClickException(_explain(err)) from None
    click.echo(encode({"models": answer.result, **answer.page} if method == "query" else answer.result))


def _model(id_attribute: str, method: str, data: str | None) -> dict[str, Any]:
    """Read the model of a call; of a read or a delete, the id will do."""
    by_id = method in ("read", "delete")
    if not data:
        what = f"the {id_attribute}" if by_id else "the model as JSON"
        raise click.UsageError(f"{method} needs DATA: {what}, or - to read it from the standard input")
    return {id_attribute: _id(data)} if by_id and not data.startswith("{") else _object("DATA", data)


def _object(name: str, text: str) -> dict[str, Any]:
    """Read a JSON object."""
    value = _json(name, text)
    if not isinstance(value, dict):
        raise click.UsageError(f"{name} is not a JSON object: {text:.64}")
    return value


def _json(name: str, text: str) -> Any:
    try:
        return parse(text)
    except SyncError as err:
        raise click.UsageError(f"{name}: {err}: {text:.64}") from None


def _id(text: str) -> Any:
    """Read an id: a number, a string in quotes, or any other text as it is."""
    if NUMBER.fullmatch(text):
        return int(text)
    return _json("DATA", text) if text.startswith('"') else text


def _user(text: str) -> Any:
    """Read a user: null, a JSON object or string, or any other text as the user's id."""
    if text == "null":
        return None
    return _json("--user", text) if text.startswith(QUOTED) else text


def _explain(err: BbioError) -> str:
    """Return the text of an error; of a sync, with its code and details."""
    if not isinstance(err, SyncError):
        return str(err)
    details = err.to_json()
    name, message, code = (details.pop(key) for key in ("name", "message", "code"))
    shown = f" {json.dumps(details, ensure_ascii=False, default=str)}" if details else ""
    return f"{name} ({code}): {message}{shown}"
