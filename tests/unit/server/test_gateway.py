"""The gateway: the order of replies and events, and what comes and goes."""

import asyncio
import contextlib
import gc

import pytest

from bbio import Backend, Forbidden, Limits, before, create, read
from bbio.builtin import MemoryStore
from bbio.server import exchange
from bbio.server.memory import Addresses
from tests.support.listeners import Server, settled, until


class Todos(Backend):
    """A backend whose creates may wait, before the write or after it, and may tell of something else first."""

    store = MemoryStore()

    def __init__(self):
        self.gate = asyncio.Event()

    @before("read")
    def refuse_closed(self, req):
        if req.channel == "closed":
            raise Forbidden()

    @read
    async def long(self, req, next):
        return await next() if req.model is None else {"text": "x" * req.model["length"]}

    @create
    async def make(self, req, next):
        if req.model.get("wait"):
            await self.gate.wait()
        if "first" in req.model:
            await self.store.append("c:", "create", req.model["first"])
        record = await next()
        if req.model.get("late"):
            await self.gate.wait()
        return record


@pytest.fixture
async def server():
    """A gateway with that backend."""
    server = Server(Todos)
    yield server
    await server.close()


def names(client):
    """The kinds of what a client was sent, in order."""
    return [name for name, _ in client.received]


async def test_the_reply_takes_the_place_of_its_event(server):
    """A version-1 client learns of its own write by the reply, at the event's place; the others by the event."""
    ann, bob = server.client(), server.client()
    for client in (ann, bob):
        client.listen()
        client.received.clear()
    ann.sync("create", {"title": "milk"})
    assert names(ann) == ["ack"]
    assert ann.acks[0][2]["o"] == 1
    assert bob.offsets == [1]


async def test_what_was_written_before_is_told_before_the_reply(server):
    """The order on a connection is that of the stream."""
    ann = server.client()
    ann.listen()
    ann.received.clear()
    ann.sync("create", {"first": {"id": "x"}})
    assert names(ann) == ["synced", "ack"]
    assert (ann.offsets, ann.acks[0][2]["o"]) == ([1], 2)


async def test_an_event_that_left_before_its_reply(server):
    """Then the writer was told of it as everybody, and the reply tells the place again."""
    ann = server.client()
    ann.listen()
    ann.received.clear()
    ann.sync("create", {"late": True})
    assert ann.offsets == [1]
    server.backend.gate.set()
    await settled()
    assert names(ann) == ["synced", "ack"]
    assert ann.acks[0][2]["o"] == 1


async def test_a_refusal_nobody_asked_for_is_not_sent(server):
    """Without an ack id there is no answer, and the connection lives."""
    ann = server.client()
    server.gateway.receive(ann.socket, "sync", None, [7])
    server.gateway.receive(ann.socket, "listen", None, [7])
    assert ann.received == []
    server.gateway.receive(ann.socket, "sync", 1, [7])
    assert ann.reply["error"]["name"] == "BadRequest"


async def test_a_namespace_joined_again_before_it_was_left(server):
    """The end of the first socket takes nothing from the second."""
    first = server.client()
    connection = first.socket.connection
    second = server.gateway.joined("again", server.runtime, connection, first)
    server.gateway.left(first.socket)
    assert connection.sockets == {"/todos": second}
    assert not connection.closed
    server.gateway.left(second)
    assert connection.closed


async def test_a_socket_listens_to_so_many_channels():
    """More are refused; those it has may be listened to again."""
    server = Server(Todos, Limits(channels=2))
    ann = server.client()
    for channel in ("a", "b", "c", "a"):
        ann.listen(channel)
    assert ["error" in ack[0] for ack in ann.acks] == [False, False, True, False]
    await server.close()


async def test_draining_waits_for_what_runs(server):
    """What ends in time is answered with what it came to."""
    ann = server.client()
    ann.sync("create", {"wait": True})
    draining = asyncio.create_task(server.gateway.exchanges.drain(30.0))
    await settled()
    assert not draining.done()
    server.backend.gate.set()
    await draining
    assert ann.acks[0][0] is None


async def test_draining_gives_up_in_the_end(server):
    """What does not end in time is answered `Unavailable`, once."""
    ann = server.client()
    ann.sync("create", {"wait": True})
    await server.gateway.exchanges.drain(0.01)
    await until(lambda: not server.gateway.exchanges.running)
    assert [ack[0]["error"]["name"] for ack in ann.acks] == ["Unavailable"]
    await server.gateway.exchanges.drain(0.01)


