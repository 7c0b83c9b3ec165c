"""Identity: who a client is, as a layer has found out, and until when."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen(slots=True)
class Identity:
    """A client's identity, made by `Request.identify`.

    Parameters:
        user: the user.
        session: the id of a session on the server, by which it can be ended; None without one. Clients never see it.
        expires: when it ends, in seconds since 1970; None for never.
        warn: seconds before the end at which the client is told.

    Example:
        >>> Identity({"id": "ann"}, expires=1_700_000_000.0).session is None
        True
    """

    user: Any
    session: str | None = None
    expires: float | None = None
    warn: float = 60.0
