"""Who is told of a write, of what, and where it stands in the history (docs/notifications.md, docs/protocol.md)."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs

import bbio
from bbio import Backend, BadRequest, after, before, create, on_error, use, visible
from bbio.builtin import MemoryStore
from tests.support.origins import DEADLINE, OfServer, OfSocket, Origin, WhoAsks, failure, ids, logged, told


def bare(store: Any) -> type[Backend]:
    """Return a backend without any layer, whose requests take the shortest way."""
    return type("Todos", (Backend,), {"store": store})


async def test_every_other_listener_of_the_channel_is_told(origin: Origin, make_store: Any) -> None:
    """Of either protocol, once, in order; no other channel. A patch as an update with the whole model; reads nobody."""
    app = await origin.serve(bare(make_store()))
    asker = await origin.asker(app, "todos")
    here = [await origin.listener(app, "todos", "home", version=version) for version in (0, 1)]
    elsewhere = [await origin.listener(app, "todos", channel) for channel in ("work", None)]
    milk = await asker.sync("create", {"title": "milk", "n": 1}, channel="home")
    key = {"id": milk["id"]}
    await asker.sync("read", channel="home")
    await asker.sync("read", key, channel="home")
    oat = await asker.sync("patch", {**key, "$inc": {"n": 1}}, channel="home")
    tea = await asker.sync("update", {**key, "title": "tea"}, channel="home")
    await asker.sync("delete", key, channel="home")
    events = await logged(app.backends["todos"], "home")
    assert events[:3] == [("create", milk), ("update", {**milk, "n": 2}), ("update", {**key, "title": "tea"})]
    assert (oat, tea) == (events[1][1], events[2][1])
    assert events[3] == ("delete", {**key, "title": "tea"})
    events[3] = ("delete", key)  # others know the rest
    old, new, *others = await told(app.backends["todos"], *here, *elsewhere)
    assert [tuple(event) for event in old] == events
    assert [(method, model) for method, model, _ in new] == events
    assert [place["o"] for *_, place in new] == [1, 2, 3, 4]
    assert others == [[], []]


async def test_failed_writes_are_told_to_nobody(origin: Origin, make_store: Any) -> None:
    """Refused, unknown, in conflict, or recovered from: for the others it has never happened."""

    class Todos(Backend):
        store = make_store()

        @before("create")
        def check(self, req: Any) -> None:
            if req.model.get("bad"):
                raise BadRequest

        @on_error("create")
        def recover(self, req: Any, res: Any) -> None:
            if req.options.get("recover"):
                res.end({"id": "instead"})

    app = await origin.serve(Todos)
    asker, listener = await origin.asker(app, "todos"), await origin.listener(app, "todos")
    await failure(asker.sync("create", {"bad": 1}), "BadRequest")
    assert await asker.sync("create", {"bad": 1}, {"recover": True}) == {"id": "instead"}
    for method in ("update", "patch", "delete"):
        await failure(asker.sync(method, {"id": "nowhere", "n": 1}), "NotFound")
    made = await asker.sync("create", {"n": 1})
    await asker.sync("update", {"id": made["id"], "n": 2})
    await failure(asker.sync("update", {"id": made["id"], "n": 3}, rev=1), "Conflict")
    (events,) = await told(app.backends["todos"], listener)
    assert [event[1].get("n") for event in events] == [1, 2]
    assert len(await logged(app.backends["todos"])) == 2


async def test_what_was_committed_is_told_and_not_what_the_writer_is_shown(origin: Origin, make_store: Any) -> None:
    """Layers shape the reply alone; the options of the request are for layers, and told to nobody."""
    options: list[Any] = []

    class Todos(Backend):
        store = make_store()

        @use("create")
        async def dress(self, req: Any, next: Any) -> Any:
            options.append(req.options)
            return {**await next(), "dressed": True}

        @after("create")
        def greet(self, res: Any) -> None:
            res.result = {**res.result, "greeting": "hello"}

    app = await origin.serve(Todos)
    asker = await origin.asker(app, "todos")
    listeners = [await origin.listener(app, "todos", version=version) for version in (0, 1)]
    shown = await asker.sync("create", {"title": "milk"}, {"hint": "not for others"})
    record = {"id": shown["id"], "title": "milk"}
    assert shown == {**record, "dressed": True, "greeting": "hello"}
    assert options == [{"hint": "not for others"}]
    for events in await told(app.backends["todos"], *listeners):
        assert [event[:2] for event in events] == [["create", record]]
        assert "hint" not in str(events)


async def test_a_socket_is_not_told_of_its_own_write_and_others_of_its_user_are(origin: Origin) -> None:
    """Its answer says it. A call of the server comes from no socket: nobody is left out, also not the user's pages."""

    class Todos(Backend):
        middleware = [WhoAsks()]
        store = MemoryStore()

    app = await origin.serve(Todos)
    runtime = app.backends["todos"]
    page, new_page, another = [
        await origin.listener(app, "todos", user="ann", version=version) for version in (0, 1, 0)
    ]
    asker = OfSocket(page) if origin.is_socket else await origin.asker(app, "todos", "ann")
    milk = await asker.sync("create", {"title": "milk"})
    old, *others = await told(runtime, page, new_page, another)
    assert old == ([] if origin.is_socket else [["create", milk]])
    assert [[event[:2] for event in each] for each in others] == [[["create", milk]]] * 2
    # One of version 1 is told of its own write too, by the name that it knows; others learn no name of it.
    writer = OfSocket(new_page) if origin.is_socket else asker
    tea = await writer.sync("create", {"title": "tea"}, op="daily tea")
    other = await origin.listener(app, "todos", version=1)
    await writer.sync("delete", {"id": tea["id"]}, op="gone")
    own, (seen,) = await told(runtime, new_page, other)
    assert (seen[0], seen[1], seen[2]["o"]) == ("delete", {"id": tea["id"]}, 3)
    for event in own[-1:]:
        place = event[2]
        if isinstance(writer, OfSocket):
            assert place.get("op") in (None, "daily tea:1", "gone:1")
    if isinstance(writer, OfSocket):
        assert writer.places[-1]["o"] == 3
    else:
        assert own[-1] == seen
    assert seen[2]["op"].startswith("~")
    assert "gone" not in str(seen)


