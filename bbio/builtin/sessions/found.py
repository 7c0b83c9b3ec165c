"""A session that a cookie has been found to name, as it is remembered."""

from __future__ import annotations

import json
from typing import Any

import attrs
import msgspec

from bbio import Request
from bbio.identity import Identity

decode = msgspec.json.Decoder(dict[str, Any]).decode


def as_json(session: dict[str, Any]) -> bytes | None:
    """Return a session as JSON that is decoded to the same; None if there is none, such as for NaN."""
    try:
        data = json.dumps(session).encode()
        return data if decode(data) == session else None
    except (TypeError, ValueError):
        return None


def own_copy(value: Any) -> Any:
    """Return a copy of what JSON can be: each request may change its session."""
    if type(value) is dict:
        return {key: own_copy(each) for key, each in value.items()}
    if type(value) is list:
        return [own_copy(each) for each in value]
    return value


@attrs.define(eq=False)
class FoundSession:
    """A session that a cookie names.

    Parameters:
        session: what `req.session` is to be.
        data: the same as JSON, where it can be.
        user: the user, or the key of the user in the session if `is_key`; None where nobody has logged in.
        is_key: whether `user` is a key.
        id: the id by which the session can be ended; None where it cannot.
        expires: when it ends unless it is used, in seconds since 1970; None for never.
        ends: when it ends in any case, in seconds since 1970; None for never.
        size: the characters that it takes.
        touch_at: when it is to be kept from expiring, in seconds since 1970; None where that is not needed.
        fresh_until: until when it is believed, by the monotonic clock.
    """

    session: dict[str, Any]
    data: bytes | None = None
    user: Any = None
    is_key: bool = False
    id: str | None = None
    expires: float | None = None
    ends: float | None = None
    size: int = 0
    touch_at: float | None = None
    fresh_until: float = 0.0
    identity: Identity | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        user = self.session.get(self.user) if self.is_key else self.user
        self.identity = None
        if user is not None or self.id is not None:
            self.identity = Identity(user, self.id, self.ends)

    def own_session(self) -> dict[str, Any]:
        """Return a session that is a request's own."""
        session: dict[str, Any] = own_copy(self.session) if self.data is None else decode(self.data)
        return session

    def introduce(self, req: Request, session: dict[str, Any]) -> None:
        """Say in a request who asks.

        Parameters:
            req: the request.
            session: the session that is its own.
        """
        if self.identity is not None:
            req.take(self.identity, session.get(self.user) if self.is_key else own_copy(self.user))
