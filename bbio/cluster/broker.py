"""Brokers: they carry events from the process that has committed them to the others.

A broker may lose events, double them and reorder them: offsets decide what is told, the log has what is missing, and
the comparison every `check_interval` seconds finds what nobody was told of. So nobody waits for a broker.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from bbio.streams import Event


class Heard(Protocol):
    """The door for events: whoever hears of one, from this process or another, calls one of these two.

    Both are called on the event loop, and return at once.

    Example:
        `heard.doubt(["c:home"])`, in a broker that has lost what was told of the channel `home`.
    """

    def event(self, event: Event) -> None:
        """Take an event that is committed.

        The next of its stream is delivered, one that was told is dropped, and one that comes too early waits for those
        before it: a moment, then the log is read.

        Parameters:
            event: the event, which the log's `since` finds by now.
        """

    def doubt(self, streams: Iterable[str] | None = None) -> None:
        """Look at the log: it may hold what nobody has told here.

        Parameters:
            streams: the names of the streams that were written to, whose logs are read; a mapping of names to
                positions where their tops are known: then only the log of a stream that is behind is read. None when
                nothing is known: the tops of all streams with listeners are compared, in one query.
        """


class Broker(Protocol):
    """Tells the other processes of a log what this one commits, and hears what they tell. One serves one log.

    Attributes:
        patience: the seconds that an event which comes too early waits for those before it; 0 where these are not on
            their way.

    Example:
        `self.broker.tell(commit.event)`, in a log that has committed an event.
    """

    patience: float

    @property
    def healthy(self) -> bool:
        """Tells whether events of other processes arrive now."""

    async def start(self, heard: Heard) -> None:
        """Begin to hear; called once the log can be read.

        Parameters:
            heard: is told of the events of the other processes.
        """

    async def stop(self) -> None:
        """Tell what waits to be told, for a moment, and hear no more."""

    def follow(self, stream: str) -> None:
        """Hear of a stream from now on: it has its first listener in this process."""

    def unfollow(self, stream: str) -> None:
        """Hear no more of a stream: its last listener in this process is gone."""

    def hear_all(self, *, hears: bool) -> None:
        """Hear of all streams from now on, or no more: code of the server itself follows them.

        `doubt` with the position is enough for a stream that has no listener.

        Parameters:
            hears: whether to hear of them.
        """

    def tell(self, event: Event) -> None:
        """Have the other processes told of an event, which is committed; return at once and never raise.

        Parameters:
            event: the event.
        """
