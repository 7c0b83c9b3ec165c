"""What a session holds back for a new token, and sends again, without a network."""

import asyncio

import pytest

from bbio import Unauthorized, UnknownOutcome
from bbio.client import Dropped
from bbio.client.handle import Handles
from bbio.client.session import BackendSession, SessionSettings
from bbio.client.transport import PATIENCE_SECONDS
from bbio.protocol import decode, encode
from bbio.testing import Clock

ENDED = {"error": {"name": "Unauthorized", "message": "ended", "code": 401, "expired": True}}
HOME = {"v": 1, "user": "x", "streams": {"c:": {"epoch": "e", "offset": 0, "recovered": False, "events": []}}}


class Renewable:
    """An identity that notes what it is told."""

    is_renewable = True

    def __init__(self):
        self.ends = 0

    def told(self, renewal, seconds):
        pass

    def ended(self, renewal):
        self.ends += 1


class Wire:
    """A connection that keeps what is sent, with what takes the answer."""

    max_payload = None

    def __init__(self):
        self.sent = []

    def drop(self):
        raise AssertionError("the connection lives")

    def emit(self, event, arguments, answer):
        self.sent.append((event, decode(encode(arguments)), answer))

    def take(self, event):
        """What was sent first of an event: its arguments, and what takes the answer."""
        found = next(each for each in self.sent if each[0] == event)
        self.sent.remove(found)
        return found[1], found[2]

    @property
    def events(self):
        return [event for event, _, _ in self.sent]


class Client:
    """A session that listens, its wire and its handle."""

    def __init__(self, keep=False):
        self.identity = Renewable()
        self.session = BackendSession(
            "todos", lambda session: None, Clock(), SessionSettings(), "me", lambda: 0.5, "ann", keep,
            identity=self.identity,
        )  # fmt: skip
        self.wire = Wire()
        self.handle = Handles().get(self.session, self.session.subscription(None, "id"))
        self.session.connected(self.wire, "a")
        self.wire.take("listen")[1](HOME)

    async def ask(self, work):
        task = asyncio.ensure_future(work)
        await self.rounds()
        return task

    async def rounds(self):
        for _ in range(6):
            await asyncio.sleep(0)

    def end(self):
        self.session.received("auth", ({"expires_in": 0},))

    async def renew(self):
        offer = self.session.renewal.offer("b")
        arguments, answer = self.wire.take("auth")
        assert arguments == [{"token": "b"}]
        answer({"expires_in": 60})
        assert (await offer).seconds == 60


@pytest.fixture
async def client():
    client = Client()
    yield client
    client.session.close()


async def test_nothing_is_sent_before_there_is_a_new_token(client):
    """No request and no listen; then each once."""
    client.end()
    create, read = await client.ask(client.handle.create({"n": 1})), await client.ask(client.handle.read())
    client.session.received("resync", ("c:",))
    while client.session.clock.time() < PATIENCE_SECONDS / 2:
        client.session.clock.turn()
    assert (client.wire.events, client.identity.ends) == ([], 1)
    await client.renew()
    assert sorted(client.wire.events) == ["listen", "sync", "sync"]
    assert client.wire.take("listen")[0][1]["since"] == {"c:": ["e", 0]}
    client.wire.take("sync")[1](None, {"id": 1, "n": 1}, {"s": "c:", "e": "e", "o": 1, "r": 1})
    client.wire.take("sync")[1](None, [])
    assert (await create, await read) == ({"id": 1, "n": 1}, [])


async def test_a_write_that_was_refused_is_sent_again_with_its_operation(client):
    """Once, however many refusals of it come."""
    create = await client.ask(client.handle.create({"n": 1}))
    (first,), refuse_first = client.wire.take("sync")
    while "sync" not in client.wire.events:
        client.session.clock.turn()
    (second,), refuse_second = client.wire.take("sync")
    refuse_first(ENDED)
    refuse_second(ENDED)
    assert (client.wire.events.count("sync"), client.identity.ends) == (0, 1)
    await client.renew()
    (third,), answer = client.wire.take("sync")
    assert first == second == third
    assert "sync" not in client.wire.events
    answer(None, {"id": 1}, {"s": "c:", "e": "e", "o": 1, "r": 1})
    assert await create == {"id": 1}
    refuse_second(ENDED)
    assert not client.session.renewal.is_held


async def test_a_refusal_by_the_token_of_before_has_the_request_sent_at_once(client):
    """There is a new one already."""
    read = await client.ask(client.handle.read())
    _, refuse = client.wire.take("sync")
    await client.renew()
    refuse(ENDED)
    client.wire.take("sync")[1](None, [])
    assert (await read, client.identity.ends) == ([], 0)


async def test_a_write_that_was_refused_was_not_made(client):
    """If another user connects it is dropped; one that was sent before it was refused may have been made."""
    refused = await client.ask(client.handle.create({"n": 1}))
    client.wire.take("sync")[1](ENDED)
    client.session.replaced("bob", keep=False)
    with pytest.raises(Dropped):
        await refused
    other = Client()
    doubtful = await other.ask(other.handle.create({"n": 1}))
    while other.wire.events.count("sync") < 2:
        other.session.clock.turn()
    other.wire.take("sync")
    other.wire.take("sync")[1](ENDED)
    other.session.replaced("bob", keep=False)
    with pytest.raises(UnknownOutcome):
        await doubtful
    other.session.close()


async def test_a_write_waits_for_a_token_as_for_a_connection(client):
    """Its time stands still; that of a read does not."""
    client.end()
    write, read = await client.ask(client.handle.create({"n": 1})), await client.ask(client.handle.read())
    for _ in range(20):
        client.session.clock.turn()
    await client.rounds()
    assert (write.done(), type(read.exception()).__name__) == (False, "Timeout")
    await client.renew()
    client.wire.take("sync")[1](None, {"id": 1}, {"s": "c:", "e": "e", "o": 1, "r": 1})
    assert await write == {"id": 1}


async def test_a_session_gives_up(client):
    """Those that may not listen are refused, the others are told; what waits is refused by the server."""
    client.end()
    write = await client.ask(client.handle.create({"n": 1}))
    events = client.handle.events()
    client.identity.is_renewable = False
    client.session.renewal.give_up(Unauthorized("no token", expired=True))
    client.session.renewal.give_up(Unauthorized("no token, once more", expired=True))
    client.wire.take("sync")[1](ENDED)
    with pytest.raises(Unauthorized, match="ended"):
        await write
    with pytest.raises(Unauthorized, match=r"no token$"):
        await anext(events)


async def test_a_connection_that_is_lost_holds_nothing(client):
    """The next one begins with a token that holds."""
    client.end()
    write = await client.ask(client.handle.create({"n": 1}))
    client.session.disconnected()
    assert not client.session.renewal.is_held
    client.session.connected(wire := Wire(), "b")
    wire.take("listen")[1](HOME)
    wire.take("sync")[1](None, {"id": 1}, {"s": "c:", "e": "e", "o": 1, "r": 1})
    assert await write == {"id": 1}
