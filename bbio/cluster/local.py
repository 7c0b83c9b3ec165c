"""The broker of a log that no other process shares, and the presence of a server that is alone."""

from __future__ import annotations

import secrets

from bbio.cluster.broker import Heard
from bbio.cluster.presence import Entry, HeardPresence, Topic
from bbio.streams import Event


class Alone:
    """The broker of a log whose events all come from this process, which delivers them itself: there is nobody to tell.

    Example:
        >>> from bbio import MemoryLog
        >>> MemoryLog().broker.healthy
        True
    """

    patience = 0.0
    healthy = True

    async def start(self, heard: Heard) -> None:
        """Nobody is to be heard."""

    async def stop(self) -> None:
        """Nothing waits to be told."""

    def follow(self, stream: str) -> None:
        """Nobody is to be heard."""

    def unfollow(self, stream: str) -> None:
        """Nobody was heard."""

    def hear_all(self, *, hears: bool) -> None:
        """Nobody is to be heard."""

    def tell(self, event: Event) -> None:
        """Nobody is to be told."""


class LocalPresence:
    """The presence of one process, which shares it with no other.

    Example:
        >>> len(LocalPresence().secret)
        32
    """

    def __init__(self) -> None:
        self.secret = secrets.token_bytes(32)
        self._heard: HeardPresence | None = None

    async def start(self, heard: HeardPresence) -> None:
        """Begin to tell `heard` of what is put."""
        self._heard = heard

    async def stop(self) -> None:
        """Have all entries be gone."""
        heard, self._heard = self._heard, None
        if heard is not None:
            heard.gone("")

    def follow(self, topic: Topic) -> None:
        """Nobody else has entries in it."""

    def unfollow(self, topic: Topic) -> None:
        """Nobody else had entries in it."""

    def put(self, entry: Entry) -> None:
        """Tell of an entry."""
        if self._heard is not None:
            self._heard.put(entry)

    def remove(self, entry: Entry, *, lingers: bool) -> None:
        """Tell that an entry is gone."""
        if self._heard is not None:
            self._heard.remove(entry, lingers=lingers)
