"""Consumers at work: at least once, in order for each model, whatever their functions do."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace

import attrs
import pytest

from bbio import App, Backend, Busy, ConfigurationError, GiveUp, HistoryLimits, Unavailable
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore
from bbio.consumers import Consumer
from bbio.log import Letter
from bbio.server.consuming import attempt as attempt_module
from bbio.server.consuming import turn as turn_module
from bbio.streams import Event as LoggedEvent
from bbio.streams import Position
from tests.support.servers import eventually


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make_store(request, tmp_path):
    """A store of each kind."""
    if request.param == "postgres":
        return partial(PostgresStore, request.getfixturevalue("database_url"))
    return MemoryStore if request.param == "memory" else partial(SQLiteStore, tmp_path / "todos.db")


@pytest.fixture
def make_durable(tmp_path):
    """A store that survives a restart."""
    return partial(SQLiteStore, tmp_path / "todos.db")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(turn_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(turn_module, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(attempt_module, "END_SECONDS", 0.05)


def application(make_store, function, *, on_lost=None, name="worker", channel=None, since="now", options=(), **history):
    class Todos(Backend):
        store = make_store(history=HistoryLimits(**history)) if history else make_store()

    app = App().serve(Todos)
    options = {"pause": 0.001, "lease": 5.0, **dict(options)}
    app.consumer(name, backend="todos", channel=channel, since=since, on_lost=on_lost, **options)(function)
    return app


@asynccontextmanager
async def running(app, *, works=True):
    """The backend of an application whose consumers work."""
    await app.open()
    try:
        await app.consume(works=works)
        yield app.backends["todos"]
    finally:
        await app.close()


class Seen(list):
    """The events that a function got, with a way to wait for so many."""

    async def reach(self, count):
        async def has_so_many():
            return len(self) >= count

        await eventually(has_so_many)


async def state_of(todos):
    (state,) = await todos.log.consumers.states()
    return state


async def letters_of(todos, count, state=None):
    """The letters, once there are so many."""
    letters = []

    async def has_so_many():
        letters[:] = await todos.log.consumers.letters("worker")
        return len([each for each in letters if state in (None, each.state)]) == count

    await eventually(has_so_many)
    return letters


async def is_kept(todos, offset, stream="c:"):
    """Wait until a position is kept."""

    async def has_come():
        position = (await state_of(todos)).positions.get(stream)
        return position is not None and position.offset == offset

    await eventually(has_come)


async def test_each_event_is_handled_in_its_order(make_store):
    """Those of all channels, with ids that tell them apart; then all is kept, and nothing is left."""
    seen = Seen()

    async def work(event):
        seen.append(event)

    app = application(make_store, work)
    async with running(app) as todos:
        for n in range(20):
            await todos.create({"n": n}, channel="home" if n % 2 else None)
        await seen.reach(20)
        for channel in ("", "home"):
            assert [each.model["n"] for each in seen if each.channel == channel] == list(range(bool(channel), 20, 2))
        assert len({each.id for each in seen}) == 20
        await is_kept(todos, 10)
        await is_kept(todos, 10, "c:home")
        state = await state_of(todos)
        assert state.behind(await todos.log.tops()) == 0
        assert (state.is_active, state.letters, state.lost) == (True, 0, 0)


async def test_a_channel_alone(make_store):
    """What was told to all clients is among it; other channels are not."""
    seen = Seen()

    async def work(event):
        seen.append((event.channel, event.model["n"]))

    app = application(make_store, work, channel="home")
    async with running(app) as todos:
        for n, channel in enumerate(["work", "home", "work", "home"]):
            await todos.create({"n": n}, channel=channel)
        todos.emit("updated", {"id": "x", "n": 9})
        await seen.reach(3)
        assert sorted(seen, key=str) == [("home", 1), ("home", 3), (None, 9)]


async def test_it_goes_on_where_it_was(make_durable):
    """What was written while nobody worked is handled after the restart, once; what was handled is not."""
    seen = Seen()

    async def work(event):
        seen.append(event.model["n"])

    async with running(application(make_durable, work)) as todos:
        await todos.create({"n": 1})
        await seen.reach(1)
    async with running(application(make_durable, work), works=False) as todos:
        await todos.create({"n": 2})
        await todos.create({"n": 3}, channel="new")
    async with running(application(make_durable, work)) as todos:
        await todos.create({"n": 4})
        await seen.reach(4)
    assert sorted(seen) == [1, 2, 3, 4]


@pytest.mark.parametrize("channel", [None, ""])
async def test_it_may_begin_at_the_start(make_durable, channel):
    """Of what the history holds; by default it begins with what is written from now on."""
    seen = Seen()

    async def work(event):
        seen.append(event.model["n"])

    async def ignore(event):
        """Do nothing."""

    async with running(application(make_durable, ignore, name="other")) as todos:
        await todos.create({"n": 1})
    async with running(application(make_durable, work, since="start", channel=channel)) as todos:
        await todos.create({"n": 2})
        await seen.reach(2)
    assert seen == [1, 2]


async def test_another_channel_needs_another_name(make_durable):
    """The text says how to begin anew."""

    async def work(event):
        """Do nothing."""

    async with running(application(make_durable, work)):
        pass
    with pytest.raises(ConfigurationError, match="it was for all channels, and is for the channel 'home' now"):
        async with running(application(make_durable, work, channel="home")):
            pass


async def test_what_fails_is_tried_again(make_store):
    """In its place: nothing comes before it; with one attempt more it is handled."""
    seen, fails = Seen(), 3

    async def work(event):
        seen.append(event.model["n"])
        if event.model["n"] == 1 and seen.count(1) <= fails:
            raise OSError("no")

    async with running(application(make_store, work)) as todos:
        for n in range(3):
            await todos.create({"n": n})
        await seen.reach(6)
        assert seen == [0, 1, 1, 1, 1, 2]
        assert (await state_of(todos)).letters == 0


async def test_an_error_may_ask_for_a_longer_pause():
    """`retry_after` counts where it is longer than the pause; other details do not."""
    assert attempt_module.wanted_pause(Busy("no", retry_after=7.5)) == 7.5
    assert attempt_module.wanted_pause(Busy("no")) == 0.0
    assert attempt_module.wanted_pause(OSError()) == 0.0
    assert attempt_module.error_text(OSError()) == "OSError"


async def test_what_fails_for_ever_is_a_dead_letter(make_store):
    """With its error; later events of the model wait behind it, others do not. Put back, they come in their order."""
    seen, is_mended = Seen(), False

    async def work(event):
        if event.model["n"] < 3 and not is_mended:
            raise ValueError("poison")
        seen.append(event.model["n"])

    app = application(make_store, work, options={"attempts": 2})
    async with running(app) as todos:
        bad = await todos.create({"n": 1})
        other = await todos.create({"n": 10})
        await todos.patch({"id": bad["id"], "n": 2})
        await todos.patch({"id": bad["id"], "n": 3})
        await todos.patch({"id": other["id"], "n": 11})
        letters = await letters_of(todos, 3)
        await seen.reach(2)
        assert seen == [10, 11]
        assert [(each.state, each.attempts, each.event.offset) for each in letters] == [
            ("dead", 2, 1),
            ("behind", 0, 3),
            ("behind", 0, 4),
        ]
        assert letters[0].error == "ValueError: poison"
        assert await todos.log.consumers.put_back("worker", letters[0].id)
        again = await letters_of(todos, 1, "dead")
        is_mended = True
        assert await todos.log.consumers.put_back("worker", again[0].id)
        await letters_of(todos, 0)
        assert seen == [10, 11, 1, 2, 3]
        await todos.patch({"id": bad["id"], "n": 4})
        await seen.reach(6)
        assert seen[-1] == 4


async def test_giving_up_needs_no_more_attempts(make_store):
    """The event is a dead letter at once; dropped, it is gone."""
    seen = Seen()

    async def work(event):
        seen.append(event.model["n"])
        raise GiveUp("no such address")

    async with running(application(make_store, work)) as todos:
        await todos.create({"n": 1})
        (letter,) = await letters_of(todos, 1)
        assert (letter.attempts, letter.error) == (1, "GiveUp: no such address")
        assert await todos.log.consumers.skip("worker", letter.id)
        await letters_of(todos, 0)
    assert seen == [1]


async def test_a_function_that_hangs_has_a_deadline(make_store):
    """Also one that will not be cancelled; the next event is handled."""
    seen, held = Seen(), asyncio.Event()

    async def work(event):
        seen.append(event.model["n"])
        if event.model["n"] == 1:
            await asyncio.Event().wait()
        if event.model["n"] == 2:
            while not held.is_set():
                try:
                    await held.wait()
                except asyncio.CancelledError:
                    continue
        if event.model["n"] == 3:
            raise asyncio.CancelledError

    app = application(make_store, work, options={"attempts": 1, "timeout": 0.05})
    async with running(app) as todos:
        for n in range(5):
            await todos.create({"n": n})
        letters = await letters_of(todos, 3)
        await seen.reach(5)
        held.set()
    assert seen == [0, 1, 2, 3, 4]
    assert [each.error for each in letters] == [
        "Overdue: it took longer than 0.05 s",
        "Overdue: it took longer than 0.05 s, and does not end though it was cancelled",
        "CancelledError: it was cancelled",
    ]


async def test_dead_letters_have_a_bound(make_store, caplog):
    """Then it stays at the event that fails, and loses nothing; when there is room again, it goes on."""
    seen = Seen()

    async def work(event):
        seen.append(event.model["n"])
        if event.model["n"] < 3:
            raise ValueError("no")

    app = application(make_store, work, options={"attempts": 1, "dead_letters": 1})
    async with running(app) as todos:
        first = await todos.create({"n": 0})
        await todos.create({"n": 1})
        await todos.create({"n": 3})
        (letter,) = await letters_of(todos, 1)
        await seen.reach(4)
        assert set(seen) == {0, 1}
        assert "it has 1 dead letters already, and stays" in caplog.text
        await todos.log.consumers.skip("worker", letter.id)
        await seen.reach(seen.count(0) + seen.count(1) + 1)
        (letter,) = await letters_of(todos, 1)
        assert letter.event.offset == 2

        async def has_gone_on():
            return 3 in seen

        await eventually(has_gone_on)
        assert first["n"] == 0


async def test_what_waits_behind_a_letter_counts_too(make_store):
    """Where there is no room for a letter more, what would be behind one waits in the log."""
    seen = Seen()

    async def work(event):
        seen.append(event.model["n"])
        if event.model["n"] == 0:
            raise ValueError("no")

    app = application(make_store, work, options={"attempts": 1, "dead_letters": 1})
    async with running(app) as todos:
        todo = await todos.create({"n": 0})
        (letter,) = await letters_of(todos, 1)
        await todos.patch({"id": todo["id"], "n": 5})
        await todos.create({"n": 6})
        await todos.log.consumers.skip("worker", letter.id)
        await seen.reach(3)
        assert seen == [0, 5, 6]


async def test_events_of_different_models_may_be_handled_at_once(make_store):
    """Those of one model never; nothing before a kept position is open."""
    running_now, most, overlaps = {}, 0, []
    release, begun = asyncio.Event(), Seen()

    async def work(event):
        nonlocal most
        id = event.model["id"]
        if running_now.get(id):
            overlaps.append(id)
        running_now[id] = True
        most = max(most, sum(running_now.values()))
        begun.append((id, event.model["n"]))
        if event.model["n"] == 0:
            await release.wait()
        running_now[id] = False

    app = application(make_store, work, options={"concurrency": 3})
    async with running(app) as todos:
        ids = [(await todos.create({"n": n}))["id"] for n in range(3)]
        for n in range(10, 15):
            await todos.patch({"id": ids[1 + n % 2], "n": n})
        await begun.reach(8)
        await todos.patch({"id": ids[0], "n": 15})
        position = (await state_of(todos)).positions.get("c:")
        assert position is None or position.offset == 0
        release.set()
        await begun.reach(9)
        await is_kept(todos, 9)
    assert overlaps == []
    assert 2 <= most <= 3
    for id in ids:
        numbers = [n for each, n in begun if each == id]
        assert numbers == sorted(numbers)


async def test_models_without_an_id_have_no_order(make_store):
    """A dead letter of one holds up no other."""
    seen = Seen()

    async def work(event):
        if event.model == 0:
            raise ValueError("no")
        seen.append(event.model)

    async with running(application(make_store, work, options={"attempts": 1})) as todos:
        for n in range(3):
            todos.emit("updated", n)
        await seen.reach(2)
        await letters_of(todos, 1)
    assert seen == [1, 2]


async def test_a_lost_history_is_told(make_durable, caplog):
    """`on_lost` is called once, with the channel; the gap is counted; then it goes on with what is new."""
    seen, lost = Seen(), Seen()

    async def work(event):
        seen.append(event.model["n"])

    async def on_lost(event):
        lost.append((event.method, event.channel))

    history = {"events": 5, "consumer_events": 5}
    async with running(application(make_durable, work, on_lost=on_lost, **history)) as todos:
        await todos.create({"n": -1})
        await seen.reach(1)
        await is_kept(todos, 1)
    async with running(application(make_durable, work, on_lost=on_lost, **history), works=False) as todos:
        for _ in range(4):
            await asyncio.gather(*(todos.create({"n": n}) for n in range(100)))
    async with running(application(make_durable, work, on_lost=on_lost, **history)) as todos:
        await lost.reach(1)
        await is_kept(todos, 401)
        await todos.create({"n": 1_000})
        await seen.reach(2)
        state = await state_of(todos)
        assert state.lost == 1
    assert seen == [-1, 1_000]
    assert lost == [("reset", "")]
    assert "events of todos are lost to it" in caplog.text


@pytest.mark.parametrize("has_function", [True, False])
async def test_an_on_lost_that_fails_holds_nothing_up(make_durable, caplog, has_function):
    """It has so many attempts; without one the gap is logged and counted all the same."""
    seen, lost = Seen(), Seen()

    async def work(event):
        seen.append(event.model["n"])

    async def on_lost(event):
        lost.append(event.channel)
        raise OSError("no")

    async def ignore(event):
        """Do nothing."""

    async with running(application(make_durable, ignore)) as todos:
        epoch = await todos.log.tops()
    async with running(application(make_durable, ignore), works=False) as todos:
        await todos.create({"n": 1})
        ledger = todos.log.consumers
        fence = await ledger.claim("worker", "test", 60)
        await ledger.keep("worker", fence, turn_module.Step(epoch="another"))
        await ledger.release("worker", fence)
    options = {"attempts": 2}
    app = application(make_durable, work, on_lost=on_lost if has_function else None, options=options)
    async with running(app) as todos:

        async def is_counted():
            return (await state_of(todos)).lost == 1

        await eventually(is_counted)
        await todos.create({"n": 2})
        await seen.reach(1)
        state = await state_of(todos)
        assert state.epoch == epoch[""].epoch
    assert seen == [2]
    assert lost == [None, None] * has_function
    assert ("on_lost has failed" in caplog.text) is has_function


async def test_what_is_under_way_is_finished_at_the_end(make_durable):
    """And kept; what waits for its next attempt comes again after the start, and so does what is given up."""
    seen, begun, gate = Seen(), asyncio.Event(), asyncio.Event()

    async def work(event):
        begun.set()
        if event.model["n"] == 0:
            await gate.wait()
        seen.append(event.model["n"])
        if event.model["n"] == 1:
            raise OSError("no")

    app = application(make_durable, work, options={"pause": 60.0, "concurrency": 2})
    await app.open()
    await app.consume()
    todos = app.backends["todos"]
    await todos.create({"n": 0})
    await todos.create({"n": 1})
    await begun.wait()
    await todos.create({"n": 2})
    await seen.reach(1)
    (worker,) = app._consuming._workers
    turn = worker._turn
    async with todos.events() as events:
        top = events.position

    async def is_all_read():
        return turn._events.position == top

    async def is_ending():
        return turn._is_ending

    async def go_on():
        await eventually(is_ending)
        gate.set()

    await eventually(is_all_read)
    await asyncio.gather(go_on(), app.close())
    assert seen == [1, 0]
    async with running(application(make_durable, work, options={"attempts": 1})) as todos:
        await seen.reach(4)
    assert seen[2:] == [1, 2]


async def test_a_function_under_way_is_cancelled_when_another_process_takes_over(make_durable):
    """Its event is the other one's; also if it does not end at once."""
    seen = Seen()

    async def work(event):
        seen.append(event.model["n"])
        if len(seen) == 1:
            await asyncio.Event().wait()

    app = application(make_durable, work, options={"lease": 0.2})
    async with unreliable(app) as (todos, ledger):
        await app.consume()
        await todos.create({"n": 0})
        await seen.reach(1)
        ledger.answers = {"renew": False}
        await seen.reach(2)
        await is_kept(todos, 1)
    assert seen == [0, 0]


