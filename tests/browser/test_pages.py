"""Pages in a real browser, kept alike by a real server."""

from __future__ import annotations

import pytest
from playwright.async_api import Page

from bbio import App
from tests.support.browser import NewPage
from tests.support.lists import Open, lists, shows, stored
from tests.support.services import free_port


async def test_another_page_sees_each_change(app: App, visit: Open) -> None:
    """Create, update, patch and delete in one page show in another without a reload, each told of once."""
    alice, bob = await visit(app), await visit(app)
    await alice.evaluate("void lists.home.create({title: 'milk', done: false})")
    await shows(bob, {"title": "milk", "done": False})
    await alice.wait_for_function("!lists.home.first().isNew()")
    await alice.evaluate("void lists.home.first().save({title: 'oat milk'})")
    await shows(bob, {"title": "oat milk", "done": False})
    await alice.evaluate("void lists.home.first().save({done: true}, {patch: true})")
    await shows(bob, {"title": "oat milk", "done": True})
    await alice.evaluate("void lists.home.first().destroy()")
    await shows(bob)
    assert await bob.evaluate("lists.home.told") == [
        "create milk",
        "update oat milk",
        "update oat milk",
        "delete oat milk",
    ]
    assert await alice.evaluate("lists.home.told") == []


@pytest.mark.parametrize("engine", ["fast", "plain"])
async def test_a_page_of_an_origin_that_is_not_allowed_is_told_at_once(new_page: NewPage, engine: str) -> None:
    """Its requests fail with what is wrong, long before their deadline."""
    app, other = lists(engine=engine), lists()
    async with app.running(), other.running():
        page = await new_page()
        await page.goto(f"{other.url}/socket.io/underscore.js")
        for name in ("socket.io", "underscore", "backbone", "backbone.io"):
            await page.add_script_tag(url=f"/socket.io/{name}.js")
        refused = await page.evaluate(
            """(url) => new Promise((resolve) => {
              Backbone.io.connect(url);
              const list = new Backbone.Collection([], { backend: 'todos' });
              list.fetch({ error: (_, { name, code, message }) => resolve([name, code, message]) });
            })""",
            app.url,
        )
    assert refused[:2] == ["Forbidden", 403]
    assert f"refused the connection to {app.url} (403): is this page's origin allowed?" in refused[2]


async def test_channels_are_apart(app: App, visit: Open) -> None:
    """What is written in one channel never shows in another, in other pages or in the same one."""
    alice, bob = await visit(app, "work"), await visit(app, "home,work")
    await alice.evaluate("void lists.work.create({title: 'report'})")
    await shows(bob, {"title": "report"}, channel="work")
    await bob.evaluate("void lists.home.create({title: 'milk'})")
    await bob.evaluate("void lists.work.create({title: 'slides'})")
    await shows(alice, {"title": "report"}, {"title": "slides"}, channel="work")
    await shows(bob, {"title": "milk"}, channel="home")
    assert await alice.evaluate("lists.work.told") == ["create slides"]
    assert await bob.evaluate("[lists.home.told, lists.work.told]") == [[], ["create report"]]


async def test_the_server_tells_pages(app: App, visit: Open) -> None:
    """`emit` reaches the pages of one channel, or of all."""
    page = await visit(app, "home,work")
    todos = app.backends["todos"]
    todos.emit("created", {"id": "x", "title": "call"}, channel="home")
    todos.emit("created", {"id": "y", "title": "walk"})
    await shows(page, {"title": "call"}, {"title": "walk"})
    await shows(page, {"title": "walk"}, channel="work")
    todos.emit("updated", {"id": "y", "title": "run"})
    await shows(page, {"title": "call"}, {"title": "run"})
    todos.emit("deleted", {"id": "x", "title": "call"}, channel="home")
    await shows(page, {"title": "run"})


async def test_a_refused_write_is_told_and_undone(app: App, visit: Open) -> None:
    """The `error` callback gets the server's error object, and the model that was shown early leaves again."""
    page = await visit(app)
    error = await page.evaluate(
        "new Promise((resolve) => lists.home.create({done: false}, {error: (model, error) => resolve({...error,"
        " message: error.message, name: error.name})}))"
    )
    assert error["name"] == "Invalid"
    assert error["message"] == "a to-do needs a title"
    assert error["fields"] == {"title": "is missing"}
    await shows(page)


async def test_pages_listen_again_after_a_restart(app: App, visit: Open) -> None:
    """When the server is back on its port, pages notice by themselves and get what comes later, once."""
    alice, bob = await visit(app), await visit(app)
    await alice.evaluate("void lists.home.create({title: 'milk'})")
    await shows(bob, {"title": "milk"})
    await app.stop()
    for page in (alice, bob):
        await page.wait_for_function("!lists.home.online")
    await app.start(port=app.port)
    for page in (alice, bob):
        await page.wait_for_function("lists.home.online && lists.home.listened > 1")
    await alice.evaluate("void lists.home.create({title: 'tea'})")
    await shows(bob, {"title": "milk"}, {"title": "tea"})
    assert await bob.evaluate("lists.home.told") == ["create milk", "create tea"]


