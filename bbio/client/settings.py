"""The settings of a connection that its sessions need."""

from __future__ import annotations

from typing import Any

import attrs

from bbio.errors import ConfigurationError


def _not_negative(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if value < 0:
        raise ConfigurationError(f"{attribute.name}={value!r}: it must not be negative")


@attrs.frozen(kw_only=True)
class SessionSettings:
    """Limits and times of all sessions of a connection.

    Parameters:
        deadline: seconds a sync may take.
        queue_limit: requests to one backend that may wait for an answer.
        event_limit: events that may wait to be read from `events()`.
        jitter: seconds over which clients that lost the same connection spread.
    """

    deadline: float = attrs.field(default=30.0, validator=_not_negative)
    queue_limit: int = attrs.field(default=1_000, validator=_not_negative)
    event_limit: int = attrs.field(default=1_000, validator=_not_negative)
    jitter: float = attrs.field(default=1.0, validator=_not_negative)
