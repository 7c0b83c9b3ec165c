"""The client's rules without a network: trackers, the outbox, mirrors, events, errors."""

import asyncio
import gc

import msgspec
import pytest

from bbio import BadRequest, Busy, Conflict, Forbidden, NotFound, SyncError, Timeout, Unavailable, UnknownOutcome
from bbio.client import Collection, Event
from bbio.client import collection as collection_module
from bbio.client import replica as replica_module
from bbio.client import tracker as tracker_module
from bbio.client.errors import error_of, passing
from bbio.client.events import Events
from bbio.client.handle import Handles
from bbio.client.liveness import PROBE_SECONDS
from bbio.client.outbox import WINDOW, Outbox
from bbio.client.replica import Replica
from bbio.client.roster import Roster
from bbio.client.session import BackendSession
from bbio.client.settings import SessionSettings
from bbio.client.subscription import Subscription
from bbio.client.tracker import Apply, Listen, Meta, Read, Ready, Tracker, Watch
from bbio.client.transport import PATIENCE_SECONDS
from bbio.protocol import decode, encode
from bbio.testing import Clock


def reply(offset, epoch="e", *, recovered=True, events=(), stream="c:"):
    return {
        "v": 1,
        "streams": {stream: {"epoch": epoch, "offset": offset, "recovered": recovered, "events": list(events)}},
    }


def told(offset, epoch="e", **fields):
    return {"s": "c:", "e": epoch, "o": offset, **fields}


def meta(offset, epoch="e", stream="c:"):
    return Meta(stream, epoch, offset)


def live(offset=0):
    tracker = Tracker()
    tracker.connected()
    tracker.listened(reply(offset, recovered=False))
    return tracker


def offsets(effects):
    return [effect.meta.offset for effect in effects if isinstance(effect, Apply)]


class TestFollower:
    def test_an_event_is_applied_once_and_in_its_place(self):
        """The next is applied, a known one is not, a later one has the client listen again."""
        tracker = live(5)
        assert tracker.event("update", {}, meta(6)) == [Apply("update", {}, meta(6))]
        assert tracker.event("update", {}, meta(6)) == []
        assert tracker.event("update", {}, meta(8)) == [Listen({"c:": ["e", 6]}, again=True)]
        assert tracker.event("update", {}, meta(9)) == []
        assert not tracker.settled
        missed = [["update", {}, told(7)], ["update", {}, told(8)]]
        assert offsets(tracker.listened(reply(8, events=missed))) == [7, 8, 9]
        assert tracker.since == {"c:": ["e", 9]}
        assert tracker.settled

    def test_the_stamp_of_the_place_is_told(self):
        """As far as the server has told it: with an event, with the reply to an own write, or to a listen."""
        tracker = live(5)
        assert tracker.since == {"c:": ["e", 5]}
        tracker.event("update", {}, meta(6)._replace(stamp=66))
        assert tracker.since == {"c:": ["e", 6, 66]}
        tracker.acked(meta(8)._replace(stamp=88))
        tracker.acked(meta(9)._replace(stamp=99))
        assert tracker.since == {"c:": ["e", 6, 66]}
        tracker.event("update", {}, Meta.read(told(7, k=77)))
        assert tracker.since == {"c:": ["e", 9, 99]}
        tracker.disconnected()
        assert tracker.connected() == [Listen({"c:": ["e", 9, 99]})]
        tracker.listened({"v": 1, "streams": {"c:": {"epoch": "e", "offset": 9, "stamp": 9, "recovered": True}}})
        assert tracker.since == {"c:": ["e", 9, 9]}

    def test_a_new_position_holds_when_everything_was_read(self):
        """Until then, another connection that breaks leaves the client with what it knew."""
        tracker = live(5)
        for offset in (2, 3):
            tracker.disconnected()
            tracker.connected()
            assert tracker.listened(reply(offset, "f", recovered=False)) == [Ready(False), Read(True)]
            assert (tracker.since, tracker.settled) == ({}, False)
        assert offsets(tracker.event("update", {}, meta(4, "f"))) == [4]
        tracker.complete()
        assert (tracker.since, tracker.settled) == ({"c:": ["f", 4]}, True)

    def test_a_resumed_client_is_told_so(self):
        """Nothing is read when everything that was missed came along."""
        tracker = live(5)
        tracker.disconnected()
        assert tracker.connected() == [Listen({"c:": ["e", 5]})]
        tracker.event("update", {}, meta(7))
        effects = tracker.listened(reply(6, events=[["create", {}, told(6)]]))
        assert offsets(effects) == [6, 7]
        assert Ready(True) in effects

    def test_a_reply_that_does_not_add_up_is_no_recovery(self):
        """Events that leave a hole before the position told."""
        tracker = live(5)
        tracker.disconnected()
        tracker.connected()
        assert tracker.listened(reply(7, events=[["create", {}, told(6)]]))[-1] == Read(False)

    def test_another_epoch_while_connected(self):
        """An event of another life of the stream has the client ask."""
        tracker = live(5)
        assert tracker.event("update", {}, meta(6, "f")) == [Listen({"c:": ["e", 5]}, again=True)]

    def test_positions_in_replies(self):
        """A place may be told by a reply instead of an event; one that is ahead waits for what is before it."""
        tracker = live(5)
        assert tracker.acked(meta(6)) == []
        assert tracker.acked(meta(8)) == [Watch()]
        assert not tracker.settled
        assert tracker.acked(meta(8)) == []
        assert offsets(tracker.event("update", {}, meta(7))) == [7]
        assert tracker.since == {"c:": ["e", 8]}
        assert tracker.overdue() == []
        tracker.acked(meta(10))
        assert tracker.overdue() == [Listen({"c:": ["e", 8]}, again=True)]
        assert tracker.acked(meta(11)) == []
        assert live(5).acked(meta(1, "f")) == [Listen({"c:": ["e", 5]}, again=True)]

    def test_what_has_passed(self):
        """A reply may tell of what is known already, or of a life of the stream that is over."""
        tracker = live(5)
        assert tracker.passed(meta(5), retried=False)
        assert not tracker.passed(meta(6), retried=True)
        assert tracker.passed(meta(6, "d"), retried=True)
        assert not tracker.passed(meta(6, "f"), retried=False)
        assert not tracker.passed(meta(1, stream="?"), retried=True)

    def test_what_is_not_followed_is_ignored(self):
        """Other streams; but events without a place, of servers that know none, are applied."""
        tracker = live()
        assert tracker.event("update", {}, meta(1, stream="c:other")) == []
        assert tracker.event("update", {}, None) == [Apply("update", {}, None)]
        for nothing in (None, 7, {}, {"s": "c:"}, {"s": "c:", "e": "e", "o": "1"}):
            assert Meta.read(nothing) is None

    def test_what_another_channel_was_told(self):
        """A shared stream that another listen was told of: its events count, and a gap shows."""
        tracker = live(5)
        assert offsets(tracker.overheard("c:", reply(6, events=[["create", {}, told(6)]])["streams"]["c:"])) == [6]
        assert tracker.overheard("c:", reply(6)["streams"]["c:"]) == []
        assert tracker.overheard("*", reply(6)["streams"]["c:"]) == []
        assert tracker.overheard("c:", reply(8)["streams"]["c:"]) == [Listen({"c:": ["e", 6]}, again=True)]
        assert tracker.overheard("c:", reply(9)["streams"]["c:"]) == []

    def test_a_gap_that_the_server_tells_of(self):
        """It is asked about once, and not before the client listens."""
        assert Tracker().gap() == []
        tracker = live(5)
        assert tracker.gap() == [Listen({"c:": ["e", 5]}, again=True)]
        assert tracker.gap() == []

    def test_waiting_events_are_bounded(self, monkeypatch):
        """More than can wait, and everything is read."""
        monkeypatch.setattr(tracker_module, "WAITING_EVENTS", 2)
        tracker = live(0)
        tracker.gap()
        for offset in (1, 2, 3):
            tracker.event("update", {}, meta(offset))
        assert tracker.listened(reply(0))[-1] == Read(False)

    def test_a_refused_listen(self):
        """Syncs may go out all the same."""
        tracker = Tracker()
        tracker.connected()
        tracker.refused()
        assert (tracker.ready, tracker.settled) == (True, False)


