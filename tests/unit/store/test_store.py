"""The base of all stores: what it refuses, and that an operation has one effect."""

import contextlib
import functools

import attrs
import pytest

from bbio import Found, use
from bbio.backend import Backend
from bbio.builtin import MemoryStore, SQLiteStore
from bbio.errors import BadRequest, Conflict, DefinitionError
from bbio.log import Log, MemoryLog
from bbio.protocol import decode
from bbio.requests import METHODS, Request
from bbio.runtime import Runtime
from bbio.store import Promises, Store
from bbio.streams import Op
from tests.support.listeners import Server, settled


class Counters(Store):
    """A store that counts how often it was written to."""

    def __init__(self):
        self.writes = []

    async def create(self, req):
        self.writes.append(req.model)
        return {**req.model, "id": len(self.writes)}

    patch = create


class Published(list):
    """The events a store published, each with the writer's socket."""

    def event(self, event, origin=None):
        self.append((event, origin))

    def doubt(self, streams=None):
        """Nobody follows."""


@pytest.fixture
def published():
    """What the store published."""
    return Published()


@pytest.fixture
def store(published):
    """An open store of counters."""
    return Counters().open("backend", published)


@pytest.mark.parametrize("method", METHODS)
async def test_a_method_that_is_not_written_is_refused(method):
    """The client is told which method of which backend there is not."""
    backend = type("Todos", (Backend,), {})
    with pytest.raises(BadRequest, match=f"the backend 'todos' has no {method}"):
        await getattr(Store(), method)(Request(method, {}, backend=backend))


async def test_a_refused_write_leaves_no_event(store, published):
    """Nothing is numbered, published or remembered for a write that failed."""
    req = Request("delete", {"id": 1}, op=Op("c", 1))
    with pytest.raises(BadRequest):
        await store.write(req)
    assert published == []
    assert await store.log.find(req) is None
    assert (await store.log.positions(["c:"]))["c:"].offset == 0


async def test_every_backend_opens_a_copy():
    """Two backends that share a declaration share no events."""
    declared = Counters()
    first, second = (declared.open(name, Published()) for name in ("a", "b"))
    await first.write(Request("create", {}))
    assert (first.backend, second.backend) == ("a", "b")
    assert (await first.log.positions(["c:"]))["c:"].offset == 1
    assert (await second.log.positions(["c:"]))["c:"].offset == 0
    assert not hasattr(declared, "log")


async def test_a_store_without_resources_starts_and_stops(store, published):
    """The defaults do nothing, and the store answers between them."""
    await store.start()
    await store.write(Request("create", {}))
    await store.stop()
    assert len(published) == 1


async def test_a_write_is_numbered_and_published(store, published):
    """The event has the record as stored, the channel's stream and the operation; the writer's socket goes along."""
    socket = object()
    commit = await store.write(Request("create", {"n": 1}, channel="room", op=Op("c", 1), socket=socket))
    assert (commit.record, commit.duplicate) == ({"n": 1, "id": 1}, False)
    [(event, writer)] = published
    assert event is commit.event
    assert writer is socket
    assert (event.stream, event.offset, event.method, event.op) == ("c:room", 1, "create", Op("c", 1).public)
    assert decode(event.body) == {"n": 1, "id": 1}


async def test_a_patch_is_told_as_an_update(store, published):
    """Other clients get the whole model."""
    await store.write(Request("patch", {"n": 1}))
    assert published[0][0].method == "update"


async def test_a_duplicate_operation_has_one_effect_and_one_event(store, published):
    """A retry is answered with what the first attempt came to."""
    first = await store.write(Request("create", {"n": 1}, op=Op("c", 1), payload='["sync",{"n":1}]'))
    retry = Request("create", {"n": 1}, op=Op("c", 1), payload='["sync",{"n":1}]')
    again = await store.write(retry)
    assert store.writes == [{"n": 1}]
    assert len(published) == 1
    assert again.duplicate
    assert (again.record, again.event) == (first.record, first.event)
    assert (await store.log.find(retry)).event is first.event


async def test_an_operation_id_cannot_be_used_twice(store, published):
    """Another payload under a used id is a conflict and changes nothing."""
    await store.write(Request("create", {"n": 1}, op=Op("c", 1), payload='["sync",{"n":1}]'))
    with pytest.raises(Conflict):
        await store.write(Request("create", {"n": 2}, op=Op("c", 1), payload='["sync",{"n":2}]'))
    assert (store.writes, len(published)) == ([{"n": 1}], 1)


