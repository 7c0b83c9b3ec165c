"""Presence and messages of clients whose identity has ended, and of cards that fail when they are looked at again."""

import asyncio

import pytest

from bbio import Backend, Limits, before, message, presence
from bbio.builtin import MemoryStore
from tests.support.listeners import Server, settled, until


class Rooms(Backend):
    """Whoever a client says it is, it is, also after that was revoked: as with a signed cookie."""

    name = "rooms"
    store = MemoryStore()

    def __init__(self):
        self.refused = set()
        self.failing = set()
        self.hanging = set()
        self.came = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    @before("read")
    def introduce(self, req):
        req.identify(req.socket.headers["name"])

    @presence
    async def card(self, req):
        self.came.set()
        await self.gate.wait()
        if req.user in self.failing:
            raise KeyError(req.user)
        if req.user in self.hanging:
            await asyncio.Event().wait()
        return {"name": req.user}

    @message("said")
    async def said(self, req, data):
        self.came.set()
        await self.gate.wait()


@pytest.fixture
async def rooms():
    """A gateway with a backend of presence and messages."""
    server = Server(Rooms, Limits(deadline=0.2))
    await server.gateway.follow()
    yield server
    await server.gateway.close()
    await server.close()


async def listener(rooms, name):
    client = rooms.client(name=name)
    client.server.gateway.receive(client.socket, "listen", 1, [None, {"v": 1, "messages": True}])
    await settled()
    return client


def ask(client, event, *arguments):
    client.server.gateway.receive(client.socket, event, 1, [*arguments])


async def answered(client, count):
    await until(lambda: len(client.acks) == count)
    return client.acks[-1]


def told(client, event):
    return [arguments for name, arguments in client.received if name == event]


@pytest.mark.parametrize("asked", [("presence", None, {"members": True}), ("message", "said", "hello", None)])
@pytest.mark.parametrize("is_late", [False, True])
async def test_who_was_revoked_is_not_present_and_says_nothing(rooms, asked, is_late):
    """Whether it asks after that, or had asked before: layers would let it in as ever."""
    ann, bob = await listener(rooms, "ann"), await listener(rooms, "bob")
    ask(bob, "presence", None, {})
    await answered(bob, 2)
    if is_late:
        rooms.backend.gate.clear()
        rooms.backend.came.clear()
        ask(ann, *asked)
        await rooms.backend.came.wait()
    assert rooms.gateway.revoke(subject="ann") == 1
    if is_late:
        rooms.backend.gate.set()
    else:
        ask(ann, *asked)
    error, *_ = await answered(ann, 2)
    assert error["error"]["name"] == "Unauthorized"
    assert error["error"]["expired"] is True
    await until(lambda: not rooms.gateway.is_telling)
    assert (told(ann, "presence"), told(bob, "message")) == ([], [])
    room = rooms.gateway.rooms._rooms["rooms", ""]
    assert (len(room), list(room.told)) == (1, [bob.socket])
    ask(ann, "presence", None, None)
    assert await answered(ann, 3) == [None]


@pytest.mark.parametrize("fault", ["failing", "hanging"])
async def test_a_card_that_fails_keeps_nobody_from_being_asked(rooms, fault, caplog):
    """It stays as it was; those who are asked after it are asked all the same."""
    clients = [await listener(rooms, name) for name in ("ann", "bob")]
    for client in clients:
        ask(client, "presence", None, {})
        await answered(client, 2)
    getattr(rooms.backend, fault).update({"ann", "bob"})
    await asyncio.wait_for(rooms.backend.recheck(), 20)
    assert len(rooms.gateway.rooms._rooms["rooms", ""]) == 2
    assert caplog.text.count("rooms read of 127.0.0.1 failed") == 2
    getattr(rooms.backend, fault).clear()
