"""Rooms: what becomes of sockets whose cards are looked at again, and of news that concerns nobody here."""

import asyncio
import itertools
import time
from types import SimpleNamespace

import pytest

from bbio import App, Backend, Forbidden, Limits, Unavailable, presence
from bbio.cluster.presence import Entry
from bbio.requests import Request
from bbio.server.connection import ClientSocket, Connection
from bbio.server.presence.rooms import Rooms


class Place:
    """The rooms of one backend whose cards a test decides on."""

    def __init__(self, **limits):
        class Places(Backend):
            @presence
            async def card(self, req):
                return await self.show(req)

        async def show(req):
            return {}

        self.limits = Limits(**limits)
        self.runtime = App().serve(places=Places).backends["places"]
        self.runtime.backend.show = show
        self.told = []
        self.rooms = Rooms(SimpleNamespace(send=lambda peers, namespace, text: self.told.append(text)), self.limits)
        self._sids = itertools.count()

    async def enter(self, user):
        connection = Connection({}, "192.0.2.1", self.limits, time.monotonic)
        socket = ClientSocket(str(next(self._sids)), self.runtime, connection, peer=object())
        self.rooms.check_join(socket)
        self.rooms.join(self.request(socket, user), b"{}", None)
        return socket

    def request(self, socket, user):
        return Request("read", None, {}, self.runtime.backend, None, socket, user=user)

    def is_present(self, socket):
        return self.rooms.attendance(socket, None) is not None


@pytest.fixture
async def place():
    place = Place(members=2)
    await place.rooms.start()
    yield place
    await place.rooms.stop()


async def test_news_of_a_channel_in_which_nobody_is(place):
    """They are nobody's."""
    entry = Entry(("places", "elsewhere"), "1", "ann", b"{}", b"{}", 1.0)
    place.rooms.put(entry)
    place.rooms.remove(entry, lingers=False)
    socket = await place.enter("ann")
    place.rooms.end(socket, "elsewhere")
    assert place.told == []


async def test_a_passing_error_keeps_nobody_out(place):
    """A refusal does."""
    socket, errors = await place.enter("ann"), [Unavailable("later"), Forbidden("no")]

    async def show(req):
        raise errors.pop(0)

    place.runtime.backend.show = show
    await place.rooms.review(socket, None, place.request(socket, "ann"))
    assert place.is_present(socket)
    await place.rooms.review(socket, None, place.request(socket, "ann"))
    assert not place.is_present(socket)


async def test_who_leaves_while_its_card_is_looked_at(place):
    """It stays away."""
    socket, gate = await place.enter("ann"), asyncio.Event()

    async def show(req):
        await gate.wait()
        return {"name": "Ann"}

    place.runtime.backend.show = show
    review = asyncio.create_task(place.rooms.review(socket, None, place.request(socket, "ann")))
    await asyncio.sleep(0)
    place.rooms.leave(socket, None)
    gate.set()
    await review
    assert not place.is_present(socket)


async def test_who_becomes_another_member_needs_room(place):
    """As one that joins does; where it is the only one of its old member, too."""
    ann, _bob = await place.enter("ann"), await place.enter("bob")
    second = await place.enter("ann")
    await place.rooms.review(second, None, place.request(second, "cid"))
    assert not place.is_present(second)
    await place.rooms.review(ann, None, place.request(ann, "bob"))
    assert place.is_present(ann)
