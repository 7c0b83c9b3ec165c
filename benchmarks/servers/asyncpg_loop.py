"""What asyncpg does without a server: 50 writers, each a connection of its own, create models one by one.

Each create is a transaction of the statements that PostgresStore makes when nobody else waits: the position of the
writer's stream, the model, the event. Prints figures under the names that the load generator uses.
"""

import argparse
import asyncio
import json
import secrets
import time

import asyncpg
import uvloop

from bbio.builtin.postgres.database import Database
from bbio.builtin.postgres.statements import ADD_STREAMS, LOGGING
from bbio.builtin.postgres.tables import DRAW_REVISIONS, Table

BODY = '{"text":"hello world","done":false,"n":7,"id":"%s"}'
WRITERS = 50
WARM = 0.5
TABLE = Table.of("messages", "id", False, None)


async def write(dsn: str, backend: int, stream: str, counts: list[int], until: float) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(ADD_STREAMS, backend, [stream], time.time())
    insert = TABLE.insert()
    rev = await connection.fetchval(DRAW_REVISIONS)
    while time.monotonic() < until:
        id = secrets.token_hex(8)
        body = BODY % id
        rev += 1
        await connection.execute("BEGIN; SET LOCAL bbio.own = '1'; SET LOCAL statement_timeout = 5000")
        await connection.fetch(insert, [id], [rev], [body])
        growth = [stream], [1], [len(body)], time.time(), 1
        event = [1], [1], ["create"], [body], [rev], None
        await connection.fetch(LOGGING[False, False], backend, *growth, *event)
        await connection.execute("COMMIT")
        counts[0] += 1
    await connection.close()


async def run(dsn: str, seconds: float) -> dict[str, float]:
    connection = await asyncpg.connect(dsn)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await Database(dsn, 1, 5.0).migrate(connection)
    await connection.execute(TABLE.create())
    backend = await connection.fetchval(
        "INSERT INTO bbio_backends (name, epoch) VALUES ('messages', 'epoch') RETURNING id"
    )
    await connection.close()
    counts = [0]
    begin = time.monotonic()
    until = begin + WARM + seconds
    writers = [asyncio.ensure_future(write(dsn, backend, f"c:{n}", counts, until)) for n in range(WRITERS)]
    await asyncio.sleep(WARM)
    first, started, cpu = counts[0], time.monotonic(), time.process_time()
    await asyncio.gather(*writers)
    spent = time.monotonic() - started
    acks = counts[0] - first
    each = WRITERS * spent / acks * 1e6
    figures = {"acks": acks, "seconds": spent, "cpu_seconds": time.process_time() - cpu, "errors": 0}
    return figures | {"ack_p50_us": each, "ack_p99_us": each}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dsn")
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    print(json.dumps(uvloop.run(run(options.dsn, options.seconds))))


if __name__ == "__main__":
    main()