async def test_writes_without_an_operation_are_all_applied(store, published):
    """Without an id, the same request twice is two writes."""
    for _ in range(2):
        await store.write(Request("create", {"n": 1}))
    assert [event.offset for event, _ in published] == [1, 2]


async def test_append_tells_of_a_write_made_elsewhere(store, published):
    """Without a request the event has no operation and no writer."""
    commit = await store.log.append("c:room", "update", {"id": 1})
    [(event, writer)] = published
    assert (event.stream, event.method, event.op, writer) == ("c:room", "update", None, None)
    assert decode(commit.body) == commit.record == {"id": 1}
    assert store.writes == []


async def test_append_for_a_request_happens_once(store, published):
    """A retry of the request appends nothing; the first carries its operation and its writer."""
    socket = object()
    for expected in (False, True):
        req = Request("create", {}, op=Op("c", 1), payload='["sync",{"n":1}]', socket=socket)
        assert (await store.log.append("c:", "create", {"id": 1}, req)).duplicate is expected
    [(event, writer)] = published
    assert event.op == Op("c", 1).public
    assert writer is socket


async def test_since_tells_what_was_missed(store, published):
    """From the position before, exactly the events after it; from another epoch, nothing can be told."""
    before = (await store.log.positions(["c:"]))["c:"]
    for n in range(3):
        await store.write(Request("create", {"n": n}))
    assert await store.log.since("c:", before.epoch, 1) == [event for event, _ in published[1:]]
    assert await store.log.since("c:", "other", 1) is None


@pytest.mark.parametrize(
    ("bases", "name", "owner"),
    [
        ((Store,), "backend", "Store"),
        ((Store,), "log", "Store"),
        ((Store,), "publisher", "Store"),
        ((MemoryLog,), "publisher", "Log"),
        ((Store, MemoryLog), "record", "MemoryLog"),
        ((Store, MemoryLog), "streams", "MemoryLog"),
        ((Counters,), "merged", "Store"),
    ],
)
def test_what_the_base_needs_is_not_taken_by_accident(bases, name, owner, published):
    """A method or an attribute of such a name is refused, where it stands or when the store is opened."""
    with pytest.raises(DefinitionError, match=f"Files.{name} hides {owner}.{name}; give it another name"):
        type("Files", bases, {name: lambda self: None, "__qualname__": "Files"})

    class Settings(*bases):
        def __init__(self):
            setattr(self, name, "mine")

    with pytest.raises(
        DefinitionError, match=rf"Settings\.{name} is set before .* hidden by {owner}'s own; give it another name"
    ):
        Settings().open(None, published)


def test_a_store_that_was_opened_can_be_opened_again(published):
    """What the base has set by itself is in nobody's way."""
    assert Counters().open(None, published).open("another", published).backend == "another"


def test_a_store_that_takes_no_stamp_is_told_what_to_change():
    """Without one, a history that fell back could not be told from the one that a client knows."""
    with pytest.raises(DefinitionError, match=r"Old\.since must take a stamp: async def since\(self, stream, epoch, "):

        class Old(Store, MemoryLog):
            async def since(self, stream, epoch, offset):
                return None

    class New(Store, MemoryLog):
        async def since(self, stream, epoch, offset, stamp=0):
            return None

    assert New


class Slow(MemoryStore):
    """A store of an application, which may wait."""


class Slower(SQLiteStore):
    """The same over a file."""


@attrs.define
class Todo:
    title: str = ""


@pytest.mark.parametrize(
    ("declared", "model", "bare"),
    [
        (None, None, set()),
        (Counters(), None, set()),
        (MemoryStore(), None, set(METHODS)),
        (MemoryStore(), Todo, set(METHODS) - {"create", "update", "patch"}),
        (Slow(), None, set()),
        (SQLiteStore("todos.db"), None, {"read"}),
        (SQLiteStore("todos.db"), Todo, set()),
        (Slower("todos.db"), None, set()),
    ],
)
def test_what_meets_no_code_of_the_application_needs_no_task(declared, model, bare, published):
    """The store's class says what it promises of each method; a class derived from it promises less."""
    backend = type("Todos", (Backend,), {"store": declared, "model": model})()
    runtime = Runtime(backend, "todos", lambda work: None)
    runtime.open(published)
    assert {method for method, stack in runtime.stacks.items() if stack.is_bare} == bare


