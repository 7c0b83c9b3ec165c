"""Turns for work that clients cause, of which one address never has more than half."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Turns that may be taken at once; who comes when there is none waits for one.

    Parameters:
        most: how many there are.
    """

    def __init__(self, most: int) -> None:
        self._all = asyncio.Semaphore(most)
        self._most_of_one = max(1, most // 2)
        # The turns of each address, with how many have one or wait for one.
        self._shares: dict[object, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def turn(self, address: object) -> AsyncIterator[None]:
        """Take a turn for as long as the block runs.

        Parameters:
            address: whose turn it is.
        """
        share, count = self._shares.get(address) or (asyncio.Semaphore(self._most_of_one), 0)
        self._shares[address] = share, count + 1
        try:
            async with share, self._all:
                yield
        finally:
            count = self._shares[address][1] - 1
            if count:
                self._shares[address] = share, count
            else:
                del self._shares[address]
