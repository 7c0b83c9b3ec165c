"""Descriptions of models for others: JSON Schema 2020-12, TypeScript declarations and AsyncAPI 3.

bbio schema todos:app --format typescript > models.d.ts
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import attrs

from bbio.model.schema import Access, Schema
from bbio.model.types import Shape

JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI = "3.0.0"

_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_LIMITS = {">=": "minimum", "<=": "maximum", ">": "exclusiveMinimum", "<": "exclusiveMaximum"}
_LENGTHS = {"string": "Length", "array": "Items", "object": "Properties"}


@attrs.frozen
class Member:
    """A field of a class, as it is described."""

    name: str
    shape: Shape
    access: Access
    default: Any
    validator: Any
    is_id: bool = False

    @property
    def seen(self) -> bool:
        """Return whether some client gets it."""
        return not self.access.private

    @property
    def given(self) -> bool:
        """Return whether some client may give it."""
        return not (self.access.read_only or self.is_id)

    @property
    def required(self) -> bool:
        """Return whether it must be given."""
        return self.default is attrs.NOTHING


class Models:
    """The classes of the models of some backends, each under a name of its own.

    Parameters:
        backends: backends by name; those without a model are left out.
    """

    def __init__(self, backends: Mapping[str, Any]) -> None:
        self.roots = {name: runtime.schema for name, runtime in backends.items() if runtime.schema is not None}
        self.names: dict[type, str] = {}
        self.members: dict[type, list[Member]] = {}
        self.open: set[type] = set()
        for schema in self.roots.values():
            for cls, shapes in schema.codec.shapes.items():
                self._add(schema, cls, shapes)

    def _add(self, schema: Schema, cls: type, shapes: dict[str, Shape]) -> None:
        if cls in self.names and cls is not schema.cls:
            return
        name = self.names.get(cls) or self._free(cls.__name__)
        self.names[cls] = name
        if schema.unknown == "drop":
            self.open.add(cls)
        members = []
        for attribute in attrs.fields(cls):
            access, is_id = Access(), False
            if cls is schema.cls:
                field = schema.fields[attribute.name]
                access, is_id = field.access, attribute.name == schema.id_attribute
            shape = shapes[attribute.name]
            if is_id:
                shape = attrs.evolve(shape, nullable=False)
            if not (access.private and access.read_only):
                members.append(Member(attribute.name, shape, access, attribute.default, attribute.validator, is_id))
        if cls is schema.cls and schema.id_attribute not in shapes:
            either = Shape(Any, "any", options=(Shape(str, "string"), Shape(int, "integer")))
            members.insert(0, Member(schema.id_attribute, either, Access(), None, None, is_id=True))
        self.members[cls] = members

    def _free(self, name: str) -> str:
        taken, number = set(self.names.values()), 1
        free = name
        while free in taken or f"New{free}" in taken or (free.startswith("New") and free[3:] in taken):
            number += 1
            free = f"{name}{number}"
        return free


# JSON Schema


def json_schema(backends: Mapping[str, Any]) -> dict[str, Any]:
    """One document in JSON Schema 2020-12, with a definition for every class.

    What clients only get is `readOnly`, what they only give is `writeOnly`; `x-roles` says whom a field is for.
    """
    models = Models(backends)
    return {
        "$schema": JSON_SCHEMA,
        "$defs": {models.names[cls]: _class_schema(models, cls, "#/$defs/") for cls in models.names},
    }


def _class_schema(models: Models, cls: type, refs: str) -> dict[str, Any]:
    members = models.members[cls]
    schema: dict[str, Any] = {
        "title": cls.__name__,
        "type": "object",
        "properties": {member.name: _member_schema(models, member, refs) for member in members},
        "required": [member.name for member in members if member.required],
    }
    if cls not in models.open:
        schema["additionalProperties"] = False
    return schema


def _member_schema(models: Models, member: Member, refs: str) -> dict[str, Any]:
    schema = _schema_of(models, member.shape, refs)
    extras = _rules(member.validator, member.shape)
    if not member.given:
        extras["readOnly"] = True
    if not member.seen:
        extras["writeOnly"] = True
    if member.access.roles:
        extras["x-roles"] = list(member.access.roles)
    if not extras:
        return schema
    return {"allOf": [schema], **extras} if "$ref" in schema else {**schema, **extras}


def _schema_of(models: Models, shape: Shape, refs: str) -> dict[str, Any]:
    schema: dict[str, Any]
    if shape.choices:
        return {"enum": [*shape.choices, *([None] if shape.nullable else [])]}
    if shape.options:
        schema = {"anyOf": [_schema_of(models, option, refs) for option in shape.options]}
    elif shape.model is not None:
        schema = {"$ref": refs + models.names[shape.model]}
    elif shape.kind == "any":
        return {}
    else:
        schema = {"type": shape.kind}
        if shape.format == "decimal":
            schema["pattern"] = r"^-?\d+(\.\d+)?$"
        elif shape.format:
            schema["format"] = shape.format
        if shape.items is not None:
            schema["items" if shape.kind == "array" else "additionalProperties"] = _schema_of(models, shape.items, refs)
    if not shape.nullable:
        return schema
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [*schema.get("anyOf", [schema]), {"type": "null"}]}


def _rules(validator: Any, shape: Shape) -> dict[str, Any]:
    """Return the validators of attrs as keywords."""
    match type(validator).__name__:
        case "_AndValidator":
            return {name: value for each in validator._validators for name, value in _rules(each, shape).items()}
        case "_OptionalValidator":
            return _rules(validator.validator, shape)
        case "_MaxLengthValidator" if shape.kind in _LENGTHS:
            return {f"max{_LENGTHS[shape.kind]}": validator.max_length}
        case "_MinLengthValidator" if shape.kind in _LENGTHS:
            return {f"min{_LENGTHS[shape.kind]}": validator.min_length}
        case "_NumberValidator" if shape.kind in ("integer", "number"):
            return {_LIMITS[validator.compare_op]: validator.bound}
    return {}


# TypeScript


def typescript(backends: Mapping[str, Any]) -> str:
    """Declarations: for every class an interface of what is read, and one (`New...`) of what may be written."""
    models = Models(backends)
    blocks = ["// Made by `bbio schema --format typescript`."]
    for cls, name in models.names.items():
        members = models.members[cls]
        blocks.append(_interface(models, name, [m for m in members if m.seen], new=False))
        blocks.append(_interface(models, f"New{name}", [m for m in members if m.given], new=True))
    roots = [f"  {_property(name)}: {models.names[schema.cls]};" for name, schema in models.roots.items()]
    blocks.append("\n".join(["/** The model of each backend. */", "export interface Backends {", *roots, "}"]))
    return "\n\n".join(blocks) + "\n"


def _interface(models: Models, name: str, members: list[Member], new: bool) -> str:
    lines = []
    for member in members:
        may_lack = not member.required if new else bool(member.access.roles)
        lines.append(
            f"  {'' if new or member.given else 'readonly '}{_property(member.name)}{'?' if may_lack else ''}: "
            f"{_type_of(models, member.shape, new)};"
        )
    return "\n".join([f"export interface {name} {{", *lines, "}"])


def _property(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else json.dumps(name)


def _type_of(models: Models, shape: Shape, new: bool) -> str:
    if shape.choices:
        text = " | ".join(json.dumps(choice) for choice in shape.choices)
    elif shape.options:
        text = " | ".join(_type_of(models, option, new) for option in shape.options)
    elif shape.model is not None:
        text = ("New" if new else "") + models.names[shape.model]
    elif shape.items is not None:
        item = _type_of(models, shape.items, new)
        text = f"Array<{item}>" if shape.kind == "array" else f"Record<string, {item}>"
    else:
        text = {"integer": "number", "any": "unknown"}.get(shape.kind, shape.kind)
    return f"{text} | null" if shape.nullable else text


# AsyncAPI


def asyncapi(backends: Mapping[str, Any], title: str) -> dict[str, Any]:
    """The channels, messages and models of an application in AsyncAPI 3: a channel is a backend's namespace.

    Parameters:
        backends: the backends by name.
        title: the name of the application.
    """
    models = Models(backends)
    refs = "#/components/schemas/"
    channels, operations, messages = {}, {}, {}
    for name in backends:
        schema = models.roots.get(name)
        model = {"type": "object"} if schema is None else {"$ref": refs + models.names[schema.cls]}
        key = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
        channel = {"$ref": f"#/channels/{key}"}
        kinds = _messages(model)
        messages.update({f"{key}.{kind}": message for kind, message in kinds.items()})
        channels[key] = {
            "address": f"/{name}",
            "title": f"The backend {name}, a namespace of Socket.IO",
            "messages": {kind: {"$ref": f"#/components/messages/{key}.{kind}"} for kind in kinds},
        }
        for kind, action in (("listen", "receive"), ("sync", "receive"), ("synced", "send")):
            operations[f"{key}.{kind}"] = operation = {
                "action": action,
                "channel": channel,
                "messages": [{"$ref": f"#/channels/{key}/messages/{kind}"}],
            }
            if action == "receive":
                operation["reply"] = {
                    "channel": channel,
                    "messages": [{"$ref": f"#/channels/{key}/messages/{kind}Reply"}],
                }
    return {
        "asyncapi": ASYNCAPI,
        "info": {"title": title, "version": "1"},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": {models.names[cls]: _class_schema(models, cls, refs) for cls in models.names},
        },
    }


def _messages(model: dict[str, Any]) -> dict[str, Any]:
    """The messages of a backend; a payload is the list of a Socket.IO event's arguments, or of an ack's."""
    methods = ["create", "read", "update", "patch", "delete"]
    error = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "message": {"type": "string"}, "code": {"type": "integer"}},
        "required": ["name", "message", "code"],
    }
    failed = {
        "type": "array",
        "items": [{"type": "object", "properties": {"error": error}, "required": ["error"]}],
        "maxItems": 1,
    }
    request = {
        "type": "object",
        "properties": {"method": {"enum": methods}, "model": {"type": "object"}, "options": {"type": "object"}},
        "required": ["method"],
        "allOf": [
            {
                "if": {"properties": {"method": {"enum": ["create", "update"]}}},
                "then": {"properties": {"model": model}},
            }
        ],
    }
    results = {"anyOf": [model, {"type": "array", "items": model}, {}]}
    return {
        "listen": _message("Join a channel of the backend.", [{"type": ["string", "null"]}, {"type": "object"}]),
        "listenReply": _message("The public options.", [{"type": "object"}]),
        "sync": _message("One request.", [request]),
        "syncReply": {
            "summary": "Its one ack.",
            "payload": {"anyOf": [failed, {"type": "array", "items": [{"type": "null"}, results], "minItems": 2}]},
        },
        "synced": _message("What another client, or the server, has changed.", [{"enum": methods}, model]),
    }


def _message(summary: str, arguments: list[dict[str, Any]]) -> dict[str, Any]:
    return {"summary": summary, "payload": {"type": "array", "items": arguments, "minItems": min(len(arguments), 1)}}
