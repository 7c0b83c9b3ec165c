"""Fixtures of the suite: each origin, and each store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from tests.support.origins import ORIGINS, Origin


@pytest.fixture(params=ORIGINS)
async def origin(request: pytest.FixtureRequest) -> AsyncIterator[Origin]:
    """Each way in which requests come, in turn."""
    async with AsyncExitStack() as stack:
        yield Origin(request.param, stack)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """`make_store(models=...)`: each store in turn; those of databases keep what they hold over a restart."""
    if request.param == "postgres":
        return partial(PostgresStore, request.getfixturevalue("database_url"))
    return MemoryStore if request.param == "memory" else partial(SQLiteStore, tmp_path / "models.db")
