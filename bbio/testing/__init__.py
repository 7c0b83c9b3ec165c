"""Tests of applications: clients in the same process, and faults that a network and a server may have.

Only the wire is replaced. Requests pass the real limits, stacks, stores, streams and delivery; the clients are those of
`bbio.client`.

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

from bbio.testing.cable import Cable
from bbio.testing.clock import Clock
from bbio.testing.harness import Harness

__all__ = ["Cable", "Clock", "Harness"]
