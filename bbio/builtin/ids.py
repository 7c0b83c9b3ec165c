"""Ids for new models."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

# Hexadecimal digits that are random, and for how many ids they are drawn at once: one draw each would cost more.
RANDOM_DIGITS = 16
IDS_AT_ONCE = 256
# Seconds of the clock after which those in front of an id begin anew, as five digits.
CLOCK = 16**5

# Gives the id of a new model.
Ids = Callable[[], str | int]


def random_ids() -> Iterator[str]:
    """Ids of 64 random bits: none tells of another.

    Example:
        >>> len(next(random_ids()))
        16
    """
    while True:
        drawn = secrets.token_hex(IDS_AT_ONCE * RANDOM_DIGITS // 2)
        yield from [drawn[at : at + RANDOM_DIGITS] for at in range(0, len(drawn), RANDOM_DIGITS)]


def neighbouring_ids() -> Iterator[str]:
    """The same after a few digits of the clock: those given at one time lie side by side in an index on the disk.

    Example:
        >>> len(next(neighbouring_ids()))
        21
    """
    ids = random_ids()
    while True:
        yield f"{int(time.time()) % CLOCK:05x}{next(ids)}"


def given_ids(ids: Ids) -> Iterator[str | int]:
    """The ids that an application gives.

    Raises:
        TypeError: one is neither a string nor a whole number.
    """
    return map(_checked, iter(ids, _NO_ID))


_NO_ID = object()


def _checked(id: Any) -> str | int:
    if type(id) not in (str, int):
        raise TypeError(f"ids=... has given {id!r}; the id of a model is a string or a whole number")
    return id  # type: ignore[no-any-return]
