"""What a session does with what comes late, or for a channel that it does not follow: without a network."""

import pytest

from bbio import Timeout
from bbio.client.handle import Handles
from bbio.client.session import BackendSession
from bbio.client.settings import SessionSettings
from bbio.testing import Clock
from tests.unit.client.test_logic import Wire, asking, handle_of, reply, rounds


@pytest.fixture
async def session():
    """A session that listens to the default channel."""
    session = BackendSession("todos", lambda session: None, Clock(), SessionSettings(), "me", lambda: 0.5)
    session.wire, session.handles = Wire(), Handles()
    session.handle = handle_of(session)
    session.connected(session.wire)
    session.wire.answer(reply(0))
    yield session
    session.close()


async def sent_message(session):
    """A message on its way, and what takes its answer."""
    sending = await asking(session, session.handle.send("typing", 1, timeout=5))
    event, arguments, answer = session.wire.sent.pop()
    assert (event, arguments) == ("message", ("typing", 1, None))
    return sending, answer


async def expired(session, sending):
    """Return when the time of a message is over."""
    while not sending.done():
        assert session.clock.turn()
        await rounds()
    with pytest.raises(Timeout, match="the message 'typing' to 'todos': the server did not answer in time"):
        await sending


async def test_an_answer_to_a_message_after_its_time_changes_nothing(session):
    """Nor does one that comes twice."""
    late, answer_late = await sent_message(session)
    await expired(session, late)
    answer_late({"error": {"name": "Forbidden", "message": "no", "code": 403}})
    twice, answer_twice = await sent_message(session)
    answer_twice(None)
    answer_twice({"error": {"name": "Forbidden", "message": "no", "code": 403}})
    assert await twice is None


async def test_an_answer_over_a_connection_that_is_lost_counts_no_more(session):
    """The library may hand it on all the same."""
    sending, answer = await sent_message(session)
    session.disconnected()
    session.connected(Wire())
    answer(None)
    await rounds()
    assert not sending.done()
    await expired(session, sending)


async def test_messages_are_told_to_those_that_read_them_in_channels_that_are_followed(session):
    """Readers of events get none; who is present elsewhere is nobody's business either."""
    events, messages, away = session.handle.events(), session.handle.messages(), handle_of(session, "away")
    left = away.messages()
    session.leave(away._subscription)
    sender = {"key": "k", "card": {}}
    for channel in (None, "away", "never"):
        session.received("message", ("typing", channel, channel, sender))
        session.received("presence", (channel, {"epoch": "e", "seq": 1, "joined": [sender]}))
    for reader in (events, messages, left):
        reader.close()
    assert [message.data async for message in messages] == [None]
    assert [message async for message in left] == []
    assert [event async for event in events] == []


async def test_a_channel_that_was_left_is_resumed(session):
    """The listen that joins it says the position."""
    subscription = session.handle._subscription
    for offset in (5, 7):  # the second time it is not joined
        session.resume(subscription, {"c:": ["e", offset]})
    session.wire.sent.clear()
    session.join(subscription)
    ((event, (channel, claim), _),) = session.wire.sent
    assert (event, channel, claim["since"]) == ("listen", None, {"c:": ["e", 7]})
