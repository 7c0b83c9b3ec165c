"""Threads with a connection to an SQLite file: one that does what it is handed in batches, and some that read lists."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from queue import SimpleQueue
from typing import Any

from bbio import Timeout
from bbio.builtin.documents import MAX_WAITING_JOBS, Job, Queue, logger
from bbio.builtin.line import InLine, Line, Path

# Steps of SQLite between two looks at the clock.
STEPS = 10_000
# Seconds after which a list is a long one: others are read beside it.
LONG_LIST_SECONDS = 0.01
# Seconds for which lists are read together: in the order in which they came, whoever asked, and handed back at once. To
# look who has used least, and to wake the event loop while others are read, costs up to half as much as a short list.
TOGETHER_SECONDS = 0.005
# Lists that are read at once and are not long: one, since short ones are through sooner after each other.
SHORT_LISTS = (1, 1, 1, 1)
# Long lists that are read at once: of all, of a backend, of an address there, of a connection. Like `PostgresStore`:
# those of one backend leave one turn for others, those of one address one to others of its backend.
LONG_LISTS = (3, 2, 1, 1)
# Those of one address in all backends leave one turn for other addresses.
LONG_LISTS_OF_ADDRESS = 2
# Lists that may wait, of the same.
MAX_LISTS = (MAX_WAITING_JOBS, MAX_WAITING_JOBS, MAX_WAITING_JOBS // 2, MAX_WAITING_JOBS // 2)


class Call(Job, kw_only=True):
    """A function to be called with a connection, in its thread.

    Parameters:
        function: the function.
    """

    function: Callable[[sqlite3.Connection], Any]


class ConnectionThread:
    """A thread with a connection of its own.

    Parameters:
        connect: opens the connection; called in the thread.
        serve: what the thread does until its end.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], serve: Callable[[sqlite3.Connection], None]) -> None:
        self._connect = connect
        self._serve = serve
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="bbio-sqlite", daemon=True)
        self._ready: asyncio.Future[None] = self._loop.create_future()

    async def start(self) -> None:
        """Connect."""
        self._thread.start()
        try:
            await self._ready
        except Exception:
            self._thread.join()
            raise

    async def join(self) -> None:
        """Wait for its end."""
        await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        wake = self._loop.call_soon_threadsafe
        try:
            connection = self._connect()
        except Exception as err:
            wake(self._ready.set_exception, err)
            return
        wake(self._ready.set_result, None)
        with closing(connection):
            self._serve(connection)


class Worker:
    """A thread that does what has come together, batch by batch.

    Parameters:
        connect: opens the thread's connection; called in the thread.
        work: does a batch of jobs, puts into each what came of it, and returns those, the last of them, that it has
            left for the next batch; called in the thread.
    """

    def __init__(
        self, connect: Callable[[], sqlite3.Connection], work: Callable[[sqlite3.Connection, list[Any]], Sequence[Any]]
    ) -> None:
        self._work = work
        self._inbox: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._queue = Queue(self._inbox.put)
        self._thread = ConnectionThread(connect, self._serve)
        self.submit = self._queue.submit
        self.start = self._thread.start

    async def call(self, function: Callable[[sqlite3.Connection], Any]) -> Any:
        """The result of a function called in the thread."""
        return await self.submit(Call(function=function))

    async def stop(self) -> None:
        """Finish what waits and end the thread."""
        await self._queue.finish()
        self._inbox.put(None)
        await self._thread.join()

    def _serve(self, connection: sqlite3.Connection) -> None:
        while (batch := self._inbox.get()) is not None:
            left: Sequence[Any] = ()
            try:
                left = self._work(connection, batch)
            except Exception as err:
                # Whatever happens, nobody may wait for ever.
                logger.exception("the database's thread failed")
                for job in batch:
                    job.error = err
            if left:
                later = set(map(id, left))
                batch = [job for job in batch if id(job) not in later]
            self._loop.call_soon_threadsafe(self._queue.settle, batch, left)
            del batch, left  # what they hold is not this thread's any more


class Listing(InLine, kw_only=True):
    """A list to be read.

    Parameters:
        function: reads it with a connection, in a thread.
        seconds: how long that may take.
        is_long: whether it has turned out to be a long one.
    """

    function: Callable[[sqlite3.Connection], Any]
    seconds: float
    is_long: bool = False


