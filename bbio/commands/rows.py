"""Rows of files as models, and models as rows: JSON Lines and CSV."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from bbio.errors import BadRequest, Invalid
from bbio.model.schema import Field, Schema
from bbio.model.types import Shape
from bbio.protocol import MAX_DEPTH, encode, parse

FORMATS = ("jsonl", "csv")
# Characters of one row: no model may be longer.
MAX_ROW_CHARACTERS = 4 << 20
WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


class UnreadableRow(Exception):
    """A row of a file is not a model; the text says why."""


def format_of(path: str, given: str | None) -> str:
    """Return the format of a file: as it is given, or as its name ends; JSON Lines by default.

    Parameters:
        path: the path of the file, `-` for stdin.
        given: the format that the user names.

    Example:
        >>> format_of("todos.csv", None), format_of("-", None)
        ('csv', 'jsonl')
    """
    return given or ("csv" if Path(path).suffix.lower() == ".csv" else "jsonl")


class Reader:
    """Reads the rows of a file, one at a time.

    Parameters:
        file: the file, as bytes.
        form: `jsonl` or `csv`.
        schema: the schema of the models, None if they may be anything.
        id_attribute: the name of the id.

    Attributes:
        line: the number of the last line that is read, from 1.
        bytes: how many bytes are read.
    """

    def __init__(self, file: IO[bytes], form: str, schema: Schema | None, id_attribute: str) -> None:
        self._file = file
        self._form = form
        self._schema = schema
        self._id_attribute = id_attribute
        self.line = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._models_of_csv() if self._form == "csv" else self._models_of_json()

    def _lines(self) -> Iterator[str]:
        encoding = "utf-8-sig"
        while line := self._file.readline(MAX_ROW_CHARACTERS + 1):
            self.line += 1
            self.bytes += len(line)
            if len(line) > MAX_ROW_CHARACTERS:
                raise UnreadableRow(f"it is longer than {MAX_ROW_CHARACTERS} bytes")
            try:
                yield line.decode(encoding)
            except UnicodeDecodeError:
                raise UnreadableRow("it is not text in UTF-8; convert the file: iconv -t UTF-8") from None
            encoding = "utf-8"

    def _models_of_json(self) -> Iterator[dict[str, Any]]:
        for line in self._lines():
            if not line.strip():
                continue
            try:
                model = parse(line, MAX_DEPTH)
            except Exception as err:
                raise UnreadableRow(f"it is not JSON: {err}") from None
            if not isinstance(model, dict):
                raise UnreadableRow('it is no JSON object, such as {"title": "milk"}; each line is a model')
            yield model

    def _models_of_csv(self) -> Iterator[dict[str, Any]]:
        rows = csv.reader(self._lines(), strict=True)
        try:
            header = next(rows, [])
            cells = self._cells(header)
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise UnreadableRow(f"it has {len(row)} cells, and the header has {len(header)}")
                yield self._model(cells, row)
        except csv.Error as err:
            raise UnreadableRow(f"it is not CSV: {err}") from None

    def _cells(self, header: list[str]) -> list[tuple[str, Callable[[str], Any]]]:
        """Return the name and the way to read of each column."""
        names = [name.strip() for name in header]
        schema = self._schema
        for name in names:
            if not name or names.count(name) > 1:
                raise UnreadableRow(f"the header must name each column once, and {name!r} is not so")
            if schema is not None and name not in schema.names:
                raise UnreadableRow(
                    f"there is no field {name!r}; the fields are {', '.join(sorted(schema.names))}. The first line of "
                    "a CSV file names its columns"
                )
        fields = {} if schema is None else schema.fields
        return [
            (name, read_id if name not in fields and name == self._id_attribute else cell_reader(fields.get(name)))
            for name in names
        ]

    def _model(self, cells: list[tuple[str, Callable[[str], Any]]], row: list[str]) -> dict[str, Any]:
        model: dict[str, Any] = {}
        wrong: dict[str, str] = {}
        for (name, read), text in zip(cells, row, strict=True):
            try:
                value = read(text)
            except ValueError as err:
                wrong[name] = str(err)
            else:
                if value is not msgspec.UNSET and not (value is None and name == self._id_attribute):
                    model[name] = value
        if wrong:
            raise Invalid("the model is not valid", fields=wrong)
        return model


def read_id(text: str) -> Any:
    """Read the id of a model, where its class says nothing of it: a whole number is a number, anything else a string.

    Example:
        >>> read_id("7"), read_id("7f1"), read_id('"7"')
        (7, '7f1', '7')
    """
    if not text:
        return msgspec.UNSET
    return int(text) if WHOLE.fullmatch(text) else _text(text)


def write_id(id: Any) -> str:
    """Write the id of a model, so that `read_id` reads the same.

    Example:
        >>> write_id(7), write_id("7f1"), write_id("7")
        ('7', '7f1', '"7"')
    """
    return encode(id).decode() if not isinstance(id, str) or WHOLE.fullmatch(id) or id[:1] == '"' else id


def cell_reader(field: Field | None) -> Callable[[str], Any]:
    """Return the function that reads a cell of CSV as JSON has it; it raises `ValueError` with a message.

    An empty cell of a field that may be null is null. Of another field that is no text it is nothing: the field has
    its default.

    Parameters:
        field: the field; None where the models may be anything, so that all is text.
    """
    if field is None:
        return str
    shape = field.shape
    is_text = shape.kind == "string" and not shape.format and not shape.choices
    empty: Any = "" if is_text else msgspec.UNSET
    if not shape.never_null:
        empty = None
    convert = _converter(shape)

    def read(text: str) -> Any:
        return convert(text) if text else empty

    return read


def _converter(shape: Shape) -> Callable[[str], Any]:
    if shape.kind == "string":
        return str if shape.never_null else _text
    if shape.kind == "boolean":
        return lambda text: _boolean(text, shape.wanted)
    return lambda text: _json(text, shape)


def _text(text: str) -> Any:
    """Read a text that may be null: in quotes of JSON where it is empty or begins with such a quote."""
    if text.startswith('"'):
        try:
            value = json.loads(text)
        except ValueError:
            return text
        return value if isinstance(value, str) else text
    return text


def _boolean(text: str, wanted: str) -> bool:
    word = text.strip().lower()
    if word in TRUE or word in FALSE:
        return word in TRUE
    raise ValueError(wanted)


def _json(text: str, shape: Shape) -> Any:
    try:
        return parse(text, MAX_DEPTH)
    except BadRequest:
        if shape.kind == "any":
            return text
        raise ValueError(shape.wanted) from None


class Writer:
    """Writes models as rows.

    Parameters:
        file: the file, as text.
        form: `jsonl` or `csv`.
        schema: the schema of the models; CSV needs one.
        id_attribute: the name of the id.
    """

    def __init__(self, file: IO[str], form: str, schema: Schema | None, id_attribute: str) -> None:
        self._file = file
        self._rows: Any = None
        self._cells: list[tuple[str, Callable[[Any], str]]] = []
        if form == "csv" and schema is not None:
            self._cells = [(name, cell_writer(field)) for name, field in schema.fields.items()]
            if id_attribute not in schema.fields:
                self._cells.insert(0, (id_attribute, write_id))
            self._rows = csv.writer(file, lineterminator="\n")
            self._rows.writerow([name for name, _ in self._cells])

    def write(self, models: Iterable[Mapping[str, Any]]) -> None:
        """Write models, each as a row."""
        if self._rows is None:
            self._file.write("".join(encode(model).decode() + "\n" for model in models))
        else:
            self._rows.writerows([write(model.get(name)) for name, write in self._cells] for model in models)


def cell_writer(field: Field) -> Callable[[Any], str]:
    """Return the function that writes a value of JSON into a cell, so that `cell_reader` reads the same.

    Parameters:
        field: the field.
    """
    shape = field.shape
    is_text, may_be_null = shape.kind == "string", not shape.never_null

    def write(value: Any) -> str:
        if value is None:
            return ""
        if is_text and isinstance(value, str) and not (may_be_null and (not value or value[0] == '"')):
            return value
        return encode(value).decode()

    return write


def stdin() -> IO[bytes]:
    """Return what is piped into the command."""
    return sys.stdin.buffer


@contextmanager
def stdout() -> Iterator[IO[str]]:
    """Write rows to the standard output, as text in UTF-8 whatever the terminal's is."""
    file = io.TextIOWrapper(sys.stdout.buffer, "utf-8", newline="")
    try:
        yield file
        file.flush()
    finally:
        file.detach()
