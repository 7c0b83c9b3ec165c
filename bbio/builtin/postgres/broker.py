"""PostgresBroker: the servers of a PostgreSQL database tell each other of events, by NOTIFY once these are committed.

Within the transaction of a write a NOTIFY takes a lock of the whole server, which all other writers wait for until the
write is on the disk. So a session apart tells what was committed: the events themselves, many in one statement, or the
top of a stream where they are too large. What it could not tell is kept, and told when it is connected again.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Literal, Protocol

import msgspec

from bbio.builtin.documents import DocumentStore, logger, refusals
from bbio.builtin.postgres.statements import MAKE_ROOM, TELL_ALL
from bbio.builtin.postgres.tables import events_channel, notices_channel, recheck_channel
from bbio.cluster import Heard
from bbio.errors import ConfigurationError
from bbio.streams import Event, Position

# Between attempts to connect again, at first and at most; between looks at whether a silent connection lives.
BACKOFF_SECONDS = (0.1, 5.0)
PULSE_SECONDS = 15.0
# A connection may take so long to hear what another one says, at the start.
HEARING_SECONDS = 10.0
# Between two statements that tell of events, and until PostgreSQL is asked again whether it has place for one.
TELL_SECONDS = 0.002
FULL_SECONDS = 1.0
# The end waits so long for what is still to be told.
FINISH_SECONDS = 1.0
# Of a notification, which PostgreSQL allows 7,999.
MAX_PAYLOAD_BYTES = 7_900
MAX_FRAME_BYTES = MAX_PAYLOAD_BYTES - 100
# Events that wait to be told whole, and streams whose tops do.
MAX_EVENTS = 1_000
MAX_STREAMS = 1_000
# What a server tells those of the version before begins so; the others know it from its events.
TO_FORMER = '["+'

# What is wrong where a session is not one's own.
POOLED = (
    "a pooler such as PgBouncer in transaction mode is between, which keeps no session: name PostgreSQL itself, "
    "or have the pooler use its session mode"
)


def is_untold(err: BaseException) -> bool:
    """Return whether an error says that PostgreSQL's queue of notifications is full."""
    return getattr(err, "sqlstate", "") == "54000" and "NOTIFY" in str(err)


class Frame(msgspec.Struct, array_like=True, gc=False):
    """An event as processes tell it; of a hint no more than its place."""

    stream: str
    epoch: str
    offset: int
    stamp: int = 0
    method: Literal["create", "update", "delete"] | None = None
    rev: int | None = None
    op: str | None = None
    when: float = 0.0
    body: msgspec.Raw = msgspec.Raw()

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset, self.stamp)

    @property
    def event(self) -> Event | None:
        """The event; None where it is a hint."""
        if self.method is None:
            return None
        return Event(
            self.stream,
            self.epoch,
            self.offset,
            self.method,
            bytes(self.body),
            self.rev,
            self.op,
            self.when,
            self.stamp,
        )


# The process that tells, empty where it is a trigger; the backend, None where it is all; and frames, or the names of
# streams that were written to, None where that is not known.
read_events = msgspec.json.Decoder(tuple[str, int | None, list[Frame] | None]).decode
read_names = msgspec.json.Decoder(tuple[str, int | None, list[str] | None]).decode
read_recheck = msgspec.json.Decoder(tuple[str, int, str | None]).decode
encode = msgspec.json.encode


def _whole(event: Event) -> bytes:
    return encode(
        (
            event.stream,
            event.epoch,
            event.offset,
            event.stamp,
            event.method,
            event.rev,
            event.op,
            event.when,
            msgspec.Raw(event.body),
        )
    )


def _hint(stream: str, top: Position) -> bytes:
    return encode((stream, top.epoch, top.offset, top.stamp))


