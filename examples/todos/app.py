"""To-do lists: each list is a channel, named by the page's address (`#shopping`). They are kept in the file todos.db.

Run it with `python examples/todos/app.py`, then visit http://127.0.0.1:3000/#shopping.
"""

from __future__ import annotations

from pathlib import Path

import attrs

from bbio import App, Backend
from bbio.builtin import Logger, SQLiteStore


def says_something(todo: object, attribute: object, title: str) -> None:
    """The validator of a title."""
    if not title.strip():
        raise ValueError("a to-do needs a title")


@attrs.define
class Todo:
    title: str = attrs.field(validator=says_something)
    done: bool = False


class Todos(Backend):
    model = Todo
    middleware = [Logger()]
    store = SQLiteStore("todos.db", per_channel=True)


app = App()
app.serve(Todos)
app.page("/", Path(__file__).parent / "index.html")

if __name__ == "__main__":
    app.run(port=3000)
