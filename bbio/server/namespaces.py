"""Joining and leaving a backend's namespace, on either engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from socketio.exceptions import ConnectionRefusedError as Refused

from bbio.errors import BadRequest, SyncError, Unavailable
from bbio.protocol import EPHEMERAL, EVENTS
from bbio.runtime import Runtime
from bbio.server.connection import ClientSocket, Connection
from bbio.server.gateway import Gateway
from bbio.server.http.admission import REMOTE, Admission
from bbio.server.shared import Handler
from bbio.server.stock.server import PlainServer

if TYPE_CHECKING:
    from bbio.server.fast.server import FastServer

CONNECTION = "bbio.connection"


def attach(sio: FastServer | PlainServer, gateway: Gateway, runtime: Runtime, admission: Admission) -> None:
    """Register a backend's namespace with the Socket.IO server."""
    namespace = runtime.namespace
    sockets: dict[str, ClientSocket] = {}

    async def welcome(sid: str, socket: ClientSocket) -> None:
        # It is not among the others yet: nothing that it sends is looked at.
        failure: SyncError | None = Unavailable("the server gave up on this connection")
        try:
            failure = await gateway.welcome(socket)
        finally:
            if failure is None and sio.get_environ(sid, namespace) is None:
                failure = Unavailable("the client is gone")  # and nobody tells of it again
            if failure is not None:
                gateway.left(socket)
        if failure is not None:
            raise Refused(failure.message, failure.to_json())

    async def connect(sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        connection, peer = environ.get(CONNECTION), sio.peer_of(sid, namespace)
        if connection is None:
            request = environ["aiohttp.request"]
            clock = asyncio.get_running_loop().time
            address, limits = gateway.addresses.of(request[REMOTE]), gateway.limits
            connection = Connection(admission.headers(request), request[REMOTE], limits, clock, address, peer.budget)
            environ[CONNECTION] = connection
        try:
            if isinstance(auth, BadRequest):  # what the plain engine could not read
                raise auth
            socket = gateway.joined(sid, runtime, connection, peer, auth)
        except BadRequest as err:
            raise Refused(err.message, err.to_json()) from None
        if runtime.connecting is not None:
            await welcome(sid, socket)
        sockets[sid] = socket
        socket.peer.joined(socket)

    async def disconnect(sid: str, reason: str) -> None:
        socket = sockets.pop(sid, None)
        if socket is not None:
            gateway.left(socket, reason)
            socket.peer.left(socket)

    handlers: dict[str, Handler] = {"connect": connect, "disconnect": disconnect}
    if isinstance(sio, PlainServer):

        def taking(event: str) -> Handler:
            async def take(sid: str, *arguments: Any) -> Any:
                socket = sockets.get(sid)  # none when the client left before the library came to this event
                return sio.not_handled if socket is None else await sio.receive(socket, event, list(arguments))

            return take

        handlers |= {event: taking(event) for event in (*EVENTS, *EPHEMERAL)}
    sio.keep(namespace, runtime.client_events, **handlers)