class Untold:
    """The news to send: events, the tops of streams when there are too many, or that anything may be new."""

    def __init__(self) -> None:
        self._events: list[tuple[int, Event]] = []
        self._tops: dict[tuple[int, str], Position] = {}
        self._is_all = False

    def __bool__(self) -> bool:
        return bool(self._events or self._tops or self._is_all)

    def add(self, backend: int, event: Event) -> None:
        """Take an event.

        Parameters:
            backend: the number of its backend.
            event: the event.
        """
        if len(self._events) < MAX_EVENTS:
            self._events.append((backend, event))
            return
        self._tops[backend, event.stream] = event.position
        if len(self._tops) > MAX_STREAMS:
            self._tops.clear()
            self._is_all = True

    def take_back(self, earlier: Untold) -> None:
        """Have what could not be told before this be told with it."""
        later, self._events = self._events, earlier._events
        self._tops = earlier._tops | self._tops
        self._is_all |= earlier._is_all
        for backend, event in later:
            self.add(backend, event)

    def payloads(self, process: str) -> Iterator[str]:
        """Return the notifications that tell it, each with whole frames."""
        if self._is_all:
            yield encode((process, None, None)).decode()
        frames: dict[int, list[bytes]] = {}
        for backend, event in self._events:
            frame = _whole(event)
            if len(frame) > MAX_FRAME_BYTES:
                frame = _hint(event.stream, event.position)
            frames.setdefault(backend, []).append(frame)
        for (backend, stream), top in self._tops.items():
            frames.setdefault(backend, []).append(_hint(stream, top))
        for backend, each in frames.items():
            fitting = [frame for frame in each if len(frame) <= MAX_FRAME_BYTES]
            if len(fitting) < len(each):  # the very name of a stream is too long
                yield encode((process, backend, None)).decode()
            yield from _packed(f'["{process}",{backend},['.encode(), fitting)

    def names(self, process: str) -> Iterator[str]:
        """Return the notifications that servers of the version before understand."""
        names: dict[int | None, dict[str, None]] = {}
        for backend, event in self._events:
            names.setdefault(backend, {})[event.stream] = None
        for backend, stream in self._tops:
            names.setdefault(backend, {})[stream] = None
        if self._is_all:
            names = {None: {}}
        for number, streams in names.items():
            payload = encode((f"+{process}", number, list(streams) or None))
            if len(payload) > MAX_PAYLOAD_BYTES:
                payload = encode((f"+{process}", number, None))
            yield payload.decode()


def _packed(start: bytes, frames: list[bytes]) -> Iterator[str]:
    """Return texts of as many frames as have room in each."""
    packed: list[bytes] = []
    size = 0
    for frame in frames:
        if packed and size + len(frame) > MAX_FRAME_BYTES:
            yield (start + b",".join(packed) + b"]]").decode()
            packed, size = [], 0
        packed.append(frame)
        size += len(frame) + 1
    if packed:
        yield (start + b",".join(packed) + b"]]").decode()


class Place(Protocol):
    """A database, as the session there needs it.

    Attributes:
        channel: where its servers tell each other of writes.
        connections: connections for anything else.
    """

    channel: str
    connections: Any

    @property
    def place(self) -> str:
        """Return the address of the server, without the password."""

    async def connect(self) -> Any:
        """Return a new connection."""

    def note(self, err: Exception) -> None:
        """Tell the log of an error that no client waits for."""


