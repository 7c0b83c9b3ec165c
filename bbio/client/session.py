"""The namespace of one backend, shared by its channels: what connects subscriptions and the outbox to the server.

It knows neither sockets nor clocks: a `Transport` carries its packets, a `Clock` tells the time and calls it later.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from bbio.client.errors import Dropped, error_of, passing
from bbio.client.events import Events
from bbio.client.messages import Message, Messages
from bbio.client.outbox import Done, Outbox, new_client
from bbio.client.renewal import NOBODY, NeverRenewed, Renewal, Renewing
from bbio.client.replica import Key
from bbio.client.requests import Requests
from bbio.client.roster import Roster
from bbio.client.settings import SessionSettings
from bbio.client.subscription import Mirror, Subscription
from bbio.client.tracker import Apply, Effect, Listen, Meta, Ready, Tracker, Watch
from bbio.client.transport import PATIENCE_SECONDS, Clock, Transport
from bbio.errors import BadRequest, Busy, Forbidden, SyncError, Timeout, Unavailable
from bbio.streams import BACKEND_WIDE, CHANNEL, channel_stream

# Seconds that a lost connection takes from the time of requests sent over it: it may have been lost because of them.
LOSS_SECONDS = 2.0
# Seconds in which what a reply told of should have arrived.
OVERDUE_SECONDS = 2.0


def _ignore(*_: Any) -> None:
    """Take an answer that says nothing, or news that nobody wants."""


# Called with a session, a subscription, and the writes in its channel that will not be sent.
OnDropped = Callable[["BackendSession", Subscription, list[Dropped]], object]


class BackendSession(Requests):
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
        identity: the token of the connection.
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
        identity: Renewing | None = None,
        on_joined: Callable[[BackendSession, str | None], object] = _ignore,
    ) -> None:
        super().__init__(name, clock, settings, Outbox(client or new_client(), user), keep)
        self.chance = chance
        # Those that follow their channel stay; others as long as somebody has them.
        self.subscriptions: WeakValueDictionary[str | None, Subscription] = WeakValueDictionary()
        self._joined: set[Subscription] = set()
        self._join = join
        self._on_dropped = on_dropped
        self.renewal = Renewal(identity or NeverRenewed(), self)
        self._on_joined = on_joined
        join(self)

    @property
    def subscribed(self) -> list[Subscription]:
        return list(self.subscriptions.values())

    def reconnect(self) -> None:
        self._join(self)

    def dropped(self, subscription: Subscription, errors: list[Dropped]) -> None:
        self._on_dropped(self, subscription, errors)

    def subscription(self, channel: str | None, id_attribute: str) -> Subscription:
        """Return the subscription to a channel, and join it; there is one for all who ask."""
        subscription = self.subscriptions.get(channel)
        if subscription is None:
            roster = Roster(self.clock, self.chance, self.settings.jitter, partial(self._send_presence, channel))
            subscription = Subscription(
                self.name, channel, id_attribute, self.clock, self._read_one, self._lost, roster
            )
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

    def resume(self, subscription: Subscription, since: Mapping[str, Any]) -> None:
        """Have a subscription begin after a position when it is joined, as nobody follows it yet.

        Raises:
            BadRequest: it is no position, or somebody does.
        """
        if subscription.is_followed:
            raise BadRequest(
                f"events(since=...) of {self.name!r} comes before all else that follows the channel; open a connection "
                "of its own for it"
            )
        Tracker().resume(since)
        self.leave(subscription)
        subscription.tracker.resume(since)

    def release(self, subscription: Subscription, follower: Mirror | Events | Messages) -> None:
        """Forget a mirror or a reader that is closed; the last one that follows a channel leaves it."""
        if subscription.remove(follower) and not subscription.is_followed:
            self.leave(subscription)

    def rest(self, subscription: Subscription) -> None:
        """Leave a channel that nothing follows any more: this client is present in it no more."""
        if subscription.released and not subscription.is_followed:
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

    def connected(self, transport: Transport, token: str | None = None) -> None:
        """Begin on a new connection: the namespace was joined, with a token if there is one."""
        self.transport = transport
        self.renewal.connected(transport, token)
        self.wanted = self._reached = True
        self._liveness.hear()
        self._arm_all()
        for subscription in self.subscriptions.values():
            if subscription.joined:
                self.run(subscription, subscription.tracker.connected())

    def disconnected(self) -> None:
        """Note that the namespace was left, or the connection ended; it will come back."""
        if self.transport is None:
            return
        self.transport = None
        self.renewal.cut()
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
        elif event == "presence" and len(arguments) >= 2:
            self._with_channel(arguments[0], lambda subscription: subscription.roster.told(arguments[1]))
        elif event == "message" and len(arguments) >= 4:
            name, data, channel, sender = arguments[:4]
            message = Message(name, data, sender["key"], sender["card"])
            self._with_channel(channel, lambda subscription: subscription.messaged(message))
        elif event == "auth":
            if self.renewal.told(arguments[0] if arguments else None):
                for subscription in self.subscriptions.values():
                    subscription.roster.paused()
        elif event == "resync" and len(arguments) >= 2 and isinstance(arguments[1], Mapping):
            self._moved(str(arguments[0]), arguments[1])
        elif event == "resync":
            for subscription in self._following(arguments[0] if arguments else None):
                self.run(subscription, subscription.tracker.gap())

    def _with_channel(self, channel: str | None, take: Callable[[Subscription], None]) -> None:
        subscription = self.subscriptions.get(channel)
        if subscription is not None and subscription.joined:
            take(subscription)

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

    def _send_presence(self, channel: str | None, options: dict[str, Any] | None, answer: Callable[..., None]) -> None:
        assert self.transport is not None, "a roster that is offline asks for nothing"
        token = self.renewal.token

        def answered(error: Any = None, *reply: Any) -> None:
            fields = error.get("error") if isinstance(error, Mapping) else None
            if fields and self.renewal.awaits(error_of(fields), token):
                # It is asked for again once this client listens with a new token.
                self._with_channel(channel, lambda subscription: subscription.roster.paused())
            else:
                answer(error, *reply)

        self.transport.emit("presence", (channel, options), self._current(answered))

    def send(self, subscription: Subscription, name: str, data: Any, answer: Callable[..., None]) -> None:
        """Send a message, which is told now or never.

        Parameters:
            subscription: the channel.
            name: the name of the message.
            data: what is told, as JSON has it.
            answer: called with the arguments of the ack, if one comes.

        Raises:
            Unavailable: there is no connection, or the client does not listen.
        """
        transport = self.transport
        if transport is None or not subscription.listens:
            raise Unavailable(f"there is no connection to {self.name!r}, and a message does not wait for one")
        transport.emit("message", (name, data, subscription.channel), self._current(answer))

    def _current(self, answer: Callable[..., None]) -> Callable[..., None]:
        """Make a callback that is called as long as the connection is the same."""
        transport = self.transport

        def answered(*arguments: Any) -> None:
            if self.transport is transport:
                self._liveness.hear()
                answer(*arguments)

        return answered

    def close(self) -> None:
        """End for good: nothing more will be sent."""
        self.closed = True
        self.transport = None
        self.renewal.cut()
        self._timers.forget()
        self._liveness.forget()
        error = Unavailable("the connection was closed")
        self._fail(error, self.outbox.entries)
        for subscription in self.subscriptions.values():
            subscription.close(error)

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
        if self.renewal.is_held:
            self.renewal.deny(subscription)
            return
        answered = False
        query, token = subscription.query, self.renewal.token

        def answer(reply: Any = None, *_: Any) -> None:
            nonlocal answered
            if not answered and self.transport is transport and subscription.joined:
                self._liveness.hear()
                answered = True
                repeat.cancel()
                if subscription.query == query:
                    self._listened(subscription, reply if isinstance(reply, Mapping) else {}, token)
                else:
                    self._send_listen(subscription, since)

        def unanswered() -> None:
            nonlocal answered
            answered = True
            self.probe(patient=any(map(self._liveness.may_be_long, self.outbox.entries)))
            self._send_listen(subscription, since)

        repeat = self._timers.later(PATIENCE_SECONDS, unanswered)
        claim: dict[str, Any] = {"v": 1, "since": since, "client": self.outbox.client, "user": True, "messages": True}
        if query is not None:
            claim["query"] = query
        if subscription.takes_deltas:
            claim["deltas"] = True
        transport.emit("listen", (subscription.channel, claim), answer)

    def _listened(self, subscription: Subscription, reply: Mapping[str, Any], token: str | None) -> None:
        if reply.get("error"):
            error = error_of(reply["error"])
            if self.renewal.awaits(error, token):
                self.renewal.deny(subscription)
                return
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
            self.renewal.refused(subscription)
            self.deny(subscription, error)
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
        subscription.roster.listened(reply.get("present") is True)
        for stream, state in (reply.get("streams") or {}).items():
            for other in self._following(stream):
                if other is not subscription:
                    self.run(other, other.tracker.overheard(stream, state))

    # A new token

    def following(self) -> list[Subscription]:
        """Return the subscriptions that follow their channel."""
        return self._following(None)

    def listen_again(self, subscription: Subscription) -> None:
        """Listen again, with another token."""
        tracker = subscription.tracker
        self.run(subscription, [Listen(tracker.since)] if tracker.listening else tracker.asked())

    def deny(self, subscription: Subscription, error: SyncError) -> None:
        """Note that the server does not let this client listen."""
        subscription.refused(error)
        # A client that may not listen may still be allowed to sync.
        subscription.tracker.refused()
        self._unrecognized(subscription, error)

    def go_on(self) -> None:
        """Send what has waited for a token."""
        self._arm_all()
        self.flush()

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
