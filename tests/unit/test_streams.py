"""Streams: offsets, bounded history, and operations that are applied once."""

import pytest

from bbio.errors import Conflict
from bbio.streams import (
    EVENT_BYTES,
    REPLY_BYTES,
    SHORT_REQUEST_CHARACTERS,
    STREAM_BYTES,
    Event,
    HistoryLimits,
    Kept,
    Op,
    Operations,
    Position,
    Stream,
    Streams,
    channel_stream,
)
from tests.support.clock import Clock


def filled(count, **limits):
    """A log whose stream `c:` has had so many events of two bytes each."""
    log = Streams(HistoryLimits(**limits))
    for _ in range(count):
        log.append("c:", "create", b"{}")
    return log


def kept(log, name="c:"):
    """The offsets that are still in a stream's history."""
    return [event.offset for event in log.stream(name).events]


def test_the_name_of_a_channel_stream():
    """The default channel has a stream too, and its name collides with no other."""
    assert (channel_stream(None), channel_stream(""), channel_stream("room")) == ("c:", "c:", "c:room")


def test_an_event_shows_where_it_is():
    """A debugger shows the place and the method of an event."""
    assert repr(Event("c:room", "e1", 3, "update", b"{}")) == "<Event c:room e1/3 update>"


def test_offsets_are_contiguous_from_one():
    """Every event of a stream is numbered without holes, whatever other streams do meanwhile."""
    log = Streams()
    offsets = [log.append(name, "create", b"{}").offset for name in ("c:", "c:a", "c:", "c:", "c:a")]
    assert offsets == [1, 1, 2, 3, 2]
    last = log.stream("c:").events[-1]
    assert log.stream("c:").position == Position(last.epoch, 3, last.stamp)


def test_the_top_is_zero_before_the_first_event():
    """A stream nobody wrote to has a position, and nothing is missed after it."""
    log = Streams()
    position = log.positions(["c:new"])["c:new"]
    assert position.offset == 0
    assert log.stream("c:new").since(position.epoch, 0) == []


def test_a_stream_can_continue_a_known_epoch():
    """A given epoch is kept, else streams have epochs of their own."""
    assert Stream("c:", "known").epoch == "known"
    assert Stream("c:").epoch != Stream("c:").epoch


def test_history_is_bounded_by_events():
    """The latest events stay, the oldest go first."""
    assert kept(filled(5, events=3)) == [3, 4, 5]


def test_history_is_bounded_by_size():
    """The bytes of models that are kept never pass the limit, and the account of them is right."""
    log = filled(5, size=6)
    assert kept(log) == [3, 4, 5]
    assert log.stream("c:").size == 6


def test_an_event_larger_than_the_history_is_not_kept():
    """It is numbered all the same: who missed it cannot be told of it, who saw it can go on."""
    log = filled(2, size=10)
    event = log.append("c:", "create", b"x" * 11)
    stream = log.stream("c:")
    assert (kept(log), stream.size, event.offset) == ([], 0, 3)
    assert stream.since(stream.epoch, 2) is None
    assert stream.since(stream.epoch, 3) == []


def test_history_is_bounded_by_age():
    """What is older than the limit goes when the next event comes; what is exactly as old stays."""
    clock = Clock(0.0)
    log = Streams(HistoryLimits(age=10.0), clock)
    for clock.now in (0.0, 5.0, 10.0):
        log.append("c:", "create", b"{}")
    assert kept(log) == [1, 2, 3]
    clock.now = 15.5
    log.append("c:", "create", b"{}")
    assert kept(log) == [3, 4]


def test_since_tells_what_was_missed_in_order():
    """From any position the history reaches, exactly the later events."""
    log = filled(5, events=3)
    stream = log.stream("c:")
    told = {
        offset: events and [event.offset for event in events]
        for offset in range(6)
        for events in [stream.since(stream.epoch, offset)]
    }
    assert told == {0: None, 1: None, 2: [3, 4, 5], 3: [4, 5], 4: [5], 5: []}


@pytest.mark.parametrize("offset", [-1, 4, 2**63, -(2**63), "1", 1.0, True, None, [1], {}])
def test_since_refuses_what_is_no_position(offset):
    """Negative, ahead of the top, huge or no integer at all: the history cannot tell."""
    stream = filled(3).stream("c:")
    assert stream.since(stream.epoch, offset) is None


@pytest.mark.parametrize("epoch", ["other", "", None, 1, [], {}])
def test_since_refuses_another_epoch(epoch):
    """Offsets of another epoch say nothing about this one."""
    assert filled(3).stream("c:").since(epoch, 1) is None


def test_forgetting_begins_a_new_epoch():
    """After a forgotten history offsets begin at 1 again and old positions are refused."""
    log = filled(3)
    old = log.stream("c:").position
    log.forget("c:")
    event = log.append("c:", "create", b"{}")
    assert event.offset == 1
    assert event.epoch != old.epoch
    assert log.stream("c:").since(old.epoch, 1) is None


