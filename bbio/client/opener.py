"""The HTTP session that a connection is opened with: it notes what the library under it does not keep."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import aiohttp

# How Engine.IO's first packet begins, and what parts packets.
OPEN = "0"
SEPARATOR = "\x1e"


class Opener:
    """An HTTP session that remembers the websocket it has opened, how large a message the server takes, and a refusal.

    The library forgets a websocket whose opening breaks off, and all but the times of what the server says first.

    Parameters:
        http: the session.
    """

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._noted = False
        self.websocket: Any = None
        self.max_payload: int | None = None
        # The HTTP status of an opening that was refused.
        self.refused_with: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._http, name)

    async def get(self, url: str, **options: Any) -> aiohttp.ClientResponse:
        """Poll."""
        response = await self._http.get(url, **options)
        if not self._noted:
            if response.status == 200:
                self._note(await response.text())
            else:
                self.refused_with = response.status
        return response

    async def ws_connect(self, url: str, **options: Any) -> Any:
        """Open a websocket."""
        try:
            self.websocket = await self._http.ws_connect(url, **options)
        except aiohttp.WSServerHandshakeError as err:
            self.refused_with = err.status
            raise
        if self._noted:
            return self.websocket
        first = await self.websocket.receive()
        self._note(first.data)
        return ReadAhead(self.websocket, first)

    def _note(self, opening: Any) -> None:
        self._noted = True
        self.max_payload = max_payload(opening)


class ReadAhead:
    """A websocket whose first message was received already.

    Parameters:
        websocket: the websocket.
        first: its first message.
    """

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse, first: aiohttp.WSMessage) -> None:
        self._websocket = websocket
        self._first: aiohttp.WSMessage | None = first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._websocket, name)

    async def receive(self) -> aiohttp.WSMessage:
        """Receive the next message."""
        first, self._first = self._first, None
        return await self._websocket.receive() if first is None else first


def max_payload(opening: Any) -> int | None:
    """Read from a connection's first packets how many bytes a message may have; None when they do not tell.

    Example:
        >>> max_payload('0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}')
        1000000
    """
    packet = None
    if isinstance(opening, str) and opening.startswith(OPEN):
        with suppress(ValueError):
            packet = json.loads(opening.removeprefix(OPEN).partition(SEPARATOR)[0])
    limit = packet.get("maxPayload") if isinstance(packet, dict) else None
    return limit if isinstance(limit, int) else None
