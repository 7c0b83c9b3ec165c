"""A bulk write of 100,000 records beside single creates, in SQLite and PostgreSQL, and the memory that it takes.

    python -m benchmarks.bulk [--records 100000] [--postgres URL]

Both are measured in turn, in one process, so that the ratio says the same on every machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from bbio import App, Backend, Store
from bbio.builtin import PostgresStore, SQLiteStore

# How many times the rate of single creates a bulk write has, at the least; and the megabytes it may grow by.
BAR = 10.0
MEMORY_BAR = 64.0
SINGLE = 500


@attrs.define
class Todo:
    title: str
    done: bool = False
    count: int = 0


def rows(count: int) -> Iterator[dict[str, Any]]:
    return ({"title": f"todo {number}", "count": number} for number in range(count))


def megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def measure(declared: Store, records: int) -> tuple[float, float, float]:
    """Records in a second by single creates and by a bulk write, and the megabytes that the latter has added."""
    cls = type("Records", (Backend,), {"store": declared, "model": Todo})
    app = App().serve(cls)
    await app.open()
    backend = app.backends["records"]
    gc.collect()
    gc.freeze()  # as app.run and bbio import do
    try:
        began = time.perf_counter()
        for model in rows(SINGLE):
            await backend.create(model)
        single = SINGLE / (time.perf_counter() - began)
        await backend.bulk(rows(5_000), op="warm up")
        before = megabytes()
        began = time.perf_counter()
        await backend.bulk(rows(records), op="measured")
        return single, records / (time.perf_counter() - began), megabytes() - before
    finally:
        await app.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk", description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000, help="records of the bulk write (100000)")
    parser.add_argument(
        "--postgres", default=os.environ.get("BBIO_DATABASE_URL"), help="database; a new one is made without it"
    )
    options = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory(prefix="bbio-bulk-") as folder:
        stores: dict[str, Store] = {"SQLite": SQLiteStore(Path(folder) / "records.db", "records")}
        server = None
        if options.postgres is None:
            from tests.support.services import PostgresServer

            server = PostgresServer(durable=True)
            server.start()
        try:
            url = options.postgres or server.url
            stores["PostgreSQL"] = PostgresStore(url, f"bulk_{os.getpid()}")
            for name, store in stores.items():
                single, bulk, grown = asyncio.run(measure(store, options.records))
                missed = missed or bulk / single < BAR or grown > MEMORY_BAR
                print(
                    f"{name}: {single:,.0f} creates a second one by one, {bulk:,.0f} in bulk, "
                    f"{bulk / single:.1f} times as many (bar: {BAR:.0f}); {options.records:,} records take "
                    f"{grown:.1f} MB more (bar: {MEMORY_BAR:.0f})",
                    flush=True,
                )
        finally:
            if server is not None:
                server.remove()
    sys.exit(missed)


if __name__ == "__main__":
    main()
