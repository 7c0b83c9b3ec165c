"""The private names of the libraries below that the fast engine relies on; nothing else in bbio touches any."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import engineio
import socketio
from aiohttp import web
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.base_protocol import BaseProtocol
from engineio import async_socket

from bbio.errors import ConfigurationError

INTERNALS: tuple[tuple[Any, str], ...] = (
    (socketio.AsyncServer, "_engineio_server_class"),
    (socketio.AsyncServer, "_handle_eio_message"),
    (socketio.AsyncServer, "_handle_connect"),
    (socketio.AsyncServer, "_handle_event"),
    (socketio.AsyncServer, "_handle_ack"),
    (socketio.AsyncServer, "_handle_disconnect"),
    (socketio.AsyncServer, "_send_packet"),
    (engineio.AsyncServer, "_handle_connect"),
    (engineio.AsyncServer, "_trigger_event"),
    (engineio.AsyncServer, "_make_response"),
    (engineio.AsyncServer, "_upgrades"),
    (engineio.AsyncServer, "_ok"),
    (engineio.AsyncServer, "_unauthorized"),
    (engineio.AsyncServer, "_bad_request"),
    (async_socket.AsyncSocket, "_websocket_handler"),
    (async_socket.AsyncSocket, "_upgrade_websocket"),
    (async_socket.AsyncSocket, "schedule_ping"),
    (WebSocketDataQueue, "feed_data"),
    (web.WebSocketResponse, "_post_start"),
    (web.WebSocketResponse, "_ws_protocol"),
    (web.WebSocketResponse, "_writer"),
    (web.WebSocketResponse, "_reader"),
    (web.WebSocketResponse, "_parser"),
    (BaseProtocol, "_paused"),
    (BaseProtocol, "_reading_paused"),
)


def check_internals() -> None:
    """Raise `ConfigurationError` when a library no longer has what the fast engine relies on."""
    missing = [
        f"{owner.__module__}.{owner.__qualname__}.{name}" for owner, name in INTERNALS if not hasattr(owner, name)
    ]
    if missing:
        installed = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "python-engineio", "python-socketio"))
        raise ConfigurationError(
            f"the fast engine relies on {', '.join(missing)}, which the installed versions do not have ({installed}); "
            f'install the versions that bbio names, or use App(engine="plain")'
        )
