"""Find the application that a text names: `module:app`."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path
from types import ModuleType

from aiohttp import web

from bbio.app import App, mounted_on
from bbio.errors import BbioError, ConfigurationError


def find(target: str, program: str = "the program") -> App | web.Application:
    """Import the application that `module:attribute` names.

    Parameters:
        target: the name of a module, and that of the application in it.
        program: the name of the running program, for the text of an error.

    Returns: an App, or an aiohttp application that one is mounted on.

    Raises:
        ConfigurationError: it cannot be imported, or is neither; the text says how to mend it.

    Example:
        `find("todos:app")`
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"{target!r} names no application; write module:app, such as todos:app")
    if module_name.endswith(".py") or "/" in module_name:
        path = Path(module_name.removesuffix(".py"))
        raise ConfigurationError(f"{target!r} names a file; write {'.'.join(path.parts)}:{attribute}")
    module = _import(module_name, program)
    found = getattr(module, attribute, None)
    if isinstance(found, App) or (isinstance(found, web.Application) and mounted_on(found)):
        return found
    if isinstance(found, web.Application):
        raise ConfigurationError(f"no App is mounted on {target}; write app.mount({attribute})")
    names = [*mounts(module), *(name for name, value in vars(module).items() if isinstance(value, App))]
    hint = f"did you mean {module_name}:{names[0]}?" if names else "it must be one: app = App(); app.serve(...)"
    wrong = f"{module_name} has no {attribute!r}" if found is None else f"{target} is not a bbio.App"
    raise ConfigurationError(f"{wrong}; {hint}")


def _import(name: str, program: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as err:
        if isinstance(err, ModuleNotFoundError) and f"{name}.".startswith(f"{err.name}."):
            text = f"there is no module {err.name!r}; run {program} in the folder that holds it, or install it"
        else:
            kind = "" if isinstance(err, BbioError) else f"{type(err).__name__}: "
            text = f"{name} cannot be imported: {kind}{err}{_place(err)}"
        raise ConfigurationError(text) from err


def app_of(found: App | web.Application) -> App:
    """Return the App that was found, or the one that is mounted on what was found.

    Raises:
        ConfigurationError: it is neither.
    """
    app = found if isinstance(found, App) else mounted_on(found) if isinstance(found, web.Application) else None
    if app is None:
        raise ConfigurationError(
            f"{found!r} is no application: give a bbio.App, an aiohttp application that one is mounted on, or "
            "the name of one, such as 'todos:app'"
        )
    return app


def mounts(module: ModuleType) -> dict[str, App]:
    """Return the aiohttp applications of a module by name, each with the App that is mounted on it."""
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
