"""Webhooks as consumers of an application, over real connections and with a database."""

from __future__ import annotations

import time
from typing import Any

from bbio import App, Backend
from bbio.builtin import SQLiteStore, Webhook
from tests.support.listeners import until
from tests.support.receivers import Receiver, receiver

SECRET = Webhook.make_secret()


def application(served: Receiver, path: str) -> App:
    class Issues(Backend):
        store = SQLiteStore(path)

    app = App().serve(Issues)
    webhook = Webhook(served.url, secret=SECRET, internal_hosts=[served.host])
    app.consumer("crm", backend="issues", pause=0.01)(webhook)
    return app


def titles(served: Receiver) -> list[Any]:
    return [posted.verify(SECRET)["data"]["model"]["title"] for posted in served.posted]


def ids(served: Receiver) -> list[str]:
    return [posted.headers["webhook-id"] for posted in served.posted]


async def test_each_event_is_delivered(tmp_path):
    """In order, again after a fault, with the same id; what the receiver refuses becomes a dead letter at once."""
    async with receiver() as served:
        app = application(served, str(tmp_path / "issues.db"))
        await app.start()
        issues = app.backends["issues"]
        served.scripts = {"milk": [503, 429], "tea": [410]}
        for title in ("milk", "tea", "rye"):
            await issues.create({"title": title})
        await until(lambda: len(served.posted) == 5)
        assert titles(served) == ["milk", "milk", "milk", "tea", "rye"]
        assert len(set(ids(served))) == 3
        assert len(set(ids(served)[:3])) == 1
        assert {posted.message["type"] for posted in served.posted} == {"issues.create"}

        # What was set aside is put back, and comes with the id that it had.
        ledger = issues.log.consumers
        (letter,) = await ledger.letters("crm")
        assert "status 410" in letter.error
        assert SECRET not in letter.error
        await ledger.put_back("crm", letter.id)
        await until(lambda: len(served.posted) == 6)
        assert titles(served)[-1] == "tea"
        assert ids(served)[-1] == ids(served)[3]
        assert served.posted[-1].message["type"] == "issues.create"
        await app.stop()

        # Nothing comes again after a restart, and nothing that was written meanwhile is missing.
        again = application(served, str(tmp_path / "issues.db"))
        await again.start()
        await again.backends["issues"].create({"title": "oats"})
        await until(lambda: len(served.posted) == 7)
        assert titles(served)[-1] == "oats"
        await again.stop()


async def test_the_time_that_a_receiver_asks_for(tmp_path):
    """The next attempt does not come before it."""
    async with receiver() as served:
        app = application(served, str(tmp_path / "issues.db"))
        await app.start()
        served.scripts, served.headers = {"milk": [503]}, {"Retry-After": "1"}
        begun = time.monotonic()
        await app.backends["issues"].create({"title": "milk"})
        await until(lambda: len(served.posted) == 2)
        assert time.monotonic() - begun >= 1.0
        await app.stop()


async def test_connections_end_with_the_application(tmp_path):
    """The receiver sees its connection closed, long before it would close it by itself."""
    async with receiver() as served:
        app = application(served, str(tmp_path / "issues.db"))
        await app.start()
        await app.backends["issues"].create({"title": "milk"})
        await until(lambda: served.posted)
        (function,) = [consumer.function for consumer in app.consumers]
        assert isinstance(function, Webhook)
        await until(lambda: function._poster._connectors)
        await app.stop()
        assert not function._poster._connectors


class Mailer:
    """A consumer's function with a connection of its own, which cannot be closed."""

    def __init__(self) -> None:
        self.closed = 0

    async def __call__(self, event: Any) -> None:
        """Send a mail."""

    async def aclose(self) -> None:
        """Close the connection."""
        self.closed += 1
        raise OSError("no connection")


async def test_a_function_that_cannot_be_closed(tmp_path, caplog):
    """The application stops all the same."""
    async with receiver() as served:
        app, mailer = application(served, str(tmp_path / "issues.db")), Mailer()
        app.consumer("mailer", backend="issues")(mailer)
        await app.start()
        await app.stop()
        assert mailer.closed == 1
        assert "cannot be closed" in caplog.text
