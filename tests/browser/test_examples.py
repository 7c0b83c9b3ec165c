"""The pages that users see first: the examples, and the page of the quick start."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Browser, Error, Page

from bbio import App, Backend, Limits
from bbio.builtin import MemoryStore
from examples.messages.app import Messages
from examples.messages.app import app as messages_app
from examples.todos.app import app as todos_app
from tests.support.browser import NewPage
from tests.support.guides import files
from tests.support.servers import ServerProcess
from tests.support.services import free_port

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(python|html)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Colours too close for text (WCAG 2.2, 1.4.3), controls without a name (4.1.2) or too small to hit (2.5.8).
FAULTS = """() => {
  const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = rgb(colour).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (rgb(colour)[3] !== 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const contrast = (node, pseudo) => {
    const [dark, bright] = [light(getComputedStyle(node, pseudo).color), light(ground(node))].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const faults = [];
  for (const node of document.querySelectorAll('main, main *')) {
    const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if ((text || node.value) && contrast(node) < 4.5) faults.push(`contrast ${contrast(node)}: ${node.outerHTML}`);
    if (node.placeholder && contrast(node, '::placeholder') < 4.5) faults.push(`placeholder: ${node.outerHTML}`);
    if (!node.matches('a, button, input')) continue;
    if (!(node.getAttribute('aria-label') || node.textContent.trim())) faults.push(`no name: ${node.outerHTML}`);
    const { width, height } = node.getBoundingClientRect();
    const small = !node.hidden && node.type !== 'checkbox' && (width < 24 || height < 24);
    if (small) faults.push(`small: ${node.outerHTML}`);
  }
  if (document.documentElement.scrollWidth > innerWidth) faults.push('scrolls sideways');
  return faults;
}"""


@pytest.fixture(params=["light", "dark"])
async def phone(browser: Browser, request: pytest.FixtureRequest) -> AsyncIterator[Page]:
    """A page as narrow as the smallest phones, in light and in dark colours."""
    context = await browser.new_context(viewport={"width": 320, "height": 600}, color_scheme=request.param)
    context.set_default_timeout(10_000)
    yield await context.new_page()
    await context.close()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples keep their models in the folder that they run in."""
    monkeypatch.chdir(tmp_path)


async def pair(new_page: NewPage, url: str) -> tuple[Page, Page]:
    """Two pages at one address, connected, that can tell whether they were loaded again."""
    pages = await new_page(), await new_page()
    for page in pages:
        await page.goto(url)
        await page.locator("#state.online").wait_for()
        await page.evaluate("window.here = true")
    return pages


async def add(page: Page, field: str, text: str) -> None:
    await page.get_by_label(field).fill(text)
    await page.get_by_label(field).press("Enter")


async def test_the_messages_example(new_page: NewPage) -> None:
    """What is typed in one window appears in the other, and goes when it is deleted there; nothing is reloaded."""
    async with messages_app.running() as url:
        alice, bob = await pair(new_page, url)
        await add(alice, "Message", "good morning")
        await bob.get_by_text("good morning").wait_for()
        await alice.get_by_text("good morning").wait_for()
        await bob.get_by_label("Delete good morning").click()
        await alice.get_by_text("good morning").wait_for(state="detached")
        await bob.get_by_text("good morning").wait_for(state="detached")
        await alice.get_by_text("Nothing has been said yet.").wait_for()
        await alice.get_by_role("button", name="Send").click()
        await alice.get_by_text("a message needs some text").wait_for()
        assert await alice.evaluate("window.here")
        assert await bob.evaluate("window.here")


async def test_the_todos_example(new_page: NewPage) -> None:
    """What is added, ticked, renamed and cleared in one window shows in the other; lists are apart."""
    async with todos_app.running() as url:
        alice, bob = await pair(new_page, f"{url}/#shopping")
        await add(alice, "New to-do", "milk")
        await add(alice, "New to-do", "bread")
        await bob.get_by_label("milk is done").check()
        await alice.locator("li.done").wait_for()
        await alice.get_by_text("1 item left").wait_for()
        await add(bob, "Title of bread", "rye bread")
        await alice.get_by_label("Title of rye bread").wait_for()
        await alice.get_by_text("Clear completed").click()
        await bob.get_by_label("milk is done").wait_for(state="detached")
        await bob.get_by_role("link", name="work").click()
        await bob.get_by_text("0 items left").wait_for()
        assert await bob.locator("li").count() == 0
        assert await bob.evaluate("window.here")


async def test_the_todos_example_shows_what_the_server_refuses(new_page: NewPage) -> None:
    """An empty title is refused: the page says why, and has the old one again."""
    async with todos_app.running() as url:
        alice, bob = await pair(new_page, f"{url}/#refused")
        await add(alice, "New to-do", "milk")
        await bob.get_by_label("Title of milk").wait_for()
        await add(bob, "Title of milk", "")
        await bob.get_by_role("alert").get_by_text("a to-do needs a title").wait_for()
        await bob.wait_for_function("document.querySelector('li .title').value === 'milk'")
        assert await alice.get_by_label("Title of milk").input_value() == "milk"


async def test_typing_is_not_disturbed_by_others(new_page: NewPage) -> None:
    """A change made elsewhere does not take away what somebody types; what they enter last is kept."""
    async with todos_app.running() as url:
        alice, bob = await pair(new_page, f"{url}/#typing")
        await add(alice, "New to-do", "milk")
        await bob.get_by_label("Title of milk").fill("milk, two")
        await alice.get_by_label("milk is done").check()
        await bob.locator("li.done").wait_for()
        assert await bob.locator("li .title").input_value() == "milk, two"
        await bob.locator("li .title").press("Enter")
        await alice.get_by_label("Title of milk, two").wait_for()


@pytest.mark.parametrize(("app", "field"), [(messages_app, "Message"), (todos_app, "New to-do")])
async def test_everybody_can_use_the_examples(phone: Page, app: App, field: str) -> None:
    """On a narrow phone nothing scrolls sideways; texts stand out, controls have names and are large enough."""
    async with app.running() as url:
        await phone.goto(f"{url}/#a-list-of-its-own-with-a-name-that-does-not-fit-{uuid4().hex}")
        await phone.locator("#state.online").wait_for()
        assert await phone.evaluate(FAULTS) == []
        await add(phone, field, "unbreakable" * 12)
        await phone.locator("li").first.wait_for()
        if app is todos_app:
            await phone.get_by_role("checkbox").check()
            await add(phone, "Title of", "")
        else:
            await phone.get_by_role("button", name="Send").click()
        await phone.get_by_role("alert").get_by_text("needs").wait_for()
        await phone.evaluate("Promise.all(document.getAnimations().map((each) => each.finished))")
        assert await phone.evaluate(FAULTS) == []


@pytest.mark.parametrize("guide", ["README.md", "docs/quickstart.md"])
async def test_the_quick_start_works_as_written(
    guide: str, new_page: NewPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first server and the first page of a guide, put into files, keep two windows alike."""
    blocks = FENCE.findall((ROOT / guide).read_text())
    page = next(text for language, text in blocks if language == "html" and "backbone.io.js" in text)
    (tmp_path / "index.html").write_text(page)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "todos"}
    exec(next(text for language, text in blocks if language == "python"), space)
    async with space["app"].running() as url:
        alice, bob = await new_page(), await new_page()
        for visitor in (alice, bob):
            await visitor.goto(url)
        await alice.locator("form input").fill("milk")
        await alice.locator("form input").press("Enter")
        for visitor in (alice, bob):
            await visitor.locator("li", has_text="milk").wait_for()
        await bob.evaluate("void todos.first().destroy()")
        await alice.locator("li").wait_for(state="detached")


async def test_the_guide_of_the_browser_begins_with_a_page_that_works(new_page: NewPage, tmp_path: Path) -> None:
    """Its first page reads and adds to a backend as it says."""
    page = next(text for language, text in FENCE.findall((ROOT / "docs/browser.md").read_text()) if language == "html")
    (tmp_path / "index.html").write_text(page)

    class Todos(Backend):
        store = MemoryStore()

    async with App().serve(Todos).page("/", tmp_path / "index.html").running() as url:
        alice, bob = await new_page(), await new_page()
        await alice.goto(url)
        await alice.wait_for_function("todos.pluck('title').join() === 'milk' && !todos.first().isNew()")
        await bob.goto(url)
        await alice.wait_for_function("todos.length === 2")


def tutorial(until: str | None, folder: Path) -> None:
    """Write the files of the tutorial as they are before a step, or at the end."""
    text = (ROOT / "docs/tutorial.md").read_text()
    for name, content in files(text[: text.index(until)] if until else text).items():
        (folder / name).write_text(content)


def add_user(name: str, folder: Path) -> None:
    """Add a user to the application of the tutorial."""
    add = f"import users; users.add('{name}', 'the password of {name}')"
    subprocess.run([sys.executable, "-c", add], cwd=folder, check=True)


async def enter(page: Page, title: str) -> None:
    await page.locator("#add input").fill(title)
    await page.locator("#add input").press("Enter")


async def test_the_first_steps_of_the_tutorial(new_page: NewPage, tmp_path: Path) -> None:
    """One list for everybody, alike in two windows; what the schema refuses goes again, and the page says why."""
    tutorial("## 4.", tmp_path)
    server = ServerProcess("run", "app:app", "--port", str(port := free_port()), cwd=tmp_path, port=port)
    try:
        await server.start()
        alice, bob = await new_page(), await new_page()
        for visitor in (alice, bob):
            await visitor.goto(server.url)
        await enter(alice, "milk")
        await bob.locator("li", has_text="milk").get_by_role("checkbox").check()
        await alice.locator("li", has_text="milk").get_by_role("checkbox", checked=True).wait_for()
        await enter(alice, "")
        await alice.get_by_role("alert").get_by_text(re.compile(".")).wait_for()
        await alice.wait_for_function("document.querySelectorAll('li').length === 1")
        await bob.get_by_role("button", name="Delete").click()
        await alice.locator("li").wait_for(state="detached")
    finally:
        await server.stop()


async def test_the_application_of_the_tutorial(browser: Browser, tmp_path: Path) -> None:
    """Each user has a list of their own, on each of their screens; it outlives the server."""
    tutorial(None, tmp_path)
    for user in ("ann", "bob"):
        add_user(user, tmp_path)
    environment = {"BBIO_SECRET_KEY": "a key of the tests, long enough to be one"}
    command = ["run", "app:application", "--port", str(port := free_port())]
    server = ServerProcess(*command, cwd=tmp_path, port=port, env=environment)

    async def visitor(user: str) -> Page:
        page = await (await browser.new_context()).new_page()
        await page.goto(server.url)
        await page.locator("[name=name]").fill(user)
        await page.locator("[name=password]").fill(f"the password of {user}")
        await page.get_by_role("button", name="Log in").click()
        await page.get_by_role("button", name="Log out").wait_for()
        return page

    try:
        await server.start()
        desk, phone, other = [await visitor(user) for user in ("ann", "ann", "bob")]
        await enter(desk, "milk")
        await phone.locator("li", has_text="milk").wait_for()
        server.signal(signal.SIGTERM)
        await server.ended()
        await enter(desk, "bread")
        server = ServerProcess(*command, cwd=tmp_path, port=port, env=environment)
        await server.start()
        await phone.locator("li", has_text="bread").wait_for()
        await other.reload()
        await enter(other, "tea")
        await other.locator("li", has_text="tea").wait_for()
        assert await other.locator("li").count() == 1
        assert await phone.locator("li").count() == 2
        await other.get_by_role("button", name="Log out").click()
        await other.get_by_role("button", name="Log in").wait_for()
    finally:
        await server.stop()


@pytest.mark.parametrize("end", ["close", "crash"])
async def test_the_messages_example_shows_who_is_there(browser: Browser, end: str) -> None:
    """Each page that is there, until it is closed, or its process dies; and that somebody is typing."""
    app = App(limits=Limits(grace=0.5)).serve(Messages).page("/", ROOT / "examples/messages/index.html")
    contexts = [await browser.new_context(viewport={"width": 560, "height": 400}) for _ in range(2)]
    async with app.running() as url:
        alice, bob = [await context.new_page() for context in contexts]
        await alice.goto(url)
        await alice.get_by_text("only you").wait_for()
        await bob.goto(url)
        for page in (alice, bob):
            await page.get_by_text("you and 1 more").wait_for()
        await bob.get_by_label("Message").press_sequentially("good mor")
        await alice.get_by_text("Somebody is typing").wait_for()
        assert await bob.locator("#typing").text_content() == ""
        if "BBIO_SCREENSHOTS" in os.environ:
            await alice.screenshot(path=Path(os.environ["BBIO_SCREENSHOTS"]) / "presence.png")
        if end == "close":
            await contexts[1].close()
        else:
            with suppress(Error):
                await bob.goto("chrome://crash")
        await alice.get_by_text("only you").wait_for()
        await alice.reload()
        await alice.get_by_text("only you").wait_for()
    for context in contexts:
        await context.close()