class TestOutbox:
    def entries(self, outbox, *methods):
        subscriptions = [
            Subscription("todos", None, "id", Clock(), print, print, Roster(Clock(), lambda: 0.5, 1.0, print))
            for _ in methods
        ]
        return [
            outbox.add(subscription, {"method": method}, None, 30.0, False)
            for subscription, method in zip(subscriptions, methods, strict=True)
        ]

    def test_operations_are_named_once(self):
        """A write keeps its name; a read has none."""
        outbox = Outbox("me")
        write, read = self.entries(outbox, "create", "read")
        assert (write.request["op"], "op" in read.request) == ({"c": "me", "n": 1}, False)
        assert outbox.due(lambda entry: True) == [write, read]
        assert outbox.due(lambda entry: True) == []
        assert not write.retried
        assert outbox.disconnected() == [write, read]
        assert outbox.due(lambda entry: entry.writes) == [write]
        assert (write.retried, write.request["op"]) == (True, {"c": "me", "n": 1})

    def test_own_operations_are_known(self):
        """By what events carry."""
        outbox = Outbox("me")
        (write,) = self.entries(outbox, "create")
        assert outbox.find("me:1") is write
        for op in ("me:2", "you:1", None):
            assert outbox.find(op) is None
        assert outbox.owns("me:2")
        assert not outbox.owns("you:2")
        assert outbox.settle(write)
        assert not outbox.settle(write)
        assert outbox.find("me:1") is None

    def test_few_are_under_way_at_once(self):
        """The rest follows in order, as answers come."""
        outbox = Outbox("me")
        entries = self.entries(outbox, *["create"] * (WINDOW + 2))
        assert outbox.due(lambda entry: True) == entries[:WINDOW]
        outbox.settle(entries[3])
        outbox.repeat(entries[5])
        assert outbox.due(lambda entry: True) == [entries[5], entries[WINDOW]]


class TestReplica:
    def test_only_what_is_newer_counts(self):
        """Also after a deletion; without revisions everything counts."""
        replica = Replica()
        assert replica.accept(1, {"n": 1}, 5)
        assert not replica.accept(1, {"n": 0}, 4)
        assert replica.accept(1, None, 6)
        assert not replica.accept(1, {"n": 1}, 5)
        assert (replica.models, replica.rev(1)) == ({}, 6)
        assert replica.accept(1, {"n": 2}, None)
        assert replica.models == {1: {"n": 2}}
        replica.renew()
        assert replica.accept(1, {"n": 3}, 1)

    def test_a_read_replaces_what_is_there(self):
        """Except what is known to be newer."""
        replica = Replica()
        for key, rev in ((1, 5), (2, 6), (3, 7)):
            replica.accept(key, {"key": key}, rev)
        replica.replace([(1, {"key": "read"}, 9), (2, {"key": "old"}, 1), (4, {"key": "new"}, None)])
        assert replica.models == {1: {"key": "read"}, 2: {"key": 2}, 4: {"key": "new"}}
        assert replica.rev(1) == 9

    def test_graves_are_few(self, monkeypatch):
        """The revisions of models deleted long ago are forgotten."""
        monkeypatch.setattr(replica_module, "GRAVES", 2)
        replica = Replica()
        for key in (1, 2, 3):
            replica.accept(key, None, 10 + key)
        assert [replica.rev(key) for key in (1, 2, 3)] == [None, 12, 13]


class TestEvents:
    async def test_a_reader_that_falls_behind_is_told(self):
        """Instead of what it has missed."""
        events = Events(limit=2)
        for n in range(3):
            events.put(Event("create", n))
        events.put(Event("create", 3))
        assert [await anext(events) for _ in range(2)] == [Event("reset"), Event("create", 3)]

    async def test_it_ends(self):
        """After what has come; what comes later is not for it."""
        async with Events(limit=2) as events:
            events.put(Event("create", 1))
        events.put(Event("create", 2))
        assert [event async for event in events] == [Event("create", 1)]

    async def test_a_refusal_is_raised_once(self):
        """And then it waits, in case the server thinks otherwise."""
        events = Events(limit=2)
        events.fail(NotFound("x"))
        with pytest.raises(NotFound):
            await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        events.put(Event("reset"))
        assert await waiting == Event("reset")


