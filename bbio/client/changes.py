"""The changes of a collection that nobody has asked for yet."""

from __future__ import annotations

from typing import Any

import attrs

from bbio.client.replica import Key

# How many ids are noted; past it: a reset.
NOTED_IDS = 10_000


@attrs.define
class Changes:
    """The changes of a collection, by id.

    Parameters:
        added: the ids of new models.
        changed: the ids of models that have changed.
        removed: the ids of models that are gone.
        reset: whether everything was read again, because too much had been missed.

    Example:
        >>> changes = Changes(added={7})
        >>> changes.added, changes.removed, changes.reset
        ({7}, set(), False)
    """

    added: set[Key] = attrs.field(factory=set)
    changed: set[Key] = attrs.field(factory=set)
    removed: set[Key] = attrs.field(factory=set)
    reset: bool = False

    def note(self, key: Key, before: Any, after: Any) -> None:
        """Note a model before and after; None stands for no model."""
        if before == after:
            return
        if before is None:
            if key in self.removed:
                self.removed.remove(key)
                self.changed.add(key)
            else:
                self.added.add(key)
        elif after is not None:
            if key not in self.added:
                self.changed.add(key)
        else:
            self.changed.discard(key)
            if key in self.added:
                self.added.remove(key)
            else:
                self.removed.add(key)
        if len(self.added) + len(self.changed) + len(self.removed) > NOTED_IDS:
            self.added, self.changed, self.removed, self.reset = set(), set(), set(), True
