"""Queries over the wire: what clients of version 1 are told of a page, and that the others are told nothing new."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from bbio import App, Backend, QueryLimits, before
from bbio.builtin import MemoryStore, SQLiteStore
from tests.support.wire import SyncFailed


@pytest.fixture(params=["memory", "sqlite"])
def backend(request, tmp_path):
    """A backend `todos` whose models are parted by channel."""

    class Todos(Backend):
        store = (
            MemoryStore(per_channel=True)
            if request.param == "memory"
            else SQLiteStore(tmp_path / "todos.db", per_channel=True, index=["n"])
        )

        @before("read")
        def narrow(self, req):
            data = req.options.get("data") or {}
            if req.channel == "narrow" and isinstance(data, dict):
                req.options["data"] = {**data, "n": {"$lt": 2}}

    return Todos


async def filled(serve, join, backend, channel="home"):
    app = await serve(backend)
    alice = await join(app, "todos", channel)
    for n in range(5):
        await alice.sync("create", {"n": n})
    return app, alice


async def read(client, data, channel="home"):
    """All arguments of the answer to a read by a client of version 1."""
    await client.namespace.call("listen", channel, {"v": 1})
    return await client.namespace.call("sync", {"method": "read", "model": {}, "options": {"data": data}})


async def test_a_page_and_its_cursor(serve, join, backend):
    """The third argument holds the cursor of the next page, null at the end, and the total on demand."""
    app, _ = await filled(serve, join, backend)
    bob = await join(app, "todos", ...)
    data = {"n": {"$gt": 0}, "sort": "-n", "limit": 3, "count": True}
    error, models, told = await read(bob, data)
    assert error is None
    assert [model["n"] for model in models] == [4, 3, 2]
    assert (len(told["r"]), told["total"]) == (3, 4)
    error, models, told = await read(bob, {**data, "count": False, "cursor": told["next"]})
    assert [model["n"] for model in models] == [1]
    assert told == {"r": [told["r"][0]], "next": None}


async def test_a_plain_read_is_told_nothing_of_pages(serve, join, backend):
    """Its answer is as it was."""
    app, _ = await filled(serve, join, backend)
    bob = await join(app, "todos", ...)
    await bob.namespace.call("listen", "home", {"v": 1})
    _, models, told = await bob.namespace.call("sync", {"method": "read", "model": {}})
    assert (len(models), list(told)) == (5, ["r"])


async def test_legacy_clients_may_ask_and_get_a_list(serve, join, backend):
    """Two arguments, whatever they ask for."""
    _, alice = await filled(serve, join, backend)
    options = {"data": {"sort": "-n", "limit": 2, "offset": 1, "count": True}}
    answer = await alice.namespace.call("sync", {"method": "read", "model": {}, "options": options})
    assert answer[0] is None
    assert [model["n"] for model in answer[1]] == [3, 2]
    assert len(answer) == 2
    with pytest.raises(SyncFailed, match="BadRequest"):
        await alice.sync("read", {}, {"data": {"n": {"$near": 1}}})


async def test_a_query_stays_in_its_channel(serve, join, backend):
    """Nothing of another channel is found, counted, or reached by a cursor that was made there."""
    app, _ = await filled(serve, join, backend)
    bob = await join(app, "todos", ...)
    data = {"sort": "n", "limit": 2, "count": True}
    _, _, told = await read(bob, data)
    for cursor in (None, told["next"]):
        _, models, elsewhere = await read(bob, {**data, "cursor": cursor}, channel="work")
        assert (models, elsewhere) == ([], {"r": [], "next": None, "total": 0})


async def test_a_layer_may_narrow_a_query(serve, join, backend):
    """What it adds holds as well, whatever the client asks for."""
    _, alice = await filled(serve, join, backend, "narrow")
    for data in (None, {"sort": "n"}, {"n": 4, "sort": "n"}, {"$or": [{"n": 4}, {"n": 0}, {"n": 1}], "sort": "n"}):
        found = await alice.sync("read", {}, {} if data is None else {"data": data})
        assert sorted(model["n"] for model in found) == [0, 1]


async def test_indexes_come_and_go(tmp_path):
    """An index is made when it is declared, kept while it is, and dropped when it is no more; others stay."""
    path = tmp_path / "todos.db"
    users = "CREATE INDEX mine ON todos (rev)"

    async def indexes(*declared):
        class Todos(Backend):
            store = SQLiteStore(path, index=declared)

        async with App().serve(Todos).running():
            pass
        with contextlib.closing(sqlite3.connect(path)) as connection:
            if not declared:
                connection.execute(users)
            # Those of keys have no statement.
            rows = connection.execute(
                "SELECT name, rootpage FROM sqlite_master"
                " WHERE type = 'index' AND tbl_name = 'todos' AND sql IS NOT NULL"
            )
            return dict(rows.fetchall())

    assert list(await indexes()) == ["mine"]
    one = await indexes("n", ("done", "address.city"))
    assert len(one) == 3
    two = await indexes("n")
    assert len(two) == 2
    assert two.items() <= one.items()
    assert "mine" in two


async def test_a_query_has_a_time_limit(serve, join, tmp_path):
    """A database that works on it for longer gives up, and works on."""

    class Todos(Backend):
        store = SQLiteStore(
            tmp_path / "todos.db",
            queries=QueryLimits(seconds=1e-9),
            models=[{"id": n, "text": "x"} for n in range(5_000)],
        )

    alice = await join(await serve(Todos), "todos")
    with pytest.raises(SyncFailed, match="Timeout"):
        await alice.sync("read", {}, {"data": {"text": {"$like": "%y%"}, "sort": "n"}})
    assert await alice.sync("read", {"id": 1}) == {"id": 1, "text": "x"}