def test_forgetting_an_unknown_stream_is_harmless():
    """There is nothing to lose."""
    log = filled(1)
    log.forget("c:unknown")
    assert kept(log) == [1]


def test_the_stream_longest_without_an_event_is_forgotten_first():
    """The number of streams is bounded, and an event keeps its stream from being forgotten."""
    log = Streams(HistoryLimits(streams=2))
    for name in ("c:a", "c:b", "c:a"):
        log.append(name, "create", b"{}")
    epochs = {name: log.stream(name).epoch for name in ("c:a", "c:b")}
    log.append("c:new", "create", b"{}")
    assert log.stream("c:a").epoch == epochs["c:a"]
    assert log.stream("c:b").epoch != epochs["c:b"]


def event(n=1, when=0.0, body=None):
    return Event("c:", "e", n, "create", body or b'{"n":%d}' % n, when=when)


ASKED = '["sync",{}]'


def missing(operations, count):
    """Which operations are forgotten."""
    return [n for n in range(count) if operations.find(("c", n), ASKED) is None]


def test_a_known_operation_is_a_duplicate():
    """The same key and payload get the same record and event, marked as a duplicate."""
    operations, first = Operations(), event()
    operations.keep(("c", 1), ASKED, first)
    again = operations.find(("c", 1), ASKED)
    assert (again.record, again.body, again.event, again.duplicate) == ({"n": 1}, first.body, first, True)


def test_an_unknown_operation_is_not_found():
    """Only keys that were kept are found."""
    operations = Operations()
    operations.keep(("c", 1), ASKED, event())
    assert operations.find(("c", 2), ASKED) is None


def test_another_request_under_a_used_key_is_a_conflict():
    """An operation id names one request for good."""
    operations = Operations()
    operations.keep(("c", 1), ASKED, event())
    with pytest.raises(Conflict, match="already used"):
        operations.find(("c", 1), '["sync",{"method":"delete"}]')


def test_a_request_may_be_written_otherwise():
    """Another order of keys and other spaces make no other request; another value does."""
    operations = Operations()
    operations.keep(("c", 1), '["sync",{"a":1,"b":[2,"\\u00e9"]}]', event())
    assert operations.find(("c", 1), '["sync", {"b": [2, "é"], "a": 1}]').duplicate
    for same in ('["sync",{"a":1,"b":[2,"é"],"channel":null}]', '["sync",{"channel":"","a":1,"b":[2,"é"]}]'):
        assert operations.find(("c", 1), same).duplicate
    for other in ('["sync",{"a":1,"b":["é",2]}]', '["sync",{"a":1,"channel":"c","b":[2,"é"]}]'):
        with pytest.raises(Conflict):
            operations.find(("c", 1), other)


def test_operations_are_bounded_by_count():
    """The oldest replies are forgotten first."""
    operations = Operations(count=2)
    for n in range(4):
        operations.keep(("c", n), ASKED, event(n))
    assert len(operations) == 2
    assert missing(operations, 4) == [0, 1]


def test_operations_are_bounded_by_size():
    """Large requests and records push out more; one that is larger than all is not kept."""
    operations = Operations(size=2 * (REPLY_BYTES + 12 + 40) + 10)
    for n in range(4):
        operations.keep(("c", n), ASKED, event(n, body=b'"' + b"x" * 38 + b'"'))
    assert missing(operations, 4) == [0, 1]
    operations.keep(("c", 4), ASKED, event(4, body=b"1" * 2_000))
    assert len(operations) == 0
    operations.keep(("c", 5), ASKED, event(5))
    assert missing(operations, 6) == [0, 1, 2, 3, 4]
    operations.keep(("c", 6), ASKED, event(6, when=100_000.0, body=b"1" * 2_000))
    assert len(operations) == 0


def test_operations_are_bounded_by_age():
    """A reply is kept for its age, and goes with the first write after that."""
    operations = Operations(age=10.0)
    for n, now in enumerate((0.0, 5.0, 10.0)):
        operations.keep(("c", n), ASKED, event(n, now))
    assert len(operations) == 3
    operations.keep(("c", 3), ASKED, event(3, 15.5))
    assert missing(operations, 4) == [0, 1]


def test_a_long_request_is_kept_as_a_digest():
    """Its text is let go, and it is still told from others."""
    operations = Operations()
    long = '["sync",{"a":1,"b":"%s"}]' % ("x" * SHORT_REQUEST_CHARACTERS)
    operations.keep(("c", 1), long, event(body=b"1"))
    assert operations.used_bytes == len("c") + REPLY_BYTES + 16 + 1
    assert operations.find(("c", 1), long).duplicate
    assert operations.find(("c", 1), long.replace('"a":1,', "").replace("}]", ',"a":1,"channel":null}]')).duplicate
    with pytest.raises(Conflict):
        operations.find(("c", 1), long.replace("x", "y"))


