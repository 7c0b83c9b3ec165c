"""`bbio shell`: a console of Python with the backends of an application."""

from __future__ import annotations

import ast
import code
import inspect
import rlcompleter
import sys
import traceback
import types
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import click

from bbio.commands.opened import opening
from bbio.commands.target import load
from bbio.errors import BbioError
from bbio.outside import open as open_app

BANNER = """The backends of {target}: {names}
`await backends[{first!r}].query()` reads. The clients of running servers are notified of each write."""
PIPED = "<stdin>"
TYPED = "<console>"

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@click.command()
@click.argument("target", metavar="MODULE:APP")
@opening
def shell(target: str, migrate: bool) -> None:
    """Open a console with the backends of the application APP of MODULE.

    It is IPython if that is installed, else the console of Python; `await` works at the top of both. The names are
    `app` and `backends`. What is written goes through the whole stack to the database, and the clients of running
    servers are notified.

    Code that is piped to the standard input is run to its end. An error of it is printed, and the exit status is 1.
    """
    app = load(target)
    opened = open_app(app, migrate=migrate)
    with ExitStack() as stack:
        try:
            stack.enter_context(opened)
        except BbioError as err:
            raise click.ClickException(str(err)) from None
        names = {"__name__": "__main__", "app": app, "backends": app.backends}
        if not sys.stdin.isatty():
            run_piped(sys.stdin.read(), names, opened.run)
            return
        banner = BANNER.format(target=target, names=", ".join(app.backends), first=next(iter(app.backends)))
        if not run_ipython(names, banner):
            Console(names, opened.run).interact(banner, exitmsg="")


def evaluate(compiled: types.CodeType, names: dict[str, Any], run: Run) -> None:
    """Run code, in which `await` may be at the top.

    Parameters:
        compiled: the code.
        names: its global names.
        run: runs what awaits in the event loop of the application.
    """
    result = types.FunctionType(compiled, names)()
    if inspect.iscoroutine(result):
        ending = run(_return_exit(result))
        if ending is not None:
            raise ending


async def _return_exit(work: Coroutine[Any, Any, None]) -> BaseException | None:
    """Run code; return the error by which it ends the console, which must not end the event loop first."""
    try:
        await work
    except (SystemExit, KeyboardInterrupt) as err:
        return err
    return None


def run_piped(source: str, names: dict[str, Any], run: Run) -> None:
    """Run a whole program, and exit with status 1 if it fails.

    Parameters:
        source: its text.
        names: its global names.
        run: runs what awaits in the event loop of the application.
    """
    try:
        compiled = compile(source, PIPED, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        evaluate(compiled, names, run)
    except Exception as err:
        show(err, PIPED)
        sys.exit(1)


def show(err: BaseException, filename: str) -> None:
    """Print an error with its traceback, from the code of the user on.

    Parameters:
        err: the error.
        filename: the name of that code.
    """
    entry = err.__traceback__
    while entry is not None and entry.tb_frame.f_code.co_filename != filename:
        entry = entry.tb_next
    traceback.print_exception(type(err), err, entry)


class Console(code.InteractiveConsole):
    """The console of Python, with `await` at the top and names that the tabulator key completes.

    Parameters:
        names: the global names.
        run: runs what awaits in the event loop of the application.
    """

    def __init__(self, names: dict[str, Any], run: Run) -> None:
        super().__init__(names, TYPED)
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._names = names
        self._run = run
        try:
            readline = import_module("readline")
        except ImportError:  # pragma: no cover - a Python without it
            return
        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")

    def runcode(self, compiled: types.CodeType) -> None:
        """Run what was typed, and print its error."""
        try:
            evaluate(compiled, self._names, self._run)
        except SystemExit:
            raise
        except BaseException as err:
            show(err, TYPED)


def run_ipython(names: dict[str, Any], banner: str) -> bool:
    """Run IPython until it is left; return whether it is installed.

    Parameters:
        names: the global names.
        banner: the text that it begins with.
    """
    try:
        ipython, config = import_module("IPython"), import_module("traitlets.config").Config()
    except ImportError:
        return False
    config.TerminalInteractiveShell.banner2 = banner
    ipython.start_ipython(argv=[], config=config, user_ns=names)
    return True
