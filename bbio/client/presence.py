"""The members of a channel, as an application sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as Keys
from typing import Any, Self

import attrs

from bbio.client import calls
from bbio.client.errors import is_end
from bbio.client.roster import Member, Roster
from bbio.client.session import BackendSession
from bbio.client.subscription import Subscription
from bbio.client.values import plain
from bbio.errors import BadRequest, SyncError, Timeout


@attrs.frozen
class PresenceChanges:
    """The changes that `presence.changed()` returns: keys of members.

    Parameters:
        joined: those that have come.
        changed: those whose card, state or number of connections has changed.
        left: those that have gone.

    Example:
        >>> PresenceChanges(joined=frozenset({"x8Fq"})).left
        frozenset()
    """

    joined: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()

    def then(self, joined: Keys[str], changed: Keys[str], left: Keys[str]) -> PresenceChanges:
        """Return these changes and later ones as one: who was there before both and after both has changed."""
        back = self.left & joined
        now = (self.joined - left) | (joined - back)
        return PresenceChanges(
            now, (self.changed | changed | back) - now - left, (self.left - back) | (left - self.joined)
        )


class Presence(Mapping[str, Member]):
    """The members of a channel by key, kept current while this client is present in it. Made by `handle.presence`.

    Nobody sees who is there without being seen: it is empty until `join`. After a lost connection the client is present
    again by itself.

    Example:
        >>> async def names(presence: Presence) -> list[str]:
        ...     await presence.join({"looking": True})
        ...     return [member.card["name"] for member in presence.values()]
    """

    def __init__(self, session: BackendSession, subscription: Subscription) -> None:
        self._session = session
        self._subscription = subscription
        self._roster: Roster = subscription.roster
        self._changes = PresenceChanges()
        self._error: SyncError | None = None
        self._watchers: set[asyncio.Event] = set()
        self._is_answered = False
        self._roster.on_change = self._changed
        self._roster.on_answer = self._answered
        self._roster.on_fault = lambda err: subscription.report(err, "the presence")

    def __getitem__(self, key: str) -> Member:
        return self._roster.members[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._roster.members)

    def __len__(self) -> int:
        return len(self._roster.members)

    def __repr__(self) -> str:
        return f"<Presence {self._subscription.name} channel={self._subscription.channel!r} {len(self)} members>"

    @property
    def me(self) -> str | None:
        """The key of the own member; None while this client is not present."""
        return self._roster.me

    async def join(self, state: Mapping[str, Any] | None = None, *, timeout: float | None = None) -> Self:
        """Be present, until `leave`; return when the server has told who else is.

        Parameters:
            state: what others see of this client beside its card, a JSON object of 1 KiB at most by default.
            timeout: seconds to wait for the answer; the connection's `deadline` by default.

        Raises:
            SyncError: the server does not let this client listen, or be present. If its identity has ended (`expired`),
                it is present as soon as the client has shown a new token.
            BadRequest: the state is not a JSON object, or too large.
            Timeout: there was no answer in time. The client goes on trying.

        Example:
            >>> async def enter(handle: Handle) -> None:
            ...     await handle.presence.join({"cursor": [3, 4]})
        """
        asked = _state_of(state)
        self._error, self._is_answered = None, False
        self._roster.join(asked)
        try:
            await calls.ready(self._session, self._subscription)
        except Timeout:
            raise
        except SyncError as err:
            if not is_end(err):
                self._roster.leave()
            raise
        await self.until(lambda _: self._is_answered, timeout)
        return self

    def set(self, state: Mapping[str, Any]) -> None:
        """Say something else: this state takes the place of the one before. At most ten are sent in a second.

        Parameters:
            state: a JSON object.

        Raises:
            BadRequest: it is not a JSON object.

        Example:
            >>> def point(handle: Handle, x: int, y: int) -> None:
            ...     handle.presence.set({"cursor": [x, y]})
        """
        self._roster.set(_state_of(state))

    def leave(self) -> None:
        """Be present no more, and see nobody any more.

        Example:
            >>> def hide(handle: Handle) -> None:
            ...     handle.presence.leave()
        """
        self._roster.leave()
        self._session.rest(self._subscription)

    async def changed(self) -> PresenceChanges:
        """Wait for a change; return the changes since the call before.

        Raises:
            SyncError: the server does not let this client be present any more, or the connection was closed.

        Example:
            >>> async def greet(presence: Presence) -> None:
            ...     changes = await presence.changed()
            ...     print("hello", [presence[key].card for key in changes.joined if key in presence])
        """
        while self._changes == PresenceChanges():
            self._raise()
            await self._next()
        changes, self._changes = self._changes, PresenceChanges()
        return changes

    async def until(self, condition: Callable[[Self], Any], timeout: float | None = None) -> Self:
        """Wait until a condition is true; return this presence.

        Parameters:
            condition: a function that gets this presence and returns whether the condition is true.
            timeout: seconds to wait; the connection's `deadline` by default.

        Raises:
            Timeout: the condition has not become true.
            SyncError: see `changed`.

        Example:
            >>> async def wait_for_company(presence: Presence) -> None:
            ...     await presence.until(lambda presence: len(presence) > 1)
        """
        session, late = self._session, asyncio.Event()
        seconds = session.settings.deadline if timeout is None else timeout
        timer = session.clock.call_later(seconds, self._expire, late)
        try:
            while not condition(self):
                self._raise()
                if late.is_set():
                    raise Timeout(f"the presence of {self._subscription.name!r} is not what is waited for: {self}")
                await self._next()
        finally:
            timer.cancel()
        return self

    def _raise(self) -> None:
        """Raise what keeps this client out. The end of an identity does so no longer once it was told of."""
        error = self._error
        if is_end(error):
            self._error = None
        if error is not None:
            raise error

    def _expire(self, late: asyncio.Event) -> None:
        late.set()
        self._wake()

    async def _next(self) -> None:
        news = asyncio.Event()
        self._watchers.add(news)
        try:
            await news.wait()
        finally:
            self._watchers.discard(news)

    def _wake(self) -> None:
        for news in self._watchers:
            news.set()

    def _changed(self, joined: Keys[str], changed: Keys[str], left: Keys[str]) -> None:
        self._changes = self._changes.then(joined, changed, left)
        self._wake()

    def _answered(self, error: SyncError | None) -> None:
        self._error, self._is_answered = error, error is None
        self._wake()


def _state_of(state: Mapping[str, Any] | None) -> dict[str, Any]:
    written = plain({} if state is None else state)
    if not isinstance(written, dict):
        raise BadRequest("the state of a member is a JSON object, such as {'typing': True}")
    return written
