"""A shared list of messages: open the page twice, and type. Messages are kept in the file messages.db.

Each page shows how many are there, and that somebody else is typing.

Run it with `python examples/messages/app.py`, then visit http://127.0.0.1:3000.
"""

from __future__ import annotations

from pathlib import Path

from bbio import App, Backend, Invalid, Request, before, message
from bbio.builtin import Logger, SQLiteStore


class Messages(Backend):
    presence = True
    middleware = [Logger()]
    store = SQLiteStore("messages.db")

    @before("create", "update", "patch")
    def check(self, req: Request) -> None:
        # A patch may leave the text out, not empty it.
        if not str(req.model.get("text", req.method == "patch") or "").strip():
            raise Invalid("a message needs some text")

    @message("typing")
    def typing(self) -> bool:
        """Nobody needs to know more than that somebody is typing."""
        return True


app = App()
app.serve(Messages)
app.page("/", Path(__file__).parent / "index.html")

if __name__ == "__main__":
    app.run(port=3000)
