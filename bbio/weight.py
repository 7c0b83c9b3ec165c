"""The most memory that Python takes for JSON, estimated from the text alone: by its bytes, not value by value."""

from __future__ import annotations

# Requests of less text are not weighed: what the places of one connection hold of them is bounded by their number.
LIGHT = 4_096
# What Python holds at most for a number, a text, a list and an object of JSON, besides the characters.
VALUE_BYTES = 40
TEXT_BYTES = 52
LIST_BYTES = 90
OBJECT_BYTES = 240


def weigh(text: str | bytes) -> int:
    """Return the bytes that Python holds at most for a JSON text and what it is decoded to; 0 for a light one.

    Parameters:
        text: the JSON.

    Example:
        >>> weigh('{"id": 1}'), weigh("[" + "[]," * 2_000 + "[]]")
        (0, 272188)
    """
    if len(text) <= LIGHT:
        return 0
    if isinstance(text, bytes):
        text = text.decode()
    # The text, which has a copy in UTF-8 once it was decoded unless it is ASCII, and the characters of its values.
    return len(text) * (2 if text.isascii() else 12) + _values(text)


def decoded_bytes(text: str | bytes) -> int:
    """Return the bytes that Python holds at most for what a JSON text is decoded to, once that was encoded again.

    Parameters:
        text: the JSON.

    Example:
        >>> decoded_bytes('{"id": 1}'), decoded_bytes(b"[" + b"[]," * 1_000 + b"[]]")
        (341, 133224)
    """
    if text.isascii():
        return len(text) + VALUE_BYTES + _values(text)
    # One wide character makes Python take four bytes for each of its text, and two once it was encoded.
    size = len(text if isinstance(text, bytes) else text.encode())
    return size * 6 + VALUE_BYTES + _values(text)


def _values(text: str | bytes) -> int:
    """The bytes for the values beside their characters."""
    if isinstance(text, bytes):
        values, quotes, lists, objects = text.count(b","), text.count(b'"'), text.count(b"["), text.count(b"{")
    else:
        values, quotes, lists, objects = text.count(","), text.count('"'), text.count("["), text.count("{")
    return values * VALUE_BYTES + quotes // 2 * TEXT_BYTES + lists * LIST_BYTES + objects * OBJECT_BYTES
