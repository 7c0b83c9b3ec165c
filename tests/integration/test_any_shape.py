"""Whatever arrives as `listen` or `sync`: one ack when one was asked for, and a connection that lives."""

import asyncio

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bbio import App, Backend
from bbio.builtin import MemoryStore
from tests.support.examples import examples
from tests.support.wire import ACK, LegacyClient

NAMES = [
    "method",
    "model",
    "options",
    "channel",
    "op",
    "rev",
    "v",
    "since",
    "id",
    "__proto__",
    "error",
    "data",
]
METHODS = ["create", "read", "update", "patch", "delete"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from([*NAMES, *METHODS, "constructor", "*", "c:", "/todos", "\u2028", 10**400, -(2**63)])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), inner, max_size=5)
    ),
    max_leaves=12,
)
# Near misses get further into the server than noise does.
requests = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(METHODS) | values,
        "model": values,
        "options": values,
        "channel": values,
        "op": st.fixed_dictionaries({"c": values, "n": values}) | values,
        "rev": values,
    },
)
listens = st.fixed_dictionaries({}, optional={"v": values, "since": st.dictionaries(st.text(), values) | values})
arguments = st.lists(values | requests | listens, max_size=4)
# And what is right but for its values gets through.
channels = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
positions = st.tuples(st.text(max_size=8), st.integers(-1, 2**60)).map(list)
models = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), values, max_size=4)
sound = {
    "listen": st.tuples(channels)
    | st.tuples(
        channels,
        st.fixed_dictionaries({"v": st.just(1)}, optional={"since": st.dictionaries(channels.map(str), positions)}),
    ),
    "sync": st.tuples(
        st.fixed_dictionaries(
            {"method": st.sampled_from(METHODS), "model": models | st.just({"id": "1"})},
            optional={
                "options": st.none() | st.dictionaries(st.sampled_from(NAMES), values, max_size=3),
                "op": st.fixed_dictionaries({"c": st.text("abc", min_size=1, max_size=2), "n": st.integers(1, 3)}),
                "rev": st.none() | st.integers(0, 5),
            },
        )
    ),
}


@pytest.fixture
def served(engine):
    """A runner with a served application, and the way to open clients of it."""

    class Todos(Backend):
        store = MemoryStore(upsert=True)

    with asyncio.Runner() as runner:
        app = App(engine=engine)
        app.serve(Todos)
        runner.run(app.start(host="127.0.0.1", port=0))
        client = runner.run(LegacyClient.open(app.url, "todos"))
        try:
            yield runner, app, client
        finally:
            runner.run(client.close())
            runner.run(app.stop())


async def one_ack(client: LegacyClient, event: str, args: list) -> bool:
    """Send an event with any arguments, then a valid sync: one ack each, in a form the protocol knows.

    Returns: whether it was refused.
    """
    namespace = client.namespace
    namespace.packets.clear()
    namespace.events.clear()
    ack = await namespace.reply(await namespace.start(event, *args))
    valid = await namespace.call("sync", {"method": "create", "model": {"still": "here"}, "options": {}})
    assert valid[0] is None
    assert [packet.kind for packet in namespace.packets if packet.kind == ACK] == [ACK, ACK]
    if event == "listen":
        assert len(ack) == 1
        assert ack[0].keys() >= {"event"} or set(ack[0]) == {"error"}
    else:
        assert (len(ack) == 1 and set(ack[0]) == {"error"}) or (len(ack) in (2, 3) and ack[0] is None)
    return ack[0] is not None and "error" in ack[0]


