"""The pages that users see first: the examples, and the page of the quick start."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Browser, Page

from bbio import App
from examples.messages.app import app as messages_app
from examples.todos.app import app as todos_app
from tests.support.browser import NewPage

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
        await alice.evaluate("void todos.create({title: 'milk'}, {wait: true})")
        for visitor in (alice, bob):
            await visitor.wait_for_function("todos.pluck('title').join() === 'milk'")
        await bob.evaluate("void todos.first().destroy()")
        await alice.wait_for_function("todos.length === 0")
