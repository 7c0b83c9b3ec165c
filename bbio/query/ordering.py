"""The order of JSON values, one for all of them, and patterns of strings.

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
from bbio.query.steps import Steps, run

Path = tuple[str, ...]
# A value as it is compared: the rank of its type, then the value, of a text only the beginning.
Key = tuple[int, Any]

# The order of types. A field that is not there comes before all.
MISSING, NULL, FALSE, TRUE, NUMBER, TEXT, OTHER = range(7)

# Texts are compared with at most so many characters, and sorted by one more: that tells the longer ones apart.
MAX_TEXT = 255

# Characters of a text, and values of a list, that are compared in one step.
STEP_CHARACTERS = 4_096
STEP_VALUES = 4_096

ABSENT = msgspec.UNSET
COMPARED = {"$gt": operators.gt, "$gte": operators.ge, "$lt": operators.lt, "$lte": operators.le}
COMPARISONS = ("$eq", "$ne", *COMPARED, "$in", "$contains", "$like")


def lookup(model: Any, path: Path) -> Any:
    """The value of a field, `ABSENT` when there is none."""
    for name in path:
        if type(model) is not dict or name not in model:
            return ABSENT
        model = model[name]
    return model


def key_of(value: Any) -> Key:
    """Return the key that a value is compared and sorted by: keys of all values have one order."""
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
    """Split a `$like` pattern into its parts: `%`, `_`, and plain characters, each of these after a backslash.

    Raises:
        BadRequest: it ends with a lone backslash.
    """
    found = re.findall(r"\\.|[^\\]", pattern, re.DOTALL)
    if sum(map(len, found)) != len(pattern):
        raise BadRequest("a pattern of $like cannot end with a single backslash; two stand for one")
    return [part if part in ("%", "_") else "\\" + part[-1] for part in found]


class Like:
    """A test of values against a pattern of strings; its time grows with the length of the string alone.

    Parameters:
        pattern: the pattern.

    Raises:
        BadRequest: it is none.

    Example:
        >>> Like("mi%k")("milk")
        True
    """

    __slots__ = ("_any", "_end", "_known", "_stay", "_texts")
    judges = str  # values of another type are not like it

    def __init__(self, pattern: str) -> None:
        found = parts(pattern)
        self._texts: list[str] | None = None
        if "_" not in found:
            self._texts = "".join("\0" if part == "%" else part[1] for part in found).split("\0")
            return
        # A bit for each character of the pattern: which of them a character is like, and before which any may come.
        self._any = self._stay = self._end = 0
        self._known: dict[str, int] = {}
        for part in found:
            bit = 1 << self._end
            if part == "%":
                self._stay |= bit
                continue
            if part == "_":
                self._any |= bit
            else:
                self._known[part[1]] = self._known.get(part[1], 0) | bit
            self._end += 1
        self._known = {character: bits | self._any for character, bits in self._known.items()}

    def __call__(self, value: Any) -> bool:
        return type(value) is self.judges and run(self.steps(value))

    def steps(self, text: Any) -> Steps[bool]:
        """Test a text, in steps."""
        if self._texts is not None:
            return _has_in_order(text, self._texts)
        # Bit n: what was read so far is like the first n characters of the pattern.
        state, known, like_any, stay = 1, self._known.get, self._any, self._stay
        for begin in range(0, len(text), STEP_CHARACTERS):
            for character in text[begin : begin + STEP_CHARACTERS]:
                state = (state & known(character, like_any)) << 1 | state & stay
            if not state:
                return False
            yield
        return bool(state >> self._end & 1)


def _has_in_order(text: str, texts: list[str]) -> bool:
    """Return whether a text begins with the first of some texts, ends with the last and has the others between."""
    if len(texts) == 1:
        return text == texts[0]
    first, *middle, last = texts
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for wanted in middle:
        at = text.find(wanted, at, end)
        if at < 0:
            return False
        at += len(wanted)
    return True


class Contains:
    """A test whether a value is a list that has a value in it.

    Parameters:
        wanted: the value: a string, a number, true, false or null.

    Example:
        >>> Contains("ann")(["bob", "ann"])
        True
    """

    __slots__ = ("_key", "_types", "_wanted")
    judges = list  # values of another type contain nothing

    def __init__(self, wanted: Any) -> None:
        self._wanted = wanted
        self._key = key_of(wanted)
        self._types = (int, float) if self._key[0] == NUMBER else (type(wanted),)

    def __call__(self, value: Any) -> bool:
        return type(value) is self.judges and run(self.steps(value))

    def steps(self, values: Any) -> Steps[bool]:
        """Test a list, in steps."""
        key, types = self._key, self._types
        for begin in range(0, len(values), STEP_VALUES):
            some = values[begin : begin + STEP_VALUES]
            # Most have nothing that is equal, which Python finds out in a tenth of the time.
            if self._wanted in some:
                for value in some:
                    if type(value) in types and key_of(value) == key:
                        return True
            yield
        return False


def comparison(operator: str, value: Any) -> Callable[[Any], bool]:
    if operator == "$like":
        return Like(value)
    if operator == "$contains":
        return Contains(value)
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
    """Return whether every database can hold a text."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
