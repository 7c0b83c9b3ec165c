"""Requests that have no answer yet, in the order they were made: a state machine without I/O or clock.

A write keeps its operation id and its content on every retry, so the server can tell a retry from a second write.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import attrs

from bbio.client.subscription import Subscription
from bbio.client.transport import Timer, Transport
from bbio.errors import SyncError

# How many requests are under way at once; servers bound what one connection may ask for at a time.
WINDOW = 64

# Random bytes of a client's id.
CLIENT_ID_BYTES = 16

Done = Callable[[SyncError | None, Any, Any], None]


@attrs.define(eq=False)
class Entry:
    """One request.

    Parameters:
        n: its number, which is also the counter of its operation id.
        subscription: the channel that it was made in.
        request: what travels.
        done: called once, with an error or None, the result and its third argument.
        left: seconds until it fails.
        strict: whether the time also passes while a write waits for a connection.
        user: the user who made it, as far as the application has said so.
        known_as: the user as far as the server has said so, None as long as it has not.
        sent: whether it was ever sent.
        sent_at: when it was sent the last time, by the session's clock.
        retried: whether it was sent more than once.
        waiting: whether it was sent on the present connection.
        old: the connection that it is under way on, which another has taken the place of: it is not sent again.
        timer: when to look at it again.
    """

    n: int
    subscription: Subscription
    request: dict[str, Any]
    done: Done
    left: float
    strict: bool
    user: str = ""
    known_as: str | None = None
    sent: bool = False
    sent_at: float = 0.0
    retried: bool = False
    waiting: bool = False
    old: Transport | None = None
    timer: Timer | None = None

    @property
    def writes(self) -> bool:
        """Return whether it is a write."""
        return bool(self.request["method"] != "read")


def new_client() -> str:
    """Return an id for a client: a secret between it and the server."""
    return secrets.token_hex(CLIENT_ID_BYTES)


class Outbox:
    """The requests of one client to one backend.

    Parameters:
        client: id of the client, part of every operation id; a secret between it and the server.
        user: the user who makes the requests, as far as the application has said so.
    """

    def __init__(self, client: str, user: str = "") -> None:
        self.client = client
        self.user = user
        # What events have in its place; a server of an earlier version tells all of it to everybody.
        self.public = client
        self._counter = 0
        self._entries: dict[int, Entry] = {}
        self._under_way = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> list[Entry]:
        """Return the requests without an answer, oldest first."""
        return list(self._entries.values())

    def add(self, subscription: Subscription, request: dict[str, Any], done: Done, left: float, strict: bool) -> Entry:
        """Take a request; a write gets its operation id."""
        self._counter += 1
        n = self._counter
        entry = Entry(n, subscription, request, done, left, strict, self.user, subscription.known_as)
        self._entries[n] = entry
        if entry.writes:
            request["op"] = {"c": self.client, "n": entry.n}
        return entry

    def is_of_another(self, entry: Entry) -> bool:
        """Return whether a request is another user's than the connected one's, as application and server say."""
        known_as = entry.subscription.known_as
        is_other = entry.writes and known_as is not None and entry.known_as is not None and entry.known_as != known_as
        return is_other or entry.user != self.user

    def recognized(self, subscription: Subscription, user: str) -> tuple[list[Entry], list[Entry]]:
        """Note the user that the server takes this client for: another one, if `auth` has changed its mind.

        Returns: the requests that wait to be sent, of other users and of this one.
        """
        subscription.known_as = user
        theirs: list[Entry] = []
        ours: list[Entry] = []
        for entry in self._entries.values():
            is_unsent = entry.old is None and not entry.waiting
            if entry.subscription is subscription and entry.user == self.user and is_unsent:
                if entry.known_as is None:
                    entry.known_as = user
                (theirs if self.is_of_another(entry) else ours).append(entry)
        return theirs, ours

    def unrecognized(self, subscription: Subscription) -> list[Entry]:
        """Note that the server does not say which user this client is; return the writes that cannot be sent now."""
        if subscription.known_as is None:
            return []
        subscription.known_as = None
        return [
            entry
            for entry in self._entries.values()
            if entry.subscription is subscription
            and entry.user == self.user
            and entry.known_as is not None
            and entry.writes
            and not entry.waiting
            and entry.old is None
        ]

    def due(self, may: Callable[[Entry], bool]) -> list[Entry]:
        """Return the requests to send now, marked as sent.

        Parameters:
            may: whether the connection is ready for a request.
        """
        room = WINDOW - self._under_way
        waits = len(self._entries) - self._under_way
        if room <= 0 or waits <= 0:
            return []
        due = []
        # The users with writes under way on an old connection, and where: their next writes come after those.
        busy = set()
        for entry in self._entries.values():
            if entry.old is not None:
                busy.add((entry.subscription, entry.user))
            elif not entry.waiting and not (entry.writes and (entry.subscription, entry.user) in busy) and may(entry):
                entry.retried = entry.sent
                entry.waiting = entry.sent = True
                due.append(entry)
                if len(due) == room:
                    break
        self._under_way += len(due)
        return due

    def repeat(self, entry: Entry) -> None:
        """Mark a request as due again: there was no answer to it."""
        entry.waiting = False
        self._under_way -= 1

    def leave(self, entry: Entry, transport: Transport) -> None:
        """Leave a request to the connection that it was sent on."""
        self.repeat(entry)
        entry.old = transport

    def disconnected(self) -> list[Entry]:
        """Mark what had been sent as due again, as the connection is gone; return it."""
        cut = [entry for entry in self._entries.values() if entry.waiting]
        for entry in cut:
            self.repeat(entry)
        return cut

    def holds(self, entry: Entry) -> bool:
        """Return whether a request is unanswered."""
        return entry.n in self._entries

    def owns(self, op: str | None) -> bool:
        """Return whether this client made an operation, given as events carry it: `public part:counter`."""
        return op is not None and op.rpartition(":")[0] == self.public

    def find(self, op: str | None) -> Entry | None:
        """Return the request of an operation, if it is one of ours and unanswered."""
        if op is None or not self.owns(op):
            return None
        return self._entries.get(int(op.rpartition(":")[2]))

    def settle(self, entry: Entry) -> bool:
        """Forget a request that is answered or given up; return whether it was still unanswered."""
        if self._entries.pop(entry.n, None) is None:
            return False
        if entry.waiting:
            self._under_way -= 1
        return True