class TestErrors:
    @pytest.mark.parametrize(
        "told", [None, "text", 7, {}, {"name": 7}, {"name": "no name"}, {"name": "X", "code": "y"}]
    )
    def test_anything_is_an_error(self, told):
        """Whatever a server sends."""
        assert isinstance(error_of(told), SyncError)

    def test_details_that_are_not_declared_are_dropped(self):
        """A known class has its own."""
        error = error_of({"name": "Conflict", "message": "m", "rev": 3, "extra": 1})
        assert isinstance(error, Conflict)
        assert (error.rev, error.current, error.values) == (3, None, {"rev": 3})

    def test_which_may_pass(self):
        """Those after which the same request may succeed."""
        assert [passing(err) for err in (Timeout(), Busy(), Unavailable(), NotFound())] == [True, True, True, False]


class Wire:
    """A link that keeps what is sent, with its answer."""

    max_payload = None

    def __init__(self):
        self.sent = []
        self.dropped = False

    def drop(self):
        self.dropped = True

    def emit(self, event, arguments, answer):
        if event == "sync":
            assert isinstance(arguments[0], msgspec.Raw), "a request is encoded once"
        self.sent.append((event, tuple(decode(encode(arguments))), answer))

    def answer(self, *arguments):
        """Answer what was sent first."""
        event, given, answer = self.sent.pop(0)
        answer(*arguments)
        return event, given


@pytest.fixture
async def session():
    """A session with a clock to turn, and a wire."""
    session = BackendSession("todos", lambda session: None, Clock(), SessionSettings(), "me", lambda: 0.5)
    session.wire, session.handles = Wire(), Handles()
    yield session
    session.close()


def handle_of(session, channel=None):
    """The handle of a channel, as a connection makes it."""
    return session.handles.get(session, session.subscription(channel, "id"))


async def rounds():
    """Let tasks that can go on do so."""
    for _ in range(6):
        await asyncio.sleep(0)


async def asking(session, *work):
    """Requests on their way."""
    tasks = [asyncio.ensure_future(each) for each in work]
    await rounds()
    return tasks[0] if len(tasks) == 1 else tasks


def given_up(session):
    """Return when the link is dropped, over which nothing comes any more."""
    while not session.wire.dropped and session.clock.turn():
        pass
    return session.clock.time()


