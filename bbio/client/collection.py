"""A live mirror of a backend's models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Generic, NamedTuple, Self, cast

from bbio.client import calls
from bbio.client.changes import Changes
from bbio.client.deltas import Known, News, may_enter
from bbio.client.errors import passing
from bbio.client.reading import conditions_of, query_of, read_all
from bbio.client.replica import Key, Replica
from bbio.client.session import BackendSession
from bbio.client.subscription import FIRST_PAUSE, LONGEST_PAUSE, Subscription
from bbio.client.tracker import Meta
from bbio.client.values import plain
from bbio.client.window import Window
from bbio.errors import SyncError, Timeout, Unavailable
from bbio.generic import M
from bbio.query import Query
from bbio.query.query import split
from bbio.streams import BACKEND_WIDE

Model = dict[str, Any]

# How many notifications wait for the end of a read; past it everything is read again.
WAITING_NOTICES = 10_000

# Seconds between two reads of a page of which nobody here knows what comes in and what leaves.
PAGE_SECONDS = 0.25


class Notice(NamedTuple):
    """A notification; `is_judged`: the server has picked it out by the conditions of this collection."""

    method: str
    model: Any
    rev: int | None
    is_judged: bool


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
        self._ask_for(data)
        # The query that the server has answered, and whether its conditions hold here as they did there.
        self._query: Query | None = None
        self._compares = True
        # A page that is kept, and whether it can only be read again when anything is written.
        self._window: Window | None = None
        self._is_opaque = False
        self._replica = Replica()
        # What is shown of the replica: all of it, or a page.
        self._models: dict[Key, Model] = self._replica.models
        self._changes = Changes()
        self._error: SyncError | None = None
        # The reading that counts; what arrives meanwhile waits.
        self._reading: object | None = None
        self._waiting: list[Notice] = []
        self._overflown = False
        self._read = False  # whether everything was read once
        # How many calls are about to read everything; and after which answer to a listen one of them began to.
        self._asking = self._read_after = 0
        # What reads the rest of a page, or all of it again, and whether it is to.
        self._filling: asyncio.Task[None] | None = None
        self._is_outdated = False
        self._watchers: set[asyncio.Event] = set()

    def __getitem__(self, key: Key) -> M:
        return cast("M", self._models[key])

    def __iter__(self) -> Iterator[Key]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

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
        self._subscription.add_mirror(self)
        try:
            await self._listen_and_read()
        except BaseException:
            self.close()
            raise
        return self

    async def set_query(self, data: Mapping[str, Any] | None) -> None:
        """Ask for other models from now on; return when they have been read.

        The changes are told as after a lost history: what has come and what has gone, with `reset`.

        Parameters:
            data: the query, as of `handle.collection`; None for all models.

        Raises:
            SyncError: see `open`. The collection goes on to ask, and shows meanwhile what it has shown.

        Example:
            >>> async def show_done(mirror: Collection) -> None:
            ...     await mirror.set_query({"done": True})
        """
        self._ask_for(None if data is None else plain(dict(data)))
        try:
            await self._listen_and_read()
        except SyncError:
            self._go_on()
            self._read_again()
            raise

    def _ask_for(self, data: Mapping[str, Any] | None) -> None:
        # As it is sent: what becomes of the caller's own later, or what JSON has no type for, plays no part.
        self._data = data
        self._conditions = conditions_of(data)

    async def _listen_and_read(self) -> None:
        """Have the server tell what is asked for, as far as others agree, and read it."""
        self._reading, self._error = object(), None
        self._asking += 1
        try:
            self._session.cover(self._subscription, self, self._conditions)
            await calls.ready(self._session, self._subscription)
        finally:
            self._asking -= 1
        self._read_after = self._subscription.answered
        await self._read_anew()
        # Another reading may have taken over.
        await self.until(lambda _: self._reading is None)

    def close(self) -> None:
        """Stop following the backend; the models stay as they are."""
        self._reading = None
        if self._filling is not None:
            self._filling.cancel()
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
        is_judged = (
            meta is not None
            and meta.stream != BACKEND_WIDE
            and self._conditions is not None
            and self._subscription.live == self._conditions
        )
        notice = Notice(method, model, None if meta is None else meta.rev, is_judged)
        if self._reading is None:
            self._take(notice)
            self._wake()
        elif len(self._waiting) < WAITING_NOTICES:
            self._waiting.append(notice)
        else:
            self._overflown = True

    def _take(self, notice: Notice) -> None:
        method, model, rev, is_judged = notice
        key = self._key(model)
        if key is None:
            return
        if self._is_opaque or not (is_judged or self._compares or method == "delete"):
            self._read_again()
            return
        if method == "delete" or not (is_judged or self._query is None or self._query.matches(model)):
            model = None
        if self._window is not None:
            self._take_in_window(self._window, key, model, rev)
            return
        before = self._models.get(key)
        if before is None and self._query is not None and self._query.is_paged:
            model = None  # nothing enters such a page but by a read
        if self._replica.accept(key, model, rev):
            self._changes.note(key, before, self._models.get(key))

    def _take_in_window(self, window: Window, key: Key, model: Model | None, rev: int | None) -> None:
        if not self._replica.accept(key, model, rev):
            return
        if not window.put(key, model):
            self._replica.forget(key)
        for cut in window.cut():
            self._replica.forget(cut)
        self._show()
        if window.is_short:
            self._fill_soon()

    def _show(self) -> None:
        """Have what is shown follow what is known, and note what has changed."""
        before, known = self._models, self._replica.models
        self._models = known if self._window is None else {key: known[key] for key in self._window.shown}
        for key in {**before, **self._models}:
            self._changes.note(key, before.get(key), self._models.get(key))

    # Pages that are kept

    def _fill_soon(self) -> None:
        """Read what is lacking of a page, once for all that has changed meanwhile."""
        if self._filling is None:
            self._filling = asyncio.get_running_loop().create_task(self._fill())

    def _read_again(self) -> None:
        """Read everything again, once for all that has changed meanwhile."""
        self._is_outdated = True
        self._fill_soon()

    @property
    def _is_lacking(self) -> bool:
        """Return whether something is to be read that nobody reads at the moment."""
        is_short = self._window is not None and self._window.is_short
        return self._reading is None and (self._is_outdated or is_short)

    async def _fill(self) -> None:
        pause = FIRST_PAUSE
        try:
            while self._is_lacking:
                if jitter := self._session.settings.jitter:
                    # Other clients lack the same at this moment.
                    await self._subscription.sleep(self._session.chance() * jitter)
                    if not self._is_lacking:
                        break
                reading = self._begin_reading()
                try:
                    await self._fill_once(reading)
                    pause = FIRST_PAUSE
                except SyncError as err:
                    if self._reading is not reading:
                        continue
                    self._is_outdated = True
                    self._go_on()
                    if not passing(err) or self._session.closed:
                        self.failed(err)
                        return
                    await self._subscription.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                if self._is_opaque or not self._compares:
                    await self._subscription.sleep(PAGE_SECONDS)
        finally:
            self._filling = None

    async def _fill_once(self, reading: object) -> None:
        window, is_outdated = self._window, self._is_outdated
        self._is_outdated = False
        if window is None or window.cursor is None or is_outdated:
            models, meta = await self._read_all()
            if self._reading is reading:
                self._replace(models, meta, is_reset=False)
            return
        rest, said = split(self._data or {})
        page = {**rest, "$sort": said.get("sort", []), "$limit": said["limit"], "$cursor": window.cursor}
        models, meta = await self._ask({"data": page})
        if self._reading is reading:
            self._extend(window, models, meta)

    def _extend(self, window: Window, models: list[Any], meta: Mapping[str, Any]) -> None:
        if not window.extend(models, meta.get("next")):
            self._is_outdated = True
        for model, rev in zip(models, meta["r"], strict=True):
            key = self._key(model)
            if key is not None and self._replica.read(key, model, rev):
                window.put(key, model)
        self._show()
        self._go_on()

    @property
    def is_reading(self) -> bool:
        """Return whether everything is being read."""
        return self._reading is not None and self._error is None

    def known(self, key: Key) -> Known | None:
        """Return what is known of a model, None where it never was."""
        model = self._replica.models.get(key)
        if model is not None:
            return Known(self._replica.at(key), model)
        rev = self._replica.rev(key)
        return None if rev is None else Known(rev, None)

    def wants(self, news: News) -> bool:
        """Return whether a model that it does not know may come in by a change."""
        query = self._query
        if self._is_opaque or not self._compares or query is None:
            return True
        return (self._window is not None or not query.is_paged) and may_enter(query, news)

    def _key(self, model: Any) -> Key | None:
        key = model.get(self._subscription.id_attribute) if isinstance(model, dict) else None
        return key if isinstance(key, (str, int)) else None

    async def reread(self, renewed: bool) -> None:
        """Read everything and replace the models; a later call makes this one void."""
        if renewed:
            self._replica.renew()
        # What is about to be read, or was begun after the same answer, is all that there is to read.
        if not self._asking and self._read_after != self._subscription.answered:
            await self._read_anew()

    async def _read_anew(self) -> None:
        reading = self._begin_reading()
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
        self._replace(models, meta, is_reset=True)

    def _begin_reading(self) -> object:
        """Have what is told wait; return what stands for this reading, which a later one makes void."""
        self._reading = reading = object()
        self._waiting = []
        self._overflown = False
        return reading

    def _go_on(self) -> None:
        """Take what has waited for the end of a reading."""
        self._reading = None
        waiting, self._waiting = self._waiting, []
        if self._overflown:
            self._read_again()
        for notice in waiting:
            self._take(notice)
        self._wake()
        self._subscription.was_read()

    async def _read_all(self) -> tuple[Any, Any]:
        return await read_all(self._ask, self._data)

    async def _ask(self, options: Mapping[str, Any]) -> tuple[Any, Any]:
        return await calls.request(self._session, self._subscription, "read", {}, options=options)

    def _replace(self, models: Any, meta: Any, *, is_reset: bool) -> None:
        models = models if isinstance(models, list) else []
        self._read_as(models, meta)
        revs = meta.get("r") if isinstance(meta, Mapping) else None
        if not isinstance(revs, list) or len(revs) != len(models):
            revs = [None] * len(models)
        keyed = [(self._key(model), model, rev) for model, rev in zip(models, revs, strict=True)]
        before = dict(self._models)
        self._replica.replace([(key, model, rev) for key, model, rev in keyed if key is not None])
        known = self._replica.models
        window = self._window
        if window is not None and not window.extend(models, meta["next"]):
            self._window, self._is_opaque = None, True
        elif window is not None:
            for key in list(known):
                if not window.put(key, known[key]):
                    self._replica.forget(key)
        self._is_outdated = False
        self._models = before
        self._show()
        self._error = None
        is_first, self._read = not self._read, True
        self._changes.reset = self._changes.reset or is_reset
        self._go_on()
        if is_first:
            self._changes = Changes()  # what came while it was opened is what it begins with

    def _read_as(self, models: list[Any], meta: Any) -> None:
        """Note what the server has taken the data for, by its answer."""
        is_query = isinstance(meta, Mapping) and "next" in meta
        self._query = query = query_of(self._data, self._subscription.id_attribute) if is_query else None
        self._compares = not is_query or (query is not None and all(map(query.matches, models)))
        self._window, self._is_opaque = None, False
        if query is not None and query.limit is not None and not query.offset and query.after is None:
            self._window = Window(query)
        if self._conditions is not None and not (is_query and self._compares):
            # The server gives the data a meaning of its own: nothing could be picked out by that.
            self._conditions = None
            if self._subscription.live is None:
                self._subscription.cover(self, None)
            else:
                self._session.cover(self._subscription, self, None)

    def resumed(self) -> None:
        """Note that the server lets this client listen again: it tells of what was missed, or everything is read."""
        self._error = None

    def failed(self, error: SyncError) -> None:
        """Note that it cannot be kept up to date, at least for now."""
        self._error = error
        self._wake()
