"""The bytes that a listener is sent while a record grows word by word: what changed, and the whole record each time.

    python -m benchmarks.deltas

Both kinds of listeners follow the same writes over websockets of their own, so that the ratio says the same on every
machine.
"""

from __future__ import annotations

import asyncio
import json
import sys

import aiohttp

from bbio import App, Backend
from bbio.builtin import MemoryStore
from bbio.client import connect

APPENDS = 1_000
WORD = "word "
RECORD_BYTES = 4_096

# How much of the bytes of whole records may be sent, at the most.
BAR = 0.05


class Answers(Backend):
    store = MemoryStore()
    deltas = True


async def follow(url: str, ready: asyncio.Event, *, deltas: bool) -> int:
    """Listen until all has been appended; return the bytes of what was told since the listen was answered."""
    received = 0
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket", max_msg_size=0) as socket,
    ):
        await socket.send_str("40/answers,")
        async for message in socket:
            text: str = message.data
            if text == "2":
                await socket.send_str("3")
            elif text.startswith("40/answers,"):
                listen = json.dumps(["listen", None, {"v": 1, "deltas": deltas}])
                await socket.send_str(f"42/answers,1{listen}")
            elif text.startswith("43/answers,"):
                ready.set()
            elif text.startswith("42/answers,"):
                received += len(text)
                _, method, model, _ = json.loads(text.removeprefix("42/answers,"))
                if method != "create" and model.get("n") == APPENDS:
                    return received
    raise ConnectionError("the server closed the connection")


async def measure() -> tuple[int, int]:
    """Bytes of the listener that takes what changed, and of the one that takes whole records."""
    app = App().serve(Answers)
    async with app.running() as url, connect(url) as io:
        answers = io.backend("answers")
        made = await answers.create({"text": "x" * RECORD_BYTES, "n": 0})
        places = [asyncio.Event(), asyncio.Event()]
        listeners = [
            asyncio.create_task(follow(url, ready, deltas=deltas))
            for ready, deltas in zip(places, (True, False), strict=True)
        ]
        await asyncio.gather(*(ready.wait() for ready in places))
        for _ in range(APPENDS):
            await answers.patch({"id": made["id"], "$append": {"text": WORD}, "$inc": {"n": 1}})
        changed, whole = await asyncio.gather(*listeners)
        return changed, whole


def main() -> None:
    changed, whole = asyncio.run(measure())
    print(
        f"{APPENDS:,} appends of {len(WORD)} bytes to a record of {RECORD_BYTES:,}: {changed:,} bytes of what changed, "
        f"{whole:,} of whole records; {changed / whole:.1%} (bar: {BAR:.0%})"
    )
    sys.exit(changed / whole > BAR)


if __name__ == "__main__":
    main()