async def test_a_request_whose_deadline_passes_while_it_waits_is_not_run():
    """It is answered `Timeout`, and its turn is passed over."""

    class Stubborn(Todos):
        """Its creates hold their turn until the gate opens, whatever is cancelled."""

        @create
        async def make(self, req, next):
            run.append(req.model)
            while not self.gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.gate.wait()
            raise Forbidden()

    run = []
    server = Server(Stubborn, Limits(deadline=0.05, running=1))
    ann = server.client()
    ann.sync("create", {"title": "bread"})
    ann.sync("create", {"title": "milk"})
    await until(lambda: len(ann.acks) == 2)
    server.backend.gate.set()
    await until(lambda: not server.gateway.exchanges.running)
    assert [ack[0]["error"]["name"] for ack in ann.acks] == ["Timeout", "Timeout"]
    assert run == [{"title": "bread"}]
    await server.close()


async def test_a_request_that_waits_has_no_error_at_hand(server, monkeypatch):
    """Making that of its deadline costs as much as all else that is done for it, so it is made when it is told."""
    monkeypatch.setattr(exchange, "Timeout", None)
    ann = server.client()
    ann.sync("create", {"wait": True})
    assert ann.acks == []
    server.backend.gate.set()
    await until(lambda: ann.acks)
    assert ann.acks[0][0] is None


async def test_what_waits_is_let_go_with_its_client(server):
    """The request, its model and its deadline's timer; nothing is held for it any more."""
    ann = server.client()
    for n in range(3):
        ann.sync("create", {"id": None, "wait": True, "n": n, "text": "x" * 5_000})
    connection = ann.socket.connection
    connection.hold()
    ann.sync("create", {"wait": True, "text": "x" * 5_000})
    (waits,) = connection._waiting
    held = connection.waiting.held
    assert held > 4 * 5_000
    ann.leave()
    assert (waits.replied, waits.timer.cancelled(), len(connection._waiting)) == (True, True, 0)
    assert connection.waiting.held < 0.8 * held
    server.backend.gate.set()
    await settled()
    assert connection.waiting.held == 0


@pytest.mark.parametrize("event", ["sync", "listen"])
async def test_a_request_that_fails_is_no_garbage(server, event):
    """What it holds is let go at once, not when Python looks for circles."""
    ann = server.client()
    arguments = {"sync": ["delete", {"id": "nothing", "text": "x"}], "listen": ["closed"]}[event]
    getattr(ann, event)(*arguments)
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            getattr(ann, event)(*arguments)
        found = gc.collect()
    finally:
        gc.enable()
    assert [ack[0]["error"]["name"] for ack in ann.acks] == [{"sync": "NotFound", "listen": "Forbidden"}[event]] * 11
    assert found == 0


async def test_an_answer_has_a_limit():
    """A read that is answered with more is told so, with what to do; a write is not, as it has been done."""
    server = Server(Todos, limits=Limits(reply=100))
    ann = server.client()
    for length in (80, 200):
        ann.sync("read", {"length": length})
    assert [arguments[0] is None for arguments in ann.acks] == [True, False]
    told = ann.reply["error"]
    assert (told["name"], "with a limit" in told["message"]) == ("BadRequest", True)
    ann.sync("create", {"text": "x" * 200})
    assert ann.reply is None
    await server.close()


async def test_addresses_have_limits():
    """Connections in all and of each address, which of IPv6 is a network; what left is free again."""
    addresses = Addresses(Limits(connections=3, connections_per_address=2))
    one, other = addresses.of("192.0.2.1"), addresses.of("2001:db8::1")
    assert addresses.of("::ffff:192.0.2.1") is one
    assert addresses.of("2001:db8::2") is other
    assert addresses.of("2001:db8:0:1::2") is not other
    assert addresses.of("no:address") is not other
    assert addresses.of("fe80::1%eth0") is addresses.of("fe80::2")
    for _ in range(2):
        assert addresses.refusal(one) is None
        addresses.enter(one)
    assert "from this address" in addresses.refusal(one)
    assert addresses.refusal(other) is None
    addresses.enter(other)
    assert "too many connections;" in addresses.refusal(other)
    addresses.leave(one)
    assert addresses.refusal(one) is None
