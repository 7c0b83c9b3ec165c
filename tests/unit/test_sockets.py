"""The gateway: the order of replies and events, and what comes and goes."""

import asyncio

import pytest

from bbio import Backend, Limits, create
from bbio.builtin import MemoryStore
from tests.support.listeners import Server, settled, until


class Todos(Backend):
    """A backend whose creates may wait, before the write or after it, and may tell of something else first."""

    store = MemoryStore()

    def __init__(self):
        self.gate = asyncio.Event()

    @create
    async def make(self, req, next):
        if req.model.get("wait"):
            await self.gate.wait()
        if "first" in req.model:
            await self.log.append("c:", "create", req.model["first"])
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
    second = server.gateway.joined("again", server.backend, connection, first)
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
    draining = asyncio.create_task(server.gateway.drain(30.0))
    await settled()
    assert not draining.done()
    server.backend.gate.set()
    await draining
    assert ann.acks[0][0] is None


async def test_draining_gives_up_in_the_end(server):
    """What does not end in time is answered `Unavailable`, once."""
    ann = server.client()
    ann.sync("create", {"wait": True})
    await server.gateway.drain(0.01)
    await until(lambda: not server.gateway.exchanges)
    assert [ack[0]["error"]["name"] for ack in ann.acks] == ["Unavailable"]
    await server.gateway.drain(0.01)


async def test_a_request_whose_deadline_passes_while_it_waits_is_not_run():
    """It is answered `Timeout`, and its turn is passed over."""
    server = Server(Todos, Limits(deadline=0.05, running=1))
    ann = server.client()
    ann.sync("create", {"wait": True})
    ann.sync("create", {"title": "milk"})
    await until(lambda: len(ann.acks) == 2)
    server.backend.gate.set()
    await until(lambda: not server.gateway.exchanges)
    assert [ack[0]["error"]["name"] for ack in ann.acks] == ["Timeout", "Timeout"]
    assert server.store.log.stream("c:").top == 0
    await server.close()
