"""The service of the benchmark with no library but aiohttp and orjson: what the same work costs at the least.

It speaks just enough Engine.IO and Socket.IO for the load generator: websocket only, no pings, no checks.
"""

import itertools
import struct
import sys

import orjson
from aiohttp import web

TEXT = 0x81
NAMESPACE = "/messages,"

records = {}
ids = itertools.count(1)
channels = {}


def create(model):
    model["id"] = next(ids)
    records[model["id"]] = model
    return model


def read(model):
    return records.get(model["id"])


def update(model):
    records[model["id"]] = model
    return model


methods = {"create": create, "read": read, "update": update}


def frame(text):
    payload = text.encode()
    if len(payload) < 126:
        return bytes((TEXT, len(payload))) + payload
    return struct.pack("!BBH", TEXT, 126, len(payload)) + payload


async def connection(request):
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    await ws.send_str('0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}')
    members = None
    transport = request.transport
    try:
        async for message in ws:
            text = message.data
            if text.startswith("40"):
                await ws.send_str(f'40{NAMESPACE}{{"sid":"x"}}')
                continue
            if not text.startswith("42"):
                continue
            start = text.index("[")
            ack = text[2 + len(NAMESPACE) : start]
            event, argument = orjson.loads(text[start:])
            if event == "listen":
                members = channels.setdefault(argument, set())
                members.add(transport)
                await ws.send_str(f'43{NAMESPACE}{ack}[{{"event":"backend"}}]')
                continue
            method = argument["method"]
            result = methods[method](argument["model"])
            await ws.send_str(f"43{NAMESPACE}{ack}{orjson.dumps([None, result]).decode()}")
            if method != "read" and len(members) > 1:
                notification = frame(f"42{NAMESPACE}{orjson.dumps(['synced', method, result]).decode()}")
                for other in members:
                    if other is not transport:
                        other.write(notification)
    finally:
        if members is not None:
            members.discard(transport)
    return ws


app = web.Application()
app.router.add_get("/socket.io/", connection)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
