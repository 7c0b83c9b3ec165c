"""The recipes of the cookbook do what the page says of them."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bbio import Forbidden, Invalid, Unauthorized
from tests.support.guides import files

PAGE = Path(__file__).parents[2] / "docs" / "cookbook.md"
ANN = {"id": "ann"}
TOKEN = {"token": "the token of these tests"}
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """`load(name)`: a file of the page as a module, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BBIO_SECRET_KEY", "a key of the tests, long enough to be one")
    monkeypatch.setenv("WORKER_TOKEN", TOKEN["token"])
    for name, text in files(PAGE.read_text()).items():
        (tmp_path / name).write_text(text)

    def load(name: str) -> ModuleType:
        module = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        return module

    return load


async def test_jobs_are_done_once_and_show_their_progress(load: Load) -> None:
    """Two workers share the jobs, none is done twice; a page sees them end; a job that raises has failed."""
    runs: list[str] = []

    async def run(job):
        runs.append(job["url"])
        yield 50
        if job["url"] == "bad":
            raise ValueError("this one fails")

    async with load("jobs").app.test() as t:
        page = await t.client()
        shown = await page.collection()
        workers = [
            asyncio.create_task(load("worker").work(await t.client(auth=TOKEN), name, run)) for name in ("one", "two")
        ]
        for url in ("a", "b", "bad", "c"):
            await page.create({"url": url, "state": "done", "worker": "me"})
        await shown.until(lambda jobs: [job["state"] for job in jobs.values()].count("done") == 3, timeout=60)
        await shown.until(lambda jobs: "failed" in [job["state"] for job in jobs.values()], timeout=60)
        assert sorted(runs) == ["a", "b", "bad", "c"]
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)


async def test_a_worker_begins_with_the_jobs_that_it_left(load: Load) -> None:
    """After a crash the worker of that name takes up what it had claimed."""

    async def run(job):
        yield 100

    async with load("jobs").app.test() as t:
        page, worker = await t.client(), await t.client(auth=TOKEN)
        job = await page.create({"url": "a"})
        await worker.patch({"id": job["id"], "state": "running", "worker": "one"})
        shown = await page.collection()
        task = asyncio.create_task(load("worker").work(worker, "one", run))
        await shown.until(lambda jobs: jobs[job["id"]]["state"] == "done", timeout=60)
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("auth", [None, {"token": "guessed"}, {"token": 7}])
async def test_pages_change_no_jobs(load: Load, auth: dict[str, object] | None) -> None:
    """Who has not the token creates jobs, and no more."""
    async with load("jobs").app.test() as t:
        page = await t.client(auth=auth)
        job = await page.create({"url": "a"})
        with pytest.raises(Forbidden):
            await page.patch({"id": job["id"], "state": "done"})


async def test_counts_add_up(load: Load) -> None:
    """Two clients count at the same time, one of them twice for a lost answer; nothing but counting is allowed."""
    async with load("counters").app.test() as t:
        ann, bob = await t.clients(2)
        key = (await ann.create({}))["id"]
        t.drop_acks(1, ann)
        await asyncio.gather(*(each.patch({"id": key, "$inc": {"likes": 1}}) for each in (ann, bob) * 5))
        assert (await ann.read(key))["likes"] == 10
        for changes in ({"likes": 99}, {"$inc": {"likes": 99}}):
            with pytest.raises(Forbidden):
                await ann.patch({"id": key, **changes})
        with pytest.raises(Forbidden):
            await ann.update({"id": key, "likes": 99})


def cookie_of(uploads: ModuleType) -> dict[str, str]:
    """The cookie of a user who has logged in."""
    response = web.Response()
    uploads.sessions.save(response, {"user": ANN})
    [(name, morsel)] = response.cookies.items()
    return {"Cookie": f"{name}={morsel.value}"}


async def test_files_come_and_go(load: Load, tmp_path: Path) -> None:
    """An upload can be named by a document and loaded; strangers do neither; what nobody names goes after a day."""
    uploads = load("uploads")
    ann = cookie_of(uploads)
    async with TestClient(TestServer(uploads.application)) as http:
        assert (await http.post("/files", data=b"secret")).status == 401
        answer = await http.post("/files", data=b"hello", headers=ann)
        file = (await answer.json())["file"]
        assert (await http.get(f"/files/{file}")).status == 401
        loaded = await http.get(f"/files/{file}", headers=ann)
        assert (await loaded.read(), loaded.headers["Content-Disposition"]) == (b"hello", "attachment")
        assert (await http.get("/files/..%2fuploads.py", headers=ann)).status == 404
        too_much = await http.post("/files", data=BytesIO(bytes(uploads.LIMIT + 1)), headers=ann)
        assert too_much.status == 413
        assert [path.name for path in (tmp_path / "uploads").iterdir()] == [file]
    async with uploads.app.test() as t:
        documents = await t.client(user=ANN)
        await documents.create({"name": "greeting", "file": file})
        for name in ("0" * 32, "../uploads.py"):
            with pytest.raises(Invalid):
                await documents.create({"name": "other", "file": name})
        with pytest.raises(Forbidden):
            await documents.patch({"id": (await documents.read())[0]["id"], "name": "mine"})
        fresh, old = tmp_path / "uploads" / ("a" * 32), tmp_path / "uploads" / ("b" * 32)
        for path in (fresh, old):
            path.touch()
        for path in (old, tmp_path / "uploads" / file):
            os.utime(path, (0, 0))
        await uploads.sweep()
        assert sorted(path.name for path in (tmp_path / "uploads").iterdir()) == sorted([file, fresh.name])
        with pytest.raises(Unauthorized):
            await t.connect().backend("documents").ready()


async def test_an_import_can_be_repeated(load: Load) -> None:
    """The second run replaces what the first has written; a page sees all of it; others may not write."""
    importer = load("importer")
    rows = [{"sku": f"p-{number}", "name": "pen", "price": number} for number in range(250)]
    async with importer.app.test() as t:
        page, importing = await t.client(), await t.client(user={"id": "night", "roles": ["importer"]})
        shown = await page.collection()
        await importer.import_all(importing, rows[:100])
        await importer.import_all(importing, iter(rows))
        await shown.until(lambda products: len(products) == 250, timeout=60)
        with pytest.raises(Forbidden):
            await page.update({"id": "p-1", "name": "mine"})


async def test_a_team_has_its_own_notes(load: Load) -> None:
    """Members see their team's notes and no others'; who leaves hears no more."""
    teams = load("teams")
    async with teams.app.test() as t:
        ann, bob = await t.clients(2, channel="red", user=ANN)
        shown = await bob.collection()
        note = await ann.create({"text": "hello"})
        await t.settle()
        assert shown == {note["id"]: note}
        with pytest.raises(Forbidden):
            await t.connect(user=ANN).backend("notes", channel="blue").ready()
        with pytest.raises(Unauthorized):
            await t.connect().backend("notes", channel="red").ready()
        await teams.remove_member("red", "ann")
        with pytest.raises(Forbidden):
            await ann.create({"text": "still here?"})
