"""MemoryLog: events and operations in memory, gone when the process ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from bbio.declared import Publisher
from bbio.log.consumers import MemoryLedger
from bbio.log.log import Log
from bbio.requests import Request
from bbio.streams import Commit, Event, HistoryLimits, Kept, Operation, Position, Streams
from bbio.typed import whole_json


class MemoryLog(Log):
    """Keeps the events of one backend in memory; they end with the process.

    Parameters:
        history: how much of each stream is kept for clients that return.

    Attributes:
        streams: the streams, once it is open.

    Example:
        >>> from bbio import HistoryLimits
        >>> MemoryLog(HistoryLimits(events=100)).history.events
        100
    """

    streams: Streams

    __bbio_own__ = frozenset({"record", "streams"})

    def __init__(self, history: HistoryLimits | None = None) -> None:
        self.history = history or HistoryLimits()

    def open(self, backend: Any, publisher: Publisher) -> Self:
        opened = super().open(backend, publisher)
        streams = opened.streams = Streams(self.history)
        opened.consumers = MemoryLedger(streams)
        return opened

    def share_memory(self, kept: Kept) -> None:
        """Have what it keeps count to what all backends may take."""
        self.streams.share(kept)

    async def append(
        self, stream: str, method: str, model: Any, req: Request | None = None, was: bytes | None = None
    ) -> Commit:
        """Number an event, keep it with its operation, and publish it."""
        if req is None:
            return self.record(stream, method, model, self.encode(model), was=was)
        operation = req.operation
        if operation is not None:
            earlier = self.streams.operations.find(operation, req.payload)
            if earlier is not None:
                return earlier
        return self.record(stream, method, model, self.encode(model), req, operation, was=was)

    def record(
        self,
        stream: str,
        method: str,
        record: Any,
        body: bytes,
        req: Request | None = None,
        operation: Operation | None = None,
        rev: int | None = None,
        was: bytes | None = None,
    ) -> Commit:
        """Number an event, keep it with its operation, which is new, and publish it: all in one step.

        Parameters:
            stream: the stream's name.
            method: `create`, `update` or `delete`.
            record: the record.
            body: what any client may see of it, as JSON.
            req: the request whose write it is, None when there is none.
            operation: the request's operation.
            rev: the revision of the model, None where nobody counts them.
            was: how the record was, None where that is not known, or nobody asks.
        """
        if req is None:
            event = self.streams.append(stream, method, body, was=was)
            self._publish(event, None)
            return Commit(record, body, event)
        event = self.streams.append(stream, method, body, rev, None if req.op is None else req.op.public, was)
        if operation is not None:
            whole = None if self.schema is None else whole_json(self.schema, record, body)
            self.streams.keep(operation, req.payload, event, whole)
        self._publish(event, req.socket)
        return Commit(record, body, event)

    async def find(self, req: Request) -> Commit | None:
        """Return what an operation came to, None when it is new."""
        operation = req.operation
        return None if operation is None else self.streams.operations.find(operation, req.payload)

    async def positions(self, streams: Iterable[str]) -> dict[str, Position]:
        """Return the top of each stream."""
        return self.streams.positions(streams)

    async def tops(self) -> dict[str, Position]:
        """Return the top of each stream that has had an event, and under the empty name where others begin."""
        return self.streams.tops()

    async def since(self, stream: str, epoch: Any, offset: Any, stamp: int = 0) -> list[Event] | None:
        """Return the events after a position, None when they are no longer all there, or it is of another history."""
        return self.streams.since(stream, epoch, offset, stamp)
