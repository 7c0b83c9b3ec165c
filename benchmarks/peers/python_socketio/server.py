"""The service of the benchmark, written by hand on python-socketio and aiohttp.

With `--tuned`: uvloop, orjson and no task per event.
"""

import itertools
import sys

import orjson
import socketio
from aiohttp import web


class Orjson:
    @staticmethod
    def dumps(value, **_):
        return orjson.dumps(value).decode()

    @staticmethod
    def loads(text, **_):
        return orjson.loads(text)


def service(sio):
    records = {}
    ids = itertools.count(1)
    channels = {}

    def create(model):
        model["id"] = next(ids)
        records[model["id"]] = model
        return model

    def read(model):
        return records.get(model["id"]) if model else list(records.values())

    def update(model):
        records[model["id"]] = model
        return model

    methods = {"create": create, "read": read, "update": update}

    @sio.on("listen", namespace="/messages")
    async def listen(sid, channel):
        channels[sid] = channel
        if channel:
            await sio.enter_room(sid, channel, namespace="/messages")
        return {"event": "backend"}

    @sio.on("sync", namespace="/messages")
    async def sync(sid, request):
        method = request["method"]
        result = methods[method](request["model"])
        if method != "read":
            await sio.emit("synced", (method, result), room=channels.get(sid), skip_sid=sid, namespace="/messages")
        return None, result

    @sio.on("disconnect", namespace="/messages")
    async def disconnect(sid, reason):
        channels.pop(sid, None)


def main(port, tuned):
    options = {"async_mode": "aiohttp"}
    if tuned:
        import uvloop

        uvloop.install()
        options |= {"json": Orjson, "async_handlers": False}
    sio = socketio.AsyncServer(**options)
    service(sio)
    app = web.Application()
    sio.attach(app)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(int(sys.argv[-1]), "--tuned" in sys.argv)
