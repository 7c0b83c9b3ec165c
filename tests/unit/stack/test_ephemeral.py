"""`@presence` and `@message`: what a class declares with them, and what their methods come to."""

from __future__ import annotations

import pytest

from bbio import (
    App,
    Backend,
    DefinitionError,
    EncodingError,
    Middleware,
    Request,
    StackError,
    create,
    message,
    presence,
)
from bbio.builtin import MemoryStore


def ephemeral(cls):
    """What a backend's runtime has of it."""
    runtime = App().serve(cls).backends[cls.name]
    runtime.compile()
    return runtime.ephemeral


def request():
    return Request("read", event="presence", user={"id": "ann"})


def test_what_is_declared():
    """Presence by a method or by a word; messages by their names; of neither the stacks of syncs know."""

    class Rooms(Backend):
        store = MemoryStore()

        @presence()
        def card(self, req):
            return {"name": req.user["id"]}

        @message("read", "typing")
        @message("said")
        def told(self, data, req):
            return data

    class Plain(Backend):
        presence = True

    class Neither(Backend):
        """Nothing."""

    class Kept(Rooms):
        def told(self, req, data):
            """The marks are those of the method that it takes the place of."""

    rooms = ephemeral(Rooms)
    assert (rooms.has_presence, rooms.events) == (True, ("presence", "message"))
    assert set(rooms.messages) == set(ephemeral(Kept).messages) == {"read", "typing", "said"}
    assert (ephemeral(Plain).events, ephemeral(Neither).events) == (("presence",), ())
    runtime = App().serve(Rooms).backends["rooms"]
    assert runtime.stacks["read"].is_bare
    assert runtime.layers == []
    assert runtime.client_events == ("sync", "listen", "unlisten", "auth", "presence", "message")
    assert repr(presence) == "<decorator @presence>"
    assert repr(message) == "<decorator @message>"


async def test_cards():
    """A JSON object that the method returns, async or in a thread too; an empty one without a method."""

    class Rooms(Backend):
        @presence
        async def card(self, req):
            return {"name": req.user["id"]}

    class Threaded(Backend):
        @presence(thread=True)
        def card(self):
            return {"name": "thread"}

    class Plain(Backend):
        presence = True

    assert await ephemeral(Rooms).show(request()) == b'{"name":"ann"}'
    assert await ephemeral(Threaded).show(request()) == b'{"name":"thread"}'
    assert await ephemeral(Plain).show(request()) == b"{}"


@pytest.mark.parametrize(
    ("card", "error", "text"),
    [
        (
            None,
            StackError,
            "Rooms.card .* returned a NoneType, and a card is a JSON object; return what others may see",
        ),
        ([1], StackError, "returned a list"),
        ({"text": "x" * 5_000}, StackError, "returned a card of 5011 bytes, .* return 4096 bytes at most"),
        ({"tags": object()}, EncodingError, r"card.tags, from Rooms.card \(.*\), is a object"),
    ],
)
async def test_what_is_no_card(card, error, text):
    """The application is told where, and what to do."""

    class Rooms(Backend):
        @presence
        def card(self, req):
            return card

    with pytest.raises(error, match=text):
        await ephemeral(Rooms).show(request())


async def test_what_is_told():
    """What the method returns, and else what was sent."""

    class Rooms(Backend):
        @message("same")
        def same(self):
            """Nothing is to be changed."""

        @message("other")
        async def other(self, data):
            return {"was": data}

        @message("bad")
        def bad(self, req, data):
            return {"tags": object()}

    rooms = ephemeral(Rooms)
    assert await rooms.decide("same", request(), [1]) == b"[1]"
    assert await rooms.decide("other", request(), [1]) == b'{"was":[1]}'
    with pytest.raises(EncodingError, match=r"data.tags, from Rooms.bad \(.*\), is a object"):
        await rooms.decide("bad", request(), 1)


def declare(**members):
    return type("Rooms", (Backend,), members)


def fresh():
    def card(self, req):
        """Say something."""

    return card


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: presence("card"), "@presence takes no names: a backend has one presence; write @presence"),
        (lambda: presence(fresh(), fresh()), "@presence takes no names"),
        (lambda: message(fresh()), '@message needs the name of the message: write @message."typing"'),
        (lambda: message(), "@message needs the name"),
        (lambda: message(""), "a message's name has 1 to 64 characters"),
        (lambda: message("x" * 65), "a message's name has 1 to 64 characters"),
        (lambda: message("a", "a"), "@message: 'a' is named twice"),
        (lambda: declare(a=presence(fresh()), b=presence(fresh())), "Rooms.b and Rooms.a are both @presence; keep one"),
        (
            lambda: declare(a=message("x")(fresh()), b=message("x")(fresh())),
            r"Rooms.b and Rooms.a are both @message\('x'\); keep one",
        ),
        (lambda: declare(presence=presence(fresh())), "Rooms.presence hides Backend.presence; give it another name"),
        (
            lambda: declare(presence="yes"),
            "Rooms.presence is 'yes'; write presence = True, or @presence above a method",
        ),
        (lambda: declare(presense=True), "did you mean 'presence'"),
        (lambda: declare(message=lambda self, data: 1), r'write @message\("..."\) above it'),
        (lambda: declare(card=presence(lambda self, res: 1)), "presence layers may take req"),
        (lambda: declare(said=message("x")(lambda self, res: 1)), "message layers may take req, data"),
        (
            lambda: type("Own", (Middleware,), {"card": presence(fresh())}),
            "Own.card is @presence, which middleware cannot have; put it into the class of the backend",
        ),
    ],
)
def test_mistakes_are_told_when_the_class_is_defined(make, text):
    """With what to write instead."""
    with pytest.raises(DefinitionError, match=text):
        make()


def test_middleware_has_layers_of_other_kinds():
    """As ever."""

    class Own(Middleware):
        @create
        def make(self, req):
            return req.model

    class Rooms(Backend):
        middleware = [Own()]
        presence = True

    assert ephemeral(Rooms).has_presence
