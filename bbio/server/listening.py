"""A `listen`: who may, what was missed, and from when on a client is told of what happens."""

from __future__ import annotations

from typing import Any

from bbio import protocol
from bbio.errors import BadRequest, Busy, StackError, SyncError, Unavailable
from bbio.identity import Identity
from bbio.requests import Request, owned
from bbio.server.connection import Key
from bbio.server.exchange import Exchange, ended
from bbio.server.stream import Followed
from bbio.server.subscribers import Subscribers
from bbio.streams import BACKEND_WIDE, Event, Position, channel_stream, public_part
from bbio.view import View, live_view, public_event

# The place that a client claims, None when it claims none, and the events after it; None when they cannot be told.
Missed = tuple[Position | None, list[Event] | None]


class ListenExchange(Exchange, kw_only=True):
    """Admission, then the subscribers of the channel's streams.

    Parameters:
        fields: what the client has said.
        subscribers: those of the backend.
        public: what clients are told in the reply.
        listened: the reply to those that are told of no positions.
        view: what the client sees, once it is admitted.
    """

    fields: protocol.ListenFields
    subscribers: Subscribers
    public: dict[str, Any]
    listened: bytes
    view: View | None = None

    @property
    def key(self) -> Key:
        return ("listen", self.socket.sid)

    async def work(self) -> None:
        try:
            subscribers = self.subscribers
            rechecks = subscribers.permissions.rechecks
            if await self._is_admitted():
                await self._join(subscribers, rechecks)
        except BaseException as err:
            self.fail(err)
        self.finish()

    async def _is_admitted(self) -> bool:
        runtime = self.socket.runtime
        failure, self.view = await self.exchanges.registry.admit(runtime, self.req)
        if self.view is not None and self.fields.query is not None and runtime.has_live_queries:
            failure = self._narrow(self.view)
        if failure is not None:
            self.refuse(failure)
        return failure is None

    def _narrow(self, view: View) -> SyncError | None:
        """Keep of a view what the client asks for; return why it cannot have that."""
        runtime = self.socket.runtime
        store = runtime.store
        assert store is not None, "it says how records were"
        try:
            self.view = live_view(self.fields.query, view, id_attribute=runtime.id_attribute, limits=store.queries)
        except BadRequest as err:
            return err
        if not self.socket.connection.waiting.has_room(self.view.asked_size):
            return Busy("the queries that are listened to are too large", retry_after=1.0)
        return None

    def reply_refusal(self, arguments: bytes) -> None:
        """Send the ack of a refusal, which is then the answer to a sync in that channel too."""
        socket, channel = self.socket, self.fields.channel
        if channel and channel not in socket.channels and not self.replied:
            refusals = socket.refusals
            refusals.pop(channel, None)
            refusals[channel] = arguments
            if len(refusals) > self.exchanges.limits.channels:
                del refusals[next(iter(refusals))]
            socket.last_channel = channel
        self.reply(arguments)

    async def _join(self, subscribers: Subscribers, rechecks: int) -> None:
        version = self.fields.version
        streams = subscribers.listeners.join(protocol.followed(self.fields.channel))
        try:
            try:
                await subscribers.locate(streams)
                missed = [await self._missed(subscribers, followed) for followed in streams] if version else []
            except Exception as err:
                self.refuse(self._unreadable(err))
                return
            while rechecks != subscribers.permissions.rechecks:
                # Permissions were looked at meanwhile, and this client was not among the listeners.
                rechecks = subscribers.permissions.rechecks
                req = self.req
                self.req = Request("read", None, {}, req.backend, req.channel, req.socket, event="listen")
                if not await self._is_admitted():
                    return
            # Nothing waits from here on: what is published next goes to this client too.
            self._go_live(subscribers, streams, missed)
        finally:
            subscribers.listeners.joined(streams)

    def _unreadable(self, err: Exception) -> SyncError:
        if isinstance(err, SyncError):
            return err
        self.exchanges.registry.internal_error(err, self.req)
        return Unavailable("what was missed cannot be read at the moment", retry_after=1.0)

    async def _missed(self, subscribers: Subscribers, followed: Followed) -> Missed:
        """The position a client claims, and the events after it; None when it makes no sense, or goes too far back."""
        since = self.fields.since
        claimed = protocol.read_position(since, followed.name)
        if claimed is None:
            return None, None
        if followed.viewers is not None and followed.name != BACKEND_WIDE:
            assert self.view is not None, "each has a view of its own"
            if protocol.read_digest(since, followed.name) != followed.viewers.digest(self.view):
                return None, None
        if followed.has_views:
            # Whose view it was is looked at in the end: of what all channels share it depends on the others too.
            claimed = View.without_view(claimed)
        return claimed, await subscribers.since(followed, claimed)

    def _go_live(self, subscribers: Subscribers, streams: list[Followed], missed: list[Missed]) -> None:
        socket, channel, version = self.socket, self.fields.channel, self.fields.version
        if socket.left or self.replied:
            return
        if socket.is_suspended:
            self.refuse(ended())
            return
        if socket.identity is None and self.req.user is not None:
            socket.identity = Identity(self.req.user)
        self.exchanges.delivery.flush()
        if streams[0].has_views:
            subscribers.permissions.see(socket, channel, self.view, self.req.scope)
        for followed in streams:
            # Who follows what all channels share with positions stays so.
            if version or followed.name != BACKEND_WIDE or socket not in followed.version_1:
                messages = self.fields.messages and followed.name != BACKEND_WIDE
                subscribers.listeners.follow(socket, followed, version, self.fields.deltas, messages)
        socket.channels[channel] = version
        socket.to_listen -= {channel}
        self._belong_to(channel)
        if channel:
            socket.refusals.pop(channel, None)
        if not version:
            self.reply(self.listened)
            return
        answer = {}
        for followed, claimed in zip(streams, missed, strict=True):
            position, events = followed.merge(*claimed, self.exchanges.limits.replay)
            viewers = followed.viewers
            digest = None if viewers is None else viewers.digest(socket.views[followed.name])
            if events is not None and protocol.read_digest(self.fields.since, followed.name) != digest:
                position, events = followed.position, None
            if followed.has_views:
                position, events = self._as_seen(followed, position, events)
            elif events is not None:
                told = [public_event(event, followed.id_attribute) for event in events]
                events = self._changes(followed, followed.view, events, told)
            answer[followed.name] = protocol.stream_reply(position, events, digest)
        reply = {**self.public, "v": protocol.VERSION, "streams": answer}
        if socket.attendances is not None and channel in socket.attendances.of_channels:
            reply["present"] = True
        if self.fields.client is not None:
            socket.client = None
            reply["client"] = socket.public_client = public_part(self.fields.client)
            if self.fields.asks_user:
                reply["user"] = self._user(self.fields.client)
        self.reply(protocol.encode([reply]))

    def _belong_to(self, channel: str | None) -> None:
        """Have requests that name no channel belong to this one, as those of the original library do."""
        self.socket.last_channel = channel

    def _user(self, client: str) -> str | None:
        """Return the text by which a client knows whom it speaks for, empty of a user without an id; None for nobody.

        It is of the client's own id too, so to others it says nothing, and it is no id of anybody.
        """
        user = self.req.user
        if user is None:
            return None
        try:
            name = owned(user, client)
        except StackError:
            return ""
        # Not kept: it is asked for at a listen alone, and would crowd out the clients that write.
        return public_part.__wrapped__(name)

    def _as_seen(
        self, followed: Followed, position: Position, events: list[Event] | None
    ) -> tuple[Position, list[Event] | None]:
        """Return both for this client's view. A client that was notified in another view lacks events of this one."""
        view = self.socket.views[followed.name]
        claimed = protocol.read_position(self.fields.since, followed.name)
        if events is None or claimed is None or not view.is_own(claimed):
            return view.position(followed.position), None
        if followed.viewers is None:
            return view.position(position), self._changes(followed, view, events, list(map(view.event, events)))
        try:
            seen = [(event, view.seen(event, followed.id_attribute)) for event in events]
        except LookupError:
            return view.position(followed.position), None
        events = [event for event, told in seen if told is not None]
        return view.position(position), self._changes(followed, view, events, [told for _, told in seen if told])

    def _changes(self, followed: Followed, view: View, events: list[Event], told: list[Event]) -> list[Event]:
        """Return events as this client is told of them: what they changed, where it takes that.

        Parameters:
            followed: the stream.
            view: what it sees.
            events: the events, as they are in the log.
            told: the same as they are told to who takes whole records.
        """
        if self.socket not in followed.deltas:
            return told
        return [view.delta(*each, followed.id_attribute) for each in zip(events, told, strict=True)]


