"""Run Backbone's own tests in Chromium, with bbio's scripts loaded and connected: `make backbone BACKBONE=<checkouts>`.

Each argument is a folder with Backbone's repository at some version (1.0 to 1.6), or a folder of such folders:

    git clone https://github.com/jashkenas/backbone
    git -C backbone worktree add ../versions/1.1.2 1.1.2
    make backbone BACKBONE=versions

Every suite runs twice, alone and with bbio. What fails alone, too, is not bbio's: the run fails by what bbio breaks.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from aiohttp import web
from playwright.async_api import Browser, async_playwright

from bbio import App, Backend
from bbio.builtin import MemoryStore
from tools.machine import system_browser

START, FINISH = 30_000, 300_000  # milliseconds
QUNIT = '<script src="vendor/qunit.js"></script>'
BACKBONE = '<script src="../backbone.js"></script>'
HOOK = """<script>
  window.failures = [];
  QUnit.config.autostart = QUnit.config.reorder = false;
  QUnit.log(function (test) {
    if (!test.result) failures.push([test.module, test.name, test.message].join(': '));
  });
  QUnit.done(function (result) { window.finished = result; });
</script>"""
# A bound collection lives in the page all along.
BBIO = """<script src="/socket.io/socket.io.js"></script>
<script src="/socket.io/backbone.io.js"></script>
<script>
  Backbone.io.connect();
  window.kept = new (Backbone.Collection.extend({
    backend: 'things',
    initialize: function () { this.bindBackend(); }
  }))();
  kept.fetch({success: function () { window.isLive = true; }});
</script>"""


class Things(Backend):
    store = MemoryStore()


def site(folder: Path) -> web.Application:
    """The suite's page at `/alone/test/index.html` and `/bbio/test/index.html`, beside bbio's server."""

    async def page(request: web.Request) -> web.Response:
        html = (folder / "test" / "index.html").read_text().replace(QUNIT, QUNIT + HOOK)
        if request.match_info["mode"] == "bbio":
            html = html.replace(BACKBONE, BACKBONE + BBIO)
        return web.Response(text=html, content_type="text/html")

    application = App().serve(Things).mount(web.Application())

    async def file(request: web.Request) -> web.FileResponse:
        return web.FileResponse(folder / request.match_info["path"])

    # No static routes: aiohttp would look there first.
    application.router.add_get("/{mode:alone|bbio}/test/index.html", page)
    application.router.add_get("/{mode:alone|bbio}/{path:.*}", file)
    return application


async def run(browser: Browser, url: str) -> tuple[dict[str, Any], set[str]]:
    """Run a suite: QUnit's counts, and which tests failed."""
    page = await browser.new_page()
    await page.goto(url)
    if "/bbio/" in url:
        await page.wait_for_function("window.isLive", timeout=START)
    await page.evaluate("QUnit.start()")
    await page.wait_for_function("window.finished", timeout=FINISH)
    if "/bbio/" in url and not await page.evaluate("Boolean(window.isLive && kept.backend.options)"):
        raise RuntimeError("bbio was not connected while the suite ran")
    result, failures = await page.evaluate("[finished, failures]")
    await page.close()
    return result, set(failures)


async def compare(browser: Browser, folder: Path) -> set[str]:
    """Run a suite without and with bbio, and return which tests bbio breaks."""
    runner = web.AppRunner(site(folder))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        results = [await run(browser, f"{url}/{mode}/test/index.html") for mode in ("alone", "bbio")]
    finally:
        await runner.cleanup()
    (alone, known), (bbio, failures) = results
    broken = failures - known
    for counts, mode in ((alone, "alone"), (bbio, "with bbio")):
        print(f"{folder.name:12} {mode:10} {counts['passed']} of {counts['total']} passed", flush=True)
    for failure in sorted(broken):
        print(f"{folder.name:12} broken: {failure}", flush=True)
    if bbio["total"] != alone["total"]:
        broken.add("another number of tests ran")
    return broken


def suites(paths: list[str]) -> list[Path]:
    """The checkouts among the folders, and below them."""
    folders = [Path(path).resolve() for path in paths]
    candidates = [one for folder in folders for one in (folder, *sorted(folder.iterdir())) if one.is_dir()]
    return [one for one in candidates if (one / "backbone.js").is_file() and (one / "test" / "index.html").is_file()]


async def main(paths: list[str]) -> int:
    found = suites(paths)
    if not found:
        print(__doc__, file=sys.stderr)
        return 2
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=system_browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        broken = [failure for folder in found for failure in await compare(browser, folder)]
        await browser.close()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
