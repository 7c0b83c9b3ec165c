"""Consumers: a log that has them keeps positions, leases and letters, and its history waits for them."""

from __future__ import annotations

import asyncio
from typing import Any

from bbio.conformance.cases import Cases, Opened, case
from bbio.log import ConsumerState, Ledger, Letter, Step
from bbio.streams import BACKEND_WIDE, Event, HistoryLimits, Position

LEASE_SECONDS = 60.0
# Writes after which a log must have trimmed, whatever it puts off.
WRITES = 400


class Consumers(Cases):
    """The ledger of a log."""

    @case("consumers")
    async def test_a_consumer_is_known_from_the_first_time_on(self) -> None:
        """It begins as was said first; it has no worker, no letters, no gaps."""
        async with self.opened() as models:
            ledger = ledger_of(models)
            assert await ledger.states() == []
            positions = {"c:": Position("e", 7, 9), BACKEND_WIDE: Position("f", 0)}
            await ledger.register("mailer", None, "e", positions)
            await ledger.register("mailer", "home", "g", {})
            await ledger.register("a", "home", "e", {})
            first, mailer = await ledger.states()
            assert (first.name, first.channel, first.positions) == ("a", "home", {})
            assert (mailer.name, mailer.channel, mailer.epoch, mailer.positions) == ("mailer", None, "e", positions)
            assert (mailer.worker, mailer.lost, mailer.letters, mailer.is_active) == (None, 0, 0, False)
            assert 0 <= mailer.idle < LEASE_SECONDS

    @case("consumers")
    async def test_one_worker_has_the_lease(self) -> None:
        """Another one gets it when it is given back or has ended; who had it before keeps and renews nothing."""
        async with self.opened() as models:
            ledger = ledger_of(models)
            await ledger.register("mailer", None, "e", {})
            first = await ledger.claim("mailer", "one", LEASE_SECONDS)
            assert first is not None
            assert await ledger.claim("mailer", "two", LEASE_SECONDS) is None
            assert await ledger.renew("mailer", first, LEASE_SECONDS)
            state = await state_of(ledger)
            assert (state.worker, state.is_active) == ("one", True)
            assert 0 < state.lease <= LEASE_SECONDS
            await ledger.release("mailer", first)
            second = await ledger.claim("mailer", "two", 0.01)
            assert second is not None
            assert second > first
            assert not await ledger.renew("mailer", first, LEASE_SECONDS)
            await ledger.release("mailer", first)
            while (  # noqa: ASYNC110 - nobody is woken
                third := await ledger.claim("mailer", "three", LEASE_SECONDS)
            ) is None:
                await asyncio.sleep(0.01)
            assert third > second
            for fence in (first, second):
                assert not await ledger.keep("mailer", fence, Step(positions={"c:": Position("e", 1, 1)}, lost=1))
            state = await state_of(ledger)
            assert (state.worker, state.positions, state.lost) == ("three", {}, 0)

    @case("consumers")
    async def test_a_lease_that_ended_is_renewed_if_nobody_has_taken_it(self) -> None:
        """A worker that stood still goes on where no other one came; the same one may ask again."""
        async with self.opened() as models:
            ledger = ledger_of(models)
            await ledger.register("mailer", None, "e", {})
            fence = await ledger.claim("mailer", "one", 0.001)
            assert fence is not None
            await asyncio.sleep(0.01)
            assert await ledger.keep("mailer", fence, Step(positions={"c:": Position("e", 1, 1)}))
            assert await ledger.renew("mailer", fence, LEASE_SECONDS)
            again = await ledger.claim("mailer", "one", LEASE_SECONDS)
            assert again is not None
            assert again > fence

    @case("consumers")
    async def test_a_step_is_kept_whole(self) -> None:
        """Positions move by stream, or are replaced; gaps are counted; the epoch stays unless another is said."""
        async with self.opened() as models:
            ledger = ledger_of(models)
            await ledger.register("mailer", None, "e", {"c:": Position("e", 1, 5)})
            fence = await ledger.claim("mailer", "one", LEASE_SECONDS)
            assert fence is not None
            moved = {"c:": Position("e", 2, 6), "c:home": Position("e", 4, 2**47)}
            assert await ledger.keep("mailer", fence, Step(positions=moved, lost=2))
            state = await state_of(ledger)
            assert (state.positions, state.epoch, state.lost) == (moved, "e", 2)
            step = Step(positions={"c:home": Position("g", 1, 7)}, replaces=True, epoch="g", is_idle=True)
            assert await ledger.keep("mailer", fence, step)
            state = await state_of(ledger)
            assert (state.positions, state.epoch, state.lost) == ({"c:home": Position("g", 1, 7)}, "g", 2)

    @case("consumers")
    async def test_letters_of_a_model_follow_each_other(self) -> None:
        """The later ones are behind the first; when it is handled or dropped, the next one is handled."""
        async with self.opened() as models:
            ledger = ledger_of(models)
            await ledger.register("mailer", None, "e", {})
            fence = await ledger.claim("mailer", "one", LEASE_SECONDS)
            assert fence is not None
            letters = [letter_of(1, error="no", attempts=3), letter_of(2, state="behind"), letter_of(3, model="8")]
            assert await ledger.keep("mailer", fence, Step(letters=letters))
            assert await ledger.keep("mailer", fence, Step(letters=[letter_of(4, state="behind")]))
            found = await ledger.letters("mailer")
            assert [each.event.offset for each in found] == [1, 2, 3, 4]
            assert [each.state for each in found] == ["dead", "behind", "dead", "behind"]
            assert (found[0].error, found[0].attempts, found[0].model) == ("no", 3, "7")
            assert [(each.event.stream, each.event.body, each.event.rev) for each in found[:1]] == [
                ("c:", '{"id":7,"text":"é"}'.encode(), 1)
            ]
            assert await ledger.held("mailer") == {"7": 3, "8": 1}
            assert (await state_of(ledger)).letters == 4
            assert len(await ledger.letters("mailer", most=2)) == 2
            assert not await ledger.put_back("mailer", found[1].id)
            assert await ledger.put_back("mailer", found[0].id)
            assert await offsets(ledger, again=True) == [1]
            assert await ledger.keep("mailer", fence, Step(settled=[found[0].id]))
            assert await offsets(ledger, again=True) == [2]
            failed = letter_of(2, id=found[1].id, attempts=2, error="again")
            assert await ledger.keep("mailer", fence, Step(failed=[failed]))
            (letter, *_) = await ledger.letters("mailer")
            assert (letter.state, letter.attempts, letter.error) == ("dead", 2, "again")
            assert await ledger.skip("mailer", letter.id)
            assert await offsets(ledger, again=True) == [4]
            assert not await ledger.skip("mailer", letter.id)
            assert not await ledger.put_back("mailer", 10**9)

    @case("consumers")
    async def test_nothing_waits_for_a_letter_that_is_gone(self) -> None:
        """An event that was to be behind a letter, but came after that was dropped, is handled."""
        async with self.opened() as models:
            ledger = ledger_of(models)
            await ledger.register("mailer", None, "e", {})
            fence = await ledger.claim("mailer", "one", LEASE_SECONDS)
            assert fence is not None
            assert await ledger.keep("mailer", fence, Step(letters=[letter_of(5, state="behind")]))
            assert await offsets(ledger, again=True) == [5]

    @case("consumers")
    async def test_a_consumer_is_forgotten_whole(self) -> None:
        """Not while a process works for it; then nothing of it is left, and it may begin anew."""
        async with self.opened() as models:
            ledger = ledger_of(models)
            assert not await ledger.forget("mailer")
            await ledger.register("mailer", None, "e", {"c:": Position("e", 1, 1)})
            fence = await ledger.claim("mailer", "one", LEASE_SECONDS)
            assert fence is not None
            assert await ledger.keep("mailer", fence, Step(letters=[letter_of(1)]))
            assert not await ledger.forget("mailer")
            await ledger.release("mailer", fence)
            assert await ledger.forget("mailer")
            assert await ledger.states() == []
            assert await ledger.letters("mailer") == []
            await ledger.register("mailer", None, "g", {})
            state = await state_of(ledger)
            assert (state.epoch, state.positions, state.letters) == ("g", {}, 0)

    @case("consumers", "history")
    async def test_history_waits_for_consumers(self) -> None:
        """Events that one has not handled are kept beyond the limits, though not beyond those for consumers."""
        limits = HistoryLimits(events=10, consumer_events=10 + WRITES)
        async with self.opened(history=limits) as models:
            ledger = ledger_of(models)
            await fill(models, 20)
            start = await models.top()
            await ledger.register("mailer", None, start.epoch, {"c:": start})
            fence = await ledger.claim("mailer", "one", LEASE_SECONDS)
            assert fence is not None
            await fill(models, WRITES)
            # From its place on, which it knows by the stamp of what it has handled last.
            events = await models.log.since("c:", start.epoch, start.offset, start.stamp)
            assert len(events or ()) == WRITES
            await ledger.keep("mailer", fence, Step(positions={"c:": await models.top()}))
            await fill(models, WRITES)
            assert await models.history() is None

    @case("consumers", "history")
    async def test_history_does_not_wait_for_ever(self) -> None:
        """By events, and by size."""
        async with self.opened(history=HistoryLimits(events=5, consumer_events=20)) as models:
            start = await models.top()
            await ledger_of(models).register("mailer", None, start.epoch, {})
            await fill(models, WRITES)
            assert await models.history() is None

    @case("consumers", "history")
    async def test_history_has_a_size_for_consumers(self) -> None:
        """A consumer that is behind keeps so many bytes, and no more."""
        async with self.opened(history=HistoryLimits(size=1_000, consumer_size=20_000)) as models:
            start = await models.top()
            await ledger_of(models).register("mailer", None, start.epoch, {})
            await fill(models, WRITES)
            top = await models.top()
            assert await models.history() is None
            assert await models.log.since("c:", top.epoch, top.offset - 50) is not None

    @case("consumers", "history")
    async def test_a_consumer_of_a_channel_keeps_no_other(self) -> None:
        """The history of others goes as ever."""
        async with self.opened(history=HistoryLimits(events=10)) as models:
            start = await models.top("home")
            await ledger_of(models).register("mailer", "home", "", {"c:home": start})
            await fill(models, WRITES)
            await fill(models, WRITES, channel="home")
            assert await models.history() is None
            assert len(await models.history("home") or ()) == WRITES

    @case("consumers", "persistent")
    async def test_a_ledger_is_there_after_a_restart(self) -> None:
        """With positions, letters, and the fence, which only grows."""
        async with self.opened() as models:
            ledger = ledger_of(models)
            assert ledger.is_durable
            await ledger.register("mailer", None, "e", {})
            fence = await ledger.claim("mailer", "one", LEASE_SECONDS)
            assert fence is not None
            step = Step(positions={"c:": Position("e", 3, 1)}, letters=[letter_of(2)])
            assert await ledger.keep("mailer", fence, step)
            await ledger.release("mailer", fence)
        async with self.opened() as models:
            ledger = ledger_of(models)
            state = await state_of(ledger)
            assert (state.positions, state.letters, state.worker) == ({"c:": Position("e", 3, 1)}, 1, None)
            again = await ledger.claim("mailer", "two", LEASE_SECONDS)
            assert again is not None
            assert again > fence


def ledger_of(models: Opened) -> Ledger:
    """Return the ledger of a log that has one."""
    ledger = models.log.consumers
    assert ledger is not None, "a log that claims consumers sets `consumers` when it is opened, or started"
    return ledger


async def state_of(ledger: Ledger) -> ConsumerState:
    """Return the state of the only consumer."""
    (state,) = await ledger.states()
    return state


async def offsets(ledger: Ledger, *, again: bool) -> list[int]:
    """Return the offsets of the letters of a consumer."""
    return [letter.event.offset for letter in await ledger.letters("mailer", again=again)]


def letter_of(offset: int, *, model: str = "7", **fields: Any) -> Letter:
    """Return a letter of an event."""
    body = f'{{"id":{model},"text":"é"}}'.encode()
    event = Event("c:", "e", offset, "update", body, rev=offset, when=1.5, stamp=2**47 + offset)
    return Letter(model=model, event=event, **fields)


async def fill(models: Opened, count: int, **fields: Any) -> None:
    """Write so many events into a channel, a few at a time."""
    for _ in range(count // 20):
        await asyncio.gather(*(models.write("create", {"n": 1, "text": "x" * 80}, **fields) for _ in range(20)))
