"""The auth example: who logs out everywhere is out in every page within a second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.test_examples import FAULTS
from tests.support.servers import ServerProcess
from tests.support.services import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "auth"
SECOND = 1_000
PASSWORDS = {"ann": "the password of ann", "bob": "that of bob"}
Visit = Callable[..., Awaitable[Page]]


@pytest.fixture
async def url(tmp_path: Path) -> Any:
    """The address of the example, in a process of its own."""
    port = free_port()
    module = tmp_path / "auth_example.py"
    module.write_text((EXAMPLE / "app.py").read_text() + PREPARE)
    (tmp_path / "index.html").write_text((EXAMPLE / "index.html").read_text())
    server = ServerProcess("run", "auth_example:application", "--port", str(port), cwd=tmp_path, port=port)
    await server.start()
    yield server.url
    await server.stop()


# What is not shown has no size.
REMOVE_HIDDEN = "document.querySelectorAll('[hidden]').forEach((node) => node.remove())"
# What `main` does, but for the passwords, which the test knows.
PREPARE = f"""
for user, password in {PASSWORDS!r}.items():
    passwords.set(user, password)
"""


@pytest.fixture
def visit(browser: Browser, url: str) -> Visit:
    """A page in a browser profile of its own, logged in unless it is a stranger's."""

    async def visit(user: str | None, password: str = "", **options: Any) -> Page:
        context = await browser.new_context(**options)
        context.set_default_timeout(10 * SECOND)
        page = await context.new_page()
        await page.goto(url)
        await page.get_by_label("Name").wait_for()
        if user is not None:
            await page.get_by_label("Name").fill(user)
            await page.get_by_label("Password").fill(password or PASSWORDS[user])
            await page.get_by_role("button", name="Log in").click()
        return page

    return visit


async def write(page: Page, text: str) -> None:
    await page.get_by_label("Note", exact=True).fill(text)
    await page.get_by_role("button", name="Add").click()


async def test_log_in_write_and_log_out_everywhere(visit: Visit) -> None:
    """Two browsers of one user and one of another see each other's notes; the first two are out together."""
    desk, phone, bob = [await visit(user) for user in ("ann", "ann", "bob")]
    for page in (desk, phone, bob):
        await page.locator("#state.online").wait_for()
    await write(desk, "the gate squeaks")
    for page in (phone, bob):
        await page.get_by_text("the gate squeaks").wait_for()
    await expect(phone.get_by_label("Delete the gate squeaks")).to_have_count(1)
    await expect(bob.get_by_label("Delete the gate squeaks")).to_have_count(0)
    await desk.get_by_role("button", name="Log out everywhere").click()
    await expect(phone.get_by_text("You were logged out.")).to_be_visible(timeout=1.5 * SECOND)
    await expect(desk.get_by_label("Password")).to_be_visible()
    await write(bob, "the hose leaks")
    await bob.get_by_text("the hose leaks").wait_for()
    for page in (desk, phone):
        await page.reload()
        await page.get_by_label("Password").wait_for()
        await expect(page.get_by_text("the hose leaks")).to_have_count(0)
    await phone.get_by_label("Name").fill("ann")
    await phone.get_by_label("Password").fill(PASSWORDS["ann"])
    await phone.get_by_role("button", name="Log in").click()
    await phone.get_by_text("the hose leaks").wait_for()


async def test_log_out_here(visit: Visit) -> None:
    """All tabs of this browser are out, and no other browser."""
    desk, phone = [await visit("ann") for _ in range(2)]
    await desk.locator("#state.online").wait_for()
    await phone.locator("#state.online").wait_for()
    tab = await desk.context.new_page()
    await tab.goto(desk.url)
    await tab.locator("#state.online").wait_for()
    await desk.get_by_role("button", name="Log out ann").click()
    await tab.get_by_text("You were logged out.").wait_for()
    await desk.get_by_label("Password").wait_for()
    await write(phone, "still here")
    await phone.get_by_text("still here").wait_for()


async def test_a_wrong_password(visit: Visit) -> None:
    """The page says so, whether there is such a user or not."""
    for user in ("ann", "eve"):
        page = await visit(user, "a wrong password")
        await page.get_by_role("alert").get_by_text("the name or the password is wrong").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_use_it(visit: Visit, scheme: Any) -> None:
    """On a narrow phone nothing scrolls sideways; texts stand out, controls have names and are large enough."""
    options = {"viewport": {"width": 320, "height": 600}, "color_scheme": scheme}
    stranger = await visit(None, **options)
    await stranger.evaluate(REMOVE_HIDDEN)
    assert await stranger.evaluate(FAULTS) == []
    page = await visit("ann", **options)
    await page.locator("#state.online").wait_for()
    await write(page, "unbreakable" * 12)
    await page.get_by_label("Delete").wait_for()
    await page.evaluate(REMOVE_HIDDEN)
    assert await page.evaluate(FAULTS) == []
