"""The Logger middleware: one structured line per sync."""

import logging
from types import SimpleNamespace

import pytest

from bbio import Backend, NotFound, create, delete, read
from bbio.builtin import Logger


@pytest.fixture
def notes():
    class Notes(Backend):
        middleware = [Logger()]

        @create
        async def make(self, req):
            return {**req.model, "id": 7}

        @read
        def missing(self, req):
            raise NotFound("secret text")

        @delete
        def broken(self):
            raise KeyError("secret text")

    return Notes


async def test_each_sync_is_one_line_with_all_that_matters(serve, join, notes, caplog):
    """Backend, method, id, channel, duration and outcome are in the line and on the record."""
    alice = await join(await serve(notes), "notes", "home")
    with caplog.at_level(logging.INFO, logger="bbio.access"):
        await alice.sync("create", {"title": "milk"})
    (record,) = [r for r in caplog.records if r.name == "bbio.access"]
    line = record.getMessage()
    for part in ("notes", "create", "7", "home", "ok", "ms"):
        assert part in line
    assert "milk" not in line
    assert "\n" not in line


async def test_a_failure_is_logged_with_its_name(serve, join, notes, caplog):
    """The outcome of a failed sync is the error's name."""
    alice = await join(await serve(notes), "notes")
    with caplog.at_level(logging.INFO, logger="bbio.access"):
        ack = await alice.namespace.call("sync", {"method": "read", "model": {"id": 3}, "options": {}})
    assert ack[0]["error"]["name"] == "NotFound"
    (record,) = [r for r in caplog.records if r.name == "bbio.access"]
    assert "NotFound" in record.getMessage()
    assert "3" in record.getMessage()


async def test_what_the_client_is_not_told_is_no_part_of_the_line(serve, join, notes, caplog):
    """Of an unexpected error the line has what the client gets; the rest is another logger's."""
    alice = await join(await serve(notes), "notes")
    with caplog.at_level(logging.INFO):
        await alice.namespace.call("sync", {"method": "delete", "model": {"id": 3}, "options": {}})
    (record,) = [r for r in caplog.records if r.name == "bbio.access"]
    assert (record.outcome, record.levelname) == ("InternalError", "WARNING")
    assert "secret" not in record.getMessage()


async def test_a_client_cannot_forge_lines(serve, join, notes, caplog):
    """Newlines and control characters in what a client names do not break the line."""
    alice = await join(await serve(notes), "notes", "a\nFAKE LINE\x1b[31m")
    with caplog.at_level(logging.INFO, logger="bbio.access"):
        await alice.namespace.call("sync", {"method": "read", "model": {"id": "x\nFAKE " + "y" * 1000}, "options": {}})
    (record,) = [r for r in caplog.records if r.name == "bbio.access"]
    line = record.getMessage()
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) <= 300


@pytest.mark.parametrize("user", ["ann", {"id": "ann", "email": "secret"}, SimpleNamespace(id="ann", email="secret")])
async def test_the_user_is_named_when_asked(serve, join, caplog, user):
    """By the id alone, whatever `req.user` is; the address too, when that is asked for."""

    class Notes(Backend):
        middleware = [Logger(user=True, address=True)]

        @read
        def mine(self, req):
            req.user = user
            return []

    alice = await join(await serve(Notes), "notes")
    with caplog.at_level(logging.INFO, logger="bbio.access"):
        await alice.sync("read", {})
    (record,) = [r for r in caplog.records if r.name == "bbio.access"]
    assert record.getMessage().endswith(" user='ann' address='127.0.0.1'")
    assert (record.user, record.address) == ("ann", "127.0.0.1")
    assert "secret" not in caplog.text
