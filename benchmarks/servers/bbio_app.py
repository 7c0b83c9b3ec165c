"""The service of the benchmark on bbio, with everything at its default unless an option says otherwise."""

import argparse
from pathlib import Path

from bbio import App, Backend, Middleware, Unauthorized, before
from bbio.builtin import MemoryStore, PostgresStore, Session, SQLiteStore
from bbio.server.fast import websocket
from bbio.streams import HistoryLimits

FILES = ("", "-wal", "-shm")


def make_store(options):
    limits = None if options.history is None else HistoryLimits(events=options.history)
    if options.store == ["memory"]:
        return MemoryStore(history=limits)
    kind, path = options.store
    if kind == "postgres":
        return PostgresStore(path, history=limits)
    assert kind == "sqlite", kind
    for end in FILES:
        Path(path + end).unlink(missing_ok=True)
    return SQLiteStore(path, history=limits)


class Unlimited(websocket.BudgetedParser):
    """Handles all that arrives, at once."""

    __slots__ = ()

    def feed_data(self, data):
        batch = self._batch
        batch.holding = True
        try:
            return self._feed(data)
        finally:
            batch.release()


class UsersOnly(Middleware):
    @before
    def require_user(self, req):
        if req.user is None:
            raise Unauthorized("sign in first")


async def passes(req, res, next):
    return await next()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--engine", choices=("fast", "plain"), default="fast")
    parser.add_argument("--layers", type=int, default=0, help="layers that only pass on, around the store")
    parser.add_argument("--backends", type=int, default=1, help="backends that are served")
    parser.add_argument("--history", type=int, help="events kept of each stream")
    parser.add_argument(
        "--store", nargs="+", default=["memory"], help="memory, sqlite and a file, or postgres and a DSN"
    )
    parser.add_argument("--signed-in", metavar="SECRET", help="for users alone, by a cookie that this signed")
    parser.add_argument("--no-budget", action="store_true", help="connections may take all the time they like")
    options = parser.parse_args()
    if options.no_budget:
        websocket.BudgetedParser = Unlimited

    guards = [Session(options.signed_in), UsersOnly()] if options.signed_in else []

    class Messages(Backend):
        store = make_store(options)
        middleware = guards + [passes] * options.layers

    app = App(engine=options.engine)
    app.serve(Messages)
    for number in range(1, options.backends):
        app.serve(**{f"other{number}": Messages})
    app.run(host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
