"""The opening and calling of a store as a backend does it, without an application or a network."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import attrs
import msgspec
import pytest

from bbio import Backend, Request, Store, SyncError, field
from bbio.declared import Publisher
from bbio.events import Watcher
from bbio.protocol import encode
from bbio.requests import Found, Method
from bbio.runtime import Runtime
from bbio.streams import Commit, Event, Op, Position, channel_stream

CASE_SECONDS = 60.0

# JSON that does not depend on the order of fields, which a store need not keep.
canonical = msgspec.json.Encoder(order="sorted").encode

CLAIMS = frozenset(
    {
        "ids",  # gives ids to what is created, strings or whole numbers
        "filters",  # answers a read with `options.data`
        "queries",  # and all that docs/queries.md says of it; needs the option `queries` too
        "counts",  # adds what a patch counts with `$inc`
        "appends",  # adds to texts what a patch appends with `$append`
        "revisions",  # numbers what happens to a model, and refuses writes that are based on an older revision
        "persistent",  # keeps models when it stops, and finds them when it starts
        "atomic",  # keeps model, event and operation together, whatever interrupts a write
        "was",  # keeps, with each event, how its record was, where `keeps_was` is set
        "tops",  # lists its streams, as a log
        "consumers",  # keeps how far consumers are, as a log
        # The options of the stores that come with bbio.
        "id_attribute",
        "upsert",
        "per_channel",
        "models",
        "history",
    }
)


def case(*needs: str) -> Callable[[Callable[[Any], Coroutine[Any, Any, None]]], Callable[[Any], None]]:
    """A test that has an event loop of its own, for stores that claim all of `needs`."""

    def decorate(test: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
        @functools.wraps(test)
        def run(self: Any) -> None:
            asyncio.run(asyncio.wait_for(test(self), CASE_SECONDS))

        run.needs = frozenset(needs)  # type: ignore[attr-defined]
        return run

    return decorate


class Opened:
    """A store as its backend has it, and what it has published.

    Parameters:
        store: the open store; `log` is what keeps its events, which may be the store itself.
        published: every event with the socket of its writer, in the order of publishing.
    """

    def __init__(self, store: Store, published: list[tuple[Event, Any]]) -> None:
        self.store = store
        self.log = store.log
        self.published = published
        self.key = store.id_attribute

    def request(self, method: str, model: Any = None, *, op: str | None = None, **fields: Any) -> Request:
        """A request as the server makes it of what a client sends; `op` is an operation id as `client:counter`."""
        if op is not None:
            fields = {
                "op": Op.read(op),
                "payload": encode(("sync", {"method": method, "model": model})).decode(),
                **fields,
            }
        return Request(cast("Method", method), model, backend=self.log.backend, **fields)

    async def write(self, method: str, model: Any, **fields: Any) -> Commit:
        return await self.store.write(self.request(method, model, **fields))

    async def create(self, model: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """The record that a creation comes to."""
        record: dict[str, Any] = (await self.write("create", model, **fields)).record
        return record

    async def read(self, id: Any, **fields: Any) -> Any:
        """One model."""
        return (await self.found(self.request("read", {self.key: id}, **fields))).models

    async def all(self, **fields: Any) -> list[Any]:
        """All models, in an order that depends on nothing but them."""
        return sorted((await self.found(self.request("read", {}, **fields))).models, key=canonical)

    async def found(self, req: Request) -> Found:
        """Read, and return the result with what is said of it beside the models."""
        return req.found(await self.store.read(req))

    async def revision(self, id: Any) -> int:
        """The revision of one model, as a reader is told it."""
        found = await self.found(self.request("read", {self.key: id}))
        assert found.revs is not None, "a read returns Found, with revs: ids to revisions"
        return found.revs[id]

    async def top(self, channel: str | None = None) -> Position:
        """The position of a channel's stream."""
        stream = channel_stream(channel)
        return (await self.log.positions([stream]))[stream]

    async def history(self, channel: str | None = None) -> list[Event] | None:
        """All events of a channel's stream, None when they are no longer all there."""
        return await self.log.since(channel_stream(channel), (await self.top(channel)).epoch, 0)


class Published(Publisher, list[tuple[Event, Any]]):
    """The publications of a store: every event with its writer's socket."""

    def event(self, event: Event, origin: Any = None) -> None:
        self.append((event, origin))

    def doubt(self, streams: Iterable[str] | None = None) -> None:
        """Nobody follows the streams of a test."""

    def recheck_soon(self, channel: str | None = None) -> None:
        """Nobody listens either."""

    def live_sessions(self) -> set[str]:
        """Return none."""
        return set()

    def end_sessions(self, ids: Collection[str]) -> None:
        """Nobody listens."""

    async def recheck(self, channel: str | None = None) -> None:
        """Nobody listens either."""

    def watch(self, watcher: Watcher) -> None:
        """No code of the server's own does."""

    def unwatch(self, watcher: Watcher) -> None:
        """It does not."""


@asynccontextmanager
async def opened(
    declared: Store, name: str = "models", model: type | None = None, *, keeps_was: bool = False
) -> AsyncIterator[Opened]:
    """The store of a backend, open and started; stopped at the end.

    Parameters:
        declared: the store.
        name: the name of the backend.
        model: the class of its models, None when they may be anything.
        keeps_was: whether its log is to keep how records were.
    """
    cls = type("Models", (Backend,), {"store": declared, "model": model})
    runtime = Runtime(cls(), name, lambda work: None)
    published = Published()
    runtime.open(published)
    if keeps_was:
        runtime.keep_was()
    await runtime.start()
    try:
        assert runtime.store is not None
        yield Opened(runtime.store, published)
    finally:
        await runtime.stop()


class Cases:
    """The base of the suite's parts."""

    claims: ClassVar[frozenset[str]] = CLAIMS
    folder: Path

    _left_out: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        unknown = ", ".join(sorted(cls.claims - CLAIMS))
        if unknown:
            raise TypeError(f"{cls.__name__} claims {unknown}; there are {', '.join(sorted(CLAIMS))}")
        # A subclass may claim more than its base, whose left out tests are its own then.
        for name, test in cls._left_out.items():
            if test.needs <= cls.claims:
                setattr(cls, name, test)
        cls._left_out = dict(cls._left_out)
        for name in dir(cls):
            test = getattr(cls, name)
            # pytest ignores anything but functions.
            if not getattr(test, "needs", cls.claims) <= cls.claims:
                setattr(cls, name, None)
                cls._left_out[name] = test

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make_store(self, **options: Any) -> Store:
        """A store, not yet open. All that are made for one test keep the same models; another test has others.

        Parameters:
            options: those of `id_attribute`, `upsert`, `per_channel`, `models`, `history` and `queries` that the store
                claims.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method make_store(self, **options)")

    def opened(
        self, model: type | None = None, *, keeps_was: bool = False, **options: Any
    ) -> AbstractAsyncContextManager[Opened]:
        """`async with self.opened() as models:` makes and opens the store."""
        return opened(self.make_store(**options), model=model, keeps_was=keeps_was)


@attrs.define
class Secret:
    """A model of which clients are not told everything."""

    title: str = ""
    pin: str = field(private=True, default="")


async def refused(write: Awaitable[Any], *names: str) -> SyncError:
    """The error that a request must meet, of one of these names."""
    with pytest.raises(SyncError) as caught:
        await write
    assert type(caught.value).__name__ in names
    return caught.value
