"""The service of the benchmark on bbio, with everything at its default unless an option says otherwise."""

import argparse

from bbio import App, Backend
from bbio.builtin import MemoryStore
from bbio.streams import HistoryLimits, Log


class ShortMemory(MemoryStore):
    """Keeps so many events of each stream."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def open(self, backend, publisher):
        opened = super().open(backend, publisher)
        opened.log = Log(HistoryLimits(events=self.events))
        return opened


async def passes(req, res, next):
    return await next()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--engine", choices=("fast", "plain"), default="fast")
    parser.add_argument("--layers", type=int, default=0, help="layers that only pass on, around the store")
    parser.add_argument("--backends", type=int, default=1, help="backends that are served")
    parser.add_argument("--history", type=int, help="events kept of each stream")
    options = parser.parse_args()

    class Messages(Backend):
        store = MemoryStore() if options.history is None else ShortMemory(options.history)
        middleware = [passes] * options.layers

    app = App(engine=options.engine)
    app.serve(Messages)
    for number in range(1, options.backends):
        app.serve(**{f"other{number}": Messages})
    app.run(host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
