"""The broker of a log that no other process shares."""

from __future__ import annotations

from bbio.cluster.broker import Heard
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