async def test_a_server_that_remembers_nothing_is_read_anew(visit: Open) -> None:
    """When another server takes over the port, pages show its models, and tell that they were reset."""
    old = lists({"id": "1", "title": "milk"}, {"id": "2", "title": "bread"})
    async with old.running(port=free_port()):
        page = await visit(old)
        await shows(page, {"title": "bread"}, {"title": "milk"})
        reset = "lists.home.once('backend:reset', (how) => { lists.home.how = _.mapObject(how, (all) => all.length); })"
        await page.evaluate(f"void {reset}")
    new = lists({"id": "2", "title": "rye bread"}, {"id": "3", "title": "tea"})
    async with new.running(port=old.port):
        await shows(page, {"title": "rye bread"}, {"title": "tea"})
        await page.wait_for_function("lists.home.how")
        assert await page.evaluate("lists.home.how") == {"added": 1, "changed": 1, "removed": 1}


async def test_offline_changes_of_both_sides_meet(app: App, visit: Open, elsewhere: Page) -> None:
    """A page that was offline while 100 changes were made elsewhere, and 10 by itself, ends like the server.

    Every change is applied once: none is missing, none is told of twice.
    """
    alice, bob = await visit(app), await visit(app, page=elsewhere)
    titles = [f"old {i}" for i in range(50)]
    await alice.evaluate("(titles) => titles.forEach((title) => lists.home.create({title}))", titles)
    await shows(bob, *({"title": title} for title in sorted(titles)))
    await bob.evaluate("lists.home.told.length = lists.home.seen.length = 0")

    await elsewhere.context.set_offline(True)
    await bob.wait_for_function("!lists.home.online")
    theirs = [f"create new {i}" for i in range(60)]
    theirs += [f"update old {i}" for i in range(20)] + [f"delete old {i}" for i in range(20, 40)]
    await alice.evaluate(
        """async () => {
          const { home } = lists;
          for (let i = 0; i < 60; i += 1) home.create({ title: `new ${i}` });
          for (let i = 0; i < 20; i += 1) home.titled(`old ${i}`).save({ done: true }, { patch: true });
          await Promise.all(_.range(20, 40).map((i) => home.titled(`old ${i}`).destroy()));
        }"""
    )
    await bob.evaluate(
        """() => {
          const { home } = lists;
          for (let i = 0; i < 6; i += 1) home.create({ title: `own ${i}` });
          for (let i = 40; i < 42; i += 1) home.titled(`old ${i}`).save({ done: true }, { patch: true });
          for (let i = 42; i < 44; i += 1) home.titled(`old ${i}`).destroy();
        }"""
    )
    assert await bob.evaluate("lists.home.told") == []
    assert not [todo for todo in await stored(app) if todo["title"].startswith("own")]
    await elsewhere.context.set_offline(False)

    expected = sorted(
        [{"title": f"new {i}"} for i in range(60)]
        + [{"title": f"old {i}", "done": True} for i in (*range(20), 40, 41)]
        + [{"title": f"old {i}"} for i in range(44, 50)]
        + [{"title": f"own {i}"} for i in range(6)],
        key=lambda todo: str(todo["title"]),
    )
    await shows(alice, *expected)
    await shows(bob, *expected)
    assert await bob.evaluate("lists.home.told") == theirs
    own = [f"create own {i}" for i in range(6)] + [f"update old {i}" for i in (40, 41)]
    own += [f"delete old {i}" for i in (42, 43)]
    assert await alice.evaluate("lists.home.told") == own
    assert sorted(await bob.evaluate("lists.home.seen")) == sorted(
        str(todo["title"]) for todo in expected if not str(todo["title"]).startswith("old")
    )
    on_server = await stored(app)
    for page in (alice, bob):
        assert await page.evaluate("lists.home.shown()") == on_server


async def test_a_write_whose_answer_was_lost_is_applied_once(app: App, visit: Open, elsewhere: Page) -> None:
    """The browser goes offline right after sending: whether or not it arrived, it is there once in the end."""
    alice, bob = await visit(app), await visit(app, page=elsewhere)
    for i in range(3):
        await bob.evaluate("(title) => { lists.home.create({title}); }", f"cut {i}")
        await elsewhere.context.set_offline(True)
        await bob.wait_for_function("!lists.home.online")
        await elsewhere.context.set_offline(False)
        await shows(alice, *({"title": f"cut {n}"} for n in range(i + 1)))
        await bob.wait_for_function("lists.home.every((todo) => !todo.isNew())")
    for page in (alice, bob):
        assert await page.evaluate("lists.home.shown()") == await stored(app)
    assert await alice.evaluate("lists.home.told") == [f"create cut {i}" for i in range(3)]
