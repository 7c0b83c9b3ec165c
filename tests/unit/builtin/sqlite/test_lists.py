"""Lists of SQLiteStore: in turns that are fair, long ones beside short ones, with their deadlines, bounds and end."""

import asyncio
import sqlite3
import threading
import time
import weakref
from collections import deque
from contextlib import closing
from itertools import groupby
from typing import ClassVar

import pytest

from bbio import Busy, Timeout
from bbio.builtin import SQLiteStore
from bbio.builtin.sqlite import threads as sqlite_threads
from bbio.builtin.sqlite.threads import Lister, Listing, Reader, Worker
from bbio.conformance import opened
from bbio.protocol import encode
from bbio.query import Query

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
ATTACKER = ("todos", "a", 1)
OTHER = ("notes", "b", 2)


def connect():
    return sqlite3.connect(":memory:", isolation_level=None)


class Client:
    """Who asks, as far as that counts."""

    def __init__(self, address):
        self.address = address


class Lists:
    """A lister whose lists write down when they begin."""

    def __init__(self, **options):
        self.lister = Lister(connect, lambda err: err, **options)
        self.begun = []
        self._asked = []
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    async def __aenter__(self):
        await self.lister.start()
        return self

    async def __aexit__(self, kind, *_):
        if kind is not None:
            for listing in self._asked:
                listing.cancel()
        await self.lister.stop()

    def read(self, name, path, read=lambda connection: None, seconds=1_000.0):
        """Have a list read."""

        def noted(connection):
            self.begun.append(name)
            self._loop.call_soon_threadsafe(self._news.set)
            return read(connection)

        self._asked.append(self.lister.call(noted, seconds, path))
        return self._asked[-1]

    def endless(self, name, path, seconds=1_000.0):
        """Have a list read that never ends by itself."""
        return self.read(name, path, lambda connection: connection.execute(ENDLESS).fetchone(), seconds)

    async def has_begun(self, *names):
        """Wait until these have begun, in this order."""
        while self.begun != list(names):
            assert self.begun == list(names)[: len(self.begun)]
            await self.news()

    async def news(self):
        """Wait until another has begun."""
        self._news.clear()
        await self._news.wait()


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "bbio-sqlite"]


class Large:
    """What was read, and tells when it is held no more."""

    def __init__(self, loop):
        self.gone = asyncio.Event()
        weakref.finalize(self, loop.call_soon_threadsafe, self.gone.set)


async def test_a_thread_keeps_nothing_of_what_it_has_read():
    """It may be hundreds of megabytes, and the next may be read by another thread, days later."""
    loop = asyncio.get_running_loop()
    async with Lists() as lists:
        gone = (await lists.read("all", ATTACKER, lambda connection: Large(loop))).gone
        lists._asked.clear()
        async with asyncio.timeout(10):
            await gone.wait()
    worker = Worker(connect, lambda connection, batch: setattr(batch[0], "result", batch[0].function(connection)) or ())
    await worker.start()
    gone = (await worker.call(lambda connection: Large(loop))).gone
    async with asyncio.timeout(10):
        await gone.wait()
    await worker.stop()


async def test_a_backend_waits_for_one_list_of_another():
    """However many are asked for; the order is that of the time that was used."""
    now = [0.0]
    costs = {"todos": 1.0, "notes": 0.01}

    def cost(path):
        return lambda connection: now.__setitem__(0, now[0] + costs[path[0]])

    async with Lists(clock=lambda: now[0]) as lists:
        go_on = threading.Event()
        held = lists.read("held", ("first", "f", 0), lambda connection: go_on.wait() and None)
        await lists.has_begun("held")
        asked = [lists.read(path[0], path, cost(path)) for path in [ATTACKER] * 30 + [OTHER] * 20]
        go_on.set()
        await asyncio.gather(held, *asked)
    order = [(name, len(list(which))) for name, which in groupby(lists.begun[1:])]
    assert order == [("todos", 1), ("notes", 20), ("todos", 29)]


async def test_short_lists_are_read_together():
    """In the order in which they came, and without a look at who asked, as long as that takes no time."""
    async with Lists(clock=lambda: 0.0) as lists:
        line = lists.lister._short
        for _ in range(3):
            asked = [lists.read(n, (f"backend {n % 3}", f"address {n % 5}", n)) for n in range(32)]
            line._group = lambda path: line._all if path == () else pytest.fail("it was looked who asks")
            await asyncio.gather(*asked)
    assert lists.begun == [*range(32)] * 3


