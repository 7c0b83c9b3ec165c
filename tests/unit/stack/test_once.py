"""Operations: one effect, one event and equal replies, however often and from wherever they are tried."""

import asyncio

import pytest

from bbio import Backend, BadRequest, Limits, Store, Timeout, Unavailable, UnknownOutcome, after, before, create, use
from bbio.builtin import MemoryStore
from bbio.requests import Request
from bbio.stack import once as module
from bbio.stack.once import Attempts
from bbio.streams import Commit, Event
from tests.support.listeners import Server, settled, until

OP = {"c": "ann", "n": 1}


class Gate:
    """What runs waits here until the test lets it go; it counts how often something ran."""

    def __init__(self):
        self.count = 0
        self.failures = []
        self.open = asyncio.Event()

    async def run(self):
        self.count += 1
        await self.open.wait()
        if self.failures:
            raise self.failures.pop(0)


class Handled(Backend):
    """A backend of handlers without a store."""

    def __init__(self):
        self.gate = Gate()

    @create
    async def make(self, req):
        await self.gate.run()
        return {**req.model, "id": self.gate.count}


class Plain(Store):
    """A store that is not atomic."""

    async def create(self, req):
        await self.backend.gate.run()
        return {**req.model, "id": self.backend.gate.count}


class Stored(Backend):
    """A backend over a store that is not atomic."""

    store = Plain()

    def __init__(self):
        self.gate = Gate()


class Checked(Stored):
    """The same with a layer above it."""

    store = Plain()

    @before
    def check(self, req):
        req.user = req.socket.headers.get("user")


class SlowMemory(MemoryStore):
    """An atomic store with code of the application's own, that waits."""

    async def create(self, req):
        await self.backend.gate.run()
        return await super().create(req)


class Atomic(Stored):
    """A backend over an atomic store that waits."""

    store = SlowMemory()


class AtomicChecked(Checked):
    """The same with a layer above it."""

    store = SlowMemory()


class AtomicHandled(Stored):
    """The same with a handler above it."""

    store = SlowMemory()

    @create
    async def shape(self, req, next):
        return await next()


ALL = [Handled, Stored, Checked, Atomic, AtomicChecked, AtomicHandled]
NOT_ATOMIC = [Handled, Stored, Checked]


@pytest.fixture
async def serve():
    """`serve(Todos)`: a gateway with that backend."""
    servers = []

    def serve(backend, **limits):
        server = Server(backend, Limits(**limits))
        servers.append(server)
        return server

    yield serve
    for server in servers:
        await server.close()


def attempt(client, model=None, op=OP, channel=None):
    """One attempt at an operation."""
    client.sync("create", model or {"title": "milk"}, op=op, channel=channel)


@pytest.mark.parametrize("backend", ALL)
async def test_a_concurrent_duplicate_waits_and_gets_the_same_reply(serve, backend):
    """Even on another connection: what it asks for runs once, and one event tells of it."""
    server = serve(backend)
    listener, first, second, third = (server.client() for _ in range(4))
    listener.listen()
    for client in (first, second, third):
        attempt(client)
    await settled()
    assert server.backend.gate.count == 1
    server.backend.gate.open.set()
    await settled()
    assert server.backend.gate.count == 1
    assert first.acks == second.acks == third.acks
    assert first.acks[0][0] is None
    assert len(listener.events) == 1


@pytest.mark.parametrize("backend", ALL)
async def test_a_retry_gets_the_same_reply(serve, backend):
    """Later, from another connection of the client."""
    server = serve(backend)
    server.backend.gate.open.set()
    first, again = server.client(), server.client()
    attempt(first)
    await settled()
    attempt(again)
    await settled()
    assert server.backend.gate.count == 1
    assert first.acks == again.acks


@pytest.mark.parametrize("backend", ALL)
async def test_another_payload_under_the_same_operation_is_a_conflict(serve, backend):
    """It changes nothing, be it at the same time or later."""
    server = serve(backend)
    first, swapped = server.client(), server.client()
    attempt(first)
    await settled()
    attempt(swapped, {"title": "beer"})
    server.backend.gate.open.set()
    await settled()
    attempt(swapped, {"title": "wine"})
    await settled()
    assert [ack[0]["error"]["name"] for ack in swapped.acks] == ["Conflict", "Conflict"]
    assert server.backend.gate.count == 1


@pytest.mark.parametrize("backend", [Checked, AtomicChecked])
async def test_two_users_with_the_same_operation_do_not_meet(serve, backend):
    """An operation is somebody's: another's is another, and waits for nobody."""
    server = serve(backend)
    ann, bob = server.client(user="ann"), server.client(user="bob")
    attempt(ann)
    attempt(bob, {"title": "beer"})
    await settled()
    assert server.backend.gate.count == 2
    server.backend.gate.open.set()
    await settled()
    assert [client.acks[0][1]["title"] for client in (ann, bob)] == ["milk", "beer"]


