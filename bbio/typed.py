"""Requests of a backend that has a model: typed objects in, records for the store out.

A sync passes here twice: `enter` makes `req.model` a typed object, `plain` and `merged` make the record that a store
commits. What clients see of it is for a `View` to say. A backend without a model has none of this.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

import msgspec

from bbio.errors import Invalid
from bbio.model.operators import NAMES, OPERATORS, changed_by, operations_in, sets_of
from bbio.model.scalars import MAX_WRONG, Wrong, is_same
from bbio.model.schema import Field, Schema
from bbio.protocol import encode
from bbio.requests import Request
from bbio.view import View

UNKNOWN_FIELD = "is not a known field"
MAX_PATH_CHARACTERS = 255


class TypedEntry(msgspec.Struct, eq=False):
    """The form of a model as it came in.

    Parameters:
        id: the id of the model, as the client sent it.
        view: what the client sees.
        claims: read-only fields that the client sent along; right if they say what is stored.
        untouched: fields that the client cannot give, with the defaults that they have in the typed object.
        whole: whether the record is what an instance was, so that it lacks nothing but what is untouched.
        defaults: what the client has not given of a new model, with the defaults that it has in the typed object.
        unset: the fields of a new model that nobody has set.
    """

    id: Any
    view: View
    claims: dict[str, Any]
    untouched: dict[str, Any]
    whole: bool = False
    defaults: dict[str, Any] = {}
    unset: Collection[str] = ()


def invalid(wrong: dict[str, str]) -> Invalid:
    """The error that tells a client all that is wrong with a model."""
    fields = itertools.islice(wrong.items(), MAX_WRONG)
    return Invalid("the model is not valid", fields={path[:MAX_PATH_CHARACTERS]: message for path, message in fields})


def enter(schema: Schema, req: Request) -> None:
    """Make the model of a create, update or patch a typed object.

    Raises:
        Invalid: it is not a valid model, or has fields that the client may not set.
    """
    given = dict(req.model)
    method, key = req.method, given.pop(schema.id_attribute, None)
    entry = req.entry = TypedEntry(key, View.of_request(schema, req), {}, {})
    visible = entry.view.fields
    wrong: dict[str, str] = {}
    operations: dict[str, dict[str, Any]] = {}
    if not NAMES.isdisjoint(given):
        if method == "patch":
            operations, wrong = _entered_operations(schema, given, visible, is_trusted=req.is_trusted)
        else:
            wrong = {name: operator.refusal for name, operator in OPERATORS.items() if name in given}
        given = sets_of(given)
    for each in () if req.is_trusted else schema.protected:
        name = each.name
        if name not in given:
            continue
        if name not in visible and (each.roles or each.read_only):
            del given[name]
            if schema.unknown == "reject":
                wrong[name] = UNKNOWN_FIELD
        elif each.read_only:
            entry.claims[name] = given.pop(name)
    if method == "create":
        if key is not None:
            wrong[schema.id_attribute] = "is given by the server"
        wrong.update(
            {name: "cannot be set" for name, value in entry.claims.items() if not _is_default(schema, name, value)}
        )
    elif schema.id_attribute in schema.fields and key is not None:
        given[schema.id_attribute] = key
    if method == "patch":
        values, errors = schema.codec.examine(schema.cls, given, whole=False)
        typed: Any = values if key is None else {schema.id_attribute: key, **values}
        typed.update(operations)
    else:
        typed, errors = _read(schema, given)
    if wrong or errors:
        raise invalid({**wrong, **errors})
    if method == "create":
        entry.defaults = {name: getattr(typed, name) for name in schema.fields if name not in given}
    if method == "update":
        entry.untouched = {
            each.name: getattr(typed, each.name)
            for each in schema.protected
            if each.name not in given and (each.read_only or each.name not in visible)
        }
    req.model = typed


def _entered_operations(
    schema: Schema, given: dict[str, Any], visible: frozenset[str], *, is_trusted: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return what a client changes with operators of fields that it may set and see, and the errors in that."""
    operations, wrong = operations_in(given, schema.id_attribute)
    entered: dict[str, dict[str, Any]] = {name: {} for name in OPERATORS if name in given}
    for operator, name, operand in operations:
        field = schema.fields.get(name)
        if field is None or (name not in visible and (field.roles or field.read_only)):
            if schema.unknown == "reject":
                wrong[name] = UNKNOWN_FIELD
            continue
        if field.read_only and not is_trusted:
            wrong[name] = "cannot be changed"
        elif name not in visible:
            # What is refused, and what is not, would tell what it holds.
            wrong[name] = f"cannot be {operator.done} by who does not see it"
        elif message := operator.misfit(field, operand):
            wrong[name] = message
        entered[operator.name][name] = operand
    return entered, wrong


