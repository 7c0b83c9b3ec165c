"""A delete tells who listens that a model is gone, and nothing of what was in it."""

from __future__ import annotations

import functools

import attrs
import pytest

from bbio import Backend, delete, field
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.client import connect
from tests.support.servers import heard

SECRET = "what only the staff has read"


@attrs.define
class Note:
    """A model of which some see more than others."""

    id: str | None = None
    text: str = ""
    remark: str = field(roles=("support",), default="")


@pytest.fixture(params=["memory", "SQLite", "PostgreSQL"])
def make_store(request, tmp_path):
    """Each of the three stores."""
    if request.param == "memory":
        return MemoryStore
    if request.param == "SQLite":
        return functools.partial(SQLiteStore, tmp_path / "notes.db")
    return functools.partial(PostgresStore, request.getfixturevalue("database_url"))


def listening(client, since=None, channel="home"):
    """Listen as a version-1 client does; the channel's part of the reply."""

    async def streams():
        (reply,) = await client.namespace.call("listen", channel, {"v": 1, "since": since or {}})
        return reply["streams"][f"c:{channel}"]

    return streams()


@pytest.mark.parametrize("typed", [False, True], ids=["any fields", "a model"])
async def test_who_never_had_a_record_is_not_told_it_by_its_delete(serve, join, make_store, typed):
    """Written in one channel and deleted in another: nobody there is told more than the id, live or afterwards."""

    class Notes(Backend):
        store = make_store()
        model = Note if typed else None

    app = await serve(Notes)
    staff = await join(app, "notes", "staff")
    note = await staff.sync("create", {"text": SECRET})
    legacy, version_1, deleter = await join(app, "notes", "home"), *[await join(app, "notes", ...) for _ in range(2)]
    before = await listening(version_1)
    gone = {"id": note["id"]}
    await deleter.listen("home")
    assert (await deleter.sync("delete", gone))["text"] == SECRET  # who deletes it is answered with it, as ever
    assert await legacy.synced() == ("delete", gone)
    assert (await version_1.namespace.event())[:3] == ["synced", "delete", gone]
    late = await join(app, "notes", ...)
    since = {"c:home": [before["epoch"], before["offset"]]}
    for _ in range(2):  # from what is at hand, and from the log
        reply = await listening(late, since)
        assert [event[:2] for event in reply["events"]] == [["delete", gone]]
        assert not any(SECRET in frame for frame in late.wire.frames)
        for client in (late, legacy, version_1, deleter):
            await client.close()
        late = await join(app, "notes", ...)
    for client in (legacy, version_1):
        assert not any(SECRET in frame for frame in client.wire.frames)


async def test_the_id_may_have_another_name(serve, join):
    """It is the one that the store says."""

    class Notes(Backend):
        store = MemoryStore(id_attribute="_id")

    app = await serve(Notes)
    alice, bob = await join(app, "notes"), await join(app, "notes")
    note = await alice.sync("create", {"id": 7, "text": SECRET})
    await alice.sync("delete", {"_id": note["_id"]})
    assert [await bob.synced() for _ in range(2)] == [("create", note), ("delete", {"_id": note["_id"]})]


async def test_an_answer_without_an_id_is_told_as_it_is(serve, join):
    """What a handler answers is the application's to choose."""

    class Notes(Backend):
        @delete
        def wipe(self, req):
            return req.model["answer"]

    app = await serve(Notes)
    alice, bob = await join(app, "notes"), await join(app, "notes")
    for answer in ({"wiped": True}, [1], "gone"):
        await alice.sync("delete", {"id": 1, "answer": answer})
    assert await heard(app.backends["notes"], bob) == [
        [("delete", {"wiped": True}), ("delete", [1]), ("delete", "gone")]
    ]


async def test_a_python_client_forgets_what_was_deleted(serve, join):
    """Its mirror drops the model, its events say which one it was."""

    class Notes(Backend):
        store = MemoryStore()

    app = await serve(Notes)
    alice = await join(app, "notes")
    async with connect(app.url) as client, client.backend("notes").collection() as mirror:
        events = client.backend("notes").events()
        await client.backend("notes").ready()
        note = await alice.sync("create", {"text": "milk"})
        await alice.sync("delete", {"id": note["id"]})
        told = [await anext(events) for _ in range(2)]
        assert [(event.method, event.model) for event in told] == [("create", note), ("delete", {"id": note["id"]})]
        assert not mirror
