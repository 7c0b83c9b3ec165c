"""The servers that are measured: bbio in its variants, and its peers. All offer the same service.

A client joins /messages, listens to a channel, and sends writes and reads. A write is kept in memory,
acknowledged, and told to the other clients of its channel.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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
        install: makes it ready to run.
        alone: whether it is no server, but does its work by itself and prints its figures; the seconds are added.
        helped: whether another process, a database, works for it; what that takes is not a disturbance.
    """

    label: str
    command: Callable[[], list[str]]
    dialect: Settings = field(default_factory=dict)
    install: Callable[[], object] = lambda: None
    alone: bool = False
    helped: bool = False


def node_peer(folder: str, label: str, dialect: Settings | None = None) -> Contestant:
    path = toolchain.PEERS / folder
    return Contestant(
        label, lambda: ["node", str(path / "server.js")], dialect or {}, lambda: toolchain.node_packages(path)
    )


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
        lambda: [sys.executable, str(path), *options, toolchain.postgres(), *([] if alone else ["--"])],
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
    "bbio-no-history": bbio("bbio, no history", "--history", "1"),
    "bbio-sqlite": bbio("bbio, SQLiteStore", "--store", "sqlite", DATABASE, "--"),
    "bbio-postgres": on_postgres("bbio, PostgresStore", "bbio_app.py", "--store", "postgres"),
    "asyncpg-create": on_postgres("no server: asyncpg, 50 connections", "asyncpg_loop.py", alone=True),
    "sqlite-create": sqlite_loop("no server: sqlite3, a commit each", "create"),
    "sqlite-read": sqlite_loop("no server: sqlite3", "read"),
}

CONTESTANTS = PEERS | VARIANTS
