"""Session stores: where sessions are kept that a cookie only names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping

import attrs

OnEnded = Callable[[Collection[str] | None], None]
"""A callback for the keys of sessions that have ended; None where it is not known which ones have."""


@attrs.frozen(kw_only=True)
class StoredSession:
    """One session, as its store keeps it.

    Parameters:
        key: the SHA-256 of the session's id, in hexadecimal: whoever reads the store cannot use it as a cookie.
        subject: the id of the user as a string; None where nobody has logged in.
        data: the session as JSON.
        created: when it began, in seconds since 1970.
        expires: when it ends unless it is used, in seconds since 1970; never later than `ends`.
        ends: when it ends in any case, in seconds since 1970.

    Example:
        >>> StoredSession(key="00" * 32, subject="ann", data="{}", created=0.0, expires=60.0, ends=90.0).subject
        'ann'
    """

    key: str
    subject: str | None
    data: str
    created: float
    expires: float
    ends: float


class SessionStore(ABC):
    """Base class of the stores of `Sessions`: subclass it to keep sessions elsewhere.

    All methods may raise any exception when the store cannot be reached: clients are then answered `Unavailable`. None
    of them need have a deadline. `bbio.conformance.SessionStoreConformance` tests a store.

    Example:
        >>> class Nowhere(SessionStore):
        ...     async def add(self, session, replaces=None, per_user=100): return []
        ...     async def find(self, key): return None
        ...     async def touch(self, key, expires): pass
        ...     async def remove(self, key): return False
        ...     async def remove_user(self, subject): return []
        ...     async def living(self, keys): return {}
        ...     async def tidy(self, now, most): return 0
    """

    async def start(self, on_ended: OnEnded) -> None:  # noqa: B027 - a store may have nothing to open
        """Begin, such as by making tables; `stop` is to follow.

        Parameters:
            on_ended: is to be called, within a second and in the event loop, with the keys of sessions that another
                process or program has ended; with None after any time in which that might have been missed.

        Raises:
            ConfigurationError: it cannot be used as it is declared.
        """

    async def stop(self) -> None:  # noqa: B027
        """Let go of what `start` has opened."""

    @abstractmethod
    async def add(self, session: StoredSession, replaces: str | None = None, per_user: int = 100) -> list[str]:
        """Keep a new session and end the one that it replaces, in one step; return the keys of those that ended.

        Parameters:
            session: the session.
            replaces: the key of a session that ends with it; it need not exist.
            per_user: the number of sessions that a user may have: the oldest ones end.
        """

    @abstractmethod
    async def find(self, key: str) -> StoredSession | None:
        """Return a session; None if there is none. One that has expired may still be found.

        Parameters:
            key: its key.
        """

    @abstractmethod
    async def touch(self, key: str, expires: float) -> None:
        """Have a session expire later, if it still exists; never earlier than it would.

        Parameters:
            key: its key.
            expires: when it ends unless it is used, in seconds since 1970.
        """

    @abstractmethod
    async def remove(self, key: str) -> bool:
        """End a session; return whether it existed.

        Parameters:
            key: its key.
        """

    @abstractmethod
    async def remove_user(self, subject: str) -> list[str]:
        """End all sessions of a user; return their keys.

        Parameters:
            subject: the id of the user.
        """

    @abstractmethod
    async def living(self, keys: Collection[str]) -> Mapping[str, float]:
        """Return when the sessions of these keys expire, of those that exist; expired ones may be among them.

        Parameters:
            keys: the keys.
        """

    @abstractmethod
    async def tidy(self, now: float, most: int) -> int:
        """Delete expired sessions, at most so many; return how many were deleted. It need tell nobody of them.

        Parameters:
            now: the time, in seconds since 1970.
            most: how many at most.
        """
