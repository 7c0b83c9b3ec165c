"""Both origins of requests: a socket of either engine, and the server's own code, for itself and for a user.

    app = await origin.serve(Todos)
    ann = await origin.asker(app, "todos", user="ann")
    assert await ann.sync("create", {"title": "milk"}, op="first") == ...

The suite of tests/conformance/origins asks the same of all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from bbio import App, Limits, Middleware, SyncError, before
from bbio.protocol import decode, encode
from bbio.streams import channel_stream
from tests.support.servers import DEADLINE, ServerProcess
from tests.support.services import free_port
from tests.support.wire import LegacyClient, SyncFailed

# The engines' sockets, the server for itself, and the server for a user.
ORIGINS = ("fast", "plain", "server", "user")
USER_HEADER = "x-user"
_markers = itertools.count()


class WhoAsks(Middleware):
    """Takes the user of a socket from a header of its handshake, as an application may behind a proxy."""

    @before
    def identify(self, req: Any) -> None:
        if req.socket is not None and (name := req.socket.headers.get(USER_HEADER)):
            req.identify({"id": name})


class Asker(Protocol):
    """Who makes requests."""

    async def sync(
        self,
        method: str,
        model: Any = None,
        options: Any = None,
        *,
        op: str | None = None,
        rev: int | None = None,
        channel: str | None = None,
    ) -> Any:
        """Make a sync; return its result as JSON.

        Parameters:
            op: a name for the operation, which a retry repeats.

        Raises:
            SyncFailed: it failed; `error` is what a client gets of it.
        """

    async def page(self, data: Any) -> tuple[list[Any], str | None, int | None]:
        """Make a query; return its models, the cursor of the next page, and the total where it was asked for."""


class OfSocket:
    """A client of the protocol alone. It listens to the channels that it asks in, as one of version 1.

    Parameters:
        client: the client.
    """

    def __init__(self, client: LegacyClient) -> None:
        self.client = client
        self._channels: set[str] = set()
        # What the answers say of where writes are in the history.
        self.places: list[Any] = []

    async def sync(self, method: str, model: Any = None, options: Any = None, **how: Any) -> Any:
        ack = await self._ack(method, model, options, **how)
        self.places += ack[2:]
        return self.client.result(ack[:2])

    async def page(self, data: Any) -> tuple[list[Any], str | None, int | None]:
        await self._listen("")
        error, models, *place = await self._ack("read", None, {"data": data})
        assert error is None
        return models, place[0]["next"], place[0].get("total")

    async def _ack(self, method: str, model: Any, options: Any, **how: Any) -> list[Any]:
        fields = {name: value for name, value in how.items() if value is not None}
        if "op" in fields:
            fields["op"] = {"c": fields["op"], "n": 1}
        if "channel" in fields:
            await self._listen(fields["channel"])
        return await self.client.namespace.reply(await self.client.start(method, model, options, **fields), DEADLINE)

    async def _listen(self, channel: str) -> None:
        if channel not in self._channels:
            (answer,) = await self.client.namespace.call("listen", channel, {"v": 1, "since": {}}, deadline=DEADLINE)
            assert "error" not in answer, answer
            self._channels.add(channel)


class OfServer:
    """Code of the server's own.

    Parameters:
        runtime: the backend.
        who: `user=...` where it asks for a user.
    """

    def __init__(self, runtime: Any, **who: Any) -> None:
        self.runtime = runtime
        self.who = who

    async def sync(self, method: str, model: Any = None, options: Any = None, **how: Any) -> Any:
        try:
            return await self.runtime.sync(method, model, options=options, **self.who, **how)
        except SyncError as err:
            raise SyncFailed(decode(encode(err.to_json()))) from err

    async def page(self, data: Any) -> tuple[list[Any], str | None, int | None]:
        page = await self.runtime.query(data, **self.who)
        return page.models, page.next, page.total


class Origin:
    """One of the ways in which requests come.

    Parameters:
        name: one of `ORIGINS`.
        stack: ends what is begun.
    """

    def __init__(self, name: str, stack: AsyncExitStack) -> None:
        self.name = name
        self._stack = stack

    @property
    def is_socket(self) -> bool:
        """Return whether they come over a socket."""
        return self.name in ("fast", "plain")

    @property
    def is_trusted(self) -> bool:
        """Return whether the server asks on its own behalf: whoever the user of an asker would be."""
        return self.name == "server"

    async def serve(self, *backends: Any, limits: Limits | None = None, **named: Any) -> App:
        """Start an application on a free port; it stops after the test at the latest."""
        app = App(engine="plain" if self.name == "plain" else "fast", limits=limits or Limits())
        app.serve(*backends, **named)
        await app.start(host="127.0.0.1", port=0)
        self._stack.push_async_callback(app.stop)
        return app

    async def spawn(self, folder: Path, source: str) -> ServerProcess:
        """Run `app` of a module in a process of its own, which is killed after the test.

        Parameters:
            folder: where it runs, and keeps what it keeps.
            source: the module.
        """
        (folder / "served.py").write_text(source)
        port = free_port()
        server = ServerProcess("run", "served:app", "--port", str(port), cwd=folder, port=port, forked=True)
        self._stack.push_async_callback(server.stop)
        return await server.start()

    async def asker(self, app: App, backend: str, user: str | None = None) -> Asker:
        """Return who asks; where the server asks on its own behalf, `user` makes no difference.

        Parameters:
            app: the application, which runs.
            backend: the backend's name.
            user: the id of the user.
        """
        if self.is_socket:
            return OfSocket(await self.listener(app, backend, ..., user))
        runtime = app.backends[backend]
        return OfServer(runtime) if self.is_trusted else OfServer(runtime, user=user and {"id": user})

    async def listener(
        self, app: App | ServerProcess, backend: str, channel: Any = None, user: str | None = None, version: int = 0
    ) -> LegacyClient:
        """Return a client that listens to a channel; `...` for none.

        Parameters:
            app, backend, user: see `asker`.
            channel: the channel.
            version: of the protocol; 1 is told positions.
        """
        headers = {USER_HEADER: user} if user else None
        client = await LegacyClient.open(app.url, backend, headers=headers)
        self._stack.push_async_callback(client.close)
        if channel is not ...:
            await client.namespace.call("listen", channel, *([{"v": version, "since": {}}] if version else []))
        return client


async def logged(runtime: Any, channel: str | None = None) -> list[tuple[str, Any]]:
    """Return the events in the log of a channel, in order: methods and models. There is no gap in their offsets."""
    stream = channel_stream(channel)
    epoch = (await runtime.log.positions([stream]))[stream].epoch
    events = await runtime.since(stream, epoch, 0)
    assert [event.offset for event in events] == list(range(1, len(events) + 1))
    return [(event.method, decode(event.body)) for event in events]


async def told(runtime: Any, *clients: LegacyClient) -> list[list[list[Any]]]:
    """Return what each client was told so far, in order: method, model, and the place if it is of version 1.

    A marker goes the way of all notifications to every client: what was sent before it has arrived when it arrives.
    """
    marker = {"id": f"marker {next(_markers)}"}
    runtime.emit("created", marker)
    heard: list[list[list[Any]]] = []
    for client in clients:
        events: list[list[Any]] = []
        while (event := await client.namespace.event(DEADLINE))[2] != marker:
            assert event[0] == "synced", event
            events.append(event[1:])
        heard.append([event for event in events if not str(event[1].get("id")).startswith("marker ")])
    return heard


async def failure(asked: Any, *names: str) -> dict[str, Any]:
    """Return the error of a request that must fail, of one of these names."""
    with pytest.raises(SyncFailed) as caught:
        await asked
    assert caught.value.name in names, caught.value
    return caught.value.error


def ids(models: Iterable[Any]) -> list[Any]:
    """Return the ids of models."""
    return [model["id"] for model in models]