async def test_handlers_tell_and_write_on(origin: Origin) -> None:
    """What they emit, and what they write to another backend, is told to the listeners there, before they answer."""

    class Notes(Backend):
        store = MemoryStore()

    class Todos(Backend):
        store = MemoryStore()

        @create
        async def make(self, req: Any, next: Any) -> Any:
            made = await next()
            app.backends["todos"].emit("created", {"id": "by hand"}, channel="")
            await app.backends["notes"].create({"about": made["id"]})
            return made

    app = await origin.serve(Todos, Notes)
    asker = await origin.asker(app, "todos")
    todos, notes = [await origin.listener(app, name) for name in ("todos", "notes")]
    made = await asker.sync("create", {"title": "milk"})
    assert await told(app.backends["todos"], todos) == [[["create", made], ["create", {"id": "by hand"}]]]
    ((note,),) = await told(app.backends["notes"], notes)
    assert (note[0], note[1]["about"]) == ("create", made["id"])


async def test_an_answer_comes_before_what_its_write_is_told_as(origin: Origin) -> None:
    """A socket that listens has its answer first; code of the server goes on when the event is on its way."""

    class Todos(Backend):
        @create
        async def by_hand(self, req: Any) -> Any:
            app.backends["todos"].emit("created", {"id": "by hand"})
            return req.model

    app = await origin.serve(Todos)
    page = await origin.listener(app, "todos")
    for _ in range(5):
        if origin.is_socket:
            id = await page.start("create", {"id": 1})
            assert (await page.synced())[1] == {"id": "by hand"}
            assert page.namespace.acks(id) == [[None, {"id": 1}]]
        else:
            await (await origin.asker(app, "todos")).sync("create", {"id": 1})
            told_of = [(await page.synced())[1]["id"] for _ in range(2)]
            assert sorted(map(str, told_of)) == ["1", "by hand"]


