"""The presence of one channel, as a client follows it: who is there, and what this client says of itself.

It knows no connection: `ask` sends what it asks the server for. Whoever is present joins again after each lost
connection; a batch that is missing, or of another epoch, has the whole list asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from bbio.client.errors import error_of, is_end, passing
from bbio.client.transport import PATIENCE_SECONDS, Clock, Timer
from bbio.errors import SyncError

# Seconds from one change of the own state to the next: the server tells no more than ten in a second.
CHANGE_SECONDS = 0.1
# Seconds until a refused join is tried again.
JOIN_RETRY_SECONDS = 1.0

# Sends options; what is called with the arguments of the ack.
Ask = Callable[[dict[str, Any] | None, Callable[..., None]], None]


@attrs.frozen
class Member:
    """A member of a channel: a user, however many connections it has.

    Parameters:
        key: tells it from the others of this channel; it says nothing of who it is.
        card: what the application says of it, see `@presence`.
        state: what it says of itself.
        connections: the number of its connections; 0 while it may be back in a moment.

    Example:
        >>> Member("x8Fq", {"name": "Ann"}, {"typing": True}).card["name"]
        'Ann'
    """

    key: str
    card: dict[str, Any] = attrs.field(factory=dict)
    state: dict[str, Any] = attrs.field(factory=dict)
    connections: int = 1

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Member:
        """Return a member as the server has told of it."""
        return cls(fields["key"], fields.get("card") or {}, fields.get("state") or {}, fields.get("connections", 1))


class Roster:
    """The members of one channel, and the own part in them.

    Parameters:
        clock: calls later.
        chance: a random number from 0 to 1.
        jitter: seconds over which clients spread that were all put out at once.

    Attributes:
        members: the members by key.
        me: the key of the own member; None while this client is not present.
        wanted: whether it is to be present, also after a lost connection.
        state: what it says of itself.
        on_change: is called with the keys of members that have come, changed and gone.
        on_answer: is called when a join was answered, with the error that keeps the client out, or None.
        on_fault: is called with an error that nobody waits for.
    """

    def __init__(self, clock: Clock, chance: Callable[[], float], jitter: float, ask: Ask) -> None:
        self.members: dict[str, Member] = {}
        self.me: str | None = None
        self.wanted = False
        self.state: dict[str, Any] = {}
        self.on_change: Callable[[set[str], set[str], set[str]], None] = lambda *_: None
        self.on_answer: Callable[[SyncError | None], None] = lambda _: None
        self.on_fault: Callable[[SyncError], None] = lambda _: None
        self._clock = clock
        self._chance = chance
        self._jitter = jitter
        self._ask = ask
        # Whether the server has said that this client listens; and whether it is present, as far as that is known.
        self._listens = False
        self._joined = False
        self._epoch = ""
        self._seq = 0
        # What is asked for, and not answered yet.
        self._asking: object | None = None
        self._sent: dict[str, Any] | None = None
        self._next_at = 0.0
        self._change: Timer | None = None
        self._again: Timer | None = None

    # What the application wants

    def join(self, state: dict[str, Any]) -> None:
        """Be present from now on."""
        self.wanted = True
        self.set(state)
        if self._joined:
            self.on_answer(None)
        self._go_on()

    def set(self, state: dict[str, Any]) -> None:
        """Say something else of oneself, as soon as it is time for it."""
        self.state = state
        if self._joined and self._change is None and state != self._sent:
            self._change = self._clock.call_later(max(0.0, self._next_at - self._clock.time()), self._tell)

    def leave(self) -> None:
        """Be present no more."""
        is_known = self._joined or self._asking is not None
        self.wanted = False
        self._forget()
        if is_known and self._listens:
            self._ask(None, lambda *_: None)
        self._take({})

    # The connection

    def listened(self, is_present: bool) -> None:
        """The server has answered a listen, and said whether this client is present by now."""
        self._listens = True
        self._joined = self._joined and is_present
        self._go_on()

    def offline(self) -> None:
        """The connection is gone, or the channel was left. The members stay as they were told last."""
        self._listens = False
        self._forget()

    def paused(self) -> None:
        """The identity of this client has ended, and it will have another one: then it listens again."""
        self._forget()

    def refused(self, error: SyncError) -> None:
        """The client may not listen, or nothing will be sent any more."""
        self.offline()
        if self.wanted:
            self._end(error)

    def told(self, fields: Any) -> None:
        """Take a `presence` event."""
        if fields is None:
            self._joined = False
            self._again = self._again or self._clock.call_later(self._chance() * self._jitter, self._retry)
            return
        if not self._joined or not isinstance(fields, Mapping):
            return
        epoch, seq = fields.get("epoch"), fields.get("seq", 0)
        if epoch == self._epoch and seq == self._seq + 1:
            self._seq = seq
            changed = map(Member.read, [*fields.get("joined", ()), *fields.get("changed", ())])
            gone = set(fields.get("left", ()))
            members = {key: member for key, member in self.members.items() if key not in gone}
            self._take(members | {member.key: member for member in changed})
        elif epoch != self._epoch or seq > self._seq:
            self._request({"members": True})

    # Asking

    def _go_on(self) -> None:
        if self.wanted and self._listens and not self._joined and self._asking is None:
            self._sent = self.state
            self._request({"state": self.state, "members": True})

    def _retry(self) -> None:
        self._again = None
        self._go_on()

    def _request(self, options: dict[str, Any]) -> None:
        """Ask for the list of members, once at a time."""
        if self._asking is not None:
            return
        asking = self._asking = object()

        def answered(error: Any = None, reply: Any = None, *_: Any) -> None:
            if self._asking is asking:
                patience.cancel()
                self._asking = None
                self._answered(error, reply)

        def unanswered() -> None:
            if self._asking is asking:
                self._asking = None
                self._request(options)

        patience = self._clock.call_later(PATIENCE_SECONDS, unanswered)
        self._ask(options, answered)

    def _answered(self, error: Any, reply: Any) -> None:
        if error is not None or not isinstance(reply, Mapping):
            self._failed(_error_of(error))
            return
        self._joined = True
        self._epoch, self._seq, self.me = reply["epoch"], reply["seq"], reply["me"]
        self._next_at = self._clock.time() + CHANGE_SECONDS
        self._take({fields["key"]: Member.read(fields) for fields in reply.get("members", ())})
        self.on_answer(None)
        self.set(self.state)

    def _failed(self, error: SyncError) -> None:
        self._joined = False
        if passing(error):
            pause = error.values.get("retry_after")
            pause = max(JOIN_RETRY_SECONDS, pause if isinstance(pause, (int, float)) else 0.0)
            self._again = self._again or self._clock.call_later(pause, self._retry)
        else:
            self._end(error)

    def _end(self, error: SyncError) -> None:
        # Once it has said again who it is, it listens, and is present.
        self.wanted = self.wanted and is_end(error)
        self.me = None
        self._take({})
        self.on_answer(error)

    def _tell(self) -> None:
        self._change = None
        if not self._joined or self.state == self._sent:
            return
        self._sent = self.state
        self._next_at = self._clock.time() + CHANGE_SECONDS

        def answered(error: Any = None, *_: Any) -> None:
            if error is not None:
                self.on_fault(_error_of(error))

        self._ask({"state": self.state}, answered)

    # Members

    def _take(self, members: dict[str, Member]) -> None:
        before, self.members = self.members, members
        if not self.wanted:
            self.me = None
        come, gone = members.keys() - before.keys(), before.keys() - members.keys()
        changed = {key for key in members.keys() & before.keys() if members[key] != before[key]}
        if come or changed or gone:
            self.on_change(come, changed, gone)

    def _forget(self) -> None:
        """Forget what is under way: its connection has ended, or the presence."""
        self._joined = False
        self._asking = self._sent = None
        for timer in (self._change, self._again):
            if timer is not None:
                timer.cancel()
        self._change = self._again = None


def _error_of(error: Any) -> SyncError:
    return error_of(error.get("error", error) if isinstance(error, Mapping) else error)
