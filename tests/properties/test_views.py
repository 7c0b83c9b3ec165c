"""Who sees what, live: random schedules in which records, permissions and connections come and go.

What is looked at is in tests/support/views.py, and the deliberate bugs in tests/support/view_bugs.py. The rules are
those of docs/visibility.md and docs/guarantees.md.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from typing import Any

import pytest

from bbio import Store
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.builtin.postgres.scratch import schema
from bbio.streams import HistoryLimits
from tests.support.examples import examples
from tests.support.view_bugs import BUGS
from tests.support.view_servers import TwoServersWorld
from tests.support.views import MakeStore, World, run

# Schedules: more than 10,000 with BBIO_SCHEDULES=2600, as for what is delivered.
SCHEDULES = 4 * int(os.environ.get("BBIO_SCHEDULES", examples(250)))
STEPS = (20, 40, 80)
# Most bugs are found by more than one schedule in ten. These are rare, and one that has found them is tried first.
FOUND_WITHIN = 400
KNOWN = {"blind_delta": 261, "late_ack": 39}


def in_memory(world: World, history: HistoryLimits) -> Store:
    return MemoryStore(ids=world.next_key, history=history)


async def run_all(make_store: MakeStore, seeds: Iterable[int], monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    for seed in seeds:
        try:
            await run(make_store, seed, monkeypatch, STEPS[seed // 4 % len(STEPS)], **options)
        except BaseException as err:
            err.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("part", range(4))
async def test_every_client_sees_what_it_may_and_nothing_else(part, monkeypatch):
    """Whatever is written, by whom, whoever's permissions change, and whatever the network does."""
    await run_all(in_memory, range(part, SCHEDULES, 4), monkeypatch)


async def test_the_same_with_models_in_a_file(monkeypatch):
    """Fewer schedules: what is told is decided by the same code."""
    await run_all(
        lambda world, history: SQLiteStore("issues.db", ids=world.next_key, history=history),
        range(SCHEDULES // 200),
        monkeypatch,
    )


async def test_the_same_with_models_in_postgresql(postgres_server, monkeypatch):
    """Fewer schedules, each in a schema of its own."""

    def make_store(world: World, history: HistoryLimits) -> Store:
        monkeypatch.setattr("bbio.builtin.postgres.store._ids", lambda: iter(world.next_key, None))
        return PostgresStore(postgres_server, history=history)

    await run_all(make_store, range(SCHEDULES // 200), monkeypatch)


@pytest.mark.once  # what is asked is what two servers do, not a Python
async def test_the_same_with_two_servers(postgres_server, monkeypatch):
    """Of one PostgreSQL, fewer schedules: clients come back to either, and both write and look at permissions."""
    monkeypatch.setattr(PostgresStore, "check_interval", 600.0)  # nothing but what is told makes a server look
    for seed in range(0, SCHEDULES // 250 * 3, 3):  # short ones and long ones
        async with schema(postgres_server, f"bbio_test_{secrets.token_hex(8)}", 10.0) as (own, _):
            names = iter("ab")

            def make_store(world: World, history: HistoryLimits, own: str = own, names: Any = names) -> Store:
                monkeypatch.setattr("bbio.builtin.postgres.store._ids", lambda: iter(world.next_key, None))
                return PostgresStore(f"{own}&application_name={next(names)}", history=history)

            await run_all(make_store, [seed], monkeypatch, make_world=TwoServersWorld)


@pytest.mark.once  # what is asked is what schedules find, not a Python
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
async def test_each_bug_is_found(bug, monkeypatch):
    """There is a schedule that fails without the rule; the same schedules pass with it."""
    for seed in (KNOWN.get(bug.__name__, 0), *range(FOUND_WITHIN)):
        try:
            await run(in_memory, seed, monkeypatch, STEPS[-1], bug)
        except (AssertionError, TimeoutError):
            return
    pytest.fail(f"{FOUND_WITHIN} schedules pass with the bug {bug.__name__}: {bug.__doc__}")
