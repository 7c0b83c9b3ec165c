"""A websocket whose frames are handled as they are parsed: no queue, and no task, stands between."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader

from bbio.server.budget import BudgetedParser
from bbio.server.fast.packets import EVENT
from bbio.server.fast.session import FastSession

TEXT = WSMsgType.TEXT
BINARY = WSMsgType.BINARY
CONTROL = (WSMsgType.PING, WSMsgType.PONG)
# Bytes that wait in the queue before aiohttp reads no more.
QUEUE_BYTES = 2**16


class DirectQueue(WebSocketDataQueue):
    """Handles frames as they are parsed; what must wait its turn goes through the queue.

    Parameters:
        protocol: aiohttp's protocol of the connection.
        session: the session whose frames they are.
    """

    def __init__(self, protocol: Any, session: FastSession) -> None:
        super().__init__(protocol, QUEUE_BYTES, loop=asyncio.get_running_loop())
        self._session = session
        self._receive_event = session.server.receiver.receive_event

    def feed_data(self, data: Any, size: int) -> None:
        session = self._session
        if data.type is TEXT and not session.backlog:
            text = data.data
            if text.startswith(EVENT):
                if self._receive_event(session, text):
                    # Who sends one request at a time does not pay for the clock.
                    budget = session.budget
                    if budget.is_fresh:
                        budget.is_fresh = False
                    elif budget.is_used():
                        session.end_turn()
                    return
            elif session.handle_now(text):
                return
        if data.type is TEXT or data.type is BINARY:
            session.backlog += 1
        elif data.type in CONTROL and session.control(data):
            return
        super().feed_data(data, size)


class FastResponse(web.WebSocketResponse):
    """The websocket of a session."""

    def __init__(self, session: FastSession) -> None:
        # permessage-deflate would cost some 100 KB per connection.
        super().__init__(max_msg_size=session.server.limits.frame, compress=False)
        self._session = session

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        self._session.flush()
        return await super().close(code=code, message=message, drain=drain)

    async def prepare(self, request: web.BaseRequest) -> Any:
        self.request = request
        return await super().prepare(request)

    def _post_start(self, request: web.BaseRequest, protocol: str | None, writer: Any) -> None:
        self._ws_protocol = protocol
        self._writer = writer
        session, connection = self._session, request.protocol
        self._reader = queue = DirectQueue(connection, session)
        self._parser = WebSocketReader(queue, session.server.limits.frame, compress=False, decode_text=True)
        batch, budget = session.server.batch, session.budget
        parser = BudgetedParser(self._parser, batch, budget, connection, lambda: connection._reading_paused)
        connection.set_parser(cast(Any, parser))
        connection.keep_alive(False)
