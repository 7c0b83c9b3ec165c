"""Tests of applications: clients in the same process, and faults that a network and a server may have.

Only the network is replaced. Requests pass the real limits, stacks, stores, streams and delivery; the clients are
those of `bbio.client`.

Example:
    >>> import asyncio
    >>> from bbio import App, Backend
    >>> from bbio.builtin import MemoryStore
    >>> class Todos(Backend):
    ...     store = MemoryStore()
    >>> async def main():
    ...     async with App().serve(Todos).test() as t:
    ...         ann, bob = await t.clients(2, backend="todos")
    ...         t.drop_acks(1)
    ...         await ann.create({"title": "milk"})  # repeated, and applied once
    ...         return [todo["title"] for todo in await bob.read()]
    >>> asyncio.run(main())
    ['milk']
"""

from typing import Any
from warnings import warn

from bbio.testing.clock import Clock
from bbio.testing.harness import Harness
from bbio.testing.network import FakeConnection

__all__ = ["Clock", "FakeConnection", "Harness"]


def __getattr__(name: str) -> Any:
    """Return what an older name stands for."""
    if name == "Cable":
        warn("bbio.testing.Cable is FakeConnection now", DeprecationWarning, stacklevel=2)
        return FakeConnection
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
