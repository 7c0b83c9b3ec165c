"""Identity: who a client is, as a layer has found out, and until when."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID

import attrs

from bbio.errors import StackError

# How an object is written that has no text of its own: another text for each object.
_DEFAULT_TEXT: Any = object.__str__
# Seconds before the end of an identity at which the client is told.
WARN_SECONDS = 60.0


def principal(user: Any) -> str:
    """The text by which a user is known again: that of its `id`, or else of its `sub`, as key or as attribute.

    A text, a whole number or a UUID is a user's id itself.

    Raises:
        StackError: there is none, or it is no text, number or other object that has a text of its own.

    Example:
        >>> principal({"sub": "ann", "exp": 1700000000})
        'ann'
    """
    if isinstance(user, str):
        return user
    if isinstance(user, (int, UUID)) and not isinstance(user, bool):
        return str(user)
    for name in ("id", "sub"):
        known = user.get(name) if isinstance(user, dict) else getattr(user, name, None)
        if isinstance(known, (str, int)) or (known is not None and type(known).__str__ is not _DEFAULT_TEXT):
            return str(known)
    raise StackError(
        f"req.user is a {type(user).__qualname__} without an id: its write could not be told from that of another "
        "user, nor a retry from a new write; give it an `id` or a `sub`, a string or a number, or set req.user to that"
    )


def is_seconds(value: Any) -> bool:
    """Return whether this is a finite number: times that cannot be compared would stop those of everybody.

    Example:
        >>> is_seconds(1_700_000_000), is_seconds(float("nan"))
        (True, False)
    """
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


@attrs.frozen(slots=True, eq=False)
class Identity:
    """A client's identity, made by `Request.identify`.

    Parameters:
        user: the user.
        session: the id of a session on the server, by which it can be ended; None without one. Clients never see it.
        expires: when it ends, in seconds since 1970; None for never.
        warn: seconds before the end at which the client is told.

    Attributes:
        subject: the text by which the user is known again; None for a user without an id, or for no user.

    Raises:
        StackError: `expires` or `warn` is no finite number.

    Example:
        >>> Identity({"id": "ann"}, expires=1_700_000_000.0).subject
        'ann'
    """

    user: Any
    session: str | None = attrs.field(default=None, repr=False)
    expires: float | None = None
    warn: float = WARN_SECONDS
    subject: str | None = attrs.field(init=False)

    @subject.default
    def _find_subject(self) -> str | None:
        if self.user is None:
            return None
        try:
            return principal(self.user)
        except StackError:
            return None

    def __attrs_post_init__(self) -> None:
        for name, value in (("expires", self.expires), ("warn", self.warn)):
            if not is_seconds(value) and (name == "warn" or value is not None):
                raise StackError(f"the `{name}` of an identity is {value!r}: give seconds, as a finite number")

    def is_same(self, other: Identity) -> bool:
        """Return whether another identity says the same: the same user by the same session, with the same end."""
        return self.is_of_same_user(other) and (self.session, self.expires) == (other.session, other.expires)

    def is_of_same_user(self, other: Identity) -> bool:
        """Return whether another identity is of the same user; False where users without an id cannot be compared."""
        if self.subject is None or other.subject is None:
            return self.subject is other.subject and bool(self.user == other.user)
        return self.subject == other.subject