async def test_positions_have_no_gap(origin: Origin, make_store: Any) -> None:
    """Of writes at the same time: each listener hears them in the order of the log, and so does the server's code."""
    app = await origin.serve(bare(make_store()))
    runtime = app.backends["todos"]
    asking = [await origin.asker(app, "todos") for _ in range(3)]
    listeners = [await origin.listener(app, "todos", version=1) for _ in range(2)]
    async with runtime.events("") as events:
        first = await asking[0].sync("create", {"n": -1})
        at = (await anext(events)).position
        writes = [asking[n % 3].sync("create", {"n": n}, op=f"op {n}" if n % 2 else None) for n in range(12)]
        made = await asyncio.gather(*writes, asking[1].sync("patch", {"id": first["id"], "$inc": {"n": 1}}))
        seen = [await anext(events) for _ in range(13)]
    async with runtime.events("", since=at) as events:
        again = [await anext(events) for _ in range(13)]
    log = await logged(runtime)
    assert sorted(ids(model for _, model in log[1:])) == sorted(ids(made))
    for heard in await told(runtime, *listeners):
        assert [(method, model) for method, model, _ in heard] == log
        assert [place["o"] for *_, place in heard] == list(range(1, 15))
    for each in (seen, again):
        assert [(event.method, event.model) for event in each] == log[1:]
        assert [event.logged.offset for event in each if event.logged] == list(range(2, 15))


async def test_a_missed_write_is_told_later(origin: Origin, make_store: Any) -> None:
    """Who comes back with a position is told all that was written since, whoever wrote it."""
    app = await origin.serve(bare(make_store()))
    runtime = app.backends["todos"]
    asker, listener = await origin.asker(app, "todos"), await origin.listener(app, "todos", version=1)
    await asker.sync("create", {"n": 0})
    (((_, _, place),),) = await told(runtime, listener)
    await listener.close()
    made = await asker.sync("create", {"n": 1}, op="a")
    await asker.sync("create", {"n": 1}, op="a")
    await asker.sync("patch", {"id": made["id"], "n": 2})
    back = await origin.listener(app, "todos", ...)
    since = {"c:": [place["e"], place["o"]]}
    (answer,) = await back.namespace.call("listen", None, {"v": 1, "since": since})
    missed = answer["streams"]["c:"]
    assert missed["recovered"] is True
    assert [event[:2] for event in missed["events"]] == [["create", made], ["update", {**made, "n": 2}]]


@attrs.define
class Secret:
    title: str
    pin: str = bbio.field(private=True, default="")


async def test_each_is_told_what_it_may_have(origin: Origin, make_store: Any) -> None:
    """Records come into sight and leave it, whoever moves them; private fields are told to nobody."""

    class Issues(Backend):
        middleware = [WhoAsks()]
        store = make_store(models=[{"id": "1", "to": ["ann", "bob"], "n": 1}])

        @visible(may_leave=True)
        def scope(self, req: Any) -> Any:
            return {"to": {"$contains": req.user["id"]}}

    class Secrets(Backend[Secret]):
        store = MemoryStore()

    app = await origin.serve(Issues, Secrets)
    ann, bob = [await origin.listener(app, "issues", user=name, version=1) for name in ("ann", "bob")]
    asker = await origin.asker(app, "issues", "ann")
    moved = {"id": "1", "to": ["ann"], "n": 1}
    assert await asker.sync("update", moved) == moved
    both = {"id": "1", "to": ["ann", "bob"], "n": 2}
    assert await asker.sync("update", both) == both
    for listener, expected in (
        (ann, [["update", moved], ["update", both]]),
        (bob, [["delete", {"id": "1"}], ["create", both]]),
    ):
        assert [(await listener.namespace.event(DEADLINE))[1:3] for _ in range(2)] == expected
    secrets = await origin.listener(app, "secrets", version=1)
    writer = await origin.asker(app, "secrets")
    own = isinstance(writer, OfServer) and origin.is_trusted
    made = await writer.sync("create", {"title": "a", **({"pin": "1234"} if own else {})})
    await app.backends["secrets"].patch({"id": made["id"], "pin": "4321"})
    (events,) = await told(app.backends["secrets"], secrets)
    assert [event[1] for event in events] == [{"id": made["id"], "title": "a"}] * 2