@pytest.mark.parametrize("backend", ALL)
async def test_different_operations_run_at_the_same_time(serve, backend):
    """Only equal ones wait for each other, and writes without one for nobody."""
    server = serve(backend)
    for n in range(3):
        attempt(server.client(), op={"c": "ann", "n": n})
    for _ in range(2):
        server.client().sync("create", {"title": "milk"})
    await settled()
    assert server.backend.gate.count == 5
    server.backend.gate.open.set()
    await settled()


@pytest.mark.parametrize("backend", NOT_ATOMIC)
@pytest.mark.parametrize("failure", [OSError("half way"), Unavailable(), Timeout(), UnknownOutcome()])
async def test_a_retry_of_what_failed_half_way_is_refused(serve, backend, failure):
    """Nobody knows what the first attempt did: it never runs again, whatever it asks for now."""
    server = serve(backend)
    server.backend.gate.failures.append(failure)
    server.backend.gate.open.set()
    client = server.client()
    for _ in range(3):
        attempt(client)
        await settled()
    attempt(client, {"title": "beer"})
    await settled()
    assert [ack[0]["error"]["name"] for ack in client.acks[1:]] == ["UnknownOutcome"] * 3
    assert server.backend.gate.count == 1
    attempt(client, op={"c": "ann", "n": 2})
    await settled()
    assert client.acks[-1][0] is None


@pytest.mark.parametrize("backend", NOT_ATOMIC)
async def test_a_retry_of_what_took_too_long_is_refused(serve, backend):
    """The first attempt was cancelled; its duplicate, which waited, is not run in its place."""
    server = serve(backend, deadline=0.05)
    first, waiting = server.client(), server.client()
    attempt(first)
    server.gateway.exchanges.limits = Limits()
    attempt(waiting)
    await until(lambda: waiting.acks)
    assert first.acks[0][0]["error"]["name"] == "Timeout"
    assert waiting.acks[0][0]["error"]["name"] == "UnknownOutcome"
    assert server.backend.gate.count == 1


@pytest.mark.parametrize("backend", [Atomic, AtomicChecked, AtomicHandled])
@pytest.mark.parametrize("failure", [OSError("half way"), Unavailable(), Timeout(), BadRequest("no")])
async def test_an_atomic_store_is_asked_again(serve, backend, failure):
    """It has either committed or done nothing: a retry is safe."""
    server = serve(backend)
    server.backend.gate.failures.append(failure)
    server.backend.gate.open.set()
    client = server.client()
    for _ in range(3):
        attempt(client)
        await settled()
    assert "error" in client.acks[0][0]
    assert client.acks[1] == client.acks[2]
    assert client.acks[1][0] is None
    assert server.store.streams.stream("c:").top == 1


@pytest.mark.parametrize("backend", NOT_ATOMIC)
async def test_what_was_refused_may_be_tried_again(serve, backend):
    """An error below 500 says that nothing was done."""
    server = serve(backend)
    server.backend.gate.failures.append(BadRequest("not now"))
    server.backend.gate.open.set()
    client = server.client()
    for _ in range(2):
        attempt(client)
        await settled()
    assert client.acks[0][0]["error"]["name"] == "BadRequest"
    assert client.acks[1][0] is None
    assert server.backend.gate.count == 2


async def test_a_failure_above_a_handler_that_is_through_is_half_way_too(serve):
    """What the handler did is done, though no event tells of it."""

    class Todos(Backend):
        made = 0
        failing = True

        @use("create")
        async def strict(self, req, next):
            result = await next()
            if self.failing:
                raise BadRequest("not like this")
            return result

        @create
        def make(self, req):
            self.made += 1
            return req.model

    server = serve(Todos)
    client = server.client()
    attempt(client)
    server.backend.failing = False
    attempt(client)
    assert [ack[0]["error"]["name"] for ack in client.acks] == ["BadRequest", "UnknownOutcome"]
    assert server.backend.made == 1


async def test_a_handler_above_an_atomic_store_may_be_tried_again(serve):
    """Where the store was reached, it knows; a handler that fails after it is answered by what is stored."""

    class Todos(Backend):
        store = MemoryStore()
        failing = True

        @create
        async def strict(self, req, next):
            record = await next()
            if self.failing:
                raise OSError("too late")
            return record

    server = serve(Todos)
    client = server.client()
    attempt(client)
    server.backend.failing = False
    attempt(client)
    assert client.acks[0][0]["error"]["name"] == "InternalError"
    assert client.acks[1][1]["title"] == "milk"
    assert server.store.streams.stream("c:").top == 1


