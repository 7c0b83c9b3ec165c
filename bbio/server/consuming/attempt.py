"""One attempt of a consumer's function at an event: its deadline, and what it came to."""

from __future__ import annotations

import asyncio
from typing import Any

from bbio.consumers import Consume
from bbio.errors import SyncError
from bbio.events import Event
from bbio.ratelimit import one_line

# Seconds that a function gets to end in once it was cancelled.
END_SECONDS = 2.0


class Overdue(Exception):
    """The attempt has taken too long."""


async def attempt(function: Consume, event: Event[Any], seconds: float) -> BaseException | None:
    """Call a function and wait for it; return the error that it came to, None if it went well.

    A function that has not ended in time is cancelled. One that goes on all the same is left to itself.

    Parameters:
        function: the function.
        event: the event.
        seconds: how long it may take.
    """
    task = asyncio.ensure_future(_call(function, event))
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if done:
            return _error_of(task)
    except asyncio.CancelledError:
        await _end(task)
        raise
    is_over = await _end(task)
    return Overdue(
        f"it took longer than {seconds:g} s" + ("" if is_over else ", and does not end though it was cancelled")
    )


async def _call(function: Consume, event: Event[Any]) -> None:
    await function(event)


async def _end(task: asyncio.Task[None]) -> bool:
    """Cancel a task, and return whether it has ended."""
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=END_SECONDS)
    if done:
        _error_of(task)
    else:
        task.add_done_callback(_error_of)
    return bool(done)


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return asyncio.CancelledError("it was cancelled") if task.cancelled() else task.exception()


def error_text(err: BaseException) -> str:
    """Return the line by which an error is kept with a dead letter."""
    name = type(err).__name__
    return one_line(f"{name}: {err}" if str(err) else name)


def wanted_pause(err: BaseException) -> float:
    """Return the seconds for which an error asks to wait before the next attempt."""
    pause = err.values.get("retry_after") if isinstance(err, SyncError) else None
    return float(pause) if isinstance(pause, (int, float)) else 0.0
