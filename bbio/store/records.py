"""The rules of a write to one record, the same in all stores: whether it may be made, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from bbio.errors import BadRequest, Conflict, NotFound
from bbio.model.operators import NAMES, operated, refused_operator
from bbio.model.scalars import is_same
from bbio.model.schema import Schema
from bbio.protocol import decode
from bbio.requests import NOTIFIED_AS, RULES, Request
from bbio.typed import merged
from bbio.view import missing

# A record as it was at the revision that a write builds on, as JSON; None where that is not known.
Base = Callable[[Request, Any], bytes | None]


# What others are told of each sync method, of a record that was there and of one that was not: an upsert is a create,
# for who holds the whole collection lacks it.
TOLD_AS = (NOTIFIED_AS, {method: told if method == "delete" else "create" for method, told in NOTIFIED_AS.items()})
NEED_IDS = frozenset(method for method, rules in RULES.items() if rules.needs_id)


class Records:
    """The rules of the records of one store.

    Parameters:
        schema: the schema of the backend, None when its models may be anything.
        id_attribute: the name of the id.
        upsert: whether an update or patch of an unknown id creates the record.
        as_planned: whether a record is stored just as it is planned; else whoever stores it looks itself whether the
            client may have what it came to.

    Example:
        >>> req = Request("patch", {"id": 7, "done": True})
        >>> Records(None, "id").plan(req, 7, (3, b'{"id":7,"title":"milk"}'))
        ({'id': 7, 'title': 'milk', 'done': True}, {'id': 7, 'title': 'milk'})
    """

    __slots__ = ("_as_planned", "_id_attribute", "_schema", "_upsert")

    def __init__(self, schema: Schema | None, id_attribute: str, upsert: bool = False, as_planned: bool = True) -> None:
        self._as_planned = as_planned
        self._schema = schema
        self._id_attribute = id_attribute
        self._upsert = upsert

    def check(self, req: Request, key: Any) -> None:
        """Refuse a write that makes no sense, whatever is stored.

        Parameters:
            req: the request.
            key: the id in its model, None when there is none.

        Raises:
            BadRequest: it gives an id to a new record, names none of another, or has operators and is no patch.
        """
        method = req.method
        if key is None:
            if method in NEED_IDS:
                raise BadRequest(f"{method} needs the model's {self._id_attribute!r}")
        elif method == "create":
            raise BadRequest(f"ids are given by the server; create without {self._id_attribute!r}")
        if method in ("create", "update") and not NAMES.isdisjoint(req.model):
            raise refused_operator(req.model)

    def plan(
        self, req: Request, key: Any, current: tuple[int, bytes] | None, base: Base = lambda req, key: None
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return the record that a write comes to, of a delete as it is, and the record that is stored.

        Parameters:
            req: the request, which is checked.
            key: the id of the record.
            current: its revision and the record as JSON, None where there is none.
            base: called with the request and the id, returns the record as it was at the revision that it builds on.

        Raises:
            NotFound: there is no such record, or the client may not have it.
            Forbidden: the client may not have what the record would be.
            Conflict: what the request builds on was changed.
            Invalid: the record would not be valid, or the client may not change a field.
            BadRequest: an operator of a patch cannot change what a field holds.
        """
        model: dict[str, Any] = req.model
        method = req.method
        stored: dict[str, Any] | None = None
        if method == "create":
            record = {**model, self._id_attribute: key}
        elif current is None:
            if not (self._upsert or req.is_upsert) or method == "delete":
                raise self.unknown(key)
            record = self.merged(req, None)
        else:
            rev, body = current
            stored = before = decode(body)
            if req.scope is not None and not req.scope.sees(before):
                raise self.unknown(key)
            if req.rev is not None and req.rev < rev and self._is_overtaken(req, before, key, base):
                raise Conflict("the model was changed by someone else", current=before, rev=rev)
            if method == "delete":
                return before, before
            record = self._changed(req, before)
        if req.scope is not None and self._as_planned:
            req.scope.check_written(stored, record)
        return record, stored

    def _changed(self, req: Request, stored: dict[str, Any]) -> dict[str, Any]:
        """Return the record that an update or a patch of a stored one comes to."""
        if self._schema is None:
            model: dict[str, Any] = req.model
            if req.method == "update":
                return model
            return {**stored, **model} if NAMES.isdisjoint(model) else self.merged(req, stored)
        record = merged(self._schema, req, stored)
        if not stored.keys() <= record.keys():
            # Of fields that the schema does not know, a later version of it may.
            fields = self._schema.fields
            record = record | {
                name: value for name, value in stored.items() if name not in fields and name not in record
            }
        return record

    def merged(self, req: Request, current: dict[str, Any] | None) -> dict[str, Any]:
        """Return the record that an update or patch results in; see `Store.merged`."""
        if self._schema is not None:
            return merged(self._schema, req, current)
        model: dict[str, Any] = req.model
        if req.method != "patch":
            return model
        stored = current or {}
        return {**stored, **(model if NAMES.isdisjoint(model) else operated(model, stored, self._id_attribute))}

    def unknown(self, key: Any) -> NotFound:
        """Return the error of a record that is not there."""
        return missing(self._id_attribute, key)

    def _is_overtaken(self, req: Request, stored: dict[str, Any], key: Any, base: Base) -> bool:
        """Return whether a write builds on what was changed since the revision that it names.

        A patch builds on the fields that it sets: it is overtaken when one of them was changed, to another value than
        it sets. A field that an operator changes may be anything by then. Any other write builds on the whole record.
        """
        if req.method != "patch":
            return True
        if not NAMES.isdisjoint(req.model) and req.model.keys() <= {*NAMES, self._id_attribute}:
            return False
        body = base(req, key)
        if body is None:
            return True
        before = decode(body)
        return any(
            not is_same(stored.get(name, UNSET), before.get(name, UNSET))
            and not is_same(stored.get(name, UNSET), value)
            for name, value in req.model.items()
            if name != self._id_attribute
        )
