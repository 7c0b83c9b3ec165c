"""Calls: what the server's own code asks of a backend, in the process that serves it.

`app.backends["todos"].create(...)` is a request like that of a client: it takes the same way down through the stack to
the store, and others are notified of it. `Runtime` is derived from `Calls`; the server runs them (`Caller`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, cast

import attrs
from msgspec import UNSET

from bbio.backend import Backend
from bbio.errors import BadRequest, ConfigurationError, EncodingError, StackError
from bbio.generic import M
from bbio.model.scalars import Wrong, place_of
from bbio.model.schema import Schema
from bbio.protocol import MAX_DEPTH, Sync, encode, parse, read_sync
from bbio.query import Page
from bbio.requests import Method, ServerRequest
from bbio.streams import Op
from bbio.view import View

P = ParamSpec("P")
T = TypeVar("T")

Key = str | int

# Characters of an operation id.
MAX_OP = 200
# The beginnings of operation ids of calls: those without a user have one of their own. No id that a client gives itself
# holds NUL.
OWN, OF_NOBODY = "\0\0", "\0-"
# Fields of a stored record that an error names.
SHOWN_WRONG = 5


@attrs.frozen
class Answer:
    """The answer to a call.

    Parameters:
        result: the result as JSON has it.
        page: the cursor of the next page and the total, where there was a query.
    """

    result: Any
    page: Mapping[str, Any]


class Terms(NamedTuple):
    """The arguments of a call besides its method and its model, see `Calls.create`."""

    channel: str | None
    user: Any
    options: Mapping[str, Any] | None
    timeout: float | None
    rev: int | None = None
    op: str | None = None


class Caller(Protocol):
    """The part of the server that runs calls."""

    async def call(self, runtime: Any, req: ServerRequest, timeout: float | None) -> Answer:
        """Run a request through the stack of its backend; from any thread that has an event loop.

        Raises:
            SyncError: the request failed.
            ConfigurationError: the application does not run.
        """

    def check_loop(self, call: str) -> None:
        """Raise `ConfigurationError` where the application does not run, or runs in another event loop."""

    def block(self, call: Coroutine[Any, Any, T], timeout: float | None) -> T:
        """Run a coroutine that makes a call, and wait for it; from a thread without the server's event loop."""


class NoCaller:
    """The caller of a backend that no application serves."""

    async def call(self, runtime: Any, req: ServerRequest, timeout: float | None) -> Answer:
        raise ConfigurationError(f"{runtime.name!r} is served by no application; call app.serve(...) first")

    def check_loop(self, call: str) -> None:
        raise ConfigurationError(f"{call}: the backend is served by no application; call app.serve(...) first")

    def block(self, call: Coroutine[Any, Any, T], timeout: float | None) -> T:
        call.close()
        raise ConfigurationError("the backend is served by no application; call app.serve(...) first")


