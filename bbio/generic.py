"""The type variable of a model: `Backend[Todo]`, `Request[Todo]`, `Handle[Todo]`. Without one it is `Any`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # `typing` has defaults from Python 3.13 on

    M = TypeVar("M", default=Any)
else:
    from typing import TypeVar

    M = TypeVar("M")
