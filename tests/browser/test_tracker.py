"""The issue tracker of the examples: who is removed from a project has its issues no more, at once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from bbio import Forbidden
from examples.tracker.app import app, application
from tests.browser.test_examples import FAULTS
from tests.support.servers import ServerProcess
from tests.support.services import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "tracker"
SECOND = 1_000
Visit = Callable[..., Awaitable["Visitor"]]


class Visitor:
    """Somebody's page.

    Parameters:
        page: the page.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.told: list[str] = []
        page.on("websocket", lambda socket: socket.on("framereceived", lambda text: self.told.append(str(text))))

    async def report(self, title: str) -> None:
        await self.page.get_by_label("New issue").fill(title)
        await self.page.get_by_label("New issue").press("Enter")

    def issues(self, title: str = "") -> Locator:
        return self.page.locator("#issues li", has_text=title)


@pytest.fixture
def visit(browser: Browser) -> Visit:
    """A page of somebody who has logged in, in a browser profile of their own."""

    async def visit(user: str, url: str, **options: Any) -> Visitor:
        context = await browser.new_context(**options)
        context.set_default_timeout(10 * SECOND)
        visitor = Visitor(await context.new_page())
        await visitor.page.goto(f"{url}/#garden")
        await visitor.page.get_by_role("button", name=f"Log in as {user}").click()
        await visitor.page.locator("#state.online").wait_for()
        return visitor

    return visit


async def remove(ann: Visitor, bob: Visitor, phone: Visitor) -> None:
    """Bob is removed from the garden by Ann, while his phone is offline; and let in again."""
    await ann.report("the gate squeaks")
    for visitor in (ann, bob, phone):
        await visitor.issues("the gate squeaks").wait_for()
    await phone.page.context.set_offline(True)
    await phone.page.locator("#state:not(.online)").wait_for()
    await ann.page.get_by_role("button", name="Remove bob").click()
    await expect(bob.issues()).to_have_count(0, timeout=SECOND)
    await ann.report("the hose leaks")
    await expect(ann.issues()).to_have_count(2)
    await phone.page.context.set_offline(False)
    await phone.page.locator("#state.online").wait_for()
    await expect(phone.issues()).to_have_count(0, timeout=SECOND)
    await expect(ann.issues()).to_have_count(2)
    for visitor in (bob, phone):
        await expect(visitor.page.locator("#projects a")).to_have_count(0, timeout=SECOND)
        assert any("squeaks" in text for text in visitor.told)
        assert not any("leaks" in text for text in visitor.told)
    await ann.page.get_by_label("New member").select_option("bob")
    await ann.page.get_by_role("button", name="Add to the project").click()
    for visitor in (bob, phone):
        await expect(visitor.issues()).to_have_count(2)


async def test_the_issues_of_a_project_leave_the_page_of_who_is_removed(
    visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second, and the page that was offline when it is back; others keep them. Let in again, it has them.

    On a narrow phone nothing scrolls sideways; texts stand out, controls have names and are large enough.
    """
    monkeypatch.chdir(tmp_path)
    async with app.running(application=application) as url:
        await remove(await visit("ann", url), await visit("bob", url), await visit("bob", url))
        for scheme in ("light", "dark"):
            narrow = await visit("ann", url, viewport={"width": 320, "height": 600}, color_scheme=scheme)
            await narrow.report("unbreakable" * 12)
            await narrow.issues("unbreakable").first.wait_for()
            await narrow.page.get_by_role("checkbox").first.check()
            await narrow.page.locator("#issues .done").first.wait_for()
            assert await narrow.page.evaluate(FAULTS) == []


async def test_nobody_lets_themselves_into_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members alone see who is in it, and let others in; so it is with its issues."""
    monkeypatch.chdir(tmp_path)
    async with app.test() as t:
        ann, eve = (t.connect(user=user) for user in ("ann", "eve"))
        memberships = eve.backend("memberships")
        assert {membership["project"] for membership in await memberships.read()} == {"kitchen"}
        with pytest.raises(Forbidden):
            await memberships.create({"project": "garden", "user": "eve"})
        with pytest.raises(Forbidden):
            await memberships.patch({"id": "kitchen-eve", "project": "garden"})
        with pytest.raises(Forbidden):
            await eve.backend("issues").create({"title": "the gate squeaks", "project": "garden"})
        await ann.backend("memberships").create({"project": "garden", "user": "eve"})
        await t.settle()
        await eve.backend("issues").create({"title": "the gate squeaks", "project": "garden"})
        assert [issue["author"] for issue in await ann.backend("issues").read()] == ["eve"]


async def test_they_leave_pages_of_another_process_too(visit: Visit, tmp_path: Path, database_url: str) -> None:
    """Two processes serve the tracker from one PostgreSQL database."""
    for file in ("app.py", "index.html"):
        shutil.copy(EXAMPLE / file, tmp_path)
    env = {"BBIO_SECRET_KEY": "a key of the tests, long enough to be one", "BBIO_DATABASE_URL": database_url}
    ports = [free_port() for _ in range(2)]
    one, two = [
        ServerProcess("run", "app:application", "--port", str(port), cwd=tmp_path, port=port, env=env) for port in ports
    ]
    try:
        await asyncio.gather(one.start(), two.start())
        await remove(await visit("ann", one.url), await visit("bob", two.url), await visit("bob", two.url))
    finally:
        await asyncio.gather(one.stop(), two.stop())
