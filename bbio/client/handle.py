"""One backend, in one channel, seen from a client."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, cast, overload

import msgspec

from bbio.client.collection import Collection
from bbio.client.errors import Dropped, passing
from bbio.client.events import RESET, Event, Events
from bbio.client.tracker import Meta, Tracker
from bbio.errors import BadRequest, SyncError, Timeout
from bbio.generic import M
from bbio.model.counts import uncounted
from bbio.query import Page
from bbio.requests import METHODS, NOTIFIED_AS, Method

if TYPE_CHECKING:
    from bbio.client.session import Session

Key = str | int

# Seconds between attempts to read everything again.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


class Mirror(Protocol):
    """Something that is kept like the backend."""

    def apply(self, method: str, model: Any, meta: Meta | None) -> None:
        """Take a notification."""

    async def reread(self, renewed: bool) -> None:
        """Read everything again; `renewed`: revisions may have begun anew."""

    def failed(self, error: SyncError) -> None:
        """It cannot be kept any more."""


class Handle(Generic[M]):
    """A backend in a channel. Made by `connection.backend(name, channel=...)`; one for all who ask for the same.

    `Handle[Todo]` tells type checkers what its models are. They come as JSON, so `Todo` is a `TypedDict`.

    Example:
        >>> async def tick(todos: Handle) -> None:
        ...     milk = await todos.create({"title": "milk"})
        ...     await todos.patch({"id": milk["id"], "done": True})
        ...     assert await todos.read(milk["id"]) == {**milk, "done": True}
    """

    def __init__(self, session: Session, channel: str | None, id_attribute: str) -> None:
        self.name = session.name
        self.channel = channel
        self.id_attribute = id_attribute
        self.session = session
        self.tracker = Tracker()
        # By identity, as a collection equals any mapping of the same models; one that nobody has any more is forgotten.
        self.mirrors: weakref.WeakValueDictionary[int, Mirror] = weakref.WeakValueDictionary()
        self._readers: weakref.WeakSet[Events] = weakref.WeakSet()
        self._refusal: SyncError | None = None
        self._listens = False
        # Whether its channel is followed, or was let go of.
        self.joined = False
        self.released = False
        # Whom the server took this client for when it listened last; None as long as that is not known.
        self.known_as: str | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._rereading: asyncio.Task[None] | None = None

    # Requests

    async def create(self, model: Any, *, options: Mapping[str, Any] | None = None, timeout: float | None = None) -> M:
        """Create a model; return the record, with its id.

        Parameters:
            model: a dict, an attrs instance or a dataclass, with values that JSON has.
            options: extras for the server, its `req.options`.
            timeout: seconds until it fails, also while there is no connection. Without it the connection's `deadline`
                counts, and stands still while a write waits for a lost connection to come back.

        Raises:
            SyncError: the error that the backend raised (`Invalid`, `Forbidden`, ...), as the class of that name.
            Timeout: no answer came in time; a write that was sent may have been applied.
            Busy: too many requests wait for an answer.
            BadRequest: the model cannot be written as JSON.

        Example:
            >>> async def add(todos: Handle) -> str:
            ...     milk = await todos.create({"title": "milk"})
            ...     return milk["id"]
        """
        record: M = await self.sync("create", model, options=options, timeout=timeout)
        return record

    @overload
    async def read(self, id: Key, *, options: Mapping[str, Any] | None = None, timeout: float | None = None) -> M: ...

    @overload
    async def read(
        self,
        *,
        data: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> list[M]: ...

    async def read(
        self,
        id: Key | None = None,
        *,
        data: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Read one model, or a list of models.

        Parameters:
            id: the model's id; without it, the list of all models that match.
            data: the query (docs/queries.md), sent as `options.data`.
            options: extras for the server, its `req.options`.
            timeout: seconds until it fails.

        Raises:
            NotFound: there is no such model.
            SyncError: see `create`.

        Example:
            >>> async def open_todos(todos: Handle) -> list[Model]:
            ...     return await todos.read(data={"done": False})
        """
        extras = dict(options or {}) if data is None else {**(options or {}), "data": data}
        return await self.sync("read", {} if id is None else {self.id_attribute: id}, options=extras, timeout=timeout)

    async def update(
        self,
        model: Any,
        *,
        rev: int | None = None,
        options: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> M:
        """Replace a model; return the record.

        Parameters:
            model: the whole model, with its id.
            rev: the revision that it is based on (`collection.rev(id)`, `event.rev`); without it, the write overwrites
                whatever is stored.
            options: extras for the server, its `req.options`.
            timeout: see `create`.

        Raises:
            Conflict: the model has a newer revision; `current` is the stored model, `rev` its revision.
            SyncError: see `create`.

        Example:
            >>> async def rename(todos: Handle) -> None:
            ...     await todos.update({"id": 7, "title": "oat milk", "done": False})
        """
        record: M = await self.sync("update", model, rev=rev, options=options, timeout=timeout)
        return record

    async def patch(
        self,
        changes: Any,
        *,
        rev: int | None = None,
        options: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> M:
        """Change some fields of a model; return the whole record.

        Parameters:
            changes: the id, and the fields to change; `$inc` counts.
            rev: see `update`.
            options: see `update`.
            timeout: see `create`.

        Raises:
            SyncError: see `update`.

        Example:
            >>> async def finish(todos: Handle) -> None:
            ...     await todos.patch({"id": 7, "done": True, "$inc": {"edits": 1}})
        """
        record: M = await self.sync("patch", changes, rev=rev, options=options, timeout=timeout)
        return record

    async def delete(
        self,
        model: Any,
        *,
        rev: int | None = None,
        options: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> M:
        """Delete a model; return the record as it was.

        Parameters:
            model: the model, or its id.
            rev: see `update`.
            options: see `update`.
            timeout: see `create`.

        Raises:
            SyncError: see `update`.

        Example:
            >>> async def remove(todos: Handle) -> None:
            ...     await todos.delete(7)
        """
        if isinstance(model, (str, int)):
            model = {self.id_attribute: model}
        record: M = await self.sync("delete", model, rev=rev, options=options, timeout=timeout)
        return record

    async def sync(
        self,
        method: Method,
        model: Any = None,
        *,
        rev: int | None = None,
        options: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Send any sync; return its result. `create`, `read` and so on call it.

        Parameters:
            method: `create`, `read`, `update`, `patch` or `delete`.
            model: the model; None for a read of the collection.
            rev: see `update`.
            options: see `update`.
            timeout: see `create`.

        Raises:
            SyncError: see `create`.

        Example:
            >>> async def all_of(todos: Handle) -> list[Model]:
            ...     return await todos.sync("read", options={"data": {"sort": "title"}})
        """
        result, _ = await self.request(method, model, rev=rev, options=options, timeout=timeout)
        return result

    async def request(
        self,
        method: Method,
        model: Any = None,
        *,
        rev: int | None = None,
        options: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Send a sync; return its result and the third argument of the answer, which has position and revisions.

        Parameters:
            method: see `sync`, as for the other parameters.
        """
        if method not in METHODS:
            raise BadRequest(f"method must be one of {', '.join(METHODS)}")
        request = {
            "method": method,
            "model": plain({} if model is None else model),
            "options": plain(dict(options or {})),
            "channel": self.channel,
        }
        if rev is not None:
            request["rev"] = rev
        answer: asyncio.Future[tuple[Any, Any]] = asyncio.get_running_loop().create_future()

        def done(error: SyncError | None, result: Any, told: Any) -> None:
            if answer.cancelled():
                return
            if error is None:
                answer.set_result((result, told))
            else:
                answer.set_exception(error)

        entry = self.session.request(self, request, timeout, done)
        try:
            return await answer
        finally:
            self.session.cancel(entry)

    # What others do

    async def ready(self) -> None:
        """Wait until the server has answered the listen; from then on no event is missed.

        Raises:
            SyncError: the server does not let this client listen.
            Timeout: it did not answer within the connection's `deadline`.
            Unavailable: the connection was closed.

        Example:
            >>> async def is_admitted(todos: Handle) -> bool:
            ...     try:
            ...         await todos.ready()
            ...     except SyncError:
            ...         return False
            ...     return True
        """
        if self._refusal is not None:
            raise self._refusal
        self.session.join(self)
        if self._listens:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        timer = self.session.clock.call_later(self.session.settings.deadline, self._expire, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)

    def _expire(self, waiter: asyncio.Future[None]) -> None:
        message = f"listen to {self.name!r}: the server did not answer in time; is the address right, and does it run?"
        if not waiter.done():
            waiter.set_exception(Timeout(message))

    def events(self) -> Events:
        """Return an endless iterator over what other clients write from now on, in order and once.

        Example:
            >>> async def watch(todos: Handle) -> None:
            ...     async for event in todos.events():
            ...         print(event.method, event.model)
        """
        reader = Events(self.session.settings.event_limit, self._let_go)
        self.session.join(self)
        if self.session.closed:
            reader.close()
        elif self._refusal is not None:
            reader.fail(self._refusal)
        self._readers.add(reader)
        return reader

    async def query(
        self, data: Mapping[str, Any], *, options: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Page[M]:
        """Read a page of a query's results (docs/queries.md): `models`, the cursor of the `next` page, and the `total`.

        Parameters:
            data: the query. For the next page, send the same query with `next` as its `cursor`.
            options: extras for the server, its `req.options`.
            timeout: seconds until it fails.

        Raises:
            BadRequest: it is not a valid query.
            SyncError: see `create`.

        Example:
            >>> async def newest(todos: Handle) -> list[str]:
            ...     page = await todos.query({"done": False, "sort": "-created", "limit": 20})
            ...     return [todo["title"] for todo in page.models]
        """
        models, told = await self.request("read", options={**(options or {}), "data": data}, timeout=timeout)
        told = told if isinstance(told, Mapping) else {}
        return Page(models, told.get("next"), told.get("total"))

    def collection(self, *, data: Mapping[str, Any] | None = None) -> Collection[M]:
        """Return a live mirror of the backend's models: await it, or use it in `async with`.

        Parameters:
            data: a query (docs/queries.md). Later writes of others appear if they match it; a page gets no new models.

        Example:
            >>> async def show(todos: Handle) -> None:
            ...     async with todos.collection() as mirror:
            ...         while await mirror.changed():
            ...             print(list(mirror.values()))
        """
        return Collection(self, None if data is None else plain(dict(data)))

    @property
    def settled(self) -> bool:
        """Whether this handle knows all that the server has told it, or was refused."""
        return self._refusal is not None or self.tracker.settled

    def release(self, mirror: Mirror) -> None:
        """A mirror is closed; the last thing that follows the channel leaves it."""
        if self.mirrors.pop(id(mirror), None) is not None:
            self._release()

    def _let_go(self, reader: Events) -> None:
        """A reader is closed."""
        if reader in self._readers:
            self._readers.remove(reader)
            self._release()

    def _release(self) -> None:
        self.released = not self.mirrors
        if not self.is_followed:
            self.session.leave(self)

    @property
    def is_followed(self) -> bool:
        """Whether a mirror or a reader wants to be told of what others write."""
        return bool(self.mirrors) or bool(self._readers) or bool(self._waiters)

    # What the session tells

    def left(self) -> None:
        """The channel was left: who comes back to it begins anew."""
        self._listens = False
        self._stop_rereading()
        self.tracker = Tracker()

    def notified(self, method: str, model: Any, meta: Meta | None, *, own: bool) -> None:
        """A notification came, in its turn."""
        if not own:
            for reader in list(self._readers):
                reader.put(Event(cast("Any", method), copied(model), None if meta is None else meta.rev))
        self._apply(method, model, meta)

    def wrote(self, request: Mapping[str, Any], result: Any, meta: Meta | None) -> None:
        """A write of this client succeeded."""
        model = result if isinstance(result, dict) else uncounted(request["model"])
        self._apply(NOTIFIED_AS[request["method"]], model, meta)

    def _apply(self, method: str, model: Any, meta: Meta | None) -> None:
        for mirror in list(self.mirrors.values()):
            try:
                mirror.apply(method, copied(model), meta)
            except Exception as err:
                self._report(err)

    def dropped(self, writes: list[Dropped]) -> None:
        """Writes of another user will not be sent."""
        told = self.session.settings.dropped
        try:
            if told is not None:
                told(self, writes)
        except Exception as err:
            self._report(err, "what is told of writes that are dropped")

    def _report(self, err: BaseException, what: str = "a mirror") -> None:
        """The application raised: that costs nobody else an event, nor this client its place."""
        context = {"message": f"{what} of {self.name!r} failed", "exception": err}
        asyncio.get_running_loop().call_exception_handler(context)

    def _end(self, mirror: Mirror, error: SyncError) -> None:
        try:
            mirror.failed(error)
        except Exception as err:
            self._report(err)

    def online(self) -> None:
        """The listen is answered."""
        self._listens = True
        self._refusal = None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def offline(self) -> None:
        """The connection is gone: a reading that goes on belongs to it."""
        self._listens = False
        self._stop_rereading()

    def refused(self, error: SyncError) -> None:
        """The server does not let this client listen."""
        self._give_up(error)
        for reader in list(self._readers):
            reader.fail(error)

    def _give_up(self, error: SyncError) -> None:
        self._listens = False
        self._refusal = error
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        for mirror in list(self.mirrors.values()):
            self._end(mirror, error)

    def reread(self, renewed: bool) -> None:
        """History is gone: have every mirror read everything again, for as long as it takes."""
        self._stop_rereading()
        for reader in list(self._readers):
            reader.put(RESET)
        if self.mirrors:
            self._rereading = asyncio.get_running_loop().create_task(self._reread(renewed))
        else:
            self.tracker.complete()

    async def _reread(self, renewed: bool) -> None:
        pause = FIRST_PAUSE
        while True:
            mirrors = list(self.mirrors.values())
            outcomes = await asyncio.gather(*(mirror.reread(renewed) for mirror in mirrors), return_exceptions=True)
            again = False
            for mirror, outcome in zip(mirrors, outcomes, strict=True):
                if isinstance(outcome, SyncError):
                    again = again or passing(outcome)
                    if not passing(outcome):
                        self._end(mirror, outcome)
                elif outcome is not None:
                    self._report(outcome)
            if not again:
                break
            await self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._rereading = None
        self.tracker.complete()

    async def _sleep(self, seconds: float) -> None:
        over = asyncio.Event()
        timer = self.session.clock.call_later(seconds, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    def _stop_rereading(self) -> None:
        if self._rereading is not None:
            self._rereading.cancel()
            self._rereading = None

    def close(self, error: SyncError) -> None:
        """The connection was closed."""
        self._stop_rereading()
        self._give_up(error)
        for reader in list(self._readers):
            reader.close()


def copied(model: Any) -> Any:
    """A copy of what came as JSON, for whoever may change it."""
    if isinstance(model, dict):
        return {key: copied(value) for key, value in model.items()}
    return [copied(value) for value in model] if isinstance(model, list) else model


def plain(value: Any) -> Any:
    """A copy as JSON has it.

    Raises:
        BadRequest: it cannot travel.
    """
    try:
        # The standard library refuses NaN and infinity, which msgspec writes as null.
        return json.loads(json.dumps(msgspec.to_builtins(value, str_keys=True), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as err:
        raise BadRequest(f"this cannot be written as JSON: {err}") from None
