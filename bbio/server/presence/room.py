"""A room: the members of one channel, as the clients of this process see them.

What happens is gathered and told as one batch, which is encoded once. Whoever joins is answered with the batch that it
comes in: then the list, which is encoded once too, has that batch in it, and the next one is the next number.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable

from bbio import protocol
from bbio.cluster.presence import Entry, Topic
from bbio.server.connection import ClientSocket, Peer
from bbio.server.delivery import Delivery
from bbio.server.presence.pace import Clock, Timer, pause_after

Place = tuple[str, str]
# The answer to a client that joins: its arguments, as JSON.
Joined = asyncio.Future[bytes]


class Member:
    """A member of a room: the entries of one key.

    Parameters:
        entry: the first.

    Attributes:
        entries: the entries by their places; none of a member that lingers.
        latest: the entry whose card and state are shown.
        lingering: the end of a member without entries.
        release: is called when it does not linger any more.
    """

    __slots__ = ("entries", "latest", "lingering", "release")

    def __init__(self, entry: Entry) -> None:
        self.entries: dict[Place, Entry] = {}
        self.latest = entry
        self.lingering: Timer | None = None
        self.release: Callable[[], None] | None = None

    def put(self, entry: Entry) -> None:
        """Take an entry."""
        self.entries[entry.place] = entry
        self._look()
        self.stay()

    def remove(self, place: Place) -> None:
        """Forget an entry."""
        del self.entries[place]
        self._look()

    def _look(self) -> None:
        if self.entries:
            self.latest = max(self.entries.values(), key=lambda entry: entry.when)

    def stay(self) -> None:
        """Linger no more: it is back, or it is gone."""
        if self.lingering is not None:
            self.lingering.cancel()
            self.lingering = None
        if self.release is not None:
            self.release()
            self.release = None

    def encoded(self) -> bytes:
        """Return it as clients are told of it."""
        latest = self.latest
        return protocol.member(latest.key, latest.card, latest.state, len(self.entries))


class Room:
    """The members of one channel.

    Parameters:
        topic: the backend and the channel.
        namespace: the backend's namespace.
        delivery: tells clients.
        clock: calls later.
        grace: the seconds that a member lingers.
        on_empty: is called with the topic when nobody here needs the room any more.

    Attributes:
        told: the sockets that are told of what happens.
    """

    __slots__ = (
        "_announced",
        "_channel",
        "_clock",
        "_delivery",
        "_dirty",
        "_epoch",
        "_grace",
        "_joiners",
        "_lingering",
        "_list",
        "_members",
        "_namespace",
        "_next_at",
        "_on_empty",
        "_places",
        "_seq",
        "_timer",
        "told",
        "topic",
    )

    def __init__(
        self,
        topic: Topic,
        namespace: str,
        delivery: Delivery,
        clock: Clock,
        grace: float,
        on_empty: Callable[[Topic], None],
    ) -> None:
        self.topic = topic
        self._channel = topic[1] or None
        self._namespace = namespace
        self._delivery = delivery
        self._clock = clock
        self._grace = grace
        self._on_empty = on_empty
        self._epoch = secrets.token_hex(6)
        self._seq = 0
        self._members: dict[str, Member] = {}
        self._places: dict[Place, str] = {}
        self._lingering: dict[str, Member] = {}
        # Keys of which something is to be told; and the members as they were told, the list of them.
        self._dirty: dict[str, None] = {}
        self._announced: dict[str, bytes] = {}
        self._list: bytes | None = None
        self.told: dict[ClientSocket, Peer] = {}
        self._joiners: dict[ClientSocket, tuple[str, Joined]] = {}
        self._timer: Timer | None = None
        self._next_at = 0.0

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, key: object) -> bool:
        return key in self._members

    @property
    def is_due(self) -> bool:
        """Return whether something is to be told."""
        return self._timer is not None

    # Entries

    def put(self, entry: Entry) -> None:
        """Take an entry, new or changed."""
        place, key = entry.place, entry.key
        before = self._places.get(place)
        if before is not None and before != key:
            self.remove(place, lingers=False)
        self._places[place] = key
        member = self._members.get(key)
        if member is None:
            member = self._members[key] = Member(entry)
        member.put(entry)
        self._lingering.pop(key, None)
        self._change(key)

    def remove(self, place: Place, *, lingers: bool) -> None:
        """Forget an entry; a member without one stays for a while if it lingers."""
        key = self._places.pop(place, None)
        if key is None:
            return
        member = self._members[key]
        member.remove(place)
        if not member.entries:
            if lingers:
                self._lingering[key] = member
                member.lingering = self._clock.call_later(self._grace, self._end, key)
            else:
                self._end(key)
        self._change(key)

    def gone(self, process: str) -> None:
        """Forget all entries of a process."""
        for place in [place for place in self._places if place[0] == process]:
            self.remove(place, lingers=False)

    def only(self, entries: Iterable[Entry]) -> None:
        """Take the entries of other processes; those that are not among them are gone."""
        entries = list(entries)
        there = {entry.place for entry in entries}
        for place in [place for place in self._places if place[0] and place not in there]:
            self.remove(place, lingers=False)
        for entry in entries:
            self.put(entry)

    def shows(self, entry: Entry) -> bool:
        """Return whether an entry is the one that is shown of its member."""
        return self._members[entry.key].latest is entry

    def hold(self, key: str, release: Callable[[], None]) -> None:
        """Call `release` once a member does not linger any more, which is now if it does not."""
        member = self._lingering.get(key)
        if member is None:
            release()
        else:
            member.release = release

    def has_room(self, key: str, most: int) -> bool:
        """Return whether a member of this key may be here; one that lingers makes room for it.

        Parameters:
            key: the key.
            most: how many members there may be.
        """
        if key in self._members or len(self._members) < most:
            return True
        first = next(iter(self._lingering), None)
        if first is not None:
            self._end(first)
        return first is not None

    def _end(self, key: str) -> None:
        """A member is gone."""
        self._lingering.pop(key, None)
        self._members.pop(key).stay()
        self._change(key)
        self._check_needed()

    # Those who are told

    def join(self, socket: ClientSocket, key: str) -> Joined:
        """Have a socket told of all that happens; return the answer to it, which comes with the next batch.

        Parameters:
            socket: the socket, whose entry was put.
            key: the key of its member.
        """
        answer: Joined = asyncio.get_running_loop().create_future()
        self._joiners[socket] = (key, answer)
        self._schedule()
        return answer

    def reply(self, key: str, *, asks: bool) -> bytes:
        """Return the answer to a socket that is told already.

        Parameters:
            key: the key of its member.
            asks: whether it wants the list.
        """
        return protocol.presence_reply(self._epoch, self._seq, key, self._listed() if asks else None)

    def leave(self, socket: ClientSocket) -> None:
        """Tell a socket no more."""
        self.told.pop(socket, None)
        _, answer = self._joiners.pop(socket, ("", None))
        if answer is not None:
            answer.cancel()
        self._check_needed()

    def _check_needed(self) -> None:
        if not (self.told or self._joiners or self._lingering):
            self.close()
            self._on_empty(self.topic)

    def close(self) -> None:
        """Tell nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for member in self._lingering.values():
            member.stay()
        for _, answer in self._joiners.values():
            answer.cancel()

    # Telling

    def _change(self, key: str) -> None:
        self._dirty[key] = None
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None:
            pause = max(0.0, self._next_at - self._clock.time())
            self._timer = self._clock.call_later(pause, self._tell)

    def _tell(self) -> None:
        self._timer = None
        event = self._batch()
        pause = 0.0
        if event is not None and self.told:
            pause = pause_after(len(self.told), len(event))
            self._delivery.send(self.told.values(), self._namespace, event)
        joiners, self._joiners = self._joiners, {}
        for socket, (key, answer) in joiners.items():
            self.told[socket] = socket.peer
            if not answer.done():  # it has not waited for too long
                answer.set_result(protocol.presence_reply(self._epoch, self._seq, key, self._listed()))
        self._next_at = self._clock.time() + max(pause, pause_after(len(joiners), 0))

    def _batch(self) -> bytes | None:
        """Return what has happened since the last batch, None for nothing."""
        dirty, self._dirty = self._dirty, {}
        announced = self._announced
        joined: list[bytes] = []
        changed: list[bytes] = []
        left: list[str] = []
        for key in dirty:
            member, before = self._members.get(key), announced.get(key)
            if member is None:
                if before is not None:
                    del announced[key]
                    left.append(key)
                continue
            now = member.encoded()
            if now != before:
                (joined if before is None else changed).append(now)
                announced[key] = now
        if not (joined or changed or left):
            return None
        self._seq += 1
        self._list = None
        return protocol.presence(self._channel, self._epoch, self._seq, joined, changed, left)

    def _listed(self) -> bytes:
        if self._list is None:
            self._list = b",".join(self._announced.values())
        return self._list
