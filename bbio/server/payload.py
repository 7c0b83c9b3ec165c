"""The packets of one POST: as many as its bytes are, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator

# Packets that are read, and handled, in one go: as many as Engine.IO takes in one POST.
PART_PACKETS = 16
# An event with attachments is looked at value by value, to find where they belong.
ATTACHED_CHARACTERS = 32_768
# What is between the packets of one POST, or of one answer to a poll.
SEPARATOR = b"\x1e"


def parts(body: bytes) -> Iterator[bytes]:
    """Yield the body of a POST in bodies of at most `PART_PACKETS` packets.

    Example:
        >>> list(parts(b"3\\x1e3")), len(list(parts(b"3\\x1e" * 16)))
        ([b'3\\x1e3'], 2)
    """
    begin = 0
    while True:
        end = begin - 1
        for _ in range(PART_PACKETS):
            end = body.find(SEPARATOR, end + 1)
            if end < 0:
                yield body[begin:]
                return
        yield body[begin:end]
        begin = end + 1