class Calls(Generic[M]):
    """The sync methods of one backend, for the server's own code: jobs, scripts, handlers of other backends.

    Without `user`, a call is the server's own: layers see `req.origin == "server"` and `req.is_trusted`, there is no
    `req.socket`, nothing is hidden and nothing is read-only. With `user` it is that user's in every respect.
    """

    name: str
    backend: Backend[M]
    schema: Schema | None
    _caller: Caller

    @property
    @abstractmethod
    def id_attribute(self) -> str:
        """The name of the id in a model."""

    @property
    def blocking(self) -> Blocking[M]:
        """The same calls for plain threads, which wait for the result.

        Example:
            `await asyncio.to_thread(app.backends["todos"].blocking.create, {"title": "milk"})`
        """
        return Blocking(self)

    async def create(
        self,
        model: M | Mapping[str, Any],
        *,
        channel: str | None = None,
        user: Any = UNSET,
        options: Mapping[str, Any] | None = None,
        op: str | None = None,
        timeout: float | None = None,
    ) -> M:
        """Create a model; return the record, with its id.

        May be called from any event loop, in any thread; `blocking.create` from threads without one.

        Parameters:
            model: a dict, or an instance of the backend's model.
            channel: the channel; None for the default channel.
            user: the user whose request it is, as layers see it in `req.user`; None for a client without a user.
                Without this argument the call is the server's own, from which nothing is hidden.
            options: extras for layers, `req.options`.
            op: an operation id of your own, up to 200 characters: a call that repeats it gets the result of the first
                and changes nothing. Keep it the same when a job tries again.
            timeout: seconds until it fails; `Limits.deadline` by default.

        Raises:
            SyncError: an error that a layer or the store raised; `InternalError` for any that is not a `SyncError`,
                which then is its `__cause__`.
            Timeout: it took too long; a write may have been applied.
            Unavailable: the application stops.
            ConfigurationError: the application does not run.
            EncodingError: the model holds what JSON does not have.
            StackError: the call is one too many that calls itself, or the result is not a model.

        Example:
            >>> from bbio import App, Backend
            >>> from bbio.builtin import MemoryStore
            >>> class Todos(Backend):
            ...     store = MemoryStore()
            >>> async def main():
            ...     async with App().serve(Todos).test() as t:
            ...         milk = await t.backends["todos"].create({"title": "milk"})
            ...         return (await t.backends["todos"].read(milk["id"]))["title"]
            >>> import asyncio
            >>> asyncio.run(main())
            'milk'
        """
        how = Terms(channel, user, options, timeout, op=op)
        return cast(M, self._made((await self._ask("create", model, how)).result))

    async def read(
        self,
        id: Key,
        *,
        channel: str | None = None,
        user: Any = UNSET,
        options: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> M:
        """Read one model.

        Parameters:
            id: the model's id.
            channel, user, options, timeout: see `create`.

        Raises:
            NotFound: there is no such model, or the user may not see it.
            SyncError: see `create`.

        Example:
            `milk = await app.backends["todos"].read(7)`
        """
        how = Terms(channel, user, options, timeout)
        return cast(M, self._made((await self._ask("read", {self.id_attribute: id}, how)).result))

    async def query(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        channel: str | None = None,
        user: Any = UNSET,
        options: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Page[M]:
        """Read a page of a query's results: `models`, the cursor of the `next` page, and the `total`.

        Parameters:
            data: the query (docs/queries.md). Without it, all models. For the next page, the same query with `next` as
                its `cursor`.
            channel, user, options, timeout: see `create`.

        Raises:
            BadRequest: it is not a valid query, or finds more than a quarter of `Limits.memory`: ask for pages.
            SyncError: see `create`.

        Example:
            `page = await app.backends["todos"].query({"done": False, "limit": 100})`
        """
        extras = dict(options or {}) if data is None else {**(options or {}), "data": data}
        answer = await self._ask("read", {}, Terms(channel, user, extras, timeout))
        found = answer.result if isinstance(answer.result, list) else [answer.result]
        return Page([self._made(each) for each in found], answer.page.get("next"), answer.page.get("total"))

    async def update(
        self,
        model: M | Mapping[str, Any],
        *,
        rev: int | None = None,
        channel: str | None = None,
        user: Any = UNSET,
        options: Mapping[str, Any] | None = None,
        op: str | None = None,
        timeout: float | None = None,
    ) -> M:
        """Replace a model; return the record.

        Parameters:
            model: the whole model with its id: a dict, or an instance of the backend's model.
            rev: the revision that it is based on; without it, the write overwrites whatever is stored.
            channel, user, options, op, timeout: see `create`.

        Raises:
            NotFound: there is no such model.
            Conflict: the model has a newer revision.
            SyncError: see `create`.

        Example:
            `await app.backends["todos"].update({"id": 7, "title": "oat milk", "done": False})`
        """
        how = Terms(channel, user, options, timeout, rev, op)
        return cast(M, self._made((await self._ask("update", model, how)).result))

    async def patch(
        self,
        changes: Mapping[str, Any],
        *,
        rev: int | None = None,
        channel: str | None = None,
        user: Any = UNSET,
        options: Mapping[str, Any] | None = None,
        op: str | None = None,
        timeout: float | None = None,
    ) -> M:
        """Change some fields of a model; return the whole record.

        Parameters:
            changes: a dict of the id and the fields to change; `$inc` counts, and `$append` appends.
            rev: see `update`.
            channel, user, options, op, timeout: see `create`.

        Raises:
            NotFound: there is no such model.
            Conflict: one of the fields has changed since that revision.
            SyncError: see `create`.

        Example:
            `await app.backends["todos"].patch({"id": 7, "done": True})`
        """
        if not isinstance(changes, Mapping):
            raise BadRequest(f"a patch is a dict of the {self.id_attribute} and the fields to change")
        how = Terms(channel, user, options, timeout, rev, op)
        return cast(M, self._made((await self._ask("patch", changes, how)).result))

    async def delete(
        self,
        model: M | Mapping[str, Any] | Key,
        *,
        rev: int | None = None,
        channel: str | None = None,
        user: Any = UNSET,
        options: Mapping[str, Any] | None = None,
        op: str | None = None,
        timeout: float | None = None,
    ) -> M:
        """Delete a model; return the record as it was.

        Parameters:
            model: the id; or the model, a dict or an instance.
            rev: see `update`.
            channel, user, options, op, timeout: see `create`.

        Raises:
            NotFound: there is no such model.
            SyncError: see `create`.

        Example:
            `await app.backends["todos"].delete(7)`
        """
        sent = {self.id_attribute: model} if isinstance(model, (str, int)) else model
        how = Terms(channel, user, options, timeout, rev, op)
        return cast(M, self._made((await self._ask("delete", sent, how)).result))

    async def sync(
        self,
        method: Method,
        model: M | Mapping[str, Any] | None = None,
        *,
        rev: int | None = None,
        channel: str | None = None,
        user: Any = UNSET,
        options: Mapping[str, Any] | None = None,
        op: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Make any sync; return its result as JSON has it, also where the backend has a model.

        Parameters:
            method: `create`, `read`, `update`, `patch` or `delete`.
            model: the model; None for a read of the collection.
            rev: see `update`.
            channel, user, options, op, timeout: see `create`.

        Raises:
            SyncError: see `create`.

        Example:
            `records = await app.backends["todos"].sync("read", options={"data": {"done": False}})`
        """
        how = Terms(channel, user, options, timeout, rev, op)
        return (await self._ask(method, {} if model is None else model, how)).result

    async def _ask(self, method: Method, model: Any, how: Terms) -> Answer:
        return await self._caller.call(self, self._read(method, model, how), how.timeout)

    def _read(self, method: Method, model: Any, how: Terms) -> ServerRequest:
        """Return the request of a call.

        Raises:
            BadRequest: no client could have sent it.
            EncodingError: it holds what JSON does not have.
        """
        if how.timeout is not None and not how.timeout > 0:
            raise BadRequest(f"timeout={how.timeout!r}: it must be greater than 0")
        fields = {
            "method": method,
            "model": self._sent(model, how.user),
            "options": how.options or {},
            "channel": how.channel,
            "rev": how.rev,
        }
        text = _written(fields)
        # What a client may send, and no more: so that every client can have it.
        return self._request(read_sync(parse(text, MAX_DEPTH)[1:]), how, text)

    def _request(self, sync: Sync, how: Terms, text: str) -> ServerRequest:
        place: dict[str, Any] = {
            "options": sync.options or {},
            "backend": self.backend,
            "channel": sync.channel or None,
            "rev": sync.rev,
        }
        op = how.op
        if op is not None:
            if not isinstance(op, str) or not 0 < len(op) <= MAX_OP:
                raise BadRequest(f"op={op!r:.64}: an operation id is a string of 1 to {MAX_OP} characters")
            place.update(op=Op((OF_NOBODY if how.user is None else OWN) + op, 0), payload=text)
        if how.user is UNSET:
            return ServerRequest(sync.method, sync.model, **place)
        return ServerRequest.of_user(how.user, sync.method, sync.model, **place)

    def _sent(self, model: Any, user: Any) -> Mapping[str, Any]:
        """Return the JSON of a model that the application gives.

        An instance has all fields, also those that a user does not see: where they hold their defaults, the user has
        not given them.

        Raises:
            BadRequest: it is neither a dict nor an instance of the backend's model.
        """
        if isinstance(model, Mapping):
            return model
        if self.schema is None or not isinstance(model, self.schema.cls):
            given = "a dict" if self.schema is None else f"a dict, or an instance of {self.schema.cls.__name__}"
            raise BadRequest(f"a model of {self.name!r} is {given}, and not a {type(model).__name__}")
        schema, record = self.schema, self.schema.unstructure_with_id(model)
        hidden = () if user is UNSET else schema.names - View.of(schema, user).fields
        for name in hidden:
            if record[name] == schema.fields[name].write(schema.fields[name].make_default()):
                del record[name]
        return record

    def _made(self, record: Any) -> Any:
        """Return an instance of the backend's model for a record; anything else as it is.

        Raises:
            StackError: the record does not fit the model.
        """
        if self.schema is None or not isinstance(record, dict):
            return record
        try:
            return self.schema.load(record)
        except Wrong as err:
            wrong = "; ".join(f"{path} {message}" for path, message in list(err.fields.items())[:SHOWN_WRONG])
            raise StackError(
                f"{self.name!r} holds a record that is no {self.schema.cls.__name__}: {wrong}; "
                "sync(...) returns it as JSON"
            ) from None


def _written(fields: dict[str, Any]) -> str:
    """Return a sync as JSON.

    Raises:
        BadRequest: it holds a text that no client could have sent.
        EncodingError: it holds what JSON does not have.
    """
    try:
        return encode(["sync", fields]).decode()
    except EncodingError as err:
        err.locate(place_of(err.value, fields["model"], "model") or "a value of the call")
        raise
    except (UnicodeEncodeError, RecursionError, ValueError) as err:
        raise BadRequest(f"this cannot be written as JSON: {err}") from None


async def ask(calls: Calls[Any], method: Method, model: Any, terms: Terms) -> Answer:
    """Make any sync; return its answer as JSON has it, with the page of a query.

    Parameters:
        calls: the calls of the backend.
        method: the sync method.
        model: the model; an empty dict for a read of the collection.
        terms: the other arguments.

    Raises:
        SyncError: see `Calls.create`.
    """
    return await calls._ask(method, model, terms)


class Blocking(Generic[M]):
    """The calls of one backend for threads without an event loop: each waits for its result. See `Calls`.

    Parameters:
        calls: the calls.

    Example:
        `await asyncio.to_thread(app.backends["todos"].blocking.create, {"title": "milk"})`
    """

    def __init__(self, calls: Calls[M]) -> None:
        self.create = _blocking(calls, calls.create)
        self.read = _blocking(calls, calls.read)
        self.query = _blocking(calls, calls.query)
        self.update = _blocking(calls, calls.update)
        self.patch = _blocking(calls, calls.patch)
        self.delete = _blocking(calls, calls.delete)
        self.sync = _blocking(calls, calls.sync)


def _blocking(calls: Calls[Any], call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    def wait(*args: P.args, **kwargs: P.kwargs) -> T:
        timeout = cast("float | None", kwargs.get("timeout"))
        return calls._caller.block(call(*args, **kwargs), timeout)

    wait.__name__, wait.__doc__ = call.__name__, call.__doc__
    return wait
