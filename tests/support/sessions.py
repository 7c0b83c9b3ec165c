"""What tests of sessions share: requests with cookies, a store that fails, a backend that is told of ended sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from http.cookies import SimpleCookie
from types import SimpleNamespace
from typing import Any

from bbio import Request
from bbio.builtin.sessions.memory import MemorySessionStore


class TroubledStore(MemorySessionStore):
    """Keeps sessions in memory; it can be down, or wait.

    Attributes:
        is_down: whether whatever it is asked fails.
        gate: look-ups wait until it is set, after they have found what they find.
        finds: how often a session was looked for.
        touches: how often one was kept from expiring.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.finds = 0
        self.touches = 0
        self.on_ended: Any = None

    async def start(self, on_ended: Any) -> None:
        self.on_ended = on_ended

    def _check(self) -> None:
        if self.is_down:
            raise OSError("the store is down; its password is hunter2")

    async def add(self, *args: Any, **options: Any) -> list[str]:
        self._check()
        return await super().add(*args, **options)

    async def find(self, key: str) -> Any:
        self._check()
        self.finds += 1
        found = await super().find(key)
        await self.gate.wait()
        return found

    async def touch(self, key: str, expires: float) -> None:
        self._check()
        self.touches += 1
        await super().touch(key, expires)

    async def remove(self, key: str) -> bool:
        self._check()
        return await super().remove(key)

    async def remove_user(self, subject: str) -> list[str]:
        self._check()
        return await super().remove_user(subject)

    async def living(self, keys: Collection[str]) -> Any:
        self._check()
        return await super().living(keys)

    async def tidy(self, now: float, most: int) -> int:
        self._check()
        return await super().tidy(now, most)


class Served:
    """A backend that knows which sessions have connections, and is told which have ended."""

    def __init__(self, *live: str) -> None:
        self.live = set(live)
        self.ended: list[str] = []

    def __bbio_served__(self, call: str) -> Served:
        return self

    def live_sessions(self) -> set[str]:
        return self.live

    def end_sessions(self, ids: Collection[str]) -> None:
        self.ended += sorted(ids)
        self.live -= set(ids)


def http_request(value: str | None = None, *, name: str = "__Host-bbio_session", host: str = "a.test") -> Any:
    """An HTTP request of any framework, with a cookie."""
    headers = {"Host": host}
    if value is not None:
        headers["Cookie"] = f"{name}={value}"
    return SimpleNamespace(headers=headers)


def value_of(header: str) -> str:
    """The value of the cookie that a `Set-Cookie` header sets."""
    (morsel,) = SimpleCookie(header).values()
    return morsel.value


class Page:
    """A connection with a cookie, of which layers know who it is.

    Parameters:
        sessions: the layer.
        value: the value of the cookie.
        name: its name.
        host: the host that it has asked.
    """

    def __init__(
        self, sessions: Any, value: str | None, name: str = "__Host-bbio_session", host: str = "a.test"
    ) -> None:
        self.sessions = sessions
        cookies = {} if value is None else {name: value}
        self.socket = SimpleNamespace(cookies=cookies, headers={"Host": host}, identity=None)

    async def ask(self, user: Any = None) -> Request:
        """A request, after the layer."""
        req = Request("read", socket=self.socket, user=user)
        later = self.sessions.identify(req)
        if later is not None:
            await later
        self.socket.identity = req.identity or self.socket.identity
        return req


async def until(condition: Any, seconds: float = 5.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)
