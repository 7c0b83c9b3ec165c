"""The record before an event, for views of some records: what a log keeps of it, and of what not all may be told.

A view needs the record before and after. The event tells what all may know of it; beside that the log keeps `was`, JSON
of a list: the previous values of the fields that changed (null where there was no record), the fields that it had not
before, the fields that the event does not tell, and the revision that the record had before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bbio.model.scalars import is_same
from bbio.protocol import decode, encode
from bbio.streams import Event

Record = dict[str, Any]


class RecordChange(NamedTuple):
    """A record before and after an event: None where there was none, or is none any more."""

    before: Record | None
    after: Record | None


class Was(NamedTuple):
    """The parts of it; `base` is the revision before, None where that is not known."""

    previous: Record | None
    new: list[str]
    hidden: Record
    base: int | None

    @classmethod
    def read(cls, was: bytes) -> Was:
        """Read it from its JSON."""
        previous, new, hidden, base = [*decode(was), None, None, None][:4]
        return cls(previous, new or [], hidden or {}, base)


def was_of(before: Record | None, after: Record | None, told: bytes, base: int | None = None) -> bytes:
    """Return what a log keeps of a change.

    Parameters:
        before: the record before, as JSON has it; None where there was none.
        after: the record after; None where it is gone.
        told: the body of the event.
        base: the revision of the record before.

    Example:
        >>> was_of({"id": 7, "n": 1}, {"id": 7, "n": 2, "pin": "x"}, b'{"id":7,"n":2}')
        b'[{"n":1},["pin"],{"pin":"x"}]'
    """
    record = (before if after is None else after) or {}
    known = decode(told)
    hidden = {name: value for name, value in record.items() if name not in known or not is_same(known[name], value)}
    previous: Record | None = None
    new: list[str] = []
    if after is None:
        previous = {}
    elif before is not None:
        previous = {
            name: value for name, value in before.items() if name not in after or not is_same(after[name], value)
        }
        new = [name for name in after if name not in before]
    parts: list[Any] = [previous, new, hidden, base]
    while not parts[-1] and len(parts) > 1:
        parts.pop()
    return encode(parts)


def change_of(event: Event) -> RecordChange | None:
    """Return the record before and after an event; None where the log does not say how it was.

    Whoever is told under a view of some records reads everything anew then.

    Example:
        >>> event = Event("c:", "9a0c", 1, "update", b'{"id":7,"n":2}', was=b'[{"n":1},["pin"],{"pin":"x"}]')
        >>> change_of(event)
        RecordChange(before={'id': 7, 'n': 1}, after={'id': 7, 'n': 2, 'pin': 'x'})
    """
    if event.was is None:
        return None
    # Not by `Was.read`: each event with views passes here, and most have the first part alone.
    previous, *more = decode(event.was)
    record = decode(event.body)
    if len(more) > 1:
        record.update(more[1] or {})
    if event.method == "delete":
        return RecordChange(record, None)
    if previous is None:
        return RecordChange(None, record)
    before = {**record, **previous}
    if more:
        for name in more[0] or ():
            before.pop(name, None)
    return RecordChange(before, record)
