"""Patterns of channel names, such as `project-{project}`: which names they have, and what stands for their parts.

A name is looked at once from left to right, whatever it holds: a part ends where the text that follows it stands first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from keyword import iskeyword
from typing import Any, NamedTuple
from uuid import UUID

import attrs

from bbio.errors import DefinitionError

# Characters of a channel's name.
MAX_PATTERN = 255
# Names of parts that a layer takes for something else.
RESERVED = frozenset({"self", "req", "res", "next", "err", "record"})
# Categories of characters that nobody sees, and that no name needs; and marks that turn the direction of a text.
_UNSEEN = frozenset({"Cc", "Cn", "Co", "Cs", "Zl", "Zp"})
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_INTEGER = re.compile("0|[1-9][0-9]{0,17}")
CANONICAL_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEX = frozenset("0123456789abcdef-")
_DIGITS = frozenset("0123456789")


def is_clean(text: str) -> bool:
    """Return whether a text shows all that it is: in the form NFC, and without control characters.

    Parameters:
        text: the text.

    Example:
        >>> is_clean("zoë"), is_clean("zoe\\u0308"), is_clean("a\\nb")
        (True, False, False)
    """
    if text.isascii():
        return text.isprintable()
    if not _TURNS.isdisjoint(text) or any(unicodedata.category(each) in _UNSEEN for each in text):
        return False
    return unicodedata.is_normalized("NFC", text)


def _read_text(text: str) -> str | None:
    return text if is_clean(text) else None


def _read_int(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None


def _read_uuid(text: str) -> UUID | None:
    return UUID(text) if CANONICAL_UUID.fullmatch(text) else None


class _Kind(NamedTuple):
    read: Callable[[str], Any]
    # The characters that it may have, None for any.
    characters: frozenset[str] | None


_KINDS = {"": _Kind(_read_text, None), "int": _Kind(_read_int, _DIGITS), "uuid": _Kind(_read_uuid, _HEX)}


class _Token(NamedTuple):
    """One character of a name, or any number of them: one of some, or any one."""

    characters: frozenset[str] | None
    repeats: bool = False

    def meets(self, other: _Token) -> bool:
        if self.characters is None or other.characters is None:
            return True
        return not self.characters.isdisjoint(other.characters)


@attrs.frozen
class ChannelPattern:
    """The pattern of some channel names.

    Parameters:
        text: the pattern as it is written.
        names: the names of its parts.
        kinds: the kind of each part: empty for any text, `int` or `uuid`.
        literals: the texts before, between and after the parts: one more than there are parts.

    Example:
        >>> pattern = ChannelPattern.parse("{org}/project-{number:int}")
        >>> pattern.match("acme/project-7"), pattern.match("acme/project-seven"), pattern.match("acme")
        (('acme', 7), None, None)
    """

    text: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    literals: tuple[str, ...]

    @classmethod
    def parse(cls, text: Any) -> ChannelPattern:
        """Read a pattern.

        Parameters:
            text: the pattern; empty for the default channel.

        Raises:
            DefinitionError: it is not one; the text shows the fix.
        """
        where = f"@channel({text!r})"
        if not isinstance(text, str):
            raise DefinitionError(f"{where}: name the channels: @channel('project-{{project}}')")
        if len(text) > MAX_PATTERN or not is_clean(text):
            raise DefinitionError(
                f"{where}: a pattern has at most {MAX_PATTERN} characters, in the form NFC and none of control"
            )
        literals, parts = _split(text, where)
        names = tuple(name for name, _ in parts)
        for name in names:
            if not name.isidentifier() or iskeyword(name) or name in RESERVED:
                raise DefinitionError(
                    f"{where}: {name!r} cannot name a part; write {{project}}, as a parameter is named"
                )
            if names.count(name) > 1:
                raise DefinitionError(f"{where}: {name!r} is there twice; give each part a name of its own")
        for name, kind in parts:
            if kind not in _KINDS:
                raise DefinitionError(
                    f"{where}: there is no kind {kind!r}; write {{{name}}} for any text, {{{name}:int}} or "
                    f"{{{name}:uuid}}"
                )
        for between in literals[1:-1]:
            if not between:
                raise DefinitionError(f"{where}: nothing parts two parts; write a text between them, such as '-'")
        return cls(text, names, tuple(kind for _, kind in parts), literals)

    def match(self, name: str) -> tuple[Any, ...] | None:
        """Return what stands in a name for each part; None if the pattern does not have that name.

        Parameters:
            name: the name of a channel; empty for the default one.
        """
        first, last = self.literals[0], self.literals[-1]
        if not self.names:
            return () if name == first else None
        start, end = len(first), len(name) - len(last)
        if start >= end or not name.startswith(first) or not name.endswith(last):
            return None
        texts = []
        for literal in self.literals[1:-1]:
            found = name.find(literal, start + 1, end - 1)
            if found < 0:
                return None
            texts.append(name[start:found])
            start = found + len(literal)
        texts.append(name[start:end])
        values = tuple(_KINDS[kind].read(text) for kind, text in zip(self.kinds, texts, strict=True))
        return None if None in values else values

    def overlaps(self, other: ChannelPattern) -> bool:
        """Return whether a name may be of both patterns; also where merely nothing shows that none is.

        Parameters:
            other: another pattern.
        """
        ours, theirs = list(self._tokens()), list(other._tokens())
        known, to_look = {(0, 0)}, [(0, 0)]
        while to_look:
            i, j = to_look.pop()
            if (i, j) == (len(ours), len(theirs)):
                return True
            for step in _steps(ours[i : i + 1], theirs[j : j + 1]):
                place = (i + step[0], j + step[1])
                if place not in known:
                    known.add(place)
                    to_look.append(place)
        return False

    def _tokens(self) -> Iterator[_Token]:
        for literal, kind in zip(self.literals, (*self.kinds, None), strict=True):
            for character in literal:
                yield _Token(frozenset(character))
            if kind is not None:
                characters = _KINDS[kind].characters
                yield _Token(characters)
                yield _Token(characters, repeats=True)


def _split(text: str, where: str) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """Return the texts and the parts of a pattern, each part with its kind."""
    first, *pieces = text.split("{")
    literals, parts = [first], []
    for piece in pieces:
        part, closing, literal = piece.partition("}")
        if not closing:
            raise DefinitionError(f"{where}: a part is not closed; write {{project}}")
        name, _, kind = part.partition(":")
        parts.append((name, kind))
        literals.append(literal)
    if any("}" in literal for literal in literals):
        raise DefinitionError(f"{where}: '}}' closes nothing; braces are for parts alone: {{project}}")
    return tuple(literals), parts


def _steps(ours: list[_Token], theirs: list[_Token]) -> Iterator[tuple[int, int]]:
    """Return how far one may go on in each pattern, where both have the same names so far."""
    if ours and ours[0].repeats:
        yield 1, 0
    if theirs and theirs[0].repeats:
        yield 0, 1
    if ours and theirs and ours[0].meets(theirs[0]):
        # Where both repeat, what one has more than the other is no other name for them.
        yield int(not ours[0].repeats), int(not theirs[0].repeats)