def test_a_store_promises_what_it_declares():
    """`atomic` in a class body is enough."""
    assert Counters().promises("create") == Promises(atomic=False, immediate=False)
    assert type("Ledger", (Counters,), {"atomic": True})().promises("create") == Promises(atomic=True, immediate=False)


@pytest.mark.parametrize(
    "name", ["append", "positions", "since", "tell_recheck", "check_interval", "event_clock", "broker"]
)
def test_what_is_asked_of_logs_alone_is_refused_in_a_store(name):
    """Nobody would ask the store; the text shows what to write, and with that it is asked."""
    with pytest.raises(
        DefinitionError, match=rf"Ledger\.{name} is asked of logs alone: write class Ledger\(Store, MemoryLog\), which"
    ):
        type("Ledger", (Store,), {name: lambda *given: None, "__qualname__": "Ledger"})
    assert type("Ledger", (Store, MemoryLog), {name: lambda self, stream, epoch, offset, stamp: None})


async def test_a_store_that_is_a_log_is_its_own(published):
    """What it overrides of a log is asked; the rest is kept in memory, as of any other store."""

    class Ledger(Counters, MemoryLog):
        async def positions(self, streams):
            return {name: (position, "mine") for name, position in (await super().positions(streams)).items()}

    ledger = Ledger().open("backend", published)
    assert ledger.log is ledger
    await ledger.write(Request("create", {"n": 1}))
    position, mine = (await ledger.log.positions(["c:"]))["c:"]
    assert (position.offset, mine, len(published)) == (1, "mine", 1)
    plain = Counters().open("backend", published)
    assert type(plain.log) is MemoryLog


def test_an_unfinished_log_cannot_be_made():
    """The error names what is not written, before anything runs."""
    with pytest.raises(TypeError, match=r"Log\b.*append.*find.*positions.*since"):
        Log()
    with pytest.raises(TypeError, match=r"abstract class Ledger .*find"):
        type("Ledger", (Store, Log), dict.fromkeys(("append", "positions", "since"), MemoryLog.since))()


@pytest.mark.parametrize("declared", [None, Counters(), MemoryStore()])
async def test_every_backend_has_a_log(declared, published):
    """Without a store it is one in memory; it is started and stopped once, before and after the store."""
    said = []

    class Todos(Backend):
        store = declared

    runtime = Runtime(Todos(), "todos", lambda work: None)
    runtime.open(published)
    assert (type(runtime.log) is MemoryLog) == (type(declared) is not MemoryStore)
    assert (runtime.store is None) == (declared is None)
    for part in {runtime.log, runtime.store} - {None}:
        for name in ("start", "stop"):
            setattr(part, name, functools.partial(say, said, name, part))
    await runtime.start()
    await runtime.stop()
    parts = [runtime.log] if runtime.store in (None, runtime.log) else [runtime.log, runtime.store]
    assert said == [*(("start", part) for part in parts), *(("stop", part) for part in reversed(parts))]


async def say(said, *what):
    said.append(what)


class Planets(Store):
    """A store that says what it found beside the models, as it is asked to."""

    def __init__(self, way):
        self.way = way

    async def read(self, req):
        models, revs = [{"id": 1, "name": "Mars"}], {1: 7}
        if self.way == "returned":
            return Found(models, revs, next="more", total=9)
        if self.way == "left":
            req.revs = revs
            req.page = {"next": "more", "total": 9}
        return models


@pytest.mark.parametrize("way", ["returned", "left", "plain"])
async def test_what_a_store_has_found_is_told(way):
    """Layers get the models; revisions, cursor and total come to whoever has asked. A plain list is enough."""
    seen = []

    class Todos(Backend):
        store = Planets(way)

        @use("read")
        async def look(self, next):
            seen.append(await next())
            return seen[-1]

    left = pytest.warns(DeprecationWarning, match="write `return Found")
    warned = left if way == "left" else contextlib.nullcontext()
    server = Server(Todos)
    client = server.client()
    with warned:
        client.sync("read", {}, op={"c": "ann", "n": 1})
        await settled()
    told = {"r": [None]} if way == "plain" else {"r": [7], "next": "more", "total": 9}
    assert client.acks == [[None, [{"id": 1, "name": "Mars"}], told]]
    assert seen == [[{"id": 1, "name": "Mars"}]]
    await server.close()
