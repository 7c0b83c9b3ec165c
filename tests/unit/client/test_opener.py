"""What a client notes of a connection that is being opened."""

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bbio.client.opener import Opener, ReadAhead, max_payload

OPENING = '0{"sid":"x","maxPayload":1000}'


@pytest.mark.parametrize(
    ("opening", "limit"),
    [
        (OPENING, 1000),
        (OPENING + "\x1e40", 1000),
        ('0{"sid":"x"}', None),
        ('0{"maxPayload":"1000"}', None),
        ("0[1000]", None),
        ("0{", None),
        ("", None),
        ("4" + OPENING, None),
        (1000, None),
    ],
)
def test_the_limit_that_a_server_tells(opening, limit):
    """Only an opening packet that has the number tells it; anything else is for the library to refuse."""
    assert max_payload(opening) == limit


@pytest.fixture
async def opener():
    """An opener, and the address of a server that refuses the first poll and tells 1,000 bytes from then on."""
    polls = iter(
        [web.Response(status=503, text=OPENING), web.Response(text=OPENING), web.Response(text='0{"maxPayload":2}')]
    )

    async def poll(request):
        return next(polls)

    async def socket(request):
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        await websocket.send_str(OPENING)
        await websocket.send_str("second")
        await websocket.receive()
        return websocket

    application = web.Application()
    application.router.add_get("/poll", poll)
    application.router.add_get("/socket", socket)
    async with TestServer(application) as server, aiohttp.ClientSession(server.make_url("/")) as http:
        yield Opener(http)


async def test_the_first_poll_that_succeeds_tells(opener):
    """What is polled later is not looked at, nor a websocket that takes the polling's place."""
    limits = []
    for _ in range(3):
        await opener.get("/poll")
        limits.append(opener.max_payload)
    assert limits == [None, 1000, 1000]
    async with await opener.ws_connect("/socket") as websocket:
        assert websocket is opener.websocket


async def test_a_websocket_tells_and_is_read_from_its_beginning(opener):
    """The library gets each message as it came."""
    websocket = await opener.ws_connect("/socket")
    assert isinstance(websocket, ReadAhead)
    assert opener.max_payload == 1000
    assert [(await websocket.receive()).data for _ in range(2)] == [OPENING, "second"]
    await websocket.close()
    assert opener.websocket.closed
