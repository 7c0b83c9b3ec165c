"""Attempts at operations: those under way, those whose outcome nobody knows, and what they were answered.

A store that is atomic settles by itself whether an operation was applied. What runs above it, or instead of it, cannot:
of that, one attempt runs at a time, and one that broke off half way is never followed by another.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from bbio.errors import EncodingError, SyncError, Timeout, UnknownOutcome
from bbio.protocol import decode, encode
from bbio.requests import Request
from bbio.streams import Commit, Operation

DOUBT_SECONDS = 86_400.0
DOUBTFUL = 100_000
REPLIES = 10_000
REPLIES_SIZE = 16 << 20


def refused(err: Exception) -> bool:
    """Return whether an error says that nothing was done."""
    return isinstance(err, SyncError) and err.code < 500 and not isinstance(err, (Timeout, UnknownOutcome))


class Attempts:
    """The attempts at the operations of one backend, in memory.

    Parameters:
        plain: called with a request and what handlers made of it; gives back what can be written as JSON.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        plain: Callable[[Request, Any], Any] = lambda req, result: result,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plain = plain
        self._clock = clock
        # Operations under way, each with the duplicates that wait for it.
        self._running: dict[Operation, list[asyncio.Future[None]]] = {}
        self._doubtful: OrderedDict[Operation, float] = OrderedDict()
        self._replies: OrderedDict[Operation, bytes] = OrderedDict()
        self._size = 0

    async def begin(self, key: Operation) -> None:
        """Wait until no other attempt at this operation is under way; `end` must follow."""
        while (waiting := self._running.get(key)) is not None:
            turn = asyncio.get_running_loop().create_future()
            waiting.append(turn)
            await turn
        self._running[key] = []

    def check(self, key: Operation | None) -> None:
        """Refuse an operation of which an earlier attempt broke off.

        Raises:
            UnknownOutcome: one did.
        """
        if key in self._doubtful:
            raise UnknownOutcome

    def end(self, key: Operation, is_doubtful: bool) -> None:
        """End an attempt, however it went.

        Parameters:
            key: the operation.
            is_doubtful: whether nobody knows what it did.
        """
        if is_doubtful:
            now, doubtful = self._clock(), self._doubtful
            doubtful[key] = now
            while len(doubtful) > DOUBTFUL or next(iter(doubtful.values())) < now - DOUBT_SECONDS:
                doubtful.popitem(last=False)
        for turn in self._running.pop(key):
            if not turn.done():
                turn.set_result(None)

    def keep(self, key: Operation | None, req: Request, result: Any, commit: Commit | None) -> None:
        """Remember what the handlers made of an operation, where it is not what the store will tell.

        Parameters:
            key: the operation, None when its attempt has ended.
            req: the request.
            result: what the handlers made of it.
            commit: what the store has committed, None when it has not.
        """
        try:
            body = encode(self._plain(req, result))
        except EncodingError as err:
            err.result = result
            raise
        if key is None or (commit is not None and body == commit.body):
            return
        replies = self._replies
        replies[key] = body
        self._size += len(body)
        while self._size > REPLIES_SIZE or len(replies) > REPLIES:
            self._size -= len(replies.popitem(last=False)[1])

    def reply(self, key: Operation | None, earlier: Commit) -> Any:
        """Return what the handlers made of an operation that was applied before."""
        body = None if key is None else self._replies.get(key)
        return earlier.record if body is None else decode(body)