class Wire:
    """The session over which the servers of a database tell each other what was written, and hear it.

    Parameters:
        database: the database.
        on_notice: called when there may be a notice of another process.

    Attributes:
        process: tells what this process says from what others do.
        garbage: how often something was said that is not bbio's.
    """

    def __init__(self, database: Place, on_notice: Callable[[], None] = lambda: None) -> None:
        self._on_notice = on_notice
        self.process = secrets.token_hex(6)
        self.garbage = 0
        self._database = database
        self._brokers: dict[int, PostgresBroker] = {}
        self._untold = Untold()
        self._is_telling = False
        self._news = asyncio.Event()
        self._connection: Any = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect.

        Raises:
            Exception: that cannot be, or nothing can be heard.
        """
        listening = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._run(listening))
        await listening

    async def stop(self) -> None:
        """Tell what waits to be told, if that can be, and end."""
        if self._task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(FINISH_SECONDS):
                    while self.healthy and (self._untold or self._is_telling):  # noqa: ASYNC110 - it ends once
                        await asyncio.sleep(TELL_SECONDS)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def healthy(self) -> bool:
        """Return whether it is connected."""
        return self._connection is not None

    def join(self, broker: PostgresBroker) -> None:
        """Have a broker hear what is said about its backend."""
        self._brokers[broker.backend] = broker

    def leave(self, broker: PostgresBroker) -> None:
        """Have a broker hear nothing any more."""
        self._brokers.pop(broker.backend, None)

    def tell(self, backend: int, event: Event) -> None:
        """Have other processes told of an event, soon.

        Parameters:
            backend: the number of its backend.
            event: the event.
        """
        self._untold.add(backend, event)
        self._news.set()

    async def _run(self, listening: asyncio.Future[None]) -> None:
        """Hold a connection that tells other processes and is told by them, and by triggers."""
        delay = BACKOFF_SECONDS[0]
        while True:
            connection = None
            try:
                connection = await self._database.connect()
                # Nothing that it tells must be there after a crash, and nobody waits for the disk.
                await connection.execute("SET synchronous_commit = off")
                connection.add_termination_listener(lambda _: self._news.set())
                channel = self._database.channel
                await connection.add_listener(events_channel(channel), self._hear_events)
                await connection.add_listener(channel, self._hear_names)
                await connection.add_listener(recheck_channel(channel), self._hear_recheck)
                await connection.add_listener(notices_channel(channel), lambda *_: self._on_notice())
                if listening.done():
                    self._doubt_all()  # what was said meanwhile
                else:
                    await self._hear_itself(connection)
                    listening.set_result(None)
                delay = BACKOFF_SECONDS[0]
                self._connection = connection
                await self._serve(connection)
            except Exception as err:
                if not listening.done():
                    listening.set_exception(err)
                    return
                self._database.note(err)
            finally:
                self._connection = None
                if connection is not None:
                    with suppress(Exception):  # what is wrong with it is no longer of interest
                        await asyncio.shield(connection.close(timeout=2.0))
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, BACKOFF_SECONDS[1])

    async def _hear_itself(self, connection: Any) -> None:
        """See that a connection hears what others say: a pooler may take its session from it after each transaction.

        Raises:
            ConfigurationError: it does not.
        """
        heard = asyncio.Event()
        channel = f"{self._database.channel}_{self.process}"
        await connection.add_listener(channel, lambda *_: heard.set())
        async with self._database.connections.one() as other:
            await other.execute("SELECT pg_notify($1, '')", channel)
        try:
            async with asyncio.timeout(HEARING_SECONDS):
                await heard.wait()
        except TimeoutError:
            place = self._database.place
            raise ConfigurationError(f"{place} cannot be used: {POOLED} (LISTEN hears nothing)") from None

    async def _serve(self, connection: Any) -> None:
        """Tell what there is to be told until a connection ends; one that is silent may have died, so it is asked."""
        while not connection.is_closed():
            try:
                async with asyncio.timeout(PULSE_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                await connection.execute("SELECT 1")
                continue
            self._news.clear()
            if self._untold:
                await self._tell(connection)
                await asyncio.sleep(TELL_SECONDS)

    async def _tell(self, connection: Any) -> None:
        untold, self._untold = self._untold, Untold()
        self._is_telling = True
        try:
            said = [(events_channel(self._database.channel), payload) for payload in untold.payloads(self.process)]
            said += [(self._database.channel, payload) for payload in untold.names(self.process)]
            await connection.fetch(TELL_ALL, *map(list, zip(*said, strict=True)))
        except Exception as err:
            self._untold.take_back(untold)
            self._news.set()
            if not is_untold(err):
                raise
            # Other processes find it in the log all the same, a little later.
            refusals.warning("%s: PostgreSQL has no place for notifications: %s", self._database.place, err)
            await connection.fetch(MAKE_ROOM)
            await asyncio.sleep(FULL_SECONDS)
        finally:
            self._is_telling = False

    # What others say

    def _hear_events(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        # What this process has said itself is most of it, and is not read.
        if payload.startswith(f'["{self.process}",'):
            return
        try:
            _, backend, frames = read_events(payload)
        except msgspec.DecodeError:
            self.refuse()
            return
        for broker in self._brokers_of(backend):
            broker.hear(frames)

    def _hear_names(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        """Hear what triggers say, and servers of the version before."""
        if payload.startswith(TO_FORMER):
            return
        try:
            _, backend, names = read_names(payload)
        except msgspec.DecodeError:
            self.refuse()
            return
        for broker in self._brokers_of(backend):
            broker.heard.doubt(names)

    def _hear_recheck(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        try:
            process, backend, rechecked = read_recheck(payload)
        except msgspec.DecodeError:
            self.refuse()
            return
        if process != self.process:
            for broker in self._brokers_of(backend):
                broker.store.publisher.recheck_soon(rechecked)

    def _brokers_of(self, backend: int | None) -> Iterable[PostgresBroker]:
        if backend is None:
            return list(self._brokers.values())
        broker = self._brokers.get(backend)
        return () if broker is None else (broker,)

    def _doubt_all(self) -> None:
        self._on_notice()
        for broker in self._brokers.values():
            broker.heard.doubt(None)
            broker.store.publisher.recheck_soon(None)

    def refuse(self) -> None:
        """Count what was said and is not bbio's; the log is told once."""
        self.garbage += 1
        if self.garbage == 1:
            logger.warning(
                "%s: something that is not bbio's was said in the channel %r or beside it",
                self._database.place,
                self._database.channel,
            )


