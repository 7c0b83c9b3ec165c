"""Presence in all processes that share it: the interface of what keeps the entries.

A server puts an entry for each connection that is present in a channel, and is told of the entries of all. From them it
makes the members that its own clients see: entries of one key are one member.

Nothing of it is stored for good. What several processes share belongs to one life of a process, its incarnation, and is
worth as much as that is known to go on:

- A process takes an incarnation, a random id, when it starts, and renews its lease: `BEAT_SECONDS` apart, for
  `LEASE_SECONDS` each time.
- Every process looks at the leases that it knows of, as often. Who finds one run out removes its entries and says so:
  `heard.gone(incarnation)` in each process. So a process that was killed leaves nobody behind for longer than
  `LEASE_SECONDS + BEAT_SECONDS`.
- A process that was only paused, and finds its lease gone, takes another incarnation and puts its entries again.
- Messages between processes may be lost. Whoever cannot rule that out reads the entries of a topic and says
  `heard.only(topic, entries)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

BEAT_SECONDS = 5.0
LEASE_SECONDS = 15.0

# The name of a backend, and the name of a channel in it: "" is the default channel.
Topic = tuple[str, str]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """The presence of one connection in one channel.

    Parameters:
        topic: the backend and the channel.
        id: the connection's, unique within its process; a connection has one entry in a topic.
        key: the key of the member that it belongs to.
        card: what the application says of that, as JSON.
        state: what the client says of itself, as JSON.
        when: when it was put last, as Unix time: of several entries of a member the latest is shown.
        process: the incarnation of another process; empty for this process.

    Example:
        >>> Entry(("todos", "home"), "7", "x8Fq", b"{}", b"{}", 1767225600.0).process
        ''
    """

    topic: Topic
    id: str
    key: str
    card: bytes
    state: bytes
    when: float
    process: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """Return its place in its topic: an entry that is put at a place takes that of the one before."""
        return self.process, self.id


class HeardPresence(Protocol):
    """The server, as it is told of entries. Every call is made on the event loop, and returns at once.

    Example:
        `heard.gone("9f3c")`, in a presence that has found out that a process was killed.
    """

    def put(self, entry: Entry) -> None:
        """Take an entry, new or changed."""

    def remove(self, entry: Entry, *, lingers: bool) -> None:
        """Forget an entry.

        Parameters:
            entry: the entry, of which the topic, the process and the id count.
            lingers: whether the client may be back in a moment, so that its member stays for a while.
        """

    def gone(self, process: str) -> None:
        """Forget all entries of a process, at once.

        Parameters:
            process: its incarnation.
        """

    def only(self, topic: Topic, entries: Iterable[Entry]) -> None:
        """Take the entries that other processes have in a topic, and forget those that are not among them.

        Parameters:
            topic: the topic.
            entries: the entries.
        """


class Presence(Protocol):
    """Keeps entries, and tells `HeardPresence` of them.

    Attributes:
        secret: a secret of at most 64 bytes, the same in all processes that share it: keys are made with it.

    Example:
        `presence.put(entry)`, in a server whose client is present in a channel from now on.
    """

    @property
    def secret(self) -> bytes:
        """Return the secret that keys are made with; known once it has started."""

    async def start(self, heard: HeardPresence) -> None:
        """Begin: take an incarnation.

        Parameters:
            heard: is told of entries, those of this process too.
        """

    async def stop(self) -> None:
        """End: the entries of this process are gone, everywhere and at once."""

    def follow(self, topic: Topic) -> None:
        """Hear of a topic from now on: it has its first entry in this process. `heard.only` is to follow."""

    def unfollow(self, topic: Topic) -> None:
        """Hear no more of a topic: nobody here is present in it any more."""

    def put(self, entry: Entry) -> None:
        """Keep an entry of this process. `heard` is told before it returns, other processes as soon as they can be.

        Parameters:
            entry: the entry, new or changed.
        """

    def remove(self, entry: Entry, *, lingers: bool) -> None:
        """Forget an entry of this process; `heard` is told before it returns.

        Parameters:
            entry: the entry.
            lingers: see `HeardPresence.remove`.
        """