class TestSession:
    async def test_what_comes_after_the_end_asks_for_nothing(self, session):
        """An event that the library hands on late shows a gap, and nobody is asked about it."""
        handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(5, recovered=False))
        session.disconnected()
        session.received("synced", ("update", {"id": 1}, told(9)))
        while session.clock.next is not None:
            session.clock.turn()
        assert session.wire.sent == []

    async def test_a_server_that_knows_no_positions(self, session):
        """Everything works, but a write whose connection breaks has an outcome that nobody knows."""
        handle = handle_of(session)
        session.connected(session.wire)
        assert session.wire.answer({"event": "x"}) == (
            "listen",
            (None, {"v": 1, "since": {}, "client": "me", "user": True, "messages": True, "deltas": True}),
        )
        events = handle.events()
        session.received("synced", ("create", {"id": 1}))
        assert await anext(events) == Event("create", {"id": 1})
        write, read = await asking(session, handle.create({}), handle.read())
        session.disconnected()
        session.disconnected()
        with pytest.raises(UnknownOutcome, match="the create may have been applied"):
            await write
        session.connected(wire := Wire())
        wire.answer({})
        assert wire.answer(None, [])[0] == "sync"
        assert await read == []
        old_create, old_read = session.wire.sent
        old_read[2](None, ["late"])
        old_create[2](None, {})

    def test_the_id_of_a_client_is_not_guessed(self):
        """It has the 16 random bytes that docs/protocol.md asks for, and each client another."""
        ids = {
            BackendSession("todos", lambda session: None, Clock(), SessionSettings()).outbox.client for _ in range(2)
        }
        assert [len(bytes.fromhex(each)) for each in ids] == [16, 16]

    async def test_a_listen_is_repeated(self, session):
        """When no answer comes, and later when the server is busy; an answer that comes twice counts once."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.clock.turn()
        assert session.clock.time() == PATIENCE_SECONDS
        (_, _, first), (_, _, second) = session.wire.sent
        first(reply(0))
        assert not handle._subscription.tracker.positioned
        session.wire.sent.clear()
        write = await asking(session, handle.create({}))
        hasty = await asking(session, handle.create({}, timeout=1.0))
        second({"error": {"name": "Busy", "code": 429, "retry_after": 7}})
        assert not handle._subscription.settled
        while not session.wire.sent:
            session.clock.turn()
        with pytest.raises(Timeout, match="not ready in time"):
            await hasty
        assert session.clock.time() == PATIENCE_SECONDS + 7.5
        for name, code in (("InternalError", 500), ("Timeout", 408)):
            assert session.wire.answer({"error": {"name": name, "code": code}})[0] == "listen"
            while not session.wire.sent:
                session.clock.turn()
        session.wire.answer(reply(0))
        await handle.ready()
        assert session.wire.answer(None, {"id": 1}, told(1, r=1))[0] == "sync"
        assert await write == {"id": 1}
        second(reply(5))
        assert handle._subscription.tracker.since == {"c:": ["e", 1]}

    async def test_odd_packets_do_no_harm(self, session):
        """Of any shape."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        session.received("synced", ())
        session.received("other", (1,))
        session.received("resync", ())
        assert handle._subscription.tracker.listening

    async def test_an_own_event_is_an_answer(self, session):
        """Whichever comes first: the write is answered once, and told to others' handles as a notification."""
        handle, other = handle_of(session), handle_of(session, "x")
        session.connected(session.wire)
        for stream in ("c:", "c:x"):
            session.wire.answer(reply(0, stream=stream))
        write = await asking(session, handle.create({"a": 1}))
        seen = other.events()
        session.received("synced", ("create", {"id": 7}, told(1, r=1, op="me:1")))
        assert await write == {"id": 7}
        session.wire.answer(None, {"id": 7}, told(1, r=1))
        session.received("synced", ("create", {"id": 8}, {"s": "c:x", "e": "e", "o": 1, "op": "you:1"}))
        assert (await anext(seen)).model == {"id": 8}

    async def test_an_own_event_has_the_public_part(self, session):
        """Once the server has told it, the client's own id in an event is not its own any more."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer({**reply(0), "client": "~me"})
        write = await asking(session, handle.create({"a": 1}))
        session.received("synced", ("create", {"id": 8}, told(1, r=1, op="me:1")))
        session.received("synced", ("create", {"id": 7}, told(2, r=2, op="~me:1")))
        assert await write == {"id": 7}

    async def test_the_place_in_an_answer_counts(self, session):
        """The event itself need not come: the next one is in its turn."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        write = await asking(session, handle.create({}))
        session.wire.answer(None, {"id": 1}, told(1))
        await write
        assert handle._subscription.tracker.since == {"c:": ["e", 1]}
        session.received("synced", ("create", {"id": 2}, told(2)))
        assert handle._subscription.settled

    async def test_an_old_connection_answers_before_another_is_there(self, session):
        """Its writes are not sent again; where they stand in the stream the next listen tells."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        first, second, read = await asking(session, handle.create({}), handle.create({}), handle.read())
        ended = session.replaced("bob", keep=False)
        session.wire.answer(None, {"id": 1}, told(1))
        assert await first == {"id": 1}
        assert handle._subscription.tracker.since == {"c:": ["e", 0]}
        session.connected(wire := Wire())
        wire.answer(reply(1, events=[["create", {"id": 1}, told(1, op="me:1")]]))
        assert [given["method"] for _, (given,), _ in wire.sent] == ["read"]
        wire.answer(None, [])
        assert await read == []
        ended()
        with pytest.raises(UnknownOutcome):
            await second
        session.wire.answer(None, {"id": 2}, told(2))

    async def test_what_another_user_keeps_waits_without_end(self, session):
        """It costs those who are there no room in the queue, and does not fail when they are refused."""
        session.settings = SessionSettings(queue_limit=1)
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        session.disconnected()
        kept, strict = await asking(session, handle.create({}), handle.read(timeout=1000.0))
        strict.cancel()
        session.replaced("bob", keep=True)
        session.refused("no")
        session.connected(wire := Wire())
        wire.answer(reply(0))
        write = await asking(session, handle.create({"by": "bob"}))
        with pytest.raises(Busy, match="1 requests to 'todos' wait"):
            await handle.create({})
        wire.answer(None, {"id": 1}, told(1))
        await write
        while session.clock.turn():
            pass
        assert (kept.done(), wire.sent) == (False, [])
        session.replaced("", keep=True)
        session.connected(wire)
        wire.answer(reply(1))
        wire.answer(None, {"id": 2}, told(2))
        assert await kept == {"id": 2}

    async def test_what_is_kept_for_whom_the_server_does_not_know_any_more_is_sent_to_it_later(self, session):
        """Its time stands still, also when another listens on the connection, and goes on when its user is back."""
        session.keep = True
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer({**reply(0), "user": "ann"})
        session.disconnected()
        kept = await asking(session, handle.create({}))
        session.connected(wire := Wire())
        wire.answer({**reply(0), "user": None})
        while session.clock.turn():
            pass
        assert (kept.done(), wire.sent) == (False, [])
        session.received("resync", ("c:",))
        while not wire.sent:
            session.clock.turn()
        (entry,) = session.outbox.entries
        wire.answer({**reply(0), "user": "ann"})
        assert entry.timer is not None
        wire.answer(None, {"id": 1}, told(1))
        assert await kept == {"id": 1}

    async def test_a_users_writes_come_after_those_on_an_old_connection(self, session):
        """Reads, and what others write, do not wait for them."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        await asking(session, handle.create({"n": 1}))
        session.replaced("", keep=True)
        session.connected(wire := Wire())
        wire.answer(reply(0))
        second, _ = await asking(session, handle.create({"n": 2}), handle.read())
        assert [given["method"] for _, (given,), _ in wire.sent] == ["read"]
        session.wire.answer({"name": "Invalid"})
        assert wire.sent[-1][1][0]["model"] == {"n": 2}
        second.cancel()

    async def test_an_answer_that_has_been_overtaken(self, session):
        """What a repeated write came to long ago does not undo what has happened since."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        opening = await asking(session, handle.collection().open())
        session.wire.answer(None, [], {"r": []})
        mirror = await opening
        write = await asking(session, handle.create({"n": 1}))
        for offset in (1, 2):
            session.received("synced", ("create", {"id": 1, "n": offset}, told(offset)))
        session.wire.answer(None, {"id": 1, "n": 1}, told(1))
        assert await write == {"id": 1, "n": 1}
        assert mirror == {1: {"id": 1, "n": 2}}

    async def test_a_cancelled_request_is_not_repeated(self, session):
        """Nobody waits for it."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        write = await asking(session, handle.create({}))
        write.cancel()
        await asyncio.gather(write, return_exceptions=True)
        assert len(session.outbox) == 0
        session.wire.answer({"error": {"name": "NotFound"}})

    async def test_an_answer_to_a_cancelled_request_in_the_same_turn(self, session):
        """It is cancelled all the same."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        read = await asking(session, handle.read())
        read.cancel()
        session.wire.answer(None, [])
        with pytest.raises(asyncio.CancelledError):
            await read

    async def test_time_stands_still_for_writes_that_wait(self, session):
        """Not for those that were given a time, nor for reads."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        session.disconnected()
        write, strict = await asking(session, handle.create({}), handle.create({}, timeout=60))
        while session.clock.turn():
            pass
        with pytest.raises(Timeout):
            await strict
        assert not write.done()
        session.connected(wire := Wire())
        wire.answer(reply(0))
        wire.answer(None, {"id": 1}, told(1))
        assert await write == {"id": 1}

    @pytest.mark.parametrize("replies", [[], [{}], [{"error": {"name": "Forbidden"}}]], ids=["none", "old", "refusal"])
    async def test_time_stands_still_whatever_the_server_has_said(self, session, replies):
        """A connection that was lost is waited for also by a write that was made before the listen was answered."""
        handle = handle_of(session)
        first = await asking(session, handle.create({})) if not replies else None
        session.connected(session.wire)
        for each in replies:
            session.wire.answer(each)
        session.disconnected()
        writes = [await asking(session, handle.create({}))] + ([first] if first else [])
        while session.clock.turn():
            pass
        assert [write for write in writes if write.done()] == []
        session.connected(wire := Wire())
        wire.answer(reply(0))
        for n in range(len(writes)):
            wire.answer(None, {"id": n}, told(n + 1))
        assert len(await asyncio.gather(*writes)) == len(writes)

    async def test_time_passes_for_a_server_that_was_never_reached(self, session):
        """Its address may be wrong; nothing was sent."""
        write = await asking(session, handle_of(session).create({}))
        while session.clock.turn():
            pass
        with pytest.raises(Timeout, match="could not be reached in time; is the address right"):
            await write
        assert session.wire.sent == []

    async def test_a_request_that_breaks_every_connection_ends(self, session):
        """It may be the reason."""
        handle = handle_of(session)
        write = await asking(session, handle.create({}))
        count = 0
        while len(session.outbox):
            count += 1
            session.connected(wire := Wire())
            wire.answer(reply(0))
            session.disconnected()
        with pytest.raises(Timeout):
            await write
        assert count == 15

    async def test_a_late_ready_is_told(self, session):
        """`ready` waits as long as a request does; who gives up before is forgotten."""
        handle = handle_of(session)
        first, second = await asking(session, handle.ready(), handle.ready())
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        session.clock.turn()
        with pytest.raises(Timeout, match="is the address right"):
            await first

    async def test_whoever_waits_is_told_once(self, session):
        """Also when the server changes its mind in the same turn of the loop."""
        handle = handle_of(session)
        waiting = await asking(session, handle.ready())
        handle._subscription.online()
        handle._subscription.online()
        handle._subscription.refused(Forbidden("x"))
        session.clock.turn()
        await waiting

    async def test_an_own_write_is_no_news(self, session):
        """Even one that its maker does not wait for any more."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        events = handle.events()
        write = await asking(session, handle.create({}))
        write.cancel()
        await rounds()
        session.received("synced", ("create", {"id": 1}, told(1, op="me:1")))
        session.received("synced", ("create", {"id": 2}, told(2, op="you:1")))
        assert (await anext(events)).model == {"id": 2}

    async def test_events_without_a_collection_are_reset_too(self, session):
        """There is nothing to read; the new place holds at once."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        events = handle.events()
        session.disconnected()
        session.connected(wire := Wire())
        wire.answer(reply(5, "f", recovered=False))
        assert await anext(events) == Event("reset")
        assert handle._subscription.tracker.since == {"c:": ["f", 5]}

    async def test_writes_that_wait_offline_can_be_given_up(self, session):
        """By who made them, or by closing."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        session.disconnected()
        first, second = await asking(session, handle.create({}), handle.create({}))
        while session.clock.turn():
            pass
        first.cancel()
        await rounds()
        assert len(session.outbox) == 1
        session.close()
        with pytest.raises(Unavailable):
            await second

    async def test_readers_that_are_gone_are_forgotten(self, session):
        """An iterator that nobody holds needs no closing."""
        handle = handle_of(session)
        handle.events()
        gc.collect()
        assert len(handle._subscription._readers) == 0


class TestCollection:
    async def opened(self, session):
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        opening = await asking(session, handle.collection().open())
        return handle, opening

    async def test_what_is_told_during_the_read_comes_after_it(self, session):
        """The read may be older than that, or newer."""
        _, opening = await self.opened(session)
        for offset, (method, key, rev) in enumerate([("create", 1, 3), ("update", 2, 4), ("delete", 3, 5)], 1):
            session.received("synced", (method, {"id": key, "rev": rev}, told(offset, r=rev)))
        session.received("synced", ("create", "no model", told(4)))
        session.wire.answer(None, [{"id": 2, "rev": 9}, {"id": 3, "rev": 2}, {"no": "id"}], {"r": [9, 2, None]})
        mirror = await opening
        assert mirror == {1: {"id": 1, "rev": 3}, 2: {"id": 2, "rev": 9}}

    async def test_a_read_that_is_overtaken_is_void(self, session):
        """By a reset: only the later one counts, and whoever opens the collection waits for it."""
        handle, opening = await self.opened(session)
        session.disconnected()
        session.connected(wire := Wire())
        wire.answer(reply(5, "f", recovered=False))
        await rounds()
        assert wire.answer(None, [{"id": "old"}], {"r": 1})[0] == "sync"
        await rounds()
        assert not opening.done()
        wire.answer(None, [{"id": "new"}], None)
        mirror = await opening
        assert mirror == {"new": {"id": "new"}}
        await rounds()
        assert handle._subscription.settled

    async def test_an_overtaken_read_that_fails_says_nothing(self, session):
        """Only the later one does."""
        _, opening = await self.opened(session)
        for epoch in ("f", "g"):
            session.disconnected()
            await rounds()
            session.connected(wire := Wire())
            wire.answer(reply(5, epoch, recovered=False))
            await rounds()
        wire.answer({"error": {"name": "NotFound"}})
        await rounds()
        wire.answer({"error": {"name": "NotFound", "message": "second"}})
        with pytest.raises(NotFound, match="second"):
            await opening

    async def test_reading_again_goes_on_until_it_succeeds(self, session):
        """With pauses; what will not pass is told to who waits for changes."""
        handle, opening = await self.opened(session)
        session.wire.answer(None, [], {"r": []})
        mirror = await opening
        session.received("resync", ("c:",))
        session.clock.turn()
        session.wire.answer(reply(9, recovered=False))
        for pause in (1, 2):
            await rounds()
            session.wire.answer({"error": {"name": "Busy", "code": 429}})
            await rounds()
            before = session.clock.time()
            session.clock.turn()
            assert session.clock.time() == before + pause
            await rounds()
        changed = await asking(session, mirror.changed())
        session.wire.answer({"error": {"name": "Forbidden", "code": 403}})
        with pytest.raises(Forbidden):
            await changed
        await rounds()
        assert handle._subscription.settled

    async def test_revisions_may_begin_anew(self, session):
        """In another epoch, those of the one before say nothing."""
        _, opening = await self.opened(session)
        session.wire.answer(None, [{"id": 1, "n": "old"}], {"r": [9]})
        mirror = await opening
        session.disconnected()
        session.connected(wire := Wire())
        wire.answer(reply(0, "f", recovered=False))
        await rounds()
        wire.answer(None, [{"id": 1, "n": "new"}], {"r": [1]})
        await rounds()
        assert (mirror, mirror.rev(1)) == ({1: {"id": 1, "n": "new"}}, 1)

    async def test_too_much_during_a_read(self, session, monkeypatch):
        """Is as if the read had failed: it is made again."""
        monkeypatch.setattr(collection_module, "WAITING_NOTICES", 1)
        _, opening = await self.opened(session)
        for offset in (1, 2):
            session.received("synced", ("create", {"id": offset}, told(offset, r=offset)))
        session.wire.answer(None, [], {"r": []})
        with pytest.raises(Unavailable, match="than can wait"):
            await opening

    async def test_what_is_no_list(self, session):
        """A backend may answer a read with anything; there is nothing to mirror then."""
        _, opening = await self.opened(session)
        session.wire.answer(None, {"total": 3}, {"r": None})
        assert isinstance(await opening, Collection)
        assert await opening == {}


class TestPages:
    """Collections with a limit, and live queries, at moments that a network seldom offers."""

    async def opened(self, session, page, cursor="next", digest=None, **data):
        session.settings = SessionSettings(jitter=0)
        handle = handle_of(session)
        opening = await asking(session, handle.collection(data={"sort": "n", "limit": 2, **data}).open())
        session.connected(session.wire)
        self.listened(session, digest)
        await rounds()
        self.read(session, page, cursor)
        return await opening

    def listened(self, session, digest=None, **fields):
        answer = reply(0, **fields)
        if digest is not None:
            answer["streams"]["c:"]["d"] = digest
        return session.wire.answer(answer)

    def read(self, session, page, cursor=None, revs=None):
        """Answer a read; return the query."""
        models = [{"id": key, "n": n} for key, n in page.items()]
        _, given = session.wire.answer(None, models, {"r": revs or [1] * len(models), "next": cursor})
        return given[0]["options"].get("data")

    def write(self, session, offset, method, key, n=None, rev=None):
        model = {"id": key} if n is None else {"id": key, "n": n}
        session.received("synced", (method, model, told(offset, r=offset + 1 if rev is None else rev)))

    async def test_what_came_while_it_was_opened_is_no_change(self, session):
        """It is what the collection begins with; the next write is the first change."""
        opening = await asking(session, handle_of(session).collection().open())
        session.connected(session.wire)
        self.listened(session)
        await rounds()
        self.write(session, 1, "create", "b", 2)
        session.wire.answer(None, [{"id": "a", "n": 1}], {"r": [1]})
        mirror = await opening
        assert list(mirror) == ["a", "b"]
        self.write(session, 2, "create", "c", 3)
        assert (await mirror.changed()).added == {"c"}

    async def test_what_leaves_is_replaced_by_a_page_after_the_last(self, session):
        """What is told meanwhile comes after that; what nobody can name or that is older is left out."""
        mirror = await self.opened(session, {"a": 1, "b": 2})
        self.write(session, 1, "delete", "a")
        await rounds()
        self.write(session, 2, "delete", "c")
        self.write(session, 3, "create", "z", 0)
        assert list(mirror) == ["b"]
        models = [{"id": "c", "n": 3}, {"n": 4}, {"id": "d", "n": 5}]
        session.wire.answer(None, models, {"r": [1, None, 1], "next": None})
        await rounds()
        assert list(mirror) == ["z", "b"]
        self.write(session, 4, "delete", "b")
        assert list(mirror) == ["z", "d"]
        assert session.wire.sent == []

    async def test_a_read_that_is_older_than_what_was_told(self, session):
        """What is known stays, also where it is after the end of the page by now."""
        mirror = await self.opened(session, {"a": 1, "b": 2})
        self.write(session, 1, "update", "b", 1.9, rev=9)
        mirror._read_again()
        await rounds()
        self.read(session, {"b": 1.2, "c": 1.5}, "next", revs=[5, 1])
        await rounds()
        assert list(mirror) == ["c"]
        self.read(session, {"b": 1.9, "d": 3}, None, revs=[9, 1])
        await rounds()
        assert list(mirror) == ["c", "b"]

    async def test_who_lacks_the_same_page_does_not_ask_for_it_at_once(self, session):
        """Requests spread over the jitter; what comes in meanwhile may be all that was lacking."""
        mirror = await self.opened(session, {"a": 1, "b": 2})
        session.settings = SessionSettings(jitter=1)
        self.write(session, 1, "delete", "a")
        await rounds()
        assert session.wire.sent == []
        self.write(session, 2, "create", "c", 0)
        session.clock.turn()
        await rounds()
        assert (session.wire.sent, list(mirror), session.clock.time()) == ([], ["c", "b"], 0.5)
        self.write(session, 3, "delete", "b")
        await rounds()
        session.clock.turn()
        await rounds()
        self.read(session, {"d": 3})
        await rounds()
        assert list(mirror) == ["c", "d"]

    async def test_what_was_read_after_a_listen_is_not_read_again_for_it(self, session):
        """It was answered after that."""
        mirror = await self.opened(session, {"a": 1})
        await mirror.reread(renewed=False)
        assert session.wire.sent == []

    async def test_a_page_in_another_order_is_read_from_the_beginning(self, session):
        """Also where that shows late."""
        mirror = await self.opened(session, {"a": 1, "b": 2})
        self.write(session, 1, "delete", "a")
        await rounds()
        self.read(session, {"d": 4, "c": 3}, None)
        await rounds()
        assert self.read(session, {"c": 3, "b": 2}, None) == {"sort": "n", "limit": 2}
        await rounds()
        self.write(session, 2, "update", "c", 5)
        session.clock.turn()
        await rounds()
        assert self.read(session, {"b": 2, "c": 5}, None) == {"sort": "n", "limit": 2}
        await rounds()
        assert list(mirror) == ["b", "c"]

    @pytest.mark.parametrize("cursor", ["next", None])
    @pytest.mark.parametrize("fails", [False, True])
    async def test_a_page_is_not_filled_by_a_read_that_was_overtaken(self, session, cursor, fails):
        """Whether that was answered or refused; what is lacking after the later one is read."""
        mirror = await self.opened(session, {"a": 1, "b": 2}, cursor)
        self.write(session, 1, "delete", "a")
        if cursor is None:
            mirror._read_again()
        await rounds()
        session.received("resync", ("c:",))
        session.clock.turn()
        _, _, overtaken = session.wire.sent.pop(0)
        self.listened(session, recovered=False)
        await rounds()
        self.read(session, {"b": 2, "c": 3}, "other")
        await rounds()
        self.write(session, 1, "delete", "c")
        await rounds()
        assert session.wire.sent == []
        if fails:
            overtaken({"error": {"name": "Busy", "code": 429}})
        else:
            overtaken(None, [], {"r": [], "next": None})
        await rounds()
        assert self.read(session, {"d": 4}, None)["$cursor"] == "other"
        await rounds()
        assert list(mirror) == ["b", "d"]

    async def test_too_much_while_a_page_is_filled_has_all_of_it_read(self, session, monkeypatch):
        """As what could not wait is lost."""
        monkeypatch.setattr(collection_module, "WAITING_NOTICES", 1)
        mirror = await self.opened(session, {"a": 1, "b": 2})
        self.write(session, 1, "delete", "a")
        await rounds()
        self.write(session, 2, "create", "c", 0)
        self.write(session, 3, "create", "d", 0.5)
        self.read(session, {"e": 3}, None)
        await rounds()
        assert self.read(session, {"c": 0, "d": 0.5}, "next") == {"sort": "n", "limit": 2}
        await rounds()
        assert list(mirror) == ["c", "d"]

    async def test_a_page_is_not_filled_after_its_connection_was_closed(self, session):
        """Nobody asks for ever."""
        mirror = await self.opened(session, {"a": 1, "b": 2})
        self.write(session, 1, "delete", "a")
        session.close()
        await rounds()
        assert mirror._filling is None
        await mirror.changed()
        with pytest.raises(Unavailable):
            await mirror.changed()

    async def test_another_query_that_cannot_be_read_is_asked_again(self, session):
        """It is told at once; what is shown stays until it is there."""
        mirror = await self.opened(session, {"a": 1})
        asked = await asking(session, mirror.set_query({"n": 2}))
        assert session.wire.sent[0][1][1]["query"] == {"n": 2}
        self.listened(session, "d", recovered=False)
        await rounds()
        session.wire.answer({"error": {"name": "Busy", "code": 429}})
        with pytest.raises(Busy):
            await asked
        assert (list(mirror), mirror._subscription.live) == (["a"], {"n": 2})
        await rounds()
        assert self.read(session, {"b": 2}, None) == {"n": 2}
        await rounds()
        assert list(mirror) == ["b"]

    async def test_a_query_that_is_refused_is_not_asked_for_live(self, session):
        """The listen is of all models then; the read says whether it is a query at all."""
        mirror = await self.opened(session, {"a": 1})
        asked = await asking(session, mirror.set_query({"n": {"$near": 2}}))
        session.wire.answer({"error": {"name": "BadRequest", "code": 400}})
        assert "query" not in session.wire.sent[0][1][1]
        self.listened(session)
        await rounds()
        session.wire.answer({"error": {"name": "BadRequest", "code": 400, "message": "no query"}})
        with pytest.raises(BadRequest, match="no query"):
            await asked
        await rounds()
        session.wire.answer({"error": {"name": "BadRequest", "code": 400, "message": "no query"}})
        with pytest.raises(BadRequest, match="no query"):
            await mirror.changed()

    async def test_an_answer_of_a_connection_of_before_says_nothing_of_what_is_in_the_query(self, session):
        """It is of what was asked for there; the stream tells what the write is by now."""
        mirror = await self.opened(session, {"a": 1}, None, digest="d", n={"$gt": 0})
        handle = handle_of(session)
        for offset, n, is_moved in ((1, 5, False), (2, 0.5, True)):
            writing = await asking(session, handle.create({"n": n}))
            old = session.wire
            if is_moved:
                session.replaced("", keep=False)
                session.wire = Wire()
                session.connected(session.wire)
                self.listened(session, "d")
            old.answer(None, {"id": offset, "n": n}, told(offset, r=offset, **{"in": True}))
            assert await writing == {"id": offset, "n": n}
            assert sorted(mirror, key=str) == [1, "a"]
        self.write(session, 2, "create", 2, 0.5)
        assert list(mirror) == [2, "a"]

    async def test_what_all_channels_share_is_kept_to_the_query_here(self, session):
        """The server picks out what it tells of one channel alone."""
        handle = handle_of(session)
        opening = await asking(session, handle.collection(data={"n": 1}).open())
        session.connected(session.wire)
        answer = reply(0)
        answer["streams"]["c:"]["d"] = "digest"
        answer["streams"]["*"] = {"epoch": "e", "offset": 0, "recovered": False, "events": []}
        session.wire.answer(answer)
        await rounds()
        self.read(session, {"a": 1}, None)
        mirror = await opening
        for offset, key in ((1, "b"), (2, "c")):
            place = {"s": "*", "e": "e", "o": offset, "r": 1}
            session.received("synced", ("create", {"id": key, "n": offset}, place))
        self.write(session, 5, "create", "d", "as the server compares")
        assert sorted(mirror) == ["a", "b", "d"]


class Failing:
    """A mirror with a mistake in it."""

    def apply(self, method, model, meta):
        raise ZeroDivisionError(method)

    async def reread(self, renewed):
        raise ZeroDivisionError(renewed)

    def failed(self, error):
        raise ZeroDivisionError(type(error))

    def resumed(self):
        """Nothing is to be undone."""


class TestPromises:
    async def test_a_mirror_that_fails_costs_nobody_else_an_event(self, session):
        """It is told to the event loop's handler, and the place moves on."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        failing = Failing()
        handle._subscription.add_mirror(failing)
        events = handle.events()
        failures = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
        session.received("synced", ("create", {"id": 1}, told(1)))
        session.received("synced", ("update", {"id": 1}, told(2)))
        assert [(await anext(events)).method for _ in range(2)] == ["create", "update"]
        assert handle._subscription.tracker.since == {"c:": ["e", 2]}
        assert [type(failure) for failure in failures] == [ZeroDivisionError] * 2

    async def test_a_mirror_that_fails_costs_nobody_else_a_reading_or_its_end(self, session):
        """What it raises when everything is read anew, or can no more be followed, is told to the loop's handler."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        failing = Failing()
        handle._subscription.add_mirror(failing)
        opening = await asking(session, handle.collection().open())
        session.wire.answer(None, [], {"r": []})
        mirror = await opening
        failures = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
        session.received("resync", ("c:",))
        session.clock.turn()
        session.wire.answer(reply(9, recovered=False))
        await rounds()
        session.wire.answer(None, [{"id": 1}], {"r": [1]})
        await rounds()
        assert (mirror, handle._subscription.tracker.since) == ({1: {"id": 1}}, {"c:": ["e", 9]})
        session.refused({"data": {"name": "Forbidden", "code": 403}})
        with pytest.raises(Forbidden):
            await mirror.until(lambda _: False)
        assert [failure.args for failure in failures] == [(True,), (Forbidden,)]

    async def test_a_link_that_does_not_answer_is_probed_and_dropped(self, session):
        """Once; one that lives stays."""
        handle = handle_of(session)
        session.probe()
        session.connected(session.wire)
        session.probe()
        session.wire.answer(reply(0))
        read = await asking(session, handle.read())
        session.clock.turn()
        session.probe()
        sync, probe = session.wire.sent
        assert (sync[0], probe[:2]) == ("sync", ("unlisten", ([],)))
        probe[2](None)
        probe[2](None)
        assert not session.wire.dropped
        while not session.wire.dropped:
            session.clock.turn()
        assert session.clock.time() == 2 * PATIENCE_SECONDS + PROBE_SECONDS
        read.cancel()

    @pytest.mark.parametrize(
        ("asked", "seconds"),
        [
            ("write", PATIENCE_SECONDS + PROBE_SECONDS),
            ("read", 2 * PATIENCE_SECONDS + PROBE_SECONDS),
            ("read of 100 s", 5 * PATIENCE_SECONDS + PROBE_SECONDS),
            ("read after silence", PATIENCE_SECONDS + PROBE_SECONDS),
            ("read, write", PATIENCE_SECONDS + PROBE_SECONDS),
            ("64 reads, write", PATIENCE_SECONDS + PROBE_SECONDS),
            ("read, listen", 2 * PATIENCE_SECONDS + PROBE_SECONDS),
        ],
    )
    async def test_a_link_that_has_died_is_given_up_later_where_a_long_list_may_be_on_its_way(
        self, session, asked, seconds
    ):
        """Not as soon as a write waits, sent or not, nor where the link had been silent before."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        if asked == "read after silence":
            session.clock.call_later(2 * PATIENCE_SECONDS, lambda: None)
            session.clock.turn()
        begun = session.clock.time()
        work = []
        for each in asked.split(", "):
            if each == "write":
                work.append(handle.create({}))
            elif each == "listen":
                handle_of(session, "other")
            else:
                timeout = 100.0 if each == "read of 100 s" else None
                work += [handle.read(timeout=timeout) for _ in range(WINDOW if each == "64 reads" else 1)]
        await asking(session, *work)
        assert given_up(session) - begun == seconds

    async def test_a_long_list_on_a_slow_link_arrives(self, session):
        """The answer to the probe comes behind it; a link that dies after it is found out."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        read = await asking(session, handle.read())
        session.clock.call_later(2 * PATIENCE_SECONDS - 1, session.wire.answer, None, [{"id": 1}])
        while session.clock.time() < 2 * PATIENCE_SECONDS - 1:
            session.clock.turn()
        assert await read == [{"id": 1}]
        assert session.wire.answer(None)[0] == "unlisten"
        assert not session.wire.dropped
        await asking(session, handle.read())
        assert given_up(session) == 4 * PATIENCE_SECONDS - 1 + PROBE_SECONDS

    async def test_the_second_of_two_long_lists_has_its_time_while_the_link_lives(self, session):
        """The first has shown that it does, though there is little time left to ask for the second again."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        first, _ = await asking(session, handle.read(), handle.read())
        session.clock.call_later(PATIENCE_SECONDS + 5, session.wire.answer, None, [])
        assert given_up(session) == 3 * PATIENCE_SECONDS + PROBE_SECONDS
        assert await first == []

    async def test_a_listen_that_is_not_answered_probes_the_link(self, session):
        """And is sent once more: either the server answers it, or the link is dropped."""
        handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        session.received("resync", ("c:",))
        for _ in range(3):
            session.clock.turn()
        assert [event for event, *_ in session.wire.sent] == ["listen", "unlisten", "listen"]
        assert session.wire.dropped
        assert session.clock.time() == 0.5 + PATIENCE_SECONDS + PROBE_SECONDS

    async def test_what_was_sent_is_of_unknown_outcome_when_the_connection_is_closed(self, session):
        """Also when the link had been lost meanwhile; what was never sent, and a read, may be asked for again."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        sent, read = await asking(session, handle.create({}), handle.read())
        session.disconnected()
        unsent = await asking(session, handle.create({}))
        session.close()
        outcomes = await asyncio.gather(sent, read, unsent, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [UnknownOutcome, Unavailable, Unavailable]

    async def test_what_one_reader_does_to_a_model_shows_to_no_other(self, session):
        """Each has a copy of its own."""
        handle = handle_of(session)
        session.connected(session.wire)
        session.wire.answer(reply(0))
        first, second = handle.events(), handle.events()
        session.received("synced", ("create", {"id": 1, "tags": ["a"]}, told(1)))
        (await anext(first)).model["tags"].clear()
        assert (await anext(second)).model == {"id": 1, "tags": ["a"]}

    async def test_a_channel_is_left_when_nothing_is_under_way_in_it(self, session):
        """And an answer to a listen of before says nothing any more."""
        handle = handle_of(session, "x")
        session.connected(session.wire)
        (_, _, listened) = session.wire.sent.pop()
        mirror = Collection(session, handle._subscription, None)
        handle._subscription.add_mirror(mirror)
        handle._subscription.tracker.refused()
        write = await asking(session, handle.create({}))
        mirror.close()
        assert handle._subscription.joined
        session.wire.answer(None, {"id": 1})
        assert await write == {"id": 1}
        assert not handle._subscription.joined
        (left,) = session.wire.sent
        assert left[:2] == ("unlisten", (["x"],))
        left[2](None)
        listened(reply(5, stream="c:x"))
        assert not handle._subscription.tracker.ready
        session.received("synced", ("create", {"id": 2}, told(9)))
        session.disconnected()
        session.leave(handle._subscription)
        session.connected(again := Wire())
        assert again.sent == []
        assert handle_of(session, "x") is handle
        assert again.sent[0][0] == "listen"
        mirror.close()

    async def test_a_listen_that_waits_for_its_turn_is_not_sent_for_a_channel_that_was_left(self, session):
        """Nor is one that was not answered repeated."""
        handle = handle_of(session, "x")
        session.connected(session.wire)
        session.wire.answer({"v": 1, "streams": {}})
        session.run(handle._subscription, [Listen({}, again=True)])
        session.leave(handle._subscription)
        session.wire.sent.clear()
        while session.clock.next is not None:
            session.clock.turn()
        assert session.wire.sent == []
        session.disconnected()
        session.leave(handle._subscription)
        handle_of(session, "x")
        session.leave(handle._subscription)
