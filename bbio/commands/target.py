"""The application that a command is given: `module:app`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

import click
from aiohttp import web

from bbio import App
from bbio.app import mounted_on
from bbio.errors import BbioError


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
    names = [*mounts(module), *(name for name, value in vars(module).items() if isinstance(value, App))]
    hint = f"did you mean {module_name}:{names[0]}?" if names else "it must be one: app = App(); app.serve(...)"
    wrong = f"{module_name} has no {attribute!r}" if found is None else f"{target} is not a bbio.App"
    raise click.ClickException(f"{wrong}; {hint}")


def load(target: str) -> App:
    """The App that `module:attribute` names, by itself or by the aiohttp application that it is mounted on.

    Raises:
        click.ClickException: it cannot be imported, or is neither.
    """
    return app_of(find(target))


def app_of(found: App | web.Application) -> App:
    """The App that was found, or the one that is mounted on what was found."""
    app = found if isinstance(found, App) else mounted_on(found)
    assert app is not None, "find gives no other"
    return app


def mounts(module: ModuleType) -> dict[str, App]:
    """The aiohttp applications of a module by name, each with the App that is mounted on it."""
    return {
        name: app
        for name, value in vars(module).items()
        if isinstance(value, web.Application) and (app := mounted_on(value)) is not None
    }


def _place(err: BaseException) -> str:
    """Return the place in the user's code where an error happened, to be put behind its text."""
    package, importing = str(Path(__file__).parents[1]), str(Path(importlib.__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(err.__traceback__)
        if not frame.filename.startswith((package, importing, "<frozen importlib"))
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
