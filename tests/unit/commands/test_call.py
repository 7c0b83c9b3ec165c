"""`bbio call`: each method, its options, and its errors."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from bbio import cli


@pytest.fixture
def call(served):
    """`call(*arguments)`: the status, the result and what is printed to the standard error."""
    target = f"{served()}:app"

    def call(*arguments, stdin=None, target=target):
        done = CliRunner().invoke(cli.main, ["call", target, *arguments], input=stdin)
        return done.exit_code, json.loads(done.stdout) if done.stdout else None, done.stderr

    assert call("todos", "create", '{"title": "first"}', "--migrate")[0] == 0
    return call


def test_each_method_prints_its_result_as_json(call):
    """With the options of calls; the model may come from the standard input."""
    assert call("todos", "create", '{"title": "Käse"}', "--user", "ann", "--options", '{"n": 1}') == (
        0,
        {"id": 2, "title": "Käse", "by": "ann", "n": 1},
        "",
    )
    assert call("todos", "read", "2")[1]["title"] == "Käse"
    assert call("todos", "patch", "-", stdin='{"id": 2, "title": "tea"}\n')[1]["title"] == "tea"
    assert call("todos", "update", '{"id": 2, "title": "rum"}')[1] == {"id": 2, "title": "rum"}
    assert call("todos", "query")[1] == {
        "models": [{"id": 1, "title": "first", "by": "server"}, {"id": 2, "title": "rum"}]
    }
    page = call("todos", "query", '{"limit": 1, "count": true}')[1]
    assert (len(page["models"]), page["total"]) == (1, 2)
    rest = call("todos", "query", "-", stdin=json.dumps({"limit": 1, "cursor": page["next"]}))[1]
    assert [model["id"] for model in rest["models"]] == [2]
    assert call("todos", "delete", "1")[1]["title"] == "first"
    assert call("todos", "delete", '{"id": 2}')[1]["title"] == "rum"
    assert call("todos", "query")[1] == {"models": []}


def test_a_call_is_made_once_in_its_channel_for_its_user(call):
    """An operation id, a channel, a JSON user and a client without one."""
    made = [call("todos", "create", '{"title": "a"}', "--op", "daily", "--channel", "home") for _ in range(2)]
    assert made[0] == made[1]
    assert made[0][1]["by"] == "server"
    for user, by in (('{"id": "ann"}', {"id": "ann"}), ('"7"', "7"), ("7", "7"), ("null", None)):
        assert call("todos", "create", '{"title": "a"}', "--user", user)[1]["by"] == by
    status, _, told = call("todos", "create", '{"title": "b"}', "--op", "daily")
    assert (status, "Conflict (409)" in told) == (1, True)


def test_errors_are_told_with_their_code(call):
    """On the standard error, with status 1 and nothing on the standard output."""
    assert call("todos", "patch", '{"id": 1, "title": "milk"}')[0] == 0
    for arguments, text in (
        (("read", "7"), "Error: NotFound (404): there is no model with id 7\n"),
        (("read", '"1"'), "Error: NotFound (404)"),
        (("read", "seven"), "Error: NotFound (404)"),
        (("create", "{}"), 'Error: Invalid (422): not valid {"fields": {"title": "is missing"}}\n'),
        (("create", '{"title": "bug"}'), "Error: InternalError (500): Internal error."),
        (("update", '{"id": 1, "title": "a"}', "--rev", "1"), "Error: Conflict (409)"),
        (("query", '{"limit": -1}'), "Error: BadRequest (400)"),
        (("read", "1", "--timeout", "0"), "Error: BadRequest (400): timeout=0.0"),
        (("create", '{"title": "slow"}', "--timeout", "0.01"), "Error: Timeout (408)"),
    ):
        status, result, told = call("todos", *arguments)
        assert (status, result) == (1, None)
        assert text in told
    status, _, told = call("notes", "query")
    assert (status, told) == (1, "Error: no backend 'notes' is served; served: todos\n")


def test_what_is_not_understood_is_told_before_anything_is_opened(call):
    """As wrong usage, with status 2."""
    for arguments, text in (
        (("create",), "create needs DATA: the model as JSON, or - to read it from the standard input"),
        (("read",), "read needs DATA: the id, or -"),
        (("create", "milk"), "DATA: not valid JSON: milk"),
        (("create", "[1]"), "DATA is not a JSON object: [1]"),
        (("query", "7"), "DATA is not a JSON object: 7"),
        (("read", '"7'), "DATA: not valid JSON"),
        (("create", "{}", "--user", "{"), "--user: not valid JSON"),
        (("create", "{}", "--options", "[]"), "--options is not a JSON object"),
        (("fetch", "{}"), "'fetch' is not one of"),
    ):
        status, result, told = call("todos", *arguments)
        assert (status, result) == (2, None)
        assert text in " ".join(told.split())
    assert call("todos", "create", "-", stdin="")[0] == 2


def test_an_application_that_cannot_be_opened_is_told(served):
    """By its text alone: no store, no tables."""
    name = served()
    for app, text in (("nothing", "no backend 'todos' is served; served: none"), ("app", "todos.db is not there")):
        done = CliRunner().invoke(cli.main, ["call", f"{name}:{app}", "todos", "query"])
        assert done.exit_code == 1
        assert text in done.stderr
        assert done.stderr.count("\n") == 1
