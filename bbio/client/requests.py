"""The requests of one client to one backend: sent when there is a connection, given up when their time is over.

They are sent again over the next connection, where the server knows them again, and are never sent as another user's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from bbio import protocol
from bbio.client.errors import Dropped, TooLarge, error_of
from bbio.client.liveness import Liveness
from bbio.client.outbox import Done, Entry, Outbox
from bbio.client.renewal import Renewal
from bbio.client.settings import SessionSettings
from bbio.client.subscription import Subscription
from bbio.client.timers import Timers
from bbio.client.tracker import Effect, Meta
from bbio.client.transport import PATIENCE_SECONDS, Clock, Transport
from bbio.client.values import copied
from bbio.errors import Busy, SyncError, Timeout, Unavailable, UnknownOutcome

# Bytes around a request in its packet, without the backend's name.
ENVELOPE_BYTES = 32


class Requests(ABC):
    """The requests to a backend; a subclass says where they are sent, and follows its channels.

    Parameters:
        name: the backend's.
        clock: calls later.
        settings: limits and times.
        outbox: the requests that wait for answers.
        keep: whether writes that wait to be sent when another user connects wait for their own.

    Attributes:
        renewal: the token that requests are sent under.
    """

    renewal: Renewal

    def __init__(self, name: str, clock: Clock, settings: SessionSettings, outbox: Outbox, keep: bool) -> None:
        self.name = name
        self.clock = clock
        self.settings = settings
        self.outbox = outbox
        self.keep = keep
        self.transport: Transport | None = None
        self.closed = False
        self.wanted = True  # whether there is a connection, or should be
        self._reached = False
        self._timers = Timers(clock)
        self._liveness = Liveness(clock, self._timers)

    @property
    @abstractmethod
    def subscribed(self) -> list[Subscription]:
        """Return all subscriptions."""

    @abstractmethod
    def reconnect(self) -> None:
        """Ask for a connection."""

    @abstractmethod
    def join(self, subscription: Subscription) -> None:
        """Follow the channel of a subscription."""

    @abstractmethod
    def leave(self, subscription: Subscription) -> None:
        """Follow the channel of a subscription no more, unless something is under way in it."""

    @abstractmethod
    def run(self, subscription: Subscription, effects: list[Effect]) -> None:
        """Do what the tracker of a subscription asks for."""

    @abstractmethod
    def dropped(self, subscription: Subscription, errors: list[Dropped]) -> None:
        """Tell the application of writes that will not be sent."""

    def request(self, subscription: Subscription, request: dict[str, Any], timeout: float | None, done: Done) -> Entry:
        """Take a request, to be sent now or when there is a connection.

        Raises:
            Busy: too many wait for an answer.
            Unavailable: the connection was closed.
        """
        if self.closed:
            raise Unavailable("the connection was closed")
        limit = self.settings.queue_limit
        if (
            len(self.outbox) >= limit
            and sum(not self.outbox.is_of_another(entry) for entry in self.outbox.entries) >= limit
        ):
            raise Busy(f"{limit} requests to {self.name!r} wait for an answer already", retry_after=1.0)
        self.join(subscription)
        left = self.settings.deadline if timeout is None else timeout
        entry = self.outbox.add(subscription, request, done, left, timeout is not None)
        self._arm(entry)
        if not self.wanted:
            self.wanted = True
            self.reconnect()
        self.flush()
        return entry

    def cancel(self, entry: Entry) -> None:
        """Do not send a request again: nobody waits for its answer any more."""
        if entry.timer is not None:
            entry.timer.cancel()
        if self.outbox.settle(entry):
            self.flush()

    def flush(self) -> None:
        """Send what is due."""
        transport = self.transport
        if transport is None or self.renewal.is_held:
            return
        for entry in self.outbox.due(
            lambda entry: entry.subscription.tracker.ready and not self.outbox.is_of_another(entry)
        ):
            entry.sent_at = self.clock.time()
            body = protocol.encode(entry.request)
            size, limit = len(body) + len(self.name) + ENVELOPE_BYTES, transport.max_payload
            if limit is None or size <= limit:
                transport.emit("sync", (msgspec.Raw(body),), self._answer(entry, transport))
            else:  # it would close the connection
                method = entry.request["method"]
                message = f"the {method} of {self.name!r} is too large: {size} bytes, and the server takes {limit}"
                self._settle(entry, TooLarge(message, size=size, limit=limit))

    def probe(self, *, patient: bool = False) -> None:
        """Find out whether the server is there; if it does not show in time, the connection is opened again.

        Parameters:
            patient: whether a long answer may be on its way, behind which the server cannot show: it has no time limit
                then, until somebody asks who is not so patient.
        """
        is_positioned = any(each.tracker.positioned for each in self.subscribed)
        if self.transport is not None and is_positioned:
            self._liveness.probe(self.transport, patient=patient)

    def _part(self, entries: list[Entry]) -> None:
        """Fail writes that nobody here may send, or send again; or have them wait for the user who made them."""
        dropped: dict[Subscription, list[Dropped]] = {}
        for entry in entries:
            if entry.sent:
                self._settle(entry, self._unknown(entry))
            elif not self.keep:
                method, model = entry.request["method"], entry.request["model"]
                message = f"the {method} waited to be sent to {self.name!r} when another user connected"
                error = Dropped(message, method=method, model=model)
                dropped.setdefault(entry.subscription, []).append(error)
                self._settle(entry, error)
        for subscription, errors in dropped.items():
            try:
                self.dropped(subscription, errors)
            except Exception as err:
                subscription.report(err, "connect(dropped=...)")

    def _recognized(self, subscription: Subscription, user: str) -> None:
        """Note the user that the server takes this client for: another one, if `auth` has changed its mind."""
        theirs, ours = self.outbox.recognized(subscription, user)
        for entry in ours:
            if entry.timer is None:
                self._arm(entry)
        self._part(theirs)
        self.flush()

    def _unrecognized(self, subscription: Subscription, error: SyncError) -> None:
        """Fail what cannot be sent: the server does not let this client listen, nor say which user it takes it for."""
        self._fail(error, self.outbox.unrecognized(subscription))

    def _fail(self, error: SyncError, entries: list[Entry]) -> None:
        """Fail requests that have no answer."""
        for entry in entries:
            self._settle(entry, self._unknown(entry) if entry.writes and entry.sent else error)

    def _unknown(self, entry: Entry) -> UnknownOutcome:
        return UnknownOutcome(
            f"the connection was lost before {self.name!r} answered; "
            f"the {entry.request['method']} may have been applied"
        )

    # Answers

    def _answer(self, entry: Entry, transport: Transport) -> Callable[..., None]:
        token = self.renewal.token

        def answer(error: Any = None, result: Any = None, extra: Any = None, *_: Any) -> None:
            if transport is not self.transport and transport is not entry.old:
                return
            self._liveness.hear()
            if error is not None:
                error = error_of(error.get("error", error) if isinstance(error, Mapping) else error)
                self._refuse(entry, error, token)
                return
            meta = Meta.read(extra) if entry.writes else None
            if meta is None:
                self._succeed(entry, result, extra)
                return
            tracker = entry.subscription.tracker
            # What a connection of before was told under, nobody knows.
            is_old = transport is not self.transport
            passed = tracker.passed(meta, entry.retried) or tracker.leaves_content(meta, is_old)
            self._succeed(entry, result, meta, passed=passed)
            if self.transport is not None:  # else the next listen shows it
                self.run(entry.subscription, tracker.acked(meta))

        return answer

    def _refuse(self, entry: Entry, error: SyncError, token: str | None) -> None:
        if entry.old is not None or not self.outbox.holds(entry) or not self.renewal.awaits(error, token):
            self._settle(entry, error)
            return
        if entry.waiting:
            self.outbox.repeat(entry)
        # It was not done; an attempt before this one may have been.
        entry.sent = entry.retried
        self.flush()

    def _succeed(self, entry: Entry, result: Any, extra: Any, *, passed: bool = False, is_gone: bool = False) -> None:
        self._settle(entry, None, result, extra)
        # Also when it comes after the deadline: a write that its maker has given up on is news to all.
        if entry.writes and not passed:
            meta = extra if isinstance(extra, Meta) else None
            is_gone = is_gone or (meta is not None and meta.is_in is False)
            entry.subscription.wrote(entry.request, result, meta, is_gone=is_gone)

    def _settle(self, entry: Entry, error: SyncError | None, result: Any = None, extra: Any = None) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        if self.outbox.settle(entry):
            entry.done(error, copied(result) if entry.writes else result, extra)
            self.flush()
            if entry.subscription.joined and entry.subscription.released and not entry.subscription.is_followed:
                self.leave(entry.subscription)

    def _arm_all(self) -> None:
        for entry in self.outbox.entries:
            if entry.timer is None:
                self._arm(entry)

    def _arm(self, entry: Entry) -> None:
        step = min(entry.left, PATIENCE_SECONDS)
        entry.timer = self.clock.call_later(step, self._waited, entry, step)

    def _waited(self, entry: Entry, step: float) -> None:
        """Count the time that a request has waited, unless a write merely waits for a connection."""
        is_cut_off = self.renewal.is_held or (self.transport is None and self.wanted)
        is_away = entry.old is None and (is_cut_off or self.outbox.is_of_another(entry))
        if entry.writes and not entry.strict and self._reached and is_away:
            entry.timer = None  # until there is one
            return
        entry.left -= step
        if entry.left <= 0:
            self._settle(entry, Timeout(self._why(entry)))
            return
        self._arm(entry)
        if entry.waiting or (entry.writes and entry.old is None and not is_away):
            self.probe(patient=self._liveness.may_be_long(entry))
        if entry.writes and entry.subscription.tracker.positioned and entry.waiting:
            self.outbox.repeat(entry)
            self.flush()

    def _why(self, entry: Entry) -> str:
        request = f"{entry.request['method']} of {self.name!r}"
        if entry.sent:
            return f"{request}: the server did not answer in time"
        if self.transport is not None:
            return f"{request}: the server was not ready in time to let this client listen"
        return f"{request}: the server could not be reached in time; is the address right, and does it run?"