class Lister:
    """Threads that read lists, in an order that is fair to backends, addresses and connections.

    A list begins as a short one, one at a time. What has arrived while nothing waits in line is read together, in one
    turn; when that takes long, what is left of it waits in line. One that is not short goes on as a long one if those
    who ask for it have a turn left; else it waits for one, and is read anew.

    Parameters:
        connect: opens a thread's connection; called in the thread.
        explain: makes of an error what the client is told.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        explain: Callable[[Exception], Exception],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.explain = explain
        self.clock = clock
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._short = Line(SHORT_LISTS, MAX_LISTS)
        self._long = Line(LONG_LISTS, turns_of_address=LONG_LISTS_OF_ADDRESS)
        # What has arrived and is not in line, and what is left of what is read together; with so many, all are in line.
        self._new: deque[Listing] = deque()
        self._together: deque[Listing] = deque()
        self._most_new = min(MAX_LISTS)
        # What each thread without work waits for; who has waited least is called, as it has most in its memory.
        self._bells: list[threading.Lock] = []
        self._is_calling = False
        self._is_ending = False
        self._threads = [ConnectionThread(connect, Reader(self).serve) for _ in range(1 + LONG_LISTS[0])]

    async def start(self) -> None:
        """Connect."""
        threads, self._threads = self._threads, []
        try:
            for thread in threads:
                await thread.start()
                self._threads.append(thread)
        except BaseException:
            await self.stop()
            raise

    def call(
        self,
        function: Callable[[sqlite3.Connection], Any],
        seconds: float,
        path: Path = (None, None, None),
    ) -> asyncio.Future[Any]:
        """Have a list read by a function in a thread; the future then has its result.

        Parameters:
            function: reads it.
            seconds: how long that may take, once it has begun; then it is a `Timeout`.
            path: who asks: the backend, the client's address, its connection.

        Raises:
            Busy: too many lists wait, or too many of this address do.
        """
        future = self._loop.create_future()
        listing = Listing(function=function, seconds=seconds, path=path, future=future)
        with self._lock:
            if len(self._new) + len(self._together) + self._short.waiting < self._most_new:
                self._new.append(listing)
            else:
                self._line_up(self._new)
                self._short.put(listing)
        if not self._is_calling:
            # Not at once: what arrives in the same turn of the loop is read, and handed back, together.
            self._is_calling = True
            self._loop.call_soon(self._call_reader)
        return future

    async def stop(self) -> None:
        """Finish what waits and end the threads."""
        with self._lock:
            self._is_ending = True
            while self._bells:
                self._bells.pop().release()
        for thread in self._threads:
            await thread.join()

    def _call_reader(self) -> None:
        self._is_calling = False
        with self._lock:
            self._call_for_short()

    def _call_for_short(self) -> None:
        self._call_for(self._short, len(self._new) + self._short.waiting)

    def _call_for(self, line: Line, waiting: int) -> None:
        """Call a thread that has no work, if there is work for it."""
        if self._bells and waiting and not line.is_full():
            self._bells.pop().release()

    def _line_up(self, listings: deque[Listing]) -> None:
        """Have lists wait in line that were let in already."""
        while listings:
            self._short.let_in(listings.popleft())

    # In the threads

    def take(self, after_long: bool, bell: threading.Lock | None) -> deque[Listing]:
        """The lists to be read next, after each other; `left` is to be called for the last. None if there are none.

        Parameters:
            after_long: whether the thread has just read a long one: whose turn that was is taken by one that waits.
            bell: what the thread will wait for if there is none; None if it will not wait.
        """
        with self._lock:
            first, second = (self._take_long, self._take_short) if after_long else (self._take_short, self._take_long)
            listings = first() or second()
            if not listings and bell is not None and not self._is_ending:
                self._bells.append(bell)
            return listings

    def _take_short(self) -> deque[Listing]:
        line, new = self._short, self._new
        if not line.waiting and new and (group := line.enter(())) is not None:
            for listing in new:
                listing.group = group
            self._together, self._new = new, deque()
            return new
        if line.waiting:
            self._line_up(new)
        return self._next_of(line)

    def _take_long(self) -> deque[Listing]:
        return self._next_of(self._long)

    def _next_of(self, line: Line) -> deque[Listing]:
        listing = line.take()
        return deque() if listing is None else deque((listing,))

    def is_ending(self) -> bool:
        """Return whether an idle thread must end. A list that waits for its turn has a thread that runs."""
        return self._is_ending

    def part(self, listing: Listing, rest: deque[Listing]) -> None:
        """Lists are no longer read together: one has its own turn, and the rest waits in line."""
        with self._lock:
            self._short.leave(listing.group, 0.0)
            listing.group = self._short.enter(listing.path)
            self._line_up(rest)

    def may_go_on(self, listing: Listing, seconds: float) -> bool:
        """Return whether a list that proves not to be short gets a turn as a long one."""
        with self._lock:
            group = self._long.enter(listing.path)
            if group is not None:
                self._short.leave(listing.group, seconds)
                listing.group, listing.is_long = group, True
                self._call_for_short()
            return group is not None

    def postpone(self, listing: Listing, seconds: float) -> None:
        """One that was read for so long has to wait until it may be a long one."""
        with self._lock:
            self._short.leave(listing.group, seconds)
            listing.is_long = True
            self._long.put(listing)
            # A turn may have become free meanwhile.
            self._call_for(self._long, self._long.waiting)

    def leave(self, listing: Listing, seconds: float) -> None:
        """One was read, in so many seconds; or the last of some that were read together was."""
        with self._lock:
            (self._long if listing.is_long else self._short).leave(listing.group, seconds)

    def hand_back(self, listings: list[Listing]) -> None:
        """Tell those who wait for lists what came of them."""
        self._loop.call_soon_threadsafe(Queue.tell, listings)


class Reader:
    """One of the threads that read lists.

    Parameters:
        lister: whose.
    """

    _listing: Listing
    _rest: deque[Listing]
    _begun: float

    def __init__(self, lister: Lister) -> None:
        self._lister = lister
        self._bell = threading.Lock()
        self._bell.acquire()
        # What was read and is to be handed back, and since when the first of it waits for that.
        self._done: list[Listing] = []
        self._since = 0.0
        self._is_postponed = False

    def serve(self, connection: sqlite3.Connection) -> None:
        """Read lists until the end."""
        after_long = False
        connection.set_progress_handler(self._is_over, STEPS)
        while True:
            listings = self._lister.take(after_long, None if self._done else self._bell)
            if listings:
                if listings[0].is_long and self._done:
                    self._hand_back()
                after_long = self._read_all(connection, listings)
                del self._listing, listings  # what they hold is not this thread's any more
            elif self._done:
                self._hand_back()
            elif self._lister.is_ending():
                return
            else:
                self._bell.acquire()

    def _read_all(self, connection: sqlite3.Connection, listings: deque[Listing]) -> bool:
        """Read lists after each other, until that takes long; whether the last was a long one."""
        self._rest = listings
        clock = self._lister.clock
        begun = now = clock()
        while listings:
            listing = self._listing = listings.popleft()
            self._begun = now
            self._read(connection, listing)
            now = clock()
            if self._is_postponed:
                self._lister.postpone(listing, now - self._begun)
                break
            if listings and now - begun > TOGETHER_SECONDS:
                self._lister.part(listing, listings)
            if not listings:
                self._lister.leave(listing, now - self._begun)
            if not self._done:
                self._since = now
            self._done.append(listing)
            if listing.is_long or now - self._since > TOGETHER_SECONDS:
                self._hand_back()
        return listing.is_long

    def _read(self, connection: sqlite3.Connection, listing: Listing) -> None:
        self._is_postponed = False
        try:
            if not listing.given_up:
                listing.result = listing.function(connection)
        except Exception as err:
            if not is_interrupted(err):
                self._is_postponed = False
                listing.error = self._lister.explain(err)
            elif not self._is_postponed:
                listing.error = Timeout("the query takes too long: ask for less, or have its fields indexed")

    def _is_over(self) -> bool:
        """Return whether to end the current list; SQLite asks now and then."""
        listing = self._listing
        seconds = self._lister.clock() - self._begun
        if listing.given_up or seconds > listing.seconds:
            return True
        if seconds > LONG_LIST_SECONDS and not listing.is_long:
            if self._done:
                self._hand_back()
            if self._rest:
                self._lister.part(listing, self._rest)
            self._is_postponed = not self._lister.may_go_on(listing, seconds)
        return self._is_postponed

    def _hand_back(self) -> None:
        done, self._done = self._done, []
        self._lister.hand_back(done)


def is_interrupted(err: Exception) -> bool:
    """Return whether SQLite was told to end a statement."""
    return getattr(err, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_INTERRUPT
