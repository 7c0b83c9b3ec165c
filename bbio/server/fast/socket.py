"""The socket of Engine.IO: a session as its HTTP requests see it, which are polls, POSTs, and one for a websocket."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiohttp import WSMsgType, web
from engineio import exceptions
from engineio import packet as engine_packet
from engineio.payload import Payload

from bbio.server.fast.packets import BadPacket, decoding
from bbio.server.fast.polling import POLL
from bbio.server.fast.session import FastSession
from bbio.server.fast.websocket import BINARY, TEXT, FastResponse
from bbio.server.http.admission import BODY
from bbio.server.lag import LAGGING_BYTES, bound_buffers
from bbio.server.payload import parts


class FastSocket(FastSession):
    """A session that is carried by polls, by a websocket, or first by those and then by that."""

    async def poll(self) -> list[engine_packet.Packet]:
        packets = cast(list[engine_packet.Packet], await super().poll())
        self.taken()
        return packets

    async def handle_get_request(self, environ: dict[str, Any]) -> Any:
        request = environ["aiohttp.request"]
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            return await self._upgrade_websocket(environ)
        if self.upgrading or self.upgraded:
            return [engine_packet.Packet(engine_packet.NOOP)]
        if self.polls.is_open:
            # Two polls at once: packets could go to one that nobody reads any more.
            self.drop("overlapping polls")
            return self.server.bad_request("overlapping polls")
        transport = request.transport
        if transport is None or transport.is_closing():
            self.drop("aborted poll")
            return self.server.bad_request("aborted poll")
        environ[POLL] = self.polls
        self.polls.begin(transport)
        try:
            return await super().handle_get_request(environ)
        except BaseException:
            self.polls.is_open = False
            raise

    async def handle_post_request(self, environ: dict[str, Any]) -> None:
        for part in parts(environ["aiohttp.request"][BODY]):
            try:
                with decoding():
                    packets = Payload(encoded_payload=part.decode()).packets
            except BadPacket as err:
                self.server.receiver.bad_packet(self, err)
                raise exceptions.ContentTooLongError() from None
            for packet in packets:
                await self.budget.take_turn()
                await self.take(packet)
            if self.has_ended:
                break

    async def _upgrade_websocket(self, environ: dict[str, Any]) -> Any:
        if self.upgraded or self.upgrading:
            return self.server.bad_request("already upgraded")
        response = FastResponse(self)
        try:
            await response.prepare(environ["aiohttp.request"])
            await self._websocket_handler(response)
        finally:
            if not self.connected:
                self.drop("no websocket")
        return response

    async def _websocket_handler(self, response: FastResponse) -> None:
        request = response.request
        if self.connected and not await self._probe(response):
            # A polling session goes on polling.
            request.protocol.force_close()
            return
        self.connected = self.upgraded = True
        reason = self.server.reason.TRANSPORT_CLOSE
        try:
            self._go_live(request)
            budget = self.budget
            async for message in response:
                await budget.take_turn()
                if self.has_ended or message.type is WSMsgType.ERROR:
                    break
                begun, worked = budget.clock(), budget.processor()
                if message.type is TEXT and self.attachments is None and self.handle_now(message.data):
                    budget.charge_work(begun, budget.clock(), budget.processor() - worked)
                else:
                    with decoding():
                        packet = engine_packet.Packet(encoded_packet=message.data)
                    await self.take(packet)
                self.backlog -= 1
        except (exceptions.EngineIOError, BadPacket) as err:
            # Whatever is no protocol ends the connection.
            self.server.receiver.bad_packet(self, err)
        except Exception as err:
            self.server.receiver.report(err, "the connection", self.sid)
        finally:
            await self.close(wait=False, abort=True, reason=reason)

    async def _probe(self, response: FastResponse) -> bool:
        """The upgrade of a polling session: probe, answer, end the poll, wait for the word."""
        self.upgrading = True
        try:
            async with asyncio.timeout(self.server.limits.body_time):
                if await self._text(response) != "2probe":
                    return False
                await response.send_str("3probe")
                self.queue.put_nowait(engine_packet.Packet(engine_packet.NOOP))
                if await self._text(response) != "5":
                    return False
        except TimeoutError:
            return False
        finally:
            self.upgrading = False
        return not self.has_ended

    async def _text(self, response: FastResponse) -> Any:
        message = await response.receive()
        if message.type is TEXT or message.type is BINARY:
            self.backlog -= 1
        return message.data if message.type is TEXT else None

    def _go_live(self, request: web.BaseRequest) -> None:
        transport = request.transport
        if transport is None or transport.is_closing():
            return
        transport.set_write_buffer_limits(high=LAGGING_BYTES)
        bound_buffers(transport)
        self.protocol = request.protocol
        self.transport = transport
        self.backlog -= 1
        self._answering = self._queued_answers
        self.taken()
        while not self.queue.empty():
            pkt = self.queue.get_nowait()
            self.queue.task_done()
            if pkt is not None and pkt.packet_type != engine_packet.NOOP:
                self.write_packet(pkt)
