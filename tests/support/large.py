"""Large models, which a store must hold a few at a time."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import Any

LARGE = [{"id": n, "text": "x" * 400_000} for n in range(10)]


async def patch_large(models: Any) -> None:
    """Patch each of the large models twice, all at once, and see that they are held a few at a time, in order."""
    asked = [("patch", {"id": n % 10, "n": n}) for n in range(20)]
    asked.insert(1, ("create", {"title": "small"}))
    commits = await asyncio.gather(*(models.write(method, model) for method, model in asked))
    batches = [list(batch) for _, batch in groupby(commits, key=lambda commit: commit.event.stamp)]
    # Three models are read for a batch; who writes another one of them again waits behind others, too.
    assert [len(batch) for batch in batches] == [4, 3, 3, 3, 3, 3, 2]
    assert [commit.event.offset for commit in commits] == list(range(1, 22))
