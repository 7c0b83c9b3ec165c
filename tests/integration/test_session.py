"""Sessions, from a log-in over HTTP to the requests of a page."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bbio import App, Backend, Unauthorized, before
from bbio.builtin import CookieParser, Logger, MemoryStore, Session
from tests.support.wire import SyncFailed


async def test_who_logs_in_may_write(engine, join):
    """A cookie given out by an HTTP handler makes `req.session`; without it, or after the log-out, writes fail."""
    sessions = Session(secret="a secret that is long enough for tests")

    class Todos(Backend):
        middleware = [Logger(), CookieParser(), sessions]
        store = MemoryStore()

        @before("create", "update", "patch", "delete")
        async def require_user(self, req):
            if not req.session.get("user"):
                raise Unauthorized("log in first")

        @before("create")
        def sign(self, req):
            req.model["by"] = req.user

    async def login(request: web.Request) -> web.Response:
        response = web.Response()
        sessions.save(response, {"user": (await request.post())["name"]}, request)
        return response

    async def logout(request: web.Request) -> web.Response:
        response = web.json_response(sessions.load(request))
        sessions.clear(response)
        return response

    application = App(engine=engine).serve(Todos).mount(web.Application())
    application.router.add_post("/login", login)
    application.router.add_post("/logout", logout)
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of bare addresses, too
    async with TestServer(application) as server, aiohttp.ClientSession(cookie_jar=jar) as browser:
        url = str(server.make_url("/")).rstrip("/")

        async def client():
            cookies = "; ".join(f"{cookie.key}={cookie.value}" for cookie in jar)
            return await join(url, "todos", headers={"Cookie": cookies} if cookies else {})

        stranger = await client()
        with pytest.raises(SyncFailed, match="log in first"):
            await stranger.sync("create", {"title": "milk"})
        await browser.post(f"{url}/login", data={"name": "ann"})
        ann = await client()
        todo = await ann.sync("create", {"title": "milk", "by": "root"})
        assert todo["by"] == "ann"
        assert await stranger.synced() == ("create", todo)
        async with browser.post(f"{url}/logout") as answer:
            assert await answer.json() == {"user": "ann"}
        with pytest.raises(SyncFailed, match="log in first"):
            await (await client()).sync("delete", todo)
