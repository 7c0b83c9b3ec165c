"""MemorySessions: sessions in the memory of one process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import attrs

from bbio.builtin.sessions.sessions import Sessions
from bbio.sessions import SessionStore, StoredSession

# Sessions that are kept; with one more, the oldest one ends.
MAX_SESSIONS = 100_000


class MemorySessionStore(SessionStore):
    """Keeps sessions in a dict."""

    def __init__(self) -> None:
        self._sessions: dict[str, StoredSession] = {}
        self._of_user: defaultdict[str, dict[str, None]] = defaultdict(dict)

    async def add(self, session: StoredSession, replaces: str | None = None, per_user: int = 100) -> list[str]:
        ended = []
        if replaces is not None and self._drop(replaces):
            ended.append(replaces)
        self._sessions[session.key] = session
        if session.subject is not None:
            own = self._of_user[session.subject]
            own[session.key] = None
            ended += list(own)[:-per_user]
        if len(self._sessions) > MAX_SESSIONS:
            ended.append(next(iter(self._sessions)))
        for key in ended:
            self._drop(key)
        return ended

    async def find(self, key: str) -> StoredSession | None:
        return self._sessions.get(key)

    async def touch(self, key: str, expires: float) -> None:
        session = self._sessions.get(key)
        if session is not None and session.expires < expires:
            self._sessions[key] = attrs.evolve(session, expires=expires)

    async def remove(self, key: str) -> bool:
        return self._drop(key)

    async def remove_user(self, subject: str) -> list[str]:
        keys = list(self._of_user.get(subject, ()))
        for key in keys:
            self._drop(key)
        return keys

    async def living(self, keys: Collection[str]) -> Mapping[str, float]:
        sessions = self._sessions
        return {key: sessions[key].expires for key in keys if key in sessions}

    async def tidy(self, now: float, most: int) -> int:
        expired = [key for key, session in self._sessions.items() if session.expires <= now][:most]
        for key in expired:
            self._drop(key)
        return len(expired)

    def _drop(self, key: str) -> bool:
        session = self._sessions.pop(key, None)
        if session is not None and session.subject is not None:
            own = self._of_user[session.subject]
            own.pop(key)
            if not own:
                del self._of_user[session.subject]
        return session is not None


class MemorySessions(Sessions):
    """Keeps sessions in the memory of this process: a restart ends all of them. See `Sessions`.

    Parameters:
        options: those of `Sessions` but its `store`.

    Example:
        >>> sessions = MemorySessions(idle=3600, lifetime=86_400)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(MemorySessionStore(), **options)
