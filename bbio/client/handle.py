"""One backend, in one channel, seen from a client."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any, Generic, overload

from bbio.client import calls
from bbio.client.collection import Collection
from bbio.client.events import Events
from bbio.client.messages import Messages
from bbio.client.presence import Presence
from bbio.client.session import BackendSession
from bbio.client.subscription import Subscription
from bbio.client.values import plain
from bbio.generic import M
from bbio.query import Page
from bbio.requests import Method

Key = str | int


class Handle(Generic[M]):
    """A backend in a channel. Made by `connection.backend(name, channel=...)`; one for all who ask for the same.

    `Handle[Todo]` tells type checkers what its models are. They come as JSON, so `Todo` is a `TypedDict`.

    Example:
        >>> async def tick(todos: Handle) -> None:
        ...     milk = await todos.create({"title": "milk"})
        ...     await todos.patch({"id": milk["id"], "done": True})
        ...     assert await todos.read(milk["id"]) == {**milk, "done": True}
    """

    def __init__(self, session: BackendSession, subscription: Subscription) -> None:
        self.name = session.name
        self.channel = subscription.channel
        self.id_attribute = subscription.id_attribute
        self._session = session
        self._subscription = subscription

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
            changes: the id, and the fields to change; `$inc` counts, and `$append` appends.
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
        return await calls.request(
            self._session, self._subscription, method, model, rev=rev, options=options, timeout=timeout
        )

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
        await calls.ready(self._session, self._subscription)

    def events(self, *, since: Mapping[str, Any] | None = None) -> Events:
        """Return an endless iterator over what other clients write from now on, in order and once.

        Parameters:
            since: the `position` of an event, to begin right after it instead, also with what this program wrote then.
                If the server no longer has what came after it, the first event is a `reset`. It must be the first that
                follows the channel on this connection.

        Raises:
            BadRequest: `since` is no position, or the channel is followed already.

        Example:
            >>> async def watch(todos: Handle) -> None:
            ...     async for event in todos.events():
            ...         print(event.method, event.model)
        """
        session, subscription = self._session, self._subscription
        if since is not None:
            session.resume(subscription, since)
        reader = Events(session.settings.event_limit, partial(session.release, subscription))
        session.join(subscription)
        if session.closed:
            reader.close()
        else:
            subscription.add_reader(reader)
            session.cover(subscription, reader, None)
        return reader

    @property
    def presence(self) -> Presence:
        """The members of the channel, once this client is one: `await handle.presence.join(...)`. One for all who ask.

        Example:
            >>> async def count(todos: Handle) -> int:
            ...     return len(await todos.presence.join())
        """
        subscription = self._subscription
        if not isinstance(subscription.presence, Presence):
            subscription.presence = Presence(self._session, subscription)
        return subscription.presence

    def messages(self, *names: str) -> Messages:
        """Return an endless iterator over the messages that other clients send to the channel from now on.

        Parameters:
            names: the names of the messages; none for all.

        Example:
            >>> async def watch(todos: Handle) -> None:
            ...     async for message in todos.messages("typing"):
            ...         print(message.card.get("name"), "is typing")
        """
        session, subscription = self._session, self._subscription
        reader = Messages(names, session.settings.event_limit, partial(session.release, subscription))
        session.join(subscription)
        if session.closed:
            reader.close()
        else:
            subscription.add_reader(reader)
        return reader

    async def send(self, name: str, data: Any = None, *, timeout: float | None = None) -> None:
        """Send a message to the channel's other listeners, who are told now or never; return when it is on its way.

        Parameters:
            name: a name that the backend declares with `@message`.
            data: what is told, anything that JSON has.
            timeout: seconds to wait for the server; the connection's `deadline` by default.

        Raises:
            Unavailable: there is no connection: a message does not wait for one.
            BadRequest: the backend does not declare the name, or the data is too large or not JSON.
            Busy: this client sends too many.
            SyncError: the backend refuses it.
            Timeout: there was no answer in time.

        Example:
            >>> async def type_title(todos: Handle) -> None:
            ...     await todos.send("typing", {"in": "title"})
        """
        await calls.send(self._session, self._subscription, name, plain(data), timeout)

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
        models, meta = await self.request("read", options={**(options or {}), "data": data}, timeout=timeout)
        meta = meta if isinstance(meta, Mapping) else {}
        return Page(models, meta.get("next"), meta.get("total"))

    def collection(self, *, data: Mapping[str, Any] | None = None) -> Collection[M]:
        """Return a live mirror of the backend's models: await it, or use it in `async with`.

        Parameters:
            data: a query (docs/queries.md). Later writes appear if they match it. With a limit it stays the first page;
                with an offset or a cursor nothing comes in but by a read.

        Example:
            >>> async def show(todos: Handle) -> None:
            ...     async with todos.collection() as mirror:
            ...         while await mirror.changed():
            ...             print(list(mirror.values()))
        """
        return Collection(self._session, self._subscription, None if data is None else plain(dict(data)))


class Handles:
    """The handles of one connection: one for all who ask for the same channel."""

    def __init__(self) -> None:
        self._handles: weakref.WeakValueDictionary[Subscription, Handle[Any]] = weakref.WeakValueDictionary()

    def __contains__(self, handle: object) -> bool:
        return any(handle is each for each in self._handles.values())

    def get(self, session: BackendSession, subscription: Subscription) -> Handle[Any]:
        """Return the handle of a subscription."""
        handle = self._handles.get(subscription)
        if handle is None:
            handle = self._handles[subscription] = Handle(session, subscription)
        return handle
