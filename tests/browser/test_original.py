"""Pages as they were written for backbone.io 0.4.2, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Page, expect

from bbio import App, Backend, BadRequest, Request, before
from bbio.builtin import MemoryStore
from tests.support.browser import NewPage
from tests.support.wire import LegacyClient

PAGES = Path(__file__).parent / "original"
MODULES = Path(__file__).parents[2] / "client" / "node_modules"


class Seats(Backend):
    store = MemoryStore(per_channel=True)


class Notes(Backend):
    store = MemoryStore()

    @before("create")
    def check(self, req: Request) -> None:
        if not req.model.get("text"):
            raise BadRequest("a note needs a text")


def site(page: str, backbone: str = "backbone", **options: Any) -> App:
    """An application that serves one of the pages, and what pages of that time had beside it."""
    app = App(**options).serve(Seats, Notes).page("/", PAGES / page)
    app.page("/require.js", MODULES / "requirejs" / "require.js").page("/jquery.js", MODULES / "jquery/dist/jquery.js")
    return app.page("/backbone.js", MODULES / backbone / "backbone.js")


async def visit(new_page: NewPage, app: App) -> Page:
    """The page, where any exception fails the test that asked for it."""
    page = await new_page()
    await page.goto(app.url)
    return page


async def test_handlers_by_hand(new_page: NewPage) -> None:
    """The collection is kept by its own handlers, and `connect()` returns a socket to hear the connection with."""
    app = site("byhand.html", event="live", public={"hall": "big"})
    async with app.running():
        page = await visit(new_page, app)
        await page.wait_for_function("log.includes('fetched 0')")
        assert await page.evaluate("log") == ["ready seats hall live big", "fetched 0"]
        await expect(page.locator("#status")).to_have_text("here")
        other = await LegacyClient.open(app.url, "seats")
        await other.listen("hall")
        seat = await other.sync("create", {"row": "A"})
        await expect(page.locator("li")).to_have_text(["A"])
        await other.sync("update", {**seat, "row": "B"})
        await expect(page.locator("li")).to_have_text(["B"])
        await other.sync("delete", seat)
        await expect(page.locator("li")).to_have_count(0)
        await app.sio.emit("announce", "doors open")
        await page.wait_for_function("log.includes('doors open')")
        assert (await page.evaluate("log"))[2:] == ["create A", "update B", "delete B", "doors open"]

        await page.evaluate("void seats.create({row: 'C'})")
        assert (await other.synced())[1]["row"] == "C"
        assert len(await page.evaluate("log")) == 6, "who writes is not told of it"
        await other.close()
    await expect(page.locator("#status")).to_have_text("away")


@pytest.mark.parametrize("backbone", ["backbone-1.0", "backbone-1.1", "backbone"])
async def test_views_with_jquery(new_page: NewPage, backbone: str) -> None:
    """Two pages with views see each other's notes, and show what the server says of a wrong one."""
    app = site("views.html", backbone)
    async with app.running():
        alice, bob = await visit(new_page, app), await visit(new_page, app)
        for page in (alice, bob):
            await page.wait_for_function("shown.includes('fetched 0')")
        await alice.fill("input", "milk")
        await alice.click("button")
        for page in (alice, bob):
            await expect(page.locator("li")).to_have_text(["milk x"])
        await alice.fill("input", "")
        await alice.click("button")
        await alice.wait_for_function("shown.includes('a note needs a text')")
        await bob.click("li a")
        for page in (alice, bob):
            await expect(page.locator("li")).to_have_count(0)
        assert await bob.evaluate("shown") == ["fetched 0"]


async def test_requirejs(new_page: NewPage) -> None:
    """With a module loader there is no global `io`; the script finds it, whatever the page calls it."""
    app = site("require.html")
    async with app.running():
        page = await visit(new_page, app)
        await page.wait_for_function("window.notes && notes.backend.options")
        assert await page.evaluate("[window.same, typeof window.io]") == [True, "undefined"]
        await page.evaluate("void notes.create({text: 'milk'})")
        await page.wait_for_function("notes.length === 1 && !notes.at(0).isNew()")


async def test_a_page_that_forgot_to_connect_is_told(new_page: NewPage) -> None:
    """In the console, within a second or so."""
    app = site("forgetful.html")
    async with app.running():
        page = await new_page()
        async with page.expect_console_message(lambda message: message.type == "warning") as told:
            await page.goto(app.url)
        assert "call Backbone.io.connect() once" in (await told.value).text


@pytest.mark.parametrize("old", ["0.9.10", "0.5.3"])
async def test_a_backbone_that_is_too_old_is_refused_at_load(context: BrowserContext, old: str) -> None:
    """The console says which it is and which it must be."""
    app = site("forgetful.html")
    async with app.running():
        page = await context.new_page()
        await page.route("**/backbone.js", lambda route: route.fulfill(body=f"Backbone = {{VERSION: '{old}'}}"))
        async with page.expect_event("pageerror") as thrown:
            await page.goto(app.url)
        assert f"needs Backbone 1.0 or newer, and this is Backbone {old}" in str(await thrown.value)
