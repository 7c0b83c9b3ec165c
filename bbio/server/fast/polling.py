"""Polls: which one is open, whether its answer arrives, and who takes too long to read it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiohttp import web

from bbio.server.lag import LAGGING_BYTES, Consumer, Lag, bound_buffers
from bbio.server.limits import Limits

# Where a request's environ has the polls that it belongs to.
POLL = "bbio.poll"


class Polls:
    """The polls of one session, of which one may be open at a time.

    Parameters:
        session: the session.
        limits: the application's limits.
    """

    def __init__(self, session: Consumer, limits: Limits) -> None:
        self._session = session
        self._limits = limits
        self._watch: PollWatch | None = None
        # Whether a poll waits, or its answer is being written.
        self.is_open = False
        self.has_ended = False

    def begin(self, transport: asyncio.Transport) -> None:
        """A poll has come over a connection, of which is heard until the next request comes over it."""
        self.is_open = True
        transport.set_write_buffer_limits(high=0)
        bound_buffers(transport)
        watch = transport.get_protocol()
        if not isinstance(watch, PollWatch):
            watch = PollWatch(transport, watch)
            transport.set_protocol(watch)
        self.forget()
        self._watch = watch
        watch.polls = self

    def look_after(self, size: int) -> None:
        """The answer, of so many bytes, is about to be written."""
        if self._watch is not None and size > LAGGING_BYTES:
            self._session.lag = Lag(self._session, self._watch.transport, self._limits, size)

    def close(self) -> None:
        """The answer was written, or could not be: then its connection is lost."""
        self.is_open = False
        if self._session.lag is not None:
            self._session.lag.end()

    def forget(self) -> None:
        """The last answer has arrived, or nobody waits for it."""
        if self._watch is not None:
            self._watch.polls = None
            self._watch = None

    def lost(self, err: Exception | None) -> None:
        """The connection of the last poll has ended: if its answer may be lost with it, the session is over.

        Parameters:
            err: what broke it; None when it was closed in order, as is usual once an answer has been read.
        """
        if self.is_open or err is not None:
            self._session.drop("aborted poll")

    def end(self) -> None:
        """The session is over: nobody looks after an answer any more."""
        self.has_ended = True
        if self._watch is not None:
            self._watch.transport.abort()


class PollWatch(asyncio.Protocol):
    """Stands between a transport and aiohttp, for the session that has polled over it.

    Parameters:
        transport: the connection.
        protocol: aiohttp's.
    """

    def __init__(self, transport: asyncio.Transport, protocol: Any) -> None:
        self.transport = transport
        self.polls: Polls | None = None
        for name in ("eof_received", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(protocol, name))
        self._data_received = protocol.data_received
        self._connection_lost = protocol.connection_lost

    def data_received(self, data: bytes) -> None:
        polls = self.polls
        if polls is not None and not polls.is_open:
            polls.forget()  # who sends another request has read the answer to the last
        self._data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection_lost(exc)
        if self.polls is not None:
            self.polls.lost(exc)


class PollAnswer(web.Response):
    """The answer to a poll, that tells when it is written."""

    def __init__(self, response: web.Response, polls: Polls, transport: asyncio.Transport | None) -> None:
        super().__init__(body=response.body, status=response.status, headers=response.headers)
        self._polls = polls
        self._transport = transport

    async def write_eof(self, data: bytes = b"") -> None:
        polls = self._polls
        if polls.has_ended and self._transport is not None:
            self._transport.abort()  # dropped meanwhile: nobody looks after it any more
        polls.look_after(len(cast(bytes, self.body)))
        try:
            await super().write_eof(data)
        finally:
            # The connection keeps its last response until the next request.
            self.body = None
            polls.close()