class PostgresBroker:
    """Tells the other servers of a backend what this one has committed, and hears what they tell.

    Parameters:
        store: the store of the backend.
    """

    # Two servers that write to one stream may tell of it in another order than they committed in.
    patience = 0.02
    heard: Heard
    backend: int
    _wire: Wire

    def __init__(self, store: DocumentStore) -> None:
        self.store = store
        self._followed: set[str] = set()
        self._hears_all = False

    def connect(self, wire: Wire, backend: int) -> None:
        """Tell and hear over a session.

        Parameters:
            wire: the session.
            backend: the number of the backend.
        """
        self._wire = wire
        self.backend = backend

    @property
    def healthy(self) -> bool:
        """Return whether the session is connected that hears others."""
        return self._wire.healthy

    async def start(self, heard: Heard) -> None:
        """Begin to hear; the store has started, and with it the session.

        Parameters:
            heard: is told of the events of other processes.
        """
        self.heard = heard
        self._wire.join(self)

    async def stop(self) -> None:
        """Hear no more; what waits to be told is told when the store stops."""
        self._wire.leave(self)

    def follow(self, stream: str) -> None:
        """Hear of a stream from now on: it has its first listener in this process."""
        self._followed.add(stream)

    def unfollow(self, stream: str) -> None:
        """Hear no more of a stream: its last listener in this process is gone."""
        self._followed.discard(stream)

    def hear_all(self, *, hears: bool) -> None:
        """Hear of all streams from now on, or no more.

        Parameters:
            hears: whether to hear of them.
        """
        self._hears_all = hears

    def tell(self, event: Event) -> None:
        """Have the other processes told of an event, which is committed.

        Parameters:
            event: the event.
        """
        self._wire.tell(self.backend, event)

    def hear(self, frames: list[Frame] | None) -> None:
        """Hear what another process tells.

        Parameters:
            frames: its events; None where it does not know what it has written.
        """
        if frames is None:
            self.heard.doubt(None)
            return
        for frame in frames:
            if frame.stream in self._followed:
                self._hear(frame)
            elif self._hears_all:
                self.heard.doubt({frame.stream: frame.position})

    def _hear(self, frame: Frame) -> None:
        event = frame.event
        if event is not None:
            try:
                event = self.store.as_told(event)
            except Exception:
                self._wire.refuse()
                event = None
        if event is None:
            self.heard.doubt({frame.stream: frame.position})
        else:
            self.heard.event(event)
