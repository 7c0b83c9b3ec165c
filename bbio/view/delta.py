"""Deltas: what an event changed of its record, for those who have the record as it was."""

from __future__ import annotations

from typing import Any

from bbio.protocol import decode, encode
from bbio.streams import Delta, Event
from bbio.was import Was


def delta_of(whole: Event, told: Event, fields: frozenset[str] | None, id_attribute: str) -> Delta | None:
    """Return what an event changed; None where the log does not say enough of how the record was.

    Parameters:
        whole: the event, as it is in the log.
        told: the event as those are told of it who are told the whole record: what they do not see is not in it.
        fields: the names of the fields that they see, None for all.
        id_attribute: the name of the id.

    Example:
        >>> body, was = b'{"id":7,"text":"ab","n":1}', b'[{"text":"a"},[],{},3]'
        >>> event = Event("c:", "9a0c", 2, "update", body, rev=5, was=was)
        >>> delta = delta_of(event, event, None, "id")
        >>> delta.body, delta.base, delta.append
        (b'{"id":7}', 3, {'text': 'b'})
    """
    if told.method != "update" or whole.rev is None or whole.was is None:
        return None
    was = Was.read(whole.was)
    record = decode(told.body)
    if was.base is None or was.previous is None or not isinstance(record, dict) or id_attribute not in record:
        return None
    sets: dict[str, Any] = {id_attribute: record[id_attribute]}
    unset: list[str] = []
    append: dict[str, str] = {}
    # What is told may differ from what is stored: of such a field nobody knows what was told of it before.
    for name in dict.fromkeys((*was.previous, *was.new, *was.hidden)):
        if name not in record:
            if name not in was.hidden and (fields is None or name in fields):
                unset.append(name)
            continue
        value, before = record[name], was.previous.get(name)
        if name not in was.hidden and before and _begins_with(value, before):
            append[name] = value[len(before) :]
        else:
            sets[name] = value
    return Delta(
        whole.stream,
        told.epoch,
        whole.offset,
        "patch",
        encode(sets),
        whole.rev,
        whole.op,
        whole.when,
        whole.stamp,
        base=was.base,
        unset=tuple(unset),
        append=append,
    )


def _begins_with(value: Any, before: Any) -> bool:
    return isinstance(value, str) and isinstance(before, str) and value.startswith(before)
