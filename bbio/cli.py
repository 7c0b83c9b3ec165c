"""The command `bbio`."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import click
from aiohttp import web
from watchfiles import PythonFilter, run_process

from bbio import App, Backend, BadRequest, Request, Store, __version__, before
from bbio.app import mounted_on
from bbio.builtin import MemoryStore, PostgresStore, store_from_env
from bbio.errors import BbioError
from bbio.model import export as describe
from bbio.requests import METHODS
from bbio.settings import LAST_PORT, LOG_LEVELS, Settings, variable

# A server that is started again has this long to end what it is doing.
STOP_SECONDS = 10
DEMO = Path(__file__).parent / "static" / "demo.html"
DEMO_FILE = "bbio-demo.db"


def find(target: str) -> App | web.Application:
    """The application named by `module:attribute`, looked for in the current folder too.

    Returns: an App, or an aiohttp application that one is mounted on.

    Raises:
        click.ClickException: it cannot be imported or is neither.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise click.ClickException(f"{target!r} names no application; write module:app, such as todos:app")
    if module_name.endswith(".py") or "/" in module_name:
        path = Path(module_name.removesuffix(".py"))
        raise click.ClickException(f"{target!r} names a file; write {'.'.join(path.parts)}:{attribute}")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as err:
        if isinstance(err, ModuleNotFoundError) and f"{module_name}.".startswith(f"{err.name}."):
            text = f"there is no module {err.name!r}; run bbio in the folder that holds it, or install it"
        else:
            kind = "" if isinstance(err, BbioError) else f"{type(err).__name__}: "
            text = f"{module_name} cannot be imported: {kind}{err}{_place(err)}"
        raise click.ClickException(text) from None
    found = getattr(module, attribute, None)
    if isinstance(found, App) or (isinstance(found, web.Application) and mounted_on(found)):
        return found
    if isinstance(found, web.Application):
        raise click.ClickException(f"no App is mounted on {target}; write app.mount({attribute})")
    names = [*_mounts(module), *(name for name, value in vars(module).items() if isinstance(value, App))]
    hint = f"did you mean {module_name}:{names[0]}?" if names else "it must be one: app = App(); app.serve(...)"
    wrong = f"{module_name} has no {attribute!r}" if found is None else f"{target} is not a bbio.App"
    raise click.ClickException(f"{wrong}; {hint}")


def load(target: str) -> App:
    """The App that `module:attribute` names, by itself or by the aiohttp application that it is mounted on.

    Raises:
        click.ClickException: it cannot be imported, or is neither.
    """
    return _app_of(find(target))


def _app_of(found: App | web.Application) -> App:
    app = found if isinstance(found, App) else mounted_on(found)
    assert app is not None, "find gives no other"
    return app


def _mounts(module: ModuleType) -> dict[str, App]:
    """The aiohttp applications of a module by name, each with the App that is mounted on it."""
    return {
        name: app
        for name, value in vars(module).items()
        if isinstance(value, web.Application) and (app := mounted_on(value)) is not None
    }


def _place(err: BaseException) -> str:
    """Return the place in the user's code where an error happened, to be put behind its text."""
    package, importing = str(Path(__file__).parent), str(Path(importlib.__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(err.__traceback__)
        if not frame.filename.startswith((package, importing, "<frozen importlib"))
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="bbio")
def main() -> None:
    """Real-time model sync: serve backends, look at their stacks, look after their database, try the demo."""


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


def _serve(
    find: Callable[[], App | web.Application], host: str, port: int, log_level: str, cors_origins: str | None
) -> None:
    if cors_origins is not None:
        os.environ[variable("cors_origins")] = cors_origins  # where an application looks for what it is not told
    try:
        found = find()
        mounting = found if isinstance(found, web.Application) else None
        _app_of(found).run(host, port, log_level, application=mounting)
    except BbioError as err:
        raise click.ClickException(str(err)) from None


@main.command()
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
    _serve(lambda: _whole(target), **settings)


def _whole(target: str) -> App | web.Application:
    """The application named by a target; say so when it is only a part of what the module serves."""
    found = find(target)
    module_name = target.partition(":")[0]
    for name, app in _mounts(sys.modules[module_name]).items():
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


@main.command()
@click.argument("target", metavar="MODULE:APP")
def stacks(target: str) -> None:
    """Print what each sync passes, with file and line.

    For every backend of the application APP of MODULE, and every sync method, the layers of its stack in order; at
    `listen`, those that decide who may listen. A warning names a layer that leaves something out of reads, of which
    others are told all the same.
    """

    def show(kind: str, name: str, where: str = "") -> None:
        click.echo(f"    {kind:<9} {name:<40} {where}".rstrip())

    for name, runtime in load(target).backends.items():
        click.echo(f"{name} ({type(runtime.backend).__name__})")
        for method in METHODS:
            click.echo(f"  {method}")
            stack = runtime.stacks[method]
            for layer in stack.layers:
                show(layer.kind, layer.name, layer.where)
            if runtime.store is not None:
                show("store", type(runtime.store).__name__)
            elif stack.may_answer:
                show("bottom", "answers with the model, where nothing above did")
            else:
                show("bottom", "nothing answers: the client gets back the model that it sent")
        click.echo("  listen")
        admitting = [layer for layer in runtime.stacks["read"].layers if layer.kind == "before"]
        for layer in admitting:
            show(layer.kind, layer.name, layer.where)
        if not admitting:
            show("everybody", "may listen: no `before` layer is for read")
        for rule in runtime.rules.layers:
            assert rule.pattern is not None, "each has one"
            show("channel", f"{rule.pattern.text!r}: {rule.name}", rule.where)
        if runtime.connecting is not None:
            click.echo("  connect")
            for layer in runtime.connecting.layers:
                show(layer.kind, layer.name, layer.where)
        for layer in runtime.narrowing:
            show("warning", f"others are told what {layer.name} leaves out", layer.where)


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


@main.command()
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


@main.command("new-epoch")
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


@main.command()
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


@main.command()
@serving
@click.option("--memory", is_flag=True, help="Keep the messages in memory only.")
def demo(memory: bool, **settings: Any) -> None:
    """Serve the messages example: open its address in two windows.

    Messages are kept in the file bbio-demo.db of this folder, or in the database that BBIO_DATABASE_URL names.
    """

    def make() -> App:
        return App().serve(demo_backend(MemoryStore() if memory else store_from_env(DEMO_FILE))).page("/", DEMO)

    if not memory and not Settings.from_env().database_url:
        click.echo(f"messages are kept in {Path(DEMO_FILE).absolute()}; bbio demo --memory keeps them in no file")
    _serve(make, **settings)


def demo_backend(declared: Store) -> type[Backend]:
    """The backend of the demo over a store."""

    class Messages(Backend):
        store = declared

        @before("create", "update", "patch")
        def check_text(self, req: Request) -> None:
            if not str(req.model.get("text", req.method == "patch") or "").strip():
                raise BadRequest("a message needs a text")

    return Messages
