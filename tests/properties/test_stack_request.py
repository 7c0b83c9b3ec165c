"""What layers see of a request: trusted fields from the server, whatever the client sends."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bbio import Backend, Request, before
from bbio.protocol import read_sync
from bbio.requests import METHODS
from bbio.stack.stack import Run
from tests.support.stacks import Served

TRUSTED = (
    "user",
    "session",
    "state",
    "socket",
    "backend",
    "channel",
    "committed",
    "op",
    "event",
    "revs",
    "written",
    "digest",
)

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(TRUSTED), inner, max_size=3),
    max_leaves=6,
)
forged = st.dictionaries(st.sampled_from(TRUSTED) | st.text(max_size=4), values, max_size=6)


@given(
    st.sampled_from(METHODS),
    forged,
    forged,
    forged.map(lambda extra: extra | {"channel": None, "op": None, "rev": None}),
)
def test_nothing_a_client_sends_sets_a_trusted_field(
    method: str, model: dict[str, Any], options: dict[str, Any], extra: dict[str, Any]
) -> None:
    """Whatever a payload calls its fields, layers find user, session and state empty and the rest as set."""
    seen: list[Request] = []

    class Todos(Backend):
        @before
        def look(self, req: Request, res: Run) -> None:
            seen.append(req)
            assert (req.user, req.session, req.state) == (None, {}, {})
            assert (res.commit, res.found, res.written, res.attempt) == (None, None, msgspec.UNSET, None)
            assert (req.channel, req.op, req.event) == ("mine", None, "sync")

    served = Served(Todos)
    socket: Any = object()
    payload = msgspec.json.decode(msgspec.json.encode({**extra, "method": method, "model": model, "options": options}))
    fields = read_sync([payload])
    req = served.request(fields.method, fields.model, fields.options, channel="mine", socket=socket)
    res = asyncio.run(served.registry.dispatch(served.runtime, req))
    assert res.failure is None
    assert [r is req for r in seen] == [True]
    assert req.backend is served.backend
    assert req.socket is socket
    assert (req.method, req.model, req.options) == (method, model, options)
