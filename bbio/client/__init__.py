"""An asyncio client: backends from Python, with the same promises as in a page.

Example:
    >>> import asyncio
    >>> from bbio import App, Backend
    >>> from bbio.builtin import MemoryStore
    >>> from bbio.client import connect
    >>> class Todos(Backend):
    ...     store = MemoryStore()
    >>> async def main():
    ...     async with App().serve(Todos).running() as url, connect(url) as io:
    ...         todos = io.backend("todos")
    ...         milk = await todos.create({"title": "milk"})
    ...         await todos.patch({"id": milk["id"], "done": True})
    ...         return [todo["title"] for todo in await todos.read()]
    >>> asyncio.run(main())
    ['milk']
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bbio.client.changes import Changes
from bbio.client.collection import Collection
from bbio.client.connection import Connection, OnDropped, OnJoined, Queue
from bbio.client.errors import Dropped, TooLarge
from bbio.client.events import Event, Events
from bbio.client.handle import Handle
from bbio.client.identity import Auth, GetToken
from bbio.client.messages import Message, Messages
from bbio.client.presence import Presence, PresenceChanges
from bbio.client.roster import Member
from bbio.client.settings import SessionSettings

__all__ = [
    "Changes",
    "Collection",
    "Connection",
    "Dropped",
    "Event",
    "Events",
    "Handle",
    "Member",
    "Message",
    "Messages",
    "Presence",
    "PresenceChanges",
    "TooLarge",
    "connect",
]


def connect(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    auth: Auth = None,
    get_token: GetToken | None = None,
    user: str | None = None,
    transports: Iterable[str] = ("websocket",),
    path: str = "socket.io",
    deadline: float = 30.0,
    queue_limit: int = 1_000,
    event_limit: int = 1_000,
    jitter: float = 1.0,
    reconnect: tuple[float, float] = (1.0, 5.0),
    queue: Queue = "drop",
    dropped: OnDropped | None = None,
    joined: OnJoined | None = None,
    **options: Any,
) -> Connection:
    """Connect to a server: `async with connect(url) as io`. The first backend opens the connection.

    Parameters:
        url: the server's address.
        headers: HTTP headers of the handshake, such as cookies.
        auth: the object that layers see as `req.socket.auth`, such as `{"token": ...}`, of 8 KB at most; or a function,
            async or not, that returns one. The function is called whenever backends are joined, so after each lost
            connection, and should always stand for the same user; use `connection.connect` for another user.
        get_token: a function, async or not, that returns a new token, a string. It is called when there is none, some
            time before the token ends, and when it has ended; the token is sent as `token` of `auth`. It has 10 seconds
            each time, and is called again after a failure.
        user: the name of the user who makes the requests; without it, other `auth` or `headers` mean another user.
        transports: `("polling", "websocket")` begins with polling, for networks that block WebSockets.
        path: the path of Socket.IO on the server.
        deadline: seconds until a sync without an answer fails with `Timeout`. Once connected, the clock stands still
            for writes while there is no connection: they wait for it.
        queue_limit: the requests to one backend that may wait for an answer; more fail with `Busy`.
        event_limit: the events that may wait in `events()`; more become one `reset`.
        jitter: seconds over which clients spread if they have to listen again at the same time.
        reconnect: seconds, first and at most, after which a lost connection is tried again; each is multiplied by a
            random number from 0.5 to 1.5.
        queue: `"drop"`: writes that wait to be sent when another user connects fail with `Dropped`. `"keep"`: they wait
            until their own user connects again. The server reports who the user is, so `user` is not needed for it.
        dropped: a function that is called with the handle and a list of `Dropped` when writes were dropped.
        joined: a function that is called with the name of a backend and a channel when the server has let this client
            into that channel, and nothing follows it yet.
        options: options of `socketio.AsyncClient`: `http_session`, `request_timeout`, `ssl_verify`,
            `timestamp_requests` and `websocket_extra_options`.

    Raises:
        ConfigurationError: the address is not valid, a limit is negative, or there is no such argument.

    Example:
        >>> async def add(url: str, title: str) -> None:
        ...     async with connect(url, auth={"token": "s3cret"}) as io:
        ...         await io.backend("todos").create({"title": title})
    """
    settings = SessionSettings(deadline=deadline, queue_limit=queue_limit, event_limit=event_limit, jitter=jitter)
    return Connection(
        url,
        headers=headers or {},
        auth=auth,
        get_token=get_token,
        user=user,
        transports=transports,
        path=path,
        reconnect=reconnect,
        queue=queue,
        dropped=dropped,
        joined=joined,
        settings=settings,
        options=options,
    )
