"""The namespace of one backend, shared by its channels: what connects handles, trackers and the outbox to the wire.

It knows neither sockets nor clocks: a `Link` carries what it sends, a `Clock` tells the time and calls it later.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from weakref import WeakValueDictionary

import attrs
import msgspec

from bbio import protocol
from bbio.client.errors import Dropped, TooLarge, error_of, passing
from bbio.client.handle import Handle, copied
from bbio.client.outbox import Done, Entry, Outbox, new_client
from bbio.client.tracker import Apply, Effect, Listen, Meta, Ready, Watch
from bbio.errors import Busy, ConfigurationError, SyncError, Timeout, Unavailable, UnknownOutcome
from bbio.streams import BACKEND_WIDE, channel_stream

# Seconds without an answer after which a write is sent again, or a listen.
PATIENCE = 8.0
# Seconds that a lost connection takes from the time of requests sent over it: it may have been lost because of them.
LOSS = 2.0
# Seconds in which a link shows that it lives.
PROBE = 4.0
# Seconds that a read whose long answer may be on its way waits before its link has to show that it lives, at most.
LONG_READ = 40.0
# Bytes around a request in its packet, without the backend's name.
ENVELOPE = 32
# Seconds in which what a reply told of should have arrived.
OVERDUE = 2.0


class Timer(Protocol):
    """A call to come."""

    def cancel(self) -> None:
        """Do not make it."""


class Clock(Protocol):
    """What tells the time and calls later: an event loop, or a clock that a test turns."""

    def time(self) -> float:
        """Seconds since some moment."""

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer:
        """Call `callback(*args)` after `delay` seconds."""


class Link(Protocol):
    """A connection to the backend's namespace."""

    @property
    def max_payload(self) -> int | None:
        """Bytes of the largest message that the server takes, if it has said so."""

    def emit(self, event: str, arguments: tuple[Any, ...], answer: Callable[..., None]) -> None:
        """Send an event, in order; `answer` is called with the arguments of its ack, if one comes.

        A request is encoded already, as `msgspec.Raw`: what encodes the packet around it copies it.
        """

    def drop(self) -> None:
        """Close the connection, which is dead; another will be opened."""


# Called with the handle and its writes when these will not be sent.
Told = Callable[[Handle, list[Dropped]], object]

# Whom the server takes a client for that has not logged in.
NOBODY = "nobody"


