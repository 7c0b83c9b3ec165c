"""RateLimit: who may make how many requests, and what whoever makes too many is told."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bbio import Backend, Busy, ConfigurationError, DefinitionError, Middleware, before
from bbio.builtin import MemoryStore, RateLimit
from bbio.builtin.ratelimit import Buckets
from bbio.requests import Request
from tests.support.stacks import Served


class Clock:
    """Seconds that stand still until they are moved."""

    now = 1_000.0

    def __call__(self):
        return self.now


def from_(remote, sid="a"):
    return SimpleNamespace(remote=remote, sid=sid, headers={}, cookies={}, channels={None: 1})


def served(limit, **own):
    clock = Clock()
    limit._buckets._clock = clock

    class Identify(Middleware):
        @before
        def identify(self, req):
            req.user = req.options.get("user")

    backend = type("Notes", (Backend,), {"store": MemoryStore(), "middleware": [Identify(), limit], **own})
    return Served(backend), clock


async def ask(served, method="create", remote="192.0.2.1", user=None, sid="a", event="sync"):
    """Make a request; return None, or the seconds that its client is to wait."""
    req = Request(method, {"id": 1}, {"user": user}, served.backend, None, from_(remote, sid), event=event)
    res = await served.registry.dispatch(served.runtime, req)
    return res.failure.retry_after if isinstance(res.failure, Busy) else None


async def test_a_burst_is_let_through_and_then_one_at_a_time():
    """`retry_after` is when there is room again: not a moment sooner, and no longer."""
    notes, clock = served(RateLimit("3/minute"))
    assert [await ask(notes, user="ann") for _ in range(4)] == [None, None, None, 20.0]
    clock.now += 19.9
    assert await ask(notes, user="ann") == pytest.approx(0.1, abs=0.002)
    clock.now += 0.1
    assert [await ask(notes, user="ann") for _ in range(2)] == [None, 20.0]
    clock.now += 3_600
    assert [await ask(notes, user="ann") for _ in range(4)] == [None, None, None, 20.0]


async def test_what_is_refused_does_not_count():
    """Whoever goes on asking waits no longer than who does not."""
    notes, clock = served(RateLimit("1/second"))
    assert await ask(notes, user="ann") is None
    for _ in range(100):
        assert await ask(notes, user="ann") == 1.0
    clock.now += 1.0
    assert await ask(notes, user="ann") is None


async def test_a_user_is_counted_over_all_connections_and_nobody_else_is_locked_out():
    """Others behind the same address have turns of their own; users without an id, and nobody, share the address'."""
    notes, _ = served(RateLimit("1/hour"))
    assert await ask(notes, user="eve", sid="a") is None
    assert await ask(notes, user={"id": "eve"}, remote="192.0.2.9", sid="b") is not None
    assert await ask(notes, user="ann") is None
    assert await ask(notes, user=None) is None
    assert await ask(notes, user={"name": "no id"}) is not None
    assert await ask(notes, user="bob") is None
    assert await ask(notes, user=None, remote="192.0.2.9") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [("192.0.2.1", "::ffff:192.0.2.1"), ("2001:db8::1", "2001:db8::ffff:1"), ("unknown", "unknown")],
)
async def test_an_address_is_counted_whoever_comes_from_it(one, other):
    """An IPv6 address counts as its network, of which a client may have as many as it likes."""
    notes, _ = served(RateLimit("1/day", by="address"))
    assert await ask(notes, user="ann", remote=one) is None
    assert await ask(notes, user="bob", remote=other) == pytest.approx(86_400)
    assert await ask(notes, user="bob", remote="2001:db9::1") is None


async def test_a_connection_or_whatever_a_function_says():
    """A key of None does not count."""
    notes, _ = served(RateLimit("1/minute", by="connection"))
    assert [await ask(notes, sid=sid) for sid in ("a", "b", "a")] == [None, None, 60.0]
    notes, _ = served(RateLimit("1/minute", by=lambda req: req.user))
    assert [await ask(notes, user=user) for user in ("ann", None, None, "ann")] == [None, None, None, 60.0]


async def test_only_the_methods_that_are_named_count():
    """`write` is all but `read`; a listen, and a look at permissions, count never."""
    notes, _ = served(RateLimit("1/minute", methods=["create"]))
    assert [await ask(notes, method) for method in ("read", "delete", "create", "read", "create")][-1] == 60.0
    notes, _ = served(RateLimit("1/minute", methods="write"))
    assert [await ask(notes, method) for method in ("delete", "read", "update")] == [None, None, 60.0]
    notes, _ = served(RateLimit("1/minute", burst=2))
    for _ in range(5):
        req = Request("read", None, {}, notes.backend, None, from_("192.0.2.1"), event="listen")
        assert await notes.registry.admit(notes.runtime, req) == (None, None)
    assert [await ask(notes, "read") for _ in range(3)] == [None, None, 60.0]


async def test_what_the_server_does_by_itself_does_not_count():
    """It has neither an address nor a connection."""
    for by in ("address", "connection", "user"):
        notes, _ = served(RateLimit("1/minute", by=by))
        for _ in range(3):
            req = Request("create", {}, {}, notes.backend)
            assert (await notes.registry.dispatch(notes.runtime, req)).failure is None


def test_the_buckets_that_are_remembered_are_bounded():
    """Whoever has waited longest is forgotten first; whoever is remembered stays limited."""
    clock = Clock()
    buckets = Buckets(1, 60.0, 1, clock, most=3)
    for key in "abc":
        assert not buckets.take(key)
    clock.now += 60
    assert not buckets.take("a")  # by now the latest
    assert not buckets.take("d")
    assert len(buckets) == 3
    assert buckets.take("a") == pytest.approx(60, abs=0.001)
    assert not buckets.take("b")


@given(
    count=st.integers(1, 50),
    burst=st.integers(1, 20),
    pauses=st.lists(st.floats(0, 3), max_size=60),
)
def test_no_more_than_the_rate_ever_passes(count, burst, pauses):
    """In no stretch of time does more pass than a burst and what the rate allows; whoever waits as told passes."""
    clock = Clock()
    buckets = Buckets(count, 10.0, burst, clock)
    passed = []
    for pause in pauses:
        clock.now += pause
        wait = buckets.take("ann")
        if not wait:
            passed.append(clock.now)
    for i, first in enumerate(passed):
        for j, last in enumerate(passed[i:]):
            assert j + 1 <= burst + (last - first) * count / 10.0 + 1e-3
    wait = 1.0
    while wait:
        wait = buckets.take("ann")
        clock.now += wait
        if wait:
            assert not buckets.take("ann")
            break


@pytest.mark.parametrize(
    "rate", ["", "30", "0/minute", "-1/minute", "1.5/minute", "30/fortnight", "٣/minute", 30, None]
)
def test_a_rate_that_is_none_is_refused(rate):
    """The text shows how to write it."""
    with pytest.raises(ConfigurationError, match="write a number and a time"):
        RateLimit(rate)


def test_other_options_are_checked():
    """When it is made."""
    with pytest.raises(ConfigurationError, match="choose one of user, address, connection"):
        RateLimit("1/minute", by="ip")
    with pytest.raises(ConfigurationError, match="1 or more"):
        RateLimit("1/minute", burst=0)
    with pytest.raises(DefinitionError, match="there is no sync method 'fetch'"):
        RateLimit("1/minute", methods=["fetch"])