def test_asking_for_a_position_makes_no_stream():
    """Nor does asking for what was missed; who was told the place goes on from there."""
    log = Streams(HistoryLimits(streams=2))
    log.append("c:home", "create", b"{}")
    home, held = log.stream("c:home").position, log.used_bytes
    told = log.positions([f"c:made-up-{n}" for n in range(10)])
    assert log.since("c:made-up-1", told["c:made-up-1"].epoch, 0) == []
    assert log.since("c:made-up-1", told["c:made-up-1"].epoch, 1) is None
    assert log.since("c:made-up-1", "other", 0) is None
    assert (log.positions(["c:home"]), log.used_bytes) == ({"c:home": home}, held)
    event = log.append("c:made-up-1", "create", b"{}")
    assert log.since("c:made-up-1", told["c:made-up-1"].epoch, 0) == [event]


def test_what_is_too_old_is_dropped_without_another_write():
    """Events and the replies of operations, and what they took is free again."""
    clock = Clock(0.0)
    log = Streams(HistoryLimits(age=10.0), clock)
    for clock.now in (0.0, 5.0):
        log.keep(("c", int(clock.now)), ASKED, log.append("c:", "create", b"{}"))
    held = log.used_bytes
    clock.now = 12.0
    log.kept.expire()
    assert (kept(log), log.used_bytes) == ([2], held - EVENT_BYTES - 2)
    clock.now = 86_402.0
    log.kept.expire()
    assert (kept(log), len(log.operations)) == ([], 1)
    assert log.kept.used_bytes == log.used_bytes == STREAM_BYTES + 2 + len("c") + REPLY_BYTES + len(ASKED) + 2
    assert log.stream("c:").position.offset == 2


def several(limit, count=2):
    """Logs that share so many bytes, and in which nothing grows old."""
    shared = Kept(limit)
    return shared, [Streams(clock=Clock(0.0), kept=shared) for _ in range(count)]


def test_histories_share_what_may_be_kept():
    """Who takes the most gives it up: the largest histories first, whose streams go on; the others keep theirs."""
    shared, (noisy, quiet) = several(100_000)
    quiet.append("c:", "create", b"{}")
    for n in range(50):
        noisy.append(f"c:{n % 3}", "create", b"x" * 10_000)
    assert shared.used_bytes == noisy.used_bytes + quiet.used_bytes <= shared.limit
    assert kept(quiet) == [1]
    assert [noisy.stream(f"c:{n}").position.offset for n in range(3)] == [17, 17, 16]


def test_streams_without_history_are_forgotten_when_they_are_too_many():
    """Those longest without an event."""
    shared, (log,) = several(10 * (STREAM_BYTES + EVENT_BYTES), 1)
    for n in range(30):
        log.append(f"c:{n}", "create", b"{}")
    assert shared.used_bytes == log.used_bytes <= shared.limit
    assert log.positions(["c:0", "c:29"])["c:0"].offset == 0
    assert log.positions(["c:29"])["c:29"].offset == 1


def test_operations_share_what_may_be_kept():
    """The oldest are forgotten; what is larger than all is forgotten too."""
    shared, (log, other) = several(20 * REPLY_BYTES)
    for n in range(100):
        log.keep(("c", n), ASKED, event(n))
    assert shared.used_bytes == log.used_bytes <= shared.limit
    assert log.operations.find(("c", 99), ASKED) is not None
    assert log.operations.find(("c", 0), ASKED) is None
    log.keep(("c", 100), ASKED, event(body=b"1" * 100_000))
    assert (len(log.operations), shared.used_bytes) == (0, 0)
    other.append("c:", "create", b"x" * 900_000)  # one stream alone, which its own limits bound
    assert kept(other) == []
    assert other.stream("c:").position.offset == 1


def test_a_log_may_share_from_now_on():
    """What it has kept already counts, where it counted before no more."""
    log = filled(3)
    before, shared = log.kept, Kept()
    log.share(shared)
    assert (before.used_bytes, shared.used_bytes, list(before.logs)) == (0, log.used_bytes, [])
    log.forget("c:")
    shared.used_bytes = int(shared.limit) + 1
    shared.trim()  # there is nothing to give up


def test_an_operation_id_is_shown_by_its_public_part():
    """What it is known by to its client alone is in no log and no traceback."""
    op = Op("a secret", 7)
    assert repr(op) == f"<Op {op.public}>"
    assert "secret" not in repr(op)


def test_old_events_that_a_consumer_has_not_handled_are_kept_longer():
    """What it has handled goes at the usual age; the rest goes as well, at the age that is for consumers."""
    clock = Clock()
    log = Streams(HistoryLimits(age=60, consumer_age=600), clock)
    log.needed = {"c:": 1}.get
    for name in ("c:", "c:", "c:other"):
        log.append(name, "create", b"{}")
    clock.now += 61
    log.expire()
    assert (kept(log), kept(log, "c:other")) == ([2], [])
    clock.now += 600
    log.expire()
    assert kept(log) == []
