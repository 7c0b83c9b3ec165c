"""How values of JSON are compared: one order for all of them, and patterns of texts.

Every database must come to the same; `bbio.builtin.sql` has the SQL.
"""

from __future__ import annotations

import math
import operator as operators
import re
from collections.abc import Callable
from typing import Any

import msgspec

from bbio.errors import BadRequest

Path = tuple[str, ...]
# A value as it is compared: the rank of its type, then the value, of a text only the beginning.
Key = tuple[int, Any]

# The order of types. A field that is not there comes before all.
MISSING, NULL, FALSE, TRUE, NUMBER, TEXT, OTHER = range(7)

# Texts are compared with at most so many characters, and sorted by one more: that tells the longer ones apart.
MAX_TEXT = 255

ABSENT = msgspec.UNSET
COMPARED = {"$gt": operators.gt, "$gte": operators.ge, "$lt": operators.lt, "$lte": operators.le}
OPERATORS = ("$eq", "$ne", *COMPARED, "$in", "$like")


def lookup(model: Any, path: Path) -> Any:
    """The value of a field, `ABSENT` when there is none."""
    for name in path:
        if type(model) is not dict or name not in model:
            return ABSENT
        model = model[name]
    return model


def key_of(value: Any) -> Key:
    """What a value is compared and sorted by: keys of all values have one order."""
    kind = type(value)
    if kind is str:
        return TEXT, value[: MAX_TEXT + 1]
    if kind is int or kind is float:
        return NUMBER, value
    if kind is bool:
        return (TRUE if value else FALSE), 0
    if value is None:
        return NULL, 0
    return (MISSING if value is ABSENT else OTHER), 0


def parts(pattern: str) -> list[str]:
    """What a `$like` pattern consists of: `%`, `_`, and plain characters, each of these after a backslash.

    Raises:
        BadRequest: it ends with a lone backslash.
    """
    found = re.findall(r"\\.|[^\\]", pattern, re.DOTALL)
    if sum(map(len, found)) != len(pattern):
        raise BadRequest("a pattern of $like cannot end with a single backslash; two stand for one")
    return [part if part in ("%", "_") else "\\" + part[-1] for part in found]


def like(pattern: str) -> Callable[[Any], bool]:
    """Whether a value is a text like the pattern.

    Raises:
        BadRequest: the pattern is none.
    """
    texts = [""]
    for part in parts(pattern):
        if part == "%":
            texts.append("")
        else:
            texts[-1] += "." if part == "_" else re.escape(part[1])
    if len(texts) == 1:
        regex = texts[0]
    else:
        # What has matched once is not tried again, so that no pattern takes long.
        first, *middle, last = texts
        regex = first + "".join(f"(?>.*?{text})" for text in middle) + f".*{last}"
    matches = re.compile(regex, re.DOTALL).fullmatch
    return lambda found: type(found) is str and matches(found) is not None


def comparison(operator: str, value: Any) -> Callable[[Any], bool]:
    if operator == "$like":
        return like(value)
    if operator == "$in":
        keys = frozenset(map(key_of, value))
        return lambda found: key_of(found) in keys
    key = key_of(value)
    if operator == "$eq":
        return lambda found: key_of(found) == key
    if operator == "$ne":
        return lambda found: key_of(found) != key
    rank, operand = key
    compare = COMPARED[operator]

    def holds(found: Any) -> bool:
        kind, own = key_of(found)
        return kind == rank and compare(own, operand)

    return holds


def is_double(number: Any) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def travels(text: str) -> bool:
    """Whether every database can hold a text."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
