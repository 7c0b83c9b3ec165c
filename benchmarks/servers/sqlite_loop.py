"""What the standard `sqlite3` does without a server: one thread writes rows and commits each, or reads rows by id.

Prints figures under the names that the load generator uses.
"""

import argparse
import json
import os
import sqlite3
import time
from pathlib import Path

BODY = '{"text":"hello world","done":false,"n":7,"id":"%d"}'
WARM = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=("create", "read"))
    parser.add_argument("file", type=Path)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    for path in (options.file, Path(f"{options.file}-wal"), Path(f"{options.file}-shm")):
        path.unlink(missing_ok=True)
    connection = sqlite3.connect(options.file, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE messages (id PRIMARY KEY, rev INTEGER NOT NULL, body TEXT NOT NULL)")

    def create(n: int) -> None:
        connection.execute("INSERT INTO messages VALUES (?, ?, ?)", (str(n), n, BODY % n))

    def read(n: int) -> None:
        connection.execute("SELECT rev, body FROM messages WHERE id = ?", (str(n % 50),)).fetchone()

    if options.work == "read":
        for n in range(50):
            create(n)
    work = create if options.work == "create" else read
    begin, cpu, first, n = time.monotonic(), 0.0, 0, 0
    while (now := time.monotonic()) < begin + WARM + options.seconds:
        if not first and now >= begin + WARM:
            started, cpu, first = now, time.process_time(), n
        for _ in range(20):
            work(n)
            n += 1
    seconds = now - started
    per = seconds / (n - first) * 1e6
    figures = {"acks": n - first, "seconds": seconds, "cpu_seconds": time.process_time() - cpu, "errors": 0}
    print(json.dumps(figures | {"ack_p50_us": per, "ack_p99_us": per}))
    connection.close()
    os.unlink(options.file)


if __name__ == "__main__":
    main()
