"""Schema: the attrs class of a backend's models, what clients may write of it, and what they get to see of it.

docs/schema.md is the guide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import attrs

from bbio.errors import DefinitionError
from bbio.model.codec import Codec
from bbio.model.scalars import Convert, Wrong, as_json, scalar_reader
from bbio.model.types import Shape, attributes_of

METADATA_KEY = "bbio"


@attrs.frozen
class Access:
    """The rights on a field: who may see and write it."""

    private: bool = False
    read_only: bool = False
    roles: tuple[str, ...] = ()


def field(
    *,
    private: bool = False,
    read_only: bool = False,
    roles: Iterable[str] = (),
    metadata: Mapping[Any, Any] | None = None,
    **options: Any,
) -> Any:
    """Declare a field of a model that not every client may see or write. It needs a default.

    Parameters:
        private: whether it never leaves the server, in no reply, event or error. Clients may set it, as a password.
        read_only: whether clients see it but cannot write it.
        roles: the roles whose users see the field and may write it; all users when empty.
        metadata: as of `attrs.field`.
        options: the options of `attrs.field`, such as `default` and `validator`.

    Returns: the attribute for the class body, as `attrs.field` does.

    Raises:
        DefinitionError: it is private and has roles.

    Example:
        >>> import attrs, bbio
        >>> @attrs.define
        ... class User:
        ...     name: str
        ...     password: str | None = bbio.field(private=True, default=None)
        ...     verified: bool = bbio.field(read_only=True, default=False)
        ...     notes: str = bbio.field(roles=("support",), default="")
    """
    roles = (roles,) if isinstance(roles, str) else tuple(roles)
    if private and roles:
        raise DefinitionError("no client sees a private field: drop either private=True or roles=(...)")
    return attrs.field(metadata={**(metadata or {}), METADATA_KEY: Access(private, read_only, roles)}, **options)


@attrs.frozen
class Field:
    """One field of a schema.

    Parameters:
        name: its name, in Python and in JSON.
        shape: what it is in JSON: kind, format, whether it may be null, choices, and what it holds.
        default: its default, an `attrs.Factory`, or `attrs.NOTHING`.
        private: whether it never leaves the server.
        read_only: whether clients cannot write it.
        roles: the roles whose users may see and write it; all users when empty.
        read: makes the Python value of a JSON value; raises `bbio.model.scalars.Wrong`.
        write: makes the JSON value of a Python value.

    Example:
        >>> import attrs
        >>> @attrs.define
        ... class Todo:
        ...     title: str
        >>> Schema(Todo).fields["title"].kind
        'string'
    """

    name: str
    shape: Shape
    default: Any
    private: bool
    read_only: bool
    roles: tuple[str, ...]
    read: Convert = attrs.field(repr=False, eq=False)
    write: Convert = attrs.field(repr=False, eq=False)

    @property
    def access(self) -> Access:
        """Return the rights on it."""
        return Access(self.private, self.read_only, self.roles)

    @property
    def type(self) -> Any:
        """Return the Python type of the field, without None."""
        return self.shape.type

    @property
    def kind(self) -> str:
        """Return its type in JSON: `string`, `integer`, `number`, `boolean`, `array`, `object` or `any`."""
        return self.shape.kind

    def make_default(self) -> Any:
        """Return the default of the field, made by its factory if it has one."""
        default = self.default
        if not isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            return default
        return None if default.takes_self else default.factory()

    @property
    def required(self) -> bool:
        """Return whether it has no default."""
        return self.default is attrs.NOTHING


class Schema:
    """The models of one backend.

    Parameters:
        cls: an attrs class.
        id_attribute: the name of the id.
        unknown: `"reject"` or `"drop"`, for fields that are not declared.

    Raises:
        DefinitionError: it is not an attrs class, or JSON has no form for the type of a field; the text shows the fix.

    Example:
        >>> import attrs
        >>> @attrs.define
        ... class Todo:
        ...     title: str
        ...     done: bool = False
        >>> [(field.name, field.kind, field.required) for field in Schema(Todo).fields.values()]
        [('title', 'string', True), ('done', 'boolean', False)]
    """

    def __init__(self, cls: Any, *, id_attribute: str = "id", unknown: str = "reject") -> None:
        if not isinstance(cls, type) or not attrs.has(cls):
            name = cls.__name__ if isinstance(cls, type) else "class Todo"
            raise DefinitionError(f"{cls!r} is not an attrs class; put @attrs.define above {name}")
        if unknown not in ("reject", "drop"):
            raise DefinitionError(f"unknown = {unknown!r}: fields that are not declared are 'reject'ed or 'drop'ped")
        self.cls: type = cls
        self.id_attribute = id_attribute
        self.unknown = unknown
        self.codec = Codec(unknown == "reject")
        self.codec.add(cls)
        # What is stored may hold fields of an earlier version of the class.
        self._stored = Codec(False)
        self._stored.add(cls)
        self.fields = {attribute.name: self._field(attribute) for attribute in attributes_of(cls)}
        for inner in self.codec.shapes:
            marked = [a.name for a in attrs.fields(inner) if METADATA_KEY in a.metadata and inner is not cls]
            if marked:
                raise DefinitionError(
                    f"{inner.__name__}.{marked[0]} is marked by bbio.field(...), which is for the fields of "
                    f"{cls.__name__} alone; mark the field that holds the {inner.__name__}"
                )
        self.public = frozenset({id_attribute, *(name for name, each in self.fields.items() if not each.private)})
        self.names = frozenset({id_attribute, *self.fields})
        # Those that not every client may see and write.
        self.protected = [
            each
            for name, each in self.fields.items()
            if (each.private or each.read_only or each.roles) and name != id_attribute
        ]
        # The roles that some field is for.
        self.roles = frozenset(role for each in self.fields.values() for role in each.roles)

    def _field(self, attribute: Any) -> Field:
        access = attribute.metadata.get(METADATA_KEY, Access())
        name, where = attribute.name, f"{self.cls.__name__}.{attribute.name}"
        if name == self.id_attribute:
            if attribute.default is attrs.NOTHING:
                raise DefinitionError(
                    f"{where} needs a default, as a new model has no id yet; write {name}: str | None = None"
                )
            if access != Access(read_only=access.read_only):
                raise DefinitionError(f"{where} is the id, which everybody sees; drop private=True or roles=(...)")
        elif access != Access() and attribute.default is attrs.NOTHING:
            raise DefinitionError(
                f"{where} needs a default, for clients who cannot give it; write bbio.field(..., default=None)"
            )
        shape = self.codec.shapes[self.cls][name]
        return Field(
            name,
            shape,
            attribute.default,
            access.private,
            access.read_only,
            access.roles,
            self.codec.reader(shape),
            self.codec.writer(shape),
        )

    def __repr__(self) -> str:
        return f"<Schema {self.cls.__name__}>"

    def visible(self, roles: Iterable[str] = ()) -> frozenset[str]:
        """Return the names of the fields, and of the id, that a user sees.

        Parameters:
            roles: the roles of the user.
        """
        if not self.roles:
            return self.public
        held = set(roles)
        return self.public - {name for name, each in self.fields.items() if each.roles and not held & set(each.roles)}

    def structure(self, model: Any) -> Any:
        """Make an instance from JSON.

        Parameters:
            model: the model, a dict as JSON has it.

        Raises:
            Wrong: the model is not valid; it has everything that is wrong, by field.
        """
        return self.codec.read(self.cls, model)

    def unstructure(self, instance: Any) -> dict[str, Any]:
        """Return an instance as JSON, a dict with all of its fields.

        Parameters:
            instance: an instance of the class.
        """
        return self.codec.write(self.cls, instance)

    def load(self, record: Mapping[str, Any]) -> Any:
        """Make an instance of a record that is stored, with defaults for the fields that it lacks, and with its id.

        Where the class has no field for the id, the instance is of a class derived from it that has.

        Parameters:
            record: the record, a dict as JSON has it.

        Raises:
            Wrong: the record is not valid.
        """
        instance = self._stored.read(self.cls, self._known(record))
        key = self.id_attribute
        if key in self.fields or key not in record or self._with_id is None:
            return instance
        made: Any = object.__new__(self._with_id)
        for name in self.fields:
            object.__setattr__(made, name, getattr(instance, name))
        object.__setattr__(made, key, record[key])
        return made

    @cached_property
    def _with_id(self) -> type | None:
        """The class of instances that have an id besides the fields; None where its name can be no attribute."""
        cls, key = self.cls, self.id_attribute
        if not key.isidentifier() or hasattr(cls, key):
            return None
        body = {"__slots__": (key,), "__module__": cls.__module__, "__qualname__": cls.__qualname__}
        return type(cls.__name__, (cls,), {**body, "__doc__": cls.__doc__})

    def unstructure_with_id(self, instance: Any) -> dict[str, Any]:
        """Return an instance as JSON, with its id if it has one.

        Parameters:
            instance: an instance of the class, such as `load` has made.
        """
        key = self.id_attribute
        record = self.unstructure(instance)
        if key not in self.fields and (with_id := self._with_id) is not None and isinstance(instance, with_id):
            record[key] = getattr(instance, key)
        if record.get(key, ...) is None:
            del record[key]
        return record

    def stored(self, path: tuple[str, ...], value: Any) -> Any:
        """A value that a field is compared with, in the form that the field is stored in: a time in UTC, and the like.

        A list is compared with by the values in it.

        What the field cannot have is left as it is, and equals nothing.
        """
        shapes: dict[str, Shape] | None = self.codec.shapes[self.cls]
        shape: Shape | None = None
        for name in path:
            shape = None if shapes is None else shapes.get(name)
            shapes = None if shape is None or shape.model is None else self.codec.shapes[shape.model]
        if shape is not None and shape.kind == "array":
            shape = shape.items
        if shape is None or not shape.format:
            return value
        try:
            return as_json(scalar_reader(shape)(value))
        except Wrong:
            return value

    def complete(self, record: dict[str, Any]) -> dict[str, Any]:
        """The declared fields of a record that is stored or is to be, with defaults for those it lacks.

        A column of a database may hold null where there has never been a value.

        Raises:
            Wrong: it is not valid.
        """
        return self._stored.write(self.cls, self._stored.read(self.cls, self._known(record)))

    def _known(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a record has of the fields; null in a field that cannot be null is what it lacks."""
        fields = self.fields
        return {
            name: value
            for name, value in record.items()
            if name in fields and not (value is None and fields[name].shape.never_null)
        }

    def can_have(self, name: str, value: Any) -> bool:
        """Return whether a field can be read of a value that is stored, be it allowed or not."""
        try:
            self._stored.reader(self.fields[name].shape)(value)
        except Wrong:
            return False
        return True

    def shown(self, value: Any, visible: frozenset[str]) -> Any:
        """Return the visible part of a model, or of a list of models: declared fields alone.

        Parameters:
            value: an instance, a record, a list of these, or anything else, which stays as it is.
            visible: the names of the fields.
        """
        if isinstance(value, self.cls):
            value = self.unstructure(value)
        if isinstance(value, dict):
            return {name: each for name, each in value.items() if name in visible}
        if isinstance(value, (list, tuple)):
            return [self.shown(each, visible) for each in value]
        if attrs.has(type(value)):
            raise TypeError(f"{type(value).__name__} is not {self.cls.__name__}, the model of this backend")
        return value
