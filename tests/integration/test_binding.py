"""A session's id stands in the URL of every poll; who reads it there cannot use it."""

import aiohttp
import pytest

from bbio import App, Backend
from bbio.builtin import MemoryStore

SECRET = "bbio_session=abcdefghijklmnop"


class Todos(Backend):
    store = MemoryStore()


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


async def opened(app: App, http, **headers) -> str:
    """The URL of a session that somebody has opened."""
    url = f"{app.url}/socket.io/?EIO=4&transport=polling"
    async with http.get(url, headers=headers) as response:
        text = await response.text()
    sid = text.partition('"sid":"')[2].partition('"')[0]
    return f"{url}&sid={sid}"


async def joins(http, url: str, **headers) -> int:
    async with http.post(url, data="40/todos,", headers=headers) as response:
        return response.status


async def test_a_session_is_bound_to_a_cookie(serve, http):
    """Who has none of the cookies that nobody guesses cannot write, read or upgrade; a cookie may be replaced."""
    app = await serve(Todos)
    url = await opened(app, http, Cookie=f"lang=en; {SECRET}")
    for cookie in ({}, {"Cookie": "lang=en"}, {"Cookie": SECRET + "q"}):
        assert await joins(http, url, **cookie) == 400
        async with http.get(url, headers=cookie) as response:
            assert (response.status, "another client" in await response.text()) == (400, True)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await http.ws_connect(url.replace("polling", "websocket"), headers=cookie)
    assert await joins(http, url, Cookie=f"{SECRET}; new=0123456789abcdef") == 200
    async with http.get(url, headers={"Cookie": "new=0123456789abcdef"}) as response:
        assert (response.status, "40/todos" in await response.text()) == (200, True)
    assert await joins(http, url, Cookie=SECRET) == 400


async def test_without_a_cookie_it_is_bound_to_the_address(serve, http):
    """The address is the client's, as the proxy tells it."""
    app = await serve(Todos, proxies=["127.0.0.1"])
    url = await opened(app, http, **{"X-Forwarded-For": "192.0.2.1", "Cookie": "lang=en"})
    assert await joins(http, url, **{"X-Forwarded-For": "192.0.2.2", "Cookie": "lang=en"}) == 400
    assert await joins(http, url, **{"X-Forwarded-For": "192.0.2.1", "Cookie": SECRET}) == 200
    async with http.get(url, headers={"X-Forwarded-For": "192.0.2.1"}) as response:
        assert response.status == 200
