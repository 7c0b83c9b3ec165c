"""A real browser for tests: Chromium, driven by Playwright in the test's own event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tools.machine import system_browser

FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",
]
NewPage = Callable[[], Awaitable[Page]]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A Chromium of the test's own; to start one takes less than a second."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=system_browser(), args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser profile: cookies and storage that its pages share."""
    context = await browser.new_context()
    context.set_default_timeout(10_000)
    yield context
    await context.close()


@pytest.fixture
async def new_page(context: BrowserContext) -> AsyncIterator[NewPage]:
    """A function that opens one more page. The test fails if a page lets an error go uncaught."""
    uncaught: list[str] = []

    async def open_page() -> Page:
        page = await context.new_page()
        page.on("pageerror", lambda error: uncaught.append(str(error)))
        return page

    yield open_page
    assert not uncaught, "uncaught in the page: " + "; ".join(uncaught)


@pytest.fixture
async def page(new_page: NewPage) -> Page:
    """An empty page."""
    return await new_page()
