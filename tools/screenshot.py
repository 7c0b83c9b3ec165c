"""Take the picture of the README: two windows of the to-dos example, alike. Run it as `python -m tools.screenshot`."""

from __future__ import annotations

import asyncio
import base64
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.async_api import async_playwright

from examples.todos.app import app
from tools.machine import system_browser

TARGET = Path(__file__).parents[1] / "docs" / "two-pages.png"
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


async def main() -> None:
    async with app.running() as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=system_browser(), args=["--no-sandbox"])
        # Two profiles: what the second shows came through the server.
        pages = [await browser.new_page(viewport=SIZE, device_scale_factor=2) for _ in range(2)]
        for page in pages:
            await page.goto(f"{url}/#shopping")
            await page.locator("#state.online").wait_for()
        ann, bob = pages
        for title in ("oat milk", "rye bread", "six eggs"):
            await ann.get_by_label("New to-do").fill(title)
            await ann.get_by_label("New to-do").press("Enter")
        await bob.get_by_label("oat milk is done").check()
        await ann.locator("li.done").wait_for()
        await ann.get_by_label("New to-do").fill("strawberries")
        await bob.evaluate("document.activeElement.blur()")
        await bob.mouse.move(0, 0)
        shots = {name: await page.screenshot() for name, page in (("Ann", ann), ("Bob", bob))}
        desk = await browser.new_page(device_scale_factor=1.5)
        windows = "".join(
            WINDOW.format(name=name, image=base64.b64encode(shot).decode()) for name, shot in shots.items()
        )
        await desk.set_content(DESK.format(windows=windows))
        await desk.locator("body").screenshot(path=TARGET)
        await browser.close()


if __name__ == "__main__":
    # The example keeps its models in the folder that it runs in.
    with TemporaryDirectory() as folder, chdir(folder):
        asyncio.run(main())
