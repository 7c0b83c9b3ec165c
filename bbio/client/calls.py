"""Coroutines over a session: make a request, wait until the server listens. Handles and collections call them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from bbio.client.session import BackendSession
from bbio.client.subscription import Subscription
from bbio.client.values import plain
from bbio.errors import BadRequest, SyncError, Timeout
from bbio.requests import METHODS, Method


async def request(
    session: BackendSession,
    subscription: Subscription,
    method: Method,
    model: Any = None,
    *,
    rev: int | None = None,
    options: Mapping[str, Any] | None = None,
    timeout: float | None = None,
) -> tuple[Any, Any]:
    """Send a sync; return its result and the third argument of the answer, which has position and revisions."""
    if method not in METHODS:
        raise BadRequest(f"method must be one of {', '.join(METHODS)}")
    request = {
        "method": method,
        "model": plain({} if model is None else model),
        "options": plain(dict(options or {})),
        "channel": subscription.channel,
    }
    if rev is not None:
        request["rev"] = rev
    answer: asyncio.Future[tuple[Any, Any]] = asyncio.get_running_loop().create_future()

    def done(error: SyncError | None, result: Any, meta: Any) -> None:
        if answer.cancelled():
            return
        if error is None:
            answer.set_result((result, meta))
        else:
            answer.set_exception(error)

    entry = session.request(subscription, request, timeout, done)
    try:
        return await answer
    finally:
        session.cancel(entry)


async def ready(session: BackendSession, subscription: Subscription) -> None:
    """Wait until the server has answered the listen.

    Raises:
        SyncError: the server does not let this client listen.
        Timeout: it did not answer within the connection's `deadline`.
        Unavailable: the connection was closed.
    """
    if subscription.refusal is not None:
        raise subscription.refusal
    session.join(subscription)
    if subscription.listens:
        return
    waiter = subscription.add_waiter()
    timer = session.clock.call_later(session.settings.deadline, _expire, waiter, session.name)
    try:
        await waiter
    finally:
        timer.cancel()


def _expire(waiter: asyncio.Future[None], name: str) -> None:
    message = f"listen to {name!r}: the server did not answer in time; is the address right, and does it run?"
    if not waiter.done():
        waiter.set_exception(Timeout(message))
