"""Alone: the broker of a log that no other process shares."""

from __future__ import annotations

from bbio import MemoryLog
from bbio.builtin import SQLiteStore
from bbio.cluster import Alone
from bbio.conformance.cases import Published
from bbio.streams import Event


async def test_who_is_alone_tells_nobody_and_waits_for_nobody():
    """All that a broker is asked is answered, and comes to nothing."""
    broker, published = MemoryLog().broker, Published()
    assert type(broker) is type(SQLiteStore("x.db").broker) is Alone
    await broker.start(published)
    broker.follow("c:")
    broker.tell(Event("c:", "9a0c", 1, "create", b"{}"))
    broker.unfollow("c:")
    await broker.stop()
    assert (broker.healthy, broker.patience, list(published)) == (True, 0.0, [])
