"""The rooms of all backends: who of this server's clients is present where.

A client that is present has an entry, which `Presence` keeps; what `Presence` tells of entries goes to the rooms.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from msgspec import structs

from bbio import protocol
from bbio.cluster.local import LocalPresence
from bbio.cluster.presence import Entry, Presence, Topic
from bbio.errors import Busy, SyncError
from bbio.requests import Request
from bbio.server.connection import ClientSocket
from bbio.server.delivery import Delivery
from bbio.server.limits import Limits
from bbio.server.presence.attendance import Attendance, Attendances, weight_of
from bbio.server.presence.keys import member_key, subject_of
from bbio.server.presence.pace import Clock, LoopClock
from bbio.server.presence.room import Joined, Room
from bbio.stack.once import refused

# Seconds after which a client that found a channel full may try again.
FULL_ROOM_SECONDS = 10.0
NO_STATE = b"{}"


def topic_of(socket: ClientSocket, channel: str | None) -> Topic:
    """Return the topic of a channel of a socket's backend."""
    return socket.runtime.name, channel or ""


class Rooms:
    """The rooms of all backends, by topic. A room is here for as long as somebody needs it.

    Parameters:
        delivery: tells clients.
        limits: what a client may take.

    Attributes:
        presence: keeps the entries of this process, and tells of those of others.
        clock: calls later.
    """

    def __init__(self, delivery: Delivery, limits: Limits) -> None:
        self.presence: Presence = LocalPresence()
        self.clock: Clock = LoopClock()
        self._delivery = delivery
        self._limits = limits
        self._rooms: dict[Topic, Room] = {}
        self._when = 0.0

    async def start(self) -> None:
        """Begin: the application has started."""
        await self.presence.start(self)

    async def stop(self) -> None:
        """End: nobody is present any more."""
        await self.presence.stop()
        for room in list(self._rooms.values()):
            room.close()
        self._rooms.clear()

    def __len__(self) -> int:
        return len(self._rooms)

    @property
    def is_due(self) -> bool:
        """Return whether clients are about to be told of something."""
        return any(room.is_due for room in self._rooms.values())

    # What `Presence` tells

    def put(self, entry: Entry) -> None:
        """Take an entry, new or changed."""
        room = self._rooms.get(entry.topic)
        if room is not None:
            room.put(entry)

    def remove(self, entry: Entry, *, lingers: bool) -> None:
        """Forget an entry."""
        room = self._rooms.get(entry.topic)
        if room is not None:
            room.remove(entry.place, lingers=lingers)

    def gone(self, process: str) -> None:
        """Forget all entries of a process."""
        for room in list(self._rooms.values()):
            room.gone(process)

    def only(self, topic: Topic, entries: Iterable[Entry]) -> None:
        """Take the entries of other processes in a topic."""
        room = self._rooms.get(topic)
        if room is not None:
            room.only(entries)

    # What clients do

    def attendance(self, socket: ClientSocket, channel: str | None) -> Attendance | None:
        """Return the presence of a socket in a channel, None where it has none."""
        return None if socket.attendances is None else socket.attendances.of_channels.get(channel)

    def check_join(self, socket: ClientSocket) -> None:
        """Count a join.

        Raises:
            Busy: the socket joins too often.
        """
        attendances = socket.attendances
        if attendances is None:
            attendances = socket.attendances = Attendances(self._limits.changes_per_second, self.clock)
        if left := attendances.joins.count():
            raise Busy("too many joins", retry_after=round(left, 3))

    def join(self, req: Request, card: bytes, state: bytes | None) -> Joined:
        """Have a socket be present; the answer comes with the next batch.

        Parameters:
            req: its request, after the layers that say who asks.
            card: what others see of it, as JSON.
            state: its own part of that.

        Raises:
            Busy: the channel is full, or its address holds too much.
        """
        socket, channel, limits = req.socket, req.channel, self._limits
        assert isinstance(socket, ClientSocket)
        assert socket.attendances is not None, "the join was counted"
        topic, subject = topic_of(socket, channel), subject_of(req, socket)
        key = member_key(self.presence.secret, topic, subject)
        room = self._rooms.get(topic)
        if room is None:
            room = Room(topic, socket.runtime.namespace, self._delivery, self.clock, limits.grace, self._emptied)
        if not room.has_room(key, limits.members):
            message = f"{limits.members} members are present in this channel, which is as many as there may be"
            raise Busy(message, retry_after=FULL_ROOM_SECONDS)
        entry = Entry(topic, socket.sid, key, card, state or NO_STATE, self._now())
        address = socket.connection.waiting
        if not address.has_room(weight_of(entry)):
            raise Busy("the clients of this address are present in too many channels", retry_after=FULL_ROOM_SECONDS)
        attendance = Attendance(self, room, entry, address, limits.changes_per_second, returns=subject.returns)
        if topic not in self._rooms:
            self._rooms[topic] = room
            self.presence.follow(topic)
        socket.attendances.of_channels[channel] = attendance
        answer = room.join(socket, key)
        self.presence.put(entry)
        return answer

    def _now(self) -> float:
        # Of two entries that were put at the same time by a coarse clock, the second is the later one.
        self._when = max(time.time(), self._when + 1e-6)
        return self._when

    def renew(self, entry: Entry, **changes: object) -> Entry:
        """Put an entry again, with changes; return what it is now."""
        entry = structs.replace(entry, when=self._now(), **changes)
        self.presence.put(entry)
        return entry

    def leave(self, socket: ClientSocket, channel: str | None, *, lingers: bool = False) -> bool:
        """Have a socket be present in a channel no more.

        Parameters:
            socket: the socket.
            channel: the channel.
            lingers: whether it may be back in a moment.

        Returns: whether it was present.
        """
        attendances = socket.attendances
        attendance = None if attendances is None else attendances.of_channels.pop(channel, None)
        if attendance is None:
            return False
        room, entry = attendance.room, attendance.entry
        self.presence.remove(entry, lingers=lingers and attendance.returns)
        room.hold(entry.key, attendance.end())
        room.leave(socket)
        return True

    def left(self, socket: ClientSocket, *, lingers: bool) -> None:
        """A socket is gone."""
        if socket.attendances is not None:
            for channel in list(socket.attendances.of_channels):
                self.leave(socket, channel, lingers=lingers)

    def end(self, socket: ClientSocket, channel: str | None) -> None:
        """Have a socket be present no more, and tell it so."""
        if self.leave(socket, channel):
            self._delivery.send([socket.peer], socket.runtime.namespace, protocol.presence_ended(channel))

    async def review(self, socket: ClientSocket, channel: str | None, req: Request) -> None:
        """Look again at what others see of a socket; it may be somebody else by now, or be kept out.

        Parameters:
            socket: the socket.
            channel: the channel.
            req: a request of it, after the layers that say who asks.
        """
        attendance = self.attendance(socket, channel)
        if attendance is None:
            return
        try:
            card = await socket.runtime.ephemeral.show(req)
            subject = subject_of(req, socket)
        except SyncError as err:
            if refused(err) and not isinstance(err, Busy):
                self.end(socket, channel)
            return
        if attendance is not self.attendance(socket, channel):
            return
        entry = attendance.entry
        key = member_key(self.presence.secret, entry.topic, subject)
        attendance.returns = subject.returns
        if key != entry.key and not attendance.room.has_room(key, self._limits.members):
            self.end(socket, channel)
        elif (key, card) != (entry.key, entry.card):
            attendance.renew(key=key, card=card)

    def _emptied(self, topic: Topic) -> None:
        self._rooms.pop(topic, None)
        self.presence.unfollow(topic)
