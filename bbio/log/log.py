"""The log interface: what is asked of whatever keeps the events of a backend."""

from __future__ import annotations

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from bbio.cluster import Alone, Broker, Control
from bbio.declared import Declared
from bbio.errors import ConfigurationError, DefinitionError
from bbio.log.consumers import Ledger
from bbio.requests import Request
from bbio.streams import Commit, Event, HistoryLimits, Kept, Position


class Log(Declared, ABC):
    """Keeps the events of a backend: numbers them, publishes them, and finds them and their operations again.

    Subclass it and write `append`, `find`, `positions` and `since`. A store that keeps events together with its models
    is a log too, `class Ledger(Store, Log)`, and then also overrides `write` and sets `atomic`. Any other store is
    paired with a `MemoryLog`, and so is a backend without a store.

    Class attributes:
        history: how much of each stream is kept for clients that come back.
        event_clock: the clock of `Event.when`, in seconds, which the age of an event goes by.
        keeps_was: whether each event says how its record was (`Event.was`): the runtime sets it between `open` and
            `start` where a backend needs that, and its store promises it. Nothing of it is kept where it is not set.
        check_interval: seconds between two looks at the positions of all streams that are followed, for what others
            wrote or what a crash left untold; None when nobody else can write to the log.
        broker: carries its events to the other processes that serve the backend, and theirs to this one. The log
            itself calls `broker.tell(event)` for each event that it has committed.
        control: tells the other processes, once the log has started, what was revoked; None where there are none.
        consumers: keeps how far consumers are, once the log has started; None where it cannot. What a consumer has not
            handled is to be kept for longer than for clients, as `HistoryLimits` says.

    Raises (at class definition):
        DefinitionError: `since` takes no stamp.

    Example:
        >>> from bbio import MemoryLog, Store
        >>> class Silent(Store, MemoryLog):
        ...     async def since(self, stream, epoch, offset, stamp=0):
        ...         return None  # whoever comes back reads everything
    """

    history = HistoryLimits()
    event_clock = staticmethod(time.monotonic)
    check_interval: float | None = None
    broker: Broker = Alone()
    control: Control | None = None
    consumers: Ledger | None = None
    keeps_was = False

    __bbio_own__ = frozenset({"backend", "encode", "publisher", "schema"})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "since" in vars(cls):
            try:
                inspect.signature(vars(cls)["since"]).bind(*("self", "stream", "epoch", "offset", "stamp"))
            except TypeError:
                raise DefinitionError(
                    f"{cls.__qualname__}.since must take a stamp: async def since(self, stream, epoch, offset, stamp=0)"
                ) from None

    @abstractmethod
    async def append(
        self, stream: str, method: str, model: Any, req: Request | None = None, was: bytes | None = None
    ) -> Commit:
        """Number an event, keep it with its operation, and publish it.

        An operation that was appended before is answered with what it came to, marked as a duplicate; then nothing is
        added, and nothing is published.

        Parameters:
            stream: the stream's name.
            method: `create`, `update` or `delete`.
            model: the record, as it is now or, of a delete, as it was. `self.encode(model)` is the body of the event.
            req: the request whose write it is; its `operation` is remembered with its `payload`, and its `socket` is
                the origin. None when the server itself tells something.
            was: how the record was (`Event.was`); only given where `keeps_was` is set.

        Returns: the record with its event, which is published.

        Raises:
            Conflict: the operation id was used for another request.
            EncodingError: the model holds what JSON does not have.
        """

    @abstractmethod
    async def find(self, req: Request) -> Commit | None:
        """Return what an operation came to, None when the request has none or it is new.

        Parameters:
            req: the request.

        Returns: the commit, with `duplicate` set.

        Raises:
            Conflict: the operation id was used for another request.
        """

    @abstractmethod
    async def positions(self, streams: Iterable[str]) -> dict[str, Position]:
        """Return the top of each stream: the position of its last event, or offset 0 in the epoch that it will have.

        Parameters:
            streams: the streams' names.
        """

    @abstractmethod
    async def since(self, stream: str, epoch: Any, offset: Any, stamp: int = 0) -> list[Event] | None:
        """Return the events after a position, oldest first.

        Parameters:
            stream: the stream's name.
            epoch: the epoch as a client claims it, which may be anything.
            offset: the offset likewise.
            stamp: what the event at that offset must have as its stamp; 0 when it is not to be checked. Where that
                event is no longer there, and it is not the top either, nothing can be told.

        Returns: the events, or None when they are no longer all there, or the position is not of this history.
        """

    async def tops(self) -> dict[str, Position]:
        """Return the top of each stream that has had an event, all as of one moment; `Runtime.events` asks for it.

        Under the empty name is the position of a stream that has had none: offset 0 in the epoch that it will have.
        A log need not know it: then the server's own code can follow single channels only.

        Raises:
            ConfigurationError: the log does not know it.
        """
        cls = type(self).__qualname__
        raise ConfigurationError(
            f"{cls} does not list its streams; follow one channel, events(channel), or give it `async def tops(self)`"
        )

    async def tell_recheck(self, channel: str | None) -> None:
        """Have the other processes that serve the backend ask again who may listen, by `publisher.recheck_soon` there.

        Nothing by default: a log that no other process shares has nobody to tell.

        Parameters:
            channel: only the listeners of this channel; all when None.
        """

    def share_memory(self, kept: Kept) -> None:
        """Count the events and operations in memory towards the bytes of all backends; nothing by default.

        Parameters:
            kept: the count of all backends together.
        """
