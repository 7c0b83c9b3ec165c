"""The Engine.IO server of the fast engine: it opens sessions, and answers their HTTP requests."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import engineio
from aiohttp import web
from engineio import packet as engine_packet

from bbio.ratelimit import RateLimitedLog
from bbio.server.batch import WriteBatch
from bbio.server.budget import Resting
from bbio.server.fast.interfaces import Receiver
from bbio.server.fast.packets import written
from bbio.server.fast.polling import POLL, PollAnswer
from bbio.server.fast.socket import FastSocket
from bbio.server.http.admission import REMOTE
from bbio.server.lag import relieve
from bbio.server.limits import Limits
from bbio.server.memory import Address, Addresses
from bbio.server.payload import SEPARATOR


class FastEngine(engineio.AsyncServer):
    """The Engine.IO server that makes fast sockets.

    Parameters:
        receiver: what takes their packets.
        limits: the application's limits.
        addresses: where clients come from.
        quiet: the log of what clients do.
        options: passed on to `engineio.AsyncServer`.
    """

    def __init__(
        self, receiver: Receiver, limits: Limits, addresses: Addresses, quiet: RateLimitedLog, **options: Any
    ) -> None:
        super().__init__(**options)
        self.receiver = receiver
        self.limits = limits
        self.addresses = addresses
        self.quiet = quiet
        self.batch = WriteBatch()
        self.resting = Resting()
        self.closing_tasks: set[asyncio.Task[None]] = set()

    async def _handle_connect(self, environ: dict[str, Any], transport: str, jsonp_index: int | None = None) -> Any:
        address = self.addresses.of(environ["aiohttp.request"][REMOTE])
        refusal = self.addresses.refusal(address)
        if refusal is not None:
            self.quiet.warning("refused a connection from %s: %s", address.name, refusal)
            return {"status": "503 SERVICE UNAVAILABLE", "headers": [], "response": b"too many connections"}
        sid = self.generate_id()
        socket = self.sockets[sid] = FastSocket(self, sid, address)
        opening = {
            "sid": sid,
            "upgrades": self._upgrades(sid, transport),
            "pingTimeout": int(self.ping_timeout * 1_000),
            "pingInterval": int(self.ping_interval * 1_000),
            "maxPayload": self.max_http_buffer_size,
        }
        await socket.send(engine_packet.Packet(engine_packet.OPEN, opening))
        accepted = await self._trigger_event("connect", sid, environ, run_async=False)
        if accepted not in (None, True):
            socket.drop("refused")
            return self._unauthorized(accepted or None)
        socket.schedule_ping()
        if transport == "websocket":
            return await socket.handle_get_request(environ)
        socket.connected = True
        return self._ok(await socket.poll(), jsonp_index=jsonp_index)

    def _ok(
        self, packets: list[engine_packet.Packet] | None = None, headers: Any = None, jsonp_index: int | None = None
    ) -> dict[str, Any]:
        if packets is None:
            return cast(dict[str, Any], super()._ok(None, headers))
        # JSONP is not served; and joined as texts, an answer with one wide character would take four bytes for each.
        return {**super()._ok([], headers), "response": SEPARATOR.join(map(written, packets))}

    def bad_request(self, why: str) -> Any:
        """Return the response to a request that breaks the protocol."""
        return self._bad_request(why)

    def relieve(self, address: Address) -> None:
        """Drop who has the most unread, where an address holds too much, or all do."""
        relieve(self.sockets.values(), address)

    def dropped(self, socket: FastSocket, reason: str) -> None:
        """A session was ended by the server: tell the layers above, outside the call that found out."""
        if not socket.closed and not socket.closing:
            self.quiet.info("ending %s: %s", socket.sid, reason)
            task = asyncio.get_running_loop().create_task(socket.close(wait=False, abort=True, reason=reason))
            self.closing_tasks.add(task)
            task.add_done_callback(self.closing_tasks.discard)

    async def _make_response(self, response_dict: dict[str, Any], environ: dict[str, Any]) -> web.Response:
        response = cast(web.Response, await super()._make_response(response_dict, environ))
        if POLL in environ:
            response = PollAnswer(response, environ[POLL], environ["aiohttp.request"].transport)
        if response.status >= 400:
            # Who is refused, such as for a session that has ended, begins anew: its connection is not kept for it.
            response.force_close()
        return response
