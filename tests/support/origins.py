"""Both origins of requests: what is tested of a client's handle is tested of the server's calls for its user."""

from __future__ import annotations

from functools import partial
from typing import Any

from bbio.testing import Harness

# Calls of a runtime that a handle has as well.
CALLS = ("create", "query", "update", "patch", "delete", "sync")


class OfServer:
    """The calls for a user, in the shape of a client's handle.

    Parameters:
        runtime: the backend.
        user: the user.
        channel: the channel.
    """

    def __init__(self, runtime: Any, user: Any, channel: str | None = None) -> None:
        self._runtime = runtime
        self._who = {"user": user, "channel": channel}
        for name in CALLS:
            setattr(self, name, partial(getattr(runtime, name), **self._who))

    async def read(self, id: Any = None, *, data: Any = None, **how: Any) -> Any:
        """Read one model, or a list."""
        if id is None:
            options = {} if data is None else {"data": data}
            return await self._runtime.sync("read", options=options, **self._who, **how)
        return await self._runtime.read(id, **self._who, **how)


def handle(t: Harness, origin: str, backend: str, user: Any) -> Any:
    """Return what makes requests of a user, over a socket or in the server.

    Parameters:
        t: the application.
        origin: `"socket"` or `"server"`.
        backend: the name of the backend.
        user: the user.
    """
    if origin == "server":
        return OfServer(t.backends[backend], user)
    return t.connect(user=user).backend(backend)
