"""Take the pictures of the documentation: two windows of an example. Run it as `python -m tools.screenshot`."""

from __future__ import annotations

import asyncio
import base64
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.async_api import Page, async_playwright

from examples.todos.app import app as todos_app
from examples.tracker.app import app as tracker_app
from examples.tracker.app import application as tracker_site
from tools.machine import system_browser

DOCS = Path(__file__).parents[1] / "docs"
SIZE = {"width": 420, "height": 410}
WINDOW = """
<figure><figcaption><i></i><i></i><i></i>{name}</figcaption><img src="data:image/png;base64,{image}"></figure>
"""
DESK = """<!doctype html>
<style>
  body {{ display: flex; align-items: flex-start; gap: 28px; margin: 0; padding: 28px; width: max-content; }}
  body {{ background: #dbe7e4; color: #566c67; font: 13px system-ui; }}
  figure {{ margin: 0; border-radius: 10px; overflow: hidden; background: #fff; box-shadow: 0 8px 28px #17302c33; }}
  figcaption {{ display: flex; gap: 6px; align-items: center; padding: 9px 12px; }}
  i {{ width: 10px; height: 10px; border-radius: 50%; background: #c9d6d3; }}
  i:last-of-type {{ margin-right: 8px; }}
  img {{ display: block; width: 420px; }}
</style>
<body>{windows}</body>
"""


Shots = dict[str, bytes]


async def todos(ann: Page, bob: Page) -> Shots:
    """The to-dos example: what one ticks shows at the other's."""
    async with todos_app.running() as url:
        for page in (ann, bob):
            await page.goto(f"{url}/#shopping")
            await page.locator("#state.online").wait_for()
        for title in ("oat milk", "rye bread", "six eggs"):
            await ann.get_by_label("New to-do").fill(title)
            await ann.get_by_label("New to-do").press("Enter")
        await bob.get_by_label("oat milk is done").check()
        await ann.locator("li.done").wait_for()
        await ann.get_by_label("New to-do").fill("strawberries")
        return await shots(Ann=ann, Bob=bob)


async def tracker(ann: Page, bob: Page) -> Shots:
    """The tracker example: each sees the projects that they are in."""
    async with tracker_app.running(application=tracker_site) as url:
        for page, user in ((ann, "ann"), (bob, "bob")):
            await page.set_viewport_size({**SIZE, "height": 455})
            await page.goto(f"{url}/#garden")
            await page.get_by_role("button", name=f"Log in as {user}").click()
            await page.locator("#state.online").wait_for()
        for page, title in ((ann, "The gate squeaks"), (bob, "The hose leaks")):
            await page.get_by_label("New issue").fill(title)
            await page.get_by_label("New issue").press("Enter")
            for each in (ann, bob):
                await each.get_by_text(title).wait_for()
        await bob.get_by_label("The gate squeaks is done").check()
        await ann.locator("#issues .done").wait_for()
        return await shots(Ann=ann, Bob=bob)


async def shots(**pages: Page) -> Shots:
    for page in pages.values():
        await page.mouse.move(0, 0)
    await pages["Bob"].evaluate("document.activeElement.blur()")
    return {name: await page.screenshot() for name, page in pages.items()}


async def main() -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=system_browser(), args=["--no-sandbox"])
        for name, take in (("two-pages.png", todos), ("tracker.png", tracker)):
            # Two profiles: what the second shows came through the server.
            pages = [await browser.new_page(viewport=SIZE, device_scale_factor=2) for _ in range(2)]
            taken = await take(*pages)
            desk = await browser.new_page(device_scale_factor=1.5)
            windows = "".join(
                WINDOW.format(name=name, image=base64.b64encode(shot).decode()) for name, shot in taken.items()
            )
            await desk.set_content(DESK.format(windows=windows))
            await desk.locator("body").screenshot(path=DOCS / name)
        await browser.close()


if __name__ == "__main__":
    # The examples keep their models in the folder that they run in.
    with TemporaryDirectory() as folder, chdir(folder):
        asyncio.run(main())
