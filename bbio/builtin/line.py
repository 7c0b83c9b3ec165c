"""A line in which nobody waits long behind what somebody else asks for too much of."""

from __future__ import annotations

from collections import Counter, deque
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Any

from bbio import Busy
from bbio.builtin.documents import Job

# Who asks, from the largest group to the smallest: a backend, the address of a client, its connection. The empty path
# is that of everybody.
Path = tuple[object, ...]
EVERYBODY, BACKEND, ADDRESS, CONNECTION = range(4)
NO_LIMIT = float("inf")


class InLine(Job, kw_only=True):
    """A job that waits in a line.

    Parameters:
        path: who asks.
        group: the smallest group it belongs to, once it is in a line.
    """

    path: Path
    group: Any = None


class Group:
    """Jobs of those who ask together.

    Parameters:
        above: the group that it is a part of, None where it is everybody.
        key: what it is called there.
        turns: how many of its jobs may run at once.
    """

    __slots__ = (
        "above",
        "floor",
        "jobs",
        "key",
        "level",
        "lineage",
        "order",
        "parts",
        "running",
        "turns",
        "used",
        "waiting",
    )

    def __init__(self, above: Group | None, key: object, turns: float) -> None:
        self.above = above
        self.key = key
        self.turns = turns
        self.level: int = EVERYBODY if above is None else above.level + 1
        # The groups that it is a part of, smallest first.
        self.lineage: tuple[Group, ...] = () if above is None else (above, *above.lineage)
        self.running = self.waiting = 0
        # Seconds that its jobs have used. A part begins with what the one had used that was served last, its floor.
        self.used = self.floor = 0.0
        self.parts: dict[object, Group] = {}
        # The parts in which something waits, who has used least first; it may have used more since.
        self.order: list[tuple[float, int, Group]] = []
        self.jobs: deque[Any] = deque()


class Line:
    """Jobs that wait for a turn; next is one of who has used least time, at every level.

    It is not safe for threads: who uses it in several holds a lock.

    Parameters:
        turns: how many jobs may run at once: of all, of a backend, of an address there, of a connection.
        sizes: how many may wait, at the same levels.
        turns_of_address: how many of one address may run at once in all backends together.
    """

    def __init__(
        self, turns: tuple[float, ...], sizes: tuple[float, ...] = (NO_LIMIT,) * 4, turns_of_address: float = NO_LIMIT
    ) -> None:
        self._turns = turns
        self._sizes = sizes
        self._turns_of_address = turns_of_address
        self._all = Group(None, None, turns[EVERYBODY])
        # How many of each address run.
        self._addresses: Counter[object] = Counter()
        self._number = count()

    @property
    def waiting(self) -> int:
        """Return the number of waiting jobs."""
        return self._all.waiting

    def is_full(self) -> bool:
        """Return whether no turn is left for anybody."""
        return self._is_full(self._all)

    def put(self, job: InLine) -> None:
        """Have a job wait.

        Raises:
            Busy: too many wait.
        """
        sizes = self._sizes
        group = self._group(job.path)
        for part in (group, *group.lineage):
            if part.waiting >= sizes[part.level]:
                self._tidy(group)
                raise Busy("too many requests wait for the database", retry_after=1.0)
        self.let_in(job)

    def let_in(self, job: InLine) -> None:
        """Have a job wait, however many do."""
        job.group = group = self._group(job.path)
        group.jobs.append(job)
        for part in (group, *group.lineage):
            part.waiting += 1
            above = part.above
            if part.waiting == 1 and above is not None:
                if part.used < above.floor:
                    part.used = above.floor
                heappush(above.order, (part.used, next(self._number), part))

    def take(self) -> Any:
        """The job whose turn it is now, None when there is none."""
        return self._take(self._all) if self._all.waiting else None

    def enter(self, path: Path) -> Group | None:
        """A turn for a job that runs already: the smallest group it belongs to, None when there is no turn."""
        group = self._group(path)
        if any(map(self._is_full, (group, *group.lineage))):
            self._tidy(group)
            return None
        for part in (group, *group.lineage):
            part.running += 1
        self._count(group, 1)
        return group

    def leave(self, group: Group, seconds: float) -> None:
        """A job runs no longer.

        Parameters:
            group: the smallest group it belongs to.
            seconds: the time it has used.
        """
        for part in (group, *group.lineage):
            part.running -= 1
            part.used += seconds
        self._count(group, -1)
        self._tidy(group)

    def _group(self, path: Path) -> Group:
        group = self._all
        for key in path:
            part = group.parts.get(key)
            if part is None:
                part = group.parts[key] = Group(group, key, self._turns[group.level + 1])
            group = part
        return group

    def _tidy(self, group: Group) -> None:
        """Forget groups of which nothing waits or runs any more."""
        while (above := group.above) is not None and not group.waiting and not group.running:
            del above.parts[group.key]
            group = above

    def _take(self, group: Group) -> Any:
        if self._is_full(group):
            return None
        if group.level == CONNECTION:
            job = group.jobs.popleft()
            self._count(group, 1)
        elif (job := self._take_of_parts(group)) is None:
            return None
        group.waiting -= 1
        group.running += 1
        return job

    def _take_of_parts(self, group: Group) -> Any:
        order, job = group.order, None
        full: list[tuple[float, int, Group]] = []
        while order and job is None:
            used, _, part = order[0]
            if used < part.used:
                heapreplace(order, (part.used, next(self._number), part))
                continue
            job = self._take(part)
            if job is None:
                full.append(heappop(order))
            else:
                group.floor = used
                if not part.waiting:
                    heappop(order)
        for entry in full:
            heappush(order, entry)
        return job

    def _is_full(self, group: Group) -> bool:
        """Return whether no more jobs of a group may run."""
        return group.running >= group.turns or (
            group.level == ADDRESS and self._addresses[group.key] >= self._turns_of_address
        )

    def _count(self, group: Group, more: int) -> None:
        """Count so many more running jobs of a connection."""
        if self._turns_of_address < NO_LIMIT and group.above is not None:
            address = group.above.key
            self._addresses[address] += more
            if not self._addresses[address]:
                del self._addresses[address]
