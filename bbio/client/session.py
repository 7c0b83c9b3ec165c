"""The namespace of one backend, shared by its channels: what connects subscriptions and the outbox to the server.

It knows neither sockets nor clocks: a `Transport` carries its packets, a `Clock` tells the time and calls it later.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import attrs
import msgspec

from bbio import protocol
from bbio.client.errors import Dropped, TooLarge, error_of, passing
from bbio.client.events import Events
from bbio.client.liveness import PATIENCE_SECONDS, Liveness
from bbio.client.outbox import Done, Entry, Outbox, new_client
from bbio.client.replica import Key
from bbio.client.subscription import Mirror, Subscription
from bbio.client.timers import Timers
from bbio.client.tracker import Apply, Effect, Listen, Meta, Ready, Watch
from bbio.client.transport import Clock, Transport
from bbio.client.values import copied
from bbio.errors import (
    BadRequest,
    Busy,
    ConfigurationError,
    Forbidden,
    SyncError,
    Timeout,
    Unavailable,
    UnknownOutcome,
)
from bbio.streams import BACKEND_WIDE, CHANNEL, channel_stream

# Seconds that a lost connection takes from the time of requests sent over it: it may have been lost because of them.
LOSS_SECONDS = 2.0
# Bytes around a request in its packet, without the backend's name.
ENVELOPE_BYTES = 32
# Seconds in which what a reply told of should have arrived.
OVERDUE_SECONDS = 2.0


# Called with a session, a subscription, and the writes in its channel that will not be sent.
OnDropped = Callable[["BackendSession", Subscription, list[Dropped]], object]

# The user that the server takes a client for that has not logged in.
NOBODY = "nobody"


def _not_negative(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if value < 0:
        raise ConfigurationError(f"{attribute.name}={value!r}: it must not be negative")


@attrs.frozen(kw_only=True)
class SessionSettings:
    """Limits and times of all sessions of a connection.

    Parameters:
        deadline: seconds a sync may take.
        queue_limit: requests to one backend that may wait for an answer.
        event_limit: events that may wait to be read from `events()`.
        jitter: seconds over which clients that lost the same connection spread.
    """

    deadline: float = attrs.field(default=30.0, validator=_not_negative)
    queue_limit: int = attrs.field(default=1_000, validator=_not_negative)
    event_limit: int = attrs.field(default=1_000, validator=_not_negative)
    jitter: float = attrs.field(default=1.0, validator=_not_negative)


def _ignore(*_: Any) -> None:
    """Take an answer that says nothing, or news that nobody wants."""


class BackendSession:
    """One backend, as one client sees it.

    Parameters:
        name: the backend's.
        join: called with this session when it needs a connection: `connected`, `disconnected` and `refused` then tell
            of it.
        clock: calls later.
        settings: limits and times.
        client: this client's id, part of every operation id.
        chance: a random number from 0 to 1.
        user: the user who makes the requests, as far as the application has said so.
        keep: whether writes that wait to be sent when another user connects wait for their own.
        on_dropped: called when writes will not be sent, because another user connected.
        on_joined: called when the server has let this client into a channel that nothing follows.
    """

    def __init__(
        self,
        name: str,
        join: Callable[[BackendSession], None],
        clock: Clock,
        settings: SessionSettings,
        client: str | None = None,
        chance: Callable[[], float] = random.random,
        user: str = "",
        keep: bool = False,
        on_dropped: OnDropped = _ignore,
        on_joined: Callable[[BackendSession, str | None], object] = _ignore,
    ) -> None:
        self.name = name
        self.clock = clock
        self.settings = settings
        self.chance = chance
        self.outbox = Outbox(client or new_client(), user)
        # Those that follow their channel stay; others as long as somebody has them.
        self.subscriptions: WeakValueDictionary[str | None, Subscription] = WeakValueDictionary()
        self._joined: set[Subscription] = set()
        self.transport: Transport | None = None
        self.keep = keep
        self.closed = False
        self._join = join
        self._on_dropped = on_dropped
        self._on_joined = on_joined
        self.wanted = True  # whether there is a connection, or should be
        self._reached = False
        self._timers = Timers(clock)
        self._liveness = Liveness(clock, self._timers)
        join(self)

    def subscription(self, channel: str | None, id_attribute: str) -> Subscription:
        """Return the subscription to a channel, and join it; there is one for all who ask."""
        subscription = self.subscriptions.get(channel)
        if subscription is None:
            subscription = Subscription(self.name, channel, id_attribute, self.clock, self._read_one, self._lost)
            self.subscriptions[channel] = subscription
        self.join(subscription)
        return subscription

    def join(self, subscription: Subscription) -> None:
        """Follow the channel of a subscription that is used, also if it had been left."""
        if (
            self.subscriptions.setdefault(subscription.channel, subscription) is subscription
            and not subscription.joined
        ):
            subscription.joined = True
            self._joined.add(subscription)
            if self.transport is not None:
                self.run(subscription, subscription.tracker.connected())

    def release(self, subscription: Subscription, follower: Mirror | Events) -> None:
        """Forget a mirror or a reader that is closed; the last one that follows a channel leaves it."""
        if subscription.remove(follower) and not subscription.is_followed:
            self.leave(subscription)

    def leave(self, subscription: Subscription) -> None:
        """Follow a channel no more, unless something is under way in it."""
        busy = any(entry.subscription is subscription for entry in self.outbox.entries)
        if busy or self.closed or not subscription.joined:
            return
        subscription.joined = False
        self._joined.discard(subscription)
        subscription.left()
        if self.transport is not None:
            self.transport.emit("unlisten", ([subscription.channel],), _ignore)

    def cover(self, subscription: Subscription, follower: Mirror | Events, query: dict[str, Any] | None) -> bool:
        """Ask for the records that a follower of a subscription wants; return whether the server is asked anew.

        Parameters:
            subscription: the subscription.
            follower: a mirror or a reader.
            query: its conditions, None for all records.
        """
        if not subscription.cover(follower, query):
            return False
        if self.transport is not None and subscription.joined:
            subscription.listens = False
            self.run(subscription, subscription.tracker.asked())
        return True

    # The connection

    def connected(self, transport: Transport) -> None:
        """Begin on a new connection: the namespace was joined."""
        self.transport = transport
        self.wanted = self._reached = True
        self._liveness.hear()
        for entry in self.outbox.entries:
            if entry.timer is None:
                self._arm(entry)
        for subscription in self.subscriptions.values():
            if subscription.joined:
                self.run(subscription, subscription.tracker.connected())

    def disconnected(self) -> None:
        """Note that the namespace was left, or the connection ended; it will come back."""
        if self.transport is None:
            return
        self.transport = None
        self._timers.forget()
        self._liveness.forget()
        for entry in self.outbox.disconnected():
            entry.left -= LOSS_SECONDS
            if entry.left <= 0:
                self._settle(entry, Timeout(self._why(entry)))
            elif entry.writes and not entry.subscription.tracker.positioned:
                self._settle(entry, self._unknown(entry))
        for subscription in self.subscriptions.values():
            subscription.tracker.disconnected()
            subscription.offline()

    def replaced(self, user: str, *, keep: bool) -> Callable[[], None]:
        """Move to another connection, perhaps another user's.

        Requests under way stay with the old connection; those that it cannot answer are not sent again. Requests that
        have not been sent go out as the user who made them, or not at all.

        Parameters:
            user: the user who makes the requests from now on.
            keep: whether writes that others have not sent wait for them.

        Returns:
            to be called when the old connection has ended.
        """
        old = self.transport
        for entry in self.outbox.entries:
            if not entry.writes:
                entry.user = user
            elif entry.waiting:
                assert old is not None, "what waits for an answer was sent on a connection"
                self.outbox.leave(entry, old)
        self.disconnected()
        self.outbox.user, self.keep = user, keep
        self.wanted = True
        for subscription in self.subscriptions.values():
            subscription.known_as = None
        entries = [entry for entry in self.outbox.entries if entry.old is None and entry.writes]
        self._part([entry for entry in entries if entry.sent or entry.user != user])

        def ended() -> None:
            for entry in self.outbox.entries:
                if old is not None and entry.old is old:
                    self._settle(entry, self._unknown(entry))

        return ended

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
                self._on_dropped(self, subscription, errors)
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

    def refused(self, reason: Any) -> None:
        """Note that the server does not let this client into the namespace; the next request tries again."""
        self.wanted = False
        fields = reason if isinstance(reason, Mapping) else {"message": reason}
        if isinstance(fields.get("data"), Mapping):  # where Socket.IO puts what is more than a message
            fields = fields["data"]
        message = f"the server refused the backend {self.name!r}: {fields.get('message') or 'it gave no reason'}"
        has_name = isinstance(fields.get("name"), str)
        error = error_of({**fields, "message": message}) if has_name else Unavailable(message)
        if has_name and isinstance(error, (Busy, Timeout, Unavailable)):
            pause = error.values.get("retry_after")
            seconds = max(1.0, pause if isinstance(pause, (int, float)) else 0.0)
            self.clock.call_later(seconds + self.chance() * self.settings.jitter, self._join_again)
            self.wanted = True
            return
        entries = [entry for entry in self.outbox.entries if entry.old is None]
        self._fail(error, [entry for entry in entries if not self.outbox.is_of_another(entry)])
        for subscription in self.subscriptions.values():
            subscription.refused(error)

    def _join_again(self) -> None:
        if self.transport is None and not self.closed:
            self._join(self)

    def turned_away(self, error: SyncError) -> None:
        """Note that connections to the server are refused; they are tried again.

        A client that was let in before ignores it: a proxy may refuse for a while, and writes wait.
        """
        if not self._reached:
            self._fail(error, [one for one in self.outbox.entries if not self.outbox.is_of_another(one)])
            for subscription in self.subscriptions.values():
                subscription.refused(error)

    def received(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take an event from the server."""
        if self.transport is None:
            return  # the library still hands on what came before the end; the next listen asks for all of it
        self._liveness.hear()
        if event == "synced" and len(arguments) >= 2:
            method, model, *rest = arguments
            meta = Meta.read(rest[0]) if rest else None
            for subscription in self._following(None if meta is None else meta.stream):
                self.run(subscription, subscription.tracker.event(method, model, meta))
        elif event == "resync" and len(arguments) >= 2 and isinstance(arguments[1], Mapping):
            self._moved(str(arguments[0]), arguments[1])
        elif event == "resync":
            for subscription in self._following(arguments[0] if arguments else None):
                self.run(subscription, subscription.tracker.gap())

    def _moved(self, stream: str, change: Mapping[str, Any]) -> None:
        """Note that the server has let this client into a channel, or out of it."""
        channel = stream.removeprefix(CHANNEL) or None
        subscription = self.subscriptions.get(channel)
        if change.get("joined"):
            if subscription is not None:
                subscription.invited()
            if subscription is None or not subscription.joined:
                self._on_joined(self, channel)
            else:
                self.run(subscription, subscription.tracker.invited())
        elif change.get("left") and subscription is not None and subscription.joined:
            subscription.refused(Forbidden("the server has ended listening to this channel"))
            subscription.tracker.dismissed()
            self.flush()

    def _fail(self, error: SyncError, entries: list[Entry]) -> None:
        """Fail requests that have no answer."""
        for entry in entries:
            self._settle(entry, self._unknown(entry) if entry.writes and entry.sent else error)

    def _unknown(self, entry: Entry) -> UnknownOutcome:
        return UnknownOutcome(
            f"the connection was lost before {self.name!r} answered; "
            f"the {entry.request['method']} may have been applied"
        )

    def close(self) -> None:
        """End for good: nothing more will be sent."""
        self.closed = True
        self.transport = None
        self._timers.forget()
        self._liveness.forget()
        error = Unavailable("the connection was closed")
        self._fail(error, self.outbox.entries)
        for subscription in self.subscriptions.values():
            subscription.close(error)

    # Requests

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
            self._join(self)
        self.flush()
        return entry

    def cancel(self, entry: Entry) -> None:
        """Do not send a request again: nobody waits for its answer any more."""
        if entry.timer is not None:
            entry.timer.cancel()
        if self.outbox.settle(entry):
            self.flush()

    def run(self, subscription: Subscription, effects: list[Effect]) -> None:
        """Do what a tracker asks for."""
        for effect in effects:
            match effect:
                case Apply():
                    self._apply(subscription, effect)
                case Listen():
                    self._listen(subscription, effect)
                case Watch():
                    self._timers.later(OVERDUE_SECONDS, lambda: self.run(subscription, subscription.tracker.overdue()))
                case Ready():
                    self.flush()
                    subscription.online()
                case _:
                    subscription.reread(effect.renewed)

    def flush(self) -> None:
        """Send what is due."""
        transport = self.transport
        if transport is None:
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
        is_positioned = any(each.tracker.positioned for each in self.subscriptions.values())
        if self.transport is not None and is_positioned:
            self._liveness.probe(self.transport, patient=patient)

    # Listening

    def _listen(self, subscription: Subscription, listen: Listen) -> None:
        if listen.again:
            self._timers.later(self.chance() * self.settings.jitter, self._send_listen, subscription, listen.since)
        else:
            self._send_listen(subscription, listen.since)

    def _send_listen(self, subscription: Subscription, since: dict[str, list[Any]]) -> None:
        transport = self.transport
        assert transport is not None, "timers end with the connection"
        if not subscription.joined:
            return
        answered = False
        query = subscription.query

        def answer(reply: Any = None, *_: Any) -> None:
            nonlocal answered
            if not answered and self.transport is transport and subscription.joined:
                self._liveness.hear()
                answered = True
                repeat.cancel()
                if subscription.query == query:
                    self._listened(subscription, reply if isinstance(reply, Mapping) else {})
                else:
                    self._send_listen(subscription, since)

        def unanswered() -> None:
            nonlocal answered
            answered = True
            self.probe(patient=any(map(self._liveness.may_be_long, self.outbox.entries)))
            self._send_listen(subscription, since)

        repeat = self._timers.later(PATIENCE_SECONDS, unanswered)
        claim: dict[str, Any] = {"v": 1, "since": since, "client": self.outbox.client, "user": True}
        if query is not None:
            claim["query"] = query
        if subscription.takes_deltas:
            claim["deltas"] = True
        transport.emit("listen", (subscription.channel, claim), answer)

    def _listened(self, subscription: Subscription, reply: Mapping[str, Any]) -> None:
        if reply.get("error"):
            error = error_of(reply["error"])
            if passing(error):
                # What waits is not sent before the server has said who this is; it would be refused for good.
                retry_after = error.values.get("retry_after")
                pause = max(1.0, retry_after if isinstance(retry_after, (int, float)) else 0.0)
                self._timers.later(
                    pause, lambda: self._listen(subscription, Listen(subscription.tracker.since, again=True))
                )
                return
            if isinstance(error, BadRequest) and subscription.query is not None:
                # It is no query that the server could follow live; reads will show what it is.
                subscription.query = None
                self._send_listen(subscription, subscription.tracker.since)
                return
            subscription.refused(error)
            # A client that may not listen may still be allowed to sync.
            subscription.tracker.refused()
            self._unrecognized(subscription, error)
            self.flush()
            return
        if isinstance(reply.get("client"), str):
            self.outbox.public = reply["client"]
        if "user" in reply:
            self._recognized(subscription, NOBODY if reply["user"] is None else str(reply["user"]))
        is_part = "d" in ((reply.get("streams") or {}).get(channel_stream(subscription.channel)) or {})
        subscription.live = subscription.query if is_part else None
        subscription.answered += 1
        self.run(subscription, subscription.tracker.listened(reply))
        subscription.online()
        for stream, state in (reply.get("streams") or {}).items():
            for other in self._following(stream):
                if other is not subscription:
                    self.run(other, other.tracker.overheard(stream, state))

    def _following(self, stream: str | None) -> list[Subscription]:
        """Return the subscriptions that follow a stream; all, when a server names none."""
        return [
            each
            for each in self.subscriptions.values()
            if each.joined and stream in (None, BACKEND_WIDE, channel_stream(each.channel))
        ]

    def _apply(self, subscription: Subscription, event: Apply) -> None:
        op = None if event.meta is None else event.meta.op
        own, model = self.outbox.find(op), event.model
        is_answer = own is not None and own.subscription is subscription
        if is_answer and event.method == "patch":
            # It is one where the record is known that it builds on; else the answer will come.
            model = subscription.made(model, event.meta)
            is_answer = model is not None
        if is_answer and own is not None:
            self._succeed(own, model, event.meta, is_gone=event.method == "delete")
        else:
            subscription.notified(event.method, event.model, event.meta, own=self.outbox.owns(op))

    def _read_one(self, subscription: Subscription, key: Key, done: Done) -> None:
        request = {
            "method": "read",
            "model": {subscription.id_attribute: key},
            "options": {},
            "channel": subscription.channel,
        }
        try:
            self.request(subscription, request, None, done)
        except SyncError as err:
            done(err, None, None)

    def _lost(self, subscription: Subscription) -> None:
        self.run(subscription, subscription.tracker.lost())

    # Answers

    def _answer(self, entry: Entry, transport: Transport) -> Callable[..., None]:
        def answer(error: Any = None, result: Any = None, extra: Any = None, *_: Any) -> None:
            if transport is not self.transport and transport is not entry.old:
                return
            self._liveness.hear()
            if error is not None:
                self._settle(entry, error_of(error.get("error", error) if isinstance(error, Mapping) else error))
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

    def _arm(self, entry: Entry) -> None:
        step = min(entry.left, PATIENCE_SECONDS)
        entry.timer = self.clock.call_later(step, self._waited, entry, step)

    def _waited(self, entry: Entry, step: float) -> None:
        """Count the time that a request has waited, unless a write merely waits for a connection."""
        is_away = entry.old is None and (self.outbox.is_of_another(entry) or (self.transport is None and self.wanted))
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
