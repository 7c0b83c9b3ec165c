"""The token of a connection: kept for whatever is joined later, told to the server anew before it ends, and after."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from inspect import isawaitable
from typing import Any

from bbio.client.errors import is_end
from bbio.client.renewal import Answer, Renewal
from bbio.errors import ConfigurationError, Forbidden, SyncError, Unauthorized, Unavailable

logger = logging.getLogger("bbio.client")

GetToken = Callable[[], str | Awaitable[str]]
Credentials = Mapping[str, Any] | None
Auth = Credentials | Callable[[], Credentials | Awaitable[Credentials]]

# Seconds that `get_token` may take.
ASK_SECONDS = 10.0
# After how many failures in a row those that wait for a token are told.
TOKEN_ATTEMPTS = 6
# Seconds after the first failure, and at most; each is multiplied by a random number from 0.5 to 1.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


# The call of get_token that code runs in.
_asked_by: ContextVar[object] = ContextVar("asked_by")


class Identity:
    """The token of a connection.

    Parameters:
        renewals: returns the backends' parts.
        is_open: returns whether there is a connection.
        now: returns the seconds since 1970.
        chance: a random number from 0 to 1.
    """

    def __init__(
        self,
        renewals: Callable[[], list[Renewal]],
        is_open: Callable[[], bool],
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._renewals = renewals
        self._is_open = is_open
        self._now = now
        self._chance = chance
        self._auth: Auth = None
        self._get_token: GetToken | None = None
        self._token: str | None = None
        # The latest token that is known to have ended.
        self._dead: str | None = None
        self._ends = math.inf
        self._failures = 0
        # Whatever began in an earlier turn is void.
        self._turn = 0
        self._preparing = 0
        self._task: asyncio.Task[None] | None = None
        # The call of get_token that is under way.
        self._asked: object | None = None
        self._soon = asyncio.Event()
        self._authenticating = asyncio.Lock()

    def begin(self, auth: Auth, get_token: GetToken | None) -> None:
        """Begin with other credentials.

        Raises:
            ConfigurationError: `get_token` is not a function.
        """
        if get_token is not None and not callable(get_token):
            raise ConfigurationError("connect(get_token=...): give a function that returns a token")
        self.stop()
        self._auth = auth
        self._get_token = get_token
        self._token = _token_in(auth)
        self._dead = None
        self._ends = math.inf

    def stop(self) -> None:
        """Ask for no token any more."""
        self._turn += 1
        self._failures = 0
        if self._task is not None:
            self._task.cancel()
            self._task = None

    @property
    def is_renewable(self) -> bool:
        """Return whether a token that has ended can be replaced: `get_token` has not failed too often."""
        return self._get_token is not None and self._failures < TOKEN_ATTEMPTS

    @property
    def _has_ended(self) -> bool:
        return (self._token is not None and self._token == self._dead) or self._now() >= self._ends

    async def prepare(self) -> None:
        """Wait until there is a token to connect with, where there is `get_token`."""
        while self._get_token is not None and (self._token is None or self._has_ended):
            self._preparing += 1
            try:
                await asyncio.wait([self._renew()])
            finally:
                self._preparing -= 1

    async def credentials(self) -> dict[str, Any]:
        """Return the object to join a namespace with: `auth` as it is, with the token that was kept."""
        auth = self._auth() if callable(self._auth) else self._auth
        base = dict((await auth if isawaitable(auth) else auth) or {})
        is_kept = self._token is not None and not (self._has_ended and _token_in(base) is not None)
        return {**base, "token": self._token} if is_kept else base

    def told(self, renewal: Renewal, seconds: float) -> None:
        """Note in how many seconds the identity of a namespace ends, 0 if it has ended."""
        if renewal.token == self._token:
            self._ends = self._now() + seconds
            if self._get_token is not None and seconds > 0:
                self._renew()

    def ended(self, renewal: Renewal) -> None:
        """Get a new token: the identity of a namespace has ended."""
        if renewal.token == self._token and self._token != self._dead:
            self._dead = self._token
            # Failures until here cost nobody anything.
            self._failures = 0
            self._soon.set()
        if self._get_token is not None:
            self._renew()

    async def authenticate(self, token: str) -> None:
        """Tell all backends of a token; the one before is kept if they refuse it.

        Raises:
            ConfigurationError: it is not a string, or empty, or `get_token` calls this.
            SyncError: a backend does not take it.
            Unavailable: another token took the place of this one, or the connection was closed.
        """
        if not isinstance(token, str) or not token:
            raise ConfigurationError("authenticate(token): a token is a string that is not empty")
        if self._asked is not None and _asked_by.get(None) is self._asked:
            raise ConfigurationError("authenticate() was called by get_token: have get_token return the token")
        self.stop()
        turn = self._turn
        async with self._authenticating:
            try:
                await self._offer(token, turn, [each for each in self._renewals() if each.is_online])
            except SyncError:
                if turn == self._turn and self._get_token is not None and self._has_ended:
                    self._renew()
                raise
            if self._task is not None and turn == self._turn:
                self._task.cancel()  # whoever waits for it looks again whether there is a token

    def _renew(self) -> asyncio.Task[None]:
        """Have one call of `get_token` at a time, whoever needs a token."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(self._turn))
        return self._task

    async def _run(self, turn: int) -> None:
        self._failures = 0
        # Without a connection, whoever opens the next one asks.
        while turn == self._turn and (self._preparing or self._is_open()):
            try:
                await self._attempt(turn)
            except SyncError as err:
                self._fail(err)
                await self._rest()
            else:
                # Who has joined with the token of before meanwhile needs the new one too.
                if not self._is_waited_for:
                    return

    def _fail(self, error: SyncError) -> None:
        before = self._failures
        self._failures = TOKEN_ATTEMPTS if isinstance(error, Forbidden) else before + 1
        if before < TOKEN_ATTEMPTS <= self._failures and (self._token is None or self._has_ended):
            for renewal in self._renewals():
                renewal.give_up(error)

    async def _rest(self) -> None:
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1), LONGEST_PAUSE_SECONDS)
        self._soon.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause * (0.5 + self._chance() / 2)):
                await self._soon.wait()

    async def _attempt(self, turn: int) -> None:
        token = self._token if self._is_waited_for else None
        if token is None:
            token = await self._ask()
        await self._offer(token, turn, self._behind(token))

    async def _ask(self) -> str:
        """Return what `get_token` returns, if that may be used."""
        assert self._get_token is not None, "it is asked where there is one"
        # What get_token calls, in tasks of its own too, knows it by this.
        self._asked = object()
        _asked_by.set(self._asked)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                token = self._get_token()
                token = await token if isawaitable(token) else token
            # Its value is not for logs.
            if not isinstance(token, str) or not token:
                raise TypeError("get_token must return a token, a string that is not empty")
            if token == self._dead:
                raise ValueError("get_token returned the token that has ended; it must get a new one")
        except Exception as err:
            logger.warning("get_token, given to connect(), failed; it is asked again in a while", exc_info=True)
            raise Unauthorized("the token has ended, and get_token gave no new one", expired=True) from err
        finally:
            self._asked = None
        if token == self._token and not self._behind(token):
            raise Unauthorized("get_token returned the token that is about to end")
        return token

    @property
    def _is_waited_for(self) -> bool:
        """Return whether the token holds, and a backend waits for it."""
        if self._token is None or self._has_ended:
            return False
        return any(renewal.is_held for renewal in self._behind(self._token))

    def _behind(self, token: str) -> list[Renewal]:
        """Return the backends whose connection has another token."""
        return [renewal for renewal in self._renewals() if renewal.is_online and renewal.token != token]

    async def _offer(self, token: str, turn: int, renewals: list[Renewal]) -> None:
        """Tell backends of a token; where there is no connection, it is kept for the next."""
        answers = await asyncio.gather(*(renewal.offer(token) for renewal in renewals))
        if turn != self._turn:
            raise Unavailable("another token took the place of this one, or the connection was closed")
        taken = [answer for answer in answers if answer is not None and answer.error is None]
        failed = [answer for answer in answers if answer is not None and answer.error is not None]
        refused = [answer.error for answer in failed if not (taken and answer.is_nobodys)]
        if taken or not refused:
            self._token = token
            self._ends = self._now() + min((answer.seconds for answer in taken), default=math.inf)
            for renewal, answer in zip(renewals, answers, strict=True):
                if isinstance(answer, Answer) and answer.is_nobodys:
                    renewal.token = token
        if refused:
            error = next((error for error in refused if isinstance(error, Forbidden)), refused[0])
            assert error is not None, "those that failed have one"
            if is_end(error):
                self._dead = token
            raise error
        self._failures = 0


def _token_in(auth: Any) -> str | None:
    """Return the token in an `auth` object, None where there is none."""
    token = auth.get("token") if isinstance(auth, Mapping) else None
    return token if isinstance(token, str) else None
