"""The service of the benchmark on bbio, with everything at its default unless an option says otherwise."""

import argparse

from bbio import App, Backend
from bbio.builtin import MemoryStore


async def passes(req, res, next):
    return await next()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--engine", choices=("fast", "plain"), default="fast")
    parser.add_argument("--layers", type=int, default=0, help="layers that only pass on, around the store")
    parser.add_argument("--backends", type=int, default=1, help="backends that are served")
    options = parser.parse_args()

    class Messages(Backend):
        store = MemoryStore()
        middleware = [passes] * options.layers

    app = App(engine=options.engine)
    app.serve(Messages)
    for number in range(1, options.backends):
        app.serve(**{f"other{number}": Messages})
    app.run(host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
