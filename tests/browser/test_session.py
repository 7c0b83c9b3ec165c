"""A page that logs in and out: who may write changes, its collections stay what they are."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from bbio import App, Backend, Request, Unauthorized, before
from bbio.builtin import MemoryStore, Session
from tests.support.browser import NewPage

HERE = Path(__file__).parent
WRITE = """(title) => new Promise((resolve) => lists.home.create({title}, {
  success: (todo) => resolve(todo.get('by')), error: (todo, err) => resolve(err.name),
}))"""


async def test_a_page_logs_in_and_out(new_page: NewPage) -> None:
    """After a log-in over HTTP `Backbone.io.connect()` connects with the new cookie; scripts never see it."""
    sessions = Session(secret="a secret that is long enough for tests")

    class Todos(Backend):
        middleware = [sessions]
        store = MemoryStore(per_channel=True)

        @before("create")
        def sign(self, req: Request) -> None:
            if req.user is None:
                raise Unauthorized("log in first")
            req.model["by"] = req.user

    async def login(request: web.Request) -> web.Response:
        response = web.Response()
        sessions.save(response, {"user": await request.text()}, request)
        return response

    async def logout(request: web.Request) -> web.Response:
        response = web.Response()
        sessions.clear(response)
        return response

    application = App().serve(Todos).page("/", HERE / "page.html").mount(web.Application())
    application.router.add_post("/login", login)
    application.router.add_post("/logout", logout)
    async with TestServer(application) as server:
        page, other = await new_page(), await new_page()
        for visitor in (page, other):
            await visitor.goto(f"{server.make_url('/')}?home")
            await visitor.wait_for_function("lists.home.listened > 0")
        assert await page.evaluate(WRITE, "milk") == "Unauthorized"
        again = "then(() => { Backbone.io.connect(); })"
        await page.evaluate(f"fetch('/login', {{method: 'POST', body: 'ann'}}).{again}")
        assert await page.evaluate(WRITE, "tea") == "ann"
        await other.wait_for_function("lists.home.titled('tea') && !lists.home.titled('milk')")
        assert await page.evaluate("document.cookie") == ""
        await page.evaluate(f"fetch('/logout', {{method: 'POST'}}).{again}")
        assert await page.evaluate(WRITE, "bread") == "Unauthorized"
        assert await page.evaluate("lists.home.pluck('title')") == ["tea"]