@pytest.mark.parametrize("turns", [1, 0])
async def test_lists_are_not_read_together_with_a_long_one(turns):
    """Those that came with it are read beside it, whether it goes on or must wait for its turn."""
    async with Lists() as lists:
        held = [lists.endless("held", ATTACKER)] if not turns else []
        await lists.has_begun(*["held"] * len(held))
        long, short = lists.endless("long", ATTACKER), lists.read("short", OTHER)
        await short
        assert not long.done()
        for listing in (long, *held):
            listing.cancel()
    assert lists.begun[len(held) :][:2] == ["long", "short"]


async def test_what_arrives_while_others_wait_in_line_waits_there_too():
    """It is not read together with what came with it."""
    now = [0.0]

    def cost(seconds):
        return lambda connection: now.__setitem__(0, now[0] + seconds)

    async with Lists(clock=lambda: now[0]) as lists:
        go_on = threading.Event()
        first = lists.read("first", ATTACKER, cost(1.0))
        second = lists.read("second", ATTACKER, lambda connection: go_on.wait() and cost(1.0)(connection))
        waiting = [lists.read("waiting", ATTACKER, cost(1.0)) for _ in range(3)]
        await lists.has_begun("first", "second")
        late = [lists.read("late", ATTACKER, cost(1.0)), *(lists.read("other", OTHER, cost(0.1)) for _ in range(3))]
        go_on.set()
        await asyncio.gather(first, second, *waiting, *late)
    assert lists.begun == ["first", "second", "other", "other", "other", "waiting", "waiting", "waiting", "late"]


async def test_a_long_list_is_in_nobodys_way():
    """Those of others, and others of its own connection, are read beside it."""
    async with Lists() as lists:
        long = lists.endless("long", ATTACKER)
        await lists.has_begun("long")
        for path in (OTHER, ATTACKER):
            await asyncio.gather(*(lists.read("short", path) for _ in range(5)))
        assert not long.done()
        long.cancel()
    assert lists.begun == ["long"] + ["short"] * 10


async def test_a_list_that_has_no_turn_as_a_long_one_waits_for_it():
    """It waits for the other long one of its address, and is read anew."""
    async with Lists() as lists:
        long = lists.endless("long", ATTACKER)
        await lists.has_begun("long")
        second = lists.endless("second", ATTACKER)
        await lists.has_begun("long", "second")
        await lists.read("short", OTHER)
        assert not second.done()
        # Every turn for a long one: this backend's, and another's.
        beside = lists.endless("beside", ("todos", "c", 3))
        await lists.has_begun("long", "second", "short", "beside")
        elsewhere = lists.endless("elsewhere", ("drafts", "d", 4))
        await lists.has_begun("long", "second", "short", "beside", "elsewhere")
        await lists.read("last", OTHER)
        long.cancel()
        await lists.has_begun("long", "second", "short", "beside", "elsewhere", "last", "second")
        for listing in (second, beside, elsewhere):
            listing.cancel()
    assert threads() == []


@pytest.mark.parametrize("after_long", [True, False])
async def test_a_long_list_that_ends_leaves_its_turn_to_another_long_one(after_long):
    """Short ones do not take it; else they come first."""
    lister = Lister(connect, lambda err: err)
    lister._long.put(Listing(path=ATTACKER, seconds=1.0, function=lambda connection: None, is_long=True))
    lister.call(lambda connection: None, 1.0, OTHER)
    taken = [lister.take(after_long, None)[0].is_long for _ in range(2)]
    assert taken == [after_long, not after_long]


async def test_a_turn_that_is_left_while_a_list_gives_way_is_taken(monkeypatch):
    """It is looked at again when the list waits."""
    enter = sqlite_threads.Line.enter
    full = [True]
    monkeypatch.setattr(sqlite_threads.Line, "enter", lambda line, path: None if path and full else enter(line, path))
    async with Lists() as lists:
        second = lists.endless("second", ATTACKER)
        await lists.has_begun("second")
        await lists.read("short", OTHER)
        while lists.begun.count("second") < 2:
            await lists.news()
        second.cancel()


async def test_what_is_read_is_not_kept_for_a_long_list(monkeypatch):
    """It is handed back when that turns out to be long, if not before."""
    monkeypatch.setattr(sqlite_threads, "TOGETHER_SECONDS", 1_000.0)
    async with Lists() as lists:
        short, long = lists.read("short", OTHER), lists.endless("long", ATTACKER)
        await short
        assert not long.done()
        long.cancel()


