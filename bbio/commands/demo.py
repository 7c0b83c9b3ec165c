"""`bbio demo`: the messages example, served from the installed package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bbio import App, Backend, BadRequest, Request, Store, before
from bbio.builtin import MemoryStore, store_from_env
from bbio.commands.serving import serve, serving
from bbio.settings import Settings

DEMO = Path(__file__).parents[1] / "static" / "demo.html"
DEMO_FILE = "bbio-demo.db"


@click.command()
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
    serve(make, **settings)


def demo_backend(declared: Store) -> type[Backend]:
    """The backend of the demo over a store."""

    class Messages(Backend):
        store = declared

        @before("create", "update", "patch")
        def check_text(self, req: Request) -> None:
            if not str(req.model.get("text", req.method == "patch") or "").strip():
                raise BadRequest("a message needs a text")

    return Messages
