"""The servers that are measured: bbio in its variants, and its peers. All offer the same service.

A client joins /messages, listens to a channel, and sends writes and reads. A write is kept in memory,
acknowledged, and told to the other clients of its channel.
"""

import base64
import hmac
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from bbio.builtin import Session
from benchmarks import toolchain

Settings = dict[str, str | int | float]

RECORD = '"text":"hello world","done":false,"n":$i'

FEATHERS: Settings = {
    "connect": "40",
    "joined": "40{",
    "listen": '420["create","channels",{"name":"c$c"},{}]',
    "create": f'42$n["create","messages",{{{RECORD}}},{{}}]',
    "update": f'42$n["update","messages",$m,{{{RECORD}}},{{}}]',
    "read": '42$n["get","messages",$m,{}]',
    "ack": "43",
    "event": "42[",
}


# Of the users of the scenario in which a service is for those who have signed in.
SECRET = "for the benchmark alone, and no secret"


def feathers_token() -> str:
    """A token as Feathers gives it out: a JSON Web Token (RFC 7519), valid for a day."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    now = int(time.time())
    claims = {"sub": "1", "iat": now, "exp": now + 86_400, "aud": "https://yourdomain.com", "iss": "feathers"}
    signed = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "access"}, claims))
    return f"{signed}.{encoded(hmac.digest(SECRET.encode(), signed.encode(), 'sha256'))}"


def session_cookie() -> str:
    """A cookie as bbio's `Session` gives it out."""
    response = web.Response()
    Session(SECRET).save(response, {"user": {"id": 1, "name": "ann"}})
    (cookie,) = response.cookies.values()
    return f"{cookie.key}={cookie.value}"


def socketio_09(method: str, model: str) -> str:
    request = f'{{"method":"{method}","model":{{{model}}},"options":{{}}}}'
    return f'5:$n+:/messages:{{"name":"sync","args":[{request}]}}'


BACKBONEIO: Settings = {
    "legacy": 1,
    "connect": "1::/messages",
    "joined": "1::/messages",
    "listen": '5:0+:/messages:{"name":"listen","args":["c$c"]}',
    "create": socketio_09("create", RECORD),
    "update": socketio_09("update", f'"id":$m,{RECORD}'),
    "read": socketio_09("read", '"id":$m'),
    "ack": "6::/messages:",
    "event": "5::/messages:",
}

FEATHERS_SIGNED_IN: Settings = {
    **FEATHERS,
    "listen": f'420["create","authentication",{{"strategy":"jwt","accessToken":"{feathers_token()}","channel":"c$c"}},'
    "{}]",
}

VERSION_1: Settings = {
    "listen": '42/messages,0["listen","c$c",{"v":1}]',
    "create": f'42/messages,$n["sync",{{"method":"create","model":{{{RECORD}}},"options":{{}},'
    '"op":{"c":"client-$i","n":$n}}]',
    "update": f'42/messages,$n["sync",{{"method":"update","model":{{"id":$m,{RECORD}}},"options":{{}},'
    '"op":{"c":"client-$i","n":$n}}]',
}


@dataclass(frozen=True)
class Contestant:
    """A server to measure.

    Attributes:
        label: its name in tables and pictures.
        command: what starts it; the port is added.
        dialect: settings of the load generator that speak its protocol.
        install: makes it ready to run, where something must be installed.
        alone: whether it is no server, but does its work by itself and prints its figures; the seconds are added.
        helped: whether another process, a database, works for it; what that takes is not a disturbance.
    """

    label: str
    command: Callable[[], list[str]]
    dialect: Settings = field(default_factory=dict)
    install: Callable[[], object] | None = None
    alone: bool = False
    helped: bool = False


def node_peer(folder: str, label: str, dialect: Settings | None = None, *options: str) -> Contestant:
    path = toolchain.PEERS / folder

    def command() -> list[str]:
        return ["node", str(path / "server.js"), *options]

    return Contestant(label, command, dialect or {}, lambda: toolchain.node_packages(path))


def python_peer(folder: str, label: str, *options: str) -> Contestant:
    path = toolchain.PEERS / folder

    def interpreter() -> Path:
        return toolchain.python_environment(folder, path / "requirements.txt")

    return Contestant(label, lambda: [str(interpreter()), str(path / "server.py"), *options], install=interpreter)


def bbio(label: str, *options: str, dialect: Settings | None = None) -> Contestant:
    server = toolchain.HERE / "servers" / "bbio_app.py"
    return Contestant(label, lambda: [sys.executable, str(server), *options], dialect or {})


DATABASE = str(toolchain.BUILD / "messages.db")


def sqlite_loop(label: str, work: str) -> Contestant:
    loop = toolchain.HERE / "servers" / "sqlite_loop.py"
    return Contestant(label, lambda: [sys.executable, str(loop), work, DATABASE], alone=True)


def on_postgres(label: str, program: str, *options: str, alone: bool = False) -> Contestant:
    path = toolchain.HERE / "servers" / program
    # The server is started by the first that asks for it.
    return Contestant(
        label,
        lambda: [sys.executable, str(path), *options, toolchain.empty_database(), *([] if alone else ["--"])],
        alone=alone,
        helped=True,
    )


PEERS = {
    "socketio-node": node_peer("socketio_node", "Socket.IO 4.8 on Node"),
    "backboneio": node_peer("backboneio", "backbone.io 0.4.2", BACKBONEIO),
    "feathers": node_peer("feathers", "Feathers 5 on Socket.IO", FEATHERS),
    "python-socketio": python_peer("python_socketio", "python-socketio on aiohttp"),
    "python-socketio-tuned": python_peer("python_socketio", "the same, uvloop and orjson", "--tuned"),
    "aiohttp": python_peer("aiohttp_raw", "no library: aiohttp and orjson"),
}

VARIANTS = {
    "bbio": bbio("bbio"),
    "bbio-v1": bbio("bbio, version 1", dialect=VERSION_1),
    "bbio-plain": bbio('bbio, engine="plain"', "--engine", "plain"),
    "bbio-5-layers": bbio("bbio, 5 layers", "--layers", "5"),
    "bbio-20-layers": bbio("bbio, 20 layers", "--layers", "20"),
    "bbio-100-backends": bbio("bbio, 100 backends", "--backends", "100"),
    "bbio-signed-in": bbio("bbio, users signed in", "--signed-in", SECRET, dialect={"cookie": session_cookie()}),
    "feathers-signed-in": node_peer(
        "feathers", "Feathers 5, users signed in", FEATHERS_SIGNED_IN, "--signed-in", SECRET
    ),
    "bbio-no-budget": bbio("bbio, no budget of time", "--no-budget"),
    "bbio-no-history": bbio("bbio, no history", "--history", "1"),
    "bbio-sqlite": bbio("bbio, SQLiteStore", "--store", "sqlite", DATABASE, "--"),
    "bbio-postgres": on_postgres("bbio, PostgresStore", "bbio_app.py", "--store", "postgres"),
    "asyncpg-create": on_postgres("no server: asyncpg, 50 connections", "asyncpg_loop.py", alone=True),
    "sqlite-create": sqlite_loop("no server: sqlite3, a commit each", "create"),
    "sqlite-read": sqlite_loop("no server: sqlite3", "read"),
}

CONTESTANTS = PEERS | VARIANTS
