"""Notices between the processes that share a database: who is to be told nothing more, whatever process they are on.

A notice is a row, which each process reads once, in the order of the rows. So a process that was away reads what it has
missed when it is back; if it was away for too long, it knows that something is missing, and asks everybody again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal

import msgspec

logger = logging.getLogger("bbio")

# Seconds for which notices are kept, and how many at most.
KEPT_SECONDS = 3_600.0
MAX_NOTICES = 10_000
# Notices that are read at once.
MAX_READ = 500
# Seconds between two looks at least, however often others say that there is something.
LEAST_LOOK_SECONDS = 0.02
# Bytes of a notice: what is longer is none.
MAX_NOTICE_BYTES = 4_096


Kind = Literal["revoke", "join", "leave"]


class Notice(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change of what somebody may have, told to all processes.

    Parameters:
        id: a random text, by which a notice that comes twice is known again.
        kind: what is to be done.
        user: the text by which a user is known.
        session: the id of a session on the server.
        channel: the name of a channel, empty for the default one; None where it is about none.
        backend: the name of a backend; None for all of them.

    Example:
        >>> Notice("8f3a", "revoke", channel="staff").channel
        'staff'
    """

    id: str
    kind: Kind
    user: str | None = None
    session: str | None = None
    channel: str | None = None
    backend: str | None = None


_read = msgspec.json.Decoder(Notice).decode


def check_notice(notice: Notice) -> bytes:
    """Return a notice as JSON.

    Raises:
        ValueError: it is longer than other processes take.
    """
    encoded = msgspec.json.encode(notice)
    if len(encoded) > MAX_NOTICE_BYTES:
        raise ValueError("the id of a user or session, or the name of a channel, is too long")
    return encoded


Row = tuple[int, str, str]
"""A notice as it is kept: its number, the process that has told it, and its JSON."""

OnNotice = Callable[[Notice | None], None]
"""A callback for a notice of another process; None where some may have been missed."""


class Inbox:
    """The notices that a process has read, by their numbers, which have no gaps.

    Parameters:
        process: tells what this process has told itself from what others have.

    Attributes:
        position: the number of the last one that was read.
        garbage: how many were no notices.
    """

    def __init__(self, process: str) -> None:
        self.process = process
        self.position = 0
        self.garbage = 0

    def take(self, top: int, rows: Iterable[Row]) -> tuple[list[Notice], bool]:
        """Take rows in their order; return the notices of others, and whether some may have been missed.

        Parameters:
            top: the number of the last notice that there is.
            rows: the first of those after the position.
        """
        notices = []
        is_lost = top < self.position
        if is_lost:
            self.position = top  # the database was set back
        for number, process, text in rows:
            is_lost |= number != self.position + 1
            self.position = number
            if process == self.process:
                continue
            try:
                if len(text) > MAX_NOTICE_BYTES:
                    raise ValueError("too long")
                notices.append(_read(text))
            except ValueError:
                self._refuse()
        return notices, is_lost

    def _refuse(self) -> None:
        self.garbage += 1
        if self.garbage == 1:
            logger.warning("something that is no notice of this version of bbio was among the notices of processes")


class Control(ABC):
    """Tells the other processes that share a database, and hears what they tell.

    Subclass it and write `write` and `read`, to have it carried by another database.

    Class attributes:
        seconds: seconds between two looks that nobody has asked for.

    Example:
        `await self.control.tell(Notice("8f3a", "revoke", user="ann"))`, in a log that has one.
    """

    seconds: float

    def __init__(self) -> None:
        self.process = secrets.token_hex(6)
        self._inbox = Inbox(self.process)
        self._listeners: list[OnNotice] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_failing = False

    @abstractmethod
    async def write(self, text: str) -> None:
        """Keep a notice, and have the other processes look soon.

        Raises:
            SyncError: the database cannot be reached.
        """

    @abstractmethod
    async def read(self, position: int) -> tuple[int, list[Row]]:
        """Return the number of the last notice, and the first of those after a position, `MAX_READ` at most."""

    async def start(self) -> None:
        """Begin with what is told from now on.

        Raises:
            Exception: the database cannot be read.
        """
        self._inbox.position, _ = await self.read(2**62)

    async def stop(self) -> None:
        """Hear nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def add(self, listener: OnNotice) -> None:
        """Have a callback hear what other processes tell."""
        self._listeners.append(listener)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def remove(self, listener: OnNotice) -> None:
        """Have a callback hear nothing more."""
        self._listeners.remove(listener)

    async def tell(self, notice: Notice, teller: OnNotice | None = None) -> None:
        """Have the other processes hear of a notice: those that reach the database within a second, others later.

        Parameters:
            notice: the notice.
            teller: the callback of who tells it: another one of this process hears it too.

        Raises:
            SyncError: the database cannot be reached.
            ValueError: it is too long.
        """
        await self.write(check_notice(notice).decode())
        for listener in list(self._listeners):
            if listener != teller:
                listener(notice)

    def look(self) -> None:
        """Look soon: there may be something."""
        self._news.set()

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.seconds):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._take()
                self._is_failing = False
            except Exception:
                if not self._is_failing:
                    self._is_failing = True
                    logger.exception("the notices of other processes cannot be read; trying again")
            await asyncio.sleep(LEAST_LOOK_SECONDS)

    async def _take(self) -> None:
        """Read what is new, and tell it."""
        inbox = self._inbox
        while True:
            top, rows = await self.read(inbox.position)
            notices, is_lost = inbox.take(top, rows)
            for notice in (None, *notices) if is_lost else notices:
                for listener in list(self._listeners):
                    listener(notice)
            if not rows or inbox.position >= top:
                return
