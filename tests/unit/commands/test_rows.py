"""Rows of files as models, and models as rows."""

from __future__ import annotations

import io
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

import attrs
import pytest

from bbio.commands.rows import MAX_ROW_CHARACTERS, Reader, UnreadableRow, Writer
from bbio.errors import Invalid
from bbio.model.schema import Schema


class Size(Enum):
    SMALL = 1
    LARGE = 2


@attrs.define
class Item:
    title: str
    note: str | None = None
    count: int = 3
    ratio: float | None = None
    done: bool = False
    price: Decimal | None = None
    day: date = date(2026, 1, 1)
    size: Size = Size.SMALL
    kind: Literal["a", "b"] = "a"
    tags: list[str] = attrs.field(factory=list)
    any: Any = None
    either: str | int = ""


SCHEMA = Schema(Item)


def read(text: str | bytes, form: str = "csv", schema: Schema | None = SCHEMA) -> list[dict[str, Any]]:
    return list(Reader(io.BytesIO(text.encode() if isinstance(text, str) else text), form, schema, "id"))


def written(models: list[dict[str, Any]], form: str = "csv", schema: Schema | None = SCHEMA) -> str:
    file = io.StringIO()
    Writer(file, form, schema, "id").write(models)
    return file.getvalue()


@pytest.mark.parametrize(
    "model",
    [
        {"id": 7},
        {"id": "7"},
        {"id": '"x"'},
        {"note": "", "either": 7, "any": {"a": [1, "x"]}},
        {"note": '"', "either": "7", "any": "text"},
        {"note": '"quoted"', "either": "plain", "any": "1"},
        {"note": 'a,b\n"c"', "tags": ["a", "b,c"], "ratio": 0.5, "price": "1.50"},
        {"title": "", "count": -1, "done": True, "day": "2026-02-03", "size": 2, "kind": "b", "ratio": -1},
        {"title": " spaces ", "any": None, "ratio": None},
        {"note": "no"},
    ],
)
def test_what_is_written_is_read(model: dict[str, Any]) -> None:
    """Every field of every type, in both formats."""
    record = SCHEMA.unstructure(Item("x")) | {"id": "a"} | model
    for form in ("csv", "jsonl"):
        assert read(written([record, record], form), form) == [record, record]


def test_cells_become_what_the_fields_are() -> None:
    """Empty cells, words for true and false, a mark at the beginning of the file, lines that are empty."""
    text = "\ufefftitle,note,count,done,any,either\n\n,,,YES,,x\nb,c,7,0,free text,\n"
    assert read(text) == [
        {"title": "", "note": None, "done": True, "any": None, "either": "x"},
        {"title": "b", "note": "c", "count": 7, "done": False, "any": "free text"},
    ]
    assert read("id,title\n,a\n") == [{"title": "a"}]
    assert read("id,n\n7,7\nx,\n", schema=None) == [{"id": 7, "n": "7"}, {"id": "x", "n": ""}]
    assert read("") == []
    assert read('{"a": 1}\n\n  {"b": 2}', "jsonl", None) == [{"a": 1}, {"b": 2}]


def test_quotes_that_are_no_json_are_text() -> None:
    """Another program need not write what `bbio export` writes; an id may be a field of the class."""
    assert read('note\n"""Hello"" he said"\n') == [{"note": '"Hello" he said'}]
    assert read('note\n"[""a""]"\n') == [{"note": '["a"]'}]

    @attrs.define
    class Named:
        id: str | None = None

    schema = Schema(Named)
    assert read(written([{"id": "7"}], schema=schema), schema=schema) == [{"id": "7"}]


@pytest.mark.parametrize(
    ("text", "form", "message"),
    [
        ("title,wrong\na,b\n", "csv", "there is no field 'wrong'; the fields are any, count"),
        ("title,title\na,b\n", "csv", "'title' is not so"),
        ("title,\na,b\n", "csv", "'' is not so"),
        ("title,note\na\n", "csv", "it has 1 cells, and the header has 2"),
        ('title\n"a"b\n', "csv", "it is not CSV"),
        (b"title\n\xff\n", "csv", "not text in UTF-8"),
        ("title\n" + "x" * (MAX_ROW_CHARACTERS + 1), "csv", "longer than"),
        ("{", "jsonl", "it is not JSON"),
        ("[1]", "jsonl", "it is no JSON object"),
    ],
)
def test_rows_that_cannot_be_read_are_said(text: str | bytes, form: str, message: str) -> None:
    """What is wrong, in words for who has made the file."""
    with pytest.raises(UnreadableRow, match=message):
        read(text, form)


def test_cells_that_do_not_fit_are_named() -> None:
    """All of them, each with what it must be; a line is counted where a cell has several."""
    reader = Reader(io.BytesIO(b'title,count,done,tags\n"a\nb",x,perhaps,1\n'), "csv", SCHEMA, "id")
    with pytest.raises(Invalid) as caught:
        list(reader)
    assert caught.value.fields == {"count": "must be a whole number", "done": "must be true or false"}
    assert reader.line == 3
    assert reader.bytes == len(b'title,count,done,tags\n"a\nb",x,perhaps,1\n')