@pytest.mark.parametrize("store", [None, MemoryStore(), Plain()])
async def test_a_reshaped_reply_is_owed_again(serve, store):
    """What handlers make of a record, `use` and `after` layers too, is the same in every reply."""

    class Todos(Backend):
        def __init__(self):
            self.store = store
            self.gate = Gate()
            self.gate.open.set()

        @after("create")
        def greet(self, req, res):
            res.result["greeting"] = "hello"

        @use("create")
        async def wrap(self, req, next):
            return {"wrapped": await next()}

        @create
        async def shape(self, req, next):
            record = await next() if self.store is not None else req.model
            return {**record, "secret": "for the writer alone"}

    server = serve(Todos)
    listener, client = server.client(), server.client()
    listener.listen()
    for _ in range(3):
        attempt(client)
        await settled()
    assert client.acks[0] == client.acks[1] == client.acks[2]
    assert client.acks[0][1]["wrapped"]["secret"] == "for the writer alone"
    assert client.acks[0][1]["greeting"] == "hello"
    assert len(listener.events) == 1


async def test_an_operation_of_a_read_means_nothing(serve):
    """Reads are repeated as often as is liked."""
    server = serve(Handled)
    client = server.client()
    for _ in range(2):
        client.sync("read", {}, op=OP)
    assert [ack[0] for ack in client.acks] == [None, None]


def operation(n=0):
    return ("ann", n)


async def broken_off(attempts, n):
    """An attempt that ends half way."""
    await attempts.begin(operation(n))
    attempts.end(operation(n), True)


async def is_refused(attempts, n):
    """Whether another attempt is refused."""
    await attempts.begin(operation(n))
    try:
        attempts.check(operation(n))
    except module.UnknownOutcome:
        return True
    finally:
        attempts.end(operation(n), False)
    return False


async def test_doubtful_operations_are_bounded_by_count(monkeypatch):
    """The oldest are forgotten first."""
    monkeypatch.setattr(module, "DOUBTFUL", 2)
    attempts = Attempts()
    for n in range(3):
        await broken_off(attempts, n)
    assert [await is_refused(attempts, n) for n in range(3)] == [False, True, True]


async def test_doubtful_operations_are_bounded_by_age():
    """As long as replies are kept, and no longer."""
    now = 0.0
    attempts = Attempts(clock=lambda: now)
    for n in range(3):
        await broken_off(attempts, n)
        now += module.DOUBT_SECONDS / 2 + 1
    assert [await is_refused(attempts, n) for n in range(3)] == [False, True, True]


def kept(attempts, n):
    """Whether the reply of an operation is remembered."""
    return attempts.reply(operation(n), Commit("stored", b"", None)) != "stored"


async def keep(attempts, n, result, commit=None):
    """An attempt that comes to something."""
    await attempts.begin(operation(n))
    attempts.keep(operation(n), Request("create", {}), result, commit)
    attempts.end(operation(n), False)


@pytest.mark.parametrize(("limit", "value"), [("REPLIES", 2), ("REPLIES_SIZE", 14)])
async def test_reshaped_replies_are_bounded(monkeypatch, limit, value):
    """By count and by size; the oldest are forgotten first, and the stored record is the reply then."""
    monkeypatch.setattr(module, limit, value)
    attempts = Attempts()
    for n in range(3):
        await keep(attempts, n, {"n": n})
    assert [kept(attempts, n) for n in range(3)] == [False, True, True]


async def test_what_the_store_will_tell_is_not_remembered_twice():
    """Most handlers leave the record as it is."""
    attempts = Attempts()
    await keep(attempts, 0, {"id": 1}, Commit({"id": 1}, b'{"id":1}', Event("c:", "e", 1, "create", b'{"id":1}')))
    assert not kept(attempts, 0)


async def test_a_duplicate_that_gives_up_waiting_leaves_the_others_waiting():
    """It is passed over when the first has ended."""
    attempts = Attempts()
    await attempts.begin(operation())
    gone, last = (asyncio.create_task(attempts.begin(operation())) for _ in range(2))
    await settled()
    gone.cancel()
    await settled()
    assert gone.cancelled()
    assert not last.done()
    attempts.end(operation(), False)
    await last
    attempts.end(operation(), False)


async def test_what_goes_on_after_its_attempt_has_ended_is_not_remembered():
    """A layer may leave `next()` behind; what that comes to is nobody's reply."""
    attempts = Attempts()
    attempts.keep(None, Request("create", {}), {"n": 1}, None)
    assert attempts.reply(None, Commit("stored", b"", None)) == "stored"
    assert not kept(attempts, 0)