class JoinExchange(ListenExchange, kw_only=True):
    """A `listen` that the server makes for a client which knows no other way: nobody waits for its answer.

    Parameters:
        public: nothing.
        listened: nothing.
        failure: why the client may not listen, once that is known.
    """

    public: dict[str, Any] = {}
    listened: bytes = b""
    failure: SyncError | None = None

    def refuse(self, err: SyncError) -> None:
        """Note why the client may not listen."""
        self.failure, self.replied = err, True

    def _belong_to(self, channel: str | None) -> None:
        """Leave it at the channel that the client has named last."""


class UnlistenExchange(Exchange, kw_only=True):
    """The end of listening to some channels, after every `listen` before it.

    Parameters:
        channels: the channels.
        subscribers: those of the backend.
    """

    channels: list[str | None]
    subscribers: Subscribers

    @property
    def key(self) -> Key:
        return ("listen", self.socket.sid)

    async def work(self) -> None:
        self._leave()
        self.reply(protocol.UNLISTENED)
        self.finish()

    def _leave(self) -> None:
        socket = self.socket
        left = [channel for channel in self.channels if channel in socket.channels]
        streams = [channel_stream(channel) for channel in left]
        for channel in left:
            socket.channels.pop(channel, None)
        if not socket.channels:
            streams.append(BACKEND_WIDE)
        if socket.last_channel not in socket.channels:
            socket.last_channel = None
        self.subscribers.listeners.unfollow(socket, streams)
        for channel in left:
            self.exchanges.rooms.leave(socket, channel)
            self.subscribers.permissions.see(socket, channel, None, None)
