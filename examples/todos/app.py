"""To-do lists: each list is a channel, named by the page's address (`#shopping`). They are kept in the file todos.db.

Run it with `python examples/todos/app.py`, then visit http://127.0.0.1:3000/#shopping.
"""

from __future__ import annotations

from pathlib import Path

from bbio import App, Backend, Invalid, Request, before
from bbio.builtin import Logger, SQLiteStore


class Todos(Backend):
    middleware = [Logger()]
    store = SQLiteStore("todos.db", per_channel=True)

    @before("create", "update", "patch")
    def check(self, req: Request) -> None:
        title = req.model.get("title")
        if (req.method != "patch" or title is not None) and not str(title or "").strip():
            raise Invalid("a to-do needs a title")


app = App()
app.serve(Todos)
app.page("/", Path(__file__).parent / "index.html")

if __name__ == "__main__":
    app.run(port=3000)
