"""Pages whose network comes back, or that the browser had kept and shows again, are connected at once.

Socket.IO by itself would wait for at least half a minute here, longer than any wait of these tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, async_playwright

from bbio import App
from tests.support.browser import FLAGS
from tests.support.lists import Open, lists, shows
from tests.support.proxy import Proxy
from tools.machine import system_browser

PATIENT = "reconnectionDelay: 60000, reconnectionDelayMax: 60000"
# Chromium keeps pages with a websocket only when it is told to.
KEEPING = "--enable-features=BackForwardCache,WebSocketBFCache,BFCacheWithWebSocket"


async def be_patient(page: Page, url: str, transport: str = "websocket") -> None:
    """Have the page connect anew, in a way that it would not come back from by itself before the test fails."""
    listened = await page.evaluate("lists.home.listened")
    await page.evaluate(f"void Backbone.io.connect('{url}', {{{PATIENT}, transports: ['{transport}']}})")
    await page.wait_for_function("(listened) => lists.home.listened > listened", arg=listened)


async def test_a_network_that_is_there_again(app: App, visit: Open, elsewhere: Page) -> None:
    """After `online` a page without a connection opens one at once, and catches up."""
    alice, bob = await visit(app), await visit(app, page=elsewhere)
    await be_patient(bob, app.url)
    await elsewhere.context.set_offline(True)
    await bob.wait_for_function("!lists.home.online")
    await alice.evaluate("void lists.home.create({title: 'milk'})")
    await bob.evaluate("void lists.home.create({title: 'tea'})")
    await elsewhere.context.set_offline(False)
    for page in (alice, bob):
        await shows(page, {"title": "milk"}, {"title": "tea"})
    assert await bob.evaluate("lists.home.told") == ["create milk"]


async def test_a_connection_that_died_with_the_network(visit: Open) -> None:
    """After `online` a connection is not trusted: nothing tells a page that its own has died."""
    app = lists(cors="*")
    async with app.running(), Proxy(app.port) as proxy:
        alice, bob = await visit(app), await visit(app)
        await be_patient(bob, proxy.url)
        for path in proxy.paths:
            path.flowing.clear()
        await alice.evaluate("void lists.home.create({title: 'milk'})")
        await shows(alice, {"title": "milk"})
        await bob.evaluate("dispatchEvent(new Event('online'))")
        await shows(bob, {"title": "milk"})


@pytest.fixture
async def keeping() -> AsyncIterator[Browser]:
    """A Chromium with its back/forward cache, which Playwright switches off."""
    flags = [*FLAGS, KEEPING]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=system_browser(), args=flags, ignore_default_args=["--disable-back-forward-cache"]
        )
        yield browser
        await browser.close()


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_page_from_the_back_forward_cache(app: App, visit: Open, keeping: Browser, transport: str) -> None:
    """A page that the user comes back to with the browser's button shows what was written meanwhile, and writes."""
    alice = await visit(app)
    async with await keeping.new_context() as context:
        context.set_default_timeout(10_000)
        bob = await visit(app, page=await context.new_page())
        await be_patient(bob, app.url, transport)
        await bob.evaluate("addEventListener('pageshow', (event) => { window.kept = event.persisted; })")
        await bob.goto(f"{app.url}/socket.io/underscore.js")
        await alice.evaluate("void lists.home.create({title: 'milk'})")
        await shows(alice, {"title": "milk"})
        await bob.go_back(wait_until="commit")
        await bob.wait_for_function("window.kept", timeout=5_000)
        await shows(bob, {"title": "milk"})
        await bob.evaluate("void lists.home.create({title: 'tea'})")
        await shows(alice, {"title": "milk"}, {"title": "tea"})
