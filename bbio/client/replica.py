"""The records of the server as a client knows them: each model and its latest revision, without I/O.

Deleted models keep their revision for a while, so that an older notification, come by another stream, does not bring
them back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Key = str | int
Model = dict[str, Any]

# How many revisions of deleted models are kept.
GRAVES = 1_000


class Replica:
    """The models of one collection.

    Example:
        >>> replica = Replica()
        >>> replica.accept(1, {"id": 1, "title": "milk"}, rev=5)
        True
        >>> replica.accept(1, {"id": 1, "title": "old milk"}, rev=4)
        False
    """

    def __init__(self) -> None:
        self.models: dict[Key, Model] = {}
        self._revs: dict[Key, int] = {}
        self._graves: dict[Key, None] = {}
        # What was told of them since without a revision.
        self._loose: set[Key] = set()

    def rev(self, key: Key) -> int | None:
        """Return the latest known revision of a model."""
        return self._revs.get(key)

    def at(self, key: Key) -> int | None:
        """Return the revision that a model as it is known is just that of; None where nobody knows."""
        return None if key in self._loose else self._revs.get(key)

    def accept(self, key: Key, model: Model | None, rev: int | None) -> bool:
        """Take the server's record of a model, None when it is deleted; return False if it is not newer."""
        latest = self._revs.get(key)
        if rev is not None and latest is not None and rev <= latest:
            return False
        self._know(key, model, rev)
        return True

    def replace(self, models: Iterable[tuple[Key, Model, int | None]]) -> None:
        """Take all models: those that are not among them are gone."""
        missing = dict(self.models)
        for key, model, rev in models:
            missing.pop(key, None)
            self.read(key, model, rev)
        for key in missing:
            self._know(key, None, None)

    def read(self, key: Key, model: Model, rev: int | None) -> bool:
        """Take a model as it was read; return False if it is older than what is known of it."""
        latest = self._revs.get(key)
        is_older = rev is not None and latest is not None and rev < latest
        if not is_older:
            self._know(key, model, rev)
        return not is_older

    def forget(self, key: Key) -> None:
        """Have a model no more, which the server still has."""
        self._know(key, None, None)

    def renew(self) -> None:
        """Forget all revisions: they may have begun anew."""
        self._revs.clear()
        self._graves.clear()

    def _know(self, key: Key, model: Model | None, rev: int | None) -> None:
        if rev is not None:
            self._revs[key] = rev
            self._loose.discard(key)
        elif model is not None:
            self._loose.add(key)
        if model is not None:
            self.models[key] = model
            self._graves.pop(key, None)
            return
        self.models.pop(key, None)
        self._loose.discard(key)
        self._graves[key] = None
        if len(self._graves) > GRAVES:
            oldest = next(iter(self._graves))
            del self._graves[oldest]
            self._revs.pop(oldest, None)
