"""JSON values: copies for whoever may change them, and the plain form of other objects."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from bbio.errors import BadRequest


def copied(model: Any) -> Any:
    """Copy a model that came as JSON, for whoever may change it."""
    if isinstance(model, dict):
        return {key: copied(value) for key, value in model.items()}
    return [copied(value) for value in model] if isinstance(model, list) else model


def plain(value: Any) -> Any:
    """Copy a value as JSON has it.

    Raises:
        BadRequest: it cannot travel.
    """
    try:
        # The standard library refuses NaN and infinity, which msgspec writes as null.
        return json.loads(json.dumps(msgspec.to_builtins(value, str_keys=True), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as err:
        raise BadRequest(f"this cannot be written as JSON: {err}") from None