def test_what_is_read_does_not_wait_for_a_long_list_that_had_to_wait(monkeypatch):
    """The thread that takes it hands back first."""
    monkeypatch.setattr(sqlite_threads, "TOGETHER_SECONDS", 1_000.0)
    handed_back = []
    short = Listing(path=OTHER, seconds=1.0, function=lambda connection: None)
    long = Listing(path=ATTACKER, seconds=1.0, function=lambda connection: list(handed_back), is_long=True)

    class Script:
        """A lister that gives out one after the other."""

        clock = staticmethod(time.monotonic)
        left: ClassVar = [short, long]

        def take(self, after_long, bell):
            return deque([self.left.pop(0)] if self.left else [])

        def leave(self, listing, seconds):
            """Nobody counts."""

        def hand_back(self, listings):
            handed_back.extend(listings)

        def is_ending(self):
            return True

    with closing(connect()) as connection:
        Reader(Script()).serve(connection)
    assert long.result == [short]
    assert handed_back == [short, long]


@pytest.mark.parametrize("seconds", [1_000.0, -1.0])
async def test_what_is_read_is_handed_back_together_for_a_time(monkeypatch, seconds):
    """A hand-over costs as much as a short list."""
    monkeypatch.setattr(sqlite_threads, "TOGETHER_SECONDS", seconds)
    handed_back = []
    hand_back = Lister.hand_back

    def noted(lister, listings):
        handed_back.append(len(listings))
        hand_back(lister, listings)

    monkeypatch.setattr(Lister, "hand_back", noted)
    async with Lists() as lists:
        await asyncio.gather(*(lists.read("short", OTHER) for _ in range(32)))
    assert handed_back == ([32] if seconds > 0 else [1] * 32)


async def test_a_list_that_nobody_waits_for_is_not_begun():
    """Neither a short nor a long one; its place is free."""
    async with Lists() as lists:
        go_on = threading.Event()
        held = lists.read("held", OTHER, lambda connection: go_on.wait() and None)
        await lists.has_begun("held")
        given_up, wanted = lists.read("given up", OTHER), lists.read("wanted", OTHER)
        given_up.cancel()
        go_on.set()
        await asyncio.gather(held, wanted)
    assert lists.begun == ["held", "wanted"]


async def test_a_list_ends_at_its_deadline():
    """Whether it is a long one, has waited to be one, or may take no longer than a short one."""
    async with Lists() as lists:
        asked = [lists.endless("long", ATTACKER, seconds) for seconds in (0.05, 0.05, 0.001)]
        for listing in asked:
            with pytest.raises(Timeout, match="ask for less"):
                await listing


async def test_the_lists_of_one_address_leave_places_to_others(tmp_path, monkeypatch):
    """Who asks for too many is told so; others, and the server itself, are served."""
    monkeypatch.setattr(sqlite_threads, "MAX_LISTS", (9, 9, 4, 4))
    async with opened(SQLiteStore(tmp_path / "models.db")) as models:
        milk = await models.create({"title": "milk"})
        query = Query(limits=models.store.queries)
        lister = models.store._database.lister
        go_on, running = threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        held = lister.call(lambda connection: loop.call_soon_threadsafe(running.set) and go_on.wait(), 1.0)
        await running.wait()
        greedy = [Client("a") for _ in range(5)]
        asked = [models.store.select(query, (), client) for client in greedy[:4]]
        with pytest.raises(Busy, match="too many requests wait"):
            models.store.select(query, (), greedy[4])
        asked.append(models.store.select(query, (), Client("b")))
        asked.append(models.store.select(query, ()))
        go_on.set()
        await held
        assert await asyncio.gather(*asked) == [([milk], [1], None, (len(encode([milk])), 0))] * 6


async def test_threads_that_stop_read_what_waits():
    """Whoever asked before the end is answered, also who waits for the turn of a long one."""

    def read(connection):
        until = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT max(i) FROM n"
        return connection.execute(until).fetchone()

    async with Lists() as lists:
        asked = [lists.read("long", ("todos", "a", n), read) for n in range(8)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*asked) == [(100_000,)] * 8
    assert threads() == []


async def test_a_thread_that_cannot_connect_ends_the_others():
    """Nothing is left behind."""
    connections = []

    def connect_some():
        if len(connections) == 2:
            raise sqlite3.OperationalError("no more files")
        connections.append(connect())
        return connections[-1]

    lister = Lister(connect_some, lambda err: err)
    with pytest.raises(sqlite3.OperationalError, match="no more files"):
        await lister.start()
    assert threads() == []
