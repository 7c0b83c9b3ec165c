"""The application that the fault tests attack, in a process of its own, and a way to look into that process.

`$BBIO_TEST_ENGINE` and `$BBIO_TEST_LIMITS` (a JSON object) say how it is made.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket

from bbio import App, Backend, Limits, create, read, update
from bbio.builtin import MemoryStore

app = App(
    engine=os.environ.get("BBIO_TEST_ENGINE", "fast"), limits=Limits(**json.loads(os.environ["BBIO_TEST_LIMITS"]))
)
gate = asyncio.Event()
ran = {"started": 0, "most": 0, "now": 0}


class Todos(Backend):
    store = MemoryStore()


class Quiet(Backend):
    """What the witness asks: answered with what it sent."""


class Slow(Backend):
    """Requests that wait: an `update` until the gate is opened, a `create` as long as its model says."""

    @update
    async def wait(self, req):
        ran["started"] += 1
        ran["now"] += 1
        ran["most"] = max(ran["most"], ran["now"])
        try:
            await gate.wait()
        finally:
            ran["now"] -= 1
        return req.model

    @create
    async def sleep(self, req):
        await asyncio.sleep(req.model["seconds"])
        return req.model


class Secret(Backend):
    """A handler that fails with what no client may see."""

    @read
    def fail(self, req):
        raise ConnectionError("postgres://root:hunter2@db/secret")


def lasting_tasks():
    """All but those in which the plain engine handles one event each: the witness always has one on its way."""
    return [task for task in asyncio.all_tasks() if task.get_coro().__name__ != "_handle_event_internal"]


class Probe(Backend):
    """What the process holds, and what a test wants changed in it."""

    @read
    def look(self, req):
        sio = app.sio
        rooms = [sid for spaces in sio.manager.rooms.values() for room in spaces.values() for sid in room]
        return {
            "tasks": len(lasting_tasks()) - len(app.gateway.delivery.stepper._parked),
            "sessions": len(sio.eio.sockets),
            "environ": len(sio.environ),
            "rooms": len(set(rooms)),
            "requests": len(app.gateway.exchanges.running),
            "listeners": sum(
                len(stream.legacy) + len(stream.version_1)
                for subscribers in app.gateway.subscribers.values()
                for stream in subscribers._streams.values()
            ),
            **ran,
        }

    @create
    def open_gate(self, req):
        gate.set()
        return {}

    @update
    async def tell(self, req):
        """`count` events of `size` characters in a burst, `burst` of them at a time."""
        model = req.model
        text = "x" * model["size"]
        for n in range(model["count"]):
            app.backends["todos"].emit("created", {"id": n, "text": text})
            if n % model.get("burst", 5) == 0:
                await asyncio.sleep(0.001)
        return {}


@app.sio.on("narrow", namespace="/todos")
async def narrow(sid):
    """The kernel keeps little for this client, so that the server sees at once that it does not read."""
    peer = app.sio.peer_of(sid, "/todos")
    peer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)


@app.sio.on("waiting", namespace="/todos")
async def waiting(sid, other):
    """Bytes that wait for another client; -1 when it is gone."""
    peer = app.sio.eio.sockets.get(other)
    return -1 if peer is None or peer.transport is None else peer.transport.get_write_buffer_size()


app.serve(Todos, Quiet, Slow, Secret, Probe)