async def test_a_reading_that_ends_is_begun_again(make_store):
    """Only the end of the application is the end."""
    seen = Seen()

    async def work(event):
        seen.append(event.model["n"])

    app = application(make_store, work)
    async with running(app) as todos:
        await todos.create({"n": 0})
        await seen.reach(1)
        (worker,) = app._consuming._workers
        await worker._turn._events.end()
        await todos.create({"n": 1})
        await seen.reach(2)


async def test_a_start_that_fails_can_be_undone(make_store):
    """An application that does not start closes what it has begun."""

    async def work(event):
        """Do nothing."""

    app = application(make_store, work)
    async with unreliable(app) as (_, ledger):

        async def claim(*arguments):
            raise RuntimeError("a fault")

        ledger.claim = claim
        with pytest.raises(RuntimeError):
            await app.consume()


async def test_a_function_that_fails_while_the_application_ends_comes_again(make_durable):
    """Its event is not kept."""
    seen, begun, gate = Seen(), asyncio.Event(), asyncio.Event()

    async def work(event):
        begun.set()
        await gate.wait()
        seen.append(event.model["n"])
        if len(seen) == 1:
            raise OSError("no")

    app = application(make_durable, work)
    await app.open()
    await app.consume()
    await app.backends["todos"].create({"n": 0})
    await begun.wait()
    (worker,) = app._consuming._workers
    turn = worker._turn

    async def is_ending():
        return turn._is_ending

    async def go_on():
        await eventually(is_ending)
        gate.set()

    await asyncio.gather(go_on(), app.close())
    assert seen == [0]
    async with running(application(make_durable, work)):
        await seen.reach(2)


