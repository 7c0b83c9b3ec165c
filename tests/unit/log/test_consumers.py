"""The states of consumers, and the ledger that keeps them in memory."""

from __future__ import annotations

from bbio.log import ConsumerState, Letter, MemoryLedger, Step
from bbio.streams import Event, Position, Streams

LETTER = Letter(model="7", event=Event("c:", "e", 1, "update", b'{"id":7}'), attempts=3, error="OSError: no")


def test_a_consumer_of_a_channel_is_behind_in_its_own_streams_alone():
    """One of all channels is behind in those that it does not know yet as well."""
    tops = {"c:": Position("e", 9), "c:home": Position("e", 5)}
    state = ConsumerState(name="mailer", channel="home", epoch="e", positions={"c:home": Position("e", 2)})
    assert state.behind(tops) == 3
    state = ConsumerState(name="mailer", channel=None, epoch="e", positions={"c:home": Position("e", 2)})
    assert state.behind(tops) == 12


async def test_a_letter_that_fails_again_after_it_was_dropped_stays_dropped():
    """One that is still there counts its attempts, and is dead again."""
    ledger = MemoryLedger(Streams())
    await ledger.register("mailer", None, "e", {})
    fence = await ledger.claim("mailer", "one", 60.0)
    await ledger.keep("mailer", fence, Step(letters=[LETTER, LETTER]))
    first, second = await ledger.letters("mailer")
    assert await ledger.skip("mailer", first.id)
    assert await ledger.keep("mailer", fence, Step(failed=[first, second]))
    (letter,) = await ledger.letters("mailer")
    assert (letter.id, letter.attempts, letter.state) == (second.id, 6, "dead")
