"""A live mirror of a backend's models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Generic, Self, cast

import attrs

from bbio.client import calls
from bbio.client.replica import Key, Replica
from bbio.client.session import BackendSession
from bbio.client.subscription import Subscription
from bbio.client.tracker import Meta
from bbio.errors import BadRequest, SyncError, Timeout, Unavailable
from bbio.generic import M
from bbio.query import Query, QueryLimits

Model = dict[str, Any]

# How many ids are noted for `changed`, and how many notifications wait for the end of a read; past it: a reset.
NOTED = 10_000

# The server has its own limits, and has found the query to be within them.
BOUNDLESS = QueryLimits(models=2**53, limit=2**53, offset=2**53, conditions=2**53, values=2**53, depth=100, sort=2**53)


@attrs.define
class Changes:
    """The changes of a collection, by id.

    Parameters:
        added: the ids of new models.
        changed: the ids of models that have changed.
        removed: the ids of models that are gone.
        reset: whether everything was read again, because too much had been missed.

    Example:
        >>> changes = Changes(added={7})
        >>> changes.added, changes.removed, changes.reset
        ({7}, set(), False)
    """

    added: set[Key] = attrs.field(factory=set)
    changed: set[Key] = attrs.field(factory=set)
    removed: set[Key] = attrs.field(factory=set)
    reset: bool = False

    def note(self, key: Key, before: Any, after: Any) -> None:
        """Note a model before and after; None stands for no model."""
        if before == after:
            return
        if before is None:
            if key in self.removed:
                self.removed.remove(key)
                self.changed.add(key)
            else:
                self.added.add(key)
        elif after is not None:
            if key not in self.added:
                self.changed.add(key)
        else:
            self.changed.discard(key)
            if key in self.added:
                self.added.remove(key)
            else:
                self.removed.add(key)
        if len(self.added) + len(self.changed) + len(self.removed) > NOTED:
            self.added, self.changed, self.removed, self.reset = set(), set(), set(), True


class Collection(Mapping[Key, M], Generic[M]):
    """The models of a backend by id, kept up to date; made by `handle.collection()`.

    It is a mapping to be read: `len`, iteration, `in`, `get`, `values`. Changes are made with the handle, and show here
    as soon as they are answered.

    Example:
        >>> async def titles(todos: Handle) -> list[str]:
        ...     mirror = await todos.collection()
        ...     return [todo["title"] for todo in mirror.values()]
    """

    def __init__(self, session: BackendSession, subscription: Subscription, data: Mapping[str, Any] | None) -> None:
        self._session = session
        self._subscription = subscription
        # As it is sent: what becomes of the caller's own later, or what JSON has no type for, plays no part.
        self._data: Mapping[str, Any] | None = data
        # What others write is matched against it, once the server has taken the data for a query.
        self._query: Query | None = None
        self._replica = Replica()
        self._changes = Changes()
        self._error: SyncError | None = None
        # The reading that counts; what arrives meanwhile waits.
        self._reading: object | None = None
        self._waiting: list[tuple[str, Any, int | None]] = []
        self._overflown = False
        self._read = False  # whether everything was read once
        self._watchers: set[asyncio.Event] = set()

    def __getitem__(self, key: Key) -> M:
        return cast("M", self._replica.models[key])

    def __iter__(self) -> Iterator[Key]:
        return iter(self._replica.models)

    def __len__(self) -> int:
        return len(self._replica.models)

    def __repr__(self) -> str:
        return f"<Collection {self._subscription.name} channel={self._subscription.channel!r} {len(self)} models>"

    def rev(self, key: Key) -> int | None:
        """Return the revision of a model; pass it with a write that must not overwrite another one.

        Parameters:
            key: the id of the model.

        Returns: the revision; None if the model or its revision is not known.

        Example:
            >>> async def finish(todos: Handle, mirror: Collection, key: str) -> None:
            ...     await todos.patch({"id": key, "done": True}, rev=mirror.rev(key))
        """
        return self._replica.rev(key)

    async def changed(self) -> Changes:
        """Wait for a change; return the changes since the call before, or since the collection was opened.

        Raises:
            SyncError: the server does not let this client read or listen any more, or the connection was closed.

        Example:
            >>> async def show(mirror: Collection) -> None:
            ...     changes = await mirror.changed()
            ...     print("new:", [mirror[key] for key in changes.added])
        """
        while self._changes == Changes():
            if self._error is not None:
                raise self._error
            await self._next()
        changes, self._changes = self._changes, Changes()
        return changes

    async def until(self, condition: Callable[[Self], Any], timeout: float | None = None) -> Self:
        """Wait until a condition is true; return this collection.

        Parameters:
            condition: a function that gets this collection and returns whether the condition is true.
            timeout: seconds to wait; the connection's `deadline` by default.

        Raises:
            Timeout: the condition has not become true.
            SyncError: the collection cannot be kept up to date any more.

        Example:
            >>> async def wait_for_ten(mirror: Collection) -> None:
            ...     await mirror.until(lambda mirror: len(mirror) >= 10)
        """
        session = self._session
        late = asyncio.Event()
        timer = session.clock.call_later(session.settings.deadline if timeout is None else timeout, self._expire, late)
        try:
            while not condition(self):
                if self._error is not None:
                    raise self._error
                if late.is_set():
                    raise Timeout(
                        f"the collection of {self._subscription.name!r} has not come to what is waited for: {self}"
                    )
                await self._next()
        finally:
            timer.cancel()
        return self

    def _expire(self, late: asyncio.Event) -> None:
        late.set()
        self._wake()

    async def _next(self) -> None:
        news = asyncio.Event()
        self._watchers.add(news)
        try:
            await news.wait()
        finally:
            self._watchers.discard(news)

    def _wake(self) -> None:
        for news in self._watchers:
            news.set()

    # Opening and closing

    async def open(self) -> Self:
        """Read everything and follow from there.

        Raises:
            SyncError: the server does not let this client listen or read.
            Timeout: it did not answer in time.
        """
        await calls.ready(self._session, self._subscription)
        self._subscription.add_mirror(self)
        try:
            await self.reread(renewed=False)
            while not self._read:  # another reading has taken over
                if self._error is not None:
                    raise self._error
                await self._next()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop following the backend; the models stay as they are."""
        self._reading = None
        self._session.release(self._subscription, self)

    def __await__(self) -> Generator[Any, None, Self]:
        return self.open().__await__()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        self.close()

    # Following

    def apply(self, method: str, model: Any, meta: Meta | None) -> None:
        """Take a notification; while everything is read it waits."""
        rev = None if meta is None else meta.rev
        if self._reading is None:
            self._take(method, model, rev)
            self._wake()
        elif len(self._waiting) < NOTED:
            self._waiting.append((method, model, rev))
        else:
            self._overflown = True

    def _take(self, method: str, model: Any, rev: int | None) -> None:
        key = self._key(model)
        if key is None:
            return
        before = self._replica.models.get(key)
        if self._replica.accept(key, model if method != "delete" and self._fits(key, model) else None, rev):
            self._changes.note(key, before, self._replica.models.get(key))

    def _fits(self, key: Key, model: Model) -> bool:
        query = self._query
        # Nothing enters a page but by a read.
        return query is None or (query.matches(model) and (not query.is_paged or key in self._replica.models))

    def _key(self, model: Any) -> Key | None:
        key = model.get(self._subscription.id_attribute) if isinstance(model, dict) else None
        return key if isinstance(key, (str, int)) else None

    async def reread(self, renewed: bool) -> None:
        """Read everything and replace the models; a later call makes this one void."""
        self._reading = reading = object()
        self._waiting = []
        self._overflown = False
        if renewed:
            self._replica.renew()
        try:
            models, meta = await self._read_all()
        except SyncError:
            if self._reading is reading:
                raise
            return
        if self._reading is not reading:
            return
        if self._overflown:
            raise Unavailable("more was written while everything was read than can wait")
        self._replace(models if isinstance(models, list) else [], meta)

    async def _read_all(self) -> tuple[Any, Any]:
        """Read everything, page by page where that is more than the server sends at once."""
        options = {} if self._data is None else {"data": self._data}
        try:
            return await self._ask(options)
        except BadRequest as err:
            limit = getattr(err, "page_limit", None)
            if not isinstance(limit, int) or {"limit", "$limit"} & set(self._data or {}):
                raise
        models: list[Any] = []
        revs: list[Any] = []
        page: dict[str, Any] = {"$limit": limit}
        while True:
            page_models, meta = await self._ask({"data": {**(self._data or {}), **page}})
            models += page_models
            revs += meta["r"]
            if meta.get("next") is None:
                return models, {"r": revs} if self._data is None else {"r": revs, "next": None}
            page["$cursor"] = meta["next"]

    async def _ask(self, options: Mapping[str, Any]) -> tuple[Any, Any]:
        return await calls.request(self._session, self._subscription, "read", {}, options=options)

    def _replace(self, models: list[Any], meta: Any) -> None:
        self._query = self._query_of(models) if isinstance(meta, Mapping) and "next" in meta else None
        revs = meta.get("r") if isinstance(meta, Mapping) else None
        if not isinstance(revs, list) or len(revs) != len(models):
            revs = [None] * len(models)
        keyed = [(self._key(model), model, rev) for model, rev in zip(models, revs, strict=True)]
        before = dict(self._replica.models)
        self._replica.replace([(key, model, rev) for key, model, rev in keyed if key is not None])
        for key in {**before, **self._replica.models}:
            self._changes.note(key, before.get(key), self._replica.models.get(key))
        self._reading = self._error = None
        waiting, self._waiting = self._waiting, []
        for method, model, rev in waiting:
            self._take(method, model, rev)
        if self._read:
            self._changes.reset = True
        else:
            self._changes = Changes()
        self._read = True
        self._wake()

    def _query_of(self, models: list[Any]) -> Query | None:
        """Return the query that the server has answered; None when it gave a meaning of its own to `data`."""
        try:
            query = Query.read(dict(self._data or {}), id_attribute=self._subscription.id_attribute, limits=BOUNDLESS)
        except BadRequest:
            return None
        return query if all(map(query.matches, models)) else None

    def failed(self, error: SyncError) -> None:
        """Note that it cannot be kept up to date, at least for now."""
        self._error = error
        self._wake()
