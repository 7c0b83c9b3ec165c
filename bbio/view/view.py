"""A view: which records one viewer sees, and which fields of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from bbio.errors import Forbidden, Invalid, SyncError
from bbio.model.operators import first_of
from bbio.model.schema import Schema
from bbio.protocol import decode, encode
from bbio.query import Query
from bbio.requests import Request, Response
from bbio.streams import Event, Position
from bbio.view.delta import delta_of
from bbio.view.filter import EVERYTHING, Filter, Kind
from bbio.was import change_of

# Between an epoch and the digest of the view that it is told under.
DIGEST_MARK = "~"
# Views that are remembered, and digests of them.
SHARED_VIEWS = 1_024


def roles_of(user: Any) -> tuple[Any, ...]:
    """Return the roles of `req.user`: its `roles`, as key or as attribute; none if it has no such thing."""
    roles = user.get("roles") if isinstance(user, dict) else getattr(user, "roles", None)
    if isinstance(roles, str):
        return (roles,)
    return tuple(roles) if isinstance(roles, Iterable) else ()


def public_body(schema: Schema | None, record: Any) -> bytes:
    """Return the JSON of a record for an event: no field of it that nobody may see.

    Parameters:
        schema: the schema of the backend, None when its models may be anything.
        record: an instance, a record, or whatever else a handler has answered.

    Raises:
        EncodingError: it holds what JSON does not have.
    """
    return encode(record if schema is None else schema.shown(record, schema.public))


def public_event(event: Event, id_attribute: str) -> Event:
    """Return an event for viewers who all see the same: of a delete the id alone, as some never had the record.

    What application code answered or emitted without an id stays as it is.

    Parameters:
        event: the event, as it is in the log.
        id_attribute: the name of the id.

    Example:
        >>> deleted = Event("c:", "9a0c", 1, "delete", b'{"id":"7","title":"milk"}')
        >>> public_event(deleted, "id").body
        b'{"id":"7"}'
    """
    if event.method != "delete":
        return event
    record = decode(event.body)
    if not isinstance(record, dict) or id_attribute not in record:
        return event
    return msgspec.structs.replace(event, body=encode({id_attribute: record[id_attribute]}))


@lru_cache(maxsize=SHARED_VIEWS)
def _shared(schema: Schema, fields: frozenset[str]) -> View:
    # Who has the same view has the same object, so that viewers are grouped by it in no time.
    return View(schema, fields)


@lru_cache(maxsize=SHARED_VIEWS)
def _for_roles(schema: Schema, roles: frozenset[str]) -> View:
    return _shared(schema, schema.visible(roles))


@lru_cache(maxsize=SHARED_VIEWS)
def _digest(fields: frozenset[str]) -> str:
    return blake2b("\0".join(sorted(fields)).encode(), digest_size=6).hexdigest()


class View(msgspec.Struct, frozen=True, gc=False):
    """A viewer's part of the models of a backend.

    Parameters:
        schema: the schema of the backend; None where its models may be anything, and are seen whole.
        fields: the names of the fields, and of the id.
        filter: which records; all of them by default.
        asked: what the client has asked for of the records that it may have; `filter` is of both.
        scope: the records that it may have, where it has asked for some of them; else those of `filter`.

    Example:
        >>> import attrs, bbio
        >>> @attrs.define
        ... class User:
        ...     name: str
        ...     notes: str = bbio.field(roles=("support",), default="")
        >>> view = View.of(Schema(User), {"id": "ann"})
        >>> view.result({"id": 1, "name": "Bob", "notes": "paid late"})
        {'id': 1, 'name': 'Bob'}
    """

    schema: Schema | None
    fields: frozenset[str]
    filter: Filter = EVERYTHING
    asked: Filter = EVERYTHING
    scope: Filter | None = None

    @classmethod
    def of(cls, schema: Schema, user: Any) -> View:
        """Return the view of a user.

        Parameters:
            schema: the schema of the backend.
            user: `req.user`, as middleware has set it.
        """
        # What else a user is said to be, maybe in words of a client, is not remembered.
        roles = schema.roles.intersection(roles_of(user)) if schema.roles else frozenset()
        return _for_roles(schema, roles)

    @classmethod
    def of_request(cls, schema: Schema, req: Request) -> View:
        """Return the view of who asks: of its user, or of everything where the server asks for itself.

        Parameters:
            schema: the schema of the backend.
            req: the request.
        """
        if req.is_trusted:
            return _shared(schema, schema.names)
        return cls.of(schema, req.user)

    @classmethod
    def of_listener(cls, schema: Schema | None, req: Request) -> View:
        """Return the view under which a client is told of events, where each has a view of its own.

        Parameters:
            schema: the schema of the backend, None when its models may be anything.
            req: the request to listen, admitted.
        """
        seen = cls.whole() if schema is None else cls.of(schema, req.user)
        return seen if req.scope is None else msgspec.structs.replace(seen, filter=req.scope.records)

    @classmethod
    def whole(cls) -> View:
        """Return the view of all models of a backend without a model."""
        return cls(None, frozenset())

    @classmethod
    def public(cls, schema: Schema) -> View:
        """Return the view of all that anybody may see: events are logged under it."""
        return _shared(schema, schema.public)

    @staticmethod
    def differs(schema: Schema | None) -> bool:
        """Return whether some viewers may see more than others, so that each has a view of its own."""
        return schema is not None and bool(schema.roles)

    @classmethod
    def common(cls, views: Collection[View]) -> View:
        """Return the view of what may be seen in all of some views of one backend, whatever was asked for there."""
        first = next(iter(views))
        fields = frozenset.intersection(*(view.fields for view in views))
        seen = cls.whole() if first.schema is None else _shared(first.schema, fields)
        records = Filter.all_of(view.filter if view.scope is None else view.scope for view in views)
        return seen if records == EVERYTHING else msgspec.structs.replace(seen, filter=records)

    def narrowed(self, query: Filter) -> View:
        """Return the part of this view that a client asks for."""
        if not query.conditions:
            return self
        records = Filter.all_of([self.filter, query])
        return msgspec.structs.replace(self, filter=records, asked=query, scope=self.filter)

    @property
    def asked_size(self) -> int:
        """The bytes that a client has the server hold at most by what it asks for; 0 of who asks for all."""
        return self.asked.size if self.asked.conditions else 0

    @property
    def is_whole(self) -> bool:
        """Return whether it is of all records."""
        return not self.filter.conditions

    @property
    def hidden(self) -> frozenset[str]:
        """The declared fields that are not seen."""
        return frozenset() if self.schema is None else frozenset(self.schema.fields.keys() - self.fields)

    # Results

    def result(self, value: Any) -> Any:
        """Return what is seen of a result: of a model, or of each in a list, declared fields alone.

        Parameters:
            value: an instance, a record, a list of these, or anything else, which stays as it is.
        """
        return value if self.schema is None else self.schema.shown(value, self.fields)

    def narrow_error(self, err: SyncError) -> None:
        """Leave in the details of an error what is seen of the records in them."""
        # What is wrong with a field is told under its name, to whoever may give it.
        messages = "fields" if isinstance(err, Invalid) else ""
        err.values = {
            name: value if name == messages else self._detail(value, is_record=name == "current")
            for name, value in err.values.items()
        }

    def _detail(self, value: Any, *, is_record: bool = False) -> Any:
        """Return a value of any shape as JSON, and of the records within it what is seen.

        What has an id is a record, of which declared fields alone are seen; of any other object the fields that are
        hidden are left out.
        """
        assert self.schema is not None, "what may be anything is shown whole"
        if isinstance(value, self.schema.cls):
            return self.result(value)
        if isinstance(value, dict):
            if is_record or self.schema.id_attribute in value:
                return self.result(value)
            hidden = self.hidden
            return {name: self._detail(each) for name, each in value.items() if name not in hidden}
        if isinstance(value, (list, tuple)):
            return [self._detail(each) for each in value]
        if value is None or isinstance(value, (str, int, float)):
            return value
        # Whatever else it is, a record may be in it.
        written = decode(encode(value))
        return self._detail(written) if isinstance(written, (dict, list)) else value

    # Queries

    def query(self, data: Any, **options: Any) -> Query:
        """Read a client's query, which may filter and sort by fields that are seen.

        Parameters:
            data: what the client sent.
            options: as of `Query.read`: `id_attribute` and `limits`.

        Raises:
            BadRequest: it is no query, asks for too much, or names a field that is not seen.
        """
        assert self.schema is not None, "where models may be anything, so may what is asked"
        return Query.read(data, fields=self.fields, stored=self.schema.stored, **options)

    # Events and positions

    def narrow(self, event: Event) -> Event:
        """Return an event with what is seen of its record, or of each in a list that a handler has answered."""
        return msgspec.structs.replace(event, body=encode(self.result(decode(event.body))))

    def event(self, event: Event) -> Event:
        """Return an event as the viewer is told of it, live or later, at its position in this view."""
        assert self.schema is not None, "what may be anything is told whole"
        return self.place(self.narrow(public_event(event, self.schema.id_attribute)))

    def told(self, event: Event, kind: Kind, id_attribute: str) -> Event:
        """Return an event as those are told of it to whose views it is of a kind, at its position.

        Nothing in it depends on the view but the kind and the fields.

        Parameters:
            event: the event, as it is in the log.
            kind: what it is to them.
            id_attribute: the name of the id.
        """
        told = msgspec.structs.replace(event, method=kind, epoch=self._epoch(event.epoch))
        if kind == "delete":
            return public_event(told, id_attribute)
        return told if self.schema is None else self.narrow(told)

    def seen(self, event: Event, id_attribute: str) -> Event | None:
        """Return an event as the viewer is told of it, live or later; None of one that is nothing to the view.

        Parameters:
            event: the event, as it is in the log.
            id_attribute: the name of the id.

        Raises:
            LookupError: the log does not tell what the record was.
        """
        change = change_of(event)
        if change is None:
            raise LookupError(f"{event!r} does not tell what the record was before it")
        kind = self.filter.transition(*change)
        return None if kind is None else self.told(event, kind, id_attribute)

    def delta(self, whole: Event, told: Event, id_attribute: str) -> Event:
        """Return what an event changed, for those who have its record; where nobody knows, the event as it is told.

        Parameters:
            whole: the event, as it is in the log.
            told: the event as it is told to who does not have the record.
            id_attribute: the name of the id.
        """
        return delta_of(whole, told, None if self.schema is None else self.fields, id_attribute) or told

    def place(self, event: Event) -> Event:
        """Return an event at its position in this view."""
        return msgspec.structs.replace(event, epoch=self._epoch(event.epoch))

    def position(self, position: Position) -> Position:
        """Return a position as the viewer is told it: what a view was told up to there says nothing of another."""
        return Position(self._epoch(position.epoch), position.offset, position.stamp)

    def is_own(self, position: Position) -> bool:
        """Return whether a position that a client claims was told to an equal view."""
        return position.epoch.rpartition(DIGEST_MARK)[2] == _digest(self.fields)

    @staticmethod
    def without_view(position: Position) -> Position:
        """Return the position in the log of one that a client claims, in whatever view."""
        return msgspec.structs.replace(position, epoch=position.epoch.partition(DIGEST_MARK)[0])

    @property
    def digest(self) -> str:
        """A short text that tells the view from others: a position that was reached with another says nothing of it."""
        return f"{_digest(self.fields)}{self.filter.digest}"

    def _epoch(self, epoch: str) -> str:
        return f"{epoch}{DIGEST_MARK}{_digest(self.fields)}"


MayRead = Callable[[Request], Awaitable[bool]]


class WriterView:
    """The part of an answer that the client of a write sees: all, or only the fields that it gave if it may not read.

    Parameters:
        may_read: awaited with a write to say whether its client may read the model; never asked about the server.
    """

    __slots__ = ("_may_read",)

    def __init__(self, may_read: MayRead) -> None:
        self._may_read = may_read

    @staticmethod
    def given(req: Request) -> Collection[str]:
        """Return the names of the fields that a client gives in a write, as it came in."""
        return frozenset(req.model) if isinstance(req.model, dict) else ()

    async def check(self, req: Request, given: Collection[str]) -> None:
        """Refuse a patch whose refusal by the store would tell something of what is stored.

        Raises:
            Forbidden: the client uses an operator in a model that it may not read.
        """
        operator = first_of(given)
        if operator is not None and req.is_for_client and not await self._may_read(req):
            raise Forbidden(f"a client that may not read a model cannot {operator.verb} in it")

    async def show(self, req: Request, given: Collection[str], res: Response) -> None:
        """Leave in a response nothing of a record but what its client may see."""
        if not req.is_for_client or await self._may_read(req):
            return
        failure = res.failure
        if isinstance(failure, SyncError):
            failure.values = {
                name: value
                for name, value in failure.values.items()
                if value is None or isinstance(value, (str, int, float)) or isinstance(failure, Invalid)
            }
        else:
            res.body = None
            res.result = _only(res.result, {*given, req.backend.id_attribute})


def _only(result: Any, names: Collection[str]) -> Any:
    """Return a record, or each of several, with these fields alone; anything else as it is."""
    if isinstance(result, dict):
        return {name: value for name, value in result.items() if name in names}
    return [_only(each, names) for each in result] if isinstance(result, (list, tuple)) else result
