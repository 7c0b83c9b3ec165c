"""A backend without a server: requests go in at the registry, published events come out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec

from bbio.backend import Backend
from bbio.registry import Registry
from bbio.requests import Request, Response
from bbio.runtime import Work
from bbio.server.calls import ServerCalls
from bbio.server.limits import Limits
from bbio.streams import Event


class Recorder:
    """The publisher a test gives to a store.

    Parameters:
        events: gets what is published.
    """

    def __init__(self, events: list[Event] | None = None) -> None:
        self.events: list[Event] = [] if events is None else events
        self.origins: list[Any] = []
        self.checks: list[list[str] | None] = []

    def event(self, event: Event, origin: Any = None) -> None:
        self.events.append(event)
        self.origins.append(origin)

    def doubt(self, streams: Iterable[str] | None = None) -> None:
        self.checks.append(None if streams is None else list(streams))

    def recheck_soon(self, channel: str | None = None) -> None:
        """Nobody listens."""

    async def recheck(self, channel: str | None = None) -> None:
        """Nobody listens."""

    def watch(self, watcher: Any) -> None:
        """Nobody follows."""

    def unwatch(self, watcher: Any) -> None:
        """Nobody follows."""


class Served:
    """One backend, opened.

    Parameters:
        backend: a subclass of Backend or an instance of one.
        debug: as for `App`.
    """

    def __init__(self, backend: type[Backend] | Backend, debug: bool = False) -> None:
        self.registry = Registry(self._spawn, debug=debug)
        self.runtime = self.registry.add(backend)
        self.backend = self.runtime.backend
        self.events: list[Event] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.calls = ServerCalls(self.registry, Limits())
        self.runtime.open(Recorder(self.events), caller=self.calls)

    def _spawn(self, work: Work) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work()))

    def request(self, method: str, model: Any = None, options: dict[str, Any] | None = None, **fields: Any) -> Request:
        """A request to this backend."""
        return Request(method, model, options, backend=self.backend, **fields)

    async def sync(self, method: str, model: Any = None, **fields: Any) -> Response:
        """Send a request through the stack; the response holds its result or its failure."""
        return await self.registry.dispatch(self.runtime, self.request(method, model, **fields))

    async def ask(self, method: str, model: Any = None, **fields: Any) -> Any:
        """The result of a request; raises its failure."""
        res = await self.sync(method, model, **fields)
        if res.failure is not None:
            raise res.failure
        return res.result

    @property
    def published(self) -> list[tuple[str, Any]]:
        """What other clients are told, in order."""
        return [(event.method, msgspec.json.decode(event.body)) for event in self.events]
