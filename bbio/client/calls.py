"""Coroutines over a session: make a request, wait until the server listens. Handles and collections call them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from bbio.client.errors import error_of
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


async def send(
    session: BackendSession, subscription: Subscription, name: str, data: Any, seconds: float | None
) -> None:
    """Send a message; return when the server has taken it.

    Raises:
        SyncError: it was refused, or could not be sent.
        Timeout: there was no answer in time.
    """
    if not subscription.listens and not subscription.answered:
        await ready(session, subscription)
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(error: Any = None, *_: Any) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error_of(error.get("error", error) if isinstance(error, Mapping) else error))

    session.send(subscription, name, data, answered)
    late = f"the message {name!r} to {session.name!r}: the server did not answer in time"
    timer = session.clock.call_later(session.settings.deadline if seconds is None else seconds, _fail, answer, late)
    try:
        await answer
    finally:
        timer.cancel()


def _fail(waiter: asyncio.Future[None], message: str) -> None:
    if not waiter.done():
        waiter.set_exception(Timeout(message))


def _expire(waiter: asyncio.Future[None], name: str) -> None:
    _fail(waiter, f"listen to {name!r}: the server did not answer in time; is the address right, and does it run?")