@pytest.mark.parametrize("event", ["listen", "sync"])
def test_any_arguments_get_exactly_one_ack_and_the_connection_lives(served, event):
    """For every shape of arguments there is one ack, and a valid sync works right after it."""
    runner, app, client = served
    refused = []

    @settings(
        max_examples=examples(300),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @example([])
    @example([None])
    @example([{}])
    @example([[]])
    @example(["sync"])
    @example([{"method": "create"}])
    @example([{"method": "drop", "model": {}, "options": {}}])
    @example([{"method": "create", "model": {"__proto__": {"admin": True}}, "options": {}}])
    @example([{"method": "update", "model": {"id": {"$ne": 1}}, "options": {}}])
    @example([{"method": "read", "model": {"id": [[]]}, "options": {}}])
    @example([{"method": "read", "model": {}, "options": {"data": [1]}}])
    @example([{"method": "create", "model": {}, "options": {}}, 1, 2, 3])
    @example(["home", {"v": 1, "since": {"c:home": [1, -1], "*": "x"}}])
    @example(["home", {"v": 10**400}])
    @given(arguments | sound[event].map(list))
    def check(args: list) -> None:
        nonlocal client
        if len(refused) % 50 == 49:
            # A socket that listens to as many channels as it may would refuse all that follow.
            runner.run(client.close())
            client = runner.run(LegacyClient.open(app.url, "todos"))
        refused.append(runner.run(one_ack(client, event, args)))

    try:
        check()
    finally:
        runner.run(client.close())
    # Neither kind of answer may be all there is, or half of the server was never reached.
    assert min(refused.count(True), refused.count(False)) >= examples(300) // 20


def test_any_json_at_all_in_place_of_the_arguments(served):
    """Even where the event's own frame is odd, what asked for an ack and could get one gets one."""
    runner, _, client = served

    async def check(event: str, raw: str) -> None:
        namespace = client.namespace
        namespace._ids += 1
        id = namespace._ids
        await namespace.raw(f'["{event}",{raw}]', id)
        ack = await namespace.reply(id)
        assert set(ack[0]) == {"error"}
        assert ack[0]["error"]["name"] == "BadRequest"
        assert await client.sync("create", {"title": "still here"}, {})
        assert len(namespace.acks(id)) == 1

    deep = "[" * 200 + "]" * 200
    for event in ("listen", "sync"):
        for raw in ("9" * 5000, deep, '{"method":"read","model":' + deep + "}", "1e308"):
            runner.run(check(event, raw))


# What JSON itself cannot say, or JavaScript could not read back.
UNSPEAKABLE = {
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "1e400": "1e400",
    "lone surrogate": r'"\ud800"',
    "nul": r'"\u0000"',
}


@pytest.mark.parametrize("raw", UNSPEAKABLE.values(), ids=UNSPEAKABLE.keys())
def test_what_cannot_travel_is_refused_before_any_store(served, raw):
    """Numbers and strings that other clients could not read are answered with BadRequest and not stored."""
    runner, _, client = served

    async def check() -> None:
        ids = iter(range(1000, 1010))
        for request in (
            f'{{"method":"create","model":{{"a":{raw}}},"options":{{}}}}',
            f'{{"method":"create","model":{{"a":[[{{"b":{raw}}}]]}},"options":{{}}}}',
            f'{{"method":"read","model":{{}},"options":{{"data":{{"a":{raw}}}}}}}',
        ):
            id = next(ids)
            await client.namespace.raw(f'["sync",{request}]', id)
            (ack,) = await client.namespace.reply(id)
            assert ack["error"]["name"] == "BadRequest"
        assert await client.sync("read") == []

    runner.run(check())


@pytest.mark.parametrize("model", ['{"_placeholder":true,"num":0}', '{"a":[{"_placeholder":true,"num":0}]}'])
def test_binary_data_is_no_model(served, model):
    """A sync with an attachment gets its one ack, an error: JSON is all that every client can be told."""
    runner, _, client = served

    async def check() -> None:
        request = f'["sync",{{"method":"create","model":{model},"options":{{}}}}]'
        await client.wire.send(f"451-/todos,77{request}", b"bytes")
        (ack,) = await client.namespace.reply(77)
        assert ack["error"]["name"] == "BadRequest"
        assert await client.sync("read") == []
        assert len(client.namespace.acks(77)) == 1

    runner.run(check())
