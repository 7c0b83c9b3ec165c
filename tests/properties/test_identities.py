"""Who gets what, while identities come and go: random schedules of log-ins, refreshes, revocations and ends.

What happens is in tests/support/identity_schedules.py, what is looked at in tests/support/identities.py, and the
deliberate bugs in tests/support/identity_bugs.py. The rules are those of docs/tokens.md, docs/sessions.md and
docs/security.md.
"""

from __future__ import annotations

import os

import pytest

from tests.support.examples import examples
from tests.support.identity_bugs import BUGS, FOUND_BY
from tests.support.identity_schedules import run

# Schedules: more than 10,000 with BBIO_SCHEDULES=2600, as for what is delivered.
SCHEDULES = int(os.environ.get("BBIO_SCHEDULES", examples(52)))
# How many of each kind: those with a file wait for its threads.
OF_KINDS = {"opaque": 2 * SCHEDULES, "signed": SCHEDULES // 2, "memory": 5 * SCHEDULES // 4, "sqlite": SCHEDULES // 4}
STEPS = (15, 30, 60)
# Most bugs are found by one schedule in five, and one that has found them is tried first.
FOUND_WITHIN = 50


def steps_of(seed: int) -> int:
    """The steps of a schedule."""
    return STEPS[seed // 2 % len(STEPS)]


@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("kind", OF_KINDS)
@pytest.mark.timeout(3_600)
async def test_nobody_gets_what_its_user_may_not_have(kind, part, tmp_path, monkeypatch):
    """Whoever logs in, out, or is thrown out, and whatever the network does; and no packet holds a secret."""
    told = 0
    for seed in range(part, OF_KINDS[kind], 2):
        path = tmp_path / f"{seed}.db"
        try:
            told += await run(kind, seed, str(path), steps_of(seed), monkeypatch)
        except BaseException as err:
            err.add_note(f"seed {seed}")
            raise
        for each in tmp_path.iterdir():
            each.unlink()
    assert told > OF_KINDS[kind], "what they may have they get"


@pytest.mark.once  # what is asked is what schedules find, not a Python
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
async def test_each_bug_is_found(bug, tmp_path, monkeypatch):
    """There is a schedule that fails without the protection; the test above shows that it passes with it."""
    others = ((kind, seed) for seed in range(FOUND_WITHIN) for kind in ("opaque", "memory"))
    for kind, seed in (FOUND_BY[bug.__name__], *others):
        try:
            await run(kind, seed, str(tmp_path / "sessions.db"), steps_of(seed), monkeypatch, bug)
        except (AssertionError, TimeoutError):
            return
    pytest.fail(f"{2 * FOUND_WITHIN} schedules pass with the bug {bug.__name__}: {bug.__doc__}")
