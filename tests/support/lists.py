"""To-do lists and the page that shows them, for tests in a real browser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from bbio import App, Backend, Invalid, Request, before
from bbio.builtin import MemoryStore
from tests.support.browser import NewPage
from tests.support.services import free_port
from tests.support.wire import LegacyClient

PAGE = Path(__file__).parents[1] / "browser" / "page.html"
Open = Callable[..., Awaitable[Page]]


def lists(*models: dict[str, Any], **options: Any) -> App:
    """An application with to-do lists, one for each channel, and the page that shows them."""

    class Todos(Backend):
        store = MemoryStore(per_channel=not models, models=list(models))

        @before("create")
        def check(self, req: Request) -> None:
            if not req.model.get("title"):
                raise Invalid("a to-do needs a title", fields={"title": "is missing"})

    return App(**options).serve(Todos).page("/", PAGE)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    """A running application whose lists are empty, on a port that is still free when it starts anew."""
    app = lists()
    async with app.running(port=free_port()):
        yield app


@pytest.fixture
def visit(new_page: NewPage) -> Open:
    """`await visit(app, "a,b")`: a page that shows those lists, listening."""

    async def visit(app: App, channels: str = "home", page: Page | None = None) -> Page:
        page = page or await new_page()
        await page.goto(f"{app.url}/?{channels}")
        await page.wait_for_function("_.every(lists, (list) => list.listened > 0)")
        return page

    return visit


async def shows(page: Page, *expected: dict[str, Any], channel: str = "home") -> None:
    """Wait until the page's list has exactly these models, whatever their ids."""
    await page.wait_for_function(
        "([channel, expected]) => _.isEqual(lists[channel].shown().map((todo) => _.omit(todo, 'id')), expected)",
        arg=[channel, list(expected)],
    )


async def stored(app: App, channel: str = "home") -> list[dict[str, Any]]:
    """What the server holds of a list."""
    client = await LegacyClient.open(app.url, "todos")
    try:
        await client.listen(channel)
        return sorted(await client.sync("read"), key=lambda todo: todo["title"])
    finally:
        await client.close()


@pytest.fixture
async def elsewhere(browser: Browser) -> AsyncIterator[Page]:
    """A page in a profile of its own, which can be offline by itself."""
    uncaught: list[str] = []
    async with await browser.new_context() as context:
        context.set_default_timeout(10_000)
        page = await context.new_page()
        page.on("pageerror", lambda error: uncaught.append(str(error)))
        yield page
    assert not uncaught, "uncaught in the page: " + "; ".join(uncaught)
