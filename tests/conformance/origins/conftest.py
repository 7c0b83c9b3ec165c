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

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the databases under the plain engine: an engine ends where a request is handed to the stack."""
    items[:] = [item for item in items if not (item.path.is_relative_to(HERE) and is_left_out(item))]


def is_left_out(item: pytest.Item) -> bool:
    """Return whether a test is one of a database under the plain engine."""
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return params.get("origin") == "plain" and not {"sqlite", "postgres"}.isdisjoint(map(str, params.values()))


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
