"""Partial events on the server: who is told what changed, live and afterwards."""

from __future__ import annotations

import attrs
import pytest

import bbio
from bbio import Backend, DefinitionError, field, visible
from bbio.builtin import MemoryStore
from bbio.streams import Event
from tests.support.listeners import Server, SharedStore, listening, publish, settled
from tests.support.stacks import Served

A, B = {"id": "a", "text": "x", "n": 0, "old": 1}, {"id": "b", "text": "y", "n": 0, "old": 1}


class Stories(Backend):
    store = SharedStore(models=[A, B])
    deltas = True


@attrs.define
class Story:
    text: str = ""
    n: int = 0
    pin: str = field(private=True, default="")


@attrs.define
class Noted(Story):
    notes: str = field(roles=("support",), default="")


class Identify(bbio.Middleware):
    """The role of a client is what it says."""

    @bbio.before
    def identify(self, req):
        req.user = {"id": "u", "roles": [] if req.socket is None else [req.socket.headers.get("role", "")]}


class Typed(Backend):
    model = Story
    store = MemoryStore(models=[A, B])
    deltas = True
    name = "stories"


class Roles(Typed):
    model = Noted
    middleware = (Identify(),)


class Scoped(Roles):
    @visible
    def scope(self, req):
        return {"text": {"$ne": "hidden"}, "n": {"$ne": 100 + int(req.socket.headers.get("way", "0"))}}


@pytest.fixture
async def start():
    """Start a server of a backend; it is closed after the test."""
    servers = []

    def start(backend):
        servers.append(Server(backend))
        return servers[-1]

    yield start
    for server in servers:
        await server.close()


async def join(server, *, deltas=True, since=None, **headers):
    """A client that listens, and may take what changed."""
    client = server.client(**headers)
    extras = {"v": 1, "since": since or {}, "client": f"client {server.clients}"}
    if deltas is not None:
        extras["deltas"] = deltas
    server.gateway.receive(client.socket, "listen", 1, [None, extras])
    await settled()
    return client


async def patch(client, **model):
    client.sync("patch", model, op={"c": "me", "n": len(client.received)})
    await settled()


def latest(client):
    """The latest event: what it is, of what model, and what changed of that."""
    method, model, meta = client.events[-1]
    return method, model, {name: meta[name] for name in ("b", "unset", "append") if name in meta}


async def test_those_who_ask_are_told_what_changed(start):
    """Also that nothing has; others, and those of before version 1, are told the whole."""
    server = start(Stories)
    writer, taker, other = await join(server), await join(server), await join(server, deltas=None)
    wrong = [await join(server, deltas=deltas) for deltas in (False, 1, "true", {})]
    legacy = await listening(server, version=0)
    base = 1
    for changes, told in (
        ({"n": 2, "$append": {"text": "yz"}}, ({"n": 2}, {"append": {"text": "yz"}})),
        ({"n": 2}, ({}, {})),
        ({"text": "", "new": None}, ({"text": "", "new": None}, {})),
        ({"$append": {"text": "a"}}, ({"text": "a"}, {})),
    ):
        await patch(writer, id="a", **changes)
        method, model, meta = latest(taker)
        assert (method, model) == ("patch", {"id": "a", **told[0]})
        assert next(iter(model)) == "id"
        assert meta == {"b": base, **told[1]}
        base = taker.events[-1][2]["r"]
        whole = server.store.streams.stream("c:").events[-1]
        for client in (other, *wrong, legacy):
            assert client.events[-1][0] == "update"
            assert client.events[-1][1] == bbio.protocol.decode(whole.body)
        assert other.offsets == taker.offsets
    writer.sync("update", {"id": "b"}, op={"c": "me", "n": 100})
    await settled()
    assert latest(taker) == ("patch", {"id": "b"}, {"b": 2, "unset": ["text", "n", "old"]})
    writer.sync("delete", {"id": "b"}, op={"c": "me", "n": 101})
    await settled()
    assert latest(taker) == ("delete", {"id": "b"}, {})


async def test_what_was_missed_is_told_in_the_same_way(start):
    """From the ring and from the log."""
    server = start(Stories)
    writer, taker = await join(server), await join(server)
    since = {name: [place["epoch"], 0] for name, place in taker.reply["streams"].items()}
    await patch(writer, id="a", **{"$append": {"text": "y"}})
    await patch(writer, id="a", n=1)
    for _ in range(2):
        late, whole = await join(server, since=since), await join(server, since=since, deltas=None)
        assert late.reply["streams"]["c:"]["events"] == taker.events
        assert [event[0] for event in whole.reply["streams"]["c:"]["events"]] == ["update", "update"]
        server.forget()


