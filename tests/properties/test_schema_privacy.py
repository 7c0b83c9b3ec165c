"""Whatever is asked, no value of a private field is in any byte sent, and none of a role's field without the role."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import attrs
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from bbio import App, Backend, Conflict, Middleware, Schema, before, field, use
from bbio.builtin import MemoryStore, SQLiteStore
from tests.properties.models import types
from tests.support.examples import examples
from tests.support.servers import heard
from tests.support.wire import LegacyClient

PRIVATE, ROLE = "SECRET", "STAFF"

marked = {
    "text": (str, lambda mark: mark),
    "list": (list[str], lambda mark: [mark, "x"]),
    "dict": (dict[str, str], lambda mark: {"k": mark, mark: "v"}),
    "any": (Any, lambda mark: {"deep": [{"deeper": mark}]}),
    "optional": (str | None, lambda mark: mark),
}
steps = st.lists(
    st.tuples(
        st.sampled_from(["create", "update", "patch", "delete", "read", "list", "emit", "conflict", "query", "fail"]),
        st.sampled_from(["plain", "staff"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


class Cookies(Middleware):
    """The roles of a client are what its cookie says."""

    @before
    def identify(self, req):
        req.user = {"id": "u", "roles": [req.socket.cookies.get("role")]}


class Guarded(Backend):
    """A backend whose layers put whole records wherever they can."""

    middleware = [Cookies()]

    @use("read")
    async def failing(self, req, next):
        if req.options.get("fail"):
            raise Conflict(current=await next())
        return await next()

    @use("patch")
    async def instance(self, next):
        record = await next()
        return self.schema.structure({name: value for name, value in record.items() if name != "id"})


@st.composite
def models(draw: st.DrawFn) -> tuple[type, dict[str, Any]]:
    """A class with open, private and role fields in any order, and values to write to all of them."""
    fields, values = {}, {}
    for name in draw(st.permutations(["a", "b", "c", "d", "e"])):
        kind = draw(st.sampled_from(["open", "private", "role"]))
        if kind == "open":
            type_, strategy = draw(types(1))
            written = attrs.make_class("One", {"x": attrs.field(type=type_)})
            values[name] = Schema(written).unstructure(written(draw(strategy)))["x"]
            fields[name] = attrs.field(type=type_, kw_only=True)
        else:
            type_, make = marked[draw(st.sampled_from(sorted(marked)))]
            mark = PRIVATE if kind == "private" else ROLE
            values[name] = make(mark)
            access = {"private": True} if kind == "private" else {"roles": ("staff",)}
            fields[name] = field(type=type_, kw_only=True, **access, factory=lambda make=make, mark=mark: make(mark))
    return attrs.make_class("Thing", fields), values


# Every example is a server with clients: to find the smallest would take minutes.
@settings(max_examples=examples(40), phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(model=models(), program=steps, store=st.sampled_from(["memory", "sqlite", "none"]))
@example(
    model=(
        attrs.make_class("Thing", {"a": field(type=str, default=PRIVATE, private=True)}),
        {"a": PRIVATE},
    ),
    program=[("delete", "plain", True)],
    store="none",
)
def test_no_private_value_is_in_any_byte_sent(model, program, store):
    """Acks, reads, pages, events, replays, conflicts, repeated operations, errors, emitted events."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_run(*model, program, store, Path(folder)))


async def _run(cls: type, values: dict[str, Any], program: list[Any], store: str, folder: Path) -> None:
    made = {"memory": MemoryStore, "sqlite": lambda: SQLiteStore(folder / "things.db"), "none": lambda: None}[store]()
    backend_class = type("Things", (Guarded,), {"model": cls, "store": made})
    app = App().serve(backend_class)
    backend = app.backends["things"]
    async with app.running() as url:
        clients = {}
        for role in ("plain", "staff"):
            cookie = {"Cookie": f"role={role}"}
            clients[role] = [await LegacyClient.open(url, "things", headers=cookie) for _ in range(2)]
            await clients[role][0].namespace.call("listen", None, {"v": 1})
            await clients[role][1].listen()
        since = {role: await _since(pair[0]) for role, pair in clients.items()}
        last: Any = "1"
        for number, (what, role, again) in enumerate(program):
            known = {n: v for n, v in values.items() if role == "staff" or ROLE not in str(v)}
            request: dict[str, Any] = {"method": what, "model": {**known, "id": last}}
            if what == "create":
                request["model"] = known
            elif what == "list":
                request = {"method": "read", "model": {}}
            elif what == "query":
                request = {"method": "read", "model": {}, "options": {"data": {next(iter(values)): "x", "count": True}}}
            elif what == "fail":
                request = {"method": "read", "model": {}, "options": {"fail": True}}
            elif what == "conflict":
                request = {"method": "update", "model": {**known, "id": last}, "rev": 0}
            elif what == "emit":
                backend.emit("updated", {**values, "id": last, "extra": PRIVATE})
                backend.emit("created", cls(**{n: Schema(cls).fields[n].read(v) for n, v in values.items()}))
                continue
            request["op"] = {"c": "me", "n": number}
            for _ in range(1 + again):
                reply = await clients[role][0].namespace.call("sync", request)
            if what == "create" and len(reply) == 3:
                last = reply[1].get("id", last)
        await heard(backend, *(client for pair in clients.values() for client in pair[1:]))
        for role, pair in clients.items():
            late = await LegacyClient.open(url, "things", headers={"Cookie": f"role={role}"})
            (reply,) = await late.namespace.call("listen", None, {"v": 1, "since": since[role]})
            assert reply["streams"]["c:"]["recovered"]
            for client in (*pair, late):
                sent = "".join(client.wire.frames)
                assert PRIVATE not in sent
                assert role == "staff" or ROLE not in sent
                await client.close()


async def _since(client: LegacyClient) -> dict[str, Any]:
    (reply,) = await client.namespace.call("listen", None, {"v": 1})
    return {name: [at["epoch"], 0] for name, at in reply["streams"].items()}
