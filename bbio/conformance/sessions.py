"""Tests that a store of sessions is held to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from bbio.sessions import SessionStore, StoredSession

# Seconds in which another process knows what has ended.
SOON_SECONDS = 1.0


def session(number: int, subject: str | None = "ann", **fields: Any) -> StoredSession:
    """Return a session of which nobody else has the number."""
    now = time.time()
    every = {
        "created": now + number,
        "expires": now + 600.0,
        "ends": now + 3600.0,
        "data": '{"n": "\\u00fc"}',
        **fields,
    }
    return StoredSession(key=f"{number:064x}", subject=subject, **every)


class Ended:
    """The keys that a store has said to have ended."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.is_unsure = False
        self._changed = asyncio.Event()

    def __call__(self, keys: Collection[str] | None) -> None:
        self.is_unsure |= keys is None
        self.keys |= set(keys or ())
        self._changed.set()

    async def include(self, *keys: str) -> None:
        """Wait until these are among them.

        Raises:
            TimeoutError: they are not, soon.
        """
        async with asyncio.timeout(5 * SOON_SECONDS):
            while not self.is_unsure and not self.keys.issuperset(keys):
                self._changed.clear()
                await self._changed.wait()


class SessionStoreConformance:
    """Subclass it in a test module, with one method that makes a store; pytest does the rest.

    Class attributes:
        is_shared: whether two stores that `make_store` has made are two processes with the same sessions.
        folder: an empty folder, for the time of one test.

    Example:
        >>> from bbio.builtin.sessions.memory import MemorySessionStore
        >>> class TestMemorySessions(SessionStoreConformance):
        ...     is_shared = False
        ...
        ...     def make_store(self):
        ...         return MemorySessionStore()
    """

    is_shared: ClassVar[bool] = True
    folder: Path

    def make_store(self) -> SessionStore:
        """Return a new store that has not started."""
        raise NotImplementedError("write a method make_store that returns the store to be tested")

    @pytest.fixture(autouse=True)
    def _folder_of_test(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[tuple[SessionStore, Ended]]:
        store, ended = self.make_store(), Ended()
        await store.start(ended)
        try:
            yield store, ended
        finally:
            await store.stop()

    async def test_a_session_is_found_as_it_was_added(self) -> None:
        """With and without a user, whatever its data and the user's id hold."""
        async with self._started() as (store, _):
            every = [session(1), session(2, None), session(3, ""), session(4, "Zoë \u2603'\"; --", data='"' * 60_000)]
            for each in every:
                assert await store.add(each) == []
            assert [await store.find(each.key) for each in every] == every
            assert await store.find("f" * 64) is None

    async def test_a_session_replaces_another(self) -> None:
        """The other ends in the same step; one that does not exist is none."""
        async with self._started() as (store, _):
            await store.add(session(1))
            assert await store.add(session(2), session(1).key) == [session(1).key]
            assert await store.add(session(3), session(1).key) == []
            assert await store.find(session(1).key) is None
            assert await store.find(session(2).key) is not None

    async def test_a_user_has_so_many_sessions(self) -> None:
        """The oldest ones end; those of others stay."""
        async with self._started() as (store, _):
            await store.add(session(9, "bob"), per_user=2)
            ended = [await store.add(session(number), per_user=2) for number in (1, 2, 3, 4)]
            assert ended == [[], [], [session(1).key], [session(2).key]]
            found = [await store.find(session(number).key) for number in (1, 2, 3, 4, 9)]
            assert [each is not None for each in found] == [False, False, True, True, True]

    async def test_a_session_is_kept_from_expiring(self) -> None:
        """It never expires earlier than it would, and one that has ended does not come back."""
        async with self._started() as (store, _):
            first = session(1)
            await store.add(first)
            later = first.expires + 100.0
            for expires in (later, later - 50.0):
                await store.touch(first.key, expires)
                assert await store.find(first.key) == attrs.evolve(first, expires=later)
            await store.remove(first.key)
            await store.touch(first.key, later)
            assert await store.find(first.key) is None

    async def test_sessions_end(self) -> None:
        """One by its key, or all of a user; twice is once."""
        async with self._started() as (store, _):
            for number, subject in enumerate(["ann", "ann", "bob", None]):
                await store.add(session(number, subject))
            assert [await store.remove(session(0).key), await store.remove(session(0).key)] == [True, False]
            assert await store.remove_user("ann") == [session(1).key]
            assert await store.remove_user("ann") == []
            found = [await store.find(session(number).key) for number in range(4)]
            assert [each is not None for each in found] == [False, False, True, True]

    async def test_living_sessions_are_told_from_others(self) -> None:
        """By many keys at once, with when they expire."""
        async with self._started() as (store, _):
            for number in (1, 2):
                await store.add(session(number, expires=4_000_000_000.0 + number, ends=5_000_000_000.0))
            keys = [session(number).key for number in range(1200)]
            living = await store.living(keys)
            assert living == {keys[1]: 4_000_000_001.0, keys[2]: 4_000_000_002.0}
            assert await store.living([]) == {}

    async def test_expired_sessions_are_deleted_in_pieces(self) -> None:
        """No more than was asked for; those that have not expired stay. A store may do it by itself."""
        async with self._started() as (store, _):
            past = time.time() - 10.0
            for number in range(5):
                await store.add(session(number, expires=past, ends=past))
            await store.add(session(9))
            pieces = [await store.tidy(time.time(), 2) for _ in range(4)]
            assert pieces in ([2, 2, 1, 0], [0, 0, 0, 0])
            assert await store.living([session(number).key for number in (*range(5), 9)]) == {
                session(9).key: pytest.approx(session(9).expires, abs=60.0)
            }

    async def test_other_processes_are_told_what_has_ended(self) -> None:
        """Within a second, whichever way it has ended; and of what begins they know at once."""
        if not self.is_shared:
            return
        async with self._started() as (store, _), self._started() as (_, ended):
            for number in (1, 2, 3, 4):
                await store.add(session(number, "bob" if number == 4 else "ann"))
            async with self._started() as (third, _):
                assert await third.find(session(1).key) is not None
            await store.remove(session(1).key)
            await store.add(session(5), session(2).key)
            await store.remove_user("bob")
            began = time.monotonic()
            await ended.include(*(session(number).key for number in (1, 2, 4)))
            assert session(3).key not in ended.keys
            assert time.monotonic() - began < 5 * SOON_SECONDS

    async def test_a_store_begins_again(self) -> None:
        """After its end, with another start."""
        store = self.make_store()
        for _ in range(2):
            await store.start(Ended())
            await store.add(session(1), session(1).key)
            assert await store.find(session(1).key) is not None
            await store.remove(session(1).key)
            await store.stop()
