"""Codec: from JSON to instances of attrs classes and back. cattrs makes the functions for whole classes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from bbio.errors import DefinitionError, EncodingError
from bbio.model.rules import converted, default_of, judge
from bbio.model.scalars import (
    MAX_WRONG,
    Convert,
    Wrong,
    as_json,
    listed,
    mapped,
    place_of,
    refusal,
    scalar_reader,
    under,
)
from bbio.model.types import JSON_KINDS, WANTED, Shape, attributes_of, kinds_of, models_in, shape_of


class Codec:
    """Reads and writes attrs classes.

    Parameters:
        reject_unknown: whether fields that a class does not declare are wrong; they are dropped otherwise.
    """

    def __init__(self, reject_unknown: bool) -> None:
        self.reject_unknown = reject_unknown
        self.shapes: dict[type, dict[str, Shape]] = {}
        self._converter = Converter(detailed_validation=False)
        # Two ways to read: one that stops at the first mistake, and one that looks at everything and tells all of it.
        # Each is linear: a way that began with the quick one at every level would double the work with each.
        self._quick: dict[type, Convert] = {}
        self._thorough: dict[type, Convert] = {}
        self._fields: dict[type, dict[str, Convert]] = {}
        self._writers: dict[type, Convert] = {}

    def add(self, cls: type) -> None:
        """Learn a class, and those that its fields hold.

        Raises:
            DefinitionError: a field can not travel.
        """
        if cls in self.shapes:
            return
        shapes = self.shapes[cls] = {}
        for attribute in attributes_of(cls):
            where = f"{cls.__name__}.{attribute.name}"
            if attribute.name.startswith("_") or not attribute.init:
                raise DefinitionError(
                    f"{where} cannot be given by its name; rename it without '_', with init=True, or make it a property"
                )
            if attribute.type is None:
                raise DefinitionError(f"{where} has no type; write {attribute.name}: str")
            shape = shapes[attribute.name] = shape_of(attribute.type, where)
            for model in models_in(shape):
                self.add(model)
        hooks: dict[str, Any] = {
            name: override(struct_hook=_hook(self._reader(shape, self._quick))) for name, shape in shapes.items()
        }
        structure: Callable[[Any, Any], Any] = make_dict_structure_fn(
            cls,
            self._converter,
            _cattrs_forbid_extra_keys=self.reject_unknown,
            _cattrs_detailed_validation=False,
            **hooks,
        )
        self._quick[cls] = _quick_reader(cls, structure)
        self._thorough[cls] = self._thorough_reader(cls)
        self._fields[cls] = {name: self.reader(shape) for name, shape in shapes.items()}
        hooks = {name: override(unstruct_hook=self.writer(shape)) for name, shape in shapes.items()}
        self._writers[cls] = make_dict_unstructure_fn(cls, self._converter, **hooks)

    def read(self, cls: type, value: Any) -> Any:
        """An instance from JSON.

        Raises:
            Wrong: it is not a valid model; the error lists everything that is wrong.
        """
        try:
            return self._quick[cls](value)
        except Exception:
            return self._thorough[cls](value)

    def write(self, cls: type, instance: Any) -> dict[str, Any]:
        """The JSON of an instance."""
        try:
            return self._writers[cls](instance)  # type: ignore[no-any-return]
        except EncodingError as err:
            err.locate(place_of(err.value, instance, cls.__name__) or cls.__name__)
            raise

    def _thorough_reader(self, cls: type) -> Convert:
        names = {attribute.name: attribute.alias for attribute in attrs.fields(cls)}

        def convert(value: Any) -> Any:
            if type(value) is not dict:
                raise Wrong({"": WANTED["object"]})
            values, wrong = self.examine(cls, value)
            if wrong:
                raise Wrong(wrong)
            try:
                return cls(**{names[name]: each for name, each in values.items()})
            except (ValueError, AssertionError) as err:
                # A rule of the model as a whole, from `__attrs_post_init__`.
                raise Wrong({"": str(err)}) from None

        return convert

    def examine(self, cls: type, value: dict[str, Any], whole: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
        """The values of the fields of a model, and all that is wrong with them.

        Parameters:
            cls: the class.
            value: the model as JSON.
            whole: whether fields that are not there have their defaults, or are required.
        """
        values: dict[str, Any] = {}
        wrong: dict[str, str] = {}
        readers = self._fields[cls]
        # What validators look at; made without __init__, which would stop at the first of them.
        draft: Any = object.__new__(cls)
        for attribute in attrs.fields(cls):
            name = attribute.name
            if name in value:
                try:
                    values[name] = readers[name](value[name])
                except Wrong as err:
                    wrong.update({under(name, path): message for path, message in err.fields.items()})
                    continue
            elif not whole:
                continue
            elif attribute.default is attrs.NOTHING:
                wrong[name] = "is required"
                continue
            try:
                held = converted(attribute, values[name] if name in values else default_of(attribute, draft), draft)
            except (ValueError, TypeError):
                wrong[name] = "is not valid"
            except AttributeError as err:
                if err.obj is not draft:
                    raise
                # A default that is made of another field, which is wrong itself.
            else:
                object.__setattr__(draft, name, held)
        if self.reject_unknown:
            unknown = itertools.islice((name for name in value if name not in readers), MAX_WRONG)
            wrong.update(dict.fromkeys(unknown, "is not a known field"))
        for attribute in attrs.fields(cls):
            if attribute.validator is not None and hasattr(draft, attribute.name) and attribute.name not in wrong:
                message = judge(attribute.validator, draft, attribute, getattr(draft, attribute.name))
                if message:
                    wrong[attribute.name] = message
        return values, wrong

    def reader(self, shape: Shape) -> Convert:
        """Turn JSON into a value of that shape; raise Wrong if it does not fit."""
        return self._reader(shape, self._thorough)

    def _reader(self, shape: Shape, classes: dict[type, Convert]) -> Convert:
        convert = self._reader_of_some(shape, classes)
        if not shape.nullable:
            return convert
        return lambda value: None if value is None else convert(value)

    def _reader_of_some(self, shape: Shape, classes: dict[type, Convert]) -> Convert:
        if shape.options:
            return self._option_reader(shape, classes)
        if shape.model is not None:
            model = shape.model
            return lambda value: classes[model](value)
        if shape.items is not None:
            made = listed if shape.kind == "array" else mapped
            return made(shape, self._reader(shape.items, classes))
        return scalar_reader(shape)

    def _option_reader(self, shape: Shape, classes: dict[type, Convert]) -> Convert:
        readers = {kind: self._reader(option, classes) for option in shape.options for kind in kinds_of(option)}
        readers.setdefault("integer", readers.get("number", refusal(shape)))
        refuse = refusal(shape)
        return lambda value: readers.get(JSON_KINDS.get(type(value), ""), refuse)(value)

    def writer(self, shape: Shape) -> Convert:
        """Turn a value of that shape into JSON."""
        if shape.model is not None:
            model = shape.model
            convert: Convert = lambda value: self._writers[model](value)  # noqa: E731
        elif shape.items is not None and shape.items.kind != "any":
            item = self.writer(shape.items)
            if shape.kind == "array":
                convert = lambda value: [item(each) for each in value]  # noqa: E731
            else:
                convert = lambda value: {key: item(each) for key, each in value.items()}  # noqa: E731
        elif shape.options:
            convert = self._option_writer(shape)
        else:
            return as_json
        return lambda value: None if value is None else convert(value)

    def _option_writer(self, shape: Shape) -> Convert:
        def convert(value: Any) -> Any:
            written = self._writers.get(type(value))
            return written(value) if written else as_json(value)

        return convert


def _quick_reader(cls: type, structure: Callable[[Any, Any], Any]) -> Convert:
    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise Wrong({"": WANTED["object"]})
        return structure(value, cls)

    return convert


def _hook(convert: Convert) -> Callable[[Any, Any], Any]:
    return lambda value, _: convert(value)
