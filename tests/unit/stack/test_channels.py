"""Rules of channels: what they answer, and about whom they are asked."""

from types import SimpleNamespace

import pytest

from bbio import Backend, Forbidden, channel
from bbio.requests import Request, ServerRequest
from tests.support.stacks import Served


def rules(answer):
    class Rooms(Backend):
        asked: list = []

        @channel("room-{room}")
        def room(self, req, room):
            self.asked.append(room)
            return answer() if callable(answer) else answer

    served = Served(Rooms)
    served.backend.asked = []
    return served


def request(served, name, event="listen", **socket):
    fields = {"channels": {}, "granted": (), "to_listen": (), "remote": "192.0.2.1", "headers": {}, **socket}
    return Request("read", None, {}, served.backend, name, SimpleNamespace(**fields), event=event)


async def admitted(served, req):
    return (await served.registry.admit(served.runtime, req))[0]


@pytest.mark.parametrize(
    ("answer", "name"),
    [(None, None), (True, None), (False, "Forbidden"), *((odd, "InternalError") for odd in (1, 0, "yes", []))],
)
async def test_only_nothing_and_true_let_in(answer, name):
    """What looks like an answer and is none lets nobody in: nothing depends on what Python takes for true."""
    served = rules(answer)
    failure = await admitted(served, request(served, "room-a"))
    assert (type(failure).__name__ if failure else None) == name


async def test_there_are_no_other_channels():
    """Whatever rule comes first."""

    class Rooms(Backend):
        @channel("a")
        def first(self): ...

        @channel("b")
        def second(self): ...

    served = Served(Rooms)
    failures = [await admitted(served, request(served, name)) for name in ("a", "b", "c", None)]
    assert [failure and failure.message for failure in failures] == [None, None, *["there is no such channel"] * 2]


async def test_an_async_answer_is_awaited():
    """Also of a plain function that returns something to await."""

    async def no():
        return False

    served = rules(no)
    assert isinstance(await admitted(served, request(served, "room-a")), Forbidden)


async def test_who_is_asked_about():
    """Each listen is; a sync is not in a channel that the client listens to, or was let into."""
    served = rules(None)
    asked = served.backend.asked
    await admitted(served, request(served, "room-a", "sync", channels={"room-a": 1}))
    await admitted(served, request(served, "room-b", granted={"room-b"}))
    assert asked == []
    await admitted(served, request(served, "room-c", channels={"room-c": 1}))
    await admitted(served, request(served, "room-d", "sync", channels={"room-c": 1}))
    await admitted(served, request(served, "room-e", "sync", channels={"room-e": 1}, to_listen={"room-e"}))
    assert asked == ["c", "d", "e"]


async def test_what_the_server_does_for_nobody_is_not_asked_about():
    """What it does for a user is."""
    served = rules(False)
    place = {"backend": served.backend, "channel": "room-a"}
    assert await admitted(served, ServerRequest("read", **place)) is None
    assert isinstance(await admitted(served, ServerRequest.of_user("ann", "read", None, **place)), Forbidden)