class Unreliable:
    """A ledger whose calls fail as often as is said, or are answered as is said."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.failing = {}
        self.answers = {}
        self.calls = []

    def __getattr__(self, name):
        method = getattr(self.ledger, name)
        if not asyncio.iscoroutinefunction(method):
            return method

        async def call(*arguments, **options):
            self.calls.append(name)
            if self.failing.get(name):
                self.failing[name] -= 1
                raise Unavailable("no database", retry_after=1.0)
            if name == "claim":
                self.answers.clear()
            if name in self.answers:
                return self.answers[name]
            return await method(*arguments, **options)

        return call


@asynccontextmanager
async def unreliable(app):
    """The backend of an application, and its ledger, before any work."""
    await app.open()
    todos = app.backends["todos"]
    todos.log.consumers = Unreliable(todos.log.consumers)
    try:
        yield todos, todos.log.consumers
    finally:
        await app.close()


async def test_a_database_that_is_away_loses_nothing(make_store, caplog):
    """Whatever is asked of it is asked again; what was handled is kept at last, and is not handled again."""
    seen = Seen()

    async def work(event):
        seen.append(event.model["n"])

    app = application(make_store, work, options={"lease": 0.1})
    async with unreliable(app) as (todos, ledger):
        ledger.failing = {"claim": 1, "held": 2, "keep": 2, "renew": 2, "states": 0}
        await app.consume()
        await todos.create({"n": 0})
        await seen.reach(1)
        await is_kept(todos, 1)

        async def is_over():
            return not any(ledger.failing.values())

        await eventually(is_over)
        await todos.create({"n": 1})
        await seen.reach(2)
    assert seen == [0, 1]
    assert "trying again" in caplog.text


@pytest.mark.parametrize("call", ["keep", "renew"])
async def test_who_was_overtaken_keeps_nothing(make_store, caplog, call):
    """It notices, and asks for the lease again; the event comes again."""
    caplog.set_level(logging.INFO)
    seen = Seen()

    async def work(event):
        seen.append(event.model["n"])

    app = application(make_store, work, options={"lease": 0.2})
    async with unreliable(app) as (todos, ledger):
        await app.consume()
        ledger.answers = {call: False}
        await todos.create({"n": 0})
        await is_kept(todos, 1)

        async def has_begun_again():
            return ledger.calls.count("claim") >= 2

        await eventually(has_begun_again)
    assert set(seen) == {0}
    assert "another process has taken over" in caplog.text


async def test_after_a_pause_the_lease_is_looked_at_first(make_store, monkeypatch):
    """A process that stood still begins nothing before it knows that nobody has taken over."""
    seen, order = Seen(), []

    async def work(event):
        order.append("work")
        seen.append(event.model["n"])

    app = application(make_store, work, options={"lease": 30.0})
    async with unreliable(app) as (todos, ledger):
        await app.consume()
        (worker,) = app._consuming._workers
        await todos.create({"n": 0})
        await is_kept(todos, 1)
        ledger.failing = {"renew": 1}
        ledger.calls.clear()
        worker._turn._valid_until = 0.0
        await todos.create({"n": 1})
        await seen.reach(2)
        assert ledger.calls.count("renew") >= 2
        await is_kept(todos, 2)
        worker._turn._valid_until = 0.0
        ledger.answers = {"renew": False}
        await todos.create({"n": 2})
        await seen.reach(3)
        assert ledger.calls.count("claim") >= 1
        await is_kept(todos, 3)
    assert seen == [0, 1, 2]


async def test_a_fault_of_the_server_itself_is_not_silent(make_store, monkeypatch, caplog):
    """It is logged whole, and the worker begins again."""
    seen = Seen()

    async def work(event):
        seen.append(event.model["n"])

    broken = [True]

    def key_of(event, id_attribute):
        if broken.pop() if broken else False:
            raise RuntimeError("a fault")
        return "7"

    monkeypatch.setattr(turn_module, "key_of", key_of)
    async with running(application(make_store, work, options={"lease": 0.05})) as todos:
        await todos.create({"n": 0})
        await seen.reach(1)
    assert "a fault of the server itself" in caplog.text


async def test_a_fault_while_an_event_is_handled_is_not_silent(make_store, monkeypatch, caplog):
    """The event comes again."""
    seen, broken = Seen(), [True]

    async def work(event):
        seen.append(event.model["n"])

    async def broken_attempt(*arguments):
        if broken.pop() if broken else False:
            raise RuntimeError("a fault")
        return await attempt_module.attempt(*arguments)

    monkeypatch.setattr(turn_module, "attempt", broken_attempt)
    async with running(application(make_store, work, options={"lease": 0.05})) as todos:
        await todos.create({"n": 0})
        await seen.reach(1)
    assert "a fault of the server itself" in caplog.text


async def test_a_client_is_not_told_all_that_is_kept_for_consumers():
    """What it has missed beyond its own history is not even read from the log."""

    async def work(event):
        """Do nothing."""

    app = application(MemoryStore, work, events=5, consumer_events=10_000)
    async with running(app, works=False) as todos:
        for n in range(1_100):
            await todos.create({"n": n})
        subscribers = app.gateway.subscribers["todos"]
        followed = subscribers.listeners.stream("c:")
        await subscribers.locate([followed])
        epoch = followed.epoch
        assert len(await todos.log.since("c:", epoch, 1)) == 1_099
        assert await subscribers.since(followed, Position(epoch, 1)) is None
        assert len(await subscribers.since(followed, Position(epoch, 1_000))) == 100


async def test_idle_time_is_noted(make_store, monkeypatch):
    """Where nothing is left, that is known to those who look; and where streams begin from now on."""
    monkeypatch.setattr(turn_module, "IDLE_SECONDS", 0.01)

    async def work(event):
        """Do nothing."""

    app = application(make_store, work)
    async with unreliable(app) as (_, ledger):
        await app.consume()

        async def is_noted():
            return ledger.calls.count("keep") >= 2

        await eventually(is_noted)
        ledger.answers = {"keep": False}

        async def has_begun_again():
            return ledger.calls.count("claim") >= 2

        await eventually(has_begun_again)


def test_an_entry_is_what_it_is():
    """Two events that look alike are two."""
    entry = turn_module.Entry(None, "7")
    assert entry != attrs.evolve(entry)


def alone(function=None, **options):
    """A turn without a database, and events for it."""
    consumer = Consumer(name="worker", backend="todos", function=function, **options)
    turn = turn_module.Turn(consumer, SimpleNamespace(id_attribute="id"), None, 1, math.inf)
    logged = [LoggedEvent("c:", "e", n, "update", b'{"id":%d}' % n) for n in (1, 2)]
    return turn, [turn_module.event_of(Letter(model=f"{each.offset}", event=each), "todos") for each in logged]


async def test_what_is_read_when_the_end_has_begun_is_left():
    """It is begun after the next start; so is what waits for room meanwhile."""

    async def work(event):
        """Do nothing."""

    async def read(*events):
        for each in events:
            yield each

    turn, (first, second) = alone(work)
    await turn.end()
    await turn._read(read(first))
    assert not turn._window
    turn, (first, second) = alone(work)
    turn._window.append(turn_module.Entry(first, "1"))
    reading = asyncio.ensure_future(turn._read(read(second)))
    await asyncio.sleep(0)
    assert not reading.done()
    await turn.end()
    await reading
    assert [entry.event for entry in turn._window] == [first]


async def test_what_fails_when_the_end_has_begun_is_not_over():
    """Nor is it tried again: it comes after the next start."""

    async def work(event):
        await turn.end()
        raise OSError("no")

    turn, (event, _) = alone(work, pause=60.0)
    entry = turn_module.Entry(event, "1")
    await turn._handle(entry)
    assert (entry.is_over, entry.is_pausing) == (False, False)


async def test_a_letter_that_was_put_back_waits_for_room():
    """It is begun once what is under way is over."""
    seen = []

    async def work(event):
        seen.append(event)

    turn, (first, second) = alone(work)
    turn._window.append(under_way := turn_module.Entry(first, "1"))
    turn._put_back = [letter := turn_module.Entry(second, "2", letter=7)]
    turn._begin_letters()
    assert (turn._put_back, turn._letters) == ([letter], [])
    turn._window.remove(under_way)
    turn._begin_letters()
    assert (turn._put_back, turn._letters) == ([], [letter])
    await asyncio.gather(*turn._tasks)
    assert (seen, letter.is_over) == ([second], True)
