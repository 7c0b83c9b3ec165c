"""The guide on background work does what it says, and so does the worker of the tracker."""

from __future__ import annotations

import functools
import importlib
import runpy
import sys
from email import message_from_string
from pathlib import Path

import pytest

from tests.support.guides import files
from tests.support.mail import mail_server

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "background-work.md"


@pytest.fixture
def issues(tmp_path, monkeypatch):
    """The module of the page."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, content in files(PAGE.read_text()).items():
        (tmp_path / name).write_text(content)
    yield importlib.import_module("issues")
    del sys.modules["issues"]


def example(function):
    """What the example with this function defines."""
    code = next(part.partition("```")[0] for part in PAGE.read_text().split("```python\n")[1:] if function in part)
    names = {"__name__": "example"}
    exec(code, names)
    return names


async def test_each_issue_is_mailed(issues, monkeypatch) -> None:
    """Once, though the mail server refuses the first attempt; an update is not mailed."""
    async with mail_server() as mails:
        mails.refusals = 1
        monkeypatch.setattr(issues, "send", functools.partial(issues.send, server=mails.address))
        async with issues.app.test() as t:
            ann = await t.client()
            issue = await ann.create({"title": "Leak"})
            await ann.patch({"id": issue["id"], "done": True})
            await ann.create({"title": "Smoke"})
            while len(mails.mails) < 2:
                await t.settle()
    assert [mail["Subject"] for mail in mails.mails] == ["New issue: Leak", "New issue: Smoke"]
    assert len({mail["Message-ID"] for mail in mails.mails}) == 2


async def test_an_index_follows_and_is_read_again(issues, monkeypatch) -> None:
    """It has what is there; where events are lost it reads all of it."""
    monkeypatch.setattr(issues, "send", lambda subject, id: None)
    names = example("def update_index")
    async with issues.app.test() as t:
        ann = await t.client()
        leak, smoke = [await ann.create({"title": title}) for title in ("Leak", "Smoke")]
        await ann.delete(leak["id"])
        await t.settle()
        assert names["index"] == {smoke["id"]: "Smoke"}
        names["index"].clear()
        await names["read_all"](None)
        assert names["index"] == {smoke["id"]: "Smoke"}


async def test_orders_are_confirmed(tmp_path, monkeypatch) -> None:
    """Each of them, apart from the request."""
    from bbio import App

    monkeypatch.chdir(tmp_path)
    names = example("def confirm")
    async with App().serve(names["Orders"]).test() as t:
        order = await t.backends["orders"].create({})
        await t.settle()
    assert names["letters"] == [f"We have received your order {order['id']}."]


@pytest.fixture
def tracker(tmp_path, monkeypatch):
    """The tracker example, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BBIO_DATABASE_URL", raising=False)
    return functools.partial(runpy.run_path, str(ROOT / "examples" / "tracker" / "app.py"))


@pytest.mark.parametrize("is_sent", [True, False])
async def test_members_of_a_project_get_a_mail(tracker, tmp_path, monkeypatch, is_sent) -> None:
    """From a mail server, if one is named, else as files in a folder; the author gets none."""
    async with mail_server() as mails:
        if is_sent:
            monkeypatch.setenv("TRACKER_SMTP", "{}:{}".format(*mails.address))
        names = tracker()
        async with names["app"].test() as t:
            issues = t.backends["issues"]
            await issues.create({"title": "Leak", "project": "garden"}, user="ann")
            await issues.create({"title": "Smoke", "project": "kitchen"}, user="ann")
            await t.settle()
    if is_sent:
        assert not (tmp_path / "mails").exists()
        found = mails.mails
    else:
        found = [message_from_string(file.read_text()) for file in (tmp_path / "mails").iterdir()]
    sent = [(mail["To"], mail["Subject"]) for mail in found]
    assert sorted(sent) == [("bob@example.org", "garden: Leak"), ("eve@example.org", "kitchen: Smoke")]
