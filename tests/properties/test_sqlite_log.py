"""The log of SQLiteStore: many streams in the order of writing, each read by itself."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbio import HistoryLimits
from bbio.builtin import SQLiteStore
from bbio.builtin.sqlite import store as module
from bbio.conformance import opened
from tests.support.examples import examples

CHANNELS = st.sampled_from(["a", "b", "c", "d"])
BATCHES = st.lists(st.lists(st.tuples(CHANNELS, st.integers(0, 150)), min_size=1, max_size=12), max_size=30)
LIMITS = st.builds(HistoryLimits, events=st.integers(0, 25), size=st.integers(0, 1_500), streams=st.integers(2, 4))


@settings(max_examples=examples(60), deadline=None)
@given(BATCHES, LIMITS, st.integers(1, 20))
async def test_a_stream_is_told_whole_or_not_at_all(tmp_path_factory, batches, limits, trim_every):
    """What the limits allow is there, in order; what is told of more is true; the log is bounded."""
    path = tmp_path_factory.mktemp("log") / "models.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TRIM_EVERY", trim_every)
        async with opened(SQLiteStore(path, history=limits)) as models:
            await write(models, batches, limits)
            newest = max((len(batch) for batch in batches), default=0)
            log = models.store._database.reader
            (count,) = await log.call(lambda connection: connection.execute("SELECT count(*) FROM bbio_log").fetchone())
            assert count <= 2 * (4 * limits.events + newest + trim_every)


async def write(models, batches, limits):
    """Write, and after every batch read all streams from everywhere."""
    written = {}
    for batch in batches:
        await asyncio.gather(*(models.create({"x": "x" * size}, channel=name) for name, size in batch))
        for event, _ in models.published:
            written.setdefault((event.stream, event.epoch), {})[event.offset] = event.body
        models.published.clear()
        for stream, top in (await models.store.positions({stream for stream, _ in written})).items():
            bodies = written.get((stream, top.epoch), {})
            assert top.offset == len(bodies)
            size = 0
            for offset in range(top.offset, -1, -1):
                told = await models.store.since(stream, top.epoch, offset)
                if told is None:
                    assert size > limits.size or top.offset - offset > limits.events
                else:
                    missed = [(n, bodies[n]) for n in range(offset + 1, top.offset + 1)]
                    assert [(event.offset, event.body) for event in told] == missed
                size += len(bodies.get(offset, b""))
