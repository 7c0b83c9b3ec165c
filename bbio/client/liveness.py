"""The signs of life of a connection: when the server was heard, and probes that it has to answer."""

from __future__ import annotations

from typing import Any

from bbio.client.outbox import Entry
from bbio.client.timers import Pending, Timers
from bbio.client.transport import PATIENCE_SECONDS, Clock, Transport

# Seconds in which a connection shows that it lives.
PROBE_SECONDS = 4.0
# Seconds, at most, that a read waits for a long answer before its connection has to show that it lives.
LONG_READ_SECONDS = 40.0


class Liveness:
    """The signs of life on the connections of one session.

    Parameters:
        clock: tells the time.
        timers: the timers of the connection.
    """

    def __init__(self, clock: Clock, timers: Timers) -> None:
        self._clock = clock
        self._timers = timers
        # When something came from the server.
        self._heard = float("-inf")
        # An object for the probe that is not answered yet, and the call that ends its connection.
        self._probe: object | None = None
        self._end: Pending | None = None

    def hear(self) -> None:
        """Note that something came from the server."""
        self._heard = self._clock.time()

    def forget(self) -> None:
        """Forget the probe: its connection is gone."""
        self._probe = self._end = None

    def probe(self, transport: Transport, *, patient: bool) -> None:
        """Find out whether the server is there; if it does not show in time, drop the connection.

        Parameters:
            transport: the connection.
            patient: whether a long answer may be on its way, behind which the server cannot show: it has no time limit
                then, until somebody asks who is not so patient.
        """
        if self._probe is None:
            probe = self._probe = object()

            def alive(*_: Any) -> None:
                if self._probe is probe:
                    self.hear()
                    self._probe = None
                    if self._end is not None:
                        self._end.cancel()
                        self._end = None

            transport.emit("unlisten", ([],), alive)
        if self._end is None and not patient:
            self._end = self._timers.later(PROBE_SECONDS, self._drop, transport)

    def _drop(self, transport: Transport) -> None:
        self.forget()
        transport.drop()

    def may_be_long(self, entry: Entry) -> bool:
        """Return whether the answer to a request may be on its way, and merely be long for the connection.

        The connection lives; or it lived when the request was sent, and there is time to send it again. Nobody is as
        patient about a write.
        """
        now = self._clock.time()
        lives = self._heard > now - PATIENCE_SECONDS
        lived = self._heard >= entry.sent_at - PATIENCE_SECONDS
        is_early = now - entry.sent_at < LONG_READ_SECONDS and entry.left > 2 * PATIENCE_SECONDS
        return entry.waiting and not entry.writes and (lives or (lived and is_early))