def _operated(schema: Schema, model: dict[str, Any], stored: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the changes that a patch with operators makes to a record, and the errors in them."""
    changes = sets_of(model)
    operations, wrong = operations_in(model, schema.id_attribute)
    for operator, name, operand in operations:
        field, held = schema.fields.get(name), stored.get(name)
        try:
            if field is None:
                changes[name] = operator.combine(held, operand)
                continue
            if held is None and not field.required and (name not in stored or field.shape.never_null):
                held = field.write(field.make_default())
            changes[name] = operator.combine_typed(field, held, operand)
        except Wrong as err:
            wrong[name] = str(err)
    return changes, wrong


def _read(schema: Schema, given: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    try:
        return schema.structure(given), {}
    except Wrong as err:
        return None, err.fields


def _is_default(schema: Schema, name: str, value: Any) -> bool:
    field = schema.fields[name]
    return not field.required and _same(field, value, field.write(field.make_default()))


def _is_as_made(field: Field, value: Any) -> bool:
    """Return whether the default of a new model is as it was made: a layer may have changed it."""
    return not isinstance(value, (list, dict)) or value == field.make_default()


def view_in(schema: Schema, req: Request | None) -> View:
    """Return the view of a client that writes; where the server itself does, that of all that anybody may see."""
    return View.public(schema) if req is None or req.entry is None else req.entry.view


def unset_in(req: Request | None) -> Collection[str]:
    """The fields of a new model that nobody has set."""
    return () if req is None or req.entry is None else req.entry.unset


def given_in(req: Request | None, record: dict[str, Any]) -> Collection[str]:
    """The fields of a record that an update or patch gives, or changes with operators."""
    assert req is not None
    if req.method == "patch":
        return [name for name in changed_by(req.model) if name in record]
    return record.keys() - (() if req.entry is None else req.entry.untouched)


def _same(field: Field, value: Any, stored: Any) -> bool:
    if is_same(value, stored):
        return True
    try:
        return bool(field.read(value) == field.read(stored))
    except Wrong:
        return False


def plain(schema: Schema, req: Request) -> Any:
    """The model of a write as JSON, for a store: what the client gave, and what layers have made of it."""
    model, key, entry = req.model, schema.id_attribute, req.entry
    if isinstance(model, dict):
        fields = schema.fields
        record = {name: fields[name].write(each) if name in fields else each for name, each in model.items()}
        if key not in record and entry is not None and entry.id is not None:
            record[key] = entry.id
        if req.method != "create":
            return record
        if entry is not None:
            entry.unset = fields.keys() - record.keys()
        return {**record, **schema.complete(record)}
    if not isinstance(model, schema.cls):
        return model
    record = schema.unstructure(model)
    if key not in schema.fields and entry is not None and entry.id is not None:
        record[key] = entry.id
    if record.get(key, ...) is None:
        del record[key]
    if entry is not None:
        entry.whole = True
        entry.unset = {
            name
            for name, value in entry.defaults.items()
            if getattr(model, name) is value and _is_as_made(schema.fields[name], value)
        }
        for name, value in entry.untouched.items():
            if getattr(model, name) is value:
                del record[name]
    return record


def merged(schema: Schema, req: Request, current: dict[str, Any] | None) -> dict[str, Any]:
    """The record that an update or patch comes to.

    Parameters:
        schema: the schema of the backend.
        req: the request; its model is JSON.
        current: the record as it is stored, None when there is none yet.

    Raises:
        Invalid: it would not be valid as a whole, or the client changes what it cannot change.
    """
    stored, entry = current or {}, req.entry
    model: dict[str, Any] = req.model
    if entry is not None and entry.whole and not entry.untouched and not entry.claims and req.method == "update":
        return model
    visible = view_in(schema, req).fields
    wrong = {}
    if entry is not None:
        for name, value in entry.claims.items():
            unchanged = (
                _same(schema.fields[name], value, stored[name]) if name in stored else _is_default(schema, name, value)
            )
            if not unchanged:
                wrong[name] = "cannot be changed"
    if req.method == "patch":
        if not NAMES.isdisjoint(model):
            model, impossible = _operated(schema, model, stored)
            wrong.update(impossible)
        record = {**stored, **model}
    else:
        kept = entry.untouched if entry is not None else ()
        record = {**{name: stored[name] for name in kept if name in stored}, **model}
    whole, errors = _completed(schema, record)
    if errors:
        given = given_in(req, record)
        # What another program has written, and the model cannot have, stays as it is.
        kept = stored.keys() - given
        odd = {name for name in map(_top, errors) if name in kept and not schema.can_have(name, stored[name])}
        if odd:
            whole, errors = _completed(schema, {name: value for name, value in record.items() if name not in odd})
            whole = {name: value for name, value in whole.items() if name not in odd}
            errors = {path: message for path, message in errors.items() if _top(path) not in odd}
    for path, message in errors.items():
        seen = not path or _top(path) in visible or _top(path) in model
        wrong[path if seen else ""] = message if seen else "the model as a whole is not valid"
    if wrong:
        raise invalid(wrong)
    return {**record, **whole}


def _completed(schema: Schema, record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A record with all of its fields, and what is wrong with it."""
    try:
        return schema.complete(record), {}
    except Wrong as err:
        return {}, err.fields


def _top(path: str) -> str:
    """The field that a path leads into."""
    return path.split(".")[0]


def as_json(schema: Schema | None, model: Any) -> Any:
    """A model that the application gives a store, an instance or JSON, as JSON."""
    return schema.unstructure(model) if schema is not None and isinstance(model, schema.cls) else model


def as_record(schema: Schema, value: Any, req: Request) -> Any:
    """A result as JSON: an instance gets the id it may lack."""
    if isinstance(value, schema.cls):
        record = schema.unstructure(value)
        if schema.id_attribute not in schema.fields and req.id is not None:
            record[schema.id_attribute] = req.id
        return record
    return value


def whole_json(schema: Schema, record: Any, body: bytes) -> bytes | None:
    """A record as JSON with all that layers may see of it; None where what is told of it is all of it."""
    whole = encode(as_json(schema, record))
    return None if whole == body else whole
