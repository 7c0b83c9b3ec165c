"""RateLimit: how many requests a user, an address or a connection may make in some time."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

from bbio import Busy, ConfigurationError, Middleware, Next, Request, StackError, use
from bbio.decorators import MethodName, check_methods
from bbio.handshake import network_of
from bbio.identity import principal
from bbio.requests import METHODS

By = Literal["user", "address", "connection"]

# Seconds of each unit of time.
UNITS = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}
RATE = re.compile(r"([1-9][0-9]{0,8}) ?/ ?(second|minute|hour|day)", re.ASCII)
# Those who are remembered: beyond that whoever has waited longest is forgotten, with what it has used.
MAX_KEYS = 10_000
# A share of a turn by which sums of times may be off.
TOLERANCE = 1e-6


class Buckets:
    """Token buckets, of which each is refilled at the same rate: one number for each says when it is full again.

    Parameters:
        count: tokens that come in `seconds`.
        seconds: the time.
        burst: tokens that a full one has.
        clock: seconds, never going back.
        most: buckets that are remembered.
    """

    def __init__(
        self,
        count: int,
        seconds: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        most: int = MAX_KEYS,
    ) -> None:
        self._interval = seconds / count
        # As far in the future as the time may be when a bucket is full that still has a token.
        self._slack = (burst - 1 + TOLERANCE) * self._interval
        self._clock = clock
        self._most = most
        # The least recently used first.
        self._full_at: dict[Any, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: Any) -> float:
        """Take a token; return 0, or the seconds until there is one. Whoever gets none has used nothing.

        Parameters:
            key: whose bucket it is.
        """
        now = self._clock()
        full_at = max(self._full_at.get(key, now), now)
        wait = full_at - now - self._slack
        if wait > 0:
            return wait
        self._full_at.pop(key, None)
        self._full_at[key] = full_at + self._interval
        if len(self._full_at) > self._most:
            del self._full_at[next(iter(self._full_at))]
        return 0.0


class RateLimit(Middleware):
    """Answers `Busy` to who makes too many requests; its `retry_after` says when there is room again.

    A burst of as many requests as the rate names is possible, then they must come as slowly as it says. A request that
    is refused does not count. List it below the middleware that says who the user is. An instance that several
    backends list counts their requests together.

    It counts in memory, in each process for itself: with several processes a client may make as many requests in each.

    Parameters:
        rate: how many requests in what time: `"30/minute"`, also `/second`, `/hour`, `/day`.
        by: who is counted: `"user"` for each user, and those without a user by their addresses; `"address"` for all
            connections of an address (of an IPv6 network); `"connection"` for each connection; or a function of the
            request that returns a key, None for a request that does not count.
        methods: the sync methods that count; `"write"` stands for all but `read`. All of them by default.
        burst: how many requests may come at once; as many as the rate names by default.

    Raises:
        ConfigurationError: the rate or `by` is not valid.
        DefinitionError: there is no such sync method.

    Example:
        >>> from bbio import Backend
        >>> from bbio.builtin import MemoryStore
        >>> class Comments(Backend):
        ...     store = MemoryStore()
        ...     middleware = [RateLimit("30/minute", by="user", methods=["create"])]
    """

    def __init__(
        self,
        rate: str,
        *,
        by: By | Callable[[Request], Any] = "user",
        methods: Iterable[MethodName] = METHODS,
        burst: int | None = None,
    ) -> None:
        match = RATE.fullmatch(rate) if isinstance(rate, str) else None
        if match is None:
            raise ConfigurationError(f'RateLimit({rate!r}): write a number and a time, such as "30/minute"')
        if not callable(by) and by not in _KEYS:
            raise ConfigurationError(f"RateLimit(by={by!r}): choose one of {', '.join(_KEYS)}, or give a function")
        if burst is not None and (type(burst) is not int or burst < 1):
            raise ConfigurationError(f"RateLimit(burst={burst!r}): it must be a whole number, 1 or more")
        count = int(match[1])
        names = (methods,) if isinstance(methods, str) else tuple(methods)
        self.rate = rate
        self.methods = frozenset(check_methods("RateLimit", names))
        self._key = by if callable(by) else _KEYS[by]
        self._buckets = Buckets(count, UNITS[match[2]], burst or count)

    # Not `before`: those layers run for a listen too, and whenever permissions are looked at.
    @use(bulk=True)
    async def count(self, req: Request, next: Next) -> Any:
        if req.method in self.methods:
            key = self._key(req)
            if key is not None and (wait := self._buckets.take(key)):
                # Rounded up: whoever waits so long gets a turn.
                raise Busy("too many requests", retry_after=math.ceil(wait * 1000) / 1000)
        return await next()


def _of_user(req: Request) -> Any:
    if req.user is None:
        return _of_address(req)
    try:
        return "user", principal(req.user)
    except StackError:
        return _of_address(req)


def _of_address(req: Request) -> Any:
    return None if req.socket is None else ("address", network_of(req.socket.remote))


def _of_connection(req: Request) -> Any:
    return None if req.socket is None else ("connection", req.socket.sid)


_KEYS: dict[str, Callable[[Request], Any]] = {
    "user": _of_user,
    "address": _of_address,
    "connection": _of_connection,
}
