"""Whatever clients send, only declared fields that they may write are stored, valid as a whole, and ids stay."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from bbio import App, Backend, Request, field
from bbio.builtin import MemoryStore
from bbio.protocol import decode
from tests.properties.models import json_values


@attrs.define
class Account:
    """What clients may write, and what they would like to."""

    id: str | None = None
    low: int = 0
    high: int = attrs.field(default=10)
    tags: list[str] = attrs.field(factory=list)
    owner: str = field(read_only=True, default="server")
    salt: str = field(private=True, read_only=True, default="server")
    password: str = field(private=True, default="")
    role: str = field(roles=("admin",), default="server")

    @high.validator
    def above_low(self, attribute: Any, value: int) -> None:
        if value <= self.low:
            raise ValueError("must be above low")


PROTECTED = ("owner", "salt", "role")
names = st.sampled_from(["server", "ann", "s1", "r1", "x"])
likely = {
    "low": st.integers(-5, 12),
    "high": st.integers(-5, 12),
    "tags": st.lists(names, max_size=2),
    "password": names,
    **dict.fromkeys(PROTECTED, names),
}
odd = st.dictionaries(st.sampled_from([*likely, "admin", "rev"]), names | json_values, max_size=6)
one = st.sampled_from(sorted(likely)).flatmap(lambda name: st.fixed_dictionaries({name: likely[name]}))
models = one | st.fixed_dictionaries({}, optional=likely) | odd
methods = st.sampled_from(["create", "update", "patch", "delete"])
syncs = st.tuples(methods, models, st.sampled_from(["1", "2", "x", None]))


@given(st.lists(syncs, max_size=12), st.sampled_from(["reject", "drop"]), st.booleans())
def test_only_what_a_client_may_write_is_stored(program, unknown, upsert):
    """Creates, updates and patches of any shape, right and wrong."""
    asyncio.run(_run(program, unknown, upsert))


async def _run(program: list[Any], unknown: str, upsert: bool) -> None:
    first = [Account(id="1", owner="ann", salt="s1", role="r1"), Account(id="2", owner="bob", salt="s2", role="r2")]
    store = MemoryStore(models=first, upsert=upsert)
    app = App().serve(type("Accounts", (Backend,), {"model": Account, "unknown": unknown, "store": store}))
    backend = app.backends["accounts"]
    kept = {account.id: {name: getattr(account, name) for name in PROTECTED} for account in first}
    for method, model, key in program:
        given_id = {} if key is None else {"id": key}
        before = await _stored(backend)
        res = await backend.stacks[method].run(Request(method, {**model, **given_id}, backend=backend))
        stored = await _stored(backend)
        if res.failure is not None:
            assert stored == before
        for each, record in stored.items():
            assert set(record) <= {attribute.name for attribute in attrs.fields(Account)}
            expected = kept.get(each, dict.fromkeys(PROTECTED, "server"))
            assert {name: record[name] for name in PROTECTED} == expected
            assert record["high"] > record["low"]
            assert record["id"] == each
        if method == "delete" and res.failure is None:
            kept.pop(key, None)


async def _stored(backend: Any) -> dict[str, Any]:
    models = backend.log._channels.get(None, {})
    return {key: decode(body) for key, (_, body) in models.items()}