def _not_negative(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if value < 0:
        raise ConfigurationError(f"{attribute.name}={value!r}: it must not be negative")


@attrs.frozen(kw_only=True)
class Settings:
    """What all sessions of a connection go by.

    Parameters:
        deadline: seconds a sync may take.
        queue_limit: requests to one backend that may wait for an answer.
        event_limit: events that may wait to be read from `events()`.
        jitter: seconds over which clients that lost the same connection spread.
        dropped: told of writes that another user left.
    """

    deadline: float = attrs.field(default=30.0, validator=_not_negative)
    queue_limit: int = attrs.field(default=1_000, validator=_not_negative)
    event_limit: int = attrs.field(default=1_000, validator=_not_negative)
    jitter: float = attrs.field(default=1.0, validator=_not_negative)
    dropped: Told | None = None


class Session:
    """One backend, as one client sees it.

    Parameters:
        name: the backend's.
        join: called with this session when it needs a connection: `connected`, `disconnected` and `refused` then tell
            of it.
        clock: calls later.
        settings: limits and times.
        client: this client's id, part of every operation id.
        chance: a random number from 0 to 1.
        user: who makes the requests, as far as the application has said so.
        keep: whether writes that wait to be sent when another user connects wait for their own.
    """

    def __init__(
        self,
        name: str,
        join: Callable[[Session], None],
        clock: Clock,
        settings: Settings,
        client: str | None = None,
        chance: Callable[[], float] = random.random,
        user: str = "",
        keep: bool = False,
    ) -> None:
        self.name = name
        self.clock = clock
        self.settings = settings
        self.chance = chance
        self.outbox = Outbox(client or new_client())
        # Those that follow their channel stay; others as long as somebody has them.
        self.handles: WeakValueDictionary[str | None, Handle] = WeakValueDictionary()
        self._joined: set[Handle] = set()
        self.link: Link | None = None
        # Who makes the requests, as far as the application has said so.
        self.user = user
        self.keep = keep
        self.closed = False
        self._join = join
        self.wanted = True  # whether there is a connection, or should be
        self._reached = False
        self._timers: set[_Later] = set()
        # What stands for the probe that is not answered yet, and the call that ends its link.
        self._probe: object | None = None
        self._end: _Later | None = None
        # When something came from the server.
        self._heard = float("-inf")
        join(self)

    def handle(self, channel: str | None, id_attribute: str) -> Handle:
        """The handle of a channel; one for all who ask."""
        handle = self.handles.get(channel)
        if handle is None:
            handle = self.handles[channel] = Handle(self, channel, id_attribute)
        self.join(handle)
        return handle

    def join(self, handle: Handle) -> None:
        """A handle is used: it follows its channel, also if that had been left."""
        if self.handles.setdefault(handle.channel, handle) is handle and not handle.joined:
            handle.joined = True
            self._joined.add(handle)
            if self.link is not None:
                self.run(handle, handle.tracker.connected())

    def leave(self, handle: Handle) -> None:
        """Follow a channel no more, unless something is under way in it."""
        busy = any(entry.handle is handle for entry in self.outbox.entries)
        if busy or self.closed or not handle.joined:
            return
        handle.joined = False
        self._joined.discard(handle)
        handle.left()
        if self.link is not None:
            self.link.emit("unlisten", ([handle.channel],), _ignore)

    # What the connection tells

    def connected(self, link: Link) -> None:
        """The namespace was joined."""
        self.link = link
        self.wanted = self._reached = True
        self._hear()
        for entry in self.outbox.entries:
            if entry.timer is None:
                self._arm(entry)
        for handle in self.handles.values():
            if handle.joined:
                self.run(handle, handle.tracker.connected())

    def disconnected(self) -> None:
        """The namespace was left, or the connection ended; it will come back."""
        if self.link is None:
            return
        self.link = None
        self._forget_timers()
        for entry in self.outbox.disconnected():
            entry.left -= LOSS
            if entry.left <= 0:
                self._settle(entry, Timeout(self._why(entry)))
            elif entry.writes and not entry.handle.tracker.positioned:
                self._settle(entry, self._unknown(entry))
        for handle in self.handles.values():
            handle.tracker.disconnected()
            handle.offline()

    def replaced(self, user: str, *, keep: bool) -> Callable[[], None]:
        """Another connection takes over, perhaps another user's.

        What is under way stays with the old one; what that cannot answer is not sent again. What has not been sent goes
        out as whoever made it, or not at all.

        Parameters:
            user: who makes the requests from now on.
            keep: whether what others have not sent waits for them.

        Returns:
            to be called when the old connection has ended.
        """
        old = self.link
        for entry in self.outbox.entries:
            if not entry.writes:
                entry.user = user
            elif entry.waiting:
                assert old is not None, "what waits for an answer was sent on a connection"
                self.outbox.leave(entry, old)
        self.disconnected()
        self.user, self.keep = user, keep
        self.wanted = True
        for handle in self.handles.values():
            handle.known_as = None
        entries = [entry for entry in self.outbox.entries if entry.old is None and entry.writes]
        self._part([entry for entry in entries if entry.sent or entry.user != user])

        def ended() -> None:
            for entry in self.outbox.entries:
                if old is not None and entry.old is old:
                    self._settle(entry, self._unknown(entry))

        return ended

    def _part(self, entries: list[Entry]) -> None:
        """Nobody here may send these writes, or send them again: they fail, or wait for who made them."""
        dropped: dict[Handle, list[Dropped]] = {}
        for entry in entries:
            if entry.sent:
                self._settle(entry, self._unknown(entry))
            elif not self.keep:
                method, model = entry.request["method"], entry.request["model"]
                message = f"the {method} waited to be sent to {self.name!r} when another user connected"
                error = Dropped(message, method=method, model=model)
                dropped.setdefault(entry.handle, []).append(error)
                self._settle(entry, error)
        for handle, errors in dropped.items():
            handle.dropped(errors)

    def _recognized(self, handle: Handle, user: str) -> None:
        """The server has said whom it takes this client for: another one, if `auth` has changed its mind."""
        handle.known_as = user
        others = []
        for entry in self.outbox.entries:
            if entry.handle is not handle or entry.user != self.user or entry.old is not None or entry.waiting:
                continue
            if entry.known_as is None:
                entry.known_as = user
            if self._is_of_another(entry):
                others.append(entry)
            elif entry.timer is None:
                self._arm(entry)
        self._part(others)
        self.flush()

    def _is_of_another(self, entry: Entry) -> bool:
        """Whether somebody else made a write than who is connected, as far as application and server have said so."""
        known_as = entry.handle.known_as
        is_other = entry.writes and known_as is not None and entry.known_as is not None and entry.known_as != known_as
        return is_other or entry.user != self.user

    def _unrecognized(self, handle: Handle, error: SyncError) -> None:
        """The server does not let this client listen any more, and so does not say whom it takes it for."""
        if handle.known_as is not None:
            handle.known_as = None
            waiting = [entry for entry in self.outbox.entries if entry.handle is handle and entry.user == self.user]
            known = [entry for entry in waiting if entry.known_as is not None and entry.writes]
            self._fail(error, [entry for entry in known if not entry.waiting and entry.old is None])

    def refused(self, told: Any) -> None:
        """The server does not let this client into the namespace; the next request tries again."""
        self.wanted = False
        fields = told if isinstance(told, Mapping) else {"message": told}
        if isinstance(fields.get("data"), Mapping):  # where Socket.IO puts what is more than a message
            fields = fields["data"]
        message = f"the server refused the backend {self.name!r}: {fields.get('message') or 'it gave no reason'}"
        known = isinstance(fields.get("name"), str)
        error = error_of({**fields, "message": message}) if known else Unavailable(message)
        self._fail(error, [one for one in self.outbox.entries if one.old is None and not self._is_of_another(one)])
        for handle in self.handles.values():
            handle.refused(error)

    def turned_away(self, error: SyncError) -> None:
        """Connections to the server are refused; they are tried again.

        Who has been let in before is not told: what is in between may refuse for a while, and writes wait.
        """
        if not self._reached:
            self._fail(error, [one for one in self.outbox.entries if not self._is_of_another(one)])
            for handle in self.handles.values():
                handle.refused(error)

    def received(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An event came from the server."""
        if self.link is None:
            return  # the library still hands on what came before the end; the next listen asks for all of it
        self._hear()
        if event == "synced" and len(arguments) >= 2:
            method, model, *rest = arguments
            meta = Meta.read(rest[0]) if rest else None
            for handle in self._following(None if meta is None else meta.stream):
                self.run(handle, handle.tracker.event(method, model, meta))
        elif event == "resync":
            for handle in self._following(arguments[0] if arguments else None):
                self.run(handle, handle.tracker.gap())

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
        """Nothing more will be sent."""
        self.closed = True
        self.link = None
        self._forget_timers()
        error = Unavailable("the connection was closed")
        self._fail(error, self.outbox.entries)
        for handle in self.handles.values():
            handle.close(error)

    # What handles ask for

    def request(self, handle: Handle, request: dict[str, Any], timeout: float | None, done: Done) -> Entry:
        """Take a request, to be sent now or when there is a connection.

        Raises:
            Busy: too many wait for an answer.
            Unavailable: the connection was closed.
        """
        if self.closed:
            raise Unavailable("the connection was closed")
        limit = self.settings.queue_limit
        if len(self.outbox) >= limit and sum(not self._is_of_another(entry) for entry in self.outbox.entries) >= limit:
            raise Busy(f"{limit} requests to {self.name!r} wait for an answer already", retry_after=1.0)
        self.join(handle)
        left = self.settings.deadline if timeout is None else timeout
        entry = self.outbox.add(handle, request, done, left, timeout is not None, self.user, handle.known_as)
        self._arm(entry)
        if not self.wanted:
            self.wanted = True
            self._join(self)
        self.flush()
        return entry

    def cancel(self, entry: Entry) -> None:
        """Nobody waits for the answer any more: do not ask for it again."""
        if entry.timer is not None:
            entry.timer.cancel()
        if self.outbox.settle(entry):
            self.flush()

    def run(self, handle: Handle, effects: list[Effect]) -> None:
        """Do what a tracker asks for."""
        for effect in effects:
            match effect:
                case Apply():
                    self._apply(handle, effect)
                case Listen():
                    self._listen(handle, effect)
                case Watch():
                    self._later(OVERDUE, lambda: self.run(handle, handle.tracker.overdue()))
                case Ready():
                    self.flush()
                    handle.online()
                case _:
                    handle.reread(effect.renewed)

    def flush(self) -> None:
        """Send what is due."""
        link = self.link
        if link is None:
            return
        for entry in self.outbox.due(lambda entry: entry.handle.tracker.ready and not self._is_of_another(entry)):
            entry.sent_at = self.clock.time()
            body = protocol.encode(entry.request)
            size, limit = len(body) + len(self.name) + ENVELOPE, link.max_payload
            if limit is None or size <= limit:
                link.emit("sync", (msgspec.Raw(body),), self._answer(entry, link))
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
        link = self.link
        if link is None or not any(handle.tracker.positioned for handle in self.handles.values()):
            return
        if self._probe is None:
            probe = self._probe = object()

            def alive(*_: Any) -> None:
                if self._probe is probe:
                    self._hear()
                    self._probe = None
                    if self._end is not None:
                        self._end.cancel()
                        self._end = None

            link.emit("unlisten", ([],), alive)
        if self._end is None and not patient:
            self._end = self._later(PROBE, self._dead, link)

    def _hear(self) -> None:
        self._heard = self.clock.time()

    def _dead(self, link: Link) -> None:
        self._probe = self._end = None
        link.drop()

    def _may_be_long(self, entry: Entry) -> bool:
        """Whether the answer to a request may be on its way, and merely be long for the link.

        The link lives; or it lived when it was asked for, and there is time to ask for it again. Nobody is as patient
        about a write.
        """
        now = self.clock.time()
        lives = self._heard > now - PATIENCE
        lived = self._heard >= entry.sent_at - PATIENCE
        is_early = now - entry.sent_at < LONG_READ and entry.left > 2 * PATIENCE
        return entry.waiting and not entry.writes and (lives or (lived and is_early))

    # Listening

    def _listen(self, handle: Handle, listen: Listen) -> None:
        if listen.again:
            self._later(self.chance() * self.settings.jitter, self._send_listen, handle, listen.since)
        else:
            self._send_listen(handle, listen.since)

    def _send_listen(self, handle: Handle, since: dict[str, list[Any]]) -> None:
        link = self.link
        assert link is not None, "timers end with the connection"
        if not handle.joined:
            return
        answered = False

        def answer(reply: Any = None, *_: Any) -> None:
            nonlocal answered
            if not answered and self.link is link and handle.joined:
                self._hear()
                answered = True
                repeat.cancel()
                self._listened(handle, reply if isinstance(reply, Mapping) else {})

        def unanswered() -> None:
            nonlocal answered
            answered = True
            self.probe(patient=any(map(self._may_be_long, self.outbox.entries)))
            self._send_listen(handle, since)

        repeat = self._later(PATIENCE, unanswered)
        asked = {"v": 1, "since": since, "client": self.outbox.client, "user": True}
        link.emit("listen", (handle.channel, asked), answer)

    def _listened(self, handle: Handle, reply: Mapping[str, Any]) -> None:
        if reply.get("error"):
            error = error_of(reply["error"])
            if passing(error):
                # What waits is not sent before the server has said who this is; it would be refused for good.
                retry_after = error.values.get("retry_after")
                pause = max(1.0, retry_after if isinstance(retry_after, (int, float)) else 0.0)
                self._later(pause, lambda: self._listen(handle, Listen(handle.tracker.since, again=True)))
                return
            handle.refused(error)
            # A client that may not listen may still be allowed to sync.
            handle.tracker.refused()
            self._unrecognized(handle, error)
            self.flush()
            return
        if isinstance(reply.get("client"), str):
            self.outbox.public = reply["client"]
        if "user" in reply:
            self._recognized(handle, NOBODY if reply["user"] is None else str(reply["user"]))
        self.run(handle, handle.tracker.listened(reply))
        for stream, told in (reply.get("streams") or {}).items():
            for other in self._following(stream):
                if other is not handle:
                    self.run(other, other.tracker.overheard(stream, told))

    def _following(self, stream: str | None) -> list[Handle]:
        """The handles that follow a stream; all, when a server names none."""
        return [
            handle
            for handle in self.handles.values()
            if handle.joined and (stream is None or stream == BACKEND_WIDE or stream == channel_stream(handle.channel))
        ]

    def _apply(self, handle: Handle, event: Apply) -> None:
        op = None if event.meta is None else event.meta.op
        own = self.outbox.find(op)
        if own is not None and own.handle is handle:
            self._succeed(own, event.model, event.meta)
        else:
            handle.notified(event.method, event.model, event.meta, own=self.outbox.owns(op))

    # Answers

    def _answer(self, entry: Entry, link: Link) -> Callable[..., None]:
        def answer(error: Any = None, result: Any = None, told: Any = None, *_: Any) -> None:
            if link is not self.link and link is not entry.old:
                return
            self._hear()
            if error is not None:
                self._settle(entry, error_of(error.get("error", error) if isinstance(error, Mapping) else error))
                return
            meta = Meta.read(told) if entry.writes else None
            if meta is None:
                self._succeed(entry, result, told)
                return
            tracker = entry.handle.tracker
            self._succeed(entry, result, meta, passed=tracker.passed(meta, entry.retried))
            if self.link is not None:  # else the next listen tells
                self.run(entry.handle, tracker.acked(meta))

        return answer

    def _succeed(self, entry: Entry, result: Any, told: Any, *, passed: bool = False) -> None:
        self._settle(entry, None, result, told)
        # Also when it comes after the deadline: a write that its maker has given up on is news to all.
        if entry.writes and not passed:
            meta = told if isinstance(told, Meta) else None
            entry.handle.wrote(entry.request, result, meta)

    def _settle(self, entry: Entry, error: SyncError | None, result: Any = None, told: Any = None) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        if self.outbox.settle(entry):
            entry.done(error, copied(result) if entry.writes else result, told)
            self.flush()
            if entry.handle.joined and entry.handle.released and not entry.handle.is_followed:
                self.leave(entry.handle)

    def _arm(self, entry: Entry) -> None:
        step = min(entry.left, PATIENCE)
        entry.timer = self.clock.call_later(step, self._waited, entry, step)

    def _waited(self, entry: Entry, step: float) -> None:
        """An entry has had no answer for a while: the time counts, unless a write merely waits for a connection."""
        repeatable = entry.writes and bool(entry.handle.tracker.positioned)
        is_away = entry.old is None and (self._is_of_another(entry) or (self.link is None and self.wanted))
        if repeatable and not entry.strict and self._reached and is_away:
            entry.timer = None  # until there is one
            return
        entry.left -= step
        if entry.left <= 0:
            self._settle(entry, Timeout(self._why(entry)))
            return
        self._arm(entry)
        if entry.waiting or (entry.writes and entry.old is None and not is_away):
            self.probe(patient=self._may_be_long(entry))
        if repeatable and entry.waiting:
            self.outbox.repeat(entry)
            self.flush()

    def _why(self, entry: Entry) -> str:
        request = f"{entry.request['method']} of {self.name!r}"
        if entry.sent:
            return f"{request}: the server did not answer in time"
        if self.link is not None:
            return f"{request}: the server was not ready in time to let this client listen"
        return f"{request}: the server could not be reached in time; is the address right, and does it run?"

    # Time

    def _later(self, pause: float, callback: Callable[..., None], *args: Any) -> _Later:
        """Call later, unless the connection ends before."""
        return _Later(self._timers, self.clock, pause, callback, args)

    def _forget_timers(self) -> None:
        self._probe = self._end = None
        for timer in list(self._timers):
            timer.cancel()


def _ignore(*_: Any) -> None:
    """Take an answer that says nothing."""


class _Later:
    """A call to come that can be forgotten together with others."""

    __slots__ = ("_args", "_callback", "_others", "_timer")

    def __init__(
        self, others: set[_Later], clock: Clock, pause: float, callback: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        self._others = others
        self._callback = callback
        self._args = args
        others.add(self)
        self._timer = clock.call_later(pause, self._call)

    def _call(self) -> None:
        self._others.discard(self)
        self._callback(*self._args)

    def cancel(self) -> None:
        self._others.discard(self)
        self._timer.cancel()
