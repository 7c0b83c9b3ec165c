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

from bbio.client.collection import Changes, Collection
from bbio.client.errors import Dropped, TooLarge
from bbio.client.events import Event, Events
from bbio.client.handle import Handle
from bbio.client.session import Settings, Told
from bbio.client.sockets import Auth, Connection, Queue

__all__ = ["Changes", "Collection", "Connection", "Dropped", "Event", "Events", "Handle", "TooLarge", "connect"]


def connect(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    auth: Auth = None,
    user: str | None = None,
    transports: Iterable[str] = ("websocket",),
    path: str = "socket.io",
    deadline: float = 30.0,
    queue_limit: int = 1_000,
    event_limit: int = 1_000,
    jitter: float = 1.0,
    reconnect: tuple[float, float] = (1.0, 5.0),
    queue: Queue = "drop",
    dropped: Told | None = None,
    **options: Any,
) -> Connection:
    """Connect to a server: `async with connect(url) as io`. The connection is opened with the first backend.

    Parameters:
        url: the server's address.
        headers: of the handshake, such as cookies.
        auth: what layers see as `req.socket.auth`, an object such as `{"token": ...}` of 8 KB at most; or a function,
            async or not, that returns one: it is called whenever backends are joined, so after each lost connection.
            It should speak for one user; `connection.connect` is for another.
        user: who makes the requests; other `auth` or `headers` are another user where no name is given.
        transports: `("polling", "websocket")` begins with polling, for networks that let no websocket through.
        path: where the server has Socket.IO.
        deadline: seconds until a sync without an answer fails with `Timeout`. Once connected, the clock stands still
            for writes while there is no connection: they wait for it.
        queue_limit: requests to one backend that may wait for an answer; more are `Busy`.
        event_limit: events that may wait in `events()`; more become one `reset`.
        jitter: seconds over which clients spread that have to listen again at the same time.
        reconnect: seconds, first and at most, after which a lost connection is tried again; each is taken half to one
            and a half times.
        queue: what becomes of writes that wait to be sent when another user is connected: they fail with `Dropped`, or
            with "keep" wait until their own is. The server tells who that is, so it need not have been said here.
        dropped: called with the handle and a list of `Dropped`, which have the `method` and `model` of each, when
            writes were dropped so.
        options: of `socketio.AsyncClient`: `http_session`, `request_timeout`, `ssl_verify`, `timestamp_requests` and
            `websocket_extra_options`.

    Raises:
        ConfigurationError: the address is none, a limit is negative, or another argument is none of these.
    """
    settings = Settings(
        deadline=deadline, queue_limit=queue_limit, event_limit=event_limit, jitter=jitter, dropped=dropped
    )
    return Connection(
        url,
        headers=headers or {},
        auth=auth,
        user=user,
        transports=transports,
        path=path,
        reconnect=reconnect,
        queue=queue,
        settings=settings,
        options=options,
    )