async def test_an_event_of_another_process_is_looked_up(start):
    """That process does not tell how the record was; the log does. Nobody looks for those who take whole records."""
    server = start(Stories)
    store = server.store
    other, taker = await join(server, deltas=None), None
    for n in range(2):
        store.asked.clear()
        event = store.streams.append(
            "c:", "update", b'{"id":"a","n":%d}' % n, 9 + n, None, b'[{"n":7},[],{},%d]' % (8 + n)
        )
        told = Event(event.stream, event.epoch, event.offset, event.method, event.body, event.rev, stamp=event.stamp)
        publish(server, told)
        await settled()
        assert other.offsets == [1, 2][: n + 1]
        assert bool(store.asked) == (taker is not None)
        if taker is None:
            taker = await join(server)
    assert latest(taker) == ("patch", {"id": "a", "n": 1}, {"b": 9})
    # What no store has made has no revision, and nothing to be looked up.
    store.asked.clear()
    publish(server, store.streams.append("c:", "update", b'{"id":"a","n":9}'))
    await settled()
    assert (latest(taker), store.asked) == (("update", {"id": "a", "n": 9}, {}), [])


@pytest.mark.parametrize("backend", [Typed, Roles, Scoped])
async def test_nothing_is_told_of_what_is_not_seen(start, backend):
    """Not even the name of a private field that changed, or of one for others; each is told that something did."""
    server = start(backend)
    writer, taker, other = await join(server, role="support"), await join(server), await join(server, deltas=None)
    support, same = await join(server, role="support"), await join(server, way="1")
    notes = {} if backend is Typed else {"notes": "paid late"}
    await patch(writer, id="a", pin="1234", **notes, **{"$append": {"text": "y"}})
    assert latest(taker) == ("patch", {"id": "a"}, {"b": 1, "append": {"text": "y"}})
    assert latest(other)[:2] == ("update", {"id": "a", "text": "xy", "n": 0})
    assert same.events == taker.events
    assert latest(support) == ("patch", {"id": "a", **notes}, {"b": 1, "append": {"text": "y"}})
    await patch(writer, id="a", pin="12345")
    assert latest(taker)[:2] == ("patch", {"id": "a"})
    assert b"pin" not in bbio.protocol.encode([client.received for client in (taker, other, support)])


async def test_what_leaves_a_view_and_comes_into_it_is_told_whole(start):
    """What is there before and after alone is told as what changed, live and afterwards."""
    server = start(Scoped)
    taker = await join(server)
    since = {name: [place["epoch"], place["offset"], 0, place["d"]] for name, place in taker.reply["streams"].items()}
    for text in ("seen", "hidden", "back"):
        await server.runtime.stacks["patch"].run(bbio.Request("patch", {"id": "a", "text": text}, {}, server.backend))
        await settled()
    told = [(method, model) for method, model, _ in taker.events]
    assert told == [
        ("patch", {"id": "a", "text": "seen"}),
        ("delete", {"id": "a"}),
        ("create", {"id": "a", "text": "back", "n": 0}),
    ]
    late = await join(server, since=since)
    assert late.reply["streams"]["c:"]["events"] == taker.events
    assert (await join(server, since={"c:": ["x", 1]})).reply["streams"]["c:"]["recovered"] is False


async def test_a_client_that_listens_again_may_take_whole_records(start):
    """The latest listen says it; who leaves is told nothing."""
    server = start(Stories)
    writer, taker = await join(server), await join(server)
    server.gateway.receive(taker.socket, "listen", 1, [None, {"v": 1}])
    await settled()
    await patch(writer, id="a", n=1)
    assert latest(taker)[0] == "update"
    server.gateway.receive(taker.socket, "listen", 1, [None, {"v": 1, "deltas": True}])
    await settled()
    await patch(writer, id="a", n=2)
    assert latest(taker)[0] == "patch"
    server.gateway.receive(taker.socket, "unlisten", 1, [[None]])
    await settled()
    await patch(writer, id="a", n=3)
    assert len(taker.events) == 2


async def test_backends_that_do_not_say_so_tell_whole_records(start):
    """Whatever clients ask for; their logs keep nothing of how records were."""

    class Plain(Backend):
        store = MemoryStore(models=[A])

    server = start(Plain)
    writer, taker = await join(server), await join(server)
    await patch(writer, id="a", n=1)
    assert latest(taker)[0] == "update"
    assert server.store.streams.stream("c:").events[-1].was is None


def test_it_needs_a_store_that_knows_how_records_were():
    """The error says so."""
    with pytest.raises(DefinitionError, match="'own': its events must say how records were, and it has no store"):
        Served(type("Own", (Backend,), {"deltas": True, "name": "own"}))
